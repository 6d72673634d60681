"""examples/pretrain.py, two steps of every method on made-up images."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

SCRIPT = Path(__file__).parents[2] / "examples" / "pretrain.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("example_pretrain", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("method", ["simclr", "simsiam", "byol", "dino", "ibot"])
def test_two_steps(method: str, example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 20, 24, 3), dtype=np.uint8)
    (tmp_path / "data").mkdir()
    for index, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "data" / f"{index}.png")
    out = tmp_path / "weights.safetensors"
    options = ["--size", "16", "--batch-size", "3", "--steps", "2", "--device", "cpu", "--out", str(out)]
    example.main(["--data", str(tmp_path / "data"), "--method", method, *options])
    assert any("encoder" in name for name in load_file(out))
    assert f"wrote {out}" in capsys.readouterr().out


def test_it_is_short_enough_to_read() -> None:
    assert len(SCRIPT.read_text().splitlines()) < 150
