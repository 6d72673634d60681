"""The views with the lowest loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..._check import require_name
from .policy import Call, Policy, Searching

__all__ = ["easiest"]


@dataclass(frozen=True, repr=False)
class _Easiest(Searching):
    maker: ClassVar[str] = "easiest"

    def pick(self, call: Call) -> Tensor:
        return self.find(-call.scores(self), call)


def easiest(*, search: str = "exact", limit: int = 128) -> Policy:
    """Keep the views with the lowest loss. Non-finite losses are never chosen."""
    require_name(search, ("exact", "sampled"), "easiest(search)")
    return _Easiest(search, limit)
