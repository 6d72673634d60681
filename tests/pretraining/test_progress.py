"""A line for each epoch where there is no terminal, with the numbers of that epoch."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hvs_aug.pretraining.loop import Pretraining
from hvs_aug.pretraining.progress import Progress, shown

from .runs import Noise, small_run


def test_a_run_writes_one_line_an_epoch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_run().run(tmp_path, stop_at=4)  # amid the second of three epochs
    said = capsys.readouterr()
    assert said.err == "" and len(said.out.splitlines()) == 1
    number = r"[\d,.]+"
    expected = rf"epoch 1/3: loss {number}, overlap {number} \(random {number}\), {number} images/s, \d+ s left"
    assert re.fullmatch(expected, said.out.strip())
    Pretraining.resume(tmp_path / "checkpoint.safetensors", Noise()).run(tmp_path)
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == ["epoch 2/3", "epoch 3/3"]


def test_a_line_has_the_means_of_its_epoch_and_the_time_left() -> None:
    progress = Progress("t", steps_per_epoch=2, epochs=5, images=100)
    progress.advance({"loss": 2.0, "iou": 0.2, "iou_random": 0.4})
    progress.advance({"loss": 4.0, "iou": 0.4, "iou_random": 0.4})
    assert progress.line(20.0) == "epoch 1/5: loss 3.000, overlap 0.300 (random 0.400), 10 images/s, 1 min 20 s left"
    progress.end_epoch()
    progress.advance(None)
    progress.advance(None)
    assert progress.line(0.05) == "epoch 2/5: 4,000 images/s, 0 s left"


def test_no_bar_is_drawn_into_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(shown([1, 2, 3], "cost")) == [1, 2, 3]
    assert capsys.readouterr() == ("cost: 3 rounds\n", "")
