"""iBOT's multi-crop."""

from __future__ import annotations

from ..recipe import ViewSlot
from .shared import multi_crop

__all__ = ["slots"]


def slots(size: int, candidates: int = 2) -> tuple[ViewSlot, ...]:
    """iBOT (arXiv 2111.07832) appendix B and run.sh: DINO's pipeline, globals of (0.25, 1), ten locals of (0.05, 0.25)."""
    return multi_crop(size, candidates, (0.25, 1.0), (0.05, 0.25), locals_kept=10)
