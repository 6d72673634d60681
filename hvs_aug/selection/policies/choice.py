"""What the sampler asks of a policy, and how it checks the answer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..._check import fail, readable
from ...views.params import ViewParams
from ...views.recipe import ViewSlot
from ..losses.pair import slot_ranges
from .policy import BuiltIn, Policy

__all__ = ["choose", "needs_table", "searches_exactly"]


def needs_table(policy: Policy, step: int) -> bool:
    """Whether a policy looks at the table in this step; if not, the model need not run."""
    while isinstance(policy, BuiltIn) and (now := policy.at(step)) is not policy:
        policy = now
    return bool(getattr(policy, "needs_table", True))


def searches_exactly(policy: Policy) -> bool:
    """Whether a policy leaves out the losses of two local views, as the exact search does. Of the user's own it is not known."""
    return bool(getattr(policy, "searches_exactly", False))


def choose(
    policy: Policy,
    table: Tensor | None,
    slots: Sequence[ViewSlot],
    *,
    params: ViewParams | None,
    step: int,
    generator: torch.Generator | None,
) -> Tensor:
    """Ask a policy, and check its answer: the shape always, the values on the CPU alone: reading them would block on a GPU.

    Raises:
        HVSError: if the indices are not (S, B) int64, or one is not of its slot's candidates, or comes twice.
    """
    indices = policy(table, slots, params=params, step=step, generator=generator)
    selected, call = sum(slot.select for slot in slots), "HardPairSampler(policy)"
    batch = table.shape[-1] if table is not None else params.boxes.shape[1] if params is not None else None
    is_valid = isinstance(indices, Tensor) and indices.dtype == torch.int64 and indices.ndim == 2 and len(indices) == selected
    if not is_valid or (batch is not None and indices.shape[1] != batch):
        fail(call, f"int64 indices ({selected}, {'B' if batch is None else batch}), one row per kept view", indices)
    if not readable(indices):
        return indices
    row = 0
    for span, slot in zip(slot_ranges(slots), slots, strict=True):
        kept = indices[row : row + slot.select]
        row += slot.select
        if kept.numel() and not span.start <= int(kept.min()) <= int(kept.max()) < span.stop:
            expected = f"indices from {span.start} to {span.stop - 1} for slot {slot.name!r}"
            fail(call, expected, f"indices from {int(kept.min())} to {int(kept.max())}", "rows are grouped by slot, in slot order.")
        if bool((kept.sort(0).values.diff(dim=0) == 0).any()):
            fail(call, f"different candidates in the {slot.select} rows of slot {slot.name!r}", "one candidate twice")
    return indices
