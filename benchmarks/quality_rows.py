"""The rows of the study of accuracy, read by method, arm and epochs: for its summary, its tables and its chart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hvs_aug.analysis.paired import Difference, paired_difference

__all__ = ["Key", "Runs"]

Key = tuple[str, str, int]
"""Method, arm and epochs."""


class Runs:
    """The rows of a quality.json."""

    def __init__(self, rows: Sequence[dict[str, Any]]) -> None:
        self.rows = rows

    def finished(self) -> list[dict[str, Any]]:
        """The rows of runs."""
        return [row for row in self.rows if row["kind"] == "run"]

    def values(self, key: Key, measure: str = "knn") -> dict[int, float]:
        """The measure of each seed."""
        return {row["seed"]: row[measure] for row in self.finished() if (row["method"], row["arm"], row["epochs"]) == key}

    def difference(self, ours: Key, theirs: Key, measure: str = "knn") -> Difference | None:
        """The paired difference over the seeds that both have; ``None`` where there is none."""
        own, other = self.values(ours, measure), self.values(theirs, measure)
        seeds = sorted(own.keys() & other.keys())
        return paired_difference([own[seed] for seed in seeds], [other[seed] for seed in seeds]) if seeds else None

    def ratio(self, method: str, arm: str, kind: str = "arithmetic") -> float | None:
        """The arithmetic or the time of a step over that of a step on random views."""
        for row in self.rows:
            if (row["kind"], row["method"], row["arm"]) == (kind, method, arm):
                return float(row["ratio"])
        return None
