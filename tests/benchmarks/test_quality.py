"""The study trains each run once, goes on where it stopped, and claims what paired runs show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import quality
from hvs_aug import HVSError, ImageBatch
from hvs_aug.pretraining.study import LabelledImages, Study


@pytest.fixture
def few_tiles(monkeypatch: pytest.MonkeyPatch) -> LabelledImages:
    generator = torch.Generator().manual_seed(0)
    pixels = ImageBatch.of(torch.randint(0, 256, (30, 3, 32, 32), dtype=torch.uint8, generator=generator))
    labels = torch.arange(30) % 3
    images = LabelledImages(pixels, labels, pixels[:6], labels[:6])
    monkeypatch.setattr(quality, "images_of", lambda *_: images)
    monkeypatch.setattr(quality, "STUDIES", {"simclr": Study("simclr", batch_size=12)})
    monkeypatch.setattr(quality, "plan", lambda: [quality.Run("simclr", arm, 1, 0) for arm in ("random", "cheap")])
    return images


def test_finished_runs_are_kept(few_tiles: LabelledImages, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    out = tmp_path / "quality.json"
    quality.main(["--out", str(out), "--only", "random"])
    first = json.loads(out.read_text())
    assert [row["arm"] for row in first["rows"] if row["kind"] == "run"] == ["random"]
    assert {row["arm"]: row["ratio"] > 1 for row in first["rows"] if row["kind"] == "arithmetic"} == {
        "random": False,
        "cheap": True,
    }
    trained: list[Any] = []
    train = quality.train
    monkeypatch.setattr(quality, "train", lambda *given: trained.append(given[1]) or train(*given))
    quality.main(["--out", str(out)])
    second = json.loads(out.read_text())
    assert trained == [quality.ARMS["cheap"]] and second["rows"][: len(first["rows"])] == first["rows"]
    assert all(0 <= row[key] <= 100 for row in second["rows"] if row["kind"] == "run" for key in ("knn", "probe", "transfer"))
    with pytest.raises(HVSError, match="expected the settings of .*, got another images"):
        monkeypatch.setattr(quality, "images_of", lambda *_: few_tiles.validation())
        quality.main(["--out", str(out)])


def test_unseen_classes_are_not_trained_on(few_tiles: LabelledImages, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen, unseen = quality.halves(few_tiles)
    assert set(seen.train_labels.tolist()) == set(seen.test_labels.tolist()) == {0}
    assert set(unseen.train_labels.tolist()) == set(unseen.test_labels.tolist()) == {1, 2}
    trained: list[ImageBatch] = []
    train = quality.train
    monkeypatch.setattr(quality, "train", lambda *given: trained.append(given[2]) or train(*given))
    monkeypatch.setattr(quality, "STUDIES", {"simclr": Study("simclr", batch_size=5)})
    out = tmp_path / "unseen.json"
    quality.main(["--out", str(out), "--unseen", "--only", "random"])
    assert len(trained[0]) == 10 and json.loads(out.read_text())["settings"]["test"] == 4


def test_a_longer_study_keeps_its_proportions(few_tiles: LabelledImages, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(quality, "EPOCHS", 2)
    out = tmp_path / "longer.json"
    quality.main(["--out", str(out), "--epochs", "3", "--encoder", "resnet8", "--only", "random"])
    document = json.loads(out.read_text())
    assert {(row["epochs"], row["settings"]["encoder"]) for row in document["rows"] if row["kind"] == "run"} == {(2, "resnet8")}
    assert quality.scaled(26, 100) == 1300


def test_a_claim_is_the_paired_difference_with_its_interval() -> None:
    rows = [
        {
            "kind": "run",
            "method": "simclr",
            "arm": arm,
            "epochs": 20,
            "seed": seed,
            "knn": knn,
            "knn_augmented": 0,
            "probe": 0,
            "transfer": 0,
        }
        for arm, scores in (("random", (40.0, 42.0, 41.0)), ("cheap", (44.0, 45.0, 46.0, 60.0)))
        for seed, knn in enumerate(scores)
    ]
    found = quality.summary_of(rows)
    assert found["simclr_gain_equal_epochs"] == 4 and found["simclr_gain_equal_epochs_seeds"] == 3
    assert found["simclr_gain_equal_epochs_low"] == pytest.approx(4 - 4.3027 / 3**0.5, abs=1e-3)  # t of 2 degrees, deviation 1
    assert not any(name.startswith("byol") for name in found)
    others = [row | {"method": "byol", "knn": row["knn"] + 2 * (row["arm"] == "cheap")} for row in rows]
    pooled = quality.summary_of([*rows, *others])
    assert pooled["pooled_gain_equal_epochs"] == pytest.approx(5) and pooled["pooled_gain_equal_epochs_seeds"] == 6


def test_an_arm_has_the_time_claim_only_where_its_time_fits_the_budget() -> None:
    def rows(ratio: float) -> list[dict[str, Any]]:
        measured = dict.fromkeys(("knn", "knn_augmented", "probe", "transfer"), 1.0)
        runs = [
            {"kind": "run", "method": "simclr", "arm": arm, "epochs": epochs, "seed": seed, **measured}
            for arm, epochs in (("random", 25), ("cheap", 20))
            for seed in (0, 1)
        ]
        times = [
            {"kind": "time", "method": "simclr", "arm": arm, "ratio": value} for arm, value in (("cheap", ratio), ("all", 2.0))
        ]
        return [*runs, *times]

    assert "simclr_gain_equal_time" in quality.summary_of(rows(1.25))
    assert "simclr_gain_equal_time" not in quality.summary_of(rows(1.26))
