"""Timers of a sampler: seconds by phase."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

__all__ = ["mark", "timings"]

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
