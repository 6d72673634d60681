"""ViewRecipe, the augmentation of one view as plain data, and ViewSlot, which draws several candidates of one recipe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from typing import Any, Literal

from .._check import describe, fail, require, require_name
from ..ops import CenterCrop, Operation, RandomHorizontalFlip, RandomResizedCrop, RandomVerticalFlip, Resize
from ..ops.crop import view_size
from ..ops.group import Group
from ..ops.plan import RenderPlan

__all__ = ["ViewRecipe", "ViewSlot"]

_FLIPS = (RandomHorizontalFlip, RandomVerticalFlip)
_PREPARE = (Resize, CenterCrop)


@dataclass(frozen=True, repr=False)
class ViewRecipe:
    """One view's augmentation: its size, and the operations that make it, in their order.

    A :class:`hvs_aug.ops.RandomResizedCrop` comes first; only ``Resize``, ``CenterCrop`` and flips may stand before it.
    ``Normalize`` comes last; only ``RandomErasing``, flips and ``RandomRotation`` may follow it. Between them any operation may
    stand, any number of times.

    Attributes:
        size: of the view in pixels, one number for a square or (height, width).
        operations: of :mod:`hvs_aug.ops`, or your own. An empty list means a crop with torchvision's defaults.

    Raises:
        HVSError: if there is no crop, or an operation is in a place where it is not possible.

    Example:
        >>> from hvs_aug import ops
        >>> recipe = ViewRecipe(32, [ops.RandomResizedCrop(scale=(0.2, 1.0)), ops.RandomGrayscale(p=0.2), ops.GaussianBlur(5)])
        >>> recipe.replace(ops.GaussianBlur, p=0.5).without(ops.RandomGrayscale)
        ViewRecipe(32, [RandomResizedCrop(scale=(0.2, 1)), GaussianBlur(kernel_size=5, p=0.5)])
    """

    size: int | tuple[int, int]
    operations: Sequence[Operation] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", view_size(self.size, "ViewRecipe(size)"))
        given = self.operations
        require(isinstance(given, (list, tuple)), "ViewRecipe(operations)", "a list of operations", describe(given))
        for operation in given:
            hint = "operations are in hvs_aug.ops; hvs_aug.convert reads those of torchvision."
            require(
                isinstance(operation, Operation), "ViewRecipe(operations)", "operations of hvs_aug.ops", describe(operation), hint
            )
        operations = [self._sized(operation) for operation in given or (RandomResizedCrop(),)]
        object.__setattr__(self, "operations", tuple(operations))
        crops = [place for place, operation in enumerate(operations) if isinstance(operation, RandomResizedCrop)]
        hint = "RandomResizedCrop(scale=(1, 1), ratio=(1, 1)) takes all of a square image."
        require(len(crops) == 1, "ViewRecipe(operations)", "one RandomResizedCrop", f"{len(crops)}", hint)
        has_flip = False
        for operation in operations[: crops[0]]:
            if not isinstance(operation, (*_PREPARE, *_FLIPS)):
                fail("ViewRecipe(operations)", "only Resize, CenterCrop and flips before the crop", operation)
            has_flip = has_flip or isinstance(operation, _FLIPS)
            if has_flip and isinstance(operation, CenterCrop):
                # The middle of an image with an odd margin is another one after a flip.
                fail("ViewRecipe(operations)", "every CenterCrop before the first flip", operation)
        is_normalized = False
        for operation in operations[crops[0] + 1 :]:
            if isinstance(operation, _PREPARE):
                fail("ViewRecipe(operations)", "Resize and CenterCrop before the RandomResizedCrop", operation)
            for member in _leaves(operation):
                if is_normalized and member.needs_unit_range:
                    fail("ViewRecipe(operations)", "Normalize after all operations that need values in [0, 1]", member)
            is_normalized = is_normalized or type(operation).__name__ == "Normalize"
            for member in _leaves(operation):
                if hasattr(member, "require_size"):
                    member.require_size(self.shape)

    def _sized(self, operation: Operation) -> Operation:
        """A crop takes the size of the recipe, and no other."""
        if not isinstance(operation, RandomResizedCrop) or operation.size is None:
            return operation
        if operation.size != self.size:
            fail("RandomResizedCrop(size)", f"the recipe's size, {self.size}, or none", operation.size)
        return replace(operation, size=None)

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the view in pixels."""
        return self.size if isinstance(self.size, tuple) else (self.size, self.size)

    @cached_property
    def crop(self) -> RandomResizedCrop:
        """The crop among the operations."""
        return next(operation for operation in self.operations if isinstance(operation, RandomResizedCrop))

    @cached_property
    def prepares(self) -> tuple[Resize | CenterCrop, ...]:
        """What is done to every image before it is cropped."""
        return tuple(operation for operation in self.operations if isinstance(operation, _PREPARE))

    @cached_property
    def named(self) -> tuple[tuple[tuple[str, ...], Operation], ...]:
        """Every operation except the crop, Resize and CenterCrop, with its name, or the names of a group's members.

        A name is the operation's class, and for a second one of that class ``ColorJitter-2``. Flips before the crop are included.
        """
        counts: dict[str, int] = {}

        def name(operation: Operation) -> str:
            kind = type(operation).__name__
            counts[kind] = counts.get(kind, 0) + 1
            return kind if counts[kind] == 1 else f"{kind}-{counts[kind]}"

        others = [op for op in self.operations if not isinstance(op, (RandomResizedCrop, *_PREPARE))]
        return tuple((tuple(name(leaf) for leaf in _leaves(operation)), operation) for operation in others)

    @cached_property
    def steps(self) -> tuple[tuple[str, Operation], ...]:
        """The operations after the crop as they are applied, groups taken apart, each with the name of what it draws."""
        return tuple(step for names, operation in self.named for step in zip(names, _leaves(operation), strict=True))

    @cached_property
    def early_flips(self) -> tuple[str, ...]:
        """The names of the flips that stand before the crop."""
        before = self.operations[: self.operations.index(self.crop)]
        return tuple(names[0] for (names, _), _ in zip(self.named, [op for op in before if isinstance(op, _FLIPS)], strict=False))

    def plan(self, scale: float = 1.0) -> RenderPlan:
        """What a renderer does at a fraction of the size."""
        return _plan(self, scale)

    def require_channels(self, channels: int) -> None:
        """Fail if images of this many channels do not define an operation."""
        for _, operation in self.steps:
            operation.require_channels(channels)

    def replace(self, kind: type[Operation], **changes: Any) -> ViewRecipe:
        """A copy of the recipe in which the operations of one class have other fields, also those inside groups.

        Raises:
            HVSError: if it has no such operation, or the class no such field.
        """
        call = f"ViewRecipe.replace({kind.__name__})"
        for field in changes:
            require_name(field, [entry.name for entry in fields(kind)], call)  # type: ignore[arg-type]

        def changed(operation: Operation) -> Operation:
            if isinstance(operation, Group) and not issubclass(kind, type(operation)):
                return _with(operation, transforms=[changed(member) for member in operation.members])
            return _with(operation, **changes) if type(operation) is kind else operation

        self._require_one_of(kind, call)
        return replace(self, operations=tuple(map(changed, self.operations)))

    def without(self, kind: type[Operation]) -> ViewRecipe:
        """A copy of the recipe without the operations of one class. A group that would be empty is removed, too.

        Raises:
            HVSError: if it has no such operation.
        """
        self._require_one_of(kind, f"ViewRecipe.without({kind.__name__})")

        def kept(operations: Sequence[Operation]) -> list[Operation]:
            left: list[Operation] = []
            for operation in operations:
                if isinstance(operation, Group) and type(operation) is not kind:
                    members = kept(operation.members)
                    left += [_with(operation, transforms=members)] if members else []
                elif type(operation) is not kind:
                    left.append(operation)
            return left

        return replace(self, operations=tuple(kept(self.operations)))

    def find(self, kind: type[Operation]) -> Operation | None:
        """The first operation of a class, also inside a group; ``None`` where there is none."""
        return next((found for operation in self.operations for found in _walk(operation) if type(found) is kind), None)

    def torchvision_operations(self) -> list[tuple[Operation, str]]:
        """The operations, the crop with its size, each with the line that a user of torchvision.transforms.v2 would write."""
        operations = [replace(op, size=self.size) if isinstance(op, RandomResizedCrop) else op for op in self.operations]
        return [(operation, operation.torchvision_name()) for operation in operations]

    def torchvision_lines(self) -> list[str]:
        """The recipe as the lines that a user of torchvision.transforms.v2 would write in a Compose; floats after the crop."""
        lines = [line for _, line in self.torchvision_operations()]
        place = self.operations.index(self.crop) + 1
        return [*lines[:place], "v2.ToImage()", "v2.ToDtype(torch.float32, scale=True)", *lines[place:]]

    def __repr__(self) -> str:
        return f"ViewRecipe({self.size}, {list(self.operations)})"

    def _require_one_of(self, kind: type[Operation], call: str) -> None:
        found = sorted({type(found).__name__ for operation in self.operations for found in _walk(operation)})
        require(self.find(kind) is not None, call, f"an operation of the recipe: {', '.join(found)}", kind.__name__)


def _with(operation: Any, **changes: Any) -> Operation:
    """``dataclasses.replace`` of an operation, which is a dataclass wherever it can be made."""
    changed: Operation = replace(operation, **changes)
    return changed


def _leaves(operation: Operation) -> Iterator[Operation]:
    """The operation, or the members of a group, of groups within it too."""
    if isinstance(operation, Group):
        for member in operation.members:
            yield from _leaves(member)
    else:
        yield operation


def _walk(operation: Operation) -> Iterator[Operation]:
    yield operation
    if isinstance(operation, Group):
        for member in operation.members:
            yield from _walk(member)


@lru_cache(maxsize=256)
def _plan(recipe: ViewRecipe, scale: float) -> RenderPlan:
    height, width = (max(1, round(side * scale)) for side in recipe.shape)
    return RenderPlan.of(recipe.crop, recipe.steps, (height, width), scale)


@dataclass(frozen=True)
class ViewSlot:
    """Draw ``candidates`` views of one recipe, keep ``select`` of them.

    SimCLR is one slot (4 choose 2); DINO is three: global-1 (2 choose 1), global-2 (2 choose 1), local (16 choose 8).

    Attributes:
        recipe: a :class:`ViewRecipe`, or a Kornia pipeline (see :class:`hvs_aug.views.kornia_pipeline.KorniaPipeline`).
        candidates: how many views are drawn for each image.
        select: how many of them are kept.
        name: what reports call it.
        role: ``"global"`` for views that a teacher sees and that are compared with all others, ``"local"`` for those that are
            compared with globals only (DINO's small crops).
        tie: ``"crop"`` gives all candidates of the slot the same box, flips and rotation, with colours of their own
            (asked for in vturrisi/solo-learn#178).

    Raises:
        HVSError: if fewer candidates are drawn than kept.
    """

    recipe: Any
    candidates: int = 4
    select: int = 2
    name: str = "view"
    role: Literal["global", "local"] = "global"
    tie: Literal["crop"] | None = None

    def __post_init__(self) -> None:
        require(isinstance(self.select, int) and self.select >= 1, "ViewSlot(select)", "an integer of at least 1", self.select)
        require(
            isinstance(self.candidates, int) and self.candidates >= self.select,
            "ViewSlot(candidates)",
            f"at least the {self.select} views that are selected",
            self.candidates,
            "draw more candidates, or select fewer.",
        )
        require_name(self.role, ("global", "local"), "ViewSlot(role)")
        if self.tie is not None:
            require_name(self.tie, ("crop",), "ViewSlot(tie)")
