"""Random views."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..losses.pair import slot_ranges
from .policy import BuiltIn, Call, Policy

__all__ = ["random"]


@dataclass(frozen=True, repr=False)
class _Random(BuiltIn):
    maker: ClassVar[str] = "random"
    control: bool

    @property
    def needs_table(self) -> bool:
        return self.control

    def pick(self, call: Call) -> Tensor:
        batch, device = call.target
        found = []
        for span, slot in zip(slot_ranges(call.slots), call.slots, strict=True):
            order = torch.rand(len(span), batch, generator=call.generator, device="cpu").argsort(0)
            found.append(order[: slot.select].sort(0).values + span.start)
        return torch.cat(found).to(device, non_blocking=True)


def random(control: bool = True) -> Policy:
    """Keep random views.

    Args:
        control: score nevertheless, so that a step costs as much as with hard views; ``False`` does not run the model.
    """
    return _Random(control)
