"""Random outputs of candidates, slot by slot, and a count of the bytes that live at once."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hvs_aug.views.recipe import ViewSlot

MULTI_CROP = (
    ViewSlot(None, candidates=2, select=1, name="global 1"),
    ViewSlot(None, candidates=3, select=2, name="local", role="local"),
    ViewSlot(None, candidates=2, select=1, name="global 2"),
)
GLOBAL = (0, 1, 5, 6)
"""Those of its seven candidates that are global."""

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def pieces(outputs: Tensor, slots: Sequence[ViewSlot] = MULTI_CROP) -> list[Tensor]:
    """The outputs of all candidates, cut into slots."""
    return list(outputs.split([slot.candidates for slot in slots]))


def teacher_pieces(outputs: Tensor, slots: Sequence[ViewSlot] = MULTI_CROP) -> list[Tensor | None]:
    """Likewise, with None for local slots."""
    return [piece if slot.role == "global" else None for piece, slot in zip(pieces(outputs, slots), slots, strict=True)]


def close(got: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Assert that values are equal, non-finite ones included."""
    torch.testing.assert_close(got.double(), expected.double(), atol=tolerance, rtol=tolerance, equal_nan=True)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors made inside that are alive at once: ``peak``. Views and in-place results cost nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.holders: dict[int, int] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {value.untyped_storage()._cdata for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)}
        result = function(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                storage = value.untyped_storage()
                if storage._cdata in self.holders or storage._cdata not in given:
                    self._hold(value, storage._cdata, storage.nbytes())
        return result

    def _hold(self, value: Tensor, key: int, size: int) -> None:
        if key not in self.holders:
            self.holders[key] = 0
            self.live += size
            self.peak = max(self.peak, self.live)
        self.holders[key] += 1
        weakref.finalize(value, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self.holders[key] -= 1
        if not self.holders[key]:
            del self.holders[key]
            self.live -= size
