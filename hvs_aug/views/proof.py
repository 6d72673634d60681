"""The proof of a conversion: the transform and what it was read as render the same pictures, and their views are compared.

A two-sample test looks at what augmentations change: gray levels, contrast, sharpness, colour, and where in the picture the view
lies (the pictures have ramps across and down). It is first done for each part of a pipeline alone, on a small picture and
often enough to see a probability that differs, then for the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .. import ops
from .._check import HVSError
from ..data.batch import ImageBatch
from ..data.pixels import plain
from ..ops import Operation
from .candidates import CandidateViews
from .recipe import ViewRecipe, ViewSlot
from .trace import probe_like

__all__ = ["part_difference", "pixels_of", "view_difference"]

_PART_RUNS = 500  # tells a probability of 0.1 from one of 0
_VIEW_RUNS = 6  # for each of three pictures
_PART_SIDE = 32
# The natural logarithm of how unlikely a difference must be; some thousand comparisons are made for a transform.
_LIMIT = 22.0
# Pillow rounds after every operation and approximates a Gaussian by boxes: differences that small are none.
_GRAY_SLACK, _SHARPNESS_SLACK = 2.5 / 255, 0.15
_FULL = ops.RandomResizedCrop(scale=(1.0, 1.0), ratio=(1.0, 1.0))


def part_difference(part: Callable[[Any], Any], operation: Operation, as_given: Callable[[Tensor], Any], side: int) -> str | None:
    """Say what differs between a transform and the operation that it was read as; ``None`` if nothing does.

    Args:
        as_given: makes of uint8 pixels ``(3, h, w)`` what the transform gets at its place of the pipeline.
        side: of the views in pixels; a smaller picture is used where that is large.
    """
    side = min(side, _PART_SIDE)
    picture = _raw(probe_like(number=2))[:, 60 : 60 + side, 60 : 60 + side].contiguous()
    given = as_given(picture)
    try:
        recipe = ViewRecipe((picture.shape[1], picture.shape[2]), [_FULL, operation])
        ours = _rendered(recipe, [picture], _PART_RUNS)[0]
    except HVSError:
        return None  # not on so small a picture; the whole is compared all the same
    theirs = torch.stack([pixels_of(part(given)) for _ in range(_PART_RUNS)])
    return _difference(theirs, ours, None if isinstance(operation, ops.Normalize) else picture / 255)


def view_difference(pipeline: Callable[[Any], Any], recipe: ViewRecipe, example: Any) -> str | None:
    """Say what differs between the views of a pipeline and those of a recipe; ``None`` if nothing does.

    Args:
        example: an image as the dataset gives it, or ``None`` for an RGB picture.
    """
    pictures = [probe_like(example, number) for number in range(3)]
    theirs = [torch.stack([pipeline(picture) for _ in range(_VIEW_RUNS)]) for picture in pictures]
    ours = _rendered(recipe, [_raw(picture) for picture in pictures], _VIEW_RUNS)
    if theirs[0].shape != ours[0].shape:
        return f"shape {tuple(theirs[0].shape[1:])}, for {tuple(ours[0].shape[1:])}"
    normalize = next((op for op in recipe.operations if isinstance(op, ops.Normalize)), None)
    if normalize is not None:  # both sides alike, so that differences are in gray levels
        mean, std = (torch.tensor(values, device="cpu").view(-1, 1, 1) for values in (normalize.mean, normalize.std))
        theirs, ours = ([value * std + mean for value in side] for side in (theirs, ours))
    return _difference(torch.cat(theirs), torch.cat(ours))


def pixels_of(image: Any) -> Tensor:
    """An image of any kind as ``(C, h, w)`` float32 in [0, 1]."""
    pixels = _raw(image)
    return pixels.to(torch.float32) * {torch.uint8: 1 / 255, torch.uint16: 1 / 65535}.get(pixels.dtype, 1.0)


def _raw(image: Any) -> Tensor:
    if isinstance(image, Tensor):
        return plain(image if image.ndim == 3 else image[None])
    array = np.array(image.convert("L") if isinstance(image, Image.Image) and image.mode == "1" else image)
    return torch.from_numpy(array if array.ndim == 3 else array[..., None]).permute(2, 0, 1)


def _rendered(recipe: ViewRecipe, pictures: Sequence[Tensor], count: int) -> list[Tensor]:
    """For each picture as many views ``(count, C, h, w)``."""
    views = CandidateViews(ViewSlot(recipe, count, 1))
    (rendered,), _ = views(ImageBatch.pack([picture.contiguous() for picture in pictures]), torch.Generator().manual_seed(0))
    return list(rendered.unbind(1))


# ---- the test ----


def _difference(theirs: Tensor, ours: Tensor, picture: Tensor | None = None) -> str | None:
    """The first of the facts whose distributions differ."""
    if theirs.shape != ours.shape:
        return f"shape {tuple(theirs.shape[1:])}, for {tuple(ours.shape[1:])}"
    for (name, own, slack), (_, other, _) in zip(_facts(theirs, picture), _facts(ours, picture), strict=True):
        for place in range(own.shape[1]):
            if _surprise(own[:, place].numpy(), other[:, place].numpy(), slack) > _LIMIT:
                return f"{name} (median {float(own[:, place].median()):.3g}, for {float(other[:, place].median()):.3g})"
    return None


def _facts(views: Tensor, picture: Tensor | None) -> list[tuple[str, Tensor, float]]:
    """(name, ``(n, k)`` numbers of each view, slack) of ``(n, C, h, w)`` views."""
    height, width = views.shape[-2:]
    gray = views.mean(1)
    mean = views.mean((2, 3))
    facts = [
        ("gray levels", mean, _GRAY_SLACK),
        ("contrast", ((views * views).mean((2, 3)) - mean * mean).clamp(min=0).sqrt(), _GRAY_SLACK),
        ("darkest and brightest values", torch.stack(gray.flatten(1).aminmax(dim=1), 1), 3 * _GRAY_SLACK),
    ]
    if views.shape[1] > 1:
        facts.append(("colour", (views[:, 1:] - views[:, :-1]).abs().mean((2, 3)), _GRAY_SLACK))
    if height > 1 and width > 1:
        steps = torch.stack([gray.diff(dim=2).abs().mean((1, 2)), gray.diff(dim=1).abs().mean((1, 2))], 1)
        left, right = gray[..., : width // 2].mean((1, 2)), gray[..., (width + 1) // 2 :].mean((1, 2))
        top, bottom = gray[:, : height // 2].mean((1, 2)), gray[:, (height + 1) // 2 :].mean((1, 2))
        facts.append(("sharpness", (steps + 1e-3).log(), _SHARPNESS_SLACK))
        facts.append(("place in the picture", torch.stack([left - right, top - bottom], 1), 2 * _GRAY_SLACK))
    if picture is not None and picture.shape == views.shape[1:]:
        facts.append(("how much it changes", (views - picture).abs().mean((1, 2, 3))[:, None], _GRAY_SLACK))
    return facts


def _surprise(own: np.ndarray[Any, Any], other: np.ndarray[Any, Any], slack: float) -> float:
    """How unlikely two samples of one distribution differ so much: minus the logarithm of a bound of the probability.

    At each threshold the shares of the two samples below it are compared (Chernoff's bound for both, pooled); values that lie
    within ``slack`` of each other count as equal.
    """
    most = 0.0
    for first, second in ((own, other), (other, own)):
        ordered, also = np.sort(first), np.sort(second)
        below = np.arange(1, len(first) + 1) / len(first)
        also_below = np.searchsorted(also, ordered + slack, side="right") / len(second)
        excess = below > also_below
        if excess.any():
            share, also_share = below[excess], also_below[excess]
            pooled = (share * len(first) + also_share * len(second)) / (len(first) + len(second))
            most = max(most, float((len(first) * _divergence(share, pooled) + len(second) * _divergence(also_share, pooled)).max()))
    return most


def _divergence(share: np.ndarray[Any, Any], pooled: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Kullback and Leibler's, of two coins."""
    total = np.zeros_like(share)
    for p, q in ((share, pooled), (1 - share, 1 - pooled)):
        is_positive = p > 0
        total[is_positive] += p[is_positive] * np.log(p[is_positive] / q[is_positive])
    return total
