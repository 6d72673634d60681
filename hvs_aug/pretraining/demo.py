"""``hvs-aug demo``: the same small network trained with random and with hard views of real photographs, and what came of it."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._check import require_name
from ..analysis import Report, contact_sheet, curves, panels
from ..analysis.machine import machine
from ..analysis.paired import paired_difference
from ..analysis.report import Draw, png
from ..analysis.style import LIGHT, Theme
from ..data.batch import ImageBatch
from ..data.collate import collate_images
from ..selection.search import exact
from ..views.candidates import CandidateViews
from .build import METHODS, build_method
from .checkpoint import whole_file
from .evaluation import augmented_features, features, knn_accuracy, linear_probe_accuracy
from .loop import Pretraining, Settings, time_shares
from .methods import Method
from .photographs import PhotographTiles, as_batch, photograph_tiles
from .progress import duration, is_terminal

__all__ = ["demo"]

SIZE, BATCH, ENCODER = 32, 128, "resnet8-strided"
SEEDS = 3
SCORING = "cheap"  # of the runs with hard views
# Passes over the tiles that take about as long on two cores with either method.
EPOCHS = {"simclr": 30, "simsiam": 30, "byol": 22, "dino": 6, "ibot": 4}
OPTIONS = {"simclr": {"temperature": 0.2}}  # of the methods, as the study chose it for random views
SHOWN = ("astronaut", "chelsea", "coffee", "motorcycle_left", "china", "flower", "rocket", "ihc")  # on the contact sheet
REPORT = "report.html"
MEASURES = ("kNN", "kNN, augmented queries", "linear probe")
NEXT = """\
where to go next:
  hvs-aug pretrain --data IMAGES                   pretrain on your own images
  hvs-aug study --data IMAGES                      whether hard views are worth their cost with them
  hvs-aug benchmark --data IMAGES                  what hard views cost with them, on this machine
  hvs_aug.wrap(loader, model=..., loss=...)        hard views in a training loop of your own"""


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
    seeds: int = SEEDS,
    progress: bool = True,
    tiles: PhotographTiles | None = None,
) -> dict[str, Any]:
    """Train with random and with hard views, equal epochs and seeds; say what can be told apart, and what cannot.

    Writes to ``out``: ``results.json``, ``report.html`` (opens offline), ``contact_sheet.png``, and for each run its metrics,
    checkpoint and encoder in a folder of its own.

    Args:
        seed, seeds: the first seed and their number; each seed trains both ways, so that differences are paired.
        progress: show bars on a terminal, elsewhere a line for each run.

    Returns:
        What ``results.json`` holds.

    Raises: HVSError for an unknown method, or if a wheel that the photographs or the plots are from is not installed.
    """
    require_name(method, METHODS, "--method")
    start = time.perf_counter()
    tiles = photograph_tiles() if tiles is None else tiles
    encoder = ENCODER if METHODS[method].fewest > 1 else None
    settings = Settings(method, SIZE, encoder, EPOCHS[method] if epochs is None else epochs, BATCH)
    policies = {
        "random": replace(settings, policy="random", candidates=METHODS[method].fewest),
        "hard": replace(settings, candidates=candidates, scoring=SCORING),
    }
    accuracy: dict[str, dict[str, list[float]]] = {name: {measure: [] for measure in MEASURES} for name in ("untrained", *policies)}
    metrics: dict[str, list[dict[str, Any]]] = {name: [] for name in policies}
    for number in range(seed, seed + seeds):
        for name, chosen in policies.items():
            run = _run(replace(chosen, seed=number), tiles)
            if number == seed and name == "random":
                print(_words_before(run, tiles, method, seeds, policies), flush=True)
            if name == "random":
                _add(accuracy["untrained"], _evaluate(run.method, tiles, run.views))
            began = time.perf_counter()
            lines = run.run(out / f"{name}-{number}", log_every=1, progress=progress and is_terminal())
            _add(accuracy[name], _evaluate(run.method, tiles, run.views))
            metrics[name] += [{**line, "seed": number} for line in lines]
            if progress and not is_terminal():
                print(f"seed {number}, {name} views: {duration(time.perf_counter() - began)}", flush=True)
    results: dict[str, Any] = {
        "method": method,
        "seeds": list(range(seed, seed + seeds)),
        "settings": {name: asdict(chosen) | OPTIONS.get(method, {}) for name, chosen in policies.items()},
        "candidates": run.views.candidates,
        "photographs": list(tiles.names),
        "train_tiles": len(tiles.train),
        "test_tiles": len(tiles.test),
        "accuracy": accuracy,
        "differences": {measure: _difference(accuracy, measure) for measure in MEASURES},
        "iou": {"chosen": _mean(metrics["hard"], "iou"), "random": _mean(metrics["hard"], "iou_random")},
        "step_seconds": {name: _mean_step(lines) for name, lines in metrics.items()},
        "time_shares": {name: time_shares(lines) for name, lines in metrics.items()},
        "machine": machine(),
    }
    _write_report(out, results, metrics, run.method, run.views, tiles)
    results["seconds"] = round(time.perf_counter() - start, 1)
    with whole_file(out / "results.json") as file:
        file.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    print("\n".join(_words(results)))
    print(f"\nwrote {out / REPORT} in {duration(results['seconds'])}\n{NEXT}")
    return results


def _run(settings: Settings, tiles: PhotographTiles) -> Pretraining:
    options = OPTIONS.get(settings.method, {})
    method = build_method(settings.method, settings.size, settings.encoder, settings.seed, **options)
    return Pretraining(settings, _Tiles(tiles.train), method=method)


def _words_before(run: Pretraining, tiles: PhotographTiles, method: str, seeds: int, policies: Mapping[str, Settings]) -> str:
    views = METHODS[method].views(SIZE, policies["hard"].candidates)
    return (
        f"{len(tiles.train):,} training and {len(tiles.test):,} test tiles of {len(tiles.names)} photographs; {method}, {seeds} "
        f"seeds, {run.settings.epochs} epochs of {run.steps_per_epoch} steps; hard views: {views.candidates} candidates of {SIZE} "
        f"px, scoring={SCORING!r}"
    )


def _evaluate(method: Method, tiles: PhotographTiles, views: CandidateViews) -> tuple[float, ...]:
    """The accuracies of ``MEASURES``, in percent."""
    recipe = views.slots[0].recipe
    bank, queries = (features(method, as_batch(pixels), recipe) for pixels in (tiles.train, tiles.test))
    augmented = augmented_features(method, as_batch(tiles.test), recipe)
    return (
        knn_accuracy(bank, tiles.train_labels, queries, tiles.test_labels),
        knn_accuracy(bank, tiles.train_labels, augmented, tiles.test_labels),
        linear_probe_accuracy(bank, tiles.train_labels, queries, tiles.test_labels),
    )


def _add(accuracy: dict[str, list[float]], found: Sequence[float]) -> None:
    for values, value in zip(accuracy.values(), found, strict=True):
        values.append(round(value, 2))


def _difference(accuracy: Mapping[str, Mapping[str, list[float]]], measure: str) -> dict[str, Any]:
    """Hard minus random views over the seeds; an interval that one seed does not have is ``None``."""
    found = paired_difference(accuracy["hard"][measure], accuracy["random"][measure])
    ends = [round(end, 2) if math.isfinite(end) else None for end in (found.low, found.high)]
    verdict = ("better" if found.mean > 0 else "worse") if found.is_distinguishable else "not distinguishable"
    return {"mean": round(found.mean, 2), "low": ends[0], "high": ends[1], "words": str(found), "verdict": verdict}


def _words(results: Mapping[str, Any]) -> list[str]:
    """The results as they are printed."""
    iou, seconds = results["iou"], results["step_seconds"]
    lines = ["", f"{'mean accuracy, %':18}" + "".join(f"{measure:>24}" for measure in MEASURES)]
    for name, of in results["accuracy"].items():
        lines.append(f"{_WORDS[name]:18}" + "".join(f"{statistics.fmean(of[measure]):24.1f}" for measure in MEASURES))
    lines += ["", *_verdict(results), ""]
    hard, random = (1000 * seconds[name] for name in ("hard", "random"))
    lines.append(f"a step takes {hard:.0f} ms with hard and {random:.0f} ms with random views: {hard / random - 1:+.0%}")
    lines.append(f"overlap (IoU) of the views trained on: {iou['chosen']:.3f} where chosen, {iou['random']:.3f} at random")
    for name, shares in results["time_shares"].items():
        lines.append(f"time with {name} views: " + ", ".join(f"{part} {share:.0%}" for part, share in shares.items()))
    return lines


_WORDS = {"untrained": "untrained", "random": "random views", "hard": "hard views"}


def _verdict(results: Mapping[str, Any]) -> list[str]:
    """What the accuracies say, and what they do not."""
    lines = ["hard minus random views, mean over the seeds and 95 % interval:"]
    lines += [f"{measure}: {found['words']}: {found['verdict']}" for measure, found in results["differences"].items()]
    knn = {name: statistics.fmean(of["kNN"]) for name, of in results["accuracy"].items()}
    lines.append(f"Training with random views adds {knn['random'] - knn['untrained']:.1f} points of kNN to the untrained network")
    return lines


def _write_report(
    out: Path,
    results: Mapping[str, Any],
    metrics: Mapping[str, Sequence[Mapping[str, Any]]],
    method: Method,
    views: CandidateViews,
    tiles: PhotographTiles,
) -> None:
    draw_sheet = _contact_sheet(method, views, tiles)
    with whole_file(out / "contact_sheet.png") as file:
        file.write_bytes(png(draw_sheet(LIGHT)))
    seeds = len(results["seeds"])
    report = Report("Hard views and random views", f"{results['method']} on {len(tiles.names)} photographs, equal epochs and seeds")
    report.text(
        f"{results['train_tiles']:,} training and {results['test_tiles']:,} test tiles, from disjoint bands of the photographs "
        "that scikit-image and scikit-learn carry; a tile's label is its photograph. The tiles of one photograph are much alike, "
        "and the network is small: this shows that the parts work, and what this setting can tell apart."
    )
    report.heading(f"Accuracy, %, mean of {seeds} seeds")
    report.table(
        [
            {"network": _WORDS[name], **{measure: statistics.fmean(of[measure]) for measure in MEASURES}}
            for name, of in results["accuracy"].items()
        ]
    )
    report.heading("Hard minus random views, in points")
    report.table(
        [{"measure": measure, "difference": of["words"], "": of["verdict"]} for measure, of in results["differences"].items()]
    )
    report.text(f"In brackets the 95 % interval over the seeds (Student's t, paired). {_verdict(results)[-1]}.")
    report.heading("What was chosen")
    report.photographs(draw_sheet, "Candidates of eight photographs; framed are those that the trained network finds hardest.")
    report.heading("Over the training").figures(_charts(metrics))
    report.text("The mean over the seeds. Overlap (IoU) is the mean over the pairs of an image's views.")
    report.heading("Where the time goes").table(
        [
            {
                "trained on": _WORDS[name],
                "ms a step": 1000 * results["step_seconds"][name],
                **{part: f"{share:.1%}" for part, share in of.items()},
            }
            for name, of in results["time_shares"].items()
        ]
    )
    report.heading("Settings").facts(_set(results["settings"]["hard"]))
    report.heading("Versions and machine").facts(results["machine"])
    report.heading("Next").text("\n\n".join(line.strip() for line in NEXT.splitlines()[1:]))
    with whole_file(out / REPORT) as file:
        report.write(file)


def _set(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are not the method's own; the seeds differ."""
    return {name: value for name, value in settings.items() if value is not None and name != "seed"}


def _charts(metrics: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Draw]:
    drawn = {
        "Training loss": {f"{name} views": _curve(lines, "loss") for name, lines in metrics.items()},
        "Overlap (IoU) of the views trained on": {
            "random views": _curve(metrics["hard"], "iou_random"),
            "hard views": _curve(metrics["hard"], "iou"),
        },
    }
    return {name: partial(_one_chart, name, runs) for name, runs in drawn.items()}


def _one_chart(name: str, runs: Mapping[str, Any], theme: Theme) -> Any:
    return curves({name: runs}, theme=theme)


@torch.no_grad()
def _contact_sheet(method: Method, views: CandidateViews, tiles: PhotographTiles) -> Draw:
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
    shown_panels = panels(batch, shown, scored.params, scored.table, indices, names)
    return lambda theme: contact_sheet(shown_panels, views.slots, "Hardest views", theme=theme)


def _curve(lines: Sequence[Mapping[str, Any]], name: str) -> tuple[list[float], list[float]]:
    """The mean over the seeds at each step."""
    by_epoch: dict[float, list[float]] = {}
    for line in lines:
        by_epoch.setdefault(line["epoch"], []).append(line[name])
    return list(by_epoch), [statistics.fmean(values) for values in by_epoch.values()]


def _mean(lines: Sequence[Mapping[str, Any]], name: str) -> float:
    return round(statistics.fmean(line[name] for line in lines), 4)


def _mean_step(lines: Sequence[Mapping[str, Any]]) -> float:
    """Mean seconds of a step, its wait for the images not counted."""
    return statistics.fmean(sum(line["seconds"].values()) - line["seconds"]["loading"] for line in lines)
