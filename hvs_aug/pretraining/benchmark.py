"""``hvs-aug benchmark``: what hard views cost on the user's machine with the user's images, and the setting to use."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._check import HVSError, fail, require
from ..analysis.overhead import advice, measure
from ..analysis.plots import hardness_and_cost
from ..analysis.workload import Workload, settings
from .build import build_method, encoder_of, transform_size, use_transform
from .methods import Method
from .networks import VisionTransformer
from .progress import shown

__all__ = ["benchmark"]

_COLUMNS = {
    "setting": "setting",
    "ratio": "time",
    "bound": "least",
    "captured": "hardness",
    "agreement": "same",
    "views": "views ms",
    "scoring": "scoring ms",
    "search": "search ms",
    "render": "render ms",
    "training": "training ms",
}
"""The columns of the table: what a row calls them, and their headings."""
_LEGEND = """\
time      of a step, divided by that of a step with random views (median of the rounds)
least     the same ratio counted in multiplications: no implementation of these forwards takes less
hardness  of the chosen views, by losses at full size: 0 for random views, 1 for the hardest
same      share of the images with the choice that scoring at full size makes
... ms    the parts of a step: making the candidates, scoring them, searching, making the chosen views, training"""


def benchmark(
    data: Path | None,
    out: Path,
    *,
    method: str,
    model: str | None,
    transform: str | None = None,
    size: int,
    batch_size: int,
    candidates: int | None,
    device: torch.device,
    quick: bool,
) -> list[dict[str, Any]]:
    """Measure every setting of the sampler for one method, print the table and the setting to use, and write both to ``out``.

    Args:
        data: the user's images, a folder or an archive; those of the demo by default.
        out: the folder for ``overhead.json`` and ``overhead.png``.
        method, model, size: what :func:`build_method` builds.
        transform: ``module:object``, a transform of the user's in the place of the method's augmentation; its size counts.
        batch_size, candidates: of a training step; candidates as in the method's preset by default.
        quick: two rounds, to see that it runs.
    """
    size = size if transform is None else transform_size(transform)

    def build() -> Method:
        built = build_method(method, size, encoder=model)
        if transform is not None:
            use_transform(built, method, transform)
        return built

    train, held_out = _images(data, batch_size)
    trial = build()
    fewest = trial.fewest_images
    require(batch_size >= fewest, "--batch-size", f"at least {fewest} for {method}", batch_size)
    drawn = candidates if candidates is not None else 2 if trial.fewest == 1 else 4
    hint = "more candidates than are kept leave something to choose."
    require(drawn > trial.fewest, "--candidates", f"more than {trial.fewest} for {method}", f"{drawn}", hint)
    workload = Workload(
        build,
        size,
        batch_size,
        drawn,
        train,
        held_out,
        device,
        torch.bfloat16 if device.type == "cuda" else None,
    )
    transformer = isinstance(encoder_of(trial), VisionTransformer)
    rows = measure(
        workload,
        settings(transformer),
        repeats=2 if quick else 9,
        warmup=1 if quick else 2,
        points=(0, 2) if quick else (0, 50, 150),
        judged=1 if quick else 4,
        progress=shown,
    )
    said = advice(rows)
    print(_table(rows), _LEGEND, said, sep="\n\n")
    if quick:
        print("this was a look with two rounds: measure without --quick before you rely on it")
    out.mkdir(parents=True, exist_ok=True)
    name = f"{method}, {size} px, {batch_size} images, {drawn} candidates"
    (out / "overhead.json").write_text(
        json.dumps({"workload": name, "rows": rows, "advice": said}, indent=1, allow_nan=False) + "\n"
    )
    try:
        figure = hardness_and_cost([{"workload": name, **row} for row in rows])
    except HVSError as error:  # matplotlib is not installed
        print(f"wrote {out / 'overhead.json'}; {error}")
        return rows
    figure.savefig(out / "overhead.png")
    print(f"wrote {out / 'overhead.json'} and {out / 'overhead.png'}")
    return rows


def _images(data: Path | None, batch: int) -> tuple[list[Tensor], list[Tensor]]:
    """Images to train on and, every fourth, to judge on; a few batches of each are enough."""
    if data is None:
        from .photographs import photographs

        found = list(photographs().values())
    else:
        from ..data.raw_images import RawImages

        dataset = RawImages(data)
        count = min(len(dataset), 32 * batch)
        places = [math.floor(place * len(dataset) / count) for place in range(count)] if count else []
        found = [image for image in (dataset[place][0] for place in places) if isinstance(image, Tensor)]
    if len(found) < 2:
        fail("--data", "at least 2 images, to train on and to judge on", f"{len(found)}")
    held_out = found[::4]
    return [image for index, image in enumerate(found) if index % 4], held_out


def _table(rows: Sequence[dict[str, Any]]) -> str:
    """A row for each setting: ratios and shares as they are, parts of a step in milliseconds."""
    lines = [list(_COLUMNS.values())]
    lines += [[_cell(row, name) for name in _COLUMNS] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def _cell(row: dict[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, float):
        return "" if value is None else str(value)
    return f"{1000 * value:.1f}" if _COLUMNS[name].endswith(" ms") else f"{value:.2f}"
