"""Losses of a student against a teacher's prototypes: DINO, and iBOT with its masked patches."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor

from ..._check import fail, require
from ...views.recipe import ViewSlot
from .pair import Output, PairLoss, SlotOutputs, as_tensor, block_bytes, placed, require_positive, slot_ranges
from .sinkhorn import log_assignments

__all__ = ["DINOLoss", "IBOTLoss"]

Live: TypeAlias = float | Callable[[], float]
LiveCenter: TypeAlias = Tensor | Callable[[], Tensor] | None

# exp(-80) is 2e-35: lost in a sum that holds exp(0), while smaller numbers become subnormal, which CPUs add slowly.
_LOWEST = -80.0


class DINOLoss(PairLoss):
    """DINO's cross-entropy of every student view with every teacher (global) view, the same view left out, per image.

    ``CE(t, s) = -sum over k of softmax((t - center) / teacher_temperature)_k * log_softmax(s / student_temperature)_k``, and the
    method's loss of an image is the mean of ``CE(t, s)`` over all kept global t and all kept s other than t. With G globals and
    S views kept in all, each of the G (S - 1) terms is in one entry: ``table[u, v] = (CE(u, v) + CE(v, u)) / (G (S - 1))``, a
    local view having only the direction in which it is the student.

    The prototype axis is walked in blocks, float32 whatever the outputs are: beside the outputs, peak memory is about two blocks
    (4 MiB each on a CPU, 64 MiB on a device) and the table's (V, V, B) floats. No log-softmax is written down: ``CE =
    logsumexp(s / temperature) - softmax(t) . s / temperature``, with one product of all teacher and all student views per block.

    With ``sinkhorn`` the targets are assignments, in the place of the centred softmax: Sinkhorn-Knopp of the teacher's outputs
    over its temperature, of all global candidates together, as DINOv2 and DINOv3 assign both global views together. This takes
    the memory of the teacher's outputs once more in float32.

    Shape: (v, B, K) per slot, the teacher's for global slots only -> (V, V, B); the diagonal is 0.
    Source: DINO, arXiv 2104.14294, equations 2 and 3 and algorithm 1; DINOv2, arXiv 2304.07193, section 4.

    Args:
        teacher_temperature: above 0, or a function without arguments that returns it.
        student_temperature: above 0, likewise; 0.1 in the paper.
        center: K numbers in any shape, or a function that returns them, read at every call; ``None`` for 0.
        sinkhorn: iterations of Sinkhorn-Knopp, 3 in DINOv2; 0 for the softmax of DINO.
        gather: with ``sinkhorn``, assign over the batch of all processes, as those repos do: each sends 4 iterations K
            bytes, and every process has to score at the same steps.

    Raises:
        HVSError: if a temperature is not positive, there is a centre beside ``sinkhorn``, no teacher's outputs are given, or the
            widths of teacher, student and center differ.

    Example:
        >>> import torch
        >>> loss = DINOLoss(teacher_temperature=0.04, student_temperature=0.1)
        >>> loss.table(torch.randn(4, 8, 32), torch.randn(4, 8, 32)).shape
        torch.Size([4, 4, 8])
    """

    needs_teacher = True

    def __init__(
        self,
        teacher_temperature: Live = 0.04,
        student_temperature: Live = 0.1,
        center: LiveCenter = None,
        *,
        sinkhorn: int = 0,
        gather: bool = True,
    ) -> None:
        self.teacher_temperature = _checked(teacher_temperature, "DINOLoss(teacher_temperature)")
        self.student_temperature = _checked(student_temperature, "DINOLoss(student_temperature)")
        is_count = isinstance(sinkhorn, int) and not isinstance(sinkhorn, bool) and sinkhorn >= 0
        require(is_count, "DINOLoss(sinkhorn)", "a number of iterations, or 0", sinkhorn)
        require(not sinkhorn or center is None, "DINOLoss(center)", "None beside sinkhorn, which needs no centre", center)
        self.center, self.sinkhorn, self.gather = center, sinkhorn, gather and sinkhorn > 0

    @classmethod
    def like(cls, loss: Any, epoch: int | Callable[[], int] | None = None) -> DINOLoss:
        """The same loss as a repo's own module, whose temperatures and centre are read, by attribute, at every table.

        The module is never called, because its forward moves the centre. It can be facebookresearch/dino's, ibot's
        (``student_temp``, ``teacher_temp_schedule[epoch]``, ``center``) or lightly's (``teacher_temp`` after its warm-up
        epochs).

        Args:
            loss: the repo's module.
            epoch: the current epoch, or a function that returns it; lightly's loss needs none.

        Example:
            >>> import types, torch
            >>> repo = types.SimpleNamespace(student_temp=0.1, teacher_temp_schedule=[0.04, 0.07], center=torch.zeros(1, 8))
            >>> loss = DINOLoss.like(repo, epoch=1)
            >>> loss.teacher_temperature()
            0.07
        """
        call = "DINOLoss.like"
        _require_attributes(loss, ("student_temp", "center"), call)
        teacher = functools.partial(_teacher_temperature, loss, "teacher_temp", epoch, call)
        teacher()
        return cls(teacher, functools.partial(_number, loss, "student_temp"), functools.partial(_center, loss, "center"))

    def uniform_loss(self, width: int) -> float | None:
        """ln(K): the cross-entropy of a student whose K outputs are equal."""
        return math.log(width)

    def __repr__(self) -> str:
        more = f", sinkhorn={self.sinkhorn}, gather={self.gather}" if self.sinkhorn else ""
        return f"DINOLoss({_value(self.teacher_temperature)}, {_value(self.student_temperature)}{more})"

    def _table(
        self, student: SlotOutputs, teacher: SlotOutputs | None, slots: Sequence[ViewSlot], extras: Mapping[str, Tensor]
    ) -> Tensor:
        first = [as_tensor("DINOLoss.table(student)", output) for output in student]
        second = [as_tensor("DINOLoss.table(teacher)", output) for output in teacher or () if output is not None]
        temperatures = _temperatures(self, "teacher_temperature", "student_temperature")
        if self.sinkhorn:
            require(len({part.shape[-1] for part in second}) == 1, "DINOLoss.table(teacher)", "outputs of one width", second)
            rows = torch.cat([part.flatten(0, 1) for part in second])
            assigned = log_assignments(rows, temperatures[0], self.sinkhorn, self.gather).view(-1, *second[0].shape[1:])
            # Their softmax at temperature 1 is the assignments.
            second, temperatures = list(torch.split(assigned, [len(part) for part in second])), (1.0, temperatures[1])
        return _class_terms("DINOLoss", first, second, _value(self.center), temperatures, slots)


class IBOTLoss(PairLoss):
    """iBOT: DINO's loss of the class tokens, and the cross-entropy of each global view's masked patches with the teacher's.

    ``lambda1 * DINO(class tokens) + lambda2 * (mean over kept globals v of the mean over masked patches p of CE(t_vp, s_vp))``: the
    first term fills the pairs; the second, which belongs to one view, the diagonal. A view without a masked patch has 0.

    The model is called as ``model(x, masks)`` for global slots and returns ``(class, patches)`` there, or a dict with the keys
    ``"cls"`` and ``"patch"``; for local slots, which have no masks, the class token suffices. The masks come as
    ``extras={"masks": ...}``, (V_global, B, h, w) bool, and those of the chosen views come back in ``HardViews.extras``.

    The patches' outputs are walked in blocks of rows: two blocks of 4 MiB (64 MiB on a device) beside the outputs.

    Shape: class (v, B, K), patches (v, B, h * w, K2) -> (V, V, B).
    Source: iBOT, arXiv 2111.07832, equations 2 and 3; the mean over masked patches as in its repo, main_ibot.py, ``iBOTLoss``.

    Args:
        teacher_temperature, student_temperature, center: of the class tokens, as in :class:`DINOLoss`.
        patch_teacher_temperature, patch_center: of the patches.
        patch_student_temperature: ``None`` for the same as that of the class tokens.
        lambda1, lambda2: weights of the two terms, at least 0.

    Raises:
        HVSError: as :class:`DINOLoss`; if a global output lacks its patches, or masks are missing, not bool, or do not match.
    """

    needs_teacher = True
    model_extras = ("masks",)

    def __init__(
        self,
        teacher_temperature: Live = 0.04,
        student_temperature: Live = 0.1,
        center: LiveCenter = None,
        *,
        patch_teacher_temperature: Live = 0.04,
        patch_student_temperature: Live | None = None,
        patch_center: LiveCenter = None,
        lambda1: Live = 1.0,
        lambda2: Live = 1.0,
    ) -> None:
        self.teacher_temperature = _checked(teacher_temperature, "IBOTLoss(teacher_temperature)")
        self.student_temperature = _checked(student_temperature, "IBOTLoss(student_temperature)")
        self.patch_teacher_temperature = _checked(patch_teacher_temperature, "IBOTLoss(patch_teacher_temperature)")
        patch_student = student_temperature if patch_student_temperature is None else patch_student_temperature
        self.patch_student_temperature = _checked(patch_student, "IBOTLoss(patch_student_temperature)")
        self.center, self.patch_center = center, patch_center
        for name, value in (("lambda1", lambda1), ("lambda2", lambda2)):
            require(callable(value) or value >= 0, f"IBOTLoss({name})", "a weight of at least 0", value)
        self.lambda1, self.lambda2 = lambda1, lambda2

    @classmethod
    def like(cls, loss: Any, epoch: int | Callable[[], int] | None = None, patch_loss: Any = None) -> IBOTLoss:
        """The same loss as the repo's own module, read live by attribute and never called (see :meth:`DINOLoss.like`).

        Args:
            loss: ibot's ``iBOTLoss`` (``center2``, ``teacher_temp2_schedule``, ``lambda1``, ``lambda2`` beside DINO's attributes),
                or lightly's ``DINOLoss`` together with its ``IBOTPatchLoss`` as ``patch_loss``.
            epoch: the current epoch, or a function that returns it.
            patch_loss: the module of the patch term where it is one of its own.
        """
        call = "IBOTLoss.like"
        _require_attributes(loss, ("student_temp", "center"), call)
        teacher = functools.partial(_teacher_temperature, loss, "teacher_temp", epoch, call)
        own = patch_loss is None
        if own:
            _require_attributes(loss, ("center2", "lambda1", "lambda2"), call, "pass lightly's IBOTPatchLoss as patch_loss=.")
            patch_teacher = functools.partial(_teacher_temperature, loss, "teacher_temp2", epoch, call)
        else:
            _require_attributes(patch_loss, ("student_temp", "teacher_temp", "center"), f"{call}(patch_loss)")
            patch_teacher = functools.partial(_teacher_temperature, patch_loss, "teacher_temp", None, call)
        teacher(), patch_teacher()
        return cls(
            teacher,
            functools.partial(_number, loss, "student_temp"),
            functools.partial(_center, loss, "center"),
            patch_teacher_temperature=patch_teacher,
            patch_student_temperature=functools.partial(_number, loss if own else patch_loss, "student_temp"),
            patch_center=functools.partial(_center, loss, "center2") if own else functools.partial(_center, patch_loss, "center"),
            lambda1=functools.partial(_number, loss, "lambda1") if own else 1.0,
            lambda2=functools.partial(_number, loss, "lambda2") if own else 1.0,
        )

    def uniform_loss(self, width: int) -> float | None:
        """lambda1 ln(K), of the class tokens."""
        return float(_value(self.lambda1)) * math.log(width)

    def __repr__(self) -> str:
        parts = [f"{_value(self.teacher_temperature)}, {_value(self.student_temperature)}"]
        for name in ("patch_teacher_temperature", "patch_student_temperature", "lambda1", "lambda2"):
            parts.append(f"{name}={_value(getattr(self, name))}")
        return f"IBOTLoss({', '.join(parts)})"

    def _table(
        self, student: SlotOutputs, teacher: SlotOutputs | None, slots: Sequence[ViewSlot], extras: Mapping[str, Tensor]
    ) -> Tensor:
        calls = "IBOTLoss.table(student)", "IBOTLoss.table(teacher)"
        seen = [output for output in teacher or () if output is not None]
        first = [as_tensor(calls[0], _part(calls[0], output, "cls")) for output in student]
        second = [as_tensor(calls[1], _part(calls[1], output, "cls")) for output in seen]
        temperatures = _temperatures(self, "teacher_temperature", "student_temperature")
        table = _class_terms("IBOTLoss", first, second, _value(self.center), temperatures, slots)
        table *= _value(self.lambda1)

        spans = [span for span, slot in zip(slot_ranges(slots), slots, strict=True) if slot.role == "global"]
        kept = sum(slot.select for slot in slots if slot.role == "global")
        masks = _masks(extras, sum(map(len, spans)), table.shape[-1])
        masked = [output for output, slot in zip(student, slots, strict=True) if slot.role == "global"]
        temperatures = _temperatures(self, "patch_teacher_temperature", "patch_student_temperature")
        row = 0
        for span, ours, theirs in zip(spans, masked, seen, strict=True):
            patches, targets = _part(calls[0], ours, "patch"), _part(calls[1], theirs, "patch")
            mask = masks[row : row + len(span)]
            row += len(span)
            for call, value in zip(calls, (patches, targets), strict=True):
                if value.ndim != 4 or value.shape[2] != mask.shape[2]:
                    fail(call, f"patches (candidates, B, {mask.shape[2]}, width), as many as a mask has", value)
            center = _width_checked("IBOTLoss", patches, targets, _value(self.patch_center), "patch_center")
            losses = _patch_losses(patches, targets, center, *temperatures)
            losses = torch.where(mask, losses, 0.0).sum(-1) / mask.sum(-1).clamp_(min=1)
            table[span.start : span.stop, span.start : span.stop].diagonal().copy_(losses.t() * (_value(self.lambda2) / kept))
        return table


def _class_terms(
    name: str,
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    center: Tensor | None,
    temperatures: tuple[float, float],
    slots: Sequence[ViewSlot],
) -> Tensor:
    """DINO's table of class tokens."""
    kept, kept_global = sum(slot.select for slot in slots), sum(slot.select for slot in slots if slot.role == "global")
    require(kept >= 2, f"{name}.table(slots)", "slots that keep at least 2 views", f"{kept}", "a view is never its own teacher.")
    for part in student:
        center = _width_checked(name, part, teacher[0], center, "center")
    table = placed(_cross_entropies(student, teacher, center, *temperatures), slots)
    return (table + table.transpose(0, 1)).div_(kept_global * (kept - 1))


def _cross_entropies(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    center: Tensor | None,
    teacher_temperature: float,
    student_temperature: float,
) -> Tensor:
    """CE of every student view with every teacher view: (V, B, K) and (V_global, B, K) in parts -> (V, V_global, B) float32."""
    batch, width = student[0].shape[1:]
    views, targets = sum(map(len, student)), sum(map(len, teacher))
    step = max(16, block_bytes(student[0].device) // (4 * views * max(1, batch)))
    highest = torch.cat([part.amax(-1) for part in student]).float()
    peaks = [_centered(teacher, center, start, step).amax(-1) for start in range(0, width, step)]
    peak = torch.stack(peaks).amax(0)
    normaliser = highest.new_zeros(views, batch)
    weight = highest.new_zeros(targets, batch)
    product = highest.new_zeros(batch, targets, views)
    for start in range(0, width, step):
        probability = _exp(_centered(teacher, center, start, step), peak, teacher_temperature)
        logits = torch.cat([part[..., start : start + step] for part in student]).float()
        weight += probability.sum(-1)
        product.baddbmm_(probability.transpose(0, 1), logits.permute(1, 2, 0))
        normaliser += _exp(logits, highest, student_temperature).sum(-1)
        del probability, logits  # before the next block is made
    log_sum = normaliser.log_() + highest / student_temperature
    return log_sum[:, None] - (product.permute(2, 1, 0) / (weight * student_temperature))


def _patch_losses(
    student: Tensor, teacher: Tensor, center: Tensor | None, teacher_temperature: float, student_temperature: float
) -> Tensor:
    """CE of every student patch with the teacher's same patch: (..., K) -> (...) float32."""
    leading, width = student.shape[:-1], student.shape[-1]
    rows = max(1, block_bytes(student.device) // (4 * width))
    blocks = []
    for logits, target in zip(
        torch.split(student.reshape(-1, width), rows), torch.split(teacher.reshape(-1, width), rows), strict=True
    ):
        shifted = target.float() - (0.0 if center is None else center)
        probability = _exp(shifted, shifted.amax(-1), teacher_temperature)
        weight = probability.sum(-1)
        scaled = logits.to(torch.float32, copy=True)
        product = probability.mul_(scaled).sum(-1) / (weight * student_temperature)
        highest = scaled.amax(-1)
        blocks.append(_exp(scaled, highest, student_temperature).sum(-1).log_() + highest / student_temperature - product)
        del shifted, probability, scaled  # before the next block is made
    return torch.cat(blocks).view(leading)


def _exp(logits: Tensor, highest: Tensor, temperature: float) -> Tensor:
    """exp((logits - highest) / temperature), in place."""
    return logits.sub_(highest[..., None]).div_(temperature).clamp_(min=_LOWEST).exp_()


def _centered(teacher: Sequence[Tensor], center: Tensor | None, start: int, step: int) -> Tensor:
    """A block of the teacher's outputs minus the centre, as a new float32 tensor."""
    block = torch.cat([part[..., start : start + step] for part in teacher]).float()
    return block if center is None else block.sub_(center[start : start + step])


def _width_checked(name: str, student: Tensor, teacher: Tensor, center: Tensor | None, argument: str) -> Tensor | None:
    """Check that all have the same number of prototypes, and return the centre as (K,) float32."""
    width = student.shape[-1]
    if teacher.shape[-1] != width:
        got = f"{width} and {teacher.shape[-1]}"
        fail(f"{name}.table(teacher)", "student and teacher outputs of one number of prototypes", got)
    if center is None:
        return None
    if not isinstance(center, Tensor) or center.numel() != width or center.shape[-1:] != (width,):
        fail(f"{name}({argument})", f"{width} numbers, one per prototype, as a tensor (..., {width})", center)
    if center.device != student.device:
        hint = "move the repo's loss module there."
        fail(f"{name}({argument})", f"a tensor on {student.device}, as the outputs are", center, hint)
    return center.detach().reshape(width).float()


def _masks(extras: Mapping[str, Tensor], views: int, batch: int) -> Tensor:
    """The masks as (V_global, B, patches) bool."""
    masks = extras.get("masks")
    expected = f"bool masks ({views}, {batch}, height, width), one per global candidate"
    hint = 'pass extras={"masks": ...}, made for all candidates.'
    if not isinstance(masks, Tensor) or masks.dtype != torch.bool or masks.ndim not in (3, 4) or masks.shape[:2] != (views, batch):
        fail('IBOTLoss.table(extras["masks"])', expected, masks, hint)
    return masks.flatten(2)


def _part(call: str, output: Output | None, name: str) -> Tensor:
    """The class or patch outputs out of ``(cls, patch)``, a dict with these keys, or (the class alone) a tensor."""
    index = ("cls", "patch").index(name)
    if isinstance(output, Mapping) and name in output:
        return output[name]
    if isinstance(output, (tuple, list)) and len(output) > index:
        return output[index]
    if isinstance(output, Tensor) and index == 0:
        return output
    fail(call, f'(class, patches) or a dict with the key "{name}"', output, "global views need both, local ones the class alone.")


def _checked(value: Live, call: str) -> Live:
    return value if callable(value) else require_positive(value, call)


def _value(value: Any) -> Any:
    return value() if callable(value) else value


def _temperatures(loss: PairLoss, teacher: str, student: str) -> tuple[float, float]:
    """The two temperatures as they are now."""
    call = type(loss).__name__
    first, second = (require_positive(_value(getattr(loss, name)), f"{call}({name})") for name in (teacher, student))
    return first, second


def _require_attributes(loss: Any, names: Sequence[str], call: str, hint: str | None = None) -> None:
    missing = [name for name in names if not hasattr(loss, name)]
    if missing:
        expected = f"a loss with the attributes {', '.join(names)}"
        fail(f"{call}(loss)", expected, f"{type(loss).__name__} without {', '.join(missing)}", hint)


def _number(loss: Any, name: str) -> float:
    return float(getattr(loss, name))


def _center(loss: Any, name: str) -> Tensor:
    """A centre; lightly's patch loss keeps it in a module, whose ``value`` it is."""
    center = getattr(loss, name)
    return cast("Tensor", getattr(center, "value", center))


def _teacher_temperature(loss: Any, name: str, epoch: int | Callable[[], int] | None, call: str) -> float:
    """The teacher's temperature at an epoch: the schedule's; after lightly's schedule, which is its warm-up alone, the constant."""
    schedule = getattr(loss, f"{name}_schedule", None)
    now = _value(epoch)
    if hasattr(loss, name) and (schedule is None or now is None or now >= len(schedule)):
        return float(getattr(loss, name))
    if schedule is None:
        fail(f"{call}(loss)", f"a loss with the attribute {name}_schedule or {name}", f"{type(loss).__name__} without")
    if not isinstance(now, int) or not 0 <= now < len(schedule):
        hint = "pass the current epoch, or a function that returns it: epoch=lambda: epoch."
        fail(f"{call}(epoch)", f"an epoch from 0 to {len(schedule) - 1}, the length of {name}_schedule", now, hint)
    return float(schedule[now])
