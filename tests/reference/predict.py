"""Losses of pairs predicted from what was drawn for their views: a ridge regression, row by row, in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hvs_aug.views.params import ViewParams
from hvs_aug.views.recipe import ViewSlot

__all__ = ["drawn_values", "inputs_of_pair", "kinds", "moments", "predicted_table", "rows", "weights"]

FORGET = 0.8
RIDGE, FLOOR = 0.1, 1e-6
DARKEST = 0.1  # factors of brightness, contrast and saturation below it count as it: the logarithm of 0 is not finite

Kind = tuple[int, ...]  # of two slots, or of one, whose views have a loss of their own
Moments = dict[Kind, tuple[Tensor, Tensor]]


def kinds(slots: Sequence[ViewSlot]) -> list[Kind]:
    """The unordered pairs of slots whose views are ever kept together and compared."""
    found = []
    for one, first in enumerate(slots):
        for other, second in enumerate(slots):
            both_local = first.role == "local" and second.role == "local"
            never_together = one == other and first.select == 1
            if one <= other and not both_local and not never_together:
                found.append((one, other))
    return found


def drawn_values(params: ViewParams, view: int, image: int, facts: Tensor | None = None) -> list[float]:
    """Log of the crop's share of the image, blur, log of three colour factors, hue, gray, solarize and facts, of one view."""
    _, _, height, width = params.boxes[view, image].tolist()
    image_height, image_width = params.sizes[image].tolist()
    brightness, contrast, saturation, hue = params.jitter[view, image].tolist()
    return [
        math.log(height * width / (image_height * image_width)),
        float(params.blur[view, image]),
        math.log(max(brightness, DARKEST)),
        math.log(max(contrast, DARKEST)),
        math.log(max(saturation, DARKEST)),
        hue,
        1.0 if bool(params.gray[view, image]) else 0.0,
        1.0 if bool(params.solarize[view, image]) else 0.0,
        *(facts[view, image].tolist() if facts is not None else []),
    ]


def inputs_of_pair(params: ViewParams, u: int, v: int, image: int, facts: Tensor | None = None) -> list[float]:
    """What the regression is given for views u and v of one image, of the slots ``params.slots[u]`` and ``params.slots[v]``.

    The overlap of the crops, the distance of their centres, the absolute difference of each of the values, then their sum where
    both views are of one slot, which cannot be told apart, and both of them where they are of two.
    """
    top_u, left_u, height_u, width_u = params.boxes[u, image].tolist()
    top_v, left_v, height_v, width_v = params.boxes[v, image].tolist()
    image_height, image_width = params.sizes[image].tolist()
    rows_shared = max(0, min(top_u + height_u, top_v + height_v) - max(top_u, top_v))
    columns_shared = max(0, min(left_u + width_u, left_v + width_v) - max(left_u, left_v))
    shared = rows_shared * columns_shared
    iou = shared / (height_u * width_u + height_v * width_v - shared)
    down = ((top_u + height_u / 2) - (top_v + height_v / 2)) / image_height
    across = ((left_u + width_u / 2) - (left_v + width_v / 2)) / image_width

    inputs = [iou, math.hypot(down, across)]
    for of_u, of_v in zip(drawn_values(params, u, image, facts), drawn_values(params, v, image, facts), strict=True):
        inputs.append(abs(of_u - of_v))
        if params.slots[u] == params.slots[v]:
            inputs.append(of_u + of_v)
        else:
            inputs.append(of_u)
            inputs.append(of_v)
    return inputs


def rows(
    params: ViewParams, table: Tensor, kind: Kind, image: int, facts: Tensor | None = None
) -> tuple[list[list[float]], list[float]]:
    """The inputs and targets of the pairs (or views) of one image that count, less their mean over these."""
    inputs, targets = [], []
    for u, slot_u in enumerate(params.slots):
        for v, slot_v in enumerate(params.slots):
            wanted = (u != v and (slot_u, slot_v) == kind) or (u == v and (slot_u,) == kind)
            if wanted and math.isfinite(float(table[u, v, image])):
                alone = len(kind) == 1
                inputs.append(drawn_values(params, u, image, facts) if alone else inputs_of_pair(params, u, v, image, facts))
                targets.append(float(table[u, v, image]))
    count = len(targets)
    mean_inputs = [sum(column) / count for column in zip(*inputs, strict=True)]
    centred_inputs = [[value - mean for value, mean in zip(row, mean_inputs, strict=True)] for row in inputs]
    centred_targets = [target - sum(targets) / count for target in targets]
    return centred_inputs, centred_targets


def moments(params: ViewParams, table: Tensor, slots: Sequence[ViewSlot], facts: Tensor | None = None) -> Moments:
    """Sums of x x^T and of x y over all rows of one table (V, V, B), for each kind of which there are any."""
    found: Moments = {}
    for kind in [*kinds(slots), *((slot,) for slot in range(len(slots)))]:
        for image in range(table.shape[-1]):
            for inputs, target in zip(*rows(params, table, kind, image, facts), strict=True):
                x = torch.tensor(inputs, dtype=torch.float64)
                xx, xy = found.get(kind, (torch.zeros(len(x), len(x), dtype=torch.float64), torch.zeros_like(x)))
                found[kind] = (xx + x.outer(x), xy + x * target)
    return found


def weights(history: Sequence[tuple[Any, ...]], slots: Sequence[ViewSlot]) -> dict[Kind, Tensor]:
    """The regression of each kind of which anything was learned, after a history of (params, table[, facts]), oldest first."""
    every = [moments(params, table, slots, *facts) for params, table, *facts in history]
    learned = {}
    for kind in sorted({kind for found in every for kind in found}):
        of_kind = [(FORGET**age, found[kind]) for age, found in enumerate(reversed(every)) if kind in found]
        if of_kind:
            xx = sum(share * xx for share, (xx, _) in of_kind)
            xy = sum(share * xy for share, (_, xy) in of_kind)
            learned[kind] = torch.linalg.solve(xx + torch.diag(RIDGE * xx.diagonal() + FLOOR), xy)
    return learned


def predicted_table(
    history: Sequence[tuple[Any, ...]], params: ViewParams, slots: Sequence[ViewSlot], facts: Tensor | None = None
) -> Tensor:
    """The table (V, V, B) of the views of ``params``; 0 for pairs of no kind, and for kinds never learned."""
    learned = weights(history, slots)
    views, images = params.boxes.shape[:2]
    table = torch.zeros(views, views, images, dtype=torch.float64)
    for u, slot_u in enumerate(params.slots):
        for v, slot_v in enumerate(params.slots):
            kind = (slot_u,) if u == v else (slot_u, slot_v)
            for image in range(images) if kind in learned else ():
                inputs = drawn_values(params, u, image, facts) if u == v else inputs_of_pair(params, u, v, image, facts)
                terms = zip(learned[kind].tolist(), inputs, strict=True)
                table[u, v, image] = table[v, u, image] = sum(weight * value for weight, value in terms)
    return table
