"""RandomRotation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from .._check import fail, require_name
from .operation import Draws, Operation, per_image, require_range, to_numbers

__all__ = ["RandomRotation"]


@dataclass(frozen=True, repr=False)
class RandomRotation(Operation):
    """Turn a view around its centre by a random angle, with probability ``p``.

    ``degrees`` is a range, or a number d for (-d, d), counter-clockwise; ``fill`` is the value outside the view, one number or
    one for each channel. Source: torchvision v2 ``RandomRotation`` with ``expand=False`` and ``center=None``.

    Drawn: ``degrees`` float32.
    """

    degrees: float | tuple[float, float]
    interpolation: Literal["nearest", "bilinear"] = "nearest"
    fill: float | Sequence[float] = 0.0
    p: float = 1.0

    needs_unit_range = False
    identity = {"degrees": torch.tensor(0.0, dtype=torch.float32, device="cpu")}
    columns = 1
    is_geometric = True
    torchvision_has_p = False

    def __post_init__(self) -> None:
        super().__post_init__()
        degrees = self.degrees
        if isinstance(degrees, (int, float)):
            degrees = (-degrees, degrees)
        bounds = require_range(degrees, "RandomRotation(degrees)", -float("inf"), float("inf"))
        object.__setattr__(self, "degrees", bounds)
        require_name(self.interpolation, ("nearest", "bilinear"), "RandomRotation(interpolation)")
        fill = (self.fill,) if isinstance(self.fill, (int, float)) else self.fill
        fill = to_numbers(fill, "RandomRotation(fill)", "a number, or one for each channel, all finite")
        object.__setattr__(self, "fill", fill)

    def draw(self, uniform: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
        assert isinstance(self.degrees, tuple)
        low, high = self.degrees
        return {"degrees": (low + (high - low) * uniform[..., 0]).float()}

    def apply(self, images: Tensor, drawn: Draws, scale: float = 1.0) -> Tensor:
        if len(images) == 0:
            return images.clone()  # affine_grid refuses a batch of no images
        height, width = images.shape[-2:]
        angle = torch.deg2rad(drawn["degrees"])
        cosine, sine = torch.cos(angle), torch.sin(angle)
        zero = torch.zeros_like(angle)
        # In the unit square, x of the source is (cos x - sin y h / w), and y is (sin x w / h + cos y).
        theta = torch.stack(
            [torch.stack([cosine, -sine * height / width, zero], -1), torch.stack([sine * width / height, cosine, zero], -1)], -2
        )
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        ones = torch.ones_like(images[:, :1])
        sampled = F.grid_sample(torch.cat([images, ones], 1), grid, mode=self.interpolation, align_corners=False)
        inside = sampled[:, -1:]
        assert isinstance(self.fill, tuple)
        fill = torch.tensor(self.fill, dtype=images.dtype, device="cpu").to(images.device, non_blocking=True).view(-1, 1, 1)
        if self.interpolation == "nearest":
            rotated = torch.where(inside < 0.5, fill, sampled[:, :-1])
        else:
            # What is sampled fades to 0 at the edges; torchvision blends that with the fill, and so fades twice.
            rotated = (sampled[:, :-1] - fill) * inside + fill
        return torch.where(per_image(drawn["degrees"] == 0), images, rotated)

    def require_channels(self, channels: int) -> None:
        assert isinstance(self.fill, tuple)
        if len(self.fill) not in (1, channels):
            hint = "recipe.replace(RandomRotation, fill=...), or recipe.without(RandomRotation)."
            fail("RandomRotation(fill)", f"one number, or one for each of {channels} channels", f"{len(self.fill)}", hint)

    def _shown(self) -> dict[str, Any]:
        shown = super()._shown()
        low, high = shown["degrees"]
        fill = shown["fill"]
        return shown | {"degrees": high if low == -high else (low, high), "fill": fill[0] if len(fill) == 1 else fill}
