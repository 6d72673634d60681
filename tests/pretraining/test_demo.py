"""The demo, on tiles of noise for an epoch: what it writes, and that it says what came out."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest
import torch

from hvs_aug._check import HVSError
from hvs_aug.pretraining import demo as module
from hvs_aug.pretraining.demo import demo
from hvs_aug.pretraining.loop import load_method
from hvs_aug.pretraining.photographs import PhotographTiles


def noise_tiles() -> PhotographTiles:
    def pixels(*shape: int) -> torch.Tensor:
        return torch.randint(0, 256, shape, dtype=torch.uint8)

    labels = torch.arange(3).repeat(8)
    return PhotographTiles(
        ("one", "two", "three"), pixels(24, 3, 24, 24), labels, pixels(24, 3, 24, 24), labels, (pixels(3, 40, 50),) * 3
    )


def test_it_writes_a_report_of_paired_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = demo(tmp_path, epochs=2, seeds=2, tiles=noise_tiles())
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert list(results["accuracy"]) == ["untrained", "random", "hard"]
    values = [value for of in results["accuracy"].values() for values in of.values() for value in values]
    assert len(values) == 3 * 3 * 2 and all(0 <= value <= 100 for value in values)
    random, hard = (results["settings"][name] for name in ("random", "hard"))
    assert random["epochs"] == hard["epochs"] == 2 and random["temperature"] == hard["temperature"] == 0.2
    assert (random["candidates"], random["policy"], hard["scoring"]) == (2, "random", "cheap")
    for name, seed in itertools.product(("random", "hard"), (0, 1)):
        assert len((tmp_path / f"{name}-{seed}" / "metrics.jsonl").read_text().splitlines()) == 2
        assert load_method(tmp_path / f"{name}-{seed}" / "checkpoint.safetensors")[1].seed == seed
    assert results["time_shares"]["random"]["scoring"] == 0 < results["time_shares"]["hard"]["scoring"]
    page = (tmp_path / "report.html").read_text()
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", page) and len(page) < 1_000_000
    assert page.count("data:image/png;base64,") == 4 and page.count("data:image/webp;base64,") == 2  # each light and dark
    assert "processor" in page and "temperature" in page
    assert (tmp_path / "contact_sheet.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    for words in ("seed 1, hard views: ", "untrained", "linear probe", "overlap (IoU)", "time with hard views", "where to go next"):
        assert words in printed


@pytest.mark.parametrize(
    "gained, verdict",
    [
        ([9.0, 8.0, 10.0], "+9.0 (+6.5 to +11.5, 3 seeds): better"),
        ([-9.0, -8.0, -10.0], "-9.0 (-11.5 to -6.5, 3 seeds): worse"),
        ([1.0, -3.0, 4.0], "not distinguishable"),
        ([9.0], "+9.0 (one seed: no interval): not distinguishable"),
    ],
)
def test_it_says_what_can_be_told_apart(gained: list[float], verdict: str) -> None:
    def accuracy(values: list[float]) -> dict[str, list[float]]:
        return dict.fromkeys(module.MEASURES, values)

    random = [50.0] * len(gained)
    found = {"untrained": accuracy([30.0]), "random": accuracy(random), "hard": accuracy([50 + gain for gain in gained])}
    differences = {measure: module._difference(found, measure) for measure in module.MEASURES}
    json.dumps(differences, allow_nan=False)
    text = "\n".join(module._verdict({"accuracy": found, "differences": differences}))
    assert verdict in text and "adds 20.0 points" in text


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(HVSError, match="did you mean 'simclr'"):
        demo(tmp_path / "out", "simclrr")
    assert not (tmp_path / "out").exists()
