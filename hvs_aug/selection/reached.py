"""The modules that a callable holds, as far as they can be read off it without running it."""

from __future__ import annotations

import types
from collections.abc import Iterator
from functools import partial

from torch import nn

__all__ = ["find_modules"]

_PLAIN = (type, types.ModuleType, str, bytes, int, float, list, tuple, dict, set, frozenset)


def find_modules(*callables: object) -> tuple[nn.Module, ...]:
    """Find modules that callables hold: to learn their device and mode, and what a compiled function runs.

    A module counts as a whole. Otherwise the search follows bound methods, ``functools.partial``, decorated functions, closure
    cells, defaults, the globals that a function's code names, and the attributes of objects one level deep. Containers are not
    looked into: they can hold anything, and the search runs in every step. Modules that are reached in another way are
    found when they run (:mod:`hvs_aug.selection.no_trace`).

    Example:
        >>> encoder, head = nn.Linear(4, 4), nn.Linear(4, 2)
        >>> len(find_modules(lambda images: head(encoder(images.flatten(1)))))
        2
    """
    found: dict[nn.Module, None] = {}
    seen: set[tuple[int, bool]] = set()
    # Each entry says whether the attributes of a plain object are looked into: those of a callable are, theirs are not.
    pending: list[tuple[object, bool]] = [(value, True) for value in callables]
    while pending:
        value, opened = pending.pop()
        if isinstance(value, nn.Module):
            found[value] = None
            continue
        if isinstance(value, _PLAIN) or (id(value), opened) in seen:
            continue
        seen.add((id(value), opened))
        if isinstance(value, types.MethodType):
            pending += [(value.__self__, opened), (value.__func__, True)]
        elif isinstance(value, partial):
            pending += [(part, True) for part in (value.func, *value.args, *value.keywords.values())]
        elif isinstance(value, types.FunctionType):
            pending += [(part, True) for part in _reached(value)]
        elif opened and hasattr(value, "__dict__"):
            pending += [(part, False) for part in vars(value).values()]
    return tuple(found)


def _reached(function: types.FunctionType) -> Iterator[object]:
    # functools.wraps leaves the one name; torch.compile the other, for which it has no public one. Both are attributes alone.
    yield from (function.__dict__[name] for name in ("__wrapped__", "_torchdynamo_orig_callable") if name in function.__dict__)
    if (function.__module__ or "").partition(".")[0] == "torch":
        return  # PyTorch's own functions hold no model, but reach half of PyTorch.
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # a name that is not bound yet
            continue
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    codes = [function.__code__]
    while codes:
        code = codes.pop()
        yield from (function.__globals__[name] for name in code.co_names if name in function.__globals__)
        codes += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
