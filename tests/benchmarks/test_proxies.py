"""The proxies look at what they say."""

from __future__ import annotations

import torch

from benchmarks import proxies
from hvs_aug.pretraining.build import build_method
from hvs_aug.selection.scoring import Scoring


def images() -> torch.Tensor:
    return torch.randint(0, 256, (3, 3, 40, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_tiles_are_every_second_one_of_each_direction() -> None:
    rows, columns = torch.arange(16)[:, None], torch.arange(16)
    got = proxies.tiled((100 * rows + columns).view(1, 1, 16, 16), tiles=4)
    kept = torch.tensor([0, 1, 2, 3, 8, 9, 10, 11])
    assert torch.equal(got[0, 0], 100 * kept[:, None] + kept)


def test_the_middle_of_a_crop_has_its_centre_and_half_its_sides() -> None:
    params = build_method("simclr", 16).views(16, 4).make_params(images(), torch.Generator().manual_seed(0))
    smaller = proxies.middle(params)
    assert torch.equal(smaller.boxes[..., 2:], (params.boxes[..., 2:] + 1) // 2)
    shift = (smaller.boxes[..., :2] + smaller.boxes[..., 2:] / 2) - (params.boxes[..., :2] + params.boxes[..., 2:] / 2)
    assert shift.abs().max() <= 0.5
    assert torch.equal(smaller.blur, 2 * params.blur)


def test_every_contestant_chooses_two_of_four() -> None:
    for method in ("simclr", "simsiam"):
        trainee = build_method(method, 32, encoder="resnet8")
        views = trainee.views(32, 4)
        params = views.make_params(images(), torch.Generator().manual_seed(1))
        for name, factory in proxies.CONTESTANTS.items():
            indices = factory(trainee, views)(images(), params=params).indices
            assert indices.shape == (2, 3) and (indices[0] < indices[1]).all(), name


def test_a_cascade_chooses_one_of_the_leading_pairs_by_their_second_score() -> None:
    trainee = build_method("simsiam", 32, encoder="resnet8")
    views = trainee.views(32, 4)
    params = views.make_params(images(), torch.Generator().manual_seed(1))
    quarter, half = (
        trainee.sampler(views, scoring=Scoring(scale=scale)).score(images(), params=params).table for scale in (0.25, 0.5)
    )
    chosen = proxies.cascade(trainee, views)(images(), params=params).indices
    pairs = [(u, v) for u in range(4) for v in range(u + 1, 4)]
    for image in range(3):
        leading = sorted(pairs, key=lambda pair: -quarter[(*pair, image)])[:2]
        assert tuple(chosen[:, image].tolist()) == max(leading, key=lambda pair: half[(*pair, image)])
