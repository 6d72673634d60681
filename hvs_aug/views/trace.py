"""What a transform of several views returns, and which of its parts made each view. It is run on a probe image to see."""

from __future__ import annotations

import random
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

__all__ = [
    "Parts",
    "Returned",
    "ReturnedView",
    "Stacked",
    "is_constant",
    "is_view",
    "kept_random_state",
    "leaves",
    "mapped",
    "probe_like",
    "trace",
    "unstacked",
]

Path: TypeAlias = "tuple[Any, ...]"
Role: TypeAlias = Literal["global", "local"]

_TRIES = 24  # runs until one in which no part returned its image as it was, which would hide which part came first
_PROBE_SIZES = ((180, 240), (240, 180), (200, 200))  # (height, width)


@dataclass(frozen=True)
class ReturnedView:
    """One view that a transform returns.

    Attributes:
        paths: where it stands in what is returned: keys and indices from the outside in; several where it is returned twice.
        pipeline: the parts of the transform that made it of the image, in their order; ``None`` where something else had a hand
            in it.
        role: what the key or attribute that holds it says.
        shape: ``(C, h, w)``.
        follows: the index of an earlier view that shares a draw with this one, such as a crop; else ``None``.
    """

    paths: tuple[Path, ...]
    pipeline: tuple[Any, ...] | None
    role: Role | None
    shape: tuple[int, ...]
    follows: int | None = None


@dataclass(frozen=True)
class Returned:
    """What a transform returns.

    Attributes:
        views: in the order in which they stand.
        structure: what was returned, with the index of a view in the place of each.
        has_others: whether it holds more than views and constants: values that only a run of the transform gives.
    """

    views: tuple[ReturnedView, ...]
    structure: Any
    has_others: bool


def trace(transform: Callable[[Any], Any], probe: Any, parts: Parts) -> Returned:
    """Run a transform on a probe and see which views it returns, and of what parts.

    Parts that can be read are looked for first; where these do not make all views, any object that makes an image of an image
    is a part, so that it is known which views come of the same one.

    Args:
        transform: any callable.
        probe: what the dataset gives it: an image, or a structure that holds one.
    """
    with kept_random_state(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = _traced(transform, probe, parts, parts.is_known)
        if any(view.pipeline is None for view in found.views):
            found = _traced(transform, probe, parts, lambda part: True)
    return found


class Stacked(list[Any]):
    """The views of a transform that returned them as one tensor ``(V, C, h, w)``."""


def unstacked(value: Any) -> Any:
    """What a transform returned, with a list of views in the place of each floating-point tensor ``(V, C, h, w)``."""

    def taken_apart(_: Path, leaf: Any) -> Any:
        is_stacked = isinstance(leaf, Tensor) and leaf.ndim == 4 and leaf.is_floating_point()
        return Stacked(leaf.unbind(0)) if is_stacked else leaf

    return mapped(value, taken_apart)


class Parts(Protocol):
    """What is known of the transforms that a transform holds."""

    def is_known(self, part: Any) -> bool:
        """Whether it can be read."""

    def draws(self, part: Any) -> bool:
        """Whether it draws something, so that views which share a call of it are not independent."""

    def does_nothing(self, part: Any) -> bool:
        """Whether it returns what it gets."""


def _traced(transform: Any, probe: Any, parts: Parts, is_part: Callable[[Any], bool]) -> Returned:
    for _ in range(_TRIES):
        returned, calls = _recorded(transform, probe, is_part)
        calls = [call for call in calls if not (call[1] is call[2] and parts.does_nothing(call[0]))]
        if all(given is not made for _, given, made in calls):
            break
    else:
        calls = []
    return _read(transform, probe, returned, calls, parts.draws)


def is_view(value: Any) -> bool:
    """Whether a value is an image as a network takes it: a floating-point tensor ``(C, h, w)``."""
    return isinstance(value, Tensor) and value.ndim == 3 and value.is_floating_point()


def is_image(value: Any) -> bool:
    """Whether a value is an image as a dataset holds it."""
    is_array = isinstance(value, (np.ndarray, Tensor)) and value.ndim in (2, 3)
    return isinstance(value, Image.Image) or is_array


def is_constant(value: Any) -> bool:
    """Whether a value that stands beside views says something of the transform, and not of the image."""
    return value is None or isinstance(value, (bool, str))


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """What dicts, lists and tuples hold, however deep, each with the keys and indices that lead to it."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from leaves(inner, (*path, index))
    else:
        yield path, value


def mapped(value: Any, function: Callable[[Path, Any], Any], path: Path = ()) -> Any:
    """The same dicts, lists and tuples with ``function(path, leaf)`` in the place of each leaf."""
    if isinstance(value, Mapping):
        return {key: mapped(inner, function, (*path, key)) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        parts = [mapped(inner, function, (*path, index)) for index, inner in enumerate(value)]
        if isinstance(value, list):
            return Stacked(parts) if isinstance(value, Stacked) else parts
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return function(path, value)


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Leave the global random states of torch (on the CPU), NumPy and ``random`` as they were."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002 - the transforms draw from it
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        random.setstate(states[2])


def probe_like(example: Any = None, number: int = 0) -> Any:
    """A picture with gradients, edges, texture and colours, of the kind of an example: a PIL image of its mode, an array, a tensor.

    Three numbers give three pictures of different shapes. In a structure, the image in it is replaced.
    """
    if example is not None and not is_image(example):
        done: list[bool] = []

        def replaced(_: Path, leaf: Any) -> Any:
            if is_image(leaf) and not done:
                done.append(True)
                return probe_like(leaf, number)
            return leaf

        return mapped(example, replaced)
    height, width = _PROBE_SIZES[number % len(_PROBE_SIZES)]
    if example is None or isinstance(example, Image.Image):
        mode = "RGB" if example is None else example.mode
        try:
            return Image.merge(
                mode, [Image.fromarray(plane) for plane in _picture(height, width, len(Image.new(mode, (1, 1)).getbands()))]
            )
        except ValueError:  # modes that are not made of bytes
            return Image.fromarray(np.moveaxis(_picture(height, width, 3), 0, -1)).convert(mode)
    if isinstance(example, Tensor):
        planes = torch.from_numpy(_picture(height, width, len(example) if example.ndim == 3 else 1))
        pixels = planes if example.ndim == 3 else planes[0]
        scale = {torch.uint8: 1, torch.uint16: 257}.get(example.dtype, 1 / 255)
        return (pixels * scale).to(example.dtype).as_subclass(type(example))
    picture = _picture(height, width, example.shape[2] if example.ndim == 3 else 1)
    array = np.moveaxis(picture, 0, -1) if example.ndim == 3 else picture[0]
    return (array / 255).astype(example.dtype) if example.dtype.kind == "f" else array.astype(example.dtype)


@cache
def _picture(height: int, width: int, channels: int) -> np.ndarray[Any, Any]:
    """(channels, height, width) uint8: a ramp across, a ramp down, and blocks with texture, in turn."""
    generator = np.random.default_rng(height * width)
    across = np.broadcast_to(np.linspace(0, 1, width), (height, width))
    down = np.broadcast_to(np.linspace(0, 1, height)[:, None], (height, width))
    blocks = np.kron(generator.random((height // 20, width // 20)), np.ones((20, 20)))
    planes = [across, down, blocks]
    noise = generator.normal(0, 0.06, (channels, height, width))
    pixels = 0.12 + 0.76 * np.stack([planes[channel % 3] for channel in range(channels)]) + noise
    return (pixels.clip(0, 1) * 255).astype(np.uint8)


# ---- recording ----

_Call: TypeAlias = "tuple[Any, Any, Any]"  # a part, what it got, what it returned


def _recorded(transform: Any, probe: Any, is_part: Callable[[Any], bool]) -> tuple[Any, list[_Call]]:
    """Run the transform and record the calls of its parts, which it may hold in any way; not what a part calls itself."""
    ended: list[tuple[int, int, _Call]] = []  # when it began and ended, in calls seen
    inside: list[tuple[types.FrameType, Any, Any, int]] = []
    seen = 0

    def watch(frame: types.FrameType, event: str, value: Any) -> None:
        nonlocal seen
        if inside and event == "return" and frame is inside[-1][0]:
            _, part, given, began = inside.pop()
            if is_image(value):
                ended.append((began, seen, (part, given, value)))
            return
        code = frame.f_code
        if event == "call" and code.co_name in ("__call__", "_wrapped_call_impl", "forward") and code.co_argcount:
            part = frame.f_locals[code.co_varnames[0]]
            given = _first_argument(frame)
            if part is not transform and is_image(given) and is_part(part):
                seen += 1
                inside.append((frame, part, given, seen))

    def run() -> Any:
        sys.setprofile(watch)  # of this thread only
        try:
            returned = transform(probe)
        finally:
            sys.setprofile(None)
        return unstacked(returned)

    # In a thread of its own, so that a profiler of the caller's is left alone.
    with ThreadPoolExecutor(1) as pool:
        returned = pool.submit(run).result()
    calls: list[_Call] = []
    until = 0
    for began, end, call in sorted(ended, key=lambda entry: entry[0]):
        if began > until:  # else it was called by the one before
            calls.append(call)
            until = end
    return returned, calls


def _first_argument(frame: types.FrameType) -> Any:
    code, values = frame.f_code, frame.f_locals
    if code.co_argcount > 1:
        return values[code.co_varnames[1]]
    rest = values.get(code.co_varnames[code.co_argcount + code.co_kwonlyargcount]) if code.co_flags & 0x04 else None
    return rest[0] if rest else None


# ---- reading ----


def _read(transform: Any, probe: Any, returned: Any, calls: list[_Call], draws: Callable[[Any], bool]) -> Returned:
    images = [leaf for _, leaf in leaves(probe) if is_image(leaf)]
    made: dict[int, tuple[int, ...]] = {id(image): () for image in images[:1]}
    for number, (_, given, value) in enumerate(calls):
        if id(given) in made:
            made[id(value)] = (*made[id(given)], number)
    paths: dict[int, list[Path]] = {}
    tensors: dict[int, Tensor] = {}
    has_others = False
    for path, leaf in leaves(returned):
        if is_view(leaf):
            paths.setdefault(id(leaf), []).append(path)
            tensors[id(leaf)] = leaf
        else:
            has_others = has_others or not is_constant(leaf)
    views: list[ReturnedView] = []
    histories: list[tuple[int, ...] | None] = []
    for key, places in paths.items():
        history = made.get(key) or _equal(tensors[key], calls, made) or None
        drawn = {number for number in history or () if draws(calls[number][0])}
        shares = [index for index, other in enumerate(histories) if other and drawn & set(other)]
        parts = None if history is None else tuple(calls[number][0] for number in history)
        role = _role([str(step) for step in places[0] if isinstance(step, str)] + _names(transform, parts))
        views.append(ReturnedView(tuple(places), parts, role, tuple(tensors[key].shape), shares[0] if shares else None))
        histories.append(history)
    numbers = {key: index for index, key in enumerate(paths)}
    structure = mapped(returned, lambda _, leaf: numbers.get(id(leaf)) if is_view(leaf) else leaf)
    return Returned(tuple(views), structure, has_others)


def _equal(view: Tensor, calls: list[_Call], made: dict[int, tuple[int, ...]]) -> tuple[int, ...] | None:
    """Which calls made a view that was put into one tensor with others, and has another identity there."""
    if view._base is None:
        return None
    same = (value for _, _, value in calls if isinstance(value, Tensor) and value.shape == view.shape and torch.equal(value, view))
    return next((made[id(value)] for value in same if id(value) in made), None)


def _names(transform: Any, parts: tuple[Any, ...] | None) -> list[str]:
    """The attributes under which a transform holds its parts."""
    held = vars(transform).items() if hasattr(transform, "__dict__") else ()
    return [name for name, value in held for part in parts or () if value is part]


def _role(names: list[str]) -> Role | None:
    """What a name says of a view: DINO's ``local_transfo``, DINOv2's ``global_crops``."""
    for name in names:
        if "local" in name.lower():
            return "local"
        if "global" in name.lower():
            return "global"
    return None
