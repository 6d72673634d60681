"""Gaussian blur with a standard deviation of its own for every sample."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["gaussian_blur", "gaussian_taps"]


def gaussian_taps(sigma: Tensor, radius: int) -> Tensor:
    """The centre and right half of normalised Gaussian kernels.

    Shape: sigma ``(n,)``, in pixels -> ``(n, radius + 1)``; sigma 0 gives the kernel that changes nothing.
    Source: torchvision v2 ``gaussian_blur``: the density at whole pixels, normalised to sum 1.
    """
    steps = torch.arange(radius + 1, device=sigma.device, dtype=torch.float32)
    density = torch.exp(-0.5 * (steps / sigma.clamp(min=1e-6)[:, None]).square())
    return density / (2 * density.sum(-1, keepdim=True) - density[:, :1])


def gaussian_blur(images: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Blur every image with its own sigma, 2 * radius + 1 taps along each axis, reflecting at the edges.

    Shape: images ``(n, C, h, w)``; sigma ``(n,)`` in pixels, 0 leaves an image as it is -> as images.
    Source: torchvision v2 ``gaussian_blur``.
    """
    taps = gaussian_taps(sigma, radius)[:, :, None, None, None].unbind(1)
    for axis in (-1, -2):
        length = images.shape[axis]
        padded = F.pad(images, (radius, radius, 0, 0) if axis == -1 else (0, 0, radius, radius), mode="reflect")
        blurred = images * taps[0]
        for step in range(1, radius + 1):
            pair = padded.narrow(axis, radius - step, length) + padded.narrow(axis, radius + step, length)
            blurred = blurred + taps[step] * pair
        images = blurred
    return images
