"""Small runs that differ only in how views are chosen: what they cost, and how good their features are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from .._check import require, require_name
from ..data.batch import ImageBatch
from ..selection import policies
from ..selection.policies import Policy
from ..selection.scoring import CHEAP, Scoring
from ..views.candidates import CandidateViews
from ..views.recipe import ViewSlot
from .build import METHODS, build_method
from .evaluation import augmented_features, features, knn_accuracy, linear_probe_accuracy
from .loop import Pretraining, Settings
from .methods import Method
from .photographs import photograph_tiles

__all__ = ["ARMS", "Arm", "LabelledImages", "Study", "arithmetic", "evaluate", "prepared", "spread_of", "train"]


@dataclass(frozen=True)
class Arm:
    """One way to choose the views that are trained on.

    Attributes:
        policy, scoring: as in :class:`hvs_aug.HardPairSampler`.
        candidates: how many views are drawn in each slot, as ``Method.views`` takes it; 0 for as many as are trained on, ``None``
            for the preset's.
        keeps_all: train on all candidates.
        tie: ``"crop"`` gives the candidates of an image one box, so that colours alone are chosen.
        warmup: choose at random for this share of the run.
        make: makes the stage of the slots.
    """

    policy: Policy | str = "hardest"
    scoring: Scoring = field(default_factory=Scoring)
    candidates: int | None = None
    keeps_all: bool = False
    tie: Any = None
    warmup: float = 0.0
    make: Callable[[Sequence[ViewSlot]], CandidateViews] = CandidateViews

    def views(self, study: Study) -> CandidateViews:
        """The slots of a study under this arm."""
        slots = study.slots(METHODS[study.method].fewest if self.candidates == 0 else self.candidates)
        slots = [replace(slot, tie=self.tie, select=slot.candidates if self.keeps_all else slot.select) for slot in slots]
        return self.make(slots)

    def policy_for(self, steps: int) -> Policy | str:
        """The policy of a run of so many steps."""
        return policies.warmup(round(self.warmup * steps)) if self.warmup else self.policy


HALF = Scoring(scale=0.5)
ARMS: dict[str, Arm] = {
    "random": Arm("random", candidates=0),
    "full": Arm(),
    "half": Arm(scoring=HALF),
    "quarter": Arm(scoring=Scoring(scale=0.25)),
    "cheap": Arm(scoring=CHEAP),
    "all": Arm("random", keeps_all=True),
    "random-scored": Arm("random-scored", HALF),
    "easiest": Arm("easiest", HALF),
    "min_iou": Arm("min_iou"),
    "mixture": Arm("mixture:0.5", HALF),
    "semi_hard": Arm("semi_hard:0.8", HALF),
    "softmax": Arm("softmax:0.3", HALF),
    "outliers": Arm(policies.hardest(max_loss_quantile=0.9), HALF),
    "warmup": Arm(scoring=HALF, warmup=0.5),
    "colours": Arm(scoring=HALF, tie="crop"),
    "half-3": Arm(scoring=HALF, candidates=3),
    "half-8": Arm(scoring=HALF, candidates=8),
    "half-16": Arm(scoring=HALF, candidates=16),
}
"""The arms by name."""

SEEN = ("step", "loss", "iou", "iou_random", "scale", "scale_random", "color_distance", "color_distance_random", "chosen")
"""What a curve keeps of a step's metrics."""


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images and ``(N,)`` int64 labels for training and for testing. Training does not use the labels."""

    train: ImageBatch
    train_labels: Tensor
    test: ImageBatch
    test_labels: Tensor

    @staticmethod
    def of_tiles(folder: Path | None = None) -> LabelledImages:
        """The demo's tiles, or those of the photographs of a folder."""
        tiles = photograph_tiles(folder=folder)
        return LabelledImages(ImageBatch.of(tiles.train), tiles.train_labels, ImageBatch.of(tiles.test), tiles.test_labels)

    def validation(self, share: float = 0.2, seed: int = 0) -> LabelledImages:
        """The training images alone, that share of them to test on: what settings are chosen by."""
        order = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(seed))
        held, kept = order[: round(share * len(order))], order[round(share * len(order)) :]
        return LabelledImages(self.train[kept], self.train_labels[kept], self.train[held], self.train_labels[held])


@dataclass(frozen=True)
class Study:
    """What the runs of a comparison share.

    Attributes:
        method, encoder, options: what is trained; ``options`` go to the method's constructor (``temperature``).
        size: pixels of a view.
        batch_size, learning_rate, device: how and where; the rate is the method's where it is ``None``.
        recast: changes each slot of the method: other operations, fewer local views.
    """

    method: str = "simclr"
    encoder: str = "resnet8-strided"
    options: Mapping[str, Any] = field(default_factory=dict)
    size: int = 32
    batch_size: int = 256
    learning_rate: float | None = None
    device: str = "cpu"
    recast: Callable[[ViewSlot], ViewSlot] | None = None

    def __post_init__(self) -> None:
        require_name(self.method, METHODS, "Study(method)")

    def build(self, seed: int) -> Method:
        """The method with its first weights, which depend on the seed alone."""
        return build_method(self.method, self.size, self.encoder, seed, **self.options)

    def slots(self, candidates: int | None = None) -> list[ViewSlot]:
        """The method's slots, ``candidates`` as its ``views`` takes it, as they are drawn here."""
        slots = METHODS[self.method].views(self.size, candidates).slots
        return [self.recast(slot) for slot in slots] if self.recast else list(slots)


def train(study: Study, arm: Arm, images: ImageBatch, steps: int, seed: int) -> tuple[Method, list[dict[str, Any]]]:
    """One run: the trained method, and what was seen at the end of each twentieth of it.

    Each line of the curve has what :meth:`hvs_aug.pretraining.loop.Pretraining.train_step` measures of that step (``loss``,
    ``iou``, ``scale``, ``chosen``, each with that of a random choice), and ``feature_std`` and ``feature_rank``
    (:func:`spread_of`) of the first 512 images.

    Raises: HVSError if there are fewer images than a batch holds.
    """
    require(len(images) >= study.batch_size, "train(images)", f"a batch of {study.batch_size} images or more", f"{len(images)}")
    run = prepared(study, arm, images, steps, seed)
    recipe = run.views.slots[0].recipe
    curve: list[dict[str, Any]] = []
    for batch in _batches(images, steps, study.batch_size, seed):
        is_mark = (run.step + 1) * 20 // steps > run.step * 20 // steps
        seen = run.train_step(batch, measured=is_mark)
        if seen is not None:
            curve.append(
                {name: seen[name] for name in SEEN if name in seen} | spread_of(features(run.method, images[:512], recipe))
            )
    return run.method, curve


def prepared(study: Study, arm: Arm, images: ImageBatch, steps: int, seed: int) -> Pretraining:
    """A run of so many steps under an arm, before its first step."""
    settings = Settings(study.method, study.size, study.encoder, 1, study.batch_size, study.learning_rate, seed)
    run = Pretraining(settings, _NotRead(len(images)), study.device, method=study.build(seed))
    run.total = steps
    run.views = arm.views(study)
    generator = torch.Generator().manual_seed(seed)
    run.sampler = run.method.sampler(run.views, policy=arm.policy_for(steps), scoring=arm.scoring, generator=generator)
    return run


@dataclass(frozen=True)
class _NotRead:
    """In the place of a dataset, of which a run asks the length alone where its batches are given to it."""

    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int, /) -> Any:
        raise IndexError(index)


def arithmetic(study: Study, arm: Arm, images: ImageBatch) -> int:
    """Floating-point operations of one step under an arm: scoring, forward and backward; convolutions and products only."""
    run = prepared(study, arm, images, steps=100, seed=0)
    run.step = 99  # after a warm-up
    with FlopCounterMode(display=False) as counter:
        run.train_step(next(_batches(images, 1, study.batch_size, seed=0)))
    return int(counter.get_total_flops())


def evaluate(method: Method, study: Study, images: LabelledImages) -> dict[str, float]:
    """The accuracy of the features, in percent: ``knn``, ``knn_augmented`` and ``probe`` (its strength is chosen on a split)."""
    recipe = study.slots()[0].recipe
    bank, queries = features(method, images.train, recipe), features(method, images.test, recipe)
    augmented = augmented_features(method, images.test, recipe)
    return {
        "knn": knn_accuracy(bank, images.train_labels, queries, images.test_labels),
        "knn_augmented": knn_accuracy(bank, images.train_labels, augmented, images.test_labels),
        "probe": linear_probe_accuracy(bank, images.train_labels, queries, images.test_labels, strengths=(0.01, 0.1, 1.0)),
    }


def spread_of(rows: Tensor) -> dict[str, float]:
    """How far features lie apart, to see a collapse: (n, width) -> ``feature_std``, ``feature_rank``.

    ``feature_std`` is the mean standard deviation of a coordinate of the normalised features times the square root of the width: 0
    where all are alike, 1 where they fill the sphere (SimSiam, arXiv 2011.10566, section 4.1). ``feature_rank`` is the
    exponential of the entropy of their covariance's normalised eigenvalues (RankMe, arXiv 2210.02885, on the covariance).
    """
    unit = F.normalize(rows, dim=1)
    shares = torch.linalg.eigvalsh(torch.cov(unit.t())).clamp(min=0)
    shares = shares / shares.sum().clamp(min=1e-12)
    entropy = -(shares * shares.clamp(min=1e-12).log()).sum()
    return {"feature_std": float(unit.std(0).mean() * unit.shape[1] ** 0.5), "feature_rank": float(entropy.exp())}


def _batches(images: ImageBatch, steps: int, size: int, seed: int) -> Iterator[ImageBatch]:
    """So many batches, in a new order in every epoch."""
    generator = torch.Generator().manual_seed(seed)
    while steps > 0:
        order = torch.randperm(len(images), generator=generator)
        for rows in order[: len(order) // size * size].view(-1, size)[:steps]:
            yield images[rows]
        steps -= len(order) // size
