"""A report in one HTML file that opens offline: text, tables and figures, with nothing to fetch."""

from __future__ import annotations

import base64
import html
import io
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .._check import fail, require
from ..data.collate import collate_images
from ..data.raw_images import RawImages
from ..data.sources import printable
from ..selection.sampler import HardPairSampler
from ..selection.search import exact, selection_loss
from ..views.candidates import CandidateViews
from ..views.params import ViewParams
from ..views.recipe import ViewSlot
from .metrics import expected_loss, mean_over_pairs
from .sheet import contact_sheet, labels, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Report", "inspect"]

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light; }}
body {{ margin: 0; background: #f4f5f7; color: #1f2430; font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }}
main {{ max-width: 1180px; margin: 0 auto; padding: 40px 24px 64px; }}
h1 {{ font-size: 30px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -0.01em; }}
h2 {{ font-size: 20px; margin: 44px 0 10px; }}
p {{ max-width: 76ch; margin: 8px 0; }}
.subtitle {{ color: #6b7280; margin-bottom: 20px; }}
figure {{ margin: 14px 0; background: #fff; border: 1px solid #e3e5ea; border-radius: 10px; padding: 14px; }}
figure img {{ display: block; max-width: 100%; height: auto; margin: 0 auto; }}
figcaption {{ color: #6b7280; font-size: 14px; margin-top: 10px; max-width: 90ch; }}
.scroll {{ overflow-x: auto; background: #fff; border: 1px solid #e3e5ea; border-radius: 10px; margin: 14px 0; }}
table {{ border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 15px; }}
th, td {{ text-align: left; padding: 9px 16px; border-bottom: 1px solid #eceef2; white-space: nowrap; }}
th {{ color: #6b7280; font-weight: 600; font-size: 13px; }}
tr:last-child td {{ border-bottom: 0; }}
.number {{ text-align: right; }}
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
    """An HTML page put together part by part. All text is escaped; pictures are embedded as PNG.

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

    def figure(self, figure: Figure, caption: str = "", alt: str = "") -> Report:
        """Add a matplotlib figure, embedded, so that the page needs no other file."""
        return self.picture(png(figure), caption, alt)

    def picture(self, image: bytes, caption: str = "", alt: str = "") -> Report:
        """Add the bytes of a PNG file, embedded."""
        encoded = base64.b64encode(image).decode("ascii")
        below = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
        described = html.escape(alt or caption, quote=True)
        return self._add(f'<figure><img alt="{described}" src="data:image/png;base64,{encoded}">{below}</figure>')

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
    """The figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _written(values: Sequence[Any]) -> list[str]:
    """A column's cells: its floating-point numbers to as many decimals as show three digits of the largest."""
    sizes = [abs(value) for value in values if isinstance(value, float) and math.isfinite(value) and value != 0]
    decimals = min(6, max(0, 2 - math.floor(math.log10(max(sizes))))) if sizes else 2
    return ["" if value is None else f"{value:.{decimals}f}" if isinstance(value, float) else str(value) for value in values]


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
    require(isinstance(count, int) and count >= 1, "inspect(count)", "at least one image", count)
    views = CandidateViews.preset(preset, size=size, candidates=candidates) if sampler is None else sampler.views
    if views is None:
        fail("inspect(sampler)", "a sampler made with views that it can render", "slots without recipes")
    images = RawImages(data, on_error, return_path=True)
    shown = [images[round(place)] for place in torch.linspace(0, len(images) - 1, min(count, len(images))).tolist()]
    batch, _, paths = collate_images(shown)
    batch = batch.to(device)
    params = views.make_params(batch, torch.Generator().manual_seed(seed))
    table = indices = None
    if sampler is not None:
        scored = sampler.score(batch, None if extras is None else extras(len(batch)), params=params)
        table, params = scored.table, scored.params
        indices = exact(table, sampler.slots, local_pairs=sampler.loss.local_pairs)
    names = [printable(os.path.basename(path)) for path in paths]
    title = "Candidate views" if sampler is None else "Candidate views, and the hardest"
    sheet = contact_sheet(panels(batch, views, params, table, indices, names), views.slots, title)
    picture = png(sheet)
    target = Path(out) / "contact_sheet.png"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(picture)
    page = Report(f"Contact sheet of {len(names)} images", "; ".join(map(_described, views.slots))).picture(
        picture, alt=f"Candidate views of {len(names)} images: {', '.join(names)}"
    )
    if batch.skipped:
        page.heading("Left out").table([dict(zip(("image", "reason"), line.split(": ", 1), strict=True)) for line in batch.skipped])
    if indices is not None and table is not None:
        page.heading("What was chosen").table(_chosen_rows(names, params, table, indices, views.slots))
    return target, page.write(target.with_suffix(".html"))


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
