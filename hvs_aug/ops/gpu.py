"""The renderer for NVIDIA GPUs: compiled by Triton, a few passes over all views, each of which runs several operations.

For SimCLR's recipe these are four. The crop reads the source, writes the views, and sums what the jitter needs the mean of. Jitter
and grayscale read and write the views once. The blur is two passes, which leave alone what is not blurred. That moves 3.2 MB for
each view of 224 x 224 from photographs of 500 x 375; the least, every source pixel read once and every view written once, is
0.74 MB (``python -m benchmarks.gpu_plan``). An operation without a kernel runs by its definition between the passes.

The host never waits for the device: it reads no value from it, and sends everything in one copy from page-locked memory.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .._check import is_traced
from ..data.batch import ImageBatch
from . import batched
from .blur import GaussianBlur
from .crop import unit_of
from .operation import Draws, Operation
from .plan import RenderPlan
from .triton_kernel import WHY_MISSING, triton

if triton is not None:
    from .triton_blur import blur_pass, blur_rows
    from .triton_crop import COLUMNS, LINES, ROWS, crop_pass
    from .triton_pixels import BLOCK, pixel_pass

__all__ = ["CAPABILITY", "MOST_CHANNELS", "is_available", "is_installed", "render", "why_not"]

CAPABILITY = (8, 0)
"""The oldest compute capability for which the kernels are built in the tests: Ampere's."""

MOST_CHANNELS = 16
"""Passes keep all channels of a pixel in registers; images of more are rendered by the definition."""

_WHOLE_BYTES = 2**26  # of views, up to which they are rendered in one part although a part needs scratch memory
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def is_installed() -> bool:
    """Whether Triton can be imported, and is new enough."""
    return triton is not None


def is_available(device: torch.device | str = "cuda") -> bool:
    """Whether views of images on a device are rendered here; with ``TRITON_INTERPRET=1`` those on a CPU, slowly, for tests."""
    return not why_not(torch.device(device), 1)


def why_not(device: torch.device, channels: int) -> str:
    """Why views of such images cannot be rendered here; empty where they can."""
    if triton is None:
        return WHY_MISSING
    if device.type == "cpu":
        return "" if os.environ.get("TRITON_INTERPRET") == "1" else "the images are on the CPU"
    if device.type != "cuda" or torch.version.cuda is None:
        return "the kernels are for NVIDIA GPUs"
    if torch.cuda.get_device_capability(device) < CAPABILITY:
        return f"its compute capability is below {'.'.join(map(str, CAPABILITY))}"
    if channels > MOST_CHANNELS:
        return f"the images have more than {MOST_CHANNELS} channels"
    return _driver_failure()


@lru_cache(maxsize=1)
def _driver_failure() -> str:
    """Why Triton cannot start kernels in this process, such as an old driver or no C compiler; empty where it can."""
    try:
        triton.runtime.driver.active.get_current_target()
    except (ImportError, OSError, RuntimeError, subprocess.SubprocessError) as error:
        return f"Triton does not start: {error}"
    return ""


def render(
    images: ImageBatch,
    boxes: Tensor,
    drawn: Mapping[str, Draws],
    plan: RenderPlan,
    *,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
) -> Tensor:
    """Render V views of each of B images.

    A blur needs scratch memory, and so does a result that is not contiguous float32, where there is more than one pass. Large
    batches are then rendered in two parts, so that each scratch holds half of the views, as float32.

    Shape: boxes ``(V, B, 4)`` int64; drawn, for each operation by its name, its parameters ``(V, B, ...)``; all on the device of
        the images -> ``(V, B, C, h, w)`` of ``dtype``, float32, bfloat16 or float16; with ``channels_last`` each view is stored
        with the channels of a pixel together.
    """
    views, count = boxes.shape[:2]
    assert dtype in _DTYPES
    height, width = plan.size
    shape = (views, count, images.channels, height, width)
    if channels_last:
        out = torch.empty(views, count, height, width, images.channels, dtype=dtype, device=images.device).permute(0, 1, 4, 2, 3)
    else:
        out = torch.empty(shape, dtype=dtype, device=images.device)
    if out.numel() == 0:
        return out
    stages = _stages(plan, images.channels)
    is_direct = dtype == torch.float32 and out.is_contiguous()
    needs_scratch = any(stage.head == "blur" for stage in stages) or not (is_direct or len(stages) == 1)
    chunk = -(-count // 2) if needs_scratch and 4 * out.numel() > _WHOLE_BYTES else count
    whole = _Batch.of(images, boxes, drawn, plan)
    with torch.cuda.device(out.device) if out.is_cuda and not is_traced(out) else nullcontext():
        for first in range(0, count, chunk):
            part = slice(first, min(first + chunk, count))
            _render_part(whole, plan, stages, out[:, part], part, is_direct)
    return out


class _Functions(tuple[Any, ...]):
    """Functions that a kernel is compiled with; Triton looks for compiled kernels on disk by this key."""

    @property
    def cache_key(self) -> str:
        return "-".join(function.cache_key for function in self)


@dataclass(frozen=True)
class _Stage:
    """One pass: how it reads views (``"crop"``, ``"pixels"``, ``"blur"``), and which operations it runs on them; or a definition.

    Attributes:
        head: that.
        step: the blur, or what is run by its definition, with its name.
        functions: of the kernels that it runs.
        mean_of: what it sums for the next pass, or ``None``.
        has_mean: whether the first of its kernels needs what the pass before has summed.
        drawn: for each of its kernels, and for ``mean_of``, the names of operation and parameter of what they read.
        fields: for each of these what :meth:`Operation.kernel_fields` returns.
    """

    head: str
    step: tuple[str, Operation] | None
    functions: _Functions
    mean_of: Any
    has_mean: bool
    drawn: tuple[tuple[tuple[str, str], ...], ...]
    fields: tuple[tuple[float, ...], ...]


@lru_cache(maxsize=256)
def _stages(plan: RenderPlan, channels: int) -> tuple[_Stage, ...]:
    """Share the operations out among few passes: a new one where a mean is needed, for a blur, and for a definition."""
    heads: list[tuple[str, tuple[str, Operation] | None]] = [("crop", None)]
    runs: list[list[tuple[str, Operation]]] = [[]]
    means: list[tuple[str, Operation] | None] = [None]

    def begin(head: str, step: tuple[str, Operation] | None = None) -> None:
        heads.append((head, step))
        runs.append([])
        means.append(None)

    for step in plan.steps:
        kernel = step[1].gpu_kernel
        if isinstance(step[1], GaussianBlur):
            begin("blur", step)
        elif kernel is None:
            begin("definition", step)
        else:
            if heads[-1][0] == "definition":
                begin("pixels")
            if kernel.mean_of is not None:
                means[-1] = step
                begin("pixels")
            runs[-1].append(step)
    stages = []
    for place, ((head, own), run, mean) in enumerate(zip(heads, runs, means, strict=True)):
        read = run if mean is None else [*run, mean]
        fields = tuple(tuple(map(float, operation.kernel_fields(channels, plan.size, plan.scale))) for _, operation in read)
        drawn = tuple(tuple((name, key) for key in operation.identity) for name, operation in read)
        functions = _Functions(operation.gpu_kernel.function for _, operation in run if operation.gpu_kernel)
        mean_of = mean[1].gpu_kernel.mean_of if mean and mean[1].gpu_kernel else None
        stages.append(_Stage(head, own, functions, mean_of, place > 0 and means[place - 1] is not None, drawn, fields))
    return tuple(stages)


@dataclass(frozen=True)
class _Batch:
    """What the passes read: where the images lie, and what was drawn, on the device."""

    images: ImageBatch
    values: Tensor
    starts: Tensor
    column: int
    channel: int
    boxes: Tensor
    drawn: Mapping[str, Mapping[str, Tensor]]

    @staticmethod
    def of(images: ImageBatch, boxes: Tensor, drawn: Mapping[str, Draws], plan: RenderPlan) -> _Batch:
        layout = images.layout()
        starts = torch.stack([layout.offsets, layout.rows], -1)
        if images.device.type == "cuda" and not is_traced(layout.values):
            starts = starts.pin_memory()
        return _Batch(
            images,
            layout.values,
            starts.to(images.device, non_blocking=True),
            layout.column,
            layout.channel,
            boxes.contiguous(),
            {name: {key: value.contiguous() for key, value in draws.items()} for name, draws in drawn.items()},
        )


def _render_part(whole: _Batch, plan: RenderPlan, stages: Sequence[_Stage], out: Tensor, part: slice, is_direct: bool) -> None:
    """Render some of the images, one pass after the other; out ``(V, images of the part, C, h, w)``, a slice of the result."""
    views, count, channels, height, width = out.shape
    shape, device = (views, count, channels, height, width), out.device
    work = out
    if not is_direct and len(stages) > 1:
        work = torch.empty(shape, dtype=torch.float32, device=device)
    scratch = torch.empty(shape, dtype=torch.float32, device=device) if any(stage.head == "blur" for stage in stages) else None
    common = {
        "first": part.start,
        "views": views,
        "batch": whole.boxes.shape[1],
        "height": height,
        "width": width,
        "area": height * width,
        "channels": channels,
    }
    flat = {name: value for name, value in common.items() if name != "height"}
    sums: Tensor | None = None
    for index, stage in enumerate(stages):
        if stage.head == "definition":
            assert stage.step is not None
            _define(stage.step, work, whole, part, plan)
            continue
        target = out if index == len(stages) - 1 else work
        tiles = _tiles(stage.head, height, width)
        made = torch.empty(views * count, tiles, dtype=torch.float32, device=device) if stage.mean_of is not None else None
        finish = _finish_arguments(stage, whole, target) | {"sums": made}
        source = {"source": work, "source_stride": _stride(work)}
        grid = (views * count * tiles,)
        if stage.head == "crop":
            _launch(crop_pass, grid, **_crop_arguments(whole, plan), **common, **finish)
        elif stage.head == "pixels":
            means = {"means": sums, "mean_tiles": 0 if sums is None else sums.shape[1], "has_mean": stage.has_mean}
            _launch(pixel_pass, grid, **source, **flat, **finish, **means, block=BLOCK)
        else:
            assert stage.step is not None and scratch is not None
            name, operation = stage.step
            most, scale = operation.kernel_fields(channels, plan.size, plan.scale)
            blur = (
                source | common | {"scratch": scratch, "scratch_stride": _stride(scratch), "most": int(most), "scale": float(scale)}
            )
            blur |= {"sigmas": whole.drawn[name]["sigma"], "block": BLOCK}
            _launch(blur_rows, grid, **blur)
            _launch(blur_pass, grid, **blur, **finish, is_in_place=target is work)
        sums = made
    if stages[-1].head == "definition" and work is not out:
        out.copy_(work)


def _launch(kernel: Any, grid: tuple[int, ...], **arguments: Any) -> None:
    """Start a kernel; without this option, Triton 3.9 warns that its default will change."""
    kernel[grid](**arguments, enable_fp_fusion=True)


def _tiles(head: str, height: int, width: int) -> int:
    """How many programs make one view."""
    if head == "crop":
        return -(-height // ROWS) * -(-width // COLUMNS)
    return -(-height * width // BLOCK)


def _stride(views: Tensor) -> int:
    """How many views further the next candidate of an image lies."""
    return views.stride(0) // (views.shape[2] * views.shape[3] * views.shape[4])


def _finish_arguments(stage: _Stage, whole: _Batch, target: Tensor) -> dict[str, Any]:
    """What a pass needs to run its operations and write the views."""
    channels, height, width = target.shape[2:]
    is_planar = target.stride(4) == 1 or channels == 1
    return {
        "target": target,
        "target_stride": _stride(target),
        "pixel_step": 1 if is_planar else channels,
        "channel_step": height * width if is_planar else 1,
        "steps": stage.functions,
        "mean_of": stage.mean_of,
        "drawn": tuple([tuple([whole.drawn[name][key] for name, key in names]) for names in stage.drawn]),
        "fields": stage.fields,
    }


def _crop_arguments(whole: _Batch, plan: RenderPlan) -> dict[str, Any]:
    mirrored, flipped = (tuple(whole.drawn[name]["applied"] for name in names) for names in plan.flips)
    return {
        "values": whole.values,
        "starts": whole.starts,
        "column": whole.column,
        "channel": whole.channel,
        "unit": unit_of(whole.values.dtype),
        "boxes": whole.boxes,
        "mirrored": mirrored,
        "flipped": flipped,
        "is_cubic": plan.interpolation == "bicubic",
        "rows_of_tile": ROWS,
        "columns_of_tile": COLUMNS,
        "lines": LINES,
    }


def _define(step: tuple[str, Operation], work: Tensor, whole: _Batch, part: slice, plan: RenderPlan) -> None:
    """Run an operation by its definition, in place, one candidate of the part's images after the other."""
    for candidate, views in enumerate(work):
        drawn = {key: value[candidate, part] for key, value in whole.drawn[step[0]].items()}
        for rows in batched.chunks(len(views), views):
            views[rows] = plan.apply(step, views[rows], {key: value[rows] for key, value in drawn.items()})
