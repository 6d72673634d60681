"""The methods against lightly's losses, against the tables they are chosen by, and their teachers against the formula."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from hvs_aug._check import HVSError
from hvs_aug.pretraining.build import METHODS, build_method
from hvs_aug.pretraining.methods import BYOL, Method, SimCLR, SimSiam, negative_cosine, nt_xent
from hvs_aug.pretraining.networks import SmallResNet, build_encoder, mlp, patch_of, small_transformer
from hvs_aug.pretraining.photographs import photograph_tiles
from hvs_aug.pretraining.self_distillation import DINO, IBOT, cross_view_loss, masked_patch_loss
from hvs_aug.selection.sampler import HardViews

SIZE = 16


def build(name: str) -> Method:
    """A method with a network of a few thousand weights."""
    torch.manual_seed(0)
    encoder = small_transformer(SIZE, 4, 32, 2, 2) if name in ("dino", "ibot") else SmallResNet(width=4)
    options: dict[str, Any] = {"prototypes": 24} if name in ("dino", "ibot") else {}
    return METHODS[name](encoder, **options)


def images(count: int = 6) -> Tensor:
    return torch.randint(0, 256, (count, 3, 20, 24), dtype=torch.uint8)


def hard_views(views: Sequence[Tensor], **extras: Tensor) -> HardViews:
    """Chosen views as a sampler returns them, with nothing known of how they were chosen."""
    nothing = torch.zeros(0)
    return HardViews(list(views), None, nothing, nothing, None, None, nothing, extras)


def lightly_loss(name: str, *arguments: Any, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own imports warn
        loss = pytest.importorskip("lightly.loss")
    return getattr(loss, name)(*arguments, **options)


def two_views() -> list[Tensor]:
    return [torch.rand(6, 3, SIZE, SIZE), torch.rand(6, 3, SIZE, SIZE)]


def test_nt_xent_is_lightlys() -> None:
    first, second = torch.randn(7, 5), torch.randn(7, 5)
    expected = lightly_loss("NTXentLoss", temperature=0.3)(first, second)
    assert nt_xent(first, second, 0.3).item() == pytest.approx(expected.item(), abs=1e-6)


def test_negative_cosine_is_lightlys_and_gives_no_gradient_to_the_target() -> None:
    prediction, target = torch.randn(7, 5, requires_grad=True), torch.randn(7, 5, requires_grad=True)
    ours = negative_cosine(prediction, target)
    assert ours.item() == pytest.approx(lightly_loss("NegativeCosineSimilarity")(prediction, target).item(), abs=1e-6)
    ours.backward()
    assert prediction.grad is not None and target.grad is None


def test_simclr_is_nt_xent_of_one_joint_forward() -> None:
    method, views = build("simclr"), two_views()
    assert isinstance(method, SimCLR)
    ours = method.loss(hard_views(views))
    first, second = method.projector(method.encoder(torch.cat(views))).chunk(2)
    assert ours.item() == pytest.approx(lightly_loss("NTXentLoss", temperature=0.2)(first, second).item(), abs=1e-6)


def test_simsiam_and_its_gradients_are_those_of_lightlys_loss() -> None:
    method, views = build("simsiam"), two_views()
    assert isinstance(method, SimSiam)
    criterion = lightly_loss("NegativeCosineSimilarity")
    ours = method.loss(hard_views(views))
    ours.backward()
    gradients = [weight.grad.clone() for weight in method.parameters() if weight.grad is not None]
    method.zero_grad()
    targets = [method.projector(method.encoder(view)) for view in views]
    first, second = (method.predictor(target) for target in targets)
    theirs = 0.5 * (criterion(first, targets[1].detach()) + criterion(second, targets[0].detach()))
    theirs.backward()
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)
    for ours_grad, weight in zip(gradients, method.parameters(), strict=True):
        torch.testing.assert_close(ours_grad, weight.grad, atol=1e-6, rtol=1e-4)


def test_byol_is_both_directions_against_the_target_alone() -> None:
    method, views = build("byol"), two_views()
    assert isinstance(method, BYOL)
    criterion = lightly_loss("NegativeCosineSimilarity")
    with torch.no_grad():
        method.target[1][0].weight.mul_(1.3)  # else the target is the online network
        targets = [method.target(view) for view in views]
    first, second = (method.predictor(method.projector(method.encoder(view))) for view in views)
    theirs = 2 + 2 * criterion(first, targets[1]) + 2 + 2 * criterion(second, targets[0])
    ours = method.loss(hard_views(views))
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
    ours.backward()
    assert all(weight.grad is None for weight in method.target.parameters())
    assert all(weight.grad is not None for weight in method.encoder.parameters())


def test_dino_and_its_centre_are_lightlys() -> None:
    method = build("dino")
    assert isinstance(method, DINO)
    with torch.no_grad():
        method.teacher.head.prototypes.add_(torch.randn_like(method.teacher.head.prototypes) * 0.3)
        method.center.copy_(torch.randn_like(method.center) * 0.1)
    views = [*two_views(), *(torch.rand(6, 3, 8, 8) for _ in range(3))]
    theirs = lightly_loss("DINOLoss", output_dim=24, student_temp=0.1, center_momentum=0.9)
    theirs.center.copy_(method.center)
    with torch.no_grad():
        teacher = [method.teacher(view) for view in views[:2]]
        expected = theirs(teacher, [method.student(view) for view in views], teacher_temp=0.04)
    assert method.loss(hard_views(views)).item() == pytest.approx(expected.item(), abs=1e-5)
    torch.testing.assert_close(method.center.flatten(), theirs.center.flatten(), atol=1e-6, rtol=1e-5)


def test_ibot_is_lightlys_class_and_patch_loss() -> None:
    method = build("ibot")
    assert isinstance(method, IBOT)
    with torch.no_grad():
        method.teacher.head.prototypes.add_(torch.randn_like(method.teacher.head.prototypes) * 0.3)
        method.center.copy_(torch.randn_like(method.center) * 0.1)
        method.patch_center.copy_(torch.randn_like(method.center) * 0.1)
    views = [*two_views(), *(torch.rand(6, 3, 8, 8) for _ in range(2))]
    masks = torch.rand(2, 6, 4, 4) < 0.4
    masks[0, 0] = False  # an image without a masked patch
    cls_loss = lightly_loss("DINOLoss", output_dim=24, student_temp=0.1)
    cls_loss.center.copy_(method.center)
    patch_loss = lightly_loss("IBOTPatchLoss", output_dim=24, student_temp=0.1, teacher_temp=0.04)
    patch_loss.center.value.copy_(method.patch_center)
    with torch.no_grad():
        taught = [method.teacher(view) for view in views[:2]]
        seen = [method.student(view, mask) for view, mask in zip(views[:2], masks, strict=True)]
        student = [cls for cls, _ in seen] + [method.student.class_scores(view) for view in views[2:]]
        flat = masks.flatten(0, 1)
        teacher_patches = torch.cat([patches for _, patches in taught])[flat.flatten(1)]
        student_patches = torch.cat([patches for _, patches in seen])[flat.flatten(1)]
        expected = cls_loss([cls for cls, _ in taught], student, teacher_temp=0.04)
        expected = expected + patch_loss(teacher_patches, student_patches, flat)
        mean = torch.cat([patches for _, patches in taught]).mean((0, 1))
        patch_center = 0.9 * method.patch_center + 0.1 * mean
    assert method.loss(hard_views(views, masks=masks)).item() == pytest.approx(expected.item(), abs=1e-5)
    torch.testing.assert_close(method.patch_center, patch_center, atol=1e-6, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:HardPairSampler scores with the model in eval mode:UserWarning")
@pytest.mark.parametrize("name", METHODS)
def test_the_loss_that_chooses_is_the_loss_that_trains(name: str) -> None:
    method = build(name).eval()  # BatchNorm of one and of all candidates together would differ
    views = method.views(SIZE, method.fewest)
    generator = torch.Generator().manual_seed(0)
    sampler = method.sampler(views, generator=generator)
    batch = images()
    extras = method.extras(views.slots, len(batch), generator)
    scored = sampler.score(batch, extras)
    rendered = [view for slot in views.transform(batch, scored.params) for view in slot]
    rows, columns = torch.triu_indices(len(scored.table), len(scored.table))
    per_image = scored.table[rows, columns].sum(0).mean().item()
    expected = 4 + 4 * per_image if name == "byol" else per_image
    assert method.loss(hard_views(rendered, **(extras or {}))).item() == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("name", METHODS)
def test_a_step_moves_the_student_and_then_its_average(name: str) -> None:
    method = build(name)
    views = method.views(SIZE, 4 if method.fewest == 2 else 2)
    generator = torch.Generator().manual_seed(0)
    sampler = method.sampler(views, generator=generator)
    batch = images()
    method.schedule(0.25)
    hard = sampler(batch, method.extras(views.slots, len(batch), generator))
    before = {key: value.clone() for key, value in method.named_parameters()}
    method.loss(hard).backward()
    torch.optim.SGD([weight for weight in method.parameters() if weight.requires_grad], lr=0.5).step()
    method.after_step()
    after = dict(method.named_parameters())
    student = "student." if name in ("dino", "ibot") else ""
    moved = [key for key in before if not torch.equal(before[key], after[key])]
    assert any(key.startswith(f"{student}encoder") for key in moved)
    momentum = 1 - 0.01 * (1 + 2**-0.5) / 2  # a quarter of the half cosine from 0.99
    pairs = {
        "byol": {"target.0": "encoder", "target.1": "projector"},
        "dino": {"teacher": "student"},
        "ibot": {"teacher": "student"},
    }
    for teacher, of in pairs.get(name, {}).items():
        for key in (key for key in after if key.startswith(f"{teacher}.")):
            expected = momentum * before[key] + (1 - momentum) * after[key.replace(teacher, of, 1)]
            torch.testing.assert_close(after[key], expected, atol=1e-6, rtol=1e-5)
    assert method.encode(torch.rand(5, 3, SIZE, SIZE)).shape == (5, 32 if student else 16)


def test_the_teacher_of_dino_runs_once_where_it_has_scored_the_winners() -> None:
    method, batch = build("dino"), images()
    assert isinstance(method, DINO)
    views = method.views(SIZE, 2)
    sampler = method.sampler(views, generator=torch.Generator().manual_seed(0))
    hard = sampler(batch)
    served = method.loss(hard)
    assert method._reused is not None and (method._reused.served, method._reused.passed) == (2, 0)
    method.center.zero_()
    method.sampler(views, scoring="cheap")
    assert method._reused is None
    assert method.loss(hard).item() == pytest.approx(served.item(), abs=1e-6)


def test_masks_leave_half_of_the_views_whole_and_cover_a_tenth_to_a_half_of_the_others() -> None:
    method = build("ibot")
    slots = method.views(32, 2).slots
    extras = method.extras(slots, 500, torch.Generator().manual_seed(0))
    assert extras is not None
    masks = extras["masks"]
    assert masks.shape == (4, 500, 8, 8) and masks.dtype == torch.bool
    share = masks.float().mean((2, 3)).flatten()
    assert abs((share == 0).float().mean().item() - 0.5) < 5 * 0.5 / 2000**0.5
    assert share[share > 0].min() >= 0.09 and share.max() <= 0.5
    assert masks.float().mean((0, 1)).max() - masks.float().mean((0, 1)).min() < 0.08  # no place is preferred
    again = method.extras(slots, 500, torch.Generator().manual_seed(0))
    assert again is not None and torch.equal(masks, again["masks"])


def test_schedules() -> None:
    method = build("dino")
    assert isinstance(method, DINO)
    found = []
    for progress in (0.0, 0.5, 1.0):
        method.schedule(progress)
        found.append(round(method.momentum, 6))
    assert found == [0.99, 0.995, 1.0]


def test_dino_does_not_collapse_to_uniform_scores() -> None:
    """With a teacher's temperature of 0.07 the loss rises to the logarithm of the number of prototypes in 40 steps, and stays."""
    pytest.importorskip("skimage")
    tiles, losses = photograph_tiles().train, []
    for seed in range(2):
        torch.manual_seed(seed)
        method = build_method("dino", 32)
        sampler = method.sampler(method.views(32, 1), generator=torch.Generator().manual_seed(seed))
        optimizer = torch.optim.AdamW([weight for weight in method.parameters() if weight.requires_grad], lr=1e-3)
        generator = torch.Generator().manual_seed(seed)
        for step in range(40):
            loss = method.loss(sampler(tiles[torch.randint(0, len(tiles), (32,), generator=generator)]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            method.after_step()
            losses += [loss.item()] if step >= 20 else []
    assert sum(losses) / len(losses) < math.log(1024) - 0.1  # of two runs: they scatter by 0.3


def test_masked_patches_alone_count() -> None:
    scores, masks = torch.randn(2, 3, 4, 5), torch.zeros(2, 3, 4, dtype=torch.bool)
    targets = torch.softmax(torch.randn(2, 3, 4, 5), -1)
    masks[1, 2, 1] = True
    expected = -(targets[1, 2, 1] * torch.log_softmax(scores[1, 2, 1] / 0.1, -1)).sum() / 6
    assert masked_patch_loss(scores, targets, masks).item() == pytest.approx(expected.item(), abs=1e-5)


def test_a_view_is_not_compared_with_itself() -> None:
    scores = [torch.randn(3, 5) for _ in range(3)]
    targets = torch.softmax(torch.randn(2, 3, 5), -1)
    terms = [
        -(targets[teacher] * torch.log_softmax(scores[view] / 0.1, -1)).sum(-1).mean()
        for teacher, view in [(0, 1), (0, 2), (1, 0), (1, 2)]
    ]
    assert cross_view_loss(scores, targets).item() == pytest.approx(torch.stack(terms).mean().item(), abs=1e-5)


def test_masked_patches_do_not_reach_the_transformer() -> None:
    encoder = small_transformer(SIZE, 4, 32, 2, 2).eval()
    view = torch.rand(1, 3, SIZE, SIZE)
    masks = torch.zeros(1, 4, 4, dtype=torch.bool)
    masks[0, 1, 2] = True
    other = view.clone()
    other[:, :, 4:8, 8:12] = 0
    with torch.no_grad():
        assert not torch.allclose(encoder(view), encoder(other))
        torch.testing.assert_close(encoder(view, masks), encoder(other, masks))
        assert encoder(torch.rand(2, 3, 8, 8), with_patches=True)[1].shape == (2, 4, 32)  # a local crop


@pytest.mark.parametrize("name", METHODS)
def test_weights_depend_on_the_seed_alone(name: str) -> None:
    state = torch.get_rng_state()
    first, second, third = build_method(name, 16), build_method(name, 16), build_method(name, 16, seed=1)
    assert torch.equal(state, torch.get_rng_state())
    weights = first.state_dict()
    assert all(torch.equal(value, second.state_dict()[key]) for key, value in weights.items())
    assert any(not torch.equal(value, third.state_dict()[key]) for key, value in weights.items())


def test_local_views_are_whole_patches() -> None:
    for size in (32, 64, 224):
        sides = {slot.role: slot.recipe.size for slot in build("dino").views(size).slots}
        assert sides["global"] == size and sides["local"] % patch_of(size) == 0
    assert sides["local"] == 96


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: build_method("simclrr", 32),
            "build_method(name): expected one of byol, dino, ibot, simclr, simsiam, got 'simclrr'",
        ),
        (lambda: build_method("simclr", 32, "resnet19"), "did you mean 'resnet18'?"),
        (lambda: build_method("ibot", 32, "resnet8"), "expected a vision transformer, whose patches can be masked"),
        (lambda: DINO.views(30), "DINO.views(size): expected a multiple of the transformer's patch of 4 pixels, got int 30"),
        (
            lambda: small_transformer(18, 4, 32, 1, 2),
            "build_encoder(size): expected a multiple of the transformer's patch of 4 pixels",
        ),
        (lambda: build_method("simclr", 32, "timm:resnet19"), "did you mean 'timm:resnet1"),
        (lambda: build_method("dino", 48, "timm:vit_tiny_patch16_224"), "a transformer whose patch divides 20 pixels"),
    ],
)
def test_bad_input(make: Any, message: str) -> None:
    with pytest.raises(HVSError) as caught:
        make()
    assert message in str(caught.value)


def test_networks() -> None:
    pixels = torch.rand(2, 3, 32, 32)
    assert build_encoder("resnet8", 32)(pixels).shape == build_encoder("resnet8-strided", 32)(pixels).shape == (2, 64)
    small, large = build_encoder("resnet18", 32), build_encoder("resnet18", 64)
    assert small(pixels).shape == (2, 512) and small.body.conv1.stride == (1, 1) and large.body.conv1.stride == (2, 2)
    head = mlp(8, 6, 4, last_norm=True)
    assert [type(layer).__name__ for layer in head] == ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d"]


def test_gradients_are_clipped_parameter_by_parameter() -> None:
    dino, simclr = build("dino"), build("simclr")
    for method in (dino, simclr):
        for number, weight in enumerate(method.parameters()):
            weight.grad = torch.full_like(weight, 0.0 if number % 3 == 0 else 10.0 if number % 3 == 1 else 1e-4)
        method.clip_gradients()
    for number, weight in enumerate(dino.parameters()):
        norm = {0: 0.0, 1: min(3.0, 10 * weight.numel() ** 0.5), 2: min(3.0, 1e-4 * weight.numel() ** 0.5)}[number % 3]
        assert float(weight.grad.norm()) == pytest.approx(norm, rel=1e-3)
    assert {float(weight.grad.max()) for weight in simclr.parameters()} == {0.0, 10.0, float(torch.tensor(1e-4))}
