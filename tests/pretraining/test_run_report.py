"""The page of a run, from the files of a run and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from hvs_aug import cli
from hvs_aug.pretraining.labelled import EVALUATION


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for index in range(12):
        folder = tmp_path / "data" / ("<script>alert(1)", "dog")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(0, 256, (20, 24, 3), dtype=torch.uint8) // (1 + 3 * (index % 2))
        Image.fromarray(pixels.numpy()).save(folder / f"<b>{index}.png")
    return tmp_path / "data"


def test_a_run_with_log_and_evaluation_and_its_page(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    small = ["--size", "16", "--epochs", "4", "--batch-size", "4", "--device", "cpu", "--workers", "0"]
    assert cli.main(["pretrain", "--data", str(data), "--out", str(run), *small, "--log", "csv", "--eval", str(data)]) == 0
    said = capsys.readouterr().out
    found = json.loads((run / EVALUATION).read_text())
    assert f"kNN {found['kNN']:.1f} %, linear probe {found['linear probe']:.1f} % of 12 images of 2 classes" in said
    logged = (run / "log.csv").read_text().splitlines()
    assert logged[0].startswith("step,epoch,loss") and [line.partition(",")[0] for line in logged[1:]] == ["10", "12"]
    assert cli.main(["report", str(run), "--data", str(data), "--count", "2"]) == 0
    page = (run / "report.html").read_text()
    assert len(page) < 1_000_000 and "<script" not in page and "<b>" not in page and "&lt;b&gt;0.png" in page
    assert "http://" not in page and "https://" not in page
    for words in ("simclr", "Training loss", "linear probe", "processor", "batch_size", "overlap (IoU)"):
        assert words in page
    (run / "metrics.jsonl").write_text((run / "metrics.jsonl").read_text() + '{"step": 13, "lo')  # under way
    assert cli.main(["report", str(run), "--out", str(tmp_path / "page")]) == 0
    assert (tmp_path / "page" / "report.html").exists()


def test_what_is_no_run_is_refused(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", str(data)]) == 2
    assert "RUN: expected a run, a folder with metrics.jsonl" in capsys.readouterr().err
    (tmp_path / "metrics.jsonl").write_text("")
    assert cli.main(["report", str(tmp_path)]) == 2
    assert "RUN: expected a run with a measured step" in capsys.readouterr().err
    flat = ["pretrain", "--data", str(data), "--out", str(tmp_path / "run")]
    assert cli.main([*flat, "--eval", str(data / "dog")]) == 2
    assert "--eval: expected at least two class folders" in capsys.readouterr().err
    assert cli.main([*flat, "--log", "tensorbord"]) == 2
    assert "did you mean 'tensorboard'?" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_a_transform_of_ones_own(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "own_views.py").write_text(
        "from torchvision.transforms import *\n"
        "views = Compose([RandomResizedCrop(16), ToTensor()])\n"
        "large = Compose([RandomResizedCrop(20), ToTensor()])\n"
    )
    monkeypatch.chdir(tmp_path)
    small = ["--epochs", "1", "--batch-size", "4", "--device", "cpu", "--workers", "0", "--out", "run"]
    call = ["pretrain", "--data", str(data), "--transform", "own_views:views", *small]
    assert cli.main([*call, "--size", "32"]) == 2
    assert "--size: expected 16 pixels, the size of --transform, got int 32" in capsys.readouterr().err
    assert cli.main(call) == 0
    assert "views of 16 px" in capsys.readouterr().out
    assert cli.main([*call, "--resume"]) == 0
    assert cli.main(["inspect", "--data", str(data), "--checkpoint", "run/checkpoint.safetensors"]) == 2  # runs no code by itself
    assert "--transform: expected own_views:views, with which run/checkpoint.safetensors was" in capsys.readouterr().err
    other = [word.replace("views:views", "views:large") for word in call]
    assert cli.main([*other, "--resume"]) == 2
    assert "--transform: expected own_views:views, with which run/checkpoint.safetensors was" in capsys.readouterr().err
    assert cli.main(["pretrain", "--data", str(data), "--transform", "own_views:none", *small[:-1], "other"]) == 2
    assert "--transform: expected an object of own_views" in capsys.readouterr().err
    assert cli.main(["pretrain", "--data", str(data), "--method", "ibot", "--transform", "own_views:large", *small[:-1], "x"]) == 0
