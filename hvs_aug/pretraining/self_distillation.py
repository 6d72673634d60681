"""DINO and iBOT: a student matches the prototype scores of its own moving average, over global and local crops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._check import require
from ..ops import GaussianBlur
from ..selection.losses import DINOLoss, IBOTLoss
from ..selection.reuse import ReusedTeacher, reuse
from ..selection.sampler import HardPairSampler, HardViews
from ..views.candidates import CandidateViews
from ..views.recipe import ViewRecipe, ViewSlot
from .methods import Method, cosine_to_one
from .networks import PrototypeHead, VisionTransformer, average, patch_of, teacher_of

__all__ = ["DINO", "IBOT"]

STUDENT_TEMPERATURE = 0.1  # DINO section 3.1, iBOT appendix B
TEACHER_TEMPERATURE = 0.04  # both repos' default --teacher_temp; at 0.07, which long runs warm up to, a run of one epoch collapses
CENTRE_MOMENTUM = 0.9  # DINO section 3.1, iBOT's --center_momentum


class ClassScorer(nn.Module):
    """An encoder and a head: the prototype scores of a view's class token, ``(n, prototypes)``."""

    def __init__(self, encoder: Any, head: PrototypeHead) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def encode(self, images: Tensor) -> Tensor:
        """The features below the head, ``(n, features)``: a transformer's class token."""
        features: Tensor = self.encoder(images)
        return features

    def class_scores(self, images: Tensor) -> Tensor:
        scores: Tensor = self.head(self.encode(images))
        return scores

    def forward(self, images: Tensor) -> Any:
        return self.class_scores(images)


class PatchScorer(ClassScorer):
    """The same of the class token and of every patch, ``(n, prototypes)`` and ``(n, patches, prototypes)``."""

    def __init__(self, encoder: Any, head: PrototypeHead) -> None:
        expected = "a vision transformer, whose patches can be masked"
        hint = "for example vit-tiny, or timm:vit_small_patch16_224."
        require(isinstance(encoder, VisionTransformer), "IBOT(encoder)", expected, type(encoder).__name__, hint)
        super().__init__(encoder, head)

    def forward(self, images: Tensor, masks: Tensor | None = None) -> tuple[Tensor, Tensor]:
        cls, patches = self.encoder(images, masks, with_patches=True)
        return self.head(cls), self.head(patches)


class DINO(Method):
    """DINO (arXiv 2104.14294): cross-entropy of every view's prototype scores with the teacher's of every other global view.

    As in section 3.1 and algorithm 1: multi-crop; a teacher that is the student's moving average, its momentum rising to 1
    along a cosine; its scores centred and sharpened; gradients clipped. Smaller than the paper's: 1,024
    prototypes for 65,536, the head's ``hidden`` width 512 for 2,048, the momentum from 0.99 for 0.996, and constant weight
    decay. Of iBOT's time on small images the head takes most, since it sees every patch.
    """

    preset = "dino"
    default_encoders = ("vit-micro", "vit-tiny")
    fewest = 1
    fewest_images = 1
    learning_rate = 1e-3
    weight_decay = 0.04
    clip = 3.0

    scorer: ClassVar[type[ClassScorer]] = ClassScorer

    def __init__(
        self, encoder: Any, prototypes: int = 1024, momentum: float = 0.99, hidden: int = 512, bottleneck: int = 256
    ) -> None:
        super().__init__()
        self.student = self.scorer(encoder, PrototypeHead(encoder.features, prototypes, hidden, bottleneck))
        self.teacher: Any = teacher_of(self.student)
        self.center: Tensor
        self.register_buffer("center", torch.zeros(1, prototypes))
        self.base_momentum = self.momentum = momentum
        self._reused: ReusedTeacher | None = None
        self._globals = 2
        self.pair_loss = self._pair_loss()

    def _pair_loss(self) -> Any:
        return DINOLoss(TEACHER_TEMPERATURE, STUDENT_TEMPERATURE, lambda: self.center)

    @classmethod
    def views(cls, size: int, candidates: int | None = None) -> CandidateViews:
        """The repo's multi-crop; the local views' side is rounded to whole patches."""
        slots = CandidateViews.preset(cls.preset, size=size, candidates=candidates).slots
        patch = patch_of(size)
        require(size % patch == 0, f"{cls.__name__}.views(size)", f"a multiple of the transformer's patch of {patch} pixels", size)
        return CandidateViews([_whole_patches(slot, patch) for slot in slots])

    def sampler(self, views: CandidateViews, **options: Any) -> HardPairSampler:
        sampler = super().sampler(views, **options)
        self._globals = sum(slot.select for slot in views.slots if slot.role == "global")
        # Where the teacher has scored the winners as they are trained on, its outputs are known. The BatchNorm of a
        # ResNet has seen another batch then.
        alone = not any(isinstance(module, nn.BatchNorm2d) for module in self.teacher.modules())
        self._reused = reuse(sampler, self.teacher) if sampler.scoring.scale == 1 and alone else None
        return sampler

    def taught(self, view: Tensor) -> Any:
        """The teacher's scores of a view, without gradients."""
        with torch.no_grad():
            return self.teacher(view) if self._reused is None else self._reused(view)

    def schedule(self, progress: float) -> None:
        self.momentum = cosine_to_one(self.base_momentum, progress)

    def score(self, images: Tensor) -> Any:
        return self.student(images)

    @property
    def scoring_teacher(self) -> Any:
        return self.teacher

    def encode(self, images: Tensor) -> Tensor:
        features: Tensor = self.teacher.encode(images)
        return features

    def loss(self, hard: HardViews) -> Tensor:
        globals_, locals_ = hard.views[: self._globals], hard.views[self._globals :]
        scores = list(self.score(torch.cat(globals_)).chunk(len(globals_)))
        scores += list(self.score(torch.cat(locals_)).chunk(len(locals_))) if locals_ else []
        taught = torch.stack([self.taught(view) for view in globals_])
        loss = cross_view_loss(scores, self.targets(taught, self.center))
        self._move(self.center, taught.mean((0, 1)))
        return loss

    def targets(self, scores: Tensor, center: Tensor) -> Tensor:
        """The teacher's centred and sharpened probabilities."""
        return F.softmax((scores - center) / TEACHER_TEMPERATURE, dim=-1)

    def _move(self, center: Tensor, mean: Tensor) -> None:
        center.lerp_(mean, 1 - CENTRE_MOMENTUM)

    def after_step(self) -> None:
        average(self.teacher, self.student, self.momentum)


class IBOT(DINO):
    """iBOT (arXiv 2111.07832): DINO, and masked patches that match the teacher's scores of the same patches unmasked.

    As in section 3 and the repo: one head for class token and patches, a centre for each, lambda_1 = lambda_2 = 1, the patch loss
    averaged over the masked patches of an image; half of the global views unmasked, the others by 30 +- 20 % (``--pred_ratio 0 0.3
    --pred_ratio_var 0 0.2``). Patches are masked at random (``--pred_shape rand``), not in blocks. Smaller as :class:`DINO` is.
    """

    preset = "ibot"
    scorer = PatchScorer

    def _pair_loss(self) -> Any:
        self.patch_center: Tensor
        self.register_buffer("patch_center", torch.zeros_like(self.center))
        return IBOTLoss(
            TEACHER_TEMPERATURE,
            STUDENT_TEMPERATURE,
            lambda: self.center,
            patch_teacher_temperature=TEACHER_TEMPERATURE,
            patch_center=lambda: self.patch_center,
        )

    def extras(self, slots: Sequence[ViewSlot], images: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw masks for the global candidates: ``(V global, B, rows, columns)`` bool, on the CPU."""
        globals_ = [slot for slot in slots if slot.role == "global"]
        side = globals_[0].recipe.size // self.student.encoder.patch
        shape = (sum(slot.candidates for slot in globals_), images)
        uniform = torch.rand(*shape, side * side + 2, generator=generator)
        ratio = torch.where(uniform[..., :1] < 0.5, 0.0, 0.1 + 0.4 * uniform[..., 1:2])
        ranks = uniform[..., 2:].argsort(-1).argsort(-1)
        return {"masks": (ranks < (ratio * side * side).round()).view(*shape, side, side)}

    def score(self, images: Tensor, masks: Tensor | None = None) -> Any:
        """The class token's scores and, of global views, which come with masks, those of the patches."""
        return self.student.class_scores(images) if masks is None else self.student(images, masks)

    def loss(self, hard: HardViews) -> Tensor:
        globals_, locals_ = hard.views[: self._globals], hard.views[self._globals :]
        masks = hard.extras["masks"].flatten(2)
        scores, patches = self.score(torch.cat(globals_), hard.extras["masks"].flatten(0, 1))
        every = list(scores.chunk(len(globals_)))
        if locals_:
            every += list(self.score(torch.cat(locals_)).chunk(len(locals_)))
        taught = [self.taught(view) for view in globals_]
        taught_cls, taught_patches = (torch.stack(list(values)) for values in zip(*taught, strict=True))
        loss = cross_view_loss(every, self.targets(taught_cls, self.center))
        loss = loss + masked_patch_loss(
            patches.unflatten(0, (len(globals_), -1)), self.targets(taught_patches, self.patch_center), masks
        )
        self._move(self.center, taught_cls.mean((0, 1)))
        self._move(self.patch_center, taught_patches.mean((0, 1, 2)))
        return loss


def cross_view_loss(scores: Sequence[Tensor], targets: Tensor) -> Tensor:
    """The mean cross-entropy of every view with the teacher's probabilities of every global view but itself.

    Shape: scores, one (B, prototypes) for each view, global ones first; targets (globals, B, prototypes) -> scalar.
    Source: DINO, arXiv 2104.14294, equation 3.
    """
    terms = []
    for view, score in enumerate(scores):
        log_probabilities = F.log_softmax(score / STUDENT_TEMPERATURE, dim=-1)
        terms += [-(target * log_probabilities).sum(-1).mean() for other, target in enumerate(targets) if other != view]
    return torch.stack(terms).mean()


def masked_patch_loss(scores: Tensor, targets: Tensor, masks: Tensor) -> Tensor:
    """The cross-entropy of masked patches with the teacher's probabilities of the same patches, averaged over each image's.

    Shape: scores and targets (globals, B, patches, prototypes), masks (globals, B, patches) bool -> scalar.
    Source: iBOT, arXiv 2111.07832, equation 2; the average over an image's masked patches, its repo's main_ibot.py.
    """
    entropies = -(targets * F.log_softmax(scores / STUDENT_TEMPERATURE, dim=-1)).sum(-1)
    return ((entropies * masks).sum(-1) / masks.sum(-1).clamp(min=1)).mean()


def _whole_patches(slot: ViewSlot, patch: int) -> ViewSlot:
    side = max(patch, round(slot.recipe.size / patch) * patch)
    recipe: ViewRecipe = slot.recipe
    blur = recipe.find(GaussianBlur)
    if isinstance(blur, GaussianBlur):
        recipe = recipe.replace(GaussianBlur, kernel_size=min(blur.kernel_size, 2 * (side - 1) + 1))
    return replace(slot, recipe=replace(recipe, size=side))
