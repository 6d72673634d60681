"""The definition of every operation against torchvision v2 on float images, and against the slow reference."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tvf
from torch import Tensor
from torchvision.transforms import InterpolationMode

from hvs_aug import ops
from hvs_aug.ops.jitter import shift_hue
from tests.ops.pictures import MEAN, OPERATIONS, STD, pictures
from tests.reference import ops as reference

TOLERANCE = 1e-5

Drawn = dict[str, Any]
ADJUST = (tvf.adjust_brightness, tvf.adjust_contrast, tvf.adjust_saturation, tvf.adjust_hue)


def tv_jitter(image: Tensor, drawn: Drawn) -> Tensor:
    for which in drawn["order"]:
        image = ADJUST[which](image, drawn["factors"][which])
    return image


def tv_erase(image: Tensor, box: list[int], value: tuple[float, ...]) -> Tensor:
    return tvf.erase(image, *box, torch.tensor(value).view(-1, 1, 1).expand(-1, box[2], box[3]))


def tv_rotate(image: Tensor, degrees: float, mode: str, fill: tuple[float, ...]) -> Tensor:
    return tvf.rotate(image, degrees, InterpolationMode(mode), fill=list(fill))


# For each operation of the table: what torchvision does to one image with what was drawn, and what the reference does.
EXPECTED: dict[str, tuple[Callable[[Tensor, Drawn], Tensor], Callable[[np.ndarray, Drawn], np.ndarray]]] = {
    "horizontal flip": (lambda x, d: tvf.horizontal_flip(x), lambda x, d: reference.horizontal_flip(x)),
    "vertical flip": (lambda x, d: tvf.vertical_flip(x), lambda x, d: reference.vertical_flip(x)),
    "jitter": (tv_jitter, lambda x, d: reference.color_jitter(x, d["factors"], d["order"])),
    "asymmetric jitter": (tv_jitter, lambda x, d: reference.color_jitter(x, d["factors"], d["order"])),
    "grayscale": (lambda x, d: tvf.rgb_to_grayscale(x, x.shape[0]), lambda x, d: reference.grayscale(x)),
    "blur": (lambda x, d: tvf.gaussian_blur(x, [3, 3], [d["sigma"]] * 2), lambda x, d: reference.gaussian_blur(x, 3, d["sigma"])),
    "solarize": (lambda x, d: tvf.solarize(x, 0.3), lambda x, d: reference.solarize(x, 0.3)),
    "erasing": (lambda x, d: tv_erase(x, d["box"], (0.1, 0.9, 0.4)), lambda x, d: reference.erase(x, d["box"], (0.1, 0.9, 0.4))),
    "rotation": (
        lambda x, d: tv_rotate(x, d["degrees"], "nearest", (0.2, 0.3, 0.9)),
        lambda x, d: reference.rotate(x, d["degrees"], (0.2, 0.3, 0.9)),
    ),
    "bilinear rotation": (
        lambda x, d: tv_rotate(x, d["degrees"], "bilinear", (0.7,) * 3),
        lambda x, d: reference.rotate(x, d["degrees"], (0.7,) * 3, "bilinear"),
    ),
    "posterize": (lambda x, d: tvf.posterize(x, 3), lambda x, d: reference.posterize(x, 3)),
    "invert": (lambda x, d: tvf.invert(x), lambda x, d: reference.invert(x)),
    "autocontrast": (lambda x, d: tvf.autocontrast(x), lambda x, d: reference.autocontrast(x)),
    "equalize": (lambda x, d: tvf.equalize(x), lambda x, d: reference.equalize(x)),
    "sharpen": (lambda x, d: tvf.adjust_sharpness(x, 2.7), lambda x, d: reference.adjust_sharpness(x, 2.7)),
    "smooth": (lambda x, d: tvf.adjust_sharpness(x, 0.0), lambda x, d: reference.adjust_sharpness(x, 0.0)),
    "normalize": (lambda x, d: tvf.normalize(x, list(MEAN), list(STD)), lambda x, d: reference.normalize(x, MEAN, STD)),
}


def draw(operation: ops.Operation, count: int, size: tuple[int, int], seed: int = 0) -> dict[str, Tensor]:
    """Parameters of ``count`` views, each with its own, as if the operation were applied to all of them."""
    uniform = torch.rand(1, count, operation.columns, generator=torch.Generator().manual_seed(seed))
    return {name: value[0] for name, value in operation.draw(uniform, size).items()}


def of_image(drawn: dict[str, Tensor], index: int) -> Drawn:
    return {name: value[index].tolist() for name, value in drawn.items()}


def test_every_operation_is_compared() -> None:
    assert set(EXPECTED) == set(OPERATIONS)
    leaves = {type(operation).__name__ for operation in OPERATIONS.values()}
    assert leaves | {
        "RandomResizedCrop",
        "Resize",
        "CenterCrop",
        "RandomApply",
        "RandomChoice",
        "Operation",
        "cpu_kernel",
        "gpu_kernel",
        "device_function",
    } == set(ops.__all__)


@pytest.mark.parametrize("size", [(24, 24), (17, 30), (33, 9), (3, 3)], ids=str)
@pytest.mark.parametrize("name", OPERATIONS)
def test_equals_torchvision(name: str, size: tuple[int, int]) -> None:
    operation, images = OPERATIONS[name], pictures(*size)
    drawn = draw(operation, len(images), size)
    before = images.clone()
    changed = operation.apply(images, drawn)
    assert torch.equal(images, before) and changed.dtype == torch.float32
    for index, image in enumerate(images):
        expected = EXPECTED[name][0](image, of_image(drawn, index))
        torch.testing.assert_close(changed[index], expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", OPERATIONS)
def test_equals_the_slow_reference(name: str) -> None:
    operation, images = OPERATIONS[name], pictures(9, 14, count=7)
    drawn = draw(operation, len(images), (9, 14), seed=1)
    changed = operation.apply(images, drawn)
    for index, image in enumerate(images):
        expected = EXPECTED[name][1](image.numpy().astype(np.float64), of_image(drawn, index))
        np.testing.assert_allclose(changed[index].numpy(), expected, atol=TOLERANCE, rtol=0)


# Enough pixels that equalisation has steps of several pixels, and of none on flat channels.
@pytest.mark.parametrize("levels", [2, 3, 16, 256])
def test_equalize_of_few_levels(levels: int) -> None:
    images = (pictures(40, 50) * (levels - 1)).round() / (levels - 1)
    operation = ops.RandomEqualize()
    changed = operation.apply(images, draw(operation, len(images), (40, 50)))
    torch.testing.assert_close(changed, torch.stack([tvf.equalize(image) for image in images]), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["jitter", "grayscale", "autocontrast", "equalize", "sharpen"])
def test_of_one_channel(name: str, channels: int) -> None:
    operation, images = OPERATIONS[name], pictures(16, 21, channels)
    drawn = draw(operation, len(images), (16, 21))
    changed = operation.apply(images, drawn)
    for index, image in enumerate(images):
        expected = EXPECTED[name][0](image, of_image(drawn, index))
        torch.testing.assert_close(changed[index], expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("channels", [2, 4, 13])
def test_operations_that_any_number_of_channels_defines(channels: int) -> None:
    images = pictures(12, 15, channels)
    names = ("horizontal flip", "vertical flip", "blur", "solarize", "posterize", "invert")
    for name in names:
        drawn = draw(OPERATIONS[name], len(images), (12, 15))
        changed = OPERATIONS[name].apply(images, drawn)
        expected = [EXPECTED[name][0](image, of_image(drawn, index)) for index, image in enumerate(images)]
        torch.testing.assert_close(changed, torch.stack(expected), atol=TOLERANCE, rtol=0)
    brightness = ops.ColorJitter(brightness=0.8)
    drawn = draw(brightness, len(images), (12, 15))
    expected = [(image * factor).clamp(0, 1) for image, factor in zip(images, drawn["factors"][:, 0], strict=True)]
    torch.testing.assert_close(brightness.apply(images, drawn), torch.stack(expected), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))), ids=str)
def test_jitter_in_every_order(order: tuple[int, ...]) -> None:
    images = pictures(10, 11)
    factors = draw(ops.ColorJitter(0.8, (0.3, 1.5), (0.5, 2.5), (-0.5, 0.5)), len(images), (10, 11), sum(order[:2]))["factors"]
    changed = ops.ColorJitter().apply(images, {"factors": factors, "order": torch.tensor(order).expand(len(images), 4)})
    for index, image in enumerate(images):
        expected = tv_jitter(image, {"factors": factors[index].tolist(), "order": order})
        torch.testing.assert_close(changed[index], expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("shift", [-0.5, -0.37, -1 / 3, -0.2, 0.05, 1 / 6, 1 / 3, 0.45, 0.5])
def test_hue_of_pure_and_gray_colours(shift: float) -> None:
    levels = torch.tensor([0.0, 0.2, 0.7, 1.0])
    colours = torch.stack(torch.meshgrid(levels, levels, levels, indexing="ij")).flatten(1)[:, None]
    turned = shift_hue(colours, torch.tensor([[[shift]]]))
    torch.testing.assert_close(turned, tvf.adjust_hue(colours, shift), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(("taps", "size"), [(1, 5), (3, 32), (9, 40), (23, 40), (23, 12), (3, 2)])
def test_blur_of_every_kernel_size(taps: int, size: int) -> None:
    images = pictures(size, size + 3)
    sigma = torch.tensor([0.1, 0.3, 0.5, 0.8, 1.0, 1.6, 2.0, 7.0])
    changed = ops.GaussianBlur(taps).apply(images, {"sigma": sigma})
    for index, image in enumerate(images):
        expected = tvf.gaussian_blur(image, [taps, taps], [sigma[index].item()] * 2)
        torch.testing.assert_close(changed[index], expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("scale", [0.5, 0.3])
def test_blur_of_a_smaller_view_has_smaller_sigma_and_kernel(scale: float) -> None:
    images = pictures(30, 30)
    sigma = torch.linspace(0.2, 4.0, len(images))
    changed = ops.GaussianBlur(23).apply(images, {"sigma": sigma}, scale)
    taps = 2 * round(11 * scale) + 1
    for index, image in enumerate(images):
        expected = tvf.gaussian_blur(image, [taps, taps], [sigma[index].item() * scale] * 2)
        torch.testing.assert_close(changed[index], expected, atol=TOLERANCE, rtol=0)


def test_solarize_inverts_what_equals_the_threshold() -> None:
    for threshold in (0.0, 0.25, 0.5, 1.0):
        images = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]).view(1, 1, 1, 5)
        changed = ops.RandomSolarize(threshold).apply(images, {"applied": torch.tensor([True])})
        assert torch.equal(changed, tvf.solarize(images, threshold))


@pytest.mark.parametrize("bits", range(9))
def test_posterize_of_every_number_of_bits(bits: int) -> None:
    levels = torch.arange(257).div(256).view(1, 1, 1, -1)
    changed = ops.RandomPosterize(bits).apply(levels, {"applied": torch.tensor([True])})
    assert torch.equal(changed, tvf.posterize(levels, bits))


@pytest.mark.parametrize("size", [(12, 12), (11, 11), (8, 14), (15, 9), (1, 1), (1, 7)], ids=str)
@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_rotation_by_quarter_turns_moves_whole_pixels(mode: str, size: tuple[int, int]) -> None:
    height, width = size
    images = pictures(height, width, count=4)
    fill = (0.1, 0.2, 0.3)
    changed = ops.RandomRotation(360, mode, fill).apply(images, {"degrees": torch.tensor([90.0, 180.0, -90.0, 360.0])})
    tolerance = 0 if mode == "nearest" else TOLERANCE
    torch.testing.assert_close(changed[1], images[1].rot90(2, (-2, -1)), atol=tolerance, rtol=0)
    torch.testing.assert_close(changed[3], images[3], atol=tolerance, rtol=0)
    for index, turns in ((0, 1), (2, 3)):
        expected = torch.tensor(fill).view(3, 1, 1).repeat(1, height, width)
        turned = images[index].rot90(turns, (-2, -1))
        # What is turned is as wide as the view is high; both have one centre.
        side = min(height, width)
        rows, columns = (height - side) // 2, (width - side) // 2
        expected[:, rows : rows + side, columns : columns + side] = turned[
            :, (width - side) // 2 : (width - side) // 2 + side, (height - side) // 2 : (height - side) // 2 + side
        ]
        torch.testing.assert_close(changed[index], expected, atol=tolerance, rtol=0)


def test_erasing_of_a_smaller_view_covers_the_same_part() -> None:
    images = torch.zeros(1, 1, 8, 8)
    erased = ops.RandomErasing(value=1.0).apply(images, {"box": torch.tensor([[4, 2, 8, 6]])}, scale=0.5)
    expected = torch.zeros(1, 1, 8, 8)
    expected[..., 2:6, 1:4] = 1
    assert torch.equal(erased, expected)


def test_autocontrast_takes_the_rounding_of_a_flat_channel_for_flat() -> None:
    generator = torch.Generator().manual_seed(0)
    images = 0.4 + 1e-7 * torch.rand(1, 3, 12, 12, generator=generator)
    changed = ops.RandomAutocontrast().apply(images, {"applied": torch.tensor([True])})
    torch.testing.assert_close(changed, images, atol=TOLERANCE, rtol=0)
