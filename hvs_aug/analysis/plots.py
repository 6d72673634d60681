"""Figures: the contact sheet of candidates, curves over training, and bars of a benchmark. Matplotlib objects, no global state.

Every function returns a ``matplotlib.figure.Figure`` that belongs to no window; ``figure.savefig(path)`` writes it.
"""

from __future__ import annotations

import functools
import math
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec

import torch
from torch import Tensor

from .._check import fail, require
from ..data.batch import ImageBatch
from ..data.pixels import to_unit_range
from ..ops import Normalize
from ..selection.losses.pair import slot_ranges
from ..views.candidates import CandidateViews
from ..views.params import ViewParams
from ..views.recipe import ViewRecipe, ViewSlot
from .metrics import chance

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Panel", "bars", "contact_sheet", "curves", "panels"]

P = ParamSpec("P")

INK, MUTED, FAINT, ACCENT, LOCAL = "#1f2430", "#6b7280", "#d8dbe2", "#e8590c", "#1c7ed6"
TAG = 16
SERIES = ("#6b7280", "#e8590c", "#1c7ed6", "#2f9e44", "#9c36b5", "#f08c00", "#0c8599", "#c2255c")
_STYLE: Any = {
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": MUTED,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#eceef2",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
}


def _styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in this module's style, whatever the user's; matplotlib looks it up as each part is made."""

    @functools.wraps(draw)
    def styled(*arguments: P.args, **options: P.kwargs) -> Figure:
        _figure_class()
        from matplotlib import rc_context

        with rc_context(_STYLE):
            return draw(*arguments, **options)

    return styled


@dataclass(frozen=True, eq=False)
class Panel:
    """One image of a contact sheet. V candidates.

    Attributes:
        name: what stands above it.
        source: ``(C, H, W)`` uint8, or floating point in [0, 1].
        views: V candidates ``(C, h, w)`` in [0, 1].
        boxes: ``(V, 4)`` crops as in ViewParams, or ``None`` where there are none.
        iou: ``(V, V)``, or ``None``.
        table: ``(V, V)`` losses, or ``None`` where no model scored the candidates.
        chosen: indices of the candidates that were chosen; empty where none were.
    """

    name: str
    source: Tensor
    views: Sequence[Tensor]
    boxes: Tensor | None = None
    iou: Tensor | None = None
    table: Tensor | None = None
    chosen: Sequence[int] = ()


def panels(
    images: ImageBatch | Tensor,
    views: CandidateViews,
    params: ViewParams,
    table: Tensor | None = None,
    indices: Tensor | None = None,
    names: Sequence[str] | None = None,
) -> list[Panel]:
    """Render all candidates of a batch, undo their normalisation, and put each image's together.

    Shape: images of B, params of V views each, table (V, V, B), indices (S, B) int64; all of them moved to the CPU.
    """
    batch = ImageBatch.of(images)
    require(names is None or len(names) == len(batch), "panels(names)", f"{len(batch)} names", names)
    rendered = [
        _denormalised(view, slot.recipe).cpu()
        for slot, part in zip(views.slots, views.transform(batch, params), strict=True)
        for view in part
    ]
    params, batch = params.to("cpu"), batch.to("cpu")
    iou = None if params.uncropped else params.iou()
    return [
        Panel(
            name=names[image] if names is not None else f"image {image + 1}",
            source=batch.image(image),
            views=[view[image] for view in rendered],
            boxes=None if iou is None else params.boxes[:, image],
            iou=None if iou is None else iou[..., image],
            table=None if table is None else table[..., image].cpu(),
            chosen=() if indices is None else tuple(indices[:, image].tolist()),
        )
        for image in range(len(batch))
    ]


def _denormalised(views: Tensor, recipe: Any) -> Tensor:
    normalize = recipe.find(Normalize) if isinstance(recipe, ViewRecipe) else None
    if not isinstance(normalize, Normalize):
        return views.clamp(0, 1)
    std, mean = (torch.tensor(values, device=views.device)[:, None, None] for values in (normalize.std, normalize.mean))
    return (views * std + mean).clamp(0, 1)


def contact_sheet(shown: Sequence[Panel], slots: Sequence[ViewSlot], title: str = "") -> Figure:
    """Draw one row per image: the photograph with its candidates' crops, then the candidates, those that were chosen framed.

    Under each candidate stands the pair it is judged by, its loss and the overlap (IoU) of its two crops: with the other chosen
    view for a chosen one, with its hardest partner for the rest, and with the least overlapping where there are no losses.

    Raises: HVSError if there is no panel, or one has another number of candidates than the slots draw.
    """
    candidates = sum(slot.candidates for slot in slots)
    require(len(shown) > 0, "contact_sheet(shown)", "at least one panel", "none")
    for panel in shown:
        got = f"{len(panel.views)} in {panel.name}"
        require(len(panel.views) == candidates, "contact_sheet(shown)", f"{candidates} candidates, as the slots say", got)
    sheet = _Sheet(slots, rows=len(shown), title=title, subtitle=_subtitle(shown, slots))
    for row, panel in enumerate(shown):
        sheet.draw(row, panel)
    return sheet.figure


def _subtitle(shown: Sequence[Panel], slots: Sequence[ViewSlot]) -> str:
    least = "the one that it overlaps least, and the IoU of their crops."
    if not any(panel.chosen for panel in shown):
        return f"Under each candidate: {least}"
    framed = (
        "Framed in orange the global and in blue the local views"
        if any(slot.role == "local" for slot in slots)
        else "Framed: the views"
    )
    if all(panel.table is None for panel in shown):
        return f"{framed} that were chosen. Under each: {least}"
    return f"{framed} that this model finds hardest. Under each: its hardest partner, their loss, the IoU of their crops."


class _Sheet:
    """Places everything in one Axes whose unit is a pixel, downwards: a hundred Axes would take a hundred times as long."""

    def __init__(self, slots: Sequence[ViewSlot], rows: int, title: str, subtitle: str) -> None:
        self.slots = slots
        self.candidates = sum(slot.candidates for slot in slots)
        self.local = [slot.role == "local" for slot in slots for _ in range(slot.candidates)]
        self.labels = labels(self.candidates)
        columns = min(self.candidates, 10)
        self.lines = math.ceil(self.candidates / columns)
        self.columns = math.ceil(self.candidates / self.lines)
        self.side = 170 if self.columns <= 4 else 130 if self.columns <= 6 else 104
        self.caption, self.gap, self.margin, self.head = 36, 14, 28, 78 if len(slots) == 1 else 98
        self.line_height = self.side + self.caption
        self.source_height = max(170, self.lines * self.line_height - self.caption)
        self.source_width = min(300, round(1.35 * self.source_height))
        self.row_height = max(self.source_height + self.caption, self.lines * self.line_height) + 18
        self.left = self.margin + self.source_width + 30
        width = self.left + self.columns * (self.side + self.gap) - self.gap + self.margin
        height = self.head + rows * self.row_height + 6
        self.figure, self.axes = _canvas(width, height)
        self.axes.text(self.margin, 34, title or "Candidates", fontsize=14, weight="bold", va="baseline")
        self.axes.text(self.margin, 55, subtitle, fontsize=8.5, color=MUTED, va="baseline")
        for span, slot in zip(slot_ranges(slots), slots, strict=True) if len(slots) > 1 else ():
            if span.start < self.columns:
                left, top = self._place(span.start, self.head)
                self.axes.text(left, top - 8, slot.name, fontsize=8.5, weight="bold", va="baseline")

    def draw(self, row: int, panel: Panel) -> None:
        top = self.head + row * self.row_height
        self._source(panel, top)
        for index in range(self.candidates):
            self._candidate(panel, index, *self._place(index, top))

    def _place(self, index: int, top: float) -> tuple[float, float]:
        line, column = divmod(index, self.columns)
        return self.left + column * (self.side + self.gap), top + line * self.line_height

    def _source(self, panel: Panel, top: float) -> None:
        height, width = panel.source.shape[-2:]
        scale = min(self.source_width / width, self.source_height / height)
        self._image(panel.source, self.margin, top, width * scale, height * scale)
        self._text(self.margin, top + height * scale + 15, _shortened(panel.name, 36), color=MUTED)
        if panel.boxes is None:
            return
        # With many candidates only the crops that were chosen are drawn; the frames of the chosen lie on top.
        crowded = self.candidates > 8 and bool(panel.chosen)
        shown = [index for index in range(self.candidates) if not crowded or index in panel.chosen]
        shown.sort(key=lambda index: (index in panel.chosen, not self.local[index]))
        taken: list[tuple[float, float]] = []
        for index in shown:
            y, x, tall, wide = (float(value) * scale for value in panel.boxes[index])
            line = (1.4 if self.local[index] else 2.4) if index in panel.chosen else 1.2
            self._frame(self.margin + x, top + y, wide, tall, self._color(panel, index), line)
        for index in reversed(shown):
            if not (crowded and self.local[index]):
                y, x = (float(value) * scale for value in panel.boxes[index][:2])
                self._tag(*_free_place(self.margin + x, top + y, taken), self.labels[index], self._color(panel, index))

    def _candidate(self, panel: Panel, index: int, left: float, top: float) -> None:
        color = self._color(panel, index)
        self._image(panel.views[index], left, top, self.side, self.side)
        if color is not None:
            self._frame(left, top, self.side, self.side, color, 4)
        self._tag(left, top, self.labels[index], color)
        first, second = self._words(panel, index)
        self._text(left, top + self.side + 15, first, color=INK, weight="normal" if color is None else "bold")
        self._text(left, top + self.side + 28, second, color=color or MUTED)

    def _color(self, panel: Panel, index: int) -> str | None:
        """The colour of a chosen view, or none."""
        if index not in panel.chosen:
            return None
        return LOCAL if self.local[index] else ACCENT

    def _words(self, panel: Panel, index: int) -> tuple[str, str]:
        other = partner(panel, index, self.slots)
        if other is None:
            return "", ""
        loss = "" if panel.table is None else f"loss {_decimals(float(panel.table[index, other]))}"
        overlap = "" if panel.iou is None else f"IoU {panel.iou[index, other]:.2f}"
        name = f"with {self.labels[other]}"
        if self.side < 120 and loss:
            return loss, f"{overlap}  {name}".strip()
        return f"{loss}   {overlap}".strip(), name

    def _image(self, image: Tensor, left: float, top: float, width: float, height: float) -> None:
        pixels = to_unit_range(image)[:3] if image.shape[0] >= 3 else to_unit_range(image)[:1].expand(3, -1, -1)
        extent = (left, left + width, top + height, top)
        self.axes.imshow(pixels.permute(1, 2, 0).numpy(), extent=extent, interpolation="lanczos", zorder=1, aspect="auto")

    def _frame(self, left: float, top: float, width: float, height: float, color: str | None, line: float) -> None:
        from matplotlib.patches import Rectangle

        if color is None:  # white, with a dark seam that shows on bright photographs
            self.axes.add_patch(
                Rectangle((left, top), width, height, fill=False, edgecolor="black", linewidth=line + 1.2, alpha=0.45)
            )
        shape = Rectangle((left, top), width, height, fill=False, edgecolor=color or "white", linewidth=line, joinstyle="miter")
        self.axes.add_patch(shape)

    def _tag(self, left: float, top: float, label: str, color: str | None) -> None:
        from matplotlib.patches import Rectangle

        width = TAG if len(label) == 1 else TAG + 7
        self.axes.add_patch(Rectangle((left, top), width, TAG, facecolor=color or INK, edgecolor="none", zorder=3))
        style: dict[str, Any] = {"color": "white", "fontsize": 8, "weight": "bold", "ha": "center", "va": "center"}
        self.axes.text(left + width / 2, top + TAG / 2 + 0.6, label, zorder=4, **style)

    def _text(self, left: float, baseline: float, text: str, **style: Any) -> None:
        self.axes.text(left, baseline, text, fontsize=8, va="baseline", **style)


def _free_place(left: float, top: float, taken: list[tuple[float, float]]) -> tuple[float, float]:
    """The place for a tag, moved to the right past those that are taken; it is then taken as well."""
    while any(abs(left - x) < TAG and abs(top - y) < TAG for x, y in taken):
        left += 2
    taken.append((left, top))
    return left, top


def _decimals(value: float) -> str:
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def labels(count: int) -> list[str]:
    """A, B, C ... of the candidates, and numbers where letters do not suffice."""
    return list(string.ascii_uppercase[:count]) if count <= 26 else [str(number) for number in range(1, count + 1)]


def partner(panel: Panel, index: int, slots: Sequence[ViewSlot]) -> int | None:
    """The candidate that a contact sheet compares this one with, or ``None`` where there is nothing to compare.

    It is the one with the highest loss, or without losses the least overlap: among the other chosen views for a chosen one, else
    among all that could be kept together with it. Local views are compared with globals, which is where their loss is.
    """
    if panel.table is not None:
        preferred = torch.where(panel.table.isfinite(), panel.table, -torch.inf)
    elif panel.iou is not None:
        preferred = -panel.iou
    else:
        return None
    local = [slot.role == "local" for slot in slots for _ in range(slot.candidates)]
    together = chance(slots)[index]
    pool = set(panel.chosen) if index in panel.chosen else set(range(len(local)))
    others = [other for other in sorted(pool - {index}) if together[other] > 0 and not (local[index] and local[other])]
    globals_ = [other for other in others if not local[other]]
    return max(globals_ or others, key=lambda other: float(preferred[index, other]), default=None)


@_styled
def curves(metrics: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]], xlabel: str = "epoch") -> Figure:
    """Draw one plot per metric, with one line per run: ``{"loss": {"random": (steps, values), "hard": (steps, values)}}``.

    More than 200 points are drawn faintly, with their moving average over a fiftieth of the run above them. A value that is not
    finite leaves a gap.
    """
    require(len(metrics) > 0, "curves(metrics)", "at least one metric", "none")
    runs = list(dict.fromkeys(run for of_run in metrics.values() for run in of_run))
    figure, axes = _grid(len(metrics), min(len(metrics), 2 if len(metrics) == 4 else 3), width=3.9, height=2.7)
    for place, (name, of_run) in zip(axes, metrics.items(), strict=True):
        for run, (steps, values) in of_run.items():
            if len(steps) != len(values):
                fail("curves(metrics)", f"as many values as steps for {name} of {run}", f"{len(values)} for {len(steps)}")
            color = SERIES[runs.index(run) % len(SERIES)]
            if len(values) > 200:
                place.plot(steps, values, color=color, alpha=0.2, linewidth=0.8)
                steps, values = _averaged(steps, values, len(values) // 50)
            place.plot(steps, values, color=color, linewidth=1.8, label=run, marker="o" if len(values) <= 3 else None, markersize=4)
        place.set_title(name)
        place.set_xlabel(xlabel)
    if len(runs) > 1:
        first = next(
            place for place, of_run in zip(axes, metrics.values(), strict=True) if len(of_run) == max(map(len, metrics.values()))
        )
        figure.legend(*first.get_legend_handles_labels(), loc="outside upper right", ncols=len(runs))
    return figure


def _averaged(steps: Sequence[float], values: Sequence[float], width: int) -> tuple[Sequence[float], Sequence[float]]:
    averaged_steps, averaged = torch.tensor([list(steps), list(values)], dtype=torch.float64).unfold(1, width, 1).mean(-1).tolist()
    return averaged_steps, averaged


@_styled
def bars(document: Mapping[str, Any], value: str = "median", label: str = "contestant", group: str = "workload") -> Figure:
    """Draw the rows of a benchmark file: one plot per workload, one bar per contestant, with the interquartile range of medians.

    Raises: HVSError if no row has that value.
    """
    rows = [row for row in document["rows"] if isinstance(row.get(value), (int, float)) and label in row]
    require(len(rows) > 0, "bars(document)", f"rows with {label} and {value}", f"none among {len(document['rows'])}")
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(str(row.get(group, "")), []).append(row)
    longest = max(map(len, groups.values()))
    figure, axes = _grid(len(groups), min(2, len(groups)), width=5.8, height=0.9 + 0.3 * longest)
    for place, (name, members) in zip(axes, groups.items(), strict=True):
        heights = [float(row[value]) for row in members]
        spreads = [float(row.get("iqr", 0)) / 2 if value == "median" else 0.0 for row in members]
        places = range(len(members))
        colors = [ACCENT if str(row[label]).startswith(("ours", "hvs")) else "#aeb4c0" for row in members]
        place.barh(places, heights, xerr=spreads if any(spreads) else None, color=colors, ecolor=MUTED, height=0.66)
        place.set_yticks(places, [str(row[label]) for row in members], color=INK)
        place.invert_yaxis()
        place.grid(axis="y", visible=False)
        for position, height, extra in zip(places, heights, spreads, strict=True):
            place.text(height + extra, position, f"  {_readable(height)}", va="center", color=INK, fontsize=8)
        place.margins(x=0.14)
        place.set_title(name or str(document.get("benchmark", "")))
        place.set_xlabel("seconds, median and interquartile range" if value == "median" else value)
    return figure


def _readable(value: float) -> str:
    """A number as a reader expects it: 1,090 and not 1.09e+03."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of one Axes in pixels, with the origin at the top left. 100 units are an inch, so fonts are as elsewhere."""
    figure = _figure_class()(figsize=(width / 100, height / 100), dpi=150, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_autoscale_on(False)
    axes.set(xlim=(0, width), ylim=(height, 0))
    return figure, axes


def _grid(count: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    rows = math.ceil(count / columns)
    figure = _figure_class()(figsize=(width * columns, height * rows + 0.3), dpi=150, facecolor="white", layout="constrained")
    return figure, [figure.add_subplot(rows, columns, place + 1) for place in range(count)]


def _figure_class() -> type[Figure]:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        fail("hvs_aug.analysis", "matplotlib, for its figures", "no such package", "pip install 'hvs-aug[demo]'")
    return Figure


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
