"""What choosing views costs, and what each cheap way to score loses by it.

Two questions of one workload (a method, a network, a size), answered apart:

- *Cost*: the contestants take training steps in turn, in one process, in an order shuffled anew for each round. Reported are
  medians, and per contestant the ratio to training on random views. ``bound`` is the same ratio in arithmetic, counted by
  ``torch.utils.flop_counter``: what a contestant cannot go below as long as it does these multiplications.
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
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .._check import require
from ..data.batch import ImageBatch
from ..selection.cheap import cheap
from ..selection.policies import min_iou
from ..selection.policies import random as at_random
from ..selection.sampler import HardPairSampler, HardViews
from ..selection.search import selection_loss
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
    "measure",
    "ours",
    "pareto",
    "recommend",
    "settings",
]

RANDOM = "random views"
FULL = "full size"

_RANDOM_DRAWS = 32


class Trainee(Protocol):
    """What is trained: the methods of ``hvs_aug.pretraining`` are such, and so is an ``nn.Module`` with these attributes."""

    pair_loss: Any
    fewest: int
    learning_rate: float
    weight_decay: float
    clip: float | None

    @property
    def scoring_teacher(self) -> Any: ...
    def views(self, size: int, candidates: int | None = None) -> CandidateViews: ...
    def sampler(self, views: CandidateViews, **options: Any) -> HardPairSampler: ...
    def extras(self, slots: Any, images: int, generator: torch.Generator) -> dict[str, Tensor] | None: ...
    def score(self, images: Tensor) -> Any: ...
    def loss(self, hard: HardViews) -> Tensor: ...
    def after_step(self) -> None: ...
    def parameters(self) -> Iterable[nn.Parameter]: ...


class Chooser(Protocol):
    """A way to choose views: a HardPairSampler, or anything that is called like one."""

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
        """Endless batches of the images, each on one canvas, shuffled."""
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
    "channels last": {"channels_last": True},
    "bfloat16": {"autocast": torch.bfloat16, "channels_last": True},
    "two thirds, bfloat16": {"score_scale": 2 / 3, "autocast": torch.bfloat16, "channels_last": True},
    "half": {"score_scale": 0.5},
    "half, bfloat16": {"score_scale": 0.5, "autocast": torch.bfloat16, "channels_last": True},
    "quarter": {"score_scale": 0.25},
    "half of the tokens": {"token_keep": 0.5},
    "quarter of the tokens": {"token_keep": 0.25},
    "every 2nd step": {"every": 2},
    "half of the batch": {"fraction": 0.5},
    "smallest overlap": {"policy": min_iou()},
}
"""The settings of HardPairSampler that a table compares, by name."""


def settings(transformer: bool, masked: bool = False, device: torch.device | str = "cpu") -> dict[str, Factory]:
    """The contestants of a table: those of :data:`OPTIONS` that suit the network, and the preset "cheap".

    Args:
        transformer: whether the network has patch tokens.
        masked: whether the loss compares masked patches, which ``token_keep`` cannot do.
        device: where it runs, which "cheap" depends on.
    """
    unfit = {"channels last"} if transformer else set()
    unfit |= {name for name in OPTIONS if "token_keep" in OPTIONS[name] and (masked or not transformer)}
    listed = {name: ours(**options) for name, options in OPTIONS.items() if name not in unfit}
    return listed | {"cheap": ours(**cheap(device))}


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

    def step(self, batch: ImageBatch) -> HardViews:
        """One training step as a user's loop has it."""
        with self.workload.casting():
            hard = self.choose(batch, self.extras(len(batch)))
            loss = self.trainee.loss(hard)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.trainee.clip is not None:
            nn.utils.clip_grad_norm_(self.weights, self.trainee.clip)
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
        points: after how many training steps choices are judged; a network that has learned nothing says little.
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
    rows = _costs(workload, {RANDOM: None, **contestants}, repeats, warmup, progress)
    judgements = _hardness(workload, contestants, points, judged, progress)
    for row in rows:
        row.update(judgements.get(row["setting"], {"captured": 0.0}))
    return rows


def _costs(
    workload: Workload,
    contestants: Mapping[str, Factory | None],
    repeats: int,
    warmup: int,
    progress: Callable[[Sequence[Any], str], Iterable[Any]],
) -> list[dict[str, Any]]:
    runners = {name: _Runner(workload, factory) for name, factory in contestants.items()}
    source = workload.batches(workload.train)
    batches = [next(source) for _ in range(max(2, min(8, repeats)))]
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    order, shuffled = list(runners), random.Random(0)
    for turn in progress(range(warmup + repeats), "cost"):
        shuffled.shuffle(order)
        gc.collect()
        batch = batches[turn % len(batches)]
        for name in order:
            runner = runners[name]
            taken = _seconds(partial(runner.step, batch), workload.device, _turns(runner.choose))
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


def _turns(chooser: Chooser) -> int:
    """How many steps make a whole: one that chooses on every k-th step is measured over k of them."""
    return chooser.every if isinstance(chooser, HardPairSampler) else 1


def _seconds(run: Callable[[], object], device: torch.device, turns: int = 1) -> float:
    _wait(device)
    gc.disable()
    try:
        start = time.perf_counter()
        for _ in range(turns):
            run()
        _wait(device)
        return (time.perf_counter() - start) / turns
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
    runner.choose.profile = True
    totals: list[float] = []
    taken: list[Mapping[str, float]] = []
    for _ in range(times * _turns(runner.choose)):
        totals.append(_seconds(lambda: taken.append(runner.step(batch).timings or {}), runner.workload.device))
    runner.choose.profile = False
    known = {name: statistics.fmean(part[name] for part in taken) for name in ("views", "scoring", "search", "render")}
    return known | {"training": max(0.0, statistics.fmean(totals) - sum(known.values()))}


def _flops(runner: _Runner, batch: ImageBatch) -> float:
    """Floating-point operations of the step's matrix products, convolutions and attention."""
    turns = _turns(runner.choose)
    counter = FlopCounterMode(display=False)
    with counter:
        for _ in range(turns):
            runner.step(batch)
    return counter.get_total_flops() / turns


def _peak_bytes(runner: _Runner, batch: ImageBatch) -> int:
    """The most memory that a step holds beyond what lives before it."""
    device = runner.workload.device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        runner.step(batch)
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device) - before)
    os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # else it reports its own starting and stopping
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        runner.step(batch)
    held = most = 0
    changes = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(changes, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


@torch.no_grad()
def _judge(runner: _Runner, choosers: Mapping[str, Chooser], batches: Sequence[ImageBatch]) -> dict[str, dict[str, float]]:
    """How hard each contestant's choice is by the losses at full size, and how often it is the choice at full size."""
    reference = choosers[FULL]
    assert isinstance(reference, HardPairSampler)
    control, generator = at_random(), torch.Generator().manual_seed(2)
    gained = dict.fromkeys(choosers, 0.0)
    agreed = dict.fromkeys(choosers, 0.0)
    span = images = 0.0
    for batch in batches:
        params = runner.views.make_params(batch, generator)
        extras = runner.extras(len(batch))
        table = reference.score(batch, extras, params=params).table
        draws = [control(table, reference.slots, params=params, step=0, generator=generator) for _ in range(_RANDOM_DRAWS)]
        chance = torch.stack([selection_loss(table, draw) for draw in draws]).mean(0)
        hardest = reference.policy(table, reference.slots, params=params, step=0, generator=generator)
        span += float((selection_loss(table, hardest) - chance).sum())
        images += len(batch)
        for name, chooser in choosers.items():
            turns = _turns(chooser)
            for _ in range(turns):
                chosen = chooser(batch, extras, params=params).indices.to(table.device)
                gained[name] += float((selection_loss(table, chosen) - chance).sum()) / turns
                agreed[name] += float((chosen.sort(0).values == hardest.sort(0).values).all(0).sum()) / turns
    return {name: {"captured": gained[name] / span if span > 0 else 0.0, "agreement": agreed[name] / images} for name in choosers}


def _hardness(
    workload: Workload,
    contestants: Mapping[str, Factory],
    points: Sequence[int],
    judged: int,
    progress: Callable[[Sequence[Any], str], Iterable[Any]],
) -> dict[str, dict[str, Any]]:
    runner = _Runner(workload, contestants[FULL])
    training = runner.choose
    held_out, source = workload.batches(workload.held_out, seed=3), workload.batches(workload.train, seed=4)
    batches = [next(held_out) for _ in range(judged)]
    found: list[dict[str, dict[str, float]]] = []
    for step in progress(range(max(points) + 1), "hardness"):
        if step in points:
            # Made last, the sampler that trains is the one whose teacher outputs the trainee reuses.
            choosers = {name: factory(runner.trainee, runner.views) for name, factory in contestants.items()}
            found.append(_judge(runner, choosers, batches))
            training = contestants[FULL](runner.trainee, runner.views)
        if step < max(points):
            runner.choose = training
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
    captures at least ``least``, the cheapest of all that do; where none does, the one that captures most."""
    chosen = [row for row in rows if row["setting"] != RANDOM]
    within = [row for row in chosen if row["ratio"] <= limit and row["captured"] >= least]
    if within:
        return max(within, key=lambda row: row["captured"])
    enough = [row for row in chosen if row["captured"] >= least]
    return min(enough, key=lambda row: row["ratio"]) if enough else max(chosen, key=lambda row: row["captured"])


def advice(rows: Sequence[Mapping[str, Any]]) -> str:
    """Say in two lines which setting to use, what it will cost and what it keeps."""
    best = recommend(rows)
    words = "".join(
        f", {name}={value:.3g}" if isinstance(value, float) else f", {name}={value!r}"
        for name, value in OPTIONS.get(best["setting"], {}).items()
    )
    words += ", **cheap(device)" if best["setting"] == "cheap" else ""
    extra = f"{100 * (best['ratio'] - 1):.0f} % more time a step than random views"
    return f"use {best['setting']}: HardPairSampler(model, loss, views{words})\n{extra}, {best['captured']:.0%} of the hardness"


def pareto(rows: Sequence[Mapping[str, Any]], path: str | Path) -> Path:
    """Draw hardness captured against step ratio, a panel for each workload, and the rows that no other beats in both joined."""
    from matplotlib.figure import Figure

    panels = list(dict.fromkeys(row.get("workload", "") for row in rows))
    figure = Figure(figsize=(4.2 * len(panels), 3.8), layout="constrained")
    for index, panel in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), index + 1)
        own = sorted((row for row in rows if row.get("workload", "") == panel), key=lambda row: (row["ratio"], -row["captured"]))
        best: list[Mapping[str, Any]] = []
        for row in own:
            if not best or row["captured"] > best[-1]["captured"]:
                best.append(row)
        axes.plot([row["ratio"] for row in best], [row["captured"] for row in best], color="0.75", zorder=1)
        axes.scatter([row["ratio"] for row in own], [row["captured"] for row in own], s=18, zorder=2)
        for row in own:
            axes.annotate(row["setting"], (row["ratio"], row["captured"]), xytext=(4, 3), textcoords="offset points", fontsize=7)
        axes.axvline(1.1, color="0.85", linewidth=0.8, zorder=0)
        axes.axhline(0.85, color="0.85", linewidth=0.8, zorder=0)
        axes.set_title(panel, fontsize=9)
        axes.set_xlabel("time of a step / random views")
        axes.set_ylabel("hardness captured")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path
