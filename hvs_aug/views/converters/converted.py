"""What a converter returns, and how it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from ..._check import fail
from ...ops import Operation

__all__ = ["CALL", "Converted", "name_of", "refuse"]

Converted: TypeAlias = "Operation | Sequence[Any]"
"""An operation, or operations and transforms that are read in turn."""

CALL = "convert(transform)"


def refuse(expected: str, transform: Any, hint: str | None = None) -> None:
    fail(CALL, expected, name_of(transform), hint)


def name_of(transform: Any) -> str:
    text = " ".join(repr(transform).split())
    plain = text.startswith("<") or not text.startswith(type(transform).__name__)
    name = getattr(transform, "__qualname__", type(transform).__name__) if plain else text
    return name if len(name) <= 120 else f"{name[:117]}..."
