"""Whether the tests would notice: small faults put into hvs_aug/selection one at a time, and how many of them the suite finds.

    python -m benchmarks.mutants [--quick] [--count 100] [--seed 0] [--files search policies] [--out FILE]

Method: of all places where a comparison, an operator, a number, a truth value, a `not` or a named argument can be changed,
``count`` are drawn with a seed. Each changed file stands in a copy of the repository, in which the tests that mirror the file run
first, then those of the whole folder. A mutant is killed if a test fails or no end is reached. Left out are places where a change
is none: annotations, ``__all__``, the wording of messages, and named arguments that say only how a copy is made (``non_blocking``,
``device="cpu"``), how a warning is shown or how much a cache holds. No time is measured: the machine need not be quiet.
"""

from __future__ import annotations

import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.common import ROOT, arguments, require, table, write

FOLDER = Path("hvs_aug/selection")
LIMIT = 300
"""Seconds after which a mutant counts as killed, since no test takes as long."""
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


def mutations(node: ast.AST) -> Iterator[tuple[str, Any]]:
    """The ways to change one node: what is said of it, and a function that changes it in place."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in SWAPS:
        yield from _swap(node, "ops", node.ops[0])
    elif (isinstance(node, (ast.BinOp, ast.AugAssign)) and type(node.op) in SWAPS) or isinstance(node, ast.BoolOp):
        yield from _swap(node, "op", node.op)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        doubled = ast.UnaryOp(ast.Not(), node.operand)
        yield f"{ast.unparse(node)} -> not {ast.unparse(node)}", lambda changed: setattr(changed, "operand", doubled)
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield f"{node.value} -> {not node.value}", lambda changed: setattr(changed, "value", not changed.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int):
        yield f"{node.value} -> {node.value + 1}", lambda changed: setattr(changed, "value", changed.value + 1)
    elif isinstance(node, ast.Call):
        for place, word in enumerate(node.keywords):
            if word.arg is not None and word.arg not in SAME:
                yield f"without {ast.unparse(word)}", lambda changed, place=place: changed.keywords.pop(place)


def _swap(node: ast.AST, field: str, operator: ast.AST) -> Iterator[tuple[str, Any]]:
    other = SWAPS[type(operator)]
    new: Any = [other()] if field == "ops" else other()
    yield f"{type(operator).__name__} -> {other.__name__}", lambda changed: setattr(changed, field, new)


def places(tree: ast.Module) -> list[tuple[int, int, str, Any]]:
    """All mutations of a file: the node's number, its line, what is said, and the change."""
    left_out: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Raise, ast.JoinedStr)) or _is_message(node) or _is_all(node):
            left_out |= {id(inner) for inner in ast.walk(node)}
        if isinstance(node, (ast.arg, ast.AnnAssign)) and node.annotation is not None:
            left_out |= {id(inner) for inner in ast.walk(node.annotation)}
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.returns is not None:
            left_out |= {id(inner) for inner in ast.walk(node.returns)}
        if isinstance(node, ast.keyword) and node.arg in SAME:
            left_out |= {id(inner) for inner in ast.walk(node)}
    found = []
    for number, node in enumerate(ast.walk(tree)):
        if id(node) not in left_out:
            found += [(number, getattr(node, "lineno", 0), said, change) for said, change in mutations(node)]
    return found


def _is_message(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "fail"


def _is_all(node: ast.AST) -> bool:
    return isinstance(node, ast.Assign) and any(isinstance(name, ast.Name) and name.id == "__all__" for name in node.targets)


def mutated(source: str, number: int, change: Any) -> str:
    """The source with the change made to the node of that number."""
    tree = ast.parse(source)
    change(list(ast.walk(tree))[number])
    return ast.unparse(ast.fix_missing_locations(tree))


def tests_of(file: Path, root: Path) -> list[list[str]]:
    """The tests to run: first those that mirror the file, then the folder's."""
    folder = root / "tests" / "selection"
    own = sorted(str(path.relative_to(root)) for path in folder.glob(f"test_{file.stem}*.py"))
    rest = sorted(str(path.relative_to(root)) for path in folder.glob("test_*.py"))
    return [run for run in (own, [name for name in rest if name not in own]) if run]


def is_killed(root: Path, file: Path) -> bool:
    """Whether the tests in this copy fail, or do not end."""
    # No compiled files: two mutants of one file may have the same size and be written in the same second.
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    for names in tests_of(file, root):
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *names]
        try:
            done = subprocess.run(command, cwd=root, env=environment, capture_output=True, timeout=LIMIT, check=False)
        except subprocess.TimeoutExpired:
            return True
        if done.returncode not in (0, 1, 2):
            require(False, "mutants", "pytest to run", done.stdout.decode()[-500:])
        if done.returncode != 0:
            return True
    return False


def main(words: Sequence[str] | None = None) -> None:
    parser = arguments("mutants", __doc__)
    parser.add_argument("--count", type=int, default=100, help="how many mutants are drawn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--files", nargs="+", help="of these files of the folder alone, by name")
    options = parser.parse_args(words)
    files = sorted(path.relative_to(ROOT) for path in (ROOT / FOLDER).rglob("*.py") if path.name != "__init__.py")
    files = [file for file in files if options.files is None or file.stem in options.files]
    every = [(file, *place) for file in files for place in places(ast.parse((ROOT / file).read_text()))]
    drawn = random.Random(options.seed).sample(every, min(4 if options.quick else options.count, len(every)))
    settings = {"seed": options.seed, "places": len(every), "files": [file.name for file in files]}
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in ("hvs_aug", "tests", "benchmarks"):
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
        for name in ("pyproject.toml", "setup.cfg"):
            shutil.copy(ROOT / name, root / name)
        for file, number, line, said, change in tqdm(drawn, unit="mutant"):
            source = (ROOT / file).read_text()
            (root / file).write_text(mutated(source, number, change))
            killed = is_killed(root, file)
            (root / file).write_text(source)
            rows.append({"file": str(file), "line": line, "mutation": said, "killed": killed})
            if not killed:
                tqdm.write(f"survived: {file}:{line} {said}")
    killed = sum(row["killed"] for row in rows)
    write("mutants", settings, rows, {"mutants": len(rows), "killed_share": killed / len(rows)}, options.out)
    print(table([row for row in rows if not row["killed"]], ["file", "line", "mutation"]))
    print(f"killed {killed} of {len(rows)}")


if __name__ == "__main__":
    main()
