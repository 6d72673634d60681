"""The README runs as it stands, its links lead somewhere, and its figures are those of benchmarks/results/."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import tables
from hvs_aug.pretraining import photographs
from tests.links import broken

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
ADDRESS = r"https://(?:raw\.githubusercontent\.com/hvs-aug/hvs_aug/main|github\.com/hvs-aug/hvs_aug/blob/main)/"
LINK = re.compile(r"\]\(([^)]+)\)")


def without_blocks(text: str) -> str:
    """The text without code and without what is made or checked by other tests."""
    return re.sub(r"```.*?```|`[^`]*`|<!-- (?:table: \w+|quality) -->.*?<!-- end[\w ]* -->", "", text, flags=re.DOTALL)


def numbers(value: Any) -> Iterator[float]:
    """Every number in a value read from JSON."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from numbers(inner)
    elif isinstance(value, (int, float)):
        yield float(value)


def unknown_figures(text: str, known: list[float]) -> list[str]:
    """The numbers with a decimal point that round none of those known."""
    found = re.findall(r"\d+\.\d+", text)
    return [word for word in found if all(abs(float(word) - value) > 0.5001 * 10 ** -len(word.split(".")[1]) for value in known)]


def test_script_runs_as_it_stands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    script = README.split("```python\n")[1].split("```")[0]
    assert len(script.splitlines()) <= 31
    tiles = photographs.photograph_tiles().train[:64]
    monkeypatch.setattr(photographs, "photograph_tiles", lambda: SimpleNamespace(train=tiles))  # two steps instead of ten
    names: dict[str, Any] = {}
    exec(compile(script.replace("range(3)", "range(1)").replace("batch_size=128", "batch_size=32"), "README.md", "exec"), names)
    assert re.fullmatch(r"epoch 0: loss \d\.\d\d\n", capsys.readouterr().out)
    hard = names["loader"].last
    assert hard.indices.shape == (2, 32) and (hard.indices[0] != hard.indices[1]).all()


def test_it_stays_short() -> None:
    assert README.count("\n") < 160


@pytest.mark.parametrize("page", tables.PAGES, ids=lambda page: page.parent.name)
def test_tables_are_those_of_the_results(page: Path) -> None:
    text = page.read_text()
    assert "<!-- table: " in text and tables.filled(text) == text, "python -m benchmarks.tables writes them anew"


@pytest.mark.parametrize("page", tables.PAGES[:2], ids=lambda page: page.parent.name)
def test_figures_of_accuracy_are_those_of_the_results(page: Path) -> None:
    overhead = tables.results("forward_overhead")["summary"]
    accuracies = [*numbers(tables.results("quality")), *numbers(tables.results("predicted"))]
    known = [*accuracies, *numbers({name: overhead[name] for name in overhead if name.endswith("_ratio")})]
    blocks = re.findall(r"<!-- quality -->(.*?)<!-- end quality -->", page.read_text(), re.DOTALL)
    assert blocks and unknown_figures("".join(blocks), known) == []


def test_no_figure_stands_outside_a_table() -> None:
    prose = LINK.sub("]", without_blocks(README))
    assert re.findall(r"\d+\.\d+ ?%|\d+ ?%|\d+\.\d+ (?:times|x|s|ms|points)\b", prose) == []


def test_these_checks_can_fail() -> None:
    table = "<!-- table: cost -->\n| SimSiam | 9.99 |\n<!-- end -->"
    assert tables.filled(table) != table and "1.55" not in table
    assert unknown_figures("45.4 and 45.6, 1.10", [45.425, 1.1028]) == ["45.6"]
    assert "12.5 %" in without_blocks("12.5 % `1.5 %` <!-- quality -->1.1 %<!-- end quality -->")
    assert "1.1" not in without_blocks("12.5 % `1.5 %` <!-- quality -->1.1 %<!-- end quality -->")
    assert json.loads('[1, {"a": 2.5}]') and list(numbers([1, {"a": 2.5}, "x"])) == [1.0, 2.5]


def test_links_work_on_pypi_and_lead_somewhere() -> None:
    for target in LINK.findall(README):
        assert target.startswith("https://"), f"{target} is no link where the README is shown on PyPI"
        inside = re.match(ADDRESS, target)
        if inside is not None:
            path, _, anchor = target[inside.end() :].partition("#")
            assert (ROOT / path).is_file(), f"{path} is not in the repository"
            assert not anchor or anchor in anchors((ROOT / path).read_text()), f"{path} has no heading {anchor}"


def anchors(text: str) -> list[str]:
    """The anchors that GitHub gives the headings of a page."""
    return [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)]


def test_broken_links_of_html_pages_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<h1 id="top"></h1><a href="b.html#x">, <a href="#top">, <a href="https://x.org">, <a href="c.html">'
    )
    (tmp_path / "b.html").write_text('<a href="a.html#top">, <a href="a.html#nowhere">')
    assert broken(tmp_path) == ["a.html: b.html#x", "a.html: c.html", "b.html: a.html#nowhere"]
