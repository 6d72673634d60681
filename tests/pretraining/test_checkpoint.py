"""Files that are whole or not there, and refused where they are something else."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hvs_aug._check import HVSError
from hvs_aug.pretraining.checkpoint import flatten_optimizer, load_checkpoint, restore_optimizer, save_checkpoint, whole_file


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 4).t(), "b": torch.arange(3), "c": torch.tensor(True)}
    save_checkpoint(tmp_path / "new" / "x", tensors, {"step": 3, "names": ["é"]})
    found, state = load_checkpoint(tmp_path / "new" / "x")
    assert state == {"step": 3, "names": ["é"]} and found.keys() == tensors.keys()
    assert all(torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in tensors.items())
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x"]
    (tmp_path / "plain").touch()
    assert (tmp_path / "new" / "x").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="disk"), whole_file(path) as partial:
        partial.write_text("half of the n")
        raise RuntimeError("disk")
    assert path.read_text() == "old" and [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_what_a_killed_process_left_half_written_goes(tmp_path: Path) -> None:
    path, killed = tmp_path / "file", subprocess.Popen(["true"])
    killed.wait()
    left, others = tmp_path / f".file.{killed.pid}", [tmp_path / f".file.{os.getppid()}", tmp_path / f".other.{killed.pid}"]
    for half in (left, *others):
        half.write_text("half of")
    with whole_file(path) as partial:
        partial.write_text("whole")
    assert sorted(tmp_path.iterdir()) == sorted([path, *others])


def test_an_optimiser_continues_bit_for_bit() -> None:
    def step(weights: list[torch.Tensor], optimizer: torch.optim.Optimizer, count: int) -> None:
        for number in range(count):
            optimizer.zero_grad()
            sum((weight * (number + 1)).square().sum() for weight in weights).backward()
            optimizer.step()

    start = [torch.randn(3), torch.randn(2, 2)]
    first = [weight.clone().requires_grad_() for weight in start]
    optimizer = torch.optim.AdamW([{"params": first[:1], "weight_decay": 0.1}, {"params": first[1:]}], lr=0.1)
    step(first, optimizer, 3)
    second = [weight.detach().clone().requires_grad_() for weight in first]
    other = torch.optim.AdamW([{"params": second[:1], "weight_decay": 0.1}, {"params": second[1:]}], lr=0.1)
    restore_optimizer(other, {name: value.clone() for name, value in flatten_optimizer(optimizer).items()})
    step(first, optimizer, 2)
    step(second, other, 2)
    assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(HVSError, match=r"expected a checkpoint, got no file at .*missing"):
        load_checkpoint(tmp_path / "missing")
    (tmp_path / "text").write_text("no tensors here")
    with pytest.raises(HVSError, match="expected a whole safetensors file"):
        load_checkpoint(tmp_path / "text")
    save_file({"a": torch.zeros(2)}, tmp_path / "other")
    with pytest.raises(HVSError, match=r"expected a file of format hvs_aug.checkpoint/1, got .*other of format None"):
        load_checkpoint(tmp_path / "other")
    save_checkpoint(tmp_path / "whole", {"a": torch.randn(100)}, {})
    (tmp_path / "cut").write_bytes((tmp_path / "whole").read_bytes()[:-50])
    with pytest.raises(HVSError, match="expected a whole safetensors file"):
        load_checkpoint(tmp_path / "cut")
