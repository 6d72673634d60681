"""The tables and the chart of the study of accuracy, made from benchmarks/results/quality.json."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, results
from benchmarks.quality import BUDGETS, EPOCHS
from benchmarks.quality_rows import Key, Runs
from hvs_aug.analysis.paired import Difference

METHODS = {"simclr": "SimCLR", "simsiam": "SimSiam", "byol": "BYOL", "dino": "DINO", "ibot": "iBOT"}
ARMS_OF = METHODS | {"simsiam-256": "SimSiam, batch of 256"}
MEASURES = {"knn": "kNN", "knn_augmented": "kNN, augmented queries", "probe": "linear probe", "transfer": "kNN on photograph tiles"}
TUNED = ("learning_rate", "temperature", "batch_size", "momentum")
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
}


def methods_of(runs: Runs) -> list[str]:
    """The methods that have runs of hard and of random views."""
    return [method for method in METHODS if runs.values((method, "cheap", EPOCHS)) and runs.values((method, "random", EPOCHS))]


def mean(runs: Runs, key: Key, measure: str = "knn") -> str:
    """The mean over the seeds, or nothing where none was run."""
    values = runs.values(key, measure)
    return f"{statistics.fmean(values.values()):.1f}" if values else ""


def gain(runs: Runs, ours: Key, theirs: Key, measure: str = "knn") -> str:
    """The paired difference in words."""
    return in_words(runs.difference(ours, theirs, measure))


def in_words(found: Difference | None) -> str:
    """A difference; bold where zero lies outside its interval."""
    if found is None:
        return ""
    return f"**{found}**" if found.is_distinguishable else str(found)


def gains(runs: Runs) -> str:
    """Hard views against random ones at equal epochs and equal arithmetic, and against all views, for each method."""
    lines, compared = [], []
    for method in methods_of(runs):
        random, every = BUDGETS[method]
        hard = (method, "cheap", EPOCHS)
        rivals = [(method, "random", EPOCHS), (method, "random", random), (method, "all", every)]
        means = [mean(runs, rivals[0]), mean(runs, hard)]
        lines.append([METHODS[method], *means, *(gain(runs, hard, rival) for rival in rivals)])
        compared.append([(hard, rival) for rival in rivals])
    lines.append(
        [
            "all pairs of runs",
            "",
            "",
            *(in_words(runs.pooled(pairs)).replace("seeds", "pairs") for pairs in zip(*compared, strict=True)),
        ]
    )
    columns = [
        "kNN, %",
        "random views",
        "hard views",
        "gain at equal epochs",
        "gain at equal arithmetic",
        "gain over all candidates",
    ]
    return markdown(columns, lines)


def measures(runs: Runs) -> str:
    """The same by every measure, and what the untrained network knows."""
    lines = []
    for method in methods_of(runs):
        random, every = BUDGETS[method]
        hard = (method, "cheap", EPOCHS)
        for measure, words in MEASURES.items():
            untrained = [
                row[measure] for row in runs.rows if row["kind"] == "untrained" and row["method"] == method and measure in row
            ]
            cells = [f"{untrained[0]:.1f}" if untrained else ""]
            cells += [
                mean(runs, key, measure)
                for key in ((method, "random", EPOCHS), hard, (method, "random", random), (method, "all", every))
            ]
            gained = [gain(runs, hard, (method, "random", epochs), measure) for epochs in (EPOCHS, random)]
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


def arms(runs: Runs) -> str:
    """Every way to choose that was tried, against random views at equal epochs."""
    lines = []
    for method, title in ARMS_OF.items():
        for arm, words in WORDS.items():
            key = (method, arm, EPOCHS)
            if not runs.values(key):
                continue
            ratio = runs.ratio(method, arm)
            gained = "" if arm == "random" else gain(runs, key, (method, "random", EPOCHS))
            spread = statistics.fmean(runs.values(key, "feature_std").values())
            cells = ["" if ratio is None else f"{ratio:.2f}", mean(runs, key), mean(runs, key, "probe"), gained, f"{spread:.2f}"]
            lines.append([f"{title}, {words}", *cells])
    return markdown(["", "arithmetic of a step", "kNN, %", "linear probe, %", "gain in kNN", "spread of features"], lines)


def elsewhere(runs: Runs) -> str:
    """What SimCLR gains at equal epochs by each measure, also on other images than those of the main study."""
    every = {"CIFAR-10": runs, "half of its classes, asked about the others": Runs(results("quality_unseen")["rows"])}
    ours, theirs = ("simclr", "cheap", EPOCHS), ("simclr", "random", EPOCHS)
    lines = []
    for words, found in every.items():
        cells = [gain(found, ours, theirs, measure) for measure in ("knn", "knn_augmented", "probe")]
        lines.append([words, mean(found, theirs), mean(found, ours), *cells])
    columns = ["SimCLR", "random views, kNN %", "hard views, kNN %", "gain in kNN", "augmented queries", "linear probe"]
    return markdown(columns, lines)


def lengths(runs: Runs) -> str:
    """kNN after runs of so many epochs, each with a schedule of its own."""
    lines = []
    for epochs in (5, 10, 20, 40, 80):
        ours, theirs = ("simclr", "cheap", epochs), ("simclr", "random", epochs)
        if runs.values(ours) and runs.values(theirs):
            lines.append([f"{epochs}", mean(runs, theirs), mean(runs, ours), gain(runs, ours, theirs)])
    return markdown(["SimCLR, epochs", "random views, kNN %", "hard views, kNN %", "gain"], lines)


def tuning(runs: Runs) -> str:
    """What was tried for random views, on a fifth of the training images."""
    lines = []
    for row in runs.rows:
        if row["kind"] == "tuning":
            named = {name: value for name, value in row["settings"].items() if name in TUNED}
            settings = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in named.items())
            lines.append([METHODS[row["method"]], settings, f"{row['knn']:.1f}", f"{row['probe']:.1f}"])
    return markdown(["random views", "settings", "kNN, %", "linear probe, %"], lines)


def choices(runs: Runs) -> str:
    """What was chosen over the second half of the runs: overlap, size and colour of the pairs, beside those of a random choice."""
    lines = []
    for arm in ("full", "half", "cheap", "quarter", "random-scored", "min_iou", "easiest", "half-8", "half-16"):
        rows = [row for row in runs.finished() if (row["method"], row["arm"], row["epochs"]) == ("simclr", arm, EPOCHS)]
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

    runs = Runs(document["rows"])
    methods = methods_of(runs)
    figure = Figure(figsize=(4 * len(methods), 3.2), dpi=100, layout="constrained")
    for axes, method in zip(figure.subplots(1, len(methods), squeeze=False)[0], methods, strict=True):
        for arm, words, colour in SERIES:
            points = sorted(_points(runs, method, arm))
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


def _points(runs: Runs, method: str, arm: str) -> Iterable[tuple[float, float, float]]:
    """Cost, mean and standard error of each length that has two seeds or more."""
    ratio = runs.ratio(method, arm)
    for epochs in {row["epochs"] for row in runs.finished() if (row["method"], row["arm"]) == (method, arm)}:
        values = list(runs.values((method, arm, epochs)).values())
        if len(values) > 1 and ratio is not None:
            yield epochs * ratio, statistics.fmean(values), statistics.stdev(values) / len(values) ** 0.5


def markdown(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    rows = [columns, ["---"] * len(columns), *lines]
    return "\n".join(" ".join(["|", *(f"{cell} |" if cell else "|" for cell in row)]) for row in rows)


QUALITY_TABLES: dict[str, Callable[[Runs], str]] = {
    "quality": gains,
    "quality_arms": arms,
    "quality_choices": choices,
    "quality_elsewhere": elsewhere,
    "quality_lengths": lengths,
    "quality_measures": measures,
    "quality_tuning": tuning,
}
