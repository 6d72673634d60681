"""Policies: which views to train on, given the table of losses.

A policy is a function of the table that returns indices. An example of your own:

    def second_hardest(table, slots, *, params, step, generator):
        losses = search.combination_losses(table, combinations := search.anchor_combinations(slots))
        return combinations.to(table.device)[losses.topk(2, dim=0).indices[1]].t()
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from .._check import fail, readable, require, require_fraction, require_name
from ..views.params import ViewParams
from ..views.recipe import ViewSlot
from . import search
from .losses.pair import made_once, require_positive, slot_ranges, without_local_pairs

__all__ = [
    "Policy",
    "choose",
    "easiest",
    "hardest",
    "min_iou",
    "mixture",
    "needs_table",
    "random",
    "schedule",
    "searches_exactly",
    "semi_hard",
    "softmax",
    "warmup",
]


class Policy(Protocol):
    """A function of the table that returns the candidates to keep: (S, B) int64, grouped by slot.

    ``table`` is (V, V, B) (see :class:`hvs_aug.selection.losses.PairLoss`), or ``None`` for a policy with the attribute
    ``needs_table = False``, for which the model is not run. ``params`` are the parameters of all candidates, or ``None`` if the
    caller rendered them. Random numbers come from ``generator``, which is on the CPU, so that one seed gives the same choice on
    every device.
    """

    def __call__(
        self,
        table: Tensor | None,
        slots: Sequence[ViewSlot],
        *,
        params: ViewParams | None,
        step: int,
        generator: torch.Generator | None,
    ) -> Tensor: ...


@dataclass(frozen=True)
class _Call:
    """The arguments of one call of a policy."""

    table: Tensor | None
    slots: Sequence[ViewSlot]
    params: ViewParams | None
    step: int
    generator: torch.Generator | None

    def scores(self, policy: object) -> Tensor:
        """The table, which the policy cannot do without."""
        if self.table is None:
            fail(f"{policy!r}(table)", "a table of losses", "None")
        return self.table

    def uniform(self, *shape: int) -> Tensor:
        """Random numbers in [0, 1), drawn on the CPU and sent after the table without waiting."""
        return torch.rand(shape, generator=self.generator, device="cpu").to(self.target[1], non_blocking=True)

    @property
    def target(self) -> tuple[int, torch.device]:
        """The number of images, and where the indices are wanted: with the table, or else with the params."""
        if self.table is not None:
            return self.table.shape[-1], self.table.device
        if self.params is None:
            hint = "render the candidates with CandidateViews, or choose by the table: random(control=True)."
            fail("policy(params)", "the params of the candidates, since there is no table", "None", hint)
        return self.params.boxes.shape[1], self.params.boxes.device


class _Policy(ABC):
    """A policy that is shown as the call that makes it, and compared by its arguments."""

    maker: ClassVar[str]

    @property
    def needs_table(self) -> bool:
        return True

    def __call__(
        self,
        table: Tensor | None,
        slots: Sequence[ViewSlot],
        *,
        params: ViewParams | None,
        step: int,
        generator: torch.Generator | None,
    ) -> Tensor:
        return self.pick(_Call(table, slots, params, step, generator))

    @abstractmethod
    def pick(self, call: _Call) -> Tensor:
        """The indices (S, B)."""

    def __repr__(self) -> str:
        return f"{self.maker}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"


@dataclass(frozen=True, repr=False)
class _Searching(_Policy):
    search: str = "exact"
    limit: int = 128

    def find(self, table: Tensor, call: _Call) -> Tensor:
        if self.search == "sampled":
            return search.sampled(table, call.slots, self.limit, call.generator)
        return search.exact(table, call.slots)


@dataclass(frozen=True, repr=False)
class _Hardest(_Searching):
    maker: ClassVar[str] = "hardest"
    max_loss_quantile: float | None = None

    def pick(self, call: _Call) -> Tensor:
        table = call.scores(self)
        search.check_table("hardest", table, call.slots)
        if self.max_loss_quantile is not None and table.shape[-1]:
            table = _without_outliers(table, call.slots, self.max_loss_quantile)
        return self.find(table, call)


@dataclass(frozen=True, repr=False)
class _Easiest(_Searching):
    maker: ClassVar[str] = "easiest"

    def pick(self, call: _Call) -> Tensor:
        return self.find(-call.scores(self), call)


@dataclass(frozen=True, repr=False)
class _Random(_Policy):
    maker: ClassVar[str] = "random"
    control: bool

    @property
    def needs_table(self) -> bool:
        return self.control

    def pick(self, call: _Call) -> Tensor:
        batch, device = call.target
        found = []
        for span, slot in zip(slot_ranges(call.slots), call.slots, strict=True):
            order = torch.rand(len(span), batch, generator=call.generator, device="cpu").argsort(0)
            found.append(order[: slot.select].sort(0).values + span.start)
        return torch.cat(found).to(device, non_blocking=True)


@dataclass(frozen=True, repr=False)
class _Softmax(_Searching):
    maker: ClassVar[str] = "softmax"
    temperature: float = 1.0

    def pick(self, call: _Call) -> Tensor:
        slots = call.slots
        search.check_table("softmax", call.scores(self), slots)
        logits = search.finite_or_lowest(call.scores(self)) / self.temperature
        if self.search == "sampled":
            combinations = search.draw_combinations(slots, self.limit, call.generator)
            best, choice = _gumbel_max(search.combination_losses(logits, combinations), call)
            found = combinations.to(best.device, non_blocking=True)[choice].t()
            return torch.where(best.isfinite(), found, search.first(logits, slots))
        anchors = search.anchor_combinations(slots)
        scores = search.anchor_sums(logits, slots)
        for span, slot in search.local_spans(slots):
            rows = max(1, (64 << 20) // (4 * (len(span) + 2 * slot.select) * max(1, scores.shape[1])))
            parts = [search.anchor_gains(logits, span, block) for block in torch.split(anchors, rows)]
            scores = scores + torch.cat([_log_weights(part.transpose(0, 1), slot.select)[0][slot.select] for part in parts])
        best, choice = _gumbel_max(scores, call)
        anchor = anchors.to(scores.device, non_blocking=True)[choice].t()
        satellites = []
        for span, slot in search.local_spans(slots):
            gains = search.own_gains(logits, span, anchor)
            satellites.append(_draw_subset(gains, slot.select, call.uniform(*gains.shape)))
        found = search.assembled(slots, anchor, satellites)
        return torch.where(best.isfinite(), found, search.first(logits, slots))


@dataclass(frozen=True, repr=False)
class _SemiHard(_Policy):
    maker: ClassVar[str] = "semi_hard"
    quantile: float
    limit: int

    def pick(self, call: _Call) -> Tensor:
        table = call.scores(self)
        search.check_table("semi_hard", table, call.slots)
        combinations = search.draw_combinations(call.slots, self.limit, call.generator)
        losses = search.combination_losses(search.finite_or_lowest(table), combinations)
        finite = losses.isfinite().sum(0)
        place = _quantile_places(len(losses), self.quantile).to(table.device, non_blocking=True)[finite]
        wanted = losses.sort(dim=0).values.gather(0, place[None])
        choice = (losses == wanted).to(torch.uint8).argmax(0)
        found = combinations.to(table.device, non_blocking=True)[choice].t()
        return torch.where(finite > 0, found, search.first(table, call.slots))


@dataclass(frozen=True, repr=False)
class _MinIoU(_Policy):
    maker: ClassVar[str] = "min_iou"

    @property
    def needs_table(self) -> bool:
        return False

    def pick(self, call: _Call) -> Tensor:
        if call.params is None:
            fail("min_iou(params)", "the params of the candidates", "None", "render the candidates with CandidateViews.")
        overlap = without_local_pairs(call.params.iou(), call.slots)
        overlap.diagonal().zero_()  # of a view with itself
        return search.exact(-overlap, call.slots).to(call.target[1], non_blocking=True)


@dataclass(frozen=True, repr=False)
class _Mixture(_Policy):
    maker: ClassVar[str] = "mixture"
    p: float
    policy: Policy

    @property
    def needs_table(self) -> bool:
        return self.p > 0 and getattr(self.policy, "needs_table", True)

    def pick(self, call: _Call) -> Tensor:
        control = _Random(control=False).pick(call)
        if self.p == 0:
            return control
        chosen = self.policy(call.table, call.slots, params=call.params, step=call.step, generator=call.generator)
        return torch.where(call.uniform(control.shape[1]) < self.p, chosen, control)


@dataclass(frozen=True, repr=False)
class _Schedule(_Policy):
    maker: ClassVar[str] = "schedule"
    phases: Mapping[int, Policy]

    @property
    def needs_table(self) -> bool:
        return any(getattr(policy, "needs_table", True) for policy in self.phases.values())

    def at(self, step: int) -> Policy:
        return self.phases[max(start for start in self.phases if start <= step)]

    def pick(self, call: _Call) -> Tensor:
        return self.at(call.step)(call.table, call.slots, params=call.params, step=call.step, generator=call.generator)


def hardest(max_loss_quantile: float | None = None, *, search: str = "exact", limit: int = 128) -> Policy:
    """Keep the views with the highest loss (:func:`hvs_aug.selection.search.exact`).

    Args:
        max_loss_quantile: a guard against outliers: a pair is not kept if its loss lies above this quantile of all pairs of the
            batch. If no pair of an image is left, its first candidates are kept, which are random views.
        search: ``"exact"``, or ``"sampled"`` for the best of ``limit`` random combinations.

    Example:
        >>> hardest(max_loss_quantile=0.95)
        hardest(search='exact', limit=128, max_loss_quantile=0.95)
    """
    require_name(search, ("exact", "sampled"), "hardest(search)")
    if max_loss_quantile is not None:
        require_fraction(max_loss_quantile, "hardest(max_loss_quantile)")
    return _Hardest(search, limit, max_loss_quantile)


def easiest(*, search: str = "exact", limit: int = 128) -> Policy:
    """Keep the views with the lowest loss. Non-finite losses are never chosen."""
    require_name(search, ("exact", "sampled"), "easiest(search)")
    return _Easiest(search, limit)


def random(control: bool = True) -> Policy:
    """Keep random views.

    Args:
        control: score nevertheless, so that a step costs as much as with hard views; ``False`` does not run the model.
    """
    return _Random(control)


def softmax(temperature: float, *, search: str = "exact", limit: int = 128) -> Policy:
    """Draw a selection with probability proportional to exp(loss / temperature). A temperature near 0 gives the hardest one.

    Exact for several crops, too: an anchor (a choice of global views) is drawn by its weight summed over all its satellites, an
    elementary symmetric polynomial of exp(gain / temperature); then the satellites, one after the other, by what is left of that
    sum with each one taken or not. A non-finite selection has weight 0. With ``search="sampled"`` the draw is out of ``limit``
    random distinct selections, which losses of two local views need.

    Raises:
        HVSError: if the temperature is not above 0.
    """
    require_name(search, ("exact", "sampled"), "softmax(search)")
    return _Softmax(search, limit, require_positive(temperature, "softmax(temperature)"))


def semi_hard(quantile: float, limit: int = 1024) -> Policy:
    """Sort the selections of an image by loss, and keep the one at a quantile: 1 is the hardest, 0.5 the median, 0 the easiest.

    It is number ``floor(quantile * (n - 1))`` of n finite selections in ascending order, and the first of equal ones. If there
    are more than ``limit`` selections, the quantile is that of ``limit`` random distinct ones.
    """
    require_fraction(quantile, "semi_hard(quantile)")
    require(isinstance(limit, int) and limit >= 1, "semi_hard(limit)", "an integer of at least 1", limit)
    return _SemiHard(float(quantile), limit)


def min_iou() -> Policy:
    """Keep the views whose crops overlap least, without running the model. This is the paper's baseline.

    The sum of the IoU over all kept pairs is smallest. Pairs of two local views do not count, as in the losses.
    Source: arXiv 2310.03940, the ablation of IoU-based selection.
    """
    return _MinIoU()


def mixture(p: float, policy: Policy | None = None) -> Policy:
    """Choose with ``policy`` (by default the hardest) with probability ``p`` for each image, and otherwise at random."""
    require_fraction(p, "mixture(p)")
    return _Mixture(float(p), hardest() if policy is None else policy)


def warmup(steps: int, then: Policy | None = None) -> Policy:
    """Keep random views for ``steps`` steps, without running the model; then choose with ``then`` (by default the hardest)."""
    require(isinstance(steps, int) and steps >= 0, "warmup(steps)", "a number of steps", steps)
    return schedule({0: random(control=False), steps: hardest() if then is None else then})


def schedule(phases: Mapping[int, Policy]) -> Policy:
    """Use one policy after the other: ``{first step: policy}``, beginning with step 0.

    Example:
        >>> policy = schedule({0: random(control=False), 1000: mixture(0.5), 5000: hardest()})
        >>> needs_table(policy, step=999), needs_table(policy, step=1000)
        (False, True)
    """
    is_valid = isinstance(phases, Mapping) and 0 in phases and all(isinstance(step, int) and step >= 0 for step in phases)
    require(is_valid, "schedule(phases)", "a dict from first steps to policies, with step 0", phases)
    return _Schedule(dict(phases))


def needs_table(policy: Policy, step: int) -> bool:
    """Whether a policy looks at the table in this step; if not, the model need not run."""
    while isinstance(policy, _Schedule):
        policy = policy.at(step)
    return bool(getattr(policy, "needs_table", True))


def searches_exactly(policy: Policy) -> bool:
    """Whether a policy leaves out the losses of two local views, as the exact search does. Of the user's own it is not known."""
    if isinstance(policy, _Mixture):
        return searches_exactly(policy.policy)
    if isinstance(policy, _Schedule):
        return any(searches_exactly(phase) for phase in policy.phases.values())
    return isinstance(policy, _Searching) and policy.search == "exact"


def choose(
    policy: Policy,
    table: Tensor | None,
    slots: Sequence[ViewSlot],
    *,
    params: ViewParams | None,
    step: int,
    generator: torch.Generator | None,
) -> Tensor:
    """Ask a policy, and check its answer: the shape always, the values on the CPU alone: reading them would block on a GPU.

    Raises:
        HVSError: if the indices are not (S, B) int64, or one is not of its slot's candidates, or comes twice.
    """
    indices = policy(table, slots, params=params, step=step, generator=generator)
    selected, call = sum(slot.select for slot in slots), "HardPairSampler(policy)"
    batch = table.shape[-1] if table is not None else params.boxes.shape[1] if params is not None else None
    is_valid = isinstance(indices, Tensor) and indices.dtype == torch.int64 and indices.ndim == 2 and len(indices) == selected
    if not is_valid or (batch is not None and indices.shape[1] != batch):
        fail(call, f"int64 indices ({selected}, {'B' if batch is None else batch}), one row per kept view", indices)
    if not readable(indices):
        return indices
    row = 0
    for span, slot in zip(slot_ranges(slots), slots, strict=True):
        kept = indices[row : row + slot.select]
        row += slot.select
        if kept.numel() and not span.start <= int(kept.min()) <= int(kept.max()) < span.stop:
            expected = f"indices from {span.start} to {span.stop - 1} for slot {slot.name!r}"
            fail(call, expected, f"indices from {int(kept.min())} to {int(kept.max())}", "rows are grouped by slot, in slot order.")
        if bool((kept.sort(0).values.diff(dim=0) == 0).any()):
            fail(call, f"different candidates in the {slot.select} rows of slot {slot.name!r}", "one candidate twice")
    return indices


def _gumbel_max(logits: Tensor, call: _Call) -> tuple[Tensor, Tensor]:
    """Draw a row of each column by the softmax of its logits: (n, B) -> a value that is finite if the row is, and the row (B,)."""
    return (logits - torch.log(-torch.log(call.uniform(*logits.shape)))).max(0)


def _log_weights(gains: Tensor, select: int) -> list[Tensor]:
    """For each i the logarithms of the summed weights of all subsets of the rows from i on, by size: (n, ...) -> (select + 1, ...).

    A subset's weight is exp(sum of its gains); the sums are elementary symmetric polynomials, by the recurrence
    e_j(with g) = e_j(without) + exp(g) e_(j - 1)(without).
    """
    weights = torch.full_like(gains[:1], -torch.inf).expand(select + 1, *gains.shape[1:]).clone()
    weights[0] = 0
    found = [weights]
    for gain in reversed(gains.unbind(0)):
        weights = torch.cat([weights[:1], torch.logaddexp(weights[1:], weights[:-1] + gain)])
        found.append(weights)
    return found[::-1]


def _draw_subset(gains: Tensor, select: int, uniform: Tensor) -> Tensor:
    """Draw ``select`` rows in each column, a subset in proportion to exp(sum of its gains): (n, B) -> (select, B), ascending."""
    weights = _log_weights(gains, select)
    left = torch.full_like(gains[0], select, dtype=torch.int64)
    taken = []
    for row, gain in enumerate(gains.unbind(0)):
        without = weights[row + 1].gather(0, (left - 1).clamp_(min=0)[None])[0]
        total = weights[row].gather(0, left[None])[0]
        take = (uniform[row] < torch.exp(gain + without - total)) & (left > 0)
        left = left - take.long()
        taken.append(take)
    return search.taken_indices(torch.stack(taken), select)


@made_once
def _quantile_places(count: int, quantile: float) -> Tensor:
    """Where in ``count`` sorted losses the quantile of the finite ones stands, by how many of them are finite.

    -inf sorts first, so the finite losses are the last ones.
    """
    places = [count - finite + math.floor(quantile * (finite - 1)) if finite else 0 for finite in range(count + 1)]
    return torch.tensor(places, device="cpu")


@made_once
def _pairs_kept_together(layout: search.Layout) -> Tensor:
    """Which pairs of candidates u < v can be kept together and have a loss: (V, V, 1) bool on the CPU."""
    owner = [number for number, (candidates, _, _) in enumerate(layout) for _ in range(candidates)]

    def are_together(one: int, other: int) -> bool:
        (_, select, is_global), (_, _, other_is_global) = layout[one], layout[other]
        return (is_global or other_is_global) and (one != other or select > 1)

    together = [[u < v and are_together(one, other) for v, other in enumerate(owner)] for u, one in enumerate(owner)]
    return torch.tensor(together, device="cpu")[..., None]


def _without_outliers(table: Tensor, slots: Sequence[ViewSlot], quantile: float) -> Tensor:
    """The table with NaN for the pairs above this quantile of all finite losses of pairs that can be kept together."""
    pairs = _pairs_kept_together(search.layout_of(slots)).to(table.device, non_blocking=True)
    ordered = torch.where(pairs & table.isfinite(), table, torch.inf).flatten().sort().values
    place = ((ordered.isfinite().sum() - 1).clamp_(min=0) * quantile).floor().long()
    highest = ordered.gather(0, place[None])
    return table.masked_fill((pairs | pairs.transpose(0, 1)) & (table > highest), torch.nan)
