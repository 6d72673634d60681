"""Every operation on one image, pixel by pixel, written from torchvision's documentation and Pillow's; slow, and obvious.

An image is an array ``(C, h, w)`` of float64 in [0, 1]. The functions take what an operation was drawn to do, in the units of
torchvision's functional of the same name, and return a new array.
"""

from __future__ import annotations

import colorsys
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

Image = np.ndarray

GRAY_WEIGHTS = (0.2989, 0.587, 0.114)  # torchvision.transforms.v2.functional.rgb_to_grayscale, ITU-R 601-2 luma


def _each_pixel(image: Image, change: Callable[[np.ndarray], Sequence[float]]) -> Image:
    result = np.empty_like(image)
    for row, column in itertools.product(range(image.shape[1]), range(image.shape[2])):
        result[:, row, column] = change(image[:, row, column])
    return result


def _triangle(x: float) -> float:
    return max(0.0, 1.0 - abs(x))


def _cubic(x: float, a: float = -0.5) -> float:
    """Keys' cubic; Pillow, and torchvision where it antialiases, take a = -0.5."""
    x = abs(x)
    if x < 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0.0


def _resized_line(line: np.ndarray, length: int, kernel: Callable[[float], float], support: float) -> np.ndarray:
    """Pillow's resampling of one line: a kernel as wide as the line is shrunk, cut off at the ends and made to sum to 1."""
    scale = len(line) / length
    stretch = max(scale, 1.0)
    result = np.zeros(length)
    for place in range(length):
        centre = (place + 0.5) * scale
        first = max(0, int(centre - support * stretch + 0.5))
        end = min(len(line), int(centre + support * stretch + 0.5))
        weights = [kernel((source + 0.5 - centre) / stretch) for source in range(first, end)]
        result[place] = sum(weight * line[source] for weight, source in zip(weights, range(first, end), strict=True)) / sum(weights)
    return result


def resized_crop(image: Image, box: Sequence[int], size: tuple[int, int], interpolation: str = "bilinear") -> Image:
    """Cut out (top, left, height, width) and resize it antialiased: rows first, then columns, clamped to [0, 1] after each."""
    top, left, height, width = box
    kernel, support = {"bilinear": (_triangle, 1.0), "bicubic": (_cubic, 2.0)}[interpolation]
    channels = []
    for channel in image[:, top : top + height, left : left + width]:
        wide = np.clip([_resized_line(line, size[1], kernel, support) for line in channel], 0, 1)
        channels.append(np.clip([_resized_line(line, size[0], kernel, support) for line in wide.T], 0, 1).T)
    return np.stack(channels)


def horizontal_flip(image: Image) -> Image:
    return np.stack([[line[::-1] for line in channel] for channel in image])


def vertical_flip(image: Image) -> Image:
    return np.stack([list(channel)[::-1] for channel in image])


def luma(pixel: np.ndarray) -> float:
    return float(pixel[0]) if len(pixel) == 1 else sum(weight * value for weight, value in zip(GRAY_WEIGHTS, pixel, strict=True))


def grayscale(image: Image) -> Image:
    return _each_pixel(image, lambda pixel: [luma(pixel)] * len(pixel))


def _blend(image: Image, other: Image | float, ratio: float) -> Image:
    return np.clip(ratio * image + (1 - ratio) * other, 0, 1)


def brightness(image: Image, factor: float) -> Image:
    return _blend(image, 0.0, factor)


def contrast(image: Image, factor: float) -> Image:
    lumas = [luma(image[:, row, column]) for row in range(image.shape[1]) for column in range(image.shape[2])]
    return _blend(image, sum(lumas) / len(lumas), factor)


def saturation(image: Image, factor: float) -> Image:
    return image.copy() if len(image) == 1 else _blend(image, grayscale(image), factor)


def hue(image: Image, turn: float) -> Image:
    """Turn the hue by a part of the colour circle, as Python's own colorsys has it."""
    if len(image) == 1:
        return image.copy()

    def turned(pixel: np.ndarray) -> Sequence[float]:
        h, s, v = colorsys.rgb_to_hsv(*map(float, pixel))
        return colorsys.hsv_to_rgb((h + turn) % 1.0, s, v)

    return _each_pixel(image, turned)


JITTER = (brightness, contrast, saturation, hue)


def color_jitter(image: Image, factors: Sequence[float], order: Sequence[int]) -> Image:
    for step in order:
        image = JITTER[step](image, factors[step])
    return image


def gaussian_kernel(kernel_size: int, sigma: float) -> list[float]:
    values = [math.exp(-((place - (kernel_size - 1) / 2) ** 2) / (2 * sigma**2)) for place in range(kernel_size)]
    return [value / sum(values) for value in values]


def _mirrored(place: int, length: int) -> int:
    """Reflection without repeating the edge: -1 is 1, ``length`` is ``length - 2``."""
    while not 0 <= place < length:
        place = -place if place < 0 else 2 * (length - 1) - place
    return place


def gaussian_blur(image: Image, kernel_size: int, sigma: float) -> Image:
    weights = gaussian_kernel(kernel_size, sigma)
    radius = kernel_size // 2
    _, height, width = image.shape
    result = np.zeros_like(image)
    for row, column in itertools.product(range(height), range(width)):
        for i, j in itertools.product(range(kernel_size), range(kernel_size)):
            source = image[:, _mirrored(row + i - radius, height), _mirrored(column + j - radius, width)]
            result[:, row, column] += weights[i] * weights[j] * source
    return result


def solarize(image: Image, threshold: float) -> Image:
    return _each_pixel(image, lambda pixel: [1 - value if value >= threshold else value for value in pixel])


def invert(image: Image) -> Image:
    return _each_pixel(image, lambda pixel: [1 - value for value in pixel])


def posterize(image: Image, bits: int) -> Image:
    """Levels 0, 1/n, ..., (n - 1)/n for n = 2**bits, which is what torchvision makes of float images."""
    levels = 2**bits
    return _each_pixel(image, lambda pixel: [min(math.floor(value * levels), levels - 1) / levels for value in pixel])


def autocontrast(image: Image) -> Image:
    """Each channel stretched so that its darkest pixel is 0 and its brightest 1; an even one stays."""
    low, high = image.min(axis=(1, 2)), image.max(axis=(1, 2))
    return np.stack([channel if a == b else (channel - a) / (b - a) for channel, a, b in zip(image, low, high, strict=True)])


def equalize(image: Image) -> Image:
    """ImageOps.equalize on 256 levels: a step is the mean count of all but the brightest level present; none, if it is 0."""
    result = np.empty_like(image)
    for index, channel in enumerate(image):
        levels = [int(value * 255.999) for value in channel.ravel()]  # torchvision's conversion of [0, 1] to uint8
        counts = [levels.count(level) for level in range(256)]
        present = [count for count in counts if count]
        step = (sum(present) - present[-1]) // 255
        table = list(range(256))
        if step:
            table = [min(255, (step // 2 + sum(counts[:level])) // step) for level in range(256)]
        result[index] = np.array([table[level] / 255 for level in levels]).reshape(channel.shape)
    return result


def adjust_sharpness(image: Image, factor: float) -> Image:
    """Blend with a 3 x 3 smoothing of weights 1, centre 5, over 13, which leaves the outermost pixels as they are."""
    _, height, width = image.shape
    smooth = image.copy()
    for row, column in itertools.product(range(1, height - 1), range(1, width - 1)):
        around = image[:, row - 1 : row + 2, column - 1 : column + 2].sum(axis=(1, 2))
        smooth[:, row, column] = (around + 4 * image[:, row, column]) / 13
    return image.copy() if min(height, width) <= 2 else _blend(image, smooth, factor)


def rotate(image: Image, degrees: float, fill: Sequence[float], interpolation: str = "nearest") -> Image:
    """Turn counter-clockwise about the centre; what comes from outside of the image is ``fill``.

    Bilinear: the four pixels around, black outside of the image, then ``fill`` for the part of them that is outside: torchvision
    blends the sampled image, which is black there already, so that edges are darker than the image and the fill.
    """
    channels, height, width = image.shape
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    if degrees % 90 == 0:
        cos, sin = round(cos), round(sin)
    result = np.empty_like(image)

    colour = np.asarray(fill, dtype=float)

    def is_inside(row: int, column: int) -> bool:
        return 0 <= row < height and 0 <= column < width

    for row, column in itertools.product(range(height), range(width)):
        x, y = column + 0.5 - width / 2, row + 0.5 - height / 2
        across = cos * x - sin * y + width / 2 - 0.5
        down = sin * x + cos * y + height / 2 - 0.5
        if interpolation == "nearest":
            result[:, row, column] = image[:, round(down), round(across)] if is_inside(round(down), round(across)) else colour
            continue
        low, left = math.floor(down), math.floor(across)
        b, a = down - low, across - left
        sampled, part = np.zeros(channels), 0.0
        for y, x in itertools.product((0, 1), (0, 1)):
            if is_inside(low + y, left + x):
                weight = (b if y else 1 - b) * (a if x else 1 - a)
                sampled, part = sampled + weight * image[:, low + y, left + x], part + weight
        result[:, row, column] = part * sampled + (1 - part) * colour
    return result


def erase(image: Image, box: Sequence[int], value: Sequence[float]) -> Image:
    top, left, height, width = box
    result = image.copy()
    for row, column in itertools.product(range(top, top + height), range(left, left + width)):
        result[:, row, column] = value
    return result


def normalize(image: Image, mean: Sequence[float], std: Sequence[float]) -> Image:
    return _each_pixel(image, lambda pixel: [(v - m) / s for v, m, s in zip(pixel, mean, std, strict=True)])
