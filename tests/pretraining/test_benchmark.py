"""hvs-aug benchmark: a smallest run from images to the setting to use, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from hvs_aug._check import HVSError
from hvs_aug.analysis.workload import settings
from hvs_aug.pretraining.benchmark import benchmark


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    for index in range(5):
        pixels = torch.randint(0, 256, (24 + index, 30, 3), dtype=torch.uint8, generator=generator)
        Image.fromarray(pixels.numpy()).save(tmp_path / f"{index}.png")
    return tmp_path


def run(data: Path, out: Path, **options) -> list[dict]:
    given = {
        "method": "simclr",
        "model": "resnet8-strided",
        "size": 16,
        "batch_size": 3,
        "candidates": 3,
        "device": torch.device("cpu"),
        "quick": True,
    }
    return benchmark(data, out, **given | options)


def test_from_images_to_the_setting_to_use(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {name: options for name, options in settings(False).items() if name in ("full size", "half")}
    assert len(few) == 2
    monkeypatch.setattr("hvs_aug.pretraining.benchmark.settings", lambda *_: few)
    rows = run(folder, tmp_path / "out")
    said, warned = capfd.readouterr()
    assert "\r" not in warned and "Memory block" not in warned
    written = json.loads((tmp_path / "out" / "overhead.json").read_text())
    assert written["rows"] == json.loads(json.dumps(rows))
    assert written["workload"] == "simclr, 16 px, 3 images, 3 candidates"
    table = next(line for line in said.splitlines() if line.lstrip().startswith("setting"))
    assert table.split()[:4] == ["setting", "time", "least", "hardness"]
    assert "share of the images with the choice" in said and "measure without --quick" in said
    assert "use " in said and "HardPairSampler(model, loss, views" in said
    assert all(f"{row['ratio']:.2f}" in said for row in rows)
    assert not any("token" in row["setting"] for row in rows)


def test_what_it_refuses(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(HVSError, match=r"--candidates: expected more than 2 for simclr, got 2"):
        run(folder, tmp_path / "out", candidates=2)
    with pytest.raises(HVSError, match="did you mean 'simclr'"):
        run(folder, tmp_path / "out", method="simcrl")
    for index in range(1, 5):
        (folder / f"{index}.png").unlink()
    with pytest.raises(HVSError, match=r"--data: expected at least 2 images, to train on and to judge on, got 1"):
        run(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
