"""The pass that crops and resizes on a GPU: it reads the source images and writes views."""

from __future__ import annotations

from .triton_kernel import device_function, launched, tl, unit_value
from .triton_pixels import PLACES, SIZES, TABLES, finish

__all__ = ["COLUMNS", "LINES", "ROWS", "crop_pass"]

ROWS, COLUMNS, LINES = 16, 32, 16
"""The tile of a view that one program makes, and how many source lines it resamples at a time."""


@device_function
def _tap_weight(pixel: tl.tensor, centre: tl.tensor, size: tl.tensor, wide: tl.tensor, is_cubic: tl.constexpr) -> tl.tensor:
    """How much of a source pixel is in the pixel with this centre, before normalisation; see crop.line_taps."""
    distance = tl.abs(pixel * (2 * size) + size - centre).to(tl.float32) / (2 * wide).to(tl.float32)
    if is_cubic:
        near = (1.5 * distance - 2.5) * distance * distance + 1
        far = (((distance - 5) * distance + 8) * distance - 4) * -0.5
        weight = tl.where(distance < 1, near, tl.where(distance < 2, far, 0.0))
    else:
        weight = tl.maximum(1 - distance, 0.0)
    return weight


@device_function
def _tap_range(index: tl.tensor, length: tl.tensor, size: tl.tensor, wide: tl.tensor, is_cubic: tl.constexpr) -> tl.tuple:
    """The centre, the first pixel and the one behind the last of which pixels of a line are made; see crop.line_taps."""
    reach: tl.constexpr = 4 if is_cubic else 2
    centre = length * (2 * index + 1)
    first = tl.maximum(centre - reach * wide + size, 0) // (2 * size)
    last = tl.minimum((centre + reach * wide + size) // (2 * size), length)
    return centre, first, last


@launched(varying=(*SIZES, *PLACES, "column", "channel"), tables=TABLES)
def crop_pass(
    values: tl.tensor,
    starts: tl.tensor,
    column: tl.tensor,
    channel: tl.tensor,
    unit: tl.tensor,
    boxes: tl.tensor,
    mirrored: tl.tuple,
    flipped: tl.tuple,
    first: tl.tensor,
    views: tl.tensor,
    batch: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    area: tl.tensor,
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
    is_cubic: tl.constexpr,
    rows_of_tile: tl.constexpr,
    columns_of_tile: tl.constexpr,
    lines: tl.constexpr,
) -> None:
    """Crop, resize and mirror a tile of a view, the horizontal pass first, and run operations on it.

    values, the source; starts ``(B, 2)`` int64, where each image starts and how far its lines are apart; column and channel, how
    far these are apart; unit, what a value is multiplied by to lie in [0, 1]; boxes ``(V, B, 4)`` int64; mirrored and flipped, for
    columns and rows, where the flips are drawn. The lines of the source that a tile needs are resampled ``lines`` at a time, and
    added to its rows as a product of matrices, in full precision. Tiles overlap by the taps of one row: of 16 rows made, the
    lines of 20 are read, all but the first time from the cache.
    """
    across = tl.cdiv(width, columns_of_tile)
    tiles = across * tl.cdiv(height, rows_of_tile)
    tile = tl.program_id(0) % tiles
    local = tl.program_id(0) // tiles
    image = local // views
    view = (local % views) * batch + first + image
    y = (tile // across) * rows_of_tile + tl.arange(0, rows_of_tile)
    x = (tile % across) * columns_of_tile + tl.arange(0, columns_of_tile)
    is_inside = (y < height)[:, None] & (x < width)[None, :]
    y = tl.minimum(y, height - 1)
    x = tl.minimum(x, width - 1)

    top = tl.load(boxes + 4 * view)
    left = tl.load(boxes + 4 * view + 1)
    box_height = tl.load(boxes + 4 * view + 2).to(tl.int32)
    box_width = tl.load(boxes + 4 * view + 3).to(tl.int32)
    row = tl.load(starts + 2 * (first + image) + 1)
    channel = tl.cast(channel, tl.int64)
    source = values + (tl.load(starts + 2 * (first + image)) + top * row + left * column)
    wide = tl.maximum(box_width, width)
    tall = tl.maximum(box_height, height)
    centre_x, first_x, last_x = _tap_range(x, box_width, width, wide, is_cubic)
    centre_y, first_y, last_y = _tap_range(y, box_height, height, tall, is_cubic)
    taps = tl.max(last_x - first_x, 0)
    last_line = tl.max(last_y, 0)

    total_weight = tl.zeros([rows_of_tile], tl.float32)
    pixel: tl.tuple = ()
    for _ in tl.static_range(channels):
        pixel = pixel + (tl.zeros([rows_of_tile, columns_of_tile], tl.float32),)
    for start in range(tl.min(first_y, 0), last_line, lines):
        line = start + tl.arange(0, lines)
        line_weight = tl.zeros([columns_of_tile], tl.float32)
        resampled: tl.tuple = ()
        for _ in tl.static_range(channels):
            resampled = resampled + (tl.zeros([lines, columns_of_tile], tl.float32),)
        for tap in range(taps):
            place = first_x + tap
            weight = tl.where(place < last_x, _tap_weight(place, centre_x, width, wide, is_cubic), 0.0)
            line_weight += weight
            offset = line.to(tl.int64)[:, None] * row + (place.to(tl.int64) * column)[None, :]
            is_read = (line < last_line)[:, None] & (place < last_x)[None, :]
            added: tl.tuple = ()
            for index in tl.static_range(channels):
                read = tl.load(source + index * channel + offset, mask=is_read, other=0)
                added = added + (resampled[index] + weight[None, :] * read.to(tl.float32),)
            resampled = added
        is_tap = (line[None, :] >= first_y[:, None]) & (line[None, :] < last_y[:, None])
        weight = tl.where(is_tap, _tap_weight(line[None, :], centre_y[:, None], height, tall, is_cubic), 0.0)
        total_weight += tl.sum(weight, 1)
        added = ()
        for index in tl.static_range(channels):
            clamped = unit_value(resampled[index] * (unit / line_weight)[None, :])
            added = added + (tl.dot(weight, clamped, pixel[index], input_precision="ieee"),)
        pixel = added
    cropped: tl.tuple = ()
    for index in tl.static_range(channels):
        cropped = cropped + (unit_value(pixel[index] / total_weight[:, None]),)

    is_mirrored = False
    for index in tl.static_range(len(mirrored)):
        is_mirrored = is_mirrored != (tl.load(mirrored[index] + view) != 0)
    is_flipped = False
    for index in tl.static_range(len(flipped)):
        is_flipped = is_flipped != (tl.load(flipped[index] + view) != 0)
    x = tl.where(is_mirrored, width - 1 - x, x)
    y = tl.where(is_flipped, height - 1 - y, y)
    rows_ = tl.broadcast_to(y[:, None], [rows_of_tile, columns_of_tile])
    columns_ = tl.broadcast_to(x[None, :], [rows_of_tile, columns_of_tile])
    to = target + ((local % views).to(tl.int64) * target_stride + image) * (channels * area)
    place = y[:, None] * width + x[None, :]
    finish(
        cropped, place, rows_, columns_, is_inside, view, local, tile, tiles, to, pixel_step, channel_step,
        steps, drawn, fields, 0.0, mean_of, sums,
    )  # fmt: skip
