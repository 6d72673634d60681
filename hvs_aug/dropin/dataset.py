"""Where a dataset applies its transform, and a copy of the dataset that applies another in its place."""

from __future__ import annotations

import copy
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..views.trace import is_view, leaves, unstacked

__all__ = ["Call", "called", "swapped", "transforms_of"]

_FEW = 64  # a longer list or dict holds samples, not transforms
_DEEP = 6
_CLOSED = (type, types.ModuleType, types.FunctionType, types.MethodType, str, bytes, int, float, Tensor, np.ndarray, nn.Module)
_NAMES = ("trans", "aug", "prepro")


def transforms_of(dataset: Any, *, by_name: bool = True) -> list[Any]:
    """What a dataset, or those inside it, hold that may be a transform: callables, and lists of callables.

    Args:
        by_name: only what goes by a name such as ``transform`` or ``augmentations``.
    """
    found: dict[int, Any] = {}
    for name, value in _held(dataset):
        is_named = any(word in name.lower() for word in _NAMES) and "target" not in name.lower()
        members = value if isinstance(value, (list, tuple)) else [value]
        # torchvision keeps a transform twice, the second time in an object that also transforms the target.
        is_pair = type(value).__name__ == "StandardTransform"
        if (is_named or not by_name) and members and all(map(_is_transform, members)) and not is_pair:
            found[id(value)] = value
    lists = [value for value in found.values() if isinstance(value, (list, tuple))]
    inside = {id(member) for value in lists for member in value}
    return [value for value in found.values() if id(value) not in inside]


def _is_transform(value: Any) -> bool:
    return callable(value) and not isinstance(value, type)


def _held(value: Any, name: str = "", seen: set[int] | None = None, deep: int = 0) -> Iterator[tuple[str, Any]]:
    """Everything that an object holds, however deep, by its names from the outside in; not what a transform holds."""
    seen = set() if seen is None else seen
    if id(value) in seen or deep > _DEEP:
        return
    seen.add(id(value))
    for key, inner in _parts(value).items():
        own = f"{name}.{key}" if isinstance(key, str) else name  # what a list holds goes by the list's name
        yield own, inner
        if not _is_transform(inner):
            yield from _held(inner, own, seen, deep + 1)


def _parts(value: Any) -> dict[Any, Any]:
    if isinstance(value, Mapping):
        return dict(value) if len(value) <= _FEW else {}
    if isinstance(value, (list, tuple)):
        return dict(enumerate(value)) if len(value) <= _FEW else {}
    if isinstance(value, _CLOSED) or not hasattr(value, "__dict__"):
        return {}
    held = dict(vars(value))
    for kind in reversed(type(value).__mro__):
        for name, inner in vars(kind).items():
            is_method = isinstance(inner, (types.FunctionType, staticmethod, classmethod, property)) or name.startswith("__")
            if not is_method and callable(inner) and not isinstance(inner, type):
                held.setdefault(name, inner)
    return held


def swapped(value: Any, swaps: Mapping[int, Any]) -> Any:
    """A copy of an object with others in the place of those of the given ids; the object itself where it holds none of them.

    What leads to them is copied, one level each; files and samples are shared.
    """
    return _swapped(value, swaps, {}, 0)


def _swapped(value: Any, swaps: Mapping[int, Any], done: dict[int, Any], deep: int) -> Any:
    if id(value) in swaps:
        return swaps[id(value)]
    if id(value) in done or deep > _DEEP:
        return done.get(id(value), value)
    done[id(value)] = value
    parts = _parts(value)
    changed = {name: new for name, part in parts.items() if (new := _swapped(part, swaps, done, deep + 1)) is not part}
    if changed:
        done[id(value)] = _with(value, parts, changed)
    return done[id(value)]


def _with(value: Any, parts: dict[Any, Any], changed: dict[Any, Any]) -> Any:
    if isinstance(value, Mapping):
        return type(value)(parts | changed)  # type: ignore[call-arg]
    if isinstance(value, (list, tuple)):
        members = [changed.get(index, part) for index, part in parts.items()]
        return type(value)(*members) if hasattr(value, "_fields") else type(value)(members)
    new = copy.copy(value)
    vars(new).update(changed)
    return new


@dataclass(frozen=True)
class Call:
    """One call of a transform while a sample was read.

    Attributes:
        transform: what the dataset holds.
        part: the same, or the member of a list that was called.
        given: its first argument.
        views: how many views it returned.
    """

    transform: Any
    part: Callable[..., Any]
    given: Any
    views: int


def called(dataset: Any, transforms: list[Any], read: Callable[[Any], Any]) -> list[Call]:
    """Read one sample of a dataset, and say which of the transforms were called, and with what."""
    log: list[Call] = []
    swaps: dict[int, Any] = {}
    for transform in transforms:
        is_list = isinstance(transform, (list, tuple))
        swaps[id(transform)] = [_Watched(log, transform, p) for p in transform] if is_list else _Watched(log, transform, transform)
    with torch.no_grad():
        read(swapped(dataset, swaps))
    return log


class _Watched:
    """Does what a transform does, and records the calls."""

    def __init__(self, log: list[Call], transform: Any, part: Any) -> None:
        self._log, self._transform, self._part = log, transform, part

    def __call__(self, *given: Any, **named: Any) -> Any:
        returned = self._part(*given, **named)
        argument = given[0] if given else next(iter(named.values()), None)
        self._log.append(Call(self._transform, self._part, argument, sum(is_view(leaf) for _, leaf in leaves(unstacked(returned)))))
        return returned

    def __getattr__(self, name: str) -> Any:
        return getattr(self._part, name)
