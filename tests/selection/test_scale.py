"""Scoring at a fraction of the side: what the model sees, what comes back, and what is said where it cannot run."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from hvs_aug._check import HVSError
from hvs_aug.ops import RandomResizedCrop
from hvs_aug.selection.losses import CallableLoss, NTXentLoss
from hvs_aug.selection.sampler import HardPairSampler
from hvs_aug.selection.scoring import Scoring
from hvs_aug.views.candidates import CandidateViews
from hvs_aug.views.recipe import ViewRecipe, ViewSlot

from .models import Counted, SmallResNet, SmallTransformer, crops, images, pairs, slot


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sampler_of(model, views: CandidateViews | None = None, loss=None, **options) -> HardPairSampler:
    own = loss if loss is not None else NTXentLoss(temperature=0.5)
    return HardPairSampler(model, own, views if views is not None else pairs(size=32), generator=seeded(), **options)


def vit(**options) -> nn.Module:
    settings = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 0}
    return timm.create_model("vit_tiny_patch16_224", **settings | options)


def test_scoring_small_forwards_small_and_returns_views_in_full() -> None:
    model = Counted(nn.AdaptiveAvgPool2d(2))
    sampler = sampler_of(lambda pixels: model(pixels).flatten(1), crops(), CallableLoss(lambda a, b: (a - b).square().sum(-1)))
    full = sampler(images())
    half = HardPairSampler(sampler.model, sampler.loss, crops(), scoring=Scoring(scale=0.5), generator=seeded())
    hard = half(images())
    assert model.calls == [(16, 3, 32, 32), (16, 3, 16, 16), (16, 3, 16, 16), (16, 3, 8, 8)]
    assert [view.shape[-1] for view in hard.views] == [32, 32, 16, 16]
    assert hard.views[0].shape == full.views[0].shape
    assert (hard.indices == full.indices).float().mean() > 0.5  # the small views are those of the same parameters


def test_views_that_are_no_squares_keep_their_ratio() -> None:
    model = Counted(nn.AdaptiveAvgPool2d(2))
    views = CandidateViews(ViewSlot(ViewRecipe((32, 16), [RandomResizedCrop()]), candidates=3))
    sampler = sampler_of(lambda pixels: model(pixels).flatten(1), views, scoring=Scoring(scale=0.5))
    assert sampler(images()).views[0].shape[2:] == (32, 16)
    assert model.calls[0][2:] == (16, 8)


def test_select_reduces_candidates_that_the_caller_rendered() -> None:
    model = Counted(nn.Flatten())
    candidates = list(torch.rand(4, 2, 3, 16, 16, generator=seeded()))
    hard = sampler_of(model, pairs(), lambda a, b: (a - b).square().sum(-1), scoring=Scoring(scale=0.25)).select(candidates)
    assert model.calls == [(8, 3, 4, 4)]
    assert torch.equal(hard.views[0][0], candidates[hard.indices[0, 0]][0])


@pytest.mark.parametrize(
    "model", [vit(), SmallTransformer(fixed=True), nn.Sequential(nn.Flatten(), nn.Linear(3072, 4))], ids=["timm", "fixed", "linear"]
)
def test_a_scale_at_which_the_model_cannot_run(model: nn.Module) -> None:
    sampler_of(model)(images())
    sampler = sampler_of(model, scoring=Scoring(scale=0.5))
    with pytest.raises(HVSError) as error:
        sampler(images())
    text = str(error.value)
    assert text.startswith("Scoring(scale): expected a scale at which the model runs, got 0.5, at which the views have 16")
    assert "dynamic_img_size=True" in text
    assert error.value.__cause__ is not None


@pytest.mark.parametrize("model", [vit(dynamic_img_size=True), SmallTransformer(), SmallResNet()], ids=["timm", "repo", "resnet"])
@pytest.mark.parametrize("scale", [0.25, 0.5, 0.75])
def test_models_that_take_other_sizes_run_at_a_scale(model: nn.Module, scale: float) -> None:
    assert len(sampler_of(model, scoring=Scoring(scale=scale))(images()).views) == 2


@pytest.mark.parametrize("model", [vit(dynamic_img_size=True), SmallTransformer()], ids=["timm", "repo"])
def test_a_transformer_is_scored_at_whole_patches(model: nn.Module) -> None:
    sizes: list[int] = []
    sampler = sampler_of(lambda pixels: sizes.append(pixels.shape[-1]) or model(pixels), crops(), scoring=Scoring(scale=0.4))
    sampler(images())
    assert sizes == [16, 8]  # 12.8 and 6.4 pixels, of patches of 8
    sampler.select([torch.rand(2, 3, side, side) for side in (32, 32, 32, 32, 16, 16, 16, 16)])
    assert sizes[2:] == [16, 8]


def test_the_cheap_preset() -> None:
    model = SmallResNet()
    sizes: list[torch.Size] = []
    sampler = sampler_of(lambda pixels: sizes.append(pixels.shape) or model(pixels), scoring="cheap")
    hard = sampler(images())
    assert [view.shape[-1] for view in hard.views] == [32, 32]
    assert sizes == [(4 * len(images()), 3, 16, 16)]
    assert hard.outputs is not None and hard.outputs[0].dtype == torch.bfloat16


def test_an_error_of_the_model_itself_is_not_blamed_on_the_scale() -> None:
    def failing(pixels: Tensor) -> Tensor:
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="^mine$"):
        sampler_of(failing)(images())


def test_slots_of_one_size_and_role_share_a_forward() -> None:
    model = Counted(nn.AdaptiveAvgPool2d(1))
    views = CandidateViews([slot(16, 2, 1), slot(16, 3, 1), slot(16, 2, 1, role="local")])
    sampler_of(lambda pixels: model(pixels).flatten(1), views, CallableLoss(lambda a, b: (a - b).square().sum(-1)))(images())
    assert model.calls == [(28, 3, 16, 16)]


@pytest.mark.parametrize("scale", [0.5, 0.4])
def test_masks_follow_the_token_grid_by_the_cell_in_the_middle(scale: float) -> None:
    """At 32 pixels 8 cells a side are of 4 pixels; of fewer cells, each is the one in whose middle it lies."""
    seen: list[Tensor] = []
    masks = torch.arange(4 * 4 * 64).view(4, 4, 8, 8).float()
    loss = CallableLoss(lambda a, b: (a - b).square().sum(-1))
    loss.model_extras = ("masks",)

    def model(pixels: Tensor, masks: Tensor | None = None) -> Tensor:
        seen.append(masks)
        return pixels.mean((2, 3))

    sampler_of(model, crops(), loss, scoring=Scoring(scale=scale))(images(), {"masks": masks})
    cells = seen[0].shape[-1]
    assert cells == {0.5: 4, 0.4: 3}[scale]
    middles = [int((place + 0.5) * 8 / cells) for place in range(cells)]
    assert torch.equal(seen[0], masks.flatten(0, 1)[:, middles][..., middles])


def test_extras_of_another_batch_are_refused() -> None:
    loss = CallableLoss(lambda a, b: (a - b).square().sum(-1))
    with pytest.raises(HVSError, match=r"extras\['more'\]\): expected leading axes \(V, B\), B = 4 images, got a float32 tensor"):
        sampler_of(nn.Flatten(), pairs(), loss)(images(4), {"more": torch.zeros(4, 5)})
