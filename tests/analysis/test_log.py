"""Logs get numbers of every n-th choice, and open_log writes files that can be read."""

from __future__ import annotations

import csv
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from hvs_aug import CandidateViews, HardPairSampler, HardViewLoader, HVSError, NTXentLoss, collate_images
from hvs_aug.analysis.log import open_log


def loader(**options: Any) -> HardViewLoader:
    views = CandidateViews.preset("simclr", size=8, candidates=3)
    sampler = HardPairSampler(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), NTXentLoss(0.1), views)
    images = list(torch.randint(0, 256, (12, 3, 12, 12), dtype=torch.uint8))
    return HardViewLoader(DataLoader(images, batch_size=2, collate_fn=collate_images), sampler, **options)


def test_a_loader_logs_every_nth_choice_with_the_numbers_of_that_batch() -> None:
    calls: list[tuple[dict[str, float], int]] = []
    hard = loader(log=lambda numbers, step: calls.append((dict(numbers), step)), log_every=3)
    chosen = [hard.last for _ in hard]
    assert [step for _, step in calls] == [3, 6]
    for numbers, step in calls:
        last = chosen[step - 1]
        assert numbers["hvs/chosen_loss"] == pytest.approx(last.loss.mean().item(), abs=1e-5)
        assert 0 <= numbers["hvs/iou"] <= 1 and numbers["hvs/nonfinite"] == 0
        assert all(type(value) is float for value in numbers.values())


def test_bad_logs_are_refused_before_any_work() -> None:
    with pytest.raises(HVSError, match=r"HardViewLoader\(log\): expected a function"):
        loader(log="tensorboard")
    with pytest.raises(HVSError, match=r"HardViewLoader\(log_every\): expected an integer of at least 1"):
        loader(log=print, log_every=0)


def test_a_csv_log_goes_on_without_lines_of_later_steps(tmp_path: Path) -> None:
    log = open_log("csv", tmp_path, {})
    for step in (10, 20, 30):
        log({"loss": step / 10, **({"iou": 0.5} if step > 10 else {})}, step)
    open_log("csv", tmp_path, {})({"loss": 9.0, "iou": 0.25}, 20)  # resumed at step 10
    with open(tmp_path / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == [{"step": "10", "loss": "1.0", "iou": ""}, {"step": "20", "loss": "9.0", "iou": "0.25"}]


@pytest.mark.parametrize("name, module", [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb")])
def test_a_log_whose_package_is_missing(name: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(HVSError, match=rf"--log: expected {name}, .*\n  hint: pip install {name}"):
        open_log(name, tmp_path / "run", {})
    with pytest.raises(HVSError, match="did you mean 'wandb'"):
        open_log("wand", tmp_path, {})
    assert not (tmp_path / "run").exists()


def test_tensorboard_and_wandb_get_every_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Recorder:
        def __init__(self, *given: Any, **named: Any) -> None:
            self.made, self.calls = (given, named), []

        def __getattr__(self, name: str) -> Any:
            return lambda *given, **named: self.calls.append((name, given, named))

    made: list[Recorder] = []

    def make(*given: Any, **named: Any) -> Recorder:
        made.append(Recorder(*given, **named))
        return made[-1]

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=make))
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=make))
    open_log("tensorboard", tmp_path, {"seed": 3})({"loss": 1.5}, 7)
    assert made[0].made[0] == (tmp_path / "tensorboard",) and ("add_scalar", ("loss", 1.5, 7), {}) in made[0].calls
    open_log("wandb", tmp_path, {"seed": 3})({"loss": 1.5}, 7)
    assert made[1].made[1]["config"] == {"seed": 3} and ("log", ({"loss": 1.5},), {"step": 7}) in made[1].calls
