"""Draw the parameters of views: each operation from uniform numbers of its own."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from .._check import fail, require
from .._processes import is_distributed, rank
from ..ops.group import Group
from ..ops.operation import Operation, masked
from .params import ViewParams
from .recipe import ViewRecipe, ViewSlot

__all__ = ["OwnGenerator", "draw_slot", "identities", "own_generator"]

_numbers = itertools.count()


class OwnGenerator:
    """A CPU generator whose draws differ from those of every other module, rank, worker process and epoch of workers.

    It starts from ``torch.initial_seed()``, this process's rank, and the number of modules that were made before it; in a
    worker of a DataLoader from the seed that the loader gave that worker. Equal seeds and an equal order of construction give
    equal draws. The global random state is not touched.
    """

    def __init__(self) -> None:
        self._number = next(_numbers)
        self._process: tuple[int, int | None] | None = None
        self._generator: torch.Generator | None = None

    def get(self) -> torch.Generator:
        """The generator of this process."""
        worker = get_worker_info()
        process = (os.getpid(), None if worker is None else worker.seed)
        if self._generator is None or process != self._process:
            number = rank() if is_distributed() else int(os.environ.get("RANK", "0"))
            self._generator, self._process = seeded(torch.initial_seed(), number, self._number), process
        return self._generator

    def __getstate__(self) -> dict[str, Any]:
        """Its place in the stream, for a copy in this process or another; a forked worker starts anew all the same."""
        state = None if self._generator is None else self._generator.get_state()
        return {"number": self._number, "process": self._process, "state": state}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._number, self._process, self._generator = state["number"], state["process"], None
        if state["state"] is not None:
            self._generator = torch.Generator("cpu")
            self._generator.set_state(state["state"])


def own_generator() -> torch.Generator:
    """A new generator of :class:`OwnGenerator`."""
    return OwnGenerator().get()


def seeded(*values: int | str) -> torch.Generator:
    """A CPU generator whose seed depends on all of these values."""
    digest = hashlib.blake2b(repr(values).encode(), digest_size=8).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest, "little") >> 1)


def identities(slots: tuple[ViewSlot, ...]) -> dict[str, Tensor]:
    """What is recorded for the views of these slots: for each parameter, by name, its identity.

    Raises:
        HVSError: if two operations of one name draw different things.
    """
    found: dict[str, Tensor] = {}
    for slot in slots:
        for name, operation in slot.recipe.steps if isinstance(slot.recipe, ViewRecipe) else ():
            for key, value in operation.identity.items():
                known = found.setdefault(f"{name}.{key}", value)
                if known.shape != value.shape or known.dtype != value.dtype:
                    fail("CandidateViews(slots)", f"one operation of the name {name}", f"two that draw {key} otherwise")
    return found


def draw_slot(slot: ViewSlot, index: int, sizes: Tensor, generator: torch.Generator) -> ViewParams:
    """Draw the candidates of one slot for images of the given sizes.

    Every operation has its own stream of uniform numbers, which depends on its name. So changing, adding or removing one
    operation does not change the draws of the others.

    Shape: sizes ``(B, 2)`` int64, on the CPU -> ViewParams of ``slot.candidates`` views on the CPU.
    """
    recipe: ViewRecipe = slot.recipe
    shape = (slot.candidates, len(sizes))
    seed = int(torch.randint(2**62, (), generator=generator, device="cpu"))
    is_tied = slot.tie == "crop"

    def uniform(name: str, operation: Operation, columns: int) -> Tensor:
        rows = (1, shape[1]) if is_tied and _is_geometric(operation) else shape
        numbers = torch.rand(*rows, columns, generator=seeded(seed, name), dtype=torch.float32, device="cpu")
        return numbers.expand(*shape, columns) if rows != shape else numbers

    drawn: dict[str, Tensor] = {}

    def draw(operation: Operation, names: list[str], keep: Tensor | None) -> None:
        if isinstance(operation, Group):
            applied = operation.members_applied(uniform(f"{type(operation).__name__} of {names[0]}", operation, operation.columns))
            for member, members_keep in zip(operation.members, applied, strict=True):
                draw(member, names, members_keep if keep is None else members_keep & keep)
            return
        name = names.pop(0)
        prob = getattr(operation, "p", 1.0)
        if operation.identity:
            numbers = uniform(name, operation, operation.columns + 1)
            values = operation.draw(numbers[..., 1:], recipe.shape)
            _require_drawn(operation, values, shape)
            coin = numbers[..., 0] < prob if prob < 1 else None  # a draw is below 1, so a probability of 1 always applies
            if coin is not None:
                keep = coin if keep is None else coin & keep
            if keep is not None:
                values = masked(operation, values, keep)
            drawn.update({f"{name}.{key}": value for key, value in values.items()})

    for names, operation in recipe.named:
        draw(operation, list(names), None)
    boxes = recipe.crop.draw_boxes(uniform("RandomResizedCrop", recipe.crop, recipe.crop.columns), sizes)
    for name in recipe.early_flips:
        _mirror(boxes, drawn[f"{name}.applied"], sizes, axis=1 if name.startswith("RandomHorizontalFlip") else 0)
    return ViewParams(boxes, sizes, (index,) * slot.candidates, drawn=drawn)


def _is_geometric(operation: Operation) -> bool:
    members = operation.members if isinstance(operation, Group) else ()
    return operation.is_geometric or any(map(_is_geometric, members))


def _mirror(boxes: Tensor, applied: Tensor, sizes: Tensor, axis: int) -> None:
    """A box of a mirrored image, as the box of the image."""
    boxes[..., axis] = torch.where(applied, sizes[:, axis] - boxes[..., axis] - boxes[..., axis + 2], boxes[..., axis])


def _require_drawn(operation: Operation, values: Mapping[str, Tensor], shape: tuple[int, int]) -> None:
    call = f"{type(operation).__name__}.draw"
    expected_names = f"the parameters {sorted(operation.identity)}"
    require(isinstance(values, Mapping), call, expected_names, values)
    require(values.keys() == operation.identity.keys(), call, expected_names, f"{sorted(values)}")
    for name, identity in operation.identity.items():
        value, expected = values[name], (*shape, *identity.shape)
        fits = isinstance(value, Tensor) and value.shape == expected and value.dtype == identity.dtype
        require(fits, f"{call}, {name}", f"a {identity.dtype} tensor of shape {expected}, as identity says", value)
