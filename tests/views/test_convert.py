from __future__ import annotations

from dataclasses import replace
from typing import Any

import lightly.transforms as lightly_transforms
import pytest
import torch
from PIL import Image
from torchvision import transforms as v1
from torchvision.transforms import v2

from hvs_aug._check import HVSError
from hvs_aug.views import convert as module
from hvs_aug.views.convert import convert, convert_view, register_converter
from hvs_aug.views.presets import preset_slots
from hvs_aug.views.recipe import ViewRecipe, ViewSlot

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def make(name: str, **attributes: object) -> object:
    """An object of a class of that name with those attributes, which is all of a repo's transform that a converter looks at."""
    transform = type(name, (), {"__call__": lambda self, image: image})()
    vars(transform).update(attributes)
    return transform


def dino_like(name: str = "DataAugmentationDINO", locals_: int = 8, **attributes: object) -> object:
    colour = v1.Compose(
        [v1.RandomHorizontalFlip(0.5), v1.RandomApply([v1.ColorJitter(0.4, 0.4, 0.2, 0.1)], 0.8), v1.RandomGrayscale(0.2)]
    )
    end = v1.Compose([v1.ToTensor(), v1.Normalize(MEAN, STD)])

    def view(size: int, scale: tuple[float, float], blur: float, *more: object) -> v1.Compose:
        crop = v1.RandomResizedCrop(size, scale=scale, interpolation=Image.BICUBIC)
        return v1.Compose([crop, colour, make("GaussianBlur", prob=blur, radius_min=0.1, radius_max=2.0), *more, end])

    return make(
        name,
        global_transfo1=view(224, (0.4, 1.0), 1.0),
        global_transfo2=view(224, (0.4, 1.0), 0.1, make("Solarization", p=0.2)),
        local_transfo=view(96, (0.05, 0.4), 0.5),
        local_crops_number=locals_,
        **attributes,
    )


def simsiam_pipeline() -> v1.Compose:
    return v1.Compose(
        [
            v1.RandomResizedCrop(224, scale=(0.2, 1.0)),
            v1.RandomApply([v1.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            v1.RandomGrayscale(p=0.2),
            v1.RandomApply([make("GaussianBlur", sigma=[0.1, 2.0])], p=0.5),
            v1.RandomHorizontalFlip(),
            v1.ToTensor(),
            v1.Normalize(MEAN, STD),
        ]
    )


def assert_same_views(found: list[ViewSlot], preset: tuple[ViewSlot, ...]) -> None:
    assert [(s.candidates, s.select, s.role) for s in found] == [(s.candidates, s.select, s.role) for s in preset]
    for ours, theirs in zip(found, preset, strict=True):
        # An operation that is never drawn may stand in the order or not; 128 / 255 and 127.5 / 255 part the same grey levels.
        drawn = tuple(name for name in theirs.recipe.order if getattr(theirs.recipe, f"{name}_prob") > 0)
        assert tuple(name for name in ours.recipe.order if getattr(ours.recipe, f"{name}_prob") > 0) == drawn
        plain = {"order": (), "solarize_threshold": 0.5}
        assert replace(ours.recipe, **plain) == replace(theirs.recipe, **plain)
        assert (ours.recipe.solarize_threshold * 255 <= 128) and (theirs.recipe.solarize_threshold * 255 > 127)


def test_dino_is_the_preset() -> None:
    assert_same_views(convert(dino_like()), preset_slots("dino"))
    assert [slot.name for slot in convert(dino_like())] == ["global-1", "global-2", "local"]


def test_ibot_with_more_globals_and_no_locals() -> None:
    slots = convert(dino_like("DataAugmentationiBOT", locals_=0, global_crops_number=3))
    assert [(slot.candidates, slot.select, slot.role) for slot in slots] == [(2, 1, "global"), (4, 2, "global")]


def test_simsiam_is_the_preset() -> None:
    slots = convert(make("TwoCropsTransform", base_transform=simsiam_pipeline()))
    assert_same_views(slots, preset_slots("simsiam"))
    assert slots[0].recipe.order == ("jitter", "gray", "blur", "flip")


def test_sthalles_simclr_is_the_preset() -> None:
    pipeline = v1.Compose(
        [
            v1.RandomResizedCrop(size=96),
            v1.RandomHorizontalFlip(),
            v1.RandomApply([v1.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8),
            v1.RandomGrayscale(p=0.2),
            make("GaussianBlur", k=9, r=4, blur_h=None, blur_v=None, blur=None),
            v1.ToTensor(),
        ]
    )
    slots = convert(make("ContrastiveLearningViewGenerator", base_transform=pipeline, n_views=2))
    assert_same_views(slots, preset_slots("simclr-sthalles", size=96))
    assert slots[0].recipe.mean is None


def test_mocov3_keeps_its_two_views_apart() -> None:
    other = v1.Compose([*simsiam_pipeline().transforms[:5], v1.RandomSolarize(128, 0.2), *simsiam_pipeline().transforms[5:]])
    slots = convert(make("TwoCropsTransform", base_transform1=simsiam_pipeline(), base_transform2=other), candidates=6)
    assert [(slot.candidates, slot.select, slot.recipe.solarize_prob) for slot in slots] == [(3, 1, 0.0), (3, 1, 0.2)]


@pytest.mark.parametrize("name", ["SimCLRTransform", "MoCoV1Transform", "MoCoV2Transform", "SimSiamTransform", "FastSiamTransform"])
def test_lightly_pairs(name: str) -> None:
    transform = getattr(lightly_transforms, name)()
    (slot,) = convert(transform)
    assert slot.select == len(transform.transforms) and slot.candidates == 2 * slot.select
    crop, jitter = transform.transforms[0].transform.transforms[0], transform.transforms[0].transform.transforms[4].transforms[0]
    assert (slot.recipe.size, slot.recipe.scale) == (crop.size[0], tuple(crop.scale))
    assert 1 + slot.recipe.hue == pytest.approx(1 + jitter.hue[1])
    assert slot.recipe.blur_prob == transform.transforms[0].transform.transforms[6].prob
    assert slot.recipe.mean == MEAN and slot.recipe.std == STD


def test_lightly_multi_crop() -> None:
    slots = convert(lightly_transforms.DINOTransform(n_local_views=6))
    assert [(slot.name, slot.candidates, slot.select) for slot in slots] == [
        ("global-1", 2, 1),
        ("global-2", 2, 1),
        ("local", 12, 6),
    ]
    assert [slot.recipe.blur_prob for slot in slots] == [1.0, 0.1, 0.5]
    assert [slot.recipe.solarize_prob for slot in slots] == [0.0, 0.2, 0.0]
    assert [slot.recipe.size for slot in slots] == [224, 224, 96]
    assert len(convert(lightly_transforms.BYOLTransform())) == 2
    assert [slot.select for slot in convert(lightly_transforms.SwaVTransform())] == [2, 6]


def test_lightly_rotation_is_refused() -> None:
    with pytest.raises(HVSError, match="RandomRotate"):
        convert(lightly_transforms.SimCLRTransform(rr_prob=0.5))
    with pytest.raises(HVSError, match=r"RandomRotation\("):
        convert(lightly_transforms.SimCLRTransform(rr_prob=0.5, rr_degrees=10.0))
    with pytest.raises(HVSError, match=r"RandomVerticalFlip\(p=0.5\)"):
        convert(lightly_transforms.SimCLRTransform(vf_prob=0.5))


EXPECTED = ViewRecipe(
    size=64,
    scale=(0.3, 0.9),
    ratio=(0.5, 2.0),
    interpolation="bicubic",
    flip_prob=0.4,
    jitter_prob=0.7,
    brightness=0.3,
    contrast=1.2,
    saturation=0.2,
    hue=0.05,
    gray_prob=0.25,
    blur_prob=0.6,
    blur_sigma=(0.2, 1.5),
    blur_kernel=7,
    solarize_prob=0.15,
    solarize_threshold=127.5 / 255,
    mean=MEAN,
    std=STD,
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
            api.RandomApply(torch.nn.ModuleList([api.GaussianBlur(7, (0.2, 1.5))]), 0.6),
            api.RandomSolarize(128, 0.15),
            *end,
        ]
    )
    assert convert_view(pipeline) == EXPECTED
    assert convert(pipeline) == [ViewSlot(EXPECTED, 4, 2, "view", "global")]


@pytest.mark.parametrize("api", [v1, v2])
@pytest.mark.parametrize(
    "mode, name", [(2, "bilinear"), (3, "bicubic"), (Image.Resampling.BILINEAR, "bilinear"), (Image.BICUBIC, "bicubic")]
)
def test_pillow_interpolations(api: Any, mode: int, name: str) -> None:
    crop = api.RandomResizedCrop(32, interpolation=mode)
    assert convert_view([crop, v1.ToTensor()]).interpolation == name


def test_order_and_thresholds_follow_the_pipeline() -> None:
    crop = v1.RandomResizedCrop(32)
    recipe = convert_view([crop, v1.RandomGrayscale(1.0), v1.RandomHorizontalFlip(), v1.ToTensor(), v1.RandomSolarize(0.7, 0.5)])
    assert recipe.order == ("gray", "flip", "solarize") and recipe.solarize_threshold == 0.7
    assert convert_view([crop, v1.RandomSolarize(200, 0.5), v1.ToTensor()]).solarize_threshold == 199.5 / 255
    assert convert_view([crop, make("RandomSolarization", prob=0.1, threshold=64), v1.ToTensor()]).solarize_threshold == 63.5 / 255


def test_small_views_shorten_a_pillow_blur() -> None:
    pipeline = [v1.RandomResizedCrop(8), make("GaussianBlur", sigma=(0.1, 2.0)), v1.ToTensor()]
    assert convert_view(pipeline).blur_kernel == 15
    wide = [v1.RandomResizedCrop(224), make("GaussianBlur", sigma=(0.1, 5.0)), v1.ToTensor()]
    assert convert_view(wide).blur_kernel == 41


def test_random_apply() -> None:
    crop, end = v1.RandomResizedCrop(32), v1.ToTensor()
    assert convert_view([crop, v1.RandomApply([v1.RandomGrayscale(0.5)], 0.5), end]).gray_prob == 0.25
    assert convert_view([crop, v1.RandomApply([v1.RandomRotation(5)], 0.0), end]).order == ()
    assert convert_view([crop, v1.RandomGrayscale(0.0), v1.RandomGrayscale(0.5), v1.ColorJitter(), end]).order == ("gray",)
    both = [v1.RandomGrayscale(0.5), v1.RandomHorizontalFlip(0.5)]
    assert convert_view([crop, v1.RandomApply(both, 1.0), end]).order == ("gray", "flip")
    with pytest.raises(HVSError, match="one random operation inside RandomApply"):
        convert_view([crop, v1.RandomApply(both, 0.5), end])


@pytest.mark.parametrize(
    "steps, words",
    [
        ([v1.RandomResizedCrop(32), v1.RandomRotation(10), v1.ToTensor()], r"got RandomRotation\(degrees="),
        ([v1.RandomResizedCrop(32), v1.ToTensor(), v1.RandomErasing()], r"got RandomErasing\("),
        (
            [v1.RandomResizedCrop(32), v1.Lambda(lambda x: x), v1.ToTensor()],
            r"got Lambda\(\).*\n  hint: hvs_aug.register_converter\('Lambda'",
        ),
        ([v1.Resize(64), v1.RandomResizedCrop(32), v1.ToTensor()], r"got Resize\("),
        (
            [v1.RandomHorizontalFlip(), v1.RandomResizedCrop(32), v1.ToTensor()],
            "a RandomResizedCrop first, got RandomHorizontalFlip",
        ),
        ([v1.ToTensor(), v1.Normalize(MEAN, STD)], "expected a RandomResizedCrop"),
        ([v1.ToTensor(), v1.Normalize(MEAN, STD), v1.RandomResizedCrop(32)], "expected a RandomResizedCrop first"),
        (
            [v1.RandomResizedCrop(32), v1.ToTensor(), v1.Normalize(MEAN, STD), v1.RandomGrayscale()],
            "expected the normalisation last",
        ),
        ([v1.RandomResizedCrop(32)], r"has no ToTensor\(\)"),
        ([v1.RandomResizedCrop(32), v2.ToImage()], r"has no ToTensor\(\)"),
        ([v1.RandomResizedCrop(32), v2.ToImage(), v2.ToDtype(torch.float32)], r"scale=True"),
        ([v1.RandomResizedCrop((32, 48)), v1.ToTensor()], "a square view"),
        ([v1.RandomResizedCrop(32, interpolation=v1.InterpolationMode.NEAREST), v1.ToTensor()], "bilinear or bicubic"),
        ([v1.RandomResizedCrop(32, antialias=False), v1.ToTensor()], "an antialiased crop"),
        ([v1.ToTensor(), v1.RandomResizedCrop(32, interpolation=Image.BICUBIC)], "before the conversion to float"),
        ([v1.RandomResizedCrop(32), v1.RandomResizedCrop(32), v1.ToTensor()], "one crop"),
        ([v1.RandomResizedCrop(32), v1.RandomGrayscale(), v1.RandomGrayscale(), v1.ToTensor()], "gray once"),
        ([v1.RandomResizedCrop(32), v1.ColorJitter((0.5, 2.0)), v1.ToTensor()], "brightness from 0.5 to 2"),
        ([v1.RandomResizedCrop(32), v1.ColorJitter(hue=(0.0, 0.1)), v1.ToTensor()], "hue from 0 to 0.1"),
        ([v1.RandomResizedCrop(32), v1.GaussianBlur((3, 5)), v1.ToTensor()], "a square blur kernel"),
        ([v1.RandomResizedCrop(32), make("GaussianBlur", strength=3), v1.ToTensor()], "got GaussianBlur"),
        (
            [make("RandomResizedCrop", size=(32, 32), scale=(0.1, 1), ratio=(1, 1), interpolation=2), v1.ToTensor()],
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


def test_multi_view_classes_of_another_structure_are_refused() -> None:
    with pytest.raises(HVSError, match="DataAugmentationDINO as in its own repo, got one that has no attribute 'global_transfo1'"):
        convert(make("DataAugmentationDINO", geometric_augmentation_global=None))
    with pytest.raises(HVSError, match="at least one view"):
        convert([])


def test_candidates() -> None:
    view = v1.Compose([v1.RandomResizedCrop(32), v1.ToTensor()])
    assert convert([view] * 4)[0].candidates == 8
    assert convert([view] * 2, candidates=3)[0].candidates == 3
    assert [slot.candidates for slot in convert(dino_like(), candidates=3)] == [3, 3, 24]
    assert [slot.candidates for slot in convert(dino_like(), candidates=1)] == [1, 1, 8]
    assert [slot.candidates for slot in convert(dino_like(), candidates=(1, 2, 9))] == [1, 2, 9]
    with pytest.raises(HVSError, match="at least 2, of which 2 are kept"):
        convert([view] * 2, candidates=1)
    with pytest.raises(HVSError, match="a number for each of the 3 slots, got 2"):
        convert(dino_like(), candidates=(1, 2))


def test_register_converter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_registered", {})

    class Invert:
        p = 0.3

    crop, end = v1.RandomResizedCrop(32), v1.ToTensor()
    with pytest.raises(HVSError, match="got Invert"):
        convert_view([crop, Invert(), end])
    register_converter("Invert", lambda t: {"solarize_prob": t.p, "solarize_threshold": 0.0})
    assert convert_view([crop, Invert(), end]).solarize_prob == 0.3
    register_converter(Invert, lambda t: [v1.RandomGrayscale(t.p), v1.RandomHorizontalFlip(0.1)])
    assert convert_view([crop, Invert(), end]).order == ("gray", "flip")
    register_converter(Invert, lambda t: {})
    assert convert_view([crop, Invert(), end]).order == ()
    register_converter(Invert, lambda t: {"flip_prob": 0.1, "gray_prob": 0.1})
    with pytest.raises(HVSError, match="fields of one operation of ViewRecipe, got .'flip_prob', 'gray_prob'. for Invert"):
        convert_view([crop, Invert(), end])
    slots = [ViewSlot(ViewRecipe(size=16), 6, 2)]
    register_converter(Invert, lambda t: slots)
    assert convert(Invert()) == slots
