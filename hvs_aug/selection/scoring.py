"""The scoring forward: every candidate through the model once, without gradients and without leaving a trace."""

from __future__ import annotations

import random
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .._check import describe, fail, require

__all__ = ["Output", "autocast_dtype", "by_view", "find_modules", "forward_slots", "map_output", "untraced"]

Output: TypeAlias = Tensor | tuple[Tensor, ...] | dict[str, Tensor]
"""What a model returns for n images: tensors whose first axis is n. As a slot's output, the leading axes are (v, B)."""

_CALL = "HardPairSampler(model)"


def find_modules(*callables: object) -> tuple[nn.Module, ...]:
    """Find the modules that callables may run, so that their state can be kept.

    A module counts as a whole. Otherwise the search follows bound methods, ``functools.partial``, decorated functions, closure
    cells, defaults, the globals that a function's code names, containers, and the attributes of objects one level deep.
    What is reached in another way (through a registry, say) is not found, and its buffers are not restored.

    Example:
        >>> encoder, head = nn.Linear(4, 4), nn.Linear(4, 2)
        >>> len(find_modules(lambda images: head(encoder(images.flatten(1)))))
        2
    """
    found: dict[nn.Module, None] = {}
    seen: set[tuple[int, bool]] = set()
    # Each entry says whether the attributes of a plain object are looked into: those of a callable are, theirs are not.
    pending: list[tuple[object, bool]] = [(value, True) for value in callables]
    while pending:
        value, opened = pending.pop()
        if (id(value), opened) in seen or isinstance(value, (Tensor, type, types.ModuleType, str, bytes, int, float)):
            continue
        seen.add((id(value), opened))
        if isinstance(value, nn.Module):
            found[value] = None
        elif isinstance(value, types.MethodType):
            pending += [(value.__self__, opened), (value.__func__, True)]
        elif isinstance(value, partial):
            pending += [(part, True) for part in (value.func, *value.args, *value.keywords.values())]
        elif isinstance(value, types.FunctionType):
            pending += [(part, True) for part in _reached(value)]
        elif isinstance(value, Mapping):
            pending += [(part, opened) for part in value.values()]
        elif isinstance(value, (list, tuple, set, frozenset)):
            pending += [(part, opened) for part in value]
        elif opened and hasattr(value, "__dict__"):
            pending += [(part, False) for part in vars(value).values()]
    return tuple(found)


def _reached(function: types.FunctionType) -> Iterator[object]:
    wrapped = [function.__dict__[name] for name in ("__wrapped__", "_torchdynamo_orig_callable") if name in function.__dict__]
    yield from wrapped
    if (function.__module__ or "").partition(".")[0] == "torch":
        return  # PyTorch's own functions hold no model, but reach half of PyTorch.
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # a name that is not bound yet
            continue
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    codes = [function.__code__]
    while codes:
        code = codes.pop()
        yield from (function.__globals__[name] for name in code.co_names if name in function.__globals__)
        codes += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]


@contextmanager
def untraced(
    roots: Iterable[nn.Module], device: torch.device, *, autocast: torch.dtype | None = None, restore_buffers: bool = True
) -> Iterator[None]:
    """Run forwards inside, and find the modules, the gradients and the random state outside as they were.

    Kept: every buffer (BatchNorm statistics, a momentum queue, a centre), by value and by identity; ``training`` flags; gradients
    (none are made); the global random state of PyTorch on the CPU and the device, of NumPy and of ``random``; the autocast cache.
    The modules run in the mode that they are in. Hooks of the user's run as in any forward.

    A DistributedDataParallel wrapper is bypassed: it broadcasts no buffers and its reducer sees nothing. SyncBatchNorm takes the
    statistics of this process alone, so that a process that does not score keeps no other waiting. (A subclass with a ``forward``
    of its own keeps that.) A module that ``fully_shard`` has sharded (FSDP2) does gather its weights, so there every process has
    to score at the same steps, in as many forwards; it is left sharded as it was.

    Args:
        roots: the modules that the forwards run, as :func:`find_modules` finds them.
        device: where the forwards run.
        autocast: dtype of the forwards, float32 for full precision; ``None`` follows the caller.
        restore_buffers: put the buffers back; ``False`` leaves their updates.
    """
    modules = list(dict.fromkeys(module for root in roots for module in root.modules()))
    flags = [(module, module.training) for module in modules]
    sharded = [(module, list(module.parameters())) for module in modules if _is_fully_sharded(module)]
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 - the global state is kept, not used
    buffers = _Buffers(modules) if restore_buffers else None
    with ExitStack() as stack:
        accelerated = device.type in ("cuda", "xpu") and torch.get_device_module(device).is_available()
        devices = [device] if accelerated else []
        stack.enter_context(torch.random.fork_rng(devices, device_type=device.type if accelerated else "cpu"))
        stack.enter_context(torch.no_grad())
        stack.enter_context(_precision(device, autocast))
        stack.enter_context(_alone(modules))
        try:
            yield
        finally:
            for module, training in flags:
                if module.training != training:
                    module.training = training
            for module, weights in sharded:
                # FSDP2 leaves the root's weights gathered for a backward pass, which does not come.
                if any(now is not before for now, before in zip(module.parameters(), weights, strict=True)):
                    cast(Any, module).reshard()
            if buffers is not None:
                buffers.restore()
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002


def _is_fully_sharded(module: nn.Module) -> bool:
    return any(kind.__name__ == "FSDPModule" for kind in type(module).__mro__)


class _Buffers:
    """The buffers of some modules, by identity and by value."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._names = [(module._buffers, dict(module._buffers)) for module in modules if module._buffers]
        tensors = {id(value): value for _, names in self._names for value in names.values() if value is not None}
        self._groups: dict[tuple[torch.device, torch.dtype], tuple[list[Tensor], list[Tensor]]] = {}
        for value in tensors.values():
            if 0 in value.stride() and value.numel() > 1:
                continue  # An expanded constant, whose elements share memory, cannot be written.
            own, copy = self._groups.setdefault((value.device, value.dtype), ([], []))
            own.append(value.data)  # not detach(): a graph that waits for its backward pass may hold this buffer's version
            copy.append(torch.empty_like(value))
        for own, copy in self._groups.values():
            torch._foreach_copy_(copy, own)

    def restore(self) -> None:
        for names, before in self._names:
            if names.keys() != before.keys() or any(names[name] is not value for name, value in before.items()):
                names.clear()
                names.update(before)
        for own, copy in self._groups.values():
            torch._foreach_copy_(own, copy)


@contextmanager
def _precision(device: torch.device, autocast: torch.dtype | None) -> Iterator[None]:
    """Autocast in the caller's dtype or the one given. Its cache is off: a weight that is cast without gradients must not be what
    the training forward finds there, since it would then not be trained (releases of PyTorch differ in whether it is cached)."""
    dtype = autocast_dtype(device, autocast)
    with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None, cache_enabled=False):
        yield


def autocast_dtype(device: torch.device, override: torch.dtype | None = None) -> torch.dtype | None:
    """The dtype that a forward is cast to, ``None`` where it is not: the caller's, or the one given, float32 for none."""
    if override is not None:
        return None if override == torch.float32 else override
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None


@contextmanager
def _alone(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Let no module talk to another process: an attribute of the instance stands in for its class's forward."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        yield
        return
    with ExitStack() as stack:
        for module in modules:
            if isinstance(module, nn.parallel.DistributedDataParallel):
                # The flag is for a model that is the wrapper's bound forward, which the attribute cannot stand in for.
                stack.enter_context(_attributes(module, forward=module.module, require_forward_param_sync=False))
            elif type(module).forward is nn.SyncBatchNorm.forward:
                stack.enter_context(_attributes(module, forward=types.MethodType(_BatchNorm.forward, module)))
        yield


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


def forward_slots(
    model: Callable[..., Any],
    views: Sequence[Tensor | None],
    arguments: Sequence[tuple[Tensor, ...]] | None = None,
    *,
    chunk: int | None = None,
    channels_last: bool = False,
    before: Callable[[int, int], None] | None = None,
    call: str = _CALL,
) -> list[Output | None]:
    """Run the model once for each resolution, and give each slot its outputs.

    Slots of one resolution are joined view by view: row ``v * B + b`` of a call is view v of image b. With ``chunk`` a call is
    cut into equal parts of at most that many images, each of which is then a batch of its own to BatchNorm.

    Shape: views, one ``(v, B, C, h, w)`` per slot, or ``None`` for a slot that is left out; arguments, for each slot further
    tensors ``(v, B, ...)`` for the model -> for each slot the model's output, its first axis unflattened to ``(v, B)``.

    Raises:
        HVSError: if an output's first axis is not that of the images, or it is not floating point, or on another device.
    """
    arguments = arguments if arguments is not None else [()] * len(views)
    groups: dict[object, list[int]] = {}
    for slot, pixels in enumerate(views):
        if pixels is not None:
            groups.setdefault((pixels.shape[1:], len(arguments[slot])), []).append(slot)
    outputs: list[Output | None] = [None] * len(views)
    for slots in groups.values():
        joining = [value for slot in slots if (value := views[slot]) is not None]
        inputs = [_joined(joining), *(_joined(list(values)) for values in zip(*(arguments[slot] for slot in slots), strict=True))]
        if channels_last:
            inputs[0] = inputs[0].contiguous(memory_format=torch.channels_last)
        images = len(inputs[0])
        parts = 1 if chunk is None else max(1, -(-images // chunk))
        pieces: list[Output] = []
        start = 0
        for piece in zip(*(value.tensor_split(parts) for value in inputs), strict=True):
            if before is not None:
                before(start, len(piece[0]))
            pieces.append(_checked(model(*piece), piece[0], call))
            start += len(piece[0])
        whole = pieces[0] if parts == 1 else map_output(lambda *values: torch.cat(values), *pieces)
        batch = joining[0].shape[1]
        first = 0
        for slot, value in zip(slots, joining, strict=True):
            rows = slice(first * batch, (first + len(value)) * batch)
            outputs[slot] = map_output(lambda leaf, rows=rows, batch=batch: by_view(leaf[rows], batch), whole)
            first += len(value)
    return outputs


def map_output(function: Callable[..., Tensor], *outputs: Any) -> Output:
    """Apply a function to the corresponding tensors of outputs of one structure."""
    first = outputs[0]
    if isinstance(first, Tensor):
        return function(*outputs)
    if isinstance(first, dict):
        return {name: function(*(value[name] for value in outputs)) for name in first}
    return tuple(function(*values) for values in zip(*outputs, strict=True))


def by_view(values: Tensor, batch: int) -> Tensor:
    """Split the first axis, view by view: ``(v * B, ...)`` -> ``(v, B, ...)``."""
    return values.view(-1, batch, *values.shape[1:]) if batch else values.view(0, 0, *values.shape[1:])


def _joined(values: list[Tensor]) -> Tensor:
    flat = [value.flatten(0, 1) for value in values]
    return flat[0] if len(flat) == 1 else torch.cat(flat)


def _checked(output: Any, images: Tensor, call: str) -> Output:
    """Return what the model gave as a tensor, tuple or dict of tensors that fit the images."""
    result: Output = dict(output) if isinstance(output, Mapping) else tuple(output) if isinstance(output, list) else output
    leaves = list(result.values()) if isinstance(result, dict) else result if isinstance(result, tuple) else (result,)
    require(len(leaves) > 0, call, "at least one tensor from the model", describe(output))
    for leaf in leaves:
        if not isinstance(leaf, Tensor):
            expected = "a model that returns a tensor, or a tuple or dict of tensors"
            fail(call, expected, describe(leaf), "wrap it in a lambda that does.")
        if leaf.ndim == 0 or len(leaf) != len(images):
            fail(
                call,
                f"outputs whose first axis is the {len(images)} images of the call",
                leaf,
                "return one row per image, in the order of the images, and no loss that is already averaged.",
            )
        require(leaf.is_floating_point(), call, "floating-point outputs", leaf)
        require(leaf.device == images.device, call, f"outputs on {images.device}, where the images are", leaf)
    return result
