"""``hvs-aug explain``: how a transform was converted, as torchvision lines, and what differs from a preset."""

from __future__ import annotations

import runpy
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from .._check import require, require_name
from ..views.convert import convert
from ..views.presets import PRESETS, preset_slots
from ..views.recipe import ViewRecipe, ViewSlot
from ..views.target import load_transform

__all__ = ["differences", "explain"]

_CALL = "explain(target)"
_NONE = "none"


def explain(target: str, preset: str | None = None, register: str | Path | None = None) -> str:
    """Import a transform, convert it, and print its slots as torchvision's lines, and what differs from a preset in two columns.

    Args:
        target: ``module:object``, where the object may be an attribute of one (``data:Views.train``) or a call with literal
            arguments (``main_dino:DataAugmentationDINO((0.4, 1.0), (0.05, 0.4), 8)``). The working directory is searched first.
        preset: the preset to compare with; by default the one with the fewest differences.
        register: a Python file that is run first, and calls :func:`hvs_aug.register_converter` for transforms of your own.

    Raises:
        HVSError: if the target cannot be imported or converted, if there is no such preset, or no such file.
    """
    if register is not None:
        require(Path(register).is_file(), "explain(register)", "a Python file", str(register))
        runpy.run_path(str(register))
    slots = convert(load_transform(target, _CALL))
    size = max(side for slot in slots for side in slot.recipe.shape)
    if preset is not None:
        require_name(preset, PRESETS, "explain(preset)")
    found = {name: differences(slots, preset_slots(name, size)) for name in ([preset] if preset is not None else PRESETS)}
    closest = min(found, key=lambda name: len(found[name]))
    lines = []
    for slot in slots:
        lines += [f"{slot.name}: {_counts(slot)}", *(f"  {line}" for line in slot.recipe.torchvision_lines())]
    words = f"preset {closest!r} at size {size}"
    return "\n".join([*lines, *(_table(found[closest], words) or [f"no difference from {words}"])])


def differences(slots: Sequence[ViewSlot], others: Sequence[ViewSlot]) -> list[tuple[str, str, str]]:
    """The differences as (slot, ours, theirs): a row for each operation that only one has, or that has different arguments.

    Example:
        >>> from dataclasses import replace
        >>> from hvs_aug.ops import RandomGrayscale
        >>> slots = preset_slots("simsiam")
        >>> differences(slots, [replace(slots[0], recipe=slots[0].recipe.replace(RandomGrayscale, p=0.2))])
        []
        >>> differences(slots, [replace(slots[0], recipe=slots[0].recipe.replace(RandomGrayscale, p=0.3))])
        [('view', 'v2.RandomGrayscale(p=0.2)', 'v2.RandomGrayscale(p=0.3)')]
    """
    rows: list[tuple[str, str, str]] = []
    for ours, theirs in zip_longest(slots, others):
        if ours is None or theirs is None:
            there = ours or theirs
            summary = f"{_counts(there)} at {there.recipe.size} px"
            rows.append((there.name, _NONE, summary) if ours is None else (there.name, summary, _NONE))
            continue
        if _counts(ours) != _counts(theirs):
            rows.append((ours.name, _counts(ours), _counts(theirs)))
        one, other = _lines_by_name(ours.recipe), _lines_by_name(theirs.recipe)
        for name in dict.fromkeys([*one, *other]):
            if one.get(name) != other.get(name):
                rows.append((ours.name, one.get(name, _NONE), other.get(name, _NONE)))
        orders = [[name for name in names if name in one and name in other] for names in (one, other)]
        if orders[0] != orders[1]:
            first, second = (f"order: {', '.join(order)}" for order in orders)
            rows.append((ours.name, first, second))
    return rows


def _counts(slot: ViewSlot) -> str:
    return f"draw {slot.candidates}, keep {slot.select}"


def _lines_by_name(recipe: ViewRecipe) -> dict[str, str]:
    """The line of each operation, by its class; a second one of a class is numbered."""
    found: dict[str, str] = {}
    for operation, line in recipe.torchvision_operations():
        name = type(operation).__name__
        while name in found:
            kind, _, number = name.partition("-")
            name = f"{kind}-{int(number or 1) + 1}"
        found[name] = line
    return found


def _table(rows: Sequence[tuple[str, str, str]], preset: str) -> list[str]:
    """Two columns, yours and the preset's, under the name of each slot."""
    if not rows:
        return []
    width = max(len("yours"), *(len(ours) for _, ours, _ in rows))
    lines = [f"{preset} differs in:", f"  {'yours'.ljust(width)}  the preset's"]
    slot = None
    for name, ours, theirs in rows:
        if name != slot:
            lines.append(f" {name}")
            slot = name
        lines.append(f"  {ours.ljust(width)}  {theirs}")
    return lines
