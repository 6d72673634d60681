"""Existing pipelines -> slots: torchvision v1 and v2, Lightly, and the transforms of the repos that people start from.

A transform becomes operations of :mod:`hvs_aug.ops`, one line each in the tables of :mod:`hvs_aug.views.converters`. It is
recognised by its class name and attributes, and none of those packages is imported. What cannot be expressed exactly is refused by
name, never approximated. Two differences are tolerated: Pillow rounds to gray levels after every operation, here nothing is
rounded; and Pillow's ``GaussianBlur`` is three box blurs that approximate a Gaussian of that standard deviation, here it is that
Gaussian.
"""

from __future__ import annotations

import math
import warnings
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from PIL import Image

from .. import ops
from .._check import HVSError, fail, require
from ..ops import Operation
from ..ops.group import Group
from .converters.converted import CALL, name_of, refuse
from .converters.reading import Part, Pixels, has_converter, operations, own_converter, refuse_albumentations, register_converter
from .proof import part_difference, view_difference
from .recipe import ViewRecipe, ViewSlot
from .trace import Returned, kept_random_state, probe_like, trace

__all__ = ["convert", "convert_view", "register_converter"]

Role: TypeAlias = Literal["global", "local"]

# What was proved of a transform: the operation that it is, and the recipe of the pipeline that it ends.
_proved: weakref.WeakKeyDictionary[Any, set[Any]] = weakref.WeakKeyDictionary()


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
    require(len(found) > 0, CALL, "at least one view", f"{type(transform).__name__} with none")
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


def _read(pipeline: Any) -> tuple[ViewRecipe, list[Part]]:
    """The recipe of a pipeline, and the transforms that it was read from, each with its operation."""
    pixels = Pixels()
    found = operations(pipeline, pixels)
    crops = [operation for operation in found if isinstance(operation, ops.RandomResizedCrop)]
    hint = "a view without a random crop is not supported."
    require(len(crops) > 0, CALL, "a RandomResizedCrop", f"none in {name_of(pipeline)}", hint)
    if pixels.aliased is not None:
        refuse("an antialiased crop", pixels.aliased, "pass antialias=True.")
    came = f"{name_of(pipeline)}, which has no ToTensor() and no ToDtype(torch.float32, scale=True)"
    require(pixels.is_float, CALL, "a pipeline that ends in float tensors in [0, 1] or normalised", came)
    size = crops[0].size
    assert size is not None
    return ViewRecipe(size, found), pixels.parts


# ---- the proof ----


def _prove(pipeline: Any, recipe: ViewRecipe, parts: Sequence[Part], example: Any) -> None:
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
    fail(CALL, "a transform that runs on an image", f"{name_of(pipeline)}: {failed}", hint)


def _run(pipeline: Any, image: Any) -> Any:
    if isinstance(pipeline, (list, tuple, torch.nn.ModuleList)):
        for transform in pipeline:
            image = _run(transform, image)
        return image
    return pipeline(image)


def _differs(transform: Any, read_as: object, difference: str) -> None:
    name = type(transform).__name__
    hint = f"hvs_aug.register_converter({name!r}, function) says what it does; or keep it: views='own', sampler.select(candidates)."
    came = f"{name_of(transform)}, which differs in {difference}"
    fail(CALL, f"a transform that behaves as it was converted, like {read_as}", came, hint)


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
        return has_converter(part)

    def draws(self, part: Any) -> bool:
        found = self._operations(part)
        kinds = (ops.RandomResizedCrop, Group)
        return found is None or any(operation.identity or isinstance(operation, kinds) for operation in found)

    def does_nothing(self, part: Any) -> bool:
        return self._operations(part) == []

    def _operations(self, part: Any) -> list[Operation] | None:
        try:
            return operations(part, Pixels())
        except HVSError:
            return None


def _traced_views(transform: Any, returned: Returned) -> list[_View]:
    """The pipeline of each view that was returned."""
    views: list[_View] = []
    hint = "hvs_aug.wrap runs it as it is (views='own'); hvs_aug.register_converter can list the pipeline of each view."
    for view in returned.views:
        place = "".join(f"[{step!r}]" for step in view.paths[0])
        if view.pipeline is None:
            refuse_albumentations(transform)
            fail(
                CALL,
                "views that its parts make of the image, and nothing else",
                f"{name_of(transform)}, whose {place} is not",
                hint,
            )
        if view.follows is not None:
            fail(CALL, "views that share no draw", f"{name_of(transform)}, whose {place} shares one with an earlier view", hint)
        views.append(_View(view.pipeline, view.role))
    return views


def _registered_views(transform: Any) -> list[_View] | list[ViewSlot] | None:
    """What a registered converter returned, where that is slots or a pipeline for each of several views: each has a crop."""
    functions = [function for kind in type(transform).__mro__ if (function := own_converter(kind)) is not None]
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
    return any(isinstance(operation, ops.RandomResizedCrop) for operation in operations(pipeline, Pixels()))
