"""``hvs-aug pretrain``."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import METHODS, MODELS, POLICIES, device_named, require_folder, require_positive

if TYPE_CHECKING:
    from ..data.raw_images import RawImages
    from ..pretraining.loop import Pretraining

PURPOSE = "pretrain on your own images, to a checkpoint"
OPTIONS = {
    "Settings(method)": "--method",
    "Settings(batch_size)": "--batch-size",
    "Settings(seed)": "--seed",
    "IBOT(encoder)": "--model",
    "DINO.views(size)": "--size",
    "IBOT.views(size)": "--size",
    "Settings(learning_rate)": "--learning-rate",
    "Pretraining(dataset)": "--data",
    "Pretraining.resume(dataset)": "--data",
    "Pretraining.run(max_skipped)": "--max-skipped",
    "Pretraining.run(loss)": "--learning-rate",
    "load_checkpoint(path)": "--out",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help="a folder of images or of class folders, a .zip or a .tar")
    parser.add_argument("--method", metavar=METHODS, help="default: simclr")
    parser.add_argument(
        "--model", "--encoder", dest="encoder", metavar="NAME", help=f"{MODELS} (default: a small one for the method and size)"
    )
    parser.add_argument("--transform", metavar="module:object", help="a transform of your own (default: the method's)")
    parser.add_argument("--size", type=int, help="pixels of a view (default: the images' own shorter side, at most 224)")
    parser.add_argument("--epochs", type=int, help="default: 100")
    parser.add_argument("--batch-size", type=int, help="default: 256")
    parser.add_argument("--learning-rate", type=float, help="of AdamW, for a batch of 256 (default: the method's)")
    parser.add_argument("--candidates", type=int, help="candidates per image; per kept view for dino and ibot (default: 4, 2)")
    parser.add_argument("--policy", metavar="NAME", help=f"{POLICIES} (default: hardest)")
    parser.add_argument("--scoring", metavar="full|cheap", help="cheap: at half the size, in bfloat16 (default: cheap)")
    parser.add_argument("--score-scale", type=float, metavar="S", help="score at this fraction of the size (default: --scoring's)")
    parser.add_argument("--every", type=int, metavar="K", help="score on every K-th step (default: 1)")
    parser.add_argument("--seed", type=int, help="default: 0")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: %(default)s)")
    parser.add_argument("--workers", type=int, help="processes that decode images (default: by the number of cores)")
    parser.add_argument("--on-error", default="raise", metavar="skip|raise", help="at an image that does not decode")
    parser.add_argument(
        "--max-skipped", type=float, metavar="SHARE", help="stop above this share of skipped images (default: 0.01, and above 10)"
    )
    parser.add_argument("--eval", type=Path, metavar="DIR", help="class folders: print kNN and linear probe of the encoder")
    parser.add_argument("--log", metavar="tensorboard|wandb|csv", help="where numbers go beside metrics.jsonl")
    parser.add_argument("--out", type=Path, help="folder for checkpoint, metrics and encoder (default: runs/METHOD)")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out")


def run(arguments: argparse.Namespace) -> None:
    from .._check import require
    from ..analysis.log import open_log
    from ..data.raw_images import RawImages
    from ..pretraining.labelled import evaluated, labelled_images
    from ..pretraining.loop import CHECKPOINT, ENCODER, METRICS, summarise

    require_positive(arguments, "epochs", "batch_size", "candidates", "size", "every")
    out = require_folder(arguments.out or Path("runs") / (arguments.method or "simclr"))
    workers = arguments.workers if arguments.workers is not None else _default_workers()
    require(workers >= 0, "--workers", "a count of at least 0", workers)
    share = arguments.max_skipped
    require(share is None or 0 <= share <= 1, "--max-skipped", "a share from 0 to 1", share)
    device, images = device_named(arguments.device), RawImages(arguments.data, on_error=arguments.on_error)
    labelled = None if arguments.eval is None else labelled_images(arguments.eval, "--eval", arguments.on_error)
    started = _resumed if arguments.resume else _new
    run = started(arguments, out / CHECKPOINT, images, device, workers)
    settings = run.settings
    chosen = f"{run.views.candidates} candidates each" if settings.policy != "random" else "random views"
    print(
        f"{len(images):,} images, {settings.method}, views of {settings.size} px, {chosen}, "
        f"{run.total:,} steps of {run.batch_size}",
        flush=True,
    )
    log = None if arguments.log is None else open_log(arguments.log, out, asdict(settings))
    metrics = run.run(out, max_skipped=share, log=log)
    if images.undecodable:
        print(_left_out(images.undecodable, out))
    for line in summarise(metrics):
        print(line)
    if labelled is not None:
        print(evaluated(run, images, labelled, out))
    print(f"wrote {out / CHECKPOINT}, {out / ENCODER} and {out / METRICS}")


def _new(arguments: argparse.Namespace, checkpoint: Path, images: RawImages, device: Any, workers: int) -> Pretraining:
    from .._check import fail, require
    from ..pretraining.build import transform_size
    from ..pretraining.loop import Pretraining, Settings, fitting_size

    if checkpoint.exists():
        hint = "continue that run with --resume, or give another --out."
        fail("--out", "a folder without a checkpoint", str(checkpoint.parent), hint)
    given = _given_settings(arguments)
    if arguments.transform is not None:
        size = transform_size(arguments.transform)
        require(given.setdefault("size", size) == size, "--size", f"{size} pixels, the size of --transform", given["size"])
    if "size" not in given:
        given["size"] = fitting_size(images, given.get("method", Settings.method), arguments.encoder)
    return Pretraining(Settings(**given), images, device, workers)


def _resumed(arguments: argparse.Namespace, checkpoint: Path, images: RawImages, device: Any, workers: int) -> Pretraining:
    from .._check import require
    from ..pretraining.loop import Pretraining

    run = Pretraining.resume(checkpoint, images, device, workers, arguments.transform)
    for name, given in _given_settings(arguments).items():
        saved = getattr(run.settings, name)
        option = "--model" if name == "encoder" else f"--{name.replace('_', '-')}"
        hint = "leave the option away, or start anew with another --out."
        require(given == saved, option, f"{saved}, with which the run began", given, hint)
    return run


def _given_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    from ..pretraining.loop import Settings

    names = Settings.__dataclass_fields__
    return {name: value for name in names if (value := getattr(arguments, name)) is not None}


def _left_out(paths: list[str], out: Path, named: int = 3) -> str:
    from ..data.sources import printable
    from ..pretraining.loop import SKIPPED

    more = f" and {len(paths) - named} more" if len(paths) > named else ""
    first = ", ".join(map(printable, paths[:named]))
    return f"left out {len(paths)} images that do not decode: {first}{more}; {out / SKIPPED} lists them"


def _default_workers() -> int:
    import os

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if cores <= 2 else min(8, cores - 1)
