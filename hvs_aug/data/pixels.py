"""Pixels of one image as a tensor: their range, their size and their orientation."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from .._check import fail

__all__ = ["downscale", "plain", "reduced_size", "to_unit_range", "upright"]

_NORMALISED = "remove Normalize from the transform (CandidateViews normalises last), or divide the values by their maximum."


def plain(image: Tensor) -> Tensor:
    """Return the same memory as a Tensor of no subclass, outside autograd."""
    image = image.detach()
    # PyTorch 2.4 cannot make one of a plain tensor under a TorchDispatchMode, such as FlopCounterMode.
    return image if type(image) is Tensor else image.as_subclass(Tensor)


def to_unit_range(pixels: Tensor, name: str = "to_unit_range(pixels)", hint: str = _NORMALISED) -> Tensor:
    """Bring any image tensor to float32 in [0, 1]: uint8 is divided by 255, uint16 by 65535, floating point checked and kept.

    Raises: HVSError if floating-point values leave [0, 1], or the dtype is another.
    """
    if pixels.dtype in (torch.uint8, torch.uint16):
        return pixels.to(torch.float32).div_(255 if pixels.dtype == torch.uint8 else 65535)
    if not pixels.is_floating_point():
        fail(name, "a uint8, uint16 or floating-point image", pixels)
    pixels = pixels.to(torch.float32)
    if pixels.numel():
        low, high = (float(value) for value in pixels.aminmax())
        if not (low >= 0 and high <= 1):
            fail(name, "a floating-point image with values in [0, 1]", f"values in [{low:.4g}, {high:.4g}]", hint)
    return pixels


def reduced_size(height: int, width: int, max_side: int) -> tuple[int, int]:
    """Return the size whose longer side is ``max_side``, aspect kept, no side below 1.

    Example:
        >>> reduced_size(1500, 1000, 600)
        (600, 400)
    """
    longest = max(height, width)
    return max(1, round(height * max_side / longest)), max(1, round(width * max_side / longest))


def downscale(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize one image, bilinear and antialiased.

    Shape: (C, H, W) uint8, uint16 or float32 -> (C, *size) of the same dtype, in (H, W, C) memory.
    Source: torchvision transforms.v2.functional.resize, antialias=True; for uint16 and float32 PIL.Image.resize in mode F.
    """
    if pixels.dtype == torch.uint8:
        batch = pixels[None].contiguous(memory_format=torch.channels_last)
        small: Tensor = interpolate(batch, size=size, mode="bilinear", antialias=True)[0]
    else:
        # torch 2.15 interpolates floating point to a width of 1 wrongly (by up to 0.6).
        height, width = size
        bands = (Image.fromarray(band.numpy().astype(np.float32)) for band in pixels)
        resized = [np.asarray(band.resize((width, height), Image.Resampling.BILINEAR)) for band in bands]
        small = torch.from_numpy(np.stack(resized))
        # Weights sum to 1 within rounding only.
        small = small.clamp_(0, 1) if pixels.is_floating_point() else small.round_().clamp_(0, 65535).to(torch.uint16)
    return small.permute(1, 2, 0).contiguous().permute(2, 0, 1)


def upright(pixels: Tensor, orientation: int) -> Tensor:
    """Turn an image by its EXIF orientation, 1 to 8.

    Shape: (C, H, W) -> (C, H, W), or (C, W, H) for 5 to 8.
    Source: PIL.ImageOps.exif_transpose.
    """
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 2)
    # Of the image transposed so far: rows are in reverse order for 3, 4, 7 and 8, columns for 2, 3, 6 and 7.
    axes = [axis for axis, those in ((1, (3, 4, 7, 8)), (2, (2, 3, 6, 7))) if orientation in those]
    return pixels.flip(axes) if axes else pixels
