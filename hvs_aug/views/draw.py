"""Draw the parameters of views: torchvision's laws, vectorised over views and images."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import torch
from torch import Tensor

from .params import ViewParams
from .recipe import ViewRecipe, ViewSlot

__all__ = ["draw_boxes", "draw_slot", "own_generator"]

_TRIES = 10  # torchvision RandomResizedCrop.get_params draws ten boxes before it falls back on a central one.

# Every view consumes the same uniform numbers in the same places whatever its recipe, so that changing one field of a recipe
# changes that operation and no other.
_AREA = slice(0, _TRIES)
_RATIO = slice(_TRIES, 2 * _TRIES)
_TOP, _LEFT, _FLIP, _JITTER, _GRAY, _BLUR, _SIGMA, _SOLARIZE = range(2 * _TRIES, 2 * _TRIES + 8)
_FACTORS = slice(2 * _TRIES + 8, 2 * _TRIES + 12)
_ORDER = slice(2 * _TRIES + 12, 2 * _TRIES + 16)
_CROP = (*range(2 * _TRIES), _TOP, _LEFT, _FLIP)
_COLUMNS = 2 * _TRIES + 16


def own_generator() -> torch.Generator:
    """A CPU generator that starts from ``torch.initial_seed()`` and this process's rank, so that equal seeds draw apart on each."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    rank = torch.distributed.get_rank() if distributed else int(os.environ.get("RANK", "0"))
    return torch.Generator().manual_seed((torch.initial_seed() + 0x9E3779B97F4A7C15 * (rank + 1)) % 2**63)


def draw_slot(slot: ViewSlot, index: int, sizes: Tensor, generator: torch.Generator) -> ViewParams:
    """Draw the candidates of one slot for images of the given sizes.

    Shape: sizes ``(B, 2)`` int64, on the CPU -> ViewParams of ``slot.candidates`` views on the CPU.
    """
    recipe: ViewRecipe = slot.recipe
    shape = (slot.candidates, len(sizes))
    uniform = torch.rand(*shape, _COLUMNS, generator=generator, dtype=torch.float64)
    if slot.tie == "crop":
        uniform[..., _CROP] = uniform[:1, :, _CROP]

    def applied(name: str, probability: float, column: int) -> Tensor:
        # A draw is below 1, so a probability of 1 always applies; one of 0 never does.
        return (uniform[..., column] < probability) & (name in recipe.order)

    factors = _draw_factors(recipe, uniform[..., _FACTORS])
    identity = torch.tensor([1.0, 1.0, 1.0, 0.0])
    low, high = recipe.blur_sigma
    sigma = (low + (high - low) * uniform[..., _SIGMA]).to(torch.float32)
    return ViewParams(
        boxes=draw_boxes(recipe, sizes, uniform),
        flips=applied("flip", recipe.flip_prob, _FLIP),
        jitter=torch.where(applied("jitter", recipe.jitter_prob, _JITTER)[..., None], factors, identity),
        order=uniform[..., _ORDER].argsort(-1),
        gray=applied("gray", recipe.gray_prob, _GRAY),
        blur=torch.where(applied("blur", recipe.blur_prob, _BLUR), sigma, torch.zeros(())),
        solarize=applied("solarize", recipe.solarize_prob, _SOLARIZE),
        sizes=sizes,
        slots=(index,) * slot.candidates,
    )


def draw_boxes(recipe: ViewRecipe, sizes: Tensor, uniform: Tensor) -> Tensor:
    """Crop boxes by torchvision's ``RandomResizedCrop.get_params``.

    An area uniform in ``scale`` and a ratio log-uniform in ``ratio``, up to ten times until the box fits the image; then a
    central box of the nearest ratio that the range allows. Rounding is half to even, as Python's.

    Shape: sizes ``(B, 2)``; uniform ``(V, B, columns)`` float64 in [0, 1) -> ``(V, B, 4)`` int64.
    """
    full = sizes.to(torch.float64)
    full_height, full_width = full[:, 0], full[:, 1]
    (scale_low, scale_high), (ratio_low, ratio_high) = recipe.scale, recipe.ratio
    area = (full_height * full_width)[:, None] * (scale_low + (scale_high - scale_low) * uniform[..., _AREA])
    log_low, log_high = math.log(ratio_low), math.log(ratio_high)
    ratio = torch.exp(log_low + (log_high - log_low) * uniform[..., _RATIO])
    widths, heights = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (widths > 0) & (widths <= full_width[:, None]) & (heights > 0) & (heights <= full_height[:, None])
    first = fits.to(torch.uint8).argmax(-1, keepdim=True)

    image_ratio = full_width / full_height
    central_width = torch.where(image_ratio > ratio_high, (full_height * ratio_high).round(), full_width)
    central_height = torch.where(image_ratio < ratio_low, (full_width / ratio_low).round(), full_height)
    fitted = fits.any(-1)
    width = torch.where(fitted, widths.gather(-1, first).squeeze(-1), central_width)
    height = torch.where(fitted, heights.gather(-1, first).squeeze(-1), central_height)
    rows, columns = full_height - height, full_width - width
    top = torch.where(fitted, (uniform[..., _TOP] * (rows + 1)).floor(), (rows / 2).floor())
    left = torch.where(fitted, (uniform[..., _LEFT] * (columns + 1)).floor(), (columns / 2).floor())
    return torch.stack([top, left, height, width], dim=-1).to(torch.int64)


def _draw_factors(recipe: ViewRecipe, uniform: Tensor) -> Tensor:
    ranges: Sequence[tuple[float, float]] = (
        *((max(0.0, 1 - strength), 1 + strength) for strength in (recipe.brightness, recipe.contrast, recipe.saturation)),
        (-recipe.hue, recipe.hue),
    )
    low, high = torch.tensor(ranges, dtype=torch.float64).unbind(-1)
    return (low + (high - low) * uniform).to(torch.float32)
