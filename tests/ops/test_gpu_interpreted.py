"""The GPU kernels give the definition's values, in Triton's interpreter on a CPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


def test_kernels_against_the_definition() -> None:
    """In a process of its own, as Triton reads the variable when a kernel is declared."""
    pytest.importorskip("triton", reason="Triton is not installed")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/ops/interpreted_gpu.py"]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    passed = re.search(r"^(\d+) passed in", run.stdout, re.MULTILINE)  # and none failed or was skipped
    assert passed is not None and int(passed[1]) >= 60, run.stdout[-2000:]
