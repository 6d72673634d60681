"""What Pillow shows of an image, as a tensor: its orientation, its 8 or 16 bits, its colours."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .._check import fail, require
from .pixels import to_unit_range, upright

__all__ = ["FORMATS", "MEMORY", "bytes_per_pixel", "from_pil", "has_low_bytes", "orientation_of", "require_memory"]

# Formats of photographs. Pillow reads more, one of them (EPS) by running another program on the file; HEIF and JXL are plugins.
FORMATS = (
    *("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF", "JPEG2000"),
    *("HEIF", "JXL"),
)
MEMORY = 1 << 30  # bytes that decoding one image may take
_ORIENTATION = 0x0112
_STRIP = 1 << 20  # pixels that are converted at a time: Pillow's copies of a whole image would take three times its memory
_OTHER_ORDER = {"16B": "16L", "16L": "16B", "16N": "16B" if sys.byteorder == "little" else "16L"}


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation as Pillow reads it from EXIF or XMP, 1 to 8; 1 if it is missing or unreadable.

    Source: PIL.ImageOps.exif_transpose, which also writes the other tags anew, and fails where one of them is odd.
    """
    for _ in range(2):  # after a tag that cannot be read, the second call returns those that could
        try:
            orientation = image.getexif().get(_ORIENTATION, 1)
            return int(orientation) if orientation in range(1, 9) else 1
        except Exception:  # Pillow raises nearly every exception for damaged metadata
            continue
    return 1


def require_memory(height: int, width: int, bytes_per_pixel: int, name: str) -> None:
    """Refuse an image before it is decoded if that would take more than 1 GiB.

    Raises: HVSError naming ``name``.
    """
    most = MEMORY // bytes_per_pixel
    hint = "reduce it beforehand, or leave it out; a file that is not meant to be so large is damaged."
    require(height * width <= most, name, f"an image of at most {most:,} pixels", f"{height} x {width} pixels", hint)


def from_pil(image: Image.Image, channels: int, name: str, again: Image.Image | None = None) -> Tensor:
    """Turn a PIL image of any mode upright and into a tensor.

    Shape: -> (C, H, W) view of (H, W, C) memory; uint8; uint16 for the modes I;16 and I, which is read as 16-bit; float32 in
        [0, 1] for mode F.
    Convention: ``channels`` 3 and 1 convert as ``convert("RGB")`` and ``convert("L")`` do; for any other number the image must
        have that many channels. Pillow keeps 8 of 16 bits of a colour image. The others are read from ``again``, the same file
        opened once more: the result is uint16 then, and float32 where it is converted to one channel, as gray values lie
        between two levels.
    Raises: HVSError if a mode I or F image leaves its range, or its bands are not ``channels`` and these are neither 1 nor 3, or
        it is too large to decode in 1 GiB; whatever Pillow raises if the image is damaged.
    """
    require_memory(image.height, image.width, bytes_per_pixel(image), name)
    if hasattr(image, "tag_v2"):
        orientation = orientation_of(image)
        for file in (image, again):
            if file is not None and getattr(file, "tile", None):
                _keep_orientation_alone(file, orientation)
        image.load()
        orientation = 1
    else:
        image.load()  # first, as a PNG may hold its EXIF behind the pixels
        orientation = orientation_of(image)
    if again is not None:
        pixels = _colour_of_16_bits(image, again, channels)
    elif image.mode == "F" or image.mode.startswith("I"):
        pixels = _gray(image, name)
        # Pillow's own conversion of 16 bits to RGB clips at 255.
        pixels = pixels.expand(-1, -1, 3).contiguous() if channels == 3 else pixels
    else:
        mode = {1: "L", 3: "RGB"}.get(channels, image.mode)
        values = torch.from_numpy(_converted(image, mode))
        pixels = values[..., None] if values.ndim == 2 else values
    return upright(pixels.permute(2, 0, 1), orientation)


def has_low_bytes(image: Image.Image) -> bool:
    """Whether Pillow would show the upper 8 of the 16 bits of an opened, not yet decoded colour image."""
    return image.mode in ("RGB", "RGBA") and bool(getattr(image, "tile", None)) and all(map(_swapped, image.tile))  # type: ignore[attr-defined]


def bytes_per_pixel(image: Image.Image) -> int:
    """The memory that an image takes at most while it is decoded, becomes a tensor and is reduced, as measured."""
    if image.format in ("WEBP", "AVIF", "HEIF", "JXL", "JPEG2000"):
        return 20  # their decoders hold a second frame, and hand over a copy
    return 26 if image.mode == "F" or image.mode.startswith("I") or has_low_bytes(image) else 9


def _keep_orientation_alone(image: Any, orientation: int) -> None:
    """Hide the other metadata of a TIFF from Pillow's decoder, which turns the picture itself, and fails where a tag is odd."""
    exif = Image.Exif()
    exif[_ORIENTATION] = orientation
    image.getexif = lambda: exif
    for key in ("exif", "xmp", "XML:com.adobe.xmp"):
        image.info.pop(key, None)


def _gray(image: Image.Image, name: str) -> Tensor:
    """(H, W, 1) uint16 or float32 of a gray image of more than 8 bits."""
    values = np.array(image)
    if image.mode == "I":
        if values.size and not 0 <= values.min() <= values.max() <= 65535:
            hint = "save it with 8 or 16 bits, or as floating point in [0, 1]."
            fail(name, "a mode I image with values in [0, 65535]", f"values in [{values.min()}, {values.max()}]", hint)
        values = values.astype(np.uint16)
    pixels = torch.from_numpy(values.astype(values.dtype.newbyteorder("=")))[..., None]
    if pixels.dtype == torch.uint16:
        return pixels
    return to_unit_range(pixels, name, "scale the values of the image to [0, 1], or save it with 8 or 16 bits.")


def _converted(image: Image.Image, mode: str) -> np.ndarray[Any, Any]:
    """(H, W) or (H, W, C) uint8, converted strip by strip."""
    info = image.info
    try:
        # A transparent colour has no part in the conversions to L and RGB; Pillow warns of it, or fails where it is damaged.
        image.info = {key: value for key, value in info.items() if key != "transparency"}
        rows = max(1, _STRIP // max(1, image.width))
        if image.height <= rows:
            return np.array(image if image.mode == mode else image.convert(mode))
        values: np.ndarray[Any, Any] | None = None
        for top in range(0, image.height, rows):
            strip = image.crop((0, top, image.width, min(top + rows, image.height)))
            part = np.asarray(strip if strip.mode == mode else strip.convert(mode))
            values = np.empty((image.height, *part.shape[1:]), part.dtype) if values is None else values
            values[top : top + rows] = part
        assert values is not None
        return values
    finally:
        image.info = info


def _swapped(tile: Any) -> Any:
    """A tile that Pillow decodes into the lower bytes in the upper ones' place; None if it has no such."""
    args = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
    kind, _, order = str(args[0]).partition(";")
    if kind == "LA" and order == "16B":
        raw = "RGBA"  # Pillow decodes it to RGBA; the four bytes of a pixel are those of L and A
    elif kind in ("RGB", "RGBA", "RGBX") and order in _OTHER_ORDER:
        raw = f"{kind};{_OTHER_ORDER[order]}"
    else:
        return None
    new = (raw, *args[1:]) if isinstance(tile[3], tuple) else raw
    return tile._replace(args=new) if hasattr(tile, "_replace") else (*tile[:3], new)


def _colour_of_16_bits(image: Any, again: Any, channels: int) -> Tensor:
    """(H, W, C) uint16; float32 in [0, 1] for one channel of a colour image."""
    is_gray = str(again.tile[0][3]).startswith("LA")
    again.tile = [_swapped(tile) for tile in again.tile]
    again.load()
    upper, lower = (_converted(one, one.mode) for one in (image, again))
    if is_gray:
        values = lower.view(">u2").astype(np.uint16)  # (H, W, 2) of L and A
        values = values if channels == 2 else values[..., :1].repeat(3 if channels == 3 else 1, -1)
        return torch.from_numpy(values)
    values = upper.astype(np.uint16)
    values <<= 8
    values |= lower
    if channels == 3:
        return torch.from_numpy(np.ascontiguousarray(values[..., :3]))
    if channels != 1:
        return torch.from_numpy(values)
    gray = np.empty((*values.shape[:2], 1), np.float32)
    for top in range(0, len(values), 64):
        # Weights of ITU-R BT.601 as Pillow rounds them (Convert.c, L24).
        gray[top : top + 64] = values[top : top + 64, :, :3] @ np.array([[19595], [38470], [7471]]) / (65536 * 65535)
    return torch.from_numpy(gray)
