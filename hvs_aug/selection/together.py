"""Where all processes have to score at the same steps: a process that does not is named, in the place of a hang.

Negatives that are gathered and weights that FSDP2 shards are exchanged inside scoring. A process that is at another step takes no
part in that exchange, and the others would wait for it until the process group's timeout, half an hour as a rule. So before such a
scoring each process says at which step it is, through the store of ``torch.distributed``, a few small messages to one host.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch import nn

from .._check import fail
from .._processes import world_size

__all__ = ["meet", "must_meet"]

_meetings = itertools.count()
_sharded: weakref.WeakKeyDictionary[nn.Module, tuple[type, bool]] = weakref.WeakKeyDictionary()
_CALL = "HardPairSampler"
_WHY = "with gather=True, Sinkhorn-Knopp over all processes, or weights sharded by FSDP2 all processes score at the same steps"


def must_meet(loss: Any, roots: Iterable[nn.Module]) -> bool:
    """Whether scoring exchanges something between all of several processes."""
    if world_size() == 1:
        return False
    return bool(getattr(loss, "gather", False)) or any(map(_is_sharded, roots))


def _is_sharded(root: nn.Module) -> bool:
    """Whether FSDP2 shards a module over all processes; looked at once for each class, as it gives the module another one."""
    kind, known = _sharded.get(root, (None, False))
    if kind is not type(root):
        known = _has_shards(root)
        _sharded[root] = type(root), known
    return known


def _has_shards(root: nn.Module) -> bool:
    for module in root.modules():
        if any(kind.__name__ == "FSDPModule" for kind in type(module).__mro__):
            meshes = (getattr(weight, "device_mesh", None) for weight in module.parameters())
            return any(mesh is not None and mesh.size() == world_size() for mesh in meshes)
    return False


def meet(what: str, seconds: float) -> None:
    """Wait until every process says the same.

    Args:
        what: what this process is about to do: its step.
        seconds: how long to wait for the others.

    Raises:
        HVSError: naming the processes, if one of them says something else, or says nothing for so long.
    """
    store: Any = dist.distributed_c10d._get_default_store()  # there is no public way to a group's store
    rank, world, number = dist.get_rank(), dist.get_world_size(), next(_meetings)
    place = f"hvs_aug/{number}"
    store.set(f"{place}/{rank}", what)
    if store.add(f"{place}/arrived", 1) == world:
        said = [store.get(f"{place}/{other}").decode() for other in range(world)]
        store.set(f"{place}/said", "\n".join(said))
        _forget(store, f"hvs_aug/{number - 1}", world)  # which everybody has left
    try:
        store.wait([f"{place}/said"], timedelta(seconds=seconds))
    except RuntimeError:
        absent = [other for other in range(world) if not store.check([f"{place}/{other}"])]
        came = f"nothing from {_ranks(absent)} for {seconds:g} s, while process {rank} waits at {what}"
        hint = f"{_WHY}; where one is busy with something else for longer, such as evaluation: Scoring(wait=seconds)."
        fail(_CALL, f"every process at {what}", came, hint)
    said = store.get(f"{place}/said").decode().split("\n")
    if any(other != what for other in said):
        steps = ", ".join(f"{one} in {_ranks([other for other in range(world) if said[other] == one])}" for one in sorted({*said}))
        fail(_CALL, "every process at the same step", steps, f"{_WHY}: the same number of batches, and of calls, in each.")


def _forget(store: Any, place: str, world: int) -> None:
    try:
        for key in ("arrived", "said", *map(str, range(world))):
            store.delete_key(f"{place}/{key}")
    except (RuntimeError, NotImplementedError):  # a store that keeps what it has
        return


def _ranks(ranks: list[int]) -> str:
    """Processes in words.

    >>> _ranks([1]), _ranks([0, 2])
    ('process 1', 'processes 0, 2')
    """
    return ("processes " if len(ranks) > 1 else "process ") + ", ".join(map(str, ranks))
