"""A transform by the name of its module: ``module:object``."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Mapping
from typing import Any

from .._check import fail

__all__ = ["load_transform"]


def load_transform(target: str, call: str) -> Any:
    """Import a transform; the working directory is searched first.

    Args:
        target: ``module:object``, where the object may be an attribute of one (``data:Views.train``) or a call with literal
            arguments (``main_dino:DataAugmentationDINO((0.4, 1.0), (0.05, 0.4), 8)``).
        call: names the argument in an error.

    Raises: HVSError if there is no such module or object, or it is a class or a function, which is to be called.
    """
    name, _, expression = target.partition(":")
    if not name or not expression:
        fail(call, "module:object", repr(target), "for example main_dino:DataAugmentationDINO((0.4, 1.0), (0.05, 0.4), 8)")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        fail(call, "a module that can be imported", f"{name!r}: {error}", "run it in the folder of that module.")
    try:
        found = _evaluate(ast.parse(expression.strip(), mode="eval").body, vars(module))
    except (SyntaxError, ValueError, AttributeError, KeyError, TypeError) as error:
        fail(call, f"an object of {name}, or a call with literal arguments that makes one", f"{expression!r}: {error}")
    if isinstance(found, type) or type(found).__name__ == "function":
        fail(call, "a transform", f"{expression!r}, which makes one", f"write the call: {name}:{expression}(arguments)")
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
