"""What every benchmark shares: contestants timed in turn, the machine they ran on, and the checked file that they write.

Method: all contestants of a workload run in one process, one after the other in every round, in an order shuffled anew for each
round, after rounds that do not count. What slows the machine down for a while then slows all of them, and a ratio of medians
compares like with like. Reported are the median and the interquartile range of the rounds.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import platform
import random
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from hvs_aug import HVSError

__all__ = ["arguments", "check", "interleave", "machine", "require", "resumed", "summarise", "table", "write"]

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"

_KEYS = ("benchmark", "commit", "made", "machine", "settings", "rows", "summary")
_MACHINE_KEYS = ("cpu", "cores", "threads", "device", "system", "python", "torch", "torchvision", "kornia")
_TIMING_KEYS = {"median", "iqr", "repeats"}


def require(condition: bool, call: str, expected: str, got: object, hint: str = "") -> None:
    """Raise HVSError with these words unless the condition holds."""
    if not condition:
        came = got if isinstance(got, str) else f"{type(got).__name__} {got!r}"
        raise HVSError(f"{call}: expected {expected}, got {came}." + (f"\n  hint: {hint}" if hint else ""))


def interleave(contestants: Mapping[str, Callable[[], object]], repeats: int, warmup: int = 1) -> dict[str, list[float]]:
    """Time the contestants in turn: ``warmup`` rounds that do not count, then ``repeats`` rounds, each in a shuffled order.

    Returns the seconds of every round for each contestant. A contestant's work on a GPU is waited for.
    """
    require(len(contestants) > 0, "interleave(contestants)", "at least one", "none")
    require(repeats >= 1, "interleave(repeats)", "at least one round", repeats)
    order = list(contestants)
    shuffled = random.Random(0)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(warmup + repeats):
        shuffled.shuffle(order)
        gc.collect()
        for name in order:
            taken = _timed(contestants[name])
            if turn >= warmup:
                seconds[name].append(taken)
    return seconds


def _timed(run: Callable[[], object]) -> float:
    _wait_for_device()
    gc.disable()
    try:
        start = time.perf_counter()
        run()
        _wait_for_device()
        return time.perf_counter() - start
    finally:
        gc.enable()


def _wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def summarise(seconds: Sequence[float]) -> dict[str, Any]:
    """The median, the interquartile range and the number of the timings.

    >>> summarise([3.0, 1.0, 2.0, 5.0, 4.0])
    {'median': 3.0, 'iqr': 2.0, 'repeats': 5}
    """
    require(len(seconds) > 0, "summarise(seconds)", "at least one timing", "none")
    quartiles = statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else [seconds[0]] * 3
    return {"median": statistics.median(seconds), "iqr": quartiles[2] - quartiles[0], "repeats": len(seconds)}


def machine() -> dict[str, Any]:
    """What a figure depends on besides the code: processor, threads, device, and the versions of what computes."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "system": platform.platform(),
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "torchvision", "kornia")},
    }


def _cpu_name() -> str:
    described = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*:\s*(.+)", described.read_text()) if described.exists() else None
    return named[1] if named else platform.processor() or platform.machine()


def write(
    name: str,
    settings: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    summary: Mapping[str, float],
    out: str | Path | None = None,
) -> Path:
    """Write what was measured, with the commit, the date and the machine, to ``out`` or ``benchmarks/results/NAME.json``.

    Raises: HVSError if it does not follow the schema of :func:`check`; nothing is written then.
    """
    document = {
        "benchmark": name,
        "commit": _commit(),
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(),
        "settings": dict(settings),
        "rows": [dict(row) for row in rows],
        "summary": dict(summary),
    }
    check(document)
    path = RESULTS / f"{name}.json" if out is None else Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
    print(f"written to {path}")
    return path


def results(name: str) -> dict[str, Any]:
    """A file of benchmarks/results/."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return found


def resumed(path: Path, settings: Mapping[str, Any], *, free: Collection[str] = (), timed: bool = True) -> list[dict[str, Any]]:
    """The rows that a run which stopped had written; none where there is no file.

    Raises: HVSError if it had other settings than these, those named in ``free`` aside, or, where times were measured, another
    machine.
    """
    if not path.exists():
        return []
    document = json.loads(path.read_text())
    check(document)
    compared = {"settings": settings} | ({"machine": machine()} if timed else {})
    for key, now in compared.items():
        differing = [name for name, value in now.items() if document[key].get(name) != value and name not in free]
        hint = "leave --resume away to measure everything anew."
        require(
            not differing, f"{document['benchmark']}(--resume)", f"the {key} of {path}", f"another {', '.join(differing)}", hint
        )
    rows: list[dict[str, Any]] = document["rows"]
    return rows


def _commit() -> str:
    """The commit that is checked out; -dirty where files that it tracks, results aside, were changed."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results")
        return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def check(document: Any) -> None:
    """Fail unless the document is a benchmark file: its keys, what they hold, and no number that strict JSON lacks.

    ``rows`` are objects, at least one; a row with a median has its interquartile range and number of repeats as well.
    ``summary`` maps names to finite numbers.
    """
    call = "check(document)"
    require(isinstance(document, dict), call, "an object", document)
    require(list(document) == list(_KEYS), call, f"the keys {', '.join(_KEYS)}", f"{', '.join(map(str, document))}")
    require(re.fullmatch(r"[a-z0-9_]+", str(document["benchmark"])) is not None, call, "a lower-case name", document["benchmark"])
    commit = document["commit"]
    known = isinstance(commit, str) and re.fullmatch(r"[0-9a-f]{40}(-dirty)?|unknown", commit) is not None
    require(known, call, "a full commit", commit)
    _check_date(document["made"])
    for key in ("machine", "settings", "summary"):
        require(isinstance(document[key], dict), call, f"an object under {key}", document[key])
    missing = [key for key in _MACHINE_KEYS if key not in document["machine"]]
    require(not missing, call, f"a machine with {', '.join(_MACHINE_KEYS)}", f"none of {', '.join(missing)}")
    rows = document["rows"]
    require(isinstance(rows, list) and len(rows) > 0, call, "a list of at least one row", rows)
    for index, row in enumerate(rows):
        _check_row(row, f"rows[{index}]")
    for key, value in document["summary"].items():
        require(_is_number(value), call, "a finite number", f"{value!r} under summary.{key}")
    _check_strict(document, "document")


def _check_date(made: Any) -> None:
    call = "check(document)"
    require(isinstance(made, str), call, "an ISO date under made", made)
    try:
        date = datetime.fromisoformat(made)
    except ValueError:
        require(False, call, "an ISO date under made", made)
    require(date.tzinfo is not None, call, "a date with its time zone", made)


def _check_row(row: Any, where: str) -> None:
    call = f"check({where})"
    require(isinstance(row, dict) and len(row) > 0, call, "an object", row)
    timed = _TIMING_KEYS & row.keys()
    if timed:
        require(timed == _TIMING_KEYS, call, "median, iqr and repeats together", f"{', '.join(sorted(timed))}")
        require(_is_number(row["median"]) and row["median"] > 0, call, "a positive median", row["median"])
        require(_is_number(row["iqr"]) and row["iqr"] >= 0, call, "an iqr of at least 0", row["iqr"])
        require(type(row["repeats"]) is int and row["repeats"] >= 1, call, "at least one repeat", row["repeats"])


def _check_strict(value: Any, where: str) -> None:
    """Fail on what JSON has no name for: NaN, infinities, keys that are no text, and tensors."""
    if isinstance(value, dict):
        for key, entry in value.items():
            require(isinstance(key, str), f"check({where})", "text as keys", key)
            _check_strict(entry, f"{where}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, entry in enumerate(value):
            _check_strict(entry, f"{where}[{index}]")
    else:
        plain = value is None or isinstance(value, (str, bool)) or _is_number(value)
        require(plain, f"check({where})", "text, a finite number, true, false or null", value)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """The rows as a Markdown table, aligned for a terminal too; a row without a column is blank there.

    >>> print(table([{"name": "ours", "median": 0.01234}, {"name": "theirs", "median": 12.0}], ["name", "median"]))
    | name   |  median |
    |:-------|--------:|
    | ours   | 0.01234 |
    | theirs |      12 |
    """
    listed = list(rows)
    cells = [[_cell(row.get(column)) for column in columns] for row in listed]
    widths = [max([len(name), *(len(line[index]) for line in cells)]) for index, name in enumerate(columns)]
    numeric = [all(_is_number(row[name]) for row in listed if row.get(name) is not None) for name in columns]

    def line(parts: Sequence[str]) -> str:
        placed = [
            part.rjust(width) if right else part.ljust(width) for part, width, right in zip(parts, widths, numeric, strict=True)
        ]
        return f"| {' | '.join(placed)} |"

    rule = [f"{'-' * (width + 1)}:" if right else f":{'-' * (width + 1)}" for width, right in zip(widths, numeric, strict=True)]
    return "\n".join([line(columns), f"|{'|'.join(rule)}|", *map(line, cells)])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class _Quick(argparse.Action):
    """--quick: a run that only shows that it runs, which must not replace the published figures."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *_: Any) -> None:
        namespace.quick = True
        if namespace.out is None:
            namespace.out = ROOT / "runs" / "benchmarks" / f"{parser.prog.removeprefix('python -m benchmarks.')}.json"


def arguments(name: str, description: str | None) -> argparse.ArgumentParser:
    """The arguments of every benchmark: --quick, --out and --data; a benchmark adds its own."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help=f"file to write (default: benchmarks/results/{name}.json)")
    parser.add_argument("--data", type=Path, help="folder of photographs (default: those of the demo)")
    parser.add_argument(
        "--quick",
        action=_Quick,
        nargs=0,
        default=False,
        help=f"a smallest run, to see that it works; to runs/benchmarks/{name}.json",
    )
    return parser
