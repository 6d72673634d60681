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
        return self.pooled([(ours, theirs)], measure)

    def pooled(self, compared: Sequence[tuple[Key, Key]], measure: str = "knn") -> Difference | None:
        """The paired difference over the seeds of several comparisons, each as one draw of the same effect."""
        pairs = [pair for ours, theirs in compared for pair in self._pairs(ours, theirs, measure)]
        return paired_difference([own for own, _ in pairs], [other for _, other in pairs]) if pairs else None

    def _pairs(self, ours: Key, theirs: Key, measure: str) -> list[tuple[float, float]]:
        own, other = self.values(ours, measure), self.values(theirs, measure)
        return [(own[seed], other[seed]) for seed in sorted(own.keys() & other.keys())]

    def ratio(self, method: str, arm: str, kind: str = "arithmetic") -> float | None:
        """The arithmetic or the time of a step over that of a step on random views."""
        for row in self.rows:
            if (row["kind"], row["method"], row["arm"]) == (kind, method, arm):
                return float(row["ratio"])
        return None
