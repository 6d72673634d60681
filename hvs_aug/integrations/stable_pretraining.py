"""stable-pretraining: its hook for augmentation on the device, with hard views.

    from hvs_aug.integrations.stable_pretraining import HardViews

    dataset = spt.data.FromTorchDataset(images, names=["image", "label"], transform=to_one_size)
    module = spt.Module(forward=simclr, backbone=backbone, projector=projector, simclr_loss=loss, optim=optim)
    dataset.gpu_transform = HardViews(module, module.simclr_loss, "simclr")

Nothing here imports stable-pretraining.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from .._check import fail, require
from ..selection.losses import CallableLoss, DINOLoss, NegativeCosineLoss, NTXentLoss, PairLoss
from ..selection.sampler import HardPairSampler
from ..views.candidates import CandidateViews
from ..views.convert import convert
from ..views.presets import preset_slots
from ..views.recipe import ViewSlot

__all__ = ["HardViews"]

_CALL = "stable_pretraining.HardViews"


class HardViews:
    """A ``gpu_transform``: makes the views of a batch on its device and keeps the hardest, or, without a loss, random ones.

    It takes ``batch["image"]``, raw images as a tensor ``(B, C, H, W)`` or an ``ImageBatch``, and puts ``batch["views"]`` in its
    place as stable-pretraining's methods read them: a list of ``{"image": ..., "label": ...}``, or, for DINO, a dict with the keys
    ``global_1``, ``global_2``, ``local_1``, ...

    Args:
        module: the ``spt.Module``, whose ``backbone``, ``projector`` and ``predictor`` score; a ``TeacherStudentWrapper`` scores
            with its student, and its teacher makes the targets.
        loss: ``NTXEntLoss`` (SimCLR), ``BYOLLoss``, ``DINOv1Loss`` (with the module's schedule of the teacher's temperature), a
            :class:`hvs_aug.PairLoss`, or any function of the outputs of two views. ``None`` draws as many views as are kept,
            which scores nothing: Kornia's place, faster.
        preset: its name (:func:`hvs_aug.views.presets.preset_slots`), slots, or a transform to convert.
        size, candidates: of the preset.
        sampler_options: further arguments of :class:`hvs_aug.HardPairSampler`; ``model`` and ``teacher`` replace those that are
            read from the module.

    Attributes:
        hard_pairs: the sampler; ``None`` without a loss.
        last: the :class:`hvs_aug.HardViews` of the last batch.

    Raises:
        HVSError: for another criterion of stable-pretraining; if a batch has no raw images under ``"image"``.
    """

    def __init__(
        self,
        module: Any,
        loss: Any,
        preset: str | Sequence[ViewSlot] | Any,
        *,
        size: int = 224,
        candidates: int | None = None,
        **sampler_options: Any,
    ) -> None:
        self.module = module
        slots = _slots(preset, size, candidates)
        self.last: Any = None
        self._is_named = any(slot.role == "local" for slot in slots)
        self.hard_pairs: HardPairSampler | None = None
        if loss is None:
            kept = [ViewSlot(slot.recipe, slot.select, slot.select, slot.name, slot.role, slot.tie) for slot in slots]
            self.views: CandidateViews | None = CandidateViews(kept)
            self.slots: tuple[ViewSlot, ...] = tuple(kept)
            return
        self.views = None
        self.slots = tuple(slots)
        self._side = max(max(slot.recipe.shape) for slot in slots)
        pair_loss = _pair_loss(loss, module)
        self._is_named = self._is_named or isinstance(pair_loss, DINOLoss)
        has_teacher = hasattr(module.backbone, "forward_teacher") and (pair_loss.needs_teacher or pair_loss.accepts_teacher)
        options = {"model": self.student, "teacher": self.teacher if has_teacher else None} | sampler_options
        self.hard_pairs = HardPairSampler(options.pop("model"), pair_loss, list(self.slots), **options)

    def student(self, images: Tensor) -> Any:
        """What the module's methods compare of a view: its projection, and its prediction if it has a predictor."""
        projection = self._forward("forward_student", images)
        predictor = getattr(self.module, "predictor", None)
        return projection if predictor is None else {"prediction": predictor(projection), "projection": projection}

    def teacher(self, images: Tensor) -> Any:
        """The target of a view."""
        projection = self._forward("forward_teacher", images)
        return projection if getattr(self.module, "predictor", None) is None else {"projection": projection}

    def _forward(self, name: str, images: Tensor) -> Any:
        backbone, projector = self.module.backbone, self.module.projector
        # stable-pretraining's DINO passes this for local views.
        options = {"interpolate_pos_encoding": True} if max(images.shape[-2:]) < self._side and hasattr(backbone, name) else {}
        features = getattr(backbone, name, backbone)(images, **options)
        features = getattr(features, "last_hidden_state", features)
        features = features[:, 0] if features.ndim == 3 else features
        return getattr(projector, name, projector)(features)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Replace ``batch["image"]`` by ``batch["views"]``."""
        is_fitting = isinstance(batch, Mapping) and "image" in batch
        require(
            is_fitting, _CALL, "a batch with raw images under 'image'", batch, "give the dataset a transform that makes no views."
        )
        if self.hard_pairs is not None:
            self.last = self.hard_pairs(batch["image"])
            views = self.last.views
        else:
            assert self.views is not None
            slots, _ = self.views(batch["image"])
            views = [view for slot in slots for view in slot]
        others = {name: value for name, value in batch.items() if name != "image"}
        entries = [{"image": view} | ({"label": batch["label"]} if "label" in batch else {}) for view in views]
        roles = [slot.role for slot in self.slots for _ in range(slot.select)]
        if not self._is_named:
            return others | {"views": entries}
        numbers = {"global": 0, "local": 0}
        named = {}
        for role, entry in zip(roles, entries, strict=True):
            numbers[role] += 1
            named[f"{role}_{numbers[role]}"] = entry
        return others | {"views": named}


def _slots(preset: Any, size: int, candidates: int | None) -> list[ViewSlot]:
    if isinstance(preset, str):
        return list(preset_slots(preset, size, candidates))
    given = list(preset) if isinstance(preset, (list, tuple)) else []
    return given if given and all(isinstance(slot, ViewSlot) for slot in given) else convert(preset, candidates)


def _pair_loss(loss: Any, module: Any) -> PairLoss:
    if isinstance(loss, PairLoss):
        return loss
    kinds = {kind.__name__ for kind in type(loss).__mro__ if kind.__module__.partition(".")[0] == "stable_pretraining"}
    if "NTXEntLoss" in kinds:
        return NTXentLoss(loss.temperature, gather=True)  # its negatives are those of all processes
    if "BYOLLoss" in kinds:
        return NegativeCosineLoss()
    if "DINOv1Loss" in kinds:
        return DINOLoss(lambda: _teacher_temperature(module), lambda: loss.temperature_student, _center_of(loss))
    if kinds or not callable(loss):
        hint = "a function (out_a, out_b) -> (B,) says how hard a pair of views is; see hvs_aug.CallableLoss."
        fail(f"{_CALL}(loss)", "NTXEntLoss, BYOLLoss, DINOv1Loss, a PairLoss or a function", type(loss).__name__, hint)
    return CallableLoss(loss)


def _center_of(loss: Any) -> Callable[[], Any]:
    def center() -> Any:
        loss.apply_center_update()  # which is queued, and which its own forward begins with
        return loss.center

    return center


def _teacher_temperature(module: Any) -> float:
    """As in ``stable_pretraining.forward.dino``."""
    last = float(getattr(module, "temperature_teacher", 0.07))
    epochs = getattr(module, "warmup_epochs_temperature_teacher", 0)
    first = getattr(module, "warmup_temperature_teacher", last)
    progress = min(1.0, module.current_epoch / epochs) if epochs else 1.0
    return float(first + progress * (last - first))
