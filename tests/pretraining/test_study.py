"""Arms choose as they are named, cost what they should, and runs of equal seeds are equal."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from scipy.stats import ttest_1samp

from hvs_aug import HVSError, ImageBatch
from hvs_aug.analysis.paired import paired_difference
from hvs_aug.pretraining.methods import predict_the_others
from hvs_aug.pretraining.study import ARMS, Study, arithmetic, prepared, spread_of, train
from hvs_aug.views.recipe import ViewSlot


@pytest.fixture(scope="module")
def images() -> ImageBatch:
    generator = torch.Generator().manual_seed(0)
    return ImageBatch.of(torch.randint(0, 256, (20, 3, 16, 16), dtype=torch.uint8, generator=generator))


def study(method: str = "simclr") -> Study:
    encoder = "vit-micro" if method == "ibot" else "resnet8-strided"
    return Study(method, encoder, size=16, batch_size=8)


@pytest.mark.parametrize("method", ["simclr", "simsiam", "byol", "dino", "ibot"])
def test_every_candidate_is_trained_on_where_all_are_kept(method: str, images: ImageBatch) -> None:
    run = prepared(study(method), ARMS["all"], images, steps=2, seed=0)
    hard = run.sampler(images[:8], run.method.extras(run.views.slots, 8, run.sampler.generator))
    assert len(hard.views) == run.views.candidates
    assert len(hard.views) > sum(slot.select for slot in prepared(study(method), ARMS["half"], images, 2, 0).views.slots)
    assert run.method.loss(hard).isfinite()


def test_slots_are_recast_for_every_arm(images: ImageBatch) -> None:
    def one_local(slot: ViewSlot) -> ViewSlot:
        return replace(slot, select=1, candidates=slot.candidates // slot.select) if slot.role == "local" else slot

    recast = replace(study("dino"), recast=one_local)
    found = {arm: len(prepared(recast, ARMS[arm], images, 2, 0).sampler(images[:8]).views) for arm in ("random", "full", "all")}
    assert found == {"random": 3, "full": 3, "all": 6}
    assert [slot.candidates for slot in recast.slots(1)] == [1, 1, 1]


def test_arithmetic_is_that_of_forwards(images: ImageBatch) -> None:
    found = {arm: arithmetic(study(), ARMS[arm], images) for arm in ("random", "full", "half", "all", "min_iou")}
    ratios = {arm: count / found["random"] for arm, count in found.items()}
    assert ratios["min_iou"] == 1 and ratios["all"] == pytest.approx(2, rel=0.05)
    assert ratios["full"] == pytest.approx(1 + 4 / 6, rel=0.05)  # four forwards for two forwards and backwards
    assert 1.1 < ratios["half"] < 1.35


def test_a_run_is_decided_by_its_seed(images: ImageBatch) -> None:
    runs = [train(study(), ARMS["half"], images, steps=4, seed=seed) for seed in (1, 1, 2)]
    weights = [torch.cat([weight.flatten() for weight in method.parameters()]) for method, _ in runs]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert runs[0][1] == runs[1][1] and [line["step"] for line in runs[0][1]] == [1, 2, 3, 4]


def test_a_warm_up_chooses_at_random_for_its_share(images: ImageBatch) -> None:
    run = prepared(study(), ARMS["warmup"], images, steps=4, seed=0)
    is_scored = [bool(run.sampler(images[:8]).loss.isfinite().all()) for _ in range(4)]
    assert is_scored == [False, False, True, True]


def test_fewer_images_than_a_batch_are_refused(images: ImageBatch) -> None:
    with pytest.raises(HVSError, match=r"train\(images\): expected a batch of 8 images or more, got 4"):
        train(study(), ARMS["random"], images[:4], steps=1, seed=0)


def test_the_mean_target_is_that_of_the_other_views() -> None:
    predictions, targets = torch.randn(4, 5, 3), torch.randn(4, 5, 3)
    expected = 0.0
    for view in range(4):
        others = sum(targets[other] for other in range(4) if other != view) / 3
        expected -= torch.nn.functional.cosine_similarity(predictions[view], others, dim=1).mean().item() / 4
    assert predict_the_others(list(predictions), list(targets)).item() == pytest.approx(expected, abs=1e-6)


def test_spread_tells_a_collapse() -> None:
    apart, alike = torch.randn(500, 16), torch.ones(500, 16) + 1e-3 * torch.randn(500, 1)
    assert spread_of(apart)["feature_std"] == pytest.approx(1, abs=0.02) and spread_of(apart)["feature_rank"] > 14
    assert spread_of(alike)["feature_std"] < 0.01
    line = torch.randn(500, 1) * torch.ones(1, 16)
    assert spread_of(line)["feature_rank"] == pytest.approx(1, abs=0.01)


def test_the_interval_is_scipys() -> None:
    ours, theirs = [47.0, 49.5, 48.0, 46.0], [44.0, 45.0, 44.5, 45.5]
    found = paired_difference(ours, theirs)
    interval = ttest_1samp([own - other for own, other in zip(ours, theirs, strict=True)], 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx(tuple(interval))
    assert found.is_distinguishable == (interval.low > 0)
    assert not paired_difference([1.0], [0.0]).is_distinguishable and "one seed" in str(paired_difference([1.0], [0.0]))
    with pytest.raises(HVSError, match="expected pairs, at least one, got 1 and 2"):
        paired_difference([1.0], [1.0, 2.0])
