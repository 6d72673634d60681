"""Stand-ins that let these repos, written for CUDA and an older PyTorch, run their own scripts here, one process on the CPU.

Not part of the library, and not needed on the machines that the repos were written for: :func:`install` does nothing where CUDA is
available, except for what is missing or has moved since. It has to be called before the repo's script is imported.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import sys
import types
import warnings
from typing import Any

import torch


@functools.cache
def install() -> None:
    """Put the stand-ins in their places, once."""
    _install_missing_modules()
    # The repos' checkpoints hold their argparse.Namespace; main_dino.py asks GitHub for XCiT's names while it parses its arguments.
    for owner, name, stand_in in (
        (torch, "load", functools.partial(torch.load, weights_only=False)),
        (torch.hub, "list", _offline(torch.hub.list)),
        # MoCo views what compares two transposed tensors as one axis, which had the layout for it.
        (torch.Tensor, "eq", _contiguous(torch.Tensor.eq)),
    ):
        setattr(owner, name, stand_in)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning)
    if not torch.cuda.is_available():
        _install_cpu()


def _install_missing_modules() -> None:
    """Logging and clustering packages of the repos, where they are not installed: a writer that writes nothing."""
    names = {"tensorboard": ("torch.utils.tensorboard",), "tensorboardX": ("tensorboardX",), "munkres": ("munkres",)}
    for package, modules in names.items():
        if importlib.util.find_spec(package) is None:
            for name in modules:
                module = types.ModuleType(name)
                vars(module).update(SummaryWriter=_Writer, Munkres=object)
                sys.modules[name] = module
    if importlib.util.find_spec("apex") is None:  # SwAV's; only its adaptive rates are used without half precision
        for name in ("apex", "apex.parallel", "apex.parallel.LARC"):
            sys.modules[name] = types.ModuleType(name)
            vars(sys.modules[name]).update(amp=None, LARC=_PlainRates)
    for name in ("timm.models.layers", "timm.models.layers.helpers"):  # which have moved
        module = types.ModuleType(name)
        vars(module)["__getattr__"] = lambda attribute: getattr(importlib.import_module("timm.layers"), attribute)
        sys.modules.setdefault(name, module)


class _Writer:
    """In the place of tensorboard's SummaryWriter."""

    def __init__(self, log_dir: str = "runs", **_: Any) -> None:
        self.log_dir = log_dir
        os.makedirs(log_dir, exist_ok=True)

    def add_scalar(self, *_: Any, **__: Any) -> None:
        """Write nothing."""

    def close(self) -> None:
        """Close nothing."""


class _PlainRates:
    """In the place of apex's LARC: the optimizer that it is given, with its own rates."""

    def __init__(self, optimizer: Any, **_: Any) -> None:
        self.optim = optimizer

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["optim"], name)


def _contiguous(function: Any) -> Any:
    return lambda *arguments: function(*arguments).contiguous()


def _offline(function: Any) -> Any:
    def listed(*arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except OSError:
            return []

    return listed


def _install_cpu() -> None:
    parallel: Any = torch.nn.parallel.DistributedDataParallel
    start = torch.distributed.init_process_group
    stand_ins: list[tuple[Any, str, Any]] = [
        (torch.Tensor, "cuda", _stay),
        (torch.nn.Module, "cuda", _stay),
        (torch, "tensor", _on_cpu(torch.tensor)),
        (torch.cuda, "synchronize", _nothing),
        (torch.cuda, "set_device", _nothing),
        (torch.cuda, "manual_seed_all", _nothing),
        (torch.cuda, "device_count", lambda: 1),
        (torch.cuda, "is_available", lambda: False),  # which newer versions answer by the count
        # SimSiam spawns a process for each GPU; the one there is stays in this one.
        (torch.multiprocessing, "spawn", lambda function, args=(), nprocs=1, **_: function(0, *args)),
        (torch.nn.SyncBatchNorm, "convert_sync_batchnorm", staticmethod(_stay)),
        (parallel, "__init__", _without(parallel.__init__, "device_ids")),
        (torch.distributed, "init_process_group", lambda backend=None, **options: start("gloo", **options)),
    ]
    for owner, name, stand_in in stand_ins:
        setattr(owner, name, stand_in)
    defaults = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def _stay(value: Any, *_: Any, **__: Any) -> Any:
    return value


def _nothing(*_: Any, **__: Any) -> None:
    return None


def _on_cpu(function: Any) -> Any:
    def made(*arguments: Any, **options: Any) -> Any:
        return function(*arguments, **(options | {"device": "cpu"} if options.get("device") == "cuda" else options))

    torch.jit._builtins._register_builtin(made, "aten::tensor")  # what torch.tensor is to scripted functions
    return made


def _without(function: Any, name: str) -> Any:
    @functools.wraps(function)
    def called(*arguments: Any, **options: Any) -> Any:
        options.pop(name, None)
        return function(*arguments, **options)

    return called
