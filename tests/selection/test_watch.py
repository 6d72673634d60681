"""Seconds by phase, which are added up for whoever asks, and change nothing."""

from __future__ import annotations

import torch
from torch import nn

from hvs_aug.selection.losses import NTXentLoss
from hvs_aug.selection.sampler import HardPairSampler
from hvs_aug.selection.scoring import Scoring
from hvs_aug.selection.watch import mark, timings

from .models import images, pairs


def sampler_of(**options) -> HardPairSampler:
    return HardPairSampler(nn.Flatten(), NTXentLoss(0.5), pairs(), generator=torch.Generator().manual_seed(0), **options)


def test_every_phase_is_counted_and_the_sampler_is_left_as_it_is() -> None:
    sampler, other = sampler_of(), sampler_of()
    attributes = sorted(vars(sampler))
    with timings() as seconds:
        hard = sampler(images())
    assert list(seconds) == ["views", "scoring", "search", "render"]
    assert all(value > 0 for value in seconds.values())
    assert sorted(vars(sampler)) == attributes
    assert torch.equal(hard.indices, other(images()).indices)
    once = dict(seconds)
    sampler(images())
    assert seconds == once  # no longer counted


def test_steps_add_up_and_one_that_is_not_scored_counts_no_scoring() -> None:
    sampler = sampler_of(scoring=Scoring(every=2))
    with timings() as seconds:
        sampler(images())
        scored = dict(seconds)
        sampler(images())
        assert seconds["scoring"] == scored["scoring"] and seconds["render"] > scored["render"]


def test_the_inner_of_two_counts() -> None:
    device = torch.device("cpu")
    with timings() as outer:
        with timings() as inner:
            mark(None, device)
            mark("views", device)
        assert inner["views"] > 0 and outer["views"] == 0
        mark("search", device)
    assert outer["search"] > 0
    mark("search", device)  # nobody asks
