"""Existing pipelines -> slots: torchvision v1 and v2, Lightly, and the transforms of the repos that people start from.

A transform becomes operations of :mod:`hvs_aug.ops`, one line each in the tables below. It is recognised by its class name and
attributes, and none of those packages is imported. What cannot be expressed exactly is refused by name, never approximated. Two
differences are tolerated: Pillow rounds to gray levels after every operation, here nothing is rounded; and Pillow's
``GaussianBlur`` is three box blurs that approximate a Gaussian of that standard deviation, here it is that Gaussian.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal, TypeAlias

import torch

from .. import ops
from .._check import fail, require
from ..ops import Operation
from .recipe import ViewRecipe, ViewSlot

__all__ = ["convert", "convert_view", "register_converter"]

Converted: TypeAlias = "Operation | Sequence[Any]"
Role: TypeAlias = Literal["global", "local"]

_CALL = "convert(transform)"
_BEHAVIOUR = {"__call__", "forward", "get_params", "make_params", "_get_params", "transform", "_transform", "_call_kernel"}
_registered: dict[type | str, Callable[[Any], Converted]] = {}


def register_converter(kind: type | str, function: Callable[[Any], Converted]) -> None:
    """Say how a transform of your own is converted.

    Args:
        kind: its class, or the class's name (so that its package need not be imported).
        function: takes the transform and returns what it does, as one of: an operation of :mod:`hvs_aug.ops`, or your own; a list
            of operations and transforms that are known already (an empty one changes nothing); or, for a transform that returns
            several views, a list with the pipeline of each view, or a list of :class:`ViewSlot`.

    Example:
        >>> class Negative:
        ...     def __init__(self, p):
        ...         self.p = p
        >>> register_converter(Negative, lambda t: ops.RandomInvert(t.p))
    """
    _registered[kind] = function


def convert(transform: Any, candidates: int | Sequence[int] | None = None) -> list[ViewSlot]:
    """Read the slots that a transform of several views stands for; views that follow each other with equal recipes share one slot.

    Args:
        transform: what maps an image to a list of views (``TwoCropsTransform``, ``ContrastiveLearningViewGenerator``,
            ``DataAugmentationDINO``, Lightly's ``MultiViewTransform``, a list with one transform for each view), or a pipeline
            of one view, which stands for a pair of such views.
        candidates: as for the presets: the number of candidate views of an image, which several slots share; or, where there are
            local views, how many candidates are drawn for every view that is kept. By default twice the views that are kept:
            SimCLR 4 choose 2; DINO 2 choose 1, 2 choose 1 and 16 choose 8. A sequence gives the number for each slot.

    Views are local where the transform's class says so, and where they are smaller than the largest, or cover no more of the
    image than the smallest global view.

    Raises:
        HVSError: naming the transform, if one cannot be expressed exactly; if the number of candidates leaves nothing to choose.

    Example:
        >>> from torchvision import transforms
        >>> pipeline = transforms.Compose([transforms.RandomResizedCrop(32), transforms.ToTensor()])
        >>> [(slot.candidates, slot.select) for slot in convert([pipeline, pipeline], candidates=6)]
        [(6, 2)]
    """
    views = _views(transform)
    if views is None:
        views = [_View(transform), _View(transform)]
    require(len(views) > 0, _CALL, "at least one view", f"{type(transform).__name__} with none")
    if isinstance(views[0], ViewSlot):
        slots = [slot for slot in views if isinstance(slot, ViewSlot)]
    else:
        slots = _slots([view for view in views if isinstance(view, _View)])
    if candidates is None:
        return slots
    counts = _counts(candidates, [slot.select for slot in slots], any(slot.role == "local" for slot in slots))
    return [replace(slot, candidates=count) for slot, count in zip(slots, counts, strict=True)]


def returns_views(transform: Any) -> bool:
    """Whether a transform is of a kind that returns several views of an image."""
    return _views(transform) is not None


def convert_view(pipeline: Any) -> ViewRecipe:
    """Read the recipe of a pipeline that returns one view: a crop, then operations, then a normalisation.

    Raises:
        HVSError: naming the transform, if one cannot be expressed exactly.
    """
    pixels = _Pixels()
    operations = _operations(pipeline, pixels)
    crops = [operation for operation in operations if isinstance(operation, ops.RandomResizedCrop)]
    hint = "a view without a random crop is not supported."
    require(len(crops) > 0, _CALL, "a RandomResizedCrop", f"none in {_name(pipeline)}", hint)
    if pixels.aliased is not None:
        _refuse("an antialiased crop", pixels.aliased, "pass antialias=True.")
    came = f"{_name(pipeline)}, which has no ToTensor() and no ToDtype(torch.float32, scale=True)"
    require(pixels.is_float, _CALL, "a pipeline that ends in float tensors in [0, 1] or normalised", came)
    size = crops[0].size
    assert size is not None
    return ViewRecipe(size, operations)


# ---- several views ----


@dataclass(frozen=True)
class _View:
    """The pipeline of one of several views, and its role where the transform's class tells it."""

    pipeline: Any
    role: Role | None = None


def _slots(views: Sequence[_View]) -> list[ViewSlot]:
    """One slot for each run of views with equal recipes, with twice as many candidates as are kept."""
    recipes = {id(view.pipeline): convert_view(view.pipeline) for view in views}
    read = [(recipes[id(view.pipeline)], view.role) for view in views]
    largest = max(read, key=lambda one: one[0].shape[0] * one[0].shape[1])[0].shape
    first = next(recipe for recipe, role in read if role != "local" and (role or recipe.shape == largest))
    runs = [(one, len(list(run))) for one, run in groupby((recipe, role or _role(recipe, first)) for recipe, role in read)]
    several = {role for role in ("global", "local") if sum(one[1] == role for one, _ in runs) > 1}
    numbers = {"global": 0, "local": 0}
    slots: list[ViewSlot] = []
    for (recipe, role), select in runs:
        numbers[role] += 1
        name = "view" if len(runs) == 1 else f"{role}-{numbers[role]}" if role in several else role
        slots.append(ViewSlot(recipe, 2 * select, select, name, role))
    return slots


def _role(recipe: ViewRecipe, largest: ViewRecipe) -> Role:
    is_small = math.prod(recipe.shape) < math.prod(largest.shape)
    covers_less = recipe.crop.scale[1] <= largest.crop.scale[0] and recipe.crop.scale != largest.crop.scale
    return "local" if is_small or covers_less else "global"


def _counts(candidates: int | Sequence[int], selects: Sequence[int], multi_crop: bool) -> list[int]:
    call = "convert(candidates)"
    if isinstance(candidates, (list, tuple)):
        require(len(candidates) == len(selects), call, f"a number for each of the {len(selects)} slots", f"{len(candidates)}")
        return list(candidates)
    kept = sum(selects)
    least = 2 if multi_crop else kept + 1
    hint = f"candidates={tuple(selects)} draws no more than are kept."
    if isinstance(candidates, bool) or not isinstance(candidates, int) or candidates < least:
        purpose = ", for every view that is kept" if multi_crop else f", of which {kept} are kept"
        fail(call, f"an integer of at least {least}{purpose}", candidates, hint)
    if multi_crop:
        return [candidates * select for select in selects]
    shared = [candidates * select // kept for select in selects]
    hint = "different views share the candidates equally; a sequence gives the number for each."
    require(sum(shared) == candidates, call, f"a number that {len(selects)} different views can share", candidates, hint)
    return shared


def _views(transform: Any) -> list[_View] | list[ViewSlot] | None:
    """The view that each part of the transform makes, where it returns several; None where it returns one."""
    if isinstance(transform, (list, tuple)):
        return [_View(view) for view in transform]
    for kind in type(transform).__mro__:
        function = _registered.get(kind) or _registered.get(kind.__name__)
        if function is not None:
            return _registered_views(function(transform))
        several = _MULTIVIEW.get(kind.__name__)
        if several is not None:
            try:
                return several(transform)
            except AttributeError as error:
                fail(_CALL, f"{kind.__name__} as in its own repo", f"one that {str(error).split('object ')[-1]}")
        if _BEHAVIOUR & vars(kind).keys():
            return None
    return None


def _registered_views(found: Converted) -> list[_View] | list[ViewSlot] | None:
    """What a converter returned, where that is slots or a pipeline for each of several views: each has a crop of its own."""
    entries: list[Any] = [found] if isinstance(found, Operation) else list(found)
    if entries and all(isinstance(entry, ViewSlot) for entry in entries):
        return entries
    if len(entries) > 1 and all(_has_crop(entry) for entry in entries):
        return [_View(entry) for entry in entries]
    return None


def _has_crop(pipeline: Any) -> bool:
    return any(isinstance(operation, ops.RandomResizedCrop) for operation in _operations(pipeline, _Pixels()))


# ---- one view ----


@dataclass
class _Pixels:
    """What the pixels are at one place of a pipeline: read from the transforms before it."""

    is_tensor: bool | None = None  # None: as the dataset returns them
    is_float: bool = False
    size: tuple[int, int] | None = None
    aliased: Any = None  # what resizes without antialiasing, which Pillow images ignore

    @property
    def level(self) -> float:
        """What one unit of the pixels is, in [0, 1]."""
        return 1.0 if self.is_float else 1 / 255

    def to_tensor(self, *, is_float: bool = False) -> Converted:
        """A conversion that takes Pillow images only."""
        self.aliased = None if not self.is_tensor else self.aliased
        return self.to_image(is_float=is_float)

    def to_image(self, *, is_float: bool = False) -> Converted:
        self.is_tensor, self.is_float = True, self.is_float or is_float
        return []

    def to_pillow(self, transform: Any) -> Converted:
        if self.is_float:
            _refuse("ToPILImage before the conversion to float, after which it rounds", transform)
        self.is_tensor = False
        return []

    def to_dtype(self, transform: Any) -> Converted:
        dtype = transform.dtype
        if dtype == torch.uint8 and not self.is_float:
            return []
        if dtype != torch.float32 or not (self.is_float or getattr(transform, "scale", True)):
            _refuse("torch.float32 with scale=True" if dtype != torch.uint8 else "uint8 before the conversion to float", transform)
        return self.to_image(is_float=True)


def _operations(transform: Any, pixels: _Pixels) -> list[Operation]:
    """What a transform does, leaving out what is never applied."""
    if isinstance(transform, Operation):
        if isinstance(transform, ops.RandomResizedCrop) and transform.size is not None:
            pixels.size = ViewRecipe(transform.size).shape
        return [] if getattr(transform, "p", 1) == 0 else [transform]
    if isinstance(transform, (list, tuple, torch.nn.ModuleList, torch.nn.Sequential)):
        return [operation for inner in transform for operation in _operations(inner, pixels)]
    found = _converted(transform, pixels)
    is_known = isinstance(found, Operation) or (isinstance(found, (list, tuple)) and not any(map(_is_slot, found)))
    expected = "an operation, or a list of operations and transforms"
    require(is_known, "register_converter(function)", expected, f"{type(found).__name__} for {_name(transform)}")
    return _operations(found if isinstance(found, Operation) else list(found), pixels)


def _is_slot(entry: Any) -> bool:
    return isinstance(entry, (ViewSlot, dict, str))


def _converted(transform: Any, pixels: _Pixels) -> Converted:
    """What the converter says of the first of the transform's classes that has one and whose behaviour it keeps."""
    for kind in type(transform).__mro__:
        own = _registered.get(kind) or _registered.get(kind.__name__)
        if own is not None:
            return own(transform)
        known = _known(kind)
        found = None if known is None else known(transform, pixels)
        if found is not None:
            return found
        if _BEHAVIOUR & vars(kind).keys():
            break
    name = type(transform).__name__
    hint = f"hvs_aug.register_converter({name!r}, function) says what it does; or keep it and use sampler.select(candidates)."
    fail(_CALL, "a transform that can be expressed exactly", _name(transform), hint)


def _known(kind: type) -> Callable[[Any, _Pixels], Converted | None] | None:
    package = kind.__module__.partition(".")[0]
    if package in ("torchvision", "torch"):
        return _TORCHVISION.get(kind.__name__)
    if package == "lightly" and "View" in kind.__name__ and kind.__name__.endswith("Transform"):
        return lambda t, at: [t.transform] if hasattr(t, "transform") else None
    return _REPOS.get(kind.__name__)


def _refuse(expected: str, transform: Any, hint: str | None = None) -> None:
    fail(_CALL, expected, _name(transform), hint)


def _name(transform: Any) -> str:
    text = " ".join(repr(transform).split())
    plain = text.startswith("<") or not text.startswith(type(transform).__name__)
    name = type(transform).__name__ if plain else text
    return name if len(name) <= 120 else f"{name[:117]}..."


# ---- torchvision, v1 and v2 ----


def _pair(bounds: Sequence[float]) -> tuple[float, float]:
    low, high = bounds
    return float(low), float(high)


def _resampling(transform: Any, pixels: _Pixels) -> Literal["bilinear", "bicubic"]:
    """The interpolation of a crop or resize, which must be antialiased."""
    mode = transform.interpolation  # torchvision's enumeration, its value, or Pillow's number
    name = {2: "bilinear", 3: "bicubic"}.get(mode) if isinstance(mode, int) else getattr(mode, "value", mode)
    if name not in ("bilinear", "bicubic"):
        _refuse("bilinear or bicubic interpolation", transform)
    if name == "bicubic" and pixels.is_float:
        _refuse("a bicubic crop before the conversion to float, after which it overshoots [0, 1]", transform)
    if getattr(transform, "antialias", True) is not True and pixels.is_tensor is not False:
        if pixels.is_tensor:
            _refuse("an antialiased crop", transform, "pass antialias=True.")
        pixels.aliased = transform
    return "bilinear" if name == "bilinear" else "bicubic"


def _crop(t: Any, at: _Pixels) -> Converted:
    size = tuple(t.size) if isinstance(t.size, (list, tuple)) else t.size
    return ops.RandomResizedCrop(size, _pair(t.scale), _pair(t.ratio), _resampling(t, at))


def _jitter(t: Any, at: _Pixels) -> Converted:
    brightness, contrast, saturation = (_pair(bounds or (1.0, 1.0)) for bounds in (t.brightness, t.contrast, t.saturation))
    found = ops.ColorJitter(brightness, contrast, saturation, _pair(t.hue or (0.0, 0.0)))
    return [] if found == ops.ColorJitter() else found


def _solarize(threshold: float, p: float, at: _Pixels) -> Converted:
    if not at.is_float:
        # Gray levels are integers: v >= t exactly where the value before rounding is at least half a level below the next one.
        threshold = max(0.0, (math.ceil(threshold) - 0.5) / 255)
        if threshold > 1:
            return []
    return ops.RandomSolarize(float(threshold), p=float(p))


def _grayscale(t: Any, at: _Pixels) -> Converted | None:
    return ops.RandomGrayscale(p=1.0) if t.num_output_channels == 3 else None


def _rotation(t: Any, at: _Pixels) -> Converted:
    mode = getattr(t.interpolation, "value", t.interpolation)
    if t.expand or t.center is not None:
        _refuse("a rotation with expand=False around the centre", t)
    fill = t.fill if isinstance(t.fill, (list, tuple)) else (t.fill or 0,)
    return ops.RandomRotation(_pair(t.degrees), mode, tuple(value * at.level for value in fill))


def _erasing(t: Any, at: _Pixels) -> Converted:
    if not at.is_tensor:
        _refuse("RandomErasing after the conversion to a tensor", t)
    if isinstance(t.value, str) or t.value is None:
        _refuse("a RandomErasing with a number as value, or one for each channel", t)
    value = tuple(t.value) if isinstance(t.value, (list, tuple)) else (t.value,)
    return ops.RandomErasing(t.p, tuple(t.scale), tuple(t.ratio), tuple(number * at.level for number in value))


def _normalize(t: Any, at: _Pixels) -> Converted:
    if not at.is_float:
        _refuse("ToTensor() or ToDtype(torch.float32, scale=True) before the normalisation", t)
    return ops.Normalize(tuple(map(float, t.mean)), tuple(map(float, t.std)))


def _members(t: Any, transforms: Any, at: _Pixels) -> list[Operation]:
    """The operations of a group, none of which may change what the pixels are."""
    before = replace(at)
    found = _operations(list(transforms), at)
    if at != before:
        _refuse("conversions and crops that are always applied", t)
    return found


def _random_apply(t: Any, at: _Pixels) -> Converted:
    prob = float(t.p)
    if prob == 0:
        return []
    if prob == 1:
        return list(t.transforms)
    found = _members(t, t.transforms, at)
    if len(found) == 1 and isinstance(getattr(found[0], "p", None), (int, float)):
        return replace(found[0], p=found[0].p * prob)  # type: ignore[attr-defined, type-var]
    return ops.RandomApply(found, prob) if found else []


def _random_choice(t: Any, at: _Pixels) -> Converted | None:
    found = [_members(t, [inner], at) for inner in t.transforms]
    if not all(found):
        return None
    return ops.RandomChoice([own[0] if len(own) == 1 else ops.RandomApply(own, 1.0) for own in found], t.p)


_TORCHVISION: dict[str, Callable[[Any, _Pixels], Converted | None]] = {
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
    "GaussianBlur": lambda t, at: ops.GaussianBlur(_square(t), _pair(t.sigma)),
    "RandomSolarize": lambda t, at: _solarize(t.threshold, t.p, at),
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
        _refuse("a square blur kernel", t)
    return int(kernel[0])


# ---- the repos' own classes ----


def _pillow_blur(p: float, sigma: tuple[float, float], at: _Pixels) -> Converted:
    # 23 taps, as in SimCLR's paper at 224 pixels (a tenth of the width); more where 4 standard deviations need more, fewer where
    # reflection at the edges of a small view does not allow that many.
    taps = max(23, 2 * math.ceil(4 * sigma[1]) + 1)
    return ops.GaussianBlur(taps if at.size is None else min(taps, 2 * min(at.size) - 1), _pair(sigma), float(p))


def _repo_blur(t: Any, at: _Pixels) -> Converted | None:
    has = vars(t).keys()
    if {"prob", "radius_min", "radius_max"} <= has:  # DINO, iBOT, SwAV
        return _pillow_blur(t.prob, (t.radius_min, t.radius_max), at)
    if {"k", "r", "blur_h", "blur_v"} <= has:  # sthalles/SimCLR, which draws its sigma from [0.1, 2] in __call__
        return ops.GaussianBlur(int(t.k), (0.1, 2.0))
    if {"prob", "sigmas"} <= has:  # Lightly
        return _pillow_blur(t.prob, _pair(t.sigmas), at)
    if "sigma" in has and "kernel_size" not in has:  # SimSiam, MoCo, solo-learn
        return _pillow_blur(1.0, _pair(t.sigma), at)
    if has == {"p"}:  # VICReg, Barlow Twins, which draw their sigma from [0.1, 2] in __call__
        return _pillow_blur(t.p, (0.1, 2.0), at)
    return None


def _repo_solarize(t: Any, at: _Pixels) -> Converted | None:
    if vars(t).keys() - {"p", "prob", "threshold"}:
        return None
    prob = getattr(t, "p", getattr(t, "prob", 1.0))
    return _solarize(getattr(t, "threshold", 128), prob, at)  # Pillow's threshold where the class has none


def _repo_rotation(t: Any, at: _Pixels) -> Converted | None:
    if vars(t).keys() != {"prob", "angle"}:
        return None
    return ops.RandomRotation((float(t.angle), float(t.angle)), p=float(t.prob))


_REPOS: dict[str, Callable[[Any, _Pixels], Converted | None]] = {
    "GaussianBlur": _repo_blur,
    "PILRandomGaussianBlur": _repo_blur,
    "Solarization": _repo_solarize,
    "Solarize": _repo_solarize,
    "RandomSolarization": _repo_solarize,
    "RandomRotate": _repo_rotation,
    "RandomRotateDegrees": lambda t, at: [t.transform] if hasattr(t, "transform") else None,
    "Equalization": lambda t, at: ops.RandomEqualize(1.0),
    "ToTensor": lambda t, at: [t.transform] if vars(t).keys() == {"transform"} else None,
    "MaybeToTensor": lambda t, at: at.to_image(is_float=True),
}


def _two_crops(transform: Any) -> list[_View]:
    if hasattr(transform, "base_transform"):
        return [_View(transform.base_transform)] * 2
    return [_View(transform.base_transform1), _View(transform.base_transform2)]  # MoCo v3


def _multi_crop(transform: Any) -> list[_View]:
    others = getattr(transform, "global_crops_number", 2) - 1
    globals_ = [transform.global_transfo1, *[transform.global_transfo2] * others]
    views = [_View(view, "global") for view in globals_]
    return views + [_View(transform.local_transfo, "local")] * transform.local_crops_number


_MULTIVIEW: dict[str, Callable[[Any], list[_View]]] = {
    "TwoCropsTransform": _two_crops,
    "ContrastiveLearningViewGenerator": lambda t: [_View(t.base_transform)] * t.n_views,
    "DataAugmentationDINO": _multi_crop,
    "DataAugmentationiBOT": _multi_crop,
    "MultiViewTransform": lambda t: [_View(view) for view in t.transforms],
}
