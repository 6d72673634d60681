"""What a sampler returns: the views that were chosen, or all candidates with their scores."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..views.params import ViewParams
from .forward import Output

__all__ = ["HardViews", "Scored"]


@dataclass(frozen=True, eq=False)
class HardViews:
    """The views that were chosen for one batch. S views are kept of V candidates.

    Attributes:
        views: S tensors ``(B, C, h, w)`` at the training size, in slot order, as a training loop expects them.
        params: their parameters, axes ``(S, B)``; ``None`` for candidates that the caller rendered.
        indices: ``(S, B)`` int64, the index of each chosen view among the V candidates.
        loss: ``(B,)`` float32, the loss by which they were chosen; NaN if nothing was scored.
        outputs: for each slot the scoring model's output for the chosen views, detached, leading axes (selected, B); ``None``
            if nothing was scored.
        teacher_outputs: the same of the teacher; ``None`` for local slots.
        nonfinite: 0-dim int64, how many images had a candidate pair whose loss was not finite.
        extras: the caller's extras of the chosen views.
        drawn: the parameters of all V candidates, axes ``(V, B)``, to which ``indices`` refer; ``None`` for candidates that the
            caller rendered.
    """

    views: list[Tensor]
    params: ViewParams | None
    indices: Tensor
    loss: Tensor
    outputs: list[Output | None] | None
    teacher_outputs: list[Output | None] | None
    nonfinite: Tensor
    extras: dict[str, Tensor]
    drawn: ViewParams | None = None


@dataclass(frozen=True, eq=False)
class Scored:
    """All candidates of one batch, scored. V candidates per image.

    Attributes:
        params: what was drawn, axes ``(V, B)``.
        outputs: for each slot the model's outputs, leading axes (candidates, B).
        teacher_outputs: the same of the teacher, or ``None``.
        table: ``(V, V, B)`` float32, the loss of image b when candidates u and v are both kept.
    """

    params: ViewParams
    outputs: list[Output | None]
    teacher_outputs: list[Output | None] | None
    table: Tensor
