"""The passes over views on a GPU: each reads the views in its own way, runs the kernels of operations on them, and writes them.

:mod:`.triton_crop` reads the source images, ``pixel_pass`` the views, :mod:`.triton_blur` the views and what it blurred along their
rows. What makes them fast: a pixel is read and written once a pass, whatever the number of operations; a crop keeps the lines that
it resamples on chip; candidates of one image are rendered one after the other, so that its pixels are still in the GPU's cache;
views that are not blurred cost a blur nothing.

View ``candidate * batch + first + image`` of the parameters lies at ``candidate * stride + image`` of a tensor of views. A pixel of
a view is ``y * width + x``; its value in a channel lies ``pixel * pixel_step + channel * channel_step`` further. Where a batch can
pass 2**31 values, offsets are 64-bit.
"""

from __future__ import annotations

from .triton_kernel import device_function, launched, tl

__all__ = ["BLOCK", "PLACES", "SIZES", "TABLES", "finish", "pixel_pass"]

BLOCK = 1024
"""How many pixels of a view one program makes."""

TABLES = ("starts", "boxes", "sigmas", "means", "sums")
"""Arguments that hold a few values for each view, whose alignment does not matter."""

SIZES = ("first", "views", "batch", "height", "width")
PLACES = ("source_stride", "target_stride", "scratch_stride", "mean_tiles")
"""Arguments of the passes for whose values they are not compiled anew.

They are for whether ``area``, the pixels of a view, and ``channel_step`` are multiples of 16: then four values are read at a time.
"""


@device_function
def _mean_over_view(sums: tl.tensor, row: tl.tensor, tiles: tl.tensor, area: tl.tensor) -> tl.tensor:
    """Add up what each program of the pass before has summed, in one order, so that equal views have equal means."""
    total = 0.0
    for start in range(0, tiles, 128):
        part = start + tl.arange(0, 128)
        total += tl.sum(tl.load(sums + row * tiles + part, mask=part < tiles, other=0.0), 0)
    return total / area


@device_function
def finish(
    pixel: tl.tuple,
    place: tl.tensor,
    y: tl.tensor,
    x: tl.tensor,
    is_inside: tl.tensor,
    view: tl.tensor,
    row: tl.tensor,
    tile: tl.tensor,
    tiles: tl.tensor,
    target: tl.tensor,
    pixel_step: tl.constexpr,
    channel_step: tl.tensor,
    steps: tl.constexpr,
    drawn: tl.tuple,
    fields: tl.tuple,
    mean: tl.tensor,
    mean_of: tl.constexpr,
    sums: tl.tensor,
) -> None:
    """Run the operations on a block of pixels, write it, and sum what the next pass needs the mean of."""
    for index in tl.static_range(len(steps)):
        pixel = steps[index](pixel, y, x, view, drawn[index], fields[index], mean if index == 0 else 0.0)
    for channel in tl.static_range(len(pixel)):
        tl.store(target + channel * channel_step + place * pixel_step, pixel[channel], mask=is_inside)
    if mean_of is not None:
        values = mean_of(pixel, view, drawn[len(steps)], fields[len(steps)])
        values = tl.where(is_inside, values, 0.0)
        tl.store(sums + row * tiles + tile, tl.sum(tl.ravel(values), 0))


@launched(varying=(*SIZES, *PLACES), tables=TABLES)
def pixel_pass(
    source: tl.tensor,
    source_stride: tl.tensor,
    first: tl.tensor,
    views: tl.tensor,
    batch: tl.tensor,
    width: tl.tensor,
    area: tl.tensor,
    target: tl.tensor,
    target_stride: tl.tensor,
    channel_step: tl.tensor,
    means: tl.tensor,
    mean_tiles: tl.tensor,
    sums: tl.tensor,
    drawn: tl.tuple,
    fields: tl.tuple,
    steps: tl.constexpr,
    mean_of: tl.constexpr,
    pixel_step: tl.constexpr,
    channels: tl.constexpr,
    has_mean: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Run operations on a block of pixels of a view. ``source`` holds views channel by channel; it may be ``target``."""
    tiles = tl.cdiv(area, block)
    tile = tl.program_id(0) % tiles
    local = tl.program_id(0) // tiles
    image = local // views
    candidate = (local % views).to(tl.int64)
    view = (local % views) * batch + first + image
    place = tile * block + tl.arange(0, block)
    is_inside = place < area
    start = source + (candidate * source_stride + image) * (channels * area)
    pixel: tl.tuple = ()
    for index in tl.static_range(channels):
        pixel = pixel + (tl.load(start + index * area + place, mask=is_inside, other=0.0),)
    mean = 0.0
    if has_mean:
        mean = _mean_over_view(means, local, mean_tiles, area)
    to = target + (candidate * target_stride + image) * (channels * area)
    finish(
        pixel, place, place // width, place % width, is_inside, view, local, tile, tiles, to, pixel_step, channel_step,
        steps, drawn, fields, mean, mean_of, sums,
    )  # fmt: skip
