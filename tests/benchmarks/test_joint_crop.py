"""JointCrop's areas follow its law: unlike sizes, both within the scale."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import kstest

from benchmarks.joint_crop import JointCropViews, joint_areas
from hvs_aug import CandidateViews, HVSError, ViewSlot


def test_areas_stay_in_the_scale_and_their_quotient_is_log_uniform() -> None:
    areas = joint_areas(4000, (0.2, 1.0), torch.Generator().manual_seed(0))
    assert areas.min() >= 0.2 and areas.max() <= 1
    quotient = (areas[1] / areas[0]).log()
    reach = math.log(4.9)
    assert kstest(quotient.numpy(), "uniform", args=(-reach, 2 * reach)).pvalue > 0.01


def test_boxes_lie_in_the_image_and_have_those_areas() -> None:
    recipe = CandidateViews.preset("simclr", size=32).slots[0].recipe
    views = JointCropViews([ViewSlot(recipe, candidates=2, select=2)])
    images = torch.zeros(500, 3, 60, 80, dtype=torch.uint8)
    params = views.make_params(images, torch.Generator().manual_seed(0))
    top, left, height, width = params.boxes.unbind(-1)
    assert (top >= 0).all() and (left >= 0).all() and (top + height <= 60).all() and (left + width <= 80).all()
    shares = (height * width) / 4800
    plain = CandidateViews(views.slots).make_params(images, torch.Generator().manual_seed(0)).boxes
    independent = plain[..., 2] * plain[..., 3] / 4800
    assert (shares[0].log() - shares[1].log()).abs().mean() > 1.2 * (independent[0].log() - independent[1].log()).abs().mean()
    assert views.transform(images[:2], views.make_params(images[:2]))[0].shape == (2, 2, 3, 32, 32)


def test_other_slots_are_refused() -> None:
    recipe = CandidateViews.preset("simclr", size=32).slots[0].recipe
    with pytest.raises(HVSError, match="expected one slot of two candidates"):
        JointCropViews([ViewSlot(recipe, candidates=4, select=2)]).make_params(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
