"""What a training step costs: seconds in shuffled rounds, the seconds of its parts, arithmetic and memory."""

from __future__ import annotations

import gc
import os
import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..data.batch import ImageBatch
from ..selection.sampler import HardPairSampler
from ..selection.watch import timings
from .workload import RANDOM, Chooser, Factory, Runner, Workload, kinds_of_step

__all__ = ["costs"]


def costs(
    workload: Workload,
    contestants: Mapping[str, Factory],
    *,
    repeats: int,
    warmup: int,
    progress: Callable[[Sequence[Any], str], Iterable[Any]],
) -> list[dict[str, Any]]:
    """The part of :func:`hvs_aug.analysis.overhead.measure` that needs a quiet machine: the rows without the judgements."""
    runners = {name: Runner(workload, factory) for name, factory in {RANDOM: None, **contestants}.items()}
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


def _mean(measured: Callable[[int | None], float], chooser: Chooser) -> float:
    """The mean over a contestant's kinds of step, by their shares."""
    return sum(share * measured(number) for number, share in kinds_of_step(chooser))


def _step_seconds(runner: Runner, batch: ImageBatch) -> float:
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


def _parts(runner: Runner, batch: ImageBatch, times: int = 3) -> dict[str, float]:
    """Seconds of the parts of a step, the median of a few; scoring waits for the device here, and so they are measured apart."""
    if not isinstance(runner.choose, HardPairSampler):
        return {}
    parts = dict.fromkeys(("views", "scoring", "search", "render", "training"), 0.0)
    for number, share in kinds_of_step(runner.choose):
        taken = [_profiled(runner, batch, number) for _ in range(times)]
        for name in parts:
            parts[name] += share * statistics.median(part[name] for part in taken)
    return parts


def _profiled(runner: Runner, batch: ImageBatch, number: int | None) -> dict[str, float]:
    with timings() as parts:
        seconds = _seconds(lambda: runner.step(batch, number), runner.workload.device)
    return {**parts, "training": max(0.0, seconds - sum(parts.values()))}


def _flops(runner: Runner, batch: ImageBatch) -> float:
    """Floating-point operations of the step's matrix products, convolutions and attention."""

    def counted(number: int | None) -> float:
        counter = FlopCounterMode(display=False)
        with counter:
            runner.step(batch, number)
        return float(counter.get_total_flops())

    return _mean(counted, runner.choose)


def _peak_bytes(runner: Runner, batch: ImageBatch) -> int:
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
