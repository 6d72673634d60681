"""A collate_fn for raw images of any kind and size: packed in the worker, at the bits that the images have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import default_collate, get_worker_info
from torch.utils.data._utils.collate import default_collate_fn_map

from .._check import HVSError, describe, fail, is_dense, require
from .._memory import Recycled
from .batch import ImageBatch, write_packed
from .decode import decode_image, reason_of, size_in_header
from .pillow import from_pil
from .pixels import downscale, plain, reduced_size, to_unit_range

__all__ = ["Undecodable", "collate_images"]

_IMAGE_KEYS = ("image", "img", "pixel_values")
_NO_TRANSFORM = "give the dataset no transform that makes views or normalises; hvs_aug.CandidateViews does both on the device."


@dataclass(frozen=True)
class Undecodable:
    """What a dataset returns in an image's place when its file cannot be decoded: collate_images leaves that sample out.

    Attributes:
        name: the file.
        reason: why, in one line.
    """

    name: str
    reason: str


class RawImage(Tensor):
    """An image of RawImages: torch's default_collate stacks images of one size, and says what to use for others."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # results are plain tensors, as those of a Parameter


def _collated_by_default(images: list[Any], *, collate_fn_map: Any = None) -> Tensor:
    shapes = sorted({tuple(image.shape) for image in images if isinstance(image, Tensor)})
    is_whole = all(isinstance(image, Tensor) for image in images)
    if not is_whole or len(shapes) > 1:
        got = f"images of shapes {' and '.join(map(str, shapes[:2]))}" if is_whole else "one that does not decode"
        hint = "DataLoader(RawImages(path), ..., collate_fn=hvs_aug.collate_images) packs images of any size."
        fail("DataLoader(collate_fn)", "whole images of one size for torch's default_collate", got, hint)
    return cast("Tensor", default_collate([image.as_subclass(Tensor) for image in images]))


# This is how default_collate's documentation adds a type.
default_collate_fn_map.update({RawImage: _collated_by_default, Undecodable: _collated_by_default})


def collate_images(samples: Sequence[Any], *, max_side: int | None = 1024, channels: int = 3) -> Any:
    """Collate samples of raw images into the same structure with one ImageBatch in the images' place.

    A sample is an image alone, a tuple or list whose first element is the image, or a dict with the image under ``"image"``,
    ``"img"`` or ``"pixel_values"``. Everything else in it goes through ``torch.utils.data.default_collate``, untouched.
    An image is a PIL image of any mode, a NumPy array, a tensor or tv_tensor, or an encoded file (bytes, bytearray, a
    one-dimensional uint8 tensor or array; see :func:`hvs_aug.data.decode_image`). Samples whose image is an
    :class:`Undecodable` are left out, and named in ``ImageBatch.skipped``. Set the arguments with ``functools.partial``.

    Shape: NumPy (H, W, C) or (H, W), tensors (C, H, W) or (H, W) -> a packed ImageBatch of ``channels`` channels.
    Convention: uint8 if every image is, uint16 if every image is (16-bit files and PIL modes I and I;16 are), else float32 in
        [0, 1] (uint8 is divided by 255, uint16 by 65535). PIL images and encoded files are converted to ``channels`` and turned
        upright by EXIF; arrays and tensors must have that many channels. An image whose longer side exceeds ``max_side`` is
        reduced to it, antialiased, and counted in ``ImageBatch.downscaled``.
    Raises: HVSError for an unknown sample or image type, a size of 0, another number of channels, floating-point values outside
        [0, 1], a file that does not decode, or a batch whose samples were all left out.

    Example:
        >>> import torch
        >>> images, labels = collate_images([(torch.zeros(3, 8, 6), 0), (torch.ones(3, 4, 9), 1)])
        >>> images.pixels.shape, images.sizes.tolist(), labels
        (torch.Size([252]), [[8, 6], [4, 9]], tensor([0, 1]))
    """
    require(isinstance(channels, int) and channels >= 1, "collate_images(channels)", "a count of at least 1", channels)
    is_side = max_side is None or (isinstance(max_side, (int, float)) and max_side >= 1)
    require(is_side, "collate_images(max_side)", "a number of pixels of at least 1, or None", describe(max_side))
    require(isinstance(samples, Sequence) and len(samples) > 0, "collate_images(samples)", "a list of at least one sample", samples)
    key = _image_key(samples[0])
    raw = [_image_of(sample, key, samples[0], index) for index, sample in enumerate(samples)]
    skipped = tuple(f"{image.name}: {image.reason}" for image in raw if isinstance(image, Undecodable))
    if skipped:
        require(
            len(skipped) < len(samples),
            "collate_images(samples)",
            "at least one image that decodes",
            f"{len(skipped)} that do not; the first is {skipped[0]}",
        )
        samples = [sample for sample, image in zip(samples, raw, strict=True) if not isinstance(image, Undecodable)]
        raw = [image for image in raw if not isinstance(image, Undecodable)]

    if _are_alike(raw, channels, max_side):
        batch = replace(_packed_at_once(raw), skipped=skipped)
    else:
        packer = _Packer(sum(_count(image, channels, max_side) for image in raw))
        downscaled = 0
        for index, (sample, image) in enumerate(zip(samples, raw, strict=True)):
            pixels, reduced = _to_pixels(image, channels, max_side, _name(sample, index))
            packer.add(pixels)
            downscaled += reduced
            del pixels
        batch = replace(packer.batch(), downscaled=downscaled, skipped=skipped)

    first = samples[0]
    if key is None:
        return batch
    if isinstance(first, Mapping):
        return {name: batch if name == key else default_collate([sample[name] for sample in samples]) for name in first}
    rest = [default_collate(list(column)) for column in list(zip(*samples, strict=True))[1:]]
    if hasattr(first, "_fields"):
        return type(first)(batch, *rest)
    return [batch, *rest] if isinstance(first, list) else (batch, *rest)


def _image_key(sample: Any) -> str | int | None:
    """Return where a sample holds its image: a dict's key, the index 0, or None where the sample is the image."""
    if isinstance(sample, Mapping):
        for key in _IMAGE_KEYS:
            if key in sample:
                return key
        fail(
            "collate_images(samples)",
            f"dict samples with the image under {', '.join(map(repr, _IMAGE_KEYS))}",
            _structure(sample),
            "rename the image's key in the dataset.",
        )
    return 0 if isinstance(sample, (tuple, list)) and sample else None


def _image_of(sample: Any, key: str | int | None, first: Any, index: int) -> Any:
    """Return a sample's image, after a check that the sample is built as the first one is."""
    if isinstance(first, Mapping):
        is_alike = isinstance(sample, Mapping) and sample.keys() == first.keys()
    elif key == 0:
        is_alike = type(sample) is type(first) and len(sample) == len(first)
    else:
        is_alike = not isinstance(sample, (tuple, list, Mapping))
    if not is_alike:
        fail(f"collate_images(samples[{index}])", f"the structure of samples[0], {_structure(first)}", _structure(sample))
    return sample if key is None else sample[key]


def _structure(sample: Any) -> str:
    if isinstance(sample, Mapping):
        return f"a {type(sample).__name__} with the keys {', '.join(map(repr, sample))}"
    return f"a {type(sample).__name__} of {len(sample)}" if isinstance(sample, (tuple, list)) else f"one {type(sample).__name__}"


def _name(sample: Any, index: int) -> str:
    """Name a sample for an error message, with the path or other text that it carries."""
    fields = sample.values() if isinstance(sample, Mapping) else sample if isinstance(sample, (tuple, list)) else ()
    words = [field for field in fields if isinstance(field, str)]
    return f"collate_images(samples[{index}]{''.join(f', {word}' for word in words)})"


def _to_pixels(image: Any, channels: int, max_side: int | None, name: str) -> tuple[Tensor, bool]:
    """Turn one image of any kind into (C, H, W), uint8, uint16 or float32 in [0, 1], and say whether it was reduced."""
    # hvs_aug.data.RawImages marks what it reduced itself.
    reduced = getattr(image, "downscaled", False) is True
    if isinstance(image, np.ndarray):
        image = _from_array(image, name)
    if isinstance(image, Tensor) and image.ndim == 1 and image.dtype == torch.uint8:
        image = image.contiguous().numpy().data
    if isinstance(image, (bytes, bytearray, memoryview)):
        return decode_image(image, channels, max_side, name)
    if isinstance(image, Image.Image):
        require(image.height > 0 and image.width > 0, name, "a height and a width of at least 1", f"{image.height} x {image.width}")
        try:
            pixels = from_pil(image, channels, name)
        except HVSError:
            raise
        except Exception as error:  # opened by the dataset, read only now: Pillow raises nearly every exception for damaged bytes
            got = f"mode {image.mode} ({reason_of(error)})"
            fail(name, f"an image that PIL can read and convert to {channels} channels", got)
    elif is_dense(image) and image.ndim in (2, 3):
        require(image.device.type != "meta", name, "a tensor that holds values", image)
        pixels = plain(image)
        pixels = pixels[None] if pixels.ndim == 2 else pixels
    else:
        hint = _NO_TRANSFORM if isinstance(image, (list, tuple, Tensor)) else None
        got = _structure(image) if isinstance(image, (list, tuple)) else describe(image)
        expected = "a PIL image, an array (H, W, C) or (H, W), a tensor (C, H, W) or (H, W), or the bytes of an image file"
        fail(name, expected, got, hint)

    _, height, width = pixels.shape
    require(height > 0 and width > 0, name, "a height and a width of at least 1", f"{height} x {width}")
    if len(pixels) != channels:
        hint = f"pass channels={len(pixels)}, as in functools.partial(collate_images, channels={len(pixels)})"
        if channels in pixels.shape[1:] and isinstance(image, Tensor):
            hint += "; tensors are (C, H, W), NumPy arrays (H, W, C)"
        fail(name, f"{channels} channels", f"{len(pixels)} in an image of shape {tuple(pixels.shape)}", hint + ".")
    if pixels.dtype not in (torch.uint8, torch.uint16):
        pixels = to_unit_range(pixels, name)
    if max_side is not None and max(height, width) > max_side:
        return downscale(pixels, reduced_size(height, width, max_side)), True
    return pixels, reduced


def _from_array(image: np.ndarray[Any, Any], name: str) -> Tensor:
    if image.dtype.kind not in "uf" or image.dtype.itemsize > (2 if image.dtype.kind == "u" else 8):
        fail(name, "a uint8, uint16 or floating-point array", f"a {image.dtype} array of shape {image.shape}")
    # Torch takes neither negative strides nor foreign byte orders, and warns of read-only memory.
    writable = np.require(image, dtype=image.dtype.newbyteorder("="), requirements=("C", "W"))
    pixels = torch.from_numpy(writable)
    return pixels.permute(2, 0, 1) if pixels.ndim == 3 else pixels


def _count(image: Any, channels: int, max_side: int | None) -> int:
    """Return how many values an image has once it is decoded and reduced, as far as its header tells."""
    if isinstance(image, (np.ndarray, Tensor)) and image.ndim != 1:
        return int(image.numel() if isinstance(image, Tensor) else image.size)
    if isinstance(image, Image.Image):
        width, height = image.size
    else:
        height, width = size_in_header(image) if isinstance(image, (bytes, bytearray, memoryview)) else (0, 0)
    if max_side is not None and max(height, width) > max_side:
        height, width = reduced_size(height, width, max_side)
    return height * width * channels


def _are_alike(raw: Sequence[Any], channels: int, max_side: int | None) -> bool:
    """Whether all images are plain uint8 tensors of one size that only have to be copied, as those of CIFAR in memory."""
    shape: Sequence[int] = raw[0].shape if is_dense(raw[0]) else ()
    if len(shape) != 3 or shape[0] != channels or 0 in shape or (max_side is not None and max(shape) > max_side):
        return False
    # A mark on the tensor (RawImages) lies in its attributes.
    plain = (Tensor, RawImage)
    return all(
        type(image) in plain
        and is_dense(image)
        and image.dtype == torch.uint8
        and image.shape == shape
        and image.device.type == "cpu"
        and not vars(image)
        for image in raw
    )


def _packed_at_once(images: Sequence[Tensor]) -> ImageBatch:
    """Images of one size, by two operations for all of them: for small ones, the operations for each take longer than the copy."""
    count = len(images)
    channels, height, width = images[0].shape
    size = height * width * channels
    packed = _allocate(count * size, torch.uint8)
    packed.view(count, height, width, channels).copy_(torch.stack(list(images)).permute(0, 2, 3, 1))
    sizes = torch.tensor([[height, width]], dtype=torch.int64, device="cpu").repeat(count, 1)
    return ImageBatch(packed, sizes, torch.arange(count, dtype=torch.int64, device="cpu") * size, channels)


class _Packer:
    """Writes each image behind the last as soon as it is decoded: it is still in the cache, and its memory serves the next one."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.end = capacity, 0
        self.sizes: list[tuple[int, int]] = []
        self.packed: Tensor | None = None
        self.apart: list[Tensor] = []

    def add(self, image: Tensor) -> None:
        """Take the next image; from the first one on that has another dtype or finds no room, images are kept apart."""
        if self.packed is None:
            self.packed, self.channels = _allocate(self.capacity, image.dtype), len(image)
        end = self.end + image.numel()
        if self.apart or image.dtype != self.packed.dtype or end > self.capacity:
            self.apart.append(image)
        else:
            write_packed(image, self.packed[self.end : end])
            self.sizes.append((image.shape[1], image.shape[2]))
            self.end = end

    def batch(self) -> ImageBatch:
        """All images, packed; as float32 if their dtypes differ."""
        assert self.packed is not None
        sizes = torch.tensor(self.sizes, dtype=torch.int64, device="cpu").view(-1, 2)
        counts = sizes.prod(1) * self.channels
        batch = ImageBatch(self.packed[: self.end], sizes, counts.cumsum(0) - counts, self.channels)
        if not self.apart:
            return batch
        images = [*batch, *self.apart]
        dtypes = {image.dtype for image in images}
        if len(dtypes) > 1:
            images, dtypes = [to_unit_range(image) for image in images], {torch.float32}
        return ImageBatch.pack(images, _allocate(sum(image.numel() for image in images), dtypes.pop()))


_memory = Recycled(count=2, size=2**30)


def _allocate(count: int, dtype: torch.dtype) -> Tensor:
    """Return values to be written; in a worker process in shared memory, which spares their copy on the way out."""
    size = dtype.itemsize * count
    if get_worker_info() is not None:
        storage_type: Any = torch.UntypedStorage  # torch.utils.data.default_collate allocates its own batches by the same call
        storage: torch.UntypedStorage = storage_type._new_shared(size)
        return torch.empty(0, dtype=dtype, device="cpu").set_(storage).view(count)
    return _memory.empty(count, dtype)
