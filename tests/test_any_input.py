"""Every public function, on tensors from anywhere: the result of plain ones or an HVSError, and never a changed input.

More examples: ``HVS_EXAMPLES=500 python -m pytest tests/test_any_input.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from hvs_aug import CandidateViews, HardPairSampler, HVSError, ImageBatch, NTXentLoss, ViewSlot, analysis, collate_images, policies
from hvs_aug.selection import losses, search
from tests.ops.pictures import OPERATIONS
from tests.ops.test_definitions import EXPECTED, draw, of_image
from tests.selection.models import pairs

from .strategies import FLOATS, SIDES, answer, few, images, plain, same, tensors

SLOTS = [ViewSlot(None, candidates=4, select=2)]
VIEWS = pairs()
MODEL = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def chosen(batch: Tensor) -> list[Tensor]:
    hard = HardPairSampler(MODEL, NTXentLoss(0.5), VIEWS, generator=generator())(batch)
    return [*hard.views, hard.indices, hard.loss]


OF_IMAGES: dict[str, Callable[[Tensor], Any]] = {
    "ImageBatch.of": lambda batch: [ImageBatch.of(batch).pixels],
    "ImageBatch.pack": lambda batch: [ImageBatch.pack(list(batch)).pixels],
    "CandidateViews.make_params": lambda batch: [VIEWS.make_params(batch, generator()).boxes],
    "CandidateViews.transform": lambda batch: VIEWS.transform(batch, VIEWS.make_params(batch, generator())),
    "CandidateViews of a preset": lambda batch: _rendered(CandidateViews.preset("dino", size=16), batch),
    "collate_images": lambda batch: [collate_images(list(batch)).pixels],
    "HardPairSampler": chosen,
}


def _rendered(views: CandidateViews, batch: Tensor) -> list[Tensor]:
    return views.transform(batch, views.make_params(batch, generator()))


@pytest.mark.parametrize("name", OF_IMAGES)
@few
@given(batch=images())
def test_images(name: str, batch: Tensor) -> None:
    assert same(answer(OF_IMAGES[name], HVSError, batch), answer(OF_IMAGES[name], HVSError, plain(batch)))


@pytest.mark.parametrize("name", OPERATIONS)
@few
@given(data=st.data())
def test_operations(name: str, data: st.DataObject) -> None:
    size = data.draw(SIDES), data.draw(SIDES)
    batch = data.draw(tensors([data.draw(st.integers(0, 3)), 3, *size], [torch.float32]))
    drawn = draw(OPERATIONS[name], len(batch), size, seed=data.draw(st.integers(0, 9)))
    found = answer(lambda value: [OPERATIONS[name].apply(value, drawn)], HVSError, batch)
    assert same(found, [OPERATIONS[name].apply(plain(batch), drawn)])
    if min(size) > 1:  # torchvision's blur fails on a line of one pixel
        expected = [EXPECTED[name][0](image, of_image(drawn, index)) for index, image in enumerate(plain(batch))]
        assert same(list(found[0]), expected)


OF_OUTPUTS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "NTXentLoss": lambda one, other: [NTXentLoss(0.5).table(one)],
    "NegativeCosineLoss": lambda one, other: [losses.NegativeCosineLoss().table((one, other))],
    "NegativeCosineLoss with a teacher": lambda one, other: [losses.NegativeCosineLoss().table(one, other)],
    "DINOLoss": lambda one, other: [losses.DINOLoss().table(one, other)],
    "MoCoLoss": lambda one, other: [losses.MoCoLoss(0.5).table(one, other)],
    "SwAVLoss": lambda one, other: [losses.SwAVLoss().table(one)],
    "VICRegLoss": lambda one, other: [losses.VICRegLoss().table(one)],
    "CallableLoss": lambda one, other: [losses.CallableLoss(lambda a, b: (a - b).square().mean(-1)).table(one)],
}


@pytest.mark.parametrize("name", OF_OUTPUTS)
@few
@given(data=st.data())
def test_outputs_of_a_model(name: str, data: st.DataObject) -> None:
    shape = [data.draw(st.integers(1, 4)), data.draw(st.integers(0, 5)), data.draw(st.integers(1, 7))]
    shape = data.draw(st.sampled_from([shape, shape, shape, shape[:2], [*shape, 2]]))
    dtypes = data.draw(st.sampled_from([(dtype, dtype) for dtype in FLOATS] + [(torch.int64, torch.float32)]))
    given_ = [data.draw(tensors(shape, [dtype])) for dtype in dtypes]
    assert same(answer(OF_OUTPUTS[name], HVSError, *given_), answer(OF_OUTPUTS[name], HVSError, *map(plain, given_)))


def _chosen_by(policy: Any) -> Callable[[Tensor], list[Tensor]]:
    return lambda table: [policies.choose(policy, table, SLOTS, params=None, step=1, generator=generator())]


OF_TABLES: dict[str, Callable[[Tensor], Any]] = {
    "exact": lambda table: [search.exact(table, SLOTS)],
    "sampled": lambda table: [search.sampled(table, SLOTS, 5, generator())],
    "hardest": _chosen_by(policies.hardest(max_loss_quantile=0.9)),
    "easiest": _chosen_by(policies.easiest()),
    "semi_hard": _chosen_by(policies.semi_hard(0.5)),
    "softmax": _chosen_by(policies.softmax(0.5)),
    "mixture": _chosen_by(policies.mixture(0.5)),
    "expected_loss": lambda table: [analysis.expected_loss(table, SLOTS)],
    "spread": lambda table: [analysis.spread(table, SLOTS)],
}


@pytest.mark.parametrize("name", OF_TABLES)
@few
@given(data=st.data())
def test_tables(name: str, data: st.DataObject) -> None:
    shape = data.draw(st.sampled_from([(4, 4, 0), (4, 4, 1), (4, 4, 3), (4, 4, 3), (4, 4), (3, 4, 2), (5, 5, 2)]))
    table = data.draw(tensors(shape, (*FLOATS, torch.int64)))
    assert same(answer(OF_TABLES[name], HVSError, table), answer(OF_TABLES[name], HVSError, plain(table)))


@few
@given(data=st.data())
def test_candidates(data: st.DataObject) -> None:
    shape = data.draw(st.sampled_from([(3, 3, 16, 16), (3, 3, 16, 16), (0, 3, 16, 16), (2, 3, 1, 1), (3, 16, 16)]))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float32, torch.uint8]))
    candidates = [data.draw(tensors(shape, [dtype])) for _ in range(4)]
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))

    def select(*views: Tensor) -> list[Tensor]:
        hard = HardPairSampler(model, losses.VICRegLoss(), SLOTS, generator=generator()).select(list(views))
        return [*hard.views, hard.indices, hard.loss]

    assert same(answer(select, HVSError, *candidates), answer(select, HVSError, *map(plain, candidates)))
