"""The CPU schedule: one view at a time, in cache, and nothing computed that was not drawn.

Four things make it fast, and none changes what is drawn:

- The crop reads a channels-last uint8 image, for which torch's antialiased resize has a vector path.
- Brightness, contrast, saturation, grayscale and normalisation are affine in the channels. As long as nothing can leave [0, 1]
  (a factor of at most 1 blends two values of the range), they are multiplied together as matrices of C x C numbers, and the
  image itself is touched only where a clamp, the hue or the blur needs its values.
- The blur commutes with such a map, and a gray view is blurred as one channel.
- :func:`render_views` is compiled by TorchScript where this Python has it: no C++ compiler, no cache, a second at most, and above
  all no global interpreter lock, for which two Python threads would otherwise queue at every one of these small operations.
  Elsewhere the same function runs as plain Python, with the same numbers.

Functions here are written in the part of Python that TorchScript reads.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["OPERATION_CODES", "compiled_render_views", "render_views"]

OPERATION_CODES = {"flip": 0, "jitter": 1, "gray": 2, "blur": 3, "solarize": 4}
"""How a recipe's order is told to :func:`render_views`."""


def _map_channels(base: Tensor, matrix: list[list[float]], offset: list[float]) -> Tensor:
    """Apply an affine map of the channels: ``(C, n)`` -> ``(rows of matrix, n)``, contiguous."""
    mapped = torch.mm(torch.tensor(matrix, dtype=torch.float32), base)
    if min(offset) != 0.0 or max(offset) != 0.0:
        mapped.add_(torch.tensor(offset, dtype=torch.float32).unsqueeze(1))
    return mapped


def _identity(channels: int) -> list[list[float]]:
    matrix: list[list[float]] = []
    for row in range(channels):
        values = [0.0] * channels
        values[row] = 1.0
        matrix.append(values)
    return matrix


def _blend(
    matrix: list[list[float]], offset: list[float], factor: float, gray: list[float], constant: float
) -> tuple[list[list[float]], list[float]]:
    """Follow a map by ``factor * x + (1 - factor) * (gray . x + constant)``."""
    mixed: list[list[float]] = []
    level = [0.0] * len(matrix[0])
    base_level = constant
    for row in range(len(matrix)):
        base_level += gray[row] * offset[row]
        for column in range(len(level)):
            level[column] += gray[row] * matrix[row][column]
    shifted: list[float] = []
    for row in range(len(matrix)):
        values: list[float] = []
        for column in range(len(level)):
            values.append(factor * matrix[row][column] + (1.0 - factor) * level[column])
        mixed.append(values)
        shifted.append(factor * offset[row] + (1.0 - factor) * base_level)
    return mixed, shifted


def _mean_gray(base: Tensor, matrix: list[list[float]], offset: list[float], weights: list[float]) -> float:
    """The mean gray value of the mapped image, from the means of the channels that it is mapped from."""
    means = torch.mv(base, torch.full((base.shape[1],), 1.0 / base.shape[1]))
    level = 0.0
    for row in range(len(matrix)):
        level += weights[row] * offset[row]
        for column in range(len(matrix[row])):
            level += weights[row] * matrix[row][column] * float(means[column])
    return level


def _shift_hue(image: Tensor, shift: float) -> Tensor:
    """``ops.color.shift_hue`` of one image, ``(3, n)``, in place where it can be.

    A shift by a third of the circle is a rotation of the channels, so what is left to shift is a sixth at most, and then
    ||H - c| - 3 d| needs no second look at the circle: |H - c| stays below 6 d.
    """
    red, green, blue = image[0], image[1], image[2]
    highest = torch.maximum(green, blue)
    torch.maximum(highest, red, out=highest)
    lowest = torch.minimum(green, blue)
    torch.minimum(lowest, red, out=lowest)
    chroma = highest - lowest
    hue = green + blue
    hue.sub_(red).add_(chroma).sub_(lowest).copysign_(green - blue)
    thirds = round(3.0 * shift)
    hue.add_(chroma, alpha=6.0 * shift - 2.0 * thirds)
    places: list[list[float]] = []
    for channel in range(3):
        places.append([2.0 * float((thirds - channel + 4) % 3 - 1)])
    shifted = torch.addcmul(hue.unsqueeze(0), torch.tensor(places, dtype=torch.float32), chroma.unsqueeze(0))
    shifted.abs_().sub_(chroma, alpha=3.0).abs_().add_(lowest - chroma)
    torch.maximum(shifted, lowest, out=shifted)
    return torch.minimum(shifted, highest, out=shifted)


def _gaussian_blur(image: Tensor, sigma: float, radius: int) -> Tensor:
    """``ops.blur.gaussian_blur`` of one image, ``(C, h, w)``.

    Both axes run over the padded image as one flat line, where a step along an axis is a distance in memory: long contiguous
    additions, whose results in the padding are never read.
    """
    channels, height, width = image.shape
    density = torch.exp(-0.5 * (torch.arange(radius + 1) / sigma).square())
    taps: list[float] = (density / (2.0 * density.sum() - density[0])).tolist()
    # A tap below a millionth moves no value of [0, 1] by more than the rounding of the others.
    while radius > 0 and taps[radius] < 1e-6:
        radius -= 1
    if radius == 0:
        return image
    total = taps[0]
    for step in range(1, radius + 1):
        total += 2.0 * taps[step]
    pitch = width + 2 * radius
    line = F.pad(image.unsqueeze(0), [radius, radius, radius, radius], mode="reflect").reshape(-1)
    for stride in [1, pitch]:
        reach = radius * stride
        blurred = line * (taps[0] / total)
        inner = blurred[reach : line.shape[0] - reach]
        for step in range(1, radius + 1):
            distance = step * stride
            tap = taps[step] / total
            inner.add_(line[reach - distance : line.shape[0] - reach - distance], alpha=tap)
            inner.add_(line[reach + distance : line.shape[0] - reach + distance], alpha=tap)
        line = blurred
    return line.view(channels, height + 2 * radius, pitch)[:, radius : radius + height, radius : radius + width]


def render_views(
    pixels: Tensor,
    sources: list[int],
    boxes: list[list[int]],
    flips: list[bool],
    factors: list[list[float]],
    orders: list[list[int]],
    grays: list[bool],
    sigmas: list[float],
    solarizes: list[bool],
    operations: list[int],
    bicubic: bool,
    radius: int,
    threshold: float,
    luminance: list[float],
    mean: list[float],
    std: list[float],
    out: Tensor,
    start: int,
    stop: int,
) -> None:
    """Render views ``start`` to ``stop`` of a list into ``out``, ``(n, C, size, size)`` float32.

    View i is box ``boxes[i]`` of image ``sources[i]`` of pixels ``(B, C, H, W)``. ``operations`` holds OPERATION_CODES in the
    order in which they are applied; ``luminance`` the weights of the channels in gray; empty ``mean`` and ``std`` leave [0, 1].
    """
    channels = pixels.shape[1]
    size = out.shape[2]
    area = size * size
    jitter_after_gray = False
    for position in range(len(operations)):
        jitter_after_gray = jitter_after_gray or (operations[position] == 1 and 2 in operations[:position])
    for i in range(start, stop):
        top, left, height, width = boxes[i][0], boxes[i][1], boxes[i][2], boxes[i][3]
        crop = pixels[sources[i] : sources[i] + 1, :, top : top + height, left : left + width]
        if bicubic:
            crop = torch.ops.aten._upsample_bicubic2d_aa(crop, [size, size], False, None, None)
        else:
            crop = torch.ops.aten._upsample_bilinear2d_aa(crop, [size, size], False, None, None)
        if flips[i]:
            crop = crop.flip(-1)
        matrix = _identity(channels)
        if crop.dtype == torch.uint8:
            base = crop[0].permute(1, 2, 0).reshape(area, channels).to(torch.float32).t()
            for channel in range(channels):
                matrix[channel][channel] = 1.0 / 255.0
        else:
            base = crop[0].to(torch.float32).clamp(0.0, 1.0).reshape(channels, area)
        offset = [0.0] * channels
        # Whether base, seen through (matrix, offset), is another image than base itself.
        pending = True
        for operation in operations:
            if operation == 1:
                for which in orders[i]:
                    factor = factors[i][which]
                    if which == 3:
                        if factor != 0.0:
                            if pending:
                                base = _map_channels(base, matrix, offset)
                            base = _shift_hue(base, factor)
                            matrix, offset, pending = _identity(channels), [0.0] * channels, False
                    elif factor != 1.0:
                        if which == 0:
                            matrix, offset = _blend(matrix, offset, factor, [0.0] * channels, 0.0)
                        elif which == 1:
                            level = _mean_gray(base, matrix, offset, luminance)
                            matrix, offset = _blend(matrix, offset, factor, [0.0] * channels, level)
                        else:
                            matrix, offset = _blend(matrix, offset, factor, luminance, 0.0)
                        pending = True
                        if factor > 1.0:
                            base = _map_channels(base, matrix, offset).clamp_(0.0, 1.0)
                            matrix, offset, pending = _identity(channels), [0.0] * channels, False
            elif operation == 2 and grays[i]:
                matrix, offset = _blend(matrix, offset, 0.0, luminance, 0.0)
                pending = True
                if not jitter_after_gray:
                    matrix, offset = matrix[:1], offset[:1]
            elif operation == 3 and sigmas[i] > 0.0:
                if pending:
                    base = _map_channels(base, matrix, offset)
                    matrix, offset, pending = _identity(base.shape[0]), [0.0] * base.shape[0], False
                base = _gaussian_blur(base.view(-1, size, size), sigmas[i], radius).reshape(-1, area)
            elif operation == 4 and solarizes[i]:
                if pending:
                    base = _map_channels(base, matrix, offset)
                    matrix, offset, pending = _identity(base.shape[0]), [0.0] * base.shape[0], False
                inverted = base.ge(threshold).to(torch.float32)
                base = torch.addcmul(base, inverted, 1.0 - 2.0 * base)
        if len(matrix) < channels:
            matrix, offset = matrix * channels, offset * channels
        if len(mean) > 0:
            normalized: list[list[float]] = []
            for channel in range(channels):
                row: list[float] = []
                for value in matrix[channel]:
                    row.append(value / std[channel])
                normalized.append(row)
                offset[channel] = (offset[channel] - mean[channel]) / std[channel]
            matrix = normalized
        target = out[i].view(channels, area)
        torch.mm(torch.tensor(matrix, dtype=torch.float32), base, out=target)
        if min(offset) != 0.0 or max(offset) != 0.0:
            target.add_(torch.tensor(offset, dtype=torch.float32).unsqueeze(1))


@functools.cache
def compiled_render_views() -> Callable[..., None]:
    """:func:`render_views` as TorchScript, or as it is where this Python or PyTorch no longer has TorchScript."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is deprecated; what takes its place needs a C++ compiler.
            return torch.jit.script(render_views)
    except (RuntimeError, AttributeError):
        return render_views
