"""The kernels for the CPU against the definitions: every operation alone, recipes of several, images of every kind."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from hvs_aug import CandidateViews, ViewParams, ViewRecipe, ViewSlot, ops
from hvs_aug.data import ImageBatch
from hvs_aug.ops import cpu
from hvs_aug.ops.operation import Draws, per_image
from tests.ops.pictures import MEAN, OPERATIONS, STD, of_dtype, pictures

TOLERANCE = 1e-5
WHOLE = ops.RandomResizedCrop(scale=(1, 1), ratio=(1, 1))


@dataclass(frozen=True, repr=False)
class Power(ops.Operation):
    """An operation without a kernel."""

    p: float = 0.5

    identity = {"exponent": torch.tensor(1.0)}
    columns = 1

    def draw(self, uniform: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
        return {"exponent": 1 + uniform[..., 0]}

    def apply(self, images: Tensor, drawn: Draws, scale: float = 1.0) -> Tensor:
        return images ** per_image(drawn["exponent"])


# An operation at whose thresholds a rounding error becomes a step.
STEPS = (ops.RandomSolarize, ops.RandomPosterize, ops.RandomEqualize, ops.RandomAutocontrast)
ROUNDING = 1e-5  # as much as TOLERANCE lets the renderers differ


def chains(views: CandidateViews, images: Tensor, params: ViewParams, scale: float) -> list[Tensor]:
    """The definition's views, then the same with rounding errors before every operation that has steps: up, down and random."""
    recipe: ViewRecipe = views.slots[0].recipe
    plan = recipe.plan(scale)
    bare = CandidateViews(replace(views.slots[0], recipe=ViewRecipe(recipe.size, [recipe.crop])), renderer="definition")
    cropped = bare.transform(images, replace(params, drawn={}), scale)[0]
    shape, flat = cropped.shape, cropped.flatten(0, 1)
    mirrored = plan.mirrored({name: flattened(params.draws(name)) for name, _ in recipe.steps}, len(flat))
    for axis, column in ((-1, 0), (-2, 1)):
        flat = torch.where(per_image(mirrored[:, column]), flat.flip(axis), flat)
    noise = torch.rand(flat.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    chain = [flat, flat, flat, flat]
    errors: list[Tensor | float] = [0.0, ROUNDING, -ROUNDING, ROUNDING * noise]
    for name, operation in plan.steps:
        drawn = flattened(params.draws(name))
        if isinstance(operation, STEPS):
            chain = [(values + error).clamp(0, 1) for values, error in zip(chain, errors, strict=True)]
        chain = [plan.apply((name, operation), values, drawn) for values in chain]
    return [values.view(shape) for values in chain]


def flattened(draws: Draws) -> dict[str, Tensor]:
    return {name: value.flatten(0, 1) for name, value in draws.items()}


def compare(
    recipe: ViewRecipe, images: Tensor | ImageBatch, scale: float = 1.0, seed: int = 0, views: int = 2, steps: bool = False
) -> None:
    """Render by both, and fail where they differ by more than the tolerance; ``steps`` allows for rounding at thresholds."""
    fast, definition = (CandidateViews(ViewSlot(recipe, views, 1), renderer=name) for name in ("cpu", "definition"))
    params = fast.make_params(images, torch.Generator().manual_seed(seed))
    (rendered,), (expected,) = fast.transform(images, params, scale), definition.transform(images, params, scale)
    assert rendered.shape == expected.shape and rendered.dtype == expected.dtype == torch.float32
    if steps and any(isinstance(step, STEPS) for _, step in recipe.steps):
        base, *others = chains(fast, images, params, scale)
        torch.testing.assert_close(expected, base, atol=1e-6, rtol=0)
        doubt = sum((other - base).abs() for other in others)
        assume((doubt <= 1e-4).float().mean() > 0.5)
        assert bool(((rendered - expected).abs() <= TOLERANCE + 2 * doubt).all()), (rendered - expected).abs().max()
    else:
        unit = 1 / min(STD) if recipe.find(ops.Normalize) else 1
        torch.testing.assert_close(rendered, expected, atol=TOLERANCE * unit, rtol=0)


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.3])
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_alone(name: str, scale: float) -> None:
    # The crop takes all of a float image and keeps its size, so that both see the same values, bit for bit, and no threshold lies
    # between them.
    size = round(32 * scale)
    images = pictures(size, size)
    compare(ViewRecipe(32, [WHOLE, OPERATIONS[name]]), images, scale)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3), (65, 64), (17, 31)], ids=str)
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_at_odd_sizes(name: str, size: tuple[int, int]) -> None:
    operation = OPERATIONS[name]
    if name == "blur" and min(size) < 2:
        operation = ops.GaussianBlur(1)
    crop = ops.RandomResizedCrop(scale=(1, 1), ratio=(size[1] / size[0],) * 2)
    compare(ViewRecipe(size, [crop, operation]), pictures(*size))


@pytest.mark.parametrize("channels", [1, 2, 4, 13])
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_on_other_channels(name: str, channels: int) -> None:
    operation = OPERATIONS[name]
    if channels != 1 and name in ("jitter", "asymmetric jitter"):
        operation = replace(operation, contrast=0.0, saturation=0.0, hue=0.0)
    elif channels != 1 and name in ("grayscale", "autocontrast", "equalize", "sharpen", "smooth"):
        pytest.skip("torchvision defines it for one channel and three")
    if name == "erasing":
        operation = replace(operation, value=[0.1 * c for c in range(channels)])
    elif name == "rotation":
        operation = replace(operation, fill=[0.1 * c for c in range(channels)])
    elif name == "normalize":
        operation = ops.Normalize([0.4] * channels, [0.3] * channels)
    compare(ViewRecipe(24, [WHOLE, operation]), pictures(24, 24, channels))


@st.composite
def operations(draw: st.DrawFn, channels: int, side: int) -> ops.Operation:
    """Any operation that images of this many channels define, with any fields."""
    p = draw(st.sampled_from([0.3, 0.7, 1.0]))
    strength = st.floats(0, 1.5)
    made: list[ops.Operation] = [
        ops.RandomHorizontalFlip(p),
        ops.RandomVerticalFlip(p),
        ops.GaussianBlur(2 * draw(st.integers(0, min(side - 1, 6))) + 1, (0.1, draw(st.floats(0.2, 3))), p=p),
        ops.RandomSolarize(draw(st.floats(0, 1)), p),
        ops.RandomErasing(p, (0.02, draw(st.floats(0.1, 1))), value=draw(st.floats(0, 1))),
        ops.RandomRotation(draw(st.floats(0, 180)), draw(st.sampled_from(["nearest", "bilinear"])), draw(st.floats(0, 1)), p),
        ops.RandomPosterize(draw(st.integers(0, 8)), p),
        ops.RandomInvert(p),
        ops.ColorJitter(draw(strength), p=p),
        Power(p),
    ]
    if channels in (1, 3):
        made += [
            ops.ColorJitter(draw(strength), draw(strength), draw(strength), draw(st.floats(0, 0.5)), p=p),
            ops.RandomGrayscale(p),
            ops.RandomAutocontrast(p),
            ops.RandomEqualize(p),
            ops.RandomAdjustSharpness(draw(st.floats(0, 3)), p),
        ]
    return draw(st.sampled_from(made))


@st.composite
def recipes(draw: st.DrawFn, channels: int) -> ViewRecipe:
    size = draw(st.integers(1, 65)), draw(st.integers(1, 65))
    crop = ops.RandomResizedCrop(scale=(0.3, 1), interpolation=draw(st.sampled_from(["bilinear", "bicubic"])))
    one = operations(channels, min(size))
    group = st.lists(one, min_size=1, max_size=3)
    anything = st.one_of(one, one, st.builds(ops.RandomApply, group), st.builds(ops.RandomChoice, group))
    steps: list[ops.Operation] = [crop, *draw(st.lists(anything, min_size=1, max_size=5))]
    if draw(st.booleans()):
        steps.insert(0, ops.RandomHorizontalFlip())
    if draw(st.integers(0, 2)) == 0:
        mean, std = (MEAN * 5)[:channels], (0.5,) * channels
        steps += [ops.Normalize(mean, std), *draw(st.sampled_from([[], [ops.RandomErasing()], [ops.RandomVerticalFlip()]]))]
    return ViewRecipe(size, steps)


@given(data=st.data())
@settings(max_examples=120)
def test_recipes_of_several_operations(data: st.DataObject) -> None:
    channels = data.draw(st.sampled_from([1, 3, 3, 3, 4, 13]))
    recipe = data.draw(recipes(channels))
    images = pictures(data.draw(st.integers(1, 65)), data.draw(st.integers(1, 65)), channels, count=3)
    compare(recipe, images, data.draw(st.sampled_from([1.0, 0.5, 0.3])), data.draw(st.integers(0, 99)), steps=True)


COLOURS = ViewRecipe(
    20, [ops.RandomResizedCrop(), ops.RandomHorizontalFlip(), ops.ColorJitter(0.4, 0.4, 0.4, 0.1), ops.GaussianBlur(5)]
)


@pytest.mark.parametrize("layout", ["contiguous", "channels last", "sliced", "expanded", "transposed", "offset", "packed"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_images_of_every_dtype_and_layout(dtype: torch.dtype, layout: str) -> None:
    plain = of_dtype(pictures(33, 47, count=6), dtype)
    images: Tensor | ImageBatch = plain
    if layout == "channels last":
        images = plain.contiguous(memory_format=torch.channels_last)
    elif layout == "sliced":
        wide = torch.zeros(6, 3, 40, 60, dtype=torch.float64).to(dtype) if dtype != torch.uint16 else plain.new_zeros(6, 3, 40, 60)
        wide[:, :, 4:37, 7:54] = plain
        images = wide[:, :, 4:37, 7:54]
    elif layout == "expanded":
        images = plain[:1].expand(6, -1, -1, -1)
        plain = images.contiguous()
    elif layout == "transposed":
        images = plain.transpose(2, 3).contiguous().transpose(2, 3)
    elif layout == "offset":
        images = torch.cat([plain, plain])[6:]
    elif layout == "packed":
        images = ImageBatch.pack(list(plain if dtype in (torch.uint8, torch.uint16, torch.float32) else plain.float()))
    definition, fast = (CandidateViews(ViewSlot(COLOURS, 3, 1), renderer=name) for name in ("definition", "cpu"))
    params = fast.make_params(plain, torch.Generator().manual_seed(0))
    expected = definition.transform(as_float(plain), params)[0]
    for views in (definition, fast):
        torch.testing.assert_close(views.transform(images, params)[0], expected, atol=TOLERANCE, rtol=0)


def as_float(images: Tensor) -> Tensor:
    if images.dtype == torch.uint8:
        return images / 255
    return images.to(torch.int32) / 65535 if images.dtype == torch.uint16 else images.float()


def test_packed_images_of_different_sizes() -> None:
    sizes = [(1, 1), (40, 31), (7, 90), (64, 2), (33, 33)]
    images = [of_dtype(pictures(*size, count=1), torch.uint8)[0] for size in sizes]
    batch = ImageBatch.pack(images)
    compare(COLOURS, batch)
    compare(COLOURS, batch[1:4])
    compare(COLOURS, batch[torch.tensor([4, 0, 2, 2])])
    views = CandidateViews(ViewSlot(COLOURS, 2, 1), renderer="cpu")
    params = views.make_params(batch)
    together = views.transform(batch, params)[0]
    for index, image in enumerate(images):
        alone = views.transform(image[None], params.of_images(slice(index, index + 1)))[0]
        assert torch.equal(alone[:, 0], together[:, index])


@pytest.mark.parametrize("renderer", ["cpu", "definition"])
def test_views_of_some_of_the_images_are_the_same(renderer: str) -> None:
    images = of_dtype(pictures(33, 47, count=6), torch.uint8)
    views = CandidateViews(ViewSlot(COLOURS, 1, 1), renderer=renderer)
    params = views.make_params(images)
    whole = views.transform(images, params)[0]
    for rows in (slice(None, None, 2), slice(1, 4), torch.tensor([5, 0])):
        assert torch.equal(views.transform(images[rows], params.of_images(rows))[0], whole[:, rows])


@pytest.mark.parametrize("renderer", ["cpu", "definition"])
def test_views_of_a_selection_are_the_same(renderer: str) -> None:
    images = of_dtype(pictures(33, 47, count=5), torch.uint8)
    views = CandidateViews(ViewSlot(COLOURS, 4, 2, tie="crop"), renderer=renderer)
    params = views.make_params(images)
    chosen = torch.tensor([[3, 0, 1, 1, 2], [0, 1, 2, 3, 3]])
    expected = views.transform(images, params)[0].gather(0, chosen.view(2, 5, 1, 1, 1).expand(-1, -1, 3, 20, 20))
    assert torch.equal(views.transform(images, params.select(chosen))[0], expected)


@pytest.mark.parametrize("renderer", ["cpu", "definition"])
def test_a_leaf_that_requires_gradients_is_read(renderer: str) -> None:
    images = pictures(12, 12).requires_grad_()
    views = CandidateViews(ViewSlot(COLOURS, 1, 1), renderer=renderer)
    for batch in (images, ImageBatch(images, torch.tensor([[12, 12]] * len(images)))):
        assert not views(batch)[0][0].requires_grad


def test_any_number_of_threads_renders_the_same() -> None:
    recipe = ViewRecipe(
        24, [ops.RandomResizedCrop(), *(operation for name, operation in OPERATIONS.items() if name != "normalize")]
    )
    images = of_dtype(pictures(40, 50, count=7), torch.uint8)
    views = CandidateViews(ViewSlot(recipe, 5, 1), renderer="cpu")
    params = views.make_params(images)
    before = torch.get_num_threads()
    rendered = []
    try:
        for threads in (1, 2, 5, 64):
            torch.set_num_threads(threads)
            rendered.append(views.transform(images, params)[0])
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(rendered[0], other) for other in rendered[1:])


@pytest.mark.parametrize("value", [0.1, 0.3, 0.4, 0.7])
def test_contrast_of_a_large_flat_view(value: float) -> None:
    """A sum of many equal numbers loses digits where they are added one after the other."""
    recipe = ViewRecipe(512, [WHOLE, ops.ColorJitter(contrast=(0, 0))])
    for channels in (1, 3):
        views = CandidateViews(ViewSlot(recipe, 1, 1), renderer="cpu")
        (rendered,), _ = views(torch.full((1, channels, 512, 512), value))
        torch.testing.assert_close(
            rendered, torch.full_like(rendered, value * (0.9999 if channels == 3 else 1)), atol=TOLERANCE, rtol=0
        )


@pytest.mark.parametrize("scale", [1.5, 2.0, 3.0])
def test_a_larger_scale_than_that_of_the_recipe(scale: float) -> None:
    compare(ViewRecipe(16, [WHOLE, ops.GaussianBlur(15, (3, 4)), ops.RandomErasing(1.0)]), pictures(30, 30), scale)


def test_equalize_and_posterize_of_values_beyond_the_unit_range() -> None:
    """A fill may be anything; histograms and levels must not be written outside of their memory."""
    outside = ops.RandomErasing(1.0, (0.3, 0.9), value=(1e9, -40.0, 3.0))
    for step in (ops.RandomEqualize(1.0), ops.RandomRotation(30, fill=(500.0, -1.0, 3.0))):
        recipe = ViewRecipe(32, [WHOLE, outside, step, ops.RandomEqualize(1.0)])
        fast, definition = (CandidateViews(ViewSlot(recipe, 1, 1), renderer=name) for name in ("cpu", "definition"))
        images = pictures(32, 32)
        params = fast.make_params(images)
        torch.testing.assert_close(
            fast.transform(images, params)[0], definition.transform(images, params)[0], atol=TOLERANCE, rtol=0
        )


def test_an_erased_box_that_was_drawn_for_a_larger_view_is_cut_off() -> None:
    large, small = (
        CandidateViews(ViewSlot(ViewRecipe(size, [WHOLE, ops.RandomErasing(1.0, (0.3, 0.9), value=0.5)]), 2, 1))
        for size in (200, 8)
    )
    images = torch.ones(4, 3, 16, 16)
    params = large.make_params(images)
    definition = CandidateViews(small.slots, renderer="definition")
    torch.testing.assert_close(small.transform(images, params)[0], definition.transform(images, params)[0])


@pytest.mark.parametrize("renderer", ["cpu", "definition"])
def test_params_whose_draws_have_another_shape_are_refused(renderer: str) -> None:
    views = CandidateViews(ViewSlot(COLOURS, 2, 1), renderer=renderer)
    images = torch.zeros(3, 3, 8, 8)
    params = views.make_params(images)
    for wrong in (torch.ones(2, 3, 3), torch.ones(2, 3, 4, dtype=torch.float64)):
        with pytest.raises(
            ValueError, match=r"transform\(params\): expected ColorJitter.factors as a torch.float32 tensor of shape"
        ):
            views.transform(images, replace(params, drawn={**params.drawn, "ColorJitter.factors": wrong}))
    with pytest.raises(ValueError, match=r"params without \['GaussianBlur.sigma'\]"):
        views.transform(images, replace(params, drawn={k: v for k, v in params.drawn.items() if k != "GaussianBlur.sigma"}))


@pytest.mark.parametrize(("taps", "sigma"), [(9, (0.1, 0.5)), (23, (0.1, 2.0)), (31, (4.0, 9.0))])
def test_wide_blurs(taps: int, sigma: tuple[float, float]) -> None:
    compare(ViewRecipe(64, [WHOLE, ops.GaussianBlur(taps, sigma)]), pictures(64, 64), views=4)


def test_equalize_of_steps_of_several_pixels() -> None:
    compare(ViewRecipe(64, [WHOLE, ops.RandomEqualize(1.0)]), pictures(64, 64) ** 2)


def test_two_flips_of_one_kind_are_none() -> None:
    images = pictures(16, 16)
    for flip in (ops.RandomHorizontalFlip, ops.RandomVerticalFlip):
        for steps in ([flip(1.0), flip(1.0)], [flip(1.0), ops.RandomErasing(0.0), flip(1.0)]):
            views = CandidateViews(ViewSlot(ViewRecipe(16, [WHOLE, *steps]), 1, 1), renderer="cpu")
            assert torch.equal(views(images)[0][0][0], images)
        compare(ViewRecipe(16, [ops.RandomResizedCrop(), flip(), ops.RandomInvert(), flip()]), images, views=6)


def test_a_user_is_told_of_slow_compiling_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(cpu, "_SLOW", -1.0)
    monkeypatch.setattr(cpu, "_slow_compilations", itertools.count())
    with caplog.at_level("INFO", logger="hvs_aug"):
        for _ in range(2):
            cpu._walk.__wrapped__("uint8", ())
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_a_slow_compilation_is_said_with_its_seconds_the_first_one_louder(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = iter([10.0, 17.0, 20.0, 20.5, 30.0, 32.0])  # 7 s, half a second, 2 s
    monkeypatch.setattr(cpu, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    monkeypatch.setattr(cpu, "_compiled_walk", lambda dtype: dtype)
    monkeypatch.setattr(cpu, "_slow_compilations", itertools.count())
    with caplog.at_level("INFO", "hvs_aug"):
        assert [cpu._walk.__wrapped__(dtype, ()) for dtype in ("uint8", "float16", "float32")] == ["uint8", "float16", "float32"]
    said = [(record.levelname, record.getMessage().partition(";")[0]) for record in caplog.records]
    assert said == [("WARNING", "hvs_aug compiled its CPU renderer in 7 s"), ("INFO", "hvs_aug compiled its CPU renderer in 2 s")]
