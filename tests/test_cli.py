"""The commands on small images: what they write, their exit codes, and one sentence for every mistake."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hvs_aug import cli
from hvs_aug.data.raw_images import RawImages

NOISE = np.random.default_rng(0)


def save(path: Path, height: int = 20, width: int = 24) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(NOISE.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten photographs of noise in two class folders."""
    for index in range(10):
        save(tmp_path / "data" / ("cat", "dog")[index % 2] / f"{index}.jpg")
    return tmp_path / "data"


def pretrain(folder: Path, out: Path, *more: str) -> int:
    small = ("--size", "16", "--epochs", "2", "--batch-size", "4", "--device", "cpu", "--workers", "0")
    return cli.main(["pretrain", "--data", str(folder), "--out", str(out), *small, *more])


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    for command in ("demo", "pretrain", "inspect", "report", "benchmark", "study", "explain"):
        assert command in printed
        with pytest.raises(SystemExit) as stopped:
            cli.main([command, "--help"])
        assert stopped.value.code == 0


def test_pretrain_writes_a_run_and_resumes_only_when_asked(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert pretrain(folder, out) == 0
    printed = capsys.readouterr().out
    assert "10 images, simclr, views of 16 px, 4 candidates each, 4 steps of 4" in printed and "overlap (IoU)" in printed
    assert sorted(path.name for path in out.iterdir()) == ["checkpoint.safetensors", "encoder.safetensors", "metrics.jsonl"]
    assert json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 4
    assert pretrain(folder, out) == 2
    assert "expected a folder without a checkpoint" in capsys.readouterr().err
    assert pretrain(folder, out, "--resume") == 0
    assert pretrain(folder, out, "--resume", "--seed", "5") == 2
    assert "--seed: expected 0, with which the run began, got int 5" in capsys.readouterr().err


def test_pretrain_scores_now_and_then(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert pretrain(folder, out, "--every", "2", "--scoring", "cheap") == 0
    assert pretrain(folder, out, "--resume", "--every", "3") == 2
    assert "--every: expected 2, with which the run began, got int 3" in capsys.readouterr().err
    assert pretrain(folder, tmp_path / "other", "--scoring", "cheep") == 2
    assert "did you mean 'cheap'?" in capsys.readouterr().err and not (tmp_path / "other").exists()


def test_pretrain_chooses_the_size_of_the_views_by_the_images(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["pretrain", "--data", str(folder), "--out", str(tmp_path / "run"), "--epochs", "1", "--device", "cpu"]
    assert cli.main([*arguments, "--policy", "random", "--candidates", "2"]) == 0
    assert "views of 20 px, random views, 1 steps of 10" in capsys.readouterr().out


@pytest.mark.filterwarnings("default")
def test_an_image_that_does_not_decode(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (folder / "cat" / "0.jpg").read_bytes()
    (folder / "cat" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "cat" / "text.jpg").write_text("no image")
    assert pretrain(folder, tmp_path / "raise") == 2
    error = capsys.readouterr().err
    assert ".jpg" in error and "Traceback" not in error and not (tmp_path / "raise").exists()
    assert pretrain(folder, tmp_path / "skip", "--on-error", "skip", "--max-skipped", "0.5") == 0
    captured = capsys.readouterr()
    assert "left out 2 images that do not decode" in captured.out and "cut.jpg" in captured.out
    assert captured.err.startswith("warning: RawImages: ") and captured.err.count("\n") == 1  # the first one alone
    listed = (tmp_path / "skip" / "skipped.txt").read_text().splitlines()
    assert sorted(line.partition(": ")[0] for line in listed) == [str(folder / "cat" / name) for name in ("cut.jpg", "text.jpg")]
    assert pretrain(folder, tmp_path / "many", "--on-error", "skip", "--max-skipped", "0.01") == 2
    error = capsys.readouterr().err
    assert "at most 0 of 12 images that cannot be read, got " in error and "--max-skipped" in error
    assert pretrain(folder, tmp_path / "many", "--max-skipped", "2") == 2
    assert "--max-skipped: expected a share from 0 to 1" in capsys.readouterr().err


def test_ctrl_c_says_where_the_checkpoint_is(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read = RawImages._decode

    def interrupted(self: RawImages, index: int) -> Any:
        if index == 3:
            monkeypatch.setattr(RawImages, "_decode", read)
            os.kill(os.getpid(), signal.SIGINT)
        return read(self, index)

    monkeypatch.setattr(RawImages, "_decode", interrupted)
    out = tmp_path / "run"
    assert pretrain(folder, out) == 130
    assert f"{out / 'checkpoint.safetensors'} holds the run, --resume continues it" in capsys.readouterr().err
    assert pretrain(folder, out, "--resume") == 0
    assert (out / "encoder.safetensors").exists()


@pytest.mark.filterwarnings("default:RawImages")
def test_inspect_leaves_out_what_does_not_decode(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "cat" / "text.jpg").write_text("no image")
    arguments = ["inspect", "--data", str(folder), "--size", "32", "--count", "20", "--out", str(tmp_path / "sheet")]
    assert cli.main(arguments) == 2
    assert "text.jpg" in capsys.readouterr().err
    assert cli.main([*arguments, "--on-error", "skip"]) == 0
    assert "text.jpg is left out" in capsys.readouterr().err
    assert "text.jpg" in (tmp_path / "sheet" / "contact_sheet.html").read_text()
    assert cli.main([*arguments[:-1], str(tmp_path / "other"), "--on-error", "ignore"]) == 2
    assert "--on-error: expected one of raise, skip" in capsys.readouterr().err


def test_inspect_draws_a_contact_sheet(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sheet"
    files = [str(path) for path in sorted(folder.rglob("*.jpg"))[:2]]
    assert cli.main(["inspect", "--data", *files, "--size", "32", "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["contact_sheet.html", "contact_sheet.png"]
    assert f"wrote {out / 'contact_sheet.png'}" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["simclr", "ibot"])
def test_inspect_frames_what_a_checkpoint_finds_hardest(method: str, folder: Path, tmp_path: Path) -> None:
    assert pretrain(folder, tmp_path / "run", "--method", method, "--epochs", "1") == 0
    checkpoint = str(tmp_path / "run" / "checkpoint.safetensors")
    arguments = ["--data", str(folder), "--checkpoint", checkpoint, "--count", "3", "--out", str(tmp_path / "sheet")]
    assert cli.main(["inspect", *arguments]) == 0
    assert "What was chosen" in (tmp_path / "sheet" / "contact_sheet.html").read_text()


def test_explain_prints_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "my_views.py").write_text(
        "from torchvision.transforms import *\nviews = Compose([RandomResizedCrop(32), ToTensor()])\n"
    )
    monkeypatch.chdir(tmp_path)
    assert cli.main(["explain", "my_views:views"]) == 0
    assert "size 32" in capsys.readouterr().out
    assert cli.main(["explain", "my_views:missing"]) == 2


def test_benchmark_passes_its_options_on(monkeypatch: pytest.MonkeyPatch) -> None:
    called: dict[str, Any] = {}
    monkeypatch.setattr("hvs_aug.pretraining.benchmark.benchmark", lambda *given, **named: called.update(named, given=given))
    assert (
        cli.main(["benchmark", "--data", "here", "--method", "dino", "--model", "vit-tiny", "--size", "64", "--device", "cpu"]) == 0
    )
    assert called["given"] == (Path("here"), Path("runs/benchmark")) and str(called["device"]) == "cpu"
    assert (called["method"], called["model"], called["size"], called["quick"]) == ("dino", "vit-tiny", 64, False)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["pretrain", "--data", "missing"], ["missing"]),
        (["pretrain", "--data", "empty"], ["--data: expected at least one image"]),
        (["pretrain", "--data", "text"], ["--data: expected at least one image"]),
        (["pretrain", "--data", "data", "--method", "simclrr"], ["did you mean 'simclr'?"]),
        (["pretrain", "--data", "data", "--policy", "hardst"], ["did you mean 'hardest'?"]),
        (["pretrain", "--data", "data", "--encoder", "resnet19"], ["did you mean 'resnet18'?"]),
        (["pretrain", "--data", "data", "--epochs", "0"], ["--epochs: expected a number of at least 1, got int 0"]),
        (["pretrain", "--data", "data", "--candidates", "1"], ["--candidates: expected at least the 2 views"]),
        (["pretrain", "--data", "data", "--score-scale", "2"], ["--score-scale", "(0, 1]"]),
        (["pretrain", "--data", "data", "--batch-size", "1"], ["--batch-size: expected at least 2 for simclr, got int 1"]),
        (["pretrain", "--data", "data", "--model", "timm:resnet19"], ["--model: expected a model of timm"]),
        (["pretrain", "--data", "data", "--model", "vit-tiny", "--size", "65"], ["--size: expected a multiple", "patch of 16"]),
        (["pretrain", "--data", "data", "--method", "dino", "--size", "30"], ["--size: expected a multiple", "patch of 4"]),
        (["pretrain", "--data", "data", "--method", "ibot", "--model", "resnet8"], ["--model: expected a vision transformer"]),
        (["pretrain", "--data", "data", "--learning-rate", "nan"], ["--learning-rate: expected a finite number above 0"]),
        (["pretrain", "--data", "data", "--seed", "-1"], ["--seed: expected an integer from 0"]),
        (["pretrain", "--data", "data", "--out", "text/a.txt"], ["--out: expected a folder, got text/a.txt, which is a file"]),
        (["pretrain", "--data", "data", "--out", "text/a.txt/run"], ["--out: expected a folder", "a.txt is a file"]),
        (["pretrain", "--data", "data/cat/0.jpg"], ["--data: expected at least 2 images for simclr, got 1"]),
        (["inspect", "--data", "data", "--preset", "byol", "--candidates", "3"], ["--candidates: expected an even number"]),
        (["inspect", "--data", "data", "--seed", str(10**30)], ["--seed: expected an integer"]),
        (["inspect", "--data", "data", "--out", "text/a.txt"], ["--out: expected a folder"]),
        (["demo", "--candidates", "1"], ["--candidates: expected at least the 2 views"]),
        (["demo", "--out", "text/a.txt"], ["--out: expected a folder"]),
        (["benchmark", "--data", "data", "--batch-size", "1"], ["--batch-size: expected at least 2 for simclr"]),
        (["benchmark", "--data", "data", "--model", "resnet1"], ["--model: expected one of", "did you mean 'resnet18'?"]),
        (["benchmark", "--data", "data", "--out", "text/a.txt"], ["--out: expected a folder"]),
        (["explain", "os:path", "--register", "missing.py"], ["--register: expected a Python file"]),
        (["explain", "words"], ["module:object: expected module:object, got 'words'"]),
        (["pretrain", "--data", "data", "--device", "tpux"], ["--device"]),
        (["pretrain", "--data", "data", "--on-error", "ignore"], ["--on-error: expected one of raise, skip"]),
        (["pretrain", "--data", "data", "--resume"], ["no file at", "checkpoint.safetensors"]),
        (["inspect", "--data", "data", "--preset", "simclrs"], ["did you mean 'simclr'?"]),
        (["inspect", "--data", "missing"], ["missing"]),
        (["inspect", "--data", "data", "--checkpoint", "text/a.txt"], ["expected a whole safetensors file"]),
        (["demo", "--method", "dinoo"], ["did you mean 'dino'?"]),
        (["benchmark", "--data", "data", "--method", "simsian"], ["did you mean 'simsiam'?"]),
        (["explain", "no_such_module_here:views"], ["no_such_module_here"]),
    ],
)
def test_mistakes_end_with_exit_code_2_and_a_sentence_and_write_nothing(
    arguments: list[str], words: list[str], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("words")
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"hvs-aug {arguments[0]}: ") and "Traceback" not in error
    assert [word for word in words if word not in error] == [], error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "empty", "text"]


def test_no_command_writes_over_what_is_there(folder: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    (tmp_path / "old").mkdir()
    for command, file in (("demo", "report.html"), ("inspect", "contact_sheet.png"), ("benchmark", "overhead.json")):
        (tmp_path / "old" / file).write_text("kept")
        data = [] if command == "demo" else ["--data", str(folder)]
        assert cli.main([command, *data, "--out", str(tmp_path / "old")]) == 2
        assert f"--out: expected a folder without {file}, got {tmp_path / 'old'}" in capsys.readouterr().err
        assert (tmp_path / "old" / file).read_text() == "kept"
    monkeypatch.chdir(tmp_path)
    for name in ("inspect", "inspect-2", "inspect-3"):
        assert cli.main(["inspect", "--data", str(folder), "--size", "16", "--count", "1"]) == 0
        assert f"runs/{name}/contact_sheet.png" in capsys.readouterr().out


def test_a_reader_that_goes_away_ends_the_command_quietly(folder: Path, tmp_path: Path) -> None:
    small = ("--size", "16", "--epochs", "3", "--batch-size", "4", "--device", "cpu", "--workers", "0")
    call = [sys.executable, "-m", "hvs_aug.cli", "pretrain", "--data", str(folder), "--out", str(tmp_path / "run"), *small]
    run = subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert run.stdout is not None and run.stderr is not None
    assert "10 images" in run.stdout.readline()
    run.stdout.close()
    assert (run.stderr.read(), run.wait()) == ("", 141)
    run.stderr.close()


def test_the_random_state_of_the_caller_is_not_touched(folder: Path, tmp_path: Path) -> None:
    state = torch.get_rng_state()
    assert pretrain(folder, tmp_path / "run") == 0
    assert torch.equal(state, torch.get_rng_state())
