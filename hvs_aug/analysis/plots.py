"""Charts: curves over training, bars of a benchmark, hardness against cost. Matplotlib objects, no global state.

Every function returns a ``matplotlib.figure.Figure`` that belongs to no window; ``figure.savefig(path)`` writes it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from .._check import fail, require
from .style import LIGHT, Theme, color_of, figure_class, readable_number, styled, thousands

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["bars", "curves", "hardness_and_cost", "histogram"]

Curve = tuple[Sequence[float], Sequence[float]]


@styled
def curves(metrics: Mapping[str, Mapping[str, Curve]], xlabel: str = "epoch", *, ylabel: str = "", theme: Theme = LIGHT) -> Figure:
    """Draw one plot per metric, with one line per run: ``{"loss": {"random": (steps, values), "hard": (steps, values)}}``.

    Runs whose names begin with "hard" or "random" have the same colour in every chart. More than 200 points are drawn faintly,
    with their moving average over a fiftieth of the run above them. A value that is not finite leaves a gap.
    """
    require(len(metrics) > 0, "curves(metrics)", "at least one metric", "none")
    runs = list(dict.fromkeys(run for of_run in metrics.values() for run in of_run))
    colors = _colors(runs, theme)
    figure, axes = _grid(len(metrics), min(len(metrics), 2 if len(metrics) == 4 else 3), 3.9, 2.7, theme)
    for place, (name, of_run) in zip(axes, metrics.items(), strict=True):
        for run, (steps, values) in of_run.items():
            if len(steps) != len(values):
                fail("curves(metrics)", f"as many values as steps for {name} of {run}", f"{len(values)} for {len(steps)}")
            if len(values) > 200:
                place.plot(steps, values, color=colors[run], alpha=0.2, linewidth=0.8)
                steps, values = _averaged(steps, values, len(values) // 50)
            mark = "o" if len(values) <= 3 else None
            place.plot(steps, values, color=colors[run], linewidth=1.8, label=run, marker=mark, markersize=4)
        place.set_title(name)
        place.set_xlabel(xlabel)
        place.set_ylabel(ylabel)
        thousands(place, "x", "y")
    if len(runs) > 1:
        most = max(map(len, metrics.values()))
        first = next(place for place, of_run in zip(axes, metrics.values(), strict=True) if len(of_run) == most)
        figure.legend(*first.get_legend_handles_labels(), loc="outside upper right", ncols=len(runs))
    return figure


@styled
def bars(
    document: Mapping[str, Any], value: str = "median", label: str = "contestant", group: str = "workload", *, theme: Theme = LIGHT
) -> Figure:
    """Draw the rows of a benchmark file: one plot per workload, one bar per contestant, with the interquartile range of medians.

    The name of a column, a workload or a contestant is written as it is: give them names that a reader understands. Contestants
    whose names begin with "ours" or "hvs" have a colour of their own.

    Raises: HVSError if no row has that value.
    """
    rows = [row for row in document["rows"] if isinstance(row.get(value), (int, float)) and label in row]
    require(len(rows) > 0, "bars(document)", f"rows with {label} and {value}", f"none among {len(document['rows'])}")
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(str(row.get(group, "")), []).append(row)
    longest = max(map(len, groups.values()))
    figure, axes = _grid(len(groups), min(2, len(groups)), 4.4, 0.9 + 0.27 * longest, theme)
    for place, (name, members) in zip(axes, groups.items(), strict=True):
        heights = [float(row[value]) for row in members]
        spreads = [float(row.get("iqr", 0)) / 2 if value == "median" else 0.0 for row in members]
        colors = [color_of(str(row[label]), theme) or theme.bar for row in members]
        places = range(len(members))
        place.barh(places, heights, xerr=spreads if any(spreads) else None, color=colors, ecolor=theme.muted, height=0.66)
        place.set_yticks(places, [str(row[label]) for row in members], color=theme.ink)
        place.invert_yaxis()
        place.grid(axis="y", visible=False)
        for position, height, extra in zip(places, heights, spreads, strict=True):
            place.text(height + extra, position, f"  {readable_number(height)}", va="center", color=theme.ink, fontsize=8)
        place.margins(x=0.2)
        place.locator_params(axis="x", nbins=5)
        place.set_title(name or str(document.get("benchmark", "")))
        place.set_xlabel("seconds, median and interquartile range" if value == "median" else value)
        thousands(place, "x")
    return figure


@styled
def histogram(shares: Mapping[str, float], title: str, xlabel: str, expected: float, *, theme: Theme = LIGHT) -> Figure:
    """Draw shares in percent as columns, with a line where all of them would be alike."""
    require(len(shares) > 0, "histogram(shares)", "at least one share", "none")
    figure, (axes,) = _grid(1, 1, 3.9, 2.7, theme)
    axes.bar(range(len(shares)), [100 * share for share in shares.values()], color=theme.ours, width=0.72)
    axes.axhline(100 * expected, color=theme.muted, linewidth=1.2, linestyle="--")
    axes.text(len(shares) - 0.45, 100 * expected, " chance", color=theme.muted, fontsize=8, va="center")
    # Letters become small where there are many candidates.
    axes.set_xticks(range(len(shares)), list(shares), fontsize=9 if len(shares) <= 12 else 6)
    axes.grid(axis="x", visible=False)
    axes.margins(x=0.02)
    axes.set_title(title)
    axes.set_xlabel(xlabel)
    axes.set_ylabel("share of the chosen, %")
    return figure


@styled
def hardness_and_cost(
    rows: Sequence[Mapping[str, Any]], titles: Mapping[str, str] | None = None, *, theme: Theme = LIGHT
) -> Figure:
    """Draw what settings cost and capture: a line of two small panels for each workload, a bar for each setting.

    Args:
        rows: as :func:`hvs_aug.analysis.overhead.measure` returns them, with the name of their ``workload``.
        titles: of the workloads, in the place of their names. Cost is the time of a step in percent of one with random views;
            hardness captured is 100 for the hardest views and 0 for random ones.
    """
    require(len(rows) > 0, "hardness_and_cost(rows)", "at least one row", "none")
    workloads = list(dict.fromkeys(str(row.get("workload", "")) for row in rows))
    members = {
        name: sorted((row for row in rows if str(row.get("workload", "")) == name), key=lambda row: (row["ratio"], row["captured"]))
        for name in workloads
    }
    heights = [0.75 + 0.21 * len(own) for own in members.values()]
    figure = figure_class()(figsize=(8, sum(heights)), dpi=150, facecolor=theme.paper, layout="constrained")
    panels = figure.subplots(len(workloads), 2, squeeze=False, height_ratios=heights)
    for (left, right), (workload, own) in zip(panels, members.items(), strict=True):
        ours = [not any(word in str(row["setting"]) for word in ("random", "published")) for row in own]
        added = [100 * (row["ratio"] - 1) for row in own]
        # The published forward takes several times as long as all others; its bar is cut, and its number says how long it is.
        usual = [value for value, is_ours in zip(added, ours, strict=True) if is_ours] or added
        _percent_bars(left, added, "{:+.0f} %", ours, max(1.3 * max(usual), 10.0), theme)
        _percent_bars(right, [100 * row["captured"] for row in own], "{:.0f} %", ours, 100.0, theme)
        left.set_yticks(range(len(own)), [str(row["setting"]) for row in own], color=theme.ink)
        right.set_yticks(range(len(own)), [""] * len(own))
        left.set_title((titles or {}).get(workload, workload))
    panels[-1][0].set_xlabel("time added to a step of random views")
    panels[-1][1].set_xlabel("hardness captured (random views: 0 %)")
    return figure


def _percent_bars(axes: Axes, values: Sequence[float], form: str, ours: Sequence[bool], most: float, theme: Theme) -> None:
    """Bars, each with its number; one that is longer than ``most`` is cut and has an arrow."""
    shown = [min(value, most) for value in values]
    axes.barh(range(len(values)), shown, color=[theme.ours if is_ours else theme.bar for is_ours in ours], height=0.7)
    for place, (length, value) in enumerate(zip(shown, values, strict=True)):
        words = form.format(round(value) + 0) + (" →" if value > most else "")  # adding 0 makes a 0 of -0
        axes.text(max(0.0, length) + 0.02 * most, place, words, va="center", fontsize=8, color=theme.ink)
    axes.set_xlim(min(0.0, 1.2 * min(values)), 1.25 * most)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter("{x:,.0f} %")


def _colors(runs: Sequence[str], theme: Theme) -> dict[str, str]:
    """A colour for each run; those that are neither ours nor random take turns."""
    others = [run for run in runs if color_of(run, theme) is None]
    return {run: color_of(run, theme) or theme.series[others.index(run) % len(theme.series)] for run in runs}


def _averaged(steps: Sequence[float], values: Sequence[float], width: int) -> Curve:
    averaged_steps, averaged = torch.tensor([list(steps), list(values)], dtype=torch.float64).unfold(1, width, 1).mean(-1).tolist()
    return averaged_steps, averaged


def _grid(count: int, columns: int, width: float, height: float, theme: Theme) -> tuple[Figure, list[Axes]]:
    rows = math.ceil(count / columns)
    size = (width * columns, height * rows + 0.3)
    figure = figure_class()(figsize=size, dpi=150, facecolor=theme.paper, layout="constrained")
    return figure, [figure.add_subplot(rows, columns, place + 1) for place in range(count)]
