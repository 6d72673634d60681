"""What several presets share."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from ..._check import require
from ...ops import (
    ColorJitter,
    GaussianBlur,
    Normalize,
    Operation,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomSolarize,
)
from ..recipe import ViewRecipe, ViewSlot

__all__ = ["SMALL", "asymmetric", "byol_pair", "multi_crop", "normalize", "tenth"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # torchvision's, used by all of the repos
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)  # kuangliu/pytorch-cifar main.py

SMALL = 64  # views below this size are those of CIFAR-like data, which the papers leave unblurred


def normalize(size: int) -> Normalize:
    """The mean and deviation of CIFAR-10 for small views, else of ImageNet."""
    return Normalize(CIFAR_MEAN, CIFAR_STD) if size < SMALL else Normalize(IMAGENET_MEAN, IMAGENET_STD)


def tenth(size: int) -> int:
    """A tenth of the side as an odd number of taps: the largest even number in it, plus one."""
    return int(0.1 * size) // 2 * 2 + 1


def _fitting(taps: int, size: int) -> int:
    """The number of taps, or the largest odd number that reflection at the edges of so small a view allows."""
    return min(taps, 2 * (size - 1) + 1)


def asymmetric(
    size: int,
    crop: RandomResizedCrop,
    blur: float,
    solarize: float = 0.0,
    interpolation: Literal["bilinear", "bicubic"] = "bicubic",
) -> ViewRecipe:
    """One of the views that BYOL, MoCo v3, DINO and iBOT share but for the crop, and how often they blur and solarize."""
    operations: list[Operation] = [
        replace(crop, interpolation=interpolation),
        RandomHorizontalFlip(0.5),
        ColorJitter(0.4, 0.4, 0.2, 0.1, p=0.8),
        RandomGrayscale(0.2),
        GaussianBlur(_fitting(23, size), sigma=(0.1, 2.0), p=blur),
    ]
    if solarize:
        operations.append(RandomSolarize(0.5, p=solarize))
    return ViewRecipe(size, [*operations, normalize(size)])


def multi_crop(
    size: int, candidates: int, global_scale: tuple[float, float], local_scale: tuple[float, float], locals_kept: int
) -> tuple[ViewSlot, ...]:
    """DataAugmentationDINO of github.com/facebookresearch/dino main_dino.py (iBOT's DataAugmentationiBOT is the same pipeline).

    flip_and_color_jitter: RandomHorizontalFlip(p=0.5), RandomApply([ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
    RandomGrayscale(p=0.2); crops with interpolation=Image.BICUBIC; utils.GaussianBlur: radius_min=0.1, radius_max=2. Local views
    have 96 pixels for 224.
    """
    crop, known = RandomResizedCrop(scale=global_scale), normalize(size)
    # local_transfo: GaussianBlur(p=0.5)
    local = asymmetric(max(1, round(size * 96 / 224)), RandomResizedCrop(scale=local_scale), blur=0.5)
    local = local.replace(Normalize, mean=known.mean, std=known.std)
    first = asymmetric(size, crop, blur=1.0)  # global_transfo1: utils.GaussianBlur(1.0)
    second = asymmetric(size, crop, blur=0.1, solarize=0.2)  # global_transfo2: GaussianBlur(0.1), Solarization(0.2)
    return (
        ViewSlot(first, candidates=candidates, select=1, name="global-1"),
        ViewSlot(second, candidates=candidates, select=1, name="global-2"),
        ViewSlot(local, candidates=candidates * locals_kept, select=locals_kept, name="local", role="local"),
    )


def byol_pair(size: int, candidates: int, interpolation: Literal["bilinear", "bicubic"]) -> tuple[ViewSlot, ...]:
    """BYOL (arXiv 2006.07733) appendix B table 6: two views of different blur and solarization probability.

    B: crops of (0.08, 1), "resized to 224 x 224 with bicubic interpolation", "a square Gaussian kernel of size 23 x 23". The
    ``candidates`` are shared out between the two views, and each keeps one.
    """
    call, hint = "CandidateViews.preset(candidates)", "its two views have recipes of their own, which share the candidates equally."
    require(candidates % 2 == 0, call, "an even number for byol and mocov3", candidates, hint)
    crop = RandomResizedCrop(scale=(0.08, 1.0))
    recipes = (
        asymmetric(size, crop, blur=1.0, interpolation=interpolation),  # table 6, T
        asymmetric(size, crop, blur=0.1, solarize=0.2, interpolation=interpolation),  # table 6, T'
    )
    return tuple(ViewSlot(recipe, candidates // 2, 1, name=f"view-{number}") for number, recipe in enumerate(recipes, start=1))
