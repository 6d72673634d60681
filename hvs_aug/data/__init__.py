"""Raw images: decoded, labelled and collated, with no augmentation."""

from __future__ import annotations

from .batch import ImageBatch
from .collate import Undecodable, collate_images
from .decode import decode_image
from .raw_images import RawImages

__all__ = ["ImageBatch", "RawImages", "Undecodable", "collate_images", "decode_image"]
