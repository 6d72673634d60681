from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from hvs_aug import ops
from hvs_aug.views import proof
from hvs_aug.views.convert import _read, _run
from hvs_aug.views.presets import preset_slots
from tests.views.repo_transforms import simsiam_view


def test_equal_samples_do_not_differ() -> None:
    generator = np.random.default_rng(0)
    worst = max(proof._surprise(generator.random(200), generator.random(200), 0.0) for _ in range(300))
    assert 3 < worst < proof._LIMIT - 6


def test_small_differences_within_the_slack_are_none() -> None:
    assert proof._surprise(np.full(50, 0.5), np.full(50, 0.51), 0.02) == 0
    assert proof._surprise(np.full(50, 0.5), np.full(50, 0.53), 0.02) > proof._LIMIT


def test_a_blur_that_is_a_little_weaker_is_seen_by_its_sharpness() -> None:
    theirs, ours = v2.GaussianBlur(5, 0.6), ops.GaussianBlur(5, (0.8, 0.8))
    difference = proof.part_difference(theirs, ours, lambda pixels: pixels, 32)
    assert difference is not None and difference.startswith("sharpness")
    assert proof.part_difference(v2.GaussianBlur(5, 0.8), ours, lambda pixels: pixels, 32) is None


def test_views_of_one_row_or_column_have_no_sharpness() -> None:
    found = {
        size: "sharpness" in [name for name, *_ in proof._facts(torch.rand(3, 3, *size), None)] for size in [(2, 2), (1, 2), (2, 1)]
    }
    assert found == {(2, 2): True, (1, 2): False, (2, 1): False}


def test_a_probability_that_differs_is_seen() -> None:
    never, seldom = np.zeros(proof._PART_RUNS), np.zeros(proof._PART_RUNS)
    seldom[: proof._PART_RUNS // 10] = 1
    assert proof._surprise(never, seldom, 0.1) > proof._LIMIT


@pytest.mark.parametrize("seed", range(8))
def test_a_right_conversion_is_not_refused(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    if seed % 2:
        pipeline = simsiam_view(32)
    else:
        lines = preset_slots("byol", 32)[1].recipe.torchvision_lines()
        pipeline = v2.Compose([eval(line, {"v2": v2, "torch": torch}) for line in lines])
    recipe, parts = _read(pipeline)
    for part in parts[1:]:
        assert proof.part_difference(part.transform, part.operation, part.pixels.as_given, 32) is None
    assert proof.view_difference(lambda image: _run(pipeline, image), recipe, None) is None
