"""What a user installs: light to import, and described as setup.cfg, the command and the licence say."""

from __future__ import annotations

import ast
import configparser
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import hvs_aug

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "hvs_aug"
OPTIONAL = ("lightly", "lightning", "matplotlib", "skimage", "sklearn", "timm", "torchmetrics")


@pytest.fixture(scope="module")
def setup() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return config


def test_one_version(setup: configparser.ConfigParser) -> None:
    assert hvs_aug.__version__ == setup["metadata"]["version"]


def test_command_exists(setup: configparser.ConfigParser) -> None:
    name, _, target = setup["options.entry_points"]["console_scripts"].strip().partition(" = ")
    module, _, function = target.partition(":")
    assert name == "hvs-aug" and importlib.util.find_spec(module) is not None
    assert callable(getattr(importlib.import_module(module), function))


def test_typed_and_licensed(setup: configparser.ConfigParser) -> None:
    assert (PACKAGE / "py.typed").exists() and setup["options.package_data"]["hvs_aug"] == "py.typed"
    licence = (ROOT / setup["metadata"]["license_files"]).read_text()
    assert "Apache License" in licence and "END OF TERMS AND CONDITIONS" in licence


def test_import_loads_no_extra() -> None:
    code = "import sys, hvs_aug, hvs_aug.analysis; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert "torch" in loaded
    assert not {*OPTIONAL, "kornia"} & set(loaded)


def test_extras_are_imported_only_where_they_are_used() -> None:
    for path in sorted(PACKAGE.rglob("*.py")):
        for name in _imported_with_the_module(ast.parse(path.read_text()).body):
            assert name.partition(".")[0] not in OPTIONAL, f"{path.relative_to(ROOT)} imports {name} when it is imported"


def _imported_with_the_module(body: list[ast.stmt]) -> list[str]:
    """The modules that are imported as these statements run; the block under TYPE_CHECKING does not."""
    found: list[str] = []
    for statement in body:
        if isinstance(statement, ast.Import):
            found += [alias.name for alias in statement.names]
        elif isinstance(statement, ast.ImportFrom) and statement.level == 0:
            found.append(statement.module or "")
        elif isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
            found += _imported_with_the_module(statement.orelse)
        elif isinstance(statement, (ast.If, ast.Try, ast.With, ast.For, ast.While, ast.ClassDef)):
            for block in ("body", "orelse", "finalbody", "handlers"):
                for inner in getattr(statement, block, []):
                    found += _imported_with_the_module(inner.body if isinstance(inner, ast.ExceptHandler) else [inner])
    return found


def test_import_check_can_fail() -> None:
    code = """
if TYPE_CHECKING:
    import timm
else:
    import lightly
try:
    import sklearn.x
except ImportError:
    from skimage import io
def f():
    import matplotlib
class C:
    import lightning
from . import timm
"""
    assert _imported_with_the_module(ast.parse(code).body) == ["lightly", "sklearn.x", "skimage", "lightning"]


def test_ci_runs_what_a_person_runs() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK) and "make test" in script.read_text()
