"""The transforms and datasets of untouched clones under ``wrap``: ``HVS_CHECKOUTS`` names the folder that has them."""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from hvs_aug.dropin.wrap import wrap
from hvs_aug.selection.losses import DINOLoss, NTXentLoss
from tests.dropin.photographs import save_photographs

CHECKOUTS = os.environ.get("HVS_CHECKOUTS")
NORMALIZE = transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])


def load(path: str) -> Any:
    """A file of a clone as a module, without what is beside it."""
    if CHECKOUTS is None or not (Path(CHECKOUTS) / path).is_file():
        pytest.skip(f"HVS_CHECKOUTS has no {path}")
    name = f"clone_{abs(hash(path))}"
    spec = importlib.util.spec_from_file_location(name, Path(CHECKOUTS) / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def package(repo: str, folder: str) -> Callable[[str], Any]:
    """Import modules of a clone's sub-package without running its ``__init__``."""
    if CHECKOUTS is None or not (Path(CHECKOUTS) / repo / folder).is_dir():
        pytest.skip(f"HVS_CHECKOUTS has no {repo}/{folder}")
    root = str(Path(CHECKOUTS) / repo)
    if root not in sys.path:
        sys.path.insert(0, root)
    name = folder.replace("/", ".")
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [str(Path(root) / folder)]
    return lambda module: importlib.import_module(f"{name}.{module}")


def moco_v3(folder: Path) -> Any:
    module = load("moco-v3/moco/loader.py")
    start = [
        transforms.RandomResizedCrop(224, scale=(0.08, 1.0)),
        transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.2, 0.1)], 0.8),
    ]
    blur, end = module.GaussianBlur([0.1, 2.0]), [transforms.RandomHorizontalFlip(), transforms.ToTensor(), NORMALIZE]
    first = transforms.Compose([*start, transforms.RandomApply([blur], p=1.0), *end])
    second = transforms.Compose(
        [*start, transforms.RandomApply([blur], p=0.1), transforms.RandomApply([module.Solarize()], p=0.2), *end]
    )
    return DataLoader(datasets.ImageFolder(folder, module.TwoCropsTransform(first, second)), batch_size=3)


def vicreg(folder: Path) -> Any:
    return DataLoader(datasets.ImageFolder(folder, load("vicreg/augmentations.py").TrainTransform()), batch_size=3)


def swav(folder: Path) -> Any:
    data = load("swav/src/multicropdataset.py").MultiCropDataset(str(folder), [224, 96], [2, 6], [0.14, 0.05], [1.0, 0.14])
    return DataLoader(data, batch_size=3)


def dinov2(folder: Path) -> Any:
    of = package("dinov2", "dinov2/data")
    transform = of("augmentations").DataAugmentationDINO((0.32, 1.0), (0.05, 0.32), 8)
    masks = of("masking").MaskingGenerator(input_size=(16, 16), max_num_patches=128)
    options = {"mask_ratio_tuple": (0.1, 0.5), "mask_probability": 0.5, "n_tokens": 256, "mask_generator": masks}
    collate = functools.partial(of("collate").collate_data_and_cast, dtype=torch.float32, **options)
    return DataLoader(datasets.ImageFolder(folder, transform), batch_size=3, collate_fn=collate)


def dinov3(folder: Path, **options: Any) -> Any:
    transform = package("dinov3", "dinov3/data")("augmentations").DataAugmentationDINO((0.32, 1.0), (0.05, 0.32), 4, **options)
    return DataLoader(datasets.ImageFolder(folder, transform), batch_size=3)


PAIR, MULTI_CROP = [(2, 1), (2, 1)], [(2, 1), (2, 1), (16, 8)]


@pytest.mark.parametrize(
    "make, slots, is_converted",
    [
        (moco_v3, PAIR, True),
        (vicreg, PAIR, True),
        (swav, [(4, 2), (12, 6)], True),
        (dinov2, MULTI_CROP, True),
        (dinov3, [(2, 1), (2, 1), (8, 4)], True),
        (functools.partial(dinov3, teacher_no_color_jitter=True), [(2, 1), (2, 1), (8, 4)], False),
        (functools.partial(dinov3, gram_teacher_crops_size=128), [(2, 1), (2, 1), (8, 4)], False),
    ],
    ids=["moco-v3", "vicreg", "swav", "dinov2", "dinov3", "dinov3 teacher", "dinov3 gram"],
)
@pytest.mark.filterwarnings("ignore")  # of the clones
def test_an_untouched_repos_loader(
    make: Callable[[Path], Any], slots: list[tuple[int, int]], is_converted: bool, tmp_path: Path
) -> None:
    loader = make(save_photographs(tmp_path))
    model = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 8))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        hard = wrap(loader, model=model, loss=NTXentLoss(temperature=0.2))
    assert any("own transform" in str(warning.message) for warning in warned) is not is_converted
    assert [(slot.candidates, slot.select) for slot in hard.hard_pairs.slots] == slots
    batch, own = next(iter(hard)), next(iter(loader))
    if make is dinov2:
        for name in ("collated_global_crops", "collated_local_crops", "collated_masks"):
            assert batch[name].shape == own[name].shape
    else:
        assert shapes(batch) == shapes(own)


def shapes(batch: Any) -> Any:
    if isinstance(batch, Tensor):
        return tuple(batch.shape)
    return {key: shapes(value) for key, value in batch.items()} if isinstance(batch, dict) else [shapes(value) for value in batch]


@pytest.mark.parametrize("repo", ["dinov2", "dinov3"])
@pytest.mark.parametrize("iterations", [0, 3])
@pytest.mark.filterwarnings("ignore")
def test_a_pairs_loss_is_the_repos(repo: str, iterations: int) -> None:
    """Of class tokens, with a centre or with Sinkhorn-Knopp over both global views."""
    theirs = package(repo, f"{repo}/loss")("dino_clstoken_loss").DINOLoss(32)
    theirs.center.copy_(torch.randn(1, 32) * 0.1)
    student, teacher = torch.randn(2, 2, 5, 32)
    target = theirs.sinkhorn_knopp_teacher if iterations else theirs.softmax_center_teacher
    targets = target(teacher.flatten(0, 1), teacher_temp=0.3).view(2, 5, 32)
    if repo == "dinov2":
        expected = theirs([student.flatten(0, 1)], [targets.flip(0).flatten(0, 1)])
    else:
        expected = theirs(student, targets, ignore_diagonal=True)
    ours = DINOLoss(0.3, 0.1, None if iterations else theirs.center, sinkhorn=iterations)
    torch.testing.assert_close(ours.table(student, teacher)[0, 1].mean(), expected)
