"""The GPU renderer on a GPU: what stand-in tensors and the interpreter cannot show."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

from hvs_aug import CandidateViews, ImageBatch, ViewRecipe, ViewSlot, ops
from hvs_aug.ops import gpu
from hvs_aug.views.presets import PRESETS

pytestmark = pytest.mark.gpu
SIZES = [(375, 500), (500, 333), (60, 90), (224, 224)]


def photographs(count: int = 8) -> ImageBatch:
    generator = torch.Generator().manual_seed(0)
    sizes = [SIZES[index % len(SIZES)] for index in range(count)]
    return ImageBatch.pack([torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator) for size in sizes])


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_at_full_size_on_the_device(name: str) -> None:
    batch = photographs()
    definition = CandidateViews.preset(name, renderer="definition")
    params = definition.make_params(batch, seeded())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        views = CandidateViews.preset(name)
        assert views._renderer_of(batch.to("cuda")) is gpu.render
        rendered = views.transform(batch.to("cuda"), params)
    for one, other in zip(rendered, definition.transform(batch.to("cuda"), params), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5 / 0.22, rtol=0)


def test_images_on_the_device_are_resized_before_the_crop() -> None:
    recipe = ViewRecipe(96, [ops.Resize(128), ops.CenterCrop(120), ops.RandomResizedCrop()])
    views, batch = CandidateViews(ViewSlot(recipe)), photographs()
    params = views.make_params(batch, seeded())
    (rendered,), (expected,) = views.transform(batch.to("cuda"), params), views.transform(batch, params)
    torch.testing.assert_close(rendered.cpu(), expected, atol=1e-4, rtol=0)  # torch resizes otherwise on a GPU


def test_the_same_bits_whatever_the_settings() -> None:
    views, batch = CandidateViews.preset("simclr"), photographs().to("cuda")
    params = views.make_params(batch, seeded())
    (expected,) = views.transform(batch, params)
    assert torch.equal(views.transform(batch, params)[0], expected)
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        for is_allowed in (False, True):
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = is_allowed
            assert torch.equal(views.transform(batch, params)[0], expected)
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
    with torch.autocast("cuda", torch.float16):
        assert torch.equal(views.transform(batch, params)[0], expected)
    views.chunk = 3
    assert torch.equal(views.transform(batch, params)[0], expected)


@pytest.mark.parametrize("where", ["cpu", "cuda"])
@pytest.mark.parametrize("name", ["simclr", "dino"])
def test_the_host_never_waits(name: str, where: str) -> None:
    views, batch = CandidateViews.preset(name), photographs().to("cuda")
    params = views.make_params(batch, seeded()).to(where)
    expected = views.transform(batch, params)  # compiles, which may wait
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        rendered = views.transform(batch, params)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.equal(one, other) for one, other in zip(rendered, expected, strict=True))


def repeated(count: int, height: int = 375, width: int = 500) -> ImageBatch:
    """So many images that are the same bytes."""
    pixels = torch.randint(0, 256, (height * width * 3,), dtype=torch.uint8, generator=seeded()).cuda()
    offsets = torch.zeros(count, dtype=torch.int64)
    return ImageBatch(pixels, torch.tensor([[height, width]]).expand(count, 2), offsets, 3)


def test_peak_memory_of_256_times_4_views() -> None:
    batch = ImageBatch.of(torch.zeros(256, 3, 375, 500, dtype=torch.uint8, device="cuda"))
    views = CandidateViews.preset("simclr")
    params = views.make_params(batch, seeded())
    views.transform(batch, params)
    torch.cuda.synchronize()
    sources = batch.pixels.numel()
    before = torch.cuda.memory_allocated() - sources
    torch.cuda.reset_peak_memory_stats()
    (rendered,) = views.transform(batch, params)
    peak = torch.cuda.max_memory_allocated() - before
    assert peak <= 1.5 * (sources + rendered.numel() * rendered.element_size())


def test_offsets_beyond_2_gib() -> None:
    """An image behind 2 GiB of others, and views that begin behind 2**31 values."""
    if torch.cuda.mem_get_info()[0] < 32 * 2**30:
        pytest.skip("needs 32 GiB of free memory")
    one = repeated(1)
    pixels = torch.zeros(2**31 + len(one.pixels), dtype=torch.uint8, device="cuda")
    pixels[-len(one.pixels) :] = one.pixels
    far = ImageBatch(pixels, one.sizes, torch.tensor([2**31]), 3)
    views = CandidateViews.preset("simclr")
    params = views.make_params(one, seeded())
    assert torch.equal(views.transform(far, params)[0], views.transform(one, params)[0])
    count = 2**31 // (3 * 224 * 224 * 4) + 2
    many = repeated(count)
    params = views.make_params(many, seeded())
    (rendered,) = views.transform(many, params)
    assert rendered.numel() > 2**31
    last = params.of_images(slice(count - 1, count))
    assert torch.equal(rendered[:, -1], views.transform(one, last)[0][:, 0])


def test_kernels_are_compiled_a_bounded_number_of_times() -> None:
    """For whether sides are multiples of 16 and pointers are aligned; not for each batch, size and scale."""
    from hvs_aug.ops.triton_blur import blur_rows

    def compiled() -> int:
        return len(blur_rows.device_caches[torch.cuda.current_device()][0])

    views = CandidateViews.preset("simclr")
    before = compiled()
    for count in (1, 2, 3, 8, 17):
        batch = photographs(count).to("cuda")
        params = views.make_params(batch, seeded())
        for scale in (1.0, 0.7, 0.5, 0.31, 0.25):
            views.transform(batch, params, scale)
    assert compiled() - before <= 4


def test_out_of_memory_is_rendered_in_chunks() -> None:
    batch, views = repeated(64), CandidateViews.preset("simclr")
    params = views.make_params(batch, seeded())
    expected: Tensor = views.transform(batch, params)[0].cpu()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 1.4 * expected.numel() * 4) / total)
    try:
        with pytest.warns(UserWarning, match="set chunk=8"):
            (rendered,) = views.transform(batch, params)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert torch.equal(rendered.cpu(), expected)
