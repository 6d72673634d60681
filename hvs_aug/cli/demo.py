"""``hvs-aug demo``."""

from __future__ import annotations

import argparse
from pathlib import Path

from .options import METHODS, output_folder, require_positive, require_seed

PURPOSE = "pretrain on photographs with random and with hard views, and compare (about 2 minutes)"
OPTIONS: dict[str, str] = {}
_OUT = Path("runs/demo")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--method", default="simclr", metavar=METHODS, help="default: %(default)s")
    parser.add_argument("--epochs", type=int, help="passes over the photographs' tiles (default: what takes a few minutes)")
    parser.add_argument("--candidates", type=int, help="candidate views of the run with hard views (default: the preset's)")
    parser.add_argument("--seed", type=int, default=0, help="the first seed (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds train both ways (default: %(default)s)")
    parser.add_argument("--out", type=Path, help=f"folder for the report (default: {_OUT}, or the next free number)")


def run(arguments: argparse.Namespace) -> None:
    from ..pretraining.demo import REPORT, demo

    require_positive(arguments, "epochs", "candidates", "seeds")
    require_seed(arguments)
    out = output_folder(arguments.out, _OUT, REPORT)
    demo(out, arguments.method, arguments.epochs, arguments.candidates, arguments.seed, seeds=arguments.seeds)
