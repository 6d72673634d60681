"""Serving the teacher outputs of the winners to a training step, instead of a second forward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from .._check import fail
from .scoring import Output, autocast_dtype, find_modules, map_output

__all__ = ["ReusedTeacher", "Serving", "fingerprint"]

_CALL = "HardPairSampler.reuse(teacher)"


def fingerprint(modules: Sequence[nn.Module], dtype: torch.dtype | None) -> tuple[object, ...]:
    """What a teacher's outputs depend on beside its input: its weights, as storages and versions, and the autocast dtype.

    A write through ``.data`` leaves no mark in a version: a step that updates its teacher so *between* selection and the
    teacher's forward must not reuse (DINO's, iBOT's and BYOL's update it at the end of the step).
    """
    weights = (value for module in modules for value in (*module.parameters(), *module.buffers()))
    return (dtype, *((value.data_ptr(), value._version) for value in weights))


@dataclass(frozen=True)
class Serving:
    """The winners of one step and what the teacher said of them."""

    views: list[Tensor]
    versions: list[int]
    outputs: list[Output | None]
    fingerprint: tuple[object, ...]

    def find(self, view: object) -> Output | None:
        """The teacher's output of this view, if it is one of the winners, unchanged."""
        if isinstance(view, Tensor):
            for own, version, output in zip(self.views, self.versions, self.outputs, strict=True):
                if (
                    view.data_ptr() == own.data_ptr()
                    and (view.shape, view.stride(), view.dtype) == (own.shape, own.stride(), own.dtype)
                    and view._version == version
                ):
                    return output
        return None


class ReusedTeacher:
    """Call it like the teacher: winners of the current step are served from scoring, everything else goes to the teacher.

    Served are a view, or a list or tuple of views, that the sampler returned this step and nobody changed since; outputs of
    several are joined along the first axis, as a multi-crop wrapper does. Attributes are the teacher's.

    Attributes:
        served: how many calls were answered from scoring.
        passed: how many went to the teacher.
    """

    def __init__(self, teacher: Callable[..., Any], serving: Callable[[], Serving | None]) -> None:
        self.teacher = teacher
        self.served = self.passed = 0
        self._serving = serving
        self._modules = find_modules(teacher)
        self._parameters = [value for module in self._modules for value in module.parameters()]
        for module in (inner for root in self._modules for inner in root.modules()):
            batch = isinstance(module, _BatchNorm) and (module.training or not module.track_running_stats)
            chance = module.training and (
                (isinstance(module, _DropoutNd) and module.p > 0) or (getattr(module, "drop_prob", None) or 0) > 0
            )
            if batch or chance:
                fail(
                    _CALL,
                    "a teacher whose output of a view depends on nothing but the view",
                    f"{type(module).__name__} in training mode",
                    "a second forward would give other numbers; call teacher.eval() if that is right for the method.",
                )

    def __call__(self, images: Any, *args: Any, **kwargs: Any) -> Any:
        output = None if args or kwargs else self._find(images)
        if output is None:
            self.passed += 1
            return self.teacher(images, *args, **kwargs)
        self.served += 1
        return output

    def _find(self, images: object) -> Output | None:
        serving = self._serving()
        if serving is None or (torch.is_grad_enabled() and any(value.requires_grad for value in self._parameters)):
            return None
        views = images if isinstance(images, (list, tuple)) else [images]
        outputs = [output for view in views if (output := serving.find(view)) is not None]
        if not outputs or len(outputs) < len(views):
            return None
        if fingerprint(self._modules, autocast_dtype(serving.views[0].device)) != serving.fingerprint:
            return None
        return outputs[0] if len(outputs) == 1 else map_output(lambda *values: torch.cat(values), *outputs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["teacher"], name)

    def __repr__(self) -> str:
        return f"ReusedTeacher(teacher={type(self.teacher).__name__}, served={self.served}, passed={self.passed})"
