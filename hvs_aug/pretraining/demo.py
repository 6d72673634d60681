"""``hvs-aug demo``: the same small network trained with random and with hard views of real photographs, and what came of it."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from .._check import require_name
from ..analysis import Report, contact_sheet, curves, panels
from ..data.batch import ImageBatch
from ..data.collate import collate_images
from ..selection.search import exact
from ..views.candidates import CandidateViews
from .build import METHODS
from .checkpoint import whole_file
from .evaluation import augmented_features, features, knn_accuracy, linear_probe_accuracy
from .loop import Pretraining, Settings, time_shares
from .methods import Method
from .photographs import PhotographTiles, as_batch, photograph_tiles

__all__ = ["demo"]

SIZE, BATCH, ENCODER = 32, 128, "resnet8-strided"
# Passes over the tiles that take about as long on two cores with either method.
EPOCHS = {"simclr": 40, "simsiam": 40, "byol": 30, "dino": 6, "ibot": 4}
SHOWN = ("astronaut", "chelsea", "coffee", "motorcycle_left", "china", "flower", "rocket", "ihc")  # on the contact sheet
REPORT = "report.html"
AUGMENTED = "kNN, augmented queries"


@dataclass(frozen=True)
class _Tiles:
    """The training tiles as a dataset."""

    pixels: Tensor

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int, /) -> Tensor:
        return self.pixels[index]


def demo(
    out: Path = Path("runs/demo"),
    method: str = "simclr",
    epochs: int | None = None,
    candidates: int | None = None,
    seed: int = 0,
    *,
    progress: bool = True,
    tiles: PhotographTiles | None = None,
) -> dict[str, Any]:
    """Train twice, with equal epochs and seeds; print and write what came out, also where hard views do not win.

    Writes to ``out``: ``results.json``, ``report.html`` (opens offline), ``contact_sheet.png``, and for each run its metrics,
    checkpoint and encoder in a folder of its own.

    Returns:
        What ``results.json`` holds.

    Raises: HVSError for an unknown method, or if a wheel that the photographs or the plots are from is not installed.
    """
    require_name(method, METHODS, "--method")
    start = time.perf_counter()
    tiles = photograph_tiles() if tiles is None else tiles
    encoder = ENCODER if METHODS[method].fewest > 1 else None
    settings = Settings(method, SIZE, encoder, EPOCHS[method] if epochs is None else epochs, BATCH, seed=seed)
    policies = {
        "random": replace(settings, policy="random", candidates=METHODS[method].fewest),
        "hard": replace(settings, candidates=candidates),
    }
    runs = {name: Pretraining(chosen, _Tiles(tiles.train)) for name, chosen in policies.items()}
    views = runs["hard"].views
    print(
        f"{len(tiles.train)} training and {len(tiles.test)} test tiles of {len(tiles.names)} photographs; {method}, "
        f"{settings.epochs} epochs of {runs['hard'].steps_per_epoch} steps, {views.candidates} candidates of {SIZE} px each"
    )
    evaluated = {"untrained": _evaluate(runs["random"].method, tiles, views)}
    metrics = {}
    for name, run in runs.items():
        _remove_old(out / name)
        metrics[name] = run.run(out / name, log_every=1, progress=progress)
        evaluated[name] = _evaluate(run.method, tiles, views)
    results = {
        "method": method,
        "settings": {name: asdict(chosen) for name, chosen in policies.items()},
        "candidates": {name: run.views.candidates for name, run in runs.items()},
        "photographs": list(tiles.names),
        "train_tiles": len(tiles.train),
        "test_tiles": len(tiles.test),
        "accuracy": evaluated,
        "standard_error": round(100 * 0.5 / len(tiles.test) ** 0.5, 2),
        "iou": {"chosen": _mean(metrics["hard"], "iou"), "random": _mean(metrics["hard"], "iou_random")},
        "step_seconds": {name: _mean_step(lines) for name, lines in metrics.items()},
        "time_shares": {name: time_shares(lines) for name, lines in metrics.items()},
        "seconds": round(time.perf_counter() - start, 1),
    }
    with tqdm(total=1, desc="report", disable=None if progress else True) as bar:
        _write_report(out, results, metrics, runs["hard"].method, views, tiles)
        bar.update()
    results["seconds"] = round(time.perf_counter() - start, 1)
    with whole_file(out / "results.json") as partial:
        partial.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    print("\n".join(_words(results)))
    print(f"\nwrote {out / 'report.html'} in {results['seconds']:.0f} s")
    return results


def _evaluate(method: Method, tiles: PhotographTiles, views: CandidateViews) -> dict[str, float]:
    recipe = views.slots[0].recipe
    bank, queries = (features(method, as_batch(pixels), recipe) for pixels in (tiles.train, tiles.test))
    augmented = augmented_features(method, as_batch(tiles.test), recipe)
    return {
        "kNN": round(knn_accuracy(bank, tiles.train_labels, queries, tiles.test_labels), 2),
        AUGMENTED: round(knn_accuracy(bank, tiles.train_labels, augmented, tiles.test_labels), 2),
        "linear probe": round(linear_probe_accuracy(bank, tiles.train_labels, queries, tiles.test_labels), 2),
    }


def _words(results: Mapping[str, Any]) -> list[str]:
    """The results as they are printed."""
    accuracy, iou, seconds = results["accuracy"], results["iou"], results["step_seconds"]
    names = list(accuracy["untrained"])
    lines = ["", f"{'accuracy, %':12}" + "".join(f"{name:>24}" for name in names)]
    lines += [f"{encoder:12}" + "".join(f"{of[name]:24.1f}" for name in names) for encoder, of in accuracy.items()]
    lines += ["", *_verdict(results)]
    lines.append(f"overlap (IoU) of the views trained on: {iou['chosen']:.3f} where chosen, {iou['random']:.3f} at random")
    hard, random = (1000 * seconds[name] for name in ("hard", "random"))
    lines.append(f"a step takes {hard:.0f} ms with hard and {random:.0f} ms with random views: {hard / random:.2f} times as long")
    for name, shares in results["time_shares"].items():
        lines.append(f"time with {name} views: " + ", ".join(f"{part} {share:.0%}" for part, share in shares.items()))
    return lines


def _verdict(results: Mapping[str, Any]) -> list[str]:
    """What the accuracies say, and what they do not: one seed, one small test set."""
    accuracy, error = results["accuracy"], results["standard_error"]
    gained = {name: accuracy[name][AUGMENTED] - accuracy["untrained"][AUGMENTED] for name in ("random", "hard")}
    lines = [f"{AUGMENTED}: {gained['random']:+.1f} points by training with random views, {gained['hard']:+.1f} with hard ones"]
    difference = gained["hard"] - gained["random"]
    if abs(difference) < 2 * error:
        lines.append(
            f"hard and random views come out equal: {difference:+.1f} points, within two standard errors of {error:.1f} of one seed"
        )
    else:
        lines.append(f"hard views come out {'ahead' if difference > 0 else 'behind'} by {abs(difference):.1f} points (one seed)")
    return lines


def _write_report(
    out: Path,
    results: Mapping[str, Any],
    metrics: Mapping[str, Sequence[Mapping[str, Any]]],
    method: Method,
    views: CandidateViews,
    tiles: PhotographTiles,
) -> None:
    sheet = _contact_sheet(method, views, tiles)
    with whole_file(out / "contact_sheet.png") as partial:
        sheet.savefig(partial, format="png")
    plots = {
        "training loss": {name: _curve(lines, "loss") for name, lines in metrics.items()},
        "overlap (IoU) of the views trained on": {
            "random": _curve(metrics["hard"], "iou_random"),
            "hard": _curve(metrics["hard"], "iou"),
        },
    }
    shares = [
        {
            "trained on": f"{name} views",
            "ms a step": 1000 * results["step_seconds"][name],
            **{part: f"{share:.1%}" for part, share in of.items()},
        }
        for name, of in results["time_shares"].items()
    ]
    report = Report("Hard views and random views", f"{results['method']} on {len(tiles.names)} photographs, equal epochs and seeds")
    report.text(
        f"{results['train_tiles']} training and {results['test_tiles']} test tiles, from disjoint bands of the photographs that "
        "scikit-image and scikit-learn carry; a tile's label is its photograph. One seed, a network of minutes: it shows that the "
        "parts work, not how good hard views are."
    )
    report.heading("What was chosen")
    report.figure(sheet, "Candidates of eight photographs; framed are those that the trained network finds hardest.")
    report.heading("Accuracy, %").table([{"encoder": name, **of} for name, of in results["accuracy"].items()])
    report.text("\n\n".join(_verdict(results)))
    report.heading("Over the training")
    report.figure(curves(plots), "Each step of both runs; overlap is the mean over the pairs of an image's views.")
    report.heading("Where the time goes").table(shares)
    with whole_file(out / REPORT) as partial:
        report.write(partial)


@torch.no_grad()
def _contact_sheet(method: Method, views: CandidateViews, tiles: PhotographTiles) -> Any:
    """Score candidates of whole photographs at the training size, and show them larger."""
    chosen = [index for index, name in enumerate(tiles.names) if name in SHOWN] or list(range(min(8, len(tiles.names))))
    batch: ImageBatch = collate_images([tiles.sources[index] for index in chosen])
    generator = torch.Generator().manual_seed(0)
    sampler = method.sampler(views, generator=generator)
    scored = sampler.score(batch, method.extras(views.slots, len(batch), generator))
    indices = exact(scored.table, views.slots)
    # The same crops and colours at more pixels; a blur would be another one there, and small views have none in SimCLR.
    shown = CandidateViews([replace(slot, recipe=replace(slot.recipe, size=4 * slot.recipe.size)) for slot in views.slots])
    names = [tiles.names[index] for index in chosen]
    return contact_sheet(panels(batch, shown, scored.params, scored.table, indices, names), views.slots, "Hardest views")


def _curve(lines: Sequence[Mapping[str, Any]], name: str) -> tuple[list[float], list[float]]:
    return [line["epoch"] for line in lines], [line[name] for line in lines]


def _mean(lines: Sequence[Mapping[str, Any]], name: str) -> float:
    return round(statistics.fmean(line[name] for line in lines), 4)


def _mean_step(lines: Sequence[Mapping[str, Any]]) -> float:
    """Mean seconds of a step, its wait for the images not counted."""
    return statistics.fmean(sum(line["seconds"].values()) - line["seconds"]["loading"] for line in lines)


def _remove_old(folder: Path) -> None:
    """A demo starts anew: remove the metrics, checkpoint and encoder of the last one."""
    for name in ("metrics.jsonl", "checkpoint.safetensors", "encoder.safetensors"):
        (folder / name).unlink(missing_ok=True)
