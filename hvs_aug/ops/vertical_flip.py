"""RandomVerticalFlip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .kernel import carray, cpu_kernel
from .operation import Draws, Operation, per_image

__all__ = ["RandomVerticalFlip"]


@cpu_kernel
def flip_rows(view: Any, channels: Any, height: Any, width: Any, drawn: Any, fields: Any, scratch: Any) -> None:
    """Reverse the order of the lines."""
    if drawn[0] == 0:
        return
    planes = carray(view, (channels, height, width))
    for channel in range(channels):
        for top in range(height // 2):
            bottom = height - 1 - top
            for column in range(width):
                above, below = planes[channel, top, column], planes[channel, bottom, column]
                planes[channel, top, column], planes[channel, bottom, column] = below, above


@dataclass(frozen=True, repr=False)
class RandomVerticalFlip(Operation):
    """Turn a view upside down with probability ``p``. Source: torchvision v2 ``RandomVerticalFlip``."""

    p: float = 0.5

    needs_unit_range = False
    identity = {"applied": torch.tensor(False, device="cpu")}
    is_geometric = True
    commutes_with_flips = True
    cpu_kernel = flip_rows

    def apply(self, images: Tensor, drawn: Draws, scale: float = 1.0) -> Tensor:
        return torch.where(per_image(drawn["applied"]), images.flip(-2), images)
