"""RandomInvert."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .kernel import carray, cpu_kernel
from .operation import Draws, Operation, per_image
from .triton_kernel import gpu_kernel, tl

__all__ = ["RandomInvert"]

_ONE = np.float32(1)


@cpu_kernel
def invert(view: Any, channels: Any, height: Any, width: Any, drawn: Any, fields: Any, scratch: Any) -> None:
    """Subtract every value from 1."""
    if drawn[0] == 0:
        return
    values = carray(view, (channels * height * width,))
    for i in range(values.size):
        values[i] = _ONE - values[i]


@gpu_kernel
def invert_pixels(
    pixel: tl.tuple, y: tl.tensor, x: tl.tensor, view: tl.tensor, drawn: tl.tuple, fields: tl.tuple, mean: tl.tensor
) -> tl.tuple:
    """As :func:`invert`."""
    is_inverted = tl.load(drawn[0] + view) != 0
    changed: tl.tuple = ()
    for channel in tl.static_range(len(pixel)):
        value = pixel[channel]
        changed = changed + (tl.where(is_inverted, 1 - value, value),)
    return changed


@dataclass(frozen=True, repr=False)
class RandomInvert(Operation):
    """Subtract every value from 1 with probability ``p``. Source: torchvision v2 ``RandomInvert``."""

    p: float = 0.5

    identity = {"applied": torch.tensor(False, device="cpu")}
    commutes_with_flips = True
    cpu_kernel = invert
    gpu_kernel = invert_pixels

    def apply(self, images: Tensor, drawn: Draws, scale: float = 1.0) -> Tensor:
        return torch.where(per_image(drawn["applied"]), 1 - images, images)
