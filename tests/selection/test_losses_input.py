"""What every loss does with what it is given: leaves it alone, and says what is wrong with it."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.live_bytes import LiveBytes
from hvs_aug._check import HVSError
from hvs_aug.selection.losses import (
    CallableLoss,
    DINOLoss,
    IBOTLoss,
    MoCoLoss,
    NegativeCosineLoss,
    NTXentLoss,
    PairLoss,
    SwAVLoss,
    VICRegLoss,
)
from hvs_aug.selection.losses.pair import block_bytes
from hvs_aug.views.recipe import ViewSlot

from .outputs import MULTI_CROP, pieces, teacher_pieces


def distance(one: Tensor, other: Tensor) -> Tensor:
    return (one - other).square().mean(-1)


LOSSES = [
    NTXentLoss(0.2),
    CallableLoss(distance),
    CallableLoss(distance, teacher=True),
    NegativeCosineLoss(),
    DINOLoss(),
    MoCoLoss(0.2),
    SwAVLoss(),
    VICRegLoss(),
]


def arguments(loss: PairLoss, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor | None]:
    return student, teacher if loss.needs_teacher or isinstance(loss, NegativeCosineLoss) else None


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
class TestEveryLoss:
    def test_inputs_are_left_alone_and_no_gradient_is_kept(self, loss: PairLoss) -> None:
        student, teacher = torch.randn(2, 4, 3, 8, requires_grad=True)
        before = student.detach().clone(), teacher.detach().clone()
        table = loss.table(*arguments(loss, student, teacher))
        assert not table.requires_grad and table.grad_fn is None
        assert torch.equal(student, before[0]) and torch.equal(teacher, before[1])

    def test_autocast_does_not_reach_the_table(self, loss: PairLoss) -> None:
        student, teacher = torch.randn(2, 4, 3, 64)
        plain = loss.table(*arguments(loss, student, teacher))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(loss.table(*arguments(loss, student, teacher)), plain)

    def test_half_precision_is_summed_in_float32(self, loss: PairLoss) -> None:
        student, teacher = torch.randn(2, 4, 3, 64).half()
        exact = loss.table(*arguments(loss, student.float(), teacher.float()))
        if isinstance(loss, CallableLoss):
            return  # the user's own arithmetic
        torch.testing.assert_close(loss.table(*arguments(loss, student, teacher)), exact)

    def test_the_random_state_is_left_alone(self, loss: PairLoss) -> None:
        student, teacher = torch.randn(2, 4, 3, 8)
        state = torch.get_rng_state()
        loss.table(*arguments(loss, student, teacher))
        assert torch.equal(torch.get_rng_state(), state)

    def test_permuted_candidates_permute_the_table(self, loss: PairLoss) -> None:
        student, teacher = torch.randn(2, 4, 3, 8)
        order = torch.tensor([2, 0, 3, 1])
        permuted = loss.table(*arguments(loss, student[order], teacher[order]))
        torch.testing.assert_close(permuted, loss.table(*arguments(loss, student, teacher))[order][:, order])

    def test_copies_and_shows(self, loss: PairLoss) -> None:
        assert repr(copy.deepcopy(loss)) == repr(loss) and type(loss).__name__ in repr(loss)
        assert repr(pickle.loads(pickle.dumps(loss))) == repr(loss)

    def test_integers(self, loss: PairLoss) -> None:
        whole = torch.ones(4, 3, 8, dtype=torch.int64)
        with pytest.raises(
            HVSError, match=r"table\(student\): expected floating-point outputs for slot 'view', got a int64 tensor"
        ):
            loss.table(*arguments(loss, whole, whole))

    def test_another_first_axis(self, loss: PairLoss) -> None:
        student = [torch.randn(slot.candidates, 3, 8) for slot in MULTI_CROP]
        student[1] = torch.randn(2, 3, 8)
        teacher = teacher_pieces(torch.randn(7, 3, 8)) if loss.needs_teacher else None
        with pytest.raises(
            HVSError, match=r"leading axes \(candidates, B\) = \(3, 3\) on cpu for slot 'local', got a float32 tensor"
        ):
            loss.table(student, teacher, MULTI_CROP)

    def test_batches_of_different_size(self, loss: PairLoss) -> None:
        student = [torch.randn(2, 3, 8), torch.randn(3, 4, 8), torch.randn(2, 3, 8)]
        with pytest.raises(HVSError, match=r"= \(3, 3\) on cpu for slot 'local', got .*\(3, 4, 8\)"):
            loss.table(student, None, MULTI_CROP)

    def test_teacher_elsewhere(self, loss: PairLoss) -> None:
        student, teacher = torch.randn(2, 4, 3, 8)
        with pytest.raises(HVSError, match=r"table\(teacher\): .* on cpu for slot 'view', got .* on meta"):
            loss.table(student, teacher.to("meta"))

    def test_slots_and_outputs_of_different_number(self, loss: PairLoss) -> None:
        with pytest.raises(HVSError, match=r"table\(student\): expected one output for each of the 3 slots, got 1 outputs"):
            loss.table([torch.randn(7, 3, 8)], None, MULTI_CROP)
        with pytest.raises(HVSError, match=r"table\(slots\): expected the slots that the outputs belong to, got None"):
            loss.table([torch.randn(7, 3, 8)])

    def test_no_global_slot(self, loss: PairLoss) -> None:
        slots = [ViewSlot(None, candidates=4, select=2, role="local")]
        with pytest.raises(HVSError, match=r"table\(slots\): expected a slot of role 'global', got roles \['local'\]"):
            loss.table([torch.randn(4, 3, 8)], None, slots)


def test_a_missing_output() -> None:
    with pytest.raises(HVSError, match="expected a tensor, a tuple or a dict of tensors for slot 'local', got NoneType None"):
        NTXentLoss(0.1).table(teacher_pieces(torch.randn(7, 3, 8)), None, MULTI_CROP)
    with pytest.raises(HVSError, match="for slot 'global 1', got NoneType None"):
        DINOLoss().table(pieces(torch.randn(7, 3, 8)), [None, None, torch.randn(2, 3, 8)], MULTI_CROP)


@pytest.mark.parametrize("output", ["text", 3.0, (1, 2), {"z": None}, ()])
def test_no_tensors(output: Any) -> None:
    with pytest.raises(HVSError, match=r"NTXentLoss.table\(student\): expected"):
        NTXentLoss(0.1).table(output)


def test_outputs_that_are_no_projection() -> None:
    with pytest.raises(HVSError, match=r"expected one tensor \(candidates, B, width\) per slot, got .*\n.*projection alone"):
        NTXentLoss(0.1).table((torch.randn(4, 3, 8), torch.randn(4, 3, 8)))
    with pytest.raises(HVSError, match=r"NTXentLoss.table\(student\): expected one tensor \(candidates, B, width\)"):
        NTXentLoss(0.1).table(torch.randn(4, 3, 8, 7))
    with pytest.raises(HVSError, match=r"NegativeCosineLoss.table\(student\): expected \(prediction, projection\), or a dict"):
        NegativeCosineLoss().table(torch.randn(4, 3, 8))
    with pytest.raises(HVSError, match=r"expected predictions and projections of one width, got 8 and 7"):
        NegativeCosineLoss().table((torch.randn(4, 3, 8), torch.randn(4, 3, 7)))


def test_slots_of_different_width() -> None:
    outputs = [torch.randn(2, 3, 8), torch.randn(3, 3, 8), torch.randn(2, 3, 9)]
    with pytest.raises(HVSError, match=r"expected outputs of one width in every slot, got widths \[8, 8, 9\]"):
        NTXentLoss(0.1).table(outputs, slots=MULTI_CROP)


@pytest.mark.parametrize("temperature", [0, -0.1, float("nan"), float("inf"), "0.1", None, False])
def test_ntxent_temperature(temperature: Any) -> None:
    with pytest.raises(HVSError, match=r"NTXentLoss\(temperature\): expected a number above 0, got"):
        NTXentLoss(temperature)


def test_ibot_names_what_the_model_is_called_with() -> None:
    assert IBOTLoss().model_extras == ("masks",) and DINOLoss().model_extras == ()


def test_an_own_loss_in_a_few_lines() -> None:
    class Euclidean(PairLoss):
        def _table(self, student: Any, teacher: Any, slots: Any, extras: Any) -> Tensor:
            outputs = torch.cat(list(student)).transpose(0, 1)
            return torch.cdist(outputs, outputs).permute(1, 2, 0)

    outputs = torch.randn(7, 3, 8)
    table = Euclidean().table(pieces(outputs), slots=MULTI_CROP)
    torch.testing.assert_close(table[0, 3], (outputs[0] - outputs[3]).norm(dim=-1))
    assert not table[2:5, 2:5].any()


def test_a_loss_that_keeps_a_module_is_not_changed() -> None:
    norm = nn.BatchNorm1d(8)
    table = CallableLoss(lambda one, other: distance(norm.eval()(one), norm(other))).table(torch.randn(4, 3, 8))
    assert table.shape == (4, 4, 3) and not norm.running_mean.any()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_ntxent_memory_is_one_block(device: str) -> None:
    """Beside two normalised copies of the outputs: at B=2048, V=4 the whole product would take 256 MiB."""
    with FakeTensorMode():
        outputs = torch.empty(4, 2048, 128, device=device)
        with LiveBytes() as count:
            NTXentLoss(0.1).table(outputs)
    block = block_bytes(torch.device(device))
    assert block < count.peak <= 1.05 * block + 2.5 * 4 * 2048 * 128 * 4


def test_a_tuple_of_one_projection_is_that_projection() -> None:
    projection = torch.randn(4, 3, 8)
    slots = [ViewSlot(None, 4, 2)]
    assert torch.equal(NTXentLoss(0.2).table([(projection,)], None, slots), NTXentLoss(0.2).table([projection], None, slots))
