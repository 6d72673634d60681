"""What a policy is, and what those of this package share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from ..._check import fail
from ...views.params import ViewParams
from ...views.recipe import ViewSlot
from .. import search

__all__ = ["BuiltIn", "Call", "Policy", "Searching"]


class Policy(Protocol):
    """A function of the table that returns the candidates to keep: (S, B) int64, grouped by slot.

    ``table`` is (V, V, B) (see :class:`hvs_aug.selection.losses.PairLoss`), or ``None`` for a policy with the attribute
    ``needs_table = False``, for which the model is not run. ``params`` are the parameters of all candidates, or ``None`` if the
    caller rendered them. Random numbers come from ``generator``, which is on the CPU, so that one seed gives the same choice on
    every device.
    """

    def __call__(
        self,
        table: Tensor | None,
        slots: Sequence[ViewSlot],
        *,
        params: ViewParams | None,
        step: int,
        generator: torch.Generator | None,
    ) -> Tensor: ...


@dataclass(frozen=True)
class Call:
    """The arguments of one call of a policy."""

    table: Tensor | None
    slots: Sequence[ViewSlot]
    params: ViewParams | None
    step: int
    generator: torch.Generator | None

    def scores(self, policy: object) -> Tensor:
        """The table, which the policy cannot do without."""
        if self.table is None:
            fail(f"{policy!r}(table)", "a table of losses", "None")
        return self.table

    def uniform(self, *shape: int) -> Tensor:
        """Random numbers in [0, 1), drawn on the CPU and sent after the table without waiting."""
        return torch.rand(shape, generator=self.generator, device="cpu").to(self.target[1], non_blocking=True)

    @property
    def target(self) -> tuple[int, torch.device]:
        """The number of images, and where the indices are wanted: with the table, or else with the params."""
        if self.table is not None:
            return self.table.shape[-1], self.table.device
        if self.params is None:
            hint = "render the candidates with CandidateViews, or choose by the table: random(control=True)."
            fail("policy(params)", "the params of the candidates, since there is no table", "None", hint)
        return self.params.boxes.shape[1], self.params.boxes.device


class BuiltIn(ABC):
    """A policy that is shown as the call that makes it, and compared by its arguments."""

    maker: ClassVar[str]

    @property
    def needs_table(self) -> bool:
        """Whether the model has to run."""
        return True

    @property
    def searches_exactly(self) -> bool:
        """Whether losses of two local views do not count, since the exact search leaves them out."""
        return False

    def at(self, step: int) -> Policy:
        """The policy that chooses in this step."""
        return self

    def __call__(
        self,
        table: Tensor | None,
        slots: Sequence[ViewSlot],
        *,
        params: ViewParams | None,
        step: int,
        generator: torch.Generator | None,
    ) -> Tensor:
        return self.pick(Call(table, slots, params, step, generator))

    @abstractmethod
    def pick(self, call: Call) -> Tensor:
        """The indices (S, B)."""

    def __repr__(self) -> str:
        return f"{self.maker}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"


@dataclass(frozen=True, repr=False)
class Searching(BuiltIn):
    """One that searches among all selections, or among some that are drawn."""

    search: str = "exact"
    limit: int = 128

    @property
    def searches_exactly(self) -> bool:
        return self.search == "exact"

    def find(self, table: Tensor, call: Call) -> Tensor:
        if self.search == "sampled":
            return search.sampled(table, call.slots, self.limit, call.generator)
        return search.exact(table, call.slots)
