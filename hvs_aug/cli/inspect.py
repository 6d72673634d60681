"""``hvs-aug inspect``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .options import output_folder, require_positive, require_seed

PURPOSE = "draw the candidate views of your images on a contact sheet"
OPTIONS = {"CandidateViews.preset(name)": "--preset", "load_checkpoint(path)": "--checkpoint", "inspect(count)": "--count"}
_OUT = Path("runs/inspect")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="a folder, an archive, or image files")
    parser.add_argument("--preset", default="simclr", metavar="NAME", help="whose views (default: %(default)s)")
    parser.add_argument("--candidates", type=int, help="default: the preset's")
    parser.add_argument("--size", type=int, help="pixels of a view (default: 224, or the checkpoint's)")
    parser.add_argument("--checkpoint", type=Path, help="of hvs-aug pretrain: frame the views that this model finds hardest")
    parser.add_argument(
        "--transform", metavar="module:object", help="that of the checkpoint, where it was trained with one of yours"
    )
    parser.add_argument("--count", type=int, default=8, help="how many images (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--on-error", default="raise", metavar="skip|raise", help="at an image that does not decode")
    parser.add_argument("--out", type=Path, help=f"folder (default: {_OUT}, or the next free number)")


def run(arguments: argparse.Namespace) -> None:
    import torch

    from ..analysis import inspect
    from ..pretraining.loop import load_method

    require_positive(arguments, "candidates", "size", "count")
    require_seed(arguments)
    out = output_folder(arguments.out, _OUT, "contact_sheet.png", "contact_sheet.html")
    data = arguments.data[0] if len(arguments.data) == 1 else arguments.data
    options: dict[str, Any] = {"count": arguments.count, "seed": arguments.seed, "on_error": arguments.on_error}
    if arguments.checkpoint is None:
        options |= {"preset": arguments.preset, "candidates": arguments.candidates, "size": arguments.size or 224}
    else:
        method, settings = load_method(arguments.checkpoint, transform=arguments.transform)
        views = method.views(arguments.size or settings.size, arguments.candidates)
        generator = torch.Generator().manual_seed(arguments.seed)
        options["sampler"] = method.sampler(views, generator=generator)
        options["extras"] = lambda images: method.extras(views.slots, images, generator) or {}
    picture, page = inspect(data, out, **options)
    print(f"wrote {picture} and {page}")
