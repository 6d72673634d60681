"""The fields of operations: what is refused and how, how they are shown, and the torchvision lines that say the same."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms import v2

from hvs_aug import CandidateViews, HVSError, ViewRecipe, ViewSlot, ops
from tests.ops.pictures import MEAN, OPERATIONS, STD, of_dtype, pictures

NAMES = {name: getattr(ops, name) for name in ops.__all__} | {"ViewRecipe": ViewRecipe}
NAN, INFINITY = math.nan, math.inf

WRONG: list[tuple[type[ops.Operation], dict[str, Any], str, str, str]] = [
    # class, fields, argument, expected, got
    *[(kind, {"p": p}, "p", "a number in [0, 1]", repr(p)) for p in (-0.1, 1.1, "a", None, NAN, True)
      for kind in (ops.RandomHorizontalFlip, ops.RandomVerticalFlip, ops.RandomGrayscale, ops.RandomSolarize, ops.RandomErasing,
                   ops.RandomInvert, ops.RandomAutocontrast, ops.RandomEqualize, ops.ColorJitter)],
    (ops.GaussianBlur, {"kernel_size": 3, "p": 2}, "p", "a number in [0, 1]", "2"),
    (ops.GaussianBlur, {"kernel_size": 4}, "kernel_size", "an odd number of taps", "4"),
    (ops.GaussianBlur, {"kernel_size": (3, 5)}, "kernel_size", "an odd number of taps", "(3, 5)"),
    (ops.GaussianBlur, {"kernel_size": 3.0}, "kernel_size", "an odd number of taps", "3.0"),
    (ops.GaussianBlur, {"kernel_size": -1}, "kernel_size", "an odd number of taps", "-1"),
    (ops.GaussianBlur, {"kernel_size": 3, "sigma": 0}, "sigma", "0 < lowest <= highest", "(0, 0)"),
    (ops.GaussianBlur, {"kernel_size": 3, "sigma": (2.0, 1.0)}, "sigma", "0 < lowest <= highest", "(2.0, 1.0)"),
    (ops.GaussianBlur, {"kernel_size": 3, "sigma": (0.1, INFINITY)}, "sigma", "0 < lowest <= highest", "(0.1, inf)"),
    (ops.RandomResizedCrop, {"size": 0}, "size", "an integer of at least 1", "0"),
    (ops.RandomResizedCrop, {"size": (3, 4, 5)}, "size", "a number of pixels, or (height, width)", "(3, 4, 5)"),
    (ops.RandomResizedCrop, {"size": 3.5}, "size", "an integer of at least 1", "3.5"),
    (ops.RandomResizedCrop, {"scale": (0.0, 1.0)}, "scale", "0 < lowest <= highest <= 1", "(0.0, 1.0)"),
    (ops.RandomResizedCrop, {"scale": (0.5, 1.5)}, "scale", "0 < lowest <= highest <= 1", "(0.5, 1.5)"),
    (ops.RandomResizedCrop, {"scale": 0.5}, "scale", "(lowest, highest)", "0.5"),
    (ops.RandomResizedCrop, {"ratio": (1.3, 0.7)}, "ratio", "0 < lowest <= highest", "(1.3, 0.7)"),
    (ops.RandomResizedCrop, {"ratio": (1.0, INFINITY)}, "ratio", "0 < lowest <= highest", "(1.0, inf)"),
    (ops.RandomResizedCrop, {"ratio": (NAN, 1.0)}, "ratio", "0 < lowest <= highest", "(nan, 1.0)"),
    (ops.RandomResizedCrop, {"interpolation": "nearest"}, "interpolation", "one of bicubic, bilinear", "'nearest'"),
    (ops.ColorJitter, {"brightness": -0.1}, "brightness", "a strength of at least 0", "-0.1"),
    (ops.ColorJitter, {"contrast": NAN}, "contrast", "a strength of at least 0", "nan"),
    (ops.ColorJitter, {"contrast": INFINITY}, "contrast", "a strength of at least 0", "inf"),
    (ops.ColorJitter, {"saturation": (-0.1, 1.0)}, "saturation", "0 <= lowest <= highest", "(-0.1, 1.0)"),
    (ops.ColorJitter, {"saturation": (0.5, INFINITY)}, "saturation", "0 <= lowest <= highest", "(0.5, inf)"),
    (ops.ColorJitter, {"brightness": "much"}, "brightness", "(lowest, highest)", "'much'"),
    (ops.ColorJitter, {"hue": 0.6}, "hue", "a strength in [0, 0.5]", "0.6"),
    (ops.ColorJitter, {"hue": (-0.6, 0.1)}, "hue", "-0.5 <= lowest <= highest <= 0.5", "(-0.6, 0.1)"),
    (ops.RandomSolarize, {"threshold": 128}, "threshold", "a number in [0, 1]", "128"),
    (ops.RandomPosterize, {"bits": 9}, "bits", "a number of bits from 0 to 8", "9"),
    (ops.RandomPosterize, {"bits": -1}, "bits", "an integer of at least 0", "-1"),
    (ops.RandomPosterize, {"bits": 4.0}, "bits", "an integer of at least 0", "4.0"),
    (ops.RandomAdjustSharpness, {"sharpness_factor": -1}, "sharpness_factor", "a number of at least 0", "-1"),
    (ops.RandomAdjustSharpness, {"sharpness_factor": INFINITY}, "sharpness_factor", "a number of at least 0", "inf"),
    (ops.RandomRotation, {"degrees": -30}, "degrees", "lowest <= highest", "(30, -30)"),
    (ops.RandomRotation, {"degrees": (30, 10)}, "degrees", "lowest <= highest", "(30, 10)"),
    (ops.RandomRotation, {"degrees": INFINITY}, "degrees", "lowest <= highest", "inf"),
    (ops.RandomRotation, {"degrees": "a"}, "degrees", "lowest <= highest", "'a'"),
    (ops.RandomRotation, {"degrees": 10, "interpolation": "bicubic"}, "interpolation", "one of bilinear, nearest", "'bicubic'"),
    (ops.RandomRotation, {"degrees": 10, "fill": "red"}, "fill", "a number, or one for each channel", "'red'"),
    (ops.RandomRotation, {"degrees": 10, "fill": None}, "fill", "a number, or one for each channel", "None"),
    (ops.RandomErasing, {"scale": (-0.1, 0.3)}, "scale", "0 <= lowest <= highest <= 1", "(-0.1, 0.3)"),
    (ops.RandomErasing, {"ratio": (0.0, 3.0)}, "ratio", "0 < lowest <= highest", "(0.0, 3.0)"),
    (ops.RandomErasing, {"ratio": (1.0, INFINITY)}, "ratio", "0 < lowest <= highest", "(1.0, inf)"),
    (ops.RandomErasing, {"value": "random"}, "value", "a number, or one for each channel", "'random'"),
    (ops.Normalize, {"mean": 0.5, "std": [0.5]}, "mean", "a number for each channel", "0.5"),
    (ops.Normalize, {"mean": [0.5, 0.5], "std": [0.5]}, "mean, std", "as many means as standard deviations", "(0.5, 0.5)"),
    (ops.Normalize, {"mean": [0.5], "std": [0.0]}, "std", "positive numbers", "(0.0,)"),
    (ops.Normalize, {"mean": [0.5], "std": [INFINITY]}, "std", "a number for each channel, all finite", "[inf]"),
    (ops.Normalize, {"mean": [NAN], "std": [1.0]}, "mean", "a number for each channel", "nan"),
    (ops.Resize, {"size": 0}, "size", "an integer of at least 1", "0"),
    (ops.Resize, {"size": (1, 2, 3)}, "size", "a number of pixels, or (height, width)", "(1, 2, 3)"),
    (ops.Resize, {"size": 8, "interpolation": "nearest"}, "interpolation", "one of bicubic, bilinear", "'nearest'"),
    (ops.Resize, {"size": 8, "max_size": 8}, "max_size", "a number larger than size, which must be one number", "8"),
    (ops.Resize, {"size": (8, 8), "max_size": 9}, "max_size", "a number larger than size, which must be one number", "9"),
    (ops.CenterCrop, {"size": 0}, "size", "an integer of at least 1", "0"),
    (ops.CenterCrop, {"size": (1, 2, 3)}, "size", "a number of pixels, or (height, width)", "(1, 2, 3)"),
    *[(kind, {"transforms": []}, "transforms", "a list of at least one operation", "[]")
      for kind in (ops.RandomApply, ops.RandomChoice)],
    (ops.RandomApply, {"transforms": ops.RandomInvert()}, "transforms", "a list of at least one operation", "RandomInvert()"),
    (ops.RandomApply, {"transforms": [v2.RandomInvert()]}, "transforms", "operations of hvs_aug.ops", "RandomInvert"),
    (ops.RandomApply, {"transforms": [ops.RandomResizedCrop()]}, "transforms", "operations that draw", "RandomResizedCrop"),
    (ops.RandomApply, {"transforms": [ops.Normalize([0.5], [0.5])]}, "transforms", "operations that draw something", "Normalize"),
    (ops.RandomApply, {"transforms": [ops.RandomInvert()], "p": 2}, "p", "a number in [0, 1]", "2"),
    (ops.RandomApply, {"transforms": [ops.RandomInvert()], "p": "a"}, "p", "a number in [0, 1]", "'a'"),
    *[(ops.RandomChoice, {"transforms": [ops.RandomInvert(), ops.RandomSolarize()], "p": p}, "p", "2 weights of at least 0",
       repr(p)) for p in ([1.0], [-1.0, 2.0], [0, 0], 0.5, ["a", 1.0], [NAN, 1.0], [INFINITY, 1.0], [])],
]  # fmt: skip


@pytest.mark.parametrize(("kind", "given_fields", "argument", "expected", "got"), WRONG, ids=lambda value: str(value)[:40])
def test_wrong_fields_are_refused(
    kind: type[ops.Operation], given_fields: dict[str, Any], argument: str, expected: str, got: str
) -> None:
    with pytest.raises(HVSError) as error:
        kind(**given_fields)
    message = str(error.value)
    assert message.startswith(f"{kind.__name__}({argument}): expected ") and expected in message
    assert ", got " in message and got in message.split(", got ")[1]


def test_recipes_refuse_blurs_that_cannot_be_reflected_and_operations_out_of_place() -> None:
    crop, normalize = ops.RandomResizedCrop(), ops.Normalize(MEAN, STD)
    for steps, said in (
        ([crop, ops.GaussianBlur(23)], r"GaussianBlur\(kernel_size\): expected at most 15 taps for a view of 8 x 9"),
        ([crop, ops.RandomApply([ops.GaussianBlur(23)])], r"GaussianBlur\(kernel_size\)"),
        ([normalize, crop], "only Resize, CenterCrop and flips before the crop"),
        ([crop, ops.Resize(9)], "Resize and CenterCrop before the RandomResizedCrop"),
        ([crop, normalize, ops.RandomSolarize()], r"Normalize after all operations that need values in \[0, 1\]"),
        ([crop, crop], "expected one RandomResizedCrop, got 2"),
        ([ops.RandomInvert()], "expected one RandomResizedCrop, got 0"),
        ([v2.RandomInvert()], "operations of hvs_aug.ops"),
        ([ops.RandomResizedCrop(7)], r"RandomResizedCrop\(size\): expected the recipe's size"),
        (crop, "a list of operations"),
    ):
        with pytest.raises(HVSError, match=said):
            ViewRecipe((8, 9), steps)  # type: ignore[arg-type]
    for size in (0, -1, 2.5, (4, 0), "a"):
        with pytest.raises(HVSError, match=r"ViewRecipe\(size\)"):
            ViewRecipe(size)  # type: ignore[arg-type]


SHOWN = [
    (ops.RandomResizedCrop(), "RandomResizedCrop()"),
    (ops.RandomResizedCrop(scale=(0.2, 1.0)), "RandomResizedCrop(scale=(0.2, 1))"),
    (ops.RandomHorizontalFlip(), "RandomHorizontalFlip()"),
    (ops.ColorJitter(0.4, 0.4, 0.2, 0.1, p=0.8), "ColorJitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, p=0.8)"),
    (ops.ColorJitter((0.2, 0.9), hue=(-0.1, 0.2)), "ColorJitter(brightness=(0.2, 0.9), hue=(-0.1, 0.2))"),
    (ops.GaussianBlur(23, p=0.5), "GaussianBlur(kernel_size=23, p=0.5)"),
    (ops.Normalize([0.5], [0.25]), "Normalize(mean=(0.5,), std=(0.25,))"),
    (ops.RandomErasing(value=(0.1, 0.2, 0.3)), "RandomErasing(value=(0.1, 0.2, 0.3))"),
    (ops.RandomRotation(30, "bilinear", fill=0.5), "RandomRotation(degrees=30, interpolation='bilinear', fill=0.5)"),
    (ops.RandomRotation((0, 30)), "RandomRotation(degrees=(0, 30))"),
    (ops.CenterCrop((7, 7)), "CenterCrop(size=7)"),
    (ops.RandomApply([ops.RandomInvert()], p=0.3), "RandomApply(transforms=(RandomInvert(),), p=0.3)"),
    (ops.RandomChoice([ops.RandomInvert(), ops.GaussianBlur(3)], p=[1, 3]),
     "RandomChoice(transforms=(RandomInvert(), GaussianBlur(kernel_size=3)), p=(1, 3))"),
]  # fmt: skip


@pytest.mark.parametrize(("operation", "text"), SHOWN, ids=lambda value: str(value)[:30])
def test_an_operation_is_shown_as_its_constructor_call(operation: ops.Operation, text: str) -> None:
    assert repr(operation) == text


def bounds(low: float, high: float) -> st.SearchStrategy[tuple[float, float]]:
    return st.tuples(st.floats(low, high), st.floats(low, high)).map(lambda pair: (min(pair), max(pair)))


FRACTION = st.floats(0, 1)
STRENGTH = st.floats(0, 3) | bounds(0, 3)
COLOURS = st.floats(-2, 2) | st.lists(st.floats(-2, 2), min_size=1, max_size=4)
SIMPLE = st.one_of(
    st.builds(ops.RandomHorizontalFlip, FRACTION),
    st.builds(ops.RandomVerticalFlip, FRACTION),
    st.builds(ops.ColorJitter, STRENGTH, STRENGTH, STRENGTH, st.floats(0, 0.5) | bounds(-0.5, 0.5), p=FRACTION),
    st.builds(ops.RandomGrayscale, FRACTION),
    st.builds(ops.GaussianBlur, st.integers(0, 9).map(lambda n: 2 * n + 1), bounds(0.01, 9) | st.floats(0.01, 9), p=FRACTION),
    st.builds(ops.RandomSolarize, FRACTION, FRACTION),
    st.builds(ops.RandomErasing, FRACTION, bounds(0, 1), bounds(0.01, 9), COLOURS),
    st.builds(
        ops.RandomRotation, st.floats(0, 400) | bounds(-400, 400), st.sampled_from(["nearest", "bilinear"]), COLOURS, FRACTION
    ),
    st.builds(ops.RandomPosterize, st.integers(0, 8), FRACTION),
    st.builds(ops.RandomInvert, FRACTION),
    st.builds(ops.RandomAutocontrast, FRACTION),
    st.builds(ops.RandomEqualize, FRACTION),
    st.builds(ops.RandomAdjustSharpness, st.floats(0, 9), FRACTION),
)
MEMBERS = st.lists(SIMPLE, min_size=2, max_size=2)
ANY = st.one_of(
    SIMPLE,
    st.builds(ops.RandomApply, MEMBERS, FRACTION),
    st.builds(ops.RandomChoice, MEMBERS, st.none() | st.lists(st.floats(0.01, 9), min_size=2, max_size=2)),
    st.builds(
        ops.RandomResizedCrop,
        st.none() | st.integers(1, 99) | st.tuples(st.integers(1, 99), st.integers(1, 99)),
        bounds(0.01, 1),
        bounds(0.1, 9),
        st.sampled_from(["bilinear", "bicubic"]),
    ),
    st.builds(
        ops.Resize, st.integers(1, 99) | st.tuples(st.integers(1, 99), st.integers(1, 99)), st.sampled_from(["bilinear", "bicubic"])
    ),
    st.builds(ops.Resize, st.integers(1, 99), max_size=st.integers(100, 200)),
    st.builds(ops.CenterCrop, st.integers(1, 99) | st.tuples(st.integers(1, 99), st.integers(1, 99))),
    st.builds(
        lambda pairs: ops.Normalize(*zip(*pairs, strict=True)),
        st.lists(st.tuples(st.floats(-1, 1), st.floats(0.01, 9)), min_size=1),
    ),
)


@given(operation=ANY)
def test_what_is_shown_makes_the_same_operation(operation: ops.Operation) -> None:
    assert eval(repr(operation), dict(NAMES)) == operation


@given(crop=st.builds(ops.RandomResizedCrop, scale=bounds(0.01, 1)), steps=st.lists(SIMPLE, max_size=4), size=st.integers(20, 60))
def test_what_is_shown_makes_the_same_recipe(crop: ops.RandomResizedCrop, steps: list[ops.Operation], size: int) -> None:
    recipe = ViewRecipe(size, [crop, *steps])
    assert eval(repr(recipe), dict(NAMES)) == recipe


# ---- the lines that a user of torchvision would write ----


def evaluated(line: str) -> v2.Transform:
    return eval(line, {"v2": v2, "torch": torch})


def read_back(transform: v2.Transform) -> ops.Operation:
    """The operation that torchvision's transform is, read from its attributes."""
    kind, p = type(transform).__name__, getattr(transform, "p", None)
    if kind == "RandomApply":
        members = [read_back(member) for member in transform.transforms]
        return ops.RandomApply(members, float(p))
    if kind == "RandomChoice":
        return ops.RandomChoice([read_back(member) for member in transform.transforms], list(transform.p))
    held = {
        "RandomResizedCrop": lambda t: {"size": tuple(t.size), "scale": t.scale, "ratio": t.ratio, "interpolation": mode(t)},
        "ColorJitter": lambda t: {
            name: getattr(t, name) or neutral for name, neutral in zip(JITTER, ((1, 1), (1, 1), (1, 1), (0, 0)), strict=True)
        },
        "GaussianBlur": lambda t: {"kernel_size": tuple(t.kernel_size), "sigma": tuple(t.sigma)},
        "RandomSolarize": lambda t: {"threshold": t.threshold},
        "RandomErasing": lambda t: {"scale": t.scale, "ratio": t.ratio, "value": t.value},
        "RandomRotation": lambda t: {"degrees": tuple(t.degrees), "interpolation": mode(t), "fill": t.fill},
        "RandomPosterize": lambda t: {"bits": t.bits},
        "RandomAdjustSharpness": lambda t: {"sharpness_factor": t.sharpness_factor},
        "Normalize": lambda t: {"mean": t.mean, "std": t.std},
        "Resize": lambda t: {"size": t.size, "interpolation": mode(t), "max_size": t.max_size},
        "CenterCrop": lambda t: {"size": tuple(t.size)},
    }.get(kind, lambda t: {})(transform)
    return getattr(ops, kind)(**held, **({} if p is None else {"p": float(p)}))


JITTER = ("brightness", "contrast", "saturation", "hue")


def mode(transform: v2.Transform) -> str:
    return str(getattr(transform.interpolation, "value", transform.interpolation))


def without_p_of_its_own(operation: ops.Operation) -> ops.Operation:
    """As torchvision says it: where its class takes no p, in a RandomApply."""
    if isinstance(operation, (ops.RandomApply, ops.RandomChoice)):
        changes = {"transforms": [without_p_of_its_own(member) for member in operation.members]}
        if isinstance(operation, ops.RandomChoice):
            weights = operation.p or [1.0] * len(operation.members)
            changes["p"] = [weight / sum(weights) for weight in weights]
        return replaced(operation, **changes)
    if not operation.torchvision_has_p and operation.p != 1:  # type: ignore[attr-defined]
        return ops.RandomApply([replaced(operation, p=1.0)], operation.p)  # type: ignore[attr-defined]
    return operation


def replaced(operation: ops.Operation, **changes: Any) -> ops.Operation:
    from dataclasses import replace

    return replace(operation, **changes)  # type: ignore[type-var]


@given(operation=ANY.filter(lambda operation: getattr(operation, "size", 1) is not None))
def test_the_torchvision_line_has_the_same_fields(operation: ops.Operation) -> None:
    fill = getattr(operation, "fill", None)
    transform = evaluated(operation.torchvision_name())
    assert isinstance(transform, v2.Transform)
    again, expected = read_back(transform), without_p_of_its_own(operation)
    assert type(again) is type(expected)
    assert again == expected or close(again, expected), fill


def close(one: Any, other: Any) -> bool:
    """Equal but for the last digits, which torchvision's own sums change."""
    if isinstance(one, ops.Operation):
        names = [field.name for field in fields(one)]  # type: ignore[arg-type]
        return type(one) is type(other) and all(close(getattr(one, name), getattr(other, name)) for name in names)
    if isinstance(one, (tuple, list)) and isinstance(other, (tuple, list)):
        return len(one) == len(other) and all(map(close, one, other))
    return (
        math.isclose(one, other, rel_tol=1e-12, abs_tol=1e-12)
        if isinstance(one, float) and isinstance(other, float)
        else one == other
    )


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_torchvision_lines_of_a_recipe_render_the_same_view(name: str) -> None:
    """Of a picture as a file holds it, where nothing is left to chance."""
    operation = OPERATIONS[name]
    changes: dict[str, Any] = {"p": 1.0} if hasattr(operation, "p") else {}
    sure = {
        "jitter": {"brightness": (1.3, 1.3), "contrast": (1, 1), "saturation": (1, 1), "hue": (0, 0)},
        "asymmetric jitter": {"brightness": (1, 1), "contrast": (1, 1), "saturation": (0.3, 0.3), "hue": (0, 0)},
        "blur": {"sigma": 1.1},
        "rotation": {"degrees": (33, 33)},
        "bilinear rotation": {"degrees": (-20, -20)},
    }
    if name == "erasing":
        pytest.skip("its box is drawn")
    step = replaced(operation, **changes, **sure.get(name, {}))
    recipe = ViewRecipe((20, 30), [ops.RandomResizedCrop(scale=(1, 1), ratio=(1.5, 1.5)), step])
    pipeline = v2.Compose([evaluated(line) for line in recipe.torchvision_lines()])
    image = of_dtype(pictures(20, 30, count=4), torch.uint8)[3]
    view = CandidateViews(ViewSlot(recipe, 1, 1))(image[None])[0][0][0, 0]
    for file in (v2.functional.to_pil_image(image), image):
        torch.testing.assert_close(pipeline(file), view, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["simclr", "dino"])
def test_the_lines_of_a_preset(name: str) -> None:
    for slot in CandidateViews.preset(name).slots:
        pipeline = v2.Compose([evaluated(line) for line in slot.recipe.torchvision_lines()])
        view = pipeline(v2.functional.to_pil_image(of_dtype(pictures(40, 50, count=1), torch.uint8)[0]))
        assert view.shape == (3, *slot.recipe.shape) and view.dtype == torch.float32
