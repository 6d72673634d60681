"""Hard views by stable-pretraining's own hook, with its own methods and trainer."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    spt = pytest.importorskip("stable_pretraining")
    forward = pytest.importorskip("stable_pretraining.forward")
import lightning.pytorch as pl
from torch.utils.data import DataLoader, TensorDataset

from hvs_aug._check import HVSError
from hvs_aug.integrations.stable_pretraining import HardViews

pytestmark = pytest.mark.filterwarnings("ignore")  # of stable-pretraining and what it imports


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm2d(3), nn.Linear(48, 16)

    def forward(self, images: Tensor, interpolate_pos_encoding: bool = False) -> Tensor:
        return self.head(nn.functional.adaptive_avg_pool2d(self.norm(images), 4).flatten(1))


def module_of(method: str) -> Any:
    torch.manual_seed(0)
    optim = {"optimizer": {"type": "SGD", "lr": 0.1}}
    if method == "simclr":
        parts = {"backbone": Backbone(), "projector": nn.Linear(16, 8), "simclr_loss": spt.losses.NTXEntLoss(0.5)}
    elif method == "byol":
        parts = {
            "backbone": spt.TeacherStudentWrapper(Backbone()),
            "projector": spt.TeacherStudentWrapper(nn.Linear(16, 8)),
            "predictor": nn.Linear(8, 8),
            "byol_loss": spt.losses.BYOLLoss(),
        }
    else:
        parts = {
            "backbone": spt.TeacherStudentWrapper(Backbone()),
            "projector": spt.TeacherStudentWrapper(nn.Linear(16, 32)),
            "dino_loss": spt.losses.DINOv1Loss(),
            "temperature_teacher": 0.07,
            "warmup_temperature_teacher": 0.04,
            "warmup_epochs_temperature_teacher": 2,
        }
    return spt.Module(forward=getattr(forward, method), optim=optim, **parts)


def dataset() -> Any:
    images = torch.randint(0, 256, (12, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return spt.data.FromTorchDataset(TensorDataset(images, torch.arange(12)), names=["image", "label"])


@pytest.mark.parametrize("method", ["simclr", "byol", "dino"])
@pytest.mark.parametrize("is_scored", [True, False])
def test_its_methods_train_on_hard_views(method: str, is_scored: bool, tmp_path: Path) -> None:
    module, data = module_of(method), dataset()
    data.gpu_transform = HardViews(module, getattr(module, f"{method}_loss") if is_scored else None, method, size=32)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = pl.Trainer(max_epochs=2, accelerator="cpu", default_root_dir=tmp_path, **quiet)
    before = [weight.clone() for weight in module.parameters()]
    trainer.fit(module, DataLoader(data, batch_size=6))
    assert trainer.global_step >= 4 and any(not torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    assert torch.isfinite(trainer.callback_metrics["fit/loss"])
    if is_scored:
        hard = data.gpu_transform
        assert hard.hard_pairs.step == 4 and hard.last.loss.isfinite().all()
        assert hard.last.indices.shape[0] == (10 if method == "dino" else 2)


@pytest.mark.parametrize("method", ["simclr", "byol", "dino"])
def test_the_loss_by_which_they_are_chosen_is_the_methods(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the views that were chosen, the mean over the batch, by the module's own forward."""
    module = module_of(method)
    monkeypatch.setattr(type(module), "current_epoch", 1)  # without a trainer
    monkeypatch.setattr(module, "log", lambda *_, **__: None)
    hard = HardViews(module, getattr(module, f"{method}_loss"), method, size=32)
    images = torch.randint(0, 256, (6, 3, 40, 40), dtype=torch.uint8)
    batch = hard({"image": images, "label": torch.arange(6)})
    assert sorted(batch) == ["label", "views"]
    module.train()
    with torch.no_grad():
        own = module.forward(batch, "fit")["loss"]
    chosen = hard.last.loss.mean()
    if method == "byol":  # 2 - 2 cos
        chosen = 2 + 2 * chosen
    assert float(own) == pytest.approx(float(chosen), rel=0.2)


def test_bad_input() -> None:
    module = module_of("simclr")
    with pytest.raises(HVSError, match="NTXEntLoss, BYOLLoss, DINOv1Loss, a PairLoss or a function, got VICRegLoss"):
        HardViews(module, spt.losses.VICRegLoss(), "simclr")
    with pytest.raises(HVSError, match="a batch with raw images under 'image'"):
        HardViews(module, None, "simclr", size=32)({"views": []})
