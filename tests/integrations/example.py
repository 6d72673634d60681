"""The scripts of examples/, imported rather than started: one import of PyTorch serves them all."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any


def main_of(name: str) -> Callable[..., Any]:
    path = Path(__file__).parents[2] / "examples" / f"{name}.py"
    assert len(path.read_text().splitlines()) < 100
    spec = importlib.util.spec_from_file_location(f"example_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


SMALL = ["--batch-size", "3", "--size", "32", "--workers", "0"]
