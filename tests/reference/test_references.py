"""The references against closed forms, hand numbers and independent libraries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tvf
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks import published
from hvs_aug import ops
from hvs_aug.data.batch import ImageBatch
from hvs_aug.views.params import ViewParams
from hvs_aug.views.recipe import ViewRecipe, ViewSlot

from . import losses, policies, search, views

RECIPE = ViewRecipe(8)


def slot(candidates: int, select: int, role: Literal["global", "local"] = "global", recipe: ViewRecipe = RECIPE) -> ViewSlot:
    return ViewSlot(recipe, candidates, select, role=role)


DINO_SLOTS = (slot(2, 1), slot(2, 1), slot(4, 2, "local"))
LAYOUTS = [
    pytest.param((slot(4, 2),), id="4-choose-2"),
    pytest.param((slot(2, 1), slot(2, 1)), id="two-globals"),
    pytest.param(DINO_SLOTS, id="dino"),
    pytest.param((slot(3, 2, "local"), slot(3, 2)), id="locals-first"),
    pytest.param((slot(2, 1), slot(3, 2, "local"), slot(2, 1, "local")), id="one-global-two-kinds-of-locals"),
    pytest.param((slot(4, 3),), id="three-globals"),
]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# losses


def test_negative_cosine_is_minus_one_for_equal_and_plus_one_for_opposite_vectors() -> None:
    outputs = randn(1, 3, 5)
    table = losses.negative_cosine_table(torch.cat([outputs, 2 * outputs, -outputs]), torch.cat([outputs, outputs, outputs]))
    assert torch.allclose(table[0, 1], torch.full((3,), -1.0, dtype=torch.float64))
    assert torch.allclose(table[0, 2], torch.zeros(3, dtype=torch.float64), atol=1e-12)  # one direction -1, the other +1
    assert torch.equal(table.diagonal(dim1=0, dim2=1), torch.zeros(3, 3, dtype=torch.float64))


def test_negative_cosine_table_is_lightlys_loss_in_the_mean() -> None:
    lightly_loss = pytest.importorskip("lightly.loss").NegativeCosineSimilarity()
    predictions, projections = randn(3, 6, 7, seed=1), randn(3, 6, 7, seed=2)
    table = losses.negative_cosine_table(predictions, projections)
    for u in range(3):
        for v in range(3):
            theirs = (lightly_loss(predictions[u], projections[v]) + lightly_loss(predictions[v], projections[u])) / 2
            assert u == v or float(table[u, v].mean()) == pytest.approx(float(theirs), abs=1e-12)


def test_byol_loss_is_four_plus_four_times_the_table_and_squared_distance_of_unit_vectors() -> None:
    predictions, targets = randn(2, 4, 6, seed=3), randn(2, 4, 6, seed=4)
    direct = losses.byol_loss_of_pair(predictions[0], targets[0], predictions[1], targets[1])
    assert torch.allclose(4 + 4 * losses.byol_table(predictions, targets)[0, 1], direct)
    p, z = normalize(predictions, dim=-1), normalize(targets, dim=-1)
    assert torch.allclose((p[0] - z[1]).square().sum(-1) + (p[1] - z[0]).square().sum(-1), direct)


@pytest.mark.parametrize("images", [1, 2, 5])
def test_simclr_of_equal_projections_is_the_log_of_the_number_of_others(images: int) -> None:
    same = torch.ones(images, 4)
    expected = torch.full((images,), math.log(2 * images - 1), dtype=torch.float64)
    assert torch.allclose(losses.simclr_loss_of_pair(same, same, 0.1), expected)


def test_simclr_of_orthogonal_images_has_a_closed_form() -> None:
    points, temperature = torch.eye(4), 0.5
    expected = -math.log(math.exp(1 / temperature) / (math.exp(1 / temperature) + 6))
    assert losses.simclr_loss_of_pair(points, points, temperature).tolist() == pytest.approx([expected] * 4)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_ntxent_table_is_lightlys_loss_in_the_mean(temperature: float) -> None:
    lightly_loss = pytest.importorskip("lightly.loss").NTXentLoss(temperature=temperature)
    projections = randn(3, 6, 7)
    table = losses.ntxent_table(projections, temperature)
    for u in range(3):
        for v in range(3):
            theirs = lightly_loss(projections[u], projections[v])
            assert u == v or float(table[u, v].mean()) == pytest.approx(float(theirs), abs=1e-6)
    assert torch.allclose(table, table.transpose(0, 1), atol=1e-12)


def test_ntxent_negatives_are_those_of_the_pair_alone() -> None:
    projections = randn(3, 4, 5)
    changed = projections.clone()
    changed[2] = randn(4, 5, seed=9)
    before, after = losses.ntxent_table(projections, 0.2), losses.ntxent_table(changed, 0.2)
    assert torch.equal(before[0, 1], after[0, 1])
    assert not torch.allclose(before[0, 2], after[0, 2])


def dino_outputs(slots: tuple[ViewSlot, ...], images: int = 3, prototypes: int = 6) -> tuple[Tensor, dict[int, Tensor], Tensor]:
    roles = losses.view_roles(slots)
    student, teacher = randn(len(roles), images, prototypes, seed=5), randn(len(roles), images, prototypes, seed=6)
    return student, {v: teacher[v] for v, role in enumerate(roles) if role == "global"}, randn(1, prototypes, seed=7) / 3


def globals_first(kept: tuple[int, ...], slots: tuple[ViewSlot, ...]) -> list[int]:
    roles = losses.view_roles(slots)
    return sorted(kept, key=lambda view: roles[view] != "global")


def test_dino_of_uniform_outputs_is_the_log_of_the_number_of_prototypes() -> None:
    flat = [torch.zeros(2, 5) for _ in range(4)]
    assert losses.dino_loss_of_set(flat, flat[:2], torch.zeros(1, 5), 0.04, 0.1).tolist() == pytest.approx([math.log(5)] * 2)


def test_dino_cross_entropy_by_hand() -> None:
    teacher, student, center = torch.tensor([math.log(3.0), 0.0]), torch.tensor([0.0, math.log(4.0)]), torch.zeros(1, 2)
    expected = -(0.75 * math.log(0.2) + 0.25 * math.log(0.8))
    assert losses.cross_entropy(teacher, student, center, 1.0, 1.0) == pytest.approx(expected)
    shifted = losses.cross_entropy(teacher + torch.tensor([1.0, 2.0]), student, torch.tensor([[1.0, 2.0]]), 1.0, 1.0)
    assert shifted == pytest.approx(expected)
    # Temperatures divide: halving both outputs at temperature 0.5 changes nothing.
    assert losses.cross_entropy(teacher / 2, student / 2, center, 0.5, 0.5) == pytest.approx(expected)


@pytest.mark.parametrize("local", [0, 1, 3])
def test_dino_loss_of_set_is_lightlys_in_the_mean(local: int) -> None:
    loss = pytest.importorskip("lightly.loss").DINOLoss(output_dim=6, teacher_temp=0.05, student_temp=0.2)
    student, teacher = [*randn(2 + local, 4, 6).float()], [*randn(2, 4, 6, seed=1).float()]
    loss.center = randn(1, 1, 6, seed=2).float()
    ours = losses.dino_loss_of_set(student, teacher, loss.center.clone(), 0.05, 0.2)
    assert float(ours.mean()) == pytest.approx(float(loss(teacher, student)), rel=1e-5)


@pytest.mark.parametrize("slots", LAYOUTS)
def test_dino_table_sums_to_the_loss_of_every_kept_set(slots: tuple[ViewSlot, ...]) -> None:
    student, teacher, center = dino_outputs(slots)
    table = losses.dino_table(student, teacher, slots, center, 0.3, 0.4)
    assert torch.equal(table, table.transpose(0, 1))
    for kept in search.selections(slots):
        order = globals_first(kept, slots)
        direct = losses.dino_loss_of_set([student[v] for v in order], [teacher[v] for v in order if v in teacher], center, 0.3, 0.4)
        summed = search.selection_loss(table, torch.tensor(kept)[:, None].expand(-1, 3))
        assert torch.allclose(summed, direct, atol=1e-12)


def test_dino_table_is_zero_between_locals_and_on_the_diagonal() -> None:
    student, teacher, center = dino_outputs(DINO_SLOTS)
    table = losses.dino_table(student, teacher, DINO_SLOTS, center, 0.3, 0.4)
    assert not table[4:, 4:].any() and not table.diagonal(dim1=0, dim2=1).any()
    assert bool((table[:4, 4:] > 0).all())


IBOT: dict[str, Any] = {
    "lambda1": 0.7,
    "lambda2": 1.3,
    "cls_center": randn(1, 6, seed=7) / 3,
    "patch_center": randn(1, 1, 5, seed=8) / 3,
    "teacher_temperature": 0.3,
    "teacher_patch_temperature": 0.5,
    "student_temperature": 0.4,
}


def ibot_outputs(
    slots: tuple[ViewSlot, ...], images: int = 3
) -> tuple[Tensor, dict[int, Tensor], dict[int, Tensor], dict[int, Tensor], dict[int, Tensor]]:
    student_cls, teacher_cls, _ = dino_outputs(slots, images)
    student_patch = {v: randn(images, 6, 5, seed=20 + v) for v in teacher_cls}
    teacher_patch = {v: randn(images, 6, 5, seed=40 + v) for v in teacher_cls}
    masks = {v: randn(images, 2, 3, seed=60 + v) > 0 for v in teacher_cls}
    masks[min(masks)][0] = False  # an image without a masked patch
    return student_cls, student_patch, teacher_cls, teacher_patch, masks


@pytest.mark.parametrize("slots", LAYOUTS)
def test_ibot_table_sums_to_the_loss_of_every_kept_set(slots: tuple[ViewSlot, ...]) -> None:
    student_cls, student_patch, teacher_cls, teacher_patch, masks = ibot_outputs(slots)
    table = losses.ibot_table(student_cls, student_patch, teacher_cls, teacher_patch, masks, slots, **IBOT)
    for kept in search.selections(slots):
        order = globals_first(kept, slots)
        kept_globals = [v for v in order if v in masks]
        direct = losses.ibot_loss_of_set(
            [student_cls[v] for v in order],
            *([outputs[v] for v in kept_globals] for outputs in (student_patch, teacher_cls, teacher_patch, masks)),
            **IBOT,
        )
        summed = search.selection_loss(table, torch.tensor(kept)[:, None].expand(-1, 3))
        assert torch.allclose(summed, direct, atol=1e-12)


def test_ibot_patch_term_is_lightlys() -> None:
    loss = pytest.importorskip("lightly.loss").IBOTPatchLoss(output_dim=5, teacher_temp=0.05, student_temp=0.2)
    _, student_patch, _, teacher_patch, masks = ibot_outputs((slot(2, 2),))
    center = randn(1, 5, seed=3).float()
    both = []
    for view in range(2):
        loss.center.center = center
        flat = masks[view].flatten(1)
        both.append(float(loss(teacher_patch[view].float()[flat], student_patch[view].float()[flat], masks[view], 0.05)))
    settings = IBOT | {"lambda1": 0.0, "lambda2": 1.0, "patch_center": center}
    settings |= {"teacher_patch_temperature": 0.05, "student_temperature": 0.2}
    per_view = [[outputs[v] for v in range(2)] for outputs in (student_patch, teacher_patch, masks)]
    cls = [randn(3, 6), randn(3, 6, seed=1)]
    ours = losses.ibot_loss_of_set(cls, per_view[0], cls, per_view[1], per_view[2], **settings)
    assert float(ours.mean()) == pytest.approx(sum(both) / 2, rel=1e-5)


# search and policies


def test_selections_are_grouped_by_slot_and_ordered_by_globals_first() -> None:
    slots = (slot(3, 2, "local"), slot(2, 1))
    assert search.selections(slots) == [(0, 1, 3), (0, 2, 3), (1, 2, 3), (0, 1, 4), (0, 2, 4), (1, 2, 4)]
    assert len(search.selections((slot(2, 1), slot(2, 1), slot(6, 3, "local")))) == 2 * 2 * math.comb(6, 3)
    assert search.first_candidates(slots) == (0, 1, 3)


def test_loss_of_adds_the_diagonal_and_each_pair_once() -> None:
    table = torch.arange(9.0).reshape(3, 3, 1)
    table = table + table.transpose(0, 1)  # entries 0 4 8 / 4 8 12 / 8 12 16
    assert search.loss_of(table, (0, 1, 2), 0) == 0 + 8 + 16 + 4 + 8 + 12
    assert search.selection_loss(table, torch.tensor([[0], [2]])).tolist() == [0 + 16 + 8]


def two_view_table(*rows: list[float]) -> Tensor:
    """A (3, 3, B) table from each image's entries at (0, 1), (0, 2), (1, 2)."""
    table = torch.zeros(3, 3, len(rows))
    for image, row in enumerate(rows):
        for (u, v), value in zip([(0, 1), (0, 2), (1, 2)], row, strict=True):
            table[u, v, image] = table[v, u, image] = value
    return table


def test_brute_force_rules_for_ties_and_values_that_are_not_finite() -> None:
    nan, inf = math.nan, math.inf
    table = two_view_table([1, 3, 2], [-3, -2, -1], [2, 2, 2], [1, nan, 0], [inf, 1, 2], [nan, inf, -inf], [-inf, -5, nan])
    chosen = search.brute_force(table, (slot(3, 2),)).T.tolist()
    assert chosen == [[0, 2], [1, 2], [0, 1], [0, 1], [1, 2], [0, 1], [0, 2]]


def test_brute_force_of_an_empty_batch() -> None:
    assert search.brute_force(torch.zeros(3, 3, 0), (slot(3, 2),)).shape == (2, 0)


def test_policies_by_hand() -> None:
    table, slots = two_view_table([1, 3, 2], [0, 0, -1], [math.nan] * 3), (slot(3, 2),)
    assert policies.hardest(table, slots).T.tolist() == [[0, 2], [0, 1], [0, 1]]
    assert policies.easiest(table, slots).T.tolist() == [[0, 1], [1, 2], [0, 1]]
    for quantile, expected in [(0.0, [0, 1]), (0.49, [0, 1]), (0.5, [1, 2]), (0.99, [1, 2]), (1.0, [0, 2])]:
        assert policies.semi_hard(table, slots, quantile)[:, 0].tolist() == expected
    probabilities = policies.softmax_probabilities(table, slots, 2.0)
    assert torch.allclose(probabilities[:, 0], torch.tensor([1.0, 3.0, 2.0], dtype=torch.float64).div(2).softmax(0))
    assert probabilities[:, 2].tolist() == [1, 0, 0]
    assert policies.min_iou(table[..., :1], slots).T.tolist() == [[0, 1]]


def test_min_iou_counts_pairs_of_locals_only_on_request() -> None:
    slots = (slot(1, 1), slot(3, 2, "local"))
    iou = torch.zeros(4, 4, 1)
    iou[1, 2] = iou[2, 1] = 1.0  # two locals that coincide
    iou[0, 3] = iou[3, 0] = 0.5
    assert policies.min_iou(iou, slots).T.tolist() == [[0, 1, 2]]
    assert policies.min_iou(iou, slots, local_pairs=True).T.tolist() == [[0, 1, 3]]


# published


def encoder(pixels: Tensor) -> Tensor:
    return pixels.flatten(1)[:, :5] * 3


@pytest.mark.parametrize("candidates", [2, 4])
def test_published_simclr_finds_the_hardest_pair(candidates: int) -> None:
    crops = randn(candidates, 6, 2, 3, 3).float()
    view_a, view_b, indices, loss = published.published_pair(
        encoder, list(crops), lambda a, b: published.published_ntxent(a, b, 0.2)
    )
    projections = crops.flatten(2)[:, :, :5] * 3
    table = losses.ntxent_table(projections, 0.2)
    assert torch.equal(indices, search.brute_force(table, (slot(candidates, 2),)))
    assert torch.allclose(loss.double(), search.selection_loss(table, indices), atol=1e-5)
    image = torch.arange(6)
    assert torch.equal(view_a, crops[indices[0], image]) and torch.equal(view_b, crops[indices[1], image])
    again, loss_again = published.published_simclr_table_search(projections, 0.2)
    assert torch.equal(again, indices) and torch.equal(loss_again, loss)


def test_published_simsiam_finds_the_hardest_pair_and_the_published_start_finds_none() -> None:
    crops = randn(4, 6, 2, 3, 3).abs().float()  # all cosines positive, so all losses negative

    def model(pixels: Tensor) -> tuple[Tensor, Tensor]:
        return encoder(pixels), encoder(pixels) + 1

    outputs = [model(crop) for crop in crops]
    table = losses.negative_cosine_table(torch.stack([p for p, _ in outputs]), torch.stack([z for _, z in outputs]))
    _, _, indices, loss = published.published_pair(model, list(crops), published.published_simsiam)
    assert torch.equal(indices, search.brute_force(table, (slot(4, 2),)))
    assert torch.allclose(loss.double(), search.selection_loss(table, indices), atol=1e-6)
    black, _, none, _ = published.published_pair(model, list(crops), published.published_simsiam, start_at_zero=True)
    assert not black.any() and not none.any()


def test_published_pair_keeps_nan_once_met() -> None:
    crops = [torch.ones(1, 1, 1, 1) * value for value in (1.0, math.nan, 5.0)]
    _, _, indices, loss = published.published_pair(lambda x: x.flatten(1), crops, lambda a, b: (a + b)[:, 0])
    assert loss.isnan().all() and indices[1].item() == 1


def multicrop(n_local: int) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
    crops = [*randn(4, 3, 2, 3, 3).float(), *randn(n_local, 3, 2, 2, 2, seed=1).float()]
    student = [crop.flatten(1)[:, :6] for crop in crops]
    return crops, student, torch.stack([-crop.flatten(1)[:, :6] for crop in crops[:4]]), torch.linspace(-0.1, 0.1, 6)[None]


def test_published_multicrop_over_all_combinations_finds_the_optimum() -> None:
    crops, student_out, teacher_out, center = multicrop(n_local=4)
    order = published.interleaved(2, 4)
    assert published.interleaved(2, 3) == [0, 2, 1, 3, 4, 5, 6]
    by_slot = {view: position for position, view in enumerate(order)}
    table = losses.dino_table(
        [student_out[by_slot[v]] for v in range(8)], {v: teacher_out[by_slot[v]] for v in range(4)}, DINO_SLOTS, center, 0.3, 0.4
    )
    calls = []

    def student(pixels: Tensor) -> Tensor:
        calls.append(len(pixels))
        return pixels.flatten(1)[:, :6]

    for second_forward in (False, True):
        calls.clear()
        chosen, indices, loss = published.published_multicrop(
            student,
            lambda pixels: -pixels.flatten(1)[:, :6],
            crops,
            4,
            center=center,
            teacher_temperature=0.3,
            student_temperature=0.4,
            select_local=2,
            limit=None,
            second_forward=second_forward,
        )
        assert calls == [12, 12] * (1 + second_forward)
        ours = torch.tensor(order)[indices]
        assert torch.equal(ours, search.brute_force(table, DINO_SLOTS))
        assert torch.allclose(loss.double(), search.selection_loss(table, ours), atol=1e-5)
        assert all(torch.equal(chosen[s][b], crops[int(indices[s, b])][b]) for s in range(4) for b in range(3))


def test_published_sampling_is_valid_repeats_and_never_beats_the_optimum() -> None:
    _, student_out, teacher_out, center = multicrop(n_local=4)
    settings: dict[str, Any] = {"center": center, "teacher_temperature": 0.3, "student_temperature": 0.4, "select_local": 2}
    _, best = published.published_dino(student_out, list(teacher_out), limit=None, **settings)
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        indices, loss = published.published_dino(student_out, list(teacher_out), limit=3, generator=generator, **settings)
        assert bool((loss <= best).all())
        assert set(indices[0].tolist()) <= {0, 2} and set(indices[1].tolist()) <= {1, 3} and bool((indices[2:] >= 4).all())
    drawn = list(published.published_combinations(4, 4, 2, 24, torch.Generator().manual_seed(0)))
    assert len(drawn) == 24 and len({(*c[:2], *sorted(c[2:])) for c in drawn}) < 24
    assert len(set(published.published_combinations(4, 4, 2, None))) == 24
    empty, _ = published.published_dino(student_out, list(teacher_out), limit=0, start_at_zero=True, **settings)
    assert not empty.any()  # the published default: nothing is compared, both globals are view 0


def test_published_ibot_over_all_combinations_finds_the_optimum() -> None:
    student_cls, student_patch, teacher_cls, teacher_patch, masks = ibot_outputs(DINO_SLOTS)
    table = losses.ibot_table(student_cls, student_patch, teacher_cls, teacher_patch, masks, DINO_SLOTS, **IBOT)
    order = published.interleaved(2, 4)
    indices, loss = published.published_ibot(
        [student_cls[v] for v in order],
        [student_patch[v] for v in order[:4]],
        [teacher_cls[v] for v in order[:4]],
        [teacher_patch[v] for v in order[:4]],
        [masks[v] for v in order[:4]],
        select_local=2,
        limit=None,
        **IBOT,
    )
    ours = torch.tensor(order)[indices]
    assert torch.equal(ours, search.brute_force(table, DINO_SLOTS))
    assert torch.allclose(loss.double(), search.selection_loss(table, ours), atol=1e-5)


# views


def test_iou_by_pixels_by_hand() -> None:
    assert views.iou_by_pixels((0, 0, 4, 4), (0, 0, 4, 4), (8, 8)) == 1.0
    assert views.iou_by_pixels((0, 0, 4, 4), (4, 4, 4, 4), (8, 8)) == 0.0  # half-open boxes that touch at a corner
    assert views.iou_by_pixels((0, 0, 2, 4), (1, 0, 2, 4), (8, 8)) == pytest.approx(4 / 12)
    assert views.iou_by_pixels((1, 1, 6, 6), (2, 3, 2, 2), (8, 8)) == pytest.approx(4 / 36)


def test_crop_is_the_antialiased_triangle_filter_and_nothing_at_equal_size() -> None:
    image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(views.crop_one(image, (0, 0, 8, 8), (8, 8), "bilinear"), image)
    # At half the side the filter is a triangle of half-width 2 around the output's centre: weights 1, 3, 3, 1 of 8.
    ramp = torch.arange(16.0).div(16).expand(3, 16, 16)
    halved = views.crop_one(ramp, (0, 0, 16, 16), (8, 8), "bilinear")
    assert torch.allclose(halved[0, 0, 1:-1], (torch.arange(1, 7) * 2 + 0.5) / 16)
    row = torch.zeros(1, 8, 8)
    row[..., 3] = 1.0
    assert views.crop_one(row, (0, 0, 8, 8), (4, 4), "bilinear")[0, 0].tolist() == pytest.approx([0, 3 / 8, 1 / 8, 0])


def test_crop_is_pillows_within_a_gray_level() -> None:
    image = torch.randint(0, 256, (3, 30, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for interpolation, mode in (("bilinear", Image.BILINEAR), ("bicubic", Image.BICUBIC)):
        exact = views.crop_one(image, (3, 5, 20, 30), (12, 14), interpolation) * 255
        cut = Image.fromarray(image[:, 3:23, 5:35].permute(1, 2, 0).numpy())
        pillow = torch.from_numpy(np.array(cut.resize((14, 12), mode))).permute(2, 0, 1)
        assert float((exact - pillow).abs().max()) <= 1.2


IMAGE = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(1)) * 0.5 + 0.1
WHOLE = {"box": torch.tensor([0, 0, 8, 8])}


def rendered(*operations: ops.Operation, **drawn: Any) -> Tensor:
    """IMAGE through these operations, with what they drew by the name of the parameter."""
    recipe = ViewRecipe(8, [ops.RandomResizedCrop(), *operations])
    named = {f"{name}.{key}": torch.as_tensor(value) for name, _ in recipe.steps for key, value in drawn.items()}
    return views.render_one(IMAGE, recipe, WHOLE | named)


def jittered(*factors: float, order: Sequence[int] = (0, 1, 2, 3)) -> Tensor:
    return rendered(ops.ColorJitter(), factors=factors, order=order)


def test_each_operation_has_its_closed_form() -> None:
    red, green, blue = IMAGE
    luma = 0.2989 * red + 0.587 * green + 0.114 * blue
    assert torch.equal(rendered(), IMAGE)
    assert torch.equal(rendered(ops.RandomHorizontalFlip(), applied=True), IMAGE.flip(-1))
    assert torch.allclose(jittered(1.5, 1.0, 1.0, 0.0), (1.5 * IMAGE).clamp(0, 1))
    assert torch.allclose(jittered(1.0, 0.7, 1.0, 0.0), (0.7 * IMAGE + 0.3 * luma.mean()).clamp(0, 1), atol=1e-6)
    assert torch.allclose(jittered(1.0, 1.0, 1.6, 0.0), (1.6 * IMAGE - 0.6 * luma).clamp(0, 1), atol=1e-6)
    assert torch.allclose(jittered(1.0, 1.0, 1.0, 1 / 3), IMAGE.roll(1, 0), atol=1e-5)  # red becomes green
    assert torch.allclose(rendered(ops.RandomGrayscale(), applied=True), luma.expand(3, 8, 8), atol=1e-6)
    assert torch.allclose(rendered(ops.RandomSolarize(), applied=True), torch.where(IMAGE >= 0.5, 1 - IMAGE, IMAGE))
    expected = (IMAGE - torch.tensor([0.5, 0.4, 0.3])[:, None, None]) / torch.tensor([0.1, 0.2, 0.3])[:, None, None]
    assert torch.allclose(rendered(ops.Normalize((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))), expected, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.1, 0.8, 2.0])
def test_blur_is_the_truncated_gaussian_with_reflected_borders(sigma: float) -> None:
    weights = [math.exp(-(offset**2) / (2 * sigma**2)) for offset in range(-2, 3)]
    reflect = [2, 1, *range(8), 6, 5]
    expected = torch.zeros_like(IMAGE)
    for dy, weight_y in enumerate(weights):
        for dx, weight_x in enumerate(weights):
            share = weight_y * weight_x / sum(weights) ** 2
            expected += share * IMAGE[:, reflect[dy : dy + 8]][:, :, reflect[dx : dx + 8]]
    assert torch.allclose(rendered(ops.GaussianBlur(5), sigma=sigma), expected, atol=1e-6)


def test_orders_are_followed_and_what_was_not_drawn_is_off() -> None:
    first, second = jittered(1.8, 0.5, 1.0, 0.0), jittered(1.8, 0.5, 1.0, 0.0, order=(1, 0, 2, 3))
    assert torch.allclose(first, tvf.adjust_contrast(tvf.adjust_brightness(IMAGE, 1.8), 0.5))
    assert torch.allclose(second, tvf.adjust_brightness(tvf.adjust_contrast(IMAGE, 0.5), 1.8))
    assert not torch.allclose(first, second)
    drawn = {"factors": (1.8, 0.5, 1.0, 0.0), "order": (0, 1, 2, 3), "applied": True}
    early, late = (
        rendered(ops.ColorJitter(), ops.RandomSolarize(), **drawn),
        rendered(ops.RandomSolarize(), ops.ColorJitter(), **drawn),
    )
    assert not torch.allclose(late, early)
    assert torch.equal(rendered(ops.RandomSolarize(), ops.RandomGrayscale(), ops.RandomHorizontalFlip(), applied=False), IMAGE)


def test_render_all_takes_each_views_own_numbers_and_never_the_padding() -> None:
    pixels = torch.full((2, 3, 10, 12), math.nan)
    images = ImageBatch(pixels, torch.tensor([[8, 8], [10, 6]]))
    pixels[0, :, :8, :8] = IMAGE
    pixels[1, :, :10, :6] = torch.rand(3, 10, 6, generator=torch.Generator().manual_seed(2))
    boxes = torch.tensor([[[0, 0, 8, 8], [0, 0, 10, 6]], [[0, 0, 8, 8], [2, 1, 5, 4]], [[4, 4, 4, 4], [9, 5, 1, 1]]])
    params = ViewParams(
        boxes=boxes,
        sizes=images.sizes,
        slots=(0, 0, 1),
        drawn={"RandomHorizontalFlip.applied": torch.tensor([[False, False], [True, False], [False, False]])},
    )
    flipped = ViewRecipe(8, [ops.RandomResizedCrop(), ops.RandomHorizontalFlip()])
    slots = (slot(2, 1, "global", flipped), slot(1, 1, "local", replace(flipped, size=4)))
    both = views.render_all(images, params, slots)
    assert [tuple(part.shape) for part in both] == [(2, 2, 3, 8, 8), (1, 2, 3, 4, 4)]
    assert torch.equal(both[0][0, 0], IMAGE) and torch.equal(both[0][1, 0], IMAGE.flip(-1))
    assert torch.equal(both[1][0, 0], IMAGE[:, 4:, 4:])
    assert torch.allclose(both[1][0, 1], pixels[1, :, 9, 5][:, None, None].expand(3, 4, 4))
    assert all(bool(part.isfinite().all()) for part in both)
    iou = params.iou()
    assert float(iou[0, 2, 1]) == pytest.approx(views.iou_by_pixels((0, 0, 10, 6), (9, 5, 1, 1), (10, 6)))
