"""``hvs-aug benchmark``."""

from __future__ import annotations

import argparse
from pathlib import Path

from .options import METHODS, MODELS, device_named, output_folder, require_positive

PURPOSE = "measure what hard views cost on your machine, and what setting to use"
OPTIONS: dict[str, str] = {}
_OUT = Path("runs/benchmark")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, help="your images (default: the demo's photographs)")
    parser.add_argument("--method", default="simclr", metavar=METHODS, help="default: %(default)s")
    parser.add_argument("--model", "--encoder", metavar="NAME", help=f"{MODELS} (default: the method's)")
    parser.add_argument("--transform", metavar="module:object", help="a transform of your own (default: the method's)")
    parser.add_argument("--size", type=int, default=128, help="pixels of a view (default: %(default)s, or the transform's)")
    parser.add_argument("--batch-size", type=int, default=32, help="default: %(default)s")
    parser.add_argument("--candidates", type=int, help="default: 4, and 2 for dino and ibot")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="few repeats: a look, no measurement")
    parser.add_argument("--out", type=Path, help=f"folder (default: {_OUT}, or the next free number)")


def run(arguments: argparse.Namespace) -> None:
    from ..pretraining.benchmark import benchmark

    require_positive(arguments, "size", "batch_size", "candidates")
    benchmark(
        arguments.data,
        output_folder(arguments.out, _OUT, "overhead.json", "overhead.png"),
        method=arguments.method,
        model=arguments.model,
        transform=arguments.transform,
        size=arguments.size,
        batch_size=arguments.batch_size,
        candidates=arguments.candidates,
        device=device_named(arguments.device),
        quick=arguments.quick,
    )
