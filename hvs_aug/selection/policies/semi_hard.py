"""The views at a quantile of the losses."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..._check import require, require_fraction
from .. import search
from ..losses.pair import made_once
from .policy import BuiltIn, Call, Policy

__all__ = ["semi_hard"]


@dataclass(frozen=True, repr=False)
class _SemiHard(BuiltIn):
    maker: ClassVar[str] = "semi_hard"
    quantile: float
    limit: int

    def pick(self, call: Call) -> Tensor:
        table = call.scores(self)
        search.check_table("semi_hard", table, call.slots)
        combinations = search.draw_combinations(call.slots, self.limit, call.generator)
        losses = search.combination_losses(search.finite_or_lowest(table), combinations)
        finite = losses.isfinite().sum(0)
        place = _quantile_places(len(losses), self.quantile).to(table.device, non_blocking=True)[finite]
        wanted = losses.sort(dim=0).values.gather(0, place[None])
        choice = (losses == wanted).to(torch.uint8).argmax(0)
        found = combinations.to(table.device, non_blocking=True)[choice].t()
        return torch.where(finite > 0, found, search.first(table, call.slots))


def semi_hard(quantile: float, limit: int = 1024) -> Policy:
    """Sort the selections of an image by loss, and keep the one at a quantile: 1 is the hardest, 0.5 the median, 0 the easiest.

    It is number ``floor(quantile * (n - 1))`` of n finite selections in ascending order, and the first of equal ones. If there
    are more than ``limit`` selections, the quantile is that of ``limit`` random distinct ones.
    """
    require_fraction(quantile, "semi_hard(quantile)")
    require(isinstance(limit, int) and limit >= 1, "semi_hard(limit)", "an integer of at least 1", limit)
    return _SemiHard(float(quantile), limit)


@made_once
def _quantile_places(count: int, quantile: float) -> Tensor:
    """Where in ``count`` sorted losses the quantile of the finite ones stands, by how many of them are finite.

    -inf sorts first, so the finite losses are the last ones.
    """
    places = [count - finite + math.floor(quantile * (finite - 1)) if finite else 0 for finite in range(count + 1)]
    return torch.tensor(places, device="cpu")
