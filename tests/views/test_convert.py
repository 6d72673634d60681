from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import lightly.transforms as lightly_transforms
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms as v1
from torchvision.transforms import v2

from hvs_aug import ops
from hvs_aug._check import HVSError
from hvs_aug.data.collate import collate_images
from hvs_aug.dropin.explain import differences
from hvs_aug.ops.operation import Draws, per_image
from hvs_aug.views.candidates import CandidateViews
from hvs_aug.views.convert import convert, convert_view, register_converter
from hvs_aug.views.converters import reading
from hvs_aug.views.presets import preset_slots
from hvs_aug.views.recipe import ViewRecipe, ViewSlot
from tests.views.repo_transforms import MEAN, STD, blur, dino, dino_blur, named, simsiam_view, solarize, two_crops


@pytest.fixture(autouse=True)
def own_converters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_registered", {})


def after_crop(*steps: Any, size: int = 32) -> list[ops.Operation]:
    """What is read of these transforms between a crop and ToTensor."""
    return list(convert_view([v1.RandomResizedCrop(size), *steps, v1.ToTensor()]).operations[1:])


def test_dino_is_the_preset() -> None:
    assert convert(dino()) == list(preset_slots("dino"))
    assert [slot.name for slot in convert(dino())] == ["global-1", "global-2", "local"]


def test_ibot_with_more_globals_and_no_locals() -> None:
    slots = convert(dino(locals_=0, name="DataAugmentationiBOT", global_crops_number=3))
    assert [(slot.candidates, slot.select, slot.role) for slot in slots] == [(2, 1, "global"), (4, 2, "global")]


def test_simsiam_is_the_preset() -> None:
    assert convert(two_crops(simsiam_view())) == list(preset_slots("simsiam"))


def test_sthalles_simclr_is_the_preset() -> None:
    pipeline = v1.Compose(
        [
            v1.RandomResizedCrop(size=96),
            v1.RandomHorizontalFlip(),
            v1.RandomApply([v1.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8),
            v1.RandomGrayscale(p=0.2),
            blur(k=9, r=4, blur_h=None, blur_v=None, blur=None),
            v1.ToTensor(),
        ]
    )
    views = named("ContrastiveLearningViewGenerator", lambda x: [pipeline(x), pipeline(x)], base_transform=pipeline, n_views=2)
    assert convert(views) == list(preset_slots("simclr-sthalles", size=96))


def test_mocov3_keeps_its_two_views_apart() -> None:
    one = simsiam_view()
    other = v1.Compose([*one.transforms[:5], solarize(1.0, name="Solarize", threshold=128), *one.transforms[5:]])
    slots = convert(
        named("TwoCropsTransform", lambda x: [one(x), other(x)], base_transform1=one, base_transform2=other), candidates=6
    )
    assert [(slot.candidates, slot.select) for slot in slots] == [(3, 1), (3, 1)]
    assert [slot.recipe.find(ops.RandomSolarize) for slot in slots] == [None, ops.RandomSolarize(0.5, p=1.0)]


@pytest.mark.parametrize("name", ["SimCLRTransform", "MoCoV1Transform", "MoCoV2Transform", "SimSiamTransform", "FastSiamTransform"])
def test_lightly_pairs(name: str) -> None:
    transform = getattr(lightly_transforms, name)()
    (slot,) = convert(transform)
    assert slot.select == len(transform.transforms) and slot.candidates == 2 * slot.select
    steps = transform.transforms[0].transform.transforms
    assert (slot.recipe.size, slot.recipe.crop.scale) == (steps[0].size[0], tuple(steps[0].scale))
    jitter = slot.recipe.find(ops.ColorJitter)
    assert isinstance(jitter, ops.ColorJitter) and jitter.hue == tuple(steps[4].transforms[0].hue) and jitter.p == steps[4].p
    blurred = slot.recipe.find(ops.GaussianBlur)
    assert getattr(blurred, "p", 0) == steps[6].prob
    assert slot.recipe.operations[-1] == ops.Normalize(MEAN, STD)


def test_lightly_multi_crop() -> None:
    slots = convert(lightly_transforms.DINOTransform(n_local_views=6))
    assert [(slot.name, slot.candidates, slot.select) for slot in slots] == [
        ("global-1", 2, 1),
        ("global-2", 2, 1),
        ("local", 12, 6),
    ]
    assert [getattr(slot.recipe.find(ops.GaussianBlur), "p", None) for slot in slots] == [1.0, 0.1, 0.5]
    assert [getattr(slot.recipe.find(ops.RandomSolarize), "p", None) for slot in slots] == [None, 0.2, None]
    assert [slot.recipe.size for slot in slots] == [224, 224, 96]
    assert len(convert(lightly_transforms.BYOLTransform())) == 2
    assert [slot.select for slot in convert(lightly_transforms.SwaVTransform())] == [2, 6]


def test_lightly_rotations_and_vertical_flips() -> None:
    def last(**options: Any) -> list[ops.Operation]:
        return list(convert(lightly_transforms.SimCLRTransform(**options))[0].recipe.operations)

    assert ops.RandomRotation((90.0, 90.0), p=0.5) in last(rr_prob=0.5)
    assert ops.RandomRotation((-10.0, 10.0), p=0.5) in last(rr_prob=0.5, rr_degrees=10.0)
    assert ops.RandomVerticalFlip(0.5) in last(vf_prob=0.5)


EXPECTED = ViewRecipe(
    64,
    [
        ops.RandomResizedCrop(scale=(0.3, 0.9), ratio=(0.5, 2.0), interpolation="bicubic"),
        ops.RandomHorizontalFlip(0.4),
        ops.ColorJitter(0.3, 1.2, 0.2, 0.05, p=0.7),
        ops.RandomGrayscale(0.25),
        ops.GaussianBlur(7, (0.2, 1.5), p=0.6),
        ops.RandomSolarize(127.5 / 255, p=0.15),
        ops.Normalize(MEAN, STD),
    ],
)


@pytest.mark.parametrize(
    "start, end",
    [
        ([], [v1.ToTensor(), v1.Normalize(MEAN, STD)]),
        ([v1.PILToTensor()], [v1.ConvertImageDtype(torch.float32), v1.Normalize(MEAN, STD)]),
        ([v2.ToImage(), v2.ToDtype(torch.uint8, scale=True)], [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]),
    ],
)
@pytest.mark.parametrize("api", [v1, v2])
def test_torchvision(api: Any, start: list[object], end: list[object]) -> None:
    pipeline = api.Compose(
        [
            *start,
            api.RandomResizedCrop(64, (0.3, 0.9), (0.5, 2.0), api.InterpolationMode.BICUBIC),
            api.RandomHorizontalFlip(0.4),
            api.RandomApply([api.ColorJitter(0.3, 1.2, 0.2, 0.05)], 0.7),
            api.RandomGrayscale(0.25),
            api.Compose([api.RandomApply(nn.ModuleList([api.GaussianBlur(7, (0.2, 1.5))]), 0.6)]),
            api.RandomSolarize(128, 0.15),
            *end,
        ]
    )
    assert convert_view(pipeline) == EXPECTED
    assert convert(pipeline) == [ViewSlot(EXPECTED, 4, 2, "view", "global")]


@pytest.mark.parametrize(
    "steps, operation",
    [
        ([v1.RandomVerticalFlip(0.3)], ops.RandomVerticalFlip(0.3)),
        ([v1.RandomRotation(10)], ops.RandomRotation(10.0)),
        ([v1.RandomRotation((5, 10), fill=51)], ops.RandomRotation((5.0, 10.0), fill=51 / 255)),
        ([v1.ToTensor(), v2.RandomRotation(10, fill=[0.1, 0.2, 0.3])], ops.RandomRotation(10.0, fill=(0.1, 0.2, 0.3))),
        ([v1.RandomPosterize(3, 0.2)], ops.RandomPosterize(3, 0.2)),
        ([v2.RandomInvert(0.2)], ops.RandomInvert(0.2)),
        ([v1.RandomAutocontrast(0.2)], ops.RandomAutocontrast(0.2)),
        ([v1.RandomEqualize(0.2)], ops.RandomEqualize(0.2)),
        ([v2.RandomAdjustSharpness(1.5, 0.2)], ops.RandomAdjustSharpness(1.5, 0.2)),
        ([v1.Grayscale(3)], ops.RandomGrayscale(1.0)),
        ([v1.ColorJitter((0.5, 2.0), hue=(0.0, 0.1))], ops.ColorJitter((0.5, 2.0), hue=(0.0, 0.1))),
        ([v1.ToTensor(), v1.RandomErasing(0.3)], ops.RandomErasing(0.3)),
        ([v1.ToTensor(), v2.RandomErasing(0.3, value=[0.1, 0.2, 0.3])], ops.RandomErasing(0.3, value=(0.1, 0.2, 0.3))),
        ([v2.ToImage(), v2.RandomErasing(0.3, value=51), v2.ToDtype(torch.float32, scale=True)], ops.RandomErasing(0.3, value=0.2)),
        ([v1.RandomApply([v1.RandomGrayscale(0.5)], 0.5)], ops.RandomGrayscale(0.25)),
        (
            [v1.RandomApply([v1.RandomGrayscale(0.5), v1.RandomInvert(0.5)], 0.5)],
            ops.RandomApply([ops.RandomGrayscale(0.5), ops.RandomInvert(0.5)], 0.5),
        ),
        (
            [v2.RandomChoice([v2.RandomGrayscale(0.5), v2.RandomInvert(0.5)], p=[1.0, 3.0])],
            ops.RandomChoice([ops.RandomGrayscale(0.5), ops.RandomInvert(0.5)], p=(0.25, 0.75)),
        ),
        (
            [v1.RandomChoice([v1.RandomGrayscale(0.5), v1.Compose([v1.RandomInvert(0.5), v1.RandomEqualize()])])],
            ops.RandomChoice([ops.RandomGrayscale(0.5), ops.RandomApply([ops.RandomInvert(0.5), ops.RandomEqualize()], 1.0)]),
        ),
        ([blur(0.4, p=0.4)], ops.GaussianBlur(23, p=0.4)),
        ([dino_blur(0.5, name="PILRandomGaussianBlur")], ops.GaussianBlur(23, p=0.5)),
        ([solarize(1.0)], ops.RandomSolarize(0.5, p=1.0)),
        ([solarize(1.0, name="Solarize", threshold=64)], ops.RandomSolarize(63.5 / 255, p=1.0)),
        ([v1.RandomSolarize(0.5, 0.2)], ops.RandomSolarize(0.5 / 255, p=0.2)),
        ([v1.RandomSolarize(200, 0.2)], ops.RandomSolarize(199.5 / 255, p=0.2)),
        ([v1.RandomSolarize(100.2, 0.2)], ops.RandomSolarize(100.5 / 255, p=0.2)),
        ([v1.ToTensor(), v1.RandomSolarize(0.7, 0.2)], ops.RandomSolarize(0.7, p=0.2)),
    ],
)
def test_one_operation(steps: list[Any], operation: ops.Operation) -> None:
    assert after_crop(*steps) == [operation]


@pytest.mark.parametrize(
    "step",
    [
        nn.Identity(),
        v2.Identity(),
        v1.ColorJitter(),
        v1.RandomGrayscale(0.0),
        v1.RandomApply([v1.Lambda(lambda x: x)], 0.0),
        v1.RandomSolarize(256, 0.5),
        v2.RGB(),
        v2.ToPureTensor(),
    ],
)
def test_what_does_nothing_is_left_out(step: Any) -> None:
    assert after_crop(step) == []


def test_what_is_always_applied_is_taken_out_of_random_apply() -> None:
    both = [v1.RandomGrayscale(0.5), v1.RandomHorizontalFlip(0.5)]
    assert after_crop(v1.RandomApply(both, 1.0)) == [ops.RandomGrayscale(0.5), ops.RandomHorizontalFlip(0.5)]


def test_what_stands_before_the_crop() -> None:
    steps = [
        v2.RGB(),
        v1.Resize((48, 40)),
        v1.CenterCrop(36),
        v1.RandomHorizontalFlip(0.5),
        v1.RandomResizedCrop(32),
        v1.ToTensor(),
    ]
    assert convert_view(steps).operations == (
        ops.Resize((48, 40)),
        ops.CenterCrop(36),
        ops.RandomHorizontalFlip(0.5),
        ops.RandomResizedCrop(),
    )
    steps = [v2.Resize(64, max_size=80, interpolation=Image.BICUBIC), v1.RandomResizedCrop((32, 48)), v1.ToTensor()]
    recipe = convert_view(steps)
    assert recipe.operations[0] == ops.Resize(64, "bicubic", 80) and recipe.size == (32, 48)


@pytest.mark.parametrize("api", [v1, v2])
@pytest.mark.parametrize(
    "mode, name", [(2, "bilinear"), (3, "bicubic"), (Image.Resampling.BILINEAR, "bilinear"), (Image.BICUBIC, "bicubic")]
)
def test_pillow_interpolations(api: Any, mode: int, name: str) -> None:
    assert convert_view([api.RandomResizedCrop(32, interpolation=mode), v1.ToTensor()]).crop.interpolation == name


def test_antialiasing_matters_for_tensors_only() -> None:
    crop = v1.RandomResizedCrop(32, antialias=False)
    assert convert_view([crop, v1.ToTensor()]).size == 32  # ToTensor takes Pillow images, which are always antialiased
    assert convert_view([v1.Resize(40, antialias=None), crop, v1.PILToTensor(), v1.ConvertImageDtype(torch.float32)]).size == 32
    assert convert_view([v2.ToImage(), v2.ToPILImage(), crop, v1.ToTensor()]).size == 32
    for steps in (
        [v2.ToImage(), crop],
        [crop, v2.ToImage()],
        [v1.ToTensor(), v1.Resize(40, antialias=None)],
        [v1.ToTensor(), crop],
    ):
        with pytest.raises(HVSError, match="an antialiased crop"):
            convert_view([*steps, v1.RandomResizedCrop(32), v2.ToDtype(torch.float32, scale=True)])


def test_small_views_shorten_a_pillow_blur() -> None:
    assert after_crop(blur(sigma=(0.1, 2.0)), size=8) == [ops.GaussianBlur(15)]
    assert after_crop(blur(sigma=(0.1, 5.0)), size=224) == [ops.GaussianBlur(41, (0.1, 5.0))]


@pytest.mark.parametrize(
    "steps, words",
    [
        (
            [v1.RandomResizedCrop(32), v1.Lambda(lambda x: x), v1.ToTensor()],
            r"got Lambda\(\).*\n  hint: hvs_aug.register_converter\('Lambda'",
        ),
        ([v1.RandomGrayscale(), v1.RandomResizedCrop(32), v1.ToTensor()], "only Resize, CenterCrop and flips before the crop"),
        ([v1.ToTensor(), v1.Normalize(MEAN, STD)], "expected a RandomResizedCrop"),
        ([v1.ToTensor(), v1.Normalize(MEAN, STD), v1.RandomResizedCrop(32)], "before the crop, got Normalize"),
        (
            [v1.RandomResizedCrop(32), v1.ToTensor(), v1.Normalize(MEAN, STD), v1.RandomGrayscale()],
            "Normalize after all operations that need values in",
        ),
        ([v1.RandomResizedCrop(32), v1.Normalize(MEAN, STD), v1.ToTensor()], "before the normalisation"),
        ([v1.RandomResizedCrop(32)], r"has no ToTensor\(\)"),
        ([v1.RandomResizedCrop(32), v2.ToImage()], r"has no ToTensor\(\)"),
        ([v1.RandomResizedCrop(32), v2.ToImage(), v2.ToDtype(torch.float32)], "scale=True"),
        ([v1.RandomResizedCrop(32), v1.ToTensor(), v1.ConvertImageDtype(torch.uint8)], "uint8 before the conversion to float"),
        ([v1.RandomResizedCrop(32), v1.ToTensor(), v2.ToDtype(torch.float16, scale=True)], "torch.float32 with scale=True"),
        ([v1.RandomResizedCrop(32), v1.ToTensor(), v1.ToPILImage(), v1.ToTensor()], "ToPILImage before the conversion to float"),
        ([v1.RandomResizedCrop(32, interpolation=v1.InterpolationMode.NEAREST), v1.ToTensor()], "bilinear or bicubic"),
        ([v1.ToTensor(), v1.RandomResizedCrop(32, interpolation=Image.BICUBIC)], "before the conversion to float"),
        ([v1.RandomResizedCrop(32), v1.RandomResizedCrop(32), v1.ToTensor()], "one RandomResizedCrop, got 2"),
        ([v1.RandomResizedCrop(32), v1.Resize(16), v1.ToTensor()], "Resize and CenterCrop before the RandomResizedCrop"),
        ([v1.RandomResizedCrop(32), v1.Grayscale(1), v1.ToTensor()], "got Grayscale"),
        ([v1.RandomResizedCrop(32), v1.RandomRotation(10, expand=True), v1.ToTensor()], "expand=False"),
        ([v1.RandomResizedCrop(32), v1.RandomErasing(), v1.ToTensor()], "RandomErasing after the conversion to a tensor"),
        ([v1.RandomResizedCrop(32), v1.ToTensor(), v1.RandomErasing(value="random")], "a number as value"),
        ([v1.RandomResizedCrop(32), v1.RandomApply([v1.ToTensor()], 0.5)], "conversions and crops that are always applied"),
        ([v1.RandomResizedCrop(32), v1.RandomChoice([nn.Identity(), v1.RandomGrayscale()]), v1.ToTensor()], "got RandomChoice"),
        ([v1.RandomResizedCrop(32), v1.GaussianBlur((3, 5)), v1.ToTensor()], "a square blur kernel"),
        ([v1.RandomResizedCrop(32), blur(strength=3), v1.ToTensor()], "got GaussianBlur"),
        ([v1.RandomResizedCrop(32), solarize(1.0, strength=3), v1.ToTensor()], "got Solarization"),
        (
            [named("RandomResizedCrop", None, size=(32, 32), scale=(0.1, 1), ratio=(1, 1), interpolation=2), v1.ToTensor()],
            "got RandomResizedCrop",
        ),
    ],
)
def test_what_cannot_be_exact_is_refused_by_name(steps: list[object], words: str) -> None:
    with pytest.raises(HVSError, match=words):
        convert_view(v1.Compose(steps))


def test_subclasses_are_followed_only_while_they_behave_alike() -> None:
    class Named(v1.RandomResizedCrop):
        def __init__(self) -> None:
            super().__init__(48)

    class Other(v1.RandomResizedCrop):
        def forward(self, img: object) -> object:
            return img

    assert convert_view([Named(), v1.ToTensor()]).size == 48
    with pytest.raises(HVSError, match="got Other"):
        convert_view([Other(48), v1.ToTensor()])


def test_what_returns_several_views_in_another_way_is_refused() -> None:
    view, late = v1.Compose([v1.RandomResizedCrop(16), v1.ToTensor()]), v1.Compose([v1.RandomGrayscale(), v1.ToTensor()])
    crop = v1.RandomResizedCrop(16)

    def brightened(image: Any) -> list[Tensor]:
        return [view(image), 0.5 * view(image)]

    def of_one_crop(image: Any) -> list[Tensor]:
        cropped = crop(image)
        return [late(cropped), late(cropped)]

    with pytest.raises(
        HVSError, match=r"views that its parts make of the image, and nothing else, got .*brightened.*whose \[1\] is not"
    ):
        convert(brightened)
    with pytest.raises(HVSError, match=r"views that share no draw, got .*whose \[1\] shares one with an earlier view"):
        convert(of_one_crop)
    with pytest.raises(HVSError, match="got DataAugmentationDINO"):
        convert(named("DataAugmentationDINO", None, geometric_augmentation_global=None))
    with pytest.raises(HVSError, match="at least one view"):
        convert([])


class Pair:
    def __init__(self, one: Any, other: Any) -> None:
        self.one, self.other = one, other

    def __call__(self, image: Any) -> Any:
        return self.one(image), self.other(image)


class ViewsInDicts:
    """Globals of a shared first step, a list of locals, and what is returned twice, as in DINOv2."""

    def __init__(self) -> None:
        self.geometric = v1.Compose([v1.RandomResizedCrop(24, scale=(0.4, 1.0)), v1.RandomHorizontalFlip()])
        self.colour, self.end = v2.ColorJitter(0.4), v1.Compose([v1.ToTensor(), v1.Normalize(MEAN, STD)])
        self.transfo = v1.Compose([self.colour, self.end])
        self.small = v1.RandomResizedCrop(24, scale=(0.05, 0.5))

    def __call__(self, image: Any) -> Any:
        globals_ = [self.transfo(self.geometric(image)) for _ in range(2)]
        locals_ = [self.end(self.small(image)) for _ in range(3)]
        return {"global_crops": globals_, "global_crops_teacher": globals_, "local_crops": locals_, "offsets": ()}


def test_views_of_a_class_or_function_of_the_users_own() -> None:
    one = v1.Compose([v1.RandomResizedCrop(16), v1.ToTensor()])
    other = v1.Compose([v1.RandomResizedCrop(16), v1.RandomGrayscale(0.5), v1.ToTensor()])
    assert [(slot.candidates, slot.select) for slot in convert(Pair(one, one))] == [(4, 2)]
    assert [(slot.candidates, slot.select) for slot in convert(Pair(one, other))] == [(2, 1), (2, 1)]
    assert [(slot.candidates, slot.select) for slot in convert(lambda image: [one(image) for _ in range(3)], 6)] == [(6, 3)]
    assert convert(v1.Compose([v1.Resize(40), Pair(one, one)]))[0].recipe == convert_view([v1.Resize(40), one])
    with pytest.raises(HVSError, match="views that share no draw"):
        convert(v1.Compose([v1.RandomHorizontalFlip(), Pair(one, one)]))
    slots = convert(ViewsInDicts())
    assert [(slot.role, slot.candidates, slot.select) for slot in slots] == [("global", 4, 2), ("local", 6, 3)]
    assert slots[0].recipe.find(ops.ColorJitter) == ops.ColorJitter(0.4)


def test_the_global_random_state_is_as_before() -> None:
    def drawn() -> list[float]:
        torch.manual_seed(0), np.random.seed(0), random.seed(0)  # noqa: NPY002
        if converts:
            convert(ViewsInDicts())
        return [torch.rand(()).item(), np.random.rand(), random.random()]  # noqa: NPY002

    converts = False
    expected = drawn()
    converts = True
    assert drawn() == expected


@pytest.mark.parametrize(
    "step, words",
    [
        (named("GaussianBlur", lambda image: image, sigma=(0.1, 2.0)), r"GaussianBlur\(kernel_size=23\), got GaussianBlur, .* in"),
        (blur(0.9, p=0.1), "got GaussianBlur, which differs in"),
        (blur(0.0, p=0.1), "got GaussianBlur, which differs in"),
        (solarize(1.0, p=0.5), "got Solarization, which differs in"),
        (named("Solarize", lambda image: image.convert("L").convert("RGB"), threshold=128), "got Solarize, which differs in"),
        (named("Equalization", lambda image: image), "got Equalization, which differs in"),
    ],
)
def test_a_class_that_only_bears_a_known_name_is_refused(step: Any, words: str) -> None:
    with pytest.raises(HVSError, match=words):
        convert(v1.Compose([v1.RandomResizedCrop(32), step, v1.ToTensor()]))


def test_a_wrong_converter_is_refused() -> None:
    register_converter(RandomDarken, lambda t: Darken(0.5, t.p))
    with pytest.raises(HVSError, match=r"behaves as it was converted, like Darken\(factor=0.5, p=1\), got RandomDarken"):
        convert(v1.Compose([v1.RandomResizedCrop(32), v1.ToTensor(), RandomDarken(0.25, p=1.0)]))


def test_a_pipeline_that_does_something_else_as_a_whole_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(v1.RandomResizedCrop, "forward", lambda self, image: image.resize((32, 32)))
    with pytest.raises(HVSError, match="RandomResizedCrop.*which differs in"):
        convert(v1.Compose([v1.RandomResizedCrop(32, scale=(0.05, 0.2)), v1.ToTensor()]))


def test_images_of_another_kind() -> None:
    thirteen = v1.Compose([v1.RandomResizedCrop(16), v1.Normalize((0.5,) * 13, (0.5,) * 13)])
    tensors = v1.Compose([v1.ConvertImageDtype(torch.float32), thirteen])
    assert len(convert([tensors, tensors])) == 1
    assert len(convert(Pair(tensors, tensors), example=torch.zeros(13, 20, 20, dtype=torch.uint8))) == 1
    gray = v1.Compose([v1.RandomResizedCrop(16), v1.ToTensor(), v1.Normalize((0.5,), (0.5,))])
    assert len(convert(Pair(gray, gray), example=Image.new("L", (20, 20)))) == 1


def test_roles_come_from_the_transform_not_from_the_size() -> None:
    def roles(*scales: tuple[float, float], sizes: tuple[int, ...] = (32, 32, 32)) -> list[str]:
        crops = [v1.RandomResizedCrop(size, scale=scale) for size, scale in zip(sizes, scales, strict=True)]
        return [slot.role for slot in convert([[crop, v1.ToTensor()] for crop in crops])]

    assert [(slot.role, slot.select) for slot in convert(dino(32, 32))] == [("global", 1), ("global", 1), ("local", 8)]
    assert roles((0.4, 1.0), (0.3, 1.0), (0.05, 0.4)) == ["global", "global", "local"]
    assert roles((0.4, 1.0), (0.3, 1.0), (0.05, 1.0), sizes=(32, 32, 16)) == ["global", "global", "local"]
    assert roles((0.4, 1.0), (0.08, 1.0), (0.2, 0.5)) == ["global", "global", "global"]
    assert roles((1.0, 1.0), (0.08, 1.0), (1.0, 1.0)) == ["global", "local", "global"]


def test_candidates() -> None:
    view, other = [v1.RandomResizedCrop(32), v1.ToTensor()], [v1.RandomResizedCrop(32), v1.RandomInvert(), v1.ToTensor()]
    assert convert([view] * 4)[0].candidates == 8
    assert convert([view] * 2, candidates=3)[0].candidates == 3
    assert [slot.candidates for slot in convert(dino(), candidates=3)] == [3, 3, 24]
    assert [slot.candidates for slot in convert(dino(), candidates=(1, 2, 9))] == [1, 2, 9]
    assert [slot.candidates for slot in convert([view, other], candidates=(1, 1))] == [1, 1]
    with pytest.raises(HVSError, match="at least 3, of which 2 are kept, got int 2.\n  hint: candidates=.2,. draws no more"):
        convert([view] * 2, candidates=2)
    with pytest.raises(HVSError, match="at least 2, for every view that is kept"):
        convert(dino(), candidates=1)
    with pytest.raises(HVSError, match="a number that 2 different views can share, got int 3"):
        convert([view, other], candidates=3)
    with pytest.raises(HVSError, match="a number for each of the 3 slots, got 2"):
        convert(dino(), candidates=(1, 2))


class Invert:
    p = 0.3


def test_register_converter() -> None:
    with pytest.raises(HVSError, match="got Invert"):
        after_crop(Invert())
    register_converter("Invert", lambda t: ops.RandomInvert(t.p))
    assert after_crop(Invert()) == [ops.RandomInvert(0.3)]
    register_converter(Invert, lambda t: [v1.RandomGrayscale(t.p), ops.RandomHorizontalFlip(0.1)])
    assert after_crop(Invert()) == [ops.RandomGrayscale(0.3), ops.RandomHorizontalFlip(0.1)]
    register_converter(Invert, lambda t: [])
    assert after_crop(Invert()) == []
    for wrong in ({"solarize_prob": 0.1}, None, [ViewSlot(EXPECTED)]):
        register_converter(Invert, lambda t, wrong=wrong: wrong)  # type: ignore[misc]
        with pytest.raises(HVSError, match=r"register_converter\(function\): expected an operation, or a list of operations"):
            after_crop(Invert())


def test_register_converter_of_several_views() -> None:
    view, other = [v1.RandomResizedCrop(16), v1.ToTensor()], [v1.RandomResizedCrop(16), v1.RandomInvert(), v1.ToTensor()]
    slots = [ViewSlot(ViewRecipe(16), 6, 2, name="mine")]
    register_converter(Invert, lambda t: slots)
    assert convert(Invert()) == slots
    assert convert(Invert(), candidates=8) == [ViewSlot(ViewRecipe(16), 8, 2, name="mine")]
    register_converter(Invert, lambda t: [view, other])
    assert [(slot.candidates, slot.select) for slot in convert(Invert())] == [(2, 1), (2, 1)]
    register_converter(Invert, lambda t: view)
    assert [(slot.candidates, slot.select) for slot in convert(Invert())] == [(4, 2)]


@dataclass(frozen=True, repr=False)
class Darken(ops.Operation):
    """An operation that is not part of the package."""

    factor: float
    p: float = 0.5

    identity = {"applied": torch.tensor(False)}

    def apply(self, images: Tensor, drawn: Draws, scale: float = 1.0) -> Tensor:
        return torch.where(per_image(drawn["applied"]), images * self.factor, images)


class RandomDarken(nn.Module):
    """The transform that it stands for, written as torchvision's are."""

    def __init__(self, factor: float, p: float = 0.5) -> None:
        super().__init__()
        self.factor, self.p = factor, p

    def forward(self, image: Tensor) -> Tensor:
        return image * self.factor if torch.rand(()) < self.p else image


def test_an_operation_from_outside_the_package() -> None:
    register_converter(RandomDarken, lambda t: Darken(t.factor, t.p))
    full = v1.RandomResizedCrop(16, scale=(1, 1), ratio=(1, 1))
    pipeline = v1.Compose([full, v1.ToTensor(), RandomDarken(0.25, p=1.0), v1.RandomHorizontalFlip(1.0)])
    slots = convert(pipeline)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    (rendered,), _ = CandidateViews(slots)(collate_images([pixels]))
    expected = pipeline(Image.fromarray(pixels)).expand(4, 1, 3, 16, 16)
    torch.testing.assert_close(rendered, expected, atol=1e-5, rtol=0)
    assert "v2.Darken(factor=0.25, p=1)" in slots[0].recipe.torchvision_lines()
    assert ("view", "v2.Darken(factor=0.25, p=1)", "none") in differences(slots, preset_slots("simclr", 16))


def test_a_transform_is_known_by_a_converter_of_either_kind() -> None:
    class Own:
        pass

    assert reading.has_converter(v2.RandomGrayscale()) and not reading.has_converter(Own())
    register_converter(Own, lambda t: [])
    assert reading.has_converter(Own())
