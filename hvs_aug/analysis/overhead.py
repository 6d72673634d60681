"""The cost of choosing views, and how much hardness each cheap way of scoring keeps.

Two things are measured for a workload (a method, a network, a size), separately:

- *Cost*: the contestants take training steps in turn, in one process, in an order shuffled anew for each round. The rows hold
medians, and for each contestant the ratio to training on random views. ``bound`` is this ratio by the number of operations,
counted by ``torch.utils.flop_counter``: no contestant that does these operations can be cheaper.
- *Hardness captured*: a network is trained; at several points of the run each contestant chooses from the same candidates of
  images that are not trained on, and its choice is judged by the losses at full size: 1 is the true hardest, 0 a random choice.
  The choice is judged in the mode in which it is made, so a network with dropout does not reach 1.
"""

from __future__ import annotations

import gc
import math
import os
import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .._check import require
from ..data.batch import ImageBatch
from ..selection.policies import min_iou
from ..selection.policies import random as at_random
from ..selection.sampler import HardPairSampler, HardViews
from ..selection.scoring import CHEAP, Scoring
from ..selection.search import selection_loss
from ..selection.watch import timings
from ..views.candidates import CandidateViews
from ..views.params import ViewParams

__all__ = [
    "FULL",
    "OPTIONS",
    "RANDOM",
    "Chooser",
    "Trainee",
    "Workload",
    "advice",
    "costs",
    "hardness",
    "measure",
    "ours",
    "recommend",
    "settings",
]

RANDOM = "random views"
FULL = "full size"

_RANDOM_DRAWS = 32


class Trainee(Protocol):
    """What is trained: a method of ``hvs_aug.pretraining``, or another ``nn.Module`` with these attributes."""

    pair_loss: Any
    fewest: int
    learning_rate: float
    weight_decay: float

    @property
    def scoring_teacher(self) -> Any: ...
    def views(self, size: int, candidates: int | None = None) -> CandidateViews: ...
    def sampler(self, views: CandidateViews, **options: Any) -> HardPairSampler: ...
    def extras(self, slots: Any, images: int, generator: torch.Generator) -> dict[str, Tensor] | None: ...
    def score(self, images: Tensor) -> Any: ...
    def loss(self, hard: HardViews) -> Tensor: ...
    def clip_gradients(self) -> None: ...
    def after_step(self) -> None: ...
    def parameters(self) -> Iterable[nn.Parameter]: ...


class Chooser(Protocol):
    """A way to choose views: a HardPairSampler, or another callable with the same arguments."""

    def __call__(self, images: Any, extras: Any = None, *, params: ViewParams | None = None) -> HardViews: ...


Factory = Callable[[Any, CandidateViews], Chooser]
"""Makes the chooser of a trainee from candidate views."""


@dataclass(frozen=True)
class Workload:
    """One thing to measure.

    Attributes:
        build: makes the trainee; called once for each contestant, so that none profits from another's caches.
        size: pixels of a (global) view.
        batch: images in a step.
        candidates: what the method's ``views(size, candidates)`` is called with.
        train, held_out: raw images, ``(C, H, W)`` uint8, for the steps and for judging choices.
        device: where it runs.
        autocast: dtype of the training step, or ``None``.
    """

    build: Callable[[], Any]
    size: int
    batch: int
    candidates: int
    train: Sequence[Tensor]
    held_out: Sequence[Tensor]
    device: torch.device
    autocast: torch.dtype | None = None

    def batches(self, images: Sequence[Tensor], seed: int = 0) -> Iterator[ImageBatch]:
        """Endless batches of the images, shuffled."""
        from ..data.collate import collate_images

        generator = torch.Generator().manual_seed(seed)
        left: list[int] = []
        while True:
            while len(left) < self.batch:
                left += torch.randperm(len(images), generator=generator).tolist()
            taken, left = left[: self.batch], left[self.batch :]
            yield collate_images([images[index] for index in taken]).to(self.device)

    def casting(self) -> AbstractContextManager[Any]:
        """The autocast of the training step."""
        return nullcontext() if self.autocast is None else torch.autocast(self.device.type, dtype=self.autocast)


def ours(**options: Any) -> Factory:
    """A HardPairSampler with these options."""
    return lambda trainee, views: trainee.sampler(views, **options)


OPTIONS: dict[str, dict[str, Any]] = {
    FULL: {},
    "channels last": {"scoring": Scoring(channels_last=True)},
    "bfloat16": {"scoring": Scoring(dtype=torch.bfloat16, channels_last=True)},
    "half": {"scoring": Scoring(scale=0.5)},
    "quarter": {"scoring": Scoring(scale=0.25)},
    "cheap": {"scoring": CHEAP},
    "every 2nd step": {"scoring": Scoring(every=2)},
    "smallest overlap": {"policy": min_iou()},
}
"""The settings of HardPairSampler that a table compares, by name."""


def settings(transformer: bool) -> dict[str, Factory]:
    """The contestants of a table: those of :data:`OPTIONS` that suit the network.

    Args:
        transformer: whether the network has patch tokens: its memory format does not matter then.
    """
    return {name: ours(**options) for name, options in OPTIONS.items() if not (transformer and name == "channels last")}


class _Runner:
    """One contestant and the network that it trains."""

    def __init__(self, workload: Workload, factory: Factory | None) -> None:
        self.workload = workload
        self.trainee = workload.build()
        if isinstance(self.trainee, nn.Module):
            self.trainee.to(workload.device)
        self.views: CandidateViews = self.trainee.views(
            workload.size, self.trainee.fewest if factory is None else workload.candidates
        )
        self.choose: Chooser = self.trainee.sampler(self.views) if factory is None else factory(self.trainee, self.views)
        self.generator = torch.Generator().manual_seed(1)
        self.weights = [weight for weight in self.trainee.parameters() if weight.requires_grad]
        rate = self.trainee.learning_rate * math.sqrt(workload.batch / 256)
        self.optimizer = torch.optim.AdamW(self.weights, lr=rate, weight_decay=self.trainee.weight_decay)

    def extras(self, images: int) -> dict[str, Tensor] | None:
        extras: dict[str, Tensor] | None = self.trainee.extras(self.views.slots, images, self.generator)
        return extras

    def step(self, batch: ImageBatch, number: int | None = None) -> HardViews:
        """One training step as a user's loop has it; ``number`` is one of :func:`_kinds_of_step`."""
        if number is not None and isinstance(self.choose, HardPairSampler):
            self.choose.step = number
        with self.workload.casting():
            hard = self.choose(batch, self.extras(len(batch)))
            loss = self.trainee.loss(hard)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.trainee.clip_gradients()
        self.optimizer.step()
        self.trainee.after_step()
        return hard


def measure(
    workload: Workload,
    contestants: Mapping[str, Factory],
    *,
    repeats: int = 9,
    warmup: int = 2,
    points: Sequence[int] = (0, 50, 150),
    judged: int = 4,
    progress: Callable[[Sequence[Any], str], Iterable[Any]] | None = None,
) -> list[dict[str, Any]]:
    """Measure what each contestant costs and how much of the hardness it captures.

    Args:
        workload: what is trained, on what.
        contestants: factories by name; one of them is :data:`FULL`. Random views are added.
        repeats, warmup: rounds of timing that count, and that do not.
        points: the numbers of training steps after which choices are judged. An untrained network says little.
        judged: batches that are judged at each point.
        progress: shown around a list, as tqdm does it.

    Returns:
        A row for each contestant: ``median`` seconds of a step, ``iqr``, ``repeats``; ``ratio`` to random views and the quartiles
        of the rounds' ratios; ``bound``, the ratio in arithmetic; ``over_bound``; the seconds of one step's parts, ``views``,
        ``scoring``, ``search``, ``render`` and ``training``; ``peak_bytes``; ``captured`` and ``agreement``, means over the
        points after the first, and ``by_point``, all of them.
    """
    require(FULL in contestants, "overhead.measure(contestants)", f"one named {FULL!r}", f"{sorted(contestants)}")
    progress = progress if progress is not None else lambda items, _: items
    rows = costs(workload, contestants, repeats=repeats, warmup=warmup, progress=progress)
    judgements = hardness(workload, contestants, points=points, judged=judged, progress=progress)
    for row in rows:
        row.update(judgements.get(row["setting"], {"captured": 0.0}))
    return rows


def costs(
    workload: Workload,
    contestants: Mapping[str, Factory],
    *,
    repeats: int,
    warmup: int,
    progress: Callable[[Sequence[Any], str], Iterable[Any]],
) -> list[dict[str, Any]]:
    """The part of :func:`measure` that needs a quiet machine: the rows without the judgements."""
    runners = {name: _Runner(workload, factory) for name, factory in {RANDOM: None, **contestants}.items()}
    source = workload.batches(workload.train)
    batches = [next(source) for _ in range(max(2, min(8, repeats)))]
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    order, shuffled = list(runners), random.Random(0)
    for turn in progress(range(warmup + repeats), "cost"):
        shuffled.shuffle(order)
        gc.collect()
        batch = batches[turn % len(batches)]
        for name in order:
            taken = _step_seconds(runners[name], batch)
            if turn >= warmup:
                seconds[name].append(taken)
    parts = {name: _parts(runner, batches[0]) for name, runner in runners.items()}
    flops = {name: _flops(runner, batches[0]) for name, runner in runners.items()}
    base, least = seconds[RANDOM], flops[RANDOM]
    rows = []
    for name, runner in runners.items():
        ratio = statistics.median(seconds[name]) / statistics.median(base)
        by_round = _quartiles([own / other for own, other in zip(seconds[name], base, strict=True)])
        quartiles = _quartiles(seconds[name])
        bound = flops[name] / least if least else 1.0
        rows.append(
            {
                "setting": name,
                "median": statistics.median(seconds[name]),
                "iqr": quartiles[1] - quartiles[0],
                "repeats": repeats,
                "ratio": ratio,
                "ratio_quartiles": list(by_round),
                "bound": bound,
                "over_bound": ratio / bound,
                **parts[name],
                "peak_bytes": _peak_bytes(runner, batches[0]),
            }
        )
    return rows


def _kinds_of_step(chooser: Chooser) -> list[tuple[int | None, float]]:
    """The sampler's number of a step of each kind, and its share: one that chooses on every k-th step has a second kind."""
    every = chooser.scoring.every if isinstance(chooser, HardPairSampler) else 1
    return [(None, 1.0)] if every == 1 else [(0, 1 / every), (1, 1 - 1 / every)]


def _mean(measured: Callable[[int | None], float], chooser: Chooser) -> float:
    """The mean over a contestant's kinds of step, by their shares."""
    return sum(share * measured(number) for number, share in _kinds_of_step(chooser))


def _step_seconds(runner: _Runner, batch: ImageBatch) -> float:
    return _mean(lambda number: _seconds(partial(runner.step, batch, number), runner.workload.device), runner.choose)


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    gc.disable()
    try:
        start = time.perf_counter()
        run()
        _wait(device)
        return time.perf_counter() - start
    finally:
        gc.enable()


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.get_device_module(device).synchronize(device)


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def _parts(runner: _Runner, batch: ImageBatch, times: int = 3) -> dict[str, float]:
    """Seconds of the parts of a step, the median of a few; scoring waits for the device here, and so they are measured apart."""
    if not isinstance(runner.choose, HardPairSampler):
        return {}
    parts = dict.fromkeys(("views", "scoring", "search", "render", "training"), 0.0)
    for number, share in _kinds_of_step(runner.choose):
        taken = [_profiled(runner, batch, number) for _ in range(times)]
        for name in parts:
            parts[name] += share * statistics.median(part[name] for part in taken)
    return parts


def _profiled(runner: _Runner, batch: ImageBatch, number: int | None) -> dict[str, float]:
    with timings() as parts:
        seconds = _seconds(lambda: runner.step(batch, number), runner.workload.device)
    return {**parts, "training": max(0.0, seconds - sum(parts.values()))}


def _flops(runner: _Runner, batch: ImageBatch) -> float:
    """Floating-point operations of the step's matrix products, convolutions and attention."""

    def counted(number: int | None) -> float:
        counter = FlopCounterMode(display=False)
        with counter:
            runner.step(batch, number)
        return float(counter.get_total_flops())

    return _mean(counted, runner.choose)


def _peak_bytes(runner: _Runner, batch: ImageBatch) -> int:
    """The most memory that a step holds beyond what lives before it."""
    device = runner.workload.device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        runner.step(batch, 0)
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device) - before)
    os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # else it reports its own starting and stopping
    with (
        _without_stderr(),
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile,
    ):
        runner.step(batch, 0)
    held = most = 0
    changes = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(changes, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Drop what C++ code writes to stderr: the profiler warns of memory that was allocated before it began."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


class _Judge:
    """Says where on the scale from random to hardest a choice lies, by the losses at full size of the network as it is."""

    def __init__(self, runner: _Runner, reference: HardPairSampler) -> None:
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
            for step, share in _kinds_of_step(chooser):
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
    """The part of :func:`measure` that needs no clock: ``captured``, ``agreement`` and ``by_point`` for each contestant."""
    runner = _Runner(workload, contestants[FULL])
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


def recommend(rows: Sequence[Mapping[str, Any]], limit: float = 1.10, least: float = 0.85) -> Mapping[str, Any]:
    """The row to use: of those within ``limit`` times a step of random views the one that captures most; where none of them
    captures at least ``least``, the cheapest of all that do; where none does, the one that captures most.

    A row is within the limit if three quarters of its rounds were (``ratio_quartiles``), not the median alone.
    """
    chosen = [row for row in rows if row["setting"] != RANDOM]
    within = [row for row in chosen if _spread(row)[1] <= limit and row["captured"] >= least]
    if within:
        return max(within, key=lambda row: row["captured"])
    enough = [row for row in chosen if row["captured"] >= least]
    return min(enough, key=lambda row: row["ratio"]) if enough else max(chosen, key=lambda row: row["captured"])


def advice(rows: Sequence[Mapping[str, Any]]) -> str:
    """Say which setting to use, what it costs and what it keeps, with the quartiles of the rounds, and where to doubt it."""
    best = recommend(rows)
    words = "".join(f", {name}={_written(value)}" for name, value in OPTIONS.get(best["setting"], {}).items())
    low, high = _spread(best)
    spread = "" if low == high else f" (half of the rounds: {low - 1:+.0%} to {high - 1:+.0%})"
    lines = [
        f"use {best['setting']}: HardPairSampler(model, loss, views{words})",
        f"it takes {best['ratio'] - 1:+.0%} time a step against random views{spread}, "
        f"and captures {best['captured']:.0%} of the hardness",
    ]
    if best["captured"] < 0.85:
        lines.append(
            "no setting captures 85 % of the hardness here; more candidates, or a network that is trained further, may change that"
        )
    if high - low > 0.2:
        lines.append("the rounds differ much: something else used this machine; measure again before you rely on these times")
    return "\n".join(lines)


def _spread(row: Mapping[str, Any]) -> tuple[float, float]:
    """The quartiles of a row's time ratio over the rounds."""
    low, high = row.get("ratio_quartiles", (row["ratio"], row["ratio"]))
    return low, high


def _written(value: Any) -> str:
    """An option as a user writes it: of a Scoring what differs from the default."""
    if not isinstance(value, Scoring):
        return f"policies.{value!r}"
    if value == CHEAP:
        return '"cheap"'
    changed = [field.name for field in fields(value) if getattr(value, field.name) != field.default]
    return f"Scoring({', '.join(f'{name}={getattr(value, name)!r}' for name in changed)})"
