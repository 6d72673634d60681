"""torchvision's transforms, v1 and v2, as operations: a line each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from ... import ops
from .converted import Converted, refuse

if TYPE_CHECKING:
    from .reading import Pixels

__all__ = ["TORCHVISION", "pair", "solarize"]


def pair(bounds: Sequence[float]) -> tuple[float, float]:
    low, high = bounds
    return float(low), float(high)


def _resampling(transform: Any, pixels: Pixels) -> Literal["bilinear", "bicubic"]:
    """The interpolation of a crop or resize, which must be antialiased."""
    mode = transform.interpolation  # torchvision's enumeration, its value, or Pillow's number
    name = {2: "bilinear", 3: "bicubic"}.get(mode) if isinstance(mode, int) else getattr(mode, "value", mode)
    if name not in ("bilinear", "bicubic"):
        refuse("bilinear or bicubic interpolation", transform)
    if name == "bicubic" and pixels.is_float:
        refuse("a bicubic crop before the conversion to float, after which it overshoots [0, 1]", transform)
    if getattr(transform, "antialias", True) is not True and pixels.is_tensor is not False:
        if pixels.is_tensor:
            refuse("an antialiased crop", transform, "pass antialias=True.")
        pixels.aliased = transform
    return "bilinear" if name == "bilinear" else "bicubic"


def _crop(t: Any, at: Pixels) -> Converted:
    size = tuple(t.size) if isinstance(t.size, (list, tuple)) else t.size
    return ops.RandomResizedCrop(size, pair(t.scale), pair(t.ratio), _resampling(t, at))


def _jitter(t: Any, at: Pixels) -> Converted:
    brightness, contrast, saturation = (pair(bounds or (1.0, 1.0)) for bounds in (t.brightness, t.contrast, t.saturation))
    found = ops.ColorJitter(brightness, contrast, saturation, pair(t.hue or (0.0, 0.0)))
    return [] if found == ops.ColorJitter() else found


def solarize(threshold: float, p: float, at: Pixels) -> Converted:
    if not at.is_float:
        # Gray levels are integers: v >= t exactly where the value before rounding is at least half a level below the next one.
        threshold = max(0.0, (math.ceil(threshold) - 0.5) / 255)
        if threshold > 1:
            return []
    return ops.RandomSolarize(float(threshold), p=float(p))


def _grayscale(t: Any, at: Pixels) -> Converted | None:
    return ops.RandomGrayscale(p=1.0) if t.num_output_channels == 3 else None


def _rotation(t: Any, at: Pixels) -> Converted:
    mode = getattr(t.interpolation, "value", t.interpolation)
    if t.expand or t.center is not None:
        refuse("a rotation with expand=False around the centre", t)
    fill = t.fill if isinstance(t.fill, (list, tuple)) else (t.fill or 0,)
    return ops.RandomRotation(pair(t.degrees), mode, tuple(value * at.level for value in fill))


def _erasing(t: Any, at: Pixels) -> Converted:
    if not at.is_tensor:
        refuse("RandomErasing after the conversion to a tensor", t)
    if isinstance(t.value, str) or t.value is None:
        refuse("a RandomErasing with a number as value, or one for each channel", t)
    value = tuple(t.value) if isinstance(t.value, (list, tuple)) else (t.value,)
    return ops.RandomErasing(t.p, tuple(t.scale), tuple(t.ratio), tuple(number * at.level for number in value))


def _normalize(t: Any, at: Pixels) -> Converted:
    if not at.is_float:
        refuse("ToTensor() or ToDtype(torch.float32, scale=True) before the normalisation", t)
    return ops.Normalize(tuple(map(float, t.mean)), tuple(map(float, t.std)))


def _random_apply(t: Any, at: Pixels) -> Converted:
    prob = float(t.p)
    if prob == 0:
        return []
    if prob == 1:
        return list(t.transforms)
    found = at.members(t, t.transforms)
    if len(found) == 1 and isinstance(getattr(found[0], "p", None), (int, float)):
        return replace(found[0], p=found[0].p * prob)  # type: ignore[attr-defined, type-var]
    return ops.RandomApply(found, prob) if found else []


def _random_choice(t: Any, at: Pixels) -> Converted | None:
    found = [at.members(t, [inner]) for inner in t.transforms]
    if not all(found):
        return None
    return ops.RandomChoice([own[0] if len(own) == 1 else ops.RandomApply(own, 1.0) for own in found], t.p)


TORCHVISION: dict[str, Callable[[Any, Pixels], Converted | None]] = {
    "Compose": lambda t, at: list(t.transforms),
    "RandomApply": _random_apply,
    "RandomChoice": _random_choice,
    "RandomResizedCrop": _crop,
    "Resize": lambda t, at: None if t.size is None else ops.Resize(t.size, _resampling(t, at), t.max_size),
    "CenterCrop": lambda t, at: ops.CenterCrop(t.size),
    "RandomHorizontalFlip": lambda t, at: ops.RandomHorizontalFlip(t.p),
    "RandomVerticalFlip": lambda t, at: ops.RandomVerticalFlip(t.p),
    "RandomRotation": _rotation,
    "ColorJitter": _jitter,
    "RandomGrayscale": lambda t, at: ops.RandomGrayscale(t.p),
    "Grayscale": _grayscale,
    "GaussianBlur": lambda t, at: ops.GaussianBlur(_square(t), pair(t.sigma)),
    "RandomSolarize": lambda t, at: solarize(t.threshold, t.p, at),
    "RandomPosterize": lambda t, at: ops.RandomPosterize(t.bits, t.p),
    "RandomInvert": lambda t, at: ops.RandomInvert(t.p),
    "RandomAutocontrast": lambda t, at: ops.RandomAutocontrast(t.p),
    "RandomEqualize": lambda t, at: ops.RandomEqualize(t.p),
    "RandomAdjustSharpness": lambda t, at: ops.RandomAdjustSharpness(t.sharpness_factor, t.p),
    "RandomErasing": _erasing,
    "Normalize": _normalize,
    "Identity": lambda t, at: [],
    "RGB": lambda t, at: [],  # the number of channels is what the pipeline makes of an image, not what a recipe says
    "ToTensor": lambda t, at: at.to_tensor(is_float=True),
    "PILToTensor": lambda t, at: at.to_tensor(),
    "ToImage": lambda t, at: at.to_image(),
    "ToPILImage": lambda t, at: at.to_pillow(t),
    "ToPureTensor": lambda t, at: [],
    "ToDtype": lambda t, at: at.to_dtype(t),
    "ConvertImageDtype": lambda t, at: at.to_dtype(t),
}


def _square(t: Any) -> int:
    kernel = t.kernel_size if isinstance(t.kernel_size, (list, tuple)) else (t.kernel_size, t.kernel_size)
    if kernel[0] != kernel[1]:
        refuse("a square blur kernel", t)
    return int(kernel[0])
