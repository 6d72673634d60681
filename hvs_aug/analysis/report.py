"""A report in one HTML file that opens offline: text, tables and figures, with nothing to fetch."""

from __future__ import annotations

import base64
import functools
import html
import io
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from PIL import Image
from torch import Tensor

from .._check import fail, require
from ..data.batch import ImageBatch
from ..data.collate import collate_images
from ..data.raw_images import RawImages
from ..data.sources import printable
from ..selection.sampler import HardPairSampler
from ..selection.search import exact, selection_loss
from ..views.candidates import CandidateViews
from ..views.params import ViewParams
from ..views.recipe import ViewSlot
from .machine import machine
from .metrics import expected_loss, mean_over_pairs
from .sheet import Panel, contact_sheet, labels, panels
from .style import DARK, LIGHT, Theme

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Draw", "Report", "ShownViews", "inspect", "png"]

Draw: TypeAlias = Callable[[Theme], "Figure"]
"""Draws a figure in the colours of a theme."""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{
  color-scheme: light dark;
  --page: #f4f5f7; --card: #ffffff; --ink: #1f2430; --muted: #5c6370; --line: #e3e5ea;
}}
@media (prefers-color-scheme: dark) {{
  :root {{ --page: #121418; --card: #1b1e24; --ink: #e6e8ec; --muted: #a0a7b4; --line: #30343d; }}
}}
body {{ margin: 0; background: var(--page); color: var(--ink); }}
body {{ font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }}
main {{ max-width: 1180px; margin: 0 auto; padding: 40px 24px 64px; }}
h1 {{ font-size: 30px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -0.01em; overflow-wrap: anywhere; }}
h2 {{ font-size: 20px; margin: 40px 0 10px; }}
p {{ max-width: 76ch; margin: 8px 0; overflow-wrap: anywhere; }}
.subtitle {{ color: var(--muted); margin-bottom: 20px; }}
figure {{ margin: 14px 0; background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px; }}
figure img {{ display: block; max-width: 100%; height: auto; margin: 0 auto; }}
figcaption {{ color: var(--muted); font-size: 14px; margin-top: 10px; max-width: 90ch; }}
.charts {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(340px, 100%), 1fr)); gap: 14px; margin: 14px 0; }}
.charts figure {{ margin: 0; }}
.wide {{ overflow-x: auto; }}
.scroll {{ overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 10px; margin: 14px 0; }}
table {{ border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 15px; }}
th, td {{ text-align: left; padding: 9px 16px; border-bottom: 1px solid var(--line); white-space: nowrap; }}
th {{ color: var(--muted); font-weight: 600; font-size: 13px; }}
tr:last-child td, tr:last-child th {{ border-bottom: 0; }}
.facts th {{ width: 1%; vertical-align: top; }}
.facts td {{ white-space: normal; overflow-wrap: anywhere; }}
.number {{ text-align: right; }}
@media (max-width: 620px) {{
  main {{ padding: 20px 12px 40px; }}
  h1 {{ font-size: 24px; }}
  figure {{ padding: 8px; }}
  .wide img {{ max-width: none; width: 760px; }}
  th, td {{ padding: 8px 10px; }}
}}
</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
</body>
</html>
"""


class Report:
    """An HTML page put together part by part, for light and dark screens. All text is escaped; nothing is fetched.

    Example:
        >>> report = Report("Two runs", "what came out")
        >>> report.heading("Accuracy").table([{"encoder": "hard <views>", "kNN": 71.25}])
        Report('Two runs', parts=3)
        >>> "hard &lt;views&gt;" in report.html()
        True
    """

    def __init__(self, title: str, subtitle: str = "") -> None:
        self.title = title
        self._parts: list[str] = [f'<p class="subtitle">{html.escape(subtitle)}</p>'] if subtitle else []

    def heading(self, text: str) -> Report:
        """Add a heading."""
        return self._add(f"<h2>{html.escape(text)}</h2>")

    def text(self, text: str) -> Report:
        """Add a paragraph, or several where empty lines part them."""
        return self._add("\n".join(f"<p>{html.escape(part.strip())}</p>" for part in text.split("\n\n")))

    def table(self, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> Report:
        """Add a table; the columns are by default those of all rows, in the order in which they come."""
        require(len(rows) > 0, "Report.table(rows)", "at least one row", "none")
        named = list(columns) if columns is not None else list(dict.fromkeys(key for row in rows for key in row))
        numeric = [all(isinstance(row.get(name), (int, float, type(None))) for row in rows) for name in named]

        written = [[str(name), *_written([row.get(name) for row in rows])] for name in named]

        def line(tag: str, cells: Iterable[str]) -> str:
            classes = (' class="number"' if right else "" for right in numeric)
            marked = (f"<{tag}{kind}>{html.escape(cell)}</{tag}>" for cell, kind in zip(cells, classes, strict=True))
            return f"<tr>{''.join(marked)}</tr>"

        head, *body = zip(*written, strict=True)
        lines = "\n".join(line("td", cells) for cells in body)
        return self._add(
            f'<div class="scroll"><table>\n<thead>{line("th", head)}</thead>\n<tbody>\n{lines}\n</tbody></table></div>'
        )

    def facts(self, facts: Mapping[str, Any]) -> Report:
        """Add names with a value each, such as settings: a table of two columns whose values may be long."""
        require(len(facts) > 0, "Report.facts(facts)", "at least one fact", "none")
        lines = "\n".join(
            f"<tr><th>{html.escape(name)}</th><td>{html.escape(str(value))}</td></tr>" for name, value in facts.items()
        )
        return self._add(f'<div class="scroll"><table class="facts">\n{lines}\n</table></div>')

    def figure(self, figure: Figure | Draw, caption: str = "", alt: str = "") -> Report:
        """Add a chart, embedded as a PNG, so that the page needs no other file.

        A function from a Theme to a figure is drawn twice, for light and for dark screens.
        """
        return self._add(_figure(figure, _chart_bytes, caption, alt))

    def figures(self, figures: Mapping[str, Figure | Draw]) -> Report:
        """Add charts side by side, as many as the screen has room for; by name, which a screen reader says."""
        require(len(figures) > 0, "Report.figures(figures)", "at least one figure", "none")
        return self._add(
            f'<div class="charts">{"".join(_figure(one, _chart_bytes, "", name) for name, one in figures.items())}</div>'
        )

    def photographs(self, figure: Figure | Draw, caption: str = "", alt: str = "") -> Report:
        """Add a figure that shows photographs, embedded as a WebP; a small screen scrolls it."""
        return self._add(_figure(figure, _photograph_bytes, caption, alt, "wide"))

    def html(self) -> str:
        """The page."""
        return _PAGE.format(title=html.escape(self.title), body="\n".join(self._parts))

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the page; folders that are missing are made."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(self.html(), encoding="utf-8")
        return target

    def __repr__(self) -> str:
        return f"Report({self.title!r}, parts={len(self._parts)})"

    def _add(self, part: str) -> Report:
        self._parts.append(part)
        return self


def png(figure: Figure) -> bytes:
    """The figure as the bytes of a PNG file of three channels, as a figure's own fourth is opaque."""
    return _encoded(_pixels(figure), "PNG")


def _chart_bytes(figure: Figure) -> tuple[str, bytes]:
    # 64 colours are enough for lines and letters, and a third of the bytes.
    return "image/png", _encoded(_pixels(figure).quantize(64), "PNG", optimize=True)


def _photograph_bytes(figure: Figure) -> tuple[str, bytes]:
    picture = _pixels(figure)
    picture.thumbnail((1400, 20_000), Image.Resampling.LANCZOS)  # wider than the page is of no use
    return "image/webp", _encoded(picture, "WEBP", quality=72, method=4)


def _pixels(figure: Figure) -> Image.Image:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    picture: Image.Image = Image.open(buffer).convert("RGB")
    return picture


def _encoded(picture: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=form, **options)
    return buffer.getvalue()


def _figure(
    figure: Figure | Draw, encode: Callable[[Figure], tuple[str, bytes]], caption: str, alt: str, kind: str | None = None
) -> str:
    """The element of a figure: one picture, or one for light screens and one for dark ones."""

    def source(drawn: Figure) -> str:
        mime, data = encode(drawn)
        return f"data:{mime};base64,{base64.b64encode(data).decode('ascii')}"

    described = html.escape(alt or caption, quote=True)
    if callable(figure):
        dark = f'<source media="(prefers-color-scheme: dark)" srcset="{source(figure(DARK))}">'
        shown = f'<picture>{dark}<img alt="{described}" src="{source(figure(LIGHT))}"></picture>'
    else:
        shown = f'<img alt="{described}" src="{source(figure)}">'
    if kind is not None:
        shown = f'<div class="{kind}">{shown}</div>'
    below = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{shown}{below}</figure>"


def _written(values: Sequence[Any]) -> list[str]:
    """A column's cells: its floating-point numbers to as many decimals as show three digits of the largest."""
    sizes = [abs(value) for value in values if isinstance(value, float) and math.isfinite(value) and value != 0]
    decimals = min(6, max(0, 2 - math.floor(math.log10(max(sizes))))) if sizes else 2

    def written(value: Any) -> str:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return "" if value is None else str(value)
        return f"{value:,.{decimals}f}" if isinstance(value, float) else f"{value:,}"

    return [written(value) for value in values]


def inspect(
    data: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    preset: str = "simclr",
    size: int = 224,
    candidates: int | None = None,
    sampler: HardPairSampler | None = None,
    extras: Callable[[int], Mapping[str, Tensor]] | None = None,
    device: torch.device | str = "cpu",
    count: int = 8,
    seed: int = 0,
    on_error: str = "raise",
) -> tuple[Path, Path]:
    """Draw candidate views of some images, and the views that a model finds hardest, on a contact sheet.

    Args:
        data: what :class:`hvs_aug.data.RawImages` reads: a folder, an archive, an image file or a list of them.
        out: the folder that ``contact_sheet.png`` and ``contact_sheet.html`` are written to.
        preset, size, candidates: the views, where there is no sampler.
        sampler: scores the candidates, with the views that it was made with; without one no view is chosen.
        extras: makes the extras that its loss asks for (iBOT's masks), given the number of images.
        device: where the views are rendered: where the sampler's model is.
        count: how many images, spread evenly over the data.
        seed: of the views.
        on_error: "skip" leaves out images that do not decode, and names them on the page; "raise" refuses them.

    Returns:
        The paths of the PNG and the HTML file.

    Raises:
        HVSError: if there is no image, one does not decode, or matplotlib is not installed.
    """
    views = CandidateViews.preset(preset, size=size, candidates=candidates) if sampler is None else sampler.views
    require(isinstance(count, int) and count >= 1, "inspect(count)", "at least one image", count)
    if views is None:
        fail("inspect(sampler)", "a sampler made with views that it can render", "slots without recipes")
    images = RawImages(data, on_error, return_path=True)
    shown = ShownViews.of(images, views, sampler, extras=extras, device=device, count=count, seed=seed)
    picture = png(shown.draw(LIGHT))
    target = Path(out) / "contact_sheet.png"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(picture)
    page = Report(f"Contact sheet of {len(shown.names)} images", "; ".join(map(_described, views.slots)))
    shown.add_to(page)
    page.heading("Versions and machine").facts(machine(device))
    return target, page.write(target.with_suffix(".html"))


@dataclass(eq=False)
class ShownViews:
    """Candidate views of some images and, where a model scored them, the hardest: a contact sheet, and a table of the choice."""

    batch: ImageBatch
    views: CandidateViews
    params: ViewParams
    names: list[str]
    table: Tensor | None = None
    indices: Tensor | None = None

    @classmethod
    def of(
        cls,
        images: RawImages,
        views: CandidateViews,
        sampler: HardPairSampler | None,
        *,
        extras: Callable[[int], Mapping[str, Tensor]] | None,
        device: torch.device | str,
        count: int,
        seed: int,
    ) -> ShownViews:
        """Draw, and score, the candidates of images that are spread evenly over the data; it returns their paths, too."""
        places = torch.linspace(0, len(images) - 1, min(count, len(images))).tolist()
        batch, _, paths = collate_images([images[round(place)] for place in places])
        names = [printable(os.path.basename(path)) for path in paths]
        batch = batch.to(device)
        params = views.make_params(batch, torch.Generator().manual_seed(seed))
        if sampler is None:
            return cls(batch, views, params, names)
        scored = sampler.score(batch, None if extras is None else extras(len(batch)), params=params)
        indices = exact(scored.table, sampler.slots, local_pairs=sampler.loss.local_pairs)
        return cls(batch, views, scored.params, names, scored.table, indices)

    @functools.cached_property
    def _panels(self) -> list[Panel]:
        return panels(self.batch, self.views, self.params, self.table, self.indices, self.names)

    def draw(self, theme: Theme) -> Figure:
        """The contact sheet."""
        title = "Candidate views" if self.indices is None else "Candidate views, and the hardest"
        return contact_sheet(self._panels, self.views.slots, title, theme=theme)

    def add_to(self, page: Report) -> None:
        """Add the contact sheet, the images that were left out, and what was chosen."""
        page.photographs(self.draw, alt=f"Candidate views of {len(self.names)} images: {', '.join(self.names)}")
        if self.batch.skipped:
            rows = [dict(zip(("image", "reason"), line.split(": ", 1), strict=True)) for line in self.batch.skipped]
            page.heading("Left out").table(rows)
        if self.indices is not None and self.table is not None:
            rows = _chosen_rows(self.names, self.params, self.table, self.indices, self.views.slots)
            page.heading("What was chosen").table(rows)


def _described(slot: ViewSlot) -> str:
    size = getattr(slot.recipe, "size", None)
    return f"{slot.name}: {slot.select} of {slot.candidates} candidates{'' if size is None else f', {size} px'}"


def _chosen_rows(
    names: Sequence[str], params: ViewParams, table: Tensor, indices: Tensor, slots: Sequence[ViewSlot]
) -> list[dict[str, Any]]:
    """One row per image: the loss and the overlap of the chosen views, and what random ones would have had."""
    columns: dict[str, Tensor] = {"loss, chosen": selection_loss(table, indices), "loss, random": expected_loss(table, slots)}
    if not params.uncropped:
        iou = params.iou()
        columns |= {"IoU, chosen": mean_over_pairs(iou, indices), "IoU, random": mean_over_pairs(iou, slots=slots)}
    tag = labels(len(table))
    kept = [" ".join(tag[index] for index in of_image) for of_image in indices.t().tolist()]
    values = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [
        {"image": name, "chosen": of_image, **dict(zip(columns, row, strict=True))}
        for name, of_image, row in zip(names, kept, values, strict=True)
    ]
