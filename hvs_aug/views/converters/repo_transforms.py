"""The classes that repos write for themselves, as operations: a line each. Equal names are told apart by their attributes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ... import ops
from .converted import Converted
from .torchvision_transforms import pair, solarize

if TYPE_CHECKING:
    from .reading import Pixels

__all__ = ["REPOS"]


def _pillow_blur(p: float, sigma: tuple[float, float], at: Pixels) -> Converted:
    # 23 taps, as in SimCLR's paper at 224 pixels (a tenth of the width); more where 4 standard deviations need more, fewer where
    # reflection at the edges of a small view does not allow that many.
    taps = max(23, 2 * math.ceil(4 * sigma[1]) + 1)
    return ops.GaussianBlur(taps if at.size is None else min(taps, 2 * min(at.size) - 1), pair(sigma), float(p))


def _attributes(t: Any) -> set[str]:
    return set(getattr(t, "__dict__", ()))


def _repo_blur(t: Any, at: Pixels) -> Converted | None:
    has = _attributes(t)
    if {"prob", "radius_min", "radius_max"} <= has:  # DINO, iBOT, SwAV
        return _pillow_blur(t.prob, (t.radius_min, t.radius_max), at)
    if {"k", "r", "blur_h", "blur_v"} <= has:  # sthalles/SimCLR, which draws its sigma from [0.1, 2] in __call__
        return ops.GaussianBlur(int(t.k), (0.1, 2.0))
    if {"prob", "sigmas"} <= has:  # Lightly
        return _pillow_blur(t.prob, pair(t.sigmas), at)
    if "sigma" in has and "kernel_size" not in has:  # SimSiam, MoCo, solo-learn
        return _pillow_blur(1.0, pair(t.sigma), at)
    if has == {"p"}:  # VICReg, Barlow Twins, which draw their sigma from [0.1, 2] in __call__
        return _pillow_blur(t.p, (0.1, 2.0), at)
    return None


def _repo_solarize(t: Any, at: Pixels) -> Converted | None:
    if _attributes(t) - {"p", "prob", "threshold"}:
        return None
    prob = getattr(t, "p", getattr(t, "prob", 1.0))
    return solarize(getattr(t, "threshold", 128), prob, at)  # Pillow's threshold where the class has none


def _repo_rotation(t: Any, at: Pixels) -> Converted | None:
    if _attributes(t) != {"prob", "angle"}:
        return None
    return ops.RandomRotation((float(t.angle), float(t.angle)), p=float(t.prob))


REPOS: dict[str, Callable[[Any, Pixels], Converted | None]] = {
    "GaussianBlur": _repo_blur,
    "PILRandomGaussianBlur": _repo_blur,
    "Solarization": _repo_solarize,
    "Solarize": _repo_solarize,
    "RandomSolarization": _repo_solarize,
    "RandomRotate": _repo_rotation,
    "RandomRotateDegrees": lambda t, at: [t.transform] if hasattr(t, "transform") else None,
    "Equalization": lambda t, at: ops.RandomEqualize(1.0),
    "ToTensor": lambda t, at: [t.transform] if _attributes(t) == {"transform"} else None,
    "MaybeToTensor": lambda t, at: at.to_image(is_float=True),
}
