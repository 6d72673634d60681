"""An operation as a user would write it, with a GPU kernel, in one file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hvs_aug import ops
from hvs_aug.ops.triton_kernel import tl


@ops.gpu_kernel
def gamma_pixels(
    pixel: tl.tuple, y: tl.tensor, x: tl.tensor, view: tl.tensor, drawn: tl.tuple, fields: tl.tuple, mean: tl.tensor
) -> tl.tuple:
    """Raise every value to a power."""
    power = tl.load(drawn[0] + view)
    changed: tl.tuple = ()
    for channel in tl.static_range(len(pixel)):
        value = tl.maximum(pixel[channel], 1e-12)
        changed = changed + (tl.exp2(power * tl.log2(value)),)
    return changed


@dataclass(frozen=True)
class Gamma(ops.Operation):
    """Raise every value to a power."""

    identity = {"gamma": torch.tensor(1.0)}
    columns = 1
    gpu_kernel = gamma_pixels

    def draw(self, uniform: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
        return {"gamma": (0.5 + uniform[..., 0]).float()}

    def apply(self, images: Tensor, drawn: Mapping[str, Tensor], scale: float = 1.0) -> Tensor:
        return images ** drawn["gamma"].view(-1, 1, 1, 1)
