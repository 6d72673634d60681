"""Real photographs that come with scikit-image and scikit-learn, small enough to train on in a test."""

from __future__ import annotations

import functools
from pathlib import Path

from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_images


@functools.cache
def photographs() -> tuple[Image.Image, ...]:
    """Six photographs of different sizes and shapes."""
    arrays = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket(), *load_sample_images().images]
    return tuple(Image.fromarray(array).resize((80 + 8 * index, 90 - 6 * index)) for index, array in enumerate(arrays))


def save_photographs(folder: Path, side: int | None = None) -> Path:
    """Write them as an ImageFolder of two classes and return the folder; ``side`` makes them squares of that size."""
    for index, image in enumerate(photographs()):
        place = folder / f"class-{index % 2}" / f"{index}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        (image if side is None else image.resize((side, side))).save(place)
    return folder
