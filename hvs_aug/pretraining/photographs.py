"""The demo's images: tiles of the photographs that are packaged with scikit-image and scikit-learn."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

from .._check import fail, require
from ..data.batch import ImageBatch

__all__ = ["PhotographTiles", "photograph_tiles", "photographs"]

# Drawings, test patterns, silhouettes and the second picture of the stereo pair are left out.
_SKIMAGE = """astronaut.png brick.png camera.png cell.png chelsea.png clock_motion.png coffee.png coins.png grass.png gravel.png
    hubble_deep_field.jpg ihc.png moon.png motorcycle_left.png page.png retina.jpg rocket.jpg text.png"""
_FILES = {"skimage": ("data", _SKIMAGE), "sklearn": ("datasets/images", "china.jpg flower.jpg")}
_AREA = 320 * 320  # larger photographs are reduced to this many pixels, so that a tile holds objects and not a patch of one
_GAP = 4  # pixels between train and test bands: the reach of the antialiased reduction, and of JPEG's blocks after it


@dataclass(frozen=True, eq=False)
class PhotographTiles:
    """Tiles of photographs, for training and for testing, from disjoint regions of each photograph.

    Attributes:
        names: the photographs; a label is an index into them.
        train, test: ``(N, 3, tile, tile)`` uint8.
        train_labels, test_labels: ``(N,)`` int64.
        sources: the photographs, ``(3, H, W)`` uint8 each.
    """

    names: tuple[str, ...]
    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    sources: tuple[Tensor, ...]


def photographs(folder: Path | None = None) -> dict[str, Tensor]:
    """Read the photographs of a folder, or those that are packaged with scikit-image and scikit-learn; nothing is downloaded.

    Shape: name -> ``(3, H, W)`` uint8, at most 320 x 320 pixels in area, aspect kept.
    Raises: HVSError if scikit-image or scikit-learn is not installed, a file is missing from it, or the folder has no images.
    """
    if folder is None:
        paths = _packaged()
    else:
        paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in IMG_EXTENSIONS)
        require(bool(paths), "photographs(folder)", "a folder with images in it", f"none in {folder}")
    found = {}
    for path in paths:
        with Image.open(path) as image:
            found[path.stem] = _reduced(image.convert("RGB"))
    return found


def photograph_tiles(tile: int = 48, stride: int = 24, folder: Path | None = None) -> PhotographTiles:
    """Cut every photograph into tiles: the packaged ones, or those of a folder.

    The width is cut into three bands with a gap between them: tiles that lie wholly in the middle band are for testing, those
    that lie wholly in an outer one for training. So no pixel is in both sets, while neighbouring tiles of one band overlap.

    Raises: HVSError if a band is narrower than a tile.
    """
    require(isinstance(stride, int) and stride >= 1, "photograph_tiles(stride)", "an integer of at least 1", stride)
    pictures = photographs(folder)
    narrowest = min(_bands(picture.shape[2])[0][1] for picture in pictures.values())
    require(1 <= tile <= narrowest, "photograph_tiles(tile)", f"a side from 1 to {narrowest} pixels", tile)
    parts: dict[bool, list[Tensor]] = {False: [], True: []}
    labels: dict[bool, list[int]] = {False: [], True: []}
    for label, picture in enumerate(pictures.values()):
        for band, (start, stop) in enumerate(_bands(picture.shape[2])):
            tiles = picture[:, :, start:stop].unfold(1, tile, stride).unfold(2, tile, stride)
            flat = tiles.permute(1, 2, 0, 3, 4).flatten(0, 1)
            parts[band == 1].append(flat)
            labels[band == 1] += [label] * len(flat)
    return PhotographTiles(
        tuple(pictures),
        torch.cat(parts[False]),
        torch.tensor(labels[False]),
        torch.cat(parts[True]),
        torch.tensor(labels[True]),
        tuple(pictures.values()),
    )


def _packaged() -> list[Path]:
    """The files in the wheels of scikit-image and scikit-learn."""
    found = []
    for package, (folder, names) in _FILES.items():
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            fail("photographs()", f"{package}, whose wheel carries photographs", "no such package", "pip install 'hvs_aug[demo]'")
        for name in names.split():
            path = Path(spec.origin).parent / folder / name
            expected = f"{name} in the installed {package}"
            require(path.is_file(), "photographs()", expected, "no such file", "install its wheel from PyPI.")
            found.append(path)
    return found


def as_batch(pixels: Tensor) -> ImageBatch:
    """Tiles as a packed ImageBatch."""
    return ImageBatch.pack(list(pixels))


def _bands(width: int) -> list[tuple[int, int]]:
    third = (width - 2 * _GAP) // 3
    return [(start, start + third) for start in (0, third + _GAP, 2 * (third + _GAP))]


def _reduced(image: Image.Image) -> Tensor:
    factor = math.sqrt(_AREA / (image.width * image.height))
    if factor < 1:
        image = image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
