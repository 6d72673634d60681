"""The raw images of one batch, each at its own size."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .._check import fail, readable, require

__all__ = ["ImageBatch"]


@dataclass(frozen=True, eq=False)
class ImageBatch:
    """Raw images of different sizes on one canvas, each in its top-left corner.

    Attributes:
        pixels: ``(B, C, H, W)`` uint8 in [0, 255], or floating point in [0, 1]. Stored channels-last by
            :func:`hvs_aug.collate_images`, which is what the crop reads fastest. What lies outside an image is never sampled.
        sizes: ``(B, 2)`` int64, each image's true (height, width) in pixels.
        downscaled: how many of the images were larger than ``max_side`` and were reduced when they were collated.
        skipped: the samples that could not be decoded and were left out, each as ``"name: reason"``.

    Raises:
        HVSError: if shapes or dtypes differ from these, or a size does not fit its canvas.

    Example:
        >>> import torch
        >>> batch = ImageBatch(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.tensor([[8, 8], [5, 8]]))
        >>> len(batch)
        2
    """

    pixels: Tensor
    sizes: Tensor
    downscaled: int = 0
    skipped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        pixels, sizes = self.pixels, self.sizes
        if not isinstance(pixels, Tensor) or pixels.ndim != 4 or not (pixels.dtype == torch.uint8 or pixels.is_floating_point()):
            fail("ImageBatch(pixels)", "a (B, C, H, W) tensor, uint8 or floating point", pixels)
        if not isinstance(sizes, Tensor) or sizes.shape != (len(pixels), 2) or sizes.dtype != torch.int64:
            fail("ImageBatch(sizes)", f"an int64 tensor of shape ({len(pixels)}, 2)", sizes)
        # Sizes are made and checked on the CPU; on a device a look at their values would make the host wait for it.
        if len(sizes) and readable(sizes):
            canvas = torch.tensor(pixels.shape[-2:])
            require(
                bool((sizes >= 1).all() and (sizes <= canvas).all()),
                "ImageBatch(sizes)",
                f"heights and widths from 1 to the canvas's {tuple(pixels.shape[-2:])}",
                f"sizes from {tuple(sizes.amin(0).tolist())} to {tuple(sizes.amax(0).tolist())}",
            )

    @staticmethod
    def of(images: ImageBatch | Tensor) -> ImageBatch:
        """Return an ImageBatch as it is, and a plain ``(B, C, H, W)`` tensor as one whose images fill their canvas."""
        if isinstance(images, ImageBatch):
            return images
        if not isinstance(images, Tensor) or images.ndim != 4:
            fail(
                "ImageBatch.of(images)",
                "an ImageBatch or a (B, C, H, W) tensor",
                images,
                "pass collate_fn=hvs_aug.collate_images to the DataLoader, and no transform to its dataset.",
            )
        return ImageBatch(images, torch.tensor(images.shape[-2:], dtype=torch.int64).expand(len(images), 2))

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def device(self) -> torch.device:
        """Where the pixels are."""
        return self.pixels.device

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ImageBatch:
        """Move the pixels; the sizes stay on the CPU, where crops are drawn."""
        return replace(self, pixels=self.pixels.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> ImageBatch:
        """Copy the pixels to page-locked memory, from which they cross to a GPU without blocking; DataLoader calls this."""
        return replace(self, pixels=self.pixels.pin_memory())
