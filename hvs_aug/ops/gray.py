"""RandomGrayscale, and what gray is for all operations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._check import fail
from .kernel import carray, cpu_kernel, inlined
from .operation import Draws, Operation, per_image
from .triton_kernel import constant, device_function, gpu_kernel, tl

__all__ = ["LUMINANCE", "RandomGrayscale", "gray_of", "gray_of_pixel", "luminance", "require_gray_or_rgb"]

LUMINANCE = (0.2989, 0.587, 0.114)
"""The weights of R, G and B in gray (torchvision v2 ``_rgb_to_grayscale_image``, after ITU-R 601-2)."""

RED, GREEN, BLUE = (np.float32(weight) for weight in LUMINANCE)
_RED, _GREEN, _BLUE = (constant(weight) for weight in LUMINANCE)


def luminance(images: Tensor) -> Tensor:
    """Gray values of RGB images, ``(..., 3, h, w)`` -> ``(..., 1, h, w)``; one channel is its own gray value.

    Images with other numbers of channels have no gray value. They are returned unchanged, for operations that do not need one
    (``p=0``, only brightness).
    """
    if images.shape[-3] != 3:
        return images
    red, green, blue = images.unbind(-3)
    return (red * LUMINANCE[0] + green * LUMINANCE[1] + blue * LUMINANCE[2]).unsqueeze(-3)


@inlined
def gray_of(red: Any, green: Any, blue: Any) -> Any:
    """The gray value of one pixel, for kernels."""
    return RED * red + GREEN * green + BLUE * blue


def require_gray_or_rgb(name: str, channels: int, hint: str) -> None:
    """Fail unless images have one channel or three."""
    if channels not in (1, 3):
        fail(f"{name}", "images of 1 or 3 channels, for which torchvision defines it", f"{channels} channels", hint)


@cpu_kernel
def to_gray(view: Any, channels: Any, height: Any, width: Any, drawn: Any, fields: Any, scratch: Any) -> None:
    """Put the gray value into every channel."""
    if drawn[0] == 0 or channels != 3:
        return
    planes = carray(view, (3, height * width))
    red, green, blue = planes[0], planes[1], planes[2]
    for i in range(height * width):
        gray = gray_of(red[i], green[i], blue[i])
        red[i] = gray
        green[i] = gray
        blue[i] = gray


@device_function
def gray_of_pixel(red: tl.tensor, green: tl.tensor, blue: tl.tensor) -> tl.tensor:
    """The gray value of one pixel, for GPU kernels."""
    return _RED * red + _GREEN * green + _BLUE * blue


@gpu_kernel
def gray_pixels(
    pixel: tl.tuple, y: tl.tensor, x: tl.tensor, view: tl.tensor, drawn: tl.tuple, fields: tl.tuple, mean: tl.tensor
) -> tl.tuple:
    """As :func:`to_gray`."""
    changed = pixel
    if len(pixel) == 3:
        is_gray = tl.load(drawn[0] + view) != 0
        gray = gray_of_pixel(pixel[0], pixel[1], pixel[2])
        changed = tl.where(is_gray, gray, pixel[0]), tl.where(is_gray, gray, pixel[1]), tl.where(is_gray, gray, pixel[2])
    return changed


@dataclass(frozen=True, repr=False)
class RandomGrayscale(Operation):
    """Replace a view by its gray values, in all channels, with probability ``p``.

    Images of one channel are not changed. Source: torchvision v2 ``RandomGrayscale``.

    Raises:
        HVSError: if the images have other than 1 or 3 channels.
    """

    p: float = 0.1

    identity = {"applied": torch.tensor(False, device="cpu")}
    commutes_with_flips = True
    cpu_kernel = to_gray
    gpu_kernel = gray_pixels

    def apply(self, images: Tensor, drawn: Draws, scale: float = 1.0) -> Tensor:
        return torch.where(per_image(drawn["applied"]), luminance(images), images)

    def require_channels(self, channels: int) -> None:
        if self.p > 0:
            require_gray_or_rgb("RandomGrayscale", channels, "leave it out: recipe.without(RandomGrayscale).")
