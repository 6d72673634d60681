"""Signs that a run is sick: each is looked for on the device at some steps, and said once if it lasts."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .._watch import Arrival, CountWatch
from ..views.recipe import ViewSlot
from .forward import Output
from .losses import PairLoss
from .search import selection_loss
from .slots import slot_rows

__all__ = ["EVERY", "Health"]

EVERY = 50
"""Scored steps from one look to the next."""

# Of the normalised outputs: untrained networks have a spread of 0.3 to 1, the presets' methods in their first hundred steps 0.1.
_SPREAD = 0.01
_NONFINITE, _SHARE, _DISTANCE = 0.1, 0.99, 0.005
_LOOKS = {"nonfinite": 3, "collapse": 3, "share": 3, "loss": 20}
_FEWEST_IMAGES = 256

_ONE_NONFINITE = (
    "the loss of candidate pairs of {count} image(s) was not finite; such pairs are never chosen. "
    "HardViews.nonfinite counts them; this is said once."
)
_MESSAGES = {
    "nonfinite": (
        "for {steps} scored steps many losses of candidate pairs have not been finite, now {nonfinite:.0%} of them. Such pairs "
        "are never chosen; an image with no other pair gets random views. Score in a wider dtype "
        "(Scoring(dtype=torch.float32)), or lower the learning rate. This is said once."
    ),
    "collapse": (
        "for {steps} scored steps the model has given nearly the same output for all candidates of all images (collapse): the "
        "spread of the normalised outputs is {spread:.1e}. Hard views make a collapse likelier where the loss has no negatives. "
        "Begin with random views (policy='warmup:STEPS'), take hard views for a part of the images (policy='mixture:0.5'), or "
        "lower the learning rate. This is said once."
    ),
    "share": (
        "for {steps} scored steps the same candidate has been chosen for nearly all images, now for {share:.0%}. Candidates of "
        "one slot are drawn alike, so each should be chosen about equally often. Look whether the loss is the same for all "
        "pairs, and whether the model or the policy treats the candidates differently. This is said once."
    ),
    "loss": (
        "for {steps} scored steps the loss of the chosen views has been ln(K), that of a model whose K outputs are equal; now "
        "it is {level:.3f}. The model learns nothing. Look whether the teacher's centre and weights are updated, lower the "
        "teacher's temperature, or change the learning rate. This is said once."
    ),
}


class Health:
    """Watches what a sampler scores and chooses, and warns once of each sickness that lasts. The host never waits for a device.

    The first loss that is not finite is said at once. Every 50th scored step is looked at more closely:

    - the share of the table's entries that are not finite: sick from 0.1 on;
    - the spread of the normalised outputs, ``1 - |mean|^2`` over all candidates of all images: sick below 0.01 (collapse);
    - the largest share of the images for which one candidate is chosen: sick from 0.99 on;
    - the relative distance of a prototype loss to ln(K): sick below 0.005.

    A sickness is said when three looks in a row have found it, a single candidate only after 256 images. A loss at ln(K) is said
    after 20 looks, since DINO begins near it. What an earlier sickness of the list explains is not said.
    """

    def __init__(self) -> None:
        self._nonfinite = CountWatch(_ONE_NONFINITE)
        self._scored = 0
        self._found = dict.fromkeys(_MESSAGES, 0)
        self._said: set[str] = set()
        self._arriving: tuple[Arrival, int, float | None] | None = None

    def see(
        self, loss: PairLoss, slots: Sequence[ViewSlot], outputs: Sequence[Output | None], table: Tensor, indices: Tensor
    ) -> Tensor:
        """Take one scored step, and return how many of its images have a pair whose loss is not finite, 0-dim int64.

        Shape: outputs ``(v, B, ...)`` per slot, table (V, V, B), indices (S, B).
        """
        bad = ~table.isfinite()
        nonfinite = bad.flatten(0, 1).any(0).sum()
        self._nonfinite.see(nonfinite)
        self._scored += 1
        images = table.shape[-1]
        if self._scored % EVERY == 0 and images and Arrival.can_read(table):
            rows = [leaf[:, :_FEWEST_IMAGES].float() for leaf in _leaves(outputs)]
            level = loss.uniform_loss(rows[0].shape[-1]) if rows else None
            signs = [bad.float().mean(), _spread(rows, table), _largest_share(slots, indices, table), _class_loss(table, indices)]
            self._arriving = Arrival(torch.stack(signs)), images, level
        if self._arriving is not None and (values := self._arriving[0].get()) is not None:
            _, images, level = self._arriving
            self._arriving = None
            self._judge(images, level, *values.tolist())
        return nonfinite

    def _judge(self, images: int, level: float | None, nonfinite: float, spread: float, share: float, class_loss: float) -> None:
        is_sick = {
            "nonfinite": nonfinite >= _NONFINITE,
            "collapse": spread < _SPREAD,
            "share": share >= _SHARE,
            "loss": level is not None and abs(class_loss - level) < _DISTANCE * level,
        }
        self._found = {name: self._found[name] + 1 if sick else 0 for name, sick in is_sick.items()}
        for name, found in self._found.items():
            if found >= _LOOKS[name] and (name != "share" or found * images >= _FEWEST_IMAGES):
                if name not in self._said:
                    self._said.add(name)
                    values = {"nonfinite": nonfinite, "spread": spread, "share": share, "level": class_loss}
                    warnings.warn(_MESSAGES[name].format(steps=(found - 1) * EVERY, **values), stacklevel=5)
                return

    def __getstate__(self) -> dict[str, Any]:
        """What a copy needs; what is on its way from a device stays with the original."""
        return vars(self) | {"_arriving": None}


def _leaves(outputs: Sequence[Output | None]) -> list[Tensor]:
    """The tensors (v, B, width) of the first slot that the model saw."""
    first = next((output for output in outputs if output is not None), ())
    leaves = first.values() if isinstance(first, Mapping) else (first,) if isinstance(first, Tensor) else first
    return [leaf for leaf in leaves if leaf.ndim == 3 and leaf.shape[-1] > 1]


def _spread(rows: Sequence[Tensor], table: Tensor) -> Tensor:
    """The largest spread of a tensor's normalised rows; 1 for fewer than 4 images, whose outputs may well be alike."""
    if not rows or table.shape[-1] < 4:
        return table.new_ones(())
    means = [F.normalize(values, dim=-1).mean((0, 1)) for values in rows]
    return torch.stack([1 - mean.square().sum() for mean in means]).amax().to(table.dtype)


def _largest_share(slots: Sequence[ViewSlot], indices: Tensor, table: Tensor) -> Tensor:
    """The largest share of the images for which one candidate is chosen, of the slots that leave some."""
    shares = [table.new_zeros(())]
    for slot, chosen in zip(slots, slot_rows(slots, indices), strict=True):
        if slot.select <= 0.9 * slot.candidates:
            candidates = torch.arange(slot.candidates, device=chosen.device)
            shares.append((chosen[..., None] == candidates).sum((0, 1)).amax() / chosen.shape[1])
    return torch.stack(shares).amax()


def _class_loss(table: Tensor, indices: Tensor) -> Tensor:
    """The mean loss of the chosen views less their own losses, iBOT's of the patches."""
    own = table.diagonal().t().gather(0, indices).sum(0)
    return (selection_loss(table, indices) - own).mean()
