"""Runs of pytest in forks of one process that has PyTorch and its like imported: a run of few tests then takes about a second.

The process starts as ``python benchmarks/forked_tests.py FOLDER``, with a copy of the repository as its folder. It imports what the
tests need, but nothing of hvs_aug, and reads one job a line: a JSON object with

- ``files``: the files whose tests run.
- ``only``: the names of those that run, in this order; ``null`` for all.
- ``limit``: seconds after which the run is ended.
- ``cover``: whether to find out which lines of hvs_aug each test runs. Without it, pytest stops at the first failure.
- ``digest``: the name under which the kernels that numba has compiled are looked for, or ``null`` for that of the sources.
- ``cache``: the folder of these kernels.

It answers with one line: ``code``, pytest's exit code or -1 where the run was ended; ``output``, its last words; ``failed``, the
tests that did not pass; and with ``cover`` ``seconds`` of each test that passed, and ``lines``, for each file the tests of each
line.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

WARM = (
    "torch",
    "torch._dynamo",
    "torch.distributed",
    "torch.testing",
    "torchvision.transforms.v2",
    "kornia.augmentation",
    "lightly.loss",
    "lightly.transforms",
    "lightly_train",
    "lightning",
    "stable_pretraining",
    "numba",
    "PIL.Image",
    "safetensors.torch",
    "hypothesis",
    "pytest",
)
"""What is imported once, before any run."""


class ForkedTests:
    """The process, from outside: start it with a copy of the repository, and run jobs in it."""

    def __init__(self, root: Path) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        command = [sys.executable, str(Path(__file__).resolve()), str(root)]
        self._process = subprocess.Popen(
            command, cwd=root, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(
        self,
        files: Sequence[str],
        only: Sequence[str] | None = None,
        *,
        cache: Path,
        limit: float = 3600.0,
        cover: bool = False,
        digest: str | None = None,
    ) -> dict[str, Any]:
        """Run tests in a fork; see the top of the file."""
        assert self._process.stdin is not None and self._process.stdout is not None
        job = {"files": files, "only": only, "limit": limit, "cover": cover, "digest": digest, "cache": str(cache)}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


# ---------------------------------------------------------------------- inside the process


class _Recorder:
    """A plugin of pytest: it puts the tests in order, and writes down which passed, in how many seconds, and which did not."""

    def __init__(self, only: Sequence[str] | None, coverage: Any) -> None:
        self.places = None if only is None else {name: place for place, name in enumerate(only)}
        self.coverage = coverage
        self.seconds: dict[str, float] = {}
        self.failed: list[str] = []

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        if (places := self.places) is not None:
            items[:] = sorted((item for item in items if item.nodeid in places), key=lambda item: places[item.nodeid])

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        if self.coverage is not None:
            self.coverage.switch_context(nodeid)

    def pytest_runtest_logfinish(self) -> None:
        if self.coverage is not None:
            self.coverage.switch_context("")

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.failed.append(report.nodeid)
        elif report.when == "call" and report.passed:
            self.seconds[report.nodeid] = round(report.duration, 4)


def _run_job(root: Path, job: Mapping[str, Any]) -> dict[str, Any]:
    """Run pytest in this process, which is a fork and ends afterwards."""
    import pytest

    os.environ["NUMBA_CACHE_DIR"] = job["cache"]
    importlib.import_module("numba").config.reload_config()
    # Files are compiled once, with the coverage. Of a changed file nothing may stay: the next one may have its size and its second.
    sys.dont_write_bytecode = not job["cover"]
    coverage = None
    if job["cover"]:
        coverage = importlib.import_module("coverage").Coverage(data_file=None, include=[f"{root}/hvs_aug/*"], config_file=False)
        coverage.start()
    if job["digest"] is not None:
        with suppress(Exception):  # what a mutant breaks on import, the tests find
            importlib.import_module("hvs_aug.ops.kernel").digest_of_sources = lambda folder: job["digest"]
    recorder = _Recorder(job["only"], coverage)
    words = ["-q", "-p", "no:cacheprovider", "--no-header", "--tb=line", *job["files"]]
    code = pytest.main(words if job["cover"] else ["-x", *words], plugins=[recorder])
    answer: dict[str, Any] = {"code": int(code), "failed": recorder.failed}
    if coverage is not None:
        coverage.stop()
        answer |= {"seconds": recorder.seconds, "lines": dict(_lines(root, coverage.get_data()))}
    return answer


def _lines(root: Path, data: Any) -> Iterator[tuple[str, dict[int, list[str]]]]:
    for file in sorted(data.measured_files()):
        found = {line: sorted(set(tests) - {""}) for line, tests in data.contexts_by_lineno(file).items()}
        yield str(Path(file).relative_to(root)), {line: tests for line, tests in found.items() if tests}


def _fork(root: Path, job: Mapping[str, Any]) -> dict[str, Any]:
    """Run the job in a fork, and end the fork and all that it started when its time is over."""
    with tempfile.TemporaryDirectory() as folder:
        output, answer = Path(folder) / "output", Path(folder) / "answer"
        child = os.fork()
        if child == 0:
            code = 3
            try:
                os.setsid()
                with output.open("wb") as written, open(os.devnull, "rb") as nothing:
                    for number, file in ((0, nothing), (1, written), (2, written)):
                        os.dup2(file.fileno(), number)
                answer.write_text(json.dumps(_run_job(root, job)))
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        end = time.monotonic() + job["limit"]
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if time.monotonic() > end:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return {"code": -1, "output": f"ended after {job['limit']} s"}
            time.sleep(0.02)
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # workers that a test left behind
        words = output.read_text(errors="replace")[-2000:] if output.exists() else ""
        # A mutant may end the process itself; that is a failure as any other.
        return {"output": words, **(json.loads(answer.read_text()) if answer.exists() else {"code": 1})}


def _serve(root: Path) -> None:
    os.chdir(root)
    sys.path[0] = str(root)
    os.environ["PYTHONPATH"] = str(root)
    for name in WARM:
        with suppress(ImportError):  # some come with extras
            importlib.import_module(name)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing else may be written among the answers
    for line in sys.stdin:
        answers.write(json.dumps(_fork(root, json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
