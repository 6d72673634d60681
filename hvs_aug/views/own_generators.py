"""Transforms that draw from generators of their own, as albumentations' do: found in a transform, and seeded for one run of it."""

from __future__ import annotations

import inspect
import random
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

__all__ = ["drawing_parts", "seeded_parts"]

_FEW = 64  # a longer list or dict holds samples, not transforms
_MOST = 10_000  # objects that are looked into, as a transform may be a method of something large
_CLOSED = (type, types.ModuleType, types.BuiltinFunctionType, str, bytes, int, float, np.ndarray)
_GENERATORS = {"random_generator": np.random.Generator, "py_random": random.Random}


def drawing_parts(transform: Any) -> list[Any]:
    """The objects with generators of their own that a transform holds, or that its code names, from the outside in."""
    found: dict[int, Any] = {}
    seen: set[int] = set()
    pending = [transform]
    while pending and len(seen) < _MOST:
        value = pending.pop(0)
        if id(value) in seen or isinstance(value, _CLOSED):
            continue
        seen.add(id(value))
        if all(isinstance(getattr(value, name, None), kind) for name, kind in _GENERATORS.items()):
            found[id(value)] = value
        pending += _inside(value)
    return list(found.values())


def _inside(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values()) if len(value) <= _FEW else []
    if isinstance(value, (list, tuple)):
        return list(value) if len(value) <= _FEW else []
    if isinstance(value, types.MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, types.FunctionType):
        if (value.__module__ or "").partition(".")[0] in ("torch", "torchvision", "numpy", "albumentations"):
            return []
        try:
            names = inspect.getclosurevars(value)
        except ValueError:  # a name that is not bound yet
            return []
        return [*names.nonlocals.values(), *names.globals.values()]
    held = list(vars(value).values()) if hasattr(value, "__dict__") else []
    code = inspect.getattr_static(type(value), "__call__", None)
    return [*held, code] if isinstance(code, types.FunctionType) else held


@contextmanager
def seeded_parts(parts: Sequence[Any], seed: int) -> Iterator[None]:
    """Give each of the parts generators that follow from a seed, other ones for each, and put theirs back afterwards."""
    theirs = [(part, {name: getattr(part, name) for name in _GENERATORS}) for part in parts]
    try:
        for number, part in enumerate(parts):
            part.random_generator = np.random.default_rng((seed, number))
            part.py_random = random.Random((seed << 16) + number)
        yield
    finally:
        for part, generators in theirs:
            vars(part).update(generators)
