"""What holds for every operation: the identity, no change of the input, batches as one by one, any default dtype and device."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from hvs_aug import CandidateViews, HVSError, ViewParams, ViewRecipe, ViewSlot, ops
from hvs_aug.ops.operation import masked
from tests.ops.pictures import OPERATIONS, of_dtype, pictures

WHOLE = ops.RandomResizedCrop(scale=(1, 1), ratio=(1, 1))
RENDERERS = ("definition", "cpu")


def draw(operation: ops.Operation, count: int, size: tuple[int, int]) -> dict[str, Tensor]:
    """Parameters of ``count`` views, of which every third has those of the identity."""
    uniform = torch.rand(1, count, operation.columns, generator=torch.Generator().manual_seed(0))
    drawn = masked(operation, operation.draw(uniform, size), torch.arange(count)[None] % 3 > 0)
    return {name: value[0] for name, value in drawn.items()}


def identities(operation: ops.Operation, count: int) -> dict[str, Tensor]:
    return {name: value.expand(count, *value.shape) for name, value in operation.identity.items()}


DRAWN = [name for name, operation in OPERATIONS.items() if operation.identity]


@pytest.mark.parametrize("scale", [1.0, 0.3])
@pytest.mark.parametrize("name", DRAWN)
def test_identity_parameters_keep_every_bit(name: str, scale: float) -> None:
    operation, images = OPERATIONS[name], pictures(19, 24)
    assert torch.equal(operation.apply(images, identities(operation, len(images)), scale), images)


@pytest.mark.parametrize("name", DRAWN)
def test_what_is_not_drawn_keeps_every_bit_on_every_renderer(name: str) -> None:
    images = pictures(24, 24)
    plain = CandidateViews(ViewSlot(ViewRecipe(24, [ops.RandomResizedCrop()]), 2, 1))
    for renderer in RENDERERS:
        views = CandidateViews(ViewSlot(ViewRecipe(24, [ops.RandomResizedCrop(), OPERATIONS[name]]), 2, 1), renderer=renderer)
        params = plain.make_params(images)
        drawn = {
            key: value.expand(2, len(images), *value.shape)
            for key, value in (
                (f"{type(OPERATIONS[name]).__name__}.{key}", value) for key, value in OPERATIONS[name].identity.items()
            )
        }
        changed = views.transform(images, ViewParams(params.boxes, params.sizes, params.slots, drawn=drawn))[0]
        plain.renderer = renderer
        assert torch.equal(changed, plain.transform(images, params)[0])


@pytest.mark.parametrize("name", OPERATIONS)
def test_inputs_are_never_changed_and_results_share_no_memory(name: str) -> None:
    operation, images = OPERATIONS[name], pictures(19, 24)
    for drawn in (draw(operation, len(images), (19, 24)), identities(operation, len(images))):
        before, drawn_before = images.clone(), {key: value.clone() for key, value in drawn.items()}
        changed = operation.apply(images, drawn)
        assert torch.equal(images, before) and all(torch.equal(drawn[key], value) for key, value in drawn_before.items())
        changed.add_(1)
        assert torch.equal(images, before)


@pytest.mark.parametrize("renderer", RENDERERS)
def test_images_and_params_are_never_changed(renderer: str) -> None:
    recipe = ViewRecipe(24, [WHOLE, *OPERATIONS.values()])
    views = CandidateViews(ViewSlot(recipe, 3, 1), renderer=renderer)
    for images in (pictures(24, 24), of_dtype(pictures(24, 24), torch.uint8)):
        params = views.make_params(images)
        before, params_before = images.clone(), copy.deepcopy(params)
        rendered = views.transform(images, params)[0]
        assert torch.equal(images, before) and params == params_before
        assert torch.equal(views.transform(images, params)[0], rendered)


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_batch_is_rendered_as_its_images_are(name: str) -> None:
    operation, images = OPERATIONS[name], pictures(19, 24)
    drawn = draw(operation, len(images), (19, 24))
    together = operation.apply(images, drawn)
    for index in range(len(images)):
        alone = operation.apply(images[index : index + 1], {key: value[index : index + 1] for key, value in drawn.items()})
        torch.testing.assert_close(together[index : index + 1], alone, atol=1e-6, rtol=0)


@pytest.mark.parametrize("renderer", RENDERERS)
def test_a_batch_that_is_rendered_in_parts_is_the_same(renderer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    views, images = CandidateViews(ViewSlot(RECIPE, 3, 1), renderer=renderer), pictures(33, 40)
    params = views.make_params(images)
    (whole,) = views.transform(images, params)
    monkeypatch.setattr("hvs_aug.ops.batched._CHUNK_BYTES", 8 * 3 * 33 * 24 * 5)  # five views
    torch.testing.assert_close(views.transform(images, params)[0], whole, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", OPERATIONS)
def test_empty_batches(name: str) -> None:
    operation = OPERATIONS[name]
    assert operation.apply(torch.zeros(0, 3, 8, 9), draw(operation, 0, (8, 9))).shape == (0, 3, 8, 9)
    for renderer in RENDERERS:
        views = CandidateViews(ViewSlot(ViewRecipe(8, [WHOLE, operation]), 2, 1), renderer=renderer)
        for images in (torch.zeros(0, 3, 8, 8), torch.zeros(0, 3, 8, 8, dtype=torch.uint8)):
            (rendered,), params = views(images)
            assert rendered.shape == (2, 0, 3, 8, 8) and rendered.dtype == torch.float32 and len(params) == 2


@pytest.mark.parametrize("channels", [2, 4, 13])
@pytest.mark.parametrize(
    ("operation", "said"),
    [
        (ops.RandomGrayscale(0.2), "RandomGrayscale: expected images of 1 or 3 channels"),
        (ops.RandomAutocontrast(), "RandomAutocontrast: expected images of 1 or 3 channels"),
        (ops.RandomEqualize(), "RandomEqualize: expected images of 1 or 3 channels"),
        (ops.RandomAdjustSharpness(2.0), "RandomAdjustSharpness: expected images of 1 or 3 channels"),
        (ops.ColorJitter(0.4, 0.4, 0.0, 0.1), r"ColorJitter\(contrast, hue\): expected images of 1 or 3 channels"),
        (ops.Normalize([0.5] * 3, [0.5] * 3), r"Normalize\(mean\): expected one mean for each of the images' {channels} channels"),
        (
            ops.RandomErasing(value=[0.1] * 3),
            r"RandomErasing\(value\): expected one number, or one for each of {channels} channels",
        ),
        (
            ops.RandomRotation(10, fill=[0.1] * 3),
            r"RandomRotation\(fill\): expected one number, or one for each of {channels} channels",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_channels_that_an_operation_does_not_define_are_refused(
    operation: ops.Operation, said: str, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = type(operation).__name__

    def rendered(*_: object) -> None:
        raise AssertionError("something was rendered")

    for name in ("batched", "cpu"):
        monkeypatch.setattr(f"hvs_aug.ops.{name}.render", rendered)
    members = [[operation], [ops.RandomApply([operation])]] if operation.identity else [[operation]]
    for steps in members:
        for renderer in RENDERERS:
            views = CandidateViews(ViewSlot(ViewRecipe(8, [WHOLE, ops.RandomInvert(), *steps]), 2, 1), renderer=renderer)
            with pytest.raises(HVSError, match=said.format(channels=channels)) as error:
                views(torch.zeros(2, channels, 9, 9))
            assert f"without({kind})" in str(error.value)


@pytest.mark.parametrize("channels", [2, 13])
def test_operations_of_probability_zero_refuse_no_channels(channels: int) -> None:
    steps = [
        ops.RandomGrayscale(0.0),
        ops.RandomEqualize(0.0),
        ops.ColorJitter(0.4, 0.4, p=0.0),
        ops.RandomAdjustSharpness(2.0, p=0.0),
    ]
    for renderer in RENDERERS:
        views = CandidateViews(ViewSlot(ViewRecipe(8, [WHOLE, *steps, ops.RandomAutocontrast(0.0)]), 2, 1), renderer=renderer)
        images = torch.rand(2, channels, 8, 8)
        torch.testing.assert_close(views(images)[0][0], images.expand(2, -1, -1, -1, -1))


RECIPE = ViewRecipe(
    (20, 24),
    [
        ops.Resize(30), ops.CenterCrop(28), ops.RandomHorizontalFlip(), ops.RandomResizedCrop(interpolation="bicubic"),
        ops.RandomApply([ops.ColorJitter(0.4, 0.4, 0.4, 0.1), ops.GaussianBlur(3)], p=0.8),
        ops.RandomRotation(20, "bilinear", fill=0.5), ops.RandomChoice([ops.RandomSolarize(), ops.RandomEqualize()], p=[0.3, 0.7]),
        ops.RandomPosterize(5), ops.RandomAutocontrast(), ops.RandomAdjustSharpness(1.7), ops.RandomGrayscale(), ops.RandomInvert(),
        ops.RandomVerticalFlip(), ops.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ops.RandomErasing(),
    ],
)  # fmt: skip


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))], ids=["deepcopy", "pickle"])
def test_copies_are_equal_and_render_the_same(copied: object) -> None:
    for operation in OPERATIONS.values():
        again = copied(operation)  # type: ignore[operator]
        assert again == operation and hash(again) == hash(operation) and type(again) is type(operation)
        assert again.cpu_kernel is operation.cpu_kernel
    recipe = copied(RECIPE)  # type: ignore[operator]
    assert recipe == RECIPE and hash(recipe) == hash(RECIPE)
    images = of_dtype(pictures(33, 40), torch.uint8)
    views = CandidateViews(ViewSlot(RECIPE, 2, 1))
    params = views.make_params(images)
    expected = views.transform(images, params)[0]  # the recipe now holds what it computed once
    for other in (CandidateViews(ViewSlot(recipe, 2, 1)), CandidateViews(ViewSlot(copied(RECIPE), 2, 1)), copied(views)):  # type: ignore[operator]
        assert torch.equal(other.transform(images, params)[0], expected)


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize("steps", [[ops.RandomResizedCrop()], list(RECIPE.operations)], ids=["crop alone", "all operations"])
@pytest.mark.parametrize(("dtype", "device"), [(torch.float64, "cpu"), (torch.float32, "meta"), (torch.float16, "meta")], ids=str)
def test_default_dtype_and_device_change_nothing(
    dtype: torch.dtype, device: str, steps: list[ops.Operation], renderer: str
) -> None:
    images = of_dtype(pictures(33, 40), torch.uint8)
    generator = torch.Generator()

    def render(scale: float) -> tuple[Tensor, ViewParams]:
        views = CandidateViews(ViewSlot(ViewRecipe((20, 24), steps), 2, 1), renderer=renderer)
        params = views.make_params(images, generator.manual_seed(0))
        return views.transform(images, params, scale)[0], params

    for scale in (1.0, 0.3):
        expected, expected_params = render(scale)
        torch.set_default_dtype(dtype)
        try:
            with torch.device(device):
                rendered, params = render(scale)
        finally:
            torch.set_default_dtype(torch.float32)
        assert params == expected_params
        assert torch.equal(rendered, expected) and rendered.dtype == torch.float32


def test_a_recipe_made_under_a_default_device_is_the_same() -> None:
    with torch.device("meta"):
        made = eval(repr(RECIPE), {name: getattr(ops, name) for name in ops.__all__} | {"ViewRecipe": ViewRecipe})
    assert made == RECIPE


@dataclass(frozen=True, repr=False)
class Halved(ops.RandomSolarize):
    """An operation of another meaning that inherits a kernel."""

    def apply(self, images: Tensor, drawn: dict[str, Tensor], scale: float = 1.0) -> Tensor:
        return torch.where(drawn["applied"].view(-1, 1, 1, 1), images / 2, images)


def test_an_operation_does_not_inherit_the_kernel_of_another_definition() -> None:
    images = pictures(8, 8)
    for renderer in RENDERERS:
        views = CandidateViews(ViewSlot(ViewRecipe(8, [WHOLE, Halved(p=1.0)]), 1, 1), renderer=renderer)
        torch.testing.assert_close(views(images)[0][0][0], images / 2)


@dataclass(frozen=True, repr=False)
class Renamed(ops.RandomSolarize):
    """An operation that only changes a default."""

    threshold: float = 0.1


def test_an_operation_of_the_same_definition_inherits_the_kernel() -> None:
    assert Renamed.cpu_kernel is ops.RandomSolarize.cpu_kernel
