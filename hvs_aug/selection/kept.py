"""The state of modules: their buffers, hooks, modes and gradients, kept and put back."""

from __future__ import annotations

import operator
from collections.abc import Callable
from itertools import chain, islice
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

__all__ = ["Part", "Values", "of_kind"]


class Part:
    """The state of some modules.

    A module's dicts of buffers, parameters, submodules and hooks are not public. Nothing public tells a buffer that is absent from
    one that is ``None``, puts one back without a copy, or lists hooks.
    """

    def __init__(self, modules: list[nn.Module], buffers: bool, last: Values | None) -> None:
        self._modules = modules
        self._training = [module.training for module in modules]
        self._scripts = [_Script(module) for module in of_kind(modules, lambda kind: issubclass(kind, torch.jit.ScriptModule))]
        plain = [module for module in modules if not isinstance(module, torch.jit.ScriptModule)] if self._scripts else modules
        # Hooks have ascending numbers: of modules without any, those that are added later can be told by theirs.
        self._next_hook = RemovableHandle.next_id
        self._plain = plain
        self._hooks = _Entries(_hooks(plain))
        self._buffers = _Entries([module._buffers for module in plain]) if buffers else None
        self.values = None
        if self._buffers is not None:
            own = [value for value in self._buffers.values if value is not None]
            own += [value for script in self._scripts for value in script.buffers.values()]
            self.values = last if last is not None and last.is_of(own) else Values(own)
            self.values.keep()
        # A weight that is no leaf is another's, put there by torch.func.functional_call.
        weights = chain.from_iterable(map(_values_of, [module._parameters for module in plain]))
        self._weights = [weight for weight in weights if weight is not None and weight.is_leaf]
        self._gradients = [weight.grad for weight in self._weights]
        self._versions = [-1 if gradient is None else gradient._version for gradient in self._gradients]
        sharded = of_kind(modules, lambda kind: any(base.__name__ == "FSDPModule" for base in kind.__mro__))
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
            for entries in _hooks(self._plain):
                for number in [number for number in entries if number >= self._next_hook]:
                    del entries[number]
        if self._buffers is not None and self.values is not None:
            self._buffers.put_back()
            for script in self._scripts:
                script.put_back()
            self.values.put_back()
        if not all(map(operator.is_, [weight.grad for weight in self._weights], self._gradients)):
            for weight, gradient in zip(self._weights, self._gradients, strict=True):
                weight.grad = gradient
        return [-1 if gradient is None else gradient._version for gradient in self._gradients] != self._versions


def _hooks(modules: list[nn.Module]) -> list[dict[int, Any]]:
    """The dicts of hooks of those modules that have any."""
    hooked = [
        module
        for module in modules
        if module._forward_pre_hooks or module._forward_hooks or module._backward_pre_hooks or module._backward_hooks
    ]
    return list(chain.from_iterable(map(_hooks_of, hooked)))


def of_kind(modules: list[nn.Module], is_kind: Callable[[type], bool]) -> list[nn.Module]:
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


class Values:
    """The values of tensors, and where these lie."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self._tensors = tensors
        # Aliases, by which to find the tensors' memory again. Not detach(): a graph that waits for its backward pass may hold
        # a buffer's version.
        self._aliases = [value.data for value in tensors]
        self._dtypes = list(map(_dtype, tensors))
        self._copies: list[_Copies] = []
        groups: dict[tuple[object, ...], list[Tensor]] = {}
        for key, own in zip(map(_kind, self._aliases), self._aliases, strict=True):
            groups.setdefault(key, []).append(own)
        self._is_in_inference = torch.is_inference_mode_enabled()
        for group in groups.values():
            # Not written are an expanded constant, whose elements share memory, and outside inference mode one that was made in it.
            written = [own for own in group if own.is_contiguous() or 0 not in own.stride()]
            written = [own for own in written if self._is_in_inference or not own.is_inference()]
            if written:
                self._copies.append(_Copies(written))
        self.bytes = sum(own.numel() * own.element_size() for own in self._aliases)

    def is_of(self, tensors: list[Tensor]) -> bool:
        """Whether these are the tensors, lie where they lay, and the memory for their values can be written here."""
        if self._is_in_inference != torch.is_inference_mode_enabled():
            return False
        is_same = len(tensors) == len(self._tensors) and all(map(operator.is_, tensors, self._tensors))
        return is_same and self._lie_where_they_lay()

    def keep(self) -> None:
        for copies in self._copies:
            copies.take()

    def put_back(self) -> None:
        if not self._lie_where_they_lay():
            for value, own in zip(self._tensors, self._aliases, strict=True):
                if value.dtype != own.dtype or not _lies_at(value, own):
                    value.data = own
        for copies in self._copies:
            copies.put_back()

    def _lie_where_they_lay(self) -> bool:
        try:
            return list(map(_dtype, self._tensors)) == self._dtypes and all(map(Tensor.is_set_to, self._tensors, self._aliases))
        except (RuntimeError, TypeError):
            return False


class _Copies:
    """Copies of tensors of one device and dtype: one operation takes them all, and one puts them all back.

    There is no public name for ``_foreach_copy_``; a loop over 159 buffers costs 1 ms of launches on a GPU. Tensors whose elements
    lie in a row are taken by ``torch.cat``, in half of the time.
    """

    def __init__(self, tensors: list[Tensor]) -> None:
        self._tensors = tensors
        self._rows: list[Tensor] | None = None
        if all(type(own) is Tensor and own.layout is torch.strided and own.is_contiguous() for own in tensors):
            self._rows = [own.view(-1) for own in tensors]
            self._joined = torch.cat(self._rows)
            pieces = torch.split(self._joined, list(map(len, self._rows)))
            self._copies = [piece.view(own.shape) for piece, own in zip(pieces, tensors, strict=True)]
        else:
            self._copies = [torch.empty_like(own) for own in tensors]

    def take(self) -> None:
        if self._rows is not None:
            torch.cat(self._rows, out=self._joined)
        else:
            torch._foreach_copy_(self._copies, self._tensors)

    def put_back(self) -> None:
        torch._foreach_copy_(self._tensors, self._copies)


_values_of, _dtype = operator.methodcaller("values"), operator.attrgetter("dtype")
_kind = operator.attrgetter("device", "dtype")
_hooks_of = operator.attrgetter("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


def _lies_at(value: Tensor, own: Tensor) -> bool:
    """Whether a tensor still has the memory, the shape and the strides of its alias."""
    try:
        return value.is_set_to(own)
    except (RuntimeError, TypeError):  # no memory of its own: sparse, sharded, or a stand-in without a device
        return value.shape == own.shape
