"""The GPU renderer against the definition, on a GPU or in Triton's interpreter; test_gpu_kernels.py runs this, each alone."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from hvs_aug import CandidateViews, ImageBatch, ViewRecipe, ViewSlot, ops
from hvs_aug.ops import Operation, batched, gpu
from hvs_aug.ops.plan import RenderPlan
from hvs_aug.views.presets import preset_slots
from tests.ops.gamma import Gamma

TOLERANCE = 1e-5
DEVICE = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def levels(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def render(
    images: ImageBatch, boxes: Tensor, drawn: Mapping[str, Mapping[str, Tensor]], plan: RenderPlan, **options: Any
) -> Tensor:
    moved = {name: {key: value.to(DEVICE) for key, value in draws.items()} for name, draws in drawn.items()}
    return gpu.render(images.to(DEVICE), boxes.to(DEVICE), moved, plan, **options).cpu()


def compare(
    images: ImageBatch, boxes: Tensor, drawn: Mapping[str, Mapping[str, Tensor]], plan: RenderPlan, tolerance: float = TOLERANCE
) -> Tensor:
    expected = batched.render(images, boxes, drawn, plan)
    rendered = render(images, boxes, drawn, plan)
    assert rendered.shape == expected.shape and rendered.dtype == torch.float32 and rendered.is_contiguous()
    torch.testing.assert_close(rendered, expected, atol=tolerance, rtol=0)
    return expected


def whole(images: ImageBatch, views: int) -> Tensor:
    """Boxes of whole images, which are as large as the views: the crop copies them."""
    return torch.cat([torch.zeros_like(images.sizes), images.sizes], 1).expand(views, -1, -1).contiguous()


def compare_steps(
    operations: list[Operation], drawn: Mapping[str, Mapping[str, Tensor]], images: ImageBatch, scale: float = 1.0, **how: float
) -> Tensor:
    """Run operations on whole images; drawn ``(V, B, ...)`` by their names. The definition must have changed something."""
    height, width = images.sizes[0].tolist()
    side = ViewRecipe((round(height / scale), round(width / scale)), [ops.RandomResizedCrop(), *operations])
    views = next(iter(drawn.values()))[next(iter(next(iter(drawn.values()))))].shape[0] if drawn else 1
    boxes = whole(images, views)
    plan = side.plan(scale)
    changed = compare(images, boxes, drawn, plan, **how)
    assert not torch.equal(changed, batched.render(images, boxes, {}, replace(plan, steps=(), flips=((), ()))))
    return changed


# The crop ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("size", "sides"),
    [(1, [(1, 1), (2, 12), (5, 3)]), ((31, 9), [(1, 30), (7, 9), (31, 50), (170, 2)]), (40, [(40, 40), (120, 13)])],
)
def test_crop_of_any_size_with_any_number_of_taps(
    interpolation: str, size: int | tuple[int, int], sides: list[tuple[int, int]]
) -> None:
    """Upscaled from one pixel on, copied, and reduced until 12 pixels and more make one; some mirrored."""
    images = ImageBatch.pack([levels(3, 172, 124), levels(3, 180, 140, seed=1)])
    boxes = torch.tensor(
        [[[place % 3, place % 2, *side] for side in (sides[place], sides[-1 - place])] for place in range(len(sides))]
    )
    names = ("RandomHorizontalFlip", "RandomVerticalFlip", "RandomHorizontalFlip-2")
    flips = [ops.RandomHorizontalFlip(), ops.RandomVerticalFlip(), ops.RandomHorizontalFlip()]
    recipe = ViewRecipe(size, [ops.RandomResizedCrop(interpolation=interpolation), *flips])
    coins = noise(3, *boxes.shape[:2]) < 0.5
    compare(images, boxes, {name: {"applied": coin} for name, coin in zip(names, coins, strict=True)}, recipe.plan())


def sources() -> dict[str, ImageBatch]:
    real = noise(2, 3, 20, 24)
    wide = (real * 65535).to(torch.uint16)
    made = {
        "packed uint8": ImageBatch.pack([levels(3, 20, 24), levels(3, 31, 17)]),
        "packed uint16": ImageBatch.pack(list(wide)),
        "packed float32": ImageBatch.pack(list(real)),
        "float32 beyond [0, 1]": ImageBatch.of(real * 3 - 1),
        "float64": ImageBatch.of(real.double()),
        "float16": ImageBatch.of(real.half()),
        "bfloat16": ImageBatch.of(real.bfloat16()),
        "uint8 channels-last": ImageBatch.of(levels(2, 20, 24, 3).permute(0, 3, 1, 2)),
        "uint8 transposed": ImageBatch.of(levels(2, 3, 24, 20).transpose(2, 3)),
        "uint8 every second": ImageBatch.of(levels(4, 6, 40, 48)[::2, ::2, ::2, ::2]),
        "uint8 channels first": ImageBatch.of(levels(3, 2, 20, 24).transpose(0, 1)),
        "expanded": ImageBatch.of(levels(1, 3, 20, 24).expand(2, -1, -1, -1)),
        "canvas": ImageBatch(levels(2, 3, 40, 40), torch.tensor([[20, 24], [33, 40]])),
        "a slice of a batch": ImageBatch.pack([levels(3, 9, 9), levels(3, 20, 24), levels(3, 30, 20)])[1:],
    }
    return made | {f"{channels} channels": ImageBatch.of(levels(2, channels, 20, 24)) for channels in (1, 2, 5, 16)}


@pytest.mark.parametrize("source", sources())
def test_sources(source: str) -> None:
    images = sources()[source]
    boxes = torch.tensor([[[2, 1, 17, 14], [0, 0, 20, 17]], [[5, 5, 8, 6], [3, 2, 11, 12]]])
    compare(images, boxes, {}, ViewRecipe((12, 10), [ops.RandomResizedCrop(interpolation="bicubic")]).plan())


# Operations --------------------------------------------------------------------------------------------------------------------

APPLIED = torch.tensor([[True, False], [False, True]])
IMAGES = ImageBatch.of(levels(2, 3, 12, 40))


@pytest.mark.parametrize(
    "operation",
    [
        ops.RandomGrayscale(),
        ops.RandomSolarize(0.3),
        ops.RandomInvert(),
        ops.RandomPosterize(3),
        ops.RandomPosterize(0),
        ops.RandomHorizontalFlip(),
        ops.RandomAutocontrast(),
        ops.RandomEqualize(),
        ops.RandomAdjustSharpness(2.0),
    ],
    ids=repr,
)
def test_operations_that_are_applied_or_not(operation: Operation) -> None:
    compare_steps([operation], {type(operation).__name__: {"applied": APPLIED}}, IMAGES)


def test_every_order_of_jitter_with_and_without_each_factor() -> None:
    orders = torch.tensor(list(itertools.permutations(range(4))))
    factors = noise(24, 1, 4) * torch.tensor([1.6, 1.6, 1.6, 1.0]) + torch.tensor([0.2, 0.2, 0.2, -0.5])
    identity = ops.ColorJitter.identity["factors"]
    factors = torch.where(noise(24, 1, 4, seed=1) < 0.2, identity, factors)
    drawn = {"ColorJitter": {"factors": factors, "order": orders[:, None]}}
    pixels = levels(1, 3, 12, 20)
    pixels[:, :, :3], pixels[:, 0, 3:6], pixels[:, :, 6:8] = (
        128,
        0,
        pixels[:, :, 6:8] // 64 * 64,
    )  # gray, saturated and equal values
    images = ImageBatch.of(pixels)
    compare_steps([ops.ColorJitter(0.8, 0.8, 0.8, 0.5)], drawn, images)


def test_jitter_twice_needs_two_means() -> None:
    operations = [ops.ColorJitter(0.8, 0.8, 0.8, 0.2), ops.RandomInvert(), ops.ColorJitter(contrast=0.8)]
    factors = torch.tensor([1.3, 0.4, 1.7, 0.2]).expand(1, 2, 4)
    order = torch.tensor([3, 2, 1, 0]).expand(1, 2, 4)
    drawn = {name: {"factors": factors, "order": order} for name in ("ColorJitter", "ColorJitter-2")}
    compare_steps(operations, drawn | {"RandomInvert": {"applied": APPLIED[:1]}}, IMAGES)


def test_jitter_and_gray_of_one_channel_and_brightness_of_five() -> None:
    factors = torch.tensor([[[0.7, 1.6, 0.3, 0.2]], [[1.4, 0.2, 1.3, -0.2]]])
    order = torch.tensor([[[0, 1, 2, 3]], [[1, 0, 3, 2]]])
    drawn = {
        "ColorJitter": {"factors": factors, "order": order},
        "RandomGrayscale": {"applied": torch.ones(2, 1, dtype=torch.bool)},
    }
    one = ImageBatch.of(levels(1, 1, 12, 40))
    compare_steps([ops.ColorJitter(0.8, 0.8, 0.8, 0.2), ops.RandomGrayscale()], drawn, one)
    factors = factors * torch.tensor([1.0, 0, 0, 0]) + torch.tensor([0.0, 1, 1, 0])
    five = ImageBatch.of(levels(1, 5, 12, 40))
    compare_steps([ops.ColorJitter(0.8)], {"ColorJitter": {"factors": factors, "order": order}}, five)


@pytest.mark.parametrize(("taps", "scale"), [(1, 1.0), (3, 1.0), (9, 0.5), (23, 1.0)])
def test_blur(taps: int, scale: float) -> None:
    sigmas = torch.tensor([[0.0, 0.1], [0.5, 2.0]])
    images = ImageBatch.of(levels(2, 3, 12, 45))
    operations = [ops.RandomInvert(), ops.GaussianBlur(taps, sigma=(0.1, 2.0)), ops.RandomInvert()]
    drawn = {"GaussianBlur": {"sigma": sigmas}, "RandomInvert": {"applied": APPLIED}, "RandomInvert-2": {"applied": ~APPLIED}}
    compare_steps(operations, drawn, images, scale)


def test_blur_last_leaves_the_others_alone() -> None:
    drawn = {"GaussianBlur": {"sigma": torch.tensor([[0.0, 0.7], [1.5, 0.0]])}}
    compare_steps([ops.GaussianBlur(9)], drawn, IMAGES)


def test_normalize_and_erasing() -> None:
    operations = [ops.Normalize((0.4, 0.5, 0.6), (0.2, 0.25, 0.3)), ops.RandomErasing(value=(0.0, -1.0, 2.5))]
    boxes = torch.tensor([[[1, 3, 5, 9], [0, 0, 0, 0]], [[11, 0, 9, 33], [3, 3, 1, 1]]])
    compare_steps(operations, {"RandomErasing": {"box": boxes}}, IMAGES, 0.5, tolerance=TOLERANCE / 0.2)
    assert ops.RandomErasing(value=0.5) != operations[1]
    compare_steps([ops.RandomErasing(value=0.5)], {"RandomErasing": {"box": boxes}}, IMAGES)


def test_an_operation_without_a_kernel_runs_between_those_with_one() -> None:
    operations = [ops.RandomInvert(), ops.RandomRotation(30), ops.RandomVerticalFlip(), ops.ColorJitter(0.5, 0.5, 0.5)]
    drawn = {
        "RandomInvert": {"applied": APPLIED},
        "RandomRotation": {"degrees": torch.tensor([[20.0, 0.0], [-7.0, 30.0]])},
        "RandomVerticalFlip": {"applied": ~APPLIED},
        "ColorJitter": {"factors": torch.tensor([0.6, 1.4, 0.7, 0.0]).expand(2, 2, 4), "order": torch.arange(4).expand(2, 2, 4)},
    }
    compare_steps(operations, drawn, IMAGES)


def test_an_operation_of_ones_own_needs_no_other_file() -> None:
    compare_steps([Gamma()], {"Gamma": {"gamma": torch.tensor([[0.5, 1.0], [2.0, 1.3]])}}, IMAGES)


# What is written ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("last", ["crop", "pixels", "blur", "definition"])
@pytest.mark.parametrize(
    ("dtype", "channels_last"),
    [(torch.float32, True), (torch.bfloat16, False), (torch.bfloat16, True), (torch.float16, False)],
)
def test_dtypes_and_layouts(dtype: torch.dtype, channels_last: bool, last: str) -> None:
    kinds = {"crop": [ops.RandomInvert()], "pixels": [ops.ColorJitter(contrast=0.5)], "blur": [ops.GaussianBlur(5)]}
    operations = [*itertools.chain(*kinds.values()), ops.RandomAutocontrast()] if last == "definition" else kinds[last]
    drawn = {
        "RandomInvert": {"applied": APPLIED},
        "ColorJitter": {"factors": torch.tensor([1.0, 1.4, 1.0, 0.0]).expand(2, 2, 4), "order": torch.arange(4).expand(2, 2, 4)},
        "GaussianBlur": {"sigma": torch.tensor([[0.0, 1.0], [2.0, 0.0]])},
        "RandomAutocontrast": {"applied": APPLIED},
    }
    plan = ViewRecipe((12, 20), [ops.RandomResizedCrop(), *operations]).plan()
    expected = batched.render(IMAGES, whole(IMAGES, 2), drawn, plan)
    rendered = render(IMAGES, whole(IMAGES, 2), drawn, plan, dtype=dtype, channels_last=channels_last)
    assert rendered.dtype == dtype
    assert rendered.flatten(0, 1).is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    tolerance = {torch.float32: TOLERANCE, torch.bfloat16: 2**-8, torch.float16: 2**-11}[dtype]
    torch.testing.assert_close(rendered.float(), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_parts_are_the_same_as_one(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    slot = ViewSlot(preset_slots("simclr", 64)[0].recipe.replace(ops.GaussianBlur, p=1.0), candidates=2)
    images = ImageBatch.of(levels(3, 3, 10, 12))
    params = CandidateViews(slot).make_params(images, torch.Generator().manual_seed(0))
    drawn = {name: params.draws(name) for name, _ in slot.recipe.steps}
    plan = slot.recipe.plan(0.125)
    one = render(images, params.boxes, drawn, plan, dtype=dtype)
    monkeypatch.setattr(gpu, "_WHOLE_BYTES", 0)
    assert torch.equal(render(images, params.boxes, drawn, plan, dtype=dtype), one)


def test_no_views_and_no_images() -> None:
    plan = ViewRecipe(8).plan()
    assert render(IMAGES, torch.zeros(0, 2, 4, dtype=torch.int64), {}, plan).shape == (0, 2, 3, 8, 8)
    assert render(IMAGES[:0], torch.zeros(2, 0, 4, dtype=torch.int64), {}, plan).shape == (2, 0, 3, 8, 8)


# Presets -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size", "scale"), [("simclr", 224, 1.0), ("dino", 64, 0.25), ("simsiam", 64, 0.25), ("byol", 16, 1.0)]
)
def test_presets(name: str, size: int, scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    slots = [replace(slot, candidates=1, select=1) for slot in preset_slots(name, size)]
    if size == 224 and DEVICE == "cpu":  # the interpreter takes as long for a large tile as for a small one
        monkeypatch.setattr(gpu, "ROWS", 32)
        monkeypatch.setattr(gpu, "COLUMNS", 256)
        monkeypatch.setattr(gpu, "LINES", 32)
    images = ImageBatch.pack([levels(3, 170, 160)] if size == 224 else [levels(3, 50, 60), levels(3, 70, 40, seed=1)])
    definition = CandidateViews(slots, renderer="definition")
    params = definition.make_params(images, torch.Generator().manual_seed(4))
    rendered = CandidateViews(slots, renderer="triton").transform(images.to(DEVICE), params, scale)
    for one, expected in zip(rendered, definition.transform(images, params, scale), strict=True):
        torch.testing.assert_close(one.cpu(), expected, atol=TOLERANCE if size == 224 else TOLERANCE / 0.19, rtol=0)
