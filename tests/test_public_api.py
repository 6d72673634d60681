"""Public names, arguments and defaults stand in public_api.txt, one in a line; ``python -m tests.test_public_api`` writes it."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

SNAPSHOT = Path(__file__).with_name("public_api.txt")
MODULES = (
    "hvs_aug",
    "hvs_aug.analysis",
    "hvs_aug.data",
    "hvs_aug.integrations.kornia",
    "hvs_aug.integrations.lightly",
    "hvs_aug.integrations.lightly_train",
    "hvs_aug.integrations.lightning",
    "hvs_aug.integrations.stable_pretraining",
    "hvs_aug.ops",
    "hvs_aug.policies",
)


def test_public_names_and_defaults_are_those_of_the_snapshot() -> None:
    """A changed line breaks somebody's call: it belongs into the changelog."""
    expected = SNAPSHOT.read_text().splitlines()
    modules = {line.partition(":")[0] for line in expected}
    found = [line for name in MODULES for line in public_lines(name)]
    assert modules <= set(MODULES)
    imported = {line.partition(":")[0] for line in found}  # frameworks that are not installed are not compared
    expected = [line for line in expected if line.partition(":")[0] in imported]
    changes = [f"- {line}" for line in expected if line not in found] + [f"+ {line}" for line in found if line not in expected]
    assert not changes, "\n".join(
        ["the public names have changed; if that is meant, python -m tests.test_public_api writes them, and:", *changes]
    )


def public_lines(name: str) -> list[str]:
    """One line for each public name of a module, and for each public method of its classes; none if it cannot be imported."""
    try:
        module = importlib.import_module("hvs_aug.selection.policies" if name == "hvs_aug.policies" else name)
    except ImportError:
        return []
    if name != "hvs_aug":
        shown = vars(importlib.import_module("hvs_aug"))
        own = [public for public in module.__all__ if shown.get(public) is not getattr(module, public)]
    else:
        own = module.__all__
    return [f"{name}: {line}" for public in sorted(own) for line in _described(public, getattr(module, public))]


def _described(name: str, value: Any) -> Iterator[str]:
    if inspect.isclass(value):
        yield f"{name}{_signature(value)}"
        for attribute, member in sorted(vars(value).items()):
            if attribute == "__call__" or not attribute.startswith("_"):
                if isinstance(member, property):
                    yield f"{name}.{attribute}"
                elif callable(inner := getattr(member, "__func__", member)) and _is_own_function(inner):
                    yield f"{name}.{attribute}{_signature(inner)}"
    elif isinstance(value, ModuleType):
        yield name
    elif callable(value) and not hasattr(value, "__dataclass_fields__"):
        yield f"{name}{_signature(value)}"
    else:
        yield f"{name} = {_without_addresses(repr(value))}"


def _is_own_function(value: Any) -> bool:
    """Not a class, and not what a framework puts into its subclasses, as newer Kornia does with ``forward``."""
    return not inspect.isclass(value) and getattr(inspect.unwrap(value), "__module__", "").partition(".")[0] == "hvs_aug"


def _signature(value: Any) -> str:
    """The arguments and defaults, without types."""
    try:
        signature = inspect.signature(value)
    except ValueError:
        return "(...)"
    arguments = [_without_type(entry) for name, entry in signature.parameters.items() if name not in ("self", "cls")]
    return _without_addresses(str(signature.replace(parameters=arguments, return_annotation=inspect.Signature.empty)))


def _without_type(argument: inspect.Parameter) -> inspect.Parameter:
    default = argument.default
    if len(repr(default)) > 60:  # its own line tells the rest
        default = type(type(default).__name__, (), {"__repr__": lambda self: f"{type(self).__name__}(...)"})()
    return argument.replace(annotation=inspect.Parameter.empty, default=default)


def _without_addresses(text: str) -> str:
    return re.sub(r" at 0x[0-9a-f]+", "", text).replace("\n", " ")


if __name__ == "__main__":
    SNAPSHOT.write_text("".join(f"{line}\n" for name in MODULES for line in public_lines(name)))
