"""PairLoss: makes one table of losses from the outputs of all candidates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, wraps
from typing import ParamSpec, TypeAlias, cast

import torch
from torch import Tensor

from ..._check import fail, readable, require
from ...views.recipe import ViewSlot

__all__ = ["Output", "PairLoss", "SlotOutputs", "slot_ranges"]

Output: TypeAlias = Tensor | tuple[Tensor, ...] | Mapping[str, Tensor]
"""What a model returned for the views of one slot: tensors with leading axes ``(v, B)``."""

SlotOutputs: TypeAlias = Sequence[Output | None]
"""One output per slot; ``None`` where a teacher did not see the slot."""


class PairLoss(ABC):
    """A loss of pairs of views, computed for every two candidates at once.

    A subclass defines :meth:`_table`, which receives checked outputs of every slot and runs without gradients and without
    autocast. The base class sets the entries of two local views to 0.

    Convention: the method's loss of image b on a set K of kept views is
    ``sum(table[v, v, b] for v in K) + sum(table[u, v, b] for u < v in K)``. The method's own constants (DINO's number of
    terms) are divided in, so for two kept global views an entry *is* the method's loss of that image on that pair.

    Attributes:
        needs_teacher: whether it needs a teacher's outputs of the global slots.
        accepts_teacher: whether it uses a teacher's outputs if there are any; otherwise a teacher is refused.
        local_pairs: whether two local views have a loss of their own, which the exact search cannot take into account.
        model_extras: names of the extras (iBOT's masks) that the model is called with for global slots.
    """

    needs_teacher: bool = False
    accepts_teacher: bool = False
    local_pairs: bool = False
    model_extras: tuple[str, ...] = ()

    def table(
        self,
        student: SlotOutputs | Output,
        teacher: SlotOutputs | Output | None = None,
        slots: Sequence[ViewSlot] | None = None,
        extras: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Evaluate the loss of every two candidates of every image.

        Shape: every tensor of ``student`` and ``teacher`` (v, B, ...), v the candidates of its slot -> (V, V, B) float32,
        V the candidates of all slots, in their order. Symmetric in its first two axes.

        Args:
            student: one output per slot; without ``slots``, the output of one global slot.
            teacher: likewise, of the slots of role "global"; its entries for local slots are ``None``.
            slots: the slots that the outputs belong to.
            extras: further tensors by name, with leading axes (V, B).

        Raises:
            HVSError: if an output is missing, is not floating point, or its leading axes are not (candidates, B).
        """
        call = f"{type(self).__name__}.table"
        student_slots, teacher_slots, slots = _by_slot(call, student, teacher, slots)
        first = _check(f"{call}(student)", student_slots, slots)
        if teacher_slots is not None:
            _check(f"{call}(teacher)", teacher_slots, slots, first)
        elif self.needs_teacher:
            fail(f"{call}(teacher)", "a teacher's outputs of the global slots", "None", "pass teacher= to HardPairSampler.")
        with torch.no_grad(), torch.autocast(first.device.type, enabled=False):
            table = self._table(student_slots, teacher_slots, slots, extras or {})
            return table if self.local_pairs else without_local_pairs(table, slots)

    @abstractmethod
    def _table(
        self, student: SlotOutputs, teacher: SlotOutputs | None, slots: Sequence[ViewSlot], extras: Mapping[str, Tensor]
    ) -> Tensor:
        """Return the table as a new (V, V, B) float32 tensor."""

    def uniform_loss(self, width: int) -> float | None:
        """An image's loss, its views' own losses left aside, if the model's ``width`` outputs tell nothing; ``None`` if unknown."""
        return None


def slot_ranges(slots: Sequence[ViewSlot]) -> list[range]:
    """For each slot the indices of its candidates among all V.

    Example:
        >>> slot_ranges([ViewSlot(None, candidates=2, select=1), ViewSlot(None, candidates=3, select=1)])
        [range(0, 2), range(2, 5)]
    """
    candidates = tuple(slot.candidates for slot in slots)
    return list(_ranges(candidates) if torch.compiler.is_compiling() else _ranges_once(candidates))


def _ranges(candidates: tuple[int, ...]) -> tuple[range, ...]:
    ranges, start = [], 0
    for count in candidates:
        ranges.append(range(start, start + count))
        start += count
    return tuple(ranges)


_ranges_once = lru_cache(maxsize=64)(_ranges)


Key = ParamSpec("Key")


def made_once(make: Callable[Key, Tensor]) -> Callable[Key, Tensor]:
    """Keep the tensors that a function makes on the CPU of what can be hashed: of the layout of slots, say.

    One that is made under a stand-in for a device, while a graph is traced, or in inference mode, must not outlive that: it is made
    anew.
    """
    once = lru_cache(maxsize=64)(make)

    @wraps(make)
    def constant(*key: Key.args, **named: Key.kwargs) -> Tensor:
        is_lasting = readable() and not torch.is_inference_mode_enabled()
        return cast("Callable[Key, Tensor]", once if is_lasting else make)(*key, **named)

    return constant


def tensors(output: Output | None) -> Iterator[Tensor]:
    """The tensors that an output consists of."""
    if isinstance(output, Mapping):
        yield from output.values()
    elif isinstance(output, (tuple, list)):
        yield from output
    elif output is not None:
        yield output


def of_view(output: Output, index: int) -> Output:
    """One view's part of an output: the same structure without the axis of views."""
    if isinstance(output, Mapping):
        return {name: value[index] for name, value in output.items()}
    if isinstance(output, (tuple, list)):
        return tuple(value[index] for value in output)
    return output[index]


def as_tensor(call: str, output: Output | None) -> Tensor:
    """The output, which has to be one tensor (v, B, width)."""
    if isinstance(output, (tuple, list)) and len(output) == 1:
        output = output[0]
    if not isinstance(output, Tensor) or output.ndim != 3:
        fail(call, "one tensor (candidates, B, width) per slot", output, "return the projection alone from the model.")
    return output


def joined(call: str, outputs: Sequence[Tensor]) -> Tensor:
    """All slots' outputs as one float32 tensor (V, B, width)."""
    widths = [output.shape[-1] for output in outputs]
    require(len(set(widths)) == 1, call, "outputs of one width in every slot", f"widths {widths}")
    return torch.cat([output.float() for output in outputs]) if len(outputs) > 1 else outputs[0].float()


def _by_slot(
    call: str, student: SlotOutputs | Output, teacher: SlotOutputs | Output | None, slots: Sequence[ViewSlot] | None
) -> tuple[SlotOutputs, SlotOutputs | None, Sequence[ViewSlot]]:
    if slots is not None:
        require(len(slots) > 0, f"{call}(slots)", "at least one slot", "none")
        require(
            any(slot.role == "global" for slot in slots),
            f"{call}(slots)",
            "a slot of role 'global'",
            f"roles {[slot.role for slot in slots]}",
            "local views are compared with global ones.",
        )
        for name, outputs in (("student", student), ("teacher", teacher)):
            if outputs is not None and (not isinstance(outputs, Sequence) or len(outputs) != len(slots)):
                got = f"{len(outputs)} outputs" if isinstance(outputs, Sequence) else outputs
                fail(f"{call}({name})", f"one output for each of the {len(slots)} slots", got)
        return cast("SlotOutputs", student), cast("SlotOutputs | None", teacher), slots
    if isinstance(student, list):
        fail(f"{call}(slots)", "the slots that the outputs belong to", "None", "without slots, pass one tensor, tuple or dict.")
    one = cast("Output", student)
    views = [len(value) for value in tensors(one) if isinstance(value, Tensor) and value.ndim]
    require(len(views) > 0, f"{call}(student)", "tensors with leading axes (candidates, B)", student)
    slot = ViewSlot(None, candidates=views[0], select=min(2, views[0]))
    return [one], None if teacher is None else [cast("Output", teacher)], [slot]


def _check(call: str, outputs: SlotOutputs, slots: Sequence[ViewSlot], student: Tensor | None = None) -> Tensor:
    """Check what shapes, dtypes and devices tell, and return the first tensor; a teacher's have to match the student's first."""
    like = student
    for output, slot in zip(outputs, slots, strict=True):
        if output is None and student is not None and slot.role == "local":
            continue
        values = list(tensors(output))
        if not values or not all(isinstance(value, Tensor) for value in values):
            fail(call, f"a tensor, a tuple or a dict of tensors for slot {slot.name!r}", output)
        for value in values:
            if not value.is_floating_point():
                fail(call, f"floating-point outputs for slot {slot.name!r}", value)
            like = value if like is None else like
            leading = (slot.candidates, like.shape[1] if like.ndim > 1 else -1)
            if value.ndim < 2 or value.shape[:2] != leading or value.device != like.device:
                expected = f"leading axes (candidates, B) = {leading} on {like.device} for slot {slot.name!r}"
                fail(call, expected, value, "the model's first axis has to be that of its input.")
    assert like is not None
    return like


def without_local_pairs(table: Tensor, slots: Sequence[ViewSlot]) -> Tensor:
    """Set the entries of two different local views to 0, in place. The diagonal, a view's own loss, stays."""
    local = [span for span, slot in zip(slot_ranges(slots), slots, strict=True) if slot.role == "local"]
    own = table.diagonal().clone()
    for rows in local:
        for columns in local:
            table[rows.start : rows.stop, columns.start : columns.stop] = 0
    table.diagonal().copy_(own)
    return table


def placed(losses: Tensor, slots: Sequence[ViewSlot]) -> Tensor:
    """Put directed losses (V, V_global, B) of every view against every global one at their places in (V, V, B), 0 elsewhere."""
    full = losses.new_zeros(losses.shape[0], losses.shape[0], losses.shape[2])
    column = 0
    for span, slot in zip(slot_ranges(slots), slots, strict=True):
        if slot.role == "global":
            full[:, span.start : span.stop] = losses[:, column : column + len(span)]
            column += len(span)
    full.diagonal().zero_()
    return full


def mean_of_directions(losses: Tensor, slots: Sequence[ViewSlot]) -> Tensor:
    """The table of directed losses (V, V_global, B): the mean of both directions of two globals, the one there is of others."""
    full = placed(losses, slots)
    table = full + full.transpose(0, 1)
    spans = [span for span, slot in zip(slot_ranges(slots), slots, strict=True) if slot.role == "global"]
    for rows in spans:
        for columns in spans:
            table[rows.start : rows.stop, columns.start : columns.stop] *= 0.5
    return table


def block_bytes(device: torch.device) -> int:
    """How many bytes of a large product exist at once: what stays in a CPU's cache; enough to keep a device busy."""
    return 4 << 20 if device.type == "cpu" else 64 << 20


def require_positive(value: float, call: str) -> float:
    """Return the value if it is a finite number above 0, such as a temperature has to be."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        fail(call, "a number above 0", value)
    return float(value)
