"""Runs that resume bit for bit, stop where they are asked to, and write down what they did."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hvs_aug._check import HVSError
from hvs_aug.pretraining.build import METHODS
from hvs_aug.pretraining.loop import (
    Pretraining,
    Settings,
    fitting_size,
    load_method,
    summarise,
    time_shares,
)
from hvs_aug.selection.named import POLICIES
from hvs_aug.selection.scoring import CHEAP, Scoring

from .runs import Noise, metrics, saved, settings, small_run


def assert_equal_runs(first: Path, second: Path) -> None:
    (tensors, state), (others, other) = saved(first), saved(second)
    assert state == other and tensors.keys() == others.keys()
    for name, value in tensors.items():
        assert torch.equal(value, others[name]), name


@pytest.mark.parametrize("changed", [{}, {"every": 2, "scoring": "cheap"}], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_a_stopped_run_resumes_bit_for_bit(method: str, changed: dict[str, Any], tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    small_run(method, epochs=2, **changed).run(whole, progress=False, log_every=1)
    small_run(method, epochs=2, **changed).run(parts, progress=False, log_every=1, stop_at=2)  # amid the first epoch
    assert saved(parts)[1]["step"] == 2 and not (parts / "encoder.safetensors").exists()
    Pretraining.resume(parts / "checkpoint.safetensors", Noise()).run(parts, progress=False, log_every=1)
    assert_equal_runs(whole, parts)
    assert (whole / "encoder.safetensors").read_bytes() == (parts / "encoder.safetensors").read_bytes()
    for one, two in zip(metrics(whole), metrics(parts), strict=True):
        for timing in ("seconds", "images_per_second"):
            del one[timing], two[timing]
        assert one == two


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning", "ignore:This DataLoader will create:UserWarning")
def test_worker_processes_change_nothing_nor_does_another_number_of_them_after_a_stop(tmp_path: Path) -> None:
    small_run(epochs=1).run(tmp_path / "none", progress=False)
    Pretraining(settings(epochs=1), Noise(), workers=4).run(tmp_path / "some", progress=False, stop_at=2)  # amid the epoch
    Pretraining.resume(tmp_path / "some" / "checkpoint.safetensors", Noise(), workers=1).run(tmp_path / "some", progress=False)
    assert_equal_runs(tmp_path / "none", tmp_path / "some")


def test_every_epoch_sees_every_image_once_in_an_order_of_its_own() -> None:
    images = Noise()
    small_run(images=images).run(progress=False)
    epochs = [images.asked[start : start + 12] for start in (0, 12, 24)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_the_last_images_of_an_epoch_that_make_no_batch_wait_for_the_next() -> None:
    images = Noise(count=11)
    run = small_run(images=images)
    run.run(progress=False)
    assert (run.steps_per_epoch, run.step) == (2, 6) and len(images.asked) == 24
    assert small_run(images=Noise(count=3)).batch_size == 3


def test_the_global_random_state_is_not_touched() -> None:
    run = small_run()
    state = torch.get_rng_state()
    run.run(progress=False)
    assert torch.equal(state, torch.get_rng_state())


def test_metrics_say_what_was_chosen_and_where_the_time_went(tmp_path: Path) -> None:
    returned = small_run().run(tmp_path, progress=False, log_every=4)
    lines = metrics(tmp_path)
    assert lines == returned and [line["step"] for line in lines] == [4, 8, 9]  # every fourth, and the last
    for line in lines:
        assert set(line["seconds"]) == {"loading", "views", "scoring", "search", "training"}
        assert 0 <= line["iou"] <= 1 and 0 < line["iou_random"] < 1 and sum(line["chosen"]) == pytest.approx(1)
        assert line["chosen_loss"] > 0 and line["nonfinite"] == 0
    assert lines[-1]["epoch"] == 3 and sum(time_shares(lines).values()) == pytest.approx(1)
    text = "\n".join(summarise(lines))
    assert "in step 9" in text and "overlap (IoU)" in text and "scoring" in text


def test_random_views_are_not_scored() -> None:
    run = small_run(policy="random", candidates=2)
    calls: list[int] = []
    run.sampler.model = lambda images: calls.append(len(images))
    lines = run.run(progress=False, log_every=1)
    assert not calls and all(line["chosen_loss"] is None and line["iou"] == line["iou_random"] for line in lines)


def test_all_candidates_are_trained_on_and_not_scored(tmp_path: Path) -> None:
    run = small_run("simsiam", policy="all", candidates=3)
    line = run.run(tmp_path, progress=False, log_every=1)[-1]
    assert line["chosen_loss"] is None and line["chosen"] == pytest.approx([1 / 3] * 3, abs=1e-4)
    assert [slot.select for slot in run.views.slots] == [3]
    resumed = Pretraining.resume(tmp_path / "checkpoint.safetensors", Noise())
    assert resumed.settings.policy == "all" and [slot.select for slot in resumed.views.slots] == [3]


def test_the_overlap_is_that_of_the_views_that_were_chosen() -> None:
    lines = small_run(policy="min_iou", candidates=8).run(progress=False, log_every=1)
    assert all(line["iou"] < 0.5 * line["iou_random"] for line in lines)


def test_steps_that_are_not_scored_are_reported_as_such() -> None:
    for line in small_run(every=2).run(progress=False, log_every=1):
        is_scored = line["step"] % 2 == 1
        assert (line["chosen_loss"] is not None) == is_scored == (line["seconds"]["scoring"] > 0)


def test_settings_of_a_scoring_stand_before_its_name() -> None:
    assert Settings().as_scoring() == CHEAP
    assert Settings(scoring="full").as_scoring() == Scoring()
    assert Settings(scoring="cheap", score_scale=0.75, every=3).as_scoring() == replace(CHEAP, scale=0.75, every=3)


def test_hard_views_have_more_loss_than_all_pairs() -> None:
    run = small_run(candidates=6, images=Noise(count=16), batch_size=16)
    batch = torch.stack([run.dataset[index][0] for index in range(16)])
    params = run.views.make_params(batch, torch.Generator().manual_seed(0))
    hard, scored = run.sampler(batch, params=params), run.sampler.score(batch, params=params)
    rows, columns = torch.triu_indices(6, 6, 1)
    assert torch.equal(hard.loss, scored.table[rows, columns].amax(0))


def test_lines_of_steps_that_are_computed_again_are_cut(tmp_path: Path) -> None:
    small_run().run(tmp_path, progress=False, log_every=1, stop_at=4)
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        path.read_text() + '{"step": 5}\n{"step": 6, "lo'
    )  # a run that was killed amid a line, after its last checkpoint
    Pretraining.resume(tmp_path / "checkpoint.safetensors", Noise()).run(tmp_path, progress=False, log_every=1)
    assert [line["step"] for line in metrics(tmp_path)] == list(range(1, 10))


def test_a_loss_that_is_not_finite_stops_the_run_before_anything_is_written(tmp_path: Path) -> None:
    run = small_run()
    run.method.loss = lambda hard: next(run.method.parameters()).sum() * float("nan")  # type: ignore[method-assign]
    with pytest.raises(HVSError, match=r"expected a finite loss, got nan in step 1.\n  hint: .*--learning-rate"):
        run.run(tmp_path / "out", progress=False, log_every=1)
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_gives_the_method_back(tmp_path: Path) -> None:
    run = small_run("byol", seed=3)
    run.run(tmp_path, progress=False)
    method, of = load_method(tmp_path / "checkpoint.safetensors")
    assert of == run.settings
    assert all(torch.equal(value, method.state_dict()[name]) for name, value in run.method.state_dict().items())


def test_other_images_or_weights_are_refused(tmp_path: Path) -> None:
    run = small_run()
    run.run(tmp_path, progress=False, stop_at=1)
    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(HVSError, match="expected the 12 images that the run began with, got 13"):
        Pretraining.resume(path, Noise(13))
    run.settings = settings("simsiam")
    run.save(path)
    with pytest.raises(HVSError, match="expected the weights of SimSiam, got others"):
        load_method(path)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"method": "simclrr"}, "Settings(method): expected one of byol, dino, ibot, simclr, simsiam, got 'simclrr'"),
        ({"epochs": 0}, "Settings(epochs): expected an integer of at least 1, got int 0"),
        ({"learning_rate": -1.0}, "Settings(learning_rate): expected a finite number above 0, got float -1.0"),
        ({"learning_rate": float("inf")}, "Settings(learning_rate): expected a finite number above 0, got float inf"),
        ({"seed": -1}, "Settings(seed): expected an integer from 0 to 2**32 - 1, got int -1"),
        ({"policy": "hardes"}, "did you mean 'hardest'?"),
        ({"policy": "softmax"}, "--policy: expected softmax with a number after a colon, got 'softmax'"),
        ({"policy": "softmax:0"}, "softmax(temperature)"),
        ({"policy": "min_iou:3"}, "--policy: expected min_iou alone, got 'min_iou:3'"),
        ({"scoring": "cheep"}, "--scoring: expected one of cheap, full, got 'cheep'.\n  hint: did you mean 'cheap'?"),
        ({"score_scale": 2.0}, "--score-scale: expected a number in (0, 1], got float 2.0"),
        ({"every": 0}, "--every: expected an integer of at least 1, got int 0"),
    ],
)
def test_bad_settings(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(HVSError) as caught:
        Settings(**changed)
    assert message in str(caught.value)


def test_every_policy_trains() -> None:
    numbers = {"softmax": "0.5", "semi_hard": "0.9", "mixture": "0.5", "warmup": "1"}
    for name in POLICIES:
        spelled = f"{name}:{numbers[name]}" if name in numbers else name
        small_run(policy=spelled, epochs=1).run(progress=False, stop_at=2)


def test_dino_trains_a_resnet() -> None:
    run = small_run("dino", encoder="resnet8", epochs=1)
    assert all(line["loss"] > 0 for line in run.run(progress=False, log_every=1))


def test_the_size_of_the_views_follows_the_images() -> None:
    assert fitting_size(Noise(side=40), "simclr") == 40
    assert fitting_size(Noise(side=30), "dino") == 28  # whole patches
    assert fitting_size(Noise(side=300), "simsiam") == 224
