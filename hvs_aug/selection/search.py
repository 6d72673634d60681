"""The search for the views to keep: the exact optimum of a table of losses, or the best of some random combinations.

Whatever depends on the slots alone is made on the CPU and copied to the device without waiting. Whatever depends on the table
stays on its device, in shapes that are known beforehand.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from .._check import fail, require
from ..views.recipe import ViewSlot
from .losses.pair import made_once, slot_ranges
from .slots import first_candidates

__all__ = ["exact", "first", "sampled", "selection_loss"]

SAMPLED = 'policies.hardest(search="sampled", limit=128)'
"""What to use where the exact search cannot be."""

_MAX_ANCHORS = 20_000
_BLOCK_BYTES = 64 << 20


def exact(table: Tensor, slots: Sequence[ViewSlot], *, local_pairs: bool = False) -> Tensor:
    """Find for each image the combination of views with the highest loss.

    The loss of a combination K is ``sum(table[v, v, b] for v in K) + sum(table[u, v, b] for u < v in K)``.

    Proof that this is the optimum. Call the kept global views an anchor and the kept local ones satellites. Two local views
    have no loss of their own, so with the anchor A fixed the loss is ``loss(A) + sum(gain(A, l) for l in satellites)`` with
    ``gain(A, l) = table[l, l] + sum(table[l, a] for a in A)``: no gain depends on which other satellites are kept. A sum of n terms
    chosen from a slot is largest for its n largest gains, slot by slot. All anchors are enumerated; so the best
    of their optima is the optimum over all combinations. DINO's 51,480 combinations are 4 anchors and one sort of 16 gains each.

    Ties go to the first anchor in lexicographic order, then to the satellites of the lowest indices. A combination that
    holds a non-finite entry never wins; an image all of whose combinations do gets the first candidates of every slot.

    Shape: table (V, V, B) -> (S, B) int64: indices of candidates, grouped by slot in their order, ascending within a slot.

    Raises:
        HVSError: if no slot is global, the table does not fit the slots, two local views have a loss of their own, or there are
            more than 20,000 anchors.

    Example:
        >>> import torch
        >>> slots = [ViewSlot(None, candidates=3, select=2)]
        >>> table = torch.tensor([[0.0, 1.0, 5.0], [1.0, 0.0, 2.0], [5.0, 2.0, 0.0]])[..., None]
        >>> exact(table, slots)[:, 0]
        tensor([0, 2])
    """
    check_table("search.exact", table, slots)
    refuse_local_pairs("search.exact", slots, local_pairs)
    finite = finite_or_lowest(table)
    anchors = anchor_combinations(slots)
    best, choice = anchor_losses(finite, slots, anchors).max(0)
    found = with_satellites(finite, slots, anchors.to(table.device, non_blocking=True)[choice].t())
    return torch.where(best.isfinite(), found, first(table, slots))


def sampled(table: Tensor, slots: Sequence[ViewSlot], limit: int = 128, generator: torch.Generator | None = None) -> Tensor:
    """Find for each image the best of ``limit`` random combinations of views. It also takes losses of two local views.

    It differs from the published way in two things: the combinations are distinct (see :func:`draw_combinations`), and if there
    are no more than ``limit``, all are tried. One draw serves the whole batch. Non-finite entries and ties as in :func:`exact`.

    Shape: table (V, V, B) -> (S, B) int64, as :func:`exact`. Memory: one block of entries, 64 MiB.

    Args:
        generator: of the CPU; ``None`` for the global one.

    Raises:
        HVSError: if no slot is global, the table does not fit the slots, or ``limit`` is not positive.
    """
    check_table("search.sampled", table, slots)
    combinations = draw_combinations(slots, limit, generator)
    best, choice = combination_losses(finite_or_lowest(table), combinations).max(0)
    found = combinations.to(table.device, non_blocking=True)[choice].t()
    return torch.where(best.isfinite(), found, first(table, slots))


def first(table: Tensor, slots: Sequence[ViewSlot]) -> Tensor:
    """The first candidates of every slot for every image, (S, B): what an image without any finite combination gets."""
    return first_candidates(slots, table.shape[-1], table.device)


def selection_loss(table: Tensor, indices: Tensor) -> Tensor:
    """The loss of each image on the views kept for it; not finite where one of its entries is not.

    Shape: table (V, V, B), indices (S, B) int64 -> (B,).
    """
    upper = torch.triu_indices(len(indices), len(indices), device=indices.device)
    pairs = indices[upper[0]] * len(table) + indices[upper[1]]
    return table.flatten(0, 1).gather(0, pairs).sum(0)


def check_table(call: str, table: Tensor, slots: Sequence[ViewSlot]) -> None:
    """Fail unless the table is (V, V, B), floating point, of the slots' candidates, and one of the slots is global."""
    views = sum(slot.candidates for slot in slots)
    expected = f"a floating-point table ({views}, {views}, B) for the slots' {views} candidates"
    if not isinstance(table, Tensor) or table.ndim != 3 or table.shape[:2] != (views, views) or not table.is_floating_point():
        fail(f"{call}(table)", expected, table)
    roles = [slot.role for slot in slots]
    require("global" in roles, f"{call}(slots)", "a slot of role 'global'", f"roles {roles}", "local views are compared with it.")


def refuse_local_pairs(call: str, slots: Sequence[ViewSlot], local_pairs: bool) -> None:
    """Fail where the loss of two local views would be left out."""
    if local_pairs and any(slot.role == "local" for slot in slots):
        expected = "a loss in which two local views have no loss of their own"
        fail(f"{call}(local_pairs)", expected, "local_pairs=True", f"use {SAMPLED}.")


def finite_or_lowest(table: Tensor) -> Tensor:
    """The table with -inf for every entry that is not finite, so that no combination that holds one can be the highest."""
    return torch.where(table.isfinite(), table, -torch.inf)


def anchor_combinations(slots: Sequence[ViewSlot]) -> Tensor:
    """Every way to keep the global views: (n, G) int64 on the CPU, in lexicographic order."""
    return _anchors(layout_of(slots))


Layout: TypeAlias = tuple[tuple[int, int, bool], ...]
"""Of each slot the candidates, how many are kept, and whether it is global."""


def layout_of(slots: Sequence[ViewSlot]) -> Layout:
    return tuple((slot.candidates, slot.select, slot.role == "global") for slot in slots)


@made_once
def _anchors(layout: Layout) -> Tensor:
    spans, start = [], 0
    for candidates, select, is_global in layout:
        if is_global:
            spans.append((range(start, start + candidates), select))
        start += candidates
    count = math.prod([math.comb(len(span), select) for span, select in spans])
    hint = f"draw fewer global candidates, or use {SAMPLED}."
    if count > _MAX_ANCHORS:
        fail("search.exact(slots)", f"at most {_MAX_ANCHORS:,} ways to keep the global views", f"{count:,}", hint)
    kept = itertools.product(*(list(itertools.combinations(span, select)) for span, select in spans))
    return torch.tensor([[index for part in parts for index in part] for parts in kept], device="cpu")


@made_once
def _anchor_pairs(layout: Layout) -> Tensor:
    return _pairs(_anchors(layout), sum(candidates for candidates, _, _ in layout))


def draw_combinations(slots: Sequence[ViewSlot], limit: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw ``limit`` distinct ways to keep views, or take all where there are no more: (n, S) int64 on the CPU, in order.

    The combinations are numbered in lexicographic order, the numbers cut into ``limit`` runs of (nearly) equal length, and one is
    drawn uniformly from each run. So none comes twice, and each is as likely as any other.
    """
    require(isinstance(limit, int) and limit >= 1, "search.sampled(limit)", "an integer of at least 1", limit)
    counts = [math.comb(slot.candidates, slot.select) for slot in slots]
    total = math.prod(counts)
    require(total < 1 << 62, "search.sampled(slots)", "fewer than 2 ** 62 combinations of views", f"{total:.2g}")
    runs = min(limit, total)
    bounds = torch.tensor([run * total // runs for run in range(runs + 1)], device="cpu")
    lengths = bounds.diff()
    offset = (torch.rand(runs, generator=generator, dtype=torch.float64, device="cpu") * lengths).long()
    rank = bounds[:-1] + torch.minimum(offset, lengths - 1)
    parts = []
    for span, slot, count in zip(reversed(slot_ranges(slots)), reversed(slots), reversed(counts), strict=True):
        parts.append(_combination(rank % count, slot.candidates, slot.select) + span.start)
        rank = rank // count
    return torch.cat(parts[::-1], 1)


def _combination(rank: Tensor, candidates: int, select: int) -> Tensor:
    """The combinations of these lexicographic numbers: (n,) -> (n, select), ascending."""
    left = torch.full_like(rank, select)
    taken = []
    for index in range(candidates):
        later = candidates - index - 1
        # How many of the combinations that are still possible hold this index, for each number of views left to take.
        counts = torch.tensor([math.comb(later, size - 1) if size else 0 for size in range(select + 1)], device="cpu")
        holding = counts[left]
        take = rank < holding
        rank = torch.where(take, rank, rank - holding)
        left = left - take.long()
        taken.append(take)
    return taken_indices(torch.stack(taken), select).t()


def taken_indices(taken: Tensor, select: int) -> Tensor:
    """The indices of the ``select`` rows that are True in each column: (n, B) bool -> (select, B), ascending."""
    return taken.to(torch.uint8).sort(dim=0, descending=True, stable=True).indices[:select]


def anchor_losses(table: Tensor, slots: Sequence[ViewSlot], anchors: Tensor) -> Tensor:
    """The loss of each anchor with the best satellites for it: (n, B). Memory: one block of gains, 64 MiB."""
    losses = anchor_sums(table, slots)
    for span, slot in local_spans(slots):
        height = max(1, _BLOCK_BYTES // (4 * len(span) * max(1, table.shape[-1])))
        best = [anchor_gains(table, span, block).topk(slot.select, dim=1).values.sum(1) for block in torch.split(anchors, height)]
        losses = losses + torch.cat(best)
    return losses


def anchor_gains(table: Tensor, span: range, anchors: Tensor) -> Tensor:
    """What each local view of one slot adds to each anchor: (n, G) anchors on the CPU -> (n, len(span), B)."""
    part = table[:, span.start : span.stop]
    gains = part[span.start : span.stop].diagonal().t().expand(len(anchors), -1, -1)
    for anchor in anchors.to(table.device, non_blocking=True).unbind(1):
        gains = gains + part[anchor]
    return gains


def own_gains(table: Tensor, span: range, anchor: Tensor) -> Tensor:
    """What each local view of one slot adds to each image's own anchor: (G, B) -> (len(span), B)."""
    part = table[:, span.start : span.stop]
    return part[span.start : span.stop].diagonal().t() + part.gather(0, anchor[:, None].expand(-1, len(span), -1)).sum(0)


def combination_losses(table: Tensor, combinations: Tensor) -> Tensor:
    """The loss of every image on each combination of views: (n, S) int64 on the CPU -> (n, B). Memory: one block, 64 MiB."""
    return _sums(table, _pairs(combinations, len(table)))


def anchor_sums(table: Tensor, slots: Sequence[ViewSlot]) -> Tensor:
    """The loss of every image on each anchor: (n, B), as of :func:`combination_losses`."""
    return _sums(table, _anchor_pairs(layout_of(slots)))


def _pairs(combinations: Tensor, views: int) -> Tensor:
    """The pairs of each combination, a view with itself too, as rows of the table of V * V pairs: (n, S) -> (n, S (S + 1) / 2)."""
    upper = torch.triu_indices(combinations.shape[1], combinations.shape[1], device="cpu")
    return combinations[:, upper[0]] * views + combinations[:, upper[1]]


def _sums(table: Tensor, pairs: Tensor) -> Tensor:
    entries, batch = table.flatten(0, 1), table.shape[-1]
    blocks = []
    for block in torch.split(pairs, max(1, _BLOCK_BYTES // (4 * pairs.shape[1] * max(1, batch)))):
        block = block.to(table.device, non_blocking=True)
        blocks.append(entries.index_select(0, block.flatten()).view(*block.shape, batch).sum(1))
    return torch.cat(blocks)


def local_spans(slots: Sequence[ViewSlot]) -> list[tuple[range, ViewSlot]]:
    """The local slots, each with the indices of its candidates."""
    return [(span, slot) for span, slot in zip(slot_ranges(slots), slots, strict=True) if slot.role == "local"]


def with_satellites(table: Tensor, slots: Sequence[ViewSlot], anchor: Tensor) -> Tensor:
    """Each image's anchor, (G, B), and the best satellites for it: (S, B)."""

    def best(gains: Tensor, select: int) -> Tensor:
        return gains.sort(dim=0, descending=True, stable=True).indices[:select].sort(dim=0).values

    return assembled(slots, anchor, [best(own_gains(table, span, anchor), slot.select) for span, slot in local_spans(slots)])


def assembled(slots: Sequence[ViewSlot], anchor: Tensor, satellites: Sequence[Tensor]) -> Tensor:
    """Each image's anchor (G, B) and the places of its satellites in each local slot (select, B), in slot order: (S, B)."""
    found, column, left = [], 0, list(satellites)
    for span, slot in zip(slot_ranges(slots), slots, strict=True):
        if slot.role == "global":
            found.append(anchor[column : column + slot.select])
            column += slot.select
        else:
            found.append(left.pop(0) + span.start)
    return torch.cat(found)
