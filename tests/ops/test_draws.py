"""What is drawn: torchvision's laws, within the bounds, and independent of what else a recipe holds."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor
from torchvision.transforms import v2

from hvs_aug import CandidateViews, ViewParams, ViewRecipe, ViewSlot, ops

COUNT = 4000
SIGNIFICANCE = 1e-3


def theirs_of(transform: Any, pixels: list[Tensor]) -> dict[str, Any]:
    """What torchvision draws; before 0.21 the method is not public."""
    drawn: dict[str, Any] = (getattr(transform, "make_params", None) or transform._get_params)(pixels)
    return drawn


def draw(
    steps: list[ops.Operation], size: int | tuple[int, int] = 32, image: tuple[int, int] = (40, 60), seed: int = 0
) -> ViewParams:
    """Parameters of COUNT views."""
    crop = [] if any(isinstance(step, ops.RandomResizedCrop) for step in steps) else [ops.RandomResizedCrop()]
    views = CandidateViews(ViewSlot(ViewRecipe(size, [*crop, *steps]), 4, 1))
    return views.make_params(torch.empty(COUNT // 4, 3, 1, 1).expand(-1, -1, *image), torch.Generator().manual_seed(seed))


def same_law(ours: Tensor, theirs: Tensor) -> None:
    """Fail where two samples are not of one law, by the two-sample Kolmogorov-Smirnov test."""
    result = stats.ks_2samp(ours.double().flatten().numpy(), theirs.double().flatten().numpy())
    assert result.pvalue > SIGNIFICANCE, result


def test_the_test_of_laws_can_fail() -> None:
    with pytest.raises(AssertionError, match="KstestResult"):
        same_law(torch.rand(COUNT), torch.rand(COUNT) ** 1.15)


def of_torchvision(transform: v2.Transform, image: tuple[int, int], *names: str) -> Tensor:
    """COUNT draws of torchvision's own law, (COUNT, len(names)); NaN where there is nothing."""
    pixels = [torch.empty(3, *image)]
    rows = []
    for _ in range(COUNT):
        params = theirs_of(transform, pixels)
        rows.append([math.nan if params.get(name) is None else float(params[name]) for name in names])
    return torch.tensor(rows)


@pytest.mark.parametrize(
    ("image", "fields"),
    [
        ((375, 500), {}),
        ((100, 60), {"scale": (0.4, 1.0), "ratio": (0.5, 2.0)}),
        ((20, 200), {"scale": (0.1, 1.0)}),  # many draws do not fit
        ((200, 10), {"scale": (0.5, 1.0)}),  # none fits
        ((9, 7), {"scale": (0.3, 1.0), "ratio": (1.1, 1.6)}),
    ],
    ids=str,
)
def test_boxes(image: tuple[int, int], fields: dict[str, tuple[float, float]]) -> None:
    boxes = draw([ops.RandomResizedCrop(**fields)], image=image).boxes.flatten(0, 1)
    theirs = of_torchvision(v2.RandomResizedCrop(32, **fields), image, "top", "left", "height", "width")
    top, left, height, width = boxes.double().unbind(-1)
    tv_top, tv_left, tv_height, tv_width = theirs.double().unbind(-1)
    same_law(height * width, tv_height * tv_width)
    same_law(width / height, tv_width / tv_height)
    same_law(top, tv_top)
    same_law(left, tv_left)
    same_law(top / (image[0] - height + 1), tv_top / (image[0] - tv_height + 1))
    same_law(left / (image[1] - width + 1), tv_left / (image[1] - tv_width + 1))


@pytest.mark.parametrize(
    ("image", "ratio"), [((10, 200), (0.75, 4 / 3)), ((200, 10), (0.75, 4 / 3)), ((7, 300), (0.2, 0.3)), ((1, 1), (3, 4))]
)
def test_where_no_box_fits_it_is_torchvisions_central_one(image: tuple[int, int], ratio: tuple[float, float]) -> None:
    boxes = draw([ops.RandomResizedCrop(scale=(1, 1), ratio=ratio)], image=image).boxes
    params = theirs_of(v2.RandomResizedCrop(32, (1, 1), ratio), [torch.empty(3, *image)])
    expected = torch.tensor([params[name] for name in ("top", "left", "height", "width")])
    assert torch.equal(boxes, expected.clamp(min=torch.tensor([0, 0, 1, 1])).expand_as(boxes))


@given(height=st.integers(1, 3000), width=st.integers(1, 3000), data=st.data())
def test_boxes_are_within_their_images(height: int, width: int, data: st.DataObject) -> None:
    low = data.draw(st.floats(0.001, 1))
    ratio = data.draw(st.floats(0.01, 100))
    crop = ops.RandomResizedCrop(scale=(low, data.draw(st.floats(low, 1))), ratio=(ratio, data.draw(st.floats(ratio, 100))))
    # The largest and the smallest numbers that are drawn, and others.
    uniform = torch.rand(2, 16, crop.columns)
    uniform[0, :4], uniform[0, 4:8] = 0.0, 1 - 2**-24
    uniform[1, :8] = uniform[1, :8].round().clamp(max=1 - 2**-24)
    top, left, rows, columns = crop.draw_boxes(uniform, torch.tensor([[height, width]] * 16)).unbind(-1)
    assert (top >= 0).all() and (left >= 0).all() and (rows >= 1).all() and (columns >= 1).all()
    assert (top + rows <= height).all() and (left + columns <= width).all()


@pytest.mark.parametrize(
    "fields", [(0.4, 0.4, 0.2, 0.1), ((0.2, 0.9), (1.1, 1.9), (0.0, 3.0), (-0.5, 0.1)), (1.7, 1.0, 2.0, 0.5)], ids=str
)
def test_jitter(fields: tuple[float | tuple[float, float], ...]) -> None:
    drawn = draw([ops.ColorJitter(*fields)]).draws("ColorJitter")
    names = ("brightness_factor", "contrast_factor", "saturation_factor", "hue_factor")
    theirs = of_torchvision(v2.ColorJitter(*fields), (4, 4), *names)
    for column in range(4):
        same_law(drawn["factors"][..., column], theirs[:, column])
    counts = Counter(tuple(order) for order in drawn["order"].flatten(0, 1).tolist())
    assert set(counts) == set(itertools.permutations(range(4)))
    assert stats.chisquare(list(counts.values())).pvalue > SIGNIFICANCE
    # The factors are independent of each other and of the order.
    table = torch.cat([drawn["factors"].flatten(0, 1), drawn["order"].flatten(0, 1)[:, :1].float()], 1)
    assert (torch.corrcoef(table.T) - torch.eye(5)).abs().max() < 0.07


def test_blur() -> None:
    sigma = draw([ops.GaussianBlur(3, (0.3, 1.7))]).draws("GaussianBlur")["sigma"]
    theirs = torch.tensor([theirs_of(v2.GaussianBlur(3, (0.3, 1.7)), [])["sigma"][0] for _ in range(COUNT)])
    same_law(sigma, theirs)
    assert (draw([ops.GaussianBlur(3, 0.8)]).draws("GaussianBlur")["sigma"] == 0.8).all()


@pytest.mark.parametrize("fields", [(-30, 75), (10, 10), 45], ids=str)
def test_rotation(fields: float | tuple[float, float]) -> None:
    degrees = draw([ops.RandomRotation(fields)]).draws("RandomRotation")["degrees"]
    same_law(degrees, of_torchvision(v2.RandomRotation(fields), (4, 4), "angle"))


@pytest.mark.parametrize("size", [(32, 32), (12, 40)], ids=str)
@pytest.mark.parametrize("fields", [{}, {"scale": (0.1, 1.0), "ratio": (0.2, 8.0)}, {"scale": (1.0, 1.0)}], ids=str)
def test_erasing(fields: dict[str, tuple[float, float]], size: tuple[int, int]) -> None:
    box = draw([ops.RandomErasing(p=1.0, **fields)], size).draws("RandomErasing")["box"].flatten(0, 1)
    theirs = of_torchvision(v2.RandomErasing(p=1.0, **fields), size, "i", "j", "h", "w")
    is_erased, tv_erased = box[:, 2] > 0, theirs[:, 2] < size[0]
    # Where none of ten boxes fits, torchvision returns the whole image, unchanged.
    assert stats.fisher_exact([[int(part.sum()), int((~part).sum())] for part in (is_erased, tv_erased)]).pvalue > SIGNIFICANCE
    if is_erased.any():
        for column in range(4):
            same_law(box[is_erased, column], theirs[tv_erased, column])
        place = (box[is_erased, :2] / (torch.tensor(size) - box[is_erased, 2:])).T
        assert abs(torch.corrcoef(place)[0, 1]) < 0.07
    assert (box[:, :2] >= 0).all() and (box[:, :2] + box[:, 2:] <= torch.tensor(size)).all()


COINS = [
    ops.RandomHorizontalFlip, ops.RandomVerticalFlip, ops.RandomGrayscale, ops.RandomInvert, ops.RandomAutocontrast,
    ops.RandomEqualize,
    lambda p: ops.RandomSolarize(0.3, p), lambda p: ops.RandomPosterize(3, p), lambda p: ops.RandomAdjustSharpness(2.0, p),
    lambda p: ops.GaussianBlur(3, p=p), lambda p: ops.ColorJitter(0.4, 0.4, 0.4, 0.1, p=p), lambda p: ops.RandomRotation(90, p=p),
    lambda p: ops.RandomErasing(p, (0.02, 0.1)),
]  # fmt: skip


@pytest.mark.parametrize("make", COINS, ids=lambda make: type(make(0.5)).__name__)
def test_coins(make: type[ops.Operation]) -> None:
    for p in (0.0, 0.2, 0.7, 1.0):
        operation = make(p)
        drawn = draw([operation]).draws(type(operation).__name__)
        is_applied = torch.zeros(COUNT, dtype=torch.bool)
        for name, identity in operation.identity.items():
            assert drawn[name].dtype == identity.dtype
            is_applied |= (drawn[name] != identity).reshape(COUNT, -1).any(1)
        assert stats.binomtest(int(is_applied.sum()), COUNT, p).pvalue > SIGNIFICANCE
        assert p not in (0.0, 1.0) or int(is_applied.sum()) == p * COUNT


def test_one_coin_for_a_group() -> None:
    group = ops.RandomApply([ops.GaussianBlur(3), ops.RandomInvert(1.0), ops.RandomSolarize(0.5, p=0.4)], p=0.3)
    drawn = draw([group])
    blurred, inverted = drawn.draws("GaussianBlur")["sigma"] > 0, drawn.draws("RandomInvert")["applied"]
    assert torch.equal(blurred, inverted)
    solarized = drawn.draws("RandomSolarize")["applied"]
    assert not (solarized & ~inverted).any()
    for part, p in ((inverted, 0.3), (solarized, 0.12)):
        assert stats.binomtest(int(part.sum()), COUNT, p).pvalue > SIGNIFICANCE


@pytest.mark.parametrize("p", [None, [0.1, 0.6, 0.3], [3, 0, 1]])
def test_choice(p: list[float] | None) -> None:
    choice = ops.RandomChoice([ops.GaussianBlur(3), ops.RandomInvert(1.0), ops.RandomRotation(90)], p)
    drawn = draw([choice])
    is_chosen = torch.stack(
        [
            drawn.draws("GaussianBlur")["sigma"] > 0,
            drawn.draws("RandomInvert")["applied"],
            drawn.draws("RandomRotation")["degrees"] != 0,
        ]
    )
    assert (is_chosen.sum(0) == 1).all()
    weights = [1 / 3] * 3 if p is None else [weight / sum(p) for weight in p]
    for index, weight in enumerate(weights):
        assert stats.binomtest(int(is_chosen[index].sum()), COUNT, weight).pvalue > SIGNIFICANCE


def test_groups_in_groups() -> None:
    inner = ops.RandomChoice([ops.RandomInvert(1.0), ops.GaussianBlur(3)])
    drawn = draw([ops.RandomApply([inner, ops.RandomGrayscale(1.0)], p=0.5)])
    inverted, blurred = drawn.draws("RandomInvert")["applied"], drawn.draws("GaussianBlur")["sigma"] > 0
    assert torch.equal(inverted ^ blurred, drawn.draws("RandomGrayscale")["applied"]) and not (inverted & blurred).any()
    for part, p in ((inverted, 0.25), (blurred, 0.25), (inverted | blurred, 0.5)):
        assert stats.binomtest(int(part.sum()), COUNT, p).pvalue > SIGNIFICANCE


STEPS: list[ops.Operation] = [
    ops.RandomResizedCrop(), ops.RandomHorizontalFlip(), ops.RandomRotation(20, p=0.5), ops.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
    ops.RandomApply([ops.RandomInvert(), ops.RandomPosterize(3)]), ops.RandomGrayscale(0.2), ops.GaussianBlur(3, p=0.5),
    ops.RandomChoice([ops.RandomSolarize(), ops.RandomEqualize()]), ops.RandomErasing(),
]  # fmt: skip


def differing(one: ViewParams, other: ViewParams) -> set[str]:
    """The names of what both drew and is not equal."""
    tensors = [{"RandomResizedCrop.boxes": params.boxes, **params.drawn} for params in (one, other)]
    names = tensors[0].keys() & tensors[1].keys()
    return {name.split(".")[0] for name in names if not torch.equal(tensors[0][name], tensors[1][name])}


@pytest.mark.parametrize("place", range(1, len(STEPS)))
def test_leaving_out_an_operation_changes_no_others_draws(place: int) -> None:
    assert differing(draw(STEPS), draw(STEPS[:place] + STEPS[place + 1 :])) == set()


@pytest.mark.parametrize("place", range(1, len(STEPS) + 1))
def test_adding_an_operation_changes_no_others_draws(place: int) -> None:
    for added in (ops.RandomVerticalFlip(), ops.RandomAdjustSharpness(2.0), ops.RandomApply([ops.RandomAutocontrast()])):
        assert differing(draw(STEPS), draw([*STEPS[:place], added, *STEPS[place:]])) == set()


def test_the_order_of_the_operations_changes_no_draws() -> None:
    assert differing(draw(STEPS), draw([STEPS[0], *reversed(STEPS[1:])])) == set()


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"kind": ops.RandomResizedCrop, "scale": (0.5, 1.0)}, {"RandomResizedCrop"}),
        ({"kind": ops.RandomHorizontalFlip, "p": 0.9}, {"RandomHorizontalFlip"}),
        ({"kind": ops.RandomRotation, "degrees": 90}, {"RandomRotation"}),
        ({"kind": ops.RandomRotation, "fill": 0.5}, set()),
        ({"kind": ops.ColorJitter, "hue": 0.3}, {"ColorJitter"}),
        ({"kind": ops.ColorJitter, "p": 0.1}, {"ColorJitter"}),
        ({"kind": ops.RandomInvert, "p": 0.1}, {"RandomInvert"}),
        ({"kind": ops.RandomApply, "p": 0.1}, {"RandomInvert", "RandomPosterize"}),
        ({"kind": ops.RandomChoice, "p": (0.1, 0.9)}, {"RandomSolarize", "RandomEqualize"}),
        ({"kind": ops.RandomSolarize, "threshold": 0.1}, set()),
        ({"kind": ops.GaussianBlur, "sigma": (0.5, 0.6)}, {"GaussianBlur"}),
        ({"kind": ops.RandomErasing, "ratio": (1.0, 2.0)}, {"RandomErasing"}),
    ],
    ids=lambda value: str(
        sorted(value) if isinstance(value, set) else value
    ),  # sets print in an order of their own in each process
)
def test_changing_a_field_changes_no_others_draws(change: dict[str, object], names: set[str]) -> None:
    recipe = ViewRecipe(32, STEPS)
    changed = recipe.replace(change.pop("kind"), **change)  # type: ignore[arg-type]
    assert differing(draw(STEPS), draw(list(changed.operations))) == names


def test_a_probability_decides_only_whether_an_operation_is_applied() -> None:
    """Where both apply it, its parameters are the same."""
    for kind, name in ((ops.ColorJitter, "factors"), (ops.GaussianBlur, "sigma"), (ops.RandomRotation, "degrees")):
        recipe = ViewRecipe(32, STEPS)
        rare, often = (draw(list(recipe.replace(kind, p=p).operations)).draws(kind.__name__)[name] for p in (0.2, 0.7))
        is_rare = (rare != kind.identity[name]).reshape(*rare.shape[:2], -1).any(-1)
        assert is_rare.any() and torch.equal(rare[is_rare], often[is_rare])


def test_second_operations_of_a_kind_draw_their_own() -> None:
    drawn = draw([ops.GaussianBlur(3), ops.GaussianBlur(3), ops.RandomApply([ops.GaussianBlur(3)])])
    sigmas = [drawn.draws(name)["sigma"] for name in ("GaussianBlur", "GaussianBlur-2", "GaussianBlur-3")]
    assert abs(torch.corrcoef(torch.stack(sigmas[:2]).flatten(1))[0, 1]) < 0.07
    applied = sigmas[2] > 0
    assert abs(torch.corrcoef(torch.stack([sigmas[1][applied], sigmas[2][applied]]))[0, 1]) < 0.1


def test_candidates_that_are_tied_share_boxes_flips_and_rotations_only() -> None:
    steps = [*STEPS, ops.RandomApply([ops.RandomVerticalFlip(0.5), ops.GaussianBlur(5)])]
    views = CandidateViews(ViewSlot(ViewRecipe(32, steps), 4, 2, tie="crop"))
    params = views.make_params(torch.empty(200, 3, 40, 60), torch.Generator().manual_seed(0))
    shared = {name for name, value in params.drawn.items() if all(torch.equal(value[0], row) for row in value)}
    assert shared == {"RandomHorizontalFlip.applied", "RandomRotation.degrees", "RandomVerticalFlip.applied"}
    assert all(torch.equal(params.boxes[0], row) for row in params.boxes)
    assert len(params.boxes.unique(dim=1).flatten()) > 4 * 4 * 100


def test_one_seed_gives_one_draw_and_another_gives_another() -> None:
    assert draw(STEPS) == draw(STEPS)
    assert differing(draw(STEPS), draw(STEPS, seed=1)) == {name.split(".")[0] for name in draw(STEPS).drawn} | {"RandomResizedCrop"}


@settings(max_examples=200)
@given(st.integers(0, 2**31), st.sampled_from([((0.08, 1.0), (3 / 4, 4 / 3)), ((0.01, 0.2), (0.2, 5.0)), ((1.0, 1.0), (1.0, 1.0))]))
def test_compiled_boxes_are_those_of_the_definition(seed: int, ranges: Any) -> None:
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(1, 60, (7, 2), generator=generator)
    crop = ops.RandomResizedCrop(scale=ranges[0], ratio=ranges[1])
    uniform = torch.rand(5, 7, crop.columns, generator=generator)
    assert torch.equal(crop.draw_boxes(uniform, sizes), crop.boxes_by_definition(uniform, sizes))
