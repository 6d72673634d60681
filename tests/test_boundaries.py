"""What comes from outside stays data: no pickle, no eval, and paths are text on every page."""

from __future__ import annotations

import ast
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from PIL import Image

import hvs_aug
from hvs_aug.analysis import inspect

PACKAGE = Path(hvs_aug.__file__).parent
FORBIDDEN_IMPORTS = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load"}


def dangers(source: str) -> list[str]:
    """What runs code out of data: lines of it."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found += [f"{node.lineno}: import {name}" for name in names if name.partition(".")[0] in FORBIDDEN_IMPORTS]
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            keywords = {word.arg: ast.unparse(word.value) for word in node.keywords}
            is_load = name.endswith(("torch.load", "torch.hub.load")) and keywords.get("weights_only") != "True"
            is_unsafe = keywords.get("allow_pickle") == "True" or keywords.get("shell") == "True"
            if name in FORBIDDEN_CALLS or is_load or is_unsafe:
                found.append(f"{node.lineno}: {name}")
    return found


def test_nothing_runs_code_out_of_data() -> None:
    found = {str(path): dangers(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")}
    assert len(found) > 50 and not {path: lines for path, lines in found.items() if lines}


@pytest.mark.parametrize(
    "source",
    ["import pickle", "from pickle import loads", "eval('1')", "torch.load(f)", "torch.load(f, weights_only=False)"]
    + ["numpy.load(f, allow_pickle=True)", "subprocess.run(f, shell=True)"],
)
def test_the_search_can_find_something(source: str) -> None:
    assert dangers(source) and not dangers("model.eval(); re.compile('a'); torch.load(f, weights_only=True)")


TITLE = "changed by a script"
# A slash parts two folders, so that together they are a whole element.
EVIL = ["<script>alert(1)</script>", f"<img src=x onerror=\"document.title='{TITLE}'\">", "\"'><b onclick=alert(1)>", "&lt;i&gt;"]


class Elements(HTMLParser):
    """The tags and attributes of a page, and its text, that of pictures too."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self.text += "".join(value or "" for name, value in attrs if name == "alt")

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def sheet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A contact sheet of images whose folders are markup."""
    folder = tmp_path_factory.mktemp("evil")
    paths = [folder / name / f"{name.replace('/', '')}.png" for name in EVIL]
    for path in paths:
        path.parent.mkdir(parents=True)
        Image.fromarray(torch.randint(0, 256, (20, 24, 3), dtype=torch.uint8).numpy()).save(path)
    (folder / "<u>broken.png").write_bytes(b"")
    with pytest.warns(UserWarning, match="left out"):
        _, page = inspect(folder, folder.with_name("sheet"), size=16, candidates=2, count=9, on_error="skip")
    return page


def test_paths_are_text_on_a_contact_sheet(sheet: Path) -> None:
    page = Elements(sheet.read_text(encoding="utf-8"))
    assert not {"script", "b", "i", "u"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    sources = [value or "" for name, value in page.attributes if name in ("src", "href", "data", "action")]
    assert all(source.startswith(("data:", "#")) for source in sources)
    for name in EVIL:
        assert f"{name.replace('/', '')}.png" in page.text
    assert "<u>broken.png" in page.text


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium")
def test_a_browser_runs_nothing_of_a_path(sheet: Path, tmp_path: Path) -> None:
    def shown(path: Path) -> str:
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
        done = subprocess.run([*command, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=120)
        assert "</html>" in done.stdout, done.stderr
        return done.stdout

    raw = tmp_path / "raw.html"
    raw.write_text(f"<html><head><title>before</title></head><body>{EVIL[1]}</body></html>")
    assert f"<title>{TITLE}" in shown(raw)  # the browser would run it
    assert f"<title>{TITLE}" not in shown(sheet)
