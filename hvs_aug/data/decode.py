"""From encoded bytes or a PIL image to a channels-last tensor: PIL's pixels, at the speed of torchvision's JPEG decoder."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import struct
import zlib

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn.functional import interpolate

from .._check import HVSError, fail

__all__ = ["decode_image", "downscale", "from_pil", "reduced_size", "size_in_header", "to_unit_range"]

_ORIENTATION = 0x0112
_GRAY, _RGB, _UNCHANGED = 1, 3, 0  # torchvision.io.ImageReadMode
# What PIL's plugins and torchvision's decoders raise for bytes that they cannot read to the end.
_DECODER_ERRORS = (
    ArithmeticError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    Image.DecompressionBombError,
    struct.error,
    zlib.error,
)


def decode_image(
    data: bytes | bytearray | memoryview, channels: int = 3, max_side: int | None = None, name: str = "decode_image(data)"
) -> tuple[Tensor, bool]:
    """Decode one image, upright, and reduce it if it is larger than ``max_side``.

    JPEG goes through torchvision's decoder; every other format, JPEG of four components, and JPEG at least twice as large as
    ``max_side`` (then decoded at 1/2, 1/4 or 1/8 by the DCT) goes through PIL. Of an animation, the first frame counts.

    Shape: -> (C, H, W) view of (H, W, C) memory, and whether it was reduced. uint8, or uint16 for 16-bit images.
    Convention: ``channels`` 3 and 1 convert as PIL's ``convert("RGB")`` and ``convert("L")`` do: alpha is dropped, not
        composited, a palette is looked up; any other count must be the file's own. The EXIF orientation is applied. PIL's
        ``ImageFile.LOAD_TRUNCATED_IMAGES``, where the host program sets it, holds for what PIL decodes.
    Raises: HVSError naming ``name`` if the bytes are no image, end too early, or have another number of channels.
    """
    try:
        if data[:3] == b"\xff\xd8\xff":
            pixels, reduced = _decode_jpeg(data, channels, max_side, name)
        elif data[:8] == b"\x89PNG\r\n\x1a\n" and data[24] == 16 and data[25] != 0 and _torchvision_decodes():
            # PIL keeps 16 bits of a grey PNG only; of colour it would drop the lower 8.
            mode = {1: _GRAY, 3: _RGB}.get(channels, _UNCHANGED)
            pixels, reduced = torch.ops.image.decode_png(_as_tensor(data), mode, True), False
        else:
            with Image.open(io.BytesIO(data)) as image:
                pixels, reduced = from_pil(image, channels, name), False
    except HVSError:
        raise
    except _DECODER_ERRORS as error:
        got = f"{len(data)} bytes that do not decode ({_reason(error)})"
        fail(name, "a whole image", got, "the file is damaged, cut short, or no image.")
    if len(pixels) != channels:
        fail(name, f"{channels} channels", f"{len(pixels)}", f"pass channels={len(pixels)}.")
    pixels = pixels.permute(1, 2, 0).contiguous().permute(2, 0, 1)  # already so, unless EXIF turned it
    if max_side is not None and max(pixels.shape[1:]) > max_side:
        return downscale(pixels, reduced_size(pixels.shape[1], pixels.shape[2], max_side)), True
    return pixels, reduced


def from_pil(image: Image.Image, channels: int, name: str) -> Tensor:
    """Turn a PIL image of any mode upright and into a tensor.

    Shape: -> (C, H, W) view of (H, W, C) memory; uint8; uint16 for the modes I;16 and I, which is read as 16-bit; float32 in
        [0, 1] for mode F.
    Raises: HVSError if a mode I or F image leaves its range, or its bands are not ``channels`` and these are neither 1 nor 3.
    """
    try:
        turned = image.getexif().get(_ORIENTATION, 1) in range(2, 9)
    except (struct.error, KeyError, SyntaxError, TypeError, ValueError):
        turned = False  # unreadable EXIF says nothing about the orientation; torchvision's decoder passes over it too
    if turned:
        image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.array(image)
        if image.mode == "I":
            if values.size and not 0 <= values.min() <= values.max() <= 65535:
                fail(name, "a mode I image with values in [0, 65535]", f"values in [{values.min()}, {values.max()}]")
            values = values.astype(np.uint16)
        pixels = torch.from_numpy(values.astype(values.dtype.newbyteorder("=")))[..., None]
        pixels = pixels if pixels.dtype == torch.uint16 else to_unit_range(pixels, name)
        # PIL's own conversion of 16 bits to RGB clips at 255.
        pixels = pixels.expand(-1, -1, 3).contiguous() if channels == 3 else pixels
    else:
        if image.mode == "P" and "transparency" in image.info and channels in (1, 3):
            image = image.convert("RGBA")  # the way that PIL does not warn about; colours are the same
        mode = {1: "L", 3: "RGB"}.get(channels, image.mode)
        pixels = torch.from_numpy(np.array(image if image.mode == mode else image.convert(mode)))
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return pixels.permute(2, 0, 1)


def to_unit_range(pixels: Tensor, name: str = "to_unit_range(pixels)") -> Tensor:
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
            hint = "remove Normalize from the transform (CandidateViews normalises last), or divide the values by their maximum."
            fail(name, "a floating-point image with values in [0, 1]", f"values in [{low:.4g}, {high:.4g}]", hint)
    return pixels


def size_in_header(data: bytes | bytearray | memoryview) -> tuple[int, int]:
    """Return the (height, width) that a JPEG or PNG states; zeros for any other data."""
    if data[:3] == b"\xff\xd8\xff":
        return _jpeg_frame(data)[:2]
    if data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) >= 24:
        width, height = struct.unpack_from(">II", data, 16)
        return height, width
    return 0, 0


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
    Source: torchvision transforms.v2.functional.resize, antialias=True; uint16 through float32, rounded.
    """
    if pixels.dtype == torch.uint16:
        return (downscale(to_unit_range(pixels), size) * 65535).round_().to(torch.uint16)
    batch = pixels[None].contiguous(memory_format=torch.channels_last)
    small: Tensor = interpolate(batch, size=size, mode="bilinear", antialias=True)[0]
    small = small if small.dtype == torch.uint8 else small.clamp_(0, 1)  # weights sum to 1 within rounding only
    return small.permute(1, 2, 0).contiguous().permute(2, 0, 1)


def _decode_jpeg(data: bytes | bytearray | memoryview, channels: int, max_side: int | None, name: str) -> tuple[Tensor, bool]:
    height, width, components = _jpeg_frame(data)
    limit = max_side or max(height, width)
    far_larger = max(height, width) >= 2 * limit > 0
    if not far_larger and (channels, components) in ((3, 3), (3, 1), (1, 1)) and _torchvision_decodes():
        return torch.ops.image.decode_jpeg(_as_tensor(data), _RGB if channels == 3 else _GRAY, True), False
    with Image.open(io.BytesIO(data)) as image:
        if far_larger:
            image.draft(None, (limit * width // max(height, width), limit * height // max(height, width)))
        return from_pil(image, channels, name), far_larger


@functools.cache
def _torchvision_decodes() -> bool:
    """Load torchvision's decoders, if this release still has them.

    The operators are called directly: torchvision 0.29 deprecates their Python functions, which warn and cost as much as
    decoding a 32 x 32 JPEG, in favour of TorchCodec. Where they are gone, PIL decodes.
    """
    with contextlib.suppress(ImportError):
        importlib.import_module("torchvision.io")
    return hasattr(torch.ops.image, "decode_jpeg")


def _jpeg_frame(data: bytes | bytearray | memoryview) -> tuple[int, int, int]:
    """Return (height, width, components) of the first frame header; zeros if there is none, which the decoder then reports."""
    position = 2
    while position + 9 < len(data):
        marker = data[position + 1]
        if data[position] != 0xFF:
            break
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width, components = struct.unpack_from(">HHB", data, position + 5)
            return height, width, components
        if marker == 0xFF:  # a fill byte
            position += 1
        else:
            position += 2 + (data[position + 2] << 8 | data[position + 3])
    return 0, 0, 3


def _as_tensor(data: bytes | bytearray | memoryview) -> Tensor:
    return torch.frombuffer(data if isinstance(data, bytearray) else bytearray(data), dtype=torch.uint8)


def _reason(error: BaseException) -> str:
    return " ".join(str(error).rsplit(", ", 1)[-1].split()) or type(error).__name__
