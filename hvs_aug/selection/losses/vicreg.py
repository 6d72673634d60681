"""VICReg's loss of one image: its invariance term."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import Any

from torch import Tensor

from ..._check import fail
from ...views.recipe import ViewSlot
from .pair import PairLoss, SlotOutputs, as_tensor, joined, require_positive

__all__ = ["VICRegLoss"]


class VICRegLoss(PairLoss):
    """VICReg's invariance term: the weighted mean squared error of the projections of two views, per image.

    ``table[u, v] = weight * mean over the width of (z_u - z_v)²``, whose mean over the images is the method's invariance term on
    the batch of that pair. Left out are the variance and covariance terms: they are the batch's, not an image's, and
    no choice for one image is made by them.

    Shape: (v, B, width) -> (V, V, B); the diagonal is 0.
    Source: VICReg, arXiv 2105.04906, equation 5, times the λ of equation 6.

    Args:
        weight: above 0, or a function without arguments that returns it; 25 in the paper. It changes no choice.
        local_pairs: whether two local views are compared as well.

    Example:
        >>> import torch
        >>> VICRegLoss(weight=1.0).table(torch.tensor([[[0.0, 0.0]], [[1.0, 3.0]]]))[0, 1]
        tensor([5.])
    """

    def __init__(self, weight: float | Callable[[], float] = 25.0, *, local_pairs: bool = False) -> None:
        self.weight = weight if callable(weight) else require_positive(weight, "VICRegLoss(weight)")
        self.local_pairs = local_pairs

    @classmethod
    def like(cls, loss: Any) -> VICRegLoss:
        """The same weight as a repo's, read at every table.

        Understood are ``sim_coeff`` (vicreg's arguments), ``lambda_param`` (lightly) and ``sim_loss_weight`` (solo-learn).

        Example:
            >>> import types
            >>> VICRegLoss.like(types.SimpleNamespace(sim_coeff=10.0))
            VICRegLoss(10.0)
        """
        names = ("sim_coeff", "lambda_param", "sim_loss_weight")
        found = [name for name in names if hasattr(loss, name)]
        if not found:
            fail("VICRegLoss.like(loss)", f"one of the attributes {', '.join(names)}", f"{type(loss).__name__} without")
        return cls(partial(getattr, loss, found[0]))

    def __repr__(self) -> str:
        return f"VICRegLoss({self._weight()}{', local_pairs=True' if self.local_pairs else ''})"

    def _weight(self) -> float:
        return require_positive(self.weight() if callable(self.weight) else self.weight, "VICRegLoss(weight)")

    def _table(
        self, student: SlotOutputs, teacher: SlotOutputs | None, slots: Sequence[ViewSlot], extras: Mapping[str, Tensor]
    ) -> Tensor:
        call = "VICRegLoss.table(student)"
        outputs = joined(call, [as_tensor(call, output) for output in student])
        views, weight = len(outputs), self._weight()
        table = outputs.new_zeros(views, views, outputs.shape[1])
        for u, v in combinations(range(views), 2):  # differences, as products of close projections lose all digits
            table[u, v] = table[v, u] = (outputs[u] - outputs[v]).square_().mean(-1).mul_(weight)
        return table
