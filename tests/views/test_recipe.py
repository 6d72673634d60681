"""What recipes and slots refuse, and what their presets say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hvs_aug import HVSError, ViewRecipe, ViewSlot
from hvs_aug.ops import (
    ColorJitter,
    GaussianBlur,
    Normalize,
    RandomApply,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomSolarize,
    Resize,
)
from hvs_aug.views.presets import PRESETS, preset_slots

CROP, FLIP, NORMALIZE = RandomResizedCrop(), RandomHorizontalFlip(), Normalize((0.5,) * 3, (0.2,) * 3)


@pytest.mark.parametrize(
    ("size", "operations", "message"),
    [
        (0, (), r"ViewRecipe\(size\): expected an integer of at least 1, got int 0"),
        ((32, 0), (), r"ViewRecipe\(size\): expected an integer of at least 1, got int 0"),
        ((1, 2, 3), (), r"ViewRecipe\(size\): expected a number of pixels, or \(height, width\), got tuple \(1, 2, 3\)"),
        (32, "crop", r"ViewRecipe\(operations\): expected a list of operations, got str 'crop'"),
        (32, [CROP, "flip"], r"expected operations of hvs_aug.ops, got str 'flip'.\n  hint: .*hvs_aug.convert reads"),
        (32, [FLIP], r"expected one RandomResizedCrop, got 0"),
        (32, [CROP, CROP], r"expected one RandomResizedCrop, got 2"),
        (32, [ColorJitter(0.4), CROP], "only Resize, CenterCrop and flips before the crop, got ColorJitter"),
        (32, [CROP, Resize(40)], "Resize and CenterCrop before the RandomResizedCrop, got Resize"),
        (32, [CROP, NORMALIZE, RandomGrayscale()], "Normalize after all operations that need values in .*, got RandomGrayscale"),
        (32, [CROP, NORMALIZE, RandomApply([ColorJitter(0.4)])], "Normalize after all .*, got ColorJitter"),
        (32, [RandomResizedCrop(64)], r"RandomResizedCrop\(size\): expected the recipe's size, 32, or none, got int 64"),
        (8, [CROP, GaussianBlur(17)], r"GaussianBlur\(kernel_size\): expected at most 15 taps for a view of 8 x 8, got int 17"),
    ],
)
def test_recipes_that_cannot_be_rendered_are_refused(size: Any, operations: Any, message: str) -> None:
    with pytest.raises(HVSError, match=message):
        ViewRecipe(size, operations)


def test_a_recipe_has_one_form() -> None:
    assert ViewRecipe(32) == ViewRecipe((32, 32), [RandomResizedCrop(32)]) == ViewRecipe([32], [RandomResizedCrop((32, 32))])
    assert ViewRecipe((32, 48)).shape == (32, 48) and hash(ViewRecipe(32)) == hash(ViewRecipe((32, 32)))
    assert replace(ViewRecipe(32, [RandomResizedCrop(32)]), size=64).size == 64


def test_operations_are_replaced_and_left_out_also_within_groups() -> None:
    recipe = ViewRecipe(32, [CROP, RandomApply([ColorJitter(0.4), RandomGrayscale()], p=0.3), RandomApply([GaussianBlur(5)]), FLIP])
    changed = recipe.replace(ColorJitter, brightness=0.2)
    assert changed.find(ColorJitter) == ColorJitter(0.2) and recipe.find(ColorJitter) == ColorJitter(0.4)
    assert recipe.without(GaussianBlur).operations == (CROP, recipe.operations[1], FLIP)
    assert recipe.without(ColorJitter).operations[1] == RandomApply([RandomGrayscale()], p=0.3)
    assert recipe.without(RandomApply).operations == (CROP, FLIP)
    assert recipe.replace(RandomApply, p=0.1).operations[1].p == 0.1
    with pytest.raises(HVSError, match=r"ViewRecipe.replace\(ColorJitter\): expected one of .*, got 'brightnes'.\n .*'brightness'"):
        recipe.replace(ColorJitter, brightnes=0.2)
    with pytest.raises(HVSError, match=r"ViewRecipe.without\(RandomSolarize\): expected an operation of the recipe: ColorJitter, "):
        recipe.without(RandomSolarize)
    with pytest.raises(HVSError, match=r"expected one RandomResizedCrop, got 0"):
        recipe.without(RandomResizedCrop)


def test_names_tell_operations_of_one_class_apart() -> None:
    recipe = ViewRecipe(32, [FLIP, CROP, RandomApply([ColorJitter(0.1), FLIP]), ColorJitter(0.2)])
    assert [name for name, _ in recipe.steps] == ["RandomHorizontalFlip", "ColorJitter", "RandomHorizontalFlip-2", "ColorJitter-2"]
    assert recipe.early_flips == ("RandomHorizontalFlip",)


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
    assert simclr.recipe.operations == (
        RandomResizedCrop(scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), interpolation="bicubic"),
        RandomHorizontalFlip(0.5),
        ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8),
        RandomGrayscale(0.2),
        GaussianBlur(23, (0.1, 2.0), p=0.5),
    )
    (small,) = preset_slots("simclr", 32)
    assert small.recipe == simclr_of(32, ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8))
    first, second, local = preset_slots("dino", 224)
    assert [slot.select for slot in (first, second, local)] == [1, 1, 8] and local.candidates == 16
    assert [slot.recipe.find(RandomSolarize) for slot in (first, second, local)] == [None, RandomSolarize(0.5, 0.2), None]
    assert [slot.recipe.find(GaussianBlur).p for slot in (first, second, local)] == [1.0, 0.1, 0.5]
    assert [slot.recipe.size for slot in (first, second, local)] == [224, 224, 96]
    assert [slot.role for slot in (first, second, local)] == ["global", "global", "local"]
    assert preset_slots("ibot", 224)[2].select == 10 and preset_slots("ibot", 224)[0].recipe.crop.scale == (0.25, 1.0)
    (simsiam,) = preset_slots("simsiam", 224)
    assert simsiam.recipe.crop.scale == (0.2, 1.0)
    assert [name for name, _ in simsiam.recipe.steps] == [
        "ColorJitter",
        "RandomGrayscale",
        "GaussianBlur",
        "RandomHorizontalFlip",
        "Normalize",
    ]


def simclr_of(size: int, jitter: ColorJitter) -> ViewRecipe:
    return ViewRecipe(size, [RandomResizedCrop(interpolation="bicubic"), FLIP, jitter, RandomGrayscale(0.2)])


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_its_small_variant(name: str) -> None:
    for slot in preset_slots(name, 32):
        assert slot.recipe.size <= 32
        assert replace(slot.recipe) == slot.recipe and slot.candidates >= slot.select


def test_from_64_pixels_on_views_are_those_of_imagenet() -> None:
    for name in ("simclr", "simsiam"):
        large, small = (preset_slots(name, size)[0].recipe for size in (64, 63))
        assert large.find(GaussianBlur) is not None and small.find(GaussianBlur) is None
    jitters = [preset_slots("simclr", size)[0].recipe.find(ColorJitter) for size in (64, 63)]
    assert jitters == [ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8), ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8)]
    assert [preset_slots("simsiam", size)[0].recipe.find(Normalize) for size in (64, 63)] == [
        Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        Normalize((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    ]
