"""Functions that numba compiles for the CPU: one calling convention, by which the renderer runs the kernels of all operations."""

from __future__ import annotations

import functools
import hashlib
import os
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

numba: Any
try:
    import numba
except ImportError:  # The torch definitions render instead; hvs_aug.ops.cpu says so once.
    numba = None

carray: Any = getattr(numba, "carray", None)


__all__ = [
    "CPUKernel",
    "call_kernel",
    "carray",
    "compile_options",
    "compiled",
    "compiling",
    "cpu_kernel",
    "digest_of_sources",
    "inlined",
    "inlined_in_order",
    "is_available",
    "numba",
]

Function = TypeVar("Function", bound=Callable[..., Any])

# Sums may be reordered and fused, which vector units need; NaN and infinity keep their meaning. Quotients are exact: a crop that
# keeps its size has weights of 1 and 0.
_FAST = {"contract", "nsz"}
_REORDERED = _FAST | {"reassoc"}


def is_available() -> bool:
    """Whether numba can be imported, and compiles (``NUMBA_DISABLE_JIT`` is not set)."""
    return numba is not None and not numba.config.DISABLE_JIT


def compile_options(reorder_sums: bool = True) -> dict[str, Any]:
    """Options of numba's decorators for all kernels: no interpreter lock, no Python errors, sums in any order."""
    return {"error_model": "numpy", "fastmath": _REORDERED if reorder_sums else _FAST}


def inlined(function: Function) -> Function:
    """Make a function callable from kernels; without numba it stays a Python function that nothing calls."""
    return _njit(function, reorder_sums=True)


def inlined_in_order(function: Function) -> Function:
    """As :func:`inlined`, for short sums, which are faster in the order in which they are written."""
    return _njit(function, reorder_sums=False)


def _njit(function: Function, reorder_sums: bool) -> Function:
    if numba is None:
        return function
    made: Function = numba.njit(nogil=True, **compile_options(reorder_sums))(function)
    return made


# A process must not fork while another of its threads compiles: the child would inherit numba's compiler lock, held for ever.
compiling = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=compiling.acquire, after_in_parent=compiling.release, after_in_child=compiling.release)


@functools.cache
def digest_of_sources(folder: Path) -> str:
    """A digest of all Python files of a folder."""
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(folder.glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _named_by_sources(function: Callable[..., None]) -> Callable[..., None]:
    """The function under a name that changes with any file of this package.

    numba's cache looks at the file of the function that it compiles only, not at those of the functions that this one calls.
    """
    named = types.FunctionType(function.__code__, function.__globals__, function.__name__)
    named.__module__ = function.__module__
    named.__qualname__ = f"{function.__qualname__}.{digest_of_sources(Path(__file__).parent)}"
    return named


def compiled(decorator: Callable[[bool], Any], function: Callable[..., None]) -> Any:
    """Compile with ``decorator(cache)``: into numba's cache on disk, or without one where no folder can be written.

    LLVM's straight-line vectoriser, which numba leaves off, is on meanwhile: it turns the sum over the three channels of a pixel
    into one vector operation, which makes the resampling of lines 1.7 times as fast.
    """
    named = _named_by_sources(function)
    with compiling:
        before, numba.config.SLP_VECTORIZE = numba.config.SLP_VECTORIZE, 1
        try:
            try:
                return decorator(True)(named)
            except (OSError, RuntimeError) as error:
                if isinstance(error, RuntimeError) and "cannot cache" not in str(error):
                    raise
                return decorator(False)(named)  # no folder can be written, or the disk is full
        finally:
            numba.config.SLP_VECTORIZE = before


def _make_call_kernel() -> Any:
    """A function of kernels that calls a :class:`CPUKernel` by its address.

    numba compiles a caller anew for each function that it is given; one that calls addresses is compiled once for all recipes.
    """
    from llvmlite import ir
    from numba.extending import intrinsic

    @intrinsic
    def call_kernel(
        typing: Any, address: Any, view: Any, channels: Any, height: Any, width: Any, drawn: Any, fields: Any, scratch: Any
    ) -> Any:
        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            kinds = [context.get_value_type(kind) for kind in _signature().args]
            function = ir.FunctionType(ir.VoidType(), kinds)
            values = [
                builder.inttoptr(value, kind) if isinstance(kind, ir.PointerType) else value
                for value, kind in zip(arguments[1:], kinds, strict=True)
            ]
            builder.call(builder.inttoptr(arguments[0], function.as_pointer()), values)
            return context.get_dummy_value()

        return numba.types.void(*[numba.types.intp] * 8), emit

    return call_kernel


call_kernel: Any = None if numba is None else _make_call_kernel()


def _signature() -> Any:
    pointer, size = numba.types.CPointer(numba.types.float32), numba.types.intp
    return numba.types.void(pointer, size, size, size, pointer, pointer, pointer)


class CPUKernel:
    """A function that changes one view in place, compiled when it is first needed.

    ``function(view, channels, height, width, drawn, fields, scratch)``, all pointers to float32:

    - ``view``: the view's values, channel by channel and row by row; ``carray(view, (channels, height, width))`` reads it.
    - ``drawn``: what the operation drew for this view, in the order of :attr:`Operation.identity`, each value as float32.
    - ``fields``: what :meth:`Operation.kernel_fields` returns.
    - ``scratch``: as many floats as :meth:`Operation.kernel_scratch` asks for, with any content.

    It is written in the part of Python that numba compiles, at the top level of a module, and may call functions made with
    :func:`inlined`.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self.function = function
        self._compiled: Any = None
        self.__module__, self.__qualname__, self.__doc__ = function.__module__, function.__qualname__, function.__doc__

    @property
    def address(self) -> int:
        """Where the compiled function starts."""
        # No cached_property: before Python 3.12 it holds a lock, which a forked child could inherit.
        with compiling:
            if self._compiled is None:
                self._compiled = compiled(lambda cache: numba.cfunc(_signature(), cache=cache, **compile_options()), self.function)
            return int(self._compiled.address)

    def __reduce__(self) -> tuple[Any, ...]:
        return _kernel_of, (self.function.__module__, self.function.__qualname__)


def _kernel_of(module: str, name: str) -> Any:
    import importlib

    return getattr(importlib.import_module(module), name)


def cpu_kernel(function: Callable[..., None]) -> CPUKernel:
    """Declare the CPU kernel of an operation; see :class:`CPUKernel`."""
    return CPUKernel(function)
