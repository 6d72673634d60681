"""The raw images of one batch, each at its own size, without padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._check import describe, fail, is_dense, readable, require
from .pixels import plain

__all__ = ["ImageBatch", "Layout"]

PACKED_DTYPES = (torch.uint8, torch.uint16, torch.float32)
DTYPES = (*PACKED_DTYPES, torch.float64, torch.float16, torch.bfloat16)


class Layout(NamedTuple):
    """Where the values of a batch lie in memory, in elements: what a renderer reads images by.

    The value of channel c at row y and column x of image b is
    ``values[offsets[b] + y * rows[b] + x * column + c * channel]``.
    """

    values: Tensor  # one-dimensional, on the batch's device
    offsets: Tensor  # (B,) int64, on the CPU
    rows: Tensor  # (B,) int64, on the CPU
    column: int
    channel: int


@dataclass(frozen=True, eq=False)
class ImageBatch:
    """Raw images of different sizes.

    They are stored in one of two ways. :func:`hvs_aug.collate_images` packs them: the values of one image after those of the
    other, each (height, width, channels), with no padding. A plain ``(B, C, H, W)`` tensor of any strides is kept as it is, and
    each image lies in the top-left corner of its plane.

    Attributes:
        pixels: packed, a one-dimensional uint8, uint16 or float32 tensor; or a ``(B, C, H, W)`` tensor, uint8, uint16 or
            floating point. Integers span their whole range (255 or 65535 is white); floating point is in [0, 1].
        sizes: ``(B, 2)`` int64 on the CPU, each image's (height, width) in pixels.
        offsets: ``(B,)`` int64 on the CPU, where each packed image starts in ``pixels``; ``None`` for a ``(B, C, H, W)`` tensor.
        channels: the number of channels; needed where the images are packed.
        downscaled: how many of the images were larger than ``max_side`` and were reduced when they were collated.
        skipped: the samples that could not be decoded and were left out, each as ``"name: reason"``.

    Raises:
        HVSError: if shapes or dtypes differ from these, or an image does not lie within ``pixels``.

    Example:
        >>> import torch
        >>> batch = ImageBatch.pack([torch.zeros(3, 8, 6, dtype=torch.uint8), torch.zeros(3, 5, 8, dtype=torch.uint8)])
        >>> len(batch), batch.pixels.shape, batch.image(1).shape
        (2, torch.Size([264]), torch.Size([3, 5, 8]))
    """

    pixels: Tensor
    sizes: Tensor
    offsets: Tensor | None = None
    channels: int = 0
    _: KW_ONLY
    downscaled: int = 0
    skipped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        pixels, sizes = self.pixels, self.sizes
        if not is_dense(pixels) or pixels.ndim not in (1, 4) or (pixels.ndim == 1) != (self.offsets is not None):
            fail("ImageBatch(pixels)", "a (B, C, H, W) tensor, or a one-dimensional tensor with offsets", pixels)
        is_allowed = pixels.dtype in (PACKED_DTYPES if pixels.ndim == 1 else DTYPES)
        kinds = "uint8, uint16 or float32" if pixels.ndim == 1 else "uint8, uint16 or floating-point"
        is_count = isinstance(self.channels, int) and self.channels >= 0
        require(is_count, "ImageBatch(channels)", "the number of channels", describe(self.channels))
        require(is_allowed, "ImageBatch(pixels)", f"{kinds} values", pixels)
        if not isinstance(sizes, Tensor) or sizes.dtype != torch.int64 or sizes.ndim != 2 or sizes.shape[1] != 2:
            fail("ImageBatch(sizes)", "an int64 tensor of shape (B, 2)", sizes)
        if self.offsets is None:
            require(len(sizes) == len(pixels), "ImageBatch(sizes)", f"an int64 tensor of shape ({len(pixels)}, 2)", sizes)
            require(
                self.channels in (0, pixels.shape[1]), "ImageBatch(channels)", f"{pixels.shape[1]}, as in pixels", self.channels
            )
            object.__setattr__(self, "channels", pixels.shape[1])
        else:
            starts = self.offsets
            fits = isinstance(starts, Tensor) and starts.dtype == torch.int64 and starts.shape == sizes.shape[:1]
            require(fits, "ImageBatch(offsets)", f"an int64 tensor of shape ({len(sizes)},)", starts)
            require(self.channels >= 1, "ImageBatch(channels)", "the number of channels of the packed images", self.channels)
        require(self.channels >= 1, "ImageBatch(pixels)", "at least one channel", pixels)
        if len(sizes) and readable(sizes):
            self._require_within()

    def _require_within(self) -> None:
        smallest, largest = self.sizes.amin(0).tolist(), self.sizes.amax(0).tolist()
        came = f"sizes from {tuple(smallest)} to {tuple(largest)}"
        if self.offsets is None:
            canvas = tuple(self.pixels.shape[-2:])
            is_within = min(smallest) >= 1 and largest[0] <= canvas[0] and largest[1] <= canvas[1]
            require(is_within, "ImageBatch(sizes)", f"heights and widths from 1 to those of pixels, {canvas}", came)
            return
        require(min(smallest) >= 1, "ImageBatch(sizes)", "heights and widths of at least 1", came)
        ends = self.offsets + self.sizes.double().prod(1) * self.channels  # where an int64 would start again below 0
        is_within = int(self.offsets.amin()) >= 0 and int(ends.amax()) <= len(self.pixels)
        came = f"images from {int(self.offsets.amin())} to {int(ends.amax())}"
        require(is_within, "ImageBatch(offsets)", f"images within the {len(self.pixels)} values of pixels", came)

    @staticmethod
    def of(images: ImageBatch | Tensor) -> ImageBatch:
        """Return an ImageBatch as it is, and a plain ``(B, C, H, W)`` tensor as one, without a copy."""
        if isinstance(images, ImageBatch):
            return images
        call, hint = (
            "ImageBatch.of(images)",
            "pass collate_fn=hvs_aug.collate_images to the DataLoader, and no transform to its dataset.",
        )
        if not is_dense(images) or images.ndim != 4:
            fail(call, "an ImageBatch or a (B, C, H, W) tensor", images, hint)
        if images.shape[1] > 4 >= images.shape[3] and images.dtype in (torch.uint8, torch.uint16):
            fail(call, "a (B, C, H, W) tensor", f"{images.shape}, whose channels come last", "pass images.permute(0, 3, 1, 2).")
        sizes = torch.tensor(images.shape[-2:], dtype=torch.int64, device="cpu")
        return ImageBatch(plain(images), sizes.expand(len(images), 2))

    @staticmethod
    def pack(images: Sequence[Tensor], out: Tensor | None = None) -> ImageBatch:
        """Pack images of equal dtype and number of channels one after the other.

        Shape: images, each ``(C, h, w)`` uint8, uint16 or float32, on the CPU; out, a one-dimensional tensor of that dtype
            and as many values, or ``None`` to allocate one.
        """
        call = "ImageBatch.pack(images)"
        is_several = isinstance(images, Sequence) or (is_dense(images) and images.ndim == 4)
        require(is_several, call, "a list of (C, h, w) tensors", images)
        require(len(images) > 0, call, "at least one image", "none")
        first = images[0]
        require(is_dense(first) and first.ndim == 3, call, "(C, h, w) tensors", first)
        channels, dtype = len(first), first.dtype
        for image in images:
            is_alike = is_dense(image) and image.ndim == 3 and len(image) == channels and image.dtype == dtype
            expected = f"(C, h, w) images of {channels} channels and {dtype} on the CPU"
            require(is_alike and image.device.type == "cpu", call, expected, image)
        require(dtype in PACKED_DTYPES, call, "uint8, uint16 or float32 images", first)
        sizes = torch.tensor([image.shape[1:] for image in images], dtype=torch.int64, device="cpu")
        counts = sizes.prod(1) * channels
        ends = counts.cumsum(0)
        total = int(ends[-1])
        packed = torch.empty(total, dtype=dtype, device="cpu") if out is None else out
        call = "ImageBatch.pack(out)"
        require(is_dense(packed) and packed.shape == (total,) and packed.dtype == dtype, call, f"{total} values of {dtype}", packed)
        is_writable = packed.device.type == "cpu" and not packed.requires_grad
        require(is_writable, call, "a tensor on the CPU that requires no gradient", packed)
        for end, image in zip(ends.tolist(), images, strict=True):
            write_packed(image, packed[end - image.numel() : end])
        return ImageBatch(packed, sizes, ends - counts, channels)

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[Tensor]:
        return (self.image(index) for index in range(len(self)))

    def __getitem__(self, rows: slice | Tensor) -> ImageBatch:
        """The images that a slice or a one-dimensional index tensor names, without a copy where they are packed."""
        is_index = isinstance(rows, slice) or (isinstance(rows, Tensor) and rows.ndim == 1 and not rows.is_floating_point())
        hint = "batch.image(index) is one of the images."
        require(is_index, "ImageBatch[rows]", "a slice or a one-dimensional index tensor", rows, hint)
        index = torch.arange(len(self), device="cpu")[rows if isinstance(rows, slice) else rows.cpu()]
        if self.offsets is not None:
            return replace(self, sizes=self.sizes[index], offsets=self.offsets[index])
        return replace(self, pixels=self.pixels[rows], sizes=self.sizes[index])

    @property
    def device(self) -> torch.device:
        """Where the pixels are."""
        return self.pixels.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the pixels."""
        return self.pixels.dtype

    def image(self, index: int) -> Tensor:
        """One image, ``(C, h, w)``, sharing the batch's memory."""
        height, width = self.sizes[index].tolist()
        if self.offsets is None:
            return self.pixels[index, :, :height, :width]
        start = int(self.offsets[index])
        return self.pixels[start : start + height * width * self.channels].view(height, width, self.channels).permute(2, 0, 1)

    def layout(self) -> Layout:
        """Where each value lies in memory, without a copy."""
        if self.offsets is not None:
            return Layout(self.pixels, self.offsets, self.sizes[:, 1] * self.channels, self.channels, 1)
        batch, channel, row, column = self.pixels.stride()
        count = len(self)
        span = sum((side - 1) * stride for side, stride in zip(self.pixels.shape, self.pixels.stride(), strict=True)) + 1
        values = self.pixels.as_strided((span if self.pixels.numel() else 0,), (1,))
        offsets = torch.arange(count, dtype=torch.int64, device="cpu") * batch
        return Layout(values, offsets, torch.full((count,), row, dtype=torch.int64, device="cpu"), column, channel)

    def require_unit_range(self, call: str = "ImageBatch(pixels)") -> None:
        """Refuse floating-point images whose values leave [0, 1], and NaN; integers always pass.

        Only values on the CPU are read, because reading from a device would block: see :meth:`outside_unit_range`.

        Raises: HVSError naming ``call`` and the first image that has such values.
        """
        if not self.dtype.is_floating_point or not readable(self.pixels):
            return
        for index, image in enumerate(self):
            low, high = (float(value) for value in image.detach().aminmax())
            if not (low >= 0 and high <= 1):
                expected, got = "floating-point images with values in [0, 1]", f"values in [{low:.4g}, {high:.4g}] in image {index}"
                fail(call, expected, got, "leave out Normalize (CandidateViews normalises last), or divide by the largest value.")

    def outside_unit_range(self) -> Tensor:
        """Count the values outside [0, 1], including NaN and the padding beside an image, without waiting for a device.

        Shape: -> () int64 on the batch's device; 0 for integers.
        """
        if not self.dtype.is_floating_point:
            return torch.zeros((), dtype=torch.int64, device=self.device)
        return self.pixels.numel() - ((self.pixels >= 0) & (self.pixels <= 1)).sum()

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ImageBatch:
        """Move the pixels, one tensor; sizes and offsets stay on the CPU, where crops are drawn."""
        return replace(self, pixels=self.pixels.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> ImageBatch:
        """Copy the pixels to page-locked memory, from which they cross to a GPU without blocking; DataLoader calls this."""
        return replace(self, pixels=self.pixels.pin_memory())


def write_packed(image: Tensor, place: Tensor) -> None:
    """Copy a (C, h, w) image into ``place``, one-dimensional and of as many values, as (h, w, C)."""
    values = image.detach().permute(1, 2, 0)
    if values.is_contiguous():
        np.copyto(place.numpy(), values.reshape(-1).numpy())  # one memcpy; copy_ takes about a fifth longer
    else:
        place.view(values.shape).copy_(values)
