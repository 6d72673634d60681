"""What an operation is: its fields, what it draws, its definition in torch, and its kernels if it has any."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from .._check import describe, fail, require_fraction
from .kernel import CPUKernel
from .triton_kernel import GPUKernel

__all__ = [
    "Draws",
    "Operation",
    "is_number",
    "masked",
    "per_image",
    "require_count",
    "require_range",
    "text",
    "to_numbers",
    "to_range",
]

Draws = Mapping[str, Tensor]


class Operation:
    """One augmentation of a view, named and parameterised as in torchvision.transforms.v2.

    An operation is a frozen dataclass of its fields. To write one, say what changes nothing (``identity``), how many uniform
    numbers a draw takes (``columns``), how parameters come from them (:meth:`draw`), and what it does to images (:meth:`apply`).
    A field ``p`` is the probability that the operation is applied to a view. For the other views ``identity`` is recorded. So
    ``draw`` does not use ``p``, and ``apply`` must not change a view whose parameters are the identity.

    Attributes:
        identity: for each drawn parameter, by name, the values at which the operation changes nothing: their shape and dtype
            are those of the parameter of one view. An operation without parameters always does the same.
        columns: how many uniform numbers :meth:`draw` takes for a view.
        is_geometric: whether it moves pixels and is shared by candidates that are tied (``ViewSlot(tie="crop")``).
        commutes_with_flips: whether flipping before it is flipping after it, so that a flip costs nothing, as part of the crop.
        cpu_kernel: its kernel for the CPU, or ``None``: then its definition runs. A class that overrides ``apply`` inherits none.
        gpu_kernel: its kernel for the GPU (:class:`hvs_aug.ops.triton_kernel.GPUKernel`), or ``None``, likewise.
        needs_unit_range: whether its pixels must be in [0, 1], so that it cannot follow a normalisation.
        torchvision_has_p: whether torchvision's class of this name takes ``p``; else it stands in a ``RandomApply``.

    Example:
        >>> from dataclasses import dataclass
        >>> import torch
        >>> @dataclass(frozen=True)
        ... class Gamma(Operation):
        ...     gamma: tuple[float, float] = (0.5, 2.0)
        ...     p: float = 0.5
        ...     identity = {"gamma": torch.tensor(1.0)}
        ...     columns = 1
        ...     def draw(self, uniform, size):
        ...         low, high = self.gamma
        ...         return {"gamma": (low + (high - low) * uniform[..., 0]).float()}
        ...     def apply(self, images, drawn, scale=1.0):
        ...         return images ** drawn["gamma"].view(-1, 1, 1, 1)
    """

    identity: ClassVar[Mapping[str, Tensor]] = {}
    columns: ClassVar[int] = 0
    is_geometric: ClassVar[bool] = False
    commutes_with_flips: ClassVar[bool] = False
    cpu_kernel: ClassVar[CPUKernel | None] = None
    gpu_kernel: ClassVar[GPUKernel | None] = None
    torchvision_has_p: ClassVar[bool] = True
    needs_unit_range: ClassVar[bool] = True

    def __init_subclass__(cls) -> None:
        """Check what the class says; one with a definition of its own does not inherit the kernel of another definition."""
        super().__init_subclass__()
        for kernel in ("cpu_kernel", "gpu_kernel"):
            if "apply" in cls.__dict__ and kernel not in cls.__dict__:
                setattr(cls, kernel, None)
        made, values = cls.cpu_kernel, cls.identity
        if made is not None and not isinstance(made, CPUKernel):
            fail(f"{cls.__name__}.cpu_kernel", "a function made with hvs_aug.ops.cpu_kernel, or None", describe(made))
        if not isinstance(values, Mapping) or not all(isinstance(value, Tensor) for value in values.values()):
            fail(f"{cls.__name__}.identity", "a tensor for each parameter, by its name", describe(values))

    def __post_init__(self) -> None:
        """Check the fields; one that defines its own calls this first."""
        if hasattr(self, "p"):
            require_fraction(self.p, f"{type(self).__name__}(p)")

    def draw(self, uniform: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
        """Turn uniform numbers into parameters, as if the operation were applied to every view.

        Shape: uniform ``(V, B, columns)`` float32 in [0, 1), on the CPU; size the view's (height, width) in pixels -> for each name
            of ``identity`` a tensor ``(V, B, *shape)`` of that dtype. Without an override: ``applied``, true everywhere.
        """
        return {name: torch.ones(uniform.shape[:2], dtype=torch.bool, device="cpu") for name in self.identity}

    def apply(self, images: Tensor, drawn: Draws, scale: float = 1.0) -> Tensor:
        """The definition: what the operation does to a batch of views, each with parameters of its own.

        Shape: images ``(n, C, h, w)`` float32, in [0, 1] unless a normalisation came before; drawn, each ``(n, ...)`` on the same
            device -> ``(n, C, h, w)`` float32, a new tensor. ``scale`` is the side of these views over that of the recipe.
        """
        raise NotImplementedError(f"{type(self).__name__}.apply")

    def require_channels(self, channels: int) -> None:
        """Raise HVSError if the operation is not defined for this number of channels; the error says how to leave it out."""

    def kernel_fields(self, channels: int, size: tuple[int, int], scale: float) -> list[float]:
        """The numbers that :attr:`cpu_kernel` and :attr:`gpu_kernel` get as ``fields`` for views of this size at this scale."""
        return []

    def kernel_scratch(self, channels: int, size: tuple[int, int]) -> int:
        """How many floats of scratch memory :attr:`cpu_kernel` needs."""
        return 0

    def torchvision_name(self) -> str:
        """The operation as the line that a user of torchvision.transforms.v2 would write."""
        line = f"v2.{self._call(() if self.torchvision_has_p else ('p',), torchvision_text)}"
        prob = getattr(self, "p", 1.0)
        return line if self.torchvision_has_p or prob == 1 else f"v2.RandomApply([{line}], p={text(prob)})"

    def _shown(self) -> dict[str, Any]:
        """The fields as they are shown, by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]

    def _call(self, leave_out: Sequence[str] = (), written: Callable[[str, Any], str] = lambda _, value: text(value)) -> str:
        defaults = {field.name: field.default for field in fields(self)}  # type: ignore[arg-type]
        shown = {name: value for name, value in self._shown().items() if name not in leave_out}
        changed = [f"{name}={written(name, value)}" for name, value in shown.items() if text(value) != text(defaults[name])]
        return f"{type(self).__name__}({', '.join(changed)})"

    def __repr__(self) -> str:
        return self._call()


def masked(operation: Operation, drawn: Draws, keep: Tensor) -> dict[str, Tensor]:
    """Put the identity where ``keep``, ``(V, B)`` bool, is false."""
    return {
        name: torch.where(keep.view(*keep.shape, *(1,) * (value.ndim - keep.ndim)), value, operation.identity[name])
        for name, value in drawn.items()
    }


def per_image(values: Tensor) -> Tensor:
    """One number for each image, ``(n,)``, so that it applies to ``(n, C, h, w)``."""
    return values.view(-1, 1, 1, 1)


def require_range(bounds: Any, call: str, low: float, high: float, *, above: bool = False) -> tuple[float, float]:
    """Return (lowest, highest) as floats, or fail unless ``low <= lowest <= highest <= high`` (``above``: ``low < lowest``)."""
    pair = isinstance(bounds, (tuple, list)) and len(bounds) == 2 and all(is_number(bound) for bound in bounds)
    fits = pair and (low < bounds[0] if above else low <= bounds[0]) and bounds[0] <= bounds[1] <= high
    if not fits:
        least = "" if math.isinf(low) else f"{low:g} {'<' if above else '<='} "
        most = "" if math.isinf(high) else f" <= {high:g}"
        fail(call, f"(lowest, highest) with {least}lowest <= highest{most}, all finite", describe(bounds))
    return float(bounds[0]), float(bounds[1])


def to_range(value: Any, call: str, centre: float, low: float, high: float) -> tuple[float, float]:
    """Read a strength around the identity, or a pair of bounds, as torchvision's ColorJitter reads them."""
    if isinstance(value, (int, float)):
        if not is_number(value) or value < 0 or (centre == 0 and value > high):
            fail(call, f"a strength in [0, {high:g}]" if centre == 0 else "a strength of at least 0", describe(value))
        return max(low, centre - float(value)), centre + float(value)
    return require_range(value, call, low, high)


def require_count(value: Any, call: str, least: int = 1) -> int:
    """Fail unless the value is an integer of at least this."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        fail(call, f"an integer of at least {least}", describe(value))
    return value


def to_numbers(value: Any, call: str, expected: str) -> tuple[float, ...]:
    """Read a sequence of numbers as floats, or fail unless all are finite."""
    try:
        numbers = tuple(float(number) for number in value)
    except (TypeError, ValueError):
        numbers = ()
    if isinstance(value, str) or len(numbers) == 0 or not all(map(math.isfinite, numbers)):
        fail(call, expected, describe(value))
    return numbers


def is_number(value: object) -> bool:
    """Whether the value is a finite int or float."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def text(value: Any) -> str:
    """The text of a field: floats with as few digits as possible, and without a point if they are whole numbers."""
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    if isinstance(value, tuple):
        return f"({', '.join(map(text, value))}{',' if len(value) == 1 else ''})"
    return repr(value)


def torchvision_text(name: str, value: Any) -> str:
    """The text of a field in a line for torchvision; release 0.19 takes no interpolation by its name, every release its member."""
    is_mode = name == "interpolation" and isinstance(value, str)
    return f"v2.InterpolationMode.{value.upper()}" if is_mode else text(value)
