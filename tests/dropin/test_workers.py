"""Workers of a wrapped loader: however they start, they make the same candidates; one that dies ends the epoch with its cause."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import time
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, get_worker_info

import hvs_aug
from hvs_aug import NTXentLoss
from hvs_aug._workers import batches_of
from tests.test_copies import TwoViews

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 8))


def epoch(views: str, **options: Any) -> list[Tensor]:
    """All that an epoch yields, and all candidates, drawn or made by the workers."""
    loader = DataLoader(TwoViews(), 4, shuffle=True, generator=torch.Generator().manual_seed(5), **options)
    generator, found = torch.Generator().manual_seed(7), []
    hard = hvs_aug.wrap(loader, model=model(), loss=NTXentLoss(0.5), generator=generator, views=views)
    for chosen, labels in hard:
        drawn = [hard.last.drawn.boxes, *hard.last.drawn.drawn.values()] if hard.last.drawn is not None else []
        found += [*chosen, labels, hard.last.indices, *hard.last.extras.values(), *drawn]
    return found


@pytest.mark.parametrize(("context", "views"), [("forkserver", "converted"), ("spawn", "own")])
def test_however_workers_start_they_make_the_same_views(context: str, views: str) -> None:
    expected = epoch(views, num_workers=0 if views == "converted" else 1)
    found = epoch(views, num_workers=1, multiprocessing_context=context)
    assert len(found) == len(expected) >= 20 and all(map(torch.equal, found, expected))


class Deadly(TwoViews):
    """Its workers die at one of the images."""

    is_deadly = True

    def __getitem__(self, index: int) -> tuple[list[Tensor], int]:
        if self.is_deadly and index == 9 and get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def test_a_killed_worker_ends_the_epoch_and_the_next_one_goes_on() -> None:
    dataset, scorer = Deadly(), model()
    loader = DataLoader(dataset, 4, num_workers=1)

    def labels() -> list[int]:
        return [label for _, labels in hvs_aug.wrap(loader, model=scorer, loss=NTXentLoss(0.5)) for label in labels.tolist()]

    start = time.monotonic()
    with pytest.raises(RuntimeError, match=r"DataLoader worker \(pid.*(killed by signal: Killed|exited unexpectedly)"):
        labels()
    assert time.monotonic() - start < 60
    dataset.is_deadly = False
    assert labels() == list(range(16))


class Losing:
    """Loses its batch; its worker ends a moment later, or does not."""

    def __init__(self, code: int | None, error: Exception) -> None:
        self.error, self._workers = error, [multiprocessing.get_context("fork").Process(target=self.end, args=(code,))]
        self._workers[0].start()

    @staticmethod
    def end(code: int | None) -> None:
        time.sleep(60 if code is None else 0.1)
        os.kill(os.getpid(), signal.SIGKILL) if code == -9 else os._exit(code or 0)

    def __iter__(self) -> Losing:
        return self

    def __next__(self) -> Any:
        raise self.error


@pytest.mark.parametrize(
    ("code", "error", "said"),
    [
        (-9, ConnectionResetError("reset"), r"RuntimeError: DataLoader worker \(pid \d+\) is killed by signal: Killed\."),
        (3, EOFError("end"), r"RuntimeError: DataLoader worker \(pid \d+\) exited unexpectedly, with code 3\."),
        (0, EOFError("end"), "EOFError: end"),
        (None, ConnectionResetError("reset"), "ConnectionResetError: reset"),
        (-9, OSError("Caught OSError in DataLoader worker process 0."), "OSError: Caught OSError in"),
    ],
)
def test_a_batch_that_is_lost_with_its_worker_is_said_so(
    code: int | None, error: Exception, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if code is None:
        monkeypatch.setattr("hvs_aug._workers._SECONDS", 0.1)
    loader = Losing(code, error)
    with pytest.raises((RuntimeError, OSError, EOFError)) as caught:
        list(batches_of(loader))
    assert re.match(said, f"{type(caught.value).__name__}: {caught.value}")
    loader._workers[0].kill()
    loader._workers[0].join()
