"""From encoded bytes to a channels-last tensor: Pillow's pixels, at the speed of torchvision's JPEG decoder."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import struct
import zlib
from typing import NamedTuple, TypeAlias

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from .._check import HVSError, fail
from .pillow import FORMATS, MEMORY, bytes_per_pixel, from_pil, has_low_bytes, orientation_of, require_memory
from .pixels import downscale, reduced_size, upright

__all__ = ["decode_image", "reason_of", "size_in_header"]

Bytes: TypeAlias = "bytes | bytearray | memoryview"

_GRAY, _RGB = 1, 3  # torchvision.io.ImageReadMode
_MOST_BYTES = MEMORY // 4
_PNG = b"\x89PNG\r\n\x1a\n"


class _JpegHeader(NamedTuple):
    """What the segments of a JPEG before its pixels say."""

    height: int = 0
    width: int = 0
    components: int = 0
    is_plain: bool = False  # one baseline or progressive frame of 8 bits, and nothing between the segments
    has_metadata: bool = False  # EXIF or XMP, which may hold an orientation


def decode_image(
    data: Bytes, channels: int = 3, max_side: int | None = None, name: str = "decode_image(data)"
) -> tuple[Tensor, bool]:
    """Decode one image, upright, and reduce it if it is larger than ``max_side``.

    JPEG of one or three components goes through torchvision's decoder, everything else through Pillow. Of an animation, the
    first frame is read.

    Shape: -> (C, H, W) view of (H, W, C) memory, and whether it was reduced. uint8; uint16 where the file has 16 bits, or
        float32 in [0, 1] where 16 bits of colour are converted to one channel; float32 in [0, 1] for floating point.
    Convention: ``channels`` 3 and 1 convert as PIL's ``convert("RGB")`` and ``convert("L")`` do: alpha is dropped, not
        composited, a palette is looked up; for any other number the file must have that many channels. The orientation in EXIF
        or XMP is applied; metadata that cannot be read is ignored. PIL's ``ImageFile.LOAD_TRUNCATED_IMAGES``, where the host
        program sets it, holds for what PIL decodes. Where the rows of a TIFF of fax compression end too early, Pillow before 13
        shows what was in memory, and 13 black: no error says so.
    Raises: HVSError naming ``name`` if the bytes are no image, end too early, have another number of channels, or would take
        more than 1 GiB to decode.
    """
    if len(data) > _MOST_BYTES:
        fail(name, f"an image file of at most {_MOST_BYTES:,} bytes", f"{len(data):,} bytes", "it is damaged, or no photograph.")
    try:
        pixels, orientation = _decode(data, channels, name)
    except HVSError:
        raise
    except Exception as error:  # Pillow's plugins raise nearly every exception there is for damaged bytes
        got = f"{len(data)} bytes that do not decode ({reason_of(error)})"
        fail(name, "a whole image", got, "the file is damaged, cut short, or no image.")
    if len(pixels) != channels:
        fail(name, f"{channels} channels", f"{len(pixels)}", f"pass channels={len(pixels)}.")
    reduced = max_side is not None and max(pixels.shape[1:]) > max_side
    if max_side is not None and reduced:
        pixels = downscale(pixels, reduced_size(pixels.shape[1], pixels.shape[2], max_side))
    return upright(pixels, orientation).permute(1, 2, 0).contiguous().permute(2, 0, 1), reduced


def size_in_header(data: Bytes) -> tuple[int, int]:
    """Return the (height, width) that a JPEG or PNG states; zeros for any other data."""
    if data[:3] == b"\xff\xd8\xff":
        return _jpeg_header(data)[:2]
    if data[:8] == _PNG and len(data) >= 24:
        width, height = struct.unpack_from(">II", data, 16)
        return height, width
    return 0, 0


def reason_of(error: BaseException) -> str:
    """Say in one line why a decoder refused."""
    if isinstance(error, UnidentifiedImageError):
        return "no image format that Pillow reads"
    return " ".join(str(error).split()) or type(error).__name__


def _decode(data: Bytes, channels: int, name: str) -> tuple[Tensor, int]:
    """Return the pixels, and the orientation that is left to apply."""
    if data[:3] == b"\xff\xd8\xff" and channels in (1, 3) and _torchvision_decodes():
        header = _jpeg_header(data)
        if header.is_plain and header.components in (1, 3):
            require_memory(header.height, header.width, 6 if channels == 3 else 9, name)
            with contextlib.suppress(RuntimeError):  # then it is damaged, and what Pillow makes of it counts
                pixels = _plain_jpeg(data, header.components, channels)
                if not header.has_metadata:
                    return pixels, 1
                with _opened(data) as image:
                    return pixels, orientation_of(image)
    with _opened(data) as image:
        again = None
        if has_low_bytes(image):
            require_memory(image.height, image.width, bytes_per_pixel(image), name)
            if image.format == "PNG":
                _check_png(data)
            again = _opened(data)
        return from_pil(image, channels, name, again), 1


def _opened(data: Bytes) -> Image.Image:
    registered = [name for name in FORMATS if name in Image.OPEN]
    if len(registered) < len(FORMATS) - 2:
        Image.init()
        registered = [name for name in FORMATS if name in Image.OPEN]
    return Image.open(io.BytesIO(data), formats=registered)


def _plain_jpeg(data: Bytes, components: int, channels: int) -> Tensor:
    mode = _GRAY if components == 1 and channels == 1 else _RGB
    pixels: Tensor = torch.ops.image.decode_jpeg(_as_tensor(data), mode, False)
    if channels == 1 and components == 3:
        # The luma in the file differs from what PIL makes of the colours where these were clipped.
        gray = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).convert("L")
        return from_pil(gray, 1, "")
    return pixels


@functools.cache
def _torchvision_decodes() -> bool:
    """Load torchvision's decoders, if this release still has them.

    The operator is called directly: torchvision 0.29 deprecates its Python function, which warns and costs as much as decoding
    a 32 x 32 JPEG, in favour of TorchCodec. Where it is gone, PIL decodes.
    """
    with contextlib.suppress(ImportError):
        importlib.import_module("torchvision.io")
    return hasattr(torch.ops.image, "decode_jpeg")


def _jpeg_header(data: Bytes) -> _JpegHeader:
    """Read the segments up to the first scan."""
    position, frames, has_metadata = 2, [], False
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        length = data[position + 2] << 8 | data[position + 3]
        if length < 2 or position + 2 + length > len(data):
            break
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and length >= 8:
            frames.append((marker, *struct.unpack_from(">BHHB", data, position + 4)))
        has_metadata |= marker == 0xE1
        if marker == 0xDA and len(frames) == 1:
            kind, bits, height, width, components = frames[0]
            is_plain = kind in (0xC0, 0xC1, 0xC2) and bits == 8 and height > 0 and width > 0
            return _JpegHeader(height, width, components, is_plain, has_metadata)
        if marker < 0xC0 or 0xD0 <= marker <= 0xDA:  # no segment that belongs here
            break
        position += 2 + length
    return _JpegHeader()


def _check_png(data: Bytes) -> None:
    """Refuse a PNG of 16-bit colour that Pillow shows though it is damaged: by a wrong checksum, or without its last rows."""
    position, parts, has_end = len(_PNG), [], False
    while position + 12 <= len(data) and not has_end:
        (length,) = struct.unpack_from(">I", data, position)
        kind = bytes(data[position + 4 : position + 8])
        end = position + 8 + length
        if end + 4 > len(data):
            break
        if kind[0] & 0x20 == 0 and zlib.crc32(data[position + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise OSError(f"wrong checksum of the PNG chunk {kind.decode('latin-1')}")
        if kind == b"IDAT":
            parts.append(data[position + 8 : end])
        has_end = kind == b"IEND"
        position = end + 4
    if not has_end:
        raise OSError("PNG file that is cut short")
    inflater, missing = zlib.decompressobj(), _png_length(data)
    for part in parts:
        while part and missing > 0 and not inflater.eof:
            missing -= len(inflater.decompress(part, 1 << 20))
            part = inflater.unconsumed_tail
    if missing > len(inflater.flush()):
        raise OSError("PNG file whose last rows are missing")


def _png_length(data: Bytes) -> int:
    """The bytes of all rows of a PNG with 16 bits, with the filter byte of each."""
    width, height, _, colour, _, _, interlace = struct.unpack_from(">IIBBBBB", data, 16)
    pixel = 2 * {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    # Start and step of Adam7's passes: columns, rows.
    passes = ((0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4), (0, 2, 2, 4), (1, 2, 0, 2), (0, 1, 1, 2))
    total = 0
    for left, across, top, down in passes if interlace else ((0, 1, 0, 1),):
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        total += rows * (1 + columns * pixel) if columns > 0 and rows > 0 else 0
    return total


def _as_tensor(data: Bytes) -> Tensor:
    return torch.frombuffer(data if isinstance(data, bytearray) else bytearray(data), dtype=torch.uint8)
