"""Whether the tests would notice: small faults put into the code one at a time, and how many of them the suite finds.

    python -m benchmarks.mutants [--quick] [--groups selection views ops] [--count N] [--files search params] [--resume]

Method: of all places where a comparison, an operator, a number, a truth value, a ``not`` or a named argument can be changed, as
many are drawn with a seed in each group: ``selection`` is hvs_aug/selection and views/params.py, ``views`` the rest of
hvs_aug/views, ``ops`` is hvs_aug/ops. One run of the group's tests, those of its folder, the examples in its docstrings and the
one of public defaults, finds out which lines each test runs. Then each changed file stands in a copy of the repository, in which
the tests that run the changed line start, those that mirror the file first, then by their time. A mutant is killed if a test fails
or no end is reached. Where no line is seen to run (numba compiles it, or a process of its own runs it), all tests of the file or
the folder run.

Left out are places where a change is none: annotations, ``__all__``, the wording of messages, and named arguments that say only
how a copy is made (``non_blocking``, ``device="cpu"``), how a warning is shown or how much a cache holds; and GPU kernels, which
without a GPU only Triton's interpreter runs, half a minute for a mutant. A mutant that behaves as the original does is listed in
equivalent_mutants.json with the reason, and counts neither as killed nor as alive. No time is measured: the machine need not be
quiet. A mutant that survives gets a test; how strong the suite is elsewhere another ``--seed`` tells.

Each mutant is written as soon as it is done. ``--resume`` keeps those that were killed, and runs those that survived again: a test
that kills them may have come. ``--tests FILE ...`` runs those that survived again with the tests of these files alone. What a run
prepares is kept in runs/mutants.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

from tqdm import tqdm

from benchmarks.common import RESULTS, ROOT, arguments, check, require, table, write
from benchmarks.forked_tests import ForkedTests
from benchmarks.mutations import Place, mutated, places
from hvs_aug.ops.kernel import digest_of_sources

WORK = ROOT / "runs" / "mutants"
COUNTS = {"selection": 100, "views": 30, "ops": 30}
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.json")
OPS = Path("hvs_aug/ops")
API = "tests/test_public_api.py"
Key: TypeAlias = tuple[str, str, str, int]


def files_of(group: str, root: Path) -> list[Path]:
    """The files of a group."""
    everything = [path.relative_to(root) for path in sorted((root / "hvs_aug").rglob("*.py")) if path.name != "__init__.py"]
    params = Path("hvs_aug/views/params.py")
    folder = Path("hvs_aug") / group
    found = [file for file in everything if folder in file.parents and not file.name.startswith("triton_") and file != params]
    return [*found, params] if group == "selection" else found


def tests_of(group: str, root: Path) -> list[str]:
    """The files whose tests run for a group: those of its folder, and its own with their examples."""
    tests = sorted((root / "tests" / group).glob("test_*.py"))
    if group == "selection":
        tests.append(root / "tests" / "views" / "test_params.py")
    return [API, *(str(path.relative_to(root)) for path in tests), *map(str, files_of(group, root))]


class Covering:
    """Which tests run which lines, and in how many seconds; found out once for each file of tests.

    Of a file of the package that has changed since, it is then known which tests run it, and of no line.
    """

    def __init__(self, tests: ForkedTests, root: Path, cache: Path, known: Path) -> None:
        self._runs: dict[str, dict[str, Any]] = json.loads(known.read_text()) if known.exists() else {}
        self._tests, self._root, self._cache, self._known = tests, root, cache, known

    def of(self, files: Sequence[str]) -> list[dict[str, Any]]:
        """For each file of tests ``seconds`` and ``lines``, as :mod:`benchmarks.forked_tests` answers."""
        digests = {str(path.relative_to(self._root)): _digest(path) for path in sorted((self._root / "hvs_aug").rglob("*.py"))}
        names = {file: _digest(self._root / file) + file for file in files}
        new = [file for file, name in names.items() if name not in self._runs]
        if new:
            print(f"which lines the tests of {len(new)} files run, once")
            done = self._tests.run(new, cache=self._cache, cover=True)
            passed = "seconds" in done and not done["failed"]
            require(passed, "mutants", "tests that pass before any change", f"{done.get('failed')} {done['output']}")
            self._runs |= {names[file]: _part(done, file) | {"digests": digests} for file in new}
            self._known.write_text(json.dumps(self._runs))
        return [_as_known(self._runs[name], digests) for name in names.values()]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _part(done: dict[str, Any], tests: str) -> dict[str, Any]:
    """What one file of tests contributes."""
    mine = {name for name in done["seconds"] if name.partition("::")[0] == tests}
    lines = {
        file: {line: sorted(mine.intersection(names)) for line, names in found.items() if mine.intersection(names)}
        for file, found in done["lines"].items()
    }
    seconds = {name: done["seconds"][name] for name in sorted(mine)}
    return {"seconds": seconds, "lines": {file: found for file, found in lines.items() if found}}


def _as_known(run: dict[str, Any], digests: dict[str, str]) -> dict[str, Any]:
    """A run with all lines of a file that has changed as one, number 0."""
    lines = {
        file: found if run["digests"].get(file) == digests.get(file) else {"0": sorted(set(chain.from_iterable(found.values())))}
        for file, found in run["lines"].items()
    }
    return {"seconds": run["seconds"], "lines": lines}


def chosen_tests(place: Place, runs: Sequence[dict[str, Any]]) -> tuple[list[str], float]:
    """The tests to run for a mutant, in order, and the seconds that they take: those of its lines, of its file, or all."""
    first, last = place.statement
    seconds = {name: taken for run in runs for name, taken in run["seconds"].items()}
    of_file: set[str] = set()
    of_lines: set[str] = set()
    for run in runs:
        for line, names in run["lines"].get(str(place.file), {}).items():
            of_file.update(names)
            of_lines.update(names if first <= int(line) <= last else ())
    # A number at the top of a file is read by functions further down.
    own = [name for name in seconds if Path(name.partition("::")[0]).stem.startswith(f"test_{place.file.stem}")]
    found = of_lines or of_file | set(own) or set(seconds)
    if not of_lines:  # a default of an argument
        own += [name for name in seconds if name.startswith(API)]
        found |= set(own)
    order = sorted(found, key=lambda name: (name not in own, seconds[name]))
    return order, sum(seconds[name] for name in order)


class Copy:
    """A copy of the repository in which one file at a time is changed."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "tree"
        self.cache = folder / "numba"
        self.cache.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.root, ignore_errors=True)
        for name in ("hvs_aug", "tests", "benchmarks"):
            shutil.copytree(ROOT / name, self.root / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
        for name in ("pyproject.toml", "setup.cfg"):
            shutil.copy2(ROOT / name, self.root / name)
        self.digest = digest_of_sources(self.root / OPS)

    @contextmanager
    def changed(self, place: Place) -> Iterator[tuple[Path, str | None]]:
        """The file with the change in it; the folder of numba's cache, and the name under which kernels are looked for there.

        numba compiles what a change touches. Where it touches no kernel, those of the original are taken.
        """
        path = self.root / place.file
        source, stamp = path.read_text(), path.stat()
        path.write_text(mutated(source, place))
        try:
            if place.file.parent != OPS:
                yield self.cache, None
            else:
                with tempfile.TemporaryDirectory() as folder:
                    is_kernel = place.is_compiled or place.file.stem == "kernel"
                    if not is_kernel:
                        shutil.copytree(self.cache, folder, dirs_exist_ok=True)
                    yield Path(folder), None if is_kernel else self.digest
        finally:
            path.write_text(source)
            os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # numba looks at it


def draw(root: Path, groups: Sequence[str], count: int | None, seed: int, stems: Sequence[str] | None) -> list[tuple[str, Place]]:
    """The mutants: of each group as many as asked for, in a random order that later changes of the code hardly touch."""
    drawn: list[tuple[str, Place]] = []
    for group in groups:
        files = [file for file in files_of(group, root) if stems is None or file.stem in stems]
        every = [place for file in files for place in places(file, (root / file).read_text())]
        kept = sorted(every, key=lambda place: place.rank(seed))[: COUNTS[group] if count is None else count]
        drawn += [(group, place) for place in kept]
    return drawn


def equivalent() -> dict[tuple[str, str, str], str]:
    """Why a mutant behaves as the original: by file, line of code and mutation."""
    return {(entry["file"], entry["source"], entry["mutation"]): entry["reason"] for entry in json.loads(EQUIVALENT.read_text())}


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The share of mutants killed, of all and of each group, those that behave as the original aside."""
    able = [row for row in rows if row["equivalent"] is None]
    shares = {"mutants": float(len(rows)), "equivalent": float(len(rows) - len(able)), "killed_share": _share(able)}
    for group in dict.fromkeys(row["group"] for row in able):
        shares[group] = _share([row for row in able if row["group"] == group])
    return shares


def _share(rows: Sequence[dict[str, Any]]) -> float:
    return sum(row["killed"] for row in rows) / max(1, len(rows))


def killed_by(
    place: Place, files: Sequence[str], names: Sequence[str] | None, limit: float, copy: Copy, tests: ForkedTests
) -> str | None:
    """The test that finds the change; ``None`` where none does."""
    with copy.changed(place) as (cache, digest):
        answer = tests.run(files, names, cache=cache, digest=digest, limit=limit)
    if answer["code"] == 0:
        tqdm.write(f"survived: {place.file}:{place.line} {place.mutation}: {place.source}")
        return None
    return next(iter(answer.get("failed", [])), "no end" if answer["code"] < 0 else "import")


def rows_before(out: Path) -> dict[Key, dict[str, Any]]:
    """The rows of a run that is resumed."""
    if not out.exists():
        return {}
    document = json.loads(out.read_text())
    check(document)
    return {(row["file"], row["source"], row["mutation"], row["occurrence"]): row for row in document["rows"]}


def row_of(group: str, place: Place, by: str | None, reason: str | None = None) -> dict[str, Any]:
    file, source, mutation, occurrence = place.key
    what = {"group": group, "file": file, "line": place.line, "source": source, "mutation": mutation, "occurrence": occurrence}
    return what | {"killed": by is not None, "by": by, "equivalent": reason}


def main(words: Sequence[str] | None = None) -> None:
    parser = arguments("mutants", __doc__)
    parser.add_argument("--groups", nargs="+", choices=sorted(COUNTS), default=list(COUNTS))
    parser.add_argument("--count", type=int, help="how many mutants are drawn in each group (default: 100, 30 and 30)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--files", nargs="+", help="of these files alone, by name")
    parser.add_argument("--resume", action="store_true", help="keep the mutants of the file to write that were killed")
    parser.add_argument("--tests", nargs="+", help="run those that survived again, with the tests of these files alone")
    options = parser.parse_args(words)
    out = options.out or RESULTS / "mutants.json"
    count = 2 if options.quick and options.count is None else options.count
    copy = Copy(WORK)
    drawn = draw(copy.root, options.groups, count, options.seed, options.files)
    before = rows_before(out) if options.resume or options.tests else {}
    if options.tests:
        drawn = [(group, place) for group, place in drawn if place.key in before]
    reasons = equivalent()
    rows: dict[Key, dict[str, Any]] = {}
    for group, place in drawn:
        reason, old = reasons.get(place.key[:3]), before.get(place.key)
        if reason is not None or (old is not None and old["killed"]):
            rows[place.key] = row_of(group, place, None if reason is not None or old is None else old["by"], reason)
    settings = {"seed": options.seed, "groups": options.groups, "files": options.files or "all"}
    tests = ForkedTests(copy.root)
    covering = Covering(tests, copy.root, copy.cache, WORK / "covering.json")
    runs = {} if options.tests else {group: covering.of(tests_of(group, copy.root)) for group in options.groups}
    for group, place in tqdm([entry for entry in drawn if entry[1].key not in rows], unit="mutant"):
        names, seconds = (None, 60.0) if options.tests else chosen_tests(place, runs[group])
        files = options.tests if names is None else list(dict.fromkeys(name.partition("::")[0] for name in names))
        rows[place.key] = row_of(group, place, killed_by(place, files, names, 60 + 10 * seconds, copy, tests))
        with redirect_stdout(io.StringIO()):
            shown = [rows[place.key] for _, place in drawn if place.key in rows]
            write("mutants", settings, shown, summary(shown), out)
    tests.close()
    shown = [rows[place.key] for _, place in drawn]
    write("mutants", settings, shown, summary(shown), out)
    print(table([row for row in shown if not row["killed"]], ["file", "line", "source", "mutation", "equivalent"]))
    print(", ".join(f"{name} {value:.3g}" for name, value in summary(shown).items()))


if __name__ == "__main__":
    main()
