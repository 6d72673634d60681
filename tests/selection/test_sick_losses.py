"""Losses that are not finite, for one image, for half, for all of them: the others are chosen for as if nothing were wrong."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import hvs_aug
from hvs_aug import HardPairSampler, HardViews, MoCoLoss, NegativeCosineLoss, NTXentLoss, Scoring, SwAVLoss, VICRegLoss
from tests.test_copies import TwoViews

from .models import images, pairs, slot

pytestmark = pytest.mark.filterwarnings("ignore:the loss of candidate pairs:UserWarning")
SICK = {"one": [2], "half": [1, 3], "all": [0, 1, 2, 3]}
DTYPES = [None, torch.bfloat16, torch.float16]


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 8))


class Sick:
    """A distance of two views that is not finite for some images of the batch."""

    def __init__(self, rows: list[int], value: float) -> None:
        self.rows, self.value = rows, value

    def __call__(self, one: Tensor, other: Tensor) -> Tensor:
        losses = (one - other).float().square().mean(-1)
        losses[self.rows] = self.value
        return losses


def assert_as_documented(hard: HardViews, healthy: HardViews, rows: list[int]) -> None:
    well = [row for row in range(4) if row not in rows]
    assert hard.nonfinite.item() == len(rows) and healthy.nonfinite.item() == 0
    assert not hard.loss[rows].isfinite().any() and torch.equal(hard.loss[well], healthy.loss[well])
    assert torch.equal(hard.indices[:, well], healthy.indices[:, well]) and hard.indices[:, rows].T.tolist() == [[0, 1]] * len(rows)
    assert all(
        torch.equal(one[well], other[well]) and one.isfinite().all() for one, other in zip(hard.views, healthy.views, strict=True)
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("rows", SICK.values(), ids=SICK)
def test_an_image_without_a_finite_loss_gets_the_first_views(rows: list[int], value: float, dtype: torch.dtype | None) -> None:
    def chosen(sick: list[int]) -> HardViews:
        generator = torch.Generator().manual_seed(0)
        return HardPairSampler(model(), Sick(sick, value), pairs(), scoring=Scoring(dtype=dtype), generator=generator)(images())

    assert_as_documented(chosen(rows), chosen([]), rows)


@pytest.mark.parametrize("rows", SICK.values(), ids=SICK)
def test_through_wrap(rows: list[int]) -> None:
    def epoch(sick: list[int]) -> list[tuple[HardViews, Tensor]]:
        loader = DataLoader(TwoViews(), 4)
        generator = torch.Generator().manual_seed(0)
        hard = hvs_aug.wrap(
            loader, model=model(), loss=Sick(sick, math.nan), scoring=Scoring(dtype=torch.bfloat16), generator=generator
        )
        return [(hard.last, labels) for _, labels in hard]

    for (hard, labels), (healthy, others) in zip(epoch(rows), epoch([]), strict=True):
        assert torch.equal(labels, others)
        assert_as_documented(hard, healthy, rows)


LOSSES: dict[str, Any] = {
    "NTXentLoss": lambda: NTXentLoss(0.5),
    "NegativeCosineLoss": NegativeCosineLoss,
    "MoCoLoss": lambda: MoCoLoss(0.5),
    "SwAVLoss": SwAVLoss,
    "VICRegLoss": VICRegLoss,
}


class Overflowing(nn.Module):
    """Its output is not finite for images that are white."""

    def __init__(self, is_pair: bool) -> None:
        super().__init__()
        self.layer, self.is_pair = model(), is_pair

    def forward(self, pixels: Tensor) -> Any:
        output = self.layer(pixels)
        white = pixels.flatten(1).amin(1) == 1
        output = torch.where(white[:, None], output * torch.inf, output)
        return (output, output) if self.is_pair else output


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", SICK.values(), ids=SICK)
@pytest.mark.parametrize("name", LOSSES)
def test_a_sick_output_is_no_negative_for_the_others(name: str, rows: list[int], dtype: torch.dtype | None) -> None:
    batch = 4 + len(rows)
    candidates = [torch.rand(batch, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    well = [row for row in range(batch) if row not in rows]

    def chosen(views: list[Tensor]) -> HardViews:
        scorer = Overflowing(is_pair=name == "NegativeCosineLoss")
        teacher = Overflowing(is_pair=False) if name == "MoCoLoss" else None
        return HardPairSampler(scorer, LOSSES[name](), slot(), scoring=Scoring(dtype=dtype), teacher=teacher).select(views)

    healthy = chosen([views[well] for views in candidates])
    for views in candidates:
        views[rows] = 1.0
    hard = chosen(candidates)
    assert hard.nonfinite.item() == len(rows) and hard.indices[:, rows].T.tolist() == [[0, 1]] * len(rows)
    assert torch.equal(hard.indices[:, well], healthy.indices)
    torch.testing.assert_close(hard.loss[well], healthy.loss)
