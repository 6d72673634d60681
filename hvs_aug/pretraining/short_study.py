"""``hvs-aug study``: whether hard views are worth their cost on a user's own images, as far as a budget of minutes can say."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from .._check import fail, require, require_name
from ..analysis.paired import paired_difference
from ..data.batch import ImageBatch
from ..data.collate import collate_images
from .build import METHODS
from .checkpoint import whole_file
from .labelled import labelled_images
from .loop import fitting_size
from .study import ARMS, LabelledImages, Study, arithmetic, evaluate, prepared, train

__all__ = ["short_study", "split_images"]

COMPARED = ("random", "cheap", "all")
WORDS = {"random": "random views", "cheap": "hard views, CHEAP", "all": "all candidates"}
MEASURES = {"knn": "kNN", "knn_augmented": "kNN, augmented queries", "probe": "linear probe"}


def short_study(
    data: Path | None = None,
    out: Path = Path("runs/study"),
    method: str = "simclr",
    budget_minutes: float = 60,
    *,
    encoder: str | None = None,
    size: int | None = None,
    images: int = 10_000,
    seeds: int = 3,
    say: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """Train on random views, on hard views and on all candidates at equal arithmetic, and say what the features show.

    All arms take the arithmetic of ``E`` epochs on random views, where E is the largest number with which ``seeds`` seeds fit into
    the budget by the times of the first steps. Finished runs are kept in ``out/study.json``; the same command goes on with
    them. Intervals are Student's t over paired seeds, 95 %.

    Args:
        data: a folder of class folders, a .zip or a .tar of them; ``None`` for the demo's tiles. A fifth of it is held out.
        images: use at most so many, drawn at random.
        say: gets each line of the report.

    Returns: one row for each run: ``arm``, ``seed``, ``epochs``, ``knn``, ``knn_augmented`` and ``probe`` in percent.
    Raises: HVSError if there is one class only, or the budget is too small for one seed.
    """
    require_name(method, METHODS, "--method")
    require(budget_minutes > 0, "--budget-minutes", "minutes above 0", budget_minutes)
    split, side = split_images(data, images, size, method)
    strided = METHODS[method].fewest > 1 and side < 64
    network = encoder if encoder is not None else "resnet8-strided" if strided else METHODS[method].default_encoders[side >= 64]
    study = Study(method, network, size=side, batch_size=min(256, len(split.train)))
    costs = {arm: arithmetic(study, ARMS[arm], split.train) for arm in COMPARED}
    ratios = {arm: cost / costs["random"] for arm, cost in costs.items()}
    seconds = {arm: _step_seconds(study, arm, split.train) for arm in COMPARED}
    per_epoch = len(split.train) // study.batch_size
    slowest = max(seconds[arm] / ratios[arm] for arm in COMPARED)  # of an epoch's arithmetic on random views
    epochs, seeds = _affordable(60 * budget_minutes, 3 * per_epoch * slowest, seeds)
    settings = asdict(study) | {"images": len(split.train), "epochs": epochs}
    file = out / "study.json"
    rows = _finished(file, settings)
    epochs = settings["epochs"]
    trained = f"{len(split.train)} images to train on, {len(split.test)} to test"
    say(f"{method}, {network}, views of {side} px: {trained}; {epochs} epochs on random views or their cost, {seeds} seeds")
    for seed in range(seeds):
        for arm in COMPARED:
            if any((row["arm"], row["seed"]) == (arm, seed) for row in rows):
                continue
            steps = max(1, round(epochs * per_epoch / ratios[arm]))
            trained_method, _ = train(study, ARMS[arm], split.train, steps, seed)
            found = {name: round(value, 2) for name, value in evaluate(trained_method, study, split).items()}
            rows.append({"arm": arm, "seed": seed, "epochs": round(steps / per_epoch, 1), **found})
            with whole_file(file) as partial:
                partial.write_text(json.dumps({"settings": settings, "rows": rows}, indent=1) + "\n")
            say(f"seed {seed}, {WORDS[arm]}, {steps / per_epoch:.1f} epochs: kNN {found['knn']:.1f} %")
    untrained = evaluate(prepared(study, ARMS["random"], split.train, 1, 0).method, study, split)
    for line in conclusions(rows, untrained):
        say(line)
    return rows


def conclusions(rows: Sequence[dict[str, Any]], untrained: dict[str, float]) -> list[str]:
    """What can be said of the runs, and what cannot."""
    found: dict[str, dict[str, list[float]]] = {
        arm: {name: [row[name] for row in sorted(rows, key=lambda row: row["seed"]) if row["arm"] == arm] for name in MEASURES}
        for arm in COMPARED
    }
    lines = ["", f"{'mean over the seeds, %':24}" + "".join(f"{words:>24}" for words in MEASURES.values())]
    lines.append(f"{'untrained':24}" + "".join(f"{untrained[name]:24.1f}" for name in MEASURES))
    for arm in COMPARED:
        lines.append(f"{WORDS[arm]:24}" + "".join(f"{sum(values) / len(values):24.1f}" for values in found[arm].values()))
    lines.append("")
    for ours, theirs in (("cheap", "random"), ("cheap", "all")):
        for name, words in MEASURES.items():
            difference = paired_difference(found[ours][name], found[theirs][name])
            verdict = "" if difference.is_distinguishable else "; not distinguishable"
            lines.append(f"{words}: {WORDS[ours]} minus {WORDS[theirs]} at equal arithmetic {difference}{verdict}")
    learned = sum(found["random"]["knn"]) / len(found["random"]["knn"]) - untrained["knn"]
    if learned < 10:
        hint = "a longer budget, other settings or more images may change what this compares."
        lines.append(f"random views gain {learned:.1f} points of kNN over the untrained network: they have hardly learned; {hint}")
    return lines


def split_images(data: Path | None, most: int, size: int | None, method: str) -> tuple[LabelledImages, int]:
    """Images with their classes, a fifth held out for testing, and the pixels of a view that suit them.

    Images are kept at up to twice the view's side, so that they fit into memory.
    """
    if data is None:
        return LabelledImages.of_tiles(), 32 if size is None else size
    dataset = labelled_images(data, "--data")
    side = fitting_size(dataset, method) if size is None else size
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))[:most].tolist()
    batch: ImageBatch = collate_images([dataset[index][0] for index in order], max_side=max(2 * side, 64))
    labels = torch.tensor([dataset.labels[index] for index in order])
    held = torch.arange(len(order)) % 5 == 4
    kept, shown = (~held).nonzero().flatten(), held.nonzero().flatten()
    require(len(shown) > 0, "--data", "at least five images", f"{len(order)}")
    return LabelledImages(batch[kept], labels[kept], batch[shown], labels[shown]), side


def _step_seconds(study: Study, arm: str, images: ImageBatch) -> float:
    run = prepared(study, ARMS[arm], images, steps=10, seed=0)
    batch = images[: study.batch_size]
    taken = []
    for _ in range(4):
        start = time.perf_counter()
        run.train_step(batch)
        taken.append(time.perf_counter() - start)
    return min(taken)


def _affordable(seconds: float, epoch: float, seeds: int) -> tuple[int, int]:
    """Epochs, and seeds: fewer seeds where all would leave less than five epochs to each run."""
    for count in range(seeds, 0, -1):
        epochs = math.floor(0.9 * seconds / (count * epoch))
        if epochs >= 5 or (count == 1 and epochs >= 1):
            return epochs, count
    needed = epoch / 0.9 / 60
    fail(
        "--budget-minutes",
        f"at least {needed:.1f} minutes, which one epoch of three runs takes",
        seconds / 60,
        "give more minutes, or fewer --images.",
    )


def _finished(file: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The runs that an earlier command of the same settings has written."""
    if not file.is_file():
        return []
    document = json.loads(file.read_text())
    if {**document["settings"], "epochs": settings["epochs"]} != json.loads(json.dumps(settings)):
        fail("--out", "a folder without another study", str(file.parent), "give another --out, or the settings of that study.")
    settings["epochs"] = document["settings"]["epochs"]
    rows: list[dict[str, Any]] = document["rows"]
    return rows
