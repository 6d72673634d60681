"""What runs with the same seeds say of a difference: its mean, and the interval in which it lies."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from .._check import fail, require

__all__ = ["Difference", "paired_difference"]


class Difference(NamedTuple):
    """A mean difference and the ends of its 95 % interval; with one pair the ends are infinite."""

    mean: float
    low: float
    high: float
    pairs: int

    @property
    def is_distinguishable(self) -> bool:
        """Whether zero lies outside the interval."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        mean, low, high = (round(value, 1) + 0.0 for value in self[:3])  # no -0.0
        if self.pairs < 2:
            return f"{mean:+.1f} (one seed: no interval)"
        return f"{mean:+.1f} ({low:+.1f} to {high:+.1f}, {self.pairs} seeds)"


def paired_difference(ours: Sequence[float], theirs: Sequence[float], confidence: float = 0.95) -> Difference:
    """The mean of ``ours - theirs``, pair by pair, and Student's t interval of it.

    A bootstrap over three to five pairs is too narrow: three pairs have ten distinct resamples. The t interval holds where the
    differences are roughly normal.

    Raises: HVSError if there is no pair, the lengths differ, or scipy is missing.

    Example:
        >>> print(paired_difference([47.0, 49.0, 48.0], [44.0, 45.0, 43.0]))
        +4.0 (+1.5 to +6.5, 3 seeds)
    """
    require(
        len(ours) == len(theirs) > 0, "paired_difference(ours, theirs)", "pairs, at least one", f"{len(ours)} and {len(theirs)}"
    )
    differences = [own - other for own, other in zip(ours, theirs, strict=True)]
    mean = statistics.fmean(differences)
    if len(differences) == 1:
        return Difference(mean, -math.inf, math.inf, 1)
    try:
        from scipy.stats import t
    except ImportError:
        fail("paired_difference()", "scipy", "no such package", "pip install 'hvs_aug[demo]'")
    reach = float(t.ppf((1 + confidence) / 2, len(differences) - 1)) * statistics.stdev(differences) / math.sqrt(len(differences))
    return Difference(mean, mean - reach, mean + reach, len(differences))
