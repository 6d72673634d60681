"""Tables, searches and policies never wait for a device, and are captured whole by torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

from hvs_aug.selection import search
from hvs_aug.selection.losses import CallableLoss, DINOLoss, IBOTLoss, NegativeCosineLoss, NTXentLoss
from hvs_aug.selection.policies import choose

from .outputs import MULTI_CROP, pieces, teacher_pieces
from .test_losses_prototypes import Ibot, ibot_outputs, ibot_slots
from .test_policies import EVERY


def distance(one: Tensor, other: Tensor) -> Tensor:
    return (one - other).square().mean(-1)


def contrastive(device: str) -> Tensor:
    return NTXentLoss(0.1).table(pieces(torch.randn(7, 5, 40, device=device)), slots=MULTI_CROP)


def simsiam(device: str) -> Tensor:
    outputs = pieces(torch.randn(7, 5, 40, device=device))
    return NegativeCosineLoss().table(list(zip(outputs, outputs, strict=True)), slots=MULTI_CROP)


def byol(device: str) -> Tensor:
    student, teacher = torch.randn(2, 7, 5, 40, device=device)
    return NegativeCosineLoss().table(pieces(student), teacher_pieces(teacher), MULTI_CROP)


def any_function(device: str) -> Tensor:
    student, teacher = torch.randn(2, 7, 5, 40, device=device)
    plain = CallableLoss(distance).table(pieces(student), slots=MULTI_CROP)
    return plain + CallableLoss(distance, teacher=True).table(pieces(student), teacher_pieces(teacher), MULTI_CROP)


def dino(device: str) -> Tensor:
    student, teacher = torch.randn(2, 7, 5, 40, device=device)
    loss = DINOLoss.like(Ibot().to(device), epoch=1)
    return loss.table(pieces(student), teacher_pieces(teacher), MULTI_CROP)


def ibot(device: str) -> Tensor:
    outputs = {name: value.to(device) for name, value in ibot_outputs(5).items()}
    return IBOTLoss().table(*ibot_slots(outputs), MULTI_CROP, {"masks": outputs["masks"]})


TABLES = [contrastive, simsiam, byol, any_function, dino, ibot]


@pytest.mark.parametrize("table", TABLES)
def test_tables_on_a_device(table: Callable[[str], Tensor]) -> None:
    with FakeTensorMode():
        result = table("cuda")
    assert result.device.type == "cuda" and result.shape == (7, 7, 5) and result.dtype == torch.float32


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("generator", [None, torch.Generator()], ids=["global", "own generator"])
def test_policies_on_a_device(name: str, generator: torch.Generator | None) -> None:
    with FakeTensorMode():
        table = torch.randn(7, 7, 5, device="cuda")
        indices = choose(EVERY[name](), table, MULTI_CROP, params=None, step=5, generator=generator)
        loss = search.selection_loss(table, indices)
    assert indices.device.type == loss.device.type == "cuda"
    assert indices.shape == (4, 5) and indices.dtype == torch.int64 and loss.shape == (5,)


@pytest.mark.parametrize("wait", [lambda x: x.max().item(), lambda x: x[x > 0], lambda x: x.nonzero(), lambda x: bool(x.any())])
def test_the_check_can_fail(wait: Callable[[Tensor], Any]) -> None:
    with FakeTensorMode(), pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
        wait(torch.randn(3, device="cuda"))


@pytest.mark.parametrize("table", [contrastive, simsiam, byol, any_function, ibot])
def test_tables_are_captured_whole(table: Callable[[str], Tensor]) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    expected = table("cpu")
    torch.manual_seed(0)
    assert torch.equal(torch.compile(table, fullgraph=True, backend="eager")("cpu"), expected)


def test_a_loss_that_reads_a_centre_is_captured_whole() -> None:
    torch._dynamo.reset()
    repo = Ibot()
    loss = DINOLoss(0.04, 0.1, lambda: repo.center)
    student, teacher = torch.randn(2, 7, 5, 40)

    def table(student: Tensor, teacher: Tensor) -> Tensor:
        return loss.table(pieces(student), teacher_pieces(teacher), MULTI_CROP)

    captured = torch.compile(table, fullgraph=True, backend="eager")
    for _ in range(2):
        assert torch.equal(captured(student, teacher), table(student, teacher))
        repo.center.normal_()


@pytest.mark.parametrize("name", EVERY)
def test_policies_are_captured_whole(name: str) -> None:
    """With the global generator: torch.compile captures no other, so a policy that is given one draws outside the graph."""
    torch._dynamo.reset()
    policy = EVERY[name]()

    def choice(table: Tensor) -> tuple[Tensor, Tensor]:
        indices = choose(policy, table, MULTI_CROP, params=None, step=5, generator=None)
        return indices, search.selection_loss(table, indices)

    table = torch.randn(7, 7, 5)
    torch.manual_seed(0)
    expected = choice(table)
    torch.manual_seed(0)
    captured = torch.compile(choice, fullgraph=True, backend="eager")(table)
    assert torch.equal(captured[0], expected[0]) and torch.equal(captured[1], expected[1])


@pytest.mark.gpu
def test_a_real_device_is_never_waited_for() -> None:
    table = torch.randn(7, 7, 5)
    there = table.cuda()
    outputs = torch.randn(2, 7, 5, 40, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        NTXentLoss(0.1).table(outputs[0])
        DINOLoss().table(pieces(outputs[0]), teacher_pieces(outputs[1]), MULTI_CROP)
        chosen = {
            name: choose(make(), there, MULTI_CROP, params=None, step=5, generator=torch.Generator().manual_seed(0))
            for name, make in EVERY.items()
        }
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for name, make in EVERY.items():
        here = choose(make(), table, MULTI_CROP, params=None, step=5, generator=torch.Generator().manual_seed(0))
        assert torch.equal(chosen[name].cpu(), here), name
