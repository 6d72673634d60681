"""A count that is made on a device and reported once, without waiting for the device."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

__all__ = ["CountWatch"]


class CountWatch:
    """Warn once when a count is above 0: at once on a CPU, and some steps later on a device, because reading it would block.

    Args:
        message: what is said, with ``{count}`` where the number stands.
    """

    def __init__(self, message: str) -> None:
        self._message = message
        self._has_warned = False
        self._total: Tensor | None = None
        self._arriving: tuple[Tensor, Any] | None = None

    def see(self, count: Tensor) -> None:
        """Take one more count, a 0-dim int64 tensor."""
        if self._has_warned:
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

    def _say(self, count: int) -> None:
        if count:
            self._has_warned = True
            warnings.warn(self._message.format(count=count), stacklevel=3)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy needs; what is on its way from a device stays with the original."""
        return {"_message": self._message, "_has_warned": self._has_warned, "_total": None, "_arriving": None}
