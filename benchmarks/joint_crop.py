"""JointCrop (arXiv 2412.16522): the two crops of an image from a joint law that favours unlike sizes, without a forward.

A rival of hard views that costs nothing: an arm of ``python -m benchmarks.quality``.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.common import require
from hvs_aug import CandidateViews, ImageBatch, ViewParams

__all__ = ["JointCropViews", "joint_areas"]


class JointCropViews(CandidateViews):
    """The candidates of one slot of two, whose boxes are those of JointCrop(0); everything else is drawn as ever.

    Convention: boxes as in :class:`hvs_aug.ViewParams`. A box that does not fit in ten tries is the whole image, as in the repo.
    Source: section 3.3 of the paper with beta = 0; btzyd/JointCrop, moco/loader.py.
    """

    def make_params(self, images: ImageBatch | Tensor, generator: torch.Generator | None = None) -> ViewParams:
        require(len(self.slots) == 1 and self.candidates == 2, "JointCropViews(slots)", "one slot of two candidates", self.slots)
        params = super().make_params(images, generator)
        crop = self.slots[0].recipe.crop
        height, width = params.sizes.double().unbind(1)
        areas = joint_areas(len(params.sizes), crop.scale, generator) * height * width
        boxes = torch.stack([torch.zeros_like(height), torch.zeros_like(width), height, width], -1).repeat(2, 1, 1)
        low, high = (math.log(side) for side in crop.ratio)
        is_open = torch.ones(areas.shape, dtype=torch.bool)
        for _ in range(10):
            uniform = torch.rand(*areas.shape, 3, generator=generator, dtype=torch.float64)
            ratio = (low + (high - low) * uniform[..., 0]).exp()
            tall, wide = (areas / ratio).sqrt().round(), (areas * ratio).sqrt().round()
            fits = is_open & (tall > 0) & (tall <= height) & (wide > 0) & (wide <= width)
            top, left = (uniform[..., 1] * (height - tall + 1)).floor(), (uniform[..., 2] * (width - wide + 1)).floor()
            boxes = torch.where(fits[..., None], torch.stack([top, left, tall, wide], -1), boxes)
            is_open &= ~fits
        return replace(params, boxes=boxes.long())


def joint_areas(images: int, scale: tuple[float, float], generator: torch.Generator | None) -> Tensor:
    """The areas of both crops as shares of the image: ``(2, images)`` float64.

    The logarithm of their quotient is uniform in [-L, L] with ``L = log(high / low - 0.1)``; the first area is uniform among those
    that leave both within ``scale``.
    """
    low, high = scale
    reach = math.log(high / low - 0.1)
    uniform = torch.rand(2, images, generator=generator, dtype=torch.float64)
    quotient = (reach * (2 * uniform[0] - 1)).exp()
    least, most = (low / quotient).clamp(min=low), (high / quotient).clamp(max=high)
    first = least + (most - least) * uniform[1]
    return torch.stack([first, first * quotient])
