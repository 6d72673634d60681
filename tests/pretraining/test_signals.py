"""Signals end a run after a whole step, or leave a checkpoint and let it go on; its workers are not disturbed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hvs_aug import cli
from hvs_aug.cli import pretrain
from hvs_aug.pretraining.loop import Pretraining
from hvs_aug.pretraining.signals import Interrupted, deferred_signals

from .runs import Noise, saved, settings, small_run
from .test_loop import assert_equal_runs

NUMBERS = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]


class Signalled(Noise):
    """Sends its own process a signal while the fifth batch is read."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def __getitem__(self, index: int, /) -> tuple[Tensor, int]:
        if len(self.asked) == 18:
            os.kill(os.getpid(), self.number)
        return super().__getitem__(index)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_leaves_a_checkpoint_of_a_whole_step(number: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = [signal.getsignal(each) for each in NUMBERS]
    run = small_run(images=Signalled(number))
    steps: list[int] = []
    save = run.save
    run.save = lambda path: (steps.append(run.step), save(path))[1]  # type: ignore[method-assign]
    if number == signal.SIGUSR1:
        run.run(tmp_path / "parts", progress=False)
        assert steps == [3, 5, 6, 9] and "SIGUSR1: writing a checkpoint after this step" in capfd.readouterr().err
    else:
        with pytest.raises(Interrupted) as caught:
            run.run(tmp_path / "parts", progress=False)
        assert steps == [3, 5] and (caught.value.step, caught.value.signal) == (5, number)
        assert caught.value.checkpoint == tmp_path / "parts" / "checkpoint.safetensors"
        assert "stopping after this step" in capfd.readouterr().err
        Pretraining.resume(caught.value.checkpoint, Noise()).run(tmp_path / "parts", progress=False)
    assert [signal.getsignal(each) for each in NUMBERS] == before
    small_run().run(tmp_path / "whole", progress=False)
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")


def test_a_second_sigterm_changes_nothing_and_ctrl_c_after_it_stops_at_once() -> None:
    with deferred_signals() as asked:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked.stop == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_second_ctrl_c_stops_at_once() -> None:
    class Twice(Noise):
        def __getitem__(self, index: int, /) -> tuple[Tensor, int]:
            os.kill(os.getpid(), signal.SIGINT)
            return super().__getitem__(index)

    images = Twice()
    with pytest.raises(KeyboardInterrupt) as caught:
        small_run(images=images).run(progress=False)
    assert not isinstance(caught.value, Interrupted) and len(images.asked) == 1


class Slow(Noise):
    def __getitem__(self, index: int, /) -> tuple[Tensor, int]:
        time.sleep(0.02)
        return super().__getitem__(index)


def train_in_a_group(out: Path, errors: Path) -> None:
    """The command, in a process group of its own as a job has it, on slow images."""
    os.setpgid(0, 0)
    os.dup2(os.open(errors, os.O_CREAT | os.O_WRONLY), 2)
    sys.stderr = open(2, "w", buffering=1)  # noqa: SIM115 - pytest's own captures what is printed
    torch.set_num_threads(1)
    pretrain.run = lambda arguments: Pretraining(settings(epochs=50), Slow(), workers=2).run(out, progress=False) and None
    os._exit(cli.main(["pretrain", "--data", "unused"]))


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_signals_to_the_whole_job_leave_the_workers_at_work(tmp_path: Path) -> None:
    out, errors = tmp_path / "out", tmp_path / "errors"
    # Not forked: in a forked process a backward pass fails where one with several threads has run before.
    child = multiprocessing.get_context("forkserver").Process(target=train_in_a_group, args=(out, errors))
    child.start()
    assert child.pid is not None
    try:
        for number in (signal.SIGUSR1, signal.SIGTERM):
            deadline = time.monotonic() + 60
            while not (out / "checkpoint.safetensors").exists():
                assert child.is_alive() and time.monotonic() < deadline, errors.read_text()
                time.sleep(0.05)
            os.killpg(child.pid, number)
            time.sleep(0.2)
        child.join(60)
        assert child.exitcode == 143, errors.read_text()
    finally:
        child.kill()
    said = errors.read_text()
    step = saved(out)[1]["step"]
    assert f"stopped after step {step}; {out / 'checkpoint.safetensors'} holds the run, --resume continues it" in said
    assert "SIGUSR1: writing a checkpoint" in said and "Traceback" not in said
