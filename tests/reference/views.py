"""Views rendered one image at a time with torchvision's own functional operations, and IoU by counting pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torchvision.transforms.v2.functional as tvf
from torch import Tensor
from torchvision.transforms import InterpolationMode

from hvs_aug.data.batch import ImageBatch
from hvs_aug.views.params import ViewParams
from hvs_aug.views.recipe import ViewRecipe, ViewSlot

__all__ = ["DrawnView", "crop_one", "drawn_view", "iou_by_pixels", "render_all", "render_one"]


@dataclass(frozen=True)
class DrawnView:
    """What was drawn for one view of one image, in plain numbers, as :class:`ViewParams` documents them."""

    box: tuple[int, int, int, int]
    flip: bool = False
    jitter: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 0.0)
    order: tuple[int, ...] = (0, 1, 2, 3)
    gray: bool = False
    blur: float = 0.0
    solarize: bool = False


def drawn_view(params: ViewParams, view: int, image: int) -> DrawnView:
    """The numbers of one view of one image."""
    top, left, height, width = params.boxes[view, image].tolist()
    brightness, contrast, saturation, hue = params.jitter[view, image].tolist()
    return DrawnView(
        box=(top, left, height, width),
        flip=bool(params.flips[view, image]),
        jitter=(brightness, contrast, saturation, hue),
        order=tuple(params.order[view, image].tolist()),
        gray=bool(params.gray[view, image]),
        blur=float(params.blur[view, image]),
        solarize=bool(params.solarize[view, image]),
    )


def crop_one(
    image: Tensor, box: Sequence[int], size: int, interpolation: str, *, uint8_resize: bool = False, clamp: bool = True
) -> Tensor:
    """Crop one image (C, H, W) and resize it, antialiased, to (C, size, size) float32.

    ``uint8_resize`` resizes in uint8, as PIL and torchvision's uint8 tensors do, then divides by 255. Otherwise the resize is in
    float32, where bicubic weights overshoot; ``clamp`` cuts that off at 0 and 1, as every uint8 pipeline does.
    Source: torchvision.transforms.v2.functional.resized_crop with antialias=True.
    """
    if not uint8_resize and image.dtype == torch.uint8:
        image = image.float() / 255
    top, left, height, width = box
    mode = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}[interpolation]
    resized: Tensor = tvf.resized_crop(image, top, left, height, width, [size, size], interpolation=mode, antialias=True)
    if resized.dtype == torch.uint8:
        return resized.float() / 255
    return resized.float().clamp(0, 1) if clamp else resized.float()


def render_one(image: Tensor, recipe: ViewRecipe, drawn: DrawnView, *, uint8_resize: bool = False, clamp: bool = True) -> Tensor:
    """Render one view of one image (C, H, W), uint8 or float in [0, 1], at its true size -> (C, size, size) float32.

    An operation runs if the recipe's order names it and its value is not the identity.
    Source: torchvision.transforms.v2.functional, the float kernels.
    """
    view = crop_one(image, drawn.box, recipe.size, recipe.interpolation, uint8_resize=uint8_resize, clamp=clamp)
    for operation in recipe.order:
        if operation == "flip" and drawn.flip:
            view = tvf.horizontal_flip(view)
        elif operation == "jitter":
            for column in drawn.order:
                view = _jitter(view, column, drawn.jitter[column])
        elif operation == "gray" and drawn.gray and len(view) == 3:
            view = tvf.rgb_to_grayscale(view, num_output_channels=3)
        elif operation == "blur" and drawn.blur > 0:
            view = tvf.gaussian_blur(view, [recipe.blur_kernel, recipe.blur_kernel], [drawn.blur, drawn.blur])
        elif operation == "solarize" and drawn.solarize:
            view = tvf.solarize(view, recipe.solarize_threshold)
    if recipe.mean is not None and recipe.std is not None:
        view = tvf.normalize(view, list(recipe.mean), list(recipe.std))
    return view


def _jitter(view: Tensor, column: int, value: float) -> Tensor:
    if value == (1.0, 1.0, 1.0, 0.0)[column]:
        return view
    operation = (tvf.adjust_brightness, tvf.adjust_contrast, tvf.adjust_saturation, tvf.adjust_hue)[column]
    adjusted: Tensor = operation(view, value)
    return adjusted


def render_all(
    images: ImageBatch,
    params: ViewParams,
    slots: Sequence[ViewSlot],
    *,
    uint8_resize: bool = False,
    clamp: bool = True,
) -> list[Tensor]:
    """Render every view that the params hold: one tensor (v, B, C, size, size) for each slot, at the training size."""
    rendered = []
    for position, slot in enumerate(slots):
        views = [view for view, owner in enumerate(params.slots) if owner == position]
        rows = []
        for view in views:
            row = []
            for image in range(len(images)):
                height, width = images.sizes[image].tolist()
                pixels = images.pixels[image, :, :height, :width]
                drawn = drawn_view(params, view, image)
                row.append(render_one(pixels, slot.recipe, drawn, uint8_resize=uint8_resize, clamp=clamp))
            rows.append(torch.stack(row))
        rendered.append(torch.stack(rows))
    return rendered


def iou_by_pixels(box_a: Sequence[int], box_b: Sequence[int], size: Sequence[int]) -> float:
    """Intersection over union of two boxes (top, left, height, width) by painting them on an image of (height, width)."""
    painted = []
    for top, left, height, width in (box_a, box_b):
        mask = torch.zeros(tuple(size), dtype=torch.bool)
        mask[top : top + height, left : left + width] = True
        painted.append(mask)
    first, second = painted
    return int((first & second).sum()) / int((first | second).sum())
