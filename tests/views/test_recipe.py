"""What recipes and slots refuse, and what their presets say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hvs_aug import HVSError, ViewRecipe, ViewSlot
from hvs_aug.views.presets import PRESETS, preset_slots


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, r"ViewRecipe\(size\): expected an integer of at least 1, got int 0"),
        ({"scale": (0.5, 0.2)}, r"ViewRecipe\(scale\): expected \(low, high\) with 0 < low <= high <= 1"),
        ({"ratio": (0.0, 1.0)}, r"ViewRecipe\(ratio\)"),
        ({"interpolation": "bicubik"}, "did you mean 'bicubic'"),
        ({"flip_prob": 1.5}, r"ViewRecipe\(flip_prob\): expected a number in \[0, 1\], got float 1.5"),
        ({"hue": 0.6}, r"ViewRecipe\(hue\): expected a strength in \[0, 0.5\]"),
        ({"brightness": -1}, r"ViewRecipe\(brightness\)"),
        ({"blur_kernel": 4}, "expected an odd number of taps, got int 4"),
        ({"size": 8, "blur_prob": 0.5}, "fewer than 17 taps for a view of 8 pixels"),
        ({"mean": (0.5,)}, r"ViewRecipe\(mean, std\): expected both, of one length, or neither"),
        ({"mean": (0.5,), "std": (0.0,)}, r"ViewRecipe\(std\): expected positive numbers"),
        ({"order": ("blur", "blur")}, "each operation at most once"),
        ({"order": ("blurr",)}, "did you mean 'blur'"),
    ],
)
def test_fields_out_of_range_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(HVSError, match=message):
        ViewRecipe(**{"size": 32, **arguments})


def test_slots_are_checked() -> None:
    recipe = ViewRecipe(size=32)
    with pytest.raises(HVSError, match=r"ViewSlot\(candidates\): expected at least the 3 views that are selected, got int 2"):
        ViewSlot(recipe, candidates=2, select=3)
    with pytest.raises(
        HVSError, match=r"ViewSlot\(role\): expected one of global, local, got 'globl'.\n  hint: did you mean 'global'"
    ):
        ViewSlot(recipe, role="globl")
    with pytest.raises(HVSError, match=r"ViewSlot\(tie\)"):
        ViewSlot(recipe, tie="colour")


def test_the_papers_numbers() -> None:
    (simclr,) = preset_slots("simclr", 224)
    recipe = simclr.recipe
    assert (recipe.brightness, recipe.contrast, recipe.saturation, recipe.hue) == (0.8, 0.8, 0.8, 0.2)
    assert (recipe.scale, recipe.jitter_prob, recipe.gray_prob, recipe.blur_prob, recipe.blur_kernel) == (
        (0.08, 1.0),
        0.8,
        0.2,
        0.5,
        23,
    )
    first, second, local = preset_slots("dino", 224)
    assert [slot.select for slot in (first, second, local)] == [1, 1, 8] and local.candidates == 16
    assert [slot.recipe.solarize_prob for slot in (first, second, local)] == [0.0, 0.2, 0.0]
    assert [slot.recipe.blur_prob for slot in (first, second, local)] == [1.0, 0.1, 0.5]
    assert [slot.recipe.size for slot in (first, second, local)] == [224, 224, 96]
    assert [slot.role for slot in (first, second, local)] == ["global", "global", "local"]
    assert preset_slots("ibot", 224)[2].select == 10 and preset_slots("ibot", 224)[0].recipe.scale == (0.25, 1.0)
    (simsiam,) = preset_slots("simsiam", 224)
    assert simsiam.recipe.scale == (0.2, 1.0) and simsiam.recipe.order == ("jitter", "gray", "blur", "flip")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_its_small_variant(name: str) -> None:
    for slot in preset_slots(name, 32):
        assert slot.recipe.size <= 32
        assert replace(slot.recipe) == slot.recipe and slot.candidates >= slot.select
