"""RandomSolarize."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._check import require_fraction
from .kernel import carray, cpu_kernel
from .operation import Draws, Operation, per_image, text
from .triton_kernel import gpu_kernel, tl

__all__ = ["RandomSolarize"]

_ONE = np.float32(1)


@cpu_kernel
def solarize(view: Any, channels: Any, height: Any, width: Any, drawn: Any, fields: Any, scratch: Any) -> None:
    """Invert what reaches the threshold."""
    if drawn[0] == 0:
        return
    values = carray(view, (channels * height * width,))
    threshold = fields[0]
    for i in range(values.size):
        values[i] = _ONE - values[i] if values[i] >= threshold else values[i]


@gpu_kernel
def solarize_pixels(
    pixel: tl.tuple, y: tl.tensor, x: tl.tensor, view: tl.tensor, drawn: tl.tuple, fields: tl.tuple, mean: tl.tensor
) -> tl.tuple:
    """As :func:`solarize`."""
    is_solarized = tl.load(drawn[0] + view) != 0
    changed: tl.tuple = ()
    for channel in tl.static_range(len(pixel)):
        value = pixel[channel]
        changed = changed + (tl.where(is_solarized & (value >= fields[0]), 1 - value, value),)
    return changed


@dataclass(frozen=True, repr=False)
class RandomSolarize(Operation):
    """Invert the values at or above ``threshold``, in [0, 1], with probability ``p``. Source: torchvision v2 ``RandomSolarize``."""

    threshold: float = 0.5
    p: float = 0.5

    identity = {"applied": torch.tensor(False, device="cpu")}
    commutes_with_flips = True
    cpu_kernel = solarize
    gpu_kernel = solarize_pixels

    def __post_init__(self) -> None:
        super().__post_init__()
        require_fraction(self.threshold, "RandomSolarize(threshold)")

    def apply(self, images: Tensor, drawn: Draws, scale: float = 1.0) -> Tensor:
        return torch.where(per_image(drawn["applied"]) & (images >= self.threshold), 1 - images, images)

    def torchvision_name(self) -> str:
        return f"v2.RandomSolarize(threshold={text(self.threshold)}, p={text(self.p)})"  # torchvision's threshold has no default

    def kernel_fields(self, channels: int, size: tuple[int, int], scale: float) -> list[float]:
        return [self.threshold]
