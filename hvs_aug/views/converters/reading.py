"""Transforms as operations, by the converter of their class: the user's own, or one of the tables of this package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from PIL import Image

from ... import ops
from ..._check import fail, require
from ...ops import Operation
from ..own_generators import drawing_parts
from ..recipe import ViewRecipe, ViewSlot
from .converted import CALL, Converted, name_of, refuse
from .repo_transforms import REPOS
from .torchvision_transforms import TORCHVISION

__all__ = ["Part", "Pixels", "has_converter", "operations", "own_converter", "refuse_albumentations", "register_converter"]

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


@dataclass(frozen=True)
class Part:
    """A transform that was read as one operation, and what the pixels are there."""

    transform: Any
    operation: Operation
    pixels: Pixels


@dataclass
class Pixels:
    """What the pixels are at one place of a pipeline: read from the transforms before it."""

    is_tensor: bool | None = None  # None: as the dataset returns them
    is_float: bool = False
    size: tuple[int, int] | None = None
    aliased: Any = None  # what resizes without antialiasing, which Pillow images ignore
    parts: list[Part] = field(default_factory=list, compare=False)  # what was read, outside groups

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
            refuse("ToPILImage before the conversion to float, after which it rounds", transform)
        self.is_tensor = False
        return []

    def to_dtype(self, transform: Any) -> Converted:
        dtype = transform.dtype
        if dtype == torch.uint8 and not self.is_float:
            return []
        if dtype != torch.float32 or not (self.is_float or getattr(transform, "scale", True)):
            refuse("torch.float32 with scale=True" if dtype != torch.uint8 else "uint8 before the conversion to float", transform)
        return self.to_image(is_float=True)

    def members(self, transform: Any, transforms: Sequence[Any]) -> list[Operation]:
        """The operations of a group, none of which may change what the pixels are."""
        inside = replace(self, parts=[])
        found = operations(list(transforms), inside)
        if inside != self:
            refuse("conversions and crops that are always applied", transform)
        return found


def operations(transform: Any, pixels: Pixels) -> list[Operation]:
    """What a transform does, leaving out what is never applied."""
    if isinstance(transform, Operation):
        if isinstance(transform, ops.RandomResizedCrop) and transform.size is not None:
            pixels.size = ViewRecipe(transform.size).shape
        return [] if getattr(transform, "p", 1) == 0 else [transform]
    if isinstance(transform, (list, tuple, torch.nn.ModuleList, torch.nn.Sequential)):
        return [operation for inner in transform for operation in operations(inner, pixels)]
    found = _converted(transform, pixels)
    if isinstance(found, Operation) and not isinstance(found, (ops.Resize, ops.CenterCrop)):
        pixels.parts.append(Part(transform, found, replace(pixels, parts=[])))
    is_known = isinstance(found, Operation) or (isinstance(found, (list, tuple)) and not any(map(_is_slot, found)))
    expected = "an operation, or a list of operations and transforms"
    require(is_known, "register_converter(function)", expected, f"{type(found).__name__} for {name_of(transform)}")
    return operations(found if isinstance(found, Operation) else list(found), pixels)


def _is_slot(entry: Any) -> bool:
    return isinstance(entry, (ViewSlot, dict, str))


def _converted(transform: Any, pixels: Pixels) -> Converted:
    """What the converter says of the first of the transform's classes that has one and whose behaviour it keeps."""
    for kind in type(transform).__mro__:
        own = own_converter(kind)
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
    fail(CALL, "a transform that can be expressed exactly", name_of(transform), hint)


def has_converter(transform: Any) -> bool:
    """Whether one of the transform's classes has a converter, and it keeps that class's behaviour."""
    for kind in type(transform).__mro__:
        if (own_converter(kind) or _known(kind)) is not None:
            return True
        if _BEHAVIOUR & vars(kind).keys():
            return False
    return False


def own_converter(kind: type) -> Callable[[Any], Converted] | None:
    return _registered.get(kind) or _registered.get(kind.__name__)


def _known(kind: type) -> Callable[[Any, Pixels], Converted | None] | None:
    package = kind.__module__.partition(".")[0]
    if package in ("torchvision", "torch"):
        return TORCHVISION.get(kind.__name__)
    if package == "albumentations":
        return refuse_albumentations
    if package == "lightly" and "View" in kind.__name__ and kind.__name__.endswith("Transform"):
        return lambda t, at: [t.transform] if hasattr(t, "transform") else None
    return REPOS.get(kind.__name__)


def refuse_albumentations(transform: Any, _: Any = None) -> None:
    """Fail if a transform holds albumentations' operations, naming the one that resizes."""
    parts = [part for part in drawing_parts(transform) if type(part).__module__.partition(".")[0] == "albumentations"]
    resizing = [part for part in parts if any(word in type(part).__name__ for word in ("Crop", "Resize", "Scale", "Size"))]
    hint = "albumentations averages boxes of pixels or skips pixels where it reduces; views='own' runs it as it is."
    for part in [*resizing, *parts][:1]:
        refuse("an antialiased crop", part, hint)
