"""Functions that Triton compiles for a GPU: one calling convention, by which one pass runs the kernels of several operations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, overload

TRITON = (3, 6)
"""The oldest version of Triton with which the kernels were built. PyTorch 2.4 brings 3.0, whose ``jit`` lacks options of ours."""

WHY_MISSING = ""
"""Why there is no Triton that the kernels can be compiled with. The torch definitions render then; CandidateViews says so once."""

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = tl = None
    WHY_MISSING = "Triton is not installed"
else:
    if tuple(int(part) for part in triton.__version__.split(".")[:2]) < TRITON:
        WHY_MISSING = f"Triton {triton.__version__} is older than {'.'.join(map(str, TRITON))}"
        triton = tl = None

__all__ = [
    "TRITON",
    "WHY_MISSING",
    "GPUKernel",
    "constant",
    "device_function",
    "gpu_kernel",
    "launched",
    "tl",
    "triton",
    "unit_value",
]

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class GPUKernel:
    """A function of one pixel, which Triton compiles into a pass over all views, together with those of other operations.

    ``function(pixel, y, x, view, drawn, fields, mean) -> pixel``:

    - ``pixel``: a tuple with a block of float32 values for each channel.
    - ``y``, ``x``: the row and the column of each of these pixels in the view.
    - ``view``: the view's row in ``drawn``.
    - ``drawn``: for each parameter of the operation, in the order of :attr:`Operation.identity`, where its values start; that of
      shape ``(n, 4)`` at column k is ``tl.load(drawn[i] + 4 * view + k)``.
    - ``fields``: what :meth:`Operation.kernel_fields` returns, as float32 numbers.
    - ``mean``: the mean over the view of what ``mean_of`` returned; 0 without it.

    It is written in the part of Python that Triton compiles, at the top level of a module, and may call functions made with
    :func:`device_function`.

    Attributes:
        function: the function above.
        mean_of: ``mean_of(pixel, view, drawn, fields)`` gives one block, whose mean over the whole view ``function`` needs.
    """

    function: Any
    mean_of: Any = None


@overload
def gpu_kernel(function: Callable[..., Any]) -> GPUKernel: ...


@overload
def gpu_kernel(*, mean_of: Any) -> Callable[[Callable[..., Any]], GPUKernel]: ...


def gpu_kernel(function: Callable[..., Any] | None = None, *, mean_of: Any = None) -> Any:
    """Declare the GPU kernel of an operation; see :class:`GPUKernel`. ``@gpu_kernel`` or ``@gpu_kernel(mean_of=...)``."""
    if function is None:
        return lambda given: GPUKernel(device_function(given), mean_of)
    return GPUKernel(device_function(function))


def device_function(function: Function) -> Function:
    """Make a function callable from GPU kernels; without Triton it stays a Python function that nothing calls."""
    if triton is None:
        return function
    made: Function = triton.jit(function)
    return made


def launched(*, varying: tuple[str, ...], tables: tuple[str, ...]) -> Callable[[Function], Any]:
    """Make a function a GPU kernel that can be launched.

    It is not compiled anew for each value of the arguments ``varying``, nor for where the memory of ``tables`` happens to start.
    """

    def decorate(function: Function) -> Any:
        if triton is None:
            return function
        return triton.jit(function, do_not_specialize=list(varying), do_not_specialize_on_alignment=list(tables))

    return decorate


def constant(value: float) -> Any:
    """A number at the top level of a module that GPU kernels read."""
    return value if tl is None else tl.constexpr(value)


@device_function
def unit_value(value: tl.tensor) -> tl.tensor:
    """The nearest value in [0, 1], for GPU kernels."""
    return tl.minimum(tl.maximum(value, 0.0), 1.0)
