"""Hard views in lightly_train.pretrain, from its own package."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    lightly_train = pytest.importorskip("lightly_train")
    pytest.importorskip("lightly_train._commands.train")

from hvs_aug._check import HVSError
from hvs_aug.integrations.lightly_train import hard_views
from hvs_aug.selection.sampler import HardPairSampler
from tests.dropin.photographs import save_photographs

pytestmark = pytest.mark.filterwarnings("ignore")  # of lightly-train and what it imports


SMALL = {"output_dim": 64, "hidden_dim": 32}


def pretrain(folder: Path, method: str, **options: Any) -> None:
    images = save_photographs(folder / "images")
    small = {
        "dino": {"image_size": (32, 32), "local_view": {"view_size": (16, 16), "num_views": 2}},
        "dinov2": {"image_size": (56, 56), "local_view": {"view_size": (28, 28), "num_views": 2}},
        "simclr": {"image_size": (32, 32)},
    }
    arguments = {
        "out": folder / "out",
        "data": images,
        "model": "dinov2/_vittest14" if method == "dinov2" else "torchvision/resnet18",
        "method": method,
        "epochs": 2,
        "batch_size": 3,
        "num_workers": 0,
        "accelerator": "cpu",
        "devices": 1,
        "transform_args": small.get(method, {}),
        "overwrite": True,
    }
    lightly_train.pretrain(**{**arguments, **options})


@pytest.mark.parametrize("method", ["dino", "dinov2", "simclr"])
def test_its_methods_train_on_hard_views(method: str, tmp_path: Path) -> None:
    with hard_views() as samplers:
        pretrain(tmp_path, method, method_args={} if method == "simclr" else SMALL)
    (sampler,) = samplers
    kept = [(4, 2)] if method == "simclr" else [(2, 1), (2, 1), (4, 2)]
    assert sampler.step == 4 and [(slot.candidates, slot.select) for slot in sampler.slots] == kept
    assert list((tmp_path / "out" / "exported_models").glob("*.pt"))


@pytest.mark.parametrize("center_method", ["softmax", "sinkhorn_knopp"])
def test_dinov2s_class_token_loss_is_the_one_it_is_chosen_by(center_method: str, tmp_path: Path) -> None:
    """Of the views that were chosen, the mean over the batch, by its own step; nothing is drawn in its network."""
    logged: list[float] = []

    chosen: list[float] = []
    select = HardPairSampler.select

    def recorded(self: HardPairSampler, *arguments: Any) -> Any:
        hard = select(self, *arguments)
        chosen.append(float(hard.loss.mean()))
        return hard

    with hard_views() as samplers, pytest.MonkeyPatch.context() as patch:
        from lightly_train._methods.dinov2 import dinov2

        step = dinov2.DINOv2.training_step_impl

        def watched(self: Any, batch: Any, batch_idx: int) -> Any:
            result = step(self, batch, batch_idx)
            logged.append(float(result.log_dict["train_loss/dino_global_loss"] + result.log_dict["train_loss/dino_local_loss"]))
            return result

        patch.setattr(dinov2.DINOv2, "training_step_impl", watched)
        patch.setattr(HardPairSampler, "select", recorded)
        pretrain(
            tmp_path, "dinov2", method_args=SMALL | {"center_method": center_method}, model_args={"drop_path_rate": 0.0}, epochs=1
        )
    assert len(samplers) == 1 and len(chosen) == len(logged) == 2
    assert chosen == pytest.approx(logged, rel=0.02 if center_method == "softmax" else 0.2)


def test_outside_it_is_untouched(tmp_path: Path) -> None:
    from lightly_train._commands import train_helpers

    before = train_helpers.get_transform, train_helpers.get_method
    with hard_views():
        assert train_helpers.get_method is not before[1]
    assert (train_helpers.get_transform, train_helpers.get_method) == before


def test_other_methods_are_refused(tmp_path: Path) -> None:
    with pytest.raises(HVSError, match="a method whose views do not depend on each other: dino, dinov2, simclr, got"), hard_views():
        pretrain(tmp_path, "densecl")
    with pytest.raises(HVSError, match="a count of at least 2"), hard_views(candidates=1):
        pass
