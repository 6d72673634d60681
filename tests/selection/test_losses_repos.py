"""MoCo's, SwAV's and VICReg's tables: equal to the formulas and to Lightly's losses; queues are read and never written."""

from __future__ import annotations

import itertools
import pickle
import types
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightly import loss as lightly_losses
from torch import Tensor, nn

from hvs_aug._check import HVSError
from hvs_aug.selection.losses import MoCoLoss, SwAVLoss, VICRegLoss, moco
from hvs_aug.selection.search import selection_loss
from hvs_aug.views.recipe import ViewSlot

from ..reference import losses as reference
from .outputs import DTYPES, MULTI_CROP, close, pieces, teacher_pieces

SWAV = (ViewSlot(None, candidates=4, select=2), ViewSlot(None, candidates=3, select=2, name="local", role="local"))


def queue_of(*shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape), dim=-2)


@pytest.fixture(params=["one block", "many blocks"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Walk the products in one block, and in blocks of a few rows."""
    if request.param == "many blocks":
        monkeypatch.setattr(moco, "block_bytes", lambda device: 256)


class TestMoCo:
    @pytest.mark.usefixtures("blocks")
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("kind", ["v2", "symmetric", "two queues", "v3"])
    def test_equals_the_formula(self, kind: str, dtype: torch.dtype) -> None:
        queries, keys = torch.randn(2, 4, 3, 8).to(dtype)
        queue = {"v2": queue_of(8, 20), "symmetric": queue_of(8, 20), "two queues": queue_of(2, 8, 20), "v3": None}[kind]
        symmetric = kind in ("symmetric", "two queues")
        table = MoCoLoss(0.2, queue, symmetric=symmetric).table(queries, keys)
        assert table.dtype == torch.float32
        close(table, reference.moco_table(queries, keys, 0.2, queue, symmetric))

    def test_mean_is_the_repos_loss_of_the_batch_of_a_pair(self) -> None:
        queries, keys = F.normalize(torch.randn(2, 4, 6, 8), dim=-1)
        queue = queue_of(8, 20)
        logits = torch.cat([(queries[1] * keys[3]).sum(-1, keepdim=True), queries[1] @ queue], 1) / 0.07
        expected = F.cross_entropy(logits, torch.zeros(6, dtype=torch.long))
        close(MoCoLoss(0.07, queue).table(queries, keys)[1, 3].mean(), expected)
        ways = [F.cross_entropy(queries[a] @ keys[b].T / 0.3, torch.arange(6)) for a, b in ((0, 2), (2, 0))]
        close(MoCoLoss(0.3).table(queries, keys)[0, 2].mean(), 0.6 * sum(ways))

    def test_like_reads_live_and_never_writes(self) -> None:
        model = types.SimpleNamespace(T=0.2, queue=queue_of(8, 20), queue_ptr=torch.zeros(1))
        loss, before = MoCoLoss.like(model), model.queue.clone()
        outputs = torch.randn(2, 4, 3, 8)
        first = loss.table(*outputs)
        assert torch.equal(model.queue, before)
        model.queue[:, :5] = queue_of(8, 5)  # as the repo enqueues
        close(loss.table(*outputs), MoCoLoss(0.2, model.queue).table(*outputs))
        model.queue = queue_of(8, 20)
        close(loss.table(*outputs), MoCoLoss(0.2, model.queue).table(*outputs))
        assert not torch.allclose(loss.table(*outputs), first)

    def test_like_of_each_repo(self) -> None:
        bank = lightly_losses.NTXentLoss(0.1, memory_bank_size=(20, 8))
        outputs = torch.randn(2, 4, 3, 8)
        close(MoCoLoss.like(bank).table(*outputs)[0, 1].mean(), bank(outputs[0, 0], outputs[1, 1]))
        third = types.SimpleNamespace(T=1.0, predictor=None, momentum_encoder=None)
        assert repr(MoCoLoss.like(third)) == "MoCoLoss(1.0, gather=True)"
        solo = types.SimpleNamespace(temperature=0.2, queue=queue_of(2, 8, 20))
        assert repr(MoCoLoss.like(solo)) == "MoCoLoss(0.2, queue of 20, symmetric=True)"
        with pytest.raises(HVSError, match=r"MoCoLoss.like\(model\): expected .* T or temperature.*\n.*model.module"):
            MoCoLoss.like(nn.Linear(2, 2))
        with pytest.raises(HVSError, match="a queue, or with a predictor and a momentum encoder"):
            MoCoLoss.like(types.SimpleNamespace(T=1.0))
        with pytest.raises(HVSError, match="with a memory bank, got one of 0 rows"):
            MoCoLoss.like(lightly_losses.NTXentLoss())

    @pytest.mark.parametrize("queue", [queue_of(8, 20), None])
    def test_a_nan_image_stays_alone(self, queue: Tensor | None) -> None:
        queries, keys = torch.randn(2, 4, 5, 8)
        whole = MoCoLoss(0.2, queue, symmetric=True).table(queries, keys)
        queries[1, 3, 0], keys[2:, 0] = torch.nan, torch.inf
        table = MoCoLoss(0.2, queue, symmetric=True).table(queries, keys)
        bad = torch.zeros(4, 4, 5, dtype=torch.bool)
        for view, image in ((1, 3), (2, 0), (3, 0)):
            bad[view, :, image] = bad[:, view, image] = True
        bad.diagonal().zero_()
        assert torch.equal(~table.isfinite(), bad)
        if queue is not None:
            assert torch.equal(table[~bad], whole[~bad])
        else:
            without = reference.moco_table(queries[:, 1:], keys[:, 1:], 0.2)
            close(table[2, 3, 1:], without[2, 3])  # image 0 has no key in either view

    @pytest.mark.parametrize(
        "call, words",
        [
            (lambda: MoCoLoss(0), r"MoCoLoss\(temperature\): expected a number above 0"),
            (lambda: MoCoLoss(0.1, queue_of(8, 20), gather=True), r"MoCoLoss\(gather\): expected False where there is a queue"),
            (lambda: MoCoLoss(0.1, queue_of(7, 20)).table(*torch.randn(2, 4, 3, 8)), r"MoCoLoss\(queue\): expected \(8, n\)"),
            (lambda: MoCoLoss(0.1).table(*torch.randn(2, 4, 1, 8)), "at least 2 images, whose keys.*\n.*drop_last"),
            (lambda: MoCoLoss(0.1).table(torch.randn(4, 3, 8), torch.randn(4, 3, 9)), "queries and keys of one width, got 8 and 9"),
            (lambda: MoCoLoss(0.1).table(torch.randn(4, 3, 8)), "teacher's outputs"),
        ],
    )
    def test_bad_input(self, call: Any, words: str) -> None:
        with pytest.raises(HVSError, match=words):
            call()

    def test_local_views_are_refused(self) -> None:
        outputs = torch.randn(7, 3, 8)
        with pytest.raises(HVSError, match=r"MoCoLoss.table\(slots\): expected global slots"):
            MoCoLoss(0.1).table(pieces(outputs), teacher_pieces(outputs), MULTI_CROP)


class TestSwAV:
    @pytest.mark.parametrize("slots", [MULTI_CROP, SWAV])
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_equals_the_formula(self, slots: tuple[ViewSlot, ...], dtype: torch.dtype) -> None:
        scores = torch.randn(7, 5, 12).mul(0.3).to(dtype)
        table = SwAVLoss(0.1, 0.05, 3).table(pieces(scores, slots), slots=slots)
        assert table.dtype == torch.float32
        close(table, reference.swav_table(scores, slots, 0.1, 0.05, 3), 1e-4)

    def test_sum_over_a_set_is_lightlys_loss_of_the_batch(self) -> None:
        scores = torch.randn(7, 5, 12) * 0.3
        table = SwAVLoss(0.1, 0.05, 3).table(pieces(scores, SWAV), slots=SWAV)
        kept = [1, 2, 4, 6]
        ours = selection_loss(table, torch.tensor(kept)[:, None].expand(-1, 5))
        close(ours, reference.swav_loss_of_set([scores[view] for view in kept], 2, 0.1, 0.05, 3), 1e-4)
        theirs = lightly_losses.SwaVLoss(0.1, 3, 0.05)([scores[1], scores[2]], [scores[4], scores[6]])
        close(ours.mean(), theirs[0], 1e-4)

    @pytest.mark.parametrize("parts", [1, 2])
    def test_queue_and_prototypes(self, parts: int) -> None:
        prototypes = nn.Linear(8, 12, bias=False)
        queue = F.normalize(torch.randn(parts, 20, 8), dim=-1)
        before = queue.clone(), prototypes.weight.detach().clone()
        embeddings = F.normalize(torch.randn(7, 5, 8), dim=-1)
        weight = F.normalize(prototypes.weight.detach(), dim=1)
        loss = SwAVLoss(0.1, 0.05, 3, prototypes=prototypes, queue=lambda: queue)
        table = loss.table(pieces(embeddings, SWAV), slots=SWAV)
        close(table, reference.swav_table(embeddings @ weight.T, SWAV, 0.1, 0.05, 3, list(queue @ weight.T)), 1e-4)
        assert torch.equal(queue, before[0]) and torch.equal(prototypes.weight, before[1]) and not table.requires_grad
        queue[:, -1] = 0  # not yet full
        unused = SwAVLoss(0.1, 0.05, 3).table(pieces(embeddings @ weight.T, SWAV), slots=SWAV)
        close(loss.table(pieces(embeddings, SWAV), slots=SWAV), unused)

    def test_the_loss_of_scores_that_tell_nothing(self) -> None:
        table = SwAVLoss().table(pieces(torch.zeros(7, 5, 12), SWAV), slots=SWAV)
        ours = selection_loss(table, torch.tensor([0, 1, 4, 5])[:, None].expand(-1, 5))
        assert ours == pytest.approx([SwAVLoss().uniform_loss(12)] * 5)
        assert SwAVLoss(prototypes=nn.Linear(12, 4)).uniform_loss(12) is None

    def test_large_scores_do_not_overflow(self) -> None:
        table = SwAVLoss().table(torch.randn(4, 5, 12) * 1e3)
        assert table.isfinite().all() and (table[0, 1] > 0).any()

    def test_a_nan_image_has_no_share(self) -> None:
        scores = torch.randn(4, 6, 12) * 0.3
        without = SwAVLoss().table(scores[:, 1:])
        scores[1, 0, 3] = scores[2, 0, 0] = torch.nan
        table = SwAVLoss().table(scores)
        assert table[[1, 2], :, 0][:, [0, 3]].isnan().all() and table[0, 3, 0].isfinite()
        close(table[1, 2, 1:], without[1, 2])
        assert not table.diagonal().any()

    def test_like_of_each_repo(self) -> None:
        args = types.SimpleNamespace(
            temperature=0.2, epsilon=0.03, sinkhorn_iterations=4, crops_for_assign=[0, 1], nmb_crops=[2, 6]
        )
        loss = SwAVLoss.like(args)
        assert repr(pickle.loads(pickle.dumps(loss))) == repr(loss) == "SwAVLoss(0.2, 0.03, 4, gather=True)"
        args.epsilon = 0.04
        assert repr(loss) == "SwAVLoss(0.2, 0.04, 4, gather=True)"
        solo = types.SimpleNamespace(temperature=0.1, sk_epsilon=0.05, sk_iters=3)
        assert repr(SwAVLoss.like(solo)) == "SwAVLoss(0.1, 0.05, 3, gather=True)"
        with pytest.raises(HVSError, match=r"crops_for_assign: expected all large crops, \[0, 1\], got \[0\]"):
            SwAVLoss.like(types.SimpleNamespace(**vars(args) | {"crops_for_assign": [0]}))
        with pytest.raises(HVSError, match="the attributes temperature, epsilon and sinkhorn_iterations"):
            SwAVLoss.like(types.SimpleNamespace(temperature=0.1))

    @pytest.mark.parametrize(
        "call, words",
        [
            (lambda: SwAVLoss(iterations=0), r"SwAVLoss\(iterations\): expected an integer of at least 1"),
            (lambda: SwAVLoss(epsilon=0.0), r"SwAVLoss\(epsilon\): expected a number above 0"),
            (lambda: SwAVLoss(queue=torch.zeros(2, 3, 4)), "prototypes beside a queue"),
            (lambda: SwAVLoss(prototypes=nn.ReLU()), "one module with a weight"),
            (lambda: SwAVLoss(prototypes=nn.Linear(9, 4)).table(torch.randn(4, 3, 8)), r"prototypes \(K, 8\) on cpu"),
        ],
    )
    def test_bad_input(self, call: Any, words: str) -> None:
        with pytest.raises(HVSError, match=words):
            call()


class TestVICReg:
    @pytest.mark.parametrize("views, batch, width", [(1, 1, 1), (4, 5, 7), (3, 2, 33)])
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_equals_the_formula(self, views: int, batch: int, width: int, dtype: torch.dtype) -> None:
        outputs = torch.randn(views, batch, width).to(dtype)
        table = VICRegLoss(25.0).table(outputs)
        assert table.dtype == torch.float32
        close(table, reference.vicreg_table(outputs, 25.0))

    def test_mean_is_lightlys_invariance_term(self) -> None:
        outputs = torch.randn(4, 5, 7)
        theirs = lightly_losses.VICRegLoss(lambda_param=10.0, mu_param=0.0, nu_param=0.0)
        close(VICRegLoss.like(theirs).table(outputs)[0, 3].mean(), theirs(outputs[0], outputs[3]))

    def test_close_projections_keep_their_digits(self) -> None:
        outputs = torch.randn(1, 3, 64) * 100 + torch.randn(4, 3, 64) * 1e-3
        torch.testing.assert_close(VICRegLoss().table(outputs).double(), reference.vicreg_table(outputs, 25.0), rtol=1e-3, atol=0)

    def test_like_reads_live(self) -> None:
        args = types.SimpleNamespace(sim_coeff=25.0)
        loss = VICRegLoss.like(args)
        args.sim_coeff = 10.0
        assert repr(loss) == "VICRegLoss(10.0)"
        assert repr(VICRegLoss.like(types.SimpleNamespace(sim_loss_weight=5.0))) == "VICRegLoss(5.0)"
        with pytest.raises(HVSError, match="sim_coeff, lambda_param, sim_loss_weight"):
            VICRegLoss.like(object())
        with pytest.raises(HVSError, match=r"VICRegLoss\(weight\): expected a number above 0"):
            VICRegLoss(0)

    def test_local_pairs(self) -> None:
        outputs = pieces(torch.randn(7, 3, 8))
        assert not VICRegLoss().table(outputs, slots=MULTI_CROP)[2:5, 2:5].any()
        assert VICRegLoss(local_pairs=True).table(outputs, slots=MULTI_CROP)[2, 3].all()
        for u, v in itertools.product(range(7), repeat=2):
            same = (u == v) or (u in (2, 3, 4) and v in (2, 3, 4))
            assert VICRegLoss().table(outputs, slots=MULTI_CROP)[u, v].all() != same
