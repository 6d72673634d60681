"""The two views of MoCo v3."""

from __future__ import annotations

from ..recipe import ViewSlot
from .shared import byol_pair

__all__ = ["slots"]


def slots(size: int, candidates: int = 4) -> tuple[ViewSlot, ...]:
    """MoCo v3 (arXiv 2104.02057), github.com/facebookresearch/moco-v3 main_moco.py: BYOL's recipe, resized bilinearly."""
    return byol_pair(size, candidates, "bilinear")
