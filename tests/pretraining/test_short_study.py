"""The short study compares at equal arithmetic, goes on where it stopped, and claims no more than its intervals show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from hvs_aug import HVSError
from hvs_aug.pretraining import short_study as module
from hvs_aug.pretraining.short_study import conclusions, short_study, split_images


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    for index in range(20):
        folder = tmp_path / "images" / ("cats", "dogs")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(0, 256, (16, 16, 3), dtype=torch.uint8, generator=generator)
        Image.fromarray(pixels.numpy()).save(folder / f"{index}.png")
    return tmp_path / "images"


def test_each_arm_gets_the_same_arithmetic_and_finished_runs_are_kept(folders: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "_affordable", lambda *_: (4, 1))
    said: list[str] = []
    rows = short_study(folders, tmp_path / "out", say=said.append)
    epochs = {row["arm"]: row["epochs"] for row in rows}
    assert epochs["random"] == 4 and 2 <= epochs["cheap"] < 4 and epochs["all"] == 2
    assert json.loads((tmp_path / "out" / "study.json").read_text())["rows"] == rows
    assert said[0].startswith("simclr, resnet8-strided, views of 16 px: 16 images to train on, 4 to test; 4 epochs")
    monkeypatch.setattr(module, "train", lambda *_: pytest.fail("trained again"))
    assert short_study(folders, tmp_path / "out", say=said.append) == rows
    with pytest.raises(HVSError, match="--out: expected a folder without another study"):
        short_study(folders, tmp_path / "out", size=8, say=said.append)


def test_what_cannot_be_distinguished_is_called_so() -> None:
    def said(cheap: list[float]) -> str:
        scores = {"random": [40.0, 41.0, 42.0], "cheap": cheap, "all": [40.0, 40.0, 43.0]}
        rows = [
            {"arm": arm, "seed": seed, "knn": value, "knn_augmented": value, "probe": value}
            for arm, values in scores.items()
            for seed, value in enumerate(values)
        ]
        lines = conclusions(rows, {"knn": 35.0, "knn_augmented": 20.0, "probe": 30.0})
        return next(line for line in lines if line.startswith("kNN: hard views, CHEAP minus random views")), lines[-1]

    assert said([44.0, 45.0, 46.5])[0].endswith("(+3.4 to +4.9, 3 seeds)")
    assert said([44.0, 40.0, 42.0])[0].endswith("not distinguishable")
    assert "hardly learned" in said([44.0, 45.0, 46.5])[1]


def test_a_budget_buys_seeds_before_epochs_beyond_five() -> None:
    assert module._affordable(1000, epoch=10, seeds=3) == (30, 3)
    assert module._affordable(100, epoch=10, seeds=3) == (9, 1)
    with pytest.raises(HVSError, match="--budget-minutes: expected at least 0.2 minutes"):
        module._affordable(5, epoch=10, seeds=3)


def test_one_class_is_refused(folders: Path) -> None:
    with pytest.raises(HVSError, match="--data: expected at least two class folders"):
        split_images(folders / "cats", 100, None, "simclr")


def test_no_image_is_in_both_parts(folders: Path) -> None:
    split, side = split_images(folders, 100, None, "simclr")
    both = [{bytes(part.image(index).numpy()) for index in range(len(part))} for part in (split.train, split.test)]
    assert side == 16 and len(both[0]) == 16 and len(both[1]) == 4 and not both[0] & both[1]
