"""RandomApply: several operations that are applied together or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from .._check import require_fraction
from .group import Group
from .operation import text

__all__ = ["RandomApply"]


@dataclass(frozen=True, repr=False)
class RandomApply(Group):
    """Apply all of ``transforms``, in their order, with probability ``p``, else none of them.

    What they draw is recorded under their own names. Source: torchvision v2 ``RandomApply``.
    """

    transforms: Sequence[object]
    p: float = 0.5

    columns = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_fraction(self.p, "RandomApply(p)")

    def members_applied(self, uniform: Tensor) -> list[Tensor]:
        applied = uniform[..., 0] < self.p
        return [applied] * len(self.members)

    def torchvision_name(self) -> str:
        return f"v2.RandomApply([{', '.join(member.torchvision_name() for member in self.members)}], p={text(self.p)})"
