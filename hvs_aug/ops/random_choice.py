"""RandomChoice: one of several operations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .._check import fail
from .group import Group

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
        weights = [1.0] * len(self.members) if self.p is None else list(self.p)
        if len(weights) != len(self.members) or min(weights) < 0 or sum(weights) <= 0:
            fail("RandomChoice(p)", f"{len(self.members)} weights of at least 0, not all of them 0", self.p)
        if self.p is not None:
            object.__setattr__(self, "p", tuple(float(weight) / sum(weights) for weight in weights))

    def members_applied(self, uniform: Tensor) -> list[Tensor]:
        count = len(self.members)
        weights = [1 / count] * count if self.p is None else list(self.p)
        edges = torch.tensor(weights, dtype=torch.float64, device="cpu").cumsum(0)
        chosen = torch.bucketize(uniform[..., 0].double(), edges[:-1], right=True)
        return [chosen == index for index in range(count)]

    def torchvision_name(self) -> str:
        weights = "" if self.p is None else f", p=[{', '.join(f'{weight:g}' for weight in self.p)}]"
        return f"v2.RandomChoice([{', '.join(member.torchvision_name() for member in self.members)}]{weights})"
