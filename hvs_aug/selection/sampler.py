"""HardPairSampler: scores the candidates of every image with the current model and returns the views to train on."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .._check import describe, fail, require
from ..data.batch import ImageBatch
from ..views.candidates import CandidateViews
from ..views.draw import own_generator
from ..views.params import ViewParams
from ..views.recipe import ViewSlot
from .arguments import fitting_teacher, name_of, require_device, require_dtype, views_and_slots
from .extras import Extras, checked_extras, chosen_extras, model_arguments, scoring_extras
from .forward import Output, blame_dtype, forward_slots
from .hard_views import HardViews, Scored
from .health import Health
from .losses import CallableLoss, PairLoss
from .named import as_policy, as_scoring
from .no_trace import Memory, untraced
from .policies import Policy, choose, hardest, needs_table, searches_exactly
from .reached import find_modules
from .scale import blame_scale, patch_side, reduced, scoring_side
from .scoring import Scoring
from .search import refuse_local_pairs, selection_loss
from .slots import checked_candidates, first_candidates, winners
from .together import meet, must_meet
from .watch import mark

__all__ = ["HardPairSampler", "HardViews", "Scored"]


@dataclass
class _Choice:
    """What one step decided, before anything is rendered at the training size."""

    indices: Tensor
    loss: Tensor
    nonfinite: Tensor
    outputs: list[Output | None] | None = None
    teacher_outputs: list[Output | None] | None = None
    pixels: list[Tensor] | None = None


class HardPairSampler:
    """Score all candidate views of every image with the current model, without gradients, and return the hardest ones.

    Scoring leaves no trace: for every module that ran, buffers, training flags, gradients and hooks are afterwards as before,
    and so are the global random state and the caches of autocast, also after an error. A DistributedDataParallel wrapper is
    bypassed and SyncBatchNorm takes local statistics, so processes need not score together. (They must score at the same steps,
    in equally many chunks, if FSDP2 shards the weights or if the loss gathers negatives.) Candidates of one resolution go
    through the model in one call.

    Args:
        model: any callable from ``(n, C, H, W)`` to a tensor, or a tuple or dict of tensors, with first axis n.
        loss: a :class:`PairLoss`, or any callable ``(out_a, out_b) -> (B,)``.
        views: a :class:`CandidateViews`, or its slots. Slots alone are enough for :meth:`select`.
        teacher: a callable like ``model``, which makes the targets from the global views, for a loss that compares with a
            teacher.
        policy: chooses from the table of losses; an object, a function, or a name: ``"hardest"``, ``"semi_hard:0.8"``
            (:mod:`hvs_aug.policies`).
        scoring: how candidates are scored; a :class:`Scoring`, ``"full"`` or ``"cheap"``.
        generator: a CPU generator for all random numbers; by default the sampler has its own.

    Attributes:
        step: the number of batches for which it has chosen.
        listeners: functions that get ``None`` when a step begins, and its :class:`HardViews` when it ends.

    Raises:
        HVSError: if an argument is out of range, or the loss does not use the teacher.

    Example:
        >>> from hvs_aug.selection.losses import NTXentLoss
        >>> views = CandidateViews.preset("simclr", size=32, candidates=4)
        >>> encoder = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 8))
        >>> sampler = HardPairSampler(encoder, NTXentLoss(temperature=0.1), views)
        >>> hard = sampler(torch.randint(0, 256, (5, 3, 48, 64), dtype=torch.uint8))
        >>> [tuple(view.shape) for view in hard.views]
        [(5, 3, 32, 32), (5, 3, 32, 32)]
    """

    def __init__(
        self,
        model: Callable[..., Any],
        loss: PairLoss | Callable[[Any, Any], Tensor],
        views: CandidateViews | ViewSlot | Sequence[ViewSlot],
        *,
        teacher: Callable[..., Any] | None = None,
        policy: str | Policy = "hardest",
        scoring: str | Scoring = Scoring(),  # noqa: B008 - it is frozen
        generator: torch.Generator | None = None,
    ) -> None:
        require(callable(model), "HardPairSampler(model)", "a callable", model)
        require(callable(loss) or isinstance(loss, PairLoss), "HardPairSampler(loss)", "a PairLoss or a callable", loss)
        self.model = model
        self.loss = loss if isinstance(loss, PairLoss) else CallableLoss(loss)
        self.teacher = fitting_teacher(teacher, self.loss)
        self.views, self.slots = views_and_slots(views)
        self.policy = as_policy(policy)
        self.scoring = as_scoring(scoring)
        if searches_exactly(self.policy):
            refuse_local_pairs("HardPairSampler", self.slots, self.loss.local_pairs)
        self.generator = generator if generator is not None else own_generator()
        self.step = 0
        self.listeners: list[Callable[[HardViews | None], None]] = []
        self._health = Health()
        self._memory = Memory()
        self._known: tuple[nn.Module, ...] | None = None
        self._patch: int | None = None
        self._has_scored = False

    # ------------------------------------------------------------------ the three ways to call it

    @torch.no_grad()
    def __call__(self, images: ImageBatch | Tensor, extras: Extras | None = None, *, params: ViewParams | None = None) -> HardViews:
        """Draw candidates of the images, score them, and render the chosen ones at the training size.

        Shape: images, an ImageBatch or ``(B, C, H, W)``; extras, tensors with leading axes ``(V, B)`` or (global candidates, B).
        ``params`` replays candidates that were drawn before.
        """
        views = self._renderer("HardPairSampler(images)")
        batch = ImageBatch.of(images)
        with self._as_before_after_an_error():
            self._begin(batch.device)
            drawn = self._drawn(views, batch, params)
            mark("views", batch.device)
            choice = self._decide(len(batch), batch.device, drawn, extras, lambda: self._rendered(views, batch, drawn))
            chosen = drawn.select(choice.indices, [slot for slot, entry in enumerate(self.slots) for _ in range(entry.select)])
            if choice.pixels is not None and self.scoring.scale == 1:
                rendered = winners(self.slots, choice.pixels, choice.indices)  # the same pixels, without rendering them again
            else:
                rendered = list(views.transform(batch, chosen))
            return self._finish(rendered, drawn, chosen, choice, extras)

    @torch.no_grad()
    def select(self, candidates: Sequence[Tensor], extras: Extras | None = None) -> HardViews:
        """Choose among candidates that the caller rendered.

        Shape: V tensors ``(B, C, h, w)`` in slot order; the candidates of a slot have one size. With ``Scoring(scale=)`` they
            are reduced for scoring, antialiased.
        """
        slots = checked_candidates(self.slots, candidates)

        def pixels() -> list[Tensor]:
            return [reduced(slot, [self._scoring_side(side) for side in slot.shape[-2:]]) for slot in slots]

        with self._as_before_after_an_error():
            self._begin(slots[0].device)
            choice = self._decide(slots[0].shape[1], slots[0].device, None, extras, pixels)
            return self._finish(winners(self.slots, slots, choice.indices), None, None, choice, extras)

    @torch.no_grad()
    def score(self, images: ImageBatch | Tensor, extras: Extras | None = None, *, params: ViewParams | None = None) -> Scored:
        """Draw candidates and score them all, without choosing. ``params`` replays candidates that were drawn before."""
        views = self._renderer("HardPairSampler.score(images)")
        batch = ImageBatch.of(images)
        with self._as_before_after_an_error():
            self._begin(batch.device)
            extras = checked_extras(self.slots, extras, self.loss)
            drawn = self._drawn(views, batch, params)
            outputs, teacher_outputs, table = self._scored(self._rendered(views, batch, drawn), extras)
            return Scored(drawn, outputs, teacher_outputs, table)

    def state_dict(self) -> dict[str, Any]:
        """The generator's state and the number of calls: a resumed run continues with the same choices."""
        return {"generator": self.generator.get_state(), "step": self.step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a :meth:`state_dict`, which may come from a sampler with other options."""
        call = "HardPairSampler.load_state_dict(state)"
        require(isinstance(state, Mapping), call, "a state_dict", state)
        require(set(state) == {"generator", "step"}, call, "keys generator and step", f"{sorted(state)}")
        try:
            step = operator.index(state["step"])
            self.generator.set_state(state["generator"])
        except (TypeError, RuntimeError) as error:
            fail(call, "the state of a CPU generator, and a number of steps", f"{describe(dict(state))} ({error})")
        self.step = step

    # ------------------------------------------------------------------ the steps

    @contextmanager
    def _as_before_after_an_error(self) -> Iterator[None]:
        state = self.state_dict()
        try:
            yield
        except BaseException:
            self.load_state_dict(state)
            raise

    def _begin(self, device: torch.device) -> None:
        """Check what can be checked before any work."""
        for listener in self.listeners:
            listener(None)
        known = find_modules(self.model)
        for name, roots in (("model", known), ("teacher", find_modules(self.teacher))):
            require_device(name, roots, device)
        if known != self._known:
            if self._known is None:
                if known and not any(root.training for root in known):
                    hint = "call model.train() before, if you train in that mode."
                    warnings.warn(f"HardPairSampler scores with the model in eval mode, as it is now: {hint}", stacklevel=4)
                require_dtype(device, self.scoring.dtype)
            self._known = known
            self._patch = patch_side(known) if self.scoring.scale != 1 else None
        mark(None, device)

    def _decide(
        self,
        images: int,
        device: torch.device,
        params: ViewParams | None,
        extras: Extras | None,
        pixels: Callable[[], list[Tensor]],
    ) -> _Choice:
        step, self.step = self.step, self.step + 1
        is_idle = all(slot.candidates == slot.select for slot in self.slots) or step % self.scoring.every != 0
        if is_idle or not needs_table(self.policy, step):
            indices = (
                first_candidates(self.slots, images, device)
                if is_idle
                else choose(self.policy, None, self.slots, params=params, step=step, generator=self.generator).to(device)
            )
            mark("search", device)
            unscored = torch.full((images,), float("nan"), dtype=torch.float32, device=device)
            return _Choice(indices, unscored, torch.zeros((), dtype=torch.int64, device=device))
        extras = checked_extras(self.slots, extras, self.loss)
        scored = pixels()
        mark("views", device)
        outputs, teacher_outputs, table = self._scored(scored, extras)
        mark("scoring", device)
        indices = choose(self.policy, table, self.slots, params=params, step=step, generator=self.generator)
        loss = selection_loss(table, indices)
        nonfinite = self._health.see(self.loss, self.slots, outputs, table, indices)
        mark("search", device)
        chosen = winners(self.slots, outputs, indices)
        taught = None if teacher_outputs is None else winners(self.slots, teacher_outputs, indices)
        return _Choice(indices, loss, nonfinite, chosen, taught, scored)

    def _scored(self, pixels: list[Tensor], extras: Extras) -> tuple[list[Output | None], list[Output | None] | None, Tensor]:
        """Forward the candidates and make the table of their losses."""
        scoring, device = self.scoring, pixels[0].device
        extras = scoring_extras(self.slots, extras, self.loss.model_extras, pixels, scoring.scale)
        arguments = model_arguments(self.slots, extras, self.loss.model_extras)
        run = partial(forward_slots, chunk=scoring.chunk, channels_last=scoring.channels_last)
        teacher_outputs: list[Output | None] | None = None
        roots = find_modules(self.model, self.teacher, self.loss)
        if must_meet(self.loss, roots):
            meet(f"step {self.step}", scoring.wait)
        keeping = untraced(roots, device, dtype=scoring.dtype, restore_buffers=scoring.restore_buffers, memory=self._memory)
        with keeping:
            try:
                outputs = run(self.model, pixels, arguments)
                if self.teacher is not None:
                    seen = [value if slot.role == "global" else None for slot, value in zip(self.slots, pixels, strict=True)]
                    teacher_outputs = run(self.teacher, seen, call="HardPairSampler(teacher)")
            except (RuntimeError, AssertionError, ValueError) as error:
                if self._has_scored:
                    raise
                blame_dtype(error, roots, pixels)
                blame_scale(error, scoring.scale, pixels)
            table = self.loss.table(outputs, teacher_outputs, self.slots, extras)
        self._has_scored = True
        return outputs, teacher_outputs, table

    def _finish(
        self,
        rendered: Sequence[Any],
        drawn: ViewParams | None,
        params: ViewParams | None,
        choice: _Choice,
        extras: Extras | None,
    ) -> HardViews:
        views = [view for slot in rendered for view in slot]
        mark("render", choice.indices.device)
        hard = HardViews(
            views,
            params,
            choice.indices,
            choice.loss,
            choice.outputs,
            choice.teacher_outputs,
            choice.nonfinite,
            chosen_extras(self.slots, extras or {}, choice.indices),
            drawn,
        )
        for listener in self.listeners:
            listener(hard)
        return hard

    # ------------------------------------------------------------------ parts of the steps

    def _renderer(self, call: str) -> CandidateViews:
        if self.views is None:
            fail(call, "a sampler made with views that it can render", "slots without recipes", "call sampler.select(candidates).")
        return self.views

    def _drawn(self, views: CandidateViews, batch: ImageBatch, params: ViewParams | None) -> ViewParams:
        params = views.make_params(batch, self.generator) if params is None else params
        return params if batch.device.type == "cpu" else params.to(batch.device, non_blocking=True)

    def _rendered(self, views: CandidateViews, batch: ImageBatch, params: ViewParams) -> list[Tensor]:
        """All candidates, each slot at the scale at which it is scored."""
        sizes = [getattr(slot.recipe, "size", None) for slot in self.slots]
        sides = [size if isinstance(size, int) or size is None else min(size) for size in sizes]
        scales = [self.scoring.scale if side is None else self._scoring_side(side) / side for side in sides]
        return views.transform(batch, params, scales)

    def _scoring_side(self, side: int) -> int:
        return side if self.scoring.scale == 1 else scoring_side(side, self.scoring.scale, self._patch)

    def __repr__(self) -> str:
        given = [
            f"model={name_of(self.model)}",
            f"loss={self.loss!r}",
            f"views={self.slots if self.views is None else self.views!r}",
        ]
        options = {
            "teacher": (self.teacher, None),
            "policy": (self.policy, hardest()),
            "scoring": (self.scoring, Scoring()),
        }
        changed = [f"{name}={name_of(value)}" for name, (value, default) in options.items() if value != default]
        return f"HardPairSampler({', '.join([*given, *changed])})"
