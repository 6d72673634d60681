"""What losses exchange between the processes of ``torch.distributed``, where the repo's own loss does."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

__all__ = ["gathered"]


def gathered(outputs: Tensor, finite: Tensor) -> tuple[Tensor, Tensor, int]:
    """All processes' outputs (V, B of all, width), which of them are finite and present, and where the own ones begin."""
    world, rank = dist.get_world_size(), dist.get_rank()
    size = torch.tensor([outputs.shape[1]])
    sizes = [torch.empty_like(size) for _ in range(world)]
    dist.all_gather(sizes, size, group=_host_group(dist.group.WORLD))
    longest = max(int(size) for size in sizes)
    padded = F.pad(torch.cat([outputs, finite[..., None].to(outputs.dtype)], -1), (0, 0, 0, longest - outputs.shape[1]))
    parts = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(parts, padded.contiguous())
    parts = [part[:, : int(size)] for part, size in zip(parts, sizes, strict=True)]
    everything = torch.cat(parts, 1)
    return everything[..., :-1], everything[..., -1] > 0.5, sum(int(size) for size in sizes[:rank])


@functools.lru_cache(maxsize=1)
def _host_group(world: Any) -> Any:
    """A group of all processes whose collectives take CPU tensors, so that a batch size crosses without a device."""
    return world if "gloo" in dist.get_backend(world) else dist.new_group(backend="gloo")
