"""Reuse the memory of deleted tensors for new ones of about their size: touching fresh pages takes longer than filling them."""

from __future__ import annotations

import weakref
from collections import deque
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Recycled"]


class Recycled:
    """Hands out uninitialised CPU tensors whose memory comes back when the last tensor that shares it is gone.

    What comes back is kept for the next tensor of that size, or of half of it at least: at most ``count`` pieces, and ``size``
    bytes in all. No lock is held, so that a forked child can go on.
    """

    def __init__(self, count: int, size: int) -> None:
        self.count, self.size = count, size
        self._free: deque[np.ndarray[Any, Any]] = deque()

    def empty(self, count: int, dtype: torch.dtype) -> Tensor:
        """A one-dimensional tensor of so many values."""
        size = dtype.itemsize * count
        if size == 0:
            return torch.empty(0, dtype=dtype, device="cpu")
        memory = self._take(size)
        place = memory[:size]
        # The tensor holds this array, and nothing else does.
        weakref.finalize(place, self._come_back, memory).atexit = False
        return torch.from_numpy(place).view(dtype)

    def _take(self, size: int) -> np.ndarray[Any, Any]:
        for _ in range(len(self._free)):
            try:
                memory = self._free.pop()
            except IndexError:  # another thread took it
                break
            if size <= len(memory) <= 2 * size:
                return memory
            self._free.appendleft(memory)
        return np.empty(size, np.uint8)

    def _come_back(self, memory: np.ndarray[Any, Any]) -> None:
        self._free.append(memory)
        while len(self._free) > self.count or sum(map(len, list(self._free))) > self.size:
            try:
                self._free.popleft()
            except IndexError:
                return
