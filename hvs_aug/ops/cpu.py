"""The renderer for the CPU: numba compiles it, and it runs without the interpreter's lock, one view after the other.

A view is cropped into its place in the result. Then the kernel of each operation changes it there, so it stays in the cache of
one core. ``torch.get_num_threads()`` threads of this module share the views. An operation without a kernel runs by its
definition, between those that have one.
"""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._memory import Recycled
from ..data.batch import ImageBatch
from . import batched
from .crop import crop_view, most_taps, unit_of
from .kernel import CPUKernel, call_kernel, compile_options, compiled, compiling, is_available, numba
from .operation import Draws, Operation
from .plan import RenderPlan

__all__ = ["is_available", "render", "warn_if_missing"]

_LOG = logging.getLogger("hvs_aug")
_memory = Recycled(count=8, size=2**30)  # of views that are gone: half of the time of a large batch went into fresh pages
_SLOW = 1.0  # seconds of compiling after which a user is told what takes so long
_slow_compilations = itertools.count()


@cache
def warn_if_missing() -> None:
    """Log once in a process if numba is missing, because views are then rendered slowly."""
    if not is_available():
        _LOG.warning(
            "numba is not installed, or NUMBA_DISABLE_JIT is set: hvs_aug renders views on the CPU by the operations' definitions, "
            "which takes several times as long. To install it: pip install numba"
        )


def render(images: ImageBatch, boxes: Tensor, drawn: Mapping[str, Draws], plan: RenderPlan) -> Tensor:
    """Render V views of each of B images.

    Shape: boxes ``(V, B, 4)`` int64; drawn, for each operation by its name, its parameters ``(V, B, ...)``; all on the CPU
        -> ``(V, B, C, h, w)`` float32.
    """
    views, count = boxes.shape[:2]
    channels, (height, width) = images.channels, plan.size
    out = _memory.empty(views * count * channels * height * width, torch.float32).view(views * count, channels, height, width)
    if len(out) == 0:
        return out.view(views, count, channels, height, width)
    flat = {name: {key: value.flatten(0, 1) for key, value in draws.items()} for name, draws in drawn.items()}
    first, *later = _stages(plan.steps)
    _run(images, boxes.flatten(0, 1), plan, flat, first, out)
    for stage in later:
        name, operation = stage[0]
        if operation.cpu_kernel is None:
            batched.apply_in_place(plan, stage[0], out, flat[name])
        else:
            _run(images, None, plan, flat, stage, out)
    return out.view(views, count, channels, height, width)


def _stages(steps: Sequence[tuple[str, Operation]]) -> list[list[tuple[str, Operation]]]:
    """Operations with kernels in runs, one stage each; one without is a stage of its own. The first stage has kernels only."""
    stages: list[list[tuple[str, Operation]]] = [[]]
    for has_kernel, run in itertools.groupby(steps, key=lambda step: step[1].cpu_kernel is not None):
        if not has_kernel:
            stages += [[step] for step in run]
        elif stages == [[]]:
            stages = [list(run)]
        else:
            stages.append(list(run))
    return stages


def _run(
    images: ImageBatch,
    boxes: Tensor | None,
    plan: RenderPlan,
    flat: Mapping[str, Draws],
    steps: Sequence[tuple[str, Operation]],
    out: Tensor,
) -> None:
    """Run one stage over all views; with boxes, crop them first."""
    total, channels, height, width = out.shape
    size = (height, width)
    columns = [[flat[name][key].reshape(total, -1).float() for key in operation.identity] for name, operation in steps]
    drawn = torch.cat(
        [value for parts in columns for value in parts] or [torch.empty(total, 0, dtype=torch.float32, device="cpu")], 1
    ).numpy()
    starts = np.cumsum([0] + [sum(value.shape[1] for value in parts) for parts in columns])[:-1]
    constants = [operation.kernel_fields(channels, size, plan.scale) for _, operation in steps]
    fields = np.array([number for numbers in constants for number in numbers] or [0], np.float32)
    field_starts = np.cumsum([0] + [len(numbers) for numbers in constants])[:-1]
    scratch = max((operation.kernel_scratch(channels, size) for _, operation in steps), default=0)
    kernels = [operation.cpu_kernel for _, operation in steps]
    layout = images.layout()
    values = layout.values.detach().contiguous()
    values = values if values.dtype in _DTYPES else values.float()
    crop = boxes is not None
    box = np.empty((total, 4), np.int64) if boxes is None else np.ascontiguousarray(boxes.numpy())
    widest = int(box[:, 3].max(initial=1)) if crop else 1
    taps = _most(box, 2, height, plan) if crop else 1, _most(box, 3, width, plan) if crop else 1
    with compiling:  # one thread compiles; others wait for what it makes
        walk = _walk(np.dtype(str(values.dtype).removeprefix("torch.")).name, tuple(kernels))
    arguments = (
        values.numpy(),
        layout.offsets.contiguous().numpy(),
        layout.rows.contiguous().numpy(),
        np.array([layout.column, layout.channel, widest, taps[0], taps[1], scratch, plan.interpolation == "bicubic", crop]),
        np.float32(unit_of(layout.values.dtype)),
        box,
        plan.mirrored(flat, total).numpy(),
        _addresses(tuple(kernels)),
        drawn,
        starts.astype(np.int64),
        fields,
        field_starts.astype(np.int64),
        out.numpy(),
    )
    threads = min(torch.get_num_threads(), total)
    if threads <= 1:
        walk(*arguments, 0, total)
        return
    step = max(1, total // (8 * threads))
    blocks = itertools.count()  # its next() is atomic

    def work() -> None:
        for block in blocks:
            start = block * step
            if start >= total:
                return
            walk(*arguments, start, min(start + step, total))

    tasks: list[Future[None]] = [_threads(threads - 1).submit(work) for _ in range(threads - 1)]
    work()
    for task in tasks:
        task.result()


def _most(boxes: Any, column: int, size: int, plan: RenderPlan) -> int:
    return most_taps(int(boxes[:, column].max(initial=1)), size, plan.interpolation)


_DTYPES = (torch.uint8, torch.uint16, torch.float32)


@cache
def _addresses(kernels: tuple[CPUKernel, ...]) -> Any:
    return np.array([kernel.address for kernel in kernels], np.int64)


_pools: dict[int, ThreadPoolExecutor] = {}
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pools.clear)  # threads do not survive a fork


def _threads(count: int) -> ThreadPoolExecutor:
    if count not in _pools:
        _pools[count] = ThreadPoolExecutor(count, "hvs_aug.ops")
    return _pools[count]


@cache
def _walk(dtype: str, kernels: tuple[CPUKernel, ...]) -> Any:
    """The compiled function for images of a dtype, once it and the kernels that it calls are compiled."""
    begin = time.perf_counter()
    walk = _compiled_walk(dtype)
    _addresses(kernels)
    seconds = time.perf_counter() - begin
    if seconds > _SLOW:
        level = logging.INFO if next(_slow_compilations) else logging.WARNING  # a user is told once, not for every set of kernels
        _LOG.log(level, "hvs_aug compiled its CPU renderer in %.0f s; later processes load it from numba's cache.", seconds)
    return walk


def _compiled_walk(dtype: str) -> Any:
    def array(kind: Any, axes: int) -> Any:
        return numba.types.Array(kind, axes, "C")

    real, whole = numba.types.float32, numba.types.int64
    signature = numba.types.void(
        array(getattr(numba.types, dtype), 1),
        *[array(whole, 1)] * 3,
        real,
        array(whole, 2),
        array(numba.types.boolean, 2),
        array(whole, 1),
        array(real, 2),
        array(whole, 1),
        array(real, 1),
        array(whole, 1),
        array(real, 4),
        whole,
        whole,
    )
    return compiled(lambda cache: numba.njit(signature, nogil=True, cache=cache, **compile_options()), _walk_views)


def _walk_views(
    values: Any,
    offsets: Any,
    rows: Any,
    numbers: Any,
    unit: Any,
    boxes: Any,
    mirrored: Any,
    addresses: Any,
    drawn: Any,
    starts: Any,
    fields: Any,
    field_starts: Any,
    out: Any,
    start: Any,
    stop: Any,
) -> None:
    """Crop views ``start`` to ``stop`` and run the kernels over each; compiled by :func:`_compiled_walk`."""
    _, channels, height, width = out.shape
    column, channel, widest, tall_taps, wide_taps = numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]
    scratch = np.empty(max(numbers[5], 1), np.float32)
    is_cubic, crops = numbers[6] != 0, numbers[7] != 0
    pitch = 4 if channels == 3 else channels
    places = np.empty((4, max(height, width)), np.int64)
    weights = np.empty((2, max(height, width), max(tall_taps, wide_taps)), np.float32)
    line = np.zeros((widest + wide_taps) * channels + 1, np.float32)  # what lies behind a line is multiplied by 0
    ring = np.empty((tall_taps, width * pitch), np.float32)
    total = np.empty(width * pitch, np.float32)
    for i in range(start, stop):
        view = out[i]
        if crops:
            image = i % len(offsets)
            strides = (rows[image], column, channel)
            box, mirror = boxes[i], mirrored[i]
            crop_view(values, offsets[image], strides, box, mirror, is_cubic, unit, view, places, weights, line, ring, total)
        for step in range(len(addresses)):
            call_kernel(
                addresses[step],
                view.ctypes.data,
                channels,
                height,
                width,
                drawn[i, starts[step] :].ctypes.data,
                fields[field_starts[step] :].ctypes.data,
                scratch.ctypes.data,
            )
