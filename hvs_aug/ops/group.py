"""What RandomApply and RandomChoice have in common: members that are drawn, recorded and rendered as operations of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .._check import describe, fail, require
from .operation import Operation

__all__ = ["Group"]


class Group(Operation):
    """Several operations; a random draw decides which of them are applied.

    Attributes:
        transforms: the operations.
        members: the operations, as a tuple.
    """

    transforms: Sequence[Any]

    def __post_init__(self) -> None:
        call = f"{type(self).__name__}(transforms)"
        given = self.transforms
        require(isinstance(given, (list, tuple)) and len(given) > 0, call, "a list of at least one operation", describe(given))
        for member in given:
            if not isinstance(member, Operation):
                fail(call, "operations of hvs_aug.ops", describe(member), "hvs_aug.convert reads those of torchvision.")
            if not member.identity and not isinstance(member, Group):
                fail(call, "operations that draw something, and can be left out", member)
        object.__setattr__(self, "transforms", tuple(given))

    @property
    def members(self) -> tuple[Operation, ...]:
        return tuple(self.transforms)

    def members_applied(self, uniform: Tensor) -> list[Tensor]:
        """Where each member is applied: uniform ``(V, B, columns)`` -> for each a ``(V, B)`` bool tensor."""
        raise NotImplementedError
