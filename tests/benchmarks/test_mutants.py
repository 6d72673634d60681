"""The faults that are put into the code: each changes one place, and nothing but it."""

from __future__ import annotations

import ast
from pathlib import Path

from benchmarks.mutants import chosen_tests, summary
from benchmarks.mutations import Place, mutated, places

FILE = Path("hvs_aug/selection/search.py")
SOURCE = '''
def f(a: int = 3, *, b=True) -> "x":
    """Words: 1 < 2."""
    if a < 2 and not b:
        fail("f(a)", f"{a + 1}")
    return g(a - 1, strict=True, largest=b)

@gpu_kernel(mean_of=f)
def h(pixel):
    return pixel + 5
'''


def test_each_place_is_changed_alone() -> None:
    tree = ast.parse(SOURCE)
    made = {place.mutation: mutated(SOURCE, place) for place in places(FILE, SOURCE)}
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


def place_of(mutation: str) -> Place:
    return next(place for place in places(FILE, SOURCE) if place.mutation == mutation)


def test_values_beside_kernels_are_compiled_into_them() -> None:
    source = "LIMIT = 4\n\n@cpu_kernel\ndef f(a):\n    return a < LIMIT\n\ndef g(a):\n    return a + 1\n"
    found = {place.mutation: place.is_compiled for place in places(Path("hvs_aug/ops/crop.py"), source)}
    assert found == {"4 -> 5": True, "Lt -> LtE": True, "Add -> Sub": False, "1 -> 2": False}
    assert not any(place.is_compiled for place in places(FILE, "LIMIT = 4\n"))


def test_a_place_is_known_by_its_line_of_code_and_not_by_its_number() -> None:
    moved = places(FILE, "# one line more\n" + SOURCE.replace("b=True", "b=False"))
    assert {place.key for place in moved} - {place.key for place in places(FILE, SOURCE)} == {
        (str(FILE), 'def f(a: int = 3, *, b=False) -> "x":', "False -> True", 0),
        (str(FILE), 'def f(a: int = 3, *, b=False) -> "x":', "3 -> 4", 0),
    }


def test_the_tests_that_run_the_line_start_and_those_of_the_file_come_first() -> None:
    lines = {"2": [], "4": ["tests/test_other.py::quick", "tests/test_search.py::slow"], "6": ["tests/test_other.py::slow"]}
    seconds = {"tests/test_other.py::quick": 0.1, "tests/test_search.py::slow": 2.0, "tests/test_other.py::slow": 3.0}
    runs = [{"seconds": seconds | {"tests/test_third.py::never": 1.0}, "lines": {str(FILE): lines}}]
    assert chosen_tests(place_of("And -> Or"), runs) == (["tests/test_search.py::slow", "tests/test_other.py::quick"], 2.1)
    assert chosen_tests(place_of("3 -> 4"), runs)[0] == ["tests/test_search.py::slow", *sorted(seconds)[:2]]
    runs[0]["lines"] = {}
    assert len(chosen_tests(place_of("3 -> 4"), runs)[0]) == 1  # of no line anything is known, so all tests of the file's name


def test_a_mutant_like_the_original_counts_neither_way() -> None:
    def row(group: str, killed: bool, equivalent: str | None = None) -> dict[str, object]:
        return {"group": group, "killed": killed, "equivalent": equivalent}

    rows = [row("ops", True), row("ops", False), row("ops", False, "the same"), row("views", True)]
    assert summary(rows) == {"mutants": 4, "equivalent": 1, "killed_share": 2 / 3, "ops": 0.5, "views": 1}
