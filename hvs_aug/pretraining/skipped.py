"""The images that a run could not read: counted, written down, and too many of them end it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from .._check import fail, require, require_fraction
from .._workers import batches_of
from ..data.sources import printable
from .checkpoint import naming_file

__all__ = ["SkippedImages", "naming_killers"]

_Batch = TypeVar("_Batch")


class SkippedImages:
    """Each image that the dataset skipped, once, with the reason.

    Args:
        images: how many images the dataset has.
        most: the share of them that may be skipped; by default 0.01, and never fewer than 10 images.
        path: the file that they are written to, a line each, or ``None``.
        is_resumed: whether the file's lines count, too.
    """

    def __init__(self, images: int, most: float | None, path: Path | None, is_resumed: bool) -> None:
        if most is not None:
            require_fraction(most, "Pretraining.run(max_skipped)")
        self.images, self.path = images, path
        self.most = most * images if most is not None else max(0.01 * images, 10)
        self.lines: dict[str, None] = {}
        if path is not None and path.is_file():
            if is_resumed:
                self.lines = dict.fromkeys(path.read_text(encoding="utf-8").splitlines())
            else:
                path.unlink()

    def add(self, skipped: Iterable[str]) -> None:
        """Take ``ImageBatch.skipped`` of a batch.

        Raises: HVSError if more than ``most`` images were skipped so far.
        """
        new = [line for line in dict.fromkeys(skipped) if line not in self.lines]
        if not new:
            return
        self.lines |= dict.fromkeys(new)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with naming_file(self.path), open(self.path, "a", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in new)
        require(
            len(self.lines) <= self.most,
            "Pretraining.run(max_skipped)",
            f"at most {math.floor(self.most)} of {self.images} images that cannot be read",
            f"{len(self.lines)}; the last is {new[-1]}",
            "look at the files"
            + (f", which {self.path} lists" if self.path is not None else "")
            + ", or allow a larger share (--max-skipped).",
        )


def naming_killers(loader: Iterable[_Batch], dataset: Any) -> Iterator[_Batch]:
    """The batches of a DataLoader; where one of its workers dies, the error names the files that were being read, if any.

    Raises: HVSError if a worker dies, with the files of :attr:`hvs_aug.RawImages.unfinished`.
    """
    try:
        yield from batches_of(loader)
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker (pid"):  # raised in a worker, which lives on
            raise
        unfinished = getattr(dataset, "unfinished", [])
        reading = f" while {' or '.join(map(printable, unfinished[:8]))} was read" if unfinished else ""
        hint = (
            "take the file out; if it is whole, memory may be short." if unfinished else "memory may be short: use fewer workers."
        )
        fail("Pretraining.run()", "workers that live on", f"one that died{reading} ({str(error).splitlines()[0].strip()})", hint)
