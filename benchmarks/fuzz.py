"""Odd and damaged image files, decoded as RawImages does and by Pillow, in worker processes: alike, or refused in words.

    python -m benchmarks.fuzz [--quick] [--files 4000] [--seed 0] [--keep DIR]

Method: small files of every kind that is read are written, most of them damaged: flipped bits, cut short, ranges wiped, doubled
or swapped, chunks and segments edited with their checksums mended, sizes in headers set to absurd values, the head of one format
before the body of another; and small files that would decode to gigabytes. Each goes to a worker process, in one and in three
channels, whole and reduced. A picture counts as wrong if Pillow refuses the file, or shows other pixels: by more than one level
for JPEG, whose decoder is another build, two where it was reduced. Archives are compared file by file with zipfile and tarfile. A
worker that dies, or works longer than ``LIMIT`` seconds, is counted and replaced. ``peak_mib`` is the memory that a worker took
at most above what it held before; of archives, with that of zipfile and tarfile.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import itertools
import multiprocessing
import os
import random
import resource
import struct
import tarfile
import tempfile
import time
import traceback
import warnings
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from tqdm import tqdm

from benchmarks.common import arguments, table, write
from hvs_aug import HVSError, RawImages
from hvs_aug.data.decode import decode_image

LIMIT = 60  # seconds for one file
WAYS = ((3, None), (1, None), (3, 24))  # channels, max_side
ALIKE, BOTH_REFUSE, WE_REFUSE = "alike", "both_refuse", "only_we_refuse"
WE_SHOW, WRONG, RAW_ERROR, LOST = "only_we_show", "other_pixels", "raw_error", "lost_without_a_word"
OUTCOMES = (ALIKE, BOTH_REFUSE, WE_REFUSE, WE_SHOW, WRONG, RAW_ERROR, LOST)
FAULTS = (WE_SHOW, WRONG, RAW_ERROR, LOST)


class Case(NamedTuple):
    """One file: what it was, how it was damaged, and its bytes."""

    kind: str
    damage: str
    data: bytes


# --------------------------------------------------------------------------------------------------------------- whole files


def picture(rng: random.Random, mode: str = "RGB", height: int = 0, width: int = 0) -> Image.Image:
    """A smooth picture with an edge, of a small random size."""
    height, width = height or rng.randint(1, 70), width or rng.randint(1, 90)
    coarse = np.random.default_rng(rng.randrange(1 << 30)).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    image.paste((250, 20, 10), (width // 2, 0, width // 2 + 1, height))
    if mode in ("RGBA", "LA"):
        image = image.convert(mode)
        image.putalpha(Image.linear_gradient("L").resize(image.size))
        return image
    return image.convert(mode)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The bytes of a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def exif(rng: random.Random) -> bytes:
    """EXIF with an orientation of a random type and byte order, and perhaps a tag that is odd."""
    order, kind = rng.choice("<>"), rng.choice([1, 2, 3, 3, 3, 4, 5, 6, 7, 9, 12, 99])
    value = rng.randint(0, 9)
    packed = {3: struct.pack(f"{order}HH", value, 0), 4: struct.pack(f"{order}I", value)}.get(kind, bytes([value, 0, 0, 0]))
    tags = [struct.pack(f"{order}HHI", 0x0112, kind, rng.choice([1, 1, 1, 0, 2])) + packed]
    odd = rng.choice([None, (0x8298, 12, 1), (0x0128, 7, 8), (0x8769, 4, 1), (0x010F, 2, 1 << 30)])
    if odd is not None:
        tags.insert(rng.randint(0, 1), struct.pack(f"{order}HHII", *odd, 26 + 12))
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(tags))
    return b"Exif\0\0" + head + b"".join(tags) + bytes(4) + struct.pack(f"{order}d", 1.5) + bytes(8)


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r:D xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="%d"/></x:xmpmeta>'


def jpeg(rng: random.Random, mode: str = "RGB", **options: Any) -> bytes:
    """A JPEG of random quality."""
    return encoded(picture(rng, mode), "JPEG", quality=rng.randint(30, 98), **options)


def jpeg_segments(rng: random.Random) -> bytes:
    """A JPEG with XMP and EXIF segments in any order."""
    xmp = b"http://ns.adobe.com/xap/1.0/\0" + XMP % rng.randint(0, 9)
    parts = [xmp, exif(rng), b"Photoshop 3.0\x008BIM\4\4\0\0\0\0\0\0", b"ICC_PROFILE\0\1\1" + bytes(20)]
    rng.shuffle(parts)
    marks = {b"P": b"\xff\xed", b"I": b"\xff\xe2"}
    segments = [marks.get(part[:1], b"\xff\xe1") + struct.pack(">H", len(part) + 2) + part for part in parts[: rng.randint(1, 4)]]
    whole = jpeg(rng)
    return whole[:2] + b"".join(segments) + whole[2:]


def chunk(kind: bytes, body: bytes) -> bytes:
    """A PNG chunk with its checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


ADAM7 = ((0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4), (0, 2, 2, 4), (1, 2, 0, 2), (0, 1, 1, 2))


def png(rng: random.Random, bands: int, bits: int, interlaced: bool = False) -> bytes:
    """A PNG that Pillow does not write: of 16 bits in any number of bands, interlaced, with gamma and EXIF before or behind."""
    height, width = rng.randint(1, 40), rng.randint(1, 40)
    values = np.random.default_rng(rng.randrange(1 << 30)).integers(0, 1 << bits, (height, width, bands))
    passes = ADAM7 if interlaced else ((0, 1, 0, 1),)
    rows = b""
    for left, across, top, down in passes:
        part = values[top::down, left::across].astype(">u2" if bits == 16 else "u1")
        rows += b"".join(b"\0" + row.tobytes() for row in part) if part.shape[1] else b""
    packed = zlib.compress(rows)
    cut = rng.randint(0, len(packed))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, {1: 0, 2: 4, 3: 2, 4: 6}[bands], 0, 0, interlaced))
    before = [chunk(b"gAMA", struct.pack(">I", 45455)), chunk(b"sRGB", b"\0"), chunk(b"eXIf", exif(rng)[6:]), b""]
    pixels = chunk(b"IDAT", packed[:cut]) + chunk(b"IDAT", packed[cut:])
    behind = rng.choice([b"", b"", chunk(b"eXIf", exif(rng)[6:])])
    return b"\x89PNG\r\n\x1a\n" + head + rng.choice(before) + pixels + behind + chunk(b"IEND", b"")


def tiff16(rng: random.Random) -> bytes:
    """An uncompressed TIFF of 16-bit colour, of either byte order."""
    height, width, bands, order = rng.randint(1, 40), rng.randint(1, 40), rng.choice([3, 4]), rng.choice("<>")
    values = np.random.default_rng(rng.randrange(1 << 30)).integers(0, 65536, (height, width, bands)).astype(f"{order}u2")
    tags = [(256, width), (257, height), (259, 1), (262, 2), (277, bands), (278, height), (274, rng.randint(1, 8))]
    entries = [struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in tags]
    entries += [struct.pack(f"{order}HHII", 258, 3, bands, 8), struct.pack(f"{order}HHII", 273, 4, 1, 200)]
    entries += [struct.pack(f"{order}HHII", 279, 4, 1, values.nbytes)]
    entries += [struct.pack(f"{order}HHIHH", 338, 3, 1, 2, 0)] if bands == 4 else []
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 20)
    head += struct.pack(f"{order}{bands}H", *[16] * bands).ljust(12, b"\0") + struct.pack(f"{order}H", len(entries))
    return (head + b"".join(sorted(entries, key=lambda entry: struct.unpack(f"{order}H", entry[:2])))).ljust(
        200, b"\0"
    ) + values.tobytes()


def gray16(rng: random.Random) -> Image.Image:
    """A picture of mode I;16."""
    return Image.fromarray((np.asarray(picture(rng, "L")).astype(np.uint16) * 257) ^ 5)


def pgm16(rng: random.Random) -> bytes:
    """A PGM of 16 bits, which Pillow writes since release 11."""
    pixels = np.asarray(gray16(rng))
    return b"P5\n%d %d\n65535\n" % pixels.shape[::-1] + pixels.astype(">u2").tobytes()


def frames(rng: random.Random, mode: str = "RGB") -> dict[str, Any]:
    """Options that save an animation."""
    more = [picture(rng, mode, 20, 30) for _ in range(rng.randint(1, 3))]
    return {"save_all": True, "append_images": more}


def tiff(rng: random.Random, mode: str = "RGB", **options: Any) -> bytes:
    """A TIFF with an orientation."""
    return encoded(picture(rng, mode), "TIFF", tiffinfo={274: rng.randint(1, 8)}, **options)


def archive(rng: random.Random, kind: str) -> bytes:
    """A .zip, .tar or .tar.gz of a few files, with links."""
    files = {
        f"{name}/{index}.{suffix}": encoded(picture(rng), form)
        for index, (name, suffix, form) in enumerate(
            [("cat", "png", "PNG"), ("dog", "bmp", "BMP"), ("cat", "jpg", "JPEG"), (".", "gif", "GIF")]
        )
    }
    out = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(out, "w") as packed:
            for index, (name, data) in enumerate(files.items()):
                packed.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED if index % 2 else zipfile.ZIP_STORED)
        return out.getvalue()
    # Without the date that gzip writes, so that equal seeds give equal bytes.
    with gzip.GzipFile(fileobj=out, mode="wb", mtime=0) if kind == "tar.gz" else contextlib.nullcontext(out) as file:
        _write_tar(file, files)
    return out.getvalue()


def _write_tar(file: Any, files: dict[str, bytes]) -> None:
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for name, link, target in (
            ("dog/soft.png", tarfile.SYMTYPE, "../cat/0.png"),
            ("dog/hard.png", tarfile.LNKTYPE, "cat/0.png"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = link, target
            tar.addfile(info)


KINDS: dict[str, Callable[[random.Random], bytes]] = {
    "jpeg 4:2:0": lambda rng: jpeg(rng, subsampling=2),
    "jpeg 4:4:4": lambda rng: jpeg(rng, subsampling=0),
    "jpeg 4:2:2, restarts": lambda rng: jpeg(rng, subsampling=1, restart_marker_blocks=3),
    "jpeg progressive": lambda rng: jpeg(rng, progressive=True),
    "jpeg gray": lambda rng: jpeg(rng, "L"),
    "jpeg cmyk": lambda rng: jpeg(rng, "CMYK"),
    "jpeg rgb": lambda rng: jpeg(rng, keep_rgb=True),
    "jpeg exif": lambda rng: jpeg(rng, exif=exif(rng)),
    "jpeg segments": jpeg_segments,
    # Of two pictures: Pillow before 11.3 writes more of them over the first.
    "mpo": lambda rng: encoded(picture(rng), "MPO", save_all=True, append_images=[picture(rng)]),
    "png rgb": lambda rng: encoded(picture(rng), "PNG", exif=exif(rng)),
    "png rgba": lambda rng: encoded(picture(rng, "RGBA"), "PNG"),
    "png gray": lambda rng: encoded(picture(rng, "L"), "PNG", transparency=rng.randint(0, 255)),
    "png gray alpha": lambda rng: encoded(picture(rng, "LA"), "PNG"),
    "png 1 bit": lambda rng: encoded(picture(rng, "1"), "PNG"),
    "png palette": lambda rng: encoded(picture(rng).quantize(rng.choice([2, 4, 16, 200])), "PNG"),
    "png palette, transparent": lambda rng: encoded(picture(rng).quantize(64), "PNG", transparency=bytes(range(0, 256, 4))),
    "png interlaced": lambda rng: png(rng, rng.choice([1, 2, 3, 4]), 8, interlaced=True),
    "png 16 bits": lambda rng: png(rng, rng.choice([1, 2, 3, 4]), 16),
    "png 16 bits, interlaced": lambda rng: png(rng, rng.choice([1, 2, 3, 4]), 16, interlaced=True),
    "apng": lambda rng: encoded(picture(rng, "RGB", 20, 30), "PNG", **frames(rng)),
    "webp": lambda rng: encoded(picture(rng), "WEBP", quality=rng.randint(10, 95), exif=exif(rng)),
    "webp lossless, alpha": lambda rng: encoded(picture(rng, "RGBA"), "WEBP", lossless=True),
    "webp animated": lambda rng: encoded(picture(rng, "RGB", 20, 30), "WEBP", **frames(rng)),
    "gif": lambda rng: encoded(picture(rng).quantize(rng.choice([2, 30, 256])), "GIF", transparency=rng.randint(0, 1)),
    "gif animated": lambda rng: encoded(picture(rng, "RGB", 20, 30), "GIF", **frames(rng)),
    "bmp": lambda rng: encoded(picture(rng, rng.choice(["RGB", "L", "1", "P", "RGBA"])), "BMP"),
    "tiff": lambda rng: tiff(rng, rng.choice(["RGB", "L", "1", "CMYK", "RGBA", "LA", "P"])),
    "tiff lzw": lambda rng: tiff(rng, compression="tiff_lzw"),
    "tiff deflate": lambda rng: tiff(rng, "RGBA", compression="tiff_adobe_deflate"),
    "tiff jpeg": lambda rng: tiff(rng, compression="jpeg"),
    "tiff fax": lambda rng: tiff(rng, "1", compression="group4"),
    "tiff 16-bit colour": tiff16,
    "tiff 16-bit gray": lambda rng: encoded(gray16(rng), "TIFF", compression=rng.choice([None, "tiff_lzw"])),
    "tiff float": lambda rng: encoded(Image.fromarray(np.asarray(picture(rng, "L")).astype(np.float32) / 255), "TIFF"),
    "ppm": lambda rng: encoded(picture(rng, rng.choice(["RGB", "L", "1"])), "PPM"),
    "pgm 16 bits": pgm16,
    "avif": lambda rng: encoded(picture(rng), "AVIF", quality=rng.randint(20, 90), speed=10),
    "jpeg 2000": lambda rng: encoded(picture(rng), "JPEG2000"),
    "zip": lambda rng: archive(rng, "zip"),
    "tar": lambda rng: archive(rng, "tar"),
    "tar.gz": lambda rng: archive(rng, "tar.gz"),
}
if ".avif" not in Image.registered_extensions():  # Pillow before 11.3
    del KINDS["avif"]
# Where the rows of a fax end too early, Pillow before 13 shows what was in memory: damaged ones have no pixels to compare.
WHOLE_ONLY = {"tiff fax"} if int(Image.__version__.split(".")[0]) < 13 else set()

# -------------------------------------------------------------------------------------------------------------------- damage


def blocks(data: bytes) -> list[tuple[int, int]]:
    """Where the chunks of a PNG or the segments of a JPEG begin and end; eighths of any other file."""
    found = []
    if data[:4] == b"\x89PNG":
        place = 8
        while place + 12 <= len(data):
            end = place + 12 + struct.unpack_from(">I", data, place)[0]
            found.append((place, min(end, len(data))))
            place = end
    elif data[:2] == b"\xff\xd8":
        place = 2
        while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != 0xDA:
            end = place + 2 + struct.unpack_from(">H", data, place + 2)[0]
            found.append((place, min(end, len(data))))
            place = end
        found.append((place, len(data)))
    if len(found) < 2:
        step = max(1, len(data) // 8)
        found = [(place, min(place + step, len(data))) for place in range(0, len(data), step)]
    return [(start, end) for start, end in found if end > start] or [(0, len(data))]


def mended(data: bytes) -> bytes:
    """A PNG with the right checksum in each chunk, so that a decoder looks at what is in it."""
    if data[:4] != b"\x89PNG":
        return data
    parts = [data[:8]]
    for start, end in blocks(data):
        whole = end - start >= 12
        parts.append(data[start : end - 4] + struct.pack(">I", zlib.crc32(data[start + 4 : end - 4])) if whole else data[start:end])
    return b"".join(parts)


def flip_bits(rng: random.Random, data: bytes) -> bytes:
    """Flip up to 12 bits."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 12)):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def flip_in_head(rng: random.Random, data: bytes) -> bytes:
    """Change up to 4 bytes among the first 120."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        out[rng.randrange(min(120, len(out)))] = rng.randrange(256)
    return bytes(out)


def cut(rng: random.Random, data: bytes) -> bytes:
    """Leave the first part."""
    return data[: rng.randrange(len(data))]


def wipe(rng: random.Random, data: bytes) -> bytes:
    """Set a range to one value."""
    start = rng.randrange(len(data))
    length = min(rng.randint(1, 200), len(data) - start)
    return data[:start] + bytes([rng.choice([0, 255, 0x80])]) * length + data[start + length :]


def set_number(rng: random.Random, data: bytes) -> bytes:
    """Write a number that is absurd for most fields of a header."""
    form, values = rng.choice([(">I", "I"), ("<I", "I"), (">H", "H"), ("<H", "H")])
    most = (1 << 32) - 1 if values == "I" else 65535
    packed = struct.pack(form, rng.choice([0, 1, most, most >> 1, 60000, 20000, rng.randint(0, most)]))
    place = rng.randrange(max(1, min(len(data) - 4, 300)))
    return mended(data[:place] + packed + data[place + len(packed) :])


def edit_block(rng: random.Random, data: bytes) -> bytes:
    """Change bytes in one chunk or segment, with its checksum mended."""
    start, end = rng.choice(blocks(data))
    out = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        out[rng.randrange(start, end)] = rng.randrange(256)
    return mended(bytes(out))


def swap_blocks(rng: random.Random, data: bytes) -> bytes:
    """Put two chunks or segments in each other's place."""
    found = blocks(data)
    if len(found) < 2:
        return data
    (a, b), (c, d) = sorted(rng.sample(found, 2))
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def double_block(rng: random.Random, data: bytes) -> bytes:
    """Write a chunk or segment twice."""
    start, end = rng.choice(blocks(data))
    return data[:end] + data[start:end] + data[end:]


def drop_block(rng: random.Random, data: bytes) -> bytes:
    """Leave a chunk or segment out."""
    start, end = rng.choice(blocks(data))
    return data[:start] + data[end:]


def other_body(rng: random.Random, data: bytes) -> bytes:
    """The head of the file before the body of another kind."""
    other = KINDS[rng.choice(list(KINDS))](rng)
    place = rng.randint(1, min(200, len(data)))
    return data[:place] + other[min(place, len(other)) :]


def add_junk(rng: random.Random, data: bytes) -> bytes:
    """Bytes before, behind or within."""
    place = rng.choice([len(data), len(data), rng.randrange(len(data))])
    return data[:place] + rng.randbytes(rng.randint(1, 60)) + data[place:]


def leave(rng: random.Random, data: bytes) -> bytes:
    """The file as it is."""
    return data


DAMAGES = (
    leave,
    flip_bits,
    flip_in_head,
    cut,
    wipe,
    set_number,
    edit_block,
    swap_blocks,
    double_block,
    drop_block,
    other_body,
    add_junk,
)


def cases(count: int, seed: int = 0) -> Iterator[Case]:
    """``count`` files, every kind and every damage in turn; equal for equal seeds and versions of Pillow."""
    names = list(KINDS)
    for index in range(count):
        rng = random.Random(f"{seed} {index}")
        kind, damage = names[index % len(names)], DAMAGES[index // len(names) % len(DAMAGES)]
        damage = leave if kind in WHOLE_ONLY else damage
        data = KINDS[kind](rng)
        yield Case(kind, damage.__name__, damage(rng, data))


def black_png(height: int, width: int, bits: int = 8, colour: int = 0) -> bytes:
    """A black PNG of any size: some kilobytes that decode to gigabytes, if a decoder lets them."""
    row = 1 + -(-width * bits * {0: 1, 2: 3}[colour] // 8)
    packer, parts, left = zlib.compressobj(9), [], row * height
    while left > 0:
        parts.append(packer.compress(bytes(min(left, 1 << 24))))
        left -= 1 << 24
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", b"".join(parts) + packer.flush()) + chunk(b"IEND", b"")


def zip_bomb(stated: int | None = None, entries: int = 1) -> bytes:
    """A .zip of entries that inflate to 300 MB of zeros, and may state another size."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        for index in range(entries):
            packed.writestr(f"{index}.bmp", bytes(300_000_000 if entries == 1 else 10))
    data = bytearray(out.getvalue())
    if stated is not None:
        for signature, place in ((b"PK\1\2", 24), (b"PK\3\4", 22)):
            where = data.find(signature) + place
            data[where : where + 4] = struct.pack("<I", stated)
    return bytes(data)


def tar_bomb() -> bytes:
    """A .tar.gz of one image of 300 MB of zeros."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        info = tarfile.TarInfo("0.bmp")
        info.size = 300_000_000
        tar.addfile(info, io.BytesIO(bytes(300_000_000)))
    return out.getvalue()


def with_size(data: bytes, height: int, width: int) -> bytes:
    """A JPEG whose header states another size."""
    place = data.find(b"\xff\xc0") + 5
    return data[:place] + struct.pack(">HH", height, width) + data[place + 4 :]


def bombs() -> Iterator[Case]:
    """Files that are small and mean much memory: pictures just below the limit, and above it; archives that lie."""
    black = Image.new("L", (8, 8))
    yield Case("bomb", "png, gray", black_png(10_800, 10_800))
    yield Case("bomb", "png, colour", black_png(10_800, 10_800, 8, 2))
    yield Case("bomb", "png, 16-bit gray", black_png(6_300, 6_300, 16))
    yield Case("bomb", "png, 16-bit colour", black_png(6_300, 6_300, 16, 2))
    yield Case("bomb", "png, 1 bit", black_png(10_800, 10_800, 1))
    yield Case("bomb", "png, absurd", mended(black_png(3, 3).replace(struct.pack(">II", 3, 3), b"\x40\0\0\0" * 2)))
    yield Case("bomb", "png, above the limit", black_png(13_000, 13_000))
    yield Case("bomb", "jpeg, absurd", with_size(encoded(black, "JPEG"), 65_500, 65_500))
    yield Case("bomb", "jpeg, below the limit", encoded(Image.new("L", (13_000, 13_000)), "JPEG"))
    yield Case("bomb", "gif, absurd", b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + encoded(black, "GIF")[10:])
    yield Case("bomb", "tiff, deflate", encoded(Image.new("L", (10_800, 10_800)), "TIFF", compression="tiff_adobe_deflate"))
    yield Case("bomb", "webp", encoded(Image.new("RGB", (7_300, 7_300)), "WEBP", lossless=True, method=0))
    yield Case("zip", "bomb", zip_bomb())
    yield Case("zip", "bomb that lies", zip_bomb(1000))
    yield Case("zip", "10,000 entries", zip_bomb(entries=10_000))
    yield Case("tar.gz", "bomb", tar_bomb())


# ---------------------------------------------------------------------------------------------------------------- comparison


def shown_by_pillow(data: bytes, channels: int) -> np.ndarray[Any, Any]:
    """What Pillow shows of the first frame, upright, (H, W, channels) float in levels of 8 bits; raises what Pillow raises."""
    image = Image.open(io.BytesIO(data))
    image.load()
    try:
        image = ImageOps.exif_transpose(image)
    except Exception:
        # It writes the other tags anew, and an odd one stops it. What counts is the orientation, if it can be read.
        methods = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
        with contextlib.suppress(Exception):
            image = image.transpose(Image.Transpose(methods[image.getexif().get(0x0112)]))
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image).astype(np.float64) * (255 if image.mode == "F" else 1 / 257)
        if values.size and not (values.min() >= 0 and values.max() <= 255):
            raise ValueError("values outside their range")
        return np.repeat(values[..., None], channels, -1)
    image.info.pop("transparency", None)
    shown = np.asarray(image.convert("RGB" if channels == 3 else "L")).astype(np.float64)
    return shown if shown.ndim == 3 else shown[..., None]


def compare(data: bytes, name: str = "file") -> tuple[str, str]:
    """The outcome for one image file, the worst of all ways to decode it, and a few words."""
    outcomes = []
    for channels, max_side in WAYS:
        ours = theirs = None
        said = ""
        try:
            ours = decode_image(data, channels, max_side, name)[0]
        except HVSError as error:
            said = str(error)
            if not said.startswith(name) or "\nTraceback" in said:
                return RAW_ERROR, said
        except Exception:
            return RAW_ERROR, traceback.format_exc(limit=-1)
        try:
            theirs = shown_by_pillow(data, channels)
        except Exception as error:
            if ours is not None:
                outcomes.append((WE_SHOW, f"Pillow: {type(error).__name__}: {error}"))
            else:
                outcomes.append((BOTH_REFUSE, said))
            continue
        if ours is None:
            outcomes.append((WE_REFUSE, said))
            continue
        outcomes.append(_compared(ours, theirs, data))
    return max(outcomes, key=lambda outcome: OUTCOMES.index(outcome[0]))


def _compared(ours: torch.Tensor, theirs: np.ndarray[Any, Any], data: bytes) -> tuple[str, str]:
    height, width = ours.shape[1:]
    scale = {torch.uint8: 1.0, torch.uint16: 1 / 257, torch.float32: 255.0}[ours.dtype]
    levels = ours.permute(1, 2, 0).double().numpy() * scale
    # Pillow drops the lower 8 of 16 bits, and rounds its gray; a JPEG is decoded by another build of the same library.
    tolerance = 1.501 if ours.dtype == torch.float32 else 1.001 if ours.dtype == torch.uint16 or data[:2] == b"\xff\xd8" else 0.001
    if max(theirs.shape[:2]) > max(height, width):
        bands = [Image.fromarray(band.astype(np.float32)) for band in np.moveaxis(theirs, -1, 0)]
        reduced = [band.resize((width, height), Image.Resampling.BILINEAR) for band in bands]
        theirs = np.stack([np.asarray(band) for band in reduced], -1)
        tolerance += 1
    if levels.shape != theirs.shape:
        return WRONG, f"{levels.shape} for {theirs.shape}"
    worst = float(np.abs(levels - theirs).max()) if levels.size else 0.0
    return (ALIKE, "") if worst <= tolerance else (WRONG, f"{worst:.2f} levels off")


def compare_archive(data: bytes, kind: str, folder: str) -> tuple[str, str]:
    """The outcome for an archive: each file in it is alike, refused by name, or the archive is refused."""
    path = os.path.join(folder, f"all.{kind}")
    Path(path).write_bytes(data)
    try:
        images = RawImages(path, on_error="skip", max_side=None)
        ours = {name: images[index][0] for index, name in enumerate(images.paths)}
    except HVSError as error:
        members = _members(path, kind)
        return (WE_REFUSE if members and kind != "tar.gz" else BOTH_REFUSE), str(error)
    except Exception:
        return RAW_ERROR, traceback.format_exc(limit=-1)
    for name, content in _members(path, kind).items():
        found = ours.get(f"{path}/{os.path.normpath(name)}")
        try:
            theirs = shown_by_pillow(content, 3)
        except Exception:
            if isinstance(found, torch.Tensor):
                return WE_SHOW, name
            continue
        if found is None:
            return LOST, name
        if isinstance(found, torch.Tensor) and _compared(found, theirs, content)[0] != ALIKE:
            return WRONG, f"{name}: {_compared(found, theirs, content)[1]}"
    return ALIKE, ""


def _members(path: str, kind: str) -> dict[str, bytes]:
    """The images that zipfile or tarfile reads of an archive, by name; as far as they come."""
    found: dict[str, bytes] = {}
    suffixes = (".png", ".bmp", ".jpg", ".gif")
    with contextlib.suppress(Exception):
        if kind == "zip":
            with zipfile.ZipFile(path) as packed:
                for info in packed.infolist():
                    with contextlib.suppress(Exception):
                        if info.filename.endswith(suffixes) and not _is_hidden(info.filename):
                            found[info.filename.replace("\\", "/")] = packed.read(info)
        else:
            with tarfile.open(path) as tar:
                for member in tar:
                    with contextlib.suppress(Exception):
                        file = tar.extractfile(member)
                        if file is not None and member.name.endswith(suffixes) and not _is_hidden(member.name):
                            found[member.name] = file.read()
    return found


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") and part not in (".", "..") for part in name.replace("\\", "/").split("/"))


def compare_bomb(data: bytes) -> tuple[str, str]:
    """The outcome for a large black picture: black, or refused."""
    try:
        image = decode_image(data, 3, 64)[0]
    except HVSError as error:
        return BOTH_REFUSE, str(error)
    return (ALIKE, "") if not image.any() else (WRONG, "not black")


def judge(case: Case, folder: str) -> tuple[str, str]:
    """The outcome for a case."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if case.kind == "bomb":
            return compare_bomb(case.data)
        if case.kind in ("zip", "tar", "tar.gz"):
            return compare_archive(case.data, case.kind, folder)
        return compare(case.data)


# ------------------------------------------------------------------------------------------------------------------- workers


def _decode_all(case: Case, folder: str) -> None:
    """Decode a case in every way, as far as it goes; what comes of it is judged afterwards."""
    for channels, max_side in WAYS:
        with contextlib.suppress(Exception):
            if case.kind in ("zip", "tar", "tar.gz"):
                judge(case, folder)
            else:
                decode_image(case.data, channels, max_side)


def _work(pipe: Connection) -> None:
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff reports on each damaged file
    warnings.simplefilter("ignore")
    decode_image(encoded(picture(random.Random(0)), "JPEG"))
    Image.init()
    pipe.send("ready")
    with tempfile.TemporaryDirectory() as folder:
        while (case := pipe.recv()) is not None:
            before = _resident("VmRSS", reset=True)
            _decode_all(case, folder)
            pipe.send(max(0.0, _resident("VmHWM") - before))
            pipe.send(judge(case, folder))


def _resident(key: str, reset: bool = False) -> float:
    """MiB of this process: resident now (VmRSS), or at most since the last reset (VmHWM)."""
    if reset:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


class Worker:
    """A process that judges one case after the other, and is replaced when it dies or hangs."""

    def __init__(self, work: Callable[[Connection], None] = _work, limit: float = LIMIT) -> None:
        self.work, self.limit = work, limit
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=self.work, args=(other,), daemon=True)
        self.process.start()
        other.close()
        self.pipe.recv()  # it has started, which takes seconds

    def run(self, case: Case) -> dict[str, Any]:
        """The outcome of a case, with the memory that decoding it took; ``killed`` or ``hang`` if there is none."""
        self.pipe.send(case)
        stage, peak = "ours", 0.0
        try:
            if not self.pipe.poll(self.limit):
                return self._replaced("hang")
            peak, stage = self.pipe.recv(), "judging"
            if not self.pipe.poll(3 * self.limit):
                return self._replaced("hang")
            outcome, words = self.pipe.recv()
        except (EOFError, ConnectionError):
            self.process.join(5)
            return self._replaced("killed" if stage == "ours" else "pillow_killed", f"exit code {self.process.exitcode}")
        return {"outcome": outcome, "words": words, "peak_mib": peak}

    def _replaced(self, outcome: str, words: str = "") -> dict[str, Any]:
        self.close()
        self._start()
        return {"outcome": outcome, "words": words, "peak_mib": 0.0}

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


def rows_of(results: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """A row for each kind: how many files came out how, and the memory that one took at most."""
    rows = []
    for kind, outcomes in results.items():
        counted = Counter(outcome["outcome"] for outcome in outcomes)
        names = (*OUTCOMES, "killed", "pillow_killed", "hang")
        peak = max(outcome["peak_mib"] for outcome in outcomes)
        rows.append({"kind": kind, "files": len(outcomes), **{name: counted[name] for name in names}, "peak_mib": round(peak, 1)})
    return rows


def summary_of(rows: list[dict[str, Any]]) -> dict[str, float]:
    """What must be zero, and what it took."""

    def total(*names: str) -> int:
        return sum(row[name] for row in rows for name in names)

    return {
        "files_fuzzed": total("files"),
        "kinds": len(rows),
        "files_silently_wrong": total(*FAULTS),
        "processes_killed": total("killed"),
        "hangs": total("hang"),
        "peak_mib": max(row["peak_mib"] for row in rows),
        "shown_by_both": total(ALIKE),
        "refused_by_both": total(BOTH_REFUSE),
        "refused_where_pillow_shows": total(WE_REFUSE),
    }


def main() -> None:
    """Run the fuzzer."""
    parser = arguments("fuzz", __doc__)
    parser.add_argument("--files", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="write the files that came out wrong to this folder")
    options = parser.parse_args()
    count = 2 * len(KINDS) if options.quick else options.files
    worker, start = Worker(), time.perf_counter()
    results: dict[str, list[dict[str, Any]]] = defaultdict(list)
    drawn = cases(count, options.seed) if options.quick else itertools.chain(cases(count, options.seed), bombs())
    for index, case in enumerate(tqdm(drawn, total=count, unit="file")):
        found = worker.run(case)
        results[case.kind].append(found)
        if found["outcome"] not in (ALIKE, BOTH_REFUSE):
            if found["outcome"] != WE_REFUSE or options.keep:
                tqdm.write(f"{index} {case.kind}, {case.damage}: {found['outcome']}: {found['words'].strip().splitlines()[-1:]}")
            if options.keep and found["outcome"] != WE_REFUSE:
                options.keep.mkdir(parents=True, exist_ok=True)
                (options.keep / f"{index}-{case.kind}-{case.damage}".replace(" ", "_")).write_bytes(case.data)
    worker.close()
    rows = rows_of(results)
    print(table(rows, list(rows[0])))
    settings = {"files": count, "seed": options.seed, "pillow": Image.__version__, "seconds": round(time.perf_counter() - start)}
    summary = summary_of(rows)
    print(summary)
    write("fuzz", settings, rows, summary, options.out)


if __name__ == "__main__":
    main()
