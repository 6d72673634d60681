"""The contact sheet: photographs with the crops of their candidates, and the candidates, those that were chosen framed."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .._check import require
from ..data.batch import ImageBatch
from ..data.pixels import to_unit_range
from ..ops import Normalize
from ..selection.losses.pair import slot_ranges
from ..views.candidates import CandidateViews
from ..views.params import ViewParams
from ..views.recipe import ViewRecipe, ViewSlot
from .metrics import chance
from .style import LIGHT, Theme, canvas, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Panel", "contact_sheet", "labels", "panels", "partner"]

TAG = 16


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


@styled
def contact_sheet(shown: Sequence[Panel], slots: Sequence[ViewSlot], title: str = "", *, theme: Theme = LIGHT) -> Figure:
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
    sheet = _Sheet(slots, rows=len(shown), title=title, subtitle=_subtitle(shown, slots), theme=theme)
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

    def __init__(self, slots: Sequence[ViewSlot], rows: int, title: str, subtitle: str, theme: Theme) -> None:
        self.slots, self.theme = slots, theme
        self.local = [slot.role == "local" for slot in slots for _ in range(slot.candidates)]
        self.candidates = len(self.local)
        self.labels = labels(self.candidates)
        self.places = _places(self.local)
        self.columns = 1 + max(column for _, column in self.places)
        self.headings = _headings(slots) if len(slots) > 1 else {}
        self.side = 170 if self.columns <= 4 else 130 if self.columns <= 6 else 104
        self.caption, self.gap, self.margin, self.head = 36, 14, 28, 78
        self.tops = self._tops()
        self.source_height = max(170, self.tops[-1] - self.caption)
        self.source_width = min(300, round(1.35 * self.source_height))
        self.row_height = max(self.source_height + self.caption, self.tops[-1]) + 18
        self.left = self.margin + self.source_width + 30
        # The lines above the pictures need about 560 pixels, whatever there is below.
        width = max(self.left + self.columns * (self.side + self.gap) - self.gap + self.margin, 600)
        height = self.head + rows * self.row_height + 6
        self.figure, self.axes = canvas(width, height, theme)
        self.axes.text(self.margin, 34, title or "Candidates", fontsize=14, weight="bold", va="baseline")
        self.axes.text(self.margin, 55, subtitle, fontsize=8.5, color=theme.muted, va="baseline")

    def _tops(self) -> list[int]:
        """Where each line of candidates begins, and where the last ends; a line with headings begins below them."""
        tops = [0]
        for line in range(1 + max(line for line, _ in self.places)):
            if any(self.places[index][0] == line for index in self.headings):
                tops[-1] += 18
            tops.append(tops[-1] + self.side + self.caption)
        return tops

    def draw(self, row: int, panel: Panel) -> None:
        top = self.head + row * self.row_height
        self._source(panel, top)
        for index in range(self.candidates):
            left, below = self._place(index, top)
            self._candidate(panel, index, left, below)
            if index in self.headings:
                self._text(left, below - 7, self.headings[index], color=self.theme.ink, weight="bold")

    def _place(self, index: int, top: float) -> tuple[float, float]:
        line, column = self.places[index]
        return self.left + column * (self.side + self.gap), top + self.tops[line]

    def _source(self, panel: Panel, top: float) -> None:
        height, width = panel.source.shape[-2:]
        scale = min(self.source_width / width, self.source_height / height)
        self._image(panel.source, self.margin, top, width * scale, height * scale)
        self._text(self.margin, top + height * scale + 15, _shortened(panel.name, 36), color=self.theme.muted)
        if panel.boxes is None:
            return
        # With many candidates only the crops that were chosen are drawn, or without a choice those of the global views.
        crowded = self.candidates > 8
        wanted = set(panel.chosen) or {index for index in range(self.candidates) if not self.local[index]}
        shown = [index for index in range(self.candidates) if not crowded or index in wanted]
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
        self._text(left, top + self.side + 15, first, color=self.theme.ink, weight="normal" if color is None else "bold")
        self._text(left, top + self.side + 28, second, color=color or self.theme.muted)

    def _color(self, panel: Panel, index: int) -> str | None:
        """The colour of a chosen view, or none."""
        if index not in panel.chosen:
            return None
        return self.theme.local if self.local[index] else self.theme.ours

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
        self.axes.add_patch(Rectangle((left, top), width, TAG, facecolor=color or LIGHT.ink, edgecolor="none", zorder=3))
        style: dict[str, Any] = {"color": "white", "fontsize": 8, "weight": "bold", "ha": "center", "va": "center"}
        self.axes.text(left + width / 2, top + TAG / 2 + 0.6, label, zorder=4, **style)

    def _text(self, left: float, baseline: float, text: str, **style: Any) -> None:
        self.axes.text(left, baseline, text, fontsize=8, va="baseline", **style)


def _places(local: Sequence[bool], most: int = 10) -> list[tuple[int, int]]:
    """The line and column of each candidate: lines of equal length, and the local views on lines of their own.

    Example:
        >>> _places([False, False, True, True, True])
        [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]
    """
    places: dict[int, tuple[int, int]] = {}
    line = 0
    for role in (False, True):
        indices = [index for index, own in enumerate(local) if own == role]
        lines = math.ceil(len(indices) / most)
        columns = math.ceil(len(indices) / max(1, lines))
        places |= {index: (line + place // columns, place % columns) for place, index in enumerate(indices)}
        line += lines
    return [places[index] for index in range(len(local))]


def _headings(slots: Sequence[ViewSlot]) -> dict[int, str]:
    """The name of each slot by its first candidate: "Global 1", "Local"."""
    return {span.start: slot.name.replace("-", " ").capitalize() for span, slot in zip(slot_ranges(slots), slots, strict=True)}


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


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
