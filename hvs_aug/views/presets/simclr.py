"""SimCLR's two views."""

from __future__ import annotations

from ...ops import ColorJitter, GaussianBlur, Operation, RandomGrayscale, RandomHorizontalFlip, RandomResizedCrop
from ..recipe import ViewRecipe, ViewSlot
from .shared import SMALL, tenth

__all__ = ["slots"]


def slots(size: int, candidates: int = 4) -> tuple[ViewSlot, ...]:
    """SimCLR (arXiv 2002.05709): appendix A for ImageNet, appendix B.9 for CIFAR-10 (strength 0.5 and no blur)."""
    strength = 1.0 if size >= SMALL else 0.5  # A, get_color_distortion(s=1.0); B.9
    operations: list[Operation] = [
        # A, "random crop and resize": Inception's 0.08 to 1; google-research/simclr data_util.py, crop_and_resize: bicubic
        RandomResizedCrop(scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), interpolation="bicubic"),
        RandomHorizontalFlip(0.5),  # A
        # A, color_distortion: ColorJitter(0.8*s, 0.8*s, 0.8*s, 0.2*s), RandomApply p=0.8
        ColorJitter(0.8 * strength, 0.8 * strength, 0.8 * strength, 0.2 * strength, p=0.8),
        RandomGrayscale(0.2),  # A
    ]
    if size >= SMALL:  # A, "we blur the image 50% of the time", "the kernel size is set to be 10% of the image height/width"
        operations.append(GaussianBlur(tenth(size), sigma=(0.1, 2.0), p=0.5))
    return (ViewSlot(ViewRecipe(size, operations), candidates, select=2),)
