"""A short, fixed part of the fuzzer, in this process; and the fuzzer itself, on decoders that are wrong, crash or hang."""

from __future__ import annotations

import io
import os
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from benchmarks import fuzz

KNOWN = list(fuzz.cases(len(fuzz.KINDS) * len(fuzz.DAMAGES)))


@pytest.mark.parametrize("damage", [damage.__name__ for damage in fuzz.DAMAGES])
def test_odd_and_damaged_files_are_alike_or_refused(damage: str, tmp_path: Path) -> None:
    shown = 0
    for index, case in enumerate(KNOWN):
        if case.damage != damage:
            continue
        outcome, words = fuzz.judge(case, str(tmp_path))
        assert outcome not in fuzz.FAULTS, (index, case.kind, words)
        assert damage != "leave" or outcome == fuzz.ALIKE, (index, case.kind, words)
        shown += outcome == fuzz.ALIKE
    assert shown > 0 or damage == "cut"


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of odd metadata
def test_every_kind_is_a_whole_file() -> None:
    assert len(fuzz.KINDS) >= 20
    for case in fuzz.cases(len(fuzz.KINDS)):
        assert case.damage == "leave"
        if case.kind not in ("zip", "tar", "tar.gz"):
            Image.open(io.BytesIO(case.data)).load()


@pytest.mark.parametrize("case", [fuzz.Case("zip", "lies", fuzz.zip_bomb(1000)), fuzz.Case("tar.gz", "bomb", fuzz.tar_bomb())])
def test_archives_that_would_fill_the_memory_are_refused(case: fuzz.Case, tmp_path: Path) -> None:
    assert len(case.data) < 1 << 20 and fuzz.judge(case, str(tmp_path))[0] == fuzz.ALIKE  # the one entry is left out
    assert fuzz.compare_bomb(fuzz.black_png(13_000, 13_000))[0] == fuzz.BOTH_REFUSE
    assert fuzz.compare_bomb(fuzz.black_png(70, 80))[0] == fuzz.ALIKE


def test_cases_are_equal_for_equal_seeds() -> None:
    once, again, other = (list(fuzz.cases(100, seed)) for seed in (3, 3, 4))
    assert once == again and once != other


CASE = fuzz.Case("png rgb", "leave", fuzz.encoded(Image.linear_gradient("L").convert("RGB"), "PNG"))


@pytest.mark.parametrize(
    "wrong, outcome",
    [
        (lambda *_: (torch.zeros(3, 256, 256, dtype=torch.uint8), False), fuzz.WRONG),
        (lambda *_: (torch.zeros(3, 255, 256, dtype=torch.uint8), False), fuzz.WRONG),
        (lambda *_: 1 / 0, fuzz.RAW_ERROR),
    ],
)
def test_a_wrong_decoder_is_seen(wrong: Any, outcome: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fuzz, "decode_image", wrong)
    assert fuzz.judge(CASE, str(tmp_path))[0] == outcome


def test_a_decoder_that_shows_what_pillow_refuses_is_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cut = CASE._replace(data=CASE.data[:-200])
    assert fuzz.judge(cut, str(tmp_path))[0] == fuzz.BOTH_REFUSE
    monkeypatch.setattr(fuzz, "decode_image", lambda *_: (torch.zeros(3, 256, 256, dtype=torch.uint8), False))
    assert fuzz.judge(cut, str(tmp_path))[0] == fuzz.WE_SHOW


def test_an_archive_that_loses_an_image_is_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (case,) = (case for case in fuzz.cases(len(fuzz.KINDS)) if case.kind == "tar")
    assert fuzz.judge(case, str(tmp_path))[0] == fuzz.ALIKE
    monkeypatch.setattr("hvs_aug.data.sources.SUFFIXES", frozenset({".bmp"}))
    assert fuzz.judge(case, str(tmp_path)) == (fuzz.LOST, "cat/0.png")


def faulty(pipe: Connection) -> None:
    """A worker that does what the kind of a case says."""
    pipe.send("ready")
    while (case := pipe.recv()) is not None:
        if case.kind == "killed":
            os.kill(os.getpid(), 9)
        if case.kind == "hang":
            time.sleep(60)
        pipe.send(1.5)
        pipe.send((fuzz.ALIKE, ""))


def test_workers_that_die_or_hang_are_counted_and_replaced() -> None:
    worker = fuzz.Worker(faulty, limit=5.0)
    kinds = ("whole", "killed", "whole", "hang", "whole")
    results = {"all": [worker.run(fuzz.Case(kind, "leave", b"")) for kind in kinds]}
    worker.close()
    rows = fuzz.rows_of(results)
    assert fuzz.summary_of(rows) == {
        "files_fuzzed": 5,
        "kinds": 1,
        "files_silently_wrong": 0,
        "processes_killed": 1,
        "hangs": 1,
        "peak_mib": 1.5,
        "shown_by_both": 3,
        "refused_by_both": 0,
        "refused_where_pillow_shows": 0,
    }


def test_the_memory_of_a_large_image_is_seen() -> None:
    worker = fuzz.Worker(limit=60.0)
    found = worker.run(CASE._replace(data=fuzz.encoded(Image.new("RGB", (4000, 4000)), "PNG")))
    worker.close()
    assert found["outcome"] == fuzz.ALIKE and 50 < found["peak_mib"] < 12 * 16
