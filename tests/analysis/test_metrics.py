"""hvs_aug.analysis.metrics against the enumeration of every selection that is possible."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from hvs_aug import CandidateViews, HVSError, ViewSlot
from hvs_aug.analysis import metrics
from hvs_aug.selection.search import exact, selection_loss

TWO_VIEWS = (ViewSlot(None, candidates=4, select=2),)
MULTI_CROP = (
    ViewSlot(None, candidates=2, select=1, name="global-1"),
    ViewSlot(None, candidates=3, select=1, name="global-2"),
    ViewSlot(None, candidates=4, select=2, name="local", role="local"),
)
slot_lists = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 2)), min_size=1, max_size=3).map(
    lambda sizes: tuple(ViewSlot(None, candidates=select + more, select=select) for select, more in sizes)
)


def selections(slots: tuple[ViewSlot, ...]) -> list[tuple[int, ...]]:
    """Every way to keep views, spelled out."""
    start, choices = 0, []
    for slot in slots:
        choices.append(list(itertools.combinations(range(start, start + slot.candidates), slot.select)))
        start += slot.candidates
    return [tuple(itertools.chain(*parts)) for parts in itertools.product(*choices)]


def random_table(slots: tuple[ViewSlot, ...], images: int = 5) -> Tensor:
    views = sum(slot.candidates for slot in slots)
    table = torch.randn(views, views, images)
    local = torch.tensor([slot.role == "local" for slot in slots for _ in range(slot.candidates)])
    return torch.where((local[:, None] & local)[..., None], 0, table + table.transpose(0, 1))


@given(slot_lists)
def test_chance_is_the_share_of_selections(slots: tuple[ViewSlot, ...]) -> None:
    kept = selections(slots)
    probability = metrics.chance(slots)
    for u, v in itertools.product(range(len(probability)), repeat=2):
        share = sum(u in selection and v in selection for selection in kept) / len(kept)
        assert probability[u, v].item() == pytest.approx(share, abs=1e-6)


@pytest.mark.parametrize("slots", [TWO_VIEWS, MULTI_CROP], ids=["two views", "multi-crop"])
def test_expectations_are_means_over_selections(slots: tuple[ViewSlot, ...]) -> None:
    table = random_table(slots)
    every = [torch.tensor(selection)[:, None].expand(-1, 5) for selection in selections(slots)]
    losses = torch.stack([selection_loss(table, indices) for indices in every])
    torch.testing.assert_close(metrics.expected_loss(table, slots), losses.mean(0))
    overlaps = torch.stack([metrics.mean_over_pairs(table, indices) for indices in every])
    torch.testing.assert_close(metrics.mean_over_pairs(table, slots=slots), overlaps.mean(0))
    captured = torch.stack([metrics.hardness_captured(table, slots, indices) for indices in every])
    torch.testing.assert_close(captured.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    assert metrics.hardness_captured(table, slots, exact(table, slots)).item() == pytest.approx(1)


def test_mean_over_pairs_of_the_selected() -> None:
    pairs = random_table(TWO_VIEWS)
    indices = torch.tensor([[0, 1, 3, 0, 2], [2, 2, 0, 1, 3], [3, 0, 1, 2, 0]])
    for image in range(5):
        chosen = indices[:, image].tolist()
        mean = sum(pairs[u, v, image].item() for u, v in itertools.combinations(chosen, 2)) / 3
        assert metrics.mean_over_pairs(pairs, indices)[image].item() == pytest.approx(mean, rel=1e-5)
    with pytest.raises(HVSError, match=r"mean_over_pairs: expected at least two views, got int 1"):
        metrics.mean_over_pairs(pairs, indices[:1])


def test_hardness_of_images_without_a_finite_loss_is_left_out() -> None:
    table = random_table(TWO_VIEWS)
    indices = torch.tensor([[0], [2]]).expand(2, 5)
    alone = metrics.hardness_captured(table[..., 1:], TWO_VIEWS, indices[:, 1:])
    table[1, 2, 0] = table[2, 1, 0] = float("nan")
    torch.testing.assert_close(metrics.hardness_captured(table, TWO_VIEWS, indices), alone)
    assert metrics.hardness_captured(torch.ones(4, 4, 5), TWO_VIEWS, indices).isnan()


def test_scale_and_color_of_known_params() -> None:
    views = CandidateViews.preset("simclr", size=32, candidates=3)
    params = views.make_params(torch.zeros(2, 3, 40, 50, dtype=torch.uint8), torch.Generator().manual_seed(0))
    params.boxes[1, 1] = torch.tensor([0, 0, 20, 50])
    factors = params.drawn["ColorJitter.factors"]
    factors[0, 0] = torch.tensor([1.0, 1.0, 1.0, 0.0])
    factors[1, 0] = torch.tensor([1.3, 1.0, 1.4, 0.0])
    assert metrics.crop_scale(params)[1, 1].item() == 0.5
    distance = metrics.color_distance(params)
    assert distance[0, 1, 0].item() == pytest.approx(0.5, abs=1e-6)
    assert torch.equal(distance, distance.transpose(0, 1)) and not distance.diagonal().any()
    assert torch.equal(metrics.color_distance(replace(params, drawn={})), torch.zeros(3, 3, 2))


def test_spread_compares_pairs_of_the_same_slots() -> None:
    table = random_table(MULTI_CROP, images=1)
    table[range(9), range(9)] = 100.0  # the diagonal holds no pairs
    table[:2, 2:5] = table[2:5, :2].transpose(0, 1)
    groups = [[table[u, v, 0] for u in range(2) for v in range(2, 5)], [table[u, v, 0] for u in range(2) for v in range(5, 9)]]
    groups += [
        [table[u, v, 0] for u in range(2, 5) for v in range(5, 9)],
        [table[u, v, 0] for u, v in itertools.combinations((2, 3, 4), 2)],
    ]
    expected = max(float(max(group) - min(group)) for group in groups)
    assert metrics.spread(table, MULTI_CROP).item() == pytest.approx(expected, rel=1e-6)


def test_meter_is_the_mean_over_all_images() -> None:
    views = CandidateViews.preset("simclr", size=32, candidates=4)
    meter = metrics.SelectionMeter(views.slots)
    assert meter.compute() == {}
    kept: dict[str, list[Tensor]] = {"loss": [], "over": [], "iou": [], "scale": []}
    chosen = []
    for images in (3, 7):
        params = views.make_params(torch.zeros(images, 3, 40, 50), torch.Generator().manual_seed(images))
        table = random_table(TWO_VIEWS, images)
        indices = exact(table, views.slots)
        meter.update(indices, params, table)
        kept["loss"].append(selection_loss(table, indices))
        kept["over"].append(selection_loss(table, indices) - metrics.expected_loss(table, views.slots))
        kept["iou"].append(torch.stack([params.iou()[u, v, b] for b, (u, v) in enumerate(indices.t().tolist())]))
        kept["scale"].append(
            torch.stack([metrics.crop_scale(params)[pair, b].mean() for b, pair in enumerate(indices.t().tolist())])
        )
        chosen += indices.flatten().tolist()
    found = meter.compute()
    for name, key in (("loss", "loss"), ("loss_over_chance", "over"), ("iou", "iou"), ("scale", "scale")):
        assert found[name] == pytest.approx(torch.cat(kept[key]).mean().item(), rel=1e-5), name
    assert found["chosen"] == pytest.approx([chosen.count(index) / 20 for index in range(4)])
    assert {"iou_random", "scale_random", "color_distance", "color_distance_random", "spread"} < found.keys()
    meter.reset()
    assert meter.compute() == {}


def test_meter_leaves_out_what_is_not_finite() -> None:
    meter = metrics.SelectionMeter(TWO_VIEWS)
    meter.update(torch.tensor([[0, 1], [1, 2]]), loss=torch.tensor([3.0, float("nan")]))
    assert meter.compute() == {"loss": 3.0, "chosen": [0.25, 0.5, 0.25, 0.0]}


def test_meter_of_random_choices_finds_no_difference_from_chance() -> None:
    views = CandidateViews.preset("simclr", size=32, candidates=4)
    generator = torch.Generator().manual_seed(0)
    meter = metrics.SelectionMeter(views.slots)
    params = views.make_params(torch.zeros(4000, 3, 40, 50, dtype=torch.uint8)[:, :, :1, :1].expand(-1, -1, 40, 50), generator)
    indices = torch.rand(4, 4000, generator=generator).argsort(0)[:2]
    meter.update(indices, params)
    found = meter.compute()
    for name in ("iou", "scale", "color_distance"):
        assert found[name] == pytest.approx(found[f"{name}_random"], rel=0.03), name


def test_no_look_at_a_value_on_the_device() -> None:
    with FakeTensorMode():
        table = torch.zeros(9, 9, 6, device="cuda")
        meter = metrics.SelectionMeter(MULTI_CROP)
        indices = exact(table, MULTI_CROP)
        meter.update(indices, None, table)
        assert metrics.spread(table, MULTI_CROP).device.type == "cuda"
        assert metrics.hardness_captured(table, MULTI_CROP, indices).device.type == "cuda"
