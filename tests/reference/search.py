"""The hardest selection of each image, by trying every one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hvs_aug.views.recipe import ViewSlot

__all__ = ["brute_force", "first_candidates", "loss_of", "selection_loss", "selections"]


def selections(slots: Sequence[ViewSlot]) -> list[tuple[int, ...]]:
    """Every way to keep ``select`` of ``candidates`` in each slot, as candidate indices in [0, V).

    Each is grouped by slot, in slot order, and ascending within a slot. They come in the order in which ties are decided: by the
    combinations of the global slots, lexicographically, then by those of the local ones.
    """
    choices, start = [], 0
    for slot in slots:
        choices.append(list(itertools.combinations(range(start, start + slot.candidates), slot.select)))
        start += slot.candidates
    globals_first = sorted(range(len(slots)), key=lambda position: slots[position].role != "global")
    found = []
    for combination in itertools.product(*(choices[position] for position in globals_first)):
        by_slot = dict(zip(globals_first, combination, strict=True))
        found.append(tuple(view for position in range(len(slots)) for view in by_slot[position]))
    return found


def first_candidates(slots: Sequence[ViewSlot]) -> tuple[int, ...]:
    """The first ``select`` candidates of each slot: what an image gets that has no finite selection."""
    kept: list[int] = []
    start = 0
    for slot in slots:
        kept += range(start, start + slot.select)
        start += slot.candidates
    return tuple(kept)


def loss_of(table: Tensor, selection: Sequence[int], image: int) -> float:
    """The loss of one image on one selection: its views' own terms and those of its pairs, added in float64."""
    own = sum(float(table[view, view, image]) for view in selection)
    pairs = sum(float(table[u, v, image]) for u, v in itertools.combinations(selection, 2))
    return own + pairs


def selection_loss(table: Tensor, indices: Tensor) -> Tensor:
    """The loss of each image on its own selection: table (V, V, B), indices (S, B) -> (B,) float64."""
    return torch.tensor(
        [loss_of(table, indices[:, image].tolist(), image) for image in range(table.shape[-1])], dtype=torch.float64
    )


def brute_force(table: Tensor, slots: Sequence[ViewSlot]) -> Tensor:
    """The selection of highest loss of each image: table (V, V, B) -> candidate indices (S, B) int64.

    A selection with a term that is not finite never wins; of equal ones the first in the order of :func:`selections` does; an image
    with no finite selection gets :func:`first_candidates`.
    """
    every = selections(slots)
    chosen = []
    for image in range(table.shape[-1]):
        best, best_loss = first_candidates(slots), -math.inf
        for selection in every:
            loss = loss_of(table, selection, image)
            if math.isfinite(loss) and loss > best_loss:
                best, best_loss = selection, loss
        chosen.append(best)
    kept = len(first_candidates(slots))
    return torch.tensor(chosen, dtype=torch.int64).reshape(table.shape[-1], kept).T.contiguous()
