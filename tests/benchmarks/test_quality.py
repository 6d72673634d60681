"""A run of benchmarks.quality goes on where it stopped, and its arms choose as they are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import quality
from hvs_aug import HVSError


@pytest.fixture
def few_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (24, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.arange(24) % 3
    monkeypatch.setattr(quality, "images_of", lambda *_: (images, labels, images[:6], labels[:6]))
    monkeypatch.setattr(quality, "BATCH", 12)


def test_finished_runs_are_kept(few_tiles: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    out = tmp_path / "quality.json"
    words = ["--out", str(out), "--epochs", "1"]
    arms = {name: quality.ARMS[name] for name in ("random views", "cheap")}
    monkeypatch.setattr(quality, "ARMS", arms)
    quality.main([*words, "--seeds", "1"])
    first = json.loads(out.read_text())
    assert [(row["arm"], row["seed"]) for row in first["rows"]] == [("random views", 0), ("cheap", 0)]
    assert all(0 <= row[key] <= 100 for row in first["rows"] for key in ("knn", "knn_augmented"))
    trained: list[int] = []
    train = quality.train
    monkeypatch.setattr(quality, "train", lambda *given: trained.append(given[-1]) or train(*given))
    quality.main([*words, "--seeds", "2", "--resume"])
    second = json.loads(out.read_text())
    assert trained == [1, 1] and second["rows"][:2] == first["rows"]
    knn = [row["knn"] for row in second["rows"] if row["arm"] == "cheap"]
    assert second["summary"]["cheap_knn"] == pytest.approx(sum(knn) / 2)
    with pytest.raises(HVSError, match=r"quality\(--resume\): expected the settings of .*, got another epochs"):
        quality.main([*words[:2], "--epochs", "2", "--resume"])


def test_equal_seeds_train_alike(few_tiles: None) -> None:
    images, *_ = quality.images_of(None, None, 0)
    losses = [quality.train("simclr", quality.ARMS[arm], images, 1, 0)[1] for arm in ("random views", "random views", "full size")]
    assert losses[0] == losses[1] < losses[2]
