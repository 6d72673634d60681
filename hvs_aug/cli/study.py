"""``hvs-aug study``."""

from __future__ import annotations

import argparse
from pathlib import Path

from .options import METHODS, MODELS, require_folder, require_positive

PURPOSE = "compare hard views with random ones on your own images, at equal arithmetic, as far as a budget of minutes can say"
OPTIONS: dict[str, str] = {}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, help="a folder of class folders, a .zip or a .tar (default: the demo's photographs)")
    parser.add_argument("--method", default="simclr", metavar=METHODS, help="default: %(default)s")
    parser.add_argument("--budget-minutes", type=float, default=60, metavar="M", help="default: %(default)s")
    parser.add_argument("--model", "--encoder", metavar="NAME", help=f"{MODELS} (default: a small one)")
    parser.add_argument("--size", type=int, help="pixels of a view (default: the images' own shorter side, at most 224)")
    parser.add_argument("--images", type=int, default=10_000, help="use at most so many (default: %(default)s)")
    parser.add_argument(
        "--seeds", type=int, default=3, help="pairs of runs (default: %(default)s; fewer where the budget is small)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/study"), help="folder, where the same command goes on (default: %(default)s)"
    )


def run(arguments: argparse.Namespace) -> None:
    from ..pretraining.short_study import short_study

    require_positive(arguments, "size", "images", "seeds")
    short_study(
        arguments.data,
        require_folder(arguments.out),
        arguments.method,
        arguments.budget_minutes,
        encoder=arguments.model,
        size=arguments.size,
        images=arguments.images,
        seeds=arguments.seeds,
    )
