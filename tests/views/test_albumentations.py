"""albumentations: its crops are not antialiased, so that its pipelines run as they are, under recorded seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets

from hvs_aug import ops
from hvs_aug._check import HVSError
from hvs_aug.data.batch import ImageBatch
from hvs_aug.dropin.stand_in import replay
from hvs_aug.dropin.wrap import wrap
from hvs_aug.selection.losses import NTXentLoss
from hvs_aug.views.candidates import CandidateViews
from hvs_aug.views.convert import convert
from hvs_aug.views.own_generators import drawing_parts, seeded_parts
from hvs_aug.views.proof import view_difference
from hvs_aug.views.recipe import ViewRecipe, ViewSlot
from hvs_aug.views.trace import probe_like

from ..dropin.photographs import save_photographs

pytestmark = pytest.mark.filterwarnings("ignore")  # of the package
A = pytest.importorskip("albumentations")
NORMALIZE = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ToTensorV2 = pytest.importorskip("albumentations.pytorch").ToTensorV2


def pipeline(*after: Any, **crop: Any) -> Any:
    """As Lightly-train builds them."""
    return A.Compose([A.RandomResizedCrop((32, 32), **crop), *after, A.Normalize(), ToTensorV2()])


class TwoCrops:
    def __init__(self) -> None:
        self.views = pipeline(A.HorizontalFlip(), A.ColorJitter(p=0.8), A.ToGray(p=0.2), A.GaussianBlur(p=0.5), A.Solarize(p=0.2))

    def __call__(self, image: Any) -> list[Any]:
        return [self.views(image=np.array(image))["image"] for _ in range(2)]


@pytest.mark.parametrize("area", [None, "image"])
def test_its_crops_are_not_ours(area: str | None) -> None:
    """Several gray levels apart where a crop is reduced: it skips pixels, or averages boxes of them."""
    picture = np.array(probe_like(number=2))
    theirs = pipeline(scale=(1.0, 1.0), ratio=(1.0, 1.0), area_for_downscale=area)(image=picture)["image"]
    recipe = ViewRecipe(32, [ops.RandomResizedCrop(scale=(1.0, 1.0), ratio=(1.0, 1.0)), ops.Normalize(*NORMALIZE)])
    ((view,),), _ = CandidateViews(ViewSlot(recipe, 1, 1))(
        ImageBatch.pack([torch.from_numpy(picture).permute(2, 0, 1).contiguous()])
    )
    difference = (view[0] - theirs).abs() * torch.tensor(NORMALIZE[1])[:, None, None]
    assert 255 * difference.mean() > (4 if area is None else 1) and 255 * difference.max() > 5


def test_the_proof_tells_them_from_ours() -> None:
    recipe = ViewRecipe(32, [ops.RandomResizedCrop(scale=(0.5, 1.0)), ops.Normalize(*NORMALIZE)])
    theirs = pipeline(scale=(0.5, 1.0))
    said = view_difference(lambda image: theirs(image=np.array(image))["image"], recipe, None)
    assert said is not None and "sharpness" in said


@pytest.mark.parametrize("transform", [TwoCrops(), pipeline(), [pipeline(), pipeline()]])
def test_it_is_refused_by_name(transform: Any) -> None:
    with pytest.raises(HVSError, match=r"an antialiased crop, got RandomResizedCrop\(.*\n.*views='own'"):
        convert(transform)


def test_candidates_can_be_replayed_and_generators_are_put_back(tmp_path: Path) -> None:
    dataset = datasets.ImageFolder(save_photographs(tmp_path), TwoCrops())
    model = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 8))
    loader = wrap(DataLoader(dataset, batch_size=3), model=model, loss=NTXentLoss(temperature=0.2), views="own")
    parts = drawing_parts(dataset.transform)
    states = [part.py_random.getstate() for part in parts]
    views, _ = next(iter(loader))
    assert [part.py_random.getstate() for part in parts] == states
    image = dataset.loader(dataset.samples[0][0])
    for number, (view, seed) in enumerate(zip(views, loader.last.extras["seed"][:, 0], strict=True)):
        assert torch.equal(replay(dataset.transform, image, int(seed))[number], view[0])
    assert not torch.equal(*replay(dataset.transform, image, 5))


def test_every_operation_has_a_stream_of_its_own() -> None:
    """albumentations' own seed gives all of them the same one: flips, jitter and gray values would go together."""
    parts = drawing_parts(TwoCrops())
    names = {type(part).__name__ for part in parts}
    assert {"Compose", "RandomResizedCrop", "HorizontalFlip", "ColorJitter", "ToGray"} <= names
    with seeded_parts(parts, 7):
        drawn = [part.py_random.random() for part in parts] + [part.random_generator.random() for part in parts]
    with seeded_parts(parts, 7):
        assert drawn[: len(parts)] == [part.py_random.random() for part in parts]
    assert len(set(drawn)) == len(drawn)


def test_parts_that_code_names_are_found() -> None:
    views = pipeline()

    def two(image: Any) -> list[Any]:
        return [views(image=np.array(image))["image"] for _ in range(2)]

    assert len(drawing_parts(two)) == len(drawing_parts(views)) == 4
    assert drawing_parts(lambda image: image) == []
