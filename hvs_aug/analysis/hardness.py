"""How much of the hardness a way to choose keeps: judged by the losses at full size of a network in training."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..data.batch import ImageBatch
from ..selection.policies import random as at_random
from ..selection.sampler import HardPairSampler, HardViews
from ..selection.search import selection_loss
from ..views.params import ViewParams
from .workload import FULL, Chooser, Factory, Runner, Workload, kinds_of_step

__all__ = ["hardness"]

_RANDOM_DRAWS = 32


class _Judge:
    """Says where on the scale from random to hardest a choice lies, by the losses at full size of the network as it is."""

    def __init__(self, runner: Runner, reference: HardPairSampler) -> None:
        self.runner, self.reference = runner, reference
        self.generator = torch.Generator().manual_seed(2)

    def scale(self, table: Tensor, params: ViewParams) -> tuple[Tensor, Tensor]:
        """The mean loss of each image's random choices, and its hardest choice."""
        slots = self.runner.views.slots
        draws = [at_random()(table, slots, params=params, step=0, generator=self.generator) for _ in range(_RANDOM_DRAWS)]
        hardest = self.reference.policy(table, slots, params=params, step=0, generator=self.generator)
        return torch.stack([selection_loss(table, draw) for draw in draws]).mean(0), hardest


@torch.no_grad()
def _judge(judge: _Judge, choosers: Mapping[str, Chooser], batches: Sequence[ImageBatch]) -> dict[str, dict[str, float]]:
    """How hard each contestant's choice is by the losses at full size, and how often it is the choice at full size.

    One that chooses on every k-th step is judged on such a step and on one between, which count 1 / k and (k - 1) / k.
    """
    found = {name: dict.fromkeys(("gained", "agreed"), 0.0) for name in choosers}
    spans = 0.0
    for batch in batches:
        params = judge.runner.views.make_params(batch, judge.generator)
        extras = judge.runner.extras(len(batch))
        whole = judge.reference.score(batch, extras, params=params).table
        chance, hardest = judge.scale(whole, params)
        spans += float((selection_loss(whole, hardest) - chance).sum())
        for name, chooser in choosers.items():
            own = found[name]
            for step, share in kinds_of_step(chooser):
                indices = _on_step(chooser, step, batch, extras, params).indices.to(whole.device)
                own["gained"] += share * float((selection_loss(whole, indices) - chance).sum())
                agreed = (indices.sort(0).values == hardest.sort(0).values).all(0)
                own["agreed"] += share * float(agreed.float().mean()) / len(batches)
    return {
        name: {"captured": own["gained"] / spans if spans > 0 else 0.0, "agreement": own["agreed"]} for name, own in found.items()
    }


def _on_step(
    chooser: Chooser, step: int | None, batch: ImageBatch, extras: Mapping[str, Tensor] | None, params: ViewParams
) -> HardViews:
    """Let a contestant choose as on that step, and count no step; what it drew stays drawn, or it would draw the same again."""
    if not isinstance(chooser, HardPairSampler):
        return chooser(batch, extras, params=params)
    before = chooser.step
    if step is not None:
        chooser.step = step
    hard = chooser(batch, extras, params=params)
    chooser.step = before
    return hard


def hardness(
    workload: Workload,
    contestants: Mapping[str, Factory],
    *,
    points: Sequence[int],
    judged: int,
    progress: Callable[[Sequence[Any], str], Iterable[Any]],
) -> dict[str, dict[str, Any]]:
    """The part of :func:`hvs_aug.analysis.overhead.measure` that needs no clock: a row for each contestant.

    Returns: ``captured``, ``agreement`` and ``by_point``.
    """
    runner = Runner(workload, contestants[FULL])
    held_out, source = workload.batches(workload.held_out, seed=3), workload.batches(workload.train, seed=4)
    batches = [next(held_out) for _ in range(judged)]
    choosers = {name: factory(runner.trainee, runner.views) for name, factory in contestants.items()}
    reference = choosers[FULL]
    assert isinstance(reference, HardPairSampler)
    judge = _Judge(runner, reference)
    # Made last, the sampler that trains is the one whose teacher outputs the trainee reuses.
    runner.choose = contestants[FULL](runner.trainee, runner.views)
    found: list[dict[str, dict[str, float]]] = []
    for step in progress(range(max(points) + 1), "hardness"):
        if step in points:
            found.append(_judge(judge, choosers, batches))
        if step < max(points):
            runner.step(next(source))
    trained = found[1:] or found
    return {
        name: {
            **{key: statistics.fmean(point[name][key] for point in trained) for key in ("captured", "agreement")},
            "by_point": [{"steps": steps, **point[name]} for steps, point in zip(sorted(points), found, strict=True)],
        }
        for name in contestants
    }
