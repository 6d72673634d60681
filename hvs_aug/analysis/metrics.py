"""Measures of a selection: its hardness, its overlap, and how it differs from chance. They are computed on the device.

Sizes: V candidates per image, S selected views, B images. A selection is compared with the *expectation* over all possible
    selections, not with one random draw. For a table of pairs that is a weighted sum, because the probability of each pair is
    known (:func:`chance`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._check import require
from ..selection.losses.pair import slot_ranges
from ..selection.search import check_table, exact, selection_loss
from ..views.params import ViewParams
from ..views.recipe import ViewSlot

__all__ = [
    "SelectionMeter",
    "chance",
    "color_distance",
    "crop_scale",
    "expected_loss",
    "hardness_captured",
    "mean_over_pairs",
    "spread",
]


def chance(slots: Sequence[ViewSlot]) -> Tensor:
    """The probability that a selection made at random keeps views u and v both: (V, V) float32, on the CPU.

    Convention: the diagonal holds the probability that view v is kept.

    Example:
        >>> chance([ViewSlot(None, candidates=4, select=2)])[0]
        tensor([0.5000, 0.1667, 0.1667, 0.1667])
    """
    kept = torch.tensor([slot.select / slot.candidates for slot in slots for _ in range(slot.candidates)])
    both = torch.outer(kept, kept)
    for span, slot in zip(slot_ranges(slots), slots, strict=True):
        part = slice(span.start, span.stop)
        within = slot.select * (slot.select - 1) / max(1, slot.candidates * (slot.candidates - 1))
        both[part, part] = within
    return both.diagonal_scatter(kept)


def expected_loss(table: Tensor, slots: Sequence[ViewSlot]) -> Tensor:
    """The mean loss of an image over every selection that is possible: table (V, V, B) -> (B,)."""
    check_table("expected_loss", table, slots)
    weights = chance(slots).to(table.device, table.dtype)
    return (weights.triu()[..., None] * table).sum((0, 1))


def mean_over_pairs(pairs: Tensor, indices: Tensor | None = None, slots: Sequence[ViewSlot] | None = None) -> Tensor:
    """The mean over the pairs of an image's selected views, or, for ``slots``, its expectation over all possible selections.

    Shape: pairs (V, V, B), such as ``params.iou()``, and indices (S, B) int64, or slots -> (B,). With neither, over every two.

    Example:
        >>> import torch
        >>> iou = torch.tensor([[1.0, 0.2, 0.6], [0.2, 1.0, 0.4], [0.6, 0.4, 1.0]])[..., None]
        >>> mean_over_pairs(iou, torch.tensor([[0], [2]]))
        tensor([0.6000])
        >>> mean_over_pairs(iou)
        tensor([0.4000])
    """
    views = len(pairs) if indices is None else len(indices)
    require(views >= 2, "mean_over_pairs", "at least two views", views)
    if indices is not None:
        upper = torch.triu_indices(views, views, 1, device=pairs.device)
        flat = indices.to(pairs.device)[upper[0]] * len(pairs) + indices.to(pairs.device)[upper[1]]
        return pairs.flatten(0, 1).gather(0, flat).mean(0)
    weights = torch.ones(views, views) if slots is None else chance(slots)
    weights = weights.triu(1).to(pairs.device, pairs.dtype)
    return (weights[..., None] * pairs).sum((0, 1)) / weights.sum()


def hardness_captured(table: Tensor, slots: Sequence[ViewSlot], indices: Tensor) -> Tensor:
    """The hardness kept by a selection: 0-dim, 1 for the hardest selection, and 0 on average for random ones.

    (mean loss of the selection - mean of random ones) / (mean of the hardest - mean of random ones), by the table of the full-size
    candidates. Images with an entry that is not finite are left out. NaN if all selections are equally hard.

    Shape: table (V, V, B), indices (S, B) int64 -> ().
    """
    random = expected_loss(table, slots)
    hardest = selection_loss(table, exact(table, slots))
    chosen = selection_loss(table, indices)
    usable = (random + hardest + chosen).isfinite()
    gained, possible = (torch.where(usable, loss - random, 0).sum() for loss in (chosen, hardest))
    return gained / possible


def crop_scale(params: ViewParams) -> Tensor:
    """The area of every crop as a fraction of its image's: (V, B) float32."""
    return params.boxes[..., 2:].prod(-1) / params.sizes.to(params.boxes.device).prod(-1)


def color_distance(params: ViewParams) -> Tensor:
    """The distance of every two views' colour jitter: (V, V, B) float32.

    Convention: the Euclidean distance of the factors of brightness, contrast and saturation and of the hue's shift in turns,
        for the first ColorJitter of a recipe; 0 if there is none.
    Source: "color distance" in the analysis of HVS (arXiv 2310.03940).
    """
    factors = params.drawn.get("ColorJitter.factors")
    if factors is None:
        return torch.zeros(len(params), *params.boxes.shape[:2], device=params.boxes.device)
    distance: Tensor = torch.linalg.vector_norm(factors[:, None] - factors, dim=-1)
    return distance


def spread(table: Tensor, slots: Sequence[ViewSlot]) -> Tensor:
    """The range of the losses of an image's pairs: the highest minus the lowest among pairs of the same two slots, (B,).

    Shape: table (V, V, B) -> (B,), the largest over the slots.
    """
    check_table("spread", table, slots)
    widest = torch.zeros_like(table[0, 0])
    spans = slot_ranges(slots)
    for first, one in enumerate(spans):
        for second, other in enumerate(spans[first:], start=first):
            block = table[one.start : one.stop, other.start : other.stop]
            if first == second:
                rows, columns = torch.triu_indices(len(one), len(one), 1, device=table.device)
                pairs = block[rows, columns]
            else:
                pairs = block.flatten(0, 1)
            if len(pairs):
                widest = torch.maximum(widest, pairs.amax(0) - pairs.amin(0))
    return widest


class SelectionMeter:
    """Add up what was chosen over many steps, on the device; only :meth:`compute` waits for it.

    Args:
        slots: the slots that the indices refer to.

    Example:
        >>> import torch
        >>> meter = SelectionMeter([ViewSlot(None, candidates=4, select=2)])
        >>> meter.update(torch.tensor([[0, 1], [3, 2]]))
        >>> meter.compute()["chosen"]
        [0.25, 0.25, 0.25, 0.25]
    """

    def __init__(self, slots: Sequence[ViewSlot]) -> None:
        self.slots = tuple(slots)
        self.reset()

    def reset(self) -> None:
        """Forget what was summed up."""
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}
        self._chosen: Tensor | None = None

    def update(
        self, indices: Tensor, params: ViewParams | None = None, table: Tensor | None = None, loss: Tensor | None = None
    ) -> None:
        """Add one batch.

        Args:
            indices: ``(S, B)`` int64, the candidates that were chosen.
            params: what was drawn for all V candidates, for overlap, scale and colour.
            table: the losses ``(V, V, B)``, for the hardness over chance.
            loss: ``(B,)``, the loss of the chosen views, where there is no table.
        """
        candidates = sum(slot.candidates for slot in self.slots)
        counts = torch.zeros(candidates, dtype=torch.int64, device=indices.device)
        counts.scatter_add_(0, indices.flatten(), torch.ones_like(indices).flatten())
        self._chosen = counts if self._chosen is None else self._chosen + counts
        if table is not None:
            loss = selection_loss(table, indices)
            self._add("loss_over_chance", loss - expected_loss(table, self.slots))
            self._add("spread", spread(table, self.slots))
        if loss is not None:
            self._add("loss", loss)
        if params is not None:
            chosen = indices.to(params.boxes.device)
            scale = crop_scale(params)
            self._add("scale", scale.gather(0, chosen).mean(0))
            self._add("scale_random", (scale * chance(self.slots).diagonal()[:, None].to(scale.device)).sum(0) / len(chosen))
            for name, pairs in (("color_distance", color_distance(params)), *([] if params.uncropped else [("iou", params.iou())])):
                if len(chosen) >= 2:
                    self._add(name, mean_over_pairs(pairs, chosen))
                    self._add(f"{name}_random", mean_over_pairs(pairs, slots=self.slots))

    def _add(self, name: str, values: Tensor) -> None:
        finite = values.isfinite()
        total, count = torch.where(finite, values, 0).sum(), finite.sum()
        self._sums[name] = self._sums[name] + total if name in self._sums else total
        self._counts[name] = self._counts[name] + count if name in self._counts else count

    def compute(self) -> dict[str, float | list[float]]:
        """The means over all images so far. A name that ends in ``_random`` is the expectation for random selections.

        ``chosen`` is the share of each candidate among all that were chosen. Empty before the first batch.
        """
        found: dict[str, float | list[float]] = {
            name: (total.cpu() / self._counts[name].cpu()).item() for name, total in self._sums.items()
        }
        if self._chosen is not None:
            found["chosen"] = (self._chosen / self._chosen.sum()).tolist()
        return found
