"""The demo, on tiles of noise for an epoch: what it writes, and that it says what came out."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from hvs_aug._check import HVSError
from hvs_aug.pretraining import demo as module
from hvs_aug.pretraining.demo import demo
from hvs_aug.pretraining.photographs import PhotographTiles


def noise_tiles() -> PhotographTiles:
    def pixels(*shape: int) -> torch.Tensor:
        return torch.randint(0, 256, shape, dtype=torch.uint8)

    labels = torch.arange(3).repeat(8)
    return PhotographTiles(
        ("one", "two", "three"), pixels(24, 3, 24, 24), labels, pixels(24, 3, 24, 24), labels, (pixels(3, 40, 50),) * 3
    )


def test_it_writes_a_report_of_two_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    results = demo(tmp_path, epochs=2, progress=False, tiles=noise_tiles())
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert list(results["accuracy"]) == ["untrained", "random", "hard"]
    assert all(0 <= value <= 100 for of in results["accuracy"].values() for value in of.values())
    assert results["settings"]["random"]["epochs"] == results["settings"]["hard"]["epochs"] == 2
    assert results["settings"]["random"]["seed"] == results["settings"]["hard"]["seed"]
    assert (results["settings"]["random"]["candidates"], results["settings"]["random"]["policy"]) == (2, "random")
    for name in ("random", "hard"):
        assert set(results["time_shares"][name]) == {"loading", "views", "scoring", "search", "training"}
        assert len((tmp_path / name / "metrics.jsonl").read_text().splitlines()) == 2
    assert results["time_shares"]["random"]["scoring"] == 0 < results["time_shares"]["hard"]["scoring"]
    page = (tmp_path / "report.html").read_text()
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", page) and page.count("data:image/png;base64,") == 2
    assert (tmp_path / "contact_sheet.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    for words in ("untrained", "kNN, augmented queries", "linear probe", "overlap (IoU)", "time with hard views", "report.html"):
        assert words in printed
    monkeypatch.setattr(module, "_write_report", lambda *_: None)
    demo(tmp_path, epochs=1, progress=False, tiles=noise_tiles())  # again, in the same folder
    assert len((tmp_path / "hard" / "metrics.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("gained, words", [(9.0, "ahead by 9.0"), (-9.0, "behind by 9.0"), (1.0, "come out equal: +1.0")])
def test_it_says_which_views_won(gained: float, words: str) -> None:
    name = "kNN, augmented queries"
    accuracy = {"untrained": {name: 30.0}, "random": {name: 50.0}, "hard": {name: 50.0 + gained}}
    text = "\n".join(module._verdict({"accuracy": accuracy, "standard_error": 2.0}))
    assert words in text and "+20.0 points by training with random views" in text


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(HVSError, match="did you mean 'simclr'"):
        demo(tmp_path / "out", "simclrr")
    assert not (tmp_path / "out").exists()
