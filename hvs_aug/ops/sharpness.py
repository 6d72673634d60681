"""RandomAdjustSharpness."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._check import require
from .gray import require_gray_or_rgb
from .kernel import carray, cpu_kernel
from .operation import Draws, Operation, is_number, per_image

__all__ = ["RandomAdjustSharpness"]

_ZERO, _ONE = np.float32(0), np.float32(1)
_EDGE, _CENTRE = np.float32(1 / 13), np.float32(5 / 13)


@cpu_kernel
def sharpen(view: Any, channels: Any, height: Any, width: Any, drawn: Any, fields: Any, scratch: Any) -> None:
    """Blend each inner pixel with the weighted mean of its 3 x 3 neighbours, read from a copy."""
    if drawn[0] == 0 or height <= 2 or width <= 2:
        return
    factor = fields[0]
    planes = carray(view, (channels, height, width))
    plane_copy = carray(scratch, (height, width))
    for channel in range(channels):
        plane = planes[channel]
        for y in range(height):
            for x in range(width):
                plane_copy[y, x] = plane[y, x]
                plane[y, x] = min(max(plane[y, x], _ZERO), _ONE)
        for y in range(1, height - 1):
            above, line, below = plane_copy[y - 1], plane_copy[y], plane_copy[y + 1]
            for x in range(1, width - 1):
                around = above[x - 1] + above[x] + above[x + 1] + line[x - 1] + line[x + 1]
                around += below[x - 1] + below[x] + below[x + 1]
                mean = _EDGE * around + _CENTRE * line[x]
                plane[y, x] = min(max(mean + factor * (line[x] - mean), _ZERO), _ONE)


@dataclass(frozen=True, repr=False)
class RandomAdjustSharpness(Operation):
    """Blend a view with its smoothed version by ``sharpness_factor``, at least 0, with probability ``p``.

    0 smooths, 1 changes nothing, 2 doubles the sharpness. The outermost pixels are not changed. At a smaller scale the
    smoothing still covers 3 x 3 pixels. Source: torchvision v2 ``RandomAdjustSharpness``.
    """

    sharpness_factor: float
    p: float = 0.5

    identity = {"applied": torch.tensor(False, device="cpu")}
    commutes_with_flips = True
    cpu_kernel = sharpen

    def __post_init__(self) -> None:
        super().__post_init__()
        factor = self.sharpness_factor
        is_valid = is_number(factor) and factor >= 0
        require(is_valid, "RandomAdjustSharpness(sharpness_factor)", "a number of at least 0", factor)

    def apply(self, images: Tensor, drawn: Draws, scale: float = 1.0) -> Tensor:
        height, width = images.shape[-2:]
        if height <= 2 or width <= 2:
            return images.clone()
        around = torch.zeros_like(images[..., 1:-1, 1:-1])
        for y in range(3):
            for x in range(3):
                weight = float(_CENTRE if y == x == 1 else _EDGE)
                around = around + weight * images[..., y : height - 2 + y, x : width - 2 + x]
        sharpened = images.clone()
        sharpened[..., 1:-1, 1:-1] = around + self.sharpness_factor * (images[..., 1:-1, 1:-1] - around)
        return torch.where(per_image(drawn["applied"]), sharpened.clamp(0, 1), images)

    def require_channels(self, channels: int) -> None:
        if self.p > 0:
            require_gray_or_rgb("RandomAdjustSharpness", channels, "leave it out: recipe.without(RandomAdjustSharpness).")

    def kernel_fields(self, channels: int, size: tuple[int, int], scale: float) -> list[float]:
        return [self.sharpness_factor]

    def kernel_scratch(self, channels: int, size: tuple[int, int]) -> int:
        return size[0] * size[1]
