"""Normalize."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .._check import fail, is_traced, readable, require
from .kernel import carray, cpu_kernel
from .operation import Draws, Operation, to_numbers
from .triton_kernel import gpu_kernel, tl

__all__ = ["Normalize"]


@cpu_kernel
def normalize(view: Any, channels: Any, height: Any, width: Any, drawn: Any, fields: Any, scratch: Any) -> None:
    """Multiply each channel and add to it."""
    planes = carray(view, (channels, height * width))
    for channel in range(channels):
        factor, offset = fields[2 * channel], fields[2 * channel + 1]
        plane = planes[channel]
        for i in range(height * width):
            plane[i] = plane[i] * factor + offset


@gpu_kernel
def normalize_pixels(
    pixel: tl.tuple, y: tl.tensor, x: tl.tensor, view: tl.tensor, drawn: tl.tuple, fields: tl.tuple, mean: tl.tensor
) -> tl.tuple:
    """As :func:`normalize`."""
    changed: tl.tuple = ()
    for channel in tl.static_range(len(pixel)):
        changed = changed + (pixel[channel] * fields[2 * channel] + fields[2 * channel + 1],)
    return changed


def _constants(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> Tensor:
    """Mean and standard deviation on a device, ``(2, C, 1, 1)``, copied there without a wait."""
    values = torch.tensor([mean, std], dtype=torch.float32, device="cpu").view(2, -1, 1, 1)
    if device.type == "cuda" and torch.cuda.is_available() and readable(values):
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


_kept_constants = lru_cache(maxsize=64)(_constants)


@dataclass(frozen=True, repr=False)
class Normalize(Operation):
    """Subtract the mean and divide by the standard deviation of each channel, of values in [0, 1].

    Source: torchvision v2 ``Normalize``.

    Raises:
        HVSError: if there is not one mean and one positive standard deviation for each channel.
    """

    mean: Sequence[float]
    std: Sequence[float]

    commutes_with_flips = True
    cpu_kernel = normalize
    gpu_kernel = normalize_pixels

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = to_numbers(getattr(self, name), f"Normalize({name})", "a number for each channel, all finite")
            object.__setattr__(self, name, values)
        came = f"mean {self.mean} and std {self.std}"
        require(len(self.mean) == len(self.std) > 0, "Normalize(mean, std)", "as many means as standard deviations", came)
        require(all(value > 0 for value in self.std), "Normalize(std)", "positive numbers", self.std)

    def apply(self, images: Tensor, drawn: Draws, scale: float = 1.0) -> Tensor:
        # A stand-in for a tensor must not be kept: it belongs to the trace that it was made in.
        constants = _kept_constants if images.device.type != "cpu" and not is_traced(images) else _constants
        mean, std = constants(tuple(self.mean), tuple(self.std), images.device)
        normalized: Tensor = (images - mean) / std
        return normalized

    def require_channels(self, channels: int) -> None:
        if len(self.mean) != channels:
            expected = f"one mean for each of the images' {channels} channels"
            hint = "recipe.replace(Normalize, mean=(...), std=(...)), or recipe.without(Normalize)."
            fail("Normalize(mean)", expected, f"{len(self.mean)}", hint)

    def kernel_fields(self, channels: int, size: tuple[int, int], scale: float) -> list[float]:
        return [number for mean, std in zip(self.mean, self.std, strict=True) for number in (1 / std, -mean / std)]
