"""What a view is drawn from, as plain data: ViewRecipe, and ViewSlot, which draws several candidates of one recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from .._check import fail, require, require_fraction, require_name

__all__ = ["OPERATIONS", "ViewRecipe", "ViewSlot"]

OPERATIONS = ("flip", "jitter", "gray", "blur", "solarize")
"""The operations between the crop, which is always first, and the normalisation, which is always last."""


@dataclass(frozen=True)
class ViewRecipe:
    """One view's augmentation: what is drawn, from which ranges, and in which order it is applied.

    The crop comes first and the normalisation last; ``order`` names what lies between, which differs between repos.
    Variants are made with ``dataclasses.replace``. Definitions are torchvision's (``RandomResizedCrop``, ``ColorJitter``,
    ``RandomGrayscale``, ``GaussianBlur``, ``RandomSolarize``).

    Attributes:
        size: output (height and width) in pixels.
        scale: range of the crop's area as a fraction of the image's, as in ``RandomResizedCrop``.
        ratio: range of the crop's aspect ratio (width / height), drawn log-uniformly.
        interpolation: ``"bilinear"`` or ``"bicubic"``, both antialiased.
        flip_prob: probability of a horizontal flip.
        jitter_prob: probability that the colour jitter is applied.
        brightness, contrast, saturation: strengths; a factor is drawn from [max(0, 1 - strength), 1 + strength].
        hue: strength in [0, 0.5]; a shift is drawn from [-hue, hue], in turns of the hue circle.
        gray_prob: probability of grayscale.
        blur_prob: probability of Gaussian blur.
        blur_sigma: range of its standard deviation, in output pixels, drawn uniformly.
        blur_kernel: its number of taps, odd; it pads by reflection.
        solarize_prob: probability of solarization.
        solarize_threshold: values at or above it, in [0, 1], are inverted.
        mean, std: per-channel normalisation of values in [0, 1]; ``None`` leaves them in [0, 1].
        order: the operations between crop and normalisation, each of ``OPERATIONS`` at most once. One that is left out is off.

    Raises:
        HVSError: if a field is out of its range.

    Example:
        >>> from dataclasses import replace
        >>> recipe = ViewRecipe(size=32, blur_prob=0.5)
        >>> replace(recipe, ratio=(1.0, 1.0)).ratio
        (1.0, 1.0)
    """

    size: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    flip_prob: float = 0.0
    jitter_prob: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    gray_prob: float = 0.0
    blur_prob: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    blur_kernel: int = 23
    solarize_prob: float = 0.0
    solarize_threshold: float = 0.5
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    order: tuple[str, ...] = OPERATIONS

    def __post_init__(self) -> None:
        require(isinstance(self.size, int) and self.size >= 1, "ViewRecipe(size)", "an integer of at least 1", self.size)
        _require_range(self.scale, "ViewRecipe(scale)", 0.0, 1.0)
        _require_range(self.ratio, "ViewRecipe(ratio)", 0.0, float("inf"))
        require_name(self.interpolation, ("bilinear", "bicubic"), "ViewRecipe(interpolation)")
        for name in ("flip_prob", "jitter_prob", "gray_prob", "blur_prob", "solarize_prob", "solarize_threshold"):
            require_fraction(getattr(self, name), f"ViewRecipe({name})")
        for name in ("brightness", "contrast", "saturation"):
            require(getattr(self, name) >= 0, f"ViewRecipe({name})", "a strength of at least 0", getattr(self, name))
        require(0 <= self.hue <= 0.5, "ViewRecipe(hue)", "a strength in [0, 0.5]", self.hue)
        _require_range(self.blur_sigma, "ViewRecipe(blur_sigma)", 0.0, float("inf"))
        require(
            isinstance(self.blur_kernel, int) and self.blur_kernel >= 1 and self.blur_kernel % 2 == 1,
            "ViewRecipe(blur_kernel)",
            "an odd number of taps",
            self.blur_kernel,
        )
        if self.blur_prob > 0 and "blur" in self.order and self.blur_kernel // 2 >= self.size:
            fail(
                "ViewRecipe(blur_kernel)",
                f"fewer than {2 * self.size + 1} taps for a view of {self.size} pixels, since it pads by reflection",
                self.blur_kernel,
            )
        if (self.mean is None) != (self.std is None) or len(self.mean or ()) != len(self.std or ()):
            fail("ViewRecipe(mean, std)", "both, of one length, or neither", f"mean {self.mean} and std {self.std}")
        require(all(value > 0 for value in self.std or ()), "ViewRecipe(std)", "positive numbers", self.std)
        for name in self.order:
            require_name(name, OPERATIONS, "ViewRecipe(order)")
        require(len(set(self.order)) == len(self.order), "ViewRecipe(order)", "each operation at most once", self.order)


@dataclass(frozen=True)
class ViewSlot:
    """Draw ``candidates`` views of one recipe, keep ``select`` of them.

    SimCLR is one slot (4 choose 2); DINO is three: global-1 (2 choose 1), global-2 (2 choose 1), local (16 choose 8).

    Attributes:
        recipe: a :class:`ViewRecipe`, or a Kornia pipeline (see :class:`hvs_aug.views.kornia_pipeline.KorniaPipeline`).
        candidates: how many views are drawn for each image.
        select: how many of them are kept.
        name: what reports call it.
        role: ``"global"`` for views that a teacher sees and that are compared with all others, ``"local"`` for those that are
            compared with globals only (DINO's small crops).
        tie: ``"crop"`` gives all candidates of the slot the same box and flip, with colours of their own
            (asked for in vturrisi/solo-learn#178).

    Raises:
        HVSError: if fewer candidates are drawn than kept.
    """

    recipe: Any
    candidates: int = 4
    select: int = 2
    name: str = "view"
    role: Literal["global", "local"] = "global"
    tie: Literal["crop"] | None = None

    def __post_init__(self) -> None:
        require(isinstance(self.select, int) and self.select >= 1, "ViewSlot(select)", "an integer of at least 1", self.select)
        require(
            isinstance(self.candidates, int) and self.candidates >= self.select,
            "ViewSlot(candidates)",
            f"at least the {self.select} views that are selected",
            self.candidates,
            "draw more candidates, or select fewer.",
        )
        require_name(self.role, ("global", "local"), "ViewSlot(role)")
        if self.tie is not None:
            require_name(self.tie, ("crop",), "ViewSlot(tie)")


def _require_range(bounds: tuple[float, float], call: str, low: float, high: float) -> None:
    ordered = isinstance(bounds, (tuple, list)) and len(bounds) == 2 and low < bounds[0] <= bounds[1] <= high
    require(ordered, call, f"(low, high) with {low:g} < low <= high <= {high:g}", bounds)
