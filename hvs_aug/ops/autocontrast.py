"""RandomAutocontrast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .gray import require_gray_or_rgb
from .kernel import carray, cpu_kernel
from .operation import Draws, Operation, per_image

__all__ = ["RandomAutocontrast"]

_ZERO, _ONE = np.float32(0), np.float32(1)
_FLAT = np.float32(1e-6)  # the values of a channel of one value differ by less, after a resampling has rounded them


@cpu_kernel
def stretch(view: Any, channels: Any, height: Any, width: Any, drawn: Any, fields: Any, scratch: Any) -> None:
    """Stretch each channel to the whole range."""
    if drawn[0] == 0:
        return
    planes = carray(view, (channels, height * width))
    for channel in range(channels):
        plane = planes[channel]
        lowest, highest = plane[0], plane[0]
        for i in range(plane.size):
            lowest = min(lowest, plane[i])
            highest = max(highest, plane[i])
        if highest - lowest > _FLAT:
            factor = _ONE / (highest - lowest)
            for i in range(plane.size):
                plane[i] = min(max((plane[i] - lowest) * factor, _ZERO), _ONE)


@dataclass(frozen=True, repr=False)
class RandomAutocontrast(Operation):
    """Stretch each channel so that its smallest value is 0 and its largest 1, with probability ``p``.

    A channel whose values are all equal (within 1e-6) is not changed. Source: torchvision v2 ``RandomAutocontrast``.
    """

    p: float = 0.5

    identity = {"applied": torch.tensor(False, device="cpu")}
    commutes_with_flips = True
    cpu_kernel = stretch

    def apply(self, images: Tensor, drawn: Draws, scale: float = 1.0) -> Tensor:
        lowest, highest = images.amin((-2, -1), keepdim=True), images.amax((-2, -1), keepdim=True)
        is_flat = highest - lowest <= float(_FLAT)
        stretched = ((images - lowest) / torch.where(is_flat, torch.ones_like(highest), highest - lowest)).clamp(0, 1)
        return torch.where(per_image(drawn["applied"]) & ~is_flat, stretched, images)

    def require_channels(self, channels: int) -> None:
        if self.p > 0:
            require_gray_or_rgb("RandomAutocontrast", channels, "leave it out: recipe.without(RandomAutocontrast).")
