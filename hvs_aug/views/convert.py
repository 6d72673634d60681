"""Existing pipelines -> slots: torchvision v1 and v2, Lightly, and the transforms of the repos that people start from.

A transform becomes operations of :mod:`hvs_aug.ops`, one line each in the tables below. It is recognised by its class name and
attributes, and none of those packages is imported. What cannot be expressed exactly is refused by name, never approximated. Two
differences are tolerated: Pillow rounds to gray levels after every operation, here nothing is rounded; and Pillow's
``GaussianBlur`` is three box blurs that approximate a Gaussian of that standard deviation, here it is that Gaussian.
"""

from __future__ import annotations

import math
import warnings
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from PIL import Image

from .. import ops
from .._check import HVSError, fail, require
from ..ops import Operation
from ..ops.group import Group
from .own_generators import drawing_parts
from .proof import part_difference, view_difference
from .recipe import ViewRecipe, ViewSlot
from .trace import Returned, kept_random_state, probe_like, trace

__all__ = ["convert", "convert_view", "register_converter"]

Converted: TypeAlias = "Operation | Sequence[Any]"
Role: TypeAlias = Literal["global", "local"]

_CALL = "convert(transform)"
_BEHAVIOUR = {"__call__", "forward", "get_params", "make_params", "_get_params", "transform", "_transform", "_call_kernel"}
_registered: dict[type | str, Callable[[Any], Converted]] = {}
# What was proved of a transform: the operation that it is, and the recipe of the pipeline that it ends.
_proved: weakref.WeakKeyDictionary[Any, set[Any]] = weakref.WeakKeyDictionary()


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


def convert(transform: Any, candidates: int | Sequence[int] | None = None, example: Any = None) -> list[ViewSlot]:
    """Convert a transform that returns several views to slots; consecutive views with equal recipes share one slot.

    The transform is run on a picture to see how many views it returns, and which of its parts make them. Its class does not
    matter. Then the views of each part are compared with those of the operation that it was converted to
    (:mod:`hvs_aug.views.proof`). The global random state is not changed.

    Args:
        transform: any callable that maps an image to several views in lists, tuples or dicts; a list with one transform for each
            view; or a pipeline of one view, which stands for a pair of such views.
        candidates: as for the presets: the number of candidate views of an image, which several slots share; or, where there are
            local views, how many candidates are drawn for every view that is kept. By default twice the views that are kept:
            SimCLR 4 choose 2; DINO 2 choose 1, 2 choose 1 and 16 choose 8. A sequence gives the number for each slot.
        example: an image as the dataset returns it, if that is not an RGB image.

    A view is local if the transform says so (``local_transfo``, ``"local_crops"``), if it is smaller than the largest view, or
    if its largest crop covers no more of the image than the smallest crop of the first global view.

    Raises:
        HVSError: if a transform cannot be expressed exactly, or behaves differently from what it was converted to (the error
            names the transform); if there are no more candidates than views that are kept.

    Example:
        >>> from torchvision import transforms
        >>> pipeline = transforms.Compose([transforms.RandomResizedCrop(32), transforms.ToTensor()])
        >>> [(slot.candidates, slot.select) for slot in convert([pipeline, pipeline], candidates=6)]
        [(6, 2)]
    """
    found = _registered_views(transform)
    if isinstance(transform, (list, tuple)):
        found = [_View(view) for view in transform]
    if found is None:
        returned = returned_views(transform, example)
        found = [_View(transform)] * 2 if returned is None else _traced_views(transform, returned)
    require(len(found) > 0, _CALL, "at least one view", f"{type(transform).__name__} with none")
    slots = [entry for entry in found if isinstance(entry, ViewSlot)]
    return with_candidates(slots or _slots([view for view in found if isinstance(view, _View)], example), candidates)


def returned_views(transform: Any, example: Any = None) -> Returned | None:
    """What a transform of several views returns; ``None`` if it returns one, or cannot be run.

    Args:
        example: as for :func:`convert`; without one, images of several kinds are tried.
    """
    if not callable(transform):
        return None
    for probe in _probes(example):
        try:
            returned = trace(transform, probe, _Parts())
        except Exception:  # it may fail in any way on another kind of image than its own
            continue
        return returned if len(returned.views) > 1 else None
    return None


def with_candidates(slots: list[ViewSlot], candidates: int | Sequence[int] | None) -> list[ViewSlot]:
    """The slots with other numbers of candidates, as for :func:`convert`."""
    if candidates is None:
        return slots
    counts = _counts(candidates, [slot.select for slot in slots], any(slot.role == "local" for slot in slots))
    return [replace(slot, candidates=count) for slot, count in zip(slots, counts, strict=True)]


def convert_view(pipeline: Any) -> ViewRecipe:
    """Read the recipe of a pipeline that returns one view: a crop, then operations, then a normalisation.

    Raises:
        HVSError: naming the transform, if one cannot be expressed exactly.
    """
    return _read(pipeline)[0]


def _read(pipeline: Any) -> tuple[ViewRecipe, list[_Part]]:
    """The recipe of a pipeline, and the transforms that it was read from, each with its operation."""
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
    return ViewRecipe(size, operations), pixels.parts


# ---- the proof ----


def _prove(pipeline: Any, recipe: ViewRecipe, parts: Sequence[_Part], example: Any) -> None:
    """Fail unless the parts of a pipeline do what they were read as, and its views are those of the recipe."""
    with kept_random_state(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for part in parts:
            if isinstance(part.operation, ops.RandomResizedCrop):
                continue  # alone it is a whole view
            read_as = (part.operation, part.pixels.is_tensor, part.pixels.is_float)
            known = _known_of(part.transform)
            if read_as not in known:
                difference = part_difference(part.transform, part.operation, part.pixels.as_given, min(recipe.shape))
                if difference is not None:
                    _differs(part.transform, part.operation, difference)
                known.add(read_as)
        known, whole = _known_of(parts[-1].transform), (recipe, _kind(example))
        if whole not in known:
            difference = _view_difference(pipeline, recipe, example)
            if difference is not None:
                _differs(pipeline, recipe, difference)
            known.add(whole)


def _known_of(transform: Any) -> set[Any]:
    """What was proved of a transform; nothing of one that has no hash or takes no weak reference, which is proved each time."""
    try:
        return _proved.setdefault(transform, set())
    except TypeError:
        return set()


def _view_difference(pipeline: Any, recipe: ViewRecipe, example: Any) -> str | None:
    normalize = recipe.find(ops.Normalize)
    channels = len(normalize.mean) if isinstance(normalize, ops.Normalize) else 3
    failed: Exception | None = None
    for probe in _probes(example, channels):
        try:
            return view_difference(lambda image: _run(pipeline, image), recipe, probe)
        except HVSError:
            raise
        except Exception as error:  # it may fail in any way on another kind of image than its own
            failed = failed or error
    hint = "example= is an image as the dataset gives it."
    fail(_CALL, "a transform that runs on an image", f"{_name(pipeline)}: {failed}", hint)


def _run(pipeline: Any, image: Any) -> Any:
    if isinstance(pipeline, (list, tuple, torch.nn.ModuleList)):
        for transform in pipeline:
            image = _run(transform, image)
        return image
    return pipeline(image)


def _differs(transform: Any, read_as: object, difference: str) -> None:
    name = type(transform).__name__
    hint = f"hvs_aug.register_converter({name!r}, function) says what it does; or keep it: views='own', sampler.select(candidates)."
    came = f"{_name(transform)}, which differs in {difference}"
    fail(_CALL, f"a transform that behaves as it was converted, like {read_as}", came, hint)


def _kind(example: Any) -> tuple[Any, ...]:
    shape = example.shape[:1] if isinstance(example, torch.Tensor) else ()
    return (type(example), getattr(example, "mode", None), getattr(example, "dtype", None), tuple(shape))


def _probes(example: Any, channels: int = 3) -> list[Any]:
    """A picture like the example; without one, pictures of each kind."""
    if example is not None:
        return [probe_like(example)]
    tensor = torch.zeros(channels, 1, 1, dtype=torch.uint8, device="cpu")
    kinds = [tensor, tensor.float(), np.zeros((1, 1, channels), np.uint8)]
    pillow = {1: "L", 3: "RGB", 4: "RGBA"}.get(channels)
    return [probe_like(kind) for kind in ([Image.new(pillow, (1, 1)), *kinds] if pillow else kinds)]


# ---- several views ----


@dataclass(frozen=True)
class _View:
    """The pipeline of one of several views, and its role where the transform's class tells it."""

    pipeline: Any
    role: Role | None = None


def _slots(views: Sequence[_View], example: Any) -> list[ViewSlot]:
    """One slot for each run of views with equal recipes, with twice as many candidates as are kept."""
    recipes: dict[tuple[int, ...], ViewRecipe] = {}
    read: list[tuple[ViewRecipe, Role | None]] = []
    for view in views:
        key = tuple(map(id, view.pipeline)) if isinstance(view.pipeline, tuple) else (id(view.pipeline),)
        if key not in recipes:
            recipes[key], parts = _read(view.pipeline)
            _prove(view.pipeline, recipes[key], parts, example)
        read.append((recipes[key], view.role))
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


class _Parts:
    """What the converters know of the parts of a transform."""

    def is_known(self, part: Any) -> bool:
        return _has_converter(part)

    def draws(self, part: Any) -> bool:
        found = self._operations(part)
        kinds = (ops.RandomResizedCrop, Group)
        return found is None or any(operation.identity or isinstance(operation, kinds) for operation in found)

    def does_nothing(self, part: Any) -> bool:
        return self._operations(part) == []

    def _operations(self, part: Any) -> list[Operation] | None:
        try:
            return _operations(part, _Pixels())
        except HVSError:
            return None


def _traced_views(transform: Any, returned: Returned) -> list[_View]:
    """The pipeline of each view that was returned."""
    views: list[_View] = []
    hint = "hvs_aug.wrap runs it as it is (views='own'); hvs_aug.register_converter can list the pipeline of each view."
    for view in returned.views:
        place = "".join(f"[{step!r}]" for step in view.paths[0])
        if view.pipeline is None:
            _refuse_albumentations(transform)
            fail(
                _CALL, "views that its parts make of the image, and nothing else", f"{_name(transform)}, whose {place} is not", hint
            )
        if view.follows is not None:
            fail(_CALL, "views that share no draw", f"{_name(transform)}, whose {place} shares one with an earlier view", hint)
        views.append(_View(view.pipeline, view.role))
    return views


def _refuse_albumentations(transform: Any, _: Any = None) -> None:
    """Fail if a transform holds albumentations' operations, naming the one that resizes."""
    parts = [part for part in drawing_parts(transform) if type(part).__module__.partition(".")[0] == "albumentations"]
    resizing = [part for part in parts if any(word in type(part).__name__ for word in ("Crop", "Resize", "Scale", "Size"))]
    hint = "albumentations averages boxes of pixels or skips pixels where it reduces; views='own' runs it as it is."
    for part in [*resizing, *parts][:1]:
        _refuse("an antialiased crop", part, hint)


def _registered_views(transform: Any) -> list[_View] | list[ViewSlot] | None:
    """What a registered converter returned, where that is slots or a pipeline for each of several views: each has a crop."""
    functions = [function for kind in type(transform).__mro__ if (function := _own_converter(kind)) is not None]
    if not functions:
        return None
    found = functions[0](transform)
    entries: list[Any] = list(found) if isinstance(found, (list, tuple)) else []
    if entries and all(isinstance(entry, ViewSlot) for entry in entries):
        return entries
    if len(entries) > 1 and all(_has_crop(entry) for entry in entries):
        return [_View(entry) for entry in entries]
    return None


def _has_crop(pipeline: Any) -> bool:
    return any(isinstance(operation, ops.RandomResizedCrop) for operation in _operations(pipeline, _Pixels()))


# ---- one view ----


@dataclass(frozen=True)
class _Part:
    """A transform that was read as one operation, and what the pixels are there."""

    transform: Any
    operation: Operation
    pixels: _Pixels


@dataclass
class _Pixels:
    """What the pixels are at one place of a pipeline: read from the transforms before it."""

    is_tensor: bool | None = None  # None: as the dataset returns them
    is_float: bool = False
    size: tuple[int, int] | None = None
    aliased: Any = None  # what resizes without antialiasing, which Pillow images ignore
    parts: list[_Part] = field(default_factory=list, compare=False)  # what was read, outside groups

    @property
    def level(self) -> float:
        """What one unit of the pixels is, in [0, 1]."""
        return 1.0 if self.is_float else 1 / 255

    def as_given(self, pixels: torch.Tensor) -> Any:
        """What a transform at this place gets of a uint8 picture ``(3, h, w)``."""
        if not self.is_tensor:
            return Image.fromarray(pixels.permute(1, 2, 0).numpy())
        return pixels.float() / 255 if self.is_float else pixels

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
    if isinstance(found, Operation) and not isinstance(found, (ops.Resize, ops.CenterCrop)):
        pixels.parts.append(_Part(transform, found, replace(pixels, parts=[])))
    is_known = isinstance(found, Operation) or (isinstance(found, (list, tuple)) and not any(map(_is_slot, found)))
    expected = "an operation, or a list of operations and transforms"
    require(is_known, "register_converter(function)", expected, f"{type(found).__name__} for {_name(transform)}")
    return _operations(found if isinstance(found, Operation) else list(found), pixels)


def _is_slot(entry: Any) -> bool:
    return isinstance(entry, (ViewSlot, dict, str))


def _converted(transform: Any, pixels: _Pixels) -> Converted:
    """What the converter says of the first of the transform's classes that has one and whose behaviour it keeps."""
    for kind in type(transform).__mro__:
        own = _own_converter(kind)
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


def _has_converter(transform: Any) -> bool:
    """Whether one of the transform's classes has a converter, and it keeps that class's behaviour."""
    for kind in type(transform).__mro__:
        if (_own_converter(kind) or _known(kind)) is not None:
            return True
        if _BEHAVIOUR & vars(kind).keys():
            return False
    return False


def _own_converter(kind: type) -> Callable[[Any], Converted] | None:
    return _registered.get(kind) or _registered.get(kind.__name__)


def _known(kind: type) -> Callable[[Any, _Pixels], Converted | None] | None:
    package = kind.__module__.partition(".")[0]
    if package in ("torchvision", "torch"):
        return _TORCHVISION.get(kind.__name__)
    if package == "albumentations":
        return _refuse_albumentations
    if package == "lightly" and "View" in kind.__name__ and kind.__name__.endswith("Transform"):
        return lambda t, at: [t.transform] if hasattr(t, "transform") else None
    return _REPOS.get(kind.__name__)


def _refuse(expected: str, transform: Any, hint: str | None = None) -> None:
    fail(_CALL, expected, _name(transform), hint)


def _name(transform: Any) -> str:
    text = " ".join(repr(transform).split())
    plain = text.startswith("<") or not text.startswith(type(transform).__name__)
    name = getattr(transform, "__qualname__", type(transform).__name__) if plain else text
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
    inside = replace(at, parts=[])
    found = _operations(list(transforms), inside)
    if inside != at:
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


def _attributes(t: Any) -> set[str]:
    return set(getattr(t, "__dict__", ()))


def _repo_blur(t: Any, at: _Pixels) -> Converted | None:
    has = _attributes(t)
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
    if _attributes(t) - {"p", "prob", "threshold"}:
        return None
    prob = getattr(t, "p", getattr(t, "prob", 1.0))
    return _solarize(getattr(t, "threshold", 128), prob, at)  # Pillow's threshold where the class has none


def _repo_rotation(t: Any, at: _Pixels) -> Converted | None:
    if _attributes(t) != {"prob", "angle"}:
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
    "ToTensor": lambda t, at: [t.transform] if _attributes(t) == {"transform"} else None,
    "MaybeToTensor": lambda t, at: at.to_image(is_float=True),
}
