"""HardPairSampler: scores the candidates of every image with the current model and returns the views to train on."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .._check import HVSError, fail, require, require_name
from ..data.batch import ImageBatch
from ..views.candidates import CandidateViews
from ..views.draw import own_generator
from ..views.params import ViewParams
from ..views.recipe import ViewRecipe, ViewSlot
from .losses import CallableLoss, PairLoss
from .policies import Policy, choose, hardest, needs_table, with_search
from .predict import PairPredictor
from .reuse import ReusedTeacher, Serving, fingerprint
from .scoring import Output, autocast_dtype, by_view, find_modules, forward_slots, map_output, untraced
from .search import anchor_combinations, refuse_local_pairs, selection_loss
from .slots import (
    as_drawn,
    checked_candidates,
    chosen_extras,
    extra_facts,
    first_candidates,
    first_images,
    first_params,
    folded,
    scoring_extras,
    split_extra,
    winners,
)
from .tokens import TokenKeep, patch_side
from .watch import Clock, NonfiniteWatch

__all__ = ["HardPairSampler", "HardViews", "Scored"]

Extras = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class HardViews:
    """The views that were chosen for one batch. S views are kept of V candidates.

    Attributes:
        views: S tensors ``(B, C, h, w)`` at the training size, in slot order, as a training loop expects them.
        params: what was drawn for them, axes ``(S, B)``; ``None`` for candidates that the caller brought.
        indices: ``(S, B)`` int64, which candidates they are.
        loss: ``(B,)`` float32, the loss by which they were chosen; NaN where nothing was scored.
        outputs: for each slot the scoring model's detached output of the winners, leading axes (selected, B); ``None`` unless
            the whole batch was scored.
        teacher_outputs: the same of the teacher; entries of local slots are ``None``.
        nonfinite: 0-dim int64, how many images had a candidate pair whose loss was not finite.
        extras: the caller's extras of the winners.
        timings: seconds spent in views, scoring, search and render; ``None`` unless the sampler was made with ``profile=True``.
        drawn: what was drawn for all V candidates, axes ``(V, B)``, to which ``indices`` refer; with ``predict`` not as
            many as the slots say. ``None`` for candidates that the caller brought.
    """

    views: list[Tensor]
    params: ViewParams | None
    indices: Tensor
    loss: Tensor
    outputs: list[Output | None] | None
    teacher_outputs: list[Output | None] | None
    nonfinite: Tensor
    extras: dict[str, Tensor]
    timings: dict[str, float] | None = None
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


@dataclass
class _Choice:
    """What one step decided, before anything is rendered at the training size."""

    indices: Tensor
    loss: Tensor
    nonfinite: Tensor
    outputs: list[Output | None] | None = None
    teacher_outputs: list[Output | None] | None = None
    pixels: list[Tensor] | None = None
    extra_rows: Tensor | None = None


class HardPairSampler:
    """Score all candidate views of every image with the current model, without gradients, and return the hardest to train on.

    Scoring leaves no trace: buffers, training flags, gradients, the global random state and the autocast cache are afterwards as
    before; a DistributedDataParallel wrapper is bypassed and SyncBatchNorm takes local statistics, so that processes need not
    score together. (Where weights are sharded by FSDP2, or negatives gathered, they must: at the same steps, in as many chunks.)
    Candidates of one resolution go through the model in one call.

    Args:
        model: any callable from ``(n, C, H, W)`` to a tensor, or a tuple or dict of tensors, with first axis n.
        loss: a :class:`PairLoss`, or any callable ``(out_a, out_b) -> (B,)``.
        views: a :class:`CandidateViews`, or its slots. Slots alone are enough for :meth:`select`.
        teacher: scores the global slots for a loss that compares with a teacher.
        policy: picks from the table of losses; the hardest by default.
        score_scale: render the candidates for scoring at this fraction of the side, in (0, 1]; winners are rendered in full. For
            a vision transformer the side is rounded to whole patches.
        chunk: at most this many images in one forward.
        autocast: dtype of the scoring forward, float32 for full precision; follows the caller where ``None``.
        channels_last: pass the candidates in channels-last memory format.
        compile: compile the loss table and the search.
        token_keep: score with this fraction of a vision transformer's patch tokens.
        every: choose on every k-th call; between, the first candidates, which are random views, or those of ``predict``.
        predict: between, draw this many candidates for each view that is kept and choose by the loss that their parameters predict,
            without running the model (:class:`hvs_aug.selection.predict.PairPredictor`); ``None`` for random views. Such pairs
            are hard by their augmentation: the more candidates, the worse the features (benchmarks/results/quality.json).
        fraction: choose for this share of the batch, its first images; random views for the rest.
        scorer: a callable that scores in the model's place (its average, a smaller network); its outputs must suit the loss.
        buffers: ``"restore"``, or ``"update"`` to let scoring update BatchNorm statistics, as the published code does.
        search: ``"exact"``, or ``"sampled"`` over ``limit`` random combinations, as the published code does.
        limit: how many combinations a sampled search looks at.
        generator: a CPU generator for everything random; by default one seeded from ``torch.initial_seed()`` and the rank.
        profile: fill ``HardViews.timings``, which makes the host wait for the device.

    Raises:
        HVSError: if an argument is out of range.

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
        policy: Policy | None = None,
        score_scale: float = 1.0,
        chunk: int | None = None,
        autocast: torch.dtype | None = None,
        channels_last: bool = False,
        compile: bool = False,
        token_keep: float | None = None,
        every: int = 1,
        predict: int | None = None,
        fraction: float = 1.0,
        scorer: Callable[..., Any] | None = None,
        buffers: Literal["restore", "update"] = "restore",
        search: Literal["exact", "sampled"] = "exact",
        limit: int = 128,
        generator: torch.Generator | None = None,
        profile: bool = False,
    ) -> None:
        _require_count(chunk, "HardPairSampler(chunk)")
        _require_count(every, "HardPairSampler(every)")
        for name, share in (("score_scale", score_scale), ("fraction", fraction)):
            require(_is_number(share) and 0 < share <= 1, f"HardPairSampler({name})", "a number in (0, 1]", share)
        if token_keep is not None:
            require(
                _is_number(token_keep) and 0 < token_keep <= 1, "HardPairSampler(token_keep)", "a fraction in (0, 1]", token_keep
            )
        require_name(buffers, ("restore", "update"), "HardPairSampler(buffers)")
        require_name(search, ("exact", "sampled"), "HardPairSampler(search)")
        if autocast not in (None, torch.float32, torch.bfloat16, torch.float16):
            fail("HardPairSampler(autocast)", "torch.bfloat16, torch.float16, torch.float32 or None", autocast)
        for name, value in (("model", model), ("loss", loss), ("scorer", scorer), ("teacher", teacher)):
            optional = name in ("scorer", "teacher") and value is None
            require(optional or callable(value) or isinstance(value, PairLoss), f"HardPairSampler({name})", "a callable", value)
        self.model = model
        self.loss = loss if isinstance(loss, PairLoss) else CallableLoss(loss)
        self.teacher = teacher
        if self.loss.needs_teacher and teacher is None:
            fail(
                "HardPairSampler(teacher)",
                f"the teacher that {type(self.loss).__name__} compares with",
                "None",
                "pass teacher=, the same callable that the training step uses.",
            )
        if isinstance(views, CandidateViews):
            self.views: CandidateViews | None = views
            self.slots: tuple[ViewSlot, ...] = tuple(views.slots)
        else:
            self.slots = (views,) if isinstance(views, ViewSlot) else tuple(views)
            self.views = None if any(slot.recipe is None for slot in self.slots) else CandidateViews(self.slots)
        self.policy = hardest() if policy is None else policy
        if search == "exact":
            refuse_local_pairs("HardPairSampler", self.slots, self.loss.local_pairs)
        else:
            self.policy = with_search(self.policy, search, limit)
        self.score_scale = score_scale
        self.chunk = chunk
        self.autocast = autocast
        self.channels_last = channels_last
        self.token_keep = token_keep
        self.every = every
        self.predict = predict
        self._predictor = None if predict is None else PairPredictor(self.slots)
        self._pool = None if predict is None else self._pool_of(predict, every, search)
        self.fraction = fraction
        self.scorer = scorer
        self.buffers = buffers
        self.generator = generator if generator is not None else own_generator()
        self.profile = profile
        self.step = 0
        self._judge = torch.compile(self._judged) if compile else self._judged
        self._roots: tuple[nn.Module, ...] | None = None
        self._patch: int | None = None
        self._tokens: TokenKeep | None = None
        self._watch = NonfiniteWatch()
        self._reused: ReusedTeacher | None = None
        self._serving: Serving | None = None
        self._scored_before = False
        if token_keep is not None and self._model_extras():
            fail(
                "HardPairSampler(token_keep)",
                "a loss on whole images",
                f"{type(self.loss).__name__}, which compares patch tokens",
                "use score_scale.",
            )

    # ------------------------------------------------------------------ the three ways to call it

    @torch.no_grad()
    def __call__(self, images: ImageBatch | Tensor, extras: Extras | None = None, *, params: ViewParams | None = None) -> HardViews:
        """Draw candidates of the images, score them, and render the chosen ones at the training size.

        Shape: images, an ImageBatch or ``(B, C, H, W)``; extras, tensors with leading axes ``(V, B)`` or (global candidates, B).
        ``params`` replays candidates that were drawn before.
        """
        views = self._renderer("HardPairSampler(images)")
        batch = ImageBatch.of(images)
        clock = self._begin(batch.device)
        params = self._drawn(self._pool if self._pool is not None and self._predicts(self.step) else views, batch, params)
        clock("views")

        def pixels(count: int) -> list[Tensor]:
            rendered = views.transform(first_images(batch, count), first_params(params, count), self._scales())
            clock("views")
            return rendered

        choice = self._decide(len(batch), batch.device, params, extras, pixels, clock)
        chosen = params.select(choice.indices, [slot for slot, entry in enumerate(self.slots) for _ in range(entry.select)])
        if choice.pixels is not None and self.score_scale == 1:
            rendered = winners(self.slots, choice.pixels, choice.indices)  # the same pixels, without rendering them again
        else:
            rendered = list(views.transform(batch, chosen))
        return self._finish(rendered, params, chosen, choice, extras, clock)

    @torch.no_grad()
    def select(self, candidates: Sequence[Tensor], extras: Extras | None = None) -> HardViews:
        """Choose among candidates that the caller rendered.

        Shape: V tensors ``(B, C, h, w)`` in slot order, those of one slot of one size. With ``score_scale`` they are reduced for
        scoring, antialiased.
        """
        if self.predict is not None:
            expected = "a sampler without predict=, as what was drawn for these candidates is not recorded"
            fail("HardPairSampler.select(candidates)", expected, f"predict={self.predict}", "let it render them: sampler(images).")
        slots = checked_candidates(self.slots, candidates)
        clock = self._begin(slots[0].device)

        def pixels(count: int) -> list[Tensor]:
            return [_reduced(slot[:, :count], [self._scoring_side(side) for side in slot.shape[-2:]]) for slot in slots]

        choice = self._decide(slots[0].shape[1], slots[0].device, None, extras, pixels, clock)
        return self._finish(winners(self.slots, slots, choice.indices), None, None, choice, extras, clock)

    @torch.no_grad()
    def score(self, images: ImageBatch | Tensor, extras: Extras | None = None, *, params: ViewParams | None = None) -> Scored:
        """Draw candidates and score them all, choosing nothing. ``params`` replays candidates that were drawn before."""
        views = self._renderer("HardPairSampler.score(images)")
        batch = ImageBatch.of(images)
        self._begin(batch.device)
        params = self._drawn(views, batch, params)
        pixels = views.transform(batch, params, self._scales())
        outputs, teacher_outputs, table = self._scored(pixels, extras)
        return Scored(params, outputs, teacher_outputs, table)

    def reuse(self, teacher: Callable[..., Any]) -> ReusedTeacher:
        """Return a callable that serves the teacher's outputs of the winners to the training step, and is the teacher otherwise.

        The numbers are those of a forward over the winners (up to the rounding of another batch size). The teacher must not
        change between the selection and its forward in the step.

        Raises:
            HVSError: if scoring does not run that teacher on whole views at the training size, or its output depends on the batch.
        """
        call = "HardPairSampler.reuse(teacher)"
        own = {module for root in find_modules(self.teacher) for module in root.modules()} if self.teacher is not None else set()
        other = {module for root in find_modules(teacher) for module in root.modules()}
        require(teacher is self.teacher or bool(own & other), call, "the teacher that this sampler scores with", teacher)
        for name, value, whole in (("score_scale", self.score_scale, 1), ("token_keep", self.token_keep, None)):
            require(value == whole, call, f"{name}={whole}, so that the teacher has seen the views of the step", f"{name}={value}")
        self._reused = ReusedTeacher(teacher, lambda: self._serving)
        return self._reused

    def state_dict(self) -> dict[str, Any]:
        """The generator's state, the number of calls, and what ``predict`` learned: a run resumed with it goes on the same."""
        state: dict[str, Any] = {"generator": self.generator.get_state(), "step": self.step}
        return state if self._predictor is None else state | {"predictor": self._predictor.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`, also that of a sampler with other options: ``predict`` then learns anew."""
        call = "HardPairSampler.load_state_dict(state)"
        require(set(state) - {"predictor"} == {"generator", "step"}, call, "keys generator and step", f"{sorted(state)}")
        if self._predictor is not None:
            self._predictor.load_state_dict(state.get("predictor", {}))
        self.generator.set_state(state["generator"])
        self.step = int(state["step"])

    # ------------------------------------------------------------------ the steps

    def _begin(self, device: torch.device) -> Clock:
        """Find the modules once, check what can be checked before any work, and let go of the last step's views."""
        self._serving = None
        scorer = self._scorer()
        if self._roots is None:
            self._patch = patch_side(find_modules(scorer))
            self._roots = find_modules(scorer, *([] if self.teacher is None else [self.teacher]), self.loss)
            models = find_modules(scorer)
            if models and not any(root.training for root in models):
                warnings.warn("HardPairSampler scores in the mode that the model is in, which is eval mode.", stacklevel=3)
            if self.token_keep is not None:
                tokens = find_modules(scorer, *([] if self.teacher is None else [self.teacher]))
                self._tokens = TokenKeep(tokens, self.token_keep, self.generator)
            if self.autocast not in (None, torch.float32):
                _require_autocast(device, self.autocast)
        for name, callables in (("model", scorer), ("teacher", self.teacher)):
            weights = [next(root.parameters(), None) for root in find_modules(callables)] if callables is not None else []
            places = {weight.device for weight in weights if weight is not None}
            if places and device not in places:
                fail(
                    f"HardPairSampler({name})",
                    f"a {name} on {device}, where the images are",
                    f"one on {', '.join(sorted(map(str, places)))}",
                    "move the images or the model with .to(device).",
                )
        return Clock(self.profile, device)

    def _decide(
        self,
        images: int,
        device: torch.device,
        params: ViewParams | None,
        extras: Extras | None,
        pixels: Callable[[int], list[Tensor]],
        clock: Clock,
    ) -> _Choice:
        step, self.step = self.step, self.step + 1
        first = first_candidates(self.slots, images, device)
        nothing = torch.zeros((), dtype=torch.int64, device=device)
        unscored = torch.full((images,), float("nan"), device=device)
        if self._predicts(step) and params is not None and self._predictor is not None:
            slots = as_drawn(self.slots, params)
            facts = extra_facts(slots, self.slots, self._checked(extras), self._model_extras(), device)
            indices, _, _ = self._judge(self._predictor.table(params, facts), params, step, slots)
            clock("search")
            return _Choice(indices, unscored, nothing, extra_rows=folded(slots, self.slots, indices))
        if self._nothing_to_choose() or step % self.every:
            return _Choice(first, unscored, nothing)
        if not needs_table(self.policy, step):
            indices = choose(self.policy, None, self.slots, params=params, step=step, generator=self.generator)
            clock("search")
            return _Choice(indices.to(device), unscored, nothing)
        count = math.floor(self.fraction * images + 0.5)
        if count == 0:
            return _Choice(first, unscored, nothing)
        scored = pixels(count)
        few = None if params is None else first_params(params, count)
        outputs, teacher_outputs, table = self._scored(scored, extras)
        clock("scoring")
        if self._predictor is not None and few is not None:
            facts = extra_facts(self.slots, self.slots, extras or {}, self._model_extras(), device)
            self._predictor.learn(few, table, None if facts is None else facts[:, :count])
        indices, loss, nonfinite = self._judge(table, few, step, self.slots)
        clock("search")
        self._watch.see(nonfinite)
        if count < images:
            indices = torch.cat([indices, first[:, count:]], dim=1)
            return _Choice(indices, torch.cat([loss, unscored[count:]]), nonfinite)
        chosen = winners(self.slots, outputs, indices)
        taught = None if teacher_outputs is None else winners(self.slots, teacher_outputs, indices)
        return _Choice(indices, loss, nonfinite, chosen, taught, scored)

    def _scored(
        self, pixels: list[Tensor], extras: Extras | None
    ) -> tuple[list[Output | None], list[Output | None] | None, Tensor]:
        """Forward the candidates and make the table of their losses."""
        device = pixels[0].device
        extras = scoring_extras(self.slots, self._checked(extras), self._model_extras(), pixels, self.score_scale)
        arguments = self._arguments(extras)
        assert self._roots is not None
        tokens = self._tokens
        before = None if tokens is None else tokens.begin
        run = partial(forward_slots, chunk=self.chunk, channels_last=self.channels_last, before=before)
        teacher_outputs: list[Output | None] | None = None
        with untraced(self._roots, device, autocast=self.autocast, restore_buffers=self.buffers == "restore"):
            with tokens.dropping(pixels[0].shape[1]) if tokens is not None else nullcontext():
                try:
                    outputs = run(self._scorer(), pixels, arguments)
                    if self.teacher is not None:
                        seen = [value if slot.role == "global" else None for slot, value in zip(self.slots, pixels, strict=True)]
                        teacher_outputs = run(self.teacher, seen, call="HardPairSampler(teacher)")
                except (RuntimeError, AssertionError, ValueError) as error:
                    self._explain(error, pixels)
                    raise
            table = self.loss.table(outputs, teacher_outputs, self.slots, extras)
        self._scored_before = True
        return outputs, teacher_outputs, table

    def _judged(
        self, table: Tensor, params: ViewParams | None, step: int, slots: Sequence[ViewSlot]
    ) -> tuple[Tensor, Tensor, Tensor]:
        indices = choose(self.policy, table, slots, params=params, step=step, generator=self.generator)
        nonfinite = (~torch.isfinite(table)).flatten(0, 1).any(0).sum()
        return indices, selection_loss(table, indices), nonfinite

    def _finish(
        self,
        rendered: Sequence[Any],
        drawn: ViewParams | None,
        params: ViewParams | None,
        choice: _Choice,
        extras: Extras | None,
        clock: Clock,
    ) -> HardViews:
        views = [view for slot in rendered for view in slot]
        clock("render")
        if self._reused is not None and choice.teacher_outputs is not None:
            outputs = [
                None if value is None else map_output(lambda leaf, view=view: leaf[view], value)
                for value, slot in zip(choice.teacher_outputs, self.slots, strict=True)
                for view in range(slot.select)
            ]
            mark = fingerprint(find_modules(self._reused.teacher), autocast_dtype(views[0].device, self.autocast))
            self._serving = Serving(views, [view._version for view in views], outputs, mark)
        return HardViews(
            views,
            params,
            choice.indices,
            choice.loss,
            choice.outputs,
            choice.teacher_outputs,
            choice.nonfinite,
            chosen_extras(self.slots, extras or {}, choice.indices if choice.extra_rows is None else choice.extra_rows),
            clock.seconds,
            drawn,
        )

    # ------------------------------------------------------------------ parts of the steps

    def _nothing_to_choose(self) -> bool:
        return all(slot.candidates == slot.select for slot in self.slots)

    def _predicts(self, step: int) -> bool:
        """Whether this step chooses by what is predicted, without running the model."""
        between = self._predictor is not None and step % self.every != 0
        return between and needs_table(self.policy, step) and not self._nothing_to_choose()

    def _pool_of(self, predict: int, every: int, search: str) -> CandidateViews:
        """What draws the candidates among which a prediction chooses."""
        call = "HardPairSampler(predict)"
        _require_count(predict, call, 2, ", as one candidate for each view leaves nothing to choose")
        require(every > 1, call, "every= above 1, since the prediction chooses on the steps between", f"every={every}", "every=8.")
        recorded = self.views is not None and all(isinstance(slot.recipe, ViewRecipe) for slot in self.slots)
        hint = "leave predict away; then the views between are random."
        require(recorded, call, "views made of ViewRecipes, whose parameters are recorded", self.views or self.slots, hint)
        pool = CandidateViews([replace(slot, candidates=slot.select * predict) for slot in self.slots])
        if search == "exact":
            anchor_combinations(pool.slots)
        return pool

    def _scorer(self) -> Callable[..., Any]:
        return self.model if self.scorer is None else self.scorer

    def _renderer(self, call: str) -> CandidateViews:
        if self.views is None:
            fail(call, "a sampler made with views that it can render", "slots without recipes", "call sampler.select(candidates).")
        return self.views

    def _drawn(self, views: CandidateViews, batch: ImageBatch, params: ViewParams | None) -> ViewParams:
        params = views.make_params(batch, self.generator) if params is None else params
        return params if batch.device.type == "cpu" else params.to(batch.device, non_blocking=True)

    def _scoring_side(self, side: int) -> int:
        """The side in pixels at which views of this side are scored."""
        if self.score_scale == 1:
            return side
        patch = self._patch if self._patch is not None and side % self._patch == 0 else 1
        return min(side, max(1, math.floor(side * self.score_scale / patch + 0.5)) * patch)

    def _scales(self) -> list[float]:
        """The scale at which each slot is rendered for scoring."""
        sizes = [getattr(slot.recipe, "size", None) for slot in self.slots]
        return [self.score_scale if size is None else self._scoring_side(size) / size for size in sizes]

    def _checked(self, extras: Extras | None) -> Extras:
        """The extras, or what is missing or does not fit."""
        for name in self._model_extras():
            if name not in (extras or {}):
                expected = f"{name!r}, which {type(self.loss).__name__} passes to the model"
                fail("HardPairSampler(extras)", expected, f"{sorted(extras or {})}", "pass extras={...} with each call.")
        for name, value in (extras or {}).items():
            split_extra(self.slots, name, value)
        return extras or {}

    def _model_extras(self) -> tuple[str, ...]:
        return tuple(getattr(self.loss, "model_extras", ()))

    def _arguments(self, extras: Extras) -> list[tuple[Tensor, ...]]:
        """What the model gets after the pixels of each slot."""
        parts = [split_extra(self.slots, name, extras[name]) for name in self._model_extras()]
        return [
            tuple(value for part in parts if (value := part[slot]) is not None) if entry.role == "global" else ()
            for slot, entry in enumerate(self.slots)
        ]

    def _explain(self, error: Exception, pixels: list[Tensor]) -> None:
        """Name the scale as the cause where the first scoring forward fails at a reduced size."""
        if self.score_scale == 1 or self._scored_before or isinstance(error, (HVSError, torch.OutOfMemoryError)):
            return
        sides = ", ".join(map(str, sorted({value.shape[-1] for value in pixels}, reverse=True)))
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        try:
            fail(
                "HardPairSampler(score_scale)",
                "a scale at which the model runs",
                f"{self.score_scale}, at which the views have {sides} pixels a side and the model fails: {reason}",
                "timm: create_model(..., dynamic_img_size=True); else a scale that gives a multiple of the patch size, or 1.0.",
            )
        except HVSError as explained:
            raise explained from error

    def __repr__(self) -> str:
        given = [f"model={_name(self.model)}", f"loss={self.loss!r}", f"views={self.slots if self.views is None else self.views!r}"]
        options = {
            "teacher": (self.teacher, None),
            "policy": (self.policy, hardest()),
            "score_scale": (self.score_scale, 1.0),
            "chunk": (self.chunk, None),
            "autocast": (self.autocast, None),
            "channels_last": (self.channels_last, False),
            "token_keep": (self.token_keep, None),
            "every": (self.every, 1),
            "predict": (self.predict, None),
            "fraction": (self.fraction, 1.0),
            "scorer": (self.scorer, None),
            "buffers": (self.buffers, "restore"),
            "profile": (self.profile, False),
        }
        changed = [f"{name}={_name(value)}" for name, (value, default) in options.items() if value != default]
        return f"HardPairSampler({', '.join([*given, *changed])})"


def _reduced(values: Tensor, size: list[int]) -> Tensor:
    """Reduce views that are already rendered, antialiased: ``(v, B, C, h, w)`` -> ``(v, B, C, *size)``."""
    if list(values.shape[-2:]) == size:
        return values
    flat = nn.functional.interpolate(values.flatten(0, 1), size=size, mode="bilinear", antialias=True)
    return by_view(flat, values.shape[1])


def _require_autocast(device: torch.device, dtype: torch.dtype | None) -> None:
    available = torch.amp.is_autocast_available(device.type)
    if available and device.type == "cuda" and dtype == torch.bfloat16 and torch.cuda.is_available():
        available = torch.cuda.is_bf16_supported()
    require(available, "HardPairSampler(autocast)", f"a dtype that {device.type} autocasts to", str(dtype), "use torch.float32.")


def _require_count(value: int | None, call: str, least: int = 1, reason: str = "") -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
        fail(call, f"an integer of at least {least}{reason}", value)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _name(value: object) -> str:
    if isinstance(value, nn.Module):
        return type(value).__name__
    return getattr(value, "__qualname__", None) or repr(value)
