"""The soak sees a leak, and a short form of it: killed runs that are resumed, and modules that draw apart."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
import torch

from benchmarks import soak

CONTEXT = multiprocessing.get_context("forkserver")  # in a forked process a backward pass fails where one has run before


@pytest.mark.parametrize("leak", [0, 100])
def test_a_leak_is_told_from_noise(leak: int) -> None:
    noise = torch.randn(200, generator=torch.Generator().manual_seed(0)) * 1e4
    slope, error = soak.memory_slope([leak * step * soak.EVERY + float(noise[step]) for step in range(200)])
    assert abs(slope - leak) < 3 * error and error < 20


def test_files_and_memory_that_stay_are_counted() -> None:
    watch, held, kept = soak.Watch(), [], []
    for step in range(20 * soak.EVERY):
        if step % soak.EVERY == 0:
            held.append(open("/dev/null"))  # noqa: SIM115
            kept.append(bytearray(4000 * soak.EVERY))
        watch.step()
    row = watch.row("leaking")
    for file in held:
        file.close()
    assert row["heap_per_step"] == pytest.approx(4000, rel=0.2) and len(kept) == 20
    assert row["files_leaked"] >= 10 and row["threads_leaked"] == row["segments_leaked"] == 0


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_killed_runs_are_resumed_as_if_nothing_had_been(tmp_path: Path) -> None:
    rows = soak.kill_runs(tmp_path, 2, CONTEXT, ways=("half written", "moment"))
    assert [row["survived"] for row in rows] == [True, True] and rows[0]["resumed_at"] == 16


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_no_draw_is_shared(tmp_path: Path) -> None:
    row = soak.shared_draws(tmp_path, 2, CONTEXT, epochs=2, workers=2, modules=2, images=10)
    assert (row["draws"], row["shared"]) == (2 * 5 * 2 * 20, 0)
