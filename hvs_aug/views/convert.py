"""Existing pipelines -> slots: torchvision v1 and v2, Lightly, and the transforms of the DINO, iBOT, SimSiam and SimCLR repos.

A transform is recognised by its class name and attributes, and none of those packages is imported. What cannot be expressed exactly
is refused by name, never approximated. The one tolerated difference: Pillow's ``GaussianBlur`` is three box blurs that approximate
a Gaussian of that standard deviation, here it is that Gaussian.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any, TypeAlias

import torch

from .._check import fail, require
from .recipe import ViewRecipe, ViewSlot

__all__ = ["convert", "convert_view", "register_converter"]

Step: TypeAlias = dict[str, Any]
Converted: TypeAlias = "Step | Sequence[Any]"

# The fields of ViewRecipe that each operation sets: a converter returns some of these, which says what operation it found.
_FIELDS: dict[str, tuple[str, ...]] = {
    "crop": ("size", "scale", "ratio", "interpolation"),
    "flip": ("flip_prob",),
    "jitter": ("jitter_prob", "brightness", "contrast", "saturation", "hue"),
    "gray": ("gray_prob",),
    "blur": ("blur_prob", "blur_sigma", "blur_kernel"),
    "solarize": ("solarize_prob", "solarize_threshold"),
    "normalize": ("mean", "std"),
    "format": ("format",),
}
_CALL = "convert(transform)"
_BEHAVIOUR = {"__call__", "forward", "get_params", "make_params", "_get_params", "transform", "_transform", "_call_kernel"}
_registered: dict[type | str, Callable[[Any], Converted]] = {}


def register_converter(kind: type | str, function: Callable[[Any], Converted]) -> None:
    """Say how a transform of your own is converted.

    Args:
        kind: its class, or the class's name (so that its package need not be imported).
        function: takes the transform and returns what it does, as one of: a dict of the :class:`ViewRecipe` fields of one operation
            (``{}`` changes nothing); a list of transforms that are known already; or, for one that returns several views,
            a list of :class:`ViewSlot`.

    Example:
        >>> class Negative:
        ...     def __init__(self, p):
        ...         self.p = p
        >>> register_converter(Negative, lambda t: {"solarize_prob": t.p, "solarize_threshold": 0.0})
    """
    _registered[kind] = function


def convert(transform: Any, candidates: int | Sequence[int] | None = None) -> list[ViewSlot]:
    """Read the slots that a transform of several views stands for; views that follow each other with equal recipes share one slot.

    Args:
        transform: what maps an image to a list of views (``TwoCropsTransform``, ``ContrastiveLearningViewGenerator``,
            ``DataAugmentationDINO``, Lightly's ``MultiViewTransform``, a list with one transform for each view), or a pipeline
            of one view, which stands for a pair of such views.
        candidates: as for the presets: the number of candidate views of an image, which several slots share; or, where there are
            local views, how many candidates are drawn for every view that is kept. By default twice the views that are kept:
            SimCLR 4 choose 2; DINO 2 choose 1, 2 choose 1 and 16 choose 8. A sequence gives the number for each slot.

    Views of less than the largest size are given the role ``"local"``.

    Raises:
        HVSError: naming the transform, if one cannot be expressed exactly.

    Example:
        >>> from torchvision import transforms
        >>> pipeline = transforms.Compose([transforms.RandomResizedCrop(32), transforms.ToTensor()])
        >>> [(slot.candidates, slot.select) for slot in convert([pipeline, pipeline], candidates=6)]
        [(6, 2)]
    """
    views = _views(transform)
    if views is None:
        views = [transform, transform]
    elif views and all(isinstance(view, ViewSlot) for view in views):
        return list(views)
    require(len(views) > 0, _CALL, "at least one view", f"{type(transform).__name__} with none")
    runs = [(recipe, len(list(run))) for recipe, run in groupby(convert_view(view) for view in views)]
    largest = max(recipe.size for recipe, _ in runs)
    several = sum(recipe.size == largest for recipe, _ in runs) > 1
    counts = _counts(candidates, [select for _, select in runs], any(recipe.size < largest for recipe, _ in runs))
    slots: list[ViewSlot] = []
    names = {"global": 0, "local": 0}
    for index, (recipe, select) in enumerate(runs):
        role: Any = "global" if recipe.size == largest else "local"
        names[role] += 1
        name = role if len(runs) > 1 else "view"
        if (several and role == "global") or names[role] > 1:
            name = f"{role}-{names[role]}"
        slots.append(ViewSlot(recipe, counts[index], select, name, role))
    return slots


def returns_views(transform: Any) -> bool:
    """Whether a transform is of a kind that returns several views of an image."""
    return _views(transform) is not None


def convert_view(pipeline: Any) -> ViewRecipe:
    """Read the recipe of a pipeline that returns one view: a crop, then operations, then a normalisation.

    Raises:
        HVSError: naming the transform, if one cannot be expressed exactly.
    """
    found: dict[str, Any] = {}
    order: list[str] = []
    floats = False
    for transform, step in _steps(pipeline):
        operation = _operation(step, transform)
        if operation is None or step.get(f"{operation}_prob") == 0:
            continue
        hint = "select views before anything that follows it, or move that into the model."
        _need("mean" not in found, "the normalisation last", transform, hint)
        if operation == "format":
            floats = floats or step["format"] == "float"
            continue
        if operation == "crop":
            _need("size" not in found, "one crop, not a second one", transform)
            early = floats and step.get("interpolation") == "bicubic"
            _need(not early, "a bicubic crop before the conversion to float, after which it overshoots [0, 1]", transform)
        else:
            _need("size" in found, "a RandomResizedCrop first", transform)
        if operation == "normalize":
            _need(floats, "ToTensor() or ToDtype(torch.float32, scale=True) before the normalisation", transform)
        elif operation != "crop":
            _need(operation not in order, f"{operation} once, not a second time", transform)
            order.append(operation)
            if operation == "solarize" and not floats:
                # Grey levels are integers: v >= t exactly where the unrounded value would be rounded to t or more.
                step = step | {"solarize_threshold": max(0.0, (step["solarize_threshold"] - 0.5) / 255)}
        found |= step
    require(
        "size" in found,
        _CALL,
        "a RandomResizedCrop",
        f"none in {_name(pipeline)}",
        "a view without a random crop is not supported.",
    )
    require(
        floats,
        _CALL,
        "a pipeline that ends in float tensors in [0, 1] or normalised",
        f"{_name(pipeline)}, which has no ToTensor() and no ToDtype(torch.float32, scale=True)",
    )
    if "blur_kernel" in found:
        found["blur_kernel"] = min(found["blur_kernel"], 2 * found["size"] - 1)
    return ViewRecipe(**found, order=tuple(order))


def _counts(candidates: int | Sequence[int] | None, selects: Sequence[int], multi_crop: bool) -> list[int]:
    call = "convert(candidates)"
    if candidates is None:
        return [2 * select for select in selects]
    if isinstance(candidates, (list, tuple)):
        require(len(candidates) == len(selects), call, f"a number for each of the {len(selects)} slots", f"{len(candidates)}")
        return list(candidates)
    number, kept = candidates, sum(selects)
    least = 1 if multi_crop else kept
    if not isinstance(number, int) or number < least:
        fail(
            call,
            f"an integer of at least {least}" + (", for every view that is kept" if multi_crop else f", of which {kept} are kept"),
            number,
        )
    return [number * select if multi_crop else number * select // kept for select in selects]


def _steps(transform: Any) -> Iterator[tuple[Any, Step]]:
    """The operations of a pipeline in their order, each with the transform it comes from."""
    if isinstance(transform, (list, tuple, torch.nn.ModuleList, torch.nn.Sequential)):
        for inner in transform:
            yield from _steps(inner)
        return
    found = _apply(transform)
    if isinstance(found, dict):
        yield transform, found
    else:
        yield from _steps(list(found))


def _apply(transform: Any) -> Converted:
    """What one transform does, from the converter of the first of its classes that has one and whose behaviour it keeps."""
    for kind in type(transform).__mro__:
        function: Callable[[Any], Converted | None] | None = _registered.get(kind) or _registered.get(kind.__name__) or _known(kind)
        found = function(transform) if function is not None else None
        if found is not None:
            return found
        if _BEHAVIOUR & vars(kind).keys():
            break
    name = type(transform).__name__
    fail(
        _CALL,
        "a transform that can be expressed exactly",
        _name(transform),
        f"hvs_aug.register_converter({name!r}, function) says what it does; or keep it and use sampler.select(candidates).",
    )


def _known(kind: type) -> Callable[[Any], Converted | None] | None:
    package = kind.__module__.partition(".")[0]
    if package in ("torchvision", "torch"):
        return _TORCHVISION.get(kind.__name__)
    if package == "lightly" and "View" in kind.__name__ and kind.__name__.endswith("Transform"):
        return lambda transform: [transform.transform] if hasattr(transform, "transform") else None
    return _REPOS.get(kind.__name__)


def _views(transform: Any) -> list[Any] | None:
    """The transform of each view, where the transform returns several; None where it returns one."""
    if isinstance(transform, (list, tuple)):
        return list(transform)
    for kind in type(transform).__mro__:
        function = _registered.get(kind) or _registered.get(kind.__name__)
        if function is not None:
            found = function(transform)
            return list(found) if not isinstance(found, dict) and all(isinstance(entry, ViewSlot) for entry in found) else None
        several = _MULTIVIEW.get(kind.__name__)
        if several is not None:
            try:
                return several(transform)
            except AttributeError as error:
                fail(_CALL, f"{kind.__name__} as in its own repo", f"one that {str(error).split('object ')[-1]}")
        if _BEHAVIOUR & vars(kind).keys():
            return None
    return None


def _operation(step: Step, transform: Any) -> str | None:
    for operation, names in _FIELDS.items():
        if step and step.keys() <= set(names):
            return operation
    require(
        not step, "register_converter(function)", "fields of one operation of ViewRecipe", f"{sorted(step)} for {_name(transform)}"
    )
    return None


def _need(condition: object, expected: str, transform: Any, hint: str | None = None) -> None:
    if not condition:
        fail(_CALL, expected, _name(transform), hint)


def _name(transform: Any) -> str:
    text = " ".join(repr(transform).split())
    plain = text.startswith("<") or not text.startswith(type(transform).__name__)
    name = type(transform).__name__ if plain else text
    return name if len(name) <= 120 else f"{name[:117]}..."


# ---- torchvision, v1 and v2 ----


def _crop(transform: Any) -> Step:
    height, width = transform.size if isinstance(transform.size, (list, tuple)) else (transform.size, transform.size)
    _need(height == width, "a square view", transform)
    mode = transform.interpolation  # torchvision's enumeration, its value, or Pillow's number
    name = {2: "bilinear", 3: "bicubic"}.get(mode) if isinstance(mode, int) else getattr(mode, "value", mode)
    _need(name in ("bilinear", "bicubic"), "bilinear or bicubic interpolation", transform)
    _need(getattr(transform, "antialias", True) is not False, "an antialiased crop", transform, "pass antialias=True.")
    scale, ratio = tuple(map(float, transform.scale)), tuple(map(float, transform.ratio))
    return {"size": int(height), "scale": scale, "ratio": ratio, "interpolation": name}


def _jitter(transform: Any) -> Step:
    step: Step = {"jitter_prob": 1.0}
    for name, centre in (("brightness", 1.0), ("contrast", 1.0), ("saturation", 1.0), ("hue", 0.0)):
        low, high = (float(bound) for bound in getattr(transform, name) or (centre, centre))
        strength = round(high - centre, 12)
        symmetric = abs(max(centre - strength, 0.0 if centre else -0.5) - low) < 1e-9
        if not symmetric:
            fail(_CALL, "strengths around the identity", f"{name} from {low:g} to {high:g} in {_name(transform)}")
        step[name] = strength
    return step if any(step[name] for name in _FIELDS["jitter"][1:]) else {}


def _blur(transform: Any) -> Step:
    kernel = transform.kernel_size
    width, height = kernel if isinstance(kernel, (list, tuple)) else (kernel, kernel)
    _need(width == height, "a square blur kernel", transform)
    return {"blur_prob": 1.0, "blur_sigma": tuple(map(float, transform.sigma)), "blur_kernel": int(width)}


def _random_apply(transform: Any) -> Converted:
    prob = float(transform.p)
    if prob == 0:
        return {}
    steps = [(inner, step) for inner, step in _steps(list(transform.transforms)) if step]
    if prob == 1:
        return list(transform.transforms)
    names = [name for _, step in steps for name in step if name.endswith("_prob")]
    alone = len(steps) == 1 and len(names) == 1
    _need(alone, "one random operation inside RandomApply", transform)
    return steps[0][1] | {names[0]: steps[0][1][names[0]] * prob}


def _to_dtype(transform: Any) -> Step:
    if transform.dtype == torch.uint8:
        return {}
    plain = transform.dtype == torch.float32 and getattr(transform, "scale", True)
    _need(plain, "torch.float32 with scale=True", transform)
    return {"format": "float"}


def _off_only(transform: Any) -> Step | None:
    return {} if getattr(transform, "p", getattr(transform, "prob", None)) == 0 else None


_TORCHVISION: dict[str, Callable[[Any], Converted | None]] = {
    "Compose": lambda t: list(t.transforms),
    "RandomApply": _random_apply,
    "RandomResizedCrop": _crop,
    "RandomHorizontalFlip": lambda t: {"flip_prob": float(t.p)},
    "RandomVerticalFlip": _off_only,
    "ColorJitter": _jitter,
    "RandomGrayscale": lambda t: {"gray_prob": float(t.p)},
    "GaussianBlur": _blur,
    "RandomSolarize": lambda t: {"solarize_prob": float(t.p), "solarize_threshold": float(t.threshold)},
    "Identity": lambda t: {},
    "ToTensor": lambda t: {"format": "float"},
    "PILToTensor": lambda t: {"format": "integer"},
    "ToImage": lambda t: {"format": "integer"},
    "ToPureTensor": lambda t: {},
    "ToDtype": _to_dtype,
    "ConvertImageDtype": _to_dtype,
    "Normalize": lambda t: {"mean": tuple(map(float, t.mean)), "std": tuple(map(float, t.std))},
}


# ---- the repos' own classes ----


def _pillow_blur(prob: float, low: float, high: float) -> Step:
    # 23 taps, as in SimCLR's paper at 224 pixels (a tenth of the width); more where 4 standard deviations need more.
    return {"blur_prob": float(prob), "blur_sigma": (float(low), float(high)), "blur_kernel": max(23, 2 * math.ceil(4 * high) + 1)}


def _repo_blur(transform: Any) -> Step | None:
    has = vars(transform).keys()
    if {"prob", "radius_min", "radius_max"} <= has:  # DINO, iBOT
        return _pillow_blur(transform.prob, transform.radius_min, transform.radius_max)
    if {"k", "r", "blur_h", "blur_v"} <= has:  # sthalles/SimCLR, which draws its sigma from [0.1, 2] in __call__
        return {"blur_prob": 1.0, "blur_sigma": (0.1, 2.0), "blur_kernel": int(transform.k)}
    if {"prob", "sigmas"} <= has:  # Lightly
        return _pillow_blur(transform.prob, *transform.sigmas)
    if "sigma" in has and "kernel_size" not in has:  # SimSiam, MoCo
        return _pillow_blur(1.0, *transform.sigma)
    return None


def _repo_solarize(transform: Any) -> Step | None:
    prob = getattr(transform, "p", getattr(transform, "prob", None))
    if prob is None or vars(transform).keys() - {"p", "prob", "threshold"}:
        return None
    # Pillow's threshold where the class has none.
    return {"solarize_prob": float(prob), "solarize_threshold": float(getattr(transform, "threshold", 128))}


_REPOS: dict[str, Callable[[Any], Converted | None]] = {
    "GaussianBlur": _repo_blur,
    "Solarization": _repo_solarize,
    "RandomSolarization": _repo_solarize,
    "RandomRotate": _off_only,
    "RandomRotateDegrees": lambda t: [t.transform] if hasattr(t, "transform") else None,
    "ToTensor": lambda t: [t.transform] if vars(t).keys() == {"transform"} else None,
}


def _two_crops(transform: Any) -> list[Any]:
    if hasattr(transform, "base_transform"):
        return [transform.base_transform] * 2
    return [transform.base_transform1, transform.base_transform2]  # MoCo v3


def _multi_crop(transform: Any) -> list[Any]:
    others = getattr(transform, "global_crops_number", 2) - 1
    globals_ = [transform.global_transfo1, *[transform.global_transfo2] * others]
    return globals_ + [transform.local_transfo] * transform.local_crops_number


_MULTIVIEW: dict[str, Callable[[Any], list[Any]]] = {
    "TwoCropsTransform": _two_crops,
    "ContrastiveLearningViewGenerator": lambda t: [t.base_transform] * t.n_views,
    "DataAugmentationDINO": _multi_crop,
    "DataAugmentationiBOT": _multi_crop,
    "MultiViewTransform": lambda t: list(t.transforms),
}
