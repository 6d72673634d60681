"""Tensors that accompany the candidates, such as iBOT's masks: which rows belong to which slot, and what the model gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from .._check import fail
from ..views.recipe import ViewSlot
from .losses import PairLoss
from .slots import gather, slot_rows

__all__ = ["Extras", "checked_extras", "chosen_extras", "model_arguments", "scoring_extras", "split_extra"]

Extras: TypeAlias = Mapping[str, Tensor]
"""Tensors by name, with leading axes (V, B) or (global candidates, B)."""


def checked_extras(slots: Sequence[ViewSlot], extras: Extras | None, loss: PairLoss) -> Extras:
    """The extras, or what is missing or does not fit."""
    for name in loss.model_extras:
        if name not in (extras or {}):
            expected = f"{name!r}, which {type(loss).__name__} passes to the model"
            fail("HardPairSampler(extras)", expected, f"{sorted(extras or {})}", "pass extras={...} with each call.")
    for name, value in (extras or {}).items():
        split_extra(slots, name, value)
    return extras or {}


def model_arguments(slots: Sequence[ViewSlot], extras: Extras, passed: Sequence[str]) -> list[tuple[Tensor, ...]]:
    """What the model gets after the pixels of each slot: the named extras, for global slots."""
    parts = [split_extra(slots, name, extras[name]) for name in passed]
    return [
        tuple(value for part in parts if (value := part[index]) is not None) if slot.role == "global" else ()
        for index, slot in enumerate(slots)
    ]


def split_extra(slots: Sequence[ViewSlot], name: str, value: Tensor) -> list[Tensor | None]:
    """Split a tensor that has a row for each candidate, or for each global one, into those of each slot."""
    everything = sum(slot.candidates for slot in slots)
    shared = sum(slot.candidates for slot in slots if slot.role == "global")
    if not isinstance(value, Tensor) or value.ndim < 2 or len(value) not in (everything, shared):
        some = f" or {shared} (global)" if shared != everything else ""
        fail(f"HardPairSampler(extras[{name!r}])", f"a tensor with leading axes (V, B), V = {everything}{some}", value)
    counts = [slot.candidates if len(value) == everything or slot.role == "global" else 0 for slot in slots]
    return [part if len(part) else None for part in torch.split(value, counts)]


def chosen_extras(slots: Sequence[ViewSlot], extras: Mapping[str, Tensor], indices: Tensor) -> dict[str, Tensor]:
    """The winners' extras: ``(S, B, ...)``, or those of the global slots alone."""
    rows = slot_rows(slots, indices)
    chosen = {}
    for name, value in extras.items():
        parts = split_extra(slots, name, value.to(indices.device, non_blocking=True))
        chosen[name] = torch.cat([gather(part, row) for part, row in zip(parts, rows, strict=True) if part is not None])
    return chosen


def scoring_extras(
    slots: Sequence[ViewSlot], extras: Mapping[str, Tensor], passed: Sequence[str], pixels: Sequence[Tensor], scale: float
) -> dict[str, Tensor]:
    """The extras on the images' device. Masks ``(v, B, h, w)`` for the model follow the token grid to the scoring size."""
    images, device = pixels[0].shape[1], pixels[0].device
    for name, value in extras.items():
        if value.shape[1] != images:
            fail(f"HardPairSampler(extras[{name!r}])", f"leading axes (V, B), B = {images} images", value)
    ready = {name: value.to(device, non_blocking=True) for name, value in extras.items()}
    for name in passed if scale != 1 else ():
        value = ready[name]
        if value.ndim == 4:
            slot = next(index for index, part in enumerate(split_extra(slots, name, value)) if part is not None)
            size = getattr(slots[slot].recipe, "size", 0)
            sizes = (size, size) if isinstance(size, int) else size
            # A cell is a patch of size // cells pixels; slots without a recipe do not tell their training size.
            grid = [
                max(1, side // (whole // cells) if whole >= cells else round(cells * scale))
                for cells, whole, side in zip(value.shape[2:], sizes, pixels[slot].shape[-2:], strict=True)
            ]
            ready[name] = nn.functional.interpolate(value.float(), size=grid, mode="nearest-exact").to(value.dtype)
    return ready
