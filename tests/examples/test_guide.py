"""The pages of the guide: their code runs, their errors are raised in these words, their links lead somewhere."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.transforms import v2

import hvs_aug
from hvs_aug.views.presets import PRESETS, preset_slots
from tests.examples import pages

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
pytestmark = [  # of Lightning, on the page for it, and of Lightly
    pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.torch.nn.utils.weight_norm. is deprecated:FutureWarning"),
]
RESNET, SMALL = "torchvision.models.resnet18(num_classes=64)", "torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12288, 64))"
GUIDE = ["losses.md", "presets.md", "frameworks.md", "cluster.md", "troubleshooting.md"]
PAGES = [EXAMPLES / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md", *(EXAMPLES / name for name in GUIDE)]


def blocks(page: Path) -> list[tuple[str, str, str]]:
    """The Python blocks of a page, each with the text block that follows at once, and the heading that it is under."""
    found, text = [], page.read_text()
    for match in re.finditer(r"```python\n(.*?)```\n(?:```text\n(.*?)\n```)?", text, re.DOTALL):
        headings = re.findall(r"^#+ (.*)$", text[: match.start()], re.MULTILINE)
        found.append((match[1], match[2] or "", headings[-1]))
    return found


def absent(code: str) -> list[str]:
    """The packages that a block imports and that are not installed."""
    names = [node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in _imports(code)]
    return [name for name in names if name and importlib.util.find_spec(name.partition(".")[0]) is None]


def _imports(code: str) -> list[ast.Import | ast.ImportFrom]:
    return [node for node in ast.walk(ast.parse(code)) if isinstance(node, (ast.Import, ast.ImportFrom))]


@pytest.mark.parametrize("name", GUIDE)
def test_code_of_a_page_runs_from_top_to_bottom(name: str) -> None:
    names: dict[str, Any] = {}
    for code, expected, heading in blocks(EXAMPLES / name):
        compiled = compile(code.replace(RESNET, SMALL), f"{name}, {heading}", "exec")
        if expected:
            assert said(compiled, names).startswith(expected), heading
        elif heading not in ("lightly-train", "stable-pretraining", "albumentations") and not absent(code):
            exec(compiled, names)


def said(code: Any, names: dict[str, Any]) -> str:
    """What the first error or warning of these lines says."""
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        try:
            exec(code, names)
        except hvs_aug.HVSError as error:
            return str(error)
    return str(given[0].message) if given else "nothing"


def test_presets_stand_as_they_are() -> None:
    text = pages.PAGE.read_text()
    assert pages.filled(text) == text, "python -m tests.examples.pages writes them anew"
    assert all(f"\n## {name}\n" in text for name in PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_lines_of_a_preset_are_torchvisions(name: str) -> None:
    for slot in preset_slots(name, 32):
        transform = eval(f"v2.Compose([{', '.join(slot.recipe.torchvision_lines())}])", {"v2": v2, "torch": torch})
        assert tuple(transform(torch.zeros(3, 40, 40, dtype=torch.uint8)).shape) == (3, *slot.recipe.shape)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)):
        if not target.startswith("https://"):
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            assert file.exists(), f"{target} of {page.name}"
            assert not anchor or anchor in anchors(file), f"{target} of {page.name}"


def anchors(page: Path) -> list[str]:
    """The anchors that GitHub gives the headings of a page."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]


def test_notebook_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    plt = pytest.importorskip("matplotlib.pyplot")
    monkeypatch.setenv("TUTORIAL_SECONDS", "0")  # one step of training in the place of a minute's
    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    notebook = json.loads((EXAMPLES / "tutorial.ipynb").read_text())
    names: dict[str, Any] = {"__name__": __name__}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"tutorial.ipynb, {cell['id']}", "exec"), names)
    said = capsys.readouterr().out
    assert "unchanged: True" in said and "hard views: 1 steps, kNN accuracy" in said and "hardest_that_overlaps: mean loss" in said
    assert [slot.candidates for slot in names["slots"]] == [4] and names["params"].drawn["Gamma.gamma"].shape == (6, 4)
    assert names["chosen"].loss.equal(names["scored"].table.flatten(0, 1).amax(0)), "the hardest pair of the table that is shown"
