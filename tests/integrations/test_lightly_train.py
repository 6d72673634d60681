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
from tests.dropin.photographs import save_photographs

pytestmark = pytest.mark.filterwarnings("ignore")  # of lightly-train and what it imports


def pretrain(folder: Path, method: str, **options: Any) -> None:
    images = save_photographs(folder / "images")
    small = {
        "dino": {"image_size": (32, 32), "local_view": {"view_size": (16, 16), "num_views": 2}},
        "simclr": {"image_size": (32, 32)},
    }
    arguments = {
        "out": folder / "out",
        "data": images,
        "model": "torchvision/resnet18",
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


@pytest.mark.parametrize("method", ["dino", "simclr"])
def test_its_methods_train_on_hard_views(method: str, tmp_path: Path) -> None:
    with hard_views() as samplers:
        pretrain(tmp_path, method)
    (sampler,) = samplers
    kept = {"dino": [(2, 1), (2, 1), (4, 2)], "simclr": [(4, 2)]}[method]
    assert sampler.step == 4 and [(slot.candidates, slot.select) for slot in sampler.slots] == kept
    assert list((tmp_path / "out" / "exported_models").glob("*.pt"))


def test_outside_it_is_untouched(tmp_path: Path) -> None:
    from lightly_train._commands import train_helpers

    before = train_helpers.get_transform, train_helpers.get_method
    with hard_views():
        assert train_helpers.get_method is not before[1]
    assert (train_helpers.get_transform, train_helpers.get_method) == before


def test_other_methods_are_refused(tmp_path: Path) -> None:
    with pytest.raises(HVSError, match="a method whose views do not depend on each other: dino, simclr, got"), hard_views():
        pretrain(tmp_path, "densecl")
    with pytest.raises(HVSError, match="a count of at least 2"), hard_views(candidates=1):
        pass
