"""The scoring forward: every candidate through the model once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from .._check import HVSError, describe, fail, require

__all__ = ["Output", "blame_dtype", "by_view", "forward_slots", "map_output"]

Output: TypeAlias = Tensor | tuple[Tensor, ...] | dict[str, Tensor]
"""What a model returns for n images: tensors whose first axis is n. As a slot's output, the leading axes are (v, B)."""

_CALL = "HardPairSampler(model)"


def forward_slots(
    model: Callable[..., Any],
    views: Sequence[Tensor | None],
    arguments: Sequence[tuple[Tensor, ...]] | None = None,
    *,
    chunk: int | None = None,
    channels_last: bool = False,
    call: str = _CALL,
) -> list[Output | None]:
    """Run the model once for each resolution, and give each slot its outputs.

    Slots of one resolution are joined view by view: row ``v * B + b`` of a call is view v of image b. With ``chunk`` a call is
    cut into equal parts of at most that many images, each of which is then a batch of its own to BatchNorm.

    Shape: views, one ``(v, B, C, h, w)`` per slot, or ``None`` for a slot that is left out; arguments, for each slot further
    tensors ``(v, B, ...)`` for the model -> for each slot the model's output, its first axis unflattened to ``(v, B)``.

    Raises:
        HVSError: if an output's first axis is not that of the images, or it is not floating point, or on another device.
    """
    arguments = arguments if arguments is not None else [()] * len(views)
    groups: dict[object, list[int]] = {}
    for slot, pixels in enumerate(views):
        if pixels is not None:
            groups.setdefault((pixels.shape[1:], len(arguments[slot])), []).append(slot)
    outputs: list[Output | None] = [None] * len(views)
    for slots in groups.values():
        joining = [value for slot in slots if (value := views[slot]) is not None]
        inputs = [_joined(joining), *(_joined(list(values)) for values in zip(*(arguments[slot] for slot in slots), strict=True))]
        if channels_last:
            inputs[0] = inputs[0].contiguous(memory_format=torch.channels_last)
        images = len(inputs[0])
        parts = 1 if chunk is None else max(1, -(-images // chunk))
        pieces: list[Output] = []
        for piece in zip(*(value.tensor_split(parts) for value in inputs), strict=True):
            pieces.append(_checked(model(*piece), piece[0], call))
        whole = pieces[0] if parts == 1 else map_output(lambda *values: torch.cat(values), *pieces)
        batch = joining[0].shape[1]
        first = 0
        for slot, value in zip(slots, joining, strict=True):
            rows = slice(first * batch, (first + len(value)) * batch)
            outputs[slot] = map_output(lambda leaf, rows=rows, batch=batch: by_view(leaf[rows], batch), whole)
            first += len(value)
    return outputs


def map_output(function: Callable[..., Tensor], *outputs: Any) -> Output:
    """Apply a function to the corresponding tensors of outputs of one structure."""
    first = outputs[0]
    if isinstance(first, Tensor):
        return function(*outputs)
    if isinstance(first, dict):
        return {name: function(*(value[name] for value in outputs)) for name in first}
    return tuple(function(*values) for values in zip(*outputs, strict=True))


def by_view(values: Tensor, batch: int) -> Tensor:
    """Split the first axis, view by view: ``(v * B, ...)`` -> ``(v, B, ...)``."""
    return values.view(-1, batch, *values.shape[1:]) if batch else values.view(0, 0, *values.shape[1:])


def _joined(values: list[Tensor]) -> Tensor:
    flat = [value.flatten(0, 1) for value in values]
    return flat[0] if len(flat) == 1 else torch.cat(flat)


def _checked(output: Any, images: Tensor, call: str) -> Output:
    """Return what the model gave as a tensor, tuple or dict of tensors that fit the images."""
    result: Output = dict(output) if isinstance(output, Mapping) else tuple(output) if isinstance(output, list) else output
    leaves = list(result.values()) if isinstance(result, dict) else result if isinstance(result, tuple) else (result,)
    require(len(leaves) > 0, call, "at least one tensor from the model", describe(output))
    for leaf in leaves:
        if not isinstance(leaf, Tensor):
            expected = "a model that returns a tensor, or a tuple or dict of tensors"
            fail(call, expected, describe(leaf), "wrap it in a lambda that does.")
        if leaf.ndim == 0 or len(leaf) != len(images):
            fail(
                call,
                f"outputs whose first axis is the {len(images)} images of the call",
                leaf,
                "return one row per image, in the order of the images, and no loss that is already averaged.",
            )
        require(leaf.is_floating_point(), call, "floating-point outputs", leaf)
        require(leaf.device == images.device, call, f"outputs on {images.device}, where the images are", leaf)
    return result


def blame_dtype(error: Exception, roots: Iterable[nn.Module], pixels: Sequence[Tensor]) -> None:
    """Say that a model's weights have another dtype than the views, if a first forward failed for that; else return."""
    dtypes = {weight.dtype for root in roots for weight in root.parameters() if weight.is_floating_point()}
    others = sorted(str(dtype).removeprefix("torch.") for dtype in dtypes - {pixels[0].dtype})
    if not others or "type" not in str(error).lower() or isinstance(error, HVSError):
        return
    views = str(pixels[0].dtype).removeprefix("torch.")
    hint = f"cast in the model, lambda pixels: model(pixels.to(torch.{others[0]})), or score under Scoring(dtype=...)."
    try:
        fail("HardPairSampler(model)", f"a model that takes {views} views", f"one with {', '.join(others)} weights", hint)
    except HVSError as explained:
        raise explained from error
