"""benchmarks.common: fair turns, honest summaries, and a schema that fails."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import common
from hvs_aug import HVSError


def document() -> dict[str, Any]:
    return {
        "benchmark": "example",
        "commit": "0" * 40,
        "made": "2026-01-02T03:04:05+00:00",
        "machine": common.machine(),
        "settings": {"size": 224, "sizes": [1, 2]},
        "rows": [{"contestant": "ours", "median": 0.5, "iqr": 0.0, "repeats": 3, "note": None, "wins": True}],
        "summary": {"ratio": 1.5},
    }


def test_every_contestant_runs_once_a_round_in_changing_order() -> None:
    ran: list[str] = []
    contestants = {name: (lambda name=name: ran.append(name)) for name in "abc"}
    seconds = common.interleave(contestants, repeats=5, warmup=2)
    rounds = [tuple(ran[start : start + 3]) for start in range(0, len(ran), 3)]
    assert len(rounds) == 7 and all(sorted(turn) == ["a", "b", "c"] for turn in rounds)
    assert len(set(rounds)) > 1 and {turn[0] for turn in rounds} == {"a", "b", "c"}
    assert {name: len(times) for name, times in seconds.items()} == {"a": 5, "b": 5, "c": 5}
    assert all(time >= 0 for times in seconds.values() for time in times)


def test_interleave_refuses_nothing_to_run() -> None:
    with pytest.raises(HVSError, match=r"interleave\(contestants\): expected at least one, got none"):
        common.interleave({}, repeats=1)
    with pytest.raises(HVSError, match=r"interleave\(repeats\): expected at least one round, got int 0"):
        common.interleave({"a": list}, repeats=0)


def test_summary_of_one_timing_has_no_spread() -> None:
    assert common.summarise([0.25]) == {"median": 0.25, "iqr": 0.0, "repeats": 1}


def test_machine_names_what_a_figure_depends_on() -> None:
    described = common.machine()
    assert described["threads"] >= 1 and described["cpu"] and described["torch"][0].isdigit()
    json.dumps(described, allow_nan=False)


def test_good_document_passes() -> None:
    common.check(document())


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (["benchmark"], "No Name", "a lower-case name"),
        (["commit"], "abc", "a full commit"),
        (["made"], "yesterday", "an ISO date under made"),
        (["made"], "2026-01-02T03:04:05", "a date with its time zone"),
        (["machine"], {"cpu": "x"}, "a machine with cpu"),
        (["settings"], [], "an object under settings"),
        (["settings", "scale"], float("inf"), r"check\(document\.settings\.scale\): expected text, a finite number"),
        (["settings", "path"], Path(), "text, a finite number"),
        (["rows"], [], "a list of at least one row"),
        (["rows", 0], {}, r"check\(rows\[0\]\): expected an object"),
        (["rows", 0, "median"], 0.0, "a positive median"),
        (["rows", 0, "median"], float("nan"), "a positive median"),
        (["rows", 0, "iqr"], -1e-9, "an iqr of at least 0"),
        (["rows", 0, "repeats"], True, "at least one repeat"),
        (["rows", 0, "extra"], float("nan"), r"document\.rows\[0\]\.extra"),
        (["summary", "ratio"], float("nan"), "nan under summary.ratio"),
        (["summary", "ratio"], None, "None under summary.ratio"),
        (["summary", "ratio"], True, "True under summary.ratio"),
    ],
)
def test_schema_fails(path: list[Any], value: Any, words: str) -> None:
    broken = copy.deepcopy(document())
    place: Any = broken
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(HVSError, match=words):
        common.check(broken)


@pytest.mark.parametrize("key", list(document()))
def test_schema_misses_no_key(key: str) -> None:
    broken = document()
    del broken[key]
    with pytest.raises(HVSError, match="expected the keys benchmark, commit"):
        common.check(broken)


@pytest.mark.parametrize("key", ["median", "iqr", "repeats"])
def test_timings_come_with_their_spread(key: str) -> None:
    broken = document()
    del broken["rows"][0][key]
    with pytest.raises(HVSError, match="median, iqr and repeats together"):
        common.check(broken)


def test_written_file_passes_and_a_bad_one_is_not_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = common.write(
        "example", {"size": 8}, [{"contestant": "ours", **common.summarise([1.0, 2.0])}], {"ratio": 2.0}, tmp_path / "a" / "b.json"
    )
    read = json.loads(out.read_text())
    common.check(read)
    assert read["summary"] == {"ratio": 2.0} and read["rows"][0]["median"] == 1.5
    assert str(out) in capsys.readouterr().out
    with pytest.raises(HVSError, match="a finite number"):
        common.write("example", {}, [{"contestant": "ours"}], {"ratio": float("nan")}, tmp_path / "c.json")
    assert not (tmp_path / "c.json").exists()


def test_table_leaves_blank_what_a_row_lacks() -> None:
    assert common.table(
        [{"name": "ours", "share": None}, {"name": "theirs", "share": 0.123456, "wins": True}], ["name", "share", "wins"]
    ) == ("| name   |  share | wins |\n|:-------|-------:|:-----|\n| ours   |        |      |\n| theirs | 0.1235 | True |")


def test_quick_run_spares_the_published_figures() -> None:
    parser = common.arguments("example", "What it measures.")
    assert parser.parse_args([]).out is None and parser.parse_args([]).quick is False
    quick = parser.parse_args(["--quick"])
    assert quick.quick is True and quick.out == common.ROOT / "runs" / "benchmarks" / "example.json"
    for order in (["--quick", "--out", "x.json"], ["--out", "x.json", "--quick"]):
        assert parser.parse_args(order).out == Path("x.json")


def test_published_results_follow_the_schema() -> None:
    for path in sorted(common.RESULTS.glob("*.json")):
        read = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no strict JSON"))
        common.check(read)
        assert read["benchmark"] == path.stem


def test_only_a_run_of_equal_settings_on_an_equal_machine_is_resumed(tmp_path: Path) -> None:
    rows = [{"workload": "one", "setting": "half"}]
    path = common.write("example", {"size": 128, "methods": ["dino"]}, rows, {}, tmp_path / "results.json")
    assert common.resumed(path, {"size": 128, "methods": ["ibot"]}, free=["methods"]) == rows
    assert common.resumed(tmp_path / "none.json", {}) == []
    with pytest.raises(HVSError, match=r"example\(--resume\): expected the settings of .*, got another methods"):
        common.resumed(path, {"size": 128, "methods": ["ibot"]})
    stored = json.loads(path.read_text())
    stored["machine"]["threads"] = 99
    path.write_text(json.dumps(stored))
    with pytest.raises(HVSError, match="expected the machine of .*, got another threads"):
        common.resumed(path, {"size": 128})
    assert common.resumed(path, {"size": 128}, timed=False) == rows
