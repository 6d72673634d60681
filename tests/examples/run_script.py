"""Run one of the repos' scripts, or an example over it, as a process of its own, and write down the loss of every backward pass.

``python run_script.py LOSSES OVERRIDES SCRIPT [arguments...]``: OVERRIDES is a JSON object of options for ``hvs_aug.wrap``.
"""

from __future__ import annotations

import functools
import importlib
import json
import random
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision import datasets

import hvs_aug
from hvs_aug.selection import policies


def main() -> None:
    """Fix what the repos leave unseeded, count the losses, and run the script as ``__main__``."""
    losses, overrides, script = Path(sys.argv[1]), json.loads(sys.argv[2]), Path(sys.argv[3])
    sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
    importlib.import_module("cpu_compat").install()
    if overrides.pop("policy", None) == "random":
        overrides["policy"] = policies.random()
    if overrides:
        hvs_aug.wrap = functools.partial(hvs_aug.wrap, **overrides)
    datasets.STL10 = _photographs
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - VICReg's transform draws from it
    torch.manual_seed(0)
    record: list[float] = []
    backward = torch.Tensor.backward

    def recorded(self: torch.Tensor, *arguments: Any, **options: Any) -> None:
        record.append(float(self))
        backward(self, *arguments, **options)

    setattr(torch.Tensor, "backward", recorded)  # noqa: B010
    sys.argv = [str(script), *sys.argv[4:]]
    sys.path.insert(0, str(script.parent))
    runpy.run_path(str(script), run_name="__main__")
    losses.write_text(json.dumps([value.hex() for value in record]))


def _photographs(root: str, split: str, transform: Any, download: bool) -> datasets.ImageFolder:
    """In the place of STL-10, which would be downloaded: the photographs below ``root``."""
    return datasets.ImageFolder(root, transform)


if __name__ == "__main__":
    main()
