"""RandomResizedCrop: one box per view, resized, antialiased. Its definition, and its kernel for the CPU.

What makes the kernel fast: a line of the source is read once, as contiguous bytes, and resampled to the view's width, the channels
of a pixel in one vector; lines wait in a small ring until all that a line of the view needs are there; flips cost nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .._check import fail, require_name
from .kernel import compiled, inlined, inlined_in_order, is_available, numba
from .operation import Operation, require_count, require_range

__all__ = ["RandomResizedCrop", "crop_resize", "crop_view", "line_taps", "most_taps", "unit_of"]

_TRIES = 10  # torchvision RandomResizedCrop.get_params draws ten boxes before it falls back on a central one.
_ZERO, _ONE = np.float32(0), np.float32(1)


@dataclass(frozen=True, repr=False)
class RandomResizedCrop(Operation):
    """Crop a random box and resize it to the view, antialiased.

    The area of the box is drawn uniformly from ``scale``, as a fraction of the image's area, and its ratio (width / height)
    log-uniformly from ``ratio``. A box that does not fit is drawn again, up to ten times; then it is a central box of the
    nearest ratio that ``ratio`` allows. ``size`` may be left out, because the recipe has it.
    Source: torchvision v2 ``RandomResizedCrop`` with ``antialias=True``. Bicubic overshoots are clamped to [0, 1] after each of the
    two passes, the horizontal one first, as in Pillow.

    Raises:
        HVSError: if a field is out of its range.
    """

    size: int | tuple[int, int] | None = None
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    columns = 2 * _TRIES + 2
    is_geometric = True

    def __post_init__(self) -> None:
        if self.size is not None:
            object.__setattr__(self, "size", view_size(self.size, "RandomResizedCrop(size)"))
        for name, highest in (("scale", 1.0), ("ratio", float("inf"))):
            bounds = require_range(getattr(self, name), f"RandomResizedCrop({name})", 0.0, highest, above=True)
            object.__setattr__(self, name, bounds)
        require_name(self.interpolation, ("bilinear", "bicubic"), "RandomResizedCrop(interpolation)")

    def draw_boxes(self, uniform: Tensor, sizes: Tensor) -> Tensor:
        """Draw boxes from torchvision's distribution; halves are rounded to even, as in Python.

        Shape: uniform ``(V, B, columns)`` in [0, 1); sizes ``(B, 2)`` int64 -> ``(V, B, 4)`` int64 (top, left, height, width).
        """
        if not is_available():
            return self.boxes_by_definition(uniform, sizes)
        boxes = torch.empty(*uniform.shape[:2], 4, dtype=torch.int64, device="cpu")
        bounds = np.array([*self.scale, *map(math.log, self.ratio), *self.ratio])
        _compiled_boxes()(uniform.to(torch.float64).contiguous().numpy(), sizes.contiguous().numpy(), bounds, boxes.numpy())
        return boxes

    def boxes_by_definition(self, uniform: Tensor, sizes: Tensor) -> Tensor:
        """As :meth:`draw_boxes`, in plain torch."""
        uniform = uniform.to(torch.float64)
        full = sizes.to(torch.float64)
        shape = uniform.shape[:2]
        height, width = self._sides(uniform[..., 0], uniform[..., _TRIES], full.unbind(-1))
        fits = _fits(height, width, full.unbind(-1))
        misses = (~fits).nonzero(as_tuple=True)
        if len(misses[0]):
            # Few boxes miss, so that only these look at their further draws.
            few = full[misses[1]]
            sides = few[:, 0:1], few[:, 1:2]
            heights, widths = self._sides(uniform[..., 1:_TRIES][misses], uniform[..., _TRIES + 1 : 2 * _TRIES][misses], sides)
            fit = _fits(heights, widths, sides)
            first = fit.to(torch.uint8).argmax(-1, keepdim=True)
            found = fit.any(-1)
            central_height, central_width = self._central(few[:, 0], few[:, 1])
            height[misses] = torch.where(found, heights.gather(-1, first)[:, 0], central_height)
            width[misses] = torch.where(found, widths.gather(-1, first)[:, 0], central_width)
            fits[misses] = found
        rows, columns = full[:, 0] - height, full[:, 1] - width
        top, left = (uniform[..., -2] * (rows + 1)).floor(), (uniform[..., -1] * (columns + 1)).floor()
        if not bool(fits.all()):
            top, left = torch.where(fits, top, (rows / 2).floor()), torch.where(fits, left, (columns / 2).floor())
        return torch.stack([top, left, height, width], dim=-1).to(torch.int64).view(*shape, 4)

    def _sides(self, area: Tensor, ratio: Tensor, full: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        (least, most), (low, high) = self.scale, map(math.log, self.ratio)
        pixels = full[0] * full[1] * (least + (most - least) * area)
        root = torch.exp((low + (high - low) * ratio) * 0.5)
        side = pixels.sqrt()
        return (side / root).round(), (side * root).round()

    def _central(self, height: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
        ratio = width / height
        central_width = torch.where(ratio > self.ratio[1], (height * self.ratio[1]).round(), width)
        central_height = torch.where(ratio < self.ratio[0], (width / self.ratio[0]).round(), height)
        # A picture a few pixels high can ask for a box of no pixels, which torchvision then fails to resize.
        return central_height.clamp(min=1), central_width.clamp(min=1)


def _fill_boxes(uniform: Any, sizes: Any, bounds: Any, boxes: Any) -> None:
    """:meth:`RandomResizedCrop.boxes_by_definition`, one box after the other, which ends with the first draw that fits."""
    least, most, log_low, log_high, low, high = bounds
    for view in range(boxes.shape[0]):
        for image in range(boxes.shape[1]):
            numbers, box = uniform[view, image], boxes[view, image]
            full_height, full_width = float(sizes[image, 0]), float(sizes[image, 1])
            fits = False
            height, width = 0.0, 0.0
            for attempt in range(_TRIES):
                side = math.sqrt(full_height * full_width * (least + (most - least) * numbers[attempt]))
                root = math.exp((log_low + (log_high - log_low) * numbers[_TRIES + attempt]) * 0.5)
                height, width = np.rint(side / root), np.rint(side * root)
                if 0 < width <= full_width and 0 < height <= full_height:
                    fits = True
                    break
            if not fits:
                ratio = full_width / full_height
                width = max(np.rint(full_height * high), 1.0) if ratio > high else full_width
                height = max(np.rint(full_width / low), 1.0) if ratio < low else full_height
            rows, columns = full_height - height, full_width - width
            box[0] = int(math.floor(numbers[2 * _TRIES] * (rows + 1)) if fits else math.floor(rows / 2))
            box[1] = int(math.floor(numbers[2 * _TRIES + 1] * (columns + 1)) if fits else math.floor(columns / 2))
            box[2], box[3] = int(height), int(width)


@cache
def _compiled_boxes() -> Any:
    real, whole = numba.types.float64, numba.types.int64
    shapes = (real, 3), (whole, 2), (real, 1), (whole, 3)
    signature = numba.types.void(*[numba.types.Array(kind, axes, "C") for kind, axes in shapes])
    # Sums in their order, so that the boxes are those of the definition.
    return compiled(lambda cache: numba.njit(signature, nogil=True, cache=cache, error_model="numpy"), _fill_boxes)


def _fits(height: Tensor, width: Tensor, full: Sequence[Tensor]) -> Tensor:
    return (width > 0) & (width <= full[1]) & (height > 0) & (height <= full[0])


def view_size(size: Any, call: str) -> int | tuple[int, int]:
    """Read the size of a view: one number of pixels for a square, or (height, width)."""
    sides = tuple(size) if isinstance(size, (list, tuple)) else (size, size)
    sides = sides * 2 if len(sides) == 1 else sides
    if len(sides) != 2:
        fail(call, "a number of pixels, or (height, width)", size)
    for side in sides:
        require_count(side, call)
    height, width = sides
    return height if height == width else sides


def unit_of(dtype: torch.dtype) -> float:
    """What a value of a dtype is multiplied by to lie in [0, 1]."""
    return {torch.uint8: 1 / 255, torch.uint16: 1 / 65535}.get(dtype, 1.0)


# ---- the definition ----


def most_taps(side: int, size: int, interpolation: str) -> int:
    """How many source pixels at most are read for one pixel where ``side`` pixels become ``size``."""
    reach = 1 if interpolation == "bilinear" else 2
    return min(side, 2 * math.ceil(reach * max(1.0, side / size)) + 1)


def line_taps(length: Tensor, size: int, interpolation: str, taps: int) -> tuple[Tensor, Tensor]:
    """Which pixels of a line, and how much of each, make up the pixels of the resized line.

    The filter is widened by the scale when it shrinks, and cut off at the box's edges. Places are exact: they are fractions over
    2 * size, computed with integers, so that every renderer finds the same.

    Shape: length ``(n,)`` int64, in pixels -> first pixel ``(n, size)`` int64, weights ``(n, size, taps)`` float32 that sum to 1.
    Source: PyTorch aten/src/ATen/native/cpu/UpSampleKernel.cpp, antialiased separable kernels.
    """
    reach = 1 if interpolation == "bilinear" else 2
    length = length[:, None]
    centre = length * (2 * torch.arange(size, device=length.device, dtype=torch.int64) + 1)  # over 2 * size
    wide = length.clamp(min=size)  # the widening, over size
    first = torch.div(centre - 2 * reach * wide + size, 2 * size, rounding_mode="floor").clamp(min=0)
    last = torch.minimum(torch.div(centre + 2 * reach * wide + size, 2 * size, rounding_mode="floor"), length)
    pixel = first[..., None] + torch.arange(taps, device=length.device, dtype=torch.int64)
    distance = (pixel * (2 * size) + size - centre[..., None]).abs().to(torch.float32) / (2 * wide[..., None]).to(torch.float32)
    weights = (1 - distance).clamp(min=0) if interpolation == "bilinear" else _cubic(distance)
    weights = weights * (pixel < last[..., None])
    return first, weights / weights.sum(-1, keepdim=True)


def _cubic(distance: Tensor) -> Tensor:
    """Keys' kernel with -0.5, as in Pillow src/libImaging/Resample.c and torch's antialiased bicubic."""
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = (((distance - 5) * distance + 8) * distance - 4) * -0.5
    return torch.where(distance < 1, near, torch.where(distance < 2, far, torch.zeros_like(far)))


def crop_resize(
    values: Tensor,
    offsets: Tensor,
    rows: Tensor,
    strides: tuple[int, int],
    boxes: Tensor,
    channels: int,
    size: tuple[int, int],
    interpolation: str,
    tallest: int,
    taps: tuple[int, int],
) -> Tensor:
    """The definition: crop boxes from images in flat memory and resize them, the horizontal pass first.

    Shape: values ``(m,)`` of any dtype that an ImageBatch holds; offsets, rows ``(n,)`` int64, where each view's image starts and
        how far its lines are apart; strides, those of a column and of a channel; boxes ``(n, 4)`` int64 (top, left, height,
        width); size (height, width); tallest, the largest height of a box, or more; taps, of the vertical and the horizontal pass,
        :func:`most_taps` of the largest box or more -> ``(n, C, height, width)`` float32 in [0, 1].
    """
    column, channel = strides
    top, left, height, width = boxes.unbind(-1)
    device = values.device
    first, weights = line_taps(width, size[1], interpolation, taps[1])
    line = torch.minimum(torch.arange(tallest, device=device), height[:, None] - 1)  # further lines repeat the last
    start = (offsets + left * column)[:, None] + (top[:, None] + line) * rows[:, None]
    start = start[:, None] + torch.arange(channels, device=device)[:, None] * channel  # (n, C, tallest)
    lines = torch.zeros(*start.shape, size[1], dtype=torch.float32, device=device)
    for tap in range(taps[1]):
        pixel = torch.minimum(first + tap, width[:, None] - 1) * column
        read = values[start[..., None] + pixel[:, None, None]].to(torch.float32)
        lines = lines + weights[:, None, None, :, tap] * read
    lines = lines * unit_of(values.dtype)
    lines = lines.clamp(0, 1) if interpolation == "bicubic" else lines
    first, weights = line_taps(height, size[0], interpolation, taps[0])
    views = torch.zeros(len(boxes), channels, *size, dtype=torch.float32, device=device)
    for tap in range(taps[0]):
        pixel = torch.minimum(first + tap, height[:, None] - 1)[:, None, :, None].expand(-1, channels, -1, size[1])
        views = views + weights[:, None, :, tap, None] * lines.gather(2, pixel)
    return views.clamp(0, 1)  # bilinear weights, too, can sum to a little more than 1


# ---- the kernel for the CPU ----


@inlined
def _fill_taps(length: Any, size: Any, is_cubic: Any, first: Any, count: Any, weights: Any) -> Any:
    """:func:`line_taps` of one line; returns the most taps of any pixel, up to which the others' weights are 0."""
    reach = 2 if is_cubic else 1
    wide = max(length, size)
    most = 0
    # Both ends move by length / size from one pixel to the next: whole pixels and a rest are added, as dividing is slow.
    whole, part = length // size, 2 * (length % size)
    start, end = length - 2 * reach * wide + size, length + 2 * reach * wide + size
    next_low, low_rest = start // (2 * size), start % (2 * size)
    next_high, high_rest = end // (2 * size), end % (2 * size)
    for i in range(size):
        centre = length * (2 * i + 1)
        low, high = max(next_low, 0), min(next_high, length)
        next_low, low_rest = next_low + whole, low_rest + part
        next_high, high_rest = next_high + whole, high_rest + part
        if low_rest >= 2 * size:
            next_low, low_rest = next_low + 1, low_rest - 2 * size
        if high_rest >= 2 * size:
            next_high, high_rest = next_high + 1, high_rest - 2 * size
        total = _ZERO
        for k in range(high - low):
            distance = np.float32(abs((low + k) * 2 * size + size - centre)) / np.float32(2 * wide)
            weight = max(_ONE - distance, _ZERO)
            if is_cubic:
                weight = _ZERO
                if distance < 1:
                    weight = (np.float32(1.5) * distance - np.float32(2.5)) * distance * distance + _ONE
                elif distance < 2:
                    weight = ((distance - np.float32(5)) * distance + np.float32(8)) * distance - np.float32(4)
                    weight *= np.float32(-0.5)
            weights[i, k] = weight
            total += weight
        for k in range(high - low):
            weights[i, k] /= total
        first[i] = low
        count[i] = high - low
        most = max(most, high - low)
    for i in range(size):
        for k in range(count[i], most):
            weights[i, k] = _ZERO
    return most


@inlined
def _read_line(values: Any, start: Any, column: Any, channel: Any, channels: Any, width: Any, unit: Any, line: Any) -> None:
    """Copy a line of the source to float32, pixel by pixel, into ``line``."""
    if channel == 1 and column == channels:
        source = values[start : start + width * channels]
        for i in range(width * channels):
            line[i] = np.float32(source[i]) * unit
    else:
        for c in range(channels):
            for x in range(width):
                line[x * channels + c] = np.float32(values[start + c * channel + x * column]) * unit


@inlined_in_order
def _resample_line(line: Any, first: Any, taps: Any, weights: Any, channels: Any, width: Any, out: Any) -> None:
    """Resample a line of pixels, each from the same number of taps, so that no branch is mispredicted.

    Three channels are summed as four, in one vector; the fourth is the first of the next pixel, and nobody reads its sum.
    """
    if channels == 3:
        for x in range(width):
            pixels = line[3 * first[x] : 3 * (first[x] + taps) + 1]
            weight = weights[x]
            red, green, blue, rest = _ZERO, _ZERO, _ZERO, _ZERO
            for k in range(taps):
                tap = weight[k]
                red += tap * pixels[3 * k]
                green += tap * pixels[3 * k + 1]
                blue += tap * pixels[3 * k + 2]
                rest += tap * pixels[3 * k + 3]
            out[4 * x] = red
            out[4 * x + 1] = green
            out[4 * x + 2] = blue
            out[4 * x + 3] = rest
    else:
        for x in range(width):
            for c in range(channels):
                total = _ZERO
                for k in range(taps):
                    total += weights[x, k] * line[(first[x] + k) * channels + c]
                out[x * channels + c] = total


@inlined
def _clamp(values: Any) -> None:
    for i in range(values.size):
        values[i] = min(max(values[i], _ZERO), _ONE)


@inlined
def crop_view(
    values: Any,
    offset: Any,
    strides: Any,
    box: Any,
    mirrored: Any,
    is_cubic: Any,
    unit: Any,
    view: Any,
    places: Any,
    weights: Any,
    line: Any,
    ring: Any,
    total: Any,
) -> None:
    """Crop, resize and mirror one view.

    values, flat; strides (row, column, channel) in elements; box (top, left, height, width); mirrored (columns, rows); view
    ``(C, h, w)``. Memory: places ``(4, side)`` int64; weights ``(2, side, taps)``; line, a source line and ``taps`` pixels and
    one value more, finite; ring ``(taps, w * pitch)``; total ``(w * pitch,)``, where pitch is the number of channels, 4 for 3.
    """
    channels, height, width = view.shape
    pitch = 4 if channels == 3 else channels
    row, column, channel = strides
    top, left, box_height, box_width = box[0], box[1], box[2], box[3]
    wide_taps = _fill_taps(box_width, width, is_cubic, places[0], places[1], weights[0])
    _fill_taps(box_height, height, is_cubic, places[2], places[3], weights[1])
    start = offset + top * row + left * column
    done = 0
    slots = ring.shape[0]
    for y in range(height):
        first, taps = places[2, y], places[3, y]
        while done < first + taps:
            kept = ring[done % slots]
            _read_line(values, start + done * row, column, channel, channels, box_width, unit, line)
            _resample_line(line, places[0], wide_taps, weights[0], channels, width, kept)
            if is_cubic:
                _clamp(kept)
            done += 1
        tap = weights[1, y, 0]
        kept = ring[first % slots]
        for i in range(width * pitch):
            total[i] = tap * kept[i]
        k = 1
        while k + 1 < taps:
            tap, next_tap = weights[1, y, k], weights[1, y, k + 1]
            kept, following = ring[(first + k) % slots], ring[(first + k + 1) % slots]
            for i in range(width * pitch):
                total[i] += tap * kept[i] + next_tap * following[i]
            k += 2
        if k < taps:
            tap = weights[1, y, k]
            kept = ring[(first + k) % slots]
            for i in range(width * pitch):
                total[i] += tap * kept[i]
        _clamp(total)
        place = height - 1 - y if mirrored[1] else y
        for c in range(channels):
            target = view[c, place]
            if mirrored[0]:
                for x in range(width):
                    target[width - 1 - x] = total[x * pitch + c]
            else:
                for x in range(width):
                    target[x] = total[x * pitch + c]
