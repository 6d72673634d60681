"""Losses of two views: equal to the formulas for every pair, whatever the sizes, dtypes and blocks."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from hvs_aug._check import HVSError
from hvs_aug.selection.losses import CallableLoss, NegativeCosineLoss, NTXentLoss, contrastive
from hvs_aug.views.recipe import ViewSlot

from ..reference import losses as reference
from .outputs import DTYPES, GLOBAL, MULTI_CROP, close, pieces, teacher_pieces


@pytest.fixture(params=["one block", "many blocks"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Walk the product in one block, and in blocks of a few rows."""
    if request.param == "many blocks":
        monkeypatch.setattr(contrastive, "block_bytes", lambda device: 256)


class TestNegativeCosine:
    @pytest.mark.parametrize("views, batch, width", [(1, 1, 1), (2, 1, 3), (4, 5, 7), (6, 2, 33)])
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_equals_simsiam(self, views: int, batch: int, width: int, dtype: torch.dtype) -> None:
        prediction, projection = torch.randn(2, views, batch, width).to(dtype)
        table = NegativeCosineLoss().table((prediction, projection))
        assert table.dtype == torch.float32
        close(table, reference.negative_cosine_table(prediction, projection))

    def test_outputs_near_zero_count_less_as_in_pytorch(self) -> None:
        prediction, projection = 3e-9 * torch.randn(2, 2, 3, 5)
        directed = [torch.cosine_similarity(prediction[u], projection[1 - u], dim=-1) for u in (0, 1)]
        assert directed[0].abs().max() < 0.9
        close(NegativeCosineLoss().table((prediction, projection))[0, 1], -(directed[0] + directed[1]) / 2)

    def test_dict_and_slots_give_the_same(self) -> None:
        prediction, projection = torch.randn(2, 7, 3, 5)
        slots = tuple(ViewSlot(None, candidates=slot.candidates, select=1) for slot in MULTI_CROP)
        outputs = [{"projection": z, "prediction": p} for p, z in zip(pieces(prediction), pieces(projection), strict=True)]
        whole = NegativeCosineLoss().table((prediction, projection))
        assert torch.equal(NegativeCosineLoss().table(outputs, slots=slots), whole)
        locals_zero = NegativeCosineLoss().table(outputs, slots=MULTI_CROP)
        assert not locals_zero[2:5, 2:5].any() and torch.equal(locals_zero[:2], whole[:2])
        assert torch.equal(NegativeCosineLoss(local_pairs=True).table(outputs, slots=MULTI_CROP), whole)

    def test_byol_takes_the_teachers_projection(self) -> None:
        prediction, projection = torch.randn(2, 4, 3, 5)
        expected = reference.byol_table(prediction, projection)
        unused = torch.randn(4, 3, 5)
        for student in (prediction, (prediction, unused), {"prediction": prediction}):
            for teacher in (projection, (unused, projection), {"projection": projection}):
                close(NegativeCosineLoss().table(student, teacher), expected)
        pair = reference.byol_loss_of_pair(prediction[0], projection[0], prediction[3], projection[3])
        close(4 + 4 * NegativeCosineLoss().table(prediction, projection)[0, 3], pair)

    def test_a_local_view_has_one_direction_against_a_teacher(self) -> None:
        prediction, projection = torch.randn(2, 7, 3, 5)
        table = NegativeCosineLoss().table(pieces(prediction), teacher_pieces(projection), MULTI_CROP)
        both = reference.byol_table(prediction, projection)
        for u, v in itertools.product(range(7), range(7)):
            if u in GLOBAL and v in GLOBAL:
                close(table[u, v], both[u, v])
            elif u in GLOBAL or v in GLOBAL:
                seen, other = (u, v) if u in GLOBAL else (v, u)
                close(table[u, v], -F.cosine_similarity(prediction[other], projection[seen], dim=-1))
            else:
                assert not table[u, v].any()

    def test_a_vector_of_length_zero_is_no_nan(self) -> None:
        table = NegativeCosineLoss().table((torch.zeros(2, 1, 3), torch.ones(2, 1, 3)))
        assert torch.equal(table, torch.zeros(2, 2, 1))


class TestNTXent:
    @pytest.mark.usefixtures("blocks")
    @pytest.mark.parametrize("views, batch, width", [(1, 2, 3), (2, 2, 1), (4, 5, 7), (3, 9, 33)])
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0])
    def test_equals_simclr(self, views: int, batch: int, width: int, dtype: torch.dtype, temperature: float) -> None:
        outputs = torch.randn(views, batch, width).to(dtype)
        close(
            NTXentLoss(temperature).table(outputs), reference.ntxent_table(outputs, temperature), 1e-5 / min(1.0, 10 * temperature)
        )

    def test_mean_is_the_loss_of_the_batch_of_a_pair(self) -> None:
        outputs = torch.randn(3, 6, 8)
        points = F.normalize(torch.cat([outputs[0], outputs[2]]), dim=-1)
        logits = (points @ points.T / 0.5).fill_diagonal_(-torch.inf)
        expected = F.cross_entropy(logits, torch.arange(12).roll(6))
        close(NTXentLoss(0.5).table(outputs)[0, 2].mean(), expected)

    @pytest.mark.usefixtures("blocks")
    def test_a_nan_image_stays_alone(self) -> None:
        outputs = torch.randn(4, 5, 7)
        outputs[1, 3, 0], outputs[2, 3, 1], outputs[0, 1] = torch.nan, torch.nan, torch.inf
        table = NTXentLoss(0.2).table(outputs)
        bad = torch.zeros(4, 4, 5, dtype=torch.bool)
        for view, image in ((1, 3), (2, 3), (0, 1)):
            bad[view, :, image] = bad[:, view, image] = True
        bad.diagonal().zero_()
        assert torch.equal(~table.isfinite(), bad)
        without = [image for image in range(5) if image != 3]
        close(table[1, 2][without], reference.ntxent_table(outputs[:, without], 0.2)[1, 2])

    def test_no_finite_image_but_one(self) -> None:
        outputs = torch.randn(2, 3, 4)
        outputs[:, 1:] = torch.nan
        table = NTXentLoss(0.2).table(outputs)
        assert abs(table[0, 1, 0]) < 1e-5 and table[0, 1, 1:].isnan().all()

    def test_one_image_has_no_negatives(self) -> None:
        with pytest.raises(
            HVSError, match=r"NTXentLoss.table\(student\): expected at least 2 images.*negatives, got 1.\n.*drop_last"
        ):
            NTXentLoss(0.1).table(torch.randn(4, 1, 8))

    def test_one_product_serves_all_pairs(self) -> None:
        outputs = torch.randn(6, 16, 32)
        with FlopCounterMode(display=False) as counter:
            NTXentLoss(0.1).table(outputs)
        rows = 6 * 16
        assert counter.get_total_flops() == 2 * rows * rows * 32 + 2 * 6 * 6 * 16 * 32


class TestCallable:
    def test_calls_each_pair_once_with_the_models_own_structure(self) -> None:
        seen = []

        def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> Tensor:
            seen.append((one["a"].shape, other["b"].shape))
            return (one["a"] - other["a"]).square().mean(-1) + (one["b"] - other["b"]).square().mean((-1, -2))

        outputs = {"a": torch.randn(4, 3, 5), "b": torch.randn(4, 3, 2, 2)}
        table = CallableLoss(distance).table(outputs)
        assert seen == [((3, 5), (3, 2, 2))] * 6
        close(table[1, 3], distance(*({name: value[view] for name, value in outputs.items()} for view in (1, 3))))
        assert torch.equal(table, table.transpose(0, 1)) and not table.diagonal().any()

    def test_local_pairs(self) -> None:
        calls = []

        def distance(one: Tensor, other: Tensor) -> Tensor:
            calls.append(1)
            return (one - other).square().mean(-1)

        outputs = torch.randn(7, 3, 5)
        table = CallableLoss(distance).table(pieces(outputs), slots=MULTI_CROP)
        assert len(calls) == 21 - 3 and not table[2:5, 2:5].any()
        assert CallableLoss(distance, local_pairs=True).table(pieces(outputs), slots=MULTI_CROP)[2, 3].all()

    def test_teacher_takes_the_mean_of_the_directions_there_are(self) -> None:
        def loss(query: Tensor, key: Tensor) -> Tensor:
            return (query * 3 - key).square().sum(-1)

        student, teacher = torch.randn(2, 7, 3, 5)
        table = CallableLoss(loss, teacher=True).table(pieces(student), teacher_pieces(teacher), MULTI_CROP)
        close(table[0, 6], (loss(student[0], teacher[6]) + loss(student[6], teacher[0])) / 2)
        close(table[3, 5], loss(student[3], teacher[5]))
        assert not table[2:5, 2:5].any()

    def test_moco_reads_a_queue(self) -> None:
        queue = F.normalize(torch.randn(16, 5), dim=-1)

        def loss(query: Tensor, key: Tensor) -> Tensor:
            logits = torch.cat([(query * key).sum(-1, keepdim=True), query @ queue.T], 1) / 0.2
            return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long), reduction="none")

        query, key = F.normalize(torch.randn(2, 4, 3, 5), dim=-1)
        table = CallableLoss(loss, teacher=True).table(query, key)
        close(table[0, 1], (loss(query[0], key[1]) + loss(query[1], key[0])) / 2)

    @pytest.mark.parametrize("returned", [lambda a, b: (a - b).square().mean(), lambda a, b: 0.0, lambda a, b: a.argmax(-1)])
    def test_wrong_result(self, returned: object) -> None:
        with pytest.raises(
            HVSError, match=r'CallableLoss\(function\): expected a floating-point tensor of shape \(3,\).*\n.*reduction="none"'
        ):
            CallableLoss(returned).table(torch.randn(2, 3, 4))

    def test_not_callable(self) -> None:
        with pytest.raises(HVSError, match=r"CallableLoss\(function\): expected a function"):
            CallableLoss("cosine")
