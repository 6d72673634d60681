"""``hvs-aug report``."""

from __future__ import annotations

import argparse
from pathlib import Path

from .options import require_folder, require_positive, require_seed

PURPOSE = "draw the curves, the choice and the times of a run on one page"
OPTIONS = {"run_report(folder)": "RUN", "load_checkpoint(path)": "RUN"}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a run, --out of hvs-aug pretrain")
    parser.add_argument("--data", type=Path, help="images for a contact sheet of what the model finds hardest")
    parser.add_argument("--transform", metavar="module:object", help="that of the run, where it has one of yours; with --data")
    parser.add_argument("--count", type=int, default=8, help="how many images (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of their views (default: %(default)s)")
    parser.add_argument("--on-error", default="raise", metavar="skip|raise", help="at an image that does not decode")
    parser.add_argument("--out", type=Path, help="folder for report.html (default: RUN)")


def run(arguments: argparse.Namespace) -> None:
    from ..pretraining.run_report import run_report

    require_positive(arguments, "count")
    require_seed(arguments)
    out = None if arguments.out is None else require_folder(arguments.out)
    options = {"transform": arguments.transform, "count": arguments.count, "seed": arguments.seed, "on_error": arguments.on_error}
    print(f"wrote {run_report(arguments.run, out, arguments.data, **options)}")
