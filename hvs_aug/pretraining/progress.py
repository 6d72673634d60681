"""How far a run has come: a bar on a terminal, and in a file or a pipe one line for each epoch."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

from tqdm import tqdm

__all__ = ["Progress", "duration", "is_terminal", "shown"]

_Item = TypeVar("_Item")


def is_terminal() -> bool:
    """Whether a bar can be drawn: stdout and stderr are both a terminal."""
    return sys.stdout.isatty() and sys.stderr.isatty()


class Progress:
    """Shows the progress of a run: a context around its steps.

    On a terminal it is a bar with the last loss. Elsewhere each epoch ends with one line on stdout: the mean loss and overlap of
    the steps that were measured in it, images a second (the wait for the images included), and the time left at that rate.

    Args:
        title: what is trained; stands before the bar.
        steps_per_epoch, epochs, images: of a step, the number of ``images``.
        done: the steps that a resumed run has behind it.
        is_shown: whether anything is shown.
    """

    def __init__(self, title: str, *, steps_per_epoch: int, epochs: int, images: int, done: int = 0, is_shown: bool = True) -> None:
        self.steps_per_epoch, self.epochs, self.images = steps_per_epoch, epochs, images
        self.step = done
        self.has_lines = is_shown and not is_terminal()
        self._bar = tqdm(
            total=epochs * steps_per_epoch, initial=done, desc=title, unit="step", disable=not is_shown or self.has_lines
        )
        self._begin()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.close()

    def advance(self, metrics: Mapping[str, Any] | None) -> None:
        """Count one step; ``metrics`` is what was measured of it, if it was."""
        self.step += 1
        self._steps += 1
        if metrics is not None:
            self._measured.append(metrics)
            self._bar.set_postfix(loss=f"{metrics['loss']:.3f}", refresh=False)
        self._bar.update()

    def end_epoch(self) -> None:
        """Write the epoch's line, unless a stop has cut the epoch short."""
        if self.has_lines and self._steps and self.step % self.steps_per_epoch == 0:
            # Python holds back what it writes to a file, which would leave a cluster's log empty.
            print(self.line(time.perf_counter() - self._start), flush=True)
        self._begin()

    def line(self, seconds: float) -> str:
        """The line of an epoch that took so many seconds."""
        said = []
        if self._measured:
            said.append(f"loss {self._mean('loss'):.3f}")
            if all("iou" in metrics for metrics in self._measured):
                said.append(f"overlap {self._mean('iou'):.3f} (random {self._mean('iou_random'):.3f})")
        said.append(f"{self._steps * self.images / seconds:,.0f} images/s")
        left = (self.epochs * self.steps_per_epoch - self.step) * seconds / self._steps
        said.append(f"{duration(left)} left")
        return f"epoch {self.step // self.steps_per_epoch}/{self.epochs}: {', '.join(said)}"

    def _mean(self, name: str) -> float:
        return statistics.fmean(metrics[name] for metrics in self._measured)

    def _begin(self) -> None:
        self._start, self._steps = time.perf_counter(), 0
        self._measured: list[Mapping[str, Any]] = []


def duration(seconds: float) -> str:
    """A time in its two largest units.

    Example:
        >>> duration(9), duration(754), duration(100_000)
        ('9 s', '12 min 34 s', '27 h 46 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600:,} h {whole % 3600 // 60} min"


def shown(items: Sequence[_Item], what: str) -> Iterable[_Item]:
    """The items, with a bar on a terminal, and elsewhere one line that says what is done with them."""
    if not is_terminal():
        print(f"{what}: {len(items)} rounds", flush=True)
        return items
    bar: Iterable[_Item] = tqdm(items, desc=what)
    return bar
