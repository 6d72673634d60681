"""Random pipelines of torchvision v2 become the recipe that they were written from; what has no recipe is refused.

More examples: ``HVS_EXAMPLES=100 python -m pytest tests/views/test_convert_random.py``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import InterpolationMode

from hvs_aug import HVSError, ViewRecipe, convert, ops, register_converter
from hvs_aug.views.converters import reading

Draw = Callable[[Any], Any]
Step = tuple[Any, ops.Operation]
SHARES = st.sampled_from([0.1, 0.35, 0.5, 0.8, 1.0])
RANGES = st.sampled_from([(0.4, 1.6), (0.9, 1.1), (1.0, 1.8)])


def jitter(draw: Draw, level: float) -> Step:
    fields = draw(RANGES), draw(RANGES), draw(RANGES), draw(st.sampled_from([(-0.2, 0.2), (0.0, 0.1)]))
    return v2.ColorJitter(*fields), ops.ColorJitter(*fields)


def blur(draw: Draw, level: float) -> Step:
    taps, sigma = draw(st.sampled_from([3, 5, 9])), draw(st.sampled_from([(0.1, 2.0), (0.5, 0.5)]))
    return v2.GaussianBlur(taps, sigma), ops.GaussianBlur(taps, sigma)


def solarize(draw: Draw, level: float) -> Step:
    threshold, prob = draw(st.sampled_from([50, 128, 200])), draw(SHARES)
    ours = threshold / 255 if level == 1 else (threshold - 0.5) / 255
    return v2.RandomSolarize(threshold / 255 if level == 1 else threshold, prob), ops.RandomSolarize(ours, prob)


def rotation(draw: Draw, level: float) -> Step:
    degrees, fill = draw(st.sampled_from([(-20.0, 20.0), (0.0, 45.0)])), draw(st.sampled_from([0, 51]))
    # Pillow's bilinear rotation does not blend the edge with what is filled in.
    mode = draw(st.sampled_from(["nearest", "bilinear"])) if level == 1 else "nearest"
    theirs = v2.RandomRotation(degrees, InterpolationMode(mode), fill=fill / 255 if level == 1 else fill)
    return theirs, ops.RandomRotation(degrees, mode, (fill / 255,))


def of_probability(theirs: Any, ours: Any) -> Callable[[Draw, float], Step]:
    def made(draw: Draw, level: float) -> Step:
        prob = draw(SHARES)
        return theirs(p=prob), ours(p=prob)

    return made


KINDS: list[Callable[[Draw, float], Step]] = [
    jitter,
    blur,
    solarize,
    rotation,
    of_probability(v2.RandomHorizontalFlip, ops.RandomHorizontalFlip),
    of_probability(v2.RandomVerticalFlip, ops.RandomVerticalFlip),
    of_probability(v2.RandomGrayscale, ops.RandomGrayscale),
    of_probability(v2.RandomInvert, ops.RandomInvert),
    of_probability(v2.RandomAutocontrast, ops.RandomAutocontrast),
    of_probability(v2.RandomEqualize, ops.RandomEqualize),
]


@st.composite
def pipelines(draw: Any) -> tuple[Any, ViewRecipe]:
    """A pipeline and its recipe."""
    size = draw(st.sampled_from([24, (32, 20)]))
    scale, ratio = draw(st.sampled_from([(0.2, 1.0), (0.05, 0.4)])), draw(st.sampled_from([(0.75, 4 / 3), (0.5, 1.0)]))
    is_float = draw(st.booleans())  # from the first step on
    mode = "bilinear" if is_float else draw(st.sampled_from(["bilinear", "bicubic"]))
    theirs: list[Any] = [v2.RandomResizedCrop(size, scale, ratio, InterpolationMode(mode))]
    ours: list[ops.Operation] = [ops.RandomResizedCrop(size, scale, ratio, mode)]
    for make in draw(st.permutations(KINDS))[: draw(st.integers(0, 4))]:
        their, our = make(draw, 1.0 if is_float else 1 / 255)
        prob = draw(st.sampled_from([None, None, 0.5, 1.0]))
        if prob is not None and not isinstance(our, ops.RandomRotation):
            their = v2.RandomApply([their], prob)
            our = our if prob == 1 else type(our)(**{**vars(our), "p": getattr(our, "p", 1.0) * prob})
        theirs.append(their)
        ours.append(our)
    to_float = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    theirs = [*to_float, *theirs] if is_float else [*theirs, *to_float]
    if draw(st.booleans()):
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        theirs.append(v2.Normalize(mean, std))
        ours.append(ops.Normalize(mean, std))
    if draw(st.booleans()):
        theirs = [v2.Compose(theirs[:2]), v2.Compose(theirs[2:])] if len(theirs) > 2 else theirs
    return v2.Compose(theirs), ViewRecipe(size, ours)


@settings(max_examples=int(os.environ.get("HVS_EXAMPLES", "6")), deadline=None, derandomize=True, phases=[Phase.generate])
@given(pair=pipelines())
def test_a_pipeline_becomes_the_recipe_that_it_was_written_from(pair: tuple[Any, ViewRecipe]) -> None:
    pipeline, recipe = pair
    state = torch.get_rng_state()
    (slot,) = convert(pipeline)
    assert torch.equal(torch.get_rng_state(), state)
    assert slot.recipe == recipe and (slot.candidates, slot.select) == (4, 2)


UNKNOWN = [
    v2.RandomPerspective(), v2.ElasticTransform(), v2.RandomZoomOut(), v2.RandomChannelPermutation(), v2.RandomPhotometricDistort(),
    v2.RandomCrop(16), v2.RandAugment(), v2.TrivialAugmentWide(), v2.AugMix(), v2.AutoAugment(), v2.JPEG(50), v2.Pad(2),
    v2.FiveCrop(8), v2.TenCrop(8), v2.RandomAffine(10), v2.RandomOrder([v2.RandomInvert()]), v2.Lambda(lambda image: image),
    v2.GaussianNoise(), v2.RandomShortestSize(20), v2.RandomResize(10, 20), v2.ScaleJitter((16, 16)), v2.Resize(None, max_size=30),
    v2.Grayscale(1), v2.ToDtype(torch.float16, scale=True), None, 3, "crop", Image.new("RGB", (2, 2)),
]  # fmt: skip


@pytest.mark.parametrize("step", UNKNOWN, ids=lambda step: type(step).__name__)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_step_that_has_no_recipe_is_refused_anywhere(step: Any, place: int) -> None:
    steps = [v2.RandomResizedCrop(16), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    with pytest.raises(HVSError):
        convert([[*steps[:place], step, *steps[place:]]] * 2)


@dataclass
class Negative:
    """A transform without a hash."""

    p: float

    def __call__(self, image: Any) -> Any:
        return v2.RandomInvert(self.p)(image)


class Solarize:
    """A transform that takes no weak reference and has no attributes."""

    __slots__ = ()

    def __call__(self, image: Any) -> Any:
        return v2.functional.solarize(image, 128)


def test_transforms_without_a_hash_or_attributes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_registered", {})
    register_converter(Negative, lambda t: ops.RandomInvert(t.p))
    (slot,) = convert(
        v2.Compose([v2.RandomResizedCrop(16), Negative(0.3), Solarize(), v2.ToImage(), v2.ToDtype(torch.float32, True)])
    )
    assert slot.recipe.operations[1:] == (ops.RandomInvert(0.3), ops.RandomSolarize(127.5 / 255, p=1.0))
