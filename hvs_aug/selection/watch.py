"""Timers and counters of a sampler: seconds by phase, and losses that are not finite."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

__all__ = ["NonfiniteWatch", "mark", "timings"]

_seconds: ContextVar[tuple[dict[str, float], list[float]] | None] = ContextVar("seconds", default=None)


@contextmanager
def timings() -> Iterator[dict[str, float]]:
    """Add up the seconds that samplers spend inside, by phase: ``views``, ``scoring``, ``search`` and ``render``.

    The host waits for the device after each phase, so the sum is more than a step takes without it.

    Example:
        >>> with timings() as seconds:
        ...     pass  # hard = sampler(images)
        >>> seconds
        {'views': 0.0, 'scoring': 0.0, 'search': 0.0, 'render': 0.0}
    """
    seconds = dict.fromkeys(("views", "scoring", "search", "render"), 0.0)
    before = _seconds.set((seconds, [time.perf_counter()]))
    try:
        yield seconds
    finally:
        _seconds.reset(before)


def mark(phase: str | None, device: torch.device) -> None:
    """Say that a phase has ended, or with ``None`` that a step begins. Without :func:`timings` around it, this does nothing."""
    opened = _seconds.get()
    if opened is not None:
        seconds, last = opened
        if device.type != "cpu":
            torch.get_device_module(device).synchronize(device)
        now = time.perf_counter()
        if phase is not None:
            seconds[phase] += now - last[0]
        last[0] = now


class NonfiniteWatch:
    """Warns once per run about losses that are not finite, some steps late where the device computes behind the host."""

    def __init__(self) -> None:
        self._warned = False
        self._total: Tensor | None = None
        self._arriving: tuple[Tensor, Any] | None = None

    def see(self, count: Tensor) -> None:
        if self._warned:
            return
        if count.device.type == "cpu":
            self._say(int(count))
        elif count.device.type == "cuda" and torch.cuda.is_available():
            self._total = count if self._total is None else self._total + count
            if self._arriving is not None and self._arriving[1].query():
                self._say(int(self._arriving[0]))
                self._arriving = None
            if self._arriving is None:
                copy = torch.empty((), dtype=count.dtype, pin_memory=True).copy_(self._total, non_blocking=True)
                event = torch.Event(count.device)
                event.record()
                self._arriving = (copy, event)

    def _say(self, images: int) -> None:
        if images:
            self._warned = True
            warnings.warn(
                f"the loss of candidate pairs of {images} image(s) was not finite; such pairs are never chosen. "
                "HardViews.nonfinite counts them; this is said once.",
                stacklevel=2,
            )
