"""What is said of a way to choose is what its indices are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import choices
from hvs_aug import CandidateViews, ImageBatch
from hvs_aug.pretraining.study import LabelledImages
from hvs_aug.selection.search import exact


def test_the_hardest_pair_has_hardness_one_and_the_easiest_less_than_none() -> None:
    views = CandidateViews.preset("simclr", size=8)
    params = views.make_params(torch.zeros(5, 3, 8, 8, dtype=torch.uint8), torch.Generator().manual_seed(0))
    losses = torch.rand(4, 4, 5)
    losses = (losses + losses.transpose(0, 1)) * (1 - torch.eye(4))[..., None]
    found = [
        choices.described(indices, params, losses, views.slots)
        for indices in (exact(losses, views.slots), exact(-losses, views.slots))
    ]
    assert found[0]["hardness"] == pytest.approx(1) and found[1]["hardness"] < 0


def test_each_point_has_each_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pixels = ImageBatch.of(torch.randint(0, 256, (24, 3, 16, 16), dtype=torch.uint8))
    split = LabelledImages(pixels, torch.zeros(24), pixels, torch.zeros(24))
    monkeypatch.setattr(choices, "images_of", lambda *_: split)
    choices.main(["--quick", "--out", str(tmp_path / "choices.json")])
    rows = json.loads((tmp_path / "choices.json").read_text())["rows"]
    assert {row["way"] for row in rows} == set(choices.WAYS) and (tmp_path / "choices.png").is_file()
    assert all(row["agreement"] == 1 for row in rows if row["way"].startswith("full"))  # one batch: other batches are this one
