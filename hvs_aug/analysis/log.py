"""Numbers of a run for TensorBoard, Weights & Biases or a CSV file, without a wait for the device in each step."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from .._check import fail, require, require_name
from ..selection.sampler import HardViews
from ..views.recipe import ViewSlot
from .metrics import SelectionMeter

__all__ = ["LOGS", "Log", "SelectionLog", "open_log"]

Log: TypeAlias = Callable[[Mapping[str, float], int], Any]
"""Takes numbers by name, and the step: ``log_metrics`` of any logger of Lightning, or ``wandb.log``."""


class SelectionLog:
    """Gives a function the numbers of every ``every``-th choice; only for these the host waits for the device.

    The numbers, means over the images of that batch: ``hvs/chosen_loss``, the loss of the chosen views, if they were scored;
    ``hvs/iou``, their overlap; ``hvs/scale``, the share of the image that a crop covers; ``hvs/color_distance``; the last three
    also with the ending ``_random``, which is what random views would have had; ``hvs/nonfinite``, the number of images with a
    pair whose loss was not finite. Views that were not rendered by a :class:`CandidateViews` have the first and the last alone.

    Args:
        slots: the sampler's.
        log: gets the numbers and the sampler's step, which counts choices from 1.
        every: choices.

    Raises: HVSError if ``log`` cannot be called, or ``every`` is below 1.
    """

    def __init__(self, slots: Sequence[ViewSlot], log: Log, every: int = 50) -> None:
        require(callable(log), "HardViewLoader(log)", "a function of numbers by name and the step", log, "logger.log_metrics, say.")
        require(isinstance(every, int) and every >= 1, "HardViewLoader(log_every)", "an integer of at least 1", every)
        self.slots, self.log, self.every = tuple(slots), log, every

    def see(self, hard: HardViews, step: int) -> None:
        """Take one choice; ``step`` is the sampler's number of choices, this one included."""
        if step % self.every != 0:
            return
        meter = SelectionMeter(self.slots)
        meter.update(hard.indices, hard.drawn, loss=hard.loss)
        found = {name: value for name, value in meter.compute().items() if isinstance(value, float) and math.isfinite(value)}
        if "loss" in found:
            found["chosen_loss"] = found.pop("loss")
        numbers = {f"hvs/{name}": value for name, value in found.items()} | {"hvs/nonfinite": float(hard.nonfinite)}
        self.log(numbers, step)


def open_log(name: str, folder: Path, settings: Mapping[str, Any]) -> Log:
    """Open a log of a run by name.

    Args:
        name: ``"tensorboard"`` (torch's SummaryWriter, in ``folder/tensorboard``), ``"wandb"`` (a run of the project hvs-aug, its
            files in ``folder``), or ``"csv"`` (``folder/log.csv``, a line for each step that is logged).
        settings: kept with the run, where the log has a place for them.

    Raises: HVSError for an unknown name, or if the package is not installed, with the line that installs it.
    """
    require_name(name, LOGS, "--log")
    return LOGS[name](folder, settings)


def _tensorboard(folder: Path, settings: Mapping[str, Any]) -> Log:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        fail("--log", "tensorboard, which writes such logs", "no such package", "pip install tensorboard")
    make: Any = SummaryWriter
    writer = make(folder / "tensorboard")
    writer.add_text("settings", "\n".join(f"    {key}: {value}" for key, value in settings.items()))

    def log(numbers: Mapping[str, float], step: int) -> None:
        for key, value in numbers.items():
            writer.add_scalar(key, value, step)
        writer.flush()

    return log


def _wandb(folder: Path, settings: Mapping[str, Any]) -> Log:
    try:
        import wandb
    except ImportError:
        fail("--log", "wandb, which writes such logs", "no such package", "pip install wandb")
    folder.mkdir(parents=True, exist_ok=True)
    run: Any = wandb.init(project="hvs-aug", dir=folder, config=dict(settings))

    def log(numbers: Mapping[str, float], step: int) -> None:
        run.log(dict(numbers), step=step)

    return log


class _CSVLog:
    """A CSV file. A resumed run goes on in the same file, without the lines of steps that it computes again."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.path = folder / "log.csv"
        self._columns: list[str] = []

    def __call__(self, numbers: Mapping[str, float], step: int) -> None:
        if not set(numbers) <= set(self._columns):  # the first line, or a name that comes later
            rows = self._rows(step)
            self._columns = list(dict.fromkeys(name for row in [*rows, {"step": step, **numbers}] for name in row))
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, self._columns)
                writer.writeheader()
                writer.writerows(rows)
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self._columns).writerow({"step": step, **numbers})

    def _rows(self, step: int) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        with open(self.path, newline="", encoding="utf-8") as file:
            return [row for row in csv.DictReader(file) if int(row["step"]) < step]


LOGS: dict[str, Callable[[Path, Mapping[str, Any]], Log]] = {"tensorboard": _tensorboard, "wandb": _wandb, "csv": _CSVLog}
"""Logs by name."""
