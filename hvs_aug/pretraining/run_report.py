"""``hvs-aug report``: one page about a run of ``hvs-aug pretrain``, from what the run wrote."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .._check import fail
from ..analysis.machine import machine
from ..analysis.plots import bars, curves, histogram
from ..analysis.report import Draw, Report, ShownViews
from ..analysis.sheet import labels
from ..analysis.style import Theme, readable_number
from ..data.raw_images import RawImages
from .checkpoint import load_checkpoint, whole_file
from .labelled import EVALUATION
from .loop import CHECKPOINT, METRICS, SKIPPED, load_method, time_shares

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["run_report"]

REPORT = "report.html"


def run_report(
    folder: Path,
    out: Path | None = None,
    data: Path | None = None,
    *,
    transform: str | None = None,
    count: int = 8,
    seed: int = 0,
    on_error: str = "raise",
) -> Path:
    """Write ``report.html``: curves, shares of time, overlap, which candidates were chosen, settings, versions and machine.

    Args:
        folder: the run's ``--out``; a run that is still under way will do.
        out: the folder for the page, by default the run's own. A page of an earlier state is replaced.
        data: images for a contact sheet of what the trained model finds hardest.
        transform: that of the run's settings, which the contact sheet needs.
        count, seed, on_error: of the contact sheet, as for :func:`hvs_aug.analysis.inspect`.

    Raises: HVSError if there is no run in the folder, or it has measured nothing yet.
    """
    lines = _lines(folder / METRICS)
    state = load_checkpoint(folder / CHECKPOINT)[1] if (folder / CHECKPOINT).exists() else {}
    settings = state.get("settings", {})
    last = lines[-1]
    epochs = f" of {settings['epochs']:,}" if settings else ""
    report = Report(f"Run {folder.name or folder.resolve().name}", f"{settings.get('method', 'a run')}, step {last['step']:,}")
    report.facts(_summary(folder, lines, epochs))
    report.heading("Over the training").figures(_charts(lines))
    report.text("A point for each step that was measured. Overlap (IoU) is the mean over the pairs of an image's views.")
    report.heading("Where the time goes, and what is chosen").figures(
        {"shares of time": partial(_time_chart, lines), "chosen candidates": partial(_choice_chart, lines)}
    )
    if data is not None:
        report.heading("What the model finds hardest")
        _shown(folder, data, transform, count, seed, on_error).add_to(report)
    if settings:
        report.heading("Settings").facts({name: value for name, value in settings.items() if value is not None})
        report.heading("Versions and machine").facts(state.get("machine") or machine())
    target = (folder if out is None else out) / REPORT
    with whole_file(target) as file:
        report.write(file)
    return target


def _lines(path: Path) -> list[dict[str, Any]]:
    hint = "hvs-aug pretrain --out RUN writes it."
    if not path.is_file():
        fail("run_report(folder)", f"a run, a folder with {METRICS}", str(path.parent), hint)
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:  # of a run under way, or that was killed
            break
    if not lines:
        fail("run_report(folder)", "a run with a measured step", f"none in {path}", hint)
    return lines


def _summary(folder: Path, lines: Sequence[Mapping[str, Any]], epochs: str) -> dict[str, str]:
    first, last = lines[0], lines[-1]
    rate = statistics.median(line["images_per_second"] for line in lines)
    found = {
        "epochs": f"{last['epoch']:,.4g}{epochs}",
        "loss": f"{first['loss']:.3f} in step {first['step']:,}, {last['loss']:.3f} in step {last['step']:,}",
        "speed": f"{readable_number(rate)} images a second (median), without the wait for images",
    }
    if "iou" in last:
        chosen, random = (statistics.fmean(line[name] for line in lines) for name in ("iou", "iou_random"))
        found["overlap (IoU)"] = f"{chosen:.3f} of the chosen views, {random:.3f} of random ones"
    nonfinite = sum(line["nonfinite"] for line in lines)
    if nonfinite:
        found["losses that are not finite"] = f"of {nonfinite:,} images in the measured steps"
    skipped = folder / SKIPPED
    if skipped.is_file():
        found["images left out"] = f"{len(skipped.read_text(encoding='utf-8').splitlines()):,}, listed in {SKIPPED}"
    if (folder / EVALUATION).is_file():
        accuracy = json.loads((folder / EVALUATION).read_text(encoding="utf-8"))
        found["kNN"], found["linear probe"] = (f"{accuracy[name]:.1f} %" for name in ("kNN", "linear probe"))
    return found


def _charts(lines: Sequence[Mapping[str, Any]]) -> dict[str, Draw]:
    drawn = {
        "Training loss": {"training loss": _curve(lines, "loss")},
        "Scoring loss of the chosen views": {"hardest views": _curve(lines, "chosen_loss")},
        "Overlap (IoU) of two views": {"random views": _curve(lines, "iou_random"), "hard views": _curve(lines, "iou")},
        "Share of the image in a crop": {"random views": _curve(lines, "scale_random"), "hard views": _curve(lines, "scale")},
        "Images a second": {"images a second": _curve(lines, "images_per_second")},
        "Learning rate": {"learning rate": _curve(lines, "learning_rate")},
    }
    return {name: partial(_one_chart, name, runs) for name, runs in drawn.items() if all(of[0] for of in runs.values())}


def _curve(lines: Sequence[Mapping[str, Any]], name: str) -> tuple[list[float], list[float]]:
    measured = [line for line in lines if line.get(name) is not None]
    return [line["epoch"] for line in measured], [line[name] for line in measured]


def _one_chart(name: str, runs: Mapping[str, Any], theme: Theme) -> Figure:
    return curves({name: runs}, theme=theme)


def _time_chart(lines: Sequence[Mapping[str, Any]], theme: Theme) -> Figure:
    words = {
        "loading": "wait for images",
        "views": "making views",
        "search": "search",
        "scoring": "scoring",
        "training": "training",
    }
    rows = [
        {"workload": "Shares of the time", "contestant": words.get(part, part), "% of a step": round(100 * share, 1)}
        for part, share in time_shares(lines).items()
    ]
    return bars({"rows": rows}, value="% of a step", theme=theme)


def _choice_chart(lines: Sequence[Mapping[str, Any]], theme: Theme) -> Figure:
    shares = torch.tensor([line["chosen"] for line in lines]).mean(0).tolist()
    named = dict(zip(labels(len(shares)), shares, strict=True))
    return histogram(named, "Which candidates are chosen", "candidate", 1 / len(shares), theme=theme)


def _shown(folder: Path, data: Path, transform: str | None, count: int, seed: int, on_error: str) -> ShownViews:
    method, settings = load_method(folder / CHECKPOINT, transform=transform)
    views = method.views(settings.size, settings.candidates)
    generator = torch.Generator().manual_seed(seed)
    sampler = method.sampler(views, generator=generator)
    images = RawImages(data, on_error, return_path=True)
    return ShownViews.of(
        images,
        views,
        sampler,
        extras=lambda number: method.extras(views.slots, number, generator) or {},
        device="cpu",
        count=count,
        seed=seed,
    )
