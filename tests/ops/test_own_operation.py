"""Operations that a user writes, outside of the package: with a kernel of their own, and without one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hvs_aug import CandidateViews, HVSError, ViewParams, ViewRecipe, ViewSlot, ops
from hvs_aug._check import fail
from hvs_aug.ops.kernel import carray
from hvs_aug.ops.operation import Draws, per_image
from tests.ops.pictures import MEAN, STD, of_dtype, pictures


@ops.cpu_kernel
def raise_to_a_power(view: Any, channels: Any, height: Any, width: Any, drawn: Any, fields: Any, scratch: Any) -> None:
    if drawn[0] == 1 and drawn[1] == 0:
        return
    values = carray(view, (channels, height * width))
    copied = carray(scratch, (height * width,))
    for channel in range(channels):
        for i in range(height * width):
            copied[i] = fields[0] * values[channel, i]
        for i in range(height * width):
            values[channel, i] = min(max(math.pow(copied[i], drawn[0]) / fields[0] + drawn[1 + channel % 2], 0.0), 1.0)


@dataclass(frozen=True, repr=False)
class Gamma(ops.Operation):
    """Raise to a power and add an offset, one for even channels and one for odd; drawn together, in two parameters."""

    gamma: tuple[float, float] = (0.5, 2.0)
    gain: float = 1.0
    p: float = 0.5

    identity = {"exponent": torch.tensor(1.0), "offset": torch.zeros(2)}
    columns = 3
    commutes_with_flips = True
    cpu_kernel = raise_to_a_power

    def draw(self, uniform: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
        low, high = self.gamma
        return {"exponent": (low + (high - low) * uniform[..., 0]).float(), "offset": (uniform[..., 1:] / 10).float()}

    def apply(self, images: Tensor, drawn: Draws, scale: float = 1.0) -> Tensor:
        offset = drawn["offset"][:, torch.arange(images.shape[1]) % 2, None, None]
        changed = ((self.gain * images) ** per_image(drawn["exponent"]) / self.gain + offset).clamp(0, 1)
        is_identity = (drawn["exponent"] == 1) & (drawn["offset"] == 0).all(1)
        return torch.where(per_image(is_identity), images, changed)

    def require_channels(self, channels: int) -> None:
        if channels > 4:
            fail("Gamma", "images of up to 4 channels", f"{channels}", "leave it out: recipe.without(Gamma).")

    def kernel_fields(self, channels: int, size: tuple[int, int], scale: float) -> list[float]:
        return [self.gain]

    def kernel_scratch(self, channels: int, size: tuple[int, int]) -> int:
        return size[0] * size[1]


@dataclass(frozen=True, repr=False)
class Shear(ops.Operation):
    """Move every line by a whole number of pixels; without a kernel, geometric, and of no commutation with flips."""

    most: int = 5
    p: float = 1.0

    identity = {"pixels": torch.tensor(0)}
    columns = 1
    is_geometric = True
    needs_unit_range = False

    def draw(self, uniform: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
        return {"pixels": (uniform[..., 0] * (self.most + 1)).long()}

    def apply(self, images: Tensor, drawn: Draws, scale: float = 1.0) -> Tensor:
        moved = (drawn["pixels"] * scale).round().long()
        return torch.stack([image.roll(int(pixels), -1) for image, pixels in zip(images, moved, strict=True)])


@dataclass(frozen=True, repr=False)
class Border(ops.Operation):
    """Blacken the first line: nothing is drawn."""

    def apply(self, images: Tensor, drawn: Draws, scale: float = 1.0) -> Tensor:
        images = images.clone()
        images[..., 0, :] = 0
        return images


RECIPE = ViewRecipe(
    (20, 24),
    [
        ops.RandomResizedCrop(), ops.RandomHorizontalFlip(), Gamma(), ops.ColorJitter(0.4), Shear(p=0.7), ops.RandomVerticalFlip(),
        ops.RandomApply([Gamma((2.0, 3.0), gain=0.9), ops.GaussianBlur(3)]), Border(), ops.Normalize(MEAN, STD), Shear(3),
    ],
)  # fmt: skip


def views_of(recipe: ViewRecipe, renderer: str = "auto", tie: Any = None) -> CandidateViews:
    return CandidateViews(ViewSlot(recipe, 3, 1, tie=tie), renderer=renderer)


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_renderers_are_equal(channels: int, scale: float) -> None:
    recipe = RECIPE if channels == 3 else RECIPE.without(ops.Normalize)
    images = of_dtype(pictures(30, 40, channels), torch.uint8)
    params = views_of(recipe).make_params(images)
    rendered = [views_of(recipe, renderer).transform(images, params, scale)[0] for renderer in ("auto", "cpu", "definition")]
    assert torch.equal(rendered[0], rendered[1])
    torch.testing.assert_close(rendered[1], rendered[2], atol=1e-5 / min(STD), rtol=0)


def test_what_is_drawn_is_applied() -> None:
    images = pictures(24, 24)
    recipe = ViewRecipe(24, [ops.RandomResizedCrop(scale=(1, 1), ratio=(1, 1)), Gamma(p=1.0), Shear()])
    for renderer in ("cpu", "definition"):
        (views,), params = views_of(recipe, renderer)(images)
        exponent, offset, pixels = (params.drawn[name] for name in ("Gamma.exponent", "Gamma.offset", "Shear.pixels"))
        for view, image in ((0, 0), (2, 5)):
            added = offset[view, image][[0, 1, 0]].view(3, 1, 1)
            expected = (images[image] ** exponent[view, image] + added).clamp(0, 1).roll(int(pixels[view, image]), -1)
            torch.testing.assert_close(views[view, image], expected, atol=1e-5, rtol=0)


def test_draws_are_recorded_and_replayed_and_saved(tmp_path: Path) -> None:
    images = of_dtype(pictures(30, 40), torch.uint8)
    views = views_of(RECIPE)
    (rendered,), params = views(images)
    count = len(images)
    shapes = {
        name: (tuple(value.shape), value.dtype) for name, value in params.drawn.items() if name.startswith(("Gamma", "Shear"))
    }
    assert shapes == {
        "Gamma.exponent": ((3, count), torch.float32),
        "Gamma.offset": ((3, count, 2), torch.float32),
        "Gamma-2.exponent": ((3, count), torch.float32),
        "Gamma-2.offset": ((3, count, 2), torch.float32),
        "Shear.pixels": ((3, count), torch.int64),
        "Shear-2.pixels": ((3, count), torch.int64),
    }
    applied = params.draws("Gamma")["exponent"] != 1
    assert applied.any() and not applied.all() and (params.draws("Gamma")["offset"][~applied] == 0).all()
    params.save(tmp_path / "params.safetensors")
    loaded = ViewParams.load(tmp_path / "params.safetensors")
    assert loaded == params
    assert torch.equal(views.transform(images, loaded)[0], rendered)
    chosen = params.select(torch.tensor([[2] * count]))
    assert torch.equal(views.transform(images, chosen)[0][0], rendered[2])


def test_in_a_recipe() -> None:
    changed = RECIPE.replace(Gamma, gain=0.5).replace(Shear, most=1)
    assert repr(changed.operations[2]) == "Gamma(gain=0.5)"
    assert (
        repr(changed.find(ops.RandomApply))
        == "RandomApply(transforms=(Gamma(gamma=(2, 3), gain=0.5), GaussianBlur(kernel_size=3)))"
    )
    assert RECIPE.find(Gamma) == Gamma()
    without = RECIPE.without(Gamma).without(Shear).without(Border)
    assert [type(operation).__name__ for operation in without.operations] == [
        "RandomResizedCrop", "RandomHorizontalFlip", "ColorJitter", "RandomVerticalFlip", "RandomApply", "Normalize",
    ]  # fmt: skip
    assert without.find(Gamma) is None and len(without.operations[4].members) == 1
    with pytest.raises(HVSError, match=r"ViewRecipe.replace\(Gamma\): expected one of gain, gamma, p, got 'gian'"):
        RECIPE.replace(Gamma, gian=1.0)
    with pytest.raises(HVSError, match=r"ViewRecipe.without\(Gamma\): expected an operation of the recipe: .*, got Gamma"):
        without.without(Gamma)
    lines = RECIPE.torchvision_lines()
    assert "v2.Gamma()" in lines and "v2.Shear(p=0.7)" in lines and "v2.Border()" in lines
    assert "v2.RandomApply([v2.Gamma(gamma=(2, 3), gain=0.9), v2.GaussianBlur(kernel_size=3)], p=0.5)" in lines


def test_changing_others_changes_none_of_its_draws() -> None:
    images = torch.empty(9, 3, 30, 40)

    def drawn(recipe: ViewRecipe) -> dict[str, Tensor]:
        return views_of(recipe).make_params(images, torch.Generator().manual_seed(0)).draws("Gamma")

    expected = drawn(RECIPE)
    for recipe in (RECIPE.without(ops.ColorJitter), RECIPE.replace(Shear, most=9), RECIPE.without(Border)):
        assert all(torch.equal(value, expected[name]) for name, value in drawn(recipe).items())


def test_what_is_geometric_is_tied() -> None:
    params = views_of(RECIPE, tie="crop").make_params(torch.empty(50, 3, 30, 40))
    assert all(torch.equal(params.drawn["Shear.pixels"][0], row) for row in params.drawn["Shear.pixels"])
    assert not torch.equal(params.drawn["Gamma.exponent"][0], params.drawn["Gamma.exponent"][1])


def test_channels_that_it_does_not_define_are_refused() -> None:
    recipe = ViewRecipe(8, [ops.RandomResizedCrop(), ops.RandomApply([Gamma()])])
    with pytest.raises(HVSError, match=r"Gamma: expected images of up to 4 channels, got 5.\n.*recipe.without\(Gamma\)"):
        views_of(recipe)(torch.zeros(2, 5, 9, 9))


def test_fields_are_checked_where_they_are_given() -> None:
    with pytest.raises(HVSError, match=r"Gamma\(p\): expected a number in \[0, 1\], got float 1.5"):
        Gamma(p=1.5)


WRONG: list[tuple[Any, str]] = [
    (
        lambda shape: {"amount": torch.zeros(shape)},
        r"amount: expected a torch.float32 tensor of shape \(3, 4, 2\), as identity says",
    ),
    (lambda shape: {"amount": torch.zeros(*shape, 3)}, r"got a float32 tensor of shape \(3, 4, 3\)"),
    (lambda shape: {"amount": torch.zeros(shape[0], 1, 2)}, r"got a float32 tensor of shape \(3, 1, 2\)"),
    (lambda shape: {"amount": torch.zeros(*shape, 2, dtype=torch.float64)}, "got a float64 tensor"),
    (lambda shape: {"amount": [[0.0] * shape[1]] * shape[0]}, "got list"),
    (lambda shape: {"amuont": torch.zeros(*shape, 2)}, r"expected the parameters \['amount'\], got \['amuont'\]"),
    (lambda shape: {}, r"expected the parameters \['amount'\], got \[\]"),
    (lambda shape: None, r"expected the parameters \['amount'\], got NoneType None"),
    (lambda shape: torch.zeros(*shape, 2), r"expected the parameters \['amount'\], got a float32 tensor"),
]


@pytest.mark.parametrize(("made", "said"), WRONG)
def test_a_draw_of_a_wrong_shape_is_refused(made: Any, said: str) -> None:
    @dataclass(frozen=True, repr=False)
    class Wrong(ops.Operation):
        p: float = 0.5
        identity = {"amount": torch.zeros(2)}
        columns = 1

        def draw(self, uniform: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
            return made(tuple(uniform.shape[:2]))

    for steps in ([Wrong()], [ops.RandomApply([Wrong()])]):
        views = views_of(ViewRecipe(8, [ops.RandomResizedCrop(), *steps]))
        with pytest.raises(HVSError, match=r"Wrong.draw") as error:
            views.make_params(torch.zeros(4, 3, 9, 9))
        assert error.match(said)


def test_two_of_one_name_that_draw_different_things_are_refused() -> None:
    @dataclass(frozen=True, repr=False)
    class Gamma(ops.Operation):
        identity = {"exponent": torch.zeros(3)}
        columns = 3

    slots = [ViewSlot(ViewRecipe(8, [ops.RandomResizedCrop(), step]), 2, 1) for step in (globals()["Gamma"](), Gamma())]
    with pytest.raises(HVSError, match="expected one operation of the name Gamma, got two that draw exponent otherwise"):
        CandidateViews(slots)


def test_a_kernel_knows_itself_in_another_process() -> None:
    import pickle

    assert pickle.loads(pickle.dumps(Gamma.cpu_kernel)).function is raise_to_a_power.function


def test_what_a_class_says_is_checked_where_it_is_written() -> None:
    with pytest.raises(
        HVSError, match=r"Shadowed.cpu_kernel: expected a function made with hvs_aug.ops.cpu_kernel, or None, got tuple"
    ):

        class Shadowed(ops.Operation):
            power: tuple[float, float] = (0.5, 2.0)
            cpu_kernel = power

    with pytest.raises(
        HVSError, match=r"Numbers.identity: expected a tensor for each parameter, by its name, got dict {'power': 1.0}"
    ):

        class Numbers(ops.Operation):
            identity = {"power": 1.0}


@dataclass(frozen=True)
class Root(ops.Operation):
    """A square root, which is NaN below 0."""

    def apply(self, images: Tensor, drawn: Draws, scale: float = 1.0) -> Tensor:
        return images.sqrt()


@pytest.mark.parametrize("renderer", ["definition", "cpu"])
def test_an_operation_without_a_kernel_sees_values_from_0_to_1(renderer: Any) -> None:
    # A blur of white is 1 but for a rounding error, and inverted a little below 0.
    recipe = ViewRecipe((15, 58), [ops.RandomResizedCrop(), ops.GaussianBlur(13, (2.6, 2.7)), ops.RandomInvert(1.0), Root()])
    views = CandidateViews(ViewSlot(recipe, 4, 1), renderer=renderer)
    white = torch.ones(3, 3, 40, 30)
    params = views.make_params(white, torch.Generator().manual_seed(0))
    without = CandidateViews(ViewSlot(recipe.without(Root), 4, 1), renderer="definition")
    assert (without.transform(white, params)[0] < 0).any()
    assert views.transform(white, params)[0].isfinite().all()


@dataclass(frozen=True)
class Negated(ops.Operation):
    """What is above 0 becomes negative."""

    needs_unit_range = False

    def apply(self, images: Tensor, drawn: Draws, scale: float = 1.0) -> Tensor:
        return -images


@pytest.mark.parametrize("renderer", ["definition", "cpu"])
def test_an_operation_after_normalize_sees_what_that_makes(renderer: Any) -> None:
    recipe = ViewRecipe(8, [ops.RandomResizedCrop(), ops.Normalize(MEAN, STD), Negated()])
    views = CandidateViews(ViewSlot(recipe, 1, 1), renderer=renderer)
    black = torch.zeros(1, 3, 8, 8)
    (seen,) = views.transform(black, views.make_params(black))
    torch.testing.assert_close(seen[0, 0, :, 0, 0], torch.tensor([mean / std for mean, std in zip(MEAN, STD, strict=True)]))
