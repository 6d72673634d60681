"""Which views to keep: the exact optimum of a table of losses, or the best of some combinations drawn at random."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .._check import fail, require
from ..views.recipe import ViewSlot
from .losses.pair import slot_ranges

__all__ = ["exact", "first", "selection_loss"]

_MAX_ANCHORS = 20_000


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
    found = with_satellites(finite, slots, anchors, choice)
    return torch.where(best.isfinite(), found, first(table, slots))


def first(table: Tensor, slots: Sequence[ViewSlot]) -> Tensor:
    """The first candidates of every slot for every image, (S, B): what an image without any finite combination gets."""
    indices = [torch.arange(span.start, span.start + slot.select) for span, slot in zip(slot_ranges(slots), slots, strict=True)]
    return torch.cat(indices).to(table.device, non_blocking=True)[:, None].expand(-1, table.shape[-1])


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
        fail(f"{call}(local_pairs)", expected, "local_pairs=True", 'use search="sampled", limit=128.')


def finite_or_lowest(table: Tensor) -> Tensor:
    """The table with -inf for every entry that is not finite, so that no combination that holds one can be the highest."""
    return torch.where(table.isfinite(), table, -torch.inf)


def anchor_combinations(slots: Sequence[ViewSlot]) -> Tensor:
    """Every way to keep the global views: (n, G) int64 on the CPU, in lexicographic order."""
    spans = [(span, slot.select) for span, slot in zip(slot_ranges(slots), slots, strict=True) if slot.role == "global"]
    count = math.prod(math.comb(len(span), select) for span, select in spans)
    hint = 'draw fewer global candidates, or use search="sampled", limit=128.'
    if count > _MAX_ANCHORS:
        fail("search.exact(slots)", f"at most {_MAX_ANCHORS:,} ways to keep the global views", f"{count:,}", hint)
    kept = itertools.product(*(list(itertools.combinations(span, select)) for span, select in spans))
    return torch.tensor([[index for part in parts for index in part] for parts in kept])


def anchor_losses(table: Tensor, slots: Sequence[ViewSlot], anchors: Tensor) -> Tensor:
    """The loss of each anchor with the best satellites for it: (n, B). Walked in blocks of anchors, so memory is bounded."""
    local = [(span, slot.select) for span, slot in zip(slot_ranges(slots), slots, strict=True) if slot.role == "local"]
    kept = anchors.shape[1]
    largest = max([kept * (kept + 1) // 2, *(len(span) for span, _ in local)])
    height = max(1, (64 << 20) // (4 * largest * max(1, table.shape[-1])))
    blocks = []
    for block in torch.split(anchors, height):
        losses = combination_losses(table, block)
        for span, select in local:
            part = table[:, span.start : span.stop]
            gains = part[span.start : span.stop].diagonal().t().expand(len(block), -1, -1)
            for anchor in block.to(table.device, non_blocking=True).unbind(1):
                gains = gains + part[anchor]
            losses = losses + gains.topk(select, dim=1, sorted=False).values.sum(1)
        blocks.append(losses)
    return torch.cat(blocks)


def combination_losses(table: Tensor, combinations: Tensor) -> Tensor:
    """The loss of every image on each combination of views: (n, S) int64 on the CPU -> (n, B)."""
    upper = torch.triu_indices(combinations.shape[1], combinations.shape[1])
    pairs = combinations[:, upper[0]] * len(table) + combinations[:, upper[1]]
    entries = table.flatten(0, 1).index_select(0, pairs.flatten().to(table.device, non_blocking=True))
    return entries.view(*pairs.shape, table.shape[-1]).sum(1)


def with_satellites(table: Tensor, slots: Sequence[ViewSlot], anchors: Tensor, choice: Tensor) -> Tensor:
    """The chosen anchor of each image, ``choice`` (B,), and the best satellites for it, in the order of the slots: (S, B)."""
    anchor = anchors.to(table.device, non_blocking=True)[choice].t()
    found, column = [], 0
    for span, slot in zip(slot_ranges(slots), slots, strict=True):
        if slot.role == "global":
            found.append(anchor[column : column + slot.select])
            column += slot.select
            continue
        part = table[:, span.start : span.stop]
        index = anchor[:, None].expand(-1, len(span), -1)
        gains = part[span.start : span.stop].diagonal().t() + part.gather(0, index).sum(0)
        order = gains.sort(dim=0, descending=True, stable=True).indices
        found.append(order[: slot.select].sort(dim=0).values + span.start)
    return torch.cat(found)
