"""One policy after the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..._check import require
from .hardest import hardest
from .policy import BuiltIn, Call, Policy
from .random import random

__all__ = ["schedule", "warmup"]


@dataclass(frozen=True, repr=False)
class _Schedule(BuiltIn):
    maker: ClassVar[str] = "schedule"
    phases: Mapping[int, Policy]

    @property
    def needs_table(self) -> bool:
        return any(getattr(policy, "needs_table", True) for policy in self.phases.values())

    @property
    def searches_exactly(self) -> bool:
        return any(getattr(policy, "searches_exactly", False) for policy in self.phases.values())

    def at(self, step: int) -> Policy:
        return self.phases[max(start for start in self.phases if start <= step)]

    def pick(self, call: Call) -> Tensor:
        return self.at(call.step)(call.table, call.slots, params=call.params, step=call.step, generator=call.generator)


def schedule(phases: Mapping[int, Policy]) -> Policy:
    """Use one policy after the other: ``{first step: policy}``, beginning with step 0.

    Example:
        >>> from hvs_aug.selection.policies import mixture, needs_table
        >>> policy = schedule({0: random(control=False), 1000: mixture(0.5), 5000: hardest()})
        >>> needs_table(policy, step=999), needs_table(policy, step=1000)
        (False, True)
    """
    is_valid = isinstance(phases, Mapping) and 0 in phases and all(isinstance(step, int) and step >= 0 for step in phases)
    require(is_valid, "schedule(phases)", "a dict from first steps to policies, with step 0", phases)
    return _Schedule(dict(phases))


def warmup(steps: int, then: Policy | None = None) -> Policy:
    """Keep random views for ``steps`` steps, without running the model; then choose with ``then`` (by default the hardest)."""
    require(isinstance(steps, int) and steps >= 0, "warmup(steps)", "a number of steps", steps)
    return schedule({0: random(control=False), steps: hardest() if then is None else then})
