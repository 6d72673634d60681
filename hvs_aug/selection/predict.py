"""Predicting how hard a pair of views is from what was drawn for them, without running the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from .._check import require
from ..views.params import ViewParams
from ..views.recipe import ViewSlot
from .losses.pair import compared

__all__ = ["PairPredictor"]

_MEMORY = 0.8  # of the tables before, at each new one
_RIDGE = 0.1  # relative to each input's own variance
_LOWEST_FACTOR = 0.1  # jitter factors can be 0, which has no logarithm


class PairPredictor:
    """A ridge regression from the recorded parameters of two views to the loss of their pair.

    It learns from every table that is scored: how hard a pair is depends on how its views were drawn, in much the same way for all
    images. What differs between images it cannot know. Since the model changes, a table counts 0.8 times as much with each new one.

    The inputs of a pair: the intersection over union of its crops and the distance of their centres; and of the crops' area, the
    blur, the jitter, grayscale, solarization and the ``facts`` the difference and both values. The inputs of a view's own loss, on
    the table's diagonal: these values. The means over an image's pairs are taken off everything, as only pairs of one image
    compete. Pairs of every two slots, and the views of every slot, have weights of their own.

    Args:
        slots: the slots whose candidates are scored.
    """

    def __init__(self, slots: Sequence[ViewSlot]) -> None:
        places = range(len(slots))
        pairs = [(one, other) for one in places for other in places[one:] if compared(slots, one, other)]
        self._kinds: list[tuple[int, ...]] = [*pairs, *((slot,) for slot in places)]
        self._moments: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}
        self._weights: dict[tuple[int, ...], Tensor] = {}

    @torch.no_grad()
    def learn(self, params: ViewParams, table: Tensor, facts: Tensor | None = None) -> None:
        """Take in a table that was scored; entries that are not finite do not count.

        Shape: params of V views of B images; table (V, V, B) float32; facts (V, B, n) float32, what else is known of the views,
        such as how much of them is masked. All on one device.
        """
        with torch.autocast(table.device.type, enabled=False):
            described = _described(params, facts)
            for kind in self._kinds:
                losses = _block(table, params, kind)
                counted = losses.isfinite()
                if _same(kind):
                    counted = counted & ~torch.eye(len(losses), dtype=torch.bool, device=losses.device)[..., None]
                inputs = _centred(torch.stack(list(_inputs(*described, params, kind)), -1), counted).flatten(0, 2)
                targets = _centred(losses[..., None], counted).flatten(0, 2)
                squares, products = inputs.t() @ inputs, inputs.t() @ targets
                if kind in self._moments:
                    before = self._moments[kind]
                    squares = squares + _MEMORY * before[0].to(table.device)
                    products = products + _MEMORY * before[1].to(table.device)
                self._moments[kind] = squares, products
                self._weights[kind] = _ridge(squares, products)

    @torch.no_grad()
    def table(self, params: ViewParams, facts: Tensor | None = None) -> Tensor:
        """Predict the table of any number of views of the slots, up to a constant for each image and kind of pair.

        Shape: params of V views of B images, facts as they were learned -> (V, V, B) float32, symmetric, on their device; 0 before
        anything was learned.
        """
        views, images = params.boxes.shape[:2]
        table = torch.zeros(views, views, images, device=params.boxes.device)
        with torch.autocast(table.device.type, enabled=False):
            described = _described(params, facts)
            for kind, weights in self._weights.items():
                block = _block(table, params, kind)
                for weight, values in zip(weights.to(table.device), _inputs(*described, params, kind), strict=True):
                    block.addcmul_(values, weight)
                if _same(kind):
                    block.diagonal().zero_()
                elif len(kind) == 2:
                    _block(table, params, kind[::-1]).copy_(block.transpose(0, 1))
        return table

    def state_dict(self) -> dict[str, Tensor]:
        """What was learned: for every kind of pair the moments of the inputs and those with the losses."""
        named = {_name(kind): moments for kind, moments in self._moments.items()}
        return {f"{kind}.{name}": value for kind, pair in named.items() for name, value in zip(("xx", "xy"), pair, strict=True)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from :meth:`state_dict`."""
        known = {f"{_name(kind)}.{name}" for kind in self._kinds for name in ("xx", "xy")}
        call = "PairPredictor.load_state_dict(state)"
        require(set(state) <= known, call, "the state of a predictor of these slots", f"keys {sorted(state)}")
        kinds = [kind for kind in self._kinds if f"{_name(kind)}.xx" in state]
        self._moments = {kind: (state[f"{_name(kind)}.xx"], state[f"{_name(kind)}.xy"]) for kind in kinds}
        self._weights = {kind: _ridge(*moments) for kind, moments in self._moments.items()}


def _name(kind: tuple[int, ...]) -> str:
    return ".".join(map(str, kind))


def _same(kind: tuple[int, ...]) -> bool:
    """Whether it is one of two views of one slot."""
    return len(kind) == 2 and kind[0] == kind[1]


def _block(table: Tensor, params: ViewParams, kind: tuple[int, ...]) -> Tensor:
    """The entries of a table, as a view of it: of two slots (v, w, B), of the views of one slot alone (v, 1, B)."""
    rows, columns = params.span(kind[0]), params.span(kind[-1])
    block = table[rows, columns]
    return block if len(kind) == 2 else block.diagonal().t()[:, None]


def _described(params: ViewParams, facts: Tensor | None) -> tuple[Tensor, Tensor]:
    """Of each view the centre of its crop in shares of the image (V, B, 2), and its values (V, B, k)."""
    top, left, height, width = params.boxes.float().unbind(-1)
    whole_height, whole_width = params.sizes.float().unbind(-1)
    centres = torch.stack([(top + height / 2) / whole_height, (left + width / 2) / whole_width], -1)
    area = (height * width / (whole_height * whole_width)).log()
    factors = params.jitter[..., :3].clamp(min=_LOWEST_FACTOR).log()
    drawn = [area, params.blur, *factors.unbind(-1), params.jitter[..., 3], params.gray.float(), params.solarize.float()]
    return centres, torch.stack([*drawn, *(() if facts is None else facts.unbind(-1))], -1)


def _inputs(centres: Tensor, values: Tensor, params: ViewParams, kind: tuple[int, ...]) -> Iterator[Tensor]:
    """The inputs of the regression, one after the other, each as large as :func:`_block`."""
    rows, columns = params.span(kind[0]), params.span(kind[-1])
    if len(kind) == 1:
        yield from values[rows, None].unbind(-1)
        return
    yield params.of_slot(kind[0]).iou(params.of_slot(kind[1]))
    yield (centres[rows, None] - centres[None, columns]).square().sum(-1).sqrt()
    for value in values.unbind(-1):
        first, second = value[rows, None], value[None, columns]
        yield (first - second).abs()
        if _same(kind):
            yield first + second
        else:
            yield first.expand(-1, second.shape[1], -1)
            yield second.expand(first.shape[0], -1, -1)


def _centred(values: Tensor, counted: Tensor) -> Tensor:
    """Take off the mean of each image's entries that count, and set the others to 0: (v, w, B, k) and (v, w, B)."""
    weight = counted[..., None].to(values.dtype)
    values = torch.where(counted[..., None], values, 0.0)
    mean = values.sum((0, 1), keepdim=True) / weight.sum((0, 1), keepdim=True).clamp(min=1)
    return (values - mean) * weight


def _ridge(inputs: Tensor, targets: Tensor) -> Tensor:
    """The weights, solved for without a check of the result, for which the host would wait."""
    penalty = _RIDGE * inputs.diagonal() + 1e-6
    weights: Tensor = torch.linalg.solve_ex(inputs + penalty.diag(), targets).result
    return weights
