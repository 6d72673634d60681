"""Scoring inside training loops as people write them: the numbers of the loop are those without scoring, to the bit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hvs_aug.selection.losses import CallableLoss, NegativeCosineLoss, NTXentLoss
from hvs_aug.selection.sampler import HardPairSampler
from hvs_aug.selection.scoring import Scoring

from ..selection.models import SmallResNet, images, pairs


def cosine(first: Tensor, second: Tensor) -> Tensor:
    return -torch.cosine_similarity(first, second.detach(), dim=-1).mean()


def resnet() -> SmallResNet:
    torch.manual_seed(0)
    return SmallResNet()


def sampler_for(model: Callable[..., Any], **options: Any) -> HardPairSampler:
    return HardPairSampler(model, NTXentLoss(temperature=0.2), pairs(), **options)


def views_of(step: int) -> tuple[Tensor, Tensor]:
    first, second = pairs(2)(images(seed=step), torch.Generator().manual_seed(step))[0][0]
    return first, second


def same(first: Any, second: Any) -> None:
    assert len(first) == len(second)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


# ---------------------------------------------------------------- precision


@pytest.mark.parametrize(
    "caller, option, expected",
    [
        (None, None, torch.float32),
        (torch.bfloat16, None, torch.bfloat16),
        (torch.bfloat16, torch.float32, torch.float32),
        (None, torch.bfloat16, torch.bfloat16),
    ],
)
def test_the_dtype_of_scoring_follows_the_caller(caller: Any, option: Any, expected: Any) -> None:
    sampler = sampler_for(resnet(), scoring=Scoring(dtype=option))
    params = pairs().make_params(images(), torch.Generator().manual_seed(1))
    plain = sampler_for(resnet()).score(images(), params=params)
    with torch.autocast("cpu", dtype=caller) if caller else nullcontext():
        scored = sampler.score(images(), params=params)
        hard = sampler(images(), params=params)
        assert torch.is_autocast_enabled("cpu") is (caller is not None)
    assert scored.outputs[0].dtype == hard.outputs[0].dtype == expected
    assert scored.table.dtype == hard.loss.dtype == torch.float32
    assert [view.dtype for view in hard.views] == [torch.float32] * 2
    same(hard.views, list(pairs().transform(images(), params.select(hard.indices, [0, 0]))[0]))
    assert (plain.table - scored.table).abs().max() < 0.1
    assert torch.equal(plain.table, scored.table) is (expected == torch.float32)


def scaled(score: bool) -> list[Tensor]:
    """Mixed precision as in PyTorch's recipe, the scoring inside the autocast block that trains."""
    model = resnet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)
    sampler = sampler_for(model)
    for step in range(3):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            if score:
                sampler(images(seed=step))
            first, second = views_of(step)
            loss = cosine(model(first), model(second))
        scaler.scale(loss).backward()
        assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in model.parameters())
        scaler.step(optimizer)
        scaler.update()
    return [*model.state_dict().values(), torch.tensor(scaler.get_scale()), torch.rand(1)]


def test_autocast_and_grad_scaler() -> None:
    same(scaled(False), scaled(True))
    assert scaled(True)[-2] == 2.0**11


# ---------------------------------------------------------------- when it is called


def accumulated(score: bool) -> list[Tensor]:
    """Scored between two backward passes, and between a forward pass and its backward pass."""
    model = resnet()
    sampler = sampler_for(model)
    for step in range(3):
        first, second = views_of(step)
        loss = cosine(model(first), model(second)) / 3
        if score:
            sampler(images(seed=step))
        loss.backward()
        if score:
            sampler(images(seed=step))
    return [*(value.grad for value in model.parameters()), *model.buffers()]


def test_gradient_accumulation() -> None:
    same(accumulated(False), accumulated(True))


def compiled(backend: str | None, score: bool) -> list[Tensor]:
    torch.compiler.reset()
    model = resnet()
    model.head[0].p = 0.0
    trained = model if backend is None else torch.compile(model, backend=backend)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sampler = sampler_for(trained)
    for step in range(3):
        if score:
            sampler(images(seed=step))
        first, second = views_of(step)
        optimizer.zero_grad()
        cosine(trained(first), trained(second)).backward()
        assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in model.parameters())
        optimizer.step()
    return list(model.state_dict().values())


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_model_is_scored_first_and_trained_after(backend: str) -> None:
    scored = compiled(backend, True)
    same(compiled(backend, False), scored)
    for value, expected in zip(scored, compiled(None, False), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- a second network


@pytest.mark.parametrize("kind", ["by hand", "AveragedModel"])
def test_an_averaged_teacher(kind: str) -> None:
    """Scored with as it is at that step; scoring neither averages it, nor moves its statistics, nor gives it gradients."""
    model, counted = resnet(), 0
    if kind == "by hand":
        teacher: Any = copy.deepcopy(model).requires_grad_(False)
    else:
        teacher = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    sampler = HardPairSampler(model, NegativeCosineLoss(), pairs(), teacher=teacher)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    params = pairs().make_params(images(), torch.Generator().manual_seed(1))
    tables = []
    for step in range(2):
        before = [value.clone() for value in teacher.state_dict().values()]
        torch.manual_seed(2)  # of the dropout
        scored = sampler.score(images(), params=params)
        same(before, teacher.state_dict().values())
        frozen = HardPairSampler(model, NegativeCosineLoss(), pairs(), teacher=copy.deepcopy(teacher))
        torch.manual_seed(2)
        assert torch.equal(scored.table, frozen.score(images(), params=params).table)
        tables.append(scored.table)
        hard = sampler(images(seed=step))
        with torch.no_grad():
            targets = [teacher(view) for view in hard.views]
        (cosine(model(hard.views[0]), targets[1]) + cosine(model(hard.views[1]), targets[0])).backward()
        assert all(value.grad is None for value in teacher.parameters())
        optimizer.step()
        optimizer.zero_grad()
        if kind == "by hand":
            for ours, theirs in zip(teacher.parameters(), model.parameters(), strict=True):
                ours.lerp_(theirs.detach(), 0.5)
        else:
            teacher.update_parameters(model)
            counted += 1
            assert teacher.n_averaged == counted
    assert not torch.equal(*tables)


class MoCo(nn.Module):
    """A queue of keys that every call in training enqueues to."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = resnet()
        self.register_buffer("queue", nn.functional.normalize(torch.randn(32, 8), dim=-1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))

    def losses(self, query: Tensor, key: Tensor) -> Tensor:
        query, key = nn.functional.normalize(query, dim=-1), nn.functional.normalize(key, dim=-1)
        logits = torch.cat([(query * key).sum(-1, keepdim=True), query @ self.queue.clone().t()], dim=-1) / 0.2
        return nn.functional.cross_entropy(logits, torch.zeros(len(query), dtype=torch.int64), reduction="none")

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        losses = self.losses(query, key)
        with torch.no_grad():
            self.queue[(self.pointer + torch.arange(len(key))) % len(self.queue)] = nn.functional.normalize(key, dim=-1)
            self.pointer += len(key)
        return losses


@pytest.mark.parametrize("enqueues", [False, True], ids=["reads the queue", "enqueues at every call"])
def test_scoring_does_not_move_a_queue(enqueues: bool) -> None:
    moco = MoCo()
    keys = copy.deepcopy(moco.encoder).requires_grad_(False)
    moco.encoder.head[0].p = keys.head[0].p = 0.0
    loss = CallableLoss(moco if enqueues else moco.losses, teacher=True)
    sampler = HardPairSampler(moco.encoder, loss, pairs(), teacher=keys)
    for step in range(2):
        before, pointer = moco.queue.clone(), int(moco.pointer)
        hard = sampler(images(seed=step))
        assert torch.equal(moco.queue, before) and moco.pointer == pointer == 4 * step
        first, second = (moco.losses(hard.outputs[0][one], hard.teacher_outputs[0][1 - one]) for one in range(2))
        if not enqueues:
            torch.testing.assert_close(hard.loss, (first + second) / 2)
        with torch.no_grad():
            key = keys(hard.views[1])
        moco(moco.encoder(hard.views[0]), key).mean().backward()
        assert not torch.equal(moco.queue, before) and moco.pointer == pointer + 4


# ---------------------------------------------------------------- memory format


def test_channels_last() -> None:
    model = resnet().to(memory_format=torch.channels_last)
    seen: list[bool] = []
    model.stem.register_forward_pre_hook(
        lambda module, arguments: seen.append(arguments[0].is_contiguous(memory_format=torch.channels_last))
    )
    params = pairs().make_params(images(), torch.Generator().manual_seed(1))
    torch.manual_seed(2)
    first = sampler_for(model, scoring=Scoring(channels_last=True)).score(images(), params=params).table
    torch.manual_seed(2)
    second = sampler_for(model).score(images(), params=params).table
    assert seen == [True, False]
    torch.testing.assert_close(first, second)
    sampler = sampler_for(model, scoring=Scoring(channels_last=True))
    hard = sampler(images())
    cosine(model(hard.views[0]), model(hard.views[1])).backward()
    assert model.stem[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in model.parameters())
