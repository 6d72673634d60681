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
from ..data.batch import ImageBatch
from ..ops import ColorJitter as JitterOperation
from ..ops import GaussianBlur as BlurOperation
from ..ops import Normalize, Operation, RandomHorizontalFlip, batched, cpu
from ..ops import RandomGrayscale as GrayscaleOperation
from ..ops import RandomResizedCrop as CropOperation
from ..ops import RandomSolarize as SolarizeOperation
from ..ops.gray import luminance
from ..ops.plan import RenderPlan
from ..views.recipe import ViewRecipe

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
    operations = list(recipe.operations)
    require(type(operations[0]) is CropOperation, "augmentation_sequential(recipe)", "a recipe that begins with the crop", recipe)
    crop, flip = recipe.crop, recipe.find(RandomHorizontalFlip)
    flip_prob = flip.p if isinstance(flip, RandomHorizontalFlip) else 0.0
    steps: list[Any] = [RandomResizedCrop(recipe.size, crop.scale, crop.ratio, crop.interpolation, flip_prob)]
    has_flip = False
    for operation in operations[1:]:
        if isinstance(operation, RandomHorizontalFlip) and not has_flip:
            has_flip = True
        else:
            steps.append(_as_kornia(operation))
    return kornia_augmentation.AugmentationSequential(*steps, data_keys=list(data_keys), **options)


def _as_kornia(operation: Operation) -> Any:
    """One operation after the crop as a Kornia augmentation."""
    if isinstance(operation, JitterOperation):
        return ColorJitter(operation.brightness, operation.contrast, operation.saturation, operation.hue, p=operation.p)
    if isinstance(operation, GrayscaleOperation):
        return RandomGrayscale(p=operation.p)
    if isinstance(operation, BlurOperation):
        return RandomGaussianBlur(operation.kernel_size, operation.sigma, p=operation.p)
    if isinstance(operation, SolarizeOperation):
        return RandomSolarize(operation.threshold, p=operation.p)
    if isinstance(operation, Normalize):
        return kornia_augmentation.Normalize(torch.tensor(operation.mean), torch.tensor(operation.std))
    hint = "write the pipeline with Kornia's own augmentation of that kind."
    fail("augmentation_sequential(recipe)", "operations that Kornia pipelines of this module have", operation, hint)


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

    Convention: the transformation matrix maps pixel centres, x' = (x - left + 1/2) size / width - 1/2.

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
        self._crop = CropOperation(sides[0], scale, ratio)
        self._flip = RandomHorizontalFlip(flip_prob)
        self.flags = {"size": sides, "scale": scale, "ratio": ratio, "resample": Resample.get(resample), "flip_prob": flip_prob}

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> dict[str, Tensor]:
        """Boxes as Kornia's crops record them (corners clockwise from the top left, inclusive), and flips."""
        count, size = batch_shape[0], self.flags["size"][0]
        sizes = torch.tensor(batch_shape[-2:], dtype=torch.int64, device="cpu").expand(count, 2)
        boxes = self._crop.draw_boxes(_uniform(count, self._crop.columns, self.same_on_batch), sizes)[0]
        flips = _uniform(count, 1, self.same_on_batch)[0, :, 0] < self._flip.p
        output = torch.tensor([[0, 0, size, size]]).expand(count, 4)
        return {
            "src": _corners(boxes),
            "dst": _corners(output),
            "input_size": torch.tensor(batch_shape[-2:]).expand(count, 2),
            "output_size": output[:, 2:],
            "flip": flips,
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
        plan = RenderPlan((size, size), 1.0, resample.name.lower(), (), (("flip",), ()))
        on_cpu = input.device.type == "cpu" and cpu.is_available() and not input.requires_grad
        render = cpu.render if on_cpu else batched.render
        drawn = {"flip": {"applied": flips[None]}}
        return render(_as_batch(input), boxes[None], drawn, plan)[0].to(input.dtype)

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
        brightness, contrast, saturation: strengths; a factor is drawn from [max(0, 1 - strength), 1 + strength], or a range of
        factors. hue: strength in [0, 0.5]; a shift is drawn from [-hue, hue], in turns of the hue circle, or a range of shifts.
        p: probability for every sample.
        same_on_batch: one draw for all images.
        keepdim: return a ``(C, H, W)`` input as one.

    Raises:
        HVSError: if a strength is out of its range, or images have other than 1 or 3 channels.
    """

    def __init__(
        self,
        brightness: float | tuple[float, float] = 0.0,
        contrast: float | tuple[float, float] = 0.0,
        saturation: float | tuple[float, float] = 0.0,
        hue: float | tuple[float, float] = 0.0,
        p: float = 1.0,
        same_on_batch: bool = False,
        keepdim: bool = False,
    ) -> None:
        super().__init__(p=p, same_on_batch=same_on_batch, keepdim=keepdim)
        self.flags = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
        self._jitter = JitterOperation(brightness, contrast, saturation, hue)

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> dict[str, Tensor]:
        """``factors`` and ``order``, both ``(B, 4)``, as :class:`hvs_aug.ops.ColorJitter` draws them."""
        return _drawn(self._jitter, batch_shape, self.same_on_batch)

    def apply_transform(
        self, input: Tensor, params: dict[str, Tensor], flags: dict[str, Any], transform: Tensor | None = None
    ) -> Tensor:
        """Jitter every image; ``(B, C, H, W)`` in [0, 1]."""
        _require_colour(input, "ColorJitter(input)")
        drawn = {name: params[name].to(input.device) for name in ("factors", "order")}
        return self._jitter.apply(input.to(torch.float32), drawn).to(input.dtype)


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
        return luminance(input).expand_as(input)


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
        sigma: float | tuple[float, float] = (0.1, 2.0),
        p: float = 0.5,
        same_on_batch: bool = False,
        keepdim: bool = False,
    ) -> None:
        super().__init__(p=p, same_on_batch=same_on_batch, keepdim=keepdim)
        taps = (kernel_size, kernel_size) if isinstance(kernel_size, int) else tuple(kernel_size)
        require(len(taps) == 2 and taps[0] == taps[1], "RandomGaussianBlur(kernel_size)", "one number of taps", kernel_size)
        self._blur = BlurOperation(taps[0], sigma)
        self.flags = {"kernel_size": taps, "sigma": sigma}

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> dict[str, Tensor]:
        """``sigma``, ``(B,)``."""
        return _drawn(self._blur, batch_shape, self.same_on_batch)

    def apply_transform(
        self, input: Tensor, params: dict[str, Tensor], flags: dict[str, Any], transform: Tensor | None = None
    ) -> Tensor:
        """Blur every image; ``(B, C, H, W)``."""
        radius = flags["kernel_size"][0] // 2
        require(radius < min(input.shape[-2:]), "RandomGaussianBlur(input)", f"images larger than {radius} pixels", input)
        return self._blur.apply(input.to(torch.float32), {"sigma": params["sigma"].to(input.device)}).to(input.dtype)


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
        self._solarize = SolarizeOperation(threshold)
        self.flags = {"threshold": threshold}

    def apply_transform(
        self, input: Tensor, params: dict[str, Tensor], flags: dict[str, Any], transform: Tensor | None = None
    ) -> Tensor:
        """Solarize every image; ``(B, C, H, W)`` in [0, 1]."""
        return self._solarize.apply(input, {"applied": torch.ones(len(input), dtype=torch.bool, device=input.device)})


def _uniform(count: int, columns: int, same_on_batch: bool) -> Tensor:
    """Uniform numbers ``(1, B, columns)`` from torch's global generator, which every Kornia augmentation draws from."""
    rows = min(count, 1) if same_on_batch else count
    return torch.rand(1, rows, columns, generator=torch.default_generator, device="cpu").expand(1, count, columns)


def _drawn(operation: Operation, batch_shape: tuple[int, ...], same_on_batch: bool) -> dict[str, Tensor]:
    """What an operation draws for one view of each image, ``(B, ...)`` each."""
    uniform = _uniform(batch_shape[0], operation.columns, same_on_batch)
    drawn = operation.draw(uniform, (batch_shape[-2], batch_shape[-1]))
    return {name: value[0] for name, value in drawn.items()}


def _as_batch(images: Tensor) -> ImageBatch:
    """Images of any floating-point values, which :meth:`ImageBatch.of` would detach from their graph."""
    return ImageBatch(images, torch.tensor(images.shape[-2:], dtype=torch.int64, device="cpu").expand(len(images), 2))


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
