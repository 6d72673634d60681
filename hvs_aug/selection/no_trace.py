"""Forwards without a trace: the state of every module that runs is kept before it runs, and put back afterwards.

What runs is seen where every module is called, in ``nn.Module.__call__``. From the first scoring forward on, a function stands
there that tells an open :func:`untraced` of the module and calls the original: 0.3 µs a call. It stays: since Python 3.12 a class
that changes a thousand times loses its attribute caches, and with it every module. PyTorch's global forward hooks would see the
calls too, but make ``torch.compile`` build its graphs anew and warn, and send every call the slow way.

A module that is called brings its submodules, which run inside it unseen where it is compiled or scripted. A compiled *function*
hides the modules that it calls; these are read off the function.
"""

from __future__ import annotations

import operator
import random
import threading
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain, islice
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.modules.module import register_module_module_registration_hook, register_module_parameter_registration_hook
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from .._check import fail

__all__ = ["autocast_dtype", "untraced"]

_CALL = "HardPairSampler(model)"


@contextmanager
def untraced(
    roots: Iterable[nn.Module], device: torch.device, *, dtype: torch.dtype | None = None, restore_buffers: bool = True
) -> Iterator[None]:
    """Run forwards inside, and find the modules, the gradients and the random state outside as they were, also after an error.

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

    Raises:
        HVSError: before a module runs that has lazy parameters, as running would make them; or if a forward wrote into
            gradients that were there before.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 - the global state is kept, not used
    kept = _Kept(restore_buffers)
    with ExitStack() as stack:
        accelerated = device.type in ("cuda", "xpu") and torch.get_device_module(device).is_available()
        devices = [device] if accelerated else []
        stack.enter_context(torch.random.fork_rng(devices, device_type=device.type if accelerated else "cpu"))
        stack.enter_context(torch.no_grad())
        stack.enter_context(_precision(device, dtype))
        stack.enter_context(_own_parametrizations())
        try:
            for root in roots:
                kept.keep(root)
            with _seeing(kept.keep), _registering(kept.registered):
                yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002
            kept.restore()


# ---------------------------------------------------------------------- what runs

_See: TypeAlias = Callable[[nn.Module], None]


class _Seer(threading.local):
    """Who is told of the modules that this thread calls: those of other threads are none of ours."""

    see: _See | None = None


_seer = _Seer()
_original_call: Callable[..., Any] = nn.Module.__call__


def _called(module: nn.Module, *arguments: Any, **named: Any) -> Any:
    """Stands in for ``nn.Module.__call__``. While torch.compile traces, it is the original: a graph is the same either way."""
    if not torch.compiler.is_compiling() and (see := _seer.see) is not None:
        see(module)
    return _original_call(module, *arguments, **named)


def _install() -> None:
    global _original_call
    if nn.Module.__call__ is not _called:
        _original_call = nn.Module.__call__
        nn.Module.__call__ = _called  # type: ignore[method-assign]


@contextmanager
def _seeing(see: _See) -> Iterator[None]:
    """Be told of every module that this thread calls, before it runs."""
    _install()
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


class _Kept:
    """The state of modules from before they ran: for 151 modules in a part of a millisecond, so by lists, not module by module."""

    def __init__(self, buffers: bool) -> None:
        self._with_buffers = buffers
        self._seen: set[nn.Module] = set()
        self._parts: list[_Part] = []
        self._registered: list[tuple[nn.Module, dict[str, Any], str, bool, Any]] = []
        self._attributes: dict[nn.Module, dict[str, Any]] = {}
        self._bypassed = ExitStack()

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
        _require_made(_of_kind(modules, lambda kind: issubclass(kind, LazyModuleMixin)))
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            for module in modules:
                _bypass(module, self._bypassed)
        self._parts.append(_Part(modules, self._with_buffers))
        # PyTorch's own modules make no submodules as they run, but for the lazy ones.
        for module in _of_kind(modules, lambda kind: not kind.__module__.startswith("torch.nn.")):
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
        if any(written):
            hint = "leave its backward pass away where torch.is_grad_enabled() is False."
            fail(_CALL, "a model whose forward writes into no gradients", "one that did, which cannot be undone", hint)


class _Part:
    """The state of some modules.

    A module's dicts of buffers, parameters, submodules and hooks are not public. Nothing public tells a buffer that is absent from
    one that is ``None``, puts one back without a copy, or lists hooks.
    """

    def __init__(self, modules: list[nn.Module], buffers: bool) -> None:
        self._modules = modules
        self._training = [module.training for module in modules]
        self._scripts = [_Script(module) for module in _of_kind(modules, lambda kind: issubclass(kind, torch.jit.ScriptModule))]
        plain = [module for module in modules if not isinstance(module, torch.jit.ScriptModule)] if self._scripts else modules
        # Hooks have ascending numbers: of modules without any, those that are added later can be told by theirs.
        self._next_hook = RemovableHandle.next_id
        self._plain = plain
        self._hooks = _Entries([entries for module in plain if _has_hooks(module) for entries in _hooks(module)])
        self._buffers = _Entries([module._buffers for module in plain]) if buffers else None
        self._values = None
        if self._buffers is not None:
            own = [value for value in self._buffers.values if value is not None]
            self._values = _Values([*own, *(value for script in self._scripts for value in script.buffers.values())])
        # A weight that is no leaf is another's, put there by torch.func.functional_call.
        weights = chain.from_iterable(map(_values_of, [module._parameters for module in plain]))
        self._weights = [weight for weight in weights if weight is not None and weight.is_leaf]
        self._gradients = [weight.grad for weight in self._weights]
        self._versions = [-1 if gradient is None else gradient._version for gradient in self._gradients]
        sharded = _of_kind(modules, lambda kind: any(base.__name__ == "FSDPModule" for base in kind.__mro__))
        self._sharded = [(module, list(module.parameters())) for module in sharded]

    def restore(self) -> bool:
        """Put back what has changed; tell whether there were gradients that have been written into."""
        for module, weights in self._sharded:
            # FSDP2 leaves the root's weights gathered for a backward pass, which does not come.
            if any(now is not before for now, before in zip(module.parameters(), weights, strict=True)):
                cast(Any, module).reshard()
        if [module.training for module in self._modules] != self._training:
            for module, training in zip(self._modules, self._training, strict=True):
                module.training = training
        self._hooks.put_back()
        if RemovableHandle.next_id != self._next_hook:
            for entries in (entries for module in self._plain if _has_hooks(module) for entries in _hooks(module)):
                for number in [number for number in entries if number >= self._next_hook]:
                    del entries[number]
        if self._buffers is not None and self._values is not None:
            self._buffers.put_back()
            for script in self._scripts:
                script.put_back()
            self._values.put_back()
        if not all(map(operator.is_, [weight.grad for weight in self._weights], self._gradients)):
            for weight, gradient in zip(self._weights, self._gradients, strict=True):
                weight.grad = gradient
        return [-1 if gradient is None else gradient._version for gradient in self._gradients] != self._versions


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_pre_hooks or module._forward_hooks or module._backward_pre_hooks or module._backward_hooks)


def _hooks(module: nn.Module) -> tuple[dict[int, Any], ...]:
    return module._forward_pre_hooks, module._forward_hooks, module._backward_pre_hooks, module._backward_hooks


def _of_kind(modules: list[nn.Module], is_kind: Callable[[type], bool]) -> list[nn.Module]:
    """Those of the modules whose class is of a kind; there are few classes, and mostly none of the kind."""
    kinds = set(filter(is_kind, set(map(type, modules))))
    return [module for module in modules if type(module) in kinds] if kinds else []


class _Entries:
    """The entries of many dicts: names and values, which are compared by identity."""

    def __init__(self, dicts: list[dict[Any, Any]]) -> None:
        self._empty = [entries for entries in dicts if not entries]
        self._dicts = [entries for entries in dicts if entries]
        self._lengths = list(map(len, self._dicts))
        self._names = list(chain.from_iterable(self._dicts))
        self.values = list(chain.from_iterable(map(_values_of, self._dicts)))

    def put_back(self) -> None:
        if any(self._empty):
            for entries in self._empty:
                entries.clear()
        if not self._is_same():
            names, values = iter(self._names), iter(self.values)
            for entries, length in zip(self._dicts, self._lengths, strict=True):
                entries.clear()
                entries.update(zip(islice(names, length), islice(values, length), strict=True))

    def _is_same(self) -> bool:
        if list(map(len, self._dicts)) != self._lengths or list(chain.from_iterable(self._dicts)) != self._names:
            return False
        return all(map(operator.is_, chain.from_iterable(map(_values_of, self._dicts)), self.values))


class _Script:
    """The buffers of a TorchScript module, which can get other tensors; it cannot get other buffers, submodules or hooks."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self.buffers = dict(module.named_buffers(recurse=False))

    def put_back(self) -> None:
        for name, value in self.buffers.items():
            if getattr(self._module, name) is not value:
                setattr(self._module, name, value)


def _require_made(modules: Iterable[nn.Module]) -> None:
    for module in modules:
        if cast(Any, module).has_uninitialized_params():
            hint = "run it once on a batch of views before the first step; that makes its parameters."
            fail(_CALL, "a model whose parameters exist", f"{type(module).__name__}, whose parameters are not yet made", hint)


class _Values:
    """The values of tensors, and where these lie."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self._tensors = tensors
        # Aliases, by which to find the tensors' memory again. Not detach(): a graph that waits for its backward pass may hold
        # a buffer's version.
        self._aliases = [value.data for value in tensors]
        self._dtypes = list(map(_dtype, tensors))
        self._copies: list[tuple[list[Tensor], Tensor]] = []
        groups: dict[tuple[object, ...], list[Tensor]] = {}
        for key, own in zip(map(_kind, self._aliases), self._aliases, strict=True):
            groups.setdefault(key, []).append(own)
        for group in groups.values():
            written = [own for own in group if own.is_contiguous() or 0 not in own.stride()]  # else its elements share memory
            if written:
                self._copies.append((written, torch.stack(written)))

    def put_back(self) -> None:
        if not self._lie_where_they_lay():
            for value, own in zip(self._tensors, self._aliases, strict=True):
                if value.dtype != own.dtype or not _lies_at(value, own):
                    value.data = own
        for own_values, copies in self._copies:
            # There is no public name for it; a loop over 159 buffers costs 1 ms of launches on a GPU.
            torch._foreach_copy_(own_values, copies.unbind())

    def _lie_where_they_lay(self) -> bool:
        try:
            return list(map(_dtype, self._tensors)) == self._dtypes and all(map(Tensor.is_set_to, self._tensors, self._aliases))
        except (RuntimeError, TypeError):
            return False


_values_of, _dtype = operator.methodcaller("values"), operator.attrgetter("dtype")
_kind = operator.attrgetter("device", "dtype", "shape")


def _lies_at(value: Tensor, own: Tensor) -> bool:
    """Whether a tensor still has the memory, the shape and the strides of its alias."""
    try:
        return value.is_set_to(own)
    except (RuntimeError, TypeError):  # no memory of its own: sparse, sharded, or a stand-in without a device
        return value.shape == own.shape


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
