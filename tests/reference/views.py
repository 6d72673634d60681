"""Views rendered one image at a time with torchvision's own functional operations, and IoU by counting pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torchvision.transforms.v2.functional as tvf
from torch import Tensor
from torchvision.transforms import InterpolationMode

from hvs_aug import ops
from hvs_aug.data.batch import ImageBatch
from hvs_aug.views.params import ViewParams
from hvs_aug.views.recipe import ViewRecipe, ViewSlot

__all__ = ["crop_one", "drawn_view", "iou_by_pixels", "render_all", "render_one"]


def drawn_view(params: ViewParams, view: int, image: int) -> dict[str, Tensor]:
    """What was drawn for one view of one image, by name, and its ``box``."""
    return {"box": params.boxes[view, image]} | {name: value[view, image] for name, value in params.drawn.items()}


def crop_one(image: Tensor, box: Sequence[int], size: tuple[int, int], interpolation: str) -> Tensor:
    """Crop one image (C, H, W) and resize it, antialiased, to (C, *size) float32 in [0, 1].

    Bicubic weights overshoot; Pillow resizes lines, then columns, and cuts off at 0 and 1 after each.
    Source: torchvision.transforms.v2.functional.resize with antialias=True.
    """
    if image.dtype == torch.uint8:
        image = image.float() / 255
    top, left, height, width = box
    mode = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}[interpolation]
    part = image.float()[:, top : top + height, left : left + width]
    lines = tvf.resize(part, [int(height), size[1]], interpolation=mode, antialias=True).clamp(0, 1)
    resized: Tensor = tvf.resize(lines, list(size), interpolation=mode, antialias=True).clamp(0, 1)
    return resized


def render_one(image: Tensor, recipe: ViewRecipe, drawn: Mapping[str, Tensor]) -> Tensor:
    """Render one view of one image (C, H, W), uint8 or float in [0, 1], at its true size -> (C, h, w) float32.

    Source: torchvision.transforms.v2.functional, the float kernels.
    """
    view = crop_one(image, drawn["box"].tolist(), recipe.shape, recipe.crop.interpolation)
    for name, operation in recipe.steps:
        applied = bool(drawn.get(f"{name}.applied", torch.tensor(True)))
        if isinstance(operation, ops.RandomHorizontalFlip) and applied:
            view = tvf.horizontal_flip(view)
        elif isinstance(operation, ops.ColorJitter):
            for column in drawn[f"{name}.order"].tolist():
                view = _jitter(view, column, float(drawn[f"{name}.factors"][column]))
        elif isinstance(operation, ops.RandomGrayscale) and applied and len(view) == 3:
            view = tvf.rgb_to_grayscale(view, num_output_channels=3)
        elif isinstance(operation, ops.GaussianBlur) and drawn[f"{name}.sigma"] > 0:
            sigma = float(drawn[f"{name}.sigma"])
            view = tvf.gaussian_blur(view, [operation.kernel_size] * 2, [sigma, sigma])
        elif isinstance(operation, ops.RandomSolarize) and applied:
            view = tvf.solarize(view, operation.threshold)
        elif isinstance(operation, ops.Normalize):
            view = tvf.normalize(view, list(operation.mean), list(operation.std))
    return view


def _jitter(view: Tensor, column: int, value: float) -> Tensor:
    if value == (1.0, 1.0, 1.0, 0.0)[column]:
        return view
    operation = (tvf.adjust_brightness, tvf.adjust_contrast, tvf.adjust_saturation, tvf.adjust_hue)[column]
    adjusted: Tensor = operation(view, value)
    return adjusted


def render_all(images: ImageBatch, params: ViewParams, slots: Sequence[ViewSlot]) -> list[Tensor]:
    """Render every view that the params hold: one tensor (v, B, C, h, w) for each slot, at the training size."""
    rendered = []
    for position, slot in enumerate(slots):
        views = [view for view, owner in enumerate(params.slots) if owner == position]
        rows = []
        for view in views:
            made = [render_one(images.image(i), slot.recipe, drawn_view(params, view, i)) for i in range(len(images))]
            rows.append(torch.stack(made))
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
