"""What a renderer does for one slot: the crop, and the operations after it in their order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .crop import RandomResizedCrop
from .horizontal_flip import RandomHorizontalFlip
from .operation import Draws, Operation
from .vertical_flip import RandomVerticalFlip

__all__ = ["RenderPlan"]


@dataclass(frozen=True)
class RenderPlan:
    """The steps of a recipe at one size.

    Attributes:
        size: (height, width) of the views in pixels.
        scale: their side over that of the recipe.
        interpolation: of the crop.
        steps: the operations after the crop, each with the name of its parameters. Flips that the crop does are not among them.
        flips: for columns and for rows, the names of the flips that are part of the crop.
    """

    size: tuple[int, int]
    scale: float
    interpolation: str
    steps: tuple[tuple[str, Operation], ...]
    flips: tuple[tuple[str, ...], tuple[str, ...]]

    @staticmethod
    def of(crop: RandomResizedCrop, steps: Sequence[tuple[str, Operation]], size: tuple[int, int], scale: float) -> RenderPlan:
        """Take the flips before the first operation that does not commute with them into the crop."""
        flips: tuple[list[str], list[str]] = ([], [])
        kept: list[tuple[str, Operation]] = []
        commutes = True
        for name, operation in steps:
            commutes = commutes and operation.commutes_with_flips
            if commutes and isinstance(operation, (RandomHorizontalFlip, RandomVerticalFlip)):
                flips[isinstance(operation, RandomVerticalFlip)].append(name)
            else:
                kept.append((name, operation))
        return RenderPlan(size, scale, crop.interpolation, tuple(kept), (tuple(flips[0]), tuple(flips[1])))

    def apply(self, step: tuple[str, Operation], images: Tensor, drawn: Draws) -> Tensor:
        """Run one of the steps by its definition: images ``(n, C, h, w)``; drawn, each ``(n, ...)``.

        An operation without a kernel, a user's own, is promised values in [0, 1]. Crops and blurs leave it by a rounding error, of
        which a power makes NaN; so its input is clamped.
        """
        operation = step[1]
        if operation.cpu_kernel is None and operation.needs_unit_range:
            images = images.clamp(0, 1)
        return operation.apply(images, drawn, self.scale)

    def mirrored(self, drawn: Mapping[str, Draws], count: int, device: Any = "cpu") -> Tensor:
        """Whether each view's columns and rows are reversed: drawn, each ``(n, ...)`` -> ``(n, 2)`` bool."""
        columns = []
        for names in self.flips:
            reversed_ = torch.zeros(count, dtype=torch.bool, device=device)
            for name in names:
                reversed_ = reversed_ ^ drawn[name]["applied"]
            columns.append(reversed_)
        return torch.stack(columns, -1)
