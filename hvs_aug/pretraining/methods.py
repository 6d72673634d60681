"""The methods that the commands train, small enough to read: networks, the training loss, and what follows a step.

A method is what a user's own repo would be. It knows nothing of candidates: :class:`hvs_aug.HardPairSampler` gets the callable
that scores (``score``), the loss that says what is hard (``pair_loss``) and, where there is one, the teacher
(``scoring_teacher``), and hands back the views that :meth:`Method.loss` trains on.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..selection.losses import NegativeCosineLoss, NTXentLoss, PairLoss
from ..selection.sampler import HardPairSampler, HardViews
from ..views.candidates import CandidateViews
from ..views.recipe import ViewSlot
from .networks import average, mlp, teacher_of

__all__ = ["BYOL", "Method", "SimCLR", "SimSiam", "cosine_to_one", "negative_cosine", "nt_xent"]


class Method(nn.Module, ABC):
    """A pretraining method: its networks are its submodules, so that ``state_dict()`` is all that it has learned.

    Attributes:
        preset: the name of its augmentation.
        fewest: the number of candidates at which nothing is left to choose: plain training.
        fewest_images: the smallest batch that it can train on: other images are its negatives, or its BatchNorm needs them.
        pair_loss: the loss by which candidates are chosen.
        default_encoders: the encoder for views below 64 pixels, and from there on.
        learning_rate, weight_decay: of AdamW; the rate after the warm-up for a batch of 256, scaled by the square root of its
            size. Chosen for runs of minutes, not the papers' (SGD or LARS, hundreds of epochs).
        clip: the largest norm of each parameter's gradient, or ``None``.
    """

    preset: ClassVar[str]
    default_encoders: ClassVar[tuple[str, str]] = ("resnet8", "resnet18")
    fewest: ClassVar[int] = 2
    fewest_images: ClassVar[int] = 2
    learning_rate: ClassVar[float] = 3e-3
    weight_decay: ClassVar[float] = 1e-4
    clip: ClassVar[float | None] = None
    pair_loss: PairLoss
    encoder: Any

    @classmethod
    def views(cls, size: int, candidates: int | None = None) -> CandidateViews:
        """Its own augmentation, with that many candidates."""
        return CandidateViews.preset(cls.preset, size=size, candidates=candidates)

    def sampler(self, views: CandidateViews, **options: Any) -> HardPairSampler:
        """The sampler that chooses views for this method; options are those of :class:`hvs_aug.HardPairSampler`."""
        return HardPairSampler(self.score, self.pair_loss, views, teacher=self.scoring_teacher, **options)

    def schedule(self, progress: float) -> None:
        """Set what changes over the run, before the views of a step are chosen; ``progress`` in [0, 1)."""

    def extras(self, slots: Sequence[ViewSlot], images: int, generator: torch.Generator) -> dict[str, Tensor] | None:
        """What the sampler needs beside the images (iBOT's masks)."""
        return None

    @property
    def scoring_teacher(self) -> Any:
        """The callable that :attr:`pair_loss` compares with, or ``None``."""
        return None

    @abstractmethod
    def score(self, images: Tensor) -> Any:
        """What :attr:`pair_loss` compares, for the views of a batch."""

    @abstractmethod
    def loss(self, hard: HardViews) -> Tensor:
        """The method's training loss on the chosen views, unchanged by how they were chosen."""

    def after_step(self) -> None:
        """What follows an optimiser's step: the teacher's moving average."""

    def clip_gradients(self) -> None:
        """Scale down each parameter's gradient whose norm is above :attr:`clip`: parameter by parameter, as DINO's repo does.

        Source: facebookresearch/dino, utils.clip_gradients.
        """
        if self.clip is not None:
            for weight in self.parameters():
                if weight.grad is not None:
                    nn.utils.clip_grad_norm_(weight, self.clip)

    def encode(self, images: Tensor) -> Tensor:
        """The features that are evaluated, ``(n, features)``: the encoder without projection."""
        features: Tensor = self.encoder(images)
        return features


class SimCLR(Method):
    """SimCLR (arXiv 2002.05709): two views of an image attract, those of all other images repel.

    As in section 3: both views in one forward; a projection of two layers; NT-Xent (equation 1). The temperature of 0.2 lies
    between the paper's for CIFAR-10 (0.5) and for ImageNet (0.1).
    """

    preset = "simclr"

    def __init__(self, encoder: Any, temperature: float = 0.2, projection: int = 128) -> None:
        super().__init__()
        self.encoder = encoder
        self.temperature = temperature
        self.projector = mlp(encoder.features, encoder.features, projection)
        self.pair_loss = NTXentLoss(temperature)

    def score(self, images: Tensor) -> Tensor:
        projected: Tensor = self.projector(self.encoder(images))
        return projected

    def loss(self, hard: HardViews) -> Tensor:
        projections = self.score(torch.cat(hard.views)).chunk(len(hard.views))
        pairs = [nt_xent(first, second, self.temperature) for first, second in itertools.combinations(projections, 2)]
        return torch.stack(pairs).mean()


class SimSiam(Method):
    """SimSiam (arXiv 2011.10566): one view predicts the other's projection, whose gradient is stopped.

    As in section 3 and algorithm 1: a projection of three layers, the last with BatchNorm too; a predictor of two layers with a
    bottleneck of a quarter. As in the repo, each view is a forward of its own, so that BatchNorm sees one view at a time.
    """

    preset = "simsiam"
    learning_rate = 1e-3  # the best of three for random views: benchmarks/results/quality.json, rows of the kind "tuning"

    def __init__(self, encoder: Any, projection: int = 512) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = mlp(encoder.features, projection, projection, projection, last_norm=True)
        self.predictor = mlp(projection, projection // 4, projection)
        self.pair_loss = NegativeCosineLoss()

    def score(self, images: Tensor) -> tuple[Tensor, Tensor]:
        projected = self.projector(self.encoder(images))
        return self.predictor(projected), projected

    def loss(self, hard: HardViews) -> Tensor:
        predictions, targets = zip(*(self.score(view) for view in hard.views), strict=True)
        return predict_the_others(predictions, targets)


class BYOL(Method):
    """BYOL (arXiv 2006.07733): the online network predicts the projection of its own moving average.

    As in section 3: projections and predictor of two layers; the loss ``2 - 2 cos``, both directions; the average's momentum
    rises from 0.99 to 1 along a cosine (the paper: from 0.996, over 1000 epochs).
    """

    preset = "byol"
    learning_rate = 1e-3  # the better of two for random views, as for SimSiam

    def __init__(self, encoder: Any, projection: int = 256, hidden: int = 1024, momentum: float = 0.99) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = mlp(encoder.features, hidden, projection)
        self.predictor = mlp(projection, hidden, projection)
        self.target = teacher_of(nn.Sequential(encoder, self.projector))
        self.base_momentum = self.momentum = momentum
        self.pair_loss = NegativeCosineLoss()

    def schedule(self, progress: float) -> None:
        self.momentum = cosine_to_one(self.base_momentum, progress)

    def score(self, images: Tensor) -> Tensor:
        predicted: Tensor = self.predictor(self.projector(self.encoder(images)))
        return predicted

    @property
    def scoring_teacher(self) -> Any:
        return self.target

    def loss(self, hard: HardViews) -> Tensor:
        predictions = [self.score(view) for view in hard.views]
        with torch.no_grad():
            targets = [self.target(view) for view in hard.views]
        return 4 + 4 * predict_the_others(predictions, targets)

    def after_step(self) -> None:
        average(self.target, nn.ModuleList([self.encoder, self.projector]), self.momentum)


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """NT-Xent of two views of a batch: for each of the 2B rows the cross-entropy of its partner among the other 2B - 1.

    Shape: (B, width) twice -> scalar.
    Source: SimCLR, arXiv 2002.05709, equation 1.

    Example:
        >>> round(float(nt_xent(torch.eye(2), torch.eye(2), temperature=1.0)), 4)  # log(1 + 2 / e)
        0.5514
    """
    rows = F.normalize(torch.cat([first, second]), dim=1)
    similarity = rows @ rows.t() / temperature
    similarity = similarity.masked_fill(torch.eye(len(rows), dtype=torch.bool, device=rows.device), -torch.inf)
    partners = torch.arange(len(rows), device=rows.device).roll(len(first))
    return F.cross_entropy(similarity, partners)


def predict_the_others(predictions: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """The mean over the views of :func:`negative_cosine` between a view's prediction and the mean target of the other views.

    Shape: (B, width) for each view, at least two -> scalar.
    Source: for two views SimSiam, arXiv 2011.10566, equation 2; for more FastSiam (Pototzky et al., GCPR 2022), whose
    target is the mean of the other views' projections.

    Example:
        >>> views = [torch.eye(2), torch.eye(2), -torch.eye(2)]
        >>> predict_the_others(views[:2], views[:2])
        tensor(-1.)
    """
    total = torch.stack(list(targets)).sum(0)
    terms = [negative_cosine(own, total - target) for own, target in zip(predictions, targets, strict=True)]
    return torch.stack(terms).mean()


def negative_cosine(prediction: Tensor, target: Tensor) -> Tensor:
    """The mean negative cosine similarity, no gradient to the target: ``(B, width)`` twice -> scalar in [-1, 1].

    Source: SimSiam, arXiv 2011.10566, equations 1 and 3.
    """
    return -F.cosine_similarity(prediction, target.detach(), dim=1).mean()


def cosine_to_one(start: float, progress: float) -> float:
    """A momentum that rises from ``start`` to 1 along a half cosine (BYOL, arXiv 2006.07733, section 3.3; DINO's too).

    Example:
        >>> cosine_to_one(0.9, 0.0), cosine_to_one(0.9, 1.0)
        (0.9, 1.0)
    """
    return 1 - (1 - start) * (math.cos(math.pi * progress) + 1) / 2
