"""RandomChoice: one of several operations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .._check import fail
from .group import Group
from .operation import text, to_numbers

__all__ = ["RandomChoice"]


@dataclass(frozen=True, repr=False)
class RandomChoice(Group):
    """Apply one of ``transforms``, chosen with probabilities proportional to ``p``, equal ones by default.

    What it draws is recorded under its own name. Source: torchvision v2 ``RandomChoice``.
    """

    transforms: Sequence[object]
    p: Sequence[float] | None = None

    columns = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.p is not None:
            call, expected = "RandomChoice(p)", f"{len(self.members)} weights of at least 0, not all of them 0"
            weights = to_numbers(self.p, call, expected)
            if len(weights) != len(self.members) or min(weights) < 0 or sum(weights) <= 0:
                fail(call, expected, self.p)
            object.__setattr__(self, "p", weights)

    def members_applied(self, uniform: Tensor) -> list[Tensor]:
        count = len(self.members)
        weights = torch.tensor([1.0] * count if self.p is None else self.p, dtype=torch.float64, device="cpu")
        edges = (weights / weights.sum()).cumsum(0)
        chosen = torch.bucketize(uniform[..., 0].double(), edges[:-1], right=True)
        return [chosen == index for index in range(count)]

    def torchvision_name(self) -> str:
        weights = "" if self.p is None else f", p=[{', '.join(map(text, self.p))}]"
        return f"v2.RandomChoice([{', '.join(member.torchvision_name() for member in self.members)}]{weights})"
