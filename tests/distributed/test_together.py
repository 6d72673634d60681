"""A process that scores at another step than the others is named, where otherwise all of them would wait."""

from __future__ import annotations

import itertools
import time

import pytest
import torch
from torch import nn

from hvs_aug._check import HVSError
from hvs_aug.selection import together
from hvs_aug.selection.losses import DINOLoss, MoCoLoss, NTXentLoss, SwAVLoss
from hvs_aug.selection.sampler import HardPairSampler
from hvs_aug.selection.scoring import Scoring

from ..selection.models import images, pairs
from .processes import Processes

_starts = itertools.count(1000, 1000)


def sampler(loss: NTXentLoss, seconds: float, is_sharded: bool = False) -> HardPairSampler:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 8))
    if is_sharded:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard  # which older releases do not have

        fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    return HardPairSampler(model, loss, pairs(), scoring=Scoring(wait=seconds))


def said_by(scoring: HardPairSampler) -> tuple[str, float]:
    began = time.perf_counter()
    try:
        scoring(images())
    except HVSError as error:
        return str(error), time.perf_counter() - began
    return "", time.perf_counter() - began


def alone(rank: int, is_sharded: bool, first: int) -> tuple[str, float]:
    """Process 0 scores, process 1 goes on with something else."""
    together._meetings = itertools.count(first)
    scoring = sampler(NTXentLoss(0.2, gather=not is_sharded), 1.5, is_sharded)
    return said_by(scoring) if rank == 0 else ("", 0.0)


def apart(rank: int, first: int) -> tuple[str, float]:
    """Both score, one of them two steps later."""
    together._meetings = itertools.count(first)
    scoring = sampler(NTXentLoss(0.2, gather=True), 30.0)
    scoring.step = 6 + 2 * rank
    return said_by(scoring)


def side_by_side(rank: int, first: int) -> list[str]:
    together._meetings = itertools.count(first)
    scoring = sampler(NTXentLoss(0.2, gather=True), 30.0)
    said = []
    for step in range(3):
        time.sleep(0.3 * (rank == step % 2))  # now one, now the other is late
        said.append(said_by(scoring)[0])
    return said


def test_a_process_that_does_not_score_is_named(processes: Processes) -> None:
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    for is_sharded in (False, True)[: 1 + hasattr(fsdp, "fully_shard")]:
        (said, seconds), _ = processes(alone, is_sharded, next(_starts))
        assert "every process at step 1, got nothing from process 1 for 1.5 s, while process 0 waits at step 1" in said
        assert "Scoring(wait=seconds)" in said and 1.4 < seconds < 30


def test_processes_at_different_steps_are_told_at_once(processes: Processes) -> None:
    for said, seconds in processes(apart, next(_starts)):
        assert "every process at the same step, got step 7 in process 0, step 9 in process 1" in said and seconds < 25


def test_a_process_that_is_late_is_waited_for(processes: Processes) -> None:
    assert processes(side_by_side, next(_starts)) == [[""] * 3] * 2


def needs(rank: int) -> list[bool]:
    losses = [
        NTXentLoss(0.2),
        NTXentLoss(0.2, gather=True),
        DINOLoss(),
        DINOLoss(sinkhorn=3),
        SwAVLoss(),
        SwAVLoss(gather=True),
        MoCoLoss(0.2),
        MoCoLoss(0.2, gather=True),
    ]
    return [together.must_meet(loss, ()) for loss in losses]


def test_only_what_is_exchanged_has_to_meet(processes: Processes) -> None:
    assert processes(needs) == [[False, True] * 4] * 2
    assert not together.must_meet(NTXentLoss(0.2, gather=True), ())  # one process


def traffic_alone(rank: int) -> bool:
    """Without an exchange, one process scores while the other does not."""
    return rank == 1 or sampler(NTXentLoss(0.2), 1.0)(images()).loss.isfinite().all().item()


def test_without_an_exchange_nobody_waits(processes: Processes) -> None:
    assert processes(traffic_alone) == [True, True]
