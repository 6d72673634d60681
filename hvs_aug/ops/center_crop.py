"""CenterCrop, before the crop."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .._check import fail, require
from .operation import Operation, require_count

__all__ = ["CenterCrop"]


@dataclass(frozen=True, repr=False)
class CenterCrop(Operation):
    """Keep the middle of every image before the random crop; boxes are in pixels of this middle part.

    ``size`` is the (height, width) in pixels, or one number for both. Source: torchvision v2 ``CenterCrop``. torchvision pads
    an image that is smaller; here it is refused.
    """

    size: int | tuple[int, int]

    def __post_init__(self) -> None:
        size = tuple(self.size) if isinstance(self.size, (list, tuple)) else (self.size, self.size)
        size = size * 2 if len(size) == 1 else size
        require(len(size) == 2, "CenterCrop(size)", "a number of pixels, or (height, width)", self.size)
        for side in size:
            require_count(side, "CenterCrop(size)")
        object.__setattr__(self, "size", size[0] if size[0] == size[1] else size)

    def prepared_size(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) of what is kept of an image of this size."""
        rows, columns = self.size if isinstance(self.size, tuple) else (self.size, self.size)
        if height < rows or width < columns:
            hint = "put a Resize before it, or leave it out: recipe.without(CenterCrop)."
            fail("CenterCrop(size)", f"images of at least {rows} x {columns} pixels", f"one of {height} x {width}", hint)
        return rows, columns

    def prepare(self, image: Tensor) -> Tensor:
        """One image, ``(C, h, w)`` -> its middle."""
        rows, columns = self.prepared_size(image.shape[1], image.shape[2])
        # torchvision rounds half to even: int(round((height - rows) / 2.0)).
        top, left = round((image.shape[1] - rows) / 2.0), round((image.shape[2] - columns) / 2.0)
        return image[:, top : top + rows, left : left + columns]
