"""Resize, before the crop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor
from torch.nn import functional as F

from .._check import fail, require, require_name
from .operation import Operation, require_count

__all__ = ["Resize"]


@dataclass(frozen=True, repr=False)
class Resize(Operation):
    """Resize every image before it is cropped, antialiased.

    ``size`` is the (height, width) in pixels, or the shorter side, and then the ratio of the sides is kept. Each image is
    resized once, and not once for each view. Boxes are in pixels of the resized image. Source: torchvision v2 ``Resize`` with
    ``antialias=True``, in floating point: values are not rounded to gray levels between it and the crop.
    """

    size: int | tuple[int, int]
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    max_size: int | None = None

    def __post_init__(self) -> None:
        size: Any = self.size
        if isinstance(size, (list, tuple)) and len(size) == 1:
            size = size[0]
        if isinstance(size, (list, tuple)):
            require(len(size) == 2, "Resize(size)", "a number of pixels, or (height, width)", self.size)
            size = tuple(size)
        for side in size if isinstance(size, tuple) else (size,):
            require_count(side, "Resize(size)")
        object.__setattr__(self, "size", size)
        require_name(self.interpolation, ("bilinear", "bicubic"), "Resize(interpolation)")
        if self.max_size is not None:
            require_count(self.max_size, "Resize(max_size)")
            if isinstance(size, tuple) or self.max_size <= size:
                fail("Resize(max_size)", "a number larger than size, which must be one number", self.max_size)

    def prepared_size(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) of what an image of this size becomes."""
        if isinstance(self.size, tuple):
            return self.size
        short, long = sorted((height, width))
        new_short, new_long = self.size, int(self.size * long / short)
        if self.max_size is not None and new_long > self.max_size:
            new_short, new_long = int(self.max_size * new_short / new_long), self.max_size
            hint = "a larger max_size, or none, leaves such an image at least one pixel."
            require(new_short > 0, "Resize(max_size)", "images of at least one pixel", f"one of {height} x {width}", hint)
        return (new_short, new_long) if height <= width else (new_long, new_short)

    def prepare(self, image: Tensor) -> Tensor:
        """One image, ``(C, h, w)`` float32 in [0, 1] -> the resized one."""
        height, width = self.prepared_size(image.shape[1], image.shape[2])
        # Bicubic overshoots are clamped after each of the two passes, as Pillow clamps them.
        lines = F.interpolate(image[None], (image.shape[1], width), mode=self.interpolation, antialias=True).clamp(0, 1)
        return F.interpolate(lines, (height, width), mode=self.interpolation, antialias=True).clamp(0, 1)[0]
