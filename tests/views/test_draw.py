"""What is drawn has the laws of torchvision's transforms, and a wrong law is noticed.

Every comparison is a hypothesis test at a false-alarm rate of ALARM = 1e-4; there are about sixty, so a fresh set of seeds would
fail in less than one of a hundred runs. The seeds are fixed, so that these never do. Each test is also shown a wrong law, which it
must reject at the same rate from as many draws.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor
from torchvision import transforms

from hvs_aug.ops import (
    ColorJitter,
    GaussianBlur,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomInvert,
    RandomResizedCrop,
    RandomSolarize,
)
from hvs_aug.views.draw import draw_slot
from hvs_aug.views.params import ViewParams
from hvs_aug.views.recipe import ViewRecipe, ViewSlot

Array = NDArray[np.float64]

ALARM = 1e-4
DRAWS = 4000
SIZES = {"photograph": (375, 500), "square": (224, 224), "1:10": (50, 500), "10:1": (500, 50), "tiny": (6, 6)}
CROP = RandomResizedCrop()
JITTER = (0.4, 0.8, 1.5, 0.1)
KINDS = {
    "flip": RandomHorizontalFlip,
    "jitter": ColorJitter,
    "gray": RandomGrayscale,
    "blur": GaussianBlur,
    "solarize": RandomSolarize,
}
RECIPE = ViewRecipe(
    224,
    [
        CROP,
        RandomHorizontalFlip(0.5),
        ColorJitter(*JITTER, p=0.8),
        RandomGrayscale(0.2),
        GaussianBlur(23, p=0.5),
        RandomSolarize(p=0.1),
    ],
)


def _drawn(recipe: ViewRecipe, size: tuple[int, int] = (375, 500), seed: int = 0, draws: int = DRAWS, **options: Any) -> ViewParams:
    sizes = torch.tensor([size]).expand(draws // 20, 2)
    return draw_slot(ViewSlot(recipe, candidates=20, **options), 0, sizes, torch.Generator().manual_seed(seed))


def _flat(values: Tensor) -> Array:
    array: Array = values.flatten(0, 1).double().numpy()
    return array


# ---- boxes -----------------------------------------------------------------------------------------------------------------------


@functools.cache
def _torchvision_boxes(crop: RandomResizedCrop, size: tuple[int, int], seed: int = 1) -> Array:
    image = torch.empty(1, *size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        rows = [transforms.RandomResizedCrop.get_params(image, list(crop.scale), list(crop.ratio)) for _ in range(DRAWS)]
    return np.array(rows, dtype=np.float64)


def _boxes_by(crop: RandomResizedCrop, size: tuple[int, int], wrong: str | None, seed: int = 2) -> Array:
    """torchvision's law once more, one box at a time, but for what is wrong."""
    chance = np.random.default_rng(seed)
    full_height, full_width = size
    rows = []
    for _ in range(DRAWS):
        box = None
        for _ in range(3 if wrong == "three tries" else 10):
            fraction = chance.uniform(*crop.scale)
            if wrong == "log-uniform area":
                fraction = math.exp(chance.uniform(*map(math.log, crop.scale)))
            ratio = (
                chance.uniform(*crop.ratio) if wrong == "uniform ratio" else math.exp(chance.uniform(*map(math.log, crop.ratio)))
            )
            ratio = 1 / ratio if wrong == "height over width" else ratio
            area = full_height * full_width * fraction
            whole = math.floor if wrong == "rounded down" else round
            width, height = whole(math.sqrt(area * ratio)), whole(math.sqrt(area / ratio))
            if 0 < width <= full_width and 0 < height <= full_height:
                last = 0 if wrong == "never the last row or column" else 1
                top, left = chance.integers(max(1, full_height - height + last)), chance.integers(max(1, full_width - width + last))
                box = (top, left, height, width)
                break
        if box is None:
            height, width = full_height, full_width
            if wrong != "the whole image where none fits":
                width = round(min(width, full_height * crop.ratio[1]))
                height = round(min(height, full_width / crop.ratio[0]))
            top, left = (full_height - height) // 2, (full_width - width) // 2
            if wrong == "the corner where none fits":
                top, left = 0, 0
            box = (top, left, height, width)
        rows.append(box)
    return np.array(rows, dtype=np.float64)


def _same_boxes(first: Array, second: Array) -> float:
    """The p-value that two samples of boxes have one law: the smallest of six Kolmogorov-Smirnov tests, times six."""

    def features(boxes: Array) -> list[Array]:
        top, left, height, width = boxes.T
        return [height * width, width / height, height, width, top, left]

    tests = zip(features(first), features(second), strict=True)
    return min(1.0, 6 * min(float(stats.ks_2samp(ours, theirs, method="asymp").pvalue) for ours, theirs in tests))


@pytest.mark.parametrize(
    "scale, ratio", [((0.08, 1.0), (3 / 4, 4 / 3)), ((0.05, 0.4), (1 / 3, 2.0))], ids=["default", "asymmetric"]
)
@pytest.mark.parametrize("name", SIZES)
def test_boxes_have_torchvisions_law(name: str, scale: tuple[float, float], ratio: tuple[float, float]) -> None:
    crop, size = RandomResizedCrop(scale=scale, ratio=ratio), SIZES[name]
    boxes = _flat(_drawn(ViewRecipe(224, [crop]), size).boxes)
    assert _same_boxes(boxes, _torchvision_boxes(crop, size)) > ALARM
    top, left, height, width = boxes.T
    assert (np.minimum(top, left) >= 0).all() and (np.minimum(height, width) >= 1).all()
    assert (top + height <= size[0]).all() and (left + width <= size[1]).all()


@pytest.mark.parametrize(
    "wrong, name, asymmetric",
    [
        (None, "photograph", False),
        (None, "1:10", False),
        (None, "tiny", True),
        ("uniform ratio", "photograph", False),
        ("height over width", "photograph", True),
        ("log-uniform area", "square", False),
        ("three tries", "1:10", False),
        ("three tries", "10:1", False),
        ("the whole image where none fits", "10:1", False),
        ("the corner where none fits", "1:10", False),
        ("never the last row or column", "tiny", False),
        ("rounded down", "tiny", False),
    ],
)
def test_a_wrong_law_of_boxes_is_noticed(wrong: str | None, name: str, asymmetric: bool) -> None:
    crop = RandomResizedCrop(scale=(0.05, 0.4), ratio=(1 / 3, 2.0)) if asymmetric else CROP
    boxes = _flat(_drawn(ViewRecipe(224, [crop]), SIZES[name]).boxes)
    similar = _same_boxes(boxes, _boxes_by(crop, SIZES[name], wrong))
    assert similar > ALARM if wrong is None else similar < ALARM


@pytest.mark.parametrize("size, central", [((50, 500), (0, 216, 50, 67)), ((500, 50), (216, 0, 67, 50))])
def test_a_central_box_where_ten_tries_fail(size: tuple[int, int], central: tuple[int, ...]) -> None:
    """Of the images that are too narrow for most boxes, as many as with torchvision get the central box of the nearest ratio."""
    boxes, theirs = _drawn(RECIPE, size).boxes.flatten(0, 1), torch.from_numpy(_torchvision_boxes(CROP, size)).long()
    ours_central = int((boxes == torch.tensor(central)).all(-1).sum())
    theirs_central = int((theirs == torch.tensor(central)).all(-1).sum())
    table = [[ours_central, DRAWS - ours_central], [theirs_central, DRAWS - theirs_central]]
    assert 0.5 * DRAWS < ours_central < 0.95 * DRAWS
    assert stats.chi2_contingency(table).pvalue > ALARM
    assert stats.chi2_contingency([table[0], [DRAWS, 0]]).pvalue < ALARM


def test_the_first_of_ten_tries_that_fits_is_taken() -> None:
    """With hand-made draws: areas, then ratios, of ten tries, then the position."""
    crop, size = RandomResizedCrop(scale=(0.2, 1.0), ratio=(0.5, 2.0)), torch.tensor([[100, 100]])
    uniform = torch.full((11, 1, 22), 0.999, dtype=torch.float64)  # all of the area at twice the width: never fits
    for fitting in range(10):
        uniform[fitting, 0, fitting] = 0.05  # 24 % of the area
        uniform[fitting, 0, 10 + fitting] = 0.5  # square
    boxes = crop.draw_boxes(uniform, size)
    assert (boxes[:10, 0] == torch.tensor([51, 51, 49, 49])).all()
    assert boxes[10, 0].tolist() == [0, 0, 100, 100]


# ---- colours ---------------------------------------------------------------------------------------------------------------------

RANGES = [(0.6, 1.4), (0.2, 1.8), (0.0, 2.5), (-0.1, 0.1)]
"""Of the factors of RECIPE: [max(0, 1 - strength), 1 + strength], and [-hue, hue]."""


def _uniform(values: Array, low: float, high: float) -> float:
    return float(stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue)


@pytest.mark.parametrize("column", range(4))
def test_jitter_factors_are_uniform(column: int) -> None:
    params = _drawn(RECIPE.replace(ColorJitter, p=1.0))
    values = _flat(params.drawn["ColorJitter.factors"][..., column])
    low, high = RANGES[column]
    assert values.min() >= low - 1e-6 and values.max() <= high + 1e-6
    assert _uniform(values, low, high) > ALARM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        jitter = transforms.ColorJitter(*JITTER)
        theirs = [
            jitter.get_params(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)[1 + column] for _ in range(DRAWS)
        ]
    assert stats.ks_2samp(values, theirs, method="asymp").pvalue > ALARM
    wrong = np.random.default_rng(4).uniform(size=DRAWS)
    middle, reach = (low + high) / 2, (high - low) / 2
    assert _uniform(low + (high - low) * wrong**1.2, low, high) < ALARM  # bent towards the low end
    assert _uniform(middle + 0.9 * reach * (2 * wrong - 1), low, high) < ALARM  # too weak
    if column == 2:
        assert _uniform(np.clip(-0.5 + 3.0 * wrong, 0, None), low, high) < ALARM  # [1 - strength, 1 + strength], cut off at 0


def test_jitter_is_the_identity_where_it_is_not_drawn() -> None:
    params = _drawn(RECIPE)
    unchanged = (params.drawn["ColorJitter.factors"] == torch.tensor([1.0, 1.0, 1.0, 0.0])).all(-1)
    assert stats.binomtest(int(unchanged.sum()), DRAWS, 0.2).pvalue > ALARM


def _orders(order: Tensor) -> float:
    """The p-value that all 24 orders are as likely: chi-square."""
    counts = dict.fromkeys(itertools.permutations(range(4)), 0)
    for row in order.flatten(0, -2).tolist():
        counts[tuple(row)] += 1
    return float(stats.chisquare(list(counts.values())).pvalue)


def test_all_24_orders_are_as_likely() -> None:
    params = _drawn(RECIPE.replace(ColorJitter, p=1.0))
    assert _orders(params.drawn["ColorJitter.order"]) > ALARM
    chance = np.random.default_rng(5)
    naive = []
    for _ in range(DRAWS):
        row = [0, 1, 2, 3]
        for place in range(4):  # the shuffle that swaps every place with any other favours some orders
            other = chance.integers(4)
            row[place], row[other] = row[other], row[place]
        naive.append(row)
    assert _orders(torch.tensor(naive)) < ALARM
    of_each_batch = params.drawn["ColorJitter.order"][:, :1].expand_as(
        params.drawn["ColorJitter.order"]
    )  # one order for all images, as stock Kornia draws it
    assert _orders(of_each_batch) < ALARM


def test_blur_sigma_is_uniform() -> None:
    params = _drawn(RECIPE.replace(GaussianBlur, sigma=(0.1, 2.0)))
    drawn = _flat(params.drawn["GaussianBlur.sigma"])
    assert _uniform(drawn[drawn > 0], 0.1, 2.0) > ALARM
    count = int((drawn > 0).sum())
    wrong = np.exp(np.random.default_rng(6).uniform(math.log(0.1), math.log(2.0), size=count))
    assert _uniform(wrong, 0.1, 2.0) < ALARM


# ---- probabilities ---------------------------------------------------------------------------------------------------------------

EVENTS: dict[str, Callable[[ViewParams], Tensor]] = {
    "flip": lambda params: params.drawn["RandomHorizontalFlip.applied"],
    "jitter": lambda params: (params.drawn["ColorJitter.factors"] != torch.tensor([1.0, 1.0, 1.0, 0.0])).any(-1),
    "gray": lambda params: params.drawn["RandomGrayscale.applied"],
    "blur": lambda params: params.drawn["GaussianBlur.sigma"] > 0,
    "solarize": lambda params: params.drawn["RandomSolarize.applied"],
}


@pytest.mark.parametrize("probability", [0.1, 0.2, 0.5, 0.8])
@pytest.mark.parametrize("name", EVENTS)
def test_an_operation_is_drawn_with_its_probability(name: str, probability: float) -> None:
    happened = int(EVENTS[name](_drawn(RECIPE.replace(KINDS[name], p=probability), seed=7)).sum())
    assert stats.binomtest(happened, DRAWS, probability).pvalue > ALARM
    for wrong in (probability + 0.05, 1 - probability):
        if wrong != probability:  # HVS's own code blurs with probability 1 - p
            assert stats.binomtest(happened, DRAWS, wrong).pvalue < ALARM


@pytest.mark.parametrize("name", EVENTS)
def test_certain_impossible_and_left_out(name: str) -> None:
    event = EVENTS[name]
    assert event(_drawn(RECIPE.replace(KINDS[name], p=1.0))).all()
    assert not event(_drawn(RECIPE.replace(KINDS[name], p=0.0))).any()
    assert not any(key.startswith(KINDS[name].__name__) for key in _drawn(RECIPE.without(KINDS[name])).drawn)


def _independent(first: Tensor, second: Tensor) -> float:
    table = [[int(((first == one) & (second == other)).sum()) for one in (False, True)] for other in (False, True)]
    return float(stats.chi2_contingency(table).pvalue)


def test_operations_views_and_images_are_drawn_apart() -> None:
    params = _drawn(RECIPE, seed=8)
    events = {name: event(params) for name, event in EVENTS.items()}
    for one, other in itertools.combinations(EVENTS, 2):
        assert _independent(events[one], events[other]) > ALARM / 10, (one, other)
    flips = events["flip"]
    assert _independent(flips[:10], flips[10:]) > ALARM  # of two views of an image
    assert _independent(flips[:, :100], flips[:, 100:]) > ALARM  # of two images
    assert _independent(flips[:10], flips[:10] ^ (torch.rand(10, flips.shape[1]) < 0.4)) < ALARM  # six of ten from one coin
    areas = params.boxes[..., 2:].prod(-1).double()
    for first, second in ((areas[:10], areas[10:]), (areas[:, :100], areas[:, 100:])):
        assert stats.spearmanr(first.flatten(), second.flatten()).pvalue > ALARM
    assert stats.spearmanr(areas[:10].flatten(), (areas[:10] + areas[10:]).flatten()).pvalue < ALARM


def test_a_tied_crop_is_shared_and_nothing_else() -> None:
    params = _drawn(RECIPE, seed=9, tie="crop")
    assert (params.boxes == params.boxes[:1]).all() and (EVENTS["flip"](params) == EVENTS["flip"](params)[:1]).all()
    assert len(params.boxes[0].unique(dim=0)) > 150
    for name in ("jitter", "gray", "blur", "solarize"):
        assert _independent(EVENTS[name](params)[:10], EVENTS[name](params)[10:]) > ALARM, name
    assert _same_boxes(_flat(params.boxes)[: DRAWS // 20], _torchvision_boxes(CROP, (375, 500))) > ALARM


@pytest.mark.parametrize(
    "change, touched",
    [
        (lambda recipe: recipe.replace(RandomResizedCrop, scale=(0.3, 0.5)), {"boxes"}),
        (lambda recipe: recipe.replace(RandomResizedCrop, ratio=(0.5, 0.6)), {"boxes"}),
        (lambda recipe: recipe.replace(RandomHorizontalFlip, p=0.9), {"RandomHorizontalFlip"}),
        (lambda recipe: recipe.replace(ColorJitter, p=0.1), {"ColorJitter"}),
        (lambda recipe: recipe.replace(ColorJitter, hue=0.4), {"ColorJitter"}),
        (lambda recipe: recipe.replace(RandomGrayscale, p=0.9), {"RandomGrayscale"}),
        (lambda recipe: recipe.replace(GaussianBlur, sigma=(1.0, 1.5)), {"GaussianBlur"}),
        (lambda recipe: recipe.replace(RandomSolarize, p=0.9), {"RandomSolarize"}),
        (lambda recipe: recipe.without(GaussianBlur), {"GaussianBlur"}),
        (lambda recipe: replace(recipe, size=96, operations=(CROP, *reversed(recipe.operations[1:]))), set()),
        (lambda recipe: replace(recipe, operations=(*recipe.operations, RandomInvert())), {"RandomInvert"}),
    ],
)
def test_a_change_touches_the_draws_of_its_operation_and_no_others(
    change: Callable[[ViewRecipe], ViewRecipe], touched: set[str]
) -> None:
    before, after = _drawn(RECIPE), _drawn(change(RECIPE))
    found = {name.partition(".")[0] for name in before.drawn.keys() ^ after.drawn.keys()}
    shared = before.drawn.keys() & after.drawn.keys()
    found |= {name.partition(".")[0] for name in shared if not torch.equal(before.drawn[name], after.drawn[name])}
    found |= set() if torch.equal(before.boxes, after.boxes) else {"boxes"}
    assert found == touched
