"""What breaks in a run ends it at once, with its cause, and leaves the last checkpoint; what does not is said and goes on."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from hvs_aug import HVSError, RawImages, cli
from hvs_aug.pretraining.loop import Pretraining

from .runs import Noise, saved, settings


class Deadly(Noise):
    """Ends the process that reads an image as soon as there is a file of this name."""

    def __init__(self, flag: Path) -> None:
        super().__init__()
        self.flag = flag

    def __getitem__(self, index: int, /) -> tuple[Tensor, int]:
        if self.flag.exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_killed_worker_ends_the_run_and_the_last_checkpoint_resumes(tmp_path: Path) -> None:
    images = Deadly(tmp_path / "now")
    run = Pretraining(settings(), images, workers=1)
    save = run.save
    run.save = lambda path: (save(path), images.flag.touch())[0]  # type: ignore[method-assign]
    before = signal.getsignal(signal.SIGTERM)
    start = time.monotonic()
    with pytest.raises(HVSError, match=r"got one that died \(DataLoader worker.*(killed by signal|exited unexpectedly)"):
        run.run(tmp_path / "out", progress=False)
    assert time.monotonic() - start < 60 and signal.getsignal(signal.SIGTERM) is before
    assert saved(tmp_path / "out")[1]["step"] == 3
    resumed = Pretraining.resume(tmp_path / "out" / "checkpoint.safetensors", Noise())
    resumed.run(tmp_path / "out", progress=False)
    assert resumed.step == resumed.total


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    for index in range(8):
        pixels = np.random.default_rng(index).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "data" / f"{index}.png")
    return tmp_path / "data"


def pretrain(folder: Path, out: Path, *more: str) -> int:
    small = ("--size", "16", "--epochs", "2", "--batch-size", "4", "--device", "cpu", "--workers", "0")
    return cli.main(["pretrain", "--data", str(folder), "--out", str(out), *small, *more])


def mounted(place: Path, options: str) -> Iterator[Path]:
    """A file system of its own at this place, where this user may mount one."""
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("a file system cannot be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    yield from mounted(tmp_path / "small", "size=64k")


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder that may not be written, by root neither."""
    if os.geteuid():
        (tmp_path / "read-only").mkdir(mode=0o500)
        yield tmp_path / "read-only"
    else:
        yield from mounted(tmp_path / "read-only", "ro")


def test_a_full_disk_is_said_and_leaves_no_half_file(folder: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = small_disk / "run"
    assert pretrain(folder, out) == 2
    assert f"hvs-aug pretrain: No space left on device: {out / 'checkpoint.safetensors'}" in capsys.readouterr().err
    assert not [path.name for path in out.iterdir() if "checkpoint" in path.name]


def test_a_file_that_may_not_grow_ends_the_run_and_leaves_the_checkpoint_before(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert pretrain(folder, out, "--epochs", "1") == 0
    checkpoint = out / "checkpoint.safetensors"
    before = checkpoint.read_bytes()
    (out / "encoder.safetensors").unlink()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 15, limits[1]))
    try:
        assert pretrain(folder, out, "--epochs", "1", "--resume") == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert f"File too large: {out / 'encoder.safetensors'}" in capsys.readouterr().err
    assert checkpoint.read_bytes() == before
    assert pretrain(folder, out, "--epochs", "1", "--resume") == 0
    assert sorted(path.name for path in out.iterdir()) == ["checkpoint.safetensors", "encoder.safetensors", "metrics.jsonl"]


@pytest.mark.filterwarnings("ignore:RawImages. .* is left out:UserWarning")
@pytest.mark.parametrize("name", ["metrics.jsonl", "skipped.txt"])
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_disk_that_is_full_amid_a_run_is_said_with_the_file(
    name: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "cut.png").write_bytes((folder / "0.png").read_bytes()[:100])
    out = tmp_path / "run"
    assert pretrain(folder, out, "--epochs", "1", "--on-error", "skip") == 0
    before = (out / "checkpoint.safetensors").read_bytes()
    (out / name).unlink()
    (out / name).symlink_to("/dev/full")
    (out / "encoder.safetensors").unlink()
    images = RawImages(folder, on_error="skip")
    run = Pretraining(settings(epochs=1), images)
    with pytest.raises(OSError, match="No space left on device") as caught:
        run.run(out, progress=False, log_every=1)
    assert caught.value.filename == str(out / name)
    assert (out / "checkpoint.safetensors").read_bytes() == before and not (out / "encoder.safetensors").exists()


def test_a_folder_that_may_not_be_written(folder: Path, read_only: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pretrain(folder, read_only / "run") == 2
    error = capsys.readouterr().err
    assert f"--out: expected a folder that can be written, got {read_only / 'run'}" in error and "Traceback" not in error


def score_alone(rank: int, store: str, pipe: object) -> None:
    """Rank 1 dies while rank 0 asks it for negatives."""
    import torch.distributed as dist
    from torch import nn

    from hvs_aug import HardPairSampler, HVSError, NTXentLoss, Scoring
    from tests.selection.models import images, pairs

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    sampler = HardPairSampler(
        nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4)),
        NTXentLoss(0.1, gather=True),
        pairs(),
        scoring=Scoring(wait=3.0),
        generator=torch.Generator().manual_seed(0),
    )
    sampler(images())
    if rank == 1:
        os._exit(1)
    before = sampler.state_dict()
    start = time.monotonic()
    try:
        sampler(images())
    except (HVSError, RuntimeError) as error:
        after = sampler.state_dict()
        is_same = torch.equal(before["generator"], after["generator"]) and before["step"] == after["step"]
        pipe.send((str(error), is_same, time.monotonic() - start))  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_rank_that_dies_is_noticed_by_the_others(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    ranks = [context.Process(target=score_alone, args=(rank, str(tmp_path / "store"), theirs)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    assert ours.poll(120), "rank 0 hangs"
    message, is_same, seconds = ours.recv()
    for rank in ranks:
        rank.join()
    assert is_same and seconds < 30 and ("got nothing from process 1" in message or "onnection" in message)
