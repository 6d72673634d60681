"""A model, teacher, loss or policy that raises: the error comes through as it is, and the next call is as if it had not been."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import hvs_aug
from hvs_aug import HardPairSampler, HardViews, Scoring, policies
from tests.test_copies import TwoViews

from .models import SmallResNet, images, pairs
from .test_no_trace import assert_same, state_of


class Trap:
    """Raises at one of its calls, after it has drawn random numbers."""

    def __init__(self, at: int, error: BaseException | None) -> None:
        self.left, self.error = at, error

    def __call__(self, generator: torch.Generator | None = None) -> None:
        self.left -= 1
        if self.left == 0 and self.error is not None:
            torch.rand(3, generator=generator)
            if generator is None:
                np.random.rand()  # noqa: NPY002
            raise self.error


class Model(nn.Module):
    def __init__(self, trap: Callable[[], None]) -> None:
        super().__init__()
        self.encoder = SmallResNet()
        self.trap = trap
        self.register_forward_hook(lambda module, arguments, output: None)
        self.encoder.head.requires_grad_(False)

    def forward(self, pixels: Tensor) -> Tensor:
        output = self.encoder(pixels)
        self.eval()
        self.trap()
        return output.float()


def nothing() -> None:
    pass


def made(where: str, trap: Trap, **options: Any) -> tuple[HardPairSampler, list[nn.Module]]:
    """A sampler in which a trap lies somewhere."""
    torch.manual_seed(0)
    model, teacher = Model(trap if where == "model" else nothing), Model(trap if where == "teacher" else nothing)

    def distance(one: Tensor, other: Tensor) -> Tensor:
        if where == "loss":
            trap()
        return (one - other).square().mean(-1)

    def policy(table: Tensor, slots: Any, *, params: Any, step: int, generator: torch.Generator) -> Tensor:
        if where == "policy":
            trap(generator)
        return policies.softmax(1.0)(table, slots, params=params, step=step, generator=generator)

    loss = hvs_aug.CallableLoss(distance, teacher=True)
    generator = torch.Generator().manual_seed(1)
    sampler = HardPairSampler(model, loss, pairs(), teacher=teacher, policy=policy, generator=generator, **options)
    return sampler, [model, teacher]


def steps(sampler: HardPairSampler, modules: list[nn.Module], raised: list[BaseException]) -> list[HardViews]:
    """Three steps that are repeated where they fail, in which the global random state and the modules stay as they are."""
    found: list[HardViews] = []
    with torch.autocast("cpu", torch.bfloat16):
        while len(found) < 3:
            torch.manual_seed(len(found))
            frozen = [weight.requires_grad for module in modules for weight in module.parameters()]
            before = state_of(*modules)
            try:
                found.append(sampler(images(seed=len(found))))
            except (OSError, KeyboardInterrupt) as error:
                raised.append(error)
            assert_same(before, state_of(*modules))
            assert frozen == [weight.requires_grad for module in modules for weight in module.parameters()]
            assert torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")
            assert torch.get_autocast_dtype("cpu") == torch.bfloat16 and torch.is_autocast_cache_enabled()
        modules[0](found[-1].views[0]).sum().backward()
    assert all(weight.grad is not None for weight in modules[0].parameters() if weight.requires_grad)
    return found


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize(
    ("where", "at", "chunk"),
    [
        ("model", 1, None),
        ("model", 3, None),
        ("model", 3, 5),
        ("model", 6, 5),
        ("teacher", 2, None),
        ("loss", 14, None),
        ("policy", 2, None),
    ],
)
def test_the_next_call_gives_what_it_would_have_given(where: str, at: int, chunk: int | None, error: type[BaseException]) -> None:
    trap, raised = Trap(at, error("out of luck")), []
    broken = steps(*made(where, trap, scoring=Scoring(chunk=chunk)), raised)
    assert raised == [trap.error] and raised[0].__cause__ is None
    unbroken = steps(*made(where, Trap(0, None), scoring=Scoring(chunk=chunk)), [])
    for one, other in zip(broken, unbroken, strict=True):
        assert torch.equal(one.indices, other.indices) and torch.equal(one.loss, other.loss)
        assert all(map(torch.equal, one.views, other.views))


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_epoch_after_an_error_is_one_after_a_break(error: type[BaseException]) -> None:
    raised: list[BaseException] = []

    def epochs(trap: Trap) -> list[Tensor]:
        torch.manual_seed(0)
        loader = DataLoader(TwoViews(), 4, shuffle=True, generator=torch.Generator().manual_seed(5))
        generator, found = torch.Generator().manual_seed(7), []
        hard = hvs_aug.wrap(loader, model=Model(trap), loss=lambda a, b: (a - b).square().mean(-1), generator=generator)
        try:
            for views, labels in hard:
                found += [*views, labels]
                if trap.error is None:
                    break
        except (OSError, KeyboardInterrupt) as caught:
            raised.append(caught)
        return [*found, *(value for views, labels in hard for value in (*views, labels))]

    trap = Trap(2, error("out of luck"))
    broken, unbroken = epochs(trap), epochs(Trap(0, None))
    assert raised == [trap.error]
    assert len(broken) == 15 and all(map(torch.equal, broken, unbroken))
