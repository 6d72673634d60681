"""``hvs-aug explain``."""

from __future__ import annotations

import argparse
from pathlib import Path

PURPOSE = "print the recipe that is read from a transform of yours"
OPTIONS = {"explain(target)": "module:object", "explain(preset)": "--preset", "explain(register)": "--register"}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="module:object", help="where the transform is, e.g. main_dino:transform")
    parser.add_argument("--preset", metavar="NAME", help="compare with this one (default: the closest)")
    parser.add_argument(
        "--register", type=Path, metavar="FILE", help="run this first: it registers converters for transforms of yours"
    )


def run(arguments: argparse.Namespace) -> None:
    from ..dropin.explain import explain

    print(explain(arguments.target, arguments.preset, arguments.register))
