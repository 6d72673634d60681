"""What a sampler observes beside its work: seconds by phase, and losses that are not finite."""

from __future__ import annotations

import time
import warnings
from typing import Any

import torch
from torch import Tensor

__all__ = ["Clock", "NonfiniteWatch"]


class Clock:
    """Seconds by phase. Waits for the device, and so only if asked to."""

    def __init__(self, on: bool, device: torch.device) -> None:
        self.seconds: dict[str, float] | None = dict.fromkeys(("views", "scoring", "search", "render"), 0.0) if on else None
        self._device = device
        self._last = self._now()

    def __call__(self, phase: str) -> None:
        if self.seconds is not None:
            now = self._now()
            self.seconds[phase] += now - self._last
            self._last = now

    def _now(self) -> float:
        if self.seconds is not None and self._device.type != "cpu":
            torch.get_device_module(self._device).synchronize(self._device)
        return time.perf_counter()


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
