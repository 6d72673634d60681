"""RandomResizedCrop, Resize and CenterCrop: against torchvision, Pillow and the slow reference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch
import torchvision.transforms.v2.functional as tvf
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from hvs_aug import CandidateViews, HVSError, ViewRecipe, ViewSlot, ops
from hvs_aug.data import ImageBatch
from tests.ops.pictures import of_dtype, pictures
from tests.reference import ops as reference

TOLERANCE = 1e-5
RENDERERS = ("definition", "cpu")
MODES = ("bilinear", "bicubic")
PILLOW = {"bilinear": PIL.Image.Resampling.BILINEAR, "bicubic": PIL.Image.Resampling.BICUBIC}

Box = tuple[int, int, int, int]


def crop(images: Tensor | ImageBatch, boxes: list[Box], size: int | tuple[int, int], mode: str, renderer: str) -> Tensor:
    """Render one box of each image."""
    recipe = ViewRecipe(size, [ops.RandomResizedCrop(interpolation=mode)])
    views = CandidateViews(ViewSlot(recipe, 1, 1), renderer=renderer)
    params = replace(views.make_params(images), boxes=torch.tensor([boxes]))
    return views.transform(images, params)[0][0]


def expected_crop(image: Tensor, box: Box, size: tuple[int, int], mode: str) -> Tensor:
    """torchvision's antialiased crop of a float image, in two passes, clamped after each, as Pillow's are.

    torch resizes lines of one pixel wrongly (seen in 2.15), so that these are doubled for it.
    """
    top, left, height, width = box
    cut = image[:, top : top + height, left : left + width]
    lines = tvf.resize(cut, [height, size[1]], InterpolationMode(mode), antialias=True).clamp(0, 1)
    lines = lines.expand(-1, -1, 2) if size[1] == 1 else lines
    return tvf.resize(lines, [size[0], lines.shape[2]], InterpolationMode(mode), antialias=True).clamp(0, 1)[..., : size[1]]


BOXES = [(0, 0, 61, 83), (3, 5, 40, 70), (10, 20, 9, 7), (0, 0, 1, 1), (60, 0, 1, 83), (0, 82, 61, 1), (20, 20, 32, 32)]


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [1, 8, 32, (90, 17), (7, 100), (32, 1)], ids=str)
def test_crops_are_torchvisions(size: int | tuple[int, int], mode: str, renderer: str) -> None:
    images = pictures(61, 83, count=7)
    shape = size if isinstance(size, tuple) else (size, size)
    views = crop(images, BOXES, size, mode, renderer)
    assert views.shape == (7, 3, *shape) and views.dtype == torch.float32
    for image, box, view in zip(images, BOXES, views, strict=True):
        torch.testing.assert_close(view, expected_crop(image, box, shape, mode), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize("mode", MODES)
def test_crops_are_the_slow_reference(mode: str, renderer: str) -> None:
    images = pictures(20, 26, count=4)
    boxes = [(0, 0, 20, 26), (3, 4, 11, 15), (5, 5, 1, 20), (2, 7, 6, 6)]
    for image, box, view in zip(images, boxes, crop(images, boxes, (6, 9), mode, renderer), strict=True):
        expected = reference.resized_crop(image.numpy().astype(np.float64), box, (6, 9), mode)
        np.testing.assert_allclose(view.numpy(), expected, atol=TOLERANCE, rtol=0)


@given(data=st.data())
@settings(max_examples=25)
def test_any_box_of_any_image(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 70))
    rows, columns = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    box = (data.draw(st.integers(0, height - rows)), data.draw(st.integers(0, width - columns)), rows, columns)
    size = data.draw(st.integers(1, 65)), data.draw(st.integers(1, 65))
    mode = data.draw(st.sampled_from(MODES))
    image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(height))
    expected = expected_crop(image[0], box, size, mode)
    for renderer in RENDERERS:
        torch.testing.assert_close(crop(image, [box], size, mode, renderer)[0], expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize(("mode", "levels"), [("bilinear", 1.1), ("bicubic", 1.1)])
def test_crops_show_what_pillow_shows(mode: str, levels: float, renderer: str) -> None:
    images = of_dtype(pictures(61, 83, count=7), torch.uint8)
    views = crop(images, BOXES, (24, 40), mode, renderer) * 255
    for image, (top, left, height, width), view in zip(images, BOXES, views, strict=True):
        cut = (left, top, left + width, top + height)
        shown = PIL.Image.fromarray(image.permute(1, 2, 0).numpy()).crop(cut).resize((40, 24), PILLOW[mode])
        difference = (view - torch.from_numpy(np.array(shown)).permute(2, 0, 1)).abs().max()
        assert difference <= levels


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize("mode", MODES)
def test_images_of_one_pixel(mode: str, renderer: str) -> None:
    images = torch.rand(2, 3, 1, 1)
    views = crop(images, [(0, 0, 1, 1)] * 2, (5, 4), mode, renderer)
    torch.testing.assert_close(views, images.expand(2, 3, 5, 4), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(2, 30_000), (30_000, 2)], ids=str)
def test_panoramas(shape: tuple[int, int], mode: str, renderer: str) -> None:
    height, width = shape
    image = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    box = (0, 1000, 2, 25_000) if width > height else (1000, 0, 25_000, 2)
    view = crop(image, [box], 96, mode, renderer)[0]
    torch.testing.assert_close(view, expected_crop(image[0] / 255, box, (96, 96), mode), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("renderer", RENDERERS)
def test_a_crop_reads_nothing_outside_its_box(renderer: str) -> None:
    images = torch.full((1, 3, 30, 30), 1.0)
    images[..., 5:15, 8:20] = 0.25
    for mode in MODES:
        view = crop(images, [(5, 8, 10, 12)], 16, mode, renderer)
        torch.testing.assert_close(view, torch.full_like(view, 0.25), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    "box", [(0, 0, 0, 5), (0, 0, 5, 0), (-1, 0, 5, 5), (0, -1, 5, 5), (0, 4, 5, 5), (7, 0, 5, 5), (0, 0, 9, 9)]
)
@pytest.mark.parametrize("renderer", RENDERERS)
def test_boxes_outside_their_image_are_refused(renderer: str, box: Box) -> None:
    images = torch.zeros(2, 3, 8, 8)
    with pytest.raises(HVSError, match="boxes"):
        crop(images, [(0, 0, 8, 8), box], 4, "bilinear", renderer)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("channels", [1, 3])
def test_resize_then_center_crop_is_what_torchvision_makes_of_a_pil_image(channels: int, mode: str) -> None:
    images = of_dtype(pictures(45, 38, channels), torch.uint8)
    prepare = [ops.Resize(32, mode), ops.CenterCrop((29, 30))]
    recipe = ViewRecipe((29, 30), [*prepare, ops.RandomResizedCrop(scale=(1, 1), ratio=(30 / 29, 30 / 29))])
    views = CandidateViews(ViewSlot(recipe, 1, 1))
    params = views.make_params(images)
    assert torch.equal(params.boxes[0], torch.tensor([0, 0, 29, 30]).expand(len(images), 4))
    shown = v2.Compose([v2.Resize(32, InterpolationMode(mode)), v2.CenterCrop((29, 30)), v2.PILToTensor()])
    for image, view in zip(images, views.transform(images, params)[0][0], strict=True):
        expected = shown(tvf.to_pil_image(image))
        assert (view * 255 - expected).abs().max() <= 1.1


@given(height=st.integers(1, 90), width=st.integers(1, 90), size=st.integers(1, 60), most=st.none() | st.integers(2, 90))
def test_resize_makes_the_sizes_that_torchvision_makes(height: int, width: int, size: int, most: int | None) -> None:
    most = None if most is not None and most <= size else most
    expected = None
    try:
        expected = tuple(v2.Resize(size, max_size=most, antialias=True)(torch.zeros(1, height, width)).shape[1:])
    except RuntimeError:  # torchvision makes no image of 0 pixels
        with pytest.raises(HVSError, match="Resize"):
            ops.Resize(size, max_size=most).prepared_size(height, width)
    if expected is not None:
        resize = ops.Resize(size, max_size=most)
        assert resize.prepared_size(height, width) == expected
        assert tuple(resize.prepare(torch.zeros(1, height, width)).shape[1:]) == expected


@given(height=st.integers(1, 30), width=st.integers(1, 30), rows=st.integers(1, 30), columns=st.integers(1, 30))
def test_center_crop_keeps_the_pixels_that_torchvision_keeps(height: int, width: int, rows: int, columns: int) -> None:
    image = torch.arange(height * width, dtype=torch.float32).view(1, height, width)
    center = ops.CenterCrop((rows, columns))
    if rows > height or columns > width:
        with pytest.raises(HVSError, match=r"CenterCrop\(size\): expected images of at least"):
            center.prepare(image)
    else:
        assert torch.equal(center.prepare(image), v2.CenterCrop((rows, columns))(image))


@pytest.mark.parametrize("flip", [ops.RandomHorizontalFlip(1.0), ops.RandomVerticalFlip(1.0)])
def test_a_flip_before_the_crop_mirrors_the_box(flip: ops.Operation) -> None:
    images = pictures(23, 31, count=4)
    crop_ = ops.RandomResizedCrop()
    plain, flipped = (
        CandidateViews(ViewSlot(ViewRecipe(12, steps), 3, 1))
        for steps in ([crop_], [ops.Resize((20, 30)), ops.CenterCrop((19, 24)), flip, crop_])
    )
    params = flipped.make_params(images, torch.Generator().manual_seed(0))
    prepared = [v2.CenterCrop((19, 24))(v2.Resize((20, 30))(image)) for image in images]
    axis = -1 if isinstance(flip, ops.RandomHorizontalFlip) else -2
    drawn = plain.make_params(torch.zeros(4, 3, 19, 24), torch.Generator().manual_seed(0))
    expected = plain.transform(torch.stack(prepared).flip(axis), drawn)[0]
    torch.testing.assert_close(flipped.transform(images, params)[0], expected, atol=TOLERANCE, rtol=0)
