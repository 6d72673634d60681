"""The methods' own augmentations, as data: every number with the line that it comes from.

Where the code of HVS (github.com/automl/hvp) differs from the method that it extends, the method's own repo is followed: its
SimSiam branch blurs with probability 1 - p (custom_transform.py), with torchvision's 9-tap kernel instead of PIL's.

PIL's ``ImageFilter.GaussianBlur(radius)``, which most of the repos use, approximates a Gaussian of that standard deviation by three
box filters. Here it is the Gaussian itself, with the 23 taps that hold it at the largest sigma of 2. PIL's ``ImageOps.solarize``
inverts gray levels from 128 on, which are the rounded values of 0.5 and above.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

from .._check import require, require_name
from ..ops import (
    ColorJitter,
    GaussianBlur,
    Normalize,
    Operation,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomSolarize,
)
from .recipe import ViewRecipe, ViewSlot

__all__ = ["PRESETS", "preset_slots"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # torchvision's, used by all of the repos below
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)  # kuangliu/pytorch-cifar main.py

_SMALL = 64  # views below this size are those of CIFAR-like data, which the papers leave unblurred


def _simclr(size: int) -> ViewRecipe:
    """SimCLR (arXiv 2002.05709): appendix A for ImageNet, appendix B.9 for CIFAR-10 (strength 0.5 and no blur)."""
    strength = 1.0 if size >= _SMALL else 0.5  # A, get_color_distortion(s=1.0); B.9
    operations: list[Operation] = [
        # A, "random crop and resize": Inception's 0.08 to 1; google-research/simclr data_util.py, crop_and_resize: bicubic
        RandomResizedCrop(scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), interpolation="bicubic"),
        RandomHorizontalFlip(0.5),  # A
        # A, color_distortion: ColorJitter(0.8*s, 0.8*s, 0.8*s, 0.2*s), RandomApply p=0.8
        ColorJitter(0.8 * strength, 0.8 * strength, 0.8 * strength, 0.2 * strength, p=0.8),
        RandomGrayscale(0.2),  # A
    ]
    if size >= _SMALL:  # A, "we blur the image 50% of the time", "the kernel size is set to be 10% of the image height/width"
        operations.append(GaussianBlur(_tenth(size), sigma=(0.1, 2.0), p=0.5))
    return ViewRecipe(size, operations)


def _simclr_sthalles(size: int) -> ViewRecipe:
    """github.com/sthalles/SimCLR data_aug/contrastive_learning_dataset.py: full strength and blur at every size."""
    return ViewRecipe(
        size,
        [
            RandomResizedCrop(),  # RandomResizedCrop(size=size), torchvision's defaults, bilinear
            RandomHorizontalFlip(),  # RandomHorizontalFlip()
            # ColorJitter(0.8 * s, 0.8 * s, 0.8 * s, 0.2 * s), s=1; RandomApply([color_jitter], p=0.8)
            ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8),
            RandomGrayscale(0.2),  # RandomGrayscale(p=0.2)
            # GaussianBlur(kernel_size=int(0.1 * size)), always; gaussian_blur.py: radias = kernel_size // 2, uniform(0.1, 2.0)
            GaussianBlur(_tenth(size), sigma=(0.1, 2.0)),
        ],
    )


def _simsiam(size: int) -> ViewRecipe:
    """github.com/facebookresearch/simsiam main_simsiam.py, "MoCo v2's aug"; SimSiam (arXiv 2011.10566) appendix D for CIFAR-10."""
    operations: list[Operation] = [
        RandomResizedCrop(scale=(0.2, 1.0)),  # RandomResizedCrop(224, scale=(0.2, 1.))
        ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),  # RandomApply([ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8)
        RandomGrayscale(0.2),  # RandomGrayscale(p=0.2)
    ]
    if size >= _SMALL:  # RandomApply([GaussianBlur([.1, 2.])], p=0.5); appendix D: no blur
        operations.append(GaussianBlur(23, sigma=(0.1, 2.0), p=0.5))
    return ViewRecipe(size, [*operations, RandomHorizontalFlip(), _normalize(size)])


def _asymmetric(
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
    return ViewRecipe(size, [*operations, _normalize(size)])


def _normalize(size: int) -> Normalize:
    return Normalize(CIFAR_MEAN, CIFAR_STD) if size < _SMALL else Normalize(IMAGENET_MEAN, IMAGENET_STD)


def _dino_recipes(
    size: int, local_size: int, global_scale: tuple[float, float], local_scale: tuple[float, float]
) -> list[ViewRecipe]:
    """DataAugmentationDINO of github.com/facebookresearch/dino main_dino.py (iBOT's DataAugmentationiBOT is the same pipeline).

    flip_and_color_jitter: RandomHorizontalFlip(p=0.5), RandomApply([ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
    RandomGrayscale(p=0.2); crops with interpolation=Image.BICUBIC; utils.GaussianBlur: radius_min=0.1, radius_max=2.
    """
    crop = RandomResizedCrop(scale=global_scale)
    local = _asymmetric(local_size, RandomResizedCrop(scale=local_scale), blur=0.5)  # local_transfo: GaussianBlur(p=0.5)
    local = local.replace(Normalize, **_fields(_normalize(size)))
    return [
        _asymmetric(size, crop, blur=1.0),  # global_transfo1: utils.GaussianBlur(1.0)
        _asymmetric(size, crop, blur=0.1, solarize=0.2),  # global_transfo2: GaussianBlur(0.1), Solarization(0.2)
        local,
    ]


def _fields(normalize: Normalize) -> dict[str, Any]:
    return {"mean": normalize.mean, "std": normalize.std}


def _multi_crop(recipes: list[ViewRecipe], candidates: int, locals_kept: int) -> tuple[ViewSlot, ...]:
    first, second, local = recipes
    slots = (
        ViewSlot(first, candidates=candidates, select=1, name="global-1"),
        ViewSlot(second, candidates=candidates, select=1, name="global-2"),
    )
    if locals_kept == 0:
        return slots
    return (*slots, ViewSlot(local, candidates=candidates * locals_kept, select=locals_kept, name="local", role="local"))


def _dino(size: int, candidates: int) -> tuple[ViewSlot, ...]:
    """DINO (arXiv 2104.14294) and its repo: two globals of (0.4, 1), eight locals of (0.05, 0.4) at 96 pixels for 224."""
    local_size = max(1, round(size * 96 / 224))
    return _multi_crop(_dino_recipes(size, local_size, (0.4, 1.0), (0.05, 0.4)), candidates, locals_kept=8)


def _ibot(size: int, candidates: int) -> tuple[ViewSlot, ...]:
    """iBOT (arXiv 2111.07832) appendix B and run.sh: DINO's pipeline, globals of (0.25, 1), ten locals of (0.05, 0.25)."""
    local_size = max(1, round(size * 96 / 224))
    return _multi_crop(_dino_recipes(size, local_size, (0.25, 1.0), (0.05, 0.25)), candidates, locals_kept=10)


def _byol_recipes(size: int, interpolation: Literal["bilinear", "bicubic"]) -> tuple[ViewRecipe, ViewRecipe]:
    """BYOL (arXiv 2006.07733) appendix B table 6: two views of different blur and solarization probability.

    B: crops of (0.08, 1), "resized to 224 x 224 with bicubic interpolation", "a square Gaussian kernel of size 23 x 23".
    """
    crop = RandomResizedCrop(scale=(0.08, 1.0))
    first = _asymmetric(size, crop, blur=1.0, interpolation=interpolation)  # table 6, T
    return first, _asymmetric(size, crop, blur=0.1, solarize=0.2, interpolation=interpolation)  # table 6, T'


def _pair_of(recipes: tuple[ViewRecipe, ViewRecipe], candidates: int) -> tuple[ViewSlot, ...]:
    """One candidate set for each of two different views: ``candidates`` are shared out, and each keeps one."""
    call, hint = "CandidateViews.preset(candidates)", "its two views have recipes of their own, which share the candidates equally."
    require(candidates % 2 == 0, call, "an even number for byol and mocov3", candidates, hint)
    return tuple(ViewSlot(recipe, candidates // 2, 1, name=f"view-{number}") for number, recipe in enumerate(recipes, start=1))


def _byol(size: int, candidates: int) -> tuple[ViewSlot, ...]:
    """BYOL: crops of (0.08, 1)."""
    return _pair_of(_byol_recipes(size, "bicubic"), candidates)


def _mocov3(size: int, candidates: int) -> tuple[ViewSlot, ...]:
    """MoCo v3 (arXiv 2104.02057), github.com/facebookresearch/moco-v3 main_moco.py: BYOL's recipe, resized bilinearly."""
    return _pair_of(_byol_recipes(size, "bilinear"), candidates)


def _one_slot(recipe: Callable[[int], ViewRecipe]) -> Callable[[int, int], tuple[ViewSlot, ...]]:
    return lambda size, candidates: (ViewSlot(recipe(size), candidates=candidates, select=2),)


def _tenth(size: int) -> int:
    return int(0.1 * size) // 2 * 2 + 1


def _fitting(taps: int, size: int) -> int:
    """The number of taps, or the largest odd number that reflection at the edges of so small a view allows."""
    return min(taps, 2 * (size - 1) + 1)


PRESETS: dict[str, Callable[[int, int], tuple[ViewSlot, ...]]] = {
    "simclr": _one_slot(_simclr),
    "simclr-sthalles": _one_slot(_simclr_sthalles),
    "simsiam": _one_slot(_simsiam),
    "byol": _byol,
    "mocov3": _mocov3,
    "dino": _dino,
    "ibot": _ibot,
}
"""The slots of each method, by its name, for a size and a number of candidates."""

# Candidates drawn where none are asked for, as HVS does (arXiv 2310.03940): 4 views for two-view methods, and for DINO and iBOT
# twice the views of each slot.
_DEFAULT_CANDIDATES = {"dino": 2, "ibot": 2}


def preset_slots(name: str, size: int = 224, candidates: int | None = None) -> tuple[ViewSlot, ...]:
    """The slots of a method's own augmentation.

    Args:
        name: one of ``PRESETS``.
        size: pixels of the (global) views. Below 64 it is the method's variant for CIFAR-sized data.
        candidates: for two-view methods the number of candidate views of each image, of which two are kept; for ``dino`` and
            ``ibot`` how many candidates are drawn for every view that is kept. Default 4, and 2.

    Raises:
        HVSError: for an unknown name, with the closest one that is known.
    """
    require_name(name, PRESETS, "CandidateViews.preset(name)")
    return PRESETS[name](size, _DEFAULT_CANDIDATES.get(name, 4) if candidates is None else candidates)
