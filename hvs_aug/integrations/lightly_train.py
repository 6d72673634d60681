"""Lightly-train: one ``with`` around ``lightly_train.pretrain`` gives it hard views.

    from hvs_aug.integrations.lightly_train import hard_views

    with hard_views():
        lightly_train.pretrain(out="out", data="images", model="torchvision/resnet18", method="dino")

Its own transform makes the candidates in the workers, its checkpoints, logs and schedules are untouched.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from .._check import fail, require
from ..selection.losses import DINOLoss, NTXentLoss, PairLoss
from ..selection.sampler import HardPairSampler
from ..selection.slots import slot_rows
from ..views.recipe import ViewSlot

__all__ = ["hard_views"]

_CALL = "lightly_train.hard_views"
_ACCOMPANY = ("geometries", "masks")  # what its batches have for each view


@contextmanager
def hard_views(*, candidates: int = 2, **sampler_options: Any) -> Iterator[list[HardPairSampler]]:
    """Let ``lightly_train.pretrain`` train on hard views while the context is open: its methods ``dino``, ``dinov2``, ``simclr``.

    The views of a batch are chosen at the head of the training step, in the trainer's precision; ``geometries`` and ``masks`` are
    those of the chosen views. ``dinov2`` chooses by its loss of class tokens, with its centre or with Sinkhorn-Knopp as it
    trains. Its masks are drawn for the chosen views, in its own step, so that candidates have no loss of patches; KoLeo is the
    batch's, not an image's.

    Args:
        candidates: how many candidates are drawn for every view that is kept.
        sampler_options: further arguments of :class:`hvs_aug.HardPairSampler`; ``model``, ``loss`` and ``teacher`` are functions of
            the method that return these, and replace those that are read from it.

    Yields:
        A list that receives the sampler of each run.

    Raises:
        HVSError: for another method, unless ``model=`` and ``loss=`` are given; for fewer than 2 candidates.
    """
    from lightly_train._commands import train_helpers

    is_count = isinstance(candidates, int) and not isinstance(candidates, bool) and candidates >= 2
    require(is_count, f"{_CALL}(candidates)", "a count of at least 2", candidates)
    get_transform, get_method = train_helpers.get_transform, train_helpers.get_method
    made: list[_Candidates] = []
    samplers: list[HardPairSampler] = []

    def transform_of(*arguments: Any, **options: Any) -> _Candidates:
        made.append(_Candidates(get_transform(*arguments, **options), candidates))
        return made[-1]

    def method_of(*arguments: Any, **options: Any) -> Any:
        method = get_method(*arguments, **options)
        samplers.append(_install(method, made[-1], dict(sampler_options)))
        return method

    train_helpers.get_transform, train_helpers.get_method = transform_of, method_of
    try:
        yield samplers
    finally:
        train_helpers.get_transform, train_helpers.get_method = get_transform, get_method


class _Candidates:
    """A transform of Lightly-train that makes more of each kind of view, in slot order."""

    def __init__(self, transform: Any, candidates: int) -> None:
        views: Any = getattr(transform, "transforms", None)
        known = ("DINOTransform", "DINOv2ViTTransform", "SimCLRTransform")
        is_plain = isinstance(views, (list, tuple)) and type(transform).__name__ in known
        expected = "a method whose views do not depend on each other: dino, dinov2, simclr"
        require(is_plain, f"{_CALL}()", expected, type(transform).__name__)
        runs = [list(run) for _, run in groupby(views, key=id)]
        self.transform = transform
        self.transforms = [run[0] for run in runs for _ in range(candidates * len(run))]
        self.counts = [(candidates * len(run), len(run)) for run in runs]

    def __call__(self, sample: Any) -> list[Any]:
        return [view(sample) for view in self.transforms]

    def __getattr__(self, name: str) -> Any:
        if name == "transform" or name.startswith("__"):  # not yet set, as while unpickling
            raise AttributeError(name)
        return getattr(self.transform, name)

    def slots(self) -> list[ViewSlot]:
        """DINO's globals come first; what follows them is local."""
        slots, kept = [], 0
        for number, (drawn, select) in enumerate(self.counts, 1):
            slots.append(ViewSlot(None, drawn, select, f"view-{number}", "global" if kept < 2 else "local"))
            kept += select
        return slots


def _install(method: Any, transform: _Candidates, options: dict[str, Any]) -> HardPairSampler:
    """Make the sampler of a method, and choose at the head of its training step."""
    name, slots = type(method).__name__, transform.slots()
    known = {"SimCLR": _of_simclr, "DINO": _of_dino, "DINOv2": _of_dinov2}.get(name)
    if known is None and not {"model", "loss"} <= options.keys():
        hint = "pass model= and loss=, functions of the method that return these."
        fail(f"{_CALL}()", "the methods dino, dinov2 or simclr", name, hint)
    parts: tuple[Any, PairLoss | None, Any] = (None, None, None) if known is None else known(method)
    model, loss, teacher = (
        options.pop(key)(method) if key in options else part for key, part in zip(("model", "loss", "teacher"), parts, strict=True)
    )
    sampler = HardPairSampler(model, loss, slots, teacher=teacher, **options)
    own = method.training_step

    def training_step(batch: dict[str, Any], batch_idx: int) -> Tensor:
        if hasattr(getattr(method, "dino_loss", None), "apply_center_update"):
            method.dino_loss.apply_center_update()  # which is queued, and which its own step begins with
        hard = sampler.select(batch["views"])
        chosen = {key: _winners(slots, batch[key], hard.indices) for key in _ACCOMPANY if key in batch}
        loss: Tensor = own({**batch, "views": hard.views, **chosen}, batch_idx)
        return loss

    method.training_step = training_step
    return sampler


def _winners(slots: Sequence[ViewSlot], values: Sequence[Tensor], indices: Tensor) -> list[Tensor]:
    """Of one tensor ``(B, ...)`` for each candidate, those of the winners."""
    chosen: list[Tensor] = []
    start = 0
    for slot, rows in zip(slots, slot_rows(slots, indices), strict=True):
        own = torch.stack(list(values[start : start + slot.candidates]))
        chosen += [own[row, torch.arange(own.shape[1], device=own.device)] for row in rows.to(own.device)]
        start += slot.candidates
    return chosen


def _of_simclr(method: Any) -> tuple[Callable[[Tensor], Any], PairLoss, None]:
    def score(views: Tensor) -> Any:
        return method.projection_head(method.flatten(method.embedding_model(views)))

    return score, NTXentLoss(method.criterion.temperature, gather=method.criterion.gather_distributed), None


def _of_dino(method: Any) -> tuple[Callable[[Tensor], Any], PairLoss, Callable[[Tensor], Any]]:
    schedule = sys.modules[type(method).__module__]._teacher_temp_schedule

    def temperature() -> float:
        """As at the head of its training step."""
        args, trainer = method.method_args, method.trainer
        return float(
            schedule(
                temp=args.teacher_temp,
                warmup_temp=args.warmup_teacher_temp,
                warmup_epochs=args.warmup_teacher_temp_epochs,
                warmup_steps=args.warmup_teacher_temp_steps,
                warmup_max_steps_fraction=args.warmup_teacher_temp_max_steps_fraction,
                step=trainer.global_step,
                max_steps=int(trainer.estimated_stepping_batches),
                steps_per_epoch=math.ceil(trainer.estimated_stepping_batches / trainer.max_epochs),
            )
        )

    criterion = method.criterion
    loss = DINOLoss(
        temperature, lambda: float(criterion.student_temp), lambda: getattr(criterion.center, "value", criterion.center)
    )
    return method._forward_student, loss, method._forward_teacher


def _of_dinov2(method: Any) -> tuple[Callable[[Tensor], Any], PairLoss, Callable[[Tensor], Any]]:
    schedule, args, criterion = sys.modules[type(method).__module__].linear_warmup_schedule, method.method_args, method.dino_loss

    def class_tokens(embedding_model: Any, head: Any, views: Tensor) -> Any:
        return head.dino_head.forward(embedding_model.wrapped_model.forward_features(views)["cls_token"])

    def student(views: Tensor) -> Any:
        return class_tokens(method.student_embedding_model, method.student_head, views)

    def teacher(views: Tensor) -> Any:
        return class_tokens(method.teacher_embedding_model, method.teacher_head, views)

    def temperature() -> float:
        """As at the head of its training step."""
        return float(
            schedule(
                step=method.trainer.global_step,
                warmup_steps=args.teacher_temp_warmup_steps,
                start_value=args.teacher_temp_start,
                end_value=args.teacher_temp_end,
            )
        )

    is_assigned = args.center_method == "sinkhorn_knopp"
    center = None if is_assigned else lambda: criterion.center
    return student, DINOLoss(temperature, lambda: float(criterion.student_temp), center, sinkhorn=3 * is_assigned), teacher
