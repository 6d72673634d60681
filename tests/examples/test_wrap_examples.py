"""The examples on a stand-in for a checkout, written here: what they do apart from the repos themselves."""

from __future__ import annotations

import runpy
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import hvs_aug

from ..dropin.photographs import save_photographs

EXAMPLES = Path(__file__).parents[2] / "examples"
# As small a script as has what wrap_simclr.py looks for.
SCRIPT = """
import argparse

import torch
from torchvision import datasets, transforms


class ContrastiveLearningViewGenerator:
    def __init__(self, base_transform, n_views):
        self.base_transform, self.n_views = base_transform, n_views

    def __call__(self, image):
        return [self.base_transform(image) for _ in range(self.n_views)]


class SimCLR:
    def __init__(self, model, args):
        self.model, self.args = model, args

    def train(self, train_loader, *, epochs=1):
        for _ in range(epochs):
            for views, labels in train_loader:
                yield train_loader, views, labels


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    args = parser.parse_args(namespace=argparse.Namespace(temperature=0.2, fp16_precision=False))
    pipeline = transforms.Compose([transforms.RandomResizedCrop(16), transforms.ToTensor()])
    dataset = datasets.ImageFolder(args.data, ContrastiveLearningViewGenerator(pipeline, 2))
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 4))
    loader = torch.utils.data.DataLoader(dataset, batch_size=3)
    steps.extend(SimCLR(model, args).train(loader, epochs=2))


steps = []
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "run.py").write_text(SCRIPT)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    # The real one would replace parts of torch in this process.
    monkeypatch.setitem(sys.modules, "cpu_compat", types.SimpleNamespace(install=lambda: None))
    yield tmp_path
    for name in ("run", "checkout"):
        sys.modules.pop(name, None)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> list[Any]:
    monkeypatch.setattr(sys, "argv", ["wrap_simclr.py", *arguments])
    runpy.run_path(str(EXAMPLES / "wrap_simclr.py"), run_name="__main__")
    steps: list[Any] = sys.modules["run"].steps
    return steps


def test_the_scripts_function_gets_hard_views(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = save_photographs(checkout / "data")
    steps = run(monkeypatch, "--checkout", str(checkout), "--", str(data))
    assert len(steps) == 4
    for loader, views, labels in steps:
        assert isinstance(loader, hvs_aug.HardViewLoader) and loader.hard_pairs.loss.temperature == 0.2
        assert [view.shape for view in views] == [(3, 3, 16, 16)] * 2 and labels.shape == (3,)
    assert loader.hard_pairs.step == 4 and loader.hard_pairs.slots[0].candidates == 4


def test_a_folder_that_is_no_checkout(checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, "--checkout", str(checkout / "absent"), "--", "data")
    assert "no run.py in" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch)
    assert "--checkout" in capsys.readouterr().err
