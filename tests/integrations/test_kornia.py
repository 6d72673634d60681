"""Our operations as Kornia augmentations: the same views as torchvision's functions, and masks, boxes and keypoints that follow.

Run against another Kornia, here the lowest that setup.cfg supports, with that one first on the path:

    pip install --no-deps --target /tmp/kornia-0.7.4 kornia==0.7.4
    PYTHONPATH=/tmp/kornia-0.7.4 python -m pytest tests/integrations/test_kornia.py tests/views/test_kornia_pipeline.py
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torchvision.transforms.v2.functional as tvf
from kornia.augmentation import AugmentationSequential, RandomHorizontalFlip
from torch import Tensor

from hvs_aug._check import HVSError
from hvs_aug.integrations.kornia import (
    ColorJitter,
    RandomGaussianBlur,
    RandomGrayscale,
    RandomResizedCrop,
    RandomSolarize,
    augmentation_sequential,
)
from hvs_aug.views.presets import preset_slots
from tests.reference.views import render_one

MAKERS: dict[str, Any] = {
    "crop": lambda **options: RandomResizedCrop(24, **options),
    "jitter": lambda **options: ColorJitter(0.4, 0.4, 0.4, 0.1, **options),
    "gray": RandomGrayscale,
    "blur": lambda **options: RandomGaussianBlur(9, sigma=(0.5, 2.0), **options),
    "solarize": RandomSolarize,
}


def _ramp(batch: int, height: int, width: int) -> Tensor:
    """Images whose two channels hold the x and the y of each pixel."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([x, y]).float().expand(batch, 2, height, width).clone()


def _corner_boxes(src: Tensor) -> Tensor:
    left, top = src[:, 0].unbind(-1)
    right, bottom = src[:, 2].unbind(-1)
    return torch.stack([top, left, bottom - top + 1, right - left + 1], dim=-1).long()


def _row(data: dict[str, Tensor], key: str, image: int) -> Any:
    """What was drawn for an image: a row of all images, or, before Kornia 0.9, of those that the operation is applied to."""
    gate, rows = data["batch_prob"] > 0.5, data[key]
    return (rows[image] if len(rows) == len(gate) else rows[int(gate[:image].sum())]).tolist()


@pytest.mark.parametrize("preset", ["simclr", "simsiam", "dino", "byol"])
def test_a_recipe_as_a_kornia_pipeline_gives_the_reference_views(preset: str) -> None:
    images = torch.rand(12, 3, 41, 53)
    for slot in preset_slots(preset, size=64):
        pipeline = augmentation_sequential(slot.recipe)
        views = pipeline(images)
        recorded = {item.name.split("_")[0]: item.data for item in pipeline._params}
        crop = recorded["RandomResizedCrop"]
        for image in range(len(images)):
            applied = {name: bool(data["batch_prob"][image] > 0.5) for name, data in recorded.items()}
            drawn: dict[str, Any] = {
                "box": _corner_boxes(crop["src"])[image],
                "RandomHorizontalFlip.applied": crop["flip"][image],
                "ColorJitter.factors": [1.0, 1.0, 1.0, 0.0],
                "ColorJitter.order": [0, 1, 2, 3],
                "GaussianBlur.sigma": 0.0,
                "RandomGrayscale.applied": applied.get("RandomGrayscale", False),
                "RandomSolarize.applied": applied.get("RandomSolarize", False),
            }
            if applied.get("ColorJitter"):
                drawn["ColorJitter.factors"] = _row(recorded["ColorJitter"], "factors", image)
                drawn["ColorJitter.order"] = _row(recorded["ColorJitter"], "order", image)
            if applied.get("RandomGaussianBlur"):
                drawn["GaussianBlur.sigma"] = _row(recorded["RandomGaussianBlur"], "sigma", image)
            expected = render_one(images[image], slot.recipe, {name: torch.as_tensor(value) for name, value in drawn.items()})
            torch.testing.assert_close(views[image], expected, atol=3e-5, rtol=0)


def test_every_sample_has_parameters_of_its_own_unless_they_are_shared() -> None:
    images = torch.rand(64, 3, 40, 50)
    for name, key in (("crop", "src"), ("crop", "flip"), ("jitter", "factors"), ("jitter", "order"), ("blur", "sigma")):
        options: dict[str, Any] = {"flip_prob": 0.5} if name == "crop" else {"p": 1.0}
        own, shared = MAKERS[name](**options), MAKERS[name](same_on_batch=True, **options)
        own(images)
        shared(images)
        assert len(torch.unique(own._params[key].float(), dim=0)) > (1 if key == "flip" else 10), name
        assert own._params[key].shape == shared._params[key].shape and len(torch.unique(shared._params[key].float(), dim=0)) == 1


@pytest.mark.parametrize("name", MAKERS)
def test_replay_dtype_shape_and_input_are_kept(name: str) -> None:
    augmentation = MAKERS[name](**({} if name == "crop" else {"p": 0.5}))
    images = torch.rand(8, 3, 30, 40)
    before = images.clone()
    views = augmentation(images)
    assert torch.equal(images, before)
    assert torch.equal(augmentation(images, params=copy.deepcopy(augmentation._params)), views)
    assert views.shape == ((8, 3, 24, 24) if name == "crop" else images.shape)
    for dtype in (torch.float16, torch.float64):
        assert augmentation(images.to(dtype)).dtype == dtype
    single = MAKERS[name](keepdim=True)
    assert single(images[0]).ndim == 3
    assert repr(augmentation).startswith(type(augmentation).__name__ + "(")


@pytest.mark.parametrize("name", ["jitter", "gray", "blur", "solarize"])
def test_a_probability_is_that_of_every_sample(name: str) -> None:
    images = torch.rand(400, 3, 10, 10)
    always, never = MAKERS[name](p=1.0)(images), MAKERS[name](p=0.0)(images)
    assert torch.equal(never, images)
    assert (always != images).flatten(1).any(1).float().mean() > 0.99
    changed = (MAKERS[name](p=0.25)(images) != images).flatten(1).any(1).sum()
    assert 65 < changed < 135  # 100 expected, 8.7 the standard deviation


def test_draws_come_from_torchs_global_generator_as_kornias_do() -> None:
    images, pipeline = torch.rand(4, 3, 30, 40), augmentation_sequential(preset_slots("simclr", size=32)[0].recipe)
    torch.manual_seed(7)
    first = pipeline(images)
    torch.manual_seed(7)
    assert torch.equal(pipeline(images), first)
    assert not torch.equal(pipeline(images), first)


def test_the_matrix_maps_what_is_seen() -> None:
    """Where a linear ramp shows source position (x, y), the matrix maps (x, y) to that pixel."""
    crop = RandomResizedCrop(16, scale=(0.2, 0.5), flip_prob=0.5)
    ramp = _ramp(32, 60, 80)
    views = crop(ramp / 80) * 80  # images are in [0, 1]
    inner = slice(4, 12)  # away from the box's edges; elsewhere an antialiased ramp is one within a few hundredths of a pixel
    y, x = torch.meshgrid(torch.arange(16.0)[inner], torch.arange(16.0)[inner], indexing="ij")
    seen = torch.cat([views[:, :, inner, inner], torch.ones(32, 1, 8, 8)], dim=1)
    mapped = torch.einsum("bij,bjhw->bihw", crop.transform_matrix, seen)
    torch.testing.assert_close(mapped[:, 0], x.expand(32, 8, 8), atol=0.05, rtol=0)
    torch.testing.assert_close(mapped[:, 1], y.expand(32, 8, 8), atol=0.05, rtol=0)
    assert 4 < crop._params["flip"].sum() < 28


def test_masks_boxes_and_keypoints_follow() -> None:
    images = torch.rand(16, 3, 48, 64)
    labels = torch.randint(0, 256, (16, 1, 48, 64)).float()
    keypoints = torch.stack([torch.rand(16, 5) * 63, torch.rand(16, 5) * 47], dim=-1)
    boxes = torch.tensor([[[10.0, 12.0, 30.0, 40.0]]]).expand(16, 1, 4).clone()
    pipeline = AugmentationSequential(
        RandomResizedCrop(32, flip_prob=0.5),
        ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
        RandomGaussianBlur(5),
        data_keys=["input", "mask", "keypoints", "bbox_xyxy"],
    )
    _, masks, moved, moved_boxes = pipeline(images, labels, keypoints, boxes)
    recorded = pipeline._params[0].data
    for image, (top, left, height, width) in enumerate(_corner_boxes(recorded["src"]).tolist()):
        flipped = bool(recorded["flip"][image])
        cut = labels[image : image + 1, :, top : top + height, left : left + width]
        expected = torch.nn.functional.interpolate(cut, size=(32, 32), mode="nearest-exact")[0]
        assert torch.equal(masks[image], expected.flip(-1) if flipped else expected)

        def place(
            points: Tensor, top: int = top, left: int = left, height: int = height, width: int = width, flipped: bool = flipped
        ) -> Tensor:
            x = (points[..., 0] - left + 0.5) * 32 / width - 0.5
            y = (points[..., 1] - top + 0.5) * 32 / height - 0.5
            return torch.stack([31 - x if flipped else x, y], dim=-1)

        torch.testing.assert_close(moved[image], place(keypoints[image]), atol=1e-3, rtol=1e-4)
        corners = place(boxes[image, 0].view(2, 2))  # which Kornia takes as the centres of the outermost pixels
        torch.testing.assert_close(moved_boxes[image, 0], torch.cat([corners.amin(0), corners.amax(0)]), atol=1e-3, rtol=1e-4)


def test_the_inverse_takes_keypoints_back() -> None:
    keypoints = torch.tensor([[[10.0, 20.0], [33.5, 7.25]]]).expand(4, 2, 2).clone()
    pipeline = AugmentationSequential(
        RandomResizedCrop(32, flip_prob=0.5), RandomHorizontalFlip(), data_keys=["input", "keypoints"]
    )
    views, moved = pipeline(torch.rand(4, 3, 40, 60), keypoints)
    images, back = pipeline.inverse(views, moved)
    assert images.shape == (4, 3, 40, 60)
    torch.testing.assert_close(back, keypoints, atol=1e-3, rtol=0)


def test_blur_and_crop_are_torchvisions() -> None:
    images = torch.rand(3, 3, 37, 51)
    crop = RandomResizedCrop((20, 20), resample="bicubic")
    views = crop(images)
    for image, (top, left, height, width) in enumerate(_corner_boxes(crop._params["src"]).tolist()):
        mode = tvf.InterpolationMode.BICUBIC
        cut = images[image][:, top : top + height, left : left + width]
        lines = tvf.resize(cut, [height, 20], interpolation=mode, antialias=True).clamp(0, 1)  # Pillow clamps after each pass
        expected = tvf.resize(lines, [20, 20], interpolation=mode, antialias=True).clamp(0, 1)
        torch.testing.assert_close(views[image], expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: RandomResizedCrop((24, 32)),
            r"RandomResizedCrop\(size\): expected one size, for a square view, got tuple \(24, 32\)",
        ),
        (lambda: RandomResizedCrop(24, resample="nearest"), r"RandomResizedCrop\(resample\): expected one of bicubic, bilinear"),
        (lambda: RandomResizedCrop(24, scale=(0.5, 0.2)), r"RandomResizedCrop\(scale\)"),
        (lambda: ColorJitter(hue=0.7), r"ColorJitter\(hue\): expected a strength in \[0, 0.5\]"),
        (lambda: RandomGaussianBlur(4), r"GaussianBlur\(kernel_size\): expected an odd number of taps"),
        (lambda: RandomGaussianBlur((3, 5)), r"RandomGaussianBlur\(kernel_size\): expected one number of taps"),
        (lambda: RandomSolarize(threshold=1.5), r"RandomSolarize\(threshold\)"),
        (
            lambda: ColorJitter(0.4)(torch.rand(2, 4, 8, 8)),
            r"ColorJitter\(input\): expected images of 1 or 3 channels, got a float32 tensor",
        ),
        (
            lambda: RandomGaussianBlur(23, p=1.0)(torch.rand(2, 3, 8, 8)),
            r"RandomGaussianBlur\(input\): expected images larger than 11",
        ),
    ],
)
def test_what_does_not_fit_is_named(make: Any, message: str) -> None:
    with pytest.raises(HVSError, match=message):
        make()
