"""Lightly's SimCLR, SimSiam and DINO from PyPI, on real photographs, by both ways in."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hvs_aug._check import HVSError
from hvs_aug.dropin.wrap import wrap
from hvs_aug.integrations.lightly import CandidateTransform, pair_loss
from hvs_aug.selection.losses import DINOLoss, IBOTLoss, NegativeCosineLoss, NTXentLoss
from hvs_aug.selection.sampler import HardPairSampler
from hvs_aug.selection.search import selection_loss
from hvs_aug.selection.slots import first_candidates

from ..dropin.photographs import photographs, save_photographs
from .example import SMALL, main_of

pytest.importorskip("lightly")
from lightly import loss as losses
from lightly.data import LightlyDataset
from lightly.models.modules import DINOProjectionHead, SimCLRProjectionHead, SimSiamPredictionHead, SimSiamProjectionHead
from lightly.models.utils import update_momentum
from lightly.transforms import DINOTransform, SimCLRTransform, SimSiamTransform

pytestmark = pytest.mark.filterwarnings("ignore:.torch.nn.utils.weight_norm. is deprecated:FutureWarning")


def backbone() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())


class SimCLR(nn.Module):
    """As in Lightly's example."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.projection_head = backbone(), SimCLRProjectionHead(32, 32, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.projection_head(self.backbone(x))

    def training_loss(self, criterion: Any, views: list[Tensor]) -> Tensor:
        return criterion(self(views[0]), self(views[1]))


class SimSiam(nn.Module):
    """As in Lightly's example; its forward returns the projection first."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = backbone()
        self.projection_head, self.prediction_head = SimSiamProjectionHead(32, 32, 16), SimSiamPredictionHead(16, 8, 16)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.projection_head(self.backbone(x))
        return z.detach(), self.prediction_head(z)

    def training_loss(self, criterion: Any, views: list[Tensor]) -> Tensor:
        (z0, p0), (z1, p1) = self(views[0]), self(views[1])
        return 0.5 * (criterion(z0, p1) + criterion(z1, p0))


class DINO(nn.Module):
    """As in Lightly's example."""

    def __init__(self) -> None:
        super().__init__()
        self.student_backbone, self.student_head = backbone(), DINOProjectionHead(32, 32, 16, 24, freeze_last_layer=1)
        self.teacher_backbone, self.teacher_head = copy.deepcopy(self.student_backbone), DINOProjectionHead(32, 32, 16, 24)
        self.teacher_backbone.requires_grad_(False)
        self.teacher_head.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.student_head(self.student_backbone(x))

    def forward_teacher(self, x: Tensor) -> Tensor:
        return self.teacher_head(self.teacher_backbone(x))

    def training_loss(self, criterion: Any, views: list[Tensor]) -> Tensor:
        update_momentum(self.student_backbone, self.teacher_backbone, m=0.9)
        update_momentum(self.student_head, self.teacher_head, m=0.9)
        return criterion([self.forward_teacher(view) for view in views[:2]], [self(view) for view in views], epoch=0)


METHODS: dict[str, tuple[Any, Any, Any, dict[str, Any]]] = {
    "simclr": (SimCLR, lambda: losses.NTXentLoss(temperature=0.2), lambda: SimCLRTransform(input_size=32), {}),
    "simsiam": (SimSiam, losses.NegativeCosineSimilarity, lambda: SimSiamTransform(input_size=32), {}),
    "dino": (
        DINO,
        lambda: losses.DINOLoss(output_dim=24, warmup_teacher_temp_epochs=5),
        lambda: DINOTransform(global_crop_size=32, local_crop_size=16),
        {"local_views": 6},
    ),
}


def parts(method: str, folder: Path, swapped: bool) -> tuple[Any, Any, Any, Any]:
    make_model, make_criterion, make_transform, options = METHODS[method]
    torch.manual_seed(0)
    model, criterion, transform = make_model(), make_criterion(), make_transform()
    if swapped:
        transform = CandidateTransform(transform, **options)
    dataset = LightlyDataset(str(save_photographs(folder)), transform=transform)
    return model, criterion, transform, DataLoader(dataset, batch_size=3, drop_last=True)


def teacher_of(model: nn.Module) -> Any:
    return getattr(model, "forward_teacher", None)


def step(model: Any, criterion: Any, views: list[Tensor]) -> Tensor:
    loss = model.training_loss(criterion, views)
    loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.05).step()
    model.zero_grad()
    return loss.detach()


@pytest.mark.parametrize("method", list(METHODS))
def test_the_transform_is_swapped(method: str, tmp_path: Path) -> None:
    model, criterion, transform, loader = parts(method, tmp_path, swapped=True)
    sampler = HardPairSampler(model, pair_loss(criterion, epoch=0), transform.slots, teacher=teacher_of(model))
    kept = 8 if method == "dino" else 2
    for candidates, _, names in loader:
        assert len(candidates) == 2 * kept
        hard = sampler.select(candidates)
        assert len(names) == 3 and len(hard.views) == kept and hard.loss.isfinite().all()
        for view, chosen in enumerate(hard.indices):
            assert torch.equal(hard.views[view], torch.stack([candidates[row][image] for image, row in enumerate(chosen)]))
        assert step(model, criterion, hard.views).isfinite()


@pytest.mark.parametrize("method", list(METHODS))
def test_the_loader_is_wrapped(method: str, tmp_path: Path) -> None:
    model, criterion, _, plain = parts(method, tmp_path, swapped=False)
    loader = wrap(plain, model=model, loss=pair_loss(criterion, epoch=0), teacher=teacher_of(model))
    sizes = [32] * 2 + [16] * 6 if method == "dino" else [32] * 2
    names = []
    for views, _, files in loader:
        assert [tuple(view.shape) for view in views] == [(3, 3, size, size) for size in sizes]
        assert step(model, criterion, views).isfinite()
        names += files
    assert len(loader) == 2 and names == [name for _, _, files in plain for name in files]


@pytest.mark.parametrize("method", list(METHODS))
def test_the_loss_is_lightlys(method: str) -> None:
    """What views are chosen by is, on average over the batch, what Lightly's own criterion gives on them."""
    _, make_criterion, make_transform, options = METHODS[method]
    criterion, slots = make_criterion(), CandidateTransform(make_transform(), **options).slots
    for _ in range(2):  # the second time DINO's centre has moved
        student = [torch.randn(slot.candidates, 4, 24) for slot in slots]
        teacher = [torch.randn(slot.candidates, 4, 24) if slot.role == "global" else None for slot in slots]
        indices = first_candidates(slots, 4, torch.device("cpu"))
        kept = [output for slot, outputs in zip(slots, student, strict=True) for output in outputs[: slot.select]]
        if method == "simclr":
            table, expected = pair_loss(criterion).table(student, None, slots), criterion(*kept)
        elif method == "simsiam":
            others = torch.randn_like(student[0])
            table = pair_loss(criterion).table([(student[0], others)], None, slots)
            assert torch.equal(table, pair_loss(criterion).table([(others, student[0])], None, slots))  # in Lightly's order
            expected = 0.5 * (criterion(others[0], kept[1]) + criterion(others[1], kept[0]))
        else:
            table = pair_loss(criterion, epoch=0).table(student, teacher, slots)
            taught = [
                output
                for slot, outputs in zip(slots, teacher, strict=True)
                if outputs is not None
                for output in outputs[: slot.select]
            ]
            expected = criterion(taught, kept, epoch=0)
        torch.testing.assert_close(selection_loss(table, indices).mean(), expected)


def test_pair_losses() -> None:
    gathered = pair_loss(losses.NTXentLoss(temperature=0.3, gather_distributed=True))
    assert isinstance(gathered, NTXentLoss) and gathered.gather and gathered.temperature == 0.3
    assert not pair_loss(losses.NTXentLoss()).gather
    assert type(pair_loss(losses.NegativeCosineSimilarity())) is NegativeCosineLoss
    dino = losses.DINOLoss(output_dim=8, warmup_teacher_temp=0.02, teacher_temp=0.06, warmup_teacher_temp_epochs=5)
    temperatures = [pair_loss(dino, epoch=epoch).teacher_temperature() for epoch in (0, 4, 5)]
    assert temperatures == pytest.approx([0.02, 0.06, 0.06]) and type(pair_loss(dino)) is DINOLoss
    assert type(pair_loss(dino, patch_criterion=losses.IBOTPatchLoss(output_dim=8))) is IBOTLoss

    assert repr(pair_loss(losses.NTXentLoss(0.1, memory_bank_size=(64, 8)))) == "MoCoLoss(0.1, queue of 64, symmetric=False)"
    assert repr(pair_loss(losses.SwaVLoss(sinkhorn_epsilon=0.03))) == "SwAVLoss(0.1, 0.03, 3, gather=False)"
    assert repr(pair_loss(losses.VICRegLoss(lambda_param=10.0))) == "VICRegLoss(10.0)"

    class Own(losses.NegativeCosineSimilarity):
        pass

    assert type(pair_loss(Own())) is NegativeCosineLoss


@pytest.mark.parametrize(
    "criterion, words",
    [
        (losses.BarlowTwinsLoss(), "Lightly's NTXentLoss, .* got BarlowTwinsLoss.\n  hint: .*CallableLoss"),
        (losses.NegativeCosineSimilarity(dim=0), "over dim=1, got dim=0"),
        (nn.CrossEntropyLoss(), "got CrossEntropyLoss"),
    ],
)
def test_criteria_without_a_loss_of_pairs(criterion: Any, words: str) -> None:
    with pytest.raises(HVSError, match=words):
        pair_loss(criterion)


def test_candidate_transforms() -> None:
    slots = CandidateTransform(DINOTransform(), 3, local_views=6).slots
    assert [(slot.candidates, slot.select, slot.role) for slot in slots] == [(3, 1, "global"), (3, 1, "global"), (18, 6, "local")]
    photograph = photographs()[0]
    with pytest.raises(HVSError, match="local_views.: expected global views of one size, got sizes .*\n.*DINOTransform"):
        CandidateTransform(DINOTransform(global_crop_size=32, local_crop_size=16))(photograph)
    with pytest.raises(HVSError, match="a transform of several views"):
        CandidateTransform(SimCLRTransform().transforms[0])
    with pytest.raises(HVSError, match="a count from 0 to 1"):
        CandidateTransform(SimCLRTransform(), local_views=2)
    with pytest.raises(HVSError, match="CandidateTransform.candidates.: expected a count of at least 1, got int 0"):
        CandidateTransform(SimCLRTransform(), 0)


def test_the_example(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    losses = main_of("lightly_simclr")(["--data", str(save_photographs(tmp_path)), "--epochs", "1", *SMALL])
    assert len(losses) == 1 and 0 < losses[0] < 20
    assert "epoch 0  loss " in capsys.readouterr().out
