"""What was read from a transform, in words, and what differs from the preset of that method: ``hvs-aug explain module:object``."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from .._check import fail, require_name
from ..views.convert import convert
from ..views.presets import PRESETS, preset_slots
from ..views.recipe import ViewRecipe, ViewSlot

__all__ = ["differences", "explain"]

_CALL = "explain(target)"
_CROP = ("size", "scale", "ratio", "interpolation")
# The fields of each operation after its probability.
_FIELDS: dict[str, tuple[str, ...]] = {
    "flip": (),
    "jitter": ("brightness", "contrast", "saturation", "hue"),
    "gray": (),
    "blur": ("blur_sigma", "blur_kernel"),
    "solarize": ("solarize_threshold",),
}


def explain(target: str, preset: str | None = None) -> str:
    """Import a transform, convert it, and describe its slots and their differences from a preset.

    Args:
        target: ``module:object``, where the object may be an attribute of one (``data:Views.train``) or a call with literal
            arguments (``main_dino:DataAugmentationDINO((0.4, 1.0), (0.05, 0.4), 8)``). The working directory is searched first.
        preset: the preset to compare with; by default the one with the fewest differences.

    Raises:
        HVSError: if the target cannot be imported or converted, or there is no such preset.
    """
    slots = convert(_load(target))
    size = max(slot.recipe.size for slot in slots)
    if preset is not None:
        require_name(preset, PRESETS, "explain(preset)")
    found = {name: differences(slots, preset_slots(name, size)) for name in ([preset] if preset is not None else PRESETS)}
    closest = min(found, key=lambda name: len(found[name]))
    words = f"preset {closest!r} at size {size}"
    lines = [line for slot in slots for line in _describe(slot)]
    lines += [f"no difference from {words}"] if not found[closest] else [f"{words} has:", *(f"  {line}" for line in found[closest])]
    return "\n".join(lines)


def differences(slots: Sequence[ViewSlot], others: Sequence[ViewSlot]) -> list[str]:
    """What the others have otherwise, one line for each field that has an effect.

    Example:
        >>> from dataclasses import replace
        >>> slots = preset_slots("simsiam")
        >>> differences(slots, [replace(slots[0], recipe=replace(slots[0].recipe, gray_prob=0.1))])
        ['view.gray_prob 0.1 instead of 0.2']
    """
    lines = [f"{slot.name}: no such slot" for slot in slots[len(others) :]]
    lines += [f"{line} beside these" for slot in others[len(slots) :] for line in _describe(slot)]
    for ours, theirs in zip(slots, others, strict=False):
        one, other = _effective(ours), _effective(theirs)
        for name in one | other:
            if name not in one:
                lines.append(f"{ours.name}.{name} {_text(other[name])}")
            elif name not in other:
                lines.append(f"{ours.name}: no {name}")
            elif not _alike(name, one[name], other[name]):
                lines.append(f"{ours.name}.{name} {_text(other[name])} instead of {_text(one[name])}")
    return lines


def _effective(slot: ViewSlot) -> dict[str, Any]:
    """The fields that have an effect: none of an operation that is never applied."""
    recipe: ViewRecipe = slot.recipe
    order = _drawn(recipe)
    names = [*_CROP, *(name for operation in order for name in (f"{operation}_prob", *_FIELDS[operation])), "mean", "std"]
    fields = {name: getattr(recipe, name) for name in names}
    return {"candidates": slot.candidates, "select": slot.select, **fields, "order": order}


def _drawn(recipe: ViewRecipe) -> tuple[str, ...]:
    return tuple(operation for operation in recipe.order if getattr(recipe, f"{operation}_prob") > 0)


def _alike(name: str, one: Any, other: Any) -> bool:
    if name == "solarize_threshold":  # the same grey levels are at or above it
        return bool(abs(one - other) <= 0.5 / 255 + 1e-9)
    return bool(one == other)


def _describe(slot: ViewSlot) -> list[str]:
    recipe: ViewRecipe = slot.recipe
    lines = [f"{slot.name}: draw {slot.candidates}, keep {slot.select}", f"  crop: {_fields(recipe, _CROP)}"]
    for operation in _drawn(recipe):
        more = _fields(recipe, _FIELDS[operation])
        lines.append(f"  {operation}: probability {getattr(recipe, f'{operation}_prob'):g}" + (f", {more}" if more else ""))
    return [*lines, f"  normalize: {_fields(recipe, ('mean', 'std'))}" if recipe.mean is not None else "  not normalized"]


def _fields(recipe: ViewRecipe, names: Sequence[str]) -> str:
    return ", ".join(f"{name.split('_')[-1]} {_text(getattr(recipe, name))}" for name in names)


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_text, value))})"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _load(target: str) -> Any:
    name, _, expression = target.partition(":")
    if not name or not expression:
        fail(_CALL, "module:object", repr(target), "for example main_dino:DataAugmentationDINO((0.4, 1.0), (0.05, 0.4), 8)")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        fail(_CALL, "a module that can be imported", f"{name!r}: {error}", "run it in the folder of that module.")
    try:
        found = _evaluate(ast.parse(expression.strip(), mode="eval").body, vars(module))
    except (SyntaxError, ValueError, AttributeError, KeyError, TypeError) as error:
        fail(_CALL, f"an object of {name}, or a call with literal arguments that makes one", f"{expression!r}: {error}")
    if isinstance(found, type) or type(found).__name__ == "function":
        fail(_CALL, "a transform", f"{expression!r}, which makes one", f"write the call: {name}:{expression}(arguments)")
    return found


def _evaluate(node: ast.expr, names: Mapping[str, Any]) -> Any:
    """A name, an attribute, or a call of one with literal arguments; nothing else is run."""
    if isinstance(node, ast.Name):
        return names[node.id]
    if isinstance(node, ast.Attribute):
        return getattr(_evaluate(node.value, names), node.attr)
    if isinstance(node, ast.Call):
        arguments = [ast.literal_eval(argument) for argument in node.args]
        return _evaluate(node.func, names)(*arguments, **{str(word.arg): ast.literal_eval(word.value) for word in node.keywords})
    raise ValueError("neither a name, nor an attribute, nor a call")
