"""What is measured: a network in training, and the ways to choose its views."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..data.batch import ImageBatch
from ..selection.policies import min_iou
from ..selection.sampler import HardPairSampler, HardViews
from ..selection.scoring import CHEAP, Scoring
from ..views.candidates import CandidateViews
from ..views.params import ViewParams

__all__ = ["FULL", "OPTIONS", "RANDOM", "Chooser", "Factory", "Runner", "Trainee", "Workload", "kinds_of_step", "ours", "settings"]

RANDOM = "random views"
FULL = "full size"


class Trainee(Protocol):
    """What is trained: a method of ``hvs_aug.pretraining``, or another ``nn.Module`` with these attributes."""

    pair_loss: Any
    fewest: int
    learning_rate: float
    weight_decay: float

    @property
    def scoring_teacher(self) -> Any: ...
    def views(self, size: int, candidates: int | None = None) -> CandidateViews: ...
    def sampler(self, views: CandidateViews, **options: Any) -> HardPairSampler: ...
    def extras(self, slots: Any, images: int, generator: torch.Generator) -> dict[str, Tensor] | None: ...
    def score(self, images: Tensor) -> Any: ...
    def loss(self, hard: HardViews) -> Tensor: ...
    def clip_gradients(self) -> None: ...
    def after_step(self) -> None: ...
    def parameters(self) -> Iterable[nn.Parameter]: ...


class Chooser(Protocol):
    """A way to choose views: a HardPairSampler, or another callable with the same arguments."""

    def __call__(self, images: Any, extras: Any = None, *, params: ViewParams | None = None) -> HardViews: ...


Factory = Callable[[Any, CandidateViews], Chooser]
"""Makes the chooser of a trainee from candidate views."""


@dataclass(frozen=True)
class Workload:
    """One thing to measure.

    Attributes:
        build: makes the trainee; called once for each contestant, so that none profits from another's caches.
        size: pixels of a (global) view.
        batch: images in a step.
        candidates: what the method's ``views(size, candidates)`` is called with.
        train, held_out: raw images, ``(C, H, W)`` uint8, for the steps and for judging choices.
        device: where it runs.
        autocast: dtype of the training step, or ``None``.
    """

    build: Callable[[], Any]
    size: int
    batch: int
    candidates: int
    train: Sequence[Tensor]
    held_out: Sequence[Tensor]
    device: torch.device
    autocast: torch.dtype | None = None

    def batches(self, images: Sequence[Tensor], seed: int = 0) -> Iterator[ImageBatch]:
        """Endless batches of the images, shuffled."""
        from ..data.collate import collate_images

        generator = torch.Generator().manual_seed(seed)
        left: list[int] = []
        while True:
            while len(left) < self.batch:
                left += torch.randperm(len(images), generator=generator).tolist()
            taken, left = left[: self.batch], left[self.batch :]
            yield collate_images([images[index] for index in taken]).to(self.device)

    def casting(self) -> AbstractContextManager[Any]:
        """The autocast of the training step."""
        return nullcontext() if self.autocast is None else torch.autocast(self.device.type, dtype=self.autocast)


def ours(**options: Any) -> Factory:
    """A HardPairSampler with these options."""
    return lambda trainee, views: trainee.sampler(views, **options)


OPTIONS: dict[str, dict[str, Any]] = {
    FULL: {},
    "channels last": {"scoring": Scoring(channels_last=True)},
    "bfloat16": {"scoring": Scoring(dtype=torch.bfloat16, channels_last=True)},
    "half": {"scoring": Scoring(scale=0.5)},
    "quarter": {"scoring": Scoring(scale=0.25)},
    "cheap": {"scoring": CHEAP},
    "every 2nd step": {"scoring": Scoring(every=2)},
    "smallest overlap": {"policy": min_iou()},
}
"""The settings of HardPairSampler that a table compares, by name."""


def settings(transformer: bool) -> dict[str, Factory]:
    """The contestants of a table: those of :data:`OPTIONS` that suit the network.

    Args:
        transformer: whether the network has patch tokens: its memory format does not matter then.
    """
    return {name: ours(**options) for name, options in OPTIONS.items() if not (transformer and name == "channels last")}


class Runner:
    """One contestant and the network that it trains."""

    def __init__(self, workload: Workload, factory: Factory | None) -> None:
        self.workload = workload
        self.trainee = workload.build()
        if isinstance(self.trainee, nn.Module):
            self.trainee.to(workload.device)
        self.views: CandidateViews = self.trainee.views(
            workload.size, self.trainee.fewest if factory is None else workload.candidates
        )
        self.choose: Chooser = self.trainee.sampler(self.views) if factory is None else factory(self.trainee, self.views)
        self.generator = torch.Generator().manual_seed(1)
        self.weights = [weight for weight in self.trainee.parameters() if weight.requires_grad]
        rate = self.trainee.learning_rate * math.sqrt(workload.batch / 256)
        self.optimizer = torch.optim.AdamW(self.weights, lr=rate, weight_decay=self.trainee.weight_decay)

    def extras(self, images: int) -> dict[str, Tensor] | None:
        extras: dict[str, Tensor] | None = self.trainee.extras(self.views.slots, images, self.generator)
        return extras

    def step(self, batch: ImageBatch, number: int | None = None) -> HardViews:
        """One training step as a user's loop has it; ``number`` is one of :func:`kinds_of_step`."""
        if number is not None and isinstance(self.choose, HardPairSampler):
            self.choose.step = number
        with self.workload.casting():
            hard = self.choose(batch, self.extras(len(batch)))
            loss = self.trainee.loss(hard)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.trainee.clip_gradients()
        self.optimizer.step()
        self.trainee.after_step()
        return hard


def kinds_of_step(chooser: Chooser) -> list[tuple[int | None, float]]:
    """The sampler's number of a step of each kind, and its share: one that chooses on every k-th step has a second kind."""
    every = chooser.scoring.every if isinstance(chooser, HardPairSampler) else 1
    return [(None, 1.0)] if every == 1 else [(0, 1 / every), (1, 1 - 1 / every)]
