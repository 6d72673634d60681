"""The two passes that blur on a GPU: along the rows to scratch memory, and along the columns back; only what is blurred."""

from __future__ import annotations

from .triton_kernel import device_function, launched, tl
from .triton_pixels import PLACES, SIZES, TABLES, finish

__all__ = ["blur_pass", "blur_rows"]


@device_function
def _reflected(place: tl.tensor, length: tl.tensor) -> tl.tensor:
    place = tl.abs(place)
    return tl.minimum(place, 2 * (length - 1) - place)


@device_function
def _blur_radius(sigma: tl.tensor, most: tl.tensor) -> tl.tensor:
    """How many taps of a Gaussian count on each side: those further out are below 1e-7 of the middle one."""
    return tl.where(sigma > 0, tl.minimum((sigma * 5.7).to(tl.int32) + 1, most), 0)


@device_function
def _blurred(
    values: tl.tensor,
    y: tl.tensor,
    x: tl.tensor,
    is_inside: tl.tensor,
    sigma: tl.tensor,
    radius: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    area: tl.tensor,
    by_row: tl.constexpr,
    channels: tl.constexpr,
) -> tl.tuple:
    """The weighted sum of a block of pixels and their neighbours in the same row, or column, reflected at the edges."""
    middle = y * width + x
    total = 1.0
    summed: tl.tuple = ()
    for index in tl.static_range(channels):
        summed = summed + (tl.load(values + index * area + middle, mask=is_inside, other=0.0),)
    for step in range(1, radius + 1):
        distance = step / sigma
        tap = tl.exp(-0.5 * distance * distance)
        total += 2 * tap
        if by_row:
            before = y * width + _reflected(x - step, width)
            after = y * width + _reflected(x + step, width)
        else:
            before = _reflected(y - step, height) * width + x
            after = _reflected(y + step, height) * width + x
        added: tl.tuple = ()
        for index in tl.static_range(channels):
            pair = tl.load(values + index * area + before, mask=is_inside, other=0.0)
            pair += tl.load(values + index * area + after, mask=is_inside, other=0.0)
            added = added + (summed[index] + tap * pair,)
        summed = added
    blurred: tl.tuple = ()
    for index in tl.static_range(channels):
        blurred = blurred + (summed[index] / total,)
    return blurred


@launched(varying=(*SIZES, *PLACES, "most"), tables=TABLES)
def blur_rows(
    source: tl.tensor,
    source_stride: tl.tensor,
    first: tl.tensor,
    views: tl.tensor,
    batch: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    area: tl.tensor,
    scratch: tl.tensor,
    scratch_stride: tl.tensor,
    sigmas: tl.tensor,
    scale: tl.tensor,
    most: tl.tensor,
    channels: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Blur a block of pixels along its rows, from ``source`` to ``scratch``, where its sigma is above 0; ``most`` taps a side."""
    tiles = tl.cdiv(area, block)
    tile = tl.program_id(0) % tiles
    local = tl.program_id(0) // tiles
    image = local // views
    candidate = (local % views).to(tl.int64)
    sigma = tl.load(sigmas + (local % views) * batch + first + image) * scale
    radius = _blur_radius(sigma, most)
    if radius > 0:
        place = tile * block + tl.arange(0, block)
        is_inside = place < area
        start = source + (candidate * source_stride + image) * (channels * area)
        to = scratch + (candidate * scratch_stride + image) * (channels * area)
        pixel = _blurred(start, place // width, place % width, is_inside, sigma, radius, height, width, area, True, channels)
        for index in tl.static_range(channels):
            tl.store(to + index * area + place, pixel[index], mask=is_inside)


@launched(varying=(*SIZES, *PLACES, "most"), tables=TABLES)
def blur_pass(
    source: tl.tensor,
    source_stride: tl.tensor,
    first: tl.tensor,
    views: tl.tensor,
    batch: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    area: tl.tensor,
    scratch: tl.tensor,
    scratch_stride: tl.tensor,
    sigmas: tl.tensor,
    scale: tl.tensor,
    most: tl.tensor,
    target: tl.tensor,
    target_stride: tl.tensor,
    channel_step: tl.tensor,
    sums: tl.tensor,
    drawn: tl.tuple,
    fields: tl.tuple,
    steps: tl.constexpr,
    mean_of: tl.constexpr,
    pixel_step: tl.constexpr,
    channels: tl.constexpr,
    is_in_place: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Blur a block of pixels along its columns, from ``scratch``, and run operations on it; of other views it reads ``source``.

    Where the target is the source, and no operation follows, views without a blur are left alone.
    """
    tiles = tl.cdiv(area, block)
    tile = tl.program_id(0) % tiles
    local = tl.program_id(0) // tiles
    image = local // views
    candidate = (local % views).to(tl.int64)
    view = (local % views) * batch + first + image
    sigma = tl.load(sigmas + view) * scale
    radius = _blur_radius(sigma, most)
    does_nothing: tl.constexpr = is_in_place and len(steps) == 0 and mean_of is None
    if (radius > 0) | (not does_nothing):
        place = tile * block + tl.arange(0, block)
        is_inside = place < area
        start = source + (candidate * source_stride + image) * (channels * area)
        if radius > 0:
            start = scratch + (candidate * scratch_stride + image) * (channels * area)
        y = place // width
        x = place % width
        pixel = _blurred(start, y, x, is_inside, sigma, radius, height, width, area, False, channels)
        to = target + (candidate * target_stride + image) * (channels * area)
        finish(
            pixel, place, y, x, is_inside, view, local, tile, tiles, to, pixel_step, channel_step,
            steps, drawn, fields, 0.0, mean_of, sums,
        )  # fmt: skip
