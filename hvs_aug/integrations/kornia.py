"""Our operations as Kornia augmentations: torchvision's laws, antialiased, with parameters of its own for every sample.

They stand in an ``AugmentationSequential`` beside Kornia's own, where masks, boxes and keypoints follow the crop:

    >>> import torch
    >>> from kornia.augmentation import AugmentationSequential, RandomHorizontalFlip
    >>> from hvs_aug.integrations.kornia import ColorJitter, RandomResizedCrop
    >>> augment = AugmentationSequential(
    ...     RandomResizedCrop(32), RandomHorizontalFlip(), ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8), data_keys=["input", "mask"]
    ... )
    >>> images, masks = augment(torch.rand(2, 3, 48, 64), torch.ones(2, 1, 48, 64))
    >>> images.shape, masks.shape
    (torch.Size([2, 3, 32, 32]), torch.Size([2, 1, 32, 32]))

What differs from Kornia's classes of the same name: the crop is antialiased and falls back as torchvision's does, the jitter has an
order for every sample and clamps as torchvision's does, the blur takes one sigma for both axes. Conventions are Kornia's: images in
[0, 1], parameters recorded on the CPU and replayed with ``params=``, drawn from torch's global generator. A pipeline of these is a
recipe too (``ViewSlot(pipeline)``), and is then drawn from the slot's own generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from kornia import augmentation as kornia_augmentation
from kornia.constants import Resample
from kornia.geometry.transform import crop_by_transform_mat
from torch import Tensor

from .._check import fail, require, require_name
from ..ops import blur, color, crop
from ..views.draw import draw_slot
from ..views.recipe import ViewRecipe, ViewSlot

__all__ = ["ColorJitter", "RandomGaussianBlur", "RandomGrayscale", "RandomResizedCrop", "RandomSolarize", "augmentation_sequential"]


def augmentation_sequential(
    recipe: ViewRecipe, data_keys: Sequence[str] = ("input",), **options: Any
) -> kornia_augmentation.AugmentationSequential:
    """A recipe as a Kornia pipeline, for images whose masks, boxes or keypoints are to follow.

    ``options`` are those of ``AugmentationSequential``. The flip is part of the crop, with which it commutes to the same view.

    Example:
        >>> from hvs_aug.views.presets import preset_slots
        >>> pipeline = augmentation_sequential(preset_slots("simclr", size=32)[0].recipe, data_keys=["input", "bbox_xyxy"])
    """
    flip_prob = recipe.flip_prob if "flip" in recipe.order else 0.0
    steps: list[Any] = [RandomResizedCrop(recipe.size, recipe.scale, recipe.ratio, recipe.interpolation, flip_prob)]
    for name in recipe.order:
        if name == "jitter" and recipe.jitter_prob > 0:
            steps.append(ColorJitter(recipe.brightness, recipe.contrast, recipe.saturation, recipe.hue, p=recipe.jitter_prob))
        elif name == "gray" and recipe.gray_prob > 0:
            steps.append(RandomGrayscale(p=recipe.gray_prob))
        elif name == "blur" and recipe.blur_prob > 0:
            steps.append(RandomGaussianBlur(recipe.blur_kernel, recipe.blur_sigma, p=recipe.blur_prob))
        elif name == "solarize" and recipe.solarize_prob > 0:
            steps.append(RandomSolarize(recipe.solarize_threshold, p=recipe.solarize_prob))
    if recipe.mean is not None and recipe.std is not None:
        steps.append(kornia_augmentation.Normalize(torch.tensor(recipe.mean), torch.tensor(recipe.std)))
    return kornia_augmentation.AugmentationSequential(*steps, data_keys=list(data_keys), **options)


class RandomResizedCrop(kornia_augmentation.GeometricAugmentationBase2D):
    """Crop a random box, resize it to a square, antialiased, and mirror it with probability ``flip_prob``.

    Images are resampled as torchvision's ``resized_crop(antialias=True)``, masks to the nearest pixel unless ``extra_args`` say
    otherwise.

    Args:
        size: output (height and width) in pixels, or a pair of equal ones.
        scale, ratio: as in torchvision's ``RandomResizedCrop``.
        resample: ``"bilinear"`` or ``"bicubic"``, whose overshoots are clamped to [0, 1], as every uint8 pipeline clamps them.
        flip_prob: probability of a horizontal flip, which costs nothing here.
        same_on_batch: one box for all images.
        keepdim: return a ``(C, H, W)`` input as one.

    Convention: ``transform_matrix`` maps pixel centres, x' = (x - left + 1/2) size / width - 1/2.

    Raises:
        HVSError: if an argument is out of its range.
    """

    crops_like_kornia = True  # a slot's pipeline reads its box from "src", as from Kornia's crops

    def __init__(
        self,
        size: int | tuple[int, int],
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        resample: str = "bilinear",
        flip_prob: float = 0.0,
        same_on_batch: bool = False,
        keepdim: bool = False,
    ) -> None:
        super().__init__(p=1.0, same_on_batch=same_on_batch, p_batch=1.0, keepdim=keepdim)
        sides = (size, size) if isinstance(size, int) else tuple(size)
        require(len(sides) == 2 and sides[0] == sides[1], "RandomResizedCrop(size)", "one size, for a square view", size)
        require_name(resample, ("bilinear", "bicubic"), "RandomResizedCrop(resample)")
        self._recipe = ViewRecipe(size=sides[0], scale=scale, ratio=ratio, flip_prob=flip_prob)
        self.flags = {"size": sides, "scale": scale, "ratio": ratio, "resample": Resample.get(resample), "flip_prob": flip_prob}

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> dict[str, Tensor]:
        """Boxes as Kornia's crops record them (corners clockwise from the top left, inclusive), and flips."""
        drawn = _draw(self._recipe, batch_shape, self.same_on_batch)
        count, size = batch_shape[0], self._recipe.size
        output = torch.tensor([[0, 0, size, size]]).expand(count, 4)
        return {
            "src": _corners(drawn["boxes"]),
            "dst": _corners(output),
            "input_size": torch.tensor(batch_shape[-2:]).expand(count, 2),
            "output_size": output[:, 2:],
            "flip": drawn["flips"],
        }

    def compute_transformation(self, input: Tensor, params: dict[str, Tensor], flags: dict[str, Any]) -> Tensor:
        """The ``(B, 3, 3)`` matrix from input to output pixels."""
        top, left, height, width = _boxes(params, input.device).to(torch.float32).unbind(-1)
        rows, columns = flags["size"]
        x_scale, y_scale = columns / width, rows / height
        x_shift, y_shift = (0.5 - left) * x_scale - 0.5, (0.5 - top) * y_scale - 0.5
        flip = params["flip"].to(input.device)
        zero, one = torch.zeros_like(x_scale), torch.ones_like(x_scale)
        first = torch.stack([torch.where(flip, -x_scale, x_scale), zero, torch.where(flip, columns - 1 - x_shift, x_shift)], dim=-1)
        second = torch.stack([zero, y_scale, y_shift], dim=-1)
        return torch.stack([first, second, torch.stack([zero, zero, one], dim=-1)], dim=-2).to(input.dtype)

    def apply_transform(
        self, input: Tensor, params: dict[str, Tensor], flags: dict[str, Any], transform: Tensor | None = None
    ) -> Tensor:
        """Crop and resize; ``(B, C, H, W)`` -> ``(B, C, size, size)``."""
        boxes, flips = _boxes(params, input.device), params["flip"].to(input.device)
        size, resample = flags["size"][0], Resample.get(flags["resample"])
        if resample == Resample.NEAREST:
            return _crop_nearest(input, boxes, flips, size)
        resized = crop.crop_resize(input, boxes[None], flips[None], size, resample.name.lower())[0]
        return (resized.clamp(0, 1) if resample == Resample.BICUBIC else resized).to(input.dtype)

    def inverse_transform(
        self, input: Tensor, flags: dict[str, Any], transform: Tensor | None = None, size: tuple[int, int] | None = None
    ) -> Tensor:
        """Put views back where they came from, with zeros around them; ``transform`` maps output to input pixels."""
        if transform is None or size is None:
            fail("RandomResizedCrop.inverse(params)", "the params of the views", "none of this augmentation")
        mode = Resample.get(flags["resample"]).name.lower()
        return crop_by_transform_mat(input, transform[:, :2], size, mode, "zeros", True)


class ColorJitter(kornia_augmentation.IntensityAugmentationBase2D):
    """Change brightness, contrast, saturation and hue, in an order of its own for every sample, as torchvision's ``ColorJitter``.

    Args:
        brightness, contrast, saturation: strengths; a factor is drawn from [max(0, 1 - strength), 1 + strength].
        hue: strength in [0, 0.5]; a shift is drawn from [-hue, hue], in turns of the hue circle.
        p: probability for every sample.
        same_on_batch: one draw for all images.
        keepdim: return a ``(C, H, W)`` input as one.

    Raises:
        HVSError: if a strength is out of its range, or images have other than 1 or 3 channels.
    """

    def __init__(
        self,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        hue: float = 0.0,
        p: float = 1.0,
        same_on_batch: bool = False,
        keepdim: bool = False,
    ) -> None:
        super().__init__(p=p, same_on_batch=same_on_batch, keepdim=keepdim)
        self.flags = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
        self._recipe = ViewRecipe(size=1, jitter_prob=1.0, **self.flags)

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> dict[str, Tensor]:
        """``factors`` and ``order``, both ``(B, 4)``, as ``jitter`` and ``order`` in ViewParams."""
        drawn = _draw(self._recipe, batch_shape, self.same_on_batch)
        return {"factors": drawn["jitter"], "order": drawn["order"]}

    def apply_transform(
        self, input: Tensor, params: dict[str, Tensor], flags: dict[str, Any], transform: Tensor | None = None
    ) -> Tensor:
        """Jitter every image; ``(B, C, H, W)`` in [0, 1]."""
        _require_colour(input, "ColorJitter(input)")
        factors, order = params["factors"].to(input.device), params["order"].to(input.device)
        return color.jitter(input.to(torch.float32), factors, order).to(input.dtype)


class RandomGrayscale(kornia_augmentation.IntensityAugmentationBase2D):
    """Replace images by their gray values, in all channels, with torchvision's weights.

    Args:
        p: probability for every sample.
        same_on_batch: one draw for all images.
        keepdim: return a ``(C, H, W)`` input as one.
    """

    def __init__(self, p: float = 0.1, same_on_batch: bool = False, keepdim: bool = False) -> None:
        super().__init__(p=p, same_on_batch=same_on_batch, keepdim=keepdim)

    def apply_transform(
        self, input: Tensor, params: dict[str, Tensor], flags: dict[str, Any], transform: Tensor | None = None
    ) -> Tensor:
        """Gray every image; ``(B, C, H, W)``."""
        _require_colour(input, "RandomGrayscale(input)")
        return color.luminance(input).expand_as(input)


class RandomGaussianBlur(kornia_augmentation.IntensityAugmentationBase2D):
    """Blur every image with a sigma of its own, one for both axes, reflecting at the edges, as torchvision's ``GaussianBlur``.

    Args:
        kernel_size: number of taps, odd, or a pair of equal ones.
        sigma: range of the standard deviation in pixels, drawn uniformly.
        p: probability for every sample.
        same_on_batch: one draw for all images.
        keepdim: return a ``(C, H, W)`` input as one.

    Raises:
        HVSError: if an argument is out of its range.
    """

    def __init__(
        self,
        kernel_size: int | tuple[int, int],
        sigma: tuple[float, float] = (0.1, 2.0),
        p: float = 0.5,
        same_on_batch: bool = False,
        keepdim: bool = False,
    ) -> None:
        super().__init__(p=p, same_on_batch=same_on_batch, keepdim=keepdim)
        taps = (kernel_size, kernel_size) if isinstance(kernel_size, int) else tuple(kernel_size)
        require(len(taps) == 2 and taps[0] == taps[1], "RandomGaussianBlur(kernel_size)", "one number of taps", kernel_size)
        self._recipe = ViewRecipe(size=max(1, taps[0]), blur_prob=1.0, blur_sigma=sigma, blur_kernel=taps[0])
        self.flags = {"kernel_size": taps, "sigma": sigma}

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> dict[str, Tensor]:
        """``sigma``, ``(B,)``."""
        return {"sigma": _draw(self._recipe, batch_shape, self.same_on_batch)["blur"]}

    def apply_transform(
        self, input: Tensor, params: dict[str, Tensor], flags: dict[str, Any], transform: Tensor | None = None
    ) -> Tensor:
        """Blur every image; ``(B, C, H, W)``."""
        radius = flags["kernel_size"][0] // 2
        require(radius < min(input.shape[-2:]), "RandomGaussianBlur(input)", f"images larger than {radius} pixels", input)
        return blur.gaussian_blur(input.to(torch.float32), params["sigma"].to(input.device), radius).to(input.dtype)


class RandomSolarize(kornia_augmentation.IntensityAugmentationBase2D):
    """Invert the values at or above a threshold, as torchvision's ``RandomSolarize``; nothing is added to them.

    Args:
        threshold: in [0, 1].
        p: probability for every sample.
        same_on_batch: one draw for all images.
        keepdim: return a ``(C, H, W)`` input as one.
    """

    def __init__(self, threshold: float = 0.5, p: float = 0.5, same_on_batch: bool = False, keepdim: bool = False) -> None:
        super().__init__(p=p, same_on_batch=same_on_batch, keepdim=keepdim)
        self.flags = {"threshold": ViewRecipe(size=1, solarize_threshold=threshold).solarize_threshold}

    def apply_transform(
        self, input: Tensor, params: dict[str, Tensor], flags: dict[str, Any], transform: Tensor | None = None
    ) -> Tensor:
        """Solarize every image; ``(B, C, H, W)`` in [0, 1]."""
        return color.solarize(input, torch.ones(len(input), dtype=torch.bool, device=input.device), flags["threshold"])


def _draw(recipe: ViewRecipe, batch_shape: tuple[int, ...], same_on_batch: bool) -> dict[str, Tensor]:
    """Draw one view of every image, ``(B, ...)`` each, from torch's global generator, as every Kornia augmentation does."""
    count = batch_shape[0]
    drawn = draw_slot(
        ViewSlot(recipe, candidates=1, select=1),
        0,
        torch.tensor(batch_shape[-2:]).expand(min(count, 1) if same_on_batch else count, 2),
        torch.default_generator,
    )
    rows = {"boxes": drawn.boxes, "flips": drawn.flips, "jitter": drawn.jitter, "order": drawn.order, "blur": drawn.blur}
    return {name: value[0].expand(count, *value.shape[2:]) for name, value in rows.items()}


def _corners(boxes: Tensor) -> Tensor:
    """(top, left, height, width) ``(B, 4)`` -> Kornia's corners ``(B, 4, 2)``: (x, y) of the outermost pixels, clockwise."""
    top, left, height, width = boxes.to(torch.float32).unbind(-1)
    bottom, right = top + height - 1, left + width - 1
    points = [(left, top), (right, top), (right, bottom), (left, bottom)]
    return torch.stack([torch.stack(point, dim=-1) for point in points], dim=-2)


def _boxes(params: dict[str, Tensor], device: torch.device) -> Tensor:
    """The inverse of :func:`_corners`."""
    corners = params["src"].to(device)
    first, last = corners[:, 0], corners[:, 2]
    return torch.cat([first.flip(-1), (last - first + 1).flip(-1)], dim=-1).round().to(torch.int64)


def _crop_nearest(images: Tensor, boxes: Tensor, flips: Tensor, size: int) -> Tensor:
    """Crop and resize to the nearest pixel centre, for labels; ``(B, C, H, W)``, ``(B, 4)``, ``(B,)`` -> ``(B, C, size, size)``."""
    top, left, height, width = boxes[:, :, None].unbind(1)
    place = (torch.arange(size, device=images.device) + 0.5) / size
    rows = top + (place * height).floor().to(torch.int64)
    columns = left + (torch.where(flips[:, None], 1 - place, place) * width).floor().to(torch.int64)
    image = torch.arange(len(images), device=images.device)[:, None, None]
    return images.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _require_colour(images: Tensor, call: str) -> None:
    require(images.shape[1] in (1, 3), call, "images of 1 or 3 channels", images)
