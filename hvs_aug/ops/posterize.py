"""RandomPosterize."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._check import require
from .kernel import carray, cpu_kernel
from .operation import Draws, Operation, per_image, require_count
from .triton_kernel import gpu_kernel, tl

__all__ = ["RandomPosterize"]

_ZERO, _ONE = np.float32(0), np.float32(1)


@cpu_kernel
def posterize(view: Any, channels: Any, height: Any, width: Any, drawn: Any, fields: Any, scratch: Any) -> None:
    """Round every value down to one of a few levels."""
    if drawn[0] == 0:
        return
    values = carray(view, (channels * height * width,))
    levels = fields[0]
    for i in range(values.size):
        values[i] = min(max(np.float32(math.floor(values[i] * levels)), _ZERO), levels - _ONE) / levels


@gpu_kernel
def posterize_pixels(
    pixel: tl.tuple, y: tl.tensor, x: tl.tensor, view: tl.tensor, drawn: tl.tuple, fields: tl.tuple, mean: tl.tensor
) -> tl.tuple:
    """As :func:`posterize`."""
    is_posterized = tl.load(drawn[0] + view) != 0
    changed: tl.tuple = ()
    for channel in tl.static_range(len(pixel)):
        value = pixel[channel]
        level = tl.minimum(tl.maximum(tl.floor(value * fields[0]), 0.0), fields[0] - 1)
        changed = changed + (tl.where(is_posterized, level / fields[0], value),)
    return changed


@dataclass(frozen=True, repr=False)
class RandomPosterize(Operation):
    """Keep ``bits`` bits of every value, 0 to 8, with probability ``p``: 2 ** bits levels, rounded down.

    Source: torchvision v2 ``RandomPosterize`` of floating-point images.
    """

    bits: int
    p: float = 0.5

    identity = {"applied": torch.tensor(False, device="cpu")}
    commutes_with_flips = True
    cpu_kernel = posterize
    gpu_kernel = posterize_pixels

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count(self.bits, "RandomPosterize(bits)", 0)
        require(self.bits <= 8, "RandomPosterize(bits)", "a number of bits from 0 to 8", self.bits)

    def apply(self, images: Tensor, drawn: Draws, scale: float = 1.0) -> Tensor:
        levels = 2**self.bits
        posterized = (images * levels).floor().clamp(0, levels - 1) / levels
        return torch.where(per_image(drawn["applied"]), posterized, images)

    def kernel_fields(self, channels: int, size: tuple[int, int], scale: float) -> list[float]:
        return [2.0**self.bits]
