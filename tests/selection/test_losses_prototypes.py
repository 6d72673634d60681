"""DINO's and iBOT's tables: equal to the formulas and to the repos' own losses, which they read live and never call."""

from __future__ import annotations

import types
from typing import Any

import numpy as np
import pytest
import torch
from lightly.loss import DINOLoss as LightlyDINOLoss
from lightly.loss import IBOTPatchLoss
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.live_bytes import LiveBytes
from hvs_aug._check import HVSError
from hvs_aug.selection.losses import DINOLoss, IBOTLoss, distillation
from hvs_aug.selection.losses.pair import block_bytes
from hvs_aug.selection.search import selection_loss
from hvs_aug.views.recipe import ViewSlot

from ..reference import losses as reference
from .outputs import DTYPES, GLOBAL, MULTI_CROP, close, pieces, teacher_pieces

TWO_GLOBALS = (ViewSlot(None, candidates=4, select=2),)


@pytest.fixture(params=["one block", "many blocks"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Walk the prototypes in one block, and in many."""
    if request.param == "many blocks":
        monkeypatch.setattr(distillation, "block_bytes", lambda device: 256)


def ibot_outputs(batch: int = 3, width: int = 40, patches: int = 6, patch_width: int = 20) -> dict[str, Tensor]:
    """iBOT's outputs for the seven candidates of MULTI_CROP."""
    return {
        "student": torch.randn(7, batch, width),
        "teacher": torch.randn(7, batch, width),
        "student_patch": torch.randn(7, batch, patches, patch_width),
        "teacher_patch": torch.randn(7, batch, patches, patch_width),
        "masks": torch.rand(4, batch, 2, patches // 2) < 0.4,
        "center": torch.randn(1, width) * 0.1,
        "patch_center": torch.randn(1, 1, patch_width) * 0.1,
    }


def ibot_slots(outputs: dict[str, Tensor], dtype: torch.dtype = torch.float32) -> tuple[list[Any], list[Any]]:
    student_cls, student_patch = pieces(outputs["student"].to(dtype)), pieces(outputs["student_patch"].to(dtype))
    teacher_cls, teacher_patch = pieces(outputs["teacher"].to(dtype)), pieces(outputs["teacher_patch"].to(dtype))
    student = [(student_cls[0], student_patch[0]), student_cls[1], {"cls": student_cls[2], "patch": student_patch[2]}]
    return student, [(teacher_cls[0], teacher_patch[0]), None, {"cls": teacher_cls[2], "patch": teacher_patch[2]}]


class Ibot(torch.nn.Module):
    """The attributes of ibot's own loss, whose forward moves its centres."""

    def __init__(self, width: int = 40, patch_width: int = 20) -> None:
        super().__init__()
        self.student_temp = 0.1
        self.teacher_temp_schedule = np.linspace(0.04, 0.07, 4)
        self.teacher_temp2_schedule = np.linspace(0.05, 0.08, 4)
        self.lambda1, self.lambda2 = 1.0, 0.5
        self.register_buffer("center", torch.zeros(1, width))
        self.register_buffer("center2", torch.zeros(1, 1, patch_width))

    def forward(self, *arguments: object) -> None:
        raise AssertionError("a repo's loss moves its centre when it is called")


class TestDINO:
    @pytest.mark.usefixtures("blocks")
    @pytest.mark.parametrize("batch, width", [(1, 1), (3, 40), (2, 257)])
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_equals_the_formula(self, batch: int, width: int, dtype: torch.dtype) -> None:
        student, teacher = torch.randn(2, 7, batch, width).to(dtype)
        center = torch.randn(1, width) * 0.1
        table = DINOLoss(0.05, 0.1, center).table(pieces(student), teacher_pieces(teacher), MULTI_CROP)
        assert table.dtype == torch.float32
        close(table, reference.dino_table(student, {v: teacher[v] for v in GLOBAL}, MULTI_CROP, center, 0.05, 0.1))

    @pytest.mark.usefixtures("blocks")
    @pytest.mark.parametrize("scale", [100.0, 1e4])
    def test_large_logits(self, scale: float) -> None:
        student, teacher = torch.randn(2, 4, 2, 64) * scale
        expected = reference.dino_table(student, dict(enumerate(teacher)), TWO_GLOBALS, torch.zeros(64), 0.04, 0.1)
        close(DINOLoss(0.04, 0.1).table(student, teacher), expected)

    def test_sinkhorn_targets(self) -> None:
        student, teacher = torch.randn(2, 7, 3, 40)
        table = DINOLoss(0.5, 0.2, sinkhorn=3).table(pieces(student), teacher_pieces(teacher), MULTI_CROP)
        assigned = reference.sinkhorn(teacher[GLOBAL,].flatten(0, 1), 0.5, 3).view(4, 3, 40)
        targets = dict(zip(GLOBAL, assigned.log(), strict=True))  # whose softmax at temperature 1 they are
        close(table, reference.dino_table(student, targets, MULTI_CROP, torch.zeros(40), 1.0, 0.2), 1e-4)
        with pytest.raises(HVSError, match=r"DINOLoss\(center\): expected None beside sinkhorn"):
            DINOLoss(0.04, 0.1, torch.zeros(40), sinkhorn=3)
        with pytest.raises(HVSError, match=r"DINOLoss\(sinkhorn\): expected a number of iterations"):
            DINOLoss(sinkhorn=-1)

    def test_sum_over_a_set_is_the_methods_loss(self) -> None:
        student, teacher = torch.randn(2, 7, 3, 40)
        center = torch.randn(40)
        table = DINOLoss(0.05, 0.2, center).table(pieces(student), teacher_pieces(teacher), MULTI_CROP)
        kept = [1, 2, 4, 5]
        got = selection_loss(table, torch.tensor(kept)[:, None].expand(-1, 3))
        ordered = [student[view] for view in (1, 5, 2, 4)]
        close(got, reference.dino_loss_of_set(ordered, [teacher[1], teacher[5]], center, 0.05, 0.2))

    def test_equals_lightlys_on_a_pair_and_on_a_set(self) -> None:
        student, teacher = torch.randn(2, 7, 3, 40)
        theirs = LightlyDINOLoss(output_dim=40, teacher_temp=0.05, warmup_teacher_temp=0.03, warmup_teacher_temp_epochs=5)
        theirs.center.copy_(torch.randn(1, 1, 40) * 0.1)
        for epoch in (None, 2, 7):
            ours = DINOLoss.like(theirs, epoch=epoch)
            pair = ours.table(student[GLOBAL,], teacher[GLOBAL,])[0, 3].mean()
            several = ours.table(pieces(student), teacher_pieces(teacher), MULTI_CROP)
            total = selection_loss(several, torch.tensor([0, 2, 3, 6])[:, None].expand(-1, 3)).mean()
            center = theirs.center.clone()
            close(pair, theirs([teacher[0], teacher[6]], [student[0], student[6]], epoch=epoch))
            theirs.center.copy_(center)
            close(total, theirs([teacher[0], teacher[6]], [student[view] for view in (0, 6, 2, 3)], epoch=epoch))
            theirs.center.copy_(center)

    def test_local_pairs_and_the_diagonal_are_zero(self) -> None:
        student, teacher = torch.randn(2, 7, 3, 40)
        table = DINOLoss().table(pieces(student), teacher_pieces(teacher), MULTI_CROP)
        assert torch.equal(table, table.transpose(0, 1))
        assert not table.diagonal().any() and not table[2:5, 2:5].any()

    def test_a_nan_view_spoils_its_own_entries_alone(self) -> None:
        student, teacher = torch.randn(2, 4, 3, 40)
        student[1, 2, 0], teacher[3, 0, 5] = torch.nan, torch.inf
        table = DINOLoss().table(student, teacher)
        bad = torch.zeros(4, 4, 3, dtype=torch.bool)
        bad[1, :, 2] = bad[:, 1, 2] = bad[3, :, 0] = bad[:, 3, 0] = True
        bad.diagonal().zero_()
        assert torch.equal(~table.isfinite(), bad)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
    @pytest.mark.parametrize("device", ["cpu", "cuda"])
    def test_memory_is_two_blocks(self, device: str, dtype: torch.dtype) -> None:
        """At B=64, 4 global and 16 local candidates, K=65,536, where twice the outputs' own bytes were allowed."""
        slots = (ViewSlot(None, 4, 2), ViewSlot(None, 16, 8, role="local"))
        with FakeTensorMode():
            student = [torch.empty(slot.candidates, 64, 65536, device=device, dtype=dtype) for slot in slots]
            teacher = [torch.empty(4, 64, 65536, device=device, dtype=dtype), None]
            center = torch.empty(1, 65536, device=device)
            with LiveBytes() as count:
                DINOLoss(center=center).table(student, teacher, slots)
        block = block_bytes(torch.device(device))
        assert block < count.peak <= 2 * block < 2 * 24 * 64 * 65536 * dtype.itemsize


class TestLike:
    def test_reads_live_and_never_calls(self) -> None:
        repo, epoch = Ibot(), [0]
        ours = DINOLoss.like(repo, epoch=lambda: epoch[0])
        student, teacher = torch.randn(2, 2, 3, 40)
        for step in range(3):
            epoch[0] = step
            repo.center.normal_()
            repo.student_temp = 0.1 + step
            state = {name: value.clone() for name, value in repo.state_dict().items()}
            fixed = DINOLoss(float(repo.teacher_temp_schedule[step]), repo.student_temp, repo.center.clone())
            assert torch.equal(ours.table(student, teacher), fixed.table(student, teacher))
            assert all(torch.equal(value, state[name]) for name, value in repo.state_dict().items())

    def test_a_centre_that_is_replaced_is_read(self) -> None:
        repo = Ibot()
        ours = DINOLoss.like(repo, epoch=1)
        student, teacher = torch.randn(2, 2, 3, 40)
        before = ours.table(student, teacher)
        repo.center = repo.center * 0.9 + torch.randn(1, 40)
        assert not torch.equal(ours.table(student, teacher), before)

    def test_lightlys_centre_is_left_alone(self) -> None:
        theirs = LightlyDINOLoss(output_dim=40)
        student, teacher = torch.randn(2, 2, 3, 40)
        DINOLoss.like(theirs).table(student, teacher)
        assert not theirs.center.any()

    @pytest.mark.parametrize("epoch", [None, 4, -1, 1.5])
    def test_epoch_out_of_the_schedule(self, epoch: Any) -> None:
        with pytest.raises(HVSError, match=r"DINOLoss.like\(epoch\): expected an epoch from 0 to 3.*\n  hint: .*lambda: epoch"):
            DINOLoss.like(Ibot(), epoch=epoch)

    def test_epoch_that_runs_out_later(self) -> None:
        epoch = [0]
        ours = DINOLoss.like(Ibot(), epoch=lambda: epoch[0])
        epoch[0] = 4
        with pytest.raises(HVSError, match="expected an epoch from 0 to 3"):
            ours.table(torch.randn(2, 3, 40), torch.randn(2, 3, 40))

    def test_not_a_loss_of_that_kind(self) -> None:
        with pytest.raises(
            HVSError, match=r"DINOLoss.like\(loss\): expected a loss with the attributes student_temp, center, got MSELoss without"
        ):
            DINOLoss.like(torch.nn.MSELoss(), epoch=0)
        with pytest.raises(HVSError, match="attribute teacher_temp_schedule or teacher_temp"):
            DINOLoss.like(types.SimpleNamespace(student_temp=0.1, center=torch.zeros(1, 3)), epoch=0)
        with pytest.raises(HVSError, match="center2, lambda1, lambda2.*\n.*IBOTPatchLoss"):
            IBOTLoss.like(LightlyDINOLoss(output_dim=8))


class TestIBOT:
    @pytest.mark.usefixtures("blocks")
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_equals_the_formula(self, dtype: torch.dtype) -> None:
        outputs = ibot_outputs()
        outputs["masks"][0, 1] = False
        repo = Ibot()
        repo.center.copy_(outputs["center"])
        repo.center2.copy_(outputs["patch_center"])
        table = IBOTLoss.like(repo, epoch=2).table(*ibot_slots(outputs, dtype), MULTI_CROP, {"masks": outputs["masks"]})
        cast = {name: value.to(dtype) for name, value in outputs.items()}
        expected = reference.ibot_table(
            cast["student"],
            {v: cast["student_patch"][v] for v in GLOBAL},
            {v: cast["teacher"][v] for v in GLOBAL},
            {v: cast["teacher_patch"][v] for v in GLOBAL},
            dict(zip(GLOBAL, outputs["masks"], strict=True)),
            MULTI_CROP,
            lambda1=1.0,
            lambda2=0.5,
            cls_center=outputs["center"],
            patch_center=outputs["patch_center"],
            teacher_temperature=float(repo.teacher_temp_schedule[2]),
            teacher_patch_temperature=float(repo.teacher_temp2_schedule[2]),
            student_temperature=0.1,
        )
        close(table, expected)
        assert not table[0, 0, 1]

    def test_equals_lightlys_two_losses(self) -> None:
        outputs, kept = ibot_outputs(), [0, 2, 3, 6]
        dino, patch = LightlyDINOLoss(output_dim=40, teacher_temp=0.05), IBOTPatchLoss(output_dim=20, teacher_temp=0.06)
        dino.center.copy_(outputs["center"][None])
        patch.center.center.copy_(outputs["patch_center"][0])
        student, teacher = ibot_slots(outputs)
        table = IBOTLoss.like(dino, patch_loss=patch).table(student, teacher, MULTI_CROP, {"masks": outputs["masks"]})
        got = selection_loss(table, torch.tensor(kept)[:, None].expand(-1, 3)).mean()
        views = [outputs["student"][view] for view in (0, 6, 2, 3)]
        expected = dino([outputs["teacher"][0], outputs["teacher"][6]], views)
        flat = outputs["masks"].flatten(2)
        for view, place in ((0, 0), (6, 3)):
            center = patch.center.center.clone()
            mask = flat[place]
            term = patch(outputs["teacher_patch"][view][mask], outputs["student_patch"][view][mask], outputs["masks"][place])
            patch.center.center.copy_(center)
            expected = expected + term / 2
        close(got, expected)

    def test_unmasked_patches_do_not_matter(self) -> None:
        outputs = ibot_outputs()
        before = IBOTLoss().table(*ibot_slots(outputs), MULTI_CROP, {"masks": outputs["masks"]})
        for place, view in enumerate(GLOBAL):
            outputs["student_patch"][view][~outputs["masks"].flatten(2)[place]] = torch.nan
        assert torch.equal(IBOTLoss().table(*ibot_slots(outputs), MULTI_CROP, {"masks": outputs["masks"]}), before)

    @pytest.mark.parametrize("device", ["cpu", "cuda"])
    def test_memory_is_two_blocks(self, device: str) -> None:
        with FakeTensorMode():
            outputs = [(torch.empty(4, 32, 512, device=device), torch.empty(4, 32, 196, 8192, device=device)) for _ in range(2)]
            masks = torch.zeros(4, 32, 14, 14, dtype=torch.bool, device=device)
            with LiveBytes() as count:
                IBOTLoss().table(outputs[:1], outputs[1:], TWO_GLOBALS, {"masks": masks})
        assert 0 < count.peak <= 2.1 * block_bytes(torch.device(device))


class TestBadInput:
    def table(self, loss: DINOLoss | IBOTLoss, student: int = 40, teacher: int = 40) -> Tensor:
        return loss.table(torch.randn(2, 3, student), torch.randn(2, 3, teacher))

    @pytest.mark.parametrize("value", [0, 0.0, -0.1, float("nan"), float("inf"), True, "0.1", None])
    def test_temperatures(self, value: Any) -> None:
        for name in ("teacher_temperature", "student_temperature"):
            with pytest.raises(HVSError, match=rf"DINOLoss\({name}\): expected a number above 0, got"):
                DINOLoss(**{name: value})
        if value is not None:
            for name in ("teacher_temperature", "patch_teacher_temperature", "patch_student_temperature"):
                with pytest.raises(HVSError, match=rf"IBOTLoss\({name}\): expected a number above 0, got"):
                    IBOTLoss(**{name: value})

    def test_a_temperature_that_falls_to_zero(self) -> None:
        with pytest.raises(HVSError, match=r"DINOLoss\(teacher_temperature\): expected a number above 0, got float 0.0"):
            self.table(DINOLoss(teacher_temperature=lambda: 0.0))

    def test_weights(self) -> None:
        with pytest.raises(HVSError, match=r"IBOTLoss\(lambda2\): expected a weight of at least 0"):
            IBOTLoss(lambda2=-1)

    def test_prototypes_of_another_width(self) -> None:
        with pytest.raises(HVSError, match=r"DINOLoss.table\(teacher\): expected .* one number of prototypes, got 40 and 41"):
            self.table(DINOLoss(), teacher=41)

    @pytest.mark.parametrize("shape", [(1, 39), (40, 1), (), (2, 40)])
    def test_centre_of_another_width(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(HVSError, match=r"DINOLoss\(center\): expected 40 numbers, one per prototype"):
            self.table(DINOLoss(center=torch.zeros(shape)))

    def test_centre_elsewhere(self) -> None:
        with pytest.raises(HVSError, match=r"DINOLoss\(center\): expected a tensor on cpu.* on meta.\n.*move the repo's loss"):
            self.table(DINOLoss(center=torch.zeros(40, device="meta")))

    def test_one_kept_view_has_no_term(self) -> None:
        slots = [ViewSlot(None, candidates=2, select=1)]
        with pytest.raises(HVSError, match=r"DINOLoss.table\(slots\): expected slots that keep at least 2 views, got 1"):
            DINOLoss().table([torch.randn(2, 3, 4)], [torch.randn(2, 3, 4)], slots)

    def test_no_teacher(self) -> None:
        for loss in (DINOLoss(), IBOTLoss()):
            with pytest.raises(
                HVSError, match=r"table\(teacher\): expected a teacher's outputs.*, got None.\n  hint: pass teacher="
            ):
                loss.table(torch.randn(2, 3, 4))

    @pytest.mark.parametrize(
        "masks",
        [
            None,
            torch.zeros(3, 3, 2, 3, dtype=torch.bool),
            torch.zeros(4, 2, 2, 3, dtype=torch.bool),
            torch.zeros(4, 3, 2, 3),
            torch.zeros(4, 3, dtype=torch.bool),
        ],
    )
    def test_masks(self, masks: Tensor | None) -> None:
        student, teacher = ibot_slots(ibot_outputs())
        with pytest.raises(
            HVSError, match=r'extras\["masks"\]\): expected bool masks \(4, 3, height, width\).*\n.*for all candidates'
        ):
            IBOTLoss().table(student, teacher, MULTI_CROP, {} if masks is None else {"masks": masks})

    def test_masks_of_another_grid(self) -> None:
        student, teacher = ibot_slots(ibot_outputs())
        masks = torch.zeros(4, 3, 3, 3, dtype=torch.bool)
        with pytest.raises(
            HVSError, match=r"IBOTLoss.table\(student\): expected patches \(candidates, B, 9, width\), as many as a mask"
        ):
            IBOTLoss().table(student, teacher, MULTI_CROP, {"masks": masks})

    def test_global_outputs_without_patches(self) -> None:
        student, teacher = ibot_slots(ibot_outputs())
        student[0] = student[0][0]
        with pytest.raises(
            HVSError, match=r'IBOTLoss.table\(student\): expected \(class, patches\) or a dict with the key "patch"'
        ):
            IBOTLoss().table(student, teacher, MULTI_CROP, {"masks": torch.zeros(4, 3, 2, 3, dtype=torch.bool)})


def test_only_sinkhorn_looks_at_other_processes() -> None:
    assert not DINOLoss().gather and DINOLoss(sinkhorn=3).gather and not DINOLoss(sinkhorn=3, gather=False).gather
