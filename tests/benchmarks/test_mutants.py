"""The faults that are put into the code: each changes one place, and nothing but it."""

from __future__ import annotations

import ast

from benchmarks.mutants import mutated, places

SOURCE = '''
def f(a: int = 3, *, b=True) -> "x":
    """Words: 1 < 2."""
    if a < 2 and not b:
        fail("f(a)", f"{a + 1}")
    return g(a - 1, strict=True, largest=b)
'''


def test_each_place_is_changed_alone() -> None:
    tree = ast.parse(SOURCE)
    made = {said: mutated(SOURCE, number, change) for number, _, said, change in places(tree)}
    plain = ast.unparse(tree)
    expected = {
        "Lt -> LtE": plain.replace("a < 2 and", "a <= 2 and"),
        "And -> Or": plain.replace("a < 2 and (not b)", "a < 2 or not b"),
        "not b -> not not b": plain.replace("(not b)", "(not not b)"),
        "Sub -> Add": plain.replace("a - 1", "a + 1"),
        "1 -> 2": plain.replace("a - 1", "a - 2"),
        "2 -> 3": plain.replace("a < 2 and", "a < 3 and"),
        "3 -> 4": plain.replace("=3", "=4"),
        "True -> False": plain.replace("b=True", "b=False"),
        "without largest=b": plain.replace(", largest=b", ""),
    }
    assert made == expected
