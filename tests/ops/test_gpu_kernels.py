"""The GPU kernels give the definition's values: in Triton's interpreter on a CPU, and on a GPU where there is one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

pytestmark = pytest.mark.needs("triton>=3.6")


def run(interpret: str) -> None:
    """Run the tests in a process of its own, as Triton reads the variable when a kernel is declared; all must pass."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/ops/kernels_against_definition.py"]
    environment = os.environ | {"TRITON_INTERPRET": interpret, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]
    passed = re.search(r"^(\d+) passed in", ran.stdout, re.MULTILINE)  # and none failed or was skipped
    assert passed is not None and int(passed[1]) >= 60, ran.stdout[-2000:]


def test_kernels_against_the_definition_in_the_interpreter() -> None:
    run("1")


@pytest.mark.gpu
def test_kernels_against_the_definition_on_a_gpu() -> None:
    run("0")
