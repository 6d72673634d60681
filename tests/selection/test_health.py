"""A sick run says so, once; a healthy one says nothing."""

from __future__ import annotations

import copy
import math
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hvs_aug.selection import policies
from hvs_aug.selection.health import EVERY, Health
from hvs_aug.selection.losses import CallableLoss, DINOLoss, IBOTLoss, NTXentLoss, PairLoss
from hvs_aug.selection.sampler import HardPairSampler

from .models import SmallResNet, images, pairs, slot

VIEWS, BATCH, WIDTH = 4, 96, 16
SLOTS = [slot(candidates=VIEWS)]


def watched(
    outputs: Callable[[int], Any],
    loss: PairLoss | None = None,
    steps: int = 3 * EVERY,
    policy: Any = None,
    teacher: Callable[[int], Any] | None = None,
    health: Health | None = None,
) -> list[str]:
    """The warnings of so many scored steps, of which only those that are looked at are computed."""
    loss, health = loss or NTXentLoss(0.1), health or Health()
    torch.manual_seed(0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(EVERY - 1, steps, EVERY):
            health._scored = step  # the steps between are only counted, which the first test sees
            given, extras = outputs(step), {"masks": torch.ones(VIEWS, BATCH, 2, 2, dtype=torch.bool)}
            table = loss.table([given], None if teacher is None else [teacher(step)], SLOTS, extras)
            indices = policies.choose(policy or policies.hardest(), table, SLOTS, params=None, step=step, generator=None)
            health.see(loss, SLOTS, [given], table, indices)
    return [str(warning.message) for warning in caught]


def noise(step: int = 0, batch: int = BATCH) -> Tensor:
    return torch.randn(VIEWS, batch, WIDTH)


def collapsed(step: int = 0) -> Tensor:
    return 1 + 1e-2 * noise()


class Constant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.weight.expand(len(pixels), -1)


def test_a_sampler_says_once_that_its_model_has_collapsed() -> None:
    sampler = HardPairSampler(Constant(), NTXentLoss(0.5), pairs())
    candidates = list(torch.rand(VIEWS, 8, 3, 4, 4))

    def train() -> None:
        for _ in range(6 * EVERY):
            sampler.select(candidates)

    with pytest.warns(UserWarning, match=r"for 100 scored steps .*\(collapse\).*warmup:STEPS") as caught:
        train()
    assert len(caught) == 1  # nor is it said that always the same candidate is chosen, which follows from it
    assert set(sampler.state_dict()) == {"generator", "step"}


def test_a_healthy_run_is_silent_and_looking_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hvs_aug.selection.health.EVERY", 1)
    torch.manual_seed(0)
    model = SmallResNet()
    one, other = (HardPairSampler(model, NTXentLoss(0.5), pairs(), generator=torch.Generator().manual_seed(0)) for _ in range(2))
    other._health.see = lambda *_: torch.tensor(0)  # type: ignore[method-assign]
    for seed in range(30):
        batch = images(16, seed=seed)
        torch.manual_seed(seed)
        first = one(batch)
        torch.manual_seed(seed)
        second = other(batch)
        assert torch.equal(first.indices, second.indices) and torch.equal(first.loss, second.loss)
        assert all(map(torch.equal, first.views, second.views))


def test_each_sickness_is_said_once() -> None:
    said = watched(collapsed, steps=10 * EVERY)
    assert len(said) == 1 and "(collapse)" in said[0]
    said = watched(noise, CallableLoss(lambda a, b: torch.zeros(len(a))), steps=10 * EVERY)
    assert len(said) == 1 and "the same candidate has been chosen for nearly all images, now for 100%" in said[0]

    def broken(step: int) -> Tensor:
        return torch.where(torch.arange(BATCH)[:, None] % 3 == 0, math.nan, noise())

    said = watched(broken, steps=10 * EVERY)
    assert watched(broken, steps=2 * EVERY) == said[:1] and watched(broken, steps=3 * EVERY) == said
    flat = CallableLoss(lambda a, b: torch.zeros(len(a)))
    for given, loss in ((collapsed, None), (noise, flat)):
        assert watched(given, loss, steps=2 * EVERY) == [] and len(watched(given, loss, steps=3 * EVERY)) == 1
    assert len(said) == 2 and "candidate pairs of 32 image(s) was not finite" in said[0] and "now 25% of them" in said[1]


def test_a_loss_at_ln_k() -> None:
    def equal(step: int) -> Tensor:
        return 1e-3 * noise()

    for loss, given in (
        (DINOLoss(), equal),
        (IBOTLoss(student_temperature=1.0, lambda1=lambda: 2.0), lambda step: (equal(step), torch.randn(VIEWS, BATCH, 4, WIDTH))),
    ):
        assert watched(given, loss, steps=19 * EVERY, teacher=given) == []
        said = watched(given, loss, steps=40 * EVERY, teacher=given)
        level = math.log(WIDTH) * (2 if isinstance(loss, IBOTLoss) else 1)
        assert len(said) == 1 and "for 950 scored steps the loss of the chosen views has been ln(K), that of a model" in said[0]
        assert float(said[0].split("now it is ")[1].split(". ")[0]) == pytest.approx(level, rel=0.005)
    assert watched(noise, DINOLoss(), steps=40 * EVERY, teacher=noise) == []


def test_what_does_not_last_is_not_said() -> None:
    assert watched(lambda step: collapsed() if (step + 1) % (3 * EVERY) else noise(), steps=30 * EVERY) == []


def test_what_is_no_sickness() -> None:
    assert watched(noise, steps=30 * EVERY) == []
    assert (
        watched(lambda step: {"patch": collapsed()[..., None], "cls": noise()[..., :1]}, CallableLoss(lambda a, b: a["cls"][:, 0]))
        == []
    )
    few = Health()
    one = torch.ones(VIEWS, 3, WIDTH)  # three images may well look alike
    for _ in range(40 * EVERY):
        few.see(NTXentLoss(0.1), SLOTS, [one], torch.zeros(VIEWS, VIEWS, 3), torch.tensor([[0, 1, 2], [1, 2, 3]]))


def test_a_copy_remembers_what_was_said() -> None:
    health = Health()
    assert len(watched(collapsed, health=health)) == 1
    for twin in (copy.deepcopy(health), pickle.loads(pickle.dumps(health))):
        assert watched(collapsed, health=twin) == []


@pytest.mark.gpu
def test_a_device_is_not_waited_for() -> None:
    health, loss = Health(), NTXentLoss(0.1)
    outputs = torch.ones(VIEWS, BATCH, WIDTH, device="cuda")
    table, indices = torch.ones(VIEWS, VIEWS, BATCH, device="cuda"), torch.zeros(2, BATCH, dtype=torch.int64, device="cuda")

    def train() -> None:
        for _ in range(40 * EVERY):
            health.see(loss, SLOTS, [outputs], table, indices)

    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.warns(UserWarning, match="collapse"):
            train()
    finally:
        torch.cuda.set_sync_debug_mode("default")
