"""The two views of a much used repo of SimCLR."""

from __future__ import annotations

from ...ops import ColorJitter, GaussianBlur, RandomGrayscale, RandomHorizontalFlip, RandomResizedCrop
from ..recipe import ViewRecipe, ViewSlot
from .shared import tenth

__all__ = ["slots"]


def slots(size: int, candidates: int = 4) -> tuple[ViewSlot, ...]:
    """github.com/sthalles/SimCLR data_aug/contrastive_learning_dataset.py: full strength and blur at every size."""
    operations = [
        RandomResizedCrop(),  # RandomResizedCrop(size=size), torchvision's defaults, bilinear
        RandomHorizontalFlip(),  # RandomHorizontalFlip()
        # ColorJitter(0.8 * s, 0.8 * s, 0.8 * s, 0.2 * s), s=1; RandomApply([color_jitter], p=0.8)
        ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8),
        RandomGrayscale(0.2),  # RandomGrayscale(p=0.2)
        # GaussianBlur(kernel_size=int(0.1 * size)), always; gaussian_blur.py: radias = kernel_size // 2, uniform(0.1, 2.0)
        GaussianBlur(tenth(size), sigma=(0.1, 2.0)),
    ]
    return (ViewSlot(ViewRecipe(size, operations), candidates, select=2),)
