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


def save_photographs(folder: Path, quarters: bool = False) -> Path:
    """Write them as an ImageFolder of two classes and return the folder; ``quarters`` writes the four quarters of each instead."""
    for index, image in enumerate(photographs()):
        (folder / f"class-{index % 2}").mkdir(parents=True, exist_ok=True)
        width, height = image.width // 2, image.height // 2
        boxes = [(left, top, left + width, top + height) for left in (0, width) for top in (0, height)]
        for part, saved in enumerate([image.crop(box) for box in boxes] if quarters else [image]):
            saved.save(folder / f"class-{index % 2}" / f"{index}-{part}.png")
    return folder
