"""Where every error message of the library is built: what was called, what was expected, what came, and the likely fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor

__all__ = [
    "HVSError",
    "describe",
    "fail",
    "is_dense",
    "is_traced",
    "readable",
    "require",
    "require_fraction",
    "require_name",
]


class HVSError(ValueError):
    """The one exception that hvs_aug raises for bad input; its message names the argument, what was expected and what came."""


def describe(value: object) -> str:
    """Say what a value is in a few words: dtype, shape and device of a tensor, the type and value of anything else."""
    if isinstance(value, Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        if value.is_nested:
            return f"a {dtype} nested tensor"
        kind = "tensor" if value.layout is torch.strided else f"tensor with layout {value.layout},"
        return f"a {dtype} {kind} of shape {tuple(value.shape)} on {value.device}"
    if isinstance(value, (tuple, list)) and any(isinstance(part, Tensor) for part in value):
        return f"a {type(value).__name__} of {', '.join(map(describe, value))}"
    if isinstance(value, Mapping) and any(isinstance(part, Tensor) for part in value.values()):
        return f"a {type(value).__name__} of {', '.join(f'{key!r}: {describe(part)}' for key, part in value.items())}"
    if isinstance(value, type):
        return value.__name__
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 80 else text[:77] + '...'}"


def fail(call: str, expected: str, got: Any, hint: str | None = None) -> NoReturn:
    """Raise HVSError as ``call: expected ..., got ....`` with a hint on a second line.

    ``call`` names the callable and the argument, ``"HardPairSampler.select(candidates)"``; ``got`` is a phrase, or any other
    value, which is then described.
    """
    came = got if isinstance(got, str) else describe(got)
    message = f"{call}: expected {expected}, got {came}."
    raise HVSError(message if hint is None else f"{message}\n  hint: {hint}")


def require(condition: bool, call: str, expected: str, got: Any, hint: str | None = None) -> None:
    """Fail with the given words unless the condition holds."""
    if not condition:
        fail(call, expected, got, hint)


def require_fraction(value: float, call: str) -> None:
    """Fail unless the value is a number in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 <= value <= 1.0:
        fail(call, "a number in [0, 1]", describe(value))


def require_name(name: str, known: Iterable[str], call: str) -> None:
    """Fail unless the name is one of those known, suggesting the closest."""
    names = sorted(known)
    if name in names:
        return
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.4)
    fail(call, f"one of {', '.join(names)}", repr(name), f"did you mean {close[0]!r}?" if close else None)


def is_dense(value: object) -> bool:
    """Whether this is a tensor whose values lie in memory by strides: neither sparse nor nested."""
    return isinstance(value, Tensor) and value.layout is torch.strided and not value.is_nested


def is_traced(*tensors: Tensor) -> bool:
    """Whether these tensors are traced by a compiler, or stand-ins (FakeTensor) that hold no values."""
    # There is no public way to ask whether a FakeTensorMode is on.
    return torch.compiler.is_compiling() or torch._guards.detect_fake_mode(tensors) is not None


def readable(*tensors: Tensor) -> bool:
    """Whether a check may look at these tensors' values: they are on the CPU, and hold values."""
    return not is_traced(*tensors) and all(tensor.device.type == "cpu" for tensor in tensors)
