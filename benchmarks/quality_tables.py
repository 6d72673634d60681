"""The tables and the chart of the study of accuracy, made from benchmarks/results/quality.json."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS
from benchmarks.quality import BUDGETS, EPOCHS
from hvs_aug.analysis.paired import Difference, paired_difference

METHODS = {"simclr": "SimCLR", "simsiam": "SimSiam", "byol": "BYOL", "dino": "DINO"}
MEASURES = {"knn": "kNN", "knn_augmented": "kNN, augmented queries", "probe": "linear probe", "transfer": "kNN on photograph tiles"}
WORDS = {
    "random": "random views",
    "cheap": "hard, `CHEAP`",
    "half": "hard, scored at half the side",
    "full": "hard, scored at full size",
    "quarter": "hard, scored at a quarter of the side",
    "all": "all four candidates",
    "random-scored": "random among the four",
    "min_iou": "least overlap, no scoring",
    "jointcrop": "JointCrop, no scoring",
    "mixture": "hard or random, each with 0.5",
    "softmax": "softmax over the losses, 0.3",
    "semi_hard": "semi-hard, quantile 0.8",
    "outliers": "hard, the worst tenth left out",
    "easiest": "easiest",
    "warmup": "random for half of the steps, then hard",
    "colours": "hard by colours alone, one box",
    "half-3": "hard among 3",
    "half-8": "hard among 8",
    "half-16": "hard among 16",
    "sampled-64": "hard, 64 sampled combinations",
}
Key = tuple[str, str, int]


class Study:
    """The rows of a quality.json, by method, arm and epochs."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.rows = document["rows"]

    def values(self, key: Key, measure: str = "knn") -> dict[int, float]:
        """The measure of each seed."""
        return {row["seed"]: row[measure] for row in self.runs() if (row["method"], row["arm"], row["epochs"]) == key}

    def runs(self) -> list[dict[str, Any]]:
        """The rows of finished runs."""
        return [row for row in self.rows if row["kind"] == "run"]

    def mean(self, key: Key, measure: str = "knn") -> str:
        """The mean over the seeds, or nothing where none was run."""
        values = self.values(key, measure)
        return f"{statistics.fmean(values.values()):.1f}" if values else ""

    def difference(self, ours: Key, theirs: Key, measure: str = "knn") -> Difference | None:
        """The paired difference over the seeds that both have."""
        own, other = self.values(ours, measure), self.values(theirs, measure)
        seeds = sorted(own.keys() & other.keys())
        return paired_difference([own[seed] for seed in seeds], [other[seed] for seed in seeds]) if seeds else None

    def gain(self, ours: Key, theirs: Key, measure: str = "knn") -> str:
        """The paired difference in words; bold where zero lies outside its interval."""
        found = self.difference(ours, theirs, measure)
        if found is None:
            return ""
        return f"**{found}**" if found.is_distinguishable else str(found)

    def ratio(self, method: str, arm: str, kind: str = "arithmetic") -> float | None:
        """The arithmetic or the time of a step over that of a step on random views."""
        for row in self.rows:
            if (row["kind"], row["method"], row["arm"]) == (kind, method, arm):
                return float(row["ratio"])
        return None

    def methods(self) -> list[str]:
        """The methods that have runs of hard and of random views."""
        return [method for method in METHODS if self.values((method, "cheap", EPOCHS)) and self.values((method, "random", EPOCHS))]


def gains(study: Study) -> str:
    """Hard views against random ones at equal epochs and equal arithmetic, and against all views, for each method."""
    lines = []
    for method in study.methods():
        random, every = BUDGETS[method]
        hard = (method, "cheap", EPOCHS)
        rivals = [(method, "random", EPOCHS), (method, "random", random), (method, "all", every)]
        means = [study.mean(rivals[0]), study.mean(hard)]
        lines.append([METHODS[method], *means, *(study.gain(hard, rival) for rival in rivals)])
    columns = [
        "kNN, %",
        "random views",
        "hard views",
        "gain at equal epochs",
        "gain at equal arithmetic",
        "gain over all candidates",
    ]
    return markdown(columns, lines)


def measures(study: Study) -> str:
    """The same by every measure, and what the untrained network knows."""
    lines = []
    for method in study.methods():
        random, every = BUDGETS[method]
        hard = (method, "cheap", EPOCHS)
        for measure, words in MEASURES.items():
            untrained = [
                row[measure] for row in study.rows if row["kind"] == "untrained" and row["method"] == method and measure in row
            ]
            cells = [f"{untrained[0]:.1f}" if untrained else ""]
            cells += [
                study.mean(key, measure)
                for key in ((method, "random", EPOCHS), hard, (method, "random", random), (method, "all", every))
            ]
            gained = [study.gain(hard, (method, "random", epochs), measure) for epochs in (EPOCHS, random)]
            lines.append([f"{METHODS[method]}, {words}", *cells, *gained])
    columns = [
        "%",
        "untrained",
        "random",
        "hard",
        "random, equal arithmetic",
        "all, equal arithmetic",
        "gain",
        "gain, equal arithmetic",
    ]
    return markdown(columns, lines)


def arms(study: Study) -> str:
    """Every way to choose that was tried, against random views at equal epochs."""
    lines = []
    for method in ("simclr", "simsiam", "dino"):
        for arm, words in WORDS.items():
            key = (method, arm, EPOCHS)
            if not study.values(key):
                continue
            ratio = study.ratio(method, arm)
            gain = "" if arm == "random" else study.gain(key, (method, "random", EPOCHS))
            spread = statistics.fmean(study.values(key, "feature_std").values())
            cells = ["" if ratio is None else f"{ratio:.2f}", study.mean(key), study.mean(key, "probe"), gain, f"{spread:.2f}"]
            lines.append([f"{METHODS[method]}, {words}", *cells])
    return markdown(["", "arithmetic of a step", "kNN, %", "linear probe, %", "gain in kNN", "spread of features"], lines)


def lengths(study: Study) -> str:
    """kNN after runs of so many epochs, each with a schedule of its own."""
    lines = []
    for epochs in (5, 10, 20, 40, 80):
        ours, theirs = ("simclr", "cheap", epochs), ("simclr", "random", epochs)
        if study.values(ours) and study.values(theirs):
            lines.append([f"{epochs}", study.mean(theirs), study.mean(ours), study.gain(ours, theirs)])
    return markdown(["SimCLR, epochs", "random views, kNN %", "hard views, kNN %", "gain"], lines)


def tuning(study: Study) -> str:
    """What was tried for random views, on a fifth of the training images."""
    lines = []
    for row in study.rows:
        if row["kind"] == "tuning":
            settings = ", ".join(
                f"{name.replace('_', ' ')} {value:g}" for name, value in row["settings"].items() if name != "encoder"
            )
            lines.append([METHODS[row["method"]], settings, f"{row['knn']:.1f}", f"{row['probe']:.1f}"])
    return markdown(["random views", "settings", "kNN, %", "linear probe, %"], lines)


def choices(study: Study) -> str:
    """What was chosen over the second half of the runs: overlap, size and colour of the pairs, beside those of a random choice."""
    lines = []
    for arm in ("full", "half", "cheap", "quarter", "random-scored", "min_iou", "easiest", "half-8", "half-16"):
        rows = [row for row in study.runs() if (row["method"], row["arm"], row["epochs"]) == ("simclr", arm, EPOCHS)]
        late = [line for row in rows for line in row["curve"][len(row["curve"]) // 2 :]]
        if late:
            cells = []
            for name in ("iou", "scale", "color_distance"):
                cells.append(" / ".join(f"{statistics.fmean(line[key] for line in late):.3f}" for key in (name, f"{name}_random")))
            lines.append([WORDS[arm], *cells])
    return markdown(["SimCLR: chosen / random", "overlap (IoU)", "share of the image in a crop", "distance of colours"], lines)


def draw(document: dict[str, Any], path: Path = RESULTS / "quality.png") -> None:
    """Accuracy against the arithmetic of a run, with standard errors: random, hard and all views, a panel for each method."""
    from matplotlib.figure import Figure

    study = Study(document)
    methods = study.methods()
    figure = Figure(figsize=(4 * len(methods), 3.2), dpi=100, layout="constrained")
    for axes, method in zip(figure.subplots(1, len(methods), squeeze=False)[0], methods, strict=True):
        for arm, words, colour in SERIES:
            points = sorted(_points(study, method, arm))
            if points:
                cost, mean, error = zip(*points, strict=True)
                axes.errorbar(cost, mean, yerr=error, label=words, color=colour, marker="o", capsize=3, linewidth=1.2)
        axes.set_title(METHODS[method], loc="left", fontweight="bold")
        axes.set_xlabel("arithmetic, in epochs on random views")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#eceef2")
        axes.set_axisbelow(True)
    figure.axes[0].set_ylabel("kNN accuracy, %")
    figure.axes[0].legend(frameon=False)
    figure.savefig(path)


SERIES = (("random", "random views", "#6b7280"), ("all", "all candidates", "#1c7ed6"), ("cheap", "hard views", "#e8590c"))


def _points(study: Study, method: str, arm: str) -> Iterable[tuple[float, float, float]]:
    """Cost, mean and standard error of each length that has two seeds or more."""
    ratio = study.ratio(method, arm)
    for epochs in {row["epochs"] for row in study.runs() if (row["method"], row["arm"]) == (method, arm)}:
        values = list(study.values((method, arm, epochs)).values())
        if len(values) > 1 and ratio is not None:
            yield epochs * ratio, statistics.fmean(values), statistics.stdev(values) / len(values) ** 0.5


def markdown(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    rows = [columns, ["---"] * len(columns), *lines]
    return "\n".join(" ".join(["|", *(f"{cell} |" if cell else "|" for cell in row)]) for row in rows)


QUALITY_TABLES: dict[str, Callable[[Study], str]] = {
    "quality": gains,
    "quality_arms": arms,
    "quality_choices": choices,
    "quality_lengths": lengths,
    "quality_measures": measures,
    "quality_tuning": tuning,
}
