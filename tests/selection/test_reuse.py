"""Serving the teacher's outputs of the winners: the same numbers, and never stale ones."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from hvs_aug._check import HVSError
from hvs_aug.selection.losses import DINOLoss, NTXentLoss
from hvs_aug.selection.reuse import reuse
from hvs_aug.selection.sampler import HardPairSampler
from hvs_aug.selection.scoring import Scoring

from .models import SmallResNet, SmallTransformer, crops, images


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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
    served = reuse(sampler, teacher)
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
    served = reuse(sampler, teacher)
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
    served = reuse(sampler, teacher)
    hard = sampler(images())
    served(hard.views[:2]).sum().backward()
    assert teacher.head.weight.grad is not None
    with torch.no_grad():
        served(hard.views[:2])
    assert (served.served, served.passed) == (1, 1)


def test_nothing_is_kept_alive_into_the_next_step_and_skipped_steps_fall_through() -> None:
    teacher = frozen()
    sampler = dino(teacher, scoring=Scoring(every=2))
    served = reuse(sampler, teacher)
    sampler(images())
    hard = sampler(images())  # not scored
    served(hard.views[:2])
    assert (served.served, served.passed) == (0, 1)
    assert served._remembered is None


def test_reuse_refuses_what_would_give_other_numbers() -> None:
    teacher = frozen()
    with pytest.raises(HVSError, match="scale=1, so that the teacher has seen the views of the step, got scale=0.5"):
        reuse(dino(teacher, scoring="cheap"), teacher)
    with pytest.raises(HVSError, match="the teacher that this sampler scores with"):
        reuse(dino(teacher), frozen())
    with pytest.raises(HVSError, match="the teacher that this sampler scores with"):
        reuse(HardPairSampler(SmallResNet(), NTXentLoss(0.5), crops()), teacher)
    normed = nn.Sequential(teacher, nn.BatchNorm1d(12)).requires_grad_(False)
    with pytest.raises(HVSError, match="depends on nothing but the view, got BatchNorm1d in training mode"):
        reuse(dino(normed), normed)
    reuse(dino(normed.eval()), normed)
    for module in (nn.Dropout(0.1), timm.layers.DropPath(0.1)):
        chancy = nn.Sequential(teacher, module)
        with pytest.raises(HVSError, match=r"got Drop\w+ in training mode"):
            reuse(dino(chancy), chancy)
    wrapped = lambda views: teacher(views)  # noqa: E731 - a lambda is what users write
    assert reuse(dino(wrapped), teacher)


def test_a_teacher_that_was_set_to_another_mode_is_asked_again() -> None:
    teacher = nn.Sequential(frozen(), nn.BatchNorm1d(12)).eval().requires_grad_(False)
    sampler = dino(teacher)
    served = reuse(sampler, teacher)
    view = sampler(images()).views[0]
    teacher[1].train()
    assert torch.equal(served(view), copy.deepcopy(teacher)(view))
    teacher[1].eval()
    served(view)
    assert (served.served, served.passed) == (0, 2)  # its statistics have moved
    sampler(images())
    teacher.train()  # BatchNorm in training mode while it scores: another batch, other numbers
    view = sampler(images()).views[0]
    served(view)
    assert (served.served, served.passed) == (0, 3)


def test_a_buffer_that_was_updated_since_scoring_is_noticed() -> None:
    teacher = frozen()
    teacher.register_buffer("centre", torch.zeros(12))
    teacher.register_forward_hook(lambda module, arguments, output: output - module.centre)
    sampler = dino(teacher)
    served = reuse(sampler, teacher)
    view = sampler(images()).views[0]
    teacher.centre.add_(1)
    assert torch.equal(served(view), teacher(view)) and served.passed == 1
    view = sampler(images()).views[0]
    teacher.centre = torch.ones(12)
    assert torch.equal(served(view), teacher(view)) and served.passed == 2
    view = sampler(images()).views[0]
    torch.testing.assert_close(served(view), teacher(view), rtol=1e-5, atol=1e-6)
    assert served.served == 1


def test_what_is_served_may_be_changed_in_place() -> None:
    teacher = frozen()
    sampler = dino(teacher)
    served = reuse(sampler, teacher)
    hard = sampler(images())
    right = teacher(hard.views[:2])
    served(hard.views[0]).sub_(5)  # a loss that centres in place
    served(hard.views[:2]).sub_(5)
    torch.testing.assert_close(served(hard.views[:2]), right, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(hard.teacher_outputs[0][0], right[:4], rtol=1e-5, atol=1e-6)
    assert served.served == 3
    hard.teacher_outputs[0].sub_(5)  # what the caller was given is not served once it was changed
    torch.testing.assert_close(served(hard.views[0]), right[:4], rtol=1e-5, atol=1e-6)
    assert (served.served, served.passed) == (3, 1)


def test_another_teacher_behind_the_same_function_is_asked() -> None:
    current = frozen()
    sampler = dino(lambda views: current(views))
    served = reuse(sampler, sampler.teacher)
    view = sampler(images()).views[0]
    current = frozen()
    assert torch.equal(served(view), current(view)) and served.passed == 1


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))], ids=["deepcopy", "pickle"])
def test_a_copy_serves_what_its_own_sampler_chose(copied: Callable[[Any], Any]) -> None:
    teacher = frozen()
    sampler = dino(teacher)
    served = reuse(sampler, teacher)
    sampler(images())
    twin, twin_served = copied((sampler, served))
    hard = twin(images())
    assert twin_served.teacher is twin.teacher is not teacher
    torch.testing.assert_close(twin_served(hard.views[:2]), twin.teacher(hard.views[:2]), rtol=1e-5, atol=1e-6)
    assert (twin_served.served, served.served, twin_served.passed) == (1, 0, 0)
    assert served.calls == teacher.calls  # attributes are the teacher's
