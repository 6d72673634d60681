"""The report opens offline, and shows what it was given and nothing else."""

from __future__ import annotations

import base64
import io
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

from hvs_aug import CandidateViews, HVSError, ViewSlot
from hvs_aug.analysis import Report, inspect
from hvs_aug.analysis.sheet import labels
from hvs_aug.analysis.style import DARK, LIGHT
from hvs_aug.selection.losses import NTXentLoss
from hvs_aug.selection.sampler import HardPairSampler
from hvs_aug.selection.search import exact


class Page(HTMLParser):
    """Collects what a browser would fetch, the text, and tags that are left open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.cells: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.fetched += [value or "" for name, value in attributes if name in ("src", "href", "srcset", "data")]
        if tag not in ("img", "meta", "source"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.cells.append(data)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for index in range(5):
        pixels = torch.randint(0, 256, (60, 80 - 5 * index, 3), dtype=torch.uint8).numpy()
        Image.fromarray(pixels).save(folder / f"image-{index}.png")
    return folder


def sampler() -> HardPairSampler:
    views = CandidateViews.preset("simclr", size=24, candidates=3)
    return HardPairSampler(nn.Sequential(nn.Flatten(), nn.Linear(3 * 24 * 24, 8)), NTXentLoss(temperature=0.1), views)


def test_page_escapes_text_and_fetches_nothing(tmp_path: Path) -> None:
    evil = '<script src="https://example.com/x.js"></script>'
    report = Report(evil, evil).heading(evil).text(evil).table([{evil: evil, "kNN": 71.234567}]).figure(Figure(), evil)
    report.facts({evil: evil}).figures({evil: Figure()}).photographs(Figure(), evil, evil)
    out = report.write(tmp_path / "deep" / "report.html")
    text = out.read_text(encoding="utf-8")
    page = Page(text)
    assert not page.open and "<script" not in text and "@import" not in text and "url(" not in text
    assert [address.partition(";")[0] for address in page.fetched] == ["data:image/png", "data:image/png", "data:image/webp"]
    assert page.cells == [evil, "kNN", evil, "71.2", evil, evil]
    with Image.open(io.BytesIO(base64.b64decode(page.fetched[0].partition(",")[2]))) as image:
        assert image.format == "PNG"


def test_table_of_rows_with_other_columns() -> None:
    page = Page(Report("t").table([{"a": 1}, {"b": 0.5, "a": None}]).html())
    assert page.cells == ["a", "b", "1", "0.500"]
    assert Page(Report("t").table([{"a": 1, "b": 2}], ["b"]).html()).cells == ["b", "2"]
    with pytest.raises(HVSError, match=r"Report\.table\(rows\): expected at least one row, got none"):
        Report("t").table([])


def test_numbers_of_a_column_have_the_same_decimals() -> None:
    rows = [{"kNN": 70.8, "IoU": 0.37, "count": 12, "nan": float("nan")}, {"kNN": 5.0, "IoU": 0.0, "count": 3, "nan": 1234.5}]
    cells = Page(Report("t").table(rows).html()).cells[4:]
    assert cells == ["70.8", "0.370", "12", "nan", "5.0", "0.000", "3", "1,234"]


def test_a_figure_is_drawn_for_light_and_for_dark_screens() -> None:
    text = Report("t").figure(lambda theme: Figure(facecolor=theme.paper)).html()
    dark, light = re.findall(r'srcset="([^"]+)".*src="([^"]+)"', text)[0]
    for source, theme in ((dark, DARK), (light, LIGHT)):
        with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as image:
            assert image.convert("RGB").getpixel((5, 5)) == tuple(round(255 * part) for part in to_rgb(theme.paper))
    assert 'media="(prefers-color-scheme: dark)"' in text and "color-scheme: light dark" in text


def test_paragraphs() -> None:
    assert Report("t").text("one\n\ntwo").html().count("<p>") == 2


def test_inspect_without_a_model_shows_candidates(photographs: Path, tmp_path: Path) -> None:
    state = torch.random.get_rng_state()
    picture, page = inspect(photographs, tmp_path / "out", preset="simclr", size=24, candidates=3, count=2)
    assert (picture, page) == (tmp_path / "out" / "contact_sheet.png", tmp_path / "out" / "contact_sheet.html")
    assert torch.equal(torch.random.get_rng_state(), state)
    dark, light = (base64.b64decode(address.partition(",")[2]) for address in Page(page.read_text()).fetched)
    with Image.open(picture) as drawn, Image.open(io.BytesIO(light)) as shown:
        assert drawn.mode == "RGB" and shown.width == min(drawn.width, 1400) and shown.format == "WEBP" and dark != light
    assert "image-0.png, image-4.png" in page.read_text() and "view: 2 of 3 candidates, 24 px" in page.read_text()
    again, _ = inspect(photographs, tmp_path / "again", preset="simclr", size=24, candidates=3, count=2)
    other, _ = inspect(photographs, tmp_path / "other", preset="simclr", size=24, candidates=3, count=2, seed=1)
    assert again.read_bytes() == picture.read_bytes() != other.read_bytes()


def test_inspect_with_a_model_shows_the_pair_that_it_finds_hardest(photographs: Path, tmp_path: Path) -> None:
    judge = sampler()
    tables = []
    score = judge.score

    def watched(*arguments: object, **options: object) -> object:
        tables.append(score(*arguments, **options))
        return tables[-1]

    judge.score = watched
    _, page = inspect(photographs, tmp_path, sampler=judge, count=10)
    cells = Page(page.read_text()).cells
    assert cells[:6] == ["image", "chosen", "loss, chosen", "loss, random", "IoU, chosen", "IoU, random"]
    rows = [cells[start : start + 6] for start in range(6, 36, 6)]
    assert {"torch", "processor", "device"} < set(cells[36:])
    assert [row[0] for row in rows] == [f"image-{index}.png" for index in range(5)]
    (scored,) = tables
    chosen = exact(scored.table, judge.slots)
    for image, row in enumerate(rows):
        u, v = chosen[:, image].tolist()
        assert row[1] == f"{labels(3)[u]} {labels(3)[v]}"
        assert float(row[2]) == pytest.approx(scored.table[u, v, image].item(), abs=6e-3)
        assert float(row[2]) >= float(row[3])
        assert float(row[4]) == pytest.approx(scored.params.iou()[u, v, image].item(), abs=6e-4)


def test_inspect_takes_single_files(photographs: Path, tmp_path: Path) -> None:
    _, page = inspect([photographs / "image-3.png"], tmp_path, size=24, candidates=2)
    assert set(re.findall(r"image-\d", page.read_text())) == {"image-3"}


def test_inspect_refuses_and_writes_nothing(photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, empty = tmp_path / "out", tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(HVSError, match=r"RawImages\(path\): expected at least one image"):
        inspect(empty, out)
    with pytest.raises(HVSError, match=r"inspect\(count\): expected at least one image, got int 0"):
        inspect(photographs, out, count=0)
    with pytest.raises(HVSError, match=r"preset\(name\): expected one of"):
        inspect(photographs, out, preset="simlcr")
    slots = [ViewSlot(None, candidates=4, select=2)]
    with pytest.raises(HVSError, match=r"inspect\(sampler\): expected a sampler made with views"):
        inspect(photographs, out, sampler=HardPairSampler(nn.Flatten(), NTXentLoss(temperature=0.1), slots))
    (photographs / "broken.png").write_bytes(b"no image")
    with pytest.raises(HVSError, match=r"broken\.png"):
        inspect(photographs, out)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(HVSError, match=r"expected matplotlib, for its figures.*\n  hint: pip install 'hvs-aug\[demo\]'"):
        inspect([photographs / "image-0.png"], out, size=24)
    assert not out.exists()
