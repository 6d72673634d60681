"""RandomEqualize."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .gray import require_gray_or_rgb
from .kernel import carray, cpu_kernel, inlined
from .operation import Draws, Operation, per_image

__all__ = ["RandomEqualize"]

# torchvision's conversion of [0, 1] to uint8 (v2 ``to_dtype`` with scale=True): the largest value that truncates to 255.
_LEVELS = np.float32(255 + 1 - 1e-3)
_UNIT = np.float32(1 / 255)


@inlined
def _level(value: Any) -> Any:
    level = value * _LEVELS
    if level >= 255:
        return 255
    return int(level) if level > 0 else 0  # of NaN, too


@cpu_kernel
def equalize(view: Any, channels: Any, height: Any, width: Any, drawn: Any, fields: Any, scratch: Any) -> None:
    """Map the gray levels of each channel by their cumulative histogram."""
    if drawn[0] == 0:
        return
    area = height * width
    planes = carray(view, (channels, area))
    counts = carray(scratch, (256,))
    for channel in range(channels):
        plane = planes[channel]
        for level in range(256):
            counts[level] = 0
        for i in range(area):
            counts[_level(plane[i])] += 1
        last = 255
        while counts[last] == 0:
            last -= 1
        step = (area - int(counts[last])) // 255
        if step == 0:
            # torchvision keeps such a channel, at whole gray levels.
            for i in range(area):
                plane[i] = np.float32(_level(plane[i])) * _UNIT
            continue
        below = step // 2
        for level in range(256):
            count = int(counts[level])
            counts[level] = np.float32(min(below // step, 255)) * _UNIT
            below += count
        for i in range(area):
            plane[i] = counts[_level(plane[i])]


@dataclass(frozen=True, repr=False)
class RandomEqualize(Operation):
    """Equalize the histogram of each channel over 256 gray levels, with probability ``p``.

    Source: torchvision v2 ``RandomEqualize``, which converts to uint8 and back.
    """

    p: float = 0.5

    identity = {"applied": torch.tensor(False, device="cpu")}
    commutes_with_flips = True
    cpu_kernel = equalize

    def apply(self, images: Tensor, drawn: Draws, scale: float = 1.0) -> Tensor:
        count, channels, height, width = images.shape
        levels = (images * float(_LEVELS)).nan_to_num(0).clamp(0, 255).to(torch.int64).flatten(2)
        histogram = torch.zeros(count, channels, 256, dtype=torch.int64, device=images.device)
        histogram = histogram.scatter_add(-1, levels, torch.ones_like(levels))
        last = 255 - histogram.flip(-1).ne(0).to(torch.uint8).argmax(-1, keepdim=True)
        step = (height * width - histogram.gather(-1, last)) // 255
        below = histogram.cumsum(-1) - histogram + step // 2
        table = torch.where(step > 0, (below // step.clamp(min=1)).clamp(0, 255), torch.arange(256, device=images.device))
        equalized = (table.gather(-1, levels).to(torch.float32) * float(_UNIT)).view_as(images)
        return torch.where(per_image(drawn["applied"]), equalized, images)

    def require_channels(self, channels: int) -> None:
        if self.p > 0:
            require_gray_or_rgb("RandomEqualize", channels, "leave it out: recipe.without(RandomEqualize).")

    def kernel_scratch(self, channels: int, size: tuple[int, int]) -> int:
        return 256
