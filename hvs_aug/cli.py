"""The command line: ``hvs-aug demo | pretrain | inspect | benchmark | explain``. What a command needs is imported when it runs."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .pretraining.loop import Settings

__all__ = ["main"]

_METHODS = "simclr|simsiam|byol|dino|ibot"
_POLICIES = "hardest|easiest|random|random-scored|min_iou|softmax:T|semi_hard:Q|mixture:P|warmup:STEPS"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0; 2 after bad input, said in one sentence; 130 after Ctrl-C, 143 after SIGTERM."""
    parsed = _parser().parse_args(arguments)
    from ._check import HVSError  # imports torch, which --help does not wait for

    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            command: Callable[[argparse.Namespace], None] = parsed.command
            command(parsed)
        except HVSError as error:
            print(f"hvs-aug {parsed.name}: {error}", file=sys.stderr)
            return 2
        except OSError as error:
            print(f"hvs-aug {parsed.name}: {error.strerror or error}: {error.filename or ''}".rstrip(": "), file=sys.stderr)
            return 2
        except KeyboardInterrupt as interrupt:
            print(f"\nhvs-aug {parsed.name}: {_stopped(interrupt)}", file=sys.stderr)
            return 128 + getattr(interrupt, "signal", 2)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hvs-aug", description="Hard View Selection: pretrain on the views that are hardest.")
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    demo = _command(commands, "demo", _demo, "pretrain on photographs with random and with hard views, and compare (4 minutes)")
    demo.add_argument("--method", default="simclr", metavar=_METHODS)
    demo.add_argument("--epochs", type=int, help="passes over the photographs' tiles (by default what takes a few minutes)")
    demo.add_argument("--candidates", type=int, help="candidate views of the run with hard views (by default the preset's)")
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder for the report (default: %(default)s)")

    pretrain = _command(commands, "pretrain", _pretrain, "pretrain on your own images, to a checkpoint")
    pretrain.add_argument("--data", type=Path, required=True, help="a folder of images or of class folders, a .zip or a .tar")
    pretrain.add_argument("--method", metavar=_METHODS, help="default: simclr")
    pretrain.add_argument("--encoder", metavar="NAME", help="default: resnet8 or vit-micro below 64 px, else resnet18 or vit-tiny")
    pretrain.add_argument("--size", type=int, help="pixels of a view (default: the images' own shorter side, at most 224)")
    pretrain.add_argument("--epochs", type=int, help="default: 100")
    pretrain.add_argument("--batch-size", type=int, help="default: 256")
    pretrain.add_argument("--learning-rate", type=float, help="of AdamW, for a batch of 256 (default: the method's)")
    pretrain.add_argument("--candidates", type=int, help="candidates per image; per kept view for dino and ibot (default: 4, 2)")
    pretrain.add_argument("--policy", metavar="NAME", help=f"{_POLICIES} (default: hardest)")
    pretrain.add_argument("--scoring", metavar="full|cheap", help="cheap: at half the size, in bfloat16 (default: full)")
    pretrain.add_argument(
        "--score-scale", type=float, metavar="S", help="score at this fraction of the size (default: --scoring's)"
    )
    pretrain.add_argument("--every", type=int, metavar="K", help="score on every K-th step (default: 1)")
    pretrain.add_argument("--seed", type=int, help="default: 0")
    pretrain.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: %(default)s)")
    pretrain.add_argument("--workers", type=int, help="processes that decode images (default: by the number of cores)")
    pretrain.add_argument("--on-error", default="raise", metavar="skip|raise", help="at an image that does not decode")
    pretrain.add_argument("--max-skipped", type=float, default=0.01, help="stop above this share of skipped images (default: 0.01)")
    pretrain.add_argument("--out", type=Path, help="folder for checkpoint, metrics and encoder (default: runs/METHOD)")
    pretrain.add_argument("--resume", action="store_true", help="continue the run in --out")

    inspect = _command(commands, "inspect", _inspect, "draw the candidate views of your images on a contact sheet")
    inspect.add_argument("--data", type=Path, nargs="+", required=True, help="a folder, an archive, or image files")
    inspect.add_argument("--preset", default="simclr", metavar="NAME", help="whose views (default: %(default)s)")
    inspect.add_argument("--candidates", type=int, help="default: the preset's")
    inspect.add_argument("--size", type=int, help="pixels of a view (default: 224, or the checkpoint's)")
    inspect.add_argument("--checkpoint", type=Path, help="of hvs-aug pretrain: frame the views that this model finds hardest")
    inspect.add_argument("--count", type=int, default=8, help="how many images (default: %(default)s)")
    inspect.add_argument("--seed", type=int, default=0)
    inspect.add_argument("--on-error", default="raise", metavar="skip|raise", help="at an image that does not decode")
    inspect.add_argument("--out", type=Path, default=Path("runs/inspect"), help="folder (default: %(default)s)")

    benchmark = _command(commands, "benchmark", _benchmark, "measure what hard views cost on your machine, and what setting to use")
    benchmark.add_argument("--data", type=Path, help="your images (default: the demo's photographs)")
    benchmark.add_argument("--method", default="simclr", metavar=_METHODS)
    benchmark.add_argument("--model", metavar="NAME", help="an encoder, as for pretrain (default: the method's)")
    benchmark.add_argument("--size", type=int, default=128, help="default: %(default)s")
    benchmark.add_argument("--batch-size", type=int, default=32, help="default: %(default)s")
    benchmark.add_argument("--candidates", type=int, help="default: 4, and 2 for dino and ibot")
    benchmark.add_argument("--device", default="auto")
    benchmark.add_argument("--quick", action="store_true", help="few repeats: a look, no measurement")
    benchmark.add_argument("--out", type=Path, default=Path("runs/benchmark"), help="folder (default: %(default)s)")

    explain = _command(commands, "explain", _explain, "print the recipe that is read from a transform of yours")
    explain.add_argument("target", metavar="module:object", help="where the transform is, e.g. main_dino:transform")
    explain.add_argument("--preset", metavar="NAME", help="compare with this one (default: the closest)")
    explain.add_argument(
        "--register", type=Path, metavar="FILE", help="run this first: it registers converters for transforms of yours"
    )
    return parser


def _command(commands: Any, name: str, run: Callable[[argparse.Namespace], None], purpose: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=purpose, description=purpose.capitalize() + ".")
    parser.set_defaults(command=run, name=name)
    return parser


def _demo(arguments: argparse.Namespace) -> None:
    from .pretraining.demo import demo

    _require_positive(arguments, "epochs", "candidates")
    demo(arguments.out, arguments.method, arguments.epochs, arguments.candidates, arguments.seed)


def _pretrain(arguments: argparse.Namespace) -> None:
    from ._check import fail, require
    from .data.raw_images import RawImages
    from .data.sources import printable
    from .pretraining.loop import CHECKPOINT, SKIPPED, Pretraining, summarise

    _require_positive(arguments, "epochs", "batch_size", "candidates", "size", "every")
    out: Path = arguments.out if arguments.out is not None else Path("runs") / (arguments.method or "simclr")
    checkpoint = out / CHECKPOINT
    device, images = _device(arguments.device), RawImages(arguments.data, on_error=arguments.on_error)
    workers = arguments.workers if arguments.workers is not None else _default_workers()
    require(workers >= 0, "--workers", "a count of at least 0", workers)
    require(0 <= arguments.max_skipped <= 1, "--max-skipped", "a share from 0 to 1", arguments.max_skipped)
    if arguments.resume:
        run = Pretraining.resume(checkpoint, images, device, workers)
        for name, given in _given_settings(arguments).items():
            saved = getattr(run.settings, name)
            hint = "leave the option away, or start anew with another --out."
            require(given == saved, f"--{name.replace('_', '-')}", f"{saved}, with which the run began", given, hint)
    else:
        if checkpoint.exists():
            fail("--out", "a folder without a checkpoint", str(out), "continue that run with --resume, or give another --out.")
        run = Pretraining(_settings(arguments, images), images, device, workers)
    settings = run.settings
    chosen = f"{run.views.candidates} candidates each" if settings.policy != "random" else "random views"
    print(f"{len(images)} images, {settings.method}, views of {settings.size} px, {chosen}, {run.total} steps of {run.batch_size}")
    metrics = run.run(out, max_skipped=arguments.max_skipped)
    if images.undecodable:
        first = printable(", ".join([*images.undecodable[:3], *(["..."] if len(images.undecodable) > 3 else [])]))
        print(f"left out {len(images.undecodable)} images that do not decode: {first}; {out / SKIPPED} lists them")
    for line in summarise(metrics):
        print(line)
    print(f"wrote {checkpoint}, {out / 'encoder.safetensors'} and {out / 'metrics.jsonl'}")


def _settings(arguments: argparse.Namespace, images: Any) -> Settings:
    from .pretraining.loop import Settings, fitting_size

    given = _given_settings(arguments)
    if "size" not in given:
        given["size"] = fitting_size(images, given.get("method", Settings.method))
    return Settings(**given)


def _given_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    from .pretraining.loop import Settings

    names = Settings.__dataclass_fields__
    return {name: value for name in names if (value := getattr(arguments, name)) is not None}


def _inspect(arguments: argparse.Namespace) -> None:
    import torch

    from .analysis import inspect
    from .pretraining.loop import load_method

    _require_positive(arguments, "candidates", "size", "count")
    data = arguments.data[0] if len(arguments.data) == 1 else arguments.data
    options: dict[str, Any] = {"count": arguments.count, "seed": arguments.seed, "on_error": arguments.on_error}
    if arguments.checkpoint is None:
        options |= {"preset": arguments.preset, "candidates": arguments.candidates, "size": arguments.size or 224}
    else:
        method, settings = load_method(arguments.checkpoint)
        views = method.views(arguments.size or settings.size, arguments.candidates)
        generator = torch.Generator().manual_seed(arguments.seed)
        options["sampler"] = method.sampler(views, generator=generator)
        options["extras"] = lambda images: method.extras(views.slots, images, generator) or {}
    picture, page = inspect(data, arguments.out, **options)
    print(f"wrote {picture} and {page}")


def _benchmark(arguments: argparse.Namespace) -> None:
    from .pretraining.benchmark import benchmark

    _require_positive(arguments, "size", "batch_size", "candidates")
    benchmark(
        arguments.data,
        arguments.out,
        method=arguments.method,
        model=arguments.model,
        size=arguments.size,
        batch_size=arguments.batch_size,
        candidates=arguments.candidates,
        device=_device(arguments.device),
        quick=arguments.quick,
    )


def _explain(arguments: argparse.Namespace) -> None:
    from .dropin.explain import explain

    print(explain(arguments.target, arguments.preset, arguments.register))


def _require_positive(arguments: argparse.Namespace, *names: str) -> None:
    from ._check import require

    for name in names:
        value = getattr(arguments, name)
        require(value is None or value >= 1, f"--{name.replace('_', '-')}", "a number of at least 1", value)


def _device(name: str) -> Any:
    import torch

    from ._check import fail, require

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        fail("--device", "auto, cpu, cuda or cuda:N", repr(name))
    there = device.type == "cpu" or (device.type == "cuda" and (device.index or 0) < torch.cuda.device_count())
    require(there, "--device", "a device that this machine has", repr(name), "cpu is always there.")
    return device


def _default_workers() -> int:
    import os

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if cores <= 2 else min(8, cores - 1)


def _stopped(interrupt: KeyboardInterrupt) -> str:
    checkpoint = getattr(interrupt, "checkpoint", None)
    if checkpoint is None:
        return "stopped"
    return f"stopped after step {getattr(interrupt, 'step', 0)}; {checkpoint} holds the run, --resume continues it"


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)


def _version() -> str:
    from . import __version__

    return f"hvs-aug {__version__}"


if __name__ == "__main__":
    sys.exit(main())
