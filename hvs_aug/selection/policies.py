"""Which selection of views to train on, given the table of losses: the hardest one, or another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..views.params import ViewParams
from ..views.recipe import ViewSlot
from .losses.pair import slot_ranges
from .search import exact

__all__ = ["Policy", "hardest", "random"]


class Policy(Protocol):
    """A function of the table that returns the candidates to keep, (S, B) int64, grouped by slot.

    A policy that never looks at the table may have the attribute ``needs_table = False``; the model is then not run.

    Example:
        >>> def second_pair(table, slots, *, params, step, generator):
        ...     return torch.tensor([[2], [3]]).expand(2, table.shape[-1])
    """

    def __call__(
        self, table: Tensor, slots: Sequence[ViewSlot], *, params: ViewParams | None, step: int, generator: torch.Generator | None
    ) -> Tensor: ...


@dataclass(frozen=True)
class _Hardest:
    def __call__(
        self, table: Tensor, slots: Sequence[ViewSlot], *, params: ViewParams | None, step: int, generator: torch.Generator | None
    ) -> Tensor:
        return exact(table, slots)


@dataclass(frozen=True)
class _Random:
    control: bool

    @property
    def needs_table(self) -> bool:
        return self.control

    def __call__(
        self,
        table: Tensor | None,
        slots: Sequence[ViewSlot],
        *,
        params: ViewParams | None,
        step: int,
        generator: torch.Generator | None,
    ) -> Tensor:
        batch, device = _target(table, params)
        found = []
        for span, slot in zip(slot_ranges(slots), slots, strict=True):
            order = torch.rand(len(span), batch, generator=generator).argsort(0)
            found.append(order[: slot.select].sort(0).values + span.start)
        return torch.cat(found).to(device, non_blocking=True)


def hardest() -> Policy:
    """Keep the views with the highest loss (:func:`hvs_aug.selection.search.exact`)."""
    return _Hardest()


def random(control: bool = True) -> Policy:
    """Keep views at random: the control. With ``control=True`` the table is computed all the same, so that the cost is equal."""
    return _Random(control)


def _target(table: Tensor | None, params: ViewParams | None) -> tuple[int, torch.device]:
    """The number of images, and the device that the indices are wanted on: the table's, or else the parameters'."""
    if table is not None:
        return table.shape[-1], table.device
    assert params is not None
    return params.boxes.shape[1], params.boxes.device
