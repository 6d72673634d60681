"""Checkpoints: one safetensors file that holds a whole run, written so that a reader never finds half of one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .._check import fail, require

__all__ = ["flatten_optimizer", "load_checkpoint", "naming_file", "restore_optimizer", "save_checkpoint", "whole_file"]

_FORMAT = "hvs_aug.checkpoint/1"


@contextmanager
def naming_file(path: Path) -> Iterator[None]:
    """Let an OSError that comes while a file is written say which: a full disk names none."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a path to write to beside ``path``, which it replaces at the end in one step, and only if nothing failed.

    Raises: OSError, with the path as its ``filename``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{path.name}.*"):
        if not _runs(left.suffix[1:]):  # its process was killed while it wrote
            left.unlink(missing_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with naming_file(path):
            yield partial
            with open(partial, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _runs(process: str) -> bool:
    """Whether a process of this number runs; where it cannot be asked without harm, any may."""
    if os.name != "posix":
        return True
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        pass
    return True


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write tensors by name and a state of plain JSON values to one file."""
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with whole_file(path) as partial:
        # Written by Python, so that the file's mode follows the umask; safetensors' own writer keeps it from everyone else.
        partial.write_bytes(save(plain, metadata={"format": _FORMAT, "state": json.dumps(state)}))


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`save_checkpoint` wrote: the tensors, on the CPU, and the state.

    Raises: HVSError if there is no such file, or it is none of these checkpoints.
    """
    call, hint = "load_checkpoint(path)", "hvs-aug pretrain writes OUT/checkpoint.safetensors."
    require(path.is_file(), call, "a checkpoint", f"no file at {path}", hint)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                fail(call, f"a file of format {_FORMAT}", f"{path} of format {metadata.get('format')}", hint)
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(metadata["state"])  # noqa: SIM118 - no mapping
    except SafetensorError as error:
        fail(call, "a whole safetensors file", f"{path}, which is not ({error})", hint)


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The tensors of an optimiser's state as ``{index of the parameter}.{name}``; all that Adam and SGD keep are tensors."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": value for index, kept in state.items() for name, value in kept.items() if isinstance(value, Tensor)}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what :func:`flatten_optimizer` gave, for the same parameters in the same order."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
