"""SimSiam's two views."""

from __future__ import annotations

from ...ops import ColorJitter, GaussianBlur, Operation, RandomGrayscale, RandomHorizontalFlip, RandomResizedCrop
from ..recipe import ViewRecipe, ViewSlot
from .shared import SMALL, normalize

__all__ = ["slots"]


def slots(size: int, candidates: int = 4) -> tuple[ViewSlot, ...]:
    """github.com/facebookresearch/simsiam main_simsiam.py, "MoCo v2's aug"; SimSiam (arXiv 2011.10566) appendix D for CIFAR-10."""
    operations: list[Operation] = [
        RandomResizedCrop(scale=(0.2, 1.0)),  # RandomResizedCrop(224, scale=(0.2, 1.))
        ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),  # RandomApply([ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8)
        RandomGrayscale(0.2),  # RandomGrayscale(p=0.2)
    ]
    if size >= SMALL:  # RandomApply([GaussianBlur([.1, 2.])], p=0.5); appendix D: no blur
        operations.append(GaussianBlur(23, sigma=(0.1, 2.0), p=0.5))
    return (ViewSlot(ViewRecipe(size, [*operations, RandomHorizontalFlip(), normalize(size)]), candidates, select=2),)
