"""Forward passes without a trace: the state of every module that runs is saved before, and restored afterwards.

What runs is seen where every module is called, in ``nn.Module.__call__``. From the first scoring forward on, a function stands
there that tells an open :func:`untraced` of the module and calls the original: 0.3 µs a call. It stays: since Python 3.12 a class
that changes a thousand times loses its attribute caches, and with it every module. PyTorch's global forward hooks would see the
calls too, but make ``torch.compile`` build its graphs anew and warn, and send every call the slow way.

A module that is called brings its submodules, which run inside it unseen where it is compiled or scripted. A compiled *function*
hides the modules that it calls; these are read off the function. ``torch.func.functional_call`` gives a module other tensors before
it calls it: there, too, a function tells of the module, and of the buffers that it gets.
"""

from __future__ import annotations

import random
import threading
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.modules.module import register_module_module_registration_hook, register_module_parameter_registration_hook
from torch.nn.utils import parametrize, stateless

from .._check import fail
from .._processes import is_distributed
from .kept import Part, Values, of_kind

__all__ = ["Memory", "autocast_dtype", "untraced"]

_CALL = "HardPairSampler(model)"
_REMEMBERED = 64 << 20  # bytes; a larger queue gets its memory anew in each step


@contextmanager
def untraced(
    roots: Iterable[nn.Module],
    device: torch.device,
    *,
    dtype: torch.dtype | None = None,
    restore_buffers: bool = True,
    memory: Memory | None = None,
) -> Iterator[None]:
    """A context for forward passes: afterwards modules, gradients and random states are as before, also after an error.

    Kept, of every module that runs: buffers (BatchNorm statistics, a queue, a centre, a quantisation observer's range) by
    identity, value, shape, dtype and absence; ``training`` flags; which parameters, submodules and hooks there are; gradients.
    Kept besides: the global random state of PyTorch on the CPU and the device, of NumPy and of ``random``; the caches of
    autocast and of ``parametrize.cached()``. The modules run in the mode that they are in. Hooks of the user's run as ever.

    A DistributedDataParallel wrapper is bypassed: it broadcasts no buffers and its reducer sees nothing. SyncBatchNorm takes the
    statistics of this process alone, so that a process that does not score keeps no other waiting. (A subclass with a ``forward``
    of its own keeps that.) A module that ``fully_shard`` has sharded (FSDP2) does gather its weights, so there every process has
    to score at the same steps, in as many forwards; it is left sharded as it was.

    Args:
        roots: modules that may run unseen, as :func:`hvs_aug.selection.reached.find_modules` finds them.
        device: where the forwards run.
        dtype: of the forwards, float32 for full precision; ``None`` follows the caller.
        restore_buffers: put the buffers back; ``False`` leaves their updates.
        memory: what the last step needed, to be used again.

    Raises:
        HVSError: before a module runs that has lazy parameters, as running would make them; or if a forward wrote into
            gradients that were there before.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 - the global state is kept, not used
    kept = _Kept(restore_buffers, memory if memory is not None else Memory())
    with ExitStack() as stack:
        accelerated = device.type in ("cuda", "xpu") and torch.get_device_module(device).is_available()
        devices = [device] if accelerated else []
        stack.enter_context(torch.random.fork_rng(devices, device_type=device.type if accelerated else "cpu"))
        stack.enter_context(torch.no_grad())
        stack.enter_context(_precision(device, dtype))
        stack.enter_context(_own_parametrizations())
        try:
            with _registering(kept.registered), _seeing(kept.see):
                for root in roots:
                    kept.keep(root)
                yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002
            kept.restore()


# ---------------------------------------------------------------------- what runs

_See: TypeAlias = Callable[[nn.Module, Mapping[str, Tensor]], None]
"""Gets a module before it runs, and the tensors that it runs with in place of its own."""


class _Seer(threading.local):
    """Who is told of the modules that this thread calls: those of other threads are none of ours."""

    see: _See | None = None


_seer = _Seer()
_original_call: Callable[..., Any] = nn.Module.__call__


def _called(module: nn.Module, *arguments: Any, **named: Any) -> Any:
    """Stands in for ``nn.Module.__call__``. While torch.compile traces, it is the original: a graph is the same either way."""
    if not torch.compiler.is_compiling() and (see := _seer.see) is not None:
        see(module, {})
    return _original_call(module, *arguments, **named)


_original_swap: Callable[..., Any] = stateless._reparametrize_module


def _swapped(module: nn.Module, tensors: Mapping[str, Tensor], *arguments: Any, **named: Any) -> Any:
    """Stands in for what ``torch.func.functional_call`` swaps tensors with; there is no public way to hear of it before."""
    if not torch.compiler.is_compiling() and (see := _seer.see) is not None:
        see(module, tensors)
    return _original_swap(module, tensors, *arguments, **named)


def _install() -> None:
    """Put our functions in their places, unless they are there, or below one that another library has put on top of it."""
    global _original_call
    if nn.Module.__call__ is _called:
        return
    stateless._reparametrize_module = cast(Any, _swapped)
    heard: list[object] = []
    with _telling(lambda module, tensors: heard.append(module)):
        nn.Identity()(None)
    if not heard:
        _original_call = nn.Module.__call__
        nn.Module.__call__ = _called  # type: ignore[method-assign]


@contextmanager
def _seeing(see: _See) -> Iterator[None]:
    """Be told of every module that this thread calls, before it runs."""
    _install()
    with _telling(see):
        yield


@contextmanager
def _telling(see: _See) -> Iterator[None]:
    outer, _seer.see = _seer.see, see
    try:
        yield
    finally:
        _seer.see = outer


@contextmanager
def _registering(registered: Callable[[nn.Module, str, Any], None]) -> Iterator[None]:
    """Be told of every parameter and submodule that this thread registers, before it is there."""
    thread = threading.get_ident()

    def tell(module: nn.Module, name: str, value: Any) -> None:
        if threading.get_ident() == thread:
            registered(module, name, value)

    handles = register_module_parameter_registration_hook(tell), register_module_module_registration_hook(tell)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


# ---------------------------------------------------------------------- what is kept


class Memory:
    """The memory for the values of buffers, from one step to the next: half of the time goes into finding and making it."""

    def __init__(self) -> None:
        self.values: list[Values | None] = []


class _Kept:
    """The state of modules from before they ran: for 151 modules in a part of a millisecond, so by lists, not module by module."""

    def __init__(self, buffers: bool, memory: Memory) -> None:
        self._with_buffers, self._memory = buffers, memory
        self._seen: set[nn.Module] = set()
        self._parts: list[Part] = []
        self._registered: list[tuple[nn.Module, dict[str, Any], str, bool, Any]] = []
        self._attributes: dict[nn.Module, dict[str, Any]] = {}
        self._passed: dict[Tensor, Values] = {}
        self._bypassed = ExitStack()

    def see(self, module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        """Keep a module that is about to run, and the tensors that stand in for its buffers."""
        if module not in self._seen:
            # While PyTorch compiles a graph it calls modules of its own, with tensors that hold no values.
            if torch._guards.TracingContext.try_get() is not None:
                return
            self.keep(module)
        if tensors and self._with_buffers:
            for name, _ in module.named_buffers():
                if isinstance(value := tensors.get(name), Tensor) and (own := _without_wrappers(value)) not in self._passed:
                    self._passed[own] = Values([own])
                    self._passed[own].keep()

    def keep(self, root: nn.Module) -> None:
        """Keep a module and those inside it, unless they are kept already."""
        if root in self._seen:
            return
        modules: list[nn.Module] = []
        pending: list[nn.Module | None] = [root]
        while pending:
            module = pending.pop()
            if module is not None and module not in self._seen:
                self._seen.add(module)
                modules.append(module)
                pending += module._modules.values()
        _require_made(of_kind(modules, lambda kind: issubclass(kind, LazyModuleMixin)))
        if is_distributed():
            for module in modules:
                _bypass(module, self._bypassed)
        place = len(self._parts)
        last = self._memory.values[place] if place < len(self._memory.values) else None
        self._parts.append(Part(modules, self._with_buffers, last))
        # PyTorch's own modules make no submodules as they run, but for the lazy ones.
        for module in of_kind(modules, lambda kind: not kind.__module__.startswith("torch.nn.")):
            self._attributes[module] = dict(vars(module))

    def registered(self, module: nn.Module, name: str, value: nn.Parameter | nn.Module | None) -> None:
        """Remember what was there before a parameter or submodule is registered: a lazily made head, say."""
        if module in self._seen:
            places: dict[str, Any] = module._modules if isinstance(value, nn.Module) else module._parameters
            self._registered.append((module, places, name, name in places, places.get(name)))

    def restore(self) -> None:
        self._bypassed.close()
        for module, places, name, was_there, value in reversed(self._registered):
            places[name] = value
            if not was_there:
                del places[name]
                attributes = self._attributes.get(module, {})
                if name in attributes:  # self.head = None, until it is made
                    vars(module)[name] = attributes[name]
        written = [part.restore() for part in self._parts]
        for values in self._passed.values():
            values.put_back()
        few = [part.values if part.values is not None and part.values.bytes <= _REMEMBERED else None for part in self._parts]
        self._memory.values = few
        if any(written):
            hint = "let it skip its backward pass if torch.is_grad_enabled() is False."
            fail(_CALL, "a model whose forward writes into no gradients", "one that did, which cannot be undone", hint)


def _without_wrappers(value: Tensor) -> Tensor:
    """The tensor that ``torch.func.vmap`` and its like wrap. There is no public name for it."""
    while torch._C._functorch.is_functorch_wrapped_tensor(value):
        value = torch._C._functorch.get_unwrapped(value)
    return value


def _require_made(modules: Iterable[nn.Module]) -> None:
    for module in modules:
        if cast(Any, module).has_uninitialized_params():
            hint = "run it once on a batch of views before the first step; that makes its parameters."
            fail(_CALL, "a model whose parameters exist", f"{type(module).__name__}, whose parameters are not yet made", hint)


# ---------------------------------------------------------------------- beside the modules


@contextmanager
def _precision(device: torch.device, override: torch.dtype | None) -> Iterator[None]:
    """Autocast in the caller's dtype or the one given. Its cache is off: a weight that is cast without gradients must not be what
    the training forward finds there, since it would then not be trained (releases of PyTorch differ in whether it is cached)."""
    dtype = autocast_dtype(device, override)
    if dtype is None and not torch.is_autocast_enabled(device.type):
        yield  # A model that autocasts inside its forward empties the cache at its end.
        return
    with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None, cache_enabled=False):
        yield


def autocast_dtype(device: torch.device, override: torch.dtype | None = None) -> torch.dtype | None:
    """The dtype that a forward is cast to, ``None`` where it is not: the caller's, or the one given, float32 for none."""
    if override is not None:
        return None if override == torch.float32 else override
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None


@contextmanager
def _own_parametrizations() -> Iterator[None]:
    """Inside ``parametrize.cached()``, give scoring a cache of its own: a weight that it computes has no gradients, and training
    would find it. PyTorch has no public name for the cache."""
    outer = getattr(parametrize, "_cache", None)
    if not outer and not getattr(parametrize, "_cache_enabled", 0):
        yield
        return
    parametrize._cache = {}
    try:
        yield
    finally:
        parametrize._cache = cast(Any, outer)


def _bypass(module: nn.Module, until: ExitStack) -> None:
    """Let a module talk to no other process: an attribute of the instance stands in for its class's forward."""
    if isinstance(module, nn.parallel.DistributedDataParallel):
        # The flag is for a model that is the wrapper's bound forward, which the attribute cannot stand in for.
        until.enter_context(_attributes(module, forward=module.module, require_forward_param_sync=False))
    elif type(module).forward is nn.SyncBatchNorm.forward:
        until.enter_context(_attributes(module, forward=types.MethodType(_BatchNorm.forward, module)))


@contextmanager
def _attributes(module: nn.Module, **values: object) -> Iterator[None]:
    """Give a module other attributes for a while."""
    before = {name: module.__dict__[name] for name in values if name in module.__dict__}
    module.__dict__.update(values)
    try:
        yield
    finally:
        for name in values:
            del module.__dict__[name]
        module.__dict__.update(before)
