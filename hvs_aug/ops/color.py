"""Colour jitter, grayscale, solarization and normalisation, with parameters of its own for every sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["BRIGHTNESS", "CONTRAST", "HUE", "LUMINANCE", "SATURATION", "grayscale", "jitter", "normalize", "shift_hue", "solarize"]

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
"""The columns of jitter factors; torchvision's ``ColorJitter`` numbers them alike."""

LUMINANCE = (0.2989, 0.587, 0.114)
"""The weights of R, G and B in gray (torchvision v2 ``_rgb_to_grayscale_image``, after ITU-R 601-2)."""


def luminance(images: Tensor) -> Tensor:
    """Gray values of RGB images, ``(..., 3, h, w)`` -> ``(..., 1, h, w)``; one channel is its own gray value."""
    if images.shape[-3] == 1:
        return images
    red, green, blue = images.unbind(-3)
    return (red * LUMINANCE[0] + green * LUMINANCE[1] + blue * LUMINANCE[2]).unsqueeze(-3)


def shift_hue(images: Tensor, shift: Tensor | float) -> Tensor:
    """Turn the hue of RGB images, without a detour through HSV.

    Shape: images ``(..., 3, h, w)`` in [0, 1]; shift broadcastable, in turns within [-0.5, 0.5] -> as images.

    With M and m the largest and smallest channel and d = M - m, the hue's distance from red on a circle of circumference 6 d is
    a = g + b - r + d - m, on the green side where g >= b. The shifted hue H gives every channel as m + clamp(||H - c| - 3 d| - d,
    0, d) with c its own place on the circle (0, 2 d, 4 d): the trapezoids of the HSV hexagon, multiplied by d, so that nothing
    is divided and gray needs no case of its own.

    Source: torchvision v2 ``adjust_hue``, to which it is equal within rounding.
    """
    red, green, blue = images.unbind(-3)
    highest = torch.maximum(torch.maximum(red, green), blue)
    lowest = torch.minimum(torch.minimum(red, green), blue)
    chroma = highest - lowest
    hue = torch.copysign(green + blue - red + chroma - lowest, green - blue)
    if isinstance(shift, Tensor):
        shift = shift.squeeze(-3) if shift.ndim == images.ndim else shift
    hue = hue + 6 * shift * chroma
    # |hue| can reach 6 d, and 8 d from a channel's place, so bring the distance back onto the circle.
    channels = []
    for place in (0.0, 2.0, -2.0):
        distance = (hue - place * chroma).abs()
        distance = torch.minimum(distance, (6 * chroma - distance).abs())
        channels.append(lowest + torch.minimum((2 * chroma - distance).clamp(min=0), chroma))
    return torch.stack(channels, dim=-3)


def jitter(images: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """Apply brightness, contrast, saturation and hue to every image in its own order.

    Shape: images ``(n, C, h, w)`` in [0, 1], C 1 or 3; factors ``(n, 4)`` (identity 1, 1, 1, 0); order ``(n, 4)`` int64,
        ``order[:, i]`` the factor applied i-th -> as images, clamped to [0, 1] after each.
    Source: torchvision v2 ``ColorJitter``: brightness blends with black, contrast with the mean gray, saturation with the gray.
    """
    for step in range(4):
        operation = order[:, step]
        factor = factors.gather(1, operation[:, None]).view(-1, 1, 1, 1)
        operation = operation.view(-1, 1, 1, 1)
        gray = luminance(images)
        mean = gray.mean(dim=(-3, -2, -1), keepdim=True)
        other = torch.where(operation == CONTRAST, mean, gray) * (operation != BRIGHTNESS)
        blended = (factor * images + (1 - factor) * other).clamp(0, 1)
        if images.shape[-3] == 3:
            blended = torch.where(operation == HUE, shift_hue(images, factor), blended)
        else:
            # One channel has no colour: its saturation and hue are left as they are, as torchvision leaves them.
            blended = torch.where(operation >= SATURATION, images, blended)
        images = blended
    return images


def grayscale(images: Tensor, mask: Tensor) -> Tensor:
    """Replace the masked images by their gray values, in all channels; ``(n, C, h, w)``, mask ``(n,)`` bool."""
    return torch.where(mask.view(-1, 1, 1, 1), luminance(images), images)


def solarize(images: Tensor, mask: Tensor, threshold: float) -> Tensor:
    """Invert the values at or above the threshold in the masked images; ``(n, C, h, w)`` in [0, 1], mask ``(n,)`` bool."""
    return torch.where(mask.view(-1, 1, 1, 1) & (images >= threshold), 1 - images, images)


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Subtract the mean and divide by the standard deviation of each channel; ``(n, C, h, w)``."""
    shape = (-1, 1, 1)
    offset = torch.tensor(mean, device=images.device, dtype=images.dtype).view(shape)
    return (images - offset) / torch.tensor(std, device=images.device, dtype=images.dtype).view(shape)
