"""Pictures that operations are tested on: noise and structure, of any number of channels, dtype and memory layout."""

from __future__ import annotations

import torch
from torch import Tensor

from hvs_aug import ops


def pictures(height: int, width: int, channels: int = 3, count: int = 8, seed: int = 0) -> Tensor:
    """Noise, gradients, flat gray, black, white, and saturated stripes: (count, channels, height, width) float32 in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(max(count - 5, 1), channels, height, width, generator=generator)
    rows, columns = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)[None]
    gradient = torch.stack([(rows + columns) / 2 if c % 2 == 0 else (1 - rows) * columns for c in range(channels)])
    stripes = torch.zeros(channels, height, width)
    for channel in range(channels):
        stripes[channel, :, channel::channels] = 1
    flat = torch.full((channels, height, width), 0.4)
    structure = torch.stack([gradient, stripes, flat, torch.zeros_like(flat), torch.ones_like(flat)])
    return torch.cat([noise, structure])[:count]


def of_dtype(images: Tensor, dtype: torch.dtype) -> Tensor:
    """The pictures as an image file's or a network's dtype holds them."""
    if dtype == torch.uint8:
        return (images * 255).round().to(torch.uint8)
    if dtype == torch.uint16:
        return (images.double() * 65535).round().to(torch.int32).to(torch.uint16)
    return images.to(dtype)


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

OPERATIONS = {
    "horizontal flip": ops.RandomHorizontalFlip(),
    "vertical flip": ops.RandomVerticalFlip(),
    "jitter": ops.ColorJitter(0.8, 0.8, 0.8, 0.4),
    "asymmetric jitter": ops.ColorJitter((0.2, 0.9), (1.1, 1.9), (0.0, 3.0), (-0.5, 0.1), p=0.7),
    "grayscale": ops.RandomGrayscale(0.6),
    "blur": ops.GaussianBlur(3, (0.1, 2.0), p=0.8),
    "solarize": ops.RandomSolarize(0.3, p=0.6),
    "erasing": ops.RandomErasing(0.8, (0.02, 0.6), value=(0.1, 0.9, 0.4)),
    "rotation": ops.RandomRotation(40, fill=(0.2, 0.3, 0.9), p=0.8),
    "bilinear rotation": ops.RandomRotation((-120, 30), "bilinear", fill=0.7),
    "posterize": ops.RandomPosterize(3, p=0.7),
    "invert": ops.RandomInvert(),
    "autocontrast": ops.RandomAutocontrast(0.7),
    "equalize": ops.RandomEqualize(0.7),
    "sharpen": ops.RandomAdjustSharpness(2.7, p=0.7),
    "smooth": ops.RandomAdjustSharpness(0.0, p=0.7),
    "normalize": ops.Normalize(MEAN, STD),
}
"""Every operation that stands after the crop, for images of three channels."""
