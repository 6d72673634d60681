"""Selection policies, spelled out over the list of all selections of each image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hvs_aug.views.recipe import ViewSlot

from .losses import view_roles
from .search import brute_force, first_candidates, loss_of, selections

__all__ = ["easiest", "hardest", "min_iou", "semi_hard", "softmax_probabilities"]


def hardest(table: Tensor, slots: Sequence[ViewSlot]) -> Tensor:
    """The selection of highest loss of each image: (V, V, B) -> (S, B)."""
    return brute_force(table, slots)


def easiest(table: Tensor, slots: Sequence[ViewSlot]) -> Tensor:
    """The selection of lowest loss of each image: (V, V, B) -> (S, B)."""
    return brute_force(-table, slots)


def softmax_probabilities(table: Tensor, slots: Sequence[ViewSlot], temperature: float) -> Tensor:
    """How probable each selection is, in proportion to exp(loss / temperature): (V, V, B) -> (selections, B) float64.

    Rows stand in the order of :func:`.search.selections`. One that is not finite has probability 0; where none is finite, the first
    candidates of each slot have probability 1.
    """
    every = selections(slots)
    probabilities = torch.zeros(len(every), table.shape[-1], dtype=torch.float64)
    for image in range(table.shape[-1]):
        losses = [loss_of(table, selection, image) for selection in every]
        finite = [loss for loss in losses if math.isfinite(loss)]
        if not finite:
            probabilities[every.index(first_candidates(slots)), image] = 1.0
            continue
        weights = [math.exp((loss - max(finite)) / temperature) if math.isfinite(loss) else 0.0 for loss in losses]
        for row, weight in enumerate(weights):
            probabilities[row, image] = weight / sum(weights)
    return probabilities


def min_iou(iou: Tensor, slots: Sequence[ViewSlot], local_pairs: bool = False) -> Tensor:
    """The selection of each image whose crops overlap least, summed over its pairs: IoU (V, V, B) -> (S, B).

    Two local views count as a pair only with ``local_pairs``, as in the losses.
    Source: the IoU baseline of arXiv 2310.03940.
    """
    roles = view_roles(slots)
    overlap = torch.zeros(iou.shape, dtype=torch.float64)
    for u, first in enumerate(roles):
        for v, second in enumerate(roles):
            if u != v and (local_pairs or "global" in (first, second)):
                overlap[u, v] = iou[u, v].double()
    return brute_force(-overlap, slots)


def semi_hard(table: Tensor, slots: Sequence[ViewSlot], quantile: float) -> Tensor:
    """The hardest selection at or below a quantile of the image's selection losses: (V, V, B) -> (S, B).

    With n finite selections in ascending order of loss it is the one at floor(quantile * (n - 1)): quantile 1 is the hardest, 0 the
    easiest. Of equal losses the first selection is taken.
    """
    every = selections(slots)
    chosen = []
    for image in range(table.shape[-1]):
        losses = [loss_of(table, selection, image) for selection in every]
        finite = sorted(loss for loss in losses if math.isfinite(loss))
        if finite:
            chosen.append(every[losses.index(finite[math.floor(quantile * (len(finite) - 1))])])
        else:
            chosen.append(first_candidates(slots))
    kept = len(first_candidates(slots))
    return torch.tensor(chosen, dtype=torch.int64).reshape(table.shape[-1], kept).T.contiguous()
