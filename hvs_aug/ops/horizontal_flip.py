"""RandomHorizontalFlip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .kernel import carray, cpu_kernel
from .operation import Draws, Operation, per_image

__all__ = ["RandomHorizontalFlip"]


@cpu_kernel
def flip_columns(view: Any, channels: Any, height: Any, width: Any, drawn: Any, fields: Any, scratch: Any) -> None:
    """Reverse every line."""
    if drawn[0] == 0:
        return
    lines = carray(view, (channels * height, width))
    for line in range(channels * height):
        for left in range(width // 2):
            right = width - 1 - left
            lines[line, left], lines[line, right] = lines[line, right], lines[line, left]


@dataclass(frozen=True, repr=False)
class RandomHorizontalFlip(Operation):
    """Mirror a view left to right with probability ``p``. Source: torchvision v2 ``RandomHorizontalFlip``."""

    p: float = 0.5

    needs_unit_range = False
    identity = {"applied": torch.tensor(False, device="cpu")}
    is_geometric = True
    commutes_with_flips = True
    cpu_kernel = flip_columns

    def apply(self, images: Tensor, drawn: Draws, scale: float = 1.0) -> Tensor:
        return torch.where(per_image(drawn["applied"]), images.flip(-1), images)
