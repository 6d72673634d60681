"""Models that ``fully_shard`` has sharded (FSDP2): scored like the whole model, and left sharded."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from hvs_aug.selection.losses import NegativeCosineLoss, NTXentLoss
from hvs_aug.selection.sampler import HardPairSampler
from hvs_aug.selection.scoring import Scoring

from ..selection.models import SmallResNet, images, pairs
from .processes import Processes, Traffic

fsdp = pytest.importorskip("torch.distributed.fsdp")
if not hasattr(fsdp, "fully_shard"):
    pytest.skip("this PyTorch has no FSDP2", allow_module_level=True)


def sharded() -> tuple[nn.Module, nn.Module]:
    """A model and the same model sharded, one part of it on its own."""
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(SmallResNet())
    mesh = init_device_mesh("cpu", (2,))
    fsdp.fully_shard(models[1].stem, mesh=mesh)
    fsdp.fully_shard(models[1], mesh=mesh)
    return models[0], models[1]


def kinds(model: nn.Module) -> set[str]:
    return {type(value).__name__ for value in model.parameters()}


def tables(rank: int) -> tuple[list[Tensor], list[set[str]]]:
    """Scored whole and sharded, before and after weights change without a backward pass, as an averaged teacher's do."""
    batch = images(4 + rank)
    params = pairs().make_params(batch, torch.Generator().manual_seed(1))
    found, seen = [], []
    for model in sharded():
        sampler = HardPairSampler(model, NTXentLoss(temperature=0.2), pairs())
        for _ in range(2):
            torch.manual_seed(1)  # of the dropout
            found.append(sampler.score(batch, params=params).table)
            seen.append(kinds(model))
            with torch.no_grad():
                for value in model.parameters():
                    value.copy_(value.sign() * 0.1)
    return found, seen


def test_scored_like_the_whole_model(processes: Processes) -> None:
    for (whole, changed, sharded, changed_too), seen in processes(tables):
        assert torch.equal(whole, sharded) and torch.equal(changed, changed_too) and not torch.equal(whole, changed)
        assert seen == [{"Parameter"}, {"Parameter"}, {"DTensor"}, {"DTensor"}]


def train(rank: int, score: bool) -> list[Tensor]:
    _, model = sharded()
    sampler = HardPairSampler(lambda pixels: (out := model(pixels), out), NegativeCosineLoss(), pairs(), scoring=Scoring(chunk=12))
    if score:
        sampler(images())  # before there is an optimizer, which has to find sharded weights
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    generator = torch.Generator().manual_seed(rank)
    for step in range(3):
        batch = images(4 + rank, seed=step)
        first, second = pairs(2)(batch, generator)[0][0]
        if score:
            sampler(batch)
        loss = -torch.cosine_similarity(model(first), model(second).detach(), dim=-1).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return [value.full_tensor().detach() for value in model.parameters()] + list(model.buffers()) + [loss.detach(), torch.rand(1)]


def test_training_goes_on_as_if_nothing_had_been_scored(processes: Processes) -> None:
    for plain, scored in zip(processes(train, False), processes(train, True), strict=True):
        assert all(torch.equal(first, second) for first, second in zip(plain, scored, strict=True))


def traffic(rank: int) -> list[tuple[str, int]]:
    _, model = sharded()
    sampler = HardPairSampler(model, NTXentLoss(temperature=0.2), pairs())
    sampler(images())
    with Traffic() as exchanged:
        sampler(images(4 + rank))
    return exchanged.sent


def test_what_is_exchanged_are_the_weights(processes: Processes) -> None:
    for sent in processes(traffic):
        assert [name for name, _ in sent] == ["_allgather_base_"] * 2
