"""Another policy for a share of the images, random views for the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..._check import require_fraction
from .hardest import hardest
from .policy import BuiltIn, Call, Policy
from .random import random

__all__ = ["mixture"]

_CONTROL = random(control=False)  # made here, as PyTorch 2.4 cannot make it inside torch.compile


@dataclass(frozen=True, repr=False)
class _Mixture(BuiltIn):
    maker: ClassVar[str] = "mixture"
    p: float
    policy: Policy

    @property
    def needs_table(self) -> bool:
        return self.p > 0 and getattr(self.policy, "needs_table", True)

    @property
    def searches_exactly(self) -> bool:
        return getattr(self.policy, "searches_exactly", False)

    def pick(self, call: Call) -> Tensor:
        control = _CONTROL(call.table, call.slots, params=call.params, step=call.step, generator=call.generator)
        if self.p == 0:
            return control
        chosen = self.policy(call.table, call.slots, params=call.params, step=call.step, generator=call.generator)
        return torch.where(call.uniform(control.shape[1]) < self.p, chosen, control)


def mixture(p: float, policy: Policy | None = None) -> Policy:
    """Choose with ``policy`` (by default the hardest) with probability ``p`` for each image, and otherwise at random."""
    require_fraction(p, "mixture(p)")
    return _Mixture(float(p), hardest() if policy is None else policy)
