"""BYOL's two views."""

from __future__ import annotations

from ..recipe import ViewSlot
from .shared import byol_pair

__all__ = ["slots"]


def slots(size: int, candidates: int = 4) -> tuple[ViewSlot, ...]:
    """BYOL: crops of (0.08, 1), resized bicubically."""
    return byol_pair(size, candidates, "bicubic")
