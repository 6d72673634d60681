"""Scoring at a fraction of the side: which sides a model can take, and how rendered views are reduced."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NoReturn

import torch
from torch import Tensor, nn

from .._check import HVSError, fail
from .forward import by_view

__all__ = ["blame_scale", "patch_side", "reduced", "scoring_side"]


def scoring_side(side: int, scale: float, patch: int | None) -> int:
    """The side in pixels at which views of this side are scored: whole patches for a transformer whose patches fit the side.

    Example:
        >>> scoring_side(224, 0.5, patch=16), scoring_side(96, 0.4, patch=16), scoring_side(97, 0.4, patch=16)
        (112, 32, 39)
    """
    unit = patch if patch is not None and side % patch == 0 else 1
    return min(side, max(1, math.floor(side * scale / unit + 0.5)) * unit)


def patch_side(modules: Iterable[nn.Module]) -> int | None:
    """The side in pixels of the patches of the first vision transformer inside modules, or ``None``.

    A vision transformer is a module with ``patch_embed``, a sequence of ``blocks`` and an absolute ``pos_embed``: timm's
    VisionTransformer, and those of the DINO and iBOT repos.
    """
    for backbone in (module for root in modules for module in root.modules() if _is_transformer(module)):
        for layer in backbone.get_submodule("patch_embed").modules():
            if isinstance(layer, nn.Conv2d):
                return int(layer.stride[0])
    return None


def reduced(values: Tensor, size: Sequence[int]) -> Tensor:
    """Reduce views that are already rendered, antialiased: ``(v, B, C, h, w)`` -> ``(v, B, C, *size)``."""
    if list(values.shape[-2:]) == list(size):
        return values
    flat = nn.functional.interpolate(values.flatten(0, 1), size=list(size), mode="bilinear", antialias=True)
    return by_view(flat, values.shape[1])


def blame_scale(error: Exception, scale: float, pixels: Sequence[Tensor]) -> NoReturn:
    """Raise the error of a first scoring forward, with the scale named as the cause if the views were reduced."""
    if scale == 1 or isinstance(error, (HVSError, torch.OutOfMemoryError)):
        raise error
    sides = ", ".join(map(str, sorted({value.shape[-1] for value in pixels}, reverse=True)))
    reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
    got = f"{scale}, at which the views have {sides} pixels a side and the model fails: {reason}"
    hint = "timm: create_model(..., dynamic_img_size=True); else a scale that gives a multiple of the patch size, or 1.0."
    try:
        fail("Scoring(scale)", "a scale at which the model runs", got, hint)
    except HVSError as explained:
        raise explained from error


def _is_transformer(module: nn.Module) -> bool:
    blocks = getattr(module, "blocks", None)
    return (
        isinstance(getattr(module, "patch_embed", None), nn.Module)
        and isinstance(blocks, (nn.ModuleList, nn.Sequential))
        and len(blocks) > 0
        and isinstance(getattr(module, "pos_embed", None), Tensor)
        and getattr(module, "rope", None) is None
    )
