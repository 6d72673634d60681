"""ColorJitter: brightness, contrast, saturation and hue, in an order of its own for every view."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .gray import gray_of, gray_of_pixel, luminance, require_gray_or_rgb
from .kernel import carray, cpu_kernel, inlined
from .operation import Draws, Operation, per_image, to_range
from .triton_kernel import device_function, gpu_kernel, tl, unit_value

__all__ = ["BRIGHTNESS", "CONTRAST", "HUE", "SATURATION", "ColorJitter", "shift_hue"]

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
"""The columns of ``factors``; torchvision's ``ColorJitter`` numbers them alike."""

_ORDERS = torch.tensor(list(itertools.permutations(range(4))), dtype=torch.int64, device="cpu")
_SUMMED = 1024
_ZERO, _ONE, _TWO, _THREE, _SIX = (np.float32(number) for number in (0, 1, 2, 3, 6))


def shift_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue of RGB images, without a detour through HSV.

    Shape: images ``(n, 3, h, w)`` in [0, 1]; shift ``(n, 1, 1, 1)``, in turns within [-0.5, 0.5] -> as images.

    With M and m the largest and smallest channel and d = M - m, the hue's distance from red on a circle of circumference 6 d is
    a = g + b - r + d - m, on the green side where g >= b. The shifted hue H gives every channel as m + clamp(||H - c| - 3 d| - d,
    0, d) with c its own place on the circle (0, 2 d, 4 d): the trapezoids of the HSV hexagon, multiplied by d, so that nothing
    is divided and gray needs no case of its own.

    Source: torchvision v2 ``adjust_hue``, to which it is equal within rounding.
    """
    red, green, blue = images.unbind(-3)
    highest = torch.maximum(torch.maximum(red, green), blue)
    lowest = torch.minimum(torch.minimum(red, green), blue)
    chroma = highest - lowest
    hue = torch.copysign(green + blue - red + chroma - lowest, green - blue) + 6 * shift.squeeze(-3) * chroma
    # |hue| can reach 6 d, and 8 d from a channel's place, so bring the distance back onto the circle.
    channels = []
    for place in (0.0, 2.0, -2.0):
        distance = (hue - place * chroma).abs()
        distance = torch.minimum(distance, (6 * chroma - distance).abs())
        channels.append(lowest + torch.minimum((2 * chroma - distance).clamp(min=0), chroma))
    return torch.stack(channels, dim=-3)


@inlined
def _unit(value: Any) -> Any:
    return min(max(value, _ZERO), _ONE)


@inlined
def _on_circle(distance: Any, chroma: Any, lowest: Any) -> Any:
    distance = abs(distance)
    distance = min(distance, abs(_SIX * chroma - distance))
    return lowest + min(max(_TWO * chroma - distance, _ZERO), chroma)


@inlined
def _blend(values: Any, factor: Any, other: Any) -> None:
    for i in range(values.size):
        values[i] = _unit(values[i] * factor + other)


@inlined
def _mean_gray(values: Any, channels: Any, area: Any) -> Any:
    total = 0.0
    for start in range(0, area, _SUMMED):  # float32 loses digits where it sums more values than these
        stop = min(start + _SUMMED, area)
        part = _ZERO
        if channels == 3:
            red, green, blue = values[:area], values[area : 2 * area], values[2 * area : 3 * area]
            for i in range(start, stop):
                part += gray_of(red[i], green[i], blue[i])
        else:
            for i in range(start, stop):
                part += values[i]
        total += part
    return np.float32(total / area)


@inlined
def _saturate(values: Any, area: Any, factor: Any) -> None:
    red, green, blue = values[:area], values[area : 2 * area], values[2 * area : 3 * area]
    rest = _ONE - factor
    for i in range(area):
        gray = rest * gray_of(red[i], green[i], blue[i])
        red[i] = _unit(factor * red[i] + gray)
        green[i] = _unit(factor * green[i] + gray)
        blue[i] = _unit(factor * blue[i] + gray)


@inlined
def _turn_hue(values: Any, area: Any, shift: Any) -> None:
    red, green, blue = values[:area], values[area : 2 * area], values[2 * area : 3 * area]
    for i in range(area):
        r, g, b = red[i], green[i], blue[i]
        lowest = min(min(r, g), b)
        chroma = max(max(r, g), b) - lowest
        arc = g + b - r + chroma - lowest
        hue = (arc if g >= b else -arc) + _SIX * shift * chroma
        red[i] = _on_circle(hue, chroma, lowest)
        green[i] = _on_circle(hue - _TWO * chroma, chroma, lowest)
        blue[i] = _on_circle(hue + _TWO * chroma, chroma, lowest)


@cpu_kernel
def jitter(view: Any, channels: Any, height: Any, width: Any, drawn: Any, fields: Any, scratch: Any) -> None:
    """Apply the four factors in their order, skipping those that change nothing."""
    area = height * width
    values = carray(view, (channels * area,))
    for step in range(4):
        which = int(drawn[4 + step])
        factor = drawn[which]
        if which == 3:
            if factor != 0 and channels == 3:
                _turn_hue(values, area, factor)
        elif factor != 1:
            if which == 0:
                _blend(values, factor, _ZERO)
            elif which == 1:
                _blend(values, factor, (_ONE - factor) * _mean_gray(values, channels, area))
            elif channels == 3:
                _saturate(values, area, factor)


@device_function
def _hue_on_circle(distance: tl.tensor, chroma: tl.tensor, lowest: tl.tensor) -> tl.tensor:
    distance = tl.abs(distance)
    distance = tl.minimum(distance, tl.abs(6 * chroma - distance))
    return lowest + tl.minimum(tl.maximum(2 * chroma - distance, 0.0), chroma)


@device_function
def _jitter_step(
    red: tl.tensor, green: tl.tensor, blue: tl.tensor, which: tl.tensor, factor: tl.tensor, mean: tl.tensor
) -> tl.tuple:
    """Apply one of the four to RGB values: a blend with black, the mean gray value or the gray values, or a turn of the hue."""
    if which == 3:
        if factor != 0:
            lowest = tl.minimum(tl.minimum(red, green), blue)
            chroma = tl.maximum(tl.maximum(red, green), blue) - lowest
            arc = green + blue - red + chroma - lowest
            hue = tl.where(green >= blue, arc, -arc) + 6 * factor * chroma
            red = _hue_on_circle(hue, chroma, lowest)
            green = _hue_on_circle(hue - 2 * chroma, chroma, lowest)
            blue = _hue_on_circle(hue + 2 * chroma, chroma, lowest)
    elif factor != 1:
        other = tl.where(which == 0, 0.0, tl.where(which == 1, mean, gray_of_pixel(red, green, blue))) * (1 - factor)
        red = unit_value(factor * red + other)
        green = unit_value(factor * green + other)
        blue = unit_value(factor * blue + other)
    return red, green, blue


@device_function
def _gray_before_contrast(pixel: tl.tuple, view: tl.tensor, drawn: tl.tuple, fields: tl.tuple) -> tl.tensor:
    """The gray values of which contrast needs the mean: after what comes before it in the view's order."""
    gray = pixel[0]
    is_before = True
    if len(pixel) == 3:
        red, green, blue = pixel
        for step in range(4):
            which = tl.load(drawn[1] + 4 * view + step)
            is_before = is_before & (which != 1)
            if is_before:
                red, green, blue = _jitter_step(red, green, blue, which, tl.load(drawn[0] + 4 * view + which), 0.0)
        gray = gray_of_pixel(red, green, blue)
    else:
        for step in range(4):
            which = tl.load(drawn[1] + 4 * view + step)
            is_before = is_before & (which != 1)
            if is_before & (which == 0):
                gray = unit_value(gray * tl.load(drawn[0] + 4 * view))
    return gray


@gpu_kernel(mean_of=_gray_before_contrast)
def jitter_pixels(
    pixel: tl.tuple, y: tl.tensor, x: tl.tensor, view: tl.tensor, drawn: tl.tuple, fields: tl.tuple, mean: tl.tensor
) -> tl.tuple:
    """As :func:`jitter`."""
    if len(pixel) == 3:
        red, green, blue = pixel
        for step in range(4):
            which = tl.load(drawn[1] + 4 * view + step)
            red, green, blue = _jitter_step(red, green, blue, which, tl.load(drawn[0] + 4 * view + which), mean)
        changed = red, green, blue
    else:
        changed = pixel
        for step in range(4):
            which = tl.load(drawn[1] + 4 * view + step)
            factor = tl.load(drawn[0] + 4 * view + which)
            if (which <= 1) & (factor != 1):
                other = tl.where(which == 1, mean * (1 - factor), 0.0)
                blended: tl.tuple = ()
                for channel in tl.static_range(len(pixel)):
                    blended = blended + (unit_value(changed[channel] * factor + other),)
                changed = blended
    return changed


@dataclass(frozen=True, repr=False)
class ColorJitter(Operation):
    """Change brightness, contrast, saturation and hue by random factors, in a random order.

    Each argument is a strength s, which means a factor drawn uniformly from [max(0, 1 - s), 1 + s], or a pair that is the range
    itself. For the hue it is a strength in [0, 0.5], or a range within [-0.5, 0.5], in turns of the hue circle. Brightness
    blends with black, contrast with the mean gray value, saturation with the gray values; values are clamped to [0, 1] after
    each. Saturation and hue do not change images of one channel, as in torchvision. Source: torchvision v2 ``ColorJitter``.

    Drawn: ``factors`` ``(4,)`` float32, brightness, contrast, saturation (identity 1), hue in turns (identity 0); ``order``
    ``(4,)`` int64, ``order[i]`` the column of ``factors`` that is applied i-th.

    Raises:
        HVSError: if a range is out of bounds, or the images have a number of channels for which torchvision does not define it.
    """

    brightness: float | tuple[float, float] = 0.0
    contrast: float | tuple[float, float] = 0.0
    saturation: float | tuple[float, float] = 0.0
    hue: float | tuple[float, float] = 0.0
    p: float = 1.0

    identity = {
        "factors": torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float32, device="cpu"),
        "order": torch.arange(4, dtype=torch.int64, device="cpu"),
    }
    columns = 5
    commutes_with_flips = True
    cpu_kernel = jitter
    gpu_kernel = jitter_pixels
    torchvision_has_p = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("brightness", "contrast", "saturation"):
            bounds = to_range(getattr(self, name), f"ColorJitter({name})", 1.0, 0.0, float("inf"))
            object.__setattr__(self, name, bounds)
        object.__setattr__(self, "hue", to_range(self.hue, "ColorJitter(hue)", 0.0, -0.5, 0.5))

    def draw(self, uniform: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
        bounds = torch.tensor([self.brightness, self.contrast, self.saturation, self.hue], dtype=uniform.dtype, device="cpu")
        low, high = bounds.unbind(-1)
        order = (uniform[..., 4] * len(_ORDERS)).long()
        return {"factors": (low + (high - low) * uniform[..., :4]).float(), "order": _ORDERS[order]}

    def apply(self, images: Tensor, drawn: Draws, scale: float = 1.0) -> Tensor:
        factors, order = drawn["factors"], drawn["order"]
        for step in range(4):
            column = order[:, step]
            factor = per_image(factors.gather(1, column[:, None]))
            column = per_image(column)
            gray = luminance(images)
            mean = gray.mean(dim=(-3, -2, -1), keepdim=True)
            other = torch.where(column == CONTRAST, mean, gray) * (column != BRIGHTNESS)
            changed = (factor * images + (1 - factor) * other).clamp(0, 1)
            if images.shape[-3] == 3:
                changed = torch.where(column == HUE, shift_hue(images, factor), changed)
            else:
                changed = torch.where(column >= SATURATION, images, changed)
            images = torch.where(factor == (column != HUE), images, changed)
        return images

    def require_channels(self, channels: int) -> None:
        if self.p == 0 or channels in (1, 3):
            return
        drawn = [name for name in ("contrast", "saturation") if getattr(self, name) != (1.0, 1.0)]
        drawn += ["hue"] if self.hue != (0.0, 0.0) else []
        if drawn:
            zeros = ", ".join(f"{name}=0" for name in drawn)
            hint = f"leave that out: recipe.replace(ColorJitter, {zeros}), or recipe.without(ColorJitter)."
            require_gray_or_rgb(f"ColorJitter({', '.join(drawn)})", channels, hint)

    def _shown(self) -> dict[str, Any]:
        """Ranges around the identity as strengths."""
        shown = super()._shown()
        for name, centre, lowest in (
            ("brightness", 1.0, 0.0),
            ("contrast", 1.0, 0.0),
            ("saturation", 1.0, 0.0),
            ("hue", 0.0, -0.5),
        ):
            high = shown[name][1]
            for strength in (round(high - centre, 12), high - centre):
                if strength >= 0 and (max(lowest, centre - strength), centre + strength) == shown[name]:
                    shown[name] = strength
                    break
        return shown
