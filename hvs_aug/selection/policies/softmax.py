"""Views drawn by their loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..._check import require_name
from .. import search as searches
from ..losses.pair import require_positive
from .policy import Call, Policy, Searching

__all__ = ["softmax"]


@dataclass(frozen=True, repr=False)
class _Softmax(Searching):
    maker: ClassVar[str] = "softmax"
    temperature: float = 1.0

    def pick(self, call: Call) -> Tensor:
        slots = call.slots
        searches.check_table("softmax", call.scores(self), slots)
        logits = searches.finite_or_lowest(call.scores(self)) / self.temperature
        if self.search == "sampled":
            combinations = searches.draw_combinations(slots, self.limit, call.generator)
            best, choice = _gumbel_max(searches.combination_losses(logits, combinations), call)
            found = combinations.to(best.device, non_blocking=True)[choice].t()
            return torch.where(best.isfinite(), found, searches.first(logits, slots))
        anchors = searches.anchor_combinations(slots)
        scores = searches.anchor_sums(logits, slots)
        for span, slot in searches.local_spans(slots):
            rows = max(1, (64 << 20) // (4 * (len(span) + 2 * slot.select) * max(1, scores.shape[1])))
            parts = [searches.anchor_gains(logits, span, block) for block in torch.split(anchors, rows)]
            scores = scores + torch.cat([_log_weights(part.transpose(0, 1), slot.select)[0][slot.select] for part in parts])
        best, choice = _gumbel_max(scores, call)
        anchor = anchors.to(scores.device, non_blocking=True)[choice].t()
        satellites = []
        for span, slot in searches.local_spans(slots):
            gains = searches.own_gains(logits, span, anchor)
            satellites.append(_draw_subset(gains, slot.select, call.uniform(*gains.shape)))
        found = searches.assembled(slots, anchor, satellites)
        return torch.where(best.isfinite(), found, searches.first(logits, slots))


def softmax(temperature: float, *, search: str = "exact", limit: int = 128) -> Policy:
    """Draw a selection with probability proportional to exp(loss / temperature). A temperature near 0 gives the hardest one.

    Exact for several crops, too: an anchor (a choice of global views) is drawn by its weight summed over all its satellites, an
    elementary symmetric polynomial of exp(gain / temperature); then the satellites, one after the other, by what is left of that
    sum with each one taken or not. A non-finite selection has weight 0. With ``search="sampled"`` the draw is out of ``limit``
    random distinct selections, which losses of two local views need.

    Raises:
        HVSError: if the temperature is not above 0.
    """
    require_name(search, ("exact", "sampled"), "softmax(search)")
    return _Softmax(search, limit, require_positive(temperature, "softmax(temperature)"))


def _gumbel_max(logits: Tensor, call: Call) -> tuple[Tensor, Tensor]:
    """Draw a row of each column by the softmax of its logits: (n, B) -> a value that is finite if the row is, and the row (B,)."""
    return (logits - torch.log(-torch.log(call.uniform(*logits.shape)))).max(0)


def _log_weights(gains: Tensor, select: int) -> list[Tensor]:
    """For each i the logarithms of the summed weights of all subsets of the rows from i on, by size: (n, ...) -> (select + 1, ...).

    A subset's weight is exp(sum of its gains); the sums are elementary symmetric polynomials, by the recurrence
    e_j(with g) = e_j(without) + exp(g) e_(j - 1)(without).
    """
    weights = torch.full_like(gains[:1], -torch.inf).expand(select + 1, *gains.shape[1:]).clone()
    weights[0] = 0
    found = [weights]
    for gain in reversed(gains.unbind(0)):
        weights = torch.cat([weights[:1], torch.logaddexp(weights[1:], weights[:-1] + gain)])
        found.append(weights)
    return found[::-1]


def _draw_subset(gains: Tensor, select: int, uniform: Tensor) -> Tensor:
    """Draw ``select`` rows in each column, a subset in proportion to exp(sum of its gains): (n, B) -> (select, B), ascending."""
    weights = _log_weights(gains, select)
    left = torch.full_like(gains[0], select, dtype=torch.int64)
    taken = []
    for row, gain in enumerate(gains.unbind(0)):
        without = weights[row + 1].gather(0, (left - 1).clamp_(min=0)[None])[0]
        total = weights[row].gather(0, left[None])[0]
        take = (uniform[row] < torch.exp(gain + without - total)) & (left > 0)
        left = left - take.long()
        taken.append(take)
    return searches.taken_indices(torch.stack(taken), select)
