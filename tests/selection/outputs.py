"""Random outputs of candidates, slot by slot."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

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
