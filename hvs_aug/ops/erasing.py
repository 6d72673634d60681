"""RandomErasing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._check import fail
from .kernel import carray, cpu_kernel
from .operation import Draws, Operation, require_range, to_numbers
from .triton_kernel import device_function, gpu_kernel, tl

__all__ = ["RandomErasing"]

_TRIES = 10  # torchvision RandomErasing.make_params tries ten boxes before it erases nothing.


@cpu_kernel
def erase(view: Any, channels: Any, height: Any, width: Any, drawn: Any, fields: Any, scratch: Any) -> None:
    """Fill a box of each channel with its value."""
    scale = fields[0]
    top, left = max(round(drawn[0] * scale), 0), max(round(drawn[1] * scale), 0)
    bottom, right = min(round((drawn[0] + drawn[2]) * scale), height), min(round((drawn[1] + drawn[3]) * scale), width)
    planes = carray(view, (channels, height, width))
    for channel in range(channels):
        value = fields[1 + channel]
        for y in range(top, bottom):
            for x in range(left, right):
                planes[channel, y, x] = value


@device_function
def _rounded(value: tl.tensor) -> tl.tensor:
    """The nearest whole number, half to even."""
    nearest = tl.floor(value + 0.5)
    is_odd = nearest - 2 * tl.floor(nearest * 0.5) != 0
    return tl.where((nearest - value == 0.5) & is_odd, nearest - 1, nearest)


@gpu_kernel
def erase_pixels(
    pixel: tl.tuple, y: tl.tensor, x: tl.tensor, view: tl.tensor, drawn: tl.tuple, fields: tl.tuple, mean: tl.tensor
) -> tl.tuple:
    """As :func:`erase`."""
    box = drawn[0] + 4 * view
    top = tl.load(box).to(tl.float32)
    left = tl.load(box + 1).to(tl.float32)
    bottom = _rounded((top + tl.load(box + 2).to(tl.float32)) * fields[0])
    right = _rounded((left + tl.load(box + 3).to(tl.float32)) * fields[0])
    top = _rounded(top * fields[0])
    left = _rounded(left * fields[0])
    is_erased = (y >= top) & (y < bottom) & (x >= left) & (x < right)
    changed: tl.tuple = ()
    for channel in tl.static_range(len(pixel)):
        changed = changed + (tl.where(is_erased, fields[1 + channel], pixel[channel]),)
    return changed


@dataclass(frozen=True, repr=False)
class RandomErasing(Operation):
    """Fill a random box of a view with ``value``, with probability ``p``.

    The area of the box is drawn uniformly from ``scale``, as a fraction of the view's area, and its ratio (height / width)
    log-uniformly from ``ratio``. If none of ten draws is smaller than the view, nothing is erased. ``value`` is one number, or
    one for each channel, in the units of the pixels at that place of the recipe. Source: torchvision v2 ``RandomErasing``;
    ``value="random"`` (noise) is not supported.

    Drawn: ``box`` ``(4,)`` int64, (top, left, height, width) in pixels of the recipe's size; all 0 where nothing is erased.
    """

    p: float = 0.5
    scale: tuple[float, float] = (0.02, 0.33)
    ratio: tuple[float, float] = (0.3, 3.3)
    value: float | Sequence[float] = 0.0

    needs_unit_range = False
    identity = {"box": torch.zeros(4, dtype=torch.int64, device="cpu")}
    columns = 2 * _TRIES + 2
    cpu_kernel = erase
    gpu_kernel = erase_pixels

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "scale", require_range(self.scale, "RandomErasing(scale)", 0.0, 1.0))
        object.__setattr__(self, "ratio", require_range(self.ratio, "RandomErasing(ratio)", 0.0, float("inf"), above=True))
        value = (self.value,) if isinstance(self.value, (int, float)) else self.value
        value = to_numbers(value, "RandomErasing(value)", "a number, or one for each channel, all finite")
        object.__setattr__(self, "value", value)

    def draw(self, uniform: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
        height, width = size
        area = height * width * (self.scale[0] + (self.scale[1] - self.scale[0]) * uniform[..., :_TRIES])
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        ratio = torch.exp(low + (high - low) * uniform[..., _TRIES : 2 * _TRIES])
        heights, widths = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
        fits = (heights < height) & (widths < width)
        first = fits.to(torch.uint8).argmax(-1, keepdim=True)
        box_height, box_width = heights.gather(-1, first)[..., 0], widths.gather(-1, first)[..., 0]
        top = (uniform[..., -2] * (height - box_height + 1)).floor()
        left = (uniform[..., -1] * (width - box_width + 1)).floor()
        box = torch.stack([top, left, box_height, box_width], -1)
        return {"box": torch.where(fits.any(-1, keepdim=True), box, torch.zeros((), dtype=box.dtype, device="cpu")).long()}

    def apply(self, images: Tensor, drawn: Draws, scale: float = 1.0) -> Tensor:
        channels, height, width = images.shape[1:]
        top, left, box_height, box_width = (part[:, None] for part in drawn["box"].unbind(-1))
        rows, columns = (torch.arange(side, device=images.device) for side in (height, width))
        is_row = (rows >= (top * scale).round()) & (rows < ((top + box_height) * scale).round())
        is_column = (columns >= (left * scale).round()) & (columns < ((left + box_width) * scale).round())
        value = torch.tensor(self._values(channels), dtype=images.dtype, device="cpu").to(images.device, non_blocking=True)
        return torch.where((is_row[:, :, None] & is_column[:, None])[:, None], value.view(-1, 1, 1), images)

    def require_channels(self, channels: int) -> None:
        assert isinstance(self.value, tuple)
        if len(self.value) not in (1, channels):
            hint = "recipe.replace(RandomErasing, value=...), or recipe.without(RandomErasing)."
            fail("RandomErasing(value)", f"one number, or one for each of {channels} channels", f"{len(self.value)}", hint)

    def kernel_fields(self, channels: int, size: tuple[int, int], scale: float) -> list[float]:
        return [scale, *self._values(channels)]

    def _values(self, channels: int) -> list[float]:
        assert isinstance(self.value, tuple)
        return list(self.value) * (channels if len(self.value) == 1 else 1)

    def _shown(self) -> dict[str, Any]:
        shown = super()._shown()
        return shown | {"value": shown["value"][0] if len(shown["value"]) == 1 else shown["value"]}
