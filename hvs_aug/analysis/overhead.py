"""The cost of choosing views, and how much hardness each cheap way of scoring keeps.

Two things are measured for a workload (a method, a network, a size), separately:

- *Cost*: the contestants take training steps in turn, in one process, in an order shuffled anew for each round. The rows hold
medians, and for each contestant the ratio to training on random views. ``bound`` is this ratio by the number of operations,
counted by ``torch.utils.flop_counter``: no contestant that does these operations can be cheaper.
- *Hardness captured*: a network is trained; at several points of the run each contestant chooses from the same candidates of
  images that are not trained on, and its choice is judged by the losses at full size: 1 is the true hardest, 0 a random choice.
  The choice is judged in the mode in which it is made, so a network with dropout does not reach 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from .._check import require
from ..selection.scoring import CHEAP, Scoring
from .hardness import hardness
from .step_cost import costs
from .workload import FULL, OPTIONS, RANDOM, Factory, Workload

__all__ = ["advice", "measure", "recommend"]


def measure(
    workload: Workload,
    contestants: Mapping[str, Factory],
    *,
    repeats: int = 9,
    warmup: int = 2,
    points: Sequence[int] = (0, 50, 150),
    judged: int = 4,
    progress: Callable[[Sequence[Any], str], Iterable[Any]] | None = None,
) -> list[dict[str, Any]]:
    """Measure what each contestant costs and how much of the hardness it captures.

    Args:
        workload: what is trained, on what.
        contestants: factories by name; one of them is :data:`FULL`. Random views are added.
        repeats, warmup: rounds of timing that count, and that do not.
        points: the numbers of training steps after which choices are judged. An untrained network says little.
        judged: batches that are judged at each point.
        progress: shown around a list, as tqdm does it.

    Returns:
        A row for each contestant: ``median`` seconds of a step, ``iqr``, ``repeats``; ``ratio`` to random views and the quartiles
        of the rounds' ratios; ``bound``, the ratio in arithmetic; ``over_bound``; the seconds of one step's parts, ``views``,
        ``scoring``, ``search``, ``render`` and ``training``; ``peak_bytes``; ``captured`` and ``agreement``, means over the
        points after the first, and ``by_point``, all of them.
    """
    require(FULL in contestants, "overhead.measure(contestants)", f"one named {FULL!r}", f"{sorted(contestants)}")
    progress = progress if progress is not None else lambda items, _: items
    rows = costs(workload, contestants, repeats=repeats, warmup=warmup, progress=progress)
    judgements = hardness(workload, contestants, points=points, judged=judged, progress=progress)
    for row in rows:
        row.update(judgements.get(row["setting"], {"captured": 0.0}))
    return rows


def recommend(rows: Sequence[Mapping[str, Any]], limit: float = 1.10, least: float = 0.85) -> Mapping[str, Any]:
    """The row to use: of those within ``limit`` times a step of random views the one that captures most; where none of them
    captures at least ``least``, the cheapest of all that do; where none does, the one that captures most.

    A row is within the limit if three quarters of its rounds were (``ratio_quartiles``), not the median alone.
    """
    chosen = [row for row in rows if row["setting"] != RANDOM]
    within = [row for row in chosen if _spread(row)[1] <= limit and row["captured"] >= least]
    if within:
        return max(within, key=lambda row: row["captured"])
    enough = [row for row in chosen if row["captured"] >= least]
    return min(enough, key=lambda row: row["ratio"]) if enough else max(chosen, key=lambda row: row["captured"])


def advice(rows: Sequence[Mapping[str, Any]]) -> str:
    """Say which setting to use, what it costs and what it keeps, with the quartiles of the rounds, and where to doubt it."""
    best = recommend(rows)
    words = "".join(f", {name}={_written(value)}" for name, value in OPTIONS.get(best["setting"], {}).items())
    low, high = _spread(best)
    spread = "" if low == high else f" (half of the rounds: {low - 1:+.0%} to {high - 1:+.0%})"
    lines = [
        f"use {best['setting']}: HardPairSampler(model, loss, views{words})",
        f"it takes {best['ratio'] - 1:+.0%} time a step against random views{spread}, "
        f"and captures {best['captured']:.0%} of the hardness",
    ]
    if best["captured"] < 0.85:
        lines.append(
            "no setting captures 85 % of the hardness here; more candidates, or a network that is trained further, may change that"
        )
    if high - low > 0.2:
        lines.append("the rounds differ much: something else used this machine; measure again before you rely on these times")
    return "\n".join(lines)


def _spread(row: Mapping[str, Any]) -> tuple[float, float]:
    """The quartiles of a row's time ratio over the rounds."""
    low, high = row.get("ratio_quartiles", (row["ratio"], row["ratio"]))
    return low, high


def _written(value: Any) -> str:
    """An option as a user writes it: of a Scoring what differs from the default."""
    if not isinstance(value, Scoring):
        return f"policies.{value!r}"
    if value == CHEAP:
        return '"cheap"'
    changed = [field.name for field in fields(value) if getattr(value, field.name) != field.default]
    return f"Scoring({', '.join(f'{name}={getattr(value, name)!r}' for name in changed)})"
