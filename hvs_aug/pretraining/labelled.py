"""What the encoder of a run knows of labelled images: kNN and a linear probe, for ``hvs-aug pretrain --eval``."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from .._check import require
from ..data.collate import collate_images
from ..data.raw_images import RawImages
from .checkpoint import whole_file
from .evaluation import features, knn_accuracy, linear_probe_accuracy
from .loop import Pretraining

__all__ = ["EVALUATION", "evaluated", "labelled_images"]

EVALUATION = "evaluation.json"
_MOST = 20_000  # of more images a probe on a CPU takes longer than many runs


def labelled_images(folder: Path, option: str, on_error: str = "raise") -> RawImages:
    """The images of class folders; errors name the option that they came by.

    Raises: HVSError if there are fewer than two classes.
    """
    require(folder.exists(), option, "a folder of class folders, a .zip or a .tar of them", f"no such path, {folder}")
    images = RawImages(folder, on_error=on_error)
    require(len(images.classes) >= 2, option, "at least two class folders", f"one class in {folder}", "name the folder above.")
    return images


def evaluated(run: Pretraining, trained: RawImages, labelled: RawImages, out: Path) -> str:
    """Say how well the encoder's features tell the classes apart, and write it to ``out/evaluation.json``.

    Neighbours and the probe learn from the images that were trained on, if these lie in the same class folders; otherwise from
    every second labelled image, and the others are tested. Of more than 20,000 images, 20,000 count, spread evenly.
    """
    if trained.classes == labelled.classes:
        bank, queries = _features(run, trained, 0, 1), _features(run, labelled, 0, 1)
        words = "neighbours and probe from the images that were trained on"
    else:
        bank, queries = _features(run, labelled, 0, 2), _features(run, labelled, 1, 2)
        words = "neighbours and probe from every second one of its images"
    found = {
        "kNN": round(knn_accuracy(*bank, *queries), 2),
        "linear probe": round(linear_probe_accuracy(*bank, *queries), 2),
        "images": len(queries[1]),
        "classes": len(labelled.classes),
    }
    with whole_file(out / EVALUATION) as file:
        file.write_text(json.dumps(found, indent=1) + "\n")
    measured = f"kNN {found['kNN']:.1f} %, linear probe {found['linear probe']:.1f} %"
    return f"{measured} of {found['images']:,} images of {found['classes']} classes ({words})"


def _features(run: Pretraining, images: RawImages, first: int, every: int, batch: int = 256) -> tuple[Tensor, Tensor]:
    places = list(range(first, len(images), every))
    if len(places) > _MOST:
        places = [places[index * len(places) // _MOST] for index in range(_MOST)]
    recipe = run.views.slots[0].recipe
    rows, labels = [], []
    for start in range(0, len(places), batch):
        pixels, own = collate_images([images[place] for place in places[start : start + batch]])
        rows.append(features(run.method, pixels, recipe))
        labels.append(own)
    return torch.cat(rows), torch.cat(labels)
