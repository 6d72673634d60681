"""What the commands' options have in common: the words of their help, checks, and the option that an error is about."""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

METHODS = "simclr|simsiam|byol|dino|ibot"
POLICIES = "hardest|easiest|random|random-scored|min_iou|softmax:T|semi_hard:Q|mixture:P|warmup:STEPS|all"
MODELS = "resnet8, resnet18, resnet50, vit-micro, vit-tiny, vit-small, or timm:NAME"

ARGUMENTS = {
    "RawImages(path)": "--data",
    "RawImages(on_error)": "--on-error",
    "build_encoder(name)": "--model",
    "build_encoder(size)": "--size",
    "build_method(name)": "--method",
    "CandidateViews.preset(candidates)": "--candidates",
    "ViewSlot(candidates)": "--candidates",
}
"""Arguments of the library, and the option that every command takes them from."""


def in_terms_of_options(message: str, options: Mapping[str, str]) -> str:
    """The message of an HVSError, with the option in the place of the library's argument that it was passed to.

    Example:
        >>> in_terms_of_options("RawImages(path): expected at least one image, got none.", {})
        '--data: expected at least one image, got none.'
    """
    argument, colon, rest = message.partition(": ")
    option = {**ARGUMENTS, **options}.get(argument)
    return message if option is None or not colon else f"{option}: {rest}"


def require_positive(arguments: argparse.Namespace, *names: str) -> None:
    """Fail unless each of these options is absent or a number of at least 1."""
    from .._check import require

    for name in names:
        value = getattr(arguments, name)
        require(value is None or value >= 1, f"--{name.replace('_', '-')}", "a number of at least 1", value)


def require_seed(arguments: argparse.Namespace) -> None:
    """Fail unless ``--seed`` is absent or one that a generator takes."""
    from .._check import require

    seed = arguments.seed
    require(seed is None or 0 <= seed < 2**32, "--seed", "an integer from 0 to 2**32 - 1", seed)


def require_folder(out: Path) -> Path:
    """Fail unless ``--out`` is a folder that can be written, or can be made."""
    from .._check import fail, require

    there = next(place for place in (out, *out.absolute().parents) if place.exists())
    if not there.is_dir():
        fail("--out", "a folder", f"{out}, {'which' if there == out else f'where {there}'} is a file")
    require(os.access(there, os.W_OK | os.X_OK), "--out", "a folder that can be written", str(out))
    return out


def output_folder(given: Path | None, default: Path, *written: str) -> Path:
    """The folder to write these files to, which no command writes over.

    Without ``--out`` it is the default, or the first of ``default-2``, ``default-3``, ... that holds none of the files.

    Raises: HVSError if ``--out`` holds one of the files, or is no folder that can be written.
    """
    from .._check import fail

    def held(folder: Path) -> list[str]:
        return [file for file in written if (folder / file).exists()]

    numbered = (default.with_name(f"{default.name}-{number}") for number in itertools.count(2))
    out = given if given is not None else next(folder for folder in itertools.chain([default], numbered) if not held(folder))
    require_folder(out)
    if held(out):
        fail("--out", f"a folder without {held(out)[0]}", str(out), "give another --out, or move that file away.")
    return out


def device_named(name: str) -> Any:
    """The torch.device of ``--device``; "auto" is the GPU where there is one."""
    import torch

    from .._check import fail, require

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        fail("--device", "auto, cpu, cuda or cuda:N", repr(name))
    there = device.type == "cpu" or (device.type == "cuda" and (device.index or 0) < torch.cuda.device_count())
    require(there, "--device", "a device that this machine has", repr(name), "cpu is always there.")
    return device
