"""DINO's multi-crop."""

from __future__ import annotations

from ..recipe import ViewSlot
from .shared import multi_crop

__all__ = ["slots"]


def slots(size: int, candidates: int = 2) -> tuple[ViewSlot, ...]:
    """DINO (arXiv 2104.14294) and its repo: two globals of (0.4, 1), eight locals of (0.05, 0.4) at 96 pixels for 224."""
    return multi_crop(size, candidates, (0.4, 1.0), (0.05, 0.4), locals_kept=8)
