"""What is counted on a device and reported once, without waiting for the device."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

__all__ = ["Arrival", "CountWatch"]


class Arrival:
    """Values on their way from a device to the host, which does not wait for them; those of a CPU are there at once."""

    def __init__(self, values: Tensor) -> None:
        self._values, self._event = values, None
        if values.device.type != "cpu":
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values, non_blocking=True)
            self._event = torch.Event(values.device)
            self._event.record()

    @staticmethod
    def can_read(values: Tensor) -> bool:
        """Whether values of this tensor's device can be read without a wait."""
        return values.device.type == "cpu" or (values.device.type == "cuda" and torch.cuda.is_available())

    def get(self) -> Tensor | None:
        """The values on the CPU, or ``None`` while they are on their way."""
        return self._values if self._event is None or self._event.query() else None


class CountWatch:
    """Warn once when a count is above 0: at once on a CPU, and some steps later on a device, because reading it would block.

    Args:
        message: what is said, with ``{count}`` where the number stands.
    """

    def __init__(self, message: str) -> None:
        self._message = message
        self._has_warned = False
        self._total: Tensor | None = None
        self._arriving: Arrival | None = None

    def see(self, count: Tensor) -> None:
        """Take one more count, a 0-dim int64 tensor."""
        if self._has_warned or not Arrival.can_read(count):
            return
        if count.device.type == "cpu":
            self._say(int(count))
            return
        self._total = count if self._total is None else self._total + count
        arrived = None if self._arriving is None else self._arriving.get()
        if arrived is not None:
            self._say(int(arrived))
        if arrived is not None or self._arriving is None:
            self._arriving = Arrival(self._total)

    def _say(self, count: int) -> None:
        if count:
            self._has_warned = True
            warnings.warn(self._message.format(count=count), stacklevel=3)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy needs; what is on its way from a device stays with the original."""
        return {"_message": self._message, "_has_warned": self._has_warned, "_total": None, "_arriving": None}
