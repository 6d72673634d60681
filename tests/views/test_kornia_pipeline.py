"""A Kornia pipeline as the recipe of a slot: recorded, replayed bit for bit, read as boxes, and scored small.

Run against another Kornia as tests/integrations/test_kornia.py says.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import kornia
import kornia.augmentation as K
import pytest
import torch
from kornia.augmentation.auto import RandAugment
from torch import Tensor, nn

from hvs_aug import CandidateViews, HVSError, ImageBatch, Scoring, ViewParams, ViewRecipe, ViewSlot
from hvs_aug.integrations import kornia as ours
from hvs_aug.selection.losses import NTXentLoss
from hvs_aug.selection.sampler import HardPairSampler
from hvs_aug.views.kornia_pipeline import KorniaPipeline, _Window


class Speckle(nn.Module):
    """A module that draws while it is applied, which Kornia cannot record."""

    def forward(self, images: Tensor) -> Tensor:
        return images + 0.1 * torch.rand_like(images)


class Fading(K.IntensityAugmentationBase2D):
    """An augmentation that changes its own parameters while it is applied."""

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> dict[str, Tensor]:
        return {"gain": torch.rand(batch_shape[0])}

    def apply_transform(self, input: Tensor, params: dict[str, Tensor], flags: dict[str, Any], transform: Any = None) -> Tensor:
        return input * params["gain"].mul_(0.5).view(-1, 1, 1, 1)


def _simclr(size: int = 16) -> K.AugmentationSequential:
    return K.AugmentationSequential(
        K.RandomResizedCrop((size, size)),
        K.RandomHorizontalFlip(),
        K.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
        K.RandomGrayscale(p=0.2),
        K.RandomGaussianBlur((5, 5), (0.1, 2.0), p=0.5),
        K.RandomSolarize(p=0.2),
        data_keys=["input"],
    )


PIPELINES: dict[str, Any] = {
    "simclr": _simclr,
    "nested": lambda: K.AugmentationSequential(
        K.ImageSequential(K.RandomHorizontalFlip(), K.RandomCrop((20, 20), padding=3)),
        K.ImageSequential(K.ColorJiggle(0.2, 0.2, 0.2, 0.1, p=0.5), K.RandomGaussianNoise(p=0.5), random_apply=1),
        data_keys=["input", "mask"],
    ),
    "nn.Sequential": lambda: nn.Sequential(K.CenterCrop(24), nn.Sequential(K.RandomPlasmaShadow(p=0.5), K.RandomErasing(p=0.5))),
    "one": lambda: K.RandomResizedCrop((16, 16), scale=(0.2, 0.5)),
    "policy": lambda: K.AugmentationSequential(K.Resize((24, 24)), RandAugment(n=2, m=10), data_keys=["input"]),
    "patches": lambda: K.ImageSequential(
        K.Resize((24, 24)),
        K.PatchSequential(K.RandomGaussianBlur((3, 3), (0.5, 2.0)), K.RandomSolarize(), grid_size=(2, 2), random_apply=True),
    ),
    "plain modules": lambda: K.ImageSequential(Speckle(), K.RandomResizedCrop((16, 16)), Speckle()),
    "changed while applied": lambda: K.ImageSequential(K.RandomResizedCrop((16, 16)), Fading(p=1.0)),
    "ours": lambda: ours.augmentation_sequential(CandidateViews.preset("simsiam", size=24).slots[0].recipe),
}


def _images(mixed: bool, count: int = 4) -> ImageBatch:
    pixels = torch.randint(0, 256, (count, 3, 32, 40), dtype=torch.uint8)
    sizes = torch.tensor([[32, 40], [32, 40], [28, 40], [32, 30]])[:count] if mixed else torch.tensor([[32, 40]]).expand(count, 2)
    return ImageBatch(pixels, sizes)


def _gather(views: Tensor, indices: Tensor) -> Tensor:
    return torch.stack([views[row, torch.arange(views.shape[1])] for row in indices])


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("mixed", [False, True], ids=["one size", "mixed sizes"])
@pytest.mark.parametrize("name", PIPELINES)
def test_replay_and_winners_are_bit_exact(name: str, mixed: bool, tmp_path: Path) -> None:
    """Four candidates of four images, where a shared parameter of four numbers (a jitter's order) looks like one of each image."""
    if name == "patches" and kornia.__version__.startswith(("0.7", "0.8.0")):
        pytest.skip("this Kornia cannot draw for a PatchSequential in another sequence")
    torch.manual_seed(3)
    images, views = _images(mixed), CandidateViews(ViewSlot(PIPELINES[name](), candidates=4, select=2))
    state = torch.get_rng_state()
    (rendered,), params = views(images, generator=_generator())
    (again,), _ = views(images, generator=_generator())
    (other,), _ = views(images, generator=_generator(1))
    assert torch.equal(again, rendered) and not torch.equal(other, rendered)
    params.save(tmp_path / "params.safetensors")
    indices = torch.tensor([[0, 1, 2, 3], [3, 2, 3, 2]])
    winners = ViewParams.load(tmp_path / "params.safetensors").select(indices)
    assert torch.equal(views.transform(images, winners)[0], _gather(rendered, indices))
    last = winners.select(torch.tensor([[1, 0, 1, 1]]))
    assert torch.equal(views.transform(images, last)[0], _gather(_gather(rendered, indices), torch.tensor([[1, 0, 1, 1]])))
    assert torch.equal(torch.get_rng_state(), state)
    assert rendered.dtype == torch.float32 and rendered.shape[:3] == (4, 4, 3)


@pytest.mark.parametrize("mixed, calls", [(False, 3), (True, 7)], ids=["one size", "mixed sizes"])
def test_winners_cost_the_calls_that_hold_one(monkeypatch: pytest.MonkeyPatch, mixed: bool, calls: int) -> None:
    """Two images of one size share calls: winners 0, 1 and 3 are three; of other sizes each has two of its own."""
    images, views = _images(mixed), CandidateViews(ViewSlot(_simclr(), candidates=4, select=2))
    winners = views.make_params(images, _generator()).select(torch.tensor([[0, 1, 0, 0], [1, 3, 1, 3]]))
    counted = []
    call = KorniaPipeline._call
    monkeypatch.setattr(KorniaPipeline, "_call", lambda *arguments: counted.append(1) or call(*arguments))
    views.transform(images, winners)
    assert len(counted) == calls


def test_a_call_gives_what_kornia_gives() -> None:
    """A candidate of images of one size is the pipeline's own output for the seed that the generator gives."""
    pipeline, images = _simclr(), torch.rand(5, 3, 32, 40)
    (rendered,), _ = CandidateViews(ViewSlot(pipeline, candidates=2))(images, generator=_generator())
    assert pipeline._params is None  # the user's own object is left alone
    for candidate, seed in enumerate(torch.randint(2**62, (2, 1), generator=_generator()).flatten().tolist()):
        torch.manual_seed(seed)
        assert torch.equal(rendered[candidate], pipeline(images))


def test_each_true_size_is_seen_and_padding_is_not() -> None:
    images = _images(mixed=True)
    pixels = images.pixels.clone()
    pixels[2, :, 28:] = 77
    pixels[3, :, :, 30:] = 77
    views = CandidateViews(ViewSlot(_simclr()))
    params = views.make_params(images, _generator())
    assert torch.equal(views.transform(images, params)[0], views.transform(ImageBatch(pixels, images.sizes), params)[0])
    assert (params.boxes[..., :2] + params.boxes[..., 2:] <= images.sizes).all()


# Each with the rows and columns of the source that its corners show, which a ramp tells.
CROPS: dict[str, Any] = {
    "RandomResizedCrop": lambda: [K.RandomResizedCrop((16, 16))],
    "RandomCrop": lambda: [K.RandomCrop((20, 12))],
    "CenterCrop": lambda: [K.CenterCrop((18, 14))],
    "crop of a crop": lambda: [K.CenterCrop((26, 30)), K.RandomHorizontalFlip(), K.ColorJitter(p=1.0), K.RandomCrop((13, 9))],
    "flip, then crop": lambda: [K.RandomHorizontalFlip(p=1.0), K.RandomVerticalFlip(), K.RandomResizedCrop((12, 12))],
    "crop, then flip": lambda: [K.RandomCrop((20, 12)), K.RandomHorizontalFlip()],
}


@pytest.mark.parametrize("name", CROPS)
def test_boxes_are_what_is_seen(name: str) -> None:
    y, x = torch.meshgrid(torch.arange(32.0) / 64, torch.arange(40.0) / 64, indexing="ij")
    ramp = torch.stack([x, y, y]).expand(6, 3, 32, 40)
    (rendered,), params = CandidateViews(ViewSlot(nn.Sequential(*CROPS[name]()), candidates=5))(ramp, generator=_generator())
    seen = rendered[:, :, :2] * 64  # Kornia's corner-aligned resize shows the centres of the box's outermost pixels in its corners
    low, high = seen.amin((-2, -1)), seen.amax((-2, -1))
    top, left, height, width = params.boxes.double().unbind(-1)
    for shown, expected in (
        (low[..., 0], left),
        (low[..., 1], top),
        (high[..., 0], left + width - 1),
        (high[..., 1], top + height - 1),
    ):
        torch.testing.assert_close(shown.double(), expected, atol=1e-3, rtol=0)
    assert torch.equal(params.drawn["RandomHorizontalFlip.applied"], seen[:, :, 0, 0, 0] > seen[:, :, 0, 0, -1])
    assert params.iou().shape == (5, 5, 6) and (params.iou().diagonal() == 1).all()
    if name != "CenterCrop":
        assert len(params.boxes.flatten(0, 1).unique(dim=0)) > 1 and (params.iou() < 1).any()


def test_our_crop_and_flip_are_read_too() -> None:
    pipeline = K.AugmentationSequential(ours.RandomResizedCrop(24, flip_prob=0.5), K.RandomCrop((12, 12)), data_keys=["input"])
    y, x = torch.meshgrid(torch.arange(320.0) / 640, torch.arange(400.0) / 640, indexing="ij")
    (rendered,), params = CandidateViews(ViewSlot(pipeline, 6))(
        torch.stack([x, y, y]).expand(4, 3, 320, 400), generator=_generator()
    )
    seen = rendered[:, :, :2] * 640
    middle = (seen.amin((-2, -1)) + seen.amax((-2, -1))) / 2
    top, left, height, width = params.boxes.float().unbind(-1)
    torch.testing.assert_close(middle, torch.stack([left + width / 2, top + height / 2], dim=-1) - 0.5, atol=1.5, rtol=0)
    assert (
        torch.equal(params.drawn["RandomHorizontalFlip.applied"], seen[:, :, 0, 0, 0] > seen[:, :, 0, 0, -1])
        and 0 < params.drawn["RandomHorizontalFlip.applied"].sum() < 24
    )


def test_boxes_through_a_resize_and_beyond_the_image() -> None:
    images = torch.rand(3, 3, 32, 40)

    def boxes(*steps: nn.Module) -> Tensor:
        return CandidateViews(ViewSlot(nn.Sequential(*steps), 4)).make_params(images, _generator()).boxes

    assert (boxes(K.Resize((64, 80)), K.CenterCrop((32, 32))) == torch.tensor([8, 12, 16, 16])).all()
    assert (boxes(K.CenterCrop((16, 16)), K.Resize((99, 99))) == torch.tensor([8, 12, 16, 16])).all()
    assert (boxes(K.RandomCrop((40, 20), pad_if_needed=True))[..., [0, 2]] == torch.tensor([0, 32])).all()
    padded = boxes(K.RandomCrop((32, 40), padding=8))
    assert (
        (padded[..., 2] <= 32).all()
        and (padded[..., 2] >= 24).all()
        and (padded[..., :2] + padded[..., 2:] <= torch.tensor([32, 40])).all()
    )
    assert len(padded[..., 2].unique()) > 3
    corner = _Window(1, height=4, width=6)
    corner.origin, corner.current = torch.tensor([[5.0, 3.0]]), torch.tensor([1.0, 1.0])
    assert corner.boxes().tolist() == [[3, 5, 1, 1]]
    skipped = boxes(K.RandomCrop((32, 40), padding=8, p=0.0))
    assert (skipped == torch.tensor([0, 0, 32, 40])).all()


@pytest.mark.parametrize(
    "steps",
    [
        [K.ColorJitter(0.4, 0.4, 0.4, 0.1)],
        [K.Resize((16, 16)), K.RandomHorizontalFlip()],
        [K.RandomRotation(30.0), K.RandomResizedCrop((16, 16))],
        [Speckle(), K.RandomResizedCrop((16, 16))],
    ],
    ids=["colour", "resize", "rotation first", "unknown module first"],
)
def test_no_box_can_be_read(steps: Sequence[nn.Module]) -> None:
    crop = ViewSlot(ViewRecipe(size=16))
    params = CandidateViews([crop, ViewSlot(nn.Sequential(*steps))]).make_params(torch.rand(2, 3, 32, 40), _generator())
    assert params.uncropped == (1,) and (params.boxes[4:] == torch.tensor([0, 0, 32, 40])).all()
    with pytest.raises(
        HVSError,
        match=r"ViewParams.iou\(\): expected a crop in every slot, got none in slot 1.\n  hint: add a crop to its pipeline, before",
    ):
        params.iou()


def test_what_follows_a_crop_does_not_hide_its_box() -> None:
    pipeline = nn.Sequential(K.RandomResizedCrop((16, 16)), K.RandomRotation(30.0), Speckle())
    params = CandidateViews(ViewSlot(pipeline)).make_params(torch.rand(2, 3, 32, 40), _generator())
    assert params.uncropped == () and (params.iou() < 1).any()
    anywhere = K.ImageSequential(K.RandomResizedCrop((16, 16)), K.RandomRotation(30.0), random_apply=True)
    assert CandidateViews(ViewSlot(anywhere)).make_params(torch.rand(2, 3, 32, 40), _generator()).uncropped == (0,)


def test_at_a_scale_views_are_reduced_antialiased() -> None:
    images, views = _images(mixed=True), CandidateViews(ViewSlot(_simclr()))
    (full,), params = views(images, generator=_generator())
    (half,) = views.transform(images, params, scale=0.5)
    assert half.shape == (4, 4, 3, 8, 8)
    expected = nn.functional.interpolate(full.flatten(0, 1), size=(8, 8), mode="bilinear", antialias=True)
    torch.testing.assert_close(half.flatten(0, 1), expected, atol=1e-6, rtol=0)


def test_kornia_and_recipe_slots_stand_side_by_side() -> None:
    recipe = CandidateViews.preset("simsiam", size=24).slots[0].recipe
    slots = [ViewSlot(_simclr(), 3, 1), ViewSlot(recipe, 2, 1), ViewSlot(_simclr(12), 4, 2, role="local")]
    images, views = _images(mixed=True), CandidateViews(slots)
    rendered, params = views(images, generator=_generator())
    assert [tuple(view.shape) for view in rendered] == [(3, 4, 3, 16, 16), (2, 4, 3, 24, 24), (4, 4, 3, 12, 12)]
    assert params.slots == (0, 0, 0, 1, 1, 2, 2, 2, 2) and params.iou().shape == (9, 9, 4)
    indices = torch.tensor([[2, 0, 1, 1], [3, 4, 3, 4], [5, 6, 5, 7], [8, 8, 7, 8]])
    winners = views.transform(images, params.select(indices, [0, 1, 2, 2]))
    assert torch.equal(winners[0], _gather(rendered[0], indices[:1]))
    assert torch.equal(winners[1], _gather(rendered[1], indices[1:2] - 3))
    assert torch.equal(winners[2], _gather(rendered[2], indices[2:] - 5))


@pytest.mark.parametrize("options", [{}, {"scoring": Scoring(scale=0.5)}], ids=str)
def test_hard_pairs_are_chosen_among_kornias_views(options: dict[str, Any]) -> None:
    model = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
    views = CandidateViews(ViewSlot(_simclr(), candidates=4, select=2))
    sampler = HardPairSampler(model, NTXentLoss(0.5), views, generator=_generator(), **options)
    images = _images(mixed=True)
    hard = sampler(images)
    assert len(hard.views) == 2 and hard.views[0].shape == (4, 3, 16, 16)
    replayed = views.transform(images, hard.params)[0]
    assert torch.equal(torch.stack(hard.views), replayed) and hard.params.iou().shape == (2, 2, 4)


@pytest.mark.parametrize(
    "recipe, message",
    [
        ("simclr", r"ViewSlot\(recipe\): expected a ViewRecipe or a Kornia pipeline, got simclr"),
        (nn.Conv2d(3, 3, 1), r"ViewSlot\(recipe\): expected a ViewRecipe or a Kornia pipeline, got Conv2d"),
        (
            K.AugmentationSequential(K.RandomResizedCrop((8, 8)), K.RandomMixUpV2(), data_keys=["input"]),
            r"expected a Kornia pipeline that makes a view of one image, got RandomMixUpV2",
        ),
    ],
)
def test_what_is_no_recipe_is_named(recipe: Any, message: str) -> None:
    with pytest.raises(HVSError, match=message):
        CandidateViews(ViewSlot(recipe))


def test_what_cannot_be_rendered_is_named() -> None:
    images = _images(mixed=True)
    with pytest.raises(HVSError, match=r"expected None for a Kornia pipeline, whose candidates are drawn apart, got 'crop'"):
        CandidateViews(ViewSlot(_simclr(), tie="crop")).make_params(images)
    with pytest.raises(
        HVSError, match=r"expected a Kornia pipeline whose views have one size, got views of shapes \(3, 32, 40\) and \(3, 28"
    ):
        CandidateViews(ViewSlot(K.RandomHorizontalFlip()))(images)
    foreign = CandidateViews(ViewSlot(ViewRecipe(size=16))).make_params(images)
    with pytest.raises(HVSError, match=r"CandidateViews.transform\(params\): expected params with slot 0's Kornia parameters"):
        CandidateViews(ViewSlot(_simclr())).transform(images, foreign)


def test_importing_the_library_does_not_import_kornia() -> None:
    code = "import sys, hvs_aug; hvs_aug.CandidateViews.preset('simclr', 32); sys.exit('kornia' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.gpu
def test_one_seed_gives_the_same_views_on_a_gpu() -> None:
    images, views = _images(mixed=True), CandidateViews(ViewSlot(_simclr()))
    (on_cpu,), params = views(images, generator=_generator())
    state = torch.cuda.get_rng_state()
    (on_gpu,), moved = views.to("cuda")(images.to("cuda"), generator=_generator())
    assert torch.equal(moved.boxes, params.boxes) and torch.equal(torch.cuda.get_rng_state(), state)
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, atol=1e-4, rtol=0)
    assert torch.equal(views.transform(images.to("cuda"), moved.to("cuda"))[0], on_gpu)
