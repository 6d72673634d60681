"""The rows of candidates and winners: which belong to which slot, and how they are taken."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._check import fail, require
from ..views.recipe import ViewSlot
from .forward import Output, map_output
from .losses.pair import slot_ranges

__all__ = ["checked_candidates", "first_candidates", "gather", "slot_rows", "winners"]


def winners(slots: Sequence[ViewSlot], values: Sequence[Output | None], indices: Tensor) -> list[Output | None]:
    """Take the winners of each slot: per slot values ``(candidates, B, ...)``, indices ``(S, B)`` -> ``(select, B, ...)``."""
    rows = slot_rows(slots, indices)
    return [
        None if value is None else map_output(lambda leaf, chosen=chosen: gather(leaf, chosen), value)
        for value, chosen in zip(values, rows, strict=True)
    ]


def slot_rows(slots: Sequence[ViewSlot], indices: Tensor) -> list[Tensor]:
    """Split indices into V candidates ``(S, B)`` into, for each slot, indices into its own candidates ``(select, B)``."""
    rows, start = [], 0
    for slot, chosen in zip(slots, torch.split(indices, [slot.select for slot in slots]), strict=True):
        rows.append(chosen - start)
        start += slot.candidates
    return rows


def gather(values: Tensor, rows: Tensor) -> Tensor:
    """Take for each image the rows named: values ``(v, B, ...)``, rows ``(s, B)`` -> ``(s, B, ...)``."""
    return values[rows, torch.arange(rows.shape[1], device=values.device)]


def first_candidates(slots: Sequence[ViewSlot], images: int, device: torch.device) -> Tensor:
    """The first candidates of each slot for every image, ``(S, B)``: random views, as they are drawn independently."""
    # The torch.compile of PyTorch 2.4 ignores the end of a slice of a range, so no range is sliced here.
    rows = [span.start + row for span, slot in zip(slot_ranges(slots), slots, strict=True) for row in range(slot.select)]
    return torch.tensor(rows, device="cpu").to(device, non_blocking=True)[:, None].expand(-1, images)


def checked_candidates(slots: Sequence[ViewSlot], candidates: Sequence[Tensor]) -> list[Tensor]:
    """Return V tensors ``(B, C, h, w)`` as one ``(candidates, B, C, h, w)`` per slot, or say what does not fit."""
    call = "HardPairSampler.select(candidates)"
    everything = sum(slot.candidates for slot in slots)
    if not isinstance(candidates, (list, tuple)) or len(candidates) != everything:
        got = f"{len(candidates)} tensors" if isinstance(candidates, (list, tuple)) else candidates
        fail(call, f"{everything} candidate tensors, as the slots say", got, "make as many views as ViewSlot(candidates) draws.")
    for value in candidates:
        if not isinstance(value, Tensor) or value.ndim != 4 or not value.is_floating_point():
            fail(call, "floating-point tensors of shape (B, C, h, w)", value)
    sizes = [len(value) for value in candidates]
    if len(set(sizes)) > 1:
        fail(
            call,
            f"{everything} candidate tensors of one batch size",
            f"batch sizes {sizes}",
            "a DataLoader without drop_last gives a smaller last batch; render all candidates from one ImageBatch.",
        )
    devices = sorted({str(value.device) for value in candidates})
    require(len(devices) == 1, call, "candidates on one device", f"candidates on {', '.join(devices)}")
    joined = []
    start = 0
    for slot in slots:
        part = list(candidates[start : start + slot.candidates])
        shapes = sorted({tuple(value.shape[1:]) for value in part})
        require(len(shapes) == 1, call, f"candidates of slot {slot.name!r} of one size", f"sizes {shapes}")
        joined.append(torch.stack(part))
        start += slot.candidates
    return joined
