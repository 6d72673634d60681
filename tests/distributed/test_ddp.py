"""Two processes under DistributedDataParallel against the same without scoring, and against one process with the joined batch."""

from __future__ import annotations

import copy
import itertools
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hvs_aug.selection.losses import DINOLoss, MoCoLoss, NegativeCosineLoss, NTXentLoss, SwAVLoss
from hvs_aug.selection.sampler import HardPairSampler
from hvs_aug.views import draw
from hvs_aug.views.candidates import CandidateViews

from ..selection.models import SmallResNet, images, pairs, slot
from .processes import Processes, Traffic


def network(seed: int = 0) -> nn.Module:
    """One whose rows do not depend on each other."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 8, 5, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 8))


def share(joined: Tensor, rank: int | None, first: int) -> Tensor:
    """One process's images of a batch (its second axis), or all of them; rank 0 has the first ones."""
    return joined if rank is None else joined[:, :first] if rank == 0 else joined[:, first:]


def cosine(first: Tensor, second: Tensor) -> Tensor:
    return -torch.cosine_similarity(first, second.detach(), dim=-1).mean()


# ---------------------------------------------------------------- training goes on as if nothing had been scored


def train(rank: int, how: str, score: bool) -> dict[str, Any]:
    """Five steps of gradient accumulation; batches differ in size, and now one, now the other process scores."""
    torch.manual_seed(0)
    network = SmallResNet()
    wrapped = DistributedDataParallel(network)
    models = {
        "ddp": wrapped,
        "lambda": lambda pixels: wrapped(pixels),
        "method": wrapped.forward,
        "compiled": torch.compile(wrapped, backend="eager"),
        "module": network,
    }
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1, momentum=0.9)
    sampler = HardPairSampler(models[how], NTXentLoss(temperature=0.2), pairs())
    generator = torch.Generator().manual_seed(rank)
    losses = []
    for step in range(5):
        batch = images(4 + 2 * rank, seed=2 * step + rank)
        first, second = pairs(2)(batch, generator)[0][0]
        if score and step % 2 == rank:
            sampler(batch)
        with wrapped.no_sync() if step % 3 == 1 else nullcontext():
            # One forward: in PyTorch 2.4 a second one broadcasts buffers that the backward of the first needs.
            loss = cosine(*wrapped(torch.cat([first, second])).chunk(2))
            if score and step == 3:
                sampler(batch)  # between a forward and its backward
            loss.backward()
        if step % 3 != 1:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.detach())
    return {"losses": torch.stack(losses), "drawn": torch.rand(1), **wrapped.state_dict()}


@pytest.mark.parametrize("how", ["ddp", "lambda", "method", "compiled", "module"])
def test_scoring_is_not_noticed_by_ddp(processes: Processes, how: str) -> None:
    plain, scored = processes(train, how, False), processes(train, how, True)
    for rank in range(2):
        for name, value in plain[rank].items():
            assert torch.equal(value, scored[rank][name]), (rank, name)
    assert not torch.equal(scored[0]["losses"], scored[1]["losses"])
    for name, _ in SmallResNet().named_parameters():
        assert torch.equal(scored[0][f"module.{name}"], scored[1][f"module.{name}"])


def traffic(rank: int, kind: str) -> list[tuple[str, int]]:
    wrapped = DistributedDataParallel(SmallResNet())
    losses: dict[str, Any] = {
        "simclr": NTXentLoss(temperature=0.2),
        "simclr, gathered": NTXentLoss(temperature=0.2, gather=True),
        "simsiam": NegativeCosineLoss(),
        "dino": DINOLoss(),
    }
    model = (lambda pixels: (out := wrapped(pixels), out)) if kind == "simsiam" else wrapped
    sampler = HardPairSampler(model, losses[kind], pairs(), teacher=wrapped if kind == "dino" else None)
    with Traffic() as exchanged:
        sampler(images(4 + rank))
    return exchanged.sent


def test_what_is_exchanged(processes: Processes) -> None:
    """Nothing, except for negatives that are gathered: V outputs of D numbers and one flag for every image, and the batch size."""
    for kind in ("simclr", "simsiam", "dino"):
        assert processes(traffic, kind) == [[], []], kind
    expected = [("allgather_", 8), ("allgather_", 4 * 5 * (8 + 1) * 4)]
    assert processes(traffic, "simclr, gathered") == [expected, expected]


def plain_forward(rank: int) -> list[tuple[str, int]]:
    wrapped = DistributedDataParallel(SmallResNet())
    with Traffic() as exchanged, torch.no_grad():
        wrapped(torch.rand(2, 3, 16, 16))
        wrapped(torch.rand(2, 3, 16, 16))
    return exchanged.sent


def test_a_plain_forward_would_exchange_buffers(processes: Processes) -> None:
    """A count that cannot fail is a defect."""
    assert all(any("broadcast" in name for name, _ in sent) for sent in processes(plain_forward))


# ---------------------------------------------------------------- one process with the joined batch


def gathered_table(rank: int) -> tuple[Tensor, bool]:
    outputs = torch.randn(4, 7, 8, generator=torch.Generator().manual_seed(3))
    outputs[2, 5, 1] = torch.nan
    table = NTXentLoss(temperature=0.2, gather=True).table(share(outputs, rank, 3).requires_grad_())
    return table, table.requires_grad


def test_ntxent_over_the_global_batch(processes: Processes) -> None:
    outputs = torch.randn(4, 7, 8, generator=torch.Generator().manual_seed(3))
    outputs[2, 5, 1] = torch.nan
    (first, some), (second, others) = processes(gathered_table)
    assert first.shape == (4, 4, 3) and second.shape == (4, 4, 4) and not some and not others
    joined = NTXentLoss(temperature=0.2).table(outputs)
    torch.testing.assert_close(torch.cat([first, second], -1), joined, equal_nan=True)
    alone = NTXentLoss(temperature=0.2).table(outputs[:, :3])
    assert (alone - joined[..., :3])[0, 1].abs().max() > 0.1


def gathered_tables(rank: int | None) -> list[Tensor]:
    """MoCo v3's with the keys of all, SwAV's with assignments over all."""
    student, teacher = torch.randn(2, 4, 7, 8, generator=torch.Generator().manual_seed(3))
    student[1, 5, 0] = teacher[2, 1, 0] = torch.nan
    student, teacher = share(student, rank, 3), share(teacher, rank, 3)
    return [MoCoLoss(0.2, gather=True).table(student, teacher), SwAVLoss(gather=True).table(student)]


def test_moco_and_swav_over_the_global_batch(processes: Processes) -> None:
    first, second = processes(gathered_tables)
    for one, other, joined in zip(first, second, gathered_tables(None), strict=True):
        torch.testing.assert_close(torch.cat([one, other], -1), joined, equal_nan=True, atol=1e-5, rtol=1e-5)


def select_and_train(rank: int | None, kind: str) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Choose among given candidates, and return the gradients of the mean loss of the chosen ones."""
    candidates = torch.rand(4, 6, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    model = network()
    wrapped = model if rank is None else DistributedDataParallel(model)
    loss = {"gather": NTXentLoss(temperature=0.2, gather=True), "simsiam": NegativeCosineLoss()}[kind]
    scored = (lambda pixels: (out := wrapped(pixels), out)) if kind == "simsiam" else wrapped
    hard = HardPairSampler(scored, loss, slot()).select(list(share(candidates, rank, 3)))
    cosine(wrapped(hard.views[0]), wrapped(hard.views[1])).backward()
    return hard.indices, hard.loss, [value.grad for value in model.parameters()]


@pytest.mark.parametrize("kind", ["gather", "simsiam"])
def test_two_processes_choose_and_train_like_one(processes: Processes, kind: str) -> None:
    (first, low, ours), (second, high, theirs) = processes(select_and_train, kind)
    indices, loss, gradients = select_and_train(None, kind)
    assert torch.equal(torch.cat([first, second], 1), indices)
    torch.testing.assert_close(torch.cat([low, high]), loss)
    for one, other, joined in zip(ours, theirs, gradients, strict=True):
        assert torch.equal(one, other)
        torch.testing.assert_close(one, joined)


class Centre(nn.Module):
    """DINO's centre: a moving average of the teacher's outputs over the batch of all processes."""

    def __init__(self) -> None:
        super().__init__()
        self.student_temp, self.teacher_temp = 0.1, 0.04
        self.register_buffer("center", torch.zeros(1, 8))

    def update(self, outputs: Tensor) -> None:
        total = torch.cat([outputs.sum(0), outputs.new_tensor([len(outputs)])])
        if dist.is_initialized():
            dist.all_reduce(total)
        self.center = 0.5 * self.center + 0.5 * total[None, :-1] / total[-1]


def centred(rank: int | None) -> tuple[list[Tensor], list[Tensor]]:
    centre, student, teacher = Centre(), network(0), network(1)
    wrapped = student if rank is None else DistributedDataParallel(student)
    sampler = HardPairSampler(wrapped, DINOLoss.like(centre), slot(), teacher=teacher)
    indices, centres = [], []
    for step in range(3):
        candidates = torch.rand(4, 7, 3, 24, 24, generator=torch.Generator().manual_seed(step))
        before = centre.center
        hard = sampler.select(list(share(candidates, rank, 3)))
        assert centre.center is before
        centre.update(teacher(torch.cat(hard.views)).detach())
        indices.append(hard.indices)
        centres.append(centre.center)
    return indices, centres


def test_dinos_centre_is_the_repos(processes: Processes) -> None:
    (first, centre), (second, same) = processes(centred)
    indices, joined = centred(None)
    for step in range(3):
        assert torch.equal(torch.cat([first[step], second[step]], 1), indices[step])
        torch.testing.assert_close(centre[step], joined[step])
        assert torch.equal(centre[step], same[step])


# ---------------------------------------------------------------- what each process does on its own


def synchronised(rank: int) -> list[Tensor]:
    """SyncBatchNorm refuses tensors on the CPU, so that it is a local forward that has run here; DDP refuses it there too."""
    torch.manual_seed(0)
    network = SmallResNet()
    copied = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(network))
    assert isinstance(copied.stem[1], nn.SyncBatchNorm)
    before = {name: value.clone() for name, value in copied.state_dict().items()}
    batch = images(4 + rank)
    tables = []
    for model in (network, copied):
        torch.manual_seed(1)  # of the dropout
        sampler = HardPairSampler(model, NTXentLoss(temperature=0.2), pairs())
        if model is network or rank == 0:  # rank 1 does not score with SyncBatchNorm
            tables.append(sampler.score(batch, params=pairs().make_params(batch, torch.Generator().manual_seed(1))).table)
    assert all(torch.equal(value, before[name]) for name, value in copied.state_dict().items())
    assert all("forward" not in vars(module) for module in copied.modules())
    with pytest.raises(ValueError, match="SyncBatchNorm"):
        copied(torch.rand(2, 3, 16, 16))
    return tables


def test_sync_batchnorm_is_local_in_scoring(processes: Processes) -> None:
    tables = processes(synchronised)
    assert [len(table) for table in tables] == [2, 1]
    assert torch.equal(*tables[0])


def drawn(rank: int) -> list[Tensor]:
    """Twice the same seed, as a repo's fix_random_seeds sets on every rank: views of the sampler, and of CandidateViews alone."""
    boxes = []
    for _ in range(2):
        draw._numbers = itertools.count()  # of the modules made before, as in a new process
        torch.manual_seed(5)
        sampler = HardPairSampler(network(5), NTXentLoss(temperature=0.2), pairs())
        boxes.append(torch.cat([sampler(images()).params.boxes, CandidateViews(slot()).make_params(images()).boxes]))
    return boxes


def test_ranks_draw_other_views_for_equal_seeds(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    (first, again), (second, repeated) = processes(drawn)
    assert torch.equal(first, again) and torch.equal(second, repeated)
    assert (first != second).any(-1).float().mean() > 0.9
    monkeypatch.setenv("RANK", "1")  # before torch.distributed is initialised, torchrun has said it already
    monkeypatch.setattr(draw, "_numbers", itertools.count())
    torch.manual_seed(5)
    early = HardPairSampler(network(5), NTXentLoss(temperature=0.2), pairs())
    assert torch.equal(early(images()).params.boxes, second[: len(early(images()).params.boxes)])
