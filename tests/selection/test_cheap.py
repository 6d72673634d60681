"""The cheap ways to score: at a reduced size, with fewer tokens, on some steps only, and without asking the teacher twice."""

from __future__ import annotations

import kornia
import pytest
import timm
import torch
from torch import Tensor, nn

from hvs_aug._check import HVSError
from hvs_aug.selection import policies
from hvs_aug.selection.cheap import CHEAP
from hvs_aug.selection.losses import CallableLoss, DINOLoss, NTXentLoss
from hvs_aug.selection.predict import PairPredictor
from hvs_aug.selection.sampler import HardPairSampler
from hvs_aug.selection.search import exact
from hvs_aug.selection.tokens import TokenKeep
from hvs_aug.views.candidates import CandidateViews
from hvs_aug.views.recipe import ViewRecipe, ViewSlot

from .models import Counted, SmallResNet, crops, images, pairs, slot


class SmallTransformer(nn.Module):
    """A vision transformer built like those of the DINO and iBOT repos: a ModuleList of blocks, one class token."""

    def __init__(self, size: int = 32, patch: int = 8, width: int = 16, fixed: bool = False) -> None:
        super().__init__()
        self.fixed = fixed
        self.patch_embed = nn.Conv2d(3, width, patch, patch)
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(torch.randn(1, (size // patch) ** 2 + 1, width))
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(width, 2, width, 0.0, batch_first=True) for _ in range(2))
        self.seen: list[tuple[int, ...]] = []
        self.blocks[0].register_forward_pre_hook(lambda module, arguments: self.seen.append(tuple(arguments[0].shape)))

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = self.patch_embed(pixels)
        grid = tokens.shape[-2:]
        position = self.pos_embed[:, 1:]
        if not self.fixed:
            side = int(position.shape[1] ** 0.5)
            position = position.transpose(1, 2).unflatten(2, (side, side))
            position = nn.functional.interpolate(position, size=grid, mode="bicubic").flatten(2).transpose(1, 2)
        tokens = tokens.flatten(2).transpose(1, 2) + position
        tokens = torch.cat([(self.cls_token + self.pos_embed[:, :1]).expand(len(tokens), -1, -1), tokens], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return tokens[:, 0]


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
    half = HardPairSampler(sampler.model, sampler.loss, crops(), score_scale=0.5, generator=seeded())
    hard = half(images())
    assert model.calls == [(16, 3, 32, 32), (16, 3, 16, 16), (16, 3, 16, 16), (16, 3, 8, 8)]
    assert [view.shape[-1] for view in hard.views] == [32, 32, 16, 16]
    assert hard.views[0].shape == full.views[0].shape
    assert (hard.indices == full.indices).float().mean() > 0.5  # the small views are those of the same parameters


def test_select_reduces_candidates_that_the_caller_rendered() -> None:
    model = Counted(nn.Flatten())
    candidates = list(torch.rand(4, 2, 3, 16, 16, generator=seeded()))
    hard = sampler_of(model, pairs(), lambda a, b: (a - b).square().sum(-1), score_scale=0.25).select(candidates)
    assert model.calls == [(8, 3, 4, 4)]
    assert torch.equal(hard.views[0][0], candidates[hard.indices[0, 0]][0])


@pytest.mark.parametrize(
    "model", [vit(), SmallTransformer(fixed=True), nn.Sequential(nn.Flatten(), nn.Linear(3072, 4))], ids=["timm", "fixed", "linear"]
)
def test_a_scale_at_which_the_model_cannot_run(model: nn.Module) -> None:
    sampler_of(model)(images())
    sampler = sampler_of(model, score_scale=0.5)
    with pytest.raises(HVSError) as error:
        sampler(images())
    text = str(error.value)
    assert text.startswith(
        "HardPairSampler(score_scale): expected a scale at which the model runs, got 0.5, at which the views have 16"
    )
    assert "dynamic_img_size=True" in text
    assert error.value.__cause__ is not None


@pytest.mark.parametrize("model", [vit(dynamic_img_size=True), SmallTransformer(), SmallResNet()], ids=["timm", "repo", "resnet"])
@pytest.mark.parametrize("scale", [0.25, 0.5, 0.75])
def test_models_that_take_other_sizes_run_at_a_scale(model: nn.Module, scale: float) -> None:
    assert len(sampler_of(model, score_scale=scale)(images()).views) == 2


@pytest.mark.parametrize("model", [vit(dynamic_img_size=True), SmallTransformer()], ids=["timm", "repo"])
def test_a_transformer_is_scored_at_whole_patches(model: nn.Module) -> None:
    sizes: list[int] = []
    sampler = sampler_of(lambda pixels: sizes.append(pixels.shape[-1]) or model(pixels), crops(), score_scale=0.4)
    sampler(images())
    assert sizes == [16, 8]  # 12.8 and 6.4 pixels, of patches of 8
    sampler.select([torch.rand(2, 3, side, side) for side in (32, 32, 32, 32, 16, 16, 16, 16)])
    assert sizes[2:] == [16, 8]


def test_the_preset_is_a_set_of_options() -> None:
    model = SmallResNet()
    sizes: list[torch.Size] = []
    sampler = sampler_of(lambda pixels: sizes.append(pixels.shape) or model(pixels), **CHEAP)
    hard = sampler(images())
    assert [view.shape[-1] for view in hard.views] == [32, 32]
    assert sizes == [(4 * len(images()), 3, 16, 16)]
    assert hard.outputs is not None and hard.outputs[0].dtype == torch.bfloat16


def test_an_error_of_the_model_itself_is_not_blamed_on_the_scale() -> None:
    def failing(pixels: Tensor) -> Tensor:
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="^mine$"):
        sampler_of(failing)(images())


@pytest.mark.parametrize(("keep", "tokens"), [(1.0, 16), (0.5, 8), (0.26, 4), (0.001, 1)])
def test_token_keep_drops_patch_tokens_and_keeps_the_class_token(keep: float, tokens: int) -> None:
    model = SmallTransformer()
    sampler = sampler_of(model, token_keep=keep)
    sampler(images())
    assert model.seen == [(16, 17, 16)]  # the user's own hook is first; ours comes after
    after: list[int] = []
    handle = model.blocks[1].register_forward_pre_hook(lambda module, arguments: after.append(arguments[0].shape[1]))
    sampler(images())
    assert after == [tokens + 1]
    handle.remove()
    assert len(model.blocks[0]._forward_pre_hooks) == 1
    after.clear()
    model(torch.rand(2, 3, 32, 32))
    assert model.seen[-1] == (2, 17, 16)


@pytest.mark.parametrize("chunk", [None, 3, 5])
def test_candidates_of_an_image_keep_the_same_tokens(chunk: int | None) -> None:
    """A network that tells the tokens themselves: their positions."""
    model = SmallTransformer()
    with torch.no_grad():
        model.pos_embed[0, 1:] = torch.arange(16.0)[:, None]
        model.patch_embed.weight.zero_()
        model.patch_embed.bias.zero_()
    model.blocks = nn.ModuleList([nn.Identity()])
    kept: list[Tensor] = []
    sampler = sampler_of(lambda pixels: model(pixels), token_keep=0.25, chunk=chunk)
    original = TokenKeep.rows
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TokenKeep, "rows", lambda self, *arguments: kept.append(original(self, *arguments)) or kept[-1])
        sampler(images())
        rows = torch.cat(kept).view(4, 4, 4)
        assert torch.equal(rows, rows[:1].expand_as(rows))
        assert len({tuple(row) for row in rows[0].tolist()}) > 1  # images differ
        assert (rows.diff(dim=-1) > 0).all()
        kept.clear()
        sampler(images())
        assert not torch.equal(torch.cat(kept).view(4, 4, 4), rows)  # and steps


@pytest.mark.parametrize("options", [{}, {"reg_tokens": 3}, {"class_token": False, "global_pool": "avg"}], ids=str)
def test_timm_prefix_tokens_stay(options) -> None:
    model = vit(**options)
    seen: list[int] = []
    model.blocks[1].register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0].shape[1]))
    sampler_of(model, token_keep=0.5)(images())
    assert seen == [8 + model.num_prefix_tokens]


def test_all_tokens_kept_is_the_plain_forward() -> None:
    model = vit().eval()
    with pytest.warns(UserWarning, match="eval mode"):
        plain = sampler_of(model)(images())
    with pytest.warns(UserWarning, match="eval mode"):
        kept = sampler_of(model, token_keep=1.0)(images())
    assert torch.equal(plain.indices, kept.indices)
    torch.testing.assert_close(plain.loss, kept.loss, rtol=0, atol=0)


def test_token_keep_refuses_what_it_cannot_do() -> None:
    with pytest.raises(HVSError, match=r"token_keep\): expected a model with a vision transformer .* got none among .*Conv2d"):
        sampler_of(SmallResNet(), token_keep=0.5)(images())
    with pytest.raises(HVSError, match=r"token_keep\): expected a fraction in \(0, 1\], got float 1.5"):
        sampler_of(vit(), token_keep=1.5)
    with pytest.raises(HVSError, match="a model that is not compiled"):
        sampler_of(torch.compile(vit(), backend="eager"), token_keep=0.5)(images())
    loss = CallableLoss(lambda a, b: (a - b).sum(-1))
    loss.model_extras = ("masks",)
    with pytest.raises(HVSError, match="which compares patch tokens"):
        sampler_of(vit(), loss=loss, token_keep=0.5)


class Head(nn.Module):
    """DINO's wrapper: takes a view or a list of views."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = SmallTransformer()
        self.head = nn.Linear(16, 12)
        self.calls = 0

    def forward(self, views: Tensor | list[Tensor]) -> Tensor:
        self.calls += 1
        return self.head(self.backbone(views if isinstance(views, Tensor) else torch.cat(views)))


def dino(teacher: nn.Module, **options) -> HardPairSampler:
    loss = DINOLoss(center=torch.zeros(12), student_temperature=0.1, teacher_temperature=0.04)
    return HardPairSampler(Head(), loss, crops(), teacher=teacher, generator=seeded(), **options)


def frozen() -> Head:
    return Head().requires_grad_(False)


def test_the_teachers_outputs_of_the_winners_are_served_once_scored() -> None:
    teacher = frozen()
    sampler = dino(teacher)
    served = sampler.reuse(teacher)
    for _ in range(2):
        hard = sampler(images())
        calls = teacher.calls
        output = served(hard.views[:2])
        assert teacher.calls == calls  # none in the step itself
        expected = teacher(hard.views[:2])
        torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-6)
        assert output.shape == (8, 12)
        torch.testing.assert_close(served(hard.views[1]), expected[4:], rtol=1e-5, atol=1e-6)
    assert (served.served, served.passed) == (4, 0)
    assert served.head is teacher.head  # attributes are the teacher's
    assert repr(served) == "ReusedTeacher(teacher=Head, served=4, passed=0)"


def test_everything_else_goes_to_the_teacher() -> None:
    teacher = frozen()
    sampler = dino(teacher)
    served = sampler.reuse(teacher)
    other = torch.rand(4, 3, 32, 32)
    assert torch.equal(served(other), teacher(other))  # before any step
    hard = sampler(images())
    views = hard.views
    passed = [
        views[0].clone(),  # equal, but another tensor
        views[2],  # a local view, which the teacher has not seen
        [views[0], other],
        views[0][:2],
        other,
        [],
    ]
    for value in passed[:-1]:
        before = (served.served, served.passed)
        assert torch.equal(served(value), teacher(value))
        assert (served.served, served.passed) == (before[0], before[1] + 1)
    views[1].mul_(0.5)  # the step augmented it once more
    assert torch.equal(served(views[1]), teacher(views[1]))
    torch.testing.assert_close(served(views[0]), teacher(views[0]), rtol=1e-5, atol=1e-6)
    assert served.served == 1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert served(views[0]).dtype == torch.bfloat16
    teacher.head.weight.mul_(2)  # the teacher moved on
    assert torch.equal(served(views[0]), teacher(views[0]))
    assert served.served == 1
    old = views[0]
    sampler(images(seed=1))
    assert torch.equal(served(old), teacher(old))  # a view of another step
    assert served.served == 1


def test_a_teacher_that_is_trained_is_never_served() -> None:
    teacher = Head()
    sampler = dino(teacher)
    served = sampler.reuse(teacher)
    hard = sampler(images())
    served(hard.views[:2]).sum().backward()
    assert teacher.head.weight.grad is not None
    with torch.no_grad():
        served(hard.views[:2])
    assert (served.served, served.passed) == (1, 1)


def test_nothing_is_kept_alive_into_the_next_step_and_skipped_steps_fall_through() -> None:
    teacher = frozen()
    sampler = dino(teacher, every=2)
    served = sampler.reuse(teacher)
    sampler(images())
    hard = sampler(images())  # not scored
    served(hard.views[:2])
    assert (served.served, served.passed) == (0, 1)
    assert sampler._serving is None


def test_reuse_refuses_what_would_give_other_numbers() -> None:
    teacher = frozen()
    for options, words in (({"score_scale": 0.5}, "score_scale=1, so that"), ({"token_keep": 0.5}, "token_keep=None, so that")):
        with pytest.raises(HVSError, match=words):
            dino(teacher, **options).reuse(teacher)
    with pytest.raises(HVSError, match="the teacher that this sampler scores with"):
        dino(teacher).reuse(frozen())
    with pytest.raises(HVSError, match="the teacher that this sampler scores with"):
        sampler_of(SmallResNet()).reuse(teacher)
    normed = nn.Sequential(teacher, nn.BatchNorm1d(12)).requires_grad_(False)
    with pytest.raises(HVSError, match="depends on nothing but the view, got BatchNorm1d in training mode"):
        dino(normed).reuse(normed)
    dino(normed.eval()).reuse(normed)
    for module in (nn.Dropout(0.1), timm.layers.DropPath(0.1)):
        chancy = nn.Sequential(teacher, module)
        with pytest.raises(HVSError, match=r"got Drop\w+ in training mode"):
            dino(chancy).reuse(chancy)
    wrapped = lambda views: teacher(views)  # noqa: E731 - a lambda is what users write
    assert dino(wrapped).reuse(teacher)


def test_slots_of_one_size_and_role_share_a_forward() -> None:
    model = Counted(nn.AdaptiveAvgPool2d(1))
    views = CandidateViews([slot(16, 2, 1), slot(16, 3, 1), slot(16, 2, 1, role="local")])
    sampler_of(lambda pixels: model(pixels).flatten(1), views, CallableLoss(lambda a, b: (a - b).square().sum(-1)))(images())
    assert model.calls == [(28, 3, 16, 16)]


def recipe(**options) -> ViewRecipe:
    return ViewRecipe(size=16, scale=(0.1, 1.0), flip_prob=0.5, jitter_prob=0.8, brightness=0.8, gray_prob=0.3, **options)


def brightness(pixels: Tensor) -> Tensor:
    """A model whose pair losses are a matter of what was drawn."""
    return pixels.mean((1, 2, 3))[:, None]


def gap(first: Tensor, second: Tensor) -> Tensor:
    return (first - second).abs().sum(-1)


def test_between_the_model_is_not_run_and_the_prediction_chooses_among_more() -> None:
    model, generator = Counted(nn.Flatten()), seeded()
    slots = [ViewSlot(recipe(), 4, 2)]
    sampler = HardPairSampler(lambda pixels: brightness(model(pixels).unflatten(1, (3, 16, 16))), gap, slots, every=3, predict=10)
    sampler.generator = generator
    predictor = PairPredictor(slots)
    for step in range(6):
        replayed = torch.Generator()
        replayed.set_state(generator.get_state())
        hard = sampler(images(seed=step))
        scored = step % 3 == 0
        many = [ViewSlot(recipe(), 4 if scored else 20, 2)]
        params = CandidateViews(many).make_params(images(seed=step), replayed)
        if scored:
            table = HardPairSampler(brightness, gap, slots).score(images(seed=step), params=params).table
            predictor.learn(params, table)
            assert torch.equal(hard.indices, exact(table, slots)) and hard.loss.isfinite().all()
        else:
            assert torch.equal(hard.indices, exact(predictor.table(params), many)) and hard.loss.isnan().all()
            assert hard.outputs is None and int(hard.indices.max()) > 3
        assert hard.drawn is not None and torch.equal(hard.drawn.boxes, params.boxes)
        assert torch.equal(hard.params.boxes, params.select(hard.indices).boxes)
        views = CandidateViews(slots).transform(images(seed=step), hard.params)[0]
        assert all(torch.equal(view, other) for view, other in zip(hard.views, views, strict=True))
    assert model.calls == [(16, 3, 16, 16)] * 2


def test_predicted_choices_are_harder_than_random_ones() -> None:
    """Of the losses that the model would have, in the mean over many steps; with more candidates they are harder still."""
    gained = {}
    for predict in (None, 2, 16):
        sampler = HardPairSampler(brightness, gap, ViewSlot(recipe(), 4, 2), every=4, predict=predict, generator=seeded())
        losses = []
        for step in range(40):
            first, second = sampler(images(8, seed=step)).views
            if step % 4:
                losses.append(gap(brightness(first), brightness(second)).mean())
        gained[predict] = float(torch.stack(losses).mean())
    assert gained[2] > 1.2 * gained[None]
    assert gained[16] > 1.2 * gained[2]


def test_params_that_are_replayed_are_what_a_prediction_chooses_from() -> None:
    sampler = HardPairSampler(brightness, gap, ViewSlot(recipe(), 4, 2), every=2, predict=8, generator=seeded())
    sampler(images())
    params = sampler.views.make_params(images(), seeded(1))
    hard = sampler(images(), params=params)
    assert torch.equal(hard.params.boxes, params.select(hard.indices).boxes)
    assert int(hard.indices.max()) < 4


def test_extras_of_a_predicted_choice_are_those_of_the_candidates_in_turn() -> None:
    slots = [ViewSlot(recipe(), 2, 1, name="a"), ViewSlot(recipe(), 3, 1, name="b")]
    sampler = HardPairSampler(brightness, gap, slots, every=2, predict=8, generator=seeded())
    extras = {"number": torch.arange(5)[:, None].expand(5, 4)}
    hard = sampler(images(), extras)
    assert torch.equal(hard.extras["number"], hard.indices)  # scored
    hard = sampler(images(), extras)
    first, second = hard.indices  # of 8 candidates each
    assert torch.equal(hard.extras["number"], torch.stack([first % 2, (second - 8) % 3 + 2]))


def test_extras_that_the_model_is_given_are_known_to_the_prediction() -> None:
    """A loss that is large for views with much masked, as iBOT's is: such candidates are preferred."""

    class Masked(CallableLoss):
        model_extras = ("masks",)

        def _table(self, student, teacher, slots, extras) -> Tensor:
            table = super()._table(student, teacher, slots, extras)
            table[:6, :6].diagonal().copy_(10 * extras["masks"].float().mean((2, 3)).t())
            return table

    slots = [ViewSlot(recipe(), 3, 1, name="a"), ViewSlot(recipe(), 3, 1, name="b"), ViewSlot(recipe(), 2, 1, role="local")]
    masks = torch.zeros(6, 4, 2, 2, dtype=torch.bool)
    masks[1, :, 0], masks[5, :, 0, 0] = True, True
    sampler = HardPairSampler(
        lambda pixels, masks=None: brightness(pixels), Masked(gap), slots, every=2, predict=12, generator=seeded()
    )
    scored = sampler(images(), {"masks": masks})
    predicted = sampler(images(), {"masks": masks})
    for hard in (scored, predicted):
        assert torch.equal(hard.extras["masks"], masks[[1, 5]])
    with pytest.raises(HVSError, match="'masks', which Masked passes to the model"):
        sampler(images()), sampler(images())


def test_a_saved_prediction_continues_as_the_unbroken_one() -> None:
    def make() -> HardPairSampler:
        return HardPairSampler(brightness, gap, ViewSlot(recipe(), 4, 2), every=3, predict=4, generator=seeded())

    unbroken, broken = make(), make()
    for _ in range(2):
        unbroken(images()), broken(images())
    resumed = make()
    resumed.load_state_dict(broken.state_dict())
    for _ in range(4):
        first, second = unbroken(images()), resumed(images())
        assert torch.equal(first.indices, second.indices)
        assert torch.equal(first.params.boxes, second.params.boxes)
    anew = make()
    anew.load_state_dict(HardPairSampler(brightness, gap, ViewSlot(recipe(), 4, 2)).state_dict() | {"step": 1})
    assert torch.equal(anew(images()).indices, torch.tensor([[0], [1]]).expand(2, 4))  # nothing was learned: the first, random ones


def test_a_policy_that_needs_no_table_is_not_predicted_for() -> None:
    sampler = HardPairSampler(brightness, gap, ViewSlot(recipe(), 4, 2), policy=policies.min_iou(), every=2, predict=4)
    assert len(sampler(images()).params) == 2
    assert torch.equal(sampler(images()).indices, torch.tensor([[0], [1]]).expand(2, 4))


def test_what_cannot_be_predicted_is_refused() -> None:
    slots = [ViewSlot(recipe(), 4, 2)]
    with pytest.raises(HVSError, match=r"predict\): expected every= above 1, since the prediction .* got every=1"):
        HardPairSampler(brightness, gap, slots, predict=8)
    with pytest.raises(HVSError, match=r"predict\): expected an integer of at least 2, .* nothing to choose, got int 1"):
        HardPairSampler(brightness, gap, slots, every=2, predict=1)
    with pytest.raises(HVSError, match=r"predict\): expected views made of ViewRecipes"):
        HardPairSampler(brightness, gap, [ViewSlot(None, 4, 2)], every=2, predict=2)
    pipeline = kornia.augmentation.AugmentationSequential(kornia.augmentation.RandomResizedCrop((16, 16)), data_keys=["input"])
    with pytest.raises(HVSError, match=r"predict\): expected views made of ViewRecipes"):
        HardPairSampler(brightness, gap, [ViewSlot(pipeline, 4, 2)], every=2, predict=2)
    with pytest.raises(HVSError, match="at most 20,000 ways to keep the global views"):
        HardPairSampler(brightness, gap, [ViewSlot(recipe(), 8, 4)], every=2, predict=16)
    with pytest.raises(HVSError, match="a sampler without predict=, as what was drawn for these candidates is not recorded"):
        HardPairSampler(brightness, gap, slots, every=2, predict=2).select([torch.rand(2, 3, 16, 16) for _ in range(4)])
