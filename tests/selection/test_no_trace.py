"""After scoring everything is as before: buffers, flags, gradients, random state; and training goes on bit for bit."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from hvs_aug.selection import policies
from hvs_aug.selection.losses import CallableLoss, NegativeCosineLoss, NTXentLoss
from hvs_aug.selection.no_trace import untraced
from hvs_aug.selection.sampler import HardPairSampler
from hvs_aug.selection.scoring import Scoring

from .models import CentredLoss, QueueModel, SmallResNet, images, pairs


def cosine(first: Tensor, second: Tensor) -> Tensor:
    return -torch.nn.functional.cosine_similarity(first, second, dim=-1)


def transformer() -> nn.Module:
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=2, num_classes=8, drop_path_rate=0.5
    )


class Swapping(nn.Module):
    """Replaces a buffer, adds one, and leaves training mode, as iBOT's CSyncBatchNorm does."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.zeros(1))
        self.register_buffer("later", None)
        self.register_buffer("expanded", torch.arange(3).float().expand(4, 3))

    def forward(self, pixels: Tensor) -> Tensor:
        self.shift = self.shift + 1
        self.later = torch.ones(1)
        self.register_buffer("another", torch.ones(1))
        self.eval()
        return pixels.flatten(1)


def state_of(*modules: nn.Module) -> dict[str, object]:
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
    state: dict[str, object] = {"torch": torch.get_rng_state(), "python": random.getstate(), "numpy": numpy_state}
    for index, root in enumerate(modules):
        for name, module in root.named_modules():
            state[f"{index}.{name}.training"] = module.training
            state[f"{index}.{name}.attributes"] = sorted(vars(module))
            state[f"{index}.{name}.hooks"] = (len(module._forward_hooks), len(module._forward_pre_hooks))
            for key, value in module._buffers.items():
                state[f"{index}.{name}.{key}"] = None if value is None else value.to_dense() if value.is_sparse else value.clone()
                state[f"{index}.{name}.{key}.identity"] = id(value)
        for name, value in root.named_parameters():
            state[f"{index}.{name}"] = value.detach().clone()
            state[f"{index}.{name}.grad"] = None if value.grad is None else value.grad.clone()
    return state


def assert_same(first: dict[str, object], second: dict[str, object]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        if isinstance(value, (Tensor, np.ndarray)):
            assert np.array_equal(np.asarray(value), np.asarray(second[name])), name
        else:
            assert value == second[name], name


@pytest.mark.parametrize("make", [SmallResNet, transformer, QueueModel, Swapping], ids=["resnet", "vit", "queue", "swapping"])
@pytest.mark.parametrize("how", ["module", "lambda", "method"])
def test_scoring_leaves_no_trace(make: Callable[[], nn.Module], how: str) -> None:
    torch.manual_seed(0)
    model, loss = make(), CentredLoss() if make is not Swapping else cosine
    model.register_forward_hook(lambda module, arguments, output: None)
    callables = {"module": model, "lambda": lambda pixels: model(pixels), "method": model.forward}
    for value in model.parameters():
        value.grad = torch.ones_like(value)
    sampler = HardPairSampler(callables[how], CallableLoss(loss), pairs())
    modules = [model, *([loss] if isinstance(loss, nn.Module) else [])]
    before = state_of(*modules)
    hard = sampler(images())
    assert_same(before, state_of(*modules))
    assert not any(value.requires_grad for value in hard.views)
    assert not hard.outputs[0].requires_grad


@pytest.mark.parametrize(
    "options",
    [
        {"scoring": Scoring(scale=0.5)},
        {"scoring": Scoring(chunk=5)},
        {"scoring": Scoring(channels_last=True)},
        {"scoring": Scoring(dtype=torch.bfloat16)},
        {"scoring": Scoring(every=2)},
        {"policy": policies.hardest(search="sampled", limit=3)},
        {"policy": policies.mixture(0.5)},
    ],
    ids=str,
)
def test_every_way_to_score_leaves_no_trace_either(options: dict) -> None:
    torch.manual_seed(0)
    model = QueueModel()
    sampler = HardPairSampler(model, NTXentLoss(temperature=0.5), pairs(), **options)
    before = state_of(model)
    for _ in range(2):
        sampler(images())
        assert_same(before, state_of(model))


def test_a_teacher_keeps_its_state_too() -> None:
    torch.manual_seed(0)
    model, teacher = QueueModel(), QueueModel()
    sampler = HardPairSampler(model, NegativeCosineLoss(), pairs(), teacher=lambda pixels: teacher(pixels))
    before = state_of(model, teacher)
    sampler(images())
    assert_same(before, state_of(model, teacher))


def test_each_of_them_would_leave_one() -> None:
    """A checker that cannot fail is a defect: a plain forward of each of these is seen by it."""
    for make in (SmallResNet, transformer, QueueModel, Swapping):
        torch.manual_seed(0)
        model = make()
        before = state_of(model)
        with torch.no_grad():
            model(torch.rand(4, 3, 16, 16))
        with pytest.raises(AssertionError):
            assert_same(before, state_of(model))


def test_the_trace_is_wiped_after_an_error_too() -> None:
    torch.manual_seed(0)
    model = SmallResNet()

    def failing(pixels: Tensor) -> Tensor:
        model(pixels)
        random.random()
        np.random.rand()  # noqa: NPY002
        raise RuntimeError("out of luck")

    sampler = HardPairSampler(failing, NTXentLoss(temperature=0.5), pairs())
    before = state_of(model)
    with pytest.raises(RuntimeError, match="out of luck"):
        sampler(images())
    assert_same(before, state_of(model))


def test_updated_buffers_are_the_published_behaviour() -> None:
    """Statistics move in scoring exactly as by a forward over all candidates; all else is still restored."""
    torch.manual_seed(0)
    model, twin = SmallResNet(), SmallResNet()
    twin.load_state_dict(model.state_dict())
    sampler = HardPairSampler(model, NTXentLoss(temperature=0.5), pairs(), scoring=Scoring(restore_buffers=False))
    views, params = sampler.views, sampler.views.make_params(images(), torch.Generator().manual_seed(1))
    random_state = torch.get_rng_state()
    sampler(images(), params=params)
    assert torch.equal(random_state, torch.get_rng_state())
    twin(views.transform(images(), params)[0].flatten(0, 1))
    for name, value in model.named_buffers():
        assert torch.equal(value, twin.get_buffer(name)), name
    assert model.get_buffer("stem.1.num_batches_tracked") == 1


def test_dropout_is_on_in_scoring_and_the_mode_is_the_users() -> None:
    model = SmallResNet()
    sampler = HardPairSampler(model, NTXentLoss(temperature=0.5), pairs())
    params = sampler.views.make_params(images())
    torch.manual_seed(0)
    first = sampler.score(images(), params=params).table
    torch.manual_seed(1)
    assert not torch.equal(first, sampler.score(images(), params=params).table)
    model.eval()
    sampler = HardPairSampler(model, NTXentLoss(temperature=0.5), pairs())
    with pytest.warns(UserWarning, match="eval mode"):
        first = sampler.score(images(), params=params).table
    torch.manual_seed(0)
    torch.testing.assert_close(first, sampler.score(images(), params=params).table, rtol=0, atol=0)  # and warns once only


def train(model: nn.Module, choose: Callable[[Tensor], list[Tensor]]) -> list[Tensor]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for step in range(10):
        first, second = choose(images(seed=step))
        loss = cosine(model(first), model(second).detach()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return [*losses, *(value.detach() for value in model.state_dict().values()), torch.rand(1)]


def test_two_of_two_is_training_without_the_sampler() -> None:
    def run(choose_with: Callable[[nn.Module], Callable[[Tensor], list[Tensor]]]) -> list[Tensor]:
        torch.manual_seed(0)
        model = SmallResNet()
        choose = choose_with(model)
        torch.manual_seed(1)
        return train(model, choose)

    generator = torch.Generator().manual_seed(5)
    views = pairs(candidates=2)
    plain = run(lambda model: lambda batch: list(views(batch, generator)[0][0]))

    def sampled(model: nn.Module) -> Callable[[Tensor], list[Tensor]]:
        sampler = HardPairSampler(model, NTXentLoss(temperature=0.5), views, generator=torch.Generator().manual_seed(5))
        return lambda batch: sampler(batch).views

    def scored(model: nn.Module) -> Callable[[Tensor], list[Tensor]]:
        sampler = HardPairSampler(model, NTXentLoss(temperature=0.5), views, generator=torch.Generator().manual_seed(5))

        def choose(batch: Tensor) -> list[Tensor]:
            params = views.make_params(batch, sampler.generator)
            sampler.score(batch, params=params)  # forwards that nothing is chosen from
            return list(views.transform(batch, params)[0])

        return choose

    for other in (run(sampled), run(scored)):
        assert all(torch.equal(first, second) for first, second in zip(plain, other, strict=True))


def test_an_untraced_block_of_nothing_is_nothing() -> None:
    with untraced([], torch.device("cpu")):
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()
