"""The rows of candidates and winners: which belong to which slot, and how they are taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from .._check import fail, require
from ..data.batch import ImageBatch
from ..views.params import ViewParams
from ..views.recipe import ViewSlot
from .scoring import Output, map_output

__all__ = [
    "as_drawn",
    "checked_candidates",
    "chosen_extras",
    "extra_facts",
    "first_candidates",
    "first_images",
    "first_params",
    "folded",
    "gather",
    "scoring_extras",
    "split_extra",
    "winners",
]


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


def as_drawn(slots: Sequence[ViewSlot], params: ViewParams) -> list[ViewSlot]:
    """The slots with as many candidates as were drawn for them."""
    return [replace(slot, candidates=params.slots.count(index)) for index, slot in enumerate(slots)]


def folded(many: Sequence[ViewSlot], slots: Sequence[ViewSlot], indices: Tensor) -> Tensor:
    """Turn indices into more candidates of the same slots into indices into those of ``slots``: of c the i-th is i modulo c."""
    found, start = [], 0
    for slot, rows in zip(slots, slot_rows(many, indices), strict=True):
        found.append(rows % slot.candidates + start)
        start += slot.candidates
    return torch.cat(found)


def gather(values: Tensor, rows: Tensor) -> Tensor:
    """Take for each image the rows named: values ``(v, B, ...)``, rows ``(s, B)`` -> ``(s, B, ...)``."""
    return values[rows, torch.arange(rows.shape[1], device=values.device)]


def first_candidates(slots: Sequence[ViewSlot], images: int, device: torch.device) -> Tensor:
    """The first candidates of each slot for every image, ``(S, B)``: random views, as they are drawn independently."""
    rows, start = [], 0
    for slot in slots:
        rows.append(torch.arange(start, start + slot.select, device=device))
        start += slot.candidates
    return torch.cat(rows)[:, None].expand(-1, images)


def first_images(batch: ImageBatch, count: int) -> ImageBatch:
    return batch if count == len(batch) else ImageBatch(batch.pixels[:count], batch.sizes[:count])


def first_params(params: ViewParams, count: int) -> ViewParams:
    if count == params.boxes.shape[1]:
        return params
    names = ("boxes", "flips", "jitter", "order", "gray", "blur", "solarize")
    extras = {
        name: value[:, :count] if value.shape[:2] == params.boxes.shape[:2] else value for name, value in params.extras.items()
    }
    return replace(params, **{name: getattr(params, name)[:, :count] for name in names}, sizes=params.sizes[:count], extras=extras)


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
    """The extras of the images that are scored. Masks ``(v, B, h, w)`` for the model follow the token grid to the scoring size."""
    count, device = pixels[0].shape[1], pixels[0].device
    ready = {name: value[:, :count].to(device, non_blocking=True) for name, value in extras.items()}
    for name in passed if scale != 1 else ():
        value = ready[name]
        if value.ndim == 4:
            slot = next(index for index, part in enumerate(split_extra(slots, name, value)) if part is not None)
            side, size = pixels[slot].shape[-1], getattr(slots[slot].recipe, "size", 0)
            # A cell is a patch of size // cells pixels; slots without a recipe do not tell their training size.
            grid = [max(1, side // (size // cells) if size >= cells else round(cells * scale)) for cells in value.shape[2:]]
            ready[name] = nn.functional.interpolate(value.float(), size=grid, mode="nearest-exact").to(value.dtype)
    return ready


def extra_facts(
    many: Sequence[ViewSlot], slots: Sequence[ViewSlot], extras: Mapping[str, Tensor], names: Sequence[str], device: torch.device
) -> Tensor | None:
    """Of every extra named, such as masks, its mean and whether that is above 0: (V, B, 2 n) for the candidates of ``many``."""
    facts = []
    for name in names:
        mean = extras[name].to(device, non_blocking=True).float().flatten(2).mean(2)
        rows = []
        for slot, more, part in zip(slots, many, split_extra(slots, name, mean), strict=True):
            places = torch.arange(more.candidates) % slot.candidates
            rows.append(mean.new_zeros(more.candidates, mean.shape[1]) if part is None else part[places])
        facts += [torch.cat(rows), (torch.cat(rows) > 0).float()]
    return torch.stack(facts, -1) if facts else None


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
