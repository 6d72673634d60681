"""Crop one box per view and resize it, antialiased, as two products with banded resampling matrices."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["crop_resize", "resampling_weights", "to_unit_range"]

# The cubic convolution coefficient of PIL's and torch's antialiased bicubic (Pillow src/libImaging/Resample.c, bicubic_filter).
_CUBIC = -0.5


def to_unit_range(pixels: Tensor) -> Tensor:
    """Convert uint8 in [0, 255] to float32 in [0, 1]; floating point passes as float32."""
    return pixels.to(torch.float32) * (1 / 255) if pixels.dtype == torch.uint8 else pixels.to(torch.float32)


def resampling_weights(start: Tensor, length: Tensor, flip: Tensor | None, source: int, size: int, interpolation: str) -> Tensor:
    """The matrix that resamples pixels [start, start + length) of a line of ``source`` pixels to ``size`` pixels.

    Shape: start, length ``(...)`` integer; flip ``(...)`` bool or None -> ``(..., size, source)`` float32, rows summing to 1.
    Source: PyTorch aten/src/ATen/native/cpu/UpSampleKernel.cpp, antialiased separable kernels: the filter is widened by the
        scale when it shrinks, and cut off at the box's edges.
    """
    start, length = start.to(torch.float32)[..., None], length.to(torch.float32)[..., None]
    row = torch.arange(size, device=start.device, dtype=torch.float32)
    if flip is not None:
        row = torch.where(flip[..., None], size - 1 - row, row)
    scale = length / size
    widening = scale.clamp(min=1.0)
    reach = (1.0 if interpolation == "bilinear" else 2.0) * widening
    center = scale * (row + 0.5)
    first = (center - reach + 0.5).floor().clamp(min=0.0)
    last = torch.minimum((center + reach + 0.5).floor(), length)
    pixel = torch.arange(source, device=start.device, dtype=torch.float32) - start
    pixel = pixel[..., None, :]
    distance = ((pixel - center[..., None] + 0.5) / widening[..., None]).abs()
    weights = (1 - distance).clamp(min=0) if interpolation == "bilinear" else _cubic(distance)
    inside = (pixel >= first[..., None]) & (pixel < last[..., None])
    weights = weights * inside
    return weights / weights.sum(-1, keepdim=True)


def _cubic(distance: Tensor) -> Tensor:
    near = ((_CUBIC + 2) * distance - (_CUBIC + 3)) * distance * distance + 1
    far = (((distance - 5) * distance + 8) * distance - 4) * _CUBIC
    return torch.where(distance < 1, near, torch.where(distance < 2, far, torch.zeros_like(far)))


def crop_resize(pixels: Tensor, boxes: Tensor, flips: Tensor, size: int, interpolation: str) -> Tensor:
    """Crop V boxes from every image and resize them, antialiased, mirrored where ``flips`` says so.

    Shape: pixels ``(B, C, H, W)`` uint8 or floating point; boxes ``(V, B, 4)``; flips ``(V, B)`` bool
        -> ``(V, B, C, size, size)`` float32 in [0, 1]. Bicubic overshoots are clamped for uint8, as torchvision clamps them, and
        left for floating point, as torchvision leaves them.
    Convention: box = (top, left, height, width) in source pixels, half-open.
    Source: torchvision transforms.v2.functional.resized_crop, antialias=True.
    """
    top, left, height, width = boxes.unbind(-1)
    rows = resampling_weights(top, height, None, pixels.shape[-2], size, interpolation)
    columns = resampling_weights(left, width, flips, pixels.shape[-1], size, interpolation)
    lines = torch.einsum("vbsh,bchw->vbcsw", rows, to_unit_range(pixels))
    resized = torch.einsum("vbcsw,vbtw->vbcst", lines, columns)
    return resized.clamp(0, 1) if pixels.dtype == torch.uint8 else resized
