"""Every operation against torchvision v2's float functional, on random images and on images with structure."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
import torchvision.transforms.v2.functional as tvf
from torch import Tensor
from torchvision.transforms import InterpolationMode

from hvs_aug.ops import blur, color, crop, per_sample
from hvs_aug.views.recipe import ViewRecipe
from tests.reference.views import DrawnView, render_one

TOLERANCE = 1e-5


def images(count: int = 6, size: int = 40) -> Tensor:
    """Noise, a gradient, flat gray, black, white, and saturated colours: (count, 3, size, size) in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(count - 5, 3, size, size, generator=generator)
    ramp = torch.linspace(0, 1, size)
    gradient = torch.stack([ramp.expand(size, size), ramp[:, None].expand(size, size), 1 - ramp.expand(size, size)])
    flat = torch.full((3, size, size), 0.4)
    pure = torch.zeros(3, size, size)
    pure[0, : size // 3], pure[1, size // 3 : 2 * size // 3], pure[2, 2 * size // 3 :] = 1, 1, 1
    return torch.cat([noise, torch.stack([gradient, flat, torch.zeros_like(flat), torch.ones_like(flat), pure])])


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("box", [(0, 0, 61, 83), (3, 5, 40, 70), (10, 20, 9, 7), (0, 0, 1, 1), (60, 0, 1, 83)])
@pytest.mark.parametrize("size", [1, 8, 32])
def test_crop_resize_is_torchvisions(interpolation: str, box: tuple[int, int, int, int], size: int) -> None:
    pixels = torch.rand(2, 3, 61, 83, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor(box).expand(1, 2, 4)
    flips = torch.tensor([[False, True]])
    cropped = crop.crop_resize(pixels, boxes, flips, size, interpolation)
    expected = tvf.resized_crop(pixels, *box, [size, size], InterpolationMode(interpolation), antialias=True)
    torch.testing.assert_close(cropped[0, 0], expected[0], atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(cropped[0, 1], tvf.horizontal_flip(expected[1]), atol=TOLERANCE, rtol=0)


def test_crop_never_samples_outside_its_box() -> None:
    pixels = torch.full((1, 3, 30, 30), float("nan"))
    pixels[..., 5:15, 8:20] = 0.5
    # NaN weights of 0 would still give NaN in a matrix product, so padding must be finite: zeros here, and none may leak in.
    pixels = pixels.nan_to_num(0.0)
    cropped = crop.crop_resize(pixels, torch.tensor([[[5, 8, 10, 12]]]), torch.tensor([[False]]), 16, "bicubic")
    torch.testing.assert_close(cropped, torch.full_like(cropped, 0.5))


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_jitter_in_all_orders(order: tuple[int, ...]) -> None:
    batch = images()
    generator = torch.Generator().manual_seed(sum(order[i] * 4**i for i in range(4)))
    factors = torch.rand(len(batch), 4, generator=generator) * torch.tensor([1.6, 1.6, 1.6, 1.0]) + torch.tensor(
        [0.2, 0.2, 0.2, -0.5]
    )
    jittered = color.jitter(batch, factors, torch.tensor(order).expand(len(batch), 4))
    for image, result, values in zip(batch, jittered, factors.tolist(), strict=True):
        expected = image
        for operation in order:
            adjust = (tvf.adjust_brightness, tvf.adjust_contrast, tvf.adjust_saturation, tvf.adjust_hue)[operation]
            expected = adjust(expected, values[operation])
        torch.testing.assert_close(result, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("shift", [-0.5, -0.37, -1 / 3, -0.2, -0.1, 0.0, 0.05, 1 / 6, 0.2, 1 / 3, 0.45, 0.5])
def test_hue_alone(shift: float) -> None:
    batch = images(20)
    expected = tvf.adjust_hue(batch, shift)
    torch.testing.assert_close(color.shift_hue(batch, shift), expected, atol=TOLERANCE, rtol=0)
    for image, wanted in zip(batch, expected, strict=True):
        own = per_sample._shift_hue(image.reshape(3, -1).clone(), shift).view_as(wanted)
        torch.testing.assert_close(own, wanted, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(("taps", "size"), [(3, 32), (5, 40), (9, 40), (19, 40), (23, 40), (23, 12)])
@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 2.0])
def test_gaussian_blur(taps: int, size: int, sigma: float) -> None:
    batch = images(size=size)
    expected = tvf.gaussian_blur(batch, [taps, taps], [sigma, sigma])
    blurred = blur.gaussian_blur(batch, torch.full((len(batch),), sigma), taps // 2)
    torch.testing.assert_close(blurred, expected, atol=TOLERANCE, rtol=0)
    for image, wanted in zip(batch, expected, strict=True):
        torch.testing.assert_close(per_sample._gaussian_blur(image, sigma, taps // 2), wanted, atol=TOLERANCE, rtol=0)


def test_blur_of_sigma_zero_changes_nothing() -> None:
    batch = images()
    assert torch.equal(blur.gaussian_blur(batch, torch.zeros(len(batch)), 11), batch)


def test_grayscale_solarize_normalize() -> None:
    batch = images()
    mask = torch.arange(len(batch)) % 2 == 0
    for result, image, masked in zip(color.grayscale(batch, mask), batch, mask, strict=True):
        torch.testing.assert_close(result, tvf.rgb_to_grayscale(image, 3) if masked else image, atol=TOLERANCE, rtol=0)
    for result, image, masked in zip(color.solarize(batch, mask, 0.5), batch, mask, strict=True):
        torch.testing.assert_close(result, tvf.solarize(image, 0.5) if masked else image, atol=TOLERANCE, rtol=0)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    torch.testing.assert_close(
        color.normalize(batch, mean, std), tvf.normalize(batch, list(mean), list(std)), atol=TOLERANCE, rtol=0
    )


def test_operations_leave_their_input_alone() -> None:
    batch = images()
    before = batch.clone()
    mask = torch.ones(len(batch), dtype=torch.bool)
    color.jitter(batch, torch.full((len(batch), 4), 0.4), torch.arange(4).expand(len(batch), 4))
    color.grayscale(batch, mask)
    color.solarize(batch, mask, 0.5)
    blur.gaussian_blur(batch, torch.ones(len(batch)), 3)
    crop.crop_resize(batch, torch.tensor([4, 4, 20, 20]).expand(1, len(batch), 4), mask[None], 8, "bilinear")
    assert torch.equal(batch, before)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_channels_without_colour(channels: int) -> None:
    pixels = torch.rand(1, channels, 20, 20, generator=torch.Generator().manual_seed(0))
    recipe = ViewRecipe(size=16, jitter_prob=1.0, brightness=0.4, blur_prob=1.0, blur_kernel=5)
    drawn = DrawnView(box=(0, 0, 20, 20), jitter=(1.3, 1.0, 1.0, 0.0), blur=0.7)
    expected = (render_one(pixels[0], recipe, DrawnView(box=(0, 0, 20, 20))) * 1.3).clamp(0, 1)
    expected = tvf.gaussian_blur(expected, [5, 5], [0.7, 0.7])
    out = torch.empty(1, channels, 16, 16)
    per_sample.render_views(
        pixels, [0], [list(drawn.box)], [False], [list(drawn.jitter)], [[0, 1, 2, 3]], [False], [0.7], [False],
        [0, 1, 2, 3, 4], False, 2, 0.5, [1.0] * channels, [], [], out, 0, 1,
    )  # fmt: skip
    torch.testing.assert_close(out[0], expected, atol=TOLERANCE, rtol=0)
