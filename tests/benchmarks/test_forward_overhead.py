"""The published contestants choose what they claim to: their cost is compared at a choice that is known."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch

from benchmarks import forward_overhead
from benchmarks.forward_overhead import PublishedMultiCrop, PublishedPair, contestants, summarised
from hvs_aug.analysis.workload import FULL, RANDOM
from hvs_aug.pretraining.build import build_method
from hvs_aug.selection.search import selection_loss


def images(count: int = 3) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("method", ["simsiam", "simclr"])
@pytest.mark.parametrize("pasted", [False, True])
def test_two_views_are_chosen_as_by_us(method: str, pasted: bool) -> None:
    trainee = build_method(method, 16, encoder="resnet8")
    views = trainee.views(16, 4)
    ours = trainee.sampler(views)
    params = views.make_params(images(), torch.Generator().manual_seed(1))
    expected = ours(images(), params=params)
    calls: list[int] = []
    trainee.encoder.register_forward_hook(lambda module, arguments, output: calls.append(len(output)))
    hard = PublishedPair(trainee, views, pasted=pasted)(images(), params=params)
    assert calls == [12] * (2 if pasted else 1)
    assert torch.equal(hard.indices, expected.indices)
    torch.testing.assert_close(hard.loss, expected.loss, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(first, second) for first, second in zip(hard.views, expected.views, strict=True))


@pytest.mark.parametrize("method", ["dino", "ibot"])
def test_several_crops_are_chosen_from_random_combinations(method: str) -> None:
    trainee = build_method(method, 32, encoder="vit-micro")
    views = trainee.views(32, 2)
    ours = trainee.sampler(views)
    params = views.make_params(images(), torch.Generator().manual_seed(1))
    extras = trainee.extras(views.slots, 3, torch.Generator().manual_seed(2))
    scored = ours.score(images(), extras, params=params)
    hard = PublishedMultiCrop(trainee, views)(images(), extras, params=params)
    torch.testing.assert_close(hard.loss, selection_loss(scored.table, hard.indices), rtol=1e-4, atol=1e-4)
    assert (hard.loss <= ours(images(), extras, params=params).loss + 1e-4).all()  # ours is the optimum
    rendered = [view for slot in views.transform(images(), params) for view in slot]
    for place, view in enumerate(hard.views):
        for image in range(3):
            assert torch.equal(view[image], rendered[hard.indices[place, image]][image])
    if method == "ibot":
        for image in range(3):
            assert torch.equal(hard.extras["masks"][1, image], extras["masks"][hard.indices[1, image], image])
    trainee.loss(hard).backward()


def test_heads_are_as_wide_as_in_the_repos_unless_told() -> None:
    assert forward_overhead.build("dino", "vit-micro", 32, None).center.shape == (1, 65536)
    assert forward_overhead.build("ibot", "vit-micro", 32, 64).center.shape == (1, 64)
    first, second = (forward_overhead.build("simclr", "resnet8", 16, None).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_contestants_of_a_table() -> None:
    full = contestants("dino", "vit-tiny", False)
    assert {FULL, "half", "cheap", "published", "published, pasted twice"} <= set(full)
    assert set(contestants("simsiam", "resnet18", True)) == {FULL, "half", "cheap"}


def test_the_full_table_is_followed_by_short_ones_of_more_candidates_and_the_other_network() -> None:
    assert forward_overhead.tables("simclr") == [("resnet18", 4), ("resnet18", 8), ("resnet50", 4)]
    assert forward_overhead.tables("dino", large=True) == [("vit-small", 2), ("vit-small", 4), ("vit-tiny", 2)]
    options = argparse.Namespace(
        methods=["simsiam"], quick=False, large=False, main_only=False, data=None, size=64, batch=4, prototypes=None
    )
    made = list(forward_overhead.workloads(options))
    assert [(facts["main"], len(choosers) > 3) for facts, _, choosers in made] == [(True, True), (False, False), (False, False)]
    assert made[1][0]["workload"] == "simsiam resnet18 64px B=4 N=8"
    options.main_only = True
    assert len(list(forward_overhead.workloads(options))) == 1


def test_the_summary_is_the_worst_of_the_methods() -> None:
    def row(method: str, setting: str, ratio: float, captured: float, main: bool = True) -> dict:
        found = {"method": method, "setting": setting, "ratio": ratio, "median": ratio, "captured": captured, "main": main}
        return found | {"over_bound": ratio / 1.5}

    rows = []
    for method, half in (("simsiam", 1.2), ("dino", 1.3)):
        rows += [row(method, RANDOM, 1.0, 0.0), row(method, FULL, 1.6, 1.0), row(method, "half", half, half - 0.3)]
        rows += [row(method, "cheap", half - 0.1, 0.8), row(method, "published", 3.2, 1.0)]
        rows.append(row(method, "published, pasted twice", 4.8, 1.0))
    rows.append(row("simsiam", "half", 9.0, 0.0, main=False))
    summary = summarised(rows)
    assert summary["simsiam_half_ratio"] == 1.2
    assert summary["half_hardness_captured"] == pytest.approx(0.9)
    assert summary["cheap_ratio"] == pytest.approx(1.2)
    assert summary["published_over_ours"] == 2.0
    assert summary["dino_pasted_over_ours"] == pytest.approx(3.0)
    assert summary["dino_full_vs_bound"] == pytest.approx(1.6 / 1.5)


def test_finished_workloads_are_left_out_or_judged_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = [({"workload": name, "main": True}, None, {}) for name in ("one", "two")]
    monkeypatch.setattr(forward_overhead, "workloads", lambda options: made)
    timed = [{"setting": setting, "ratio": 1.2, "peak_bytes": 2**20} for setting in ("published", "published, pasted twice")]
    monkeypatch.setattr(forward_overhead, "costs", lambda *_, **__: timed)
    monkeypatch.setattr(forward_overhead, "hardness", lambda *_, **__: {"half": {"captured": 0.9}, "published": {"captured": 0.5}})
    options = argparse.Namespace(judge=False, quick=False, points=(0, 5), judged=1, repeats=1)
    finished = [{"workload": "one", "setting": "half", "ratio": 1.1, "captured": 0.1}]
    assert [rows[0]["workload"] for rows in forward_overhead.run(options, finished)] == ["two"]
    options.judge = True
    first, second = forward_overhead.run(options, finished)
    assert first == [finished[0] | {"captured": 0.9}]  # its time is kept
    assert [(row["workload"], row["captured"], row["peak_mib"]) for row in second] == [("two", 0.5, 1.0)] * 2


def test_a_checkout_is_timed_with_and_without_the_lines_of_its_example(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = tmp_path / "examples"
    examples.mkdir()
    (examples / "checkout.py").write_text("def at_head(owner, name, lines):\n    lines()\n")
    log = tmp_path / "log"
    example = f"import sys\nfrom checkout import at_head\nopen({str(log)!r}, 'a').write(' '.join(sys.argv[3:]) + ';')\n"
    (examples / "wrap_dino.py").write_text(example + f"at_head(None, '', lambda: open({str(log)!r}, 'a').write('hard;'))\n")
    monkeypatch.setattr(forward_overhead, "ROOT", tmp_path)
    rows = forward_overhead.run_checkout("dino", tmp_path, ["--epochs", "1"])
    assert log.read_text() == "-- --epochs 1;-- --epochs 1;hard;"
    assert [row["setting"] for row in rows] == [RANDOM, FULL]
    assert rows[0]["ratio"] == 1.0
    with pytest.raises(ValueError, match="expected a repo with an example and a folder"):
        forward_overhead.run_checkout("dino", tmp_path / "nowhere", [])
