"""GaussianBlur with a standard deviation of its own for every view."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .._check import fail
from .kernel import carray, cpu_kernel, inlined
from .operation import Draws, Operation, require_range

__all__ = ["GaussianBlur", "gaussian_taps"]

# A tap below this moves no value of [0, 1] by more than the rounding of the others; neither renderer computes it.
_SMALLEST_TAP = 1e-7


def gaussian_taps(sigma: Tensor, radius: int) -> Tensor:
    """The centre and right half of normalised Gaussian kernels.

    Shape: sigma ``(n,)``, in pixels -> ``(n, radius + 1)``; sigma 0 gives the kernel that changes nothing.
    Source: torchvision v2 ``gaussian_blur``: the density at whole pixels, normalised to sum 1.
    """
    steps = torch.arange(radius + 1, device=sigma.device, dtype=torch.float32)
    density = torch.exp(-0.5 * (steps / sigma.clamp(min=1e-6)[:, None]).square())
    return density / (2 * density.sum(-1, keepdim=True) - density[:, :1])


@inlined
def _weighted_lines(line: Any, lines: Any, centre: Any, stride: Any, taps: Any, radius: Any, length: Any) -> None:
    """Write into ``line`` the weighted sum of slices of ``lines`` around ``centre``, each ``stride`` apart, two taps at a time."""
    middle = lines[centre : centre + length]
    tap = taps[0]
    for i in range(length):
        line[i] = tap * middle[i]
    step = 1
    while step + 1 <= radius:
        tap, next_tap = taps[step], taps[step + 1]
        near = step * stride
        far = near + stride
        before, after = lines[centre - near : centre - near + length], lines[centre + near : centre + near + length]
        before2, after2 = lines[centre - far : centre - far + length], lines[centre + far : centre + far + length]
        for i in range(length):
            line[i] += tap * (before[i] + after[i]) + next_tap * (before2[i] + after2[i])
        step += 2
    if step <= radius:
        tap = taps[step]
        near = step * stride
        before, after = lines[centre - near : centre - near + length], lines[centre + near : centre + near + length]
        for i in range(length):
            line[i] += tap * (before[i] + after[i])


@cpu_kernel
def gaussian_blur(view: Any, channels: Any, height: Any, width: Any, drawn: Any, fields: Any, scratch: Any) -> None:
    """Blur each line, then each column, through a copy that is reflected at its edges."""
    sigma = drawn[0] * fields[1]
    if sigma <= 0:
        return
    most = int(fields[0])
    planes = carray(view, (channels, height, width))
    memory = carray(scratch, (most + 1 + width + 2 * most + (height + 2 * most) * width,))
    taps = memory[: most + 1]
    row = memory[most + 1 : most + 1 + width + 2 * most]
    padded = memory[most + 1 + width + 2 * most :]
    total = 0.0
    for step in range(most + 1):
        density = math.exp(-0.5 * (step / sigma) ** 2)
        taps[step] = density
        total += density if step == 0 else 2.0 * density
    for step in range(most + 1):
        taps[step] = np.float32(taps[step] / total)
    radius = most
    while radius > 0 and taps[radius] < _SMALLEST_TAP:
        radius -= 1
    if radius == 0:
        return
    for channel in range(channels):
        plane = planes[channel]
        for y in range(height):
            line = plane[y]
            for x in range(width):
                row[radius + x] = line[x]
            for step in range(1, radius + 1):
                row[radius - step] = line[step]
                row[radius + width - 1 + step] = line[width - 1 - step]
            _weighted_lines(padded[(radius + y) * width : (radius + y + 1) * width], row, radius, 1, taps, radius, width)
        for step in range(1, radius + 1):
            above, below = padded[(radius - step) * width :], padded[(radius + height - 1 + step) * width :]
            mirrored, other = padded[(radius + step) * width :], padded[(radius + height - 1 - step) * width :]
            for x in range(width):
                above[x] = mirrored[x]
                below[x] = other[x]
        for y in range(height):
            _weighted_lines(plane[y], padded, (radius + y) * width, width, taps, radius, width)


@dataclass(frozen=True, repr=False)
class GaussianBlur(Operation):
    """Blur a view with probability ``p``, reflecting at its edges.

    ``kernel_size`` is the number of taps along each axis, an odd number. ``sigma`` is the standard deviation, or its range, in
    pixels of the recipe's size. In views of a smaller size both are reduced by the same factor. Source: torchvision v2
    ``GaussianBlur``.

    Drawn: ``sigma`` float32, 0 where the view is not blurred.

    Raises:
        HVSError: if ``kernel_size`` is even, or ``sigma`` is no range of positive numbers.
    """

    kernel_size: int
    sigma: float | tuple[float, float] = (0.1, 2.0)
    p: float = 1.0

    identity = {"sigma": torch.tensor(0.0, dtype=torch.float32, device="cpu")}
    columns = 1
    commutes_with_flips = True
    cpu_kernel = gaussian_blur
    torchvision_has_p = False

    def __post_init__(self) -> None:
        super().__post_init__()
        size = self.kernel_size
        if isinstance(size, (tuple, list)) and len(set(size)) == 1:
            object.__setattr__(self, "kernel_size", size[0])
            size = size[0]
        if isinstance(size, bool) or not isinstance(size, int) or size < 1 or size % 2 == 0:
            fail("GaussianBlur(kernel_size)", "an odd number of taps", size)
        sigma = self.sigma if isinstance(self.sigma, (tuple, list)) else (self.sigma, self.sigma)
        object.__setattr__(self, "sigma", require_range(sigma, "GaussianBlur(sigma)", 0.0, float("inf"), above=True))

    def draw(self, uniform: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
        assert isinstance(self.sigma, tuple)
        low, high = self.sigma
        return {"sigma": (low + (high - low) * uniform[..., 0]).float()}

    def apply(self, images: Tensor, drawn: Draws, scale: float = 1.0) -> Tensor:
        radius = self._radius((images.shape[-2], images.shape[-1]), scale)
        taps = gaussian_taps(drawn["sigma"] * scale, radius)[:, :, None, None, None].unbind(1)
        for axis in (-1, -2):
            length = images.shape[axis]
            padded = F.pad(images, (radius, radius, 0, 0) if axis == -1 else (0, 0, radius, radius), mode="reflect")
            blurred = images * taps[0]
            for step in range(1, radius + 1):
                pair = padded.narrow(axis, radius - step, length) + padded.narrow(axis, radius + step, length)
                blurred = blurred + taps[step] * pair
            images = blurred
        return images

    def require_size(self, size: tuple[int, int]) -> None:
        """Fail unless a view of this size can be reflected by half a kernel."""
        if self.p > 0 and self.kernel_size // 2 >= min(size):
            most = 2 * min(size) - 1
            fail("GaussianBlur(kernel_size)", f"at most {most} taps for a view of {size[0]} x {size[1]}", self.kernel_size)

    def kernel_fields(self, channels: int, size: tuple[int, int], scale: float) -> list[float]:
        return [self._radius(size, scale), scale]

    def kernel_scratch(self, channels: int, size: tuple[int, int]) -> int:
        height, width = size
        radius = min(size) - 1  # the most that reflection allows, at any scale
        return radius + 1 + width + 2 * radius + (height + 2 * radius) * width

    def _radius(self, size: tuple[int, int], scale: float) -> int:
        """Half the kernel at a scale, no more than reflection allows."""
        return min(round(self.kernel_size // 2 * scale), min(size) - 1)
