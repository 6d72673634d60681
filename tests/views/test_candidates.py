"""CandidateViews: its two schedules against torchvision one view at a time, replay, scales, channels and refusals."""

from __future__ import annotations

import copy
import pickle
import threading
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch._subclasses.fake_tensor import FakeTensorMode

from hvs_aug import CandidateViews, HVSError, ImageBatch, ViewRecipe, ViewSlot
from hvs_aug.views import candidates
from hvs_aug.views.presets import PRESETS, preset_slots
from tests.reference.views import render_all

SIZES = [(40, 60), (64, 33), (17, 64), (64, 64)]


def photographs(dtype: torch.dtype = torch.uint8, channels: int = 3, seed: int = 0) -> ImageBatch:
    """Smooth images of four sizes on one canvas, as photographs are: noise enlarged, channels-last."""
    generator = torch.Generator().manual_seed(seed)
    canvas = torch.zeros(len(SIZES), 64, 64, channels, dtype=torch.uint8).permute(0, 3, 1, 2)
    for index, (height, width) in enumerate(SIZES):
        coarse = torch.rand(1, channels, 7, 9, generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)[0]
        canvas[index, :, :height, :width] = (smooth * 255).round().to(torch.uint8)
    pixels = canvas if dtype == torch.uint8 else canvas.to(dtype) / 255
    return ImageBatch(pixels, torch.tensor(SIZES))


def draw(views: CandidateViews, images: ImageBatch, seed: int = 0) -> object:
    return views.make_params(images, torch.Generator().manual_seed(seed))


def batched(views: CandidateViews, images: ImageBatch, params: object, scale: float = 1.0) -> list[Tensor]:
    """The schedule of a GPU, on this CPU."""
    rendered = []
    for index, slot in enumerate(views.slots):
        own = params.of_slot(index)
        drawn = (own.boxes, own.flips, own.jitter, own.order, own.gray, own.blur, own.solarize)
        rendered.append(candidates.render_batch(images.pixels, *drawn, slot.recipe, max(1, round(slot.recipe.size * scale))))
    return rendered


@pytest.mark.parametrize("size", [32, 80])
@pytest.mark.parametrize("name", PRESETS)
def test_both_schedules_render_torchvisions_views(name: str, size: int) -> None:
    views = CandidateViews.preset(name, size=size, candidates=4)
    images = photographs(torch.float32)
    params = draw(views, images)
    expected = render_all(images, params, views.slots)
    for one, other, wanted, slot in zip(
        views.transform(images, params), batched(views, images, params), expected, views.slots, strict=True
    ):
        tolerance = 1e-5 / min(slot.recipe.std or (1.0,))
        torch.testing.assert_close(one, wanted, atol=tolerance, rtol=0)
        torch.testing.assert_close(other, wanted, atol=tolerance, rtol=0)


@pytest.mark.parametrize(("interpolation", "levels"), [("bilinear", 1.0), ("bicubic", 1.6)])
def test_uint8_crops_agree_within_a_gray_level(interpolation: str, levels: float) -> None:
    """With torchvision's uint8 resize within one; with floating point bicubic rounds twice, after weights of up to 1.2."""
    views = CandidateViews(ViewSlot(ViewRecipe(size=24, interpolation=interpolation, flip_prob=0.5), candidates=6))
    images = photographs()
    params = draw(views, images)
    (one,) = views.transform(images, params)
    (other,) = batched(views, images, params)
    (wanted,) = render_all(images, params, views.slots, uint8_resize=True)
    assert float((one - wanted).abs().max()) <= 1.01 / 255
    assert float((one - other).abs().max()) <= levels * 1.01 / 255
    assert float((one - other).abs().mean()) < 0.4 / 255


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
@pytest.mark.parametrize("compiled", [False, True], ids=["per sample", "batched"])
def test_the_callers_autocast_changes_nothing(threads: int, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one thread views are rendered on the caller's own, where its autocast is on."""
    monkeypatch.setattr(candidates, "compiled_render_batch", lambda: candidates.render_batch)
    images = photographs()
    views = CandidateViews(preset_slots("simclr", 80), compile=compiled)
    params = views.make_params(images, torch.Generator().manual_seed(0))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        (expected,) = views.transform(images, params)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            (got,) = views.transform(images, params)
    finally:
        torch.set_num_threads(before)
    assert got.dtype == torch.float32 and torch.equal(got, expected)


def test_plain_python_and_torchscript_render_the_same() -> None:
    views = CandidateViews.preset("dino", size=32)
    images = photographs()
    params = draw(views, images)
    expected = views.transform(images, params)
    original = candidates.per_sample.compiled_render_views
    try:
        candidates.per_sample.compiled_render_views = lambda: candidates.per_sample.render_views
        plain = views.transform(images, params)
    finally:
        candidates.per_sample.compiled_render_views = original
    assert type(original()).__name__ == "ScriptFunction"
    for one, other in zip(expected, plain, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


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
    (other,) = batched(views, images, params, scale)
    torch.testing.assert_close(small, other, atol=5e-5, rtol=0)


def test_batched_equals_one_by_one_and_keeps_its_input() -> None:
    views = CandidateViews.preset("byol", size=32)
    images = photographs()
    params = draw(views, images)
    before = images.pixels.clone()
    together = batched(views, images, params)
    for image in range(len(images)):
        alone = ImageBatch(images.pixels[image : image + 1], images.sizes[image : image + 1])
        own = replace(
            params, **{f.name: getattr(params, f.name)[:, image : image + 1] for f in fields(params)[:7]}, sizes=alone.sizes
        )
        for slot, result in zip(together, batched(views, alone, own), strict=True):
            torch.testing.assert_close(slot[:, image], result[:, 0], atol=1e-5, rtol=0)
    assert torch.equal(images.pixels, before)


def test_an_empty_batch_and_tiny_images() -> None:
    views = CandidateViews.preset("simclr", size=32)
    empty = torch.zeros(0, 3, 8, 8, dtype=torch.uint8)
    (rendered,), params = views(empty)
    assert rendered.shape == (4, 0, 3, 32, 32) and params.boxes.shape == (4, 0, 4)
    (enlarged,), _ = views(torch.full((2, 3, 1, 1), 128, dtype=torch.uint8))
    assert enlarged.shape == (4, 2, 3, 32, 32) and bool(torch.isfinite(enlarged).all())


def test_the_global_random_state_is_left_alone_and_seeds_repeat() -> None:
    images = photographs()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, second = (CandidateViews.preset("dino", size=32) for _ in range(2))
    one, other = first.make_params(images), second.make_params(images)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.boxes, other.boxes) and not torch.equal(first.make_params(images).boxes, one.boxes)
    assert not torch.equal(draw(first, images, 1).boxes, draw(first, images, 2).boxes)


def test_it_copies_and_pickles() -> None:
    views = CandidateViews.preset("simclr", size=32)
    images = photographs()
    params = draw(views, images)
    for twin in (copy.deepcopy(views), pickle.loads(pickle.dumps(views))):
        assert torch.equal(twin.transform(images, params)[0], views.transform(images, params)[0])


def test_tied_candidates_share_their_crop_but_not_their_colours() -> None:
    (slot,) = preset_slots("simclr", 32, 4)
    params = draw(CandidateViews(replace(slot, tie="crop")), photographs())
    assert bool((params.boxes == params.boxes[:1]).all() and (params.flips == params.flips[:1]).all())
    assert not bool((params.jitter == params.jitter[:1]).all())


@pytest.mark.parametrize(
    ("field", "value", "touched"),
    [
        ("scale", (0.5, 0.6), "boxes"),
        ("ratio", (1.0, 1.0), "boxes"),
        ("flip_prob", 1.0, "flips"),
        ("jitter_prob", 0.1, "jitter"),
        ("brightness", 0.3, "jitter"),
        ("contrast", 0.3, "jitter"),
        ("saturation", 0.3, "jitter"),
        ("hue", 0.05, "jitter"),
        ("gray_prob", 0.9, "gray"),
        ("blur_prob", 0.2, "blur"),
        ("blur_sigma", (1.0, 1.5), "blur"),
        ("solarize_prob", 0.9, "solarize"),
    ],
)
@pytest.mark.parametrize("name", PRESETS)
def test_one_field_changes_one_draw(name: str, field: str, value: object, touched: str) -> None:
    slot = preset_slots(name, 96, 4)[0]
    slot = replace(slot, candidates=8, recipe=replace(slot.recipe, order=("flip", "jitter", "gray", "blur", "solarize")))
    images = photographs()
    before = draw(CandidateViews(slot), images)
    after = draw(CandidateViews(replace(slot, recipe=replace(slot.recipe, **{field: value}))), images)
    for drawn in ("boxes", "flips", "jitter", "order", "gray", "blur", "solarize"):
        assert torch.equal(getattr(before, drawn), getattr(after, drawn)) == (drawn != touched), drawn


@pytest.mark.parametrize(
    ("field", "value"), [("mean", (0.1, 0.2, 0.3)), ("solarize_threshold", 0.25), ("blur_kernel", 3), ("interpolation", None)]
)
def test_fields_that_are_not_drawn_change_the_pixels(field: str, value: object) -> None:
    slot = preset_slots("byol", 32, 4)[1]
    slot = replace(slot, recipe=replace(slot.recipe, solarize_prob=1.0, blur_prob=1.0))
    value = "bilinear" if field == "interpolation" else value
    images = photographs()
    params = draw(CandidateViews(slot), images)
    (before,) = CandidateViews(slot).transform(images, params)
    (after,) = CandidateViews(replace(slot, recipe=replace(slot.recipe, **{field: value}))).transform(images, params)
    assert not torch.equal(before, after)


@pytest.mark.parametrize("name", PRESETS)
def test_no_synchronisation_on_a_device(name: str) -> None:
    views = CandidateViews.preset(name, size=32, candidates=2)
    images = photographs()
    params = draw(views, images)
    with FakeTensorMode(allow_non_fake_inputs=True):
        pixels = torch.empty(images.pixels.shape, dtype=torch.uint8, device="cuda")
        views.compile_views = False
        for slot, rendered in zip(views.slots, views.transform(ImageBatch(pixels, images.sizes), params), strict=True):
            assert rendered.shape[0] == slot.candidates and rendered.device.type == "cuda"


def test_one_graph_for_all_image_sizes() -> None:
    counter = CompileCounter()
    torch._dynamo.reset()
    compiled = torch.compile(candidates.render_batch, backend=counter, fullgraph=True, dynamic=True)
    (slot,) = preset_slots("simclr", 16, 2)
    views = CandidateViews(slot)
    for step in range(50):
        images = torch.randint(
            0, 256, (3, 3, 20 + step, 70 - step), dtype=torch.uint8, generator=torch.Generator().manual_seed(step)
        )
        own = views.make_params(images, torch.Generator().manual_seed(step))
        drawn = (own.boxes, own.flips, own.jitter, own.order, own.gray, own.blur, own.solarize)
        result = compiled(images, *drawn, slot.recipe, 16)
        torch.testing.assert_close(result, candidates.render_batch(images, *drawn, slot.recipe, 16))
    assert counter.frame_count <= 2


def test_recipes_for_other_channels() -> None:
    (slot,) = preset_slots("simclr", 32, 4)
    plain = replace(slot, recipe=replace(slot.recipe, saturation=0.0, hue=0.0, gray_prob=0.0))
    one_channel = photographs(torch.float32, channels=1)
    params = draw(CandidateViews(plain), one_channel)
    (one,), (other,) = CandidateViews(plain).transform(one_channel, params), batched(CandidateViews(plain), one_channel, params)
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    torch.testing.assert_close(one, render_all(one_channel, params, [plain])[0], atol=1e-5, rtol=0)
    four = replace(plain, recipe=replace(plain.recipe, contrast=0.0))
    assert CandidateViews(four)(photographs(channels=4))[0][0].shape == (4, 4, 4, 32, 32)


@pytest.mark.parametrize(("channels", "named"), [(1, "saturation, hue, gray_prob"), (4, "saturation, hue, gray_prob, contrast")])
def test_colour_of_other_channels_is_refused(channels: int, named: str) -> None:
    with pytest.raises(HVSError, match=f"expected RGB images, since the recipe draws {named}, got {channels} channels"):
        CandidateViews.preset("simclr", size=32)(photographs(channels=channels))


def test_refusals() -> None:
    views = CandidateViews.preset("simclr", size=32)
    images = photographs()
    params = draw(views, images)
    with pytest.raises(
        HVSError, match=r"CandidateViews.preset\(name\): expected one of .*, got 'simcrl'.\n  hint: did you mean 'simclr'"
    ):
        CandidateViews.preset("simcrl")
    with pytest.raises(HVSError, match="params of images of other sizes"):
        views.transform(images.pixels, params)
    with pytest.raises(HVSError, match="the params of 2 images, got of 4"):
        views.transform(ImageBatch(images.pixels[:2], images.sizes[:2]), params)
    with pytest.raises(HVSError, match="expected an ImageBatch or a .* tensor, got list"):
        views([1, 2])
    with pytest.raises(HVSError, match="at least one ViewSlot"):
        CandidateViews([])
    with pytest.raises(HVSError, match="at least the 2 views that are selected, got int 1"):
        CandidateViews.preset("simclr", candidates=1)
    with pytest.raises(HVSError, match="an even number for byol and mocov3, got int 3"):
        CandidateViews.preset("byol", candidates=3)
    with pytest.raises(HVSError, match="a positive fraction"):
        views.transform(images, params, scale=0.0)
