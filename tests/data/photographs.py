"""Images to test with: smooth enough for JPEG, different at every pixel, and encoded in any format."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image


def photograph(height: int = 24, width: int = 36, seed: int = 0) -> Image.Image:
    """A smooth RGB image whose corners differ, so that no two of the eight orientations look alike."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    """Encode a PIL image."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def oriented(image: Image.Image, orientation: int, kind: str = "JPEG") -> bytes:
    """Encode a PIL image with an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(image, kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {}))


def pixels_of(image: Image.Image) -> np.ndarray[Any, Any]:
    """(C, H, W) of a PIL image."""
    values = np.array(image)
    return values[None] if values.ndim == 2 else values.transpose(2, 0, 1)
