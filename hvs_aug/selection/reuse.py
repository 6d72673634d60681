"""Serving the teacher outputs of the winners to a training step, instead of a second forward."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from .._check import fail, require
from .forward import Output, map_output
from .losses.pair import tensors
from .no_trace import autocast_dtype
from .reached import find_modules

if TYPE_CHECKING:
    from .sampler import HardPairSampler, HardViews

__all__ = ["ReusedTeacher", "reuse"]


def reuse(sampler: HardPairSampler, teacher: Callable[..., Any]) -> ReusedTeacher:
    """Return a callable that serves the teacher's outputs of the winners to the training step, and is the teacher otherwise.

    The numbers are those of a forward over the winners (up to the rounding of another batch size).

    Args:
        sampler: scores with this teacher, at the training size.
        teacher: what the training step calls.

    Raises:
        HVSError: if scoring does not run that teacher on whole views at the training size, or its output depends on the batch.
    """
    own = set(_inner(sampler.teacher)) if sampler.teacher is not None else set()
    is_own = teacher is sampler.teacher or bool(own & set(_inner(teacher)))
    require(is_own, "reuse(teacher)", "the teacher that this sampler scores with", teacher)
    scale, whole = sampler.scoring.scale, "scale=1, so that the teacher has seen the views of the step"
    require(scale == 1, "reuse(sampler)", f"a sampler with {whole}", f"scale={scale}")
    chancy = _depends_on_more(teacher)
    if chancy is not None:
        expected = "a teacher whose output of a view depends on nothing but the view"
        hint = "a second forward would give other numbers; call teacher.eval() if that is right for the method."
        fail("reuse(teacher)", expected, f"{type(chancy).__name__} in training mode", hint)
    reused = ReusedTeacher(teacher, [slot.select for slot in sampler.slots], sampler.scoring.dtype)
    sampler.listeners.append(reused.remember)
    return reused


class ReusedTeacher:
    """Call it like the teacher: winners of the current step are served from scoring, everything else goes to the teacher.

    Served are a view, or a list or tuple of views, that the sampler returned this step and nobody changed since; outputs of
    several are joined along the first axis, as a multi-crop wrapper does. What is served is a copy, which may be changed in
    place. A teacher whose weights, buffers or mode have changed since scoring is asked again; a write through ``.data`` leaves
    no mark by which that could be seen, so a step that updates its teacher so *between* selection and the teacher's forward must
    not reuse (DINO's, iBOT's and BYOL's update it at the end of the step). Attributes are the teacher's.

    Attributes:
        served: how many calls were answered from scoring.
        passed: how many went to the teacher.
    """

    def __init__(self, teacher: Callable[..., Any], selected: Sequence[int], dtype: torch.dtype | None = None) -> None:
        self.teacher = teacher
        self.served = self.passed = 0
        self._selected, self._dtype = selected, dtype
        self._remembered: _Remembered | None = None

    def remember(self, hard: HardViews | None) -> None:
        """Keep the winners of a step, or with ``None`` let go of those of the last; the sampler calls this."""
        self._remembered = None
        if hard is None or hard.teacher_outputs is None or _depends_on_more(self.teacher) is not None:
            return
        outputs = [
            None if value is None else map_output(lambda leaf, row=row: leaf[row], value)
            for value, count in zip(hard.teacher_outputs, self._selected, strict=True)
            for row in range(count)
        ]
        mark = _fingerprint(self.teacher, autocast_dtype(hard.views[0].device, self._dtype))
        self._remembered = _Remembered(list(zip(hard.views, outputs, strict=True)), _versions(hard.views, outputs), mark)

    def __call__(self, images: Any, *args: Any, **kwargs: Any) -> Any:
        output = None if args or kwargs else self._find(images)
        if output is None:
            self.passed += 1
            return self.teacher(images, *args, **kwargs)
        self.served += 1
        return output

    def _find(self, images: object) -> Output | None:
        remembered = self._remembered
        if remembered is None or (torch.is_grad_enabled() and any(value.requires_grad for value in _weights(self.teacher))):
            return None
        views: Sequence[Any] = images if isinstance(images, (list, tuple)) else [images]
        outputs = [output for view in views if (output := remembered.find(view)) is not None]
        if not outputs or len(outputs) < len(views):
            return None
        if _fingerprint(self.teacher, autocast_dtype(views[0].device)) != remembered.fingerprint:
            return None
        return map_output(lambda *values: torch.cat(values) if len(values) > 1 else values[0].clone(), *outputs)

    def __getattr__(self, name: str) -> Any:
        if name == "teacher" or name.startswith("__"):  # not yet set, as while unpickling
            raise AttributeError(name)
        return getattr(self.teacher, name)

    def __repr__(self) -> str:
        return f"ReusedTeacher(teacher={type(self.teacher).__name__}, served={self.served}, passed={self.passed})"


@dataclass(frozen=True)
class _Remembered:
    """The winners of one step with what the teacher said of them, and by what to know that nothing has changed since."""

    pairs: list[tuple[Tensor, Output | None]]
    versions: list[list[int]]
    fingerprint: tuple[object, ...]

    def find(self, view: object) -> Output | None:
        """The teacher's output of this view, if it is one of the winners, and neither was changed."""
        if isinstance(view, Tensor):
            for (own, output), versions in zip(self.pairs, self.versions, strict=True):
                is_same_memory = view.data_ptr() == own.data_ptr()
                is_same_form = (view.shape, view.stride(), view.dtype) == (own.shape, own.stride(), own.dtype)
                if is_same_memory and is_same_form and versions == [value._version for value in (view, *tensors(output))]:
                    return output
        return None


def _versions(views: Sequence[Tensor], outputs: Sequence[Output | None]) -> list[list[int]]:
    return [[value._version for value in (view, *tensors(output))] for view, output in zip(views, outputs, strict=True)]


def _inner(function: object) -> list[nn.Module]:
    return [module for root in find_modules(function) for module in root.modules()]


def _weights(function: object) -> Iterable[Tensor]:
    return (value for root in find_modules(function) for value in root.parameters())


def _fingerprint(teacher: object, dtype: torch.dtype | None) -> tuple[object, ...]:
    """What a teacher's outputs depend on beside its input: its weights and buffers, as storages and versions, its modules and the
    mode of each, and the autocast dtype."""
    modules = _inner(teacher)
    values = [value for root in find_modules(teacher) for value in (*root.parameters(), *root.buffers())]
    marks = [(value.data_ptr(), value._version) for value in values]
    return (dtype, *((id(module), module.training) for module in modules), *marks)


def _depends_on_more(teacher: object) -> nn.Module | None:
    """The first of a teacher's modules by which the output of a view depends on its batch or on chance, or ``None``."""
    for module in _inner(teacher):
        batch = isinstance(module, _BatchNorm) and (module.training or not module.track_running_stats)
        dropped = (isinstance(module, _DropoutNd) and module.p > 0) or (getattr(module, "drop_prob", None) or 0) > 0
        if batch or (module.training and dropped):
            return module
    return None
