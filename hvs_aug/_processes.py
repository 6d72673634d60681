"""How many processes ``torch.distributed`` has, and which of them this one is."""

from __future__ import annotations

import torch.distributed as dist

__all__ = ["is_distributed", "rank", "world_size"]


def is_distributed() -> bool:
    """Whether this process belongs to a group."""
    return dist.is_available() and dist.is_initialized()


def world_size() -> int:
    """The number of processes of the group, 1 without one."""
    return dist.get_world_size() if is_distributed() else 1


def rank() -> int:
    """The number of this process in its group, 0 without one."""
    return dist.get_rank() if is_distributed() else 0
