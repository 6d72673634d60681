"""The renderer in plain torch: every operation by its definition, over all views of a slot, on any device.

It reads no value from the device, so the host never waits. It renders where neither numba nor Triton runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from .._check import readable
from ..data.batch import ImageBatch
from .crop import crop_resize, most_taps
from .operation import Draws, Operation
from .plan import RenderPlan

__all__ = ["apply_in_place", "chunks", "render"]

_CHUNK_BYTES = 2**27  # of what one step of the crop or of an operation makes at a time


def render(images: ImageBatch, boxes: Tensor, drawn: Mapping[str, Draws], plan: RenderPlan) -> Tensor:
    """Render V views of each of B images, in parts of bounded memory.

    Shape: boxes ``(V, B, 4)`` int64; drawn, for each operation by its name, its parameters ``(V, B, ...)``; all on the device of
        the images -> ``(V, B, C, h, w)`` float32.
    """
    views, count = boxes.shape[:2]
    flat = {name: {key: value.flatten(0, 1) for key, value in draws.items()} for name, draws in drawn.items()}
    layout = images.layout()
    device = images.device
    offsets, rows = (value.to(device, non_blocking=True).repeat(views) for value in (layout.offsets, layout.rows))
    # uint16 cannot be indexed by torch; half precision and float64 are read as float32.
    values = layout.values.detach()
    values = values if values.dtype in (torch.uint8, torch.uint16) else values.float()
    unit_values = values.float() * (1 / 65535) if values.dtype == torch.uint16 else values
    if views * count == 0:
        return torch.empty(views, count, images.channels, *plan.size, dtype=torch.float32, device=device)
    # Boxes that are on a device are not looked at; no box is larger than its image, and no image than its plane.
    planes = images.sizes.tolist() if images.offsets is not None else [images.pixels.shape[-2:]]
    sides = boxes[..., 2:].flatten(0, 1).tolist() if readable(boxes) else planes
    tallest, widest = (max(lengths) for lengths in zip(*sides, strict=True))
    taps = most_taps(tallest, plan.size[0], plan.interpolation), most_taps(widest, plan.size[1], plan.interpolation)
    mirrored = plan.mirrored(flat, views * count, device)
    flat_boxes = boxes.flatten(0, 1)
    most = max(1, _CHUNK_BYTES // (8 * images.channels * max(tallest, plan.size[0]) * plan.size[1]))
    parts = []
    for start in range(0, views * count, most):
        part = slice(start, start + most)
        view = crop_resize(
            unit_values,
            offsets[part],
            rows[part],
            (layout.column, layout.channel),
            flat_boxes[part],
            images.channels,
            plan.size,
            plan.interpolation,
            tallest,
            taps,
        )
        for axis, column in ((-1, 0), (-2, 1)):
            if plan.flips[column]:
                view = torch.where(mirrored[part, column].view(-1, 1, 1, 1), view.flip(axis), view)
        for step in plan.steps:
            view = plan.apply(step, view, {key: value[part] for key, value in flat.get(step[0], {}).items()})
        parts.append(view)
    whole = torch.cat(parts) if len(parts) != 1 else parts[0]
    return whole.view(views, count, *whole.shape[1:])


def apply_in_place(plan: RenderPlan, step: tuple[str, Operation], views: Tensor, drawn: Draws) -> None:
    """Change the views for which the operation drew something, by its definition, in parts of bounded memory.

    Shape: views ``(n, C, h, w)`` float32 on the CPU; drawn, each ``(n, ...)``.
    """
    _, operation = step
    changes = torch.ones(len(views), dtype=torch.bool, device="cpu")
    if operation.identity:
        unlike = [(value != operation.identity[name]).view(len(views), -1).any(1) for name, value in drawn.items()]
        changes = torch.stack(unlike).any(0)
    chosen = changes.nonzero()[:, 0]
    for part in chunks(len(chosen), views):
        rows = chosen[part]
        views[rows] = plan.apply(step, views[rows], {name: value[rows] for name, value in drawn.items()})


def chunks(count: int, views: Tensor) -> Iterator[slice]:
    """Split ``count`` views of the size of ``views``, ``(n, C, h, w)``, into parts of bounded memory."""
    step = max(1, _CHUNK_BYTES // (4 * max(1, views[:1].numel())))
    return (slice(start, start + step) for start in range(0, count, step))
