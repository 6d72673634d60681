"""Scoring beside other processes and in mixed precision: nobody waits, and no cache keeps a weight without gradients."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from hvs_aug.selection.no_trace import untraced
from hvs_aug.selection.reached import find_modules

from .models import SmallResNet

CPU = torch.device("cpu")


def test_autocast_follows_the_caller_or_the_argument() -> None:
    module = nn.Linear(4, 4)
    inputs = torch.rand(2, 4)

    def dtype(argument: torch.dtype | None) -> torch.dtype:
        with untraced([module], CPU, dtype=argument):
            return module(inputs).dtype

    assert dtype(None) == torch.float32
    assert dtype(torch.bfloat16) == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert dtype(None) == torch.bfloat16
        assert dtype(torch.float32) == torch.float32
        assert module(inputs).dtype == torch.bfloat16


def test_scoring_in_autocast_leaves_no_gradientless_weight_in_its_cache() -> None:
    """Where PyTorch caches a weight that is cast under no_grad, the copy has no gradient, and training would use that copy."""
    module = nn.Linear(4, 4)
    inputs = torch.rand(2, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with untraced([module], CPU):
            assert not torch.is_autocast_cache_enabled()
            module(inputs)
        assert torch.is_autocast_cache_enabled()
        module(inputs).float().sum().backward()
    assert module.weight.grad is not None


def test_a_compiled_model_still_has_gradients_after_scoring() -> None:
    model = SmallResNet()
    compiled = torch.compile(model, backend="aot_eager")
    pixels = torch.rand(4, 3, 8, 8)
    before = [value.clone() for value in model.buffers()]
    with untraced(find_modules(compiled), CPU):
        compiled(pixels)
    assert all(torch.equal(value, old) for value, old in zip(model.buffers(), before, strict=True))
    compiled(pixels).sum().backward()
    assert all(value.grad is not None for value in model.parameters())


@pytest.fixture
def one_process(tmp_path: Path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_a_ddp_wrapper_is_bypassed_and_as_before_after(one_process) -> None:
    model = nn.parallel.DistributedDataParallel(SmallResNet())
    calls = []
    model._sync_buffers = lambda: calls.append("broadcast")
    pixels = torch.rand(4, 3, 8, 8)
    state = {name: value for name, value in vars(model).items() if isinstance(value, (bool, int, float, str))}
    for scorer in (model, lambda inputs: model(inputs)):
        with untraced(find_modules(scorer), CPU):
            scorer(pixels)
    assert calls == []
    assert {name: value for name, value in vars(model).items() if name in state} == state
    assert "forward" not in vars(model)
    # In training it broadcasts, and its reducer averages.
    model(pixels).sum().backward()
    assert calls == ["broadcast"]
    assert all(value.grad is not None for value in model.parameters())


def test_syncbatchnorm_scores_with_local_statistics(one_process) -> None:
    torch.manual_seed(0)
    plain = nn.BatchNorm2d(3)
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(plain))
    pixels = torch.rand(4, 3, 8, 8)
    with pytest.raises(ValueError, match="SyncBatchNorm"):
        synced(pixels)  # which on a CPU cannot synchronise at all
    with untraced([synced], CPU):
        output = synced(pixels)
    torch.testing.assert_close(output, plain(pixels), rtol=0, atol=0)
    assert "forward" not in vars(synced[0])


def _rank(rank: int, store: str, results: str) -> None:
    """Rank 1 scores, rank 0 does not; then both train. Gradients and buffers have to agree, and nobody may wait."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    torch.manual_seed(0)
    network = SmallResNet()
    network.head[0].p = 0.0
    model = nn.parallel.DistributedDataParallel(network)
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(nn.BatchNorm2d(3), SmallResNet()))
    pixels = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(rank))
    for step in range(2):
        if rank == 1 or step == 1:
            with untraced(find_modules(model, synced), CPU):
                model(torch.rand(3 + rank, 3, 8, 8))
                synced(torch.rand(3 + rank, 3, 8, 8))
        model.zero_grad()
        model(pixels).square().mean().backward()
    torch.save([*(value.grad for value in network.parameters()), *network.buffers()], f"{results}/{rank}.pt")
    while not Path(f"{results}/{1 - rank}.pt").exists():  # gloo's barrier can fail where the other process has left it and is gone
        time.sleep(0.01)
    dist.destroy_process_group()


def test_ranks_that_do_not_score_keep_nobody_waiting(tmp_path: Path) -> None:
    workers = mp.spawn(_rank, (f"{tmp_path}/store", str(tmp_path)), nprocs=2, join=False)
    deadline = time.monotonic() + 90
    while not workers.join(timeout=1):
        assert time.monotonic() < deadline, "a process waits for another"
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    parameters = len(list(SmallResNet().parameters()))
    for first, second in zip(ranks[0][:parameters], ranks[1][:parameters], strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=0)
