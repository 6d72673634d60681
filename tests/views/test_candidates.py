"""CandidateViews: its renderers against torchvision one view at a time, replay, scales, channels and refusals."""

from __future__ import annotations

import copy
import pickle
import re
import threading
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.data import DataLoader, Dataset

from hvs_aug import CandidateViews, HVSError, ImageBatch, ViewParams, ViewRecipe, ViewSlot
from hvs_aug.ops import (
    CenterCrop,
    ColorJitter,
    GaussianBlur,
    Normalize,
    RandomErasing,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomSolarize,
    RandomVerticalFlip,
    Resize,
)
from hvs_aug.views.presets import PRESETS, preset_slots
from tests.reference.views import render_all

SIZES = [(40, 60), (64, 33), (17, 64), (64, 64)]


def photographs(dtype: torch.dtype = torch.uint8, channels: int = 3, seed: int = 0) -> ImageBatch:
    """Smooth images of four sizes, as photographs are: noise enlarged."""
    generator = torch.Generator().manual_seed(seed)
    images = []
    for height, width in SIZES:
        coarse = torch.rand(1, channels, 7, 9, generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)[0]
        levels = (smooth * 255).round().to(torch.uint8)
        images.append(levels if dtype == torch.uint8 else levels.to(dtype) / 255)
    return ImageBatch.pack(images)


def draw(views: CandidateViews, images: ImageBatch | Tensor, seed: int = 0) -> ViewParams:
    return views.make_params(images, torch.Generator().manual_seed(seed))


def defined(views: CandidateViews, images: ImageBatch, params: ViewParams, scale: float = 1.0) -> list[Tensor]:
    """The views by the definitions, as on a device without kernels."""
    return CandidateViews(views.slots, renderer="definition").transform(images, params, scale)


def smallest_std(recipe: ViewRecipe) -> float:
    normalize = recipe.find(Normalize)
    return min(normalize.std) if isinstance(normalize, Normalize) else 1.0


@pytest.mark.parametrize("size", [32, 80])
@pytest.mark.parametrize("name", PRESETS)
def test_both_renderers_make_torchvisions_views(name: str, size: int) -> None:
    views = CandidateViews.preset(name, size=size, candidates=4)
    images = photographs()
    params = draw(views, images)
    expected = render_all(images, params, views.slots)
    both = zip(views.transform(images, params), defined(views, images, params), expected, views.slots, strict=True)
    for one, other, wanted, slot in both:
        std = smallest_std(slot.recipe)
        torch.testing.assert_close(one, other, atol=1e-5 / std, rtol=0)
        torch.testing.assert_close(other, wanted, atol=3e-5 / std, rtol=0)  # whose resize rounds its places to float32


def test_replay_is_exact_and_threads_change_nothing() -> None:
    views = CandidateViews.preset("simclr", size=48)
    images = photographs()
    params = draw(views, images)
    before = torch.get_num_threads()
    try:
        rendered = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            rendered.append(views.transform(images, params)[0])
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(rendered[0], rendered[1]) and torch.equal(rendered[0], rendered[2])


def test_rendering_from_two_threads_at_once() -> None:
    views = CandidateViews.preset("simclr", size=16)
    images = photographs()
    params = draw(views, images)
    (expected,) = views.transform(images, params)
    results: list[Tensor] = []
    workers = [threading.Thread(target=lambda: results.append(views.transform(images, params)[0])) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 4 and all(torch.equal(result, expected) for result in results)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("renderer", ["cpu", "definition"])
def test_the_callers_autocast_changes_nothing(threads: int, renderer: Any) -> None:
    """With one thread views are rendered on the caller's own, where its autocast is on."""
    images = photographs()
    views = CandidateViews(preset_slots("simclr", 80), renderer=renderer)
    params = draw(views, images)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        (expected,) = views.transform(images, params)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            (got,) = views.transform(images, params)
    finally:
        torch.set_num_threads(before)
    assert got.dtype == torch.float32 and torch.equal(got, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint16])
@pytest.mark.parametrize("renderer", ["cpu", "definition"])
def test_images_of_every_dtype_render(dtype: torch.dtype, renderer: Any) -> None:
    views = CandidateViews(preset_slots("dino", 32), renderer=renderer)
    levels = torch.randint(0, 256, (2, 3, 40, 40), generator=torch.Generator().manual_seed(0))
    images = (levels * 257).to(dtype) if dtype == torch.uint16 else (levels / 255).to(dtype)
    params = draw(views, images)
    exact = levels.to(torch.uint8) if dtype == torch.uint16 else images.to(torch.float32)
    for got, wanted, slot in zip(views.transform(images, params), views.transform(exact, params), views.slots, strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, wanted, atol=1e-5 / smallest_std(slot.recipe), rtol=0)


@pytest.mark.parametrize("renderer", ["cpu", "definition"])
def test_default_dtype_and_device_change_nothing(renderer: Any) -> None:
    views = CandidateViews(preset_slots("dino", 32), renderer=renderer)
    images = photographs()
    params = draw(views, images)
    expected = views.transform(images, params)
    torch.set_default_dtype(torch.float64)
    try:
        assert draw(views, images) == params
        got = views.transform(images, params)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(one.dtype == torch.float32 and torch.equal(one, other) for one, other in zip(got, expected, strict=True))
    with torch.device("meta"):
        assert draw(CandidateViews(preset_slots("dino", 32)), images) == params
        got = views.transform(images, params)
    assert all(torch.equal(one, other) for one, other in zip(got, expected, strict=True))


@pytest.mark.parametrize("renderer", ["cpu", "definition"])
def test_strides_and_packing_change_nothing(renderer: Any) -> None:
    views = CandidateViews(preset_slots("byol", 24), renderer=renderer)
    plain = torch.randint(0, 256, (3, 3, 30, 44), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    params = draw(views, plain)
    expected = views.transform(plain, params)
    wide = torch.zeros(3, 3, 60, 50, dtype=torch.uint8)
    wide[:, :, ::2, 3:47] = plain
    forms = {
        "channels last": plain.contiguous(memory_format=torch.channels_last),
        "sliced": wide[:, :, ::2, 3:47],
        "transposed": plain.transpose(2, 3).contiguous().transpose(2, 3),
        "packed": ImageBatch.pack(list(plain)),
        "canvas": ImageBatch(torch.nn.functional.pad(plain, (0, 7, 0, 5), value=255), torch.tensor([[30, 44]] * 3)),
    }
    for name, images in forms.items():
        for one, other in zip(views.transform(images, params), expected, strict=True):
            assert torch.equal(one, other), name
    one_image = plain[:1].expand(3, -1, -1, -1)
    for one, other in zip(views.transform(one_image, params), views.transform(one_image.clone(), params), strict=True):
        assert torch.equal(one, other)


def test_what_lies_outside_an_image_is_never_read() -> None:
    views = CandidateViews.preset("simclr", size=24)
    canvas = torch.full((1, 3, 40, 40), float("nan"))
    canvas[:, :, :20, :30] = torch.rand(1, 3, 20, 30)
    images = ImageBatch(canvas, torch.tensor([[20, 30]]))
    for renderer in ("cpu", "definition"):
        views = CandidateViews(preset_slots("simclr", 24, 8), renderer=renderer)
        assert bool(views.transform(images, draw(views, images))[0].isfinite().all())


def test_selected_views_are_the_candidates() -> None:
    views = CandidateViews.preset("dino", size=32)
    images = photographs()
    params = draw(views, images)
    full = torch.cat([slot.flatten(2) for slot in views.transform(images, params)[:2]])
    indices = torch.tensor([[0, 1, 1, 0], [3, 2, 2, 3]])
    chosen = views.transform(images, params.select(indices, slots=[0, 1]))
    assert [len(slot) for slot in chosen] == [1, 1, 0]
    for row, slot in enumerate(chosen[:2]):
        for image in range(4):
            assert torch.equal(slot[0, image].flatten(), full[indices[row, image], image])


@pytest.mark.parametrize("scale", [0.25, 0.5])
def test_a_smaller_render_shows_the_same_view(scale: float) -> None:
    views = CandidateViews.preset("simsiam", size=64)
    images = photographs(torch.float32)
    params = draw(views, images)
    (full,), (small,) = views.transform(images, params), views.transform(images, params, scale)
    assert small.shape == (4, 4, 3, round(64 * scale), round(64 * scale))
    reduced = torch.nn.functional.interpolate(full.flatten(0, 1), small.shape[-2:], mode="area").view_as(small)
    assert float((reduced - small).abs().mean()) < 0.15 < float((reduced - small.flip(0)).abs().mean())
    (other,) = defined(views, images, params, scale)
    torch.testing.assert_close(small, other, atol=5e-5, rtol=0)


@pytest.mark.parametrize("renderer", ["cpu", "definition"])
def test_a_batch_is_its_images_one_by_one_and_is_kept(renderer: Any) -> None:
    views = CandidateViews(preset_slots("byol", 32), renderer=renderer)
    images = photographs()
    params = draw(views, images)
    before = images.pixels.clone()
    together = views.transform(images, params)
    for image in range(len(images)):
        rows = slice(image, image + 1)
        for slot, alone in zip(together, views.transform(images[rows], params.of_images(rows)), strict=True):
            torch.testing.assert_close(slot[:, image], alone[:, 0], atol=1e-5, rtol=0)
    assert torch.equal(images.pixels, before)


def test_an_empty_batch_and_tiny_images() -> None:
    views = CandidateViews.preset("simclr", size=32)
    empty = torch.zeros(0, 3, 8, 8, dtype=torch.uint8)
    (rendered,), params = views(empty)
    assert rendered.shape == (4, 0, 3, 32, 32) and params.boxes.shape == (4, 0, 4)
    for renderer in ("cpu", "definition"):
        views = CandidateViews(preset_slots("simclr", 32), renderer=renderer)
        for shape in ((2, 3, 1, 1), (1, 3, 2, 3000), (1, 3, 3000, 1)):
            (enlarged,), _ = views(torch.full(shape, 128, dtype=torch.uint8))
            assert enlarged.shape == (4, shape[0], 3, 32, 32) and bool(torch.isfinite(enlarged).all())


def test_the_global_random_state_is_left_alone() -> None:
    images = photographs()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    views = CandidateViews.preset("dino", size=32)
    one = views.make_params(images)
    assert torch.equal(torch.get_rng_state(), before)
    assert views.make_params(images) != one and draw(views, images, 1) == draw(views, images, 1) != draw(views, images, 2)


def test_no_two_modules_draw_alike() -> None:
    """Made anew for each epoch, or one for each view: equal draws only where a generator is given."""
    images = photographs()
    torch.manual_seed(3)
    first, second = CandidateViews.preset("simclr", size=32), CandidateViews.preset("simclr", size=32)
    assert first.make_params(images) != second.make_params(images)
    torch.manual_seed(4)
    assert CandidateViews.preset("simclr", size=32).make_params(images) != CandidateViews.preset("simclr", size=32).make_params(
        images
    )


class Boxes(Dataset[Tensor]):
    """A dataset that draws in its workers with a module that was used before they forked."""

    def __init__(self) -> None:
        self.views = CandidateViews.preset("simclr", 32)
        self[0]

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Tensor:
        return self.views.make_params(torch.zeros(1, 3, 99, 99, dtype=torch.uint8)).boxes


def test_a_module_draws_apart_in_every_worker_and_epoch() -> None:
    loader = DataLoader(Boxes(), num_workers=2, multiprocessing_context="fork")
    draws = {str(boxes.tolist()) for _ in range(2) for boxes in loader}
    assert len(draws) == 12
    torch.manual_seed(0)
    first = list(loader)
    torch.manual_seed(0)
    assert all(torch.equal(one, other) for one, other in zip(first, loader, strict=True))  # the loader's seed decides


def test_it_copies_and_pickles() -> None:
    views = CandidateViews.preset("simclr", size=32)
    images = photographs()
    params = draw(views, images)
    for twin in (copy.deepcopy(views), pickle.loads(pickle.dumps(views))):
        assert torch.equal(twin.transform(images, params)[0], views.transform(images, params)[0])
    views.make_params(images)
    for twin in (copy.deepcopy(views), pickle.loads(pickle.dumps(views))):
        assert twin.make_params(images) == copy.deepcopy(views).make_params(images)  # goes on where the module is


def test_tied_candidates_share_their_crop_but_not_their_colours() -> None:
    (slot,) = preset_slots("simclr", 32, 4)
    params = draw(CandidateViews(replace(slot, tie="crop")), photographs())
    flips, factors = params.drawn["RandomHorizontalFlip.applied"], params.drawn["ColorJitter.factors"]
    assert bool((params.boxes == params.boxes[:1]).all() and (flips == flips[:1]).all()) and len(flips.unique()) == 2
    assert not bool((factors == factors[:1]).all())


@pytest.mark.parametrize(
    ("operation", "changes"),
    [
        (Normalize, {"mean": (0.1, 0.2, 0.3)}),
        (RandomSolarize, {"threshold": 0.25}),
        (GaussianBlur, {"kernel_size": 3}),
        (RandomResizedCrop, {"interpolation": "bilinear"}),
    ],
)
def test_fields_that_are_not_drawn_change_the_pixels(operation: Any, changes: dict[str, Any]) -> None:
    slot = preset_slots("byol", 32, 4)[1]
    recipe = slot.recipe.replace(RandomSolarize, p=1.0).replace(GaussianBlur, p=1.0)
    images = photographs()
    views = CandidateViews(replace(slot, recipe=recipe))
    params = draw(views, images)
    (before,) = views.transform(images, params)
    (after,) = CandidateViews(replace(slot, recipe=recipe.replace(operation, **changes))).transform(images, params)
    assert not torch.equal(before, after)


@pytest.mark.parametrize("name", PRESETS)
def test_no_synchronisation_on_a_device(name: str) -> None:
    views = CandidateViews.preset(name, size=32, candidates=2)
    images = photographs()
    params = draw(views, images)
    with FakeTensorMode(allow_non_fake_inputs=True):
        on_device = replace(images, pixels=torch.empty(images.pixels.shape, dtype=torch.uint8, device="cuda"))
        for slot, rendered in zip(views.slots, views.transform(on_device, params), strict=True):
            assert rendered.shape[0] == slot.candidates and rendered.device.type == "cuda"


def test_recipes_for_other_channels() -> None:
    (slot,) = preset_slots("simclr", 32, 4)
    one_channel = photographs(channels=1)
    views = CandidateViews(slot)
    params = draw(views, one_channel)
    (one,), (other,) = views.transform(one_channel, params), defined(views, one_channel, params)
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    colourless = replace(slot, recipe=slot.recipe.replace(ColorJitter, saturation=0, hue=0).without(RandomGrayscale))
    torch.testing.assert_close(one, render_all(one_channel, params, [colourless])[0], atol=3e-5, rtol=0)
    many = colourless.recipe.replace(ColorJitter, contrast=0)
    images = photographs(channels=13)
    views = CandidateViews(replace(slot, recipe=many))
    params = draw(views, images)
    (one,), (other,) = views.transform(images, params), defined(views, images, params)
    assert one.shape == (4, 4, 13, 32, 32)
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_colour_of_other_channels_is_refused_and_the_way_out_named() -> None:
    images = photographs(channels=13)
    views = CandidateViews.preset("simclr", size=32)
    expected = r"ColorJitter\(contrast, saturation, hue\): expected images of 1 or 3 channels, .*, got 13 channels"
    with pytest.raises(HVSError, match=rf"{expected}.\n  hint: .*recipe.replace\(ColorJitter, contrast=0, saturation=0, hue=0\)"):
        views(images)
    with pytest.raises(HVSError, match="one mean for each of the images' 13 channels, got 3"):
        CandidateViews(ViewSlot(ViewRecipe(8, [RandomResizedCrop(), Normalize((0.5,) * 3, (0.5,) * 3)])))(images)


def test_views_that_are_not_square() -> None:
    recipe = ViewRecipe((20, 36), [RandomResizedCrop(), RandomHorizontalFlip(), RandomVerticalFlip(), GaussianBlur(7)])
    views = CandidateViews(ViewSlot(recipe))
    images = photographs()
    params = draw(views, images)
    (one,), (other,) = views.transform(images, params), defined(views, images, params)
    assert one.shape == (4, 4, 3, 20, 36)
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    assert views.transform(images, params, 0.5)[0].shape[-2:] == (10, 18)


def test_a_flip_before_the_crop_mirrors_its_box() -> None:
    images = photographs()
    late = CandidateViews(ViewSlot(ViewRecipe(16, [RandomResizedCrop(), RandomHorizontalFlip(1.0)])))
    early = CandidateViews(ViewSlot(ViewRecipe(16, [RandomHorizontalFlip(1.0), RandomResizedCrop()])))
    mirrored = ImageBatch.pack([image.flip(-1) for image in images])
    plain = CandidateViews(ViewSlot(ViewRecipe(16)))
    (expected,) = plain.transform(mirrored, replace(draw(plain, images), drawn={}))
    (got,) = early.transform(images, draw(early, images))
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)
    assert not torch.equal(draw(early, images).boxes, draw(late, images).boxes)


def test_images_are_resized_and_cropped_once_before_the_crop() -> None:
    images = photographs()
    views = CandidateViews(ViewSlot(ViewRecipe(16, [Resize(40, "bicubic"), CenterCrop((36, 40)), RandomResizedCrop()])))
    params = draw(views, images)
    assert params.sizes.tolist() == [[36, 40]] * 4
    resized = [torch.nn.functional.interpolate(i[None] / 255, views_size(i), mode="bicubic", antialias=True)[0] for i in images]
    cropped = []
    for image in resized:
        top, left = round((image.shape[1] - 36) / 2), round((image.shape[2] - 40) / 2)
        cropped.append(image[:, top : top + 36, left : left + 40])
    plain = CandidateViews(ViewSlot(ViewRecipe(16)))
    (expected,) = plain.transform(torch.stack(cropped).clamp(0, 1), replace(params, drawn={}))
    torch.testing.assert_close(views.transform(images, params)[0], expected, atol=0.02, rtol=0)  # overshoots are clamped twice
    with pytest.raises(HVSError, match=r"CenterCrop\(size\): expected images of at least 50 x 50 pixels, got one of 40 x 60"):
        CandidateViews(ViewSlot(ViewRecipe(16, [CenterCrop(50), RandomResizedCrop()])))(images)
    with pytest.raises(HVSError, match="recipes with the same Resize and CenterCrop before the crop"):
        CandidateViews([ViewSlot(ViewRecipe(16)), ViewSlot(ViewRecipe(16, [Resize(40), RandomResizedCrop()]))])


def views_size(image: Tensor) -> list[int]:
    """The (height, width) whose shorter side is 40."""
    height, width = image.shape[1:]
    return [40, int(40 * width / height)] if height <= width else [int(40 * height / width), 40]


def test_erasing_after_the_normalisation() -> None:
    normalize = Normalize((0.5,) * 3, (0.5,) * 3)
    views = CandidateViews(ViewSlot(ViewRecipe(16, [RandomResizedCrop(), normalize, RandomErasing(1.0, value=0.25)])))
    images = photographs()
    params = draw(views, images)
    (one,), (other,) = views.transform(images, params), defined(views, images, params)
    torch.testing.assert_close(one, other, atol=2e-5, rtol=0)
    for view in range(4):
        top, left, height, width = params.drawn["RandomErasing.box"][view, 0].tolist()
        assert height * width > 0 and bool((one[view, 0, :, top : top + height, left : left + width] == 0.25).all())


def test_refusals() -> None:
    views = CandidateViews.preset("simclr", size=32)
    images = photographs()
    params = draw(views, images)
    with pytest.raises(
        HVSError, match=r"CandidateViews.preset\(name\): expected one of .*, got 'simcrl'.\n  hint: did you mean 'simclr'"
    ):
        CandidateViews.preset("simcrl")
    with pytest.raises(HVSError, match="params of images of other sizes"):
        views.transform(torch.zeros(4, 3, 64, 64, dtype=torch.uint8), params)
    with pytest.raises(HVSError, match="the params of 2 images, got of 4"):
        views.transform(images[:2], params)
    with pytest.raises(HVSError, match="what the operations of these slots drew, got params without"):
        CandidateViews.preset("byol", size=32).transform(images, CandidateViews(ViewSlot(ViewRecipe(32), 4)).make_params(images))
    with pytest.raises(HVSError, match="expected ViewSlots, got int 4"):
        CandidateViews(4)
    with pytest.raises(HVSError, match=r"CandidateViews\(renderer\): expected one of .*\n  hint: did you mean 'definition'"):
        CandidateViews.preset("byol", renderer="definitoin")
    with pytest.raises(HVSError, match="expected an ImageBatch or a .* tensor, got list"):
        views([1, 2])
    with pytest.raises(HVSError, match="at least one ViewSlot"):
        CandidateViews([])
    with pytest.raises(HVSError, match="at least the 2 views that are selected, got int 1"):
        CandidateViews.preset("simclr", candidates=1)
    with pytest.raises(HVSError, match="an even number for byol and mocov3, got int 3"):
        CandidateViews.preset("byol", candidates=3)
    applied = params.drawn["RandomGrayscale.applied"]
    for wrong in (applied.float(), applied[..., None]):
        with pytest.raises(HVSError, match=r"RandomGrayscale.applied as a torch.bool tensor of shape \(4, 4"):
            views.transform(images, replace(params, drawn=params.drawn | {"RandomGrayscale.applied": wrong}))
    height, width = params.sizes[1].tolist()
    for box in ([-1, 0, 2, 2], [0, -1, 2, 2], [0, 0, 0, 2], [0, 0, 2, 0], [height - 1, 0, 2, 2], [0, width - 1, 2, 2]):
        boxes = params.boxes.clone()
        boxes[2, 1] = torch.tensor(box)
        with pytest.raises(HVSError, match=rf"got the box {re.escape(str(box))} in image 1 of \[{height}, {width}\] pixels"):
            views.transform(images, replace(params, boxes=boxes))
    for scale in (0.0, None, "1", float("nan"), [1.0, 1.0]):
        with pytest.raises(HVSError, match="a positive fraction"):
            views.transform(images, params, scale=scale)
    with pytest.raises(HVSError, match=r"CandidateViews.transform\(params\): expected ViewParams, got tuple"):
        views.transform(images, views(images))
