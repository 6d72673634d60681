"""What a user installs: light to import, and described as setup.cfg, the command and the licence say."""

from __future__ import annotations

import ast
import configparser
import email
import importlib.util
import os
import re
import runpy
import shutil
import subprocess
import sys
import zipfile
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
    assert setup["metadata"]["version"] == "attr: hvs_aug.__version__"
    assert f"\nversion: {hvs_aug.__version__}\n" in (ROOT / "CITATION.cff").read_text()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built of a copy of what it is made of, with the setuptools that is installed."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(PACKAGE, folder / "hvs_aug", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    code = "from setuptools import build_meta; print(build_meta.build_wheel('dist'))"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=folder, capture_output=True, check=True)
    return zipfile.ZipFile(next((folder / "dist").glob("*.whl")))


@pytest.mark.needs("setuptools>=77")
def test_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    files = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert files == {str(path.relative_to(ROOT)) for path in PACKAGE.rglob("*") if path.suffix == ".py" or path.name == "py.typed"}


@pytest.mark.needs("setuptools>=77")
def test_wheel_describes_itself(wheel: zipfile.ZipFile, setup: configparser.ConfigParser) -> None:
    info = f"hvs_aug-{hvs_aug.__version__}.dist-info"
    described = email.message_from_bytes(wheel.read(f"{info}/METADATA"))
    assert (described["Name"], described["Version"]) == ("hvs-aug", hvs_aug.__version__)
    assert described["Author"] and described["Requires-Python"] == setup["options"]["python_requires"]
    assert {"Documentation", "Changelog", "Issues"} <= {line.partition(",")[0] for line in described.get_all("Project-URL", [])}
    assert described.get_payload().strip() == (ROOT / "README.md").read_text().strip()
    assert wheel.read(f"{info}/entry_points.txt").decode().split() == ["[console_scripts]", "hvs-aug", "=", "hvs_aug.cli:main"]
    assert f"{info}/licenses/LICENSE" in wheel.namelist()


def test_module_runs_as_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["hvs_aug", "--version"])
    with pytest.raises(SystemExit, match="^0$"):
        runpy.run_module("hvs_aug", run_name="__main__")
    assert capsys.readouterr().out == f"hvs-aug {hvs_aug.__version__}\n"


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


def test_workflows_test_every_python_that_is_promised(setup: configparser.ConfigParser) -> None:
    tested = re.findall(r'"(3\.\d+)"', re.search(r"python: \[(.*)\]", (ROOT / ".github/workflows/test.yml").read_text())[1])
    promised = re.findall(r"Python :: (3\.\d+)", setup["metadata"]["classifiers"])
    assert tested == promised and setup["options"]["python_requires"] == f">={tested[0]}"


def test_workflows_call_targets_that_exist() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    called = [
        name for path in (ROOT / ".github/workflows").glob("*.yml") for name in re.findall(r"run: make ([a-z-]+)", path.read_text())
    ]
    assert {"test", "docs"} <= set(called) and set(called) - {"test-oldest"} <= set(targets)
