"""Tensors as they come from anywhere: any shape, dtype, strides, with gradients or made in inference mode."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from torch import Tensor

EXAMPLES = int(os.environ.get("HVS_EXAMPLES", "12"))
few = settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
SIDES = st.sampled_from([1, 2, 5, 33, 150])


def _channels_last(value: Tensor) -> Tensor:
    return value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda value: value,
    "transposed": lambda value: value.transpose(-1, -2).contiguous().transpose(-1, -2),
    "every other": lambda value: torch.stack([value, value], -1).flatten(-2)[..., ::2],
    "flipped twice": lambda value: value.flip(-1).contiguous().flip(-1),
    "channels last": _channels_last,
    "part of more": lambda value: torch.cat([value, value])[: len(value)],
}


@st.composite
def tensors(draw: st.DrawFn, shape: Sequence[int], dtypes: Sequence[torch.dtype] = FLOATS) -> Tensor:
    """A tensor of this shape, its values in the range of an image's; sometimes not finite where it can be."""
    dtype = draw(st.sampled_from(list(dtypes)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    value = torch.rand(*shape, generator=generator)
    value = value.to(dtype) if dtype.is_floating_point else (value * (2 if dtype == torch.bool else 255)).to(dtype)
    layout = LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))]
    kind = draw(st.sampled_from(["plain", "plain", "gradient", "inference"]))
    if kind == "inference":
        with torch.inference_mode():
            return layout(value.clone())
    return layout(value).requires_grad_(kind == "gradient" and dtype.is_floating_point)


@st.composite
def images(draw: st.DrawFn) -> Tensor:
    """Images (B, C, H, W), empty batches and one-pixel images among them, or something that is none."""
    shape = [draw(st.integers(0, 3)), draw(st.sampled_from([3, 3, 3, 1, 4])), draw(SIDES), draw(SIDES)]
    shape = draw(st.sampled_from([shape, shape, shape, shape[1:], [*shape, 2], [*shape[:3], 0]]))
    return draw(tensors(shape, (torch.uint8, torch.uint8, *FLOATS, torch.int64, torch.bool)))


def plain(value: Tensor) -> Tensor:
    """The same values in a tensor without history."""
    return value.detach().clone(memory_format=torch.contiguous_format)


def answer(call: Callable[..., Any], error: type[Exception], *given: Tensor) -> list[Tensor] | str:
    """The tensors that a call returns, or ``"refused"`` after the error; fails if it changes what it was given."""
    before = [(plain(value), value.stride(), value.requires_grad) for value in given]
    try:
        found: Any = call(*given)
    except error:
        found = "refused"
    for value, (values, stride, requires_grad) in zip(given, before, strict=True):
        assert torch.equal(plain(value).nan_to_num(), values.nan_to_num()), "a changed input"
        assert (value.stride(), value.requires_grad) == (stride, requires_grad) and (not value.is_leaf or value.grad is None)
    return found if isinstance(found, str) else [value for value in found if isinstance(value, Tensor)]


def same(one: list[Tensor] | str, other: list[Tensor] | str) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    pairs = list(zip(one, other, strict=True))
    return all(a.dtype == b.dtype and torch.allclose(a.double(), b.double(), atol=1e-5, equal_nan=True) for a, b in pairs)
