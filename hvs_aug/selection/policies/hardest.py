"""The views with the highest loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..._check import require_fraction, require_name
from ...views.recipe import ViewSlot
from .. import search as searches
from ..losses.pair import made_once
from .policy import Call, Policy, Searching

__all__ = ["hardest"]


@dataclass(frozen=True, repr=False)
class _Hardest(Searching):
    maker: ClassVar[str] = "hardest"
    max_loss_quantile: float | None = None

    def pick(self, call: Call) -> Tensor:
        table = call.scores(self)
        searches.check_table("hardest", table, call.slots)
        if self.max_loss_quantile is not None and table.shape[-1]:
            table = _without_outliers(table, call.slots, self.max_loss_quantile)
        return self.find(table, call)


def hardest(max_loss_quantile: float | None = None, *, search: str = "exact", limit: int = 128) -> Policy:
    """Keep the views with the highest loss (:func:`hvs_aug.selection.search.exact`).

    Args:
        max_loss_quantile: a guard against outliers: a pair is not kept if its loss lies above this quantile of all pairs of the
            batch. If no pair of an image is left, its first candidates are kept, which are random views.
        search: ``"exact"``, or ``"sampled"`` for the best of ``limit`` random combinations.

    Example:
        >>> hardest(max_loss_quantile=0.95)
        hardest(search='exact', limit=128, max_loss_quantile=0.95)
    """
    require_name(search, ("exact", "sampled"), "hardest(search)")
    if max_loss_quantile is not None:
        require_fraction(max_loss_quantile, "hardest(max_loss_quantile)")
    return _Hardest(search, limit, max_loss_quantile)


@made_once
def _pairs_kept_together(layout: searches.Layout) -> Tensor:
    """Which pairs of candidates u < v can be kept together and have a loss: (V, V, 1) bool on the CPU."""
    owner = [number for number, (candidates, _, _) in enumerate(layout) for _ in range(candidates)]

    def are_together(one: int, other: int) -> bool:
        (_, select, is_global), (_, _, other_is_global) = layout[one], layout[other]
        return (is_global or other_is_global) and (one != other or select > 1)

    together = [[u < v and are_together(one, other) for v, other in enumerate(owner)] for u, one in enumerate(owner)]
    return torch.tensor(together, device="cpu")[..., None]


def _without_outliers(table: Tensor, slots: Sequence[ViewSlot], quantile: float) -> Tensor:
    """The table with NaN for the pairs above this quantile of all finite losses of pairs that can be kept together."""
    pairs = _pairs_kept_together(searches.layout_of(slots)).to(table.device, non_blocking=True)
    ordered = torch.where(pairs & table.isfinite(), table, torch.inf).flatten().sort().values
    place = ((ordered.isfinite().sum() - 1).clamp_(min=0) * quantile).floor().long()
    highest = ordered.gather(0, place[None])
    return table.masked_fill((pairs | pairs.transpose(0, 1)) & (table > highest), torch.nan)
