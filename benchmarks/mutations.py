"""Where and how the code can be changed a little: the faults that ``python -m benchmarks.mutants`` puts into it."""

from __future__ import annotations

import ast
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Place", "mutated", "places"]

SAME = {"non_blocking", "device", "stacklevel", "maxsize", "strict", "cache_enabled", "hint", "memory_format"}
"""Named arguments whose change is none on a CPU."""
SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
COMPILED = {"cpu_kernel", "inlined", "inlined_in_order"}
"""Decorators of functions that numba compiles."""
ON_A_GPU = {"gpu_kernel", "device_function", "launched"}
"""Decorators of functions that Triton compiles, which without a GPU only its interpreter runs."""


@dataclass(frozen=True)
class Place:
    """One node of a file, and one way to change it.

    ``source`` is the line of code, without its indent; ``occurrence`` counts equal changes of equal lines. ``statement`` is the
    first and last line of the innermost statement around it, of a compound statement its head. ``is_compiled`` says whether numba
    compiles the function that it stands in, so that no line of it is seen to run, or a value beside such functions into them.
    """

    file: Path
    number: int
    line: int
    source: str
    mutation: str
    occurrence: int
    statement: tuple[int, int]
    is_compiled: bool
    change: Callable[[Any], None]

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What stays the same while other lines of the file change."""
        return str(self.file), self.source, self.mutation, self.occurrence

    def rank(self, seed: int) -> str:
        """The place among others in a random order, in which one that comes or goes moves no other."""
        return hashlib.sha256(repr((seed, *self.key)).encode()).hexdigest()


def places(file: Path, source: str) -> list[Place]:
    """All mutations of a file."""
    tree = ast.parse(source)
    left_out = _without_effect(tree)
    statements: dict[int, tuple[int, int]] = {}
    compiled: set[int] = set()
    for node in ast.walk(tree):  # from outside to inside
        if isinstance(node, ast.FunctionDef) and _is_compiled(node):
            compiled |= {id(inner) for inner in ast.walk(node)}
        if isinstance(node, ast.stmt):
            statements |= dict.fromkeys(map(id, ast.walk(node)), _head(node))
    if compiled:
        values = (statement for statement in tree.body if isinstance(statement, ast.Assign))
        compiled |= {id(inner) for statement in values for inner in ast.walk(statement)}
    lines = source.splitlines()
    found: list[Place] = []
    seen: Counter[tuple[str, str]] = Counter()
    for number, node in enumerate(ast.walk(tree)):
        if id(node) in left_out:
            continue
        for mutation, change in _mutations(node):
            line = getattr(node, "lineno", 0)
            text = lines[line - 1].strip()
            place = (seen[text, mutation], statements[id(node)], id(node) in compiled)
            found.append(Place(file, number, line, text, mutation, *place, change))
            seen[text, mutation] += 1
    return found


def mutated(source: str, place: Place) -> str:
    """The source with the change made."""
    tree = ast.parse(source)
    place.change(list(ast.walk(tree))[place.number])
    return ast.unparse(ast.fix_missing_locations(tree))


def _mutations(node: ast.AST) -> Iterator[tuple[str, Callable[[Any], None]]]:
    """The ways to change one node: what is said of it, and a function that changes it in place."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in SWAPS:
        yield _swap("ops", node.ops[0])
    elif (isinstance(node, (ast.BinOp, ast.AugAssign)) and type(node.op) in SWAPS) or isinstance(node, ast.BoolOp):
        yield _swap("op", node.op)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        doubled = ast.UnaryOp(ast.Not(), node.operand)
        yield f"{ast.unparse(node)} -> not {ast.unparse(node)}", lambda changed: setattr(changed, "operand", doubled)
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield f"{node.value} -> {not node.value}", lambda changed: setattr(changed, "value", not changed.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        yield f"{node.value} -> {node.value + 1}", lambda changed: setattr(changed, "value", changed.value + 1)
    elif isinstance(node, ast.Call):
        for place, word in enumerate(node.keywords):
            if word.arg is not None and word.arg not in SAME:
                yield f"without {ast.unparse(word)}", lambda changed, place=place: changed.keywords.pop(place)


def _swap(field: str, operator: ast.AST) -> tuple[str, Callable[[Any], None]]:
    other = SWAPS[type(operator)]
    new: Any = [other()] if field == "ops" else other()
    return f"{type(operator).__name__} -> {other.__name__}", lambda changed: setattr(changed, field, new)


def _without_effect(tree: ast.Module) -> set[int]:
    """The nodes left out: annotations, ``__all__``, the wording of messages, the arguments of :data:`SAME`, and GPU kernels."""
    found: set[int] = set()

    def add(nodes: Iterable[ast.AST | None]) -> None:
        found.update(id(inner) for node in nodes if node is not None for inner in ast.walk(node))

    for node in ast.walk(tree):
        if isinstance(node, (ast.Raise, ast.JoinedStr)) or _is_message(node) or _is_all(node):
            add([node])
        if isinstance(node, (ast.arg, ast.AnnAssign)):
            add([node.annotation])
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            add([node if _decorators(node) & ON_A_GPU else node.returns])
        if isinstance(node, ast.keyword) and node.arg in SAME:
            add([node])
    return found


def _is_message(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "fail"


def _is_all(node: ast.AST) -> bool:
    return isinstance(node, ast.Assign) and any(isinstance(name, ast.Name) and name.id == "__all__" for name in node.targets)


def _is_compiled(function: ast.FunctionDef) -> bool:
    return bool(_decorators(function) & COMPILED) or function.name == "_walk_views"


def _decorators(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    called = [entry.func if isinstance(entry, ast.Call) else entry for entry in function.decorator_list]
    return {entry.id for entry in called if isinstance(entry, ast.Name)}


def _head(statement: ast.stmt) -> tuple[int, int]:
    """The lines of a statement, of a compound one those before its body."""
    body = getattr(statement, "body", None)
    last = statement.end_lineno or statement.lineno
    return statement.lineno, max(statement.lineno, body[0].lineno - 1) if isinstance(body, list) and body else last
