"""HardPairSampler: what it returns, that it is the hardest, and how often it calls whom."""

from __future__ import annotations

import itertools
import math
import pickle
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision import transforms

from hvs_aug._check import HVSError
from hvs_aug.data.batch import ImageBatch
from hvs_aug.selection import policies
from hvs_aug.selection.losses import CallableLoss, DINOLoss, NegativeCosineLoss, NTXentLoss, PairLoss
from hvs_aug.selection.sampler import HardPairSampler
from hvs_aug.selection.scoring import Scoring
from hvs_aug.views import draw
from hvs_aug.views.candidates import CandidateViews
from hvs_aug.views.recipe import ViewSlot

from .models import Counted, SmallResNet, crops, images, pairs, slot


def distance(first: Tensor, second: Tensor) -> Tensor:
    return (first - second).square().sum(-1)


class TableLoss(PairLoss):
    """A loss whose table the test gives."""

    def __init__(self, table: Tensor) -> None:
        self.given = table

    def _table(self, student, teacher, slots, extras) -> Tensor:
        return self.given.clone()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sampler_of(views=None, model=None, loss=None, **options) -> HardPairSampler:
    options.setdefault("generator", seeded())
    network = model if model is not None else nn.Flatten()
    return HardPairSampler(network, loss if loss is not None else distance, views if views is not None else pairs(), **options)


def test_the_hardest_pair_of_every_image_is_returned() -> None:
    sampler = sampler_of()
    params = sampler.views.make_params(images(), seeded(3))
    (rendered,) = sampler.views.transform(images(), params)
    hard = sampler(images(), params=params)
    assert [tuple(view.shape) for view in hard.views] == [(4, 3, 16, 16)] * 2
    for image in range(4):
        losses = {
            pair: distance(rendered[pair[0], image].flatten(), rendered[pair[1], image].flatten()).item()
            for pair in itertools.combinations(range(4), 2)
        }
        best = max(losses, key=losses.__getitem__)
        assert tuple(hard.indices[:, image].tolist()) == best
        assert hard.loss[image].item() == pytest.approx(losses[best], rel=1e-5)
        for position, view in enumerate(best):
            assert torch.equal(hard.views[position][image], rendered[view, image])
            assert torch.equal(hard.params.boxes[position, image], params.boxes[view, image])
            assert torch.equal(hard.outputs[0][position, image], rendered[view, image].flatten())
    assert hard.nonfinite.item() == 0
    assert hard.teacher_outputs is None


def test_three_slots_of_two_sizes() -> None:
    model = Counted(nn.AdaptiveAvgPool2d(2))
    sampler = sampler_of(crops(), model=lambda pixels: model(pixels).flatten(1))
    hard = sampler(images())
    assert [view.shape[-1] for view in hard.views] == [32, 32, 16, 16]
    assert model.calls == [(16, 3, 32, 32), (16, 3, 16, 16)]  # one forward per resolution
    assert hard.params.slots == (0, 1, 2, 2)
    assert ((hard.indices >= torch.tensor([0, 2, 4, 4])[:, None]) & (hard.indices < torch.tensor([2, 4, 8, 8])[:, None])).all()
    assert (hard.indices[2] < hard.indices[3]).all()
    assert [tuple(output.shape) for output in hard.outputs] == [(1, 4, 12), (1, 4, 12), (2, 4, 12)]
    again = [view for part in sampler.views.transform(images(), hard.params) for view in part]
    assert all(torch.equal(first, second) for first, second in zip(hard.views, again, strict=True))


@pytest.mark.parametrize("views", [pairs(), crops()], ids=["pair", "multi-crop"])
def test_winners_taken_from_the_scored_pixels_are_those_rendered_again(views: CandidateViews) -> None:
    sampler = sampler_of(views, model=lambda pixels: pixels.mean((2, 3)))
    hard = sampler(images())
    again = views.transform(images(), hard.params)
    for view, other in zip(hard.views, (view for part in again for view in part), strict=True):
        assert torch.equal(view, other)


def test_views_rendered_at_each_size(monkeypatch: pytest.MonkeyPatch) -> None:
    rendered: list[tuple[int, float]] = []
    original = CandidateViews.transform

    def transform(self, batch, params, scale=1.0):
        rendered.append((params.boxes.shape[0] * params.boxes.shape[1], scale if isinstance(scale, float) else scale[0]))
        return original(self, batch, params, scale)

    monkeypatch.setattr(CandidateViews, "transform", transform)
    counts = {
        "full": ({}, [(16, 1.0)]),
        "half": ({"scoring": Scoring(scale=0.5)}, [(16, 0.5), (8, 1.0)]),
        "random": ({"policy": "random"}, [(8, 1.0)]),
    }
    for name, (options, expected) in counts.items():
        rendered.clear()
        sampler_of(model=lambda pixels: pixels.mean((2, 3)), **options)(images())
        assert rendered == expected, name


def test_as_many_candidates_as_selected_is_the_identity() -> None:
    model = Counted(nn.Flatten())
    sampler = sampler_of(pairs(candidates=2), model=model)
    hard = sampler(images())
    plain, params = sampler.views(images(), seeded())
    assert model.calls == []  # nothing to choose, nothing to pay
    assert torch.equal(torch.stack(hard.views), plain[0])
    assert torch.equal(hard.params.boxes, params.boxes)
    assert hard.indices.tolist() == [[0] * 4, [1] * 4]
    assert hard.loss.isnan().all()
    assert hard.outputs is None
    brought = sampler.select(list(plain[0]))
    assert torch.equal(torch.stack(brought.views), plain[0])


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(4)), st.integers(0, 10_000))
def test_permuting_candidates_permutes_the_choice(order: list[int], seed: int) -> None:
    candidates = list(torch.rand(4, 3, 1, 4, 4, generator=seeded(seed)))
    sampler = sampler_of(slot(16))
    hard = sampler.select(candidates)
    permuted = sampler.select([candidates[index] for index in order])
    chosen = torch.tensor(order)[permuted.indices].sort(0).values
    assert torch.equal(chosen, hard.indices)
    torch.testing.assert_close(permuted.loss, hard.loss, rtol=1e-6, atol=1e-6)


def test_select_equals_the_sampler_that_renders() -> None:
    sampler = sampler_of(crops(), model=lambda pixels: pixels.mean((2, 3)))
    params = sampler.views.make_params(images(), seeded(1))
    candidates = [view for part in sampler.views.transform(images(), params) for view in part]
    rendered, brought = sampler(images(), params=params), sampler.select(candidates)
    assert torch.equal(rendered.indices, brought.indices)
    assert all(torch.equal(first, second) for first, second in zip(rendered.views, brought.views, strict=True))
    assert brought.params is None


def test_select_with_slots_that_nobody_renders() -> None:
    sampler = sampler_of([ViewSlot(None, candidates=3, select=2)])
    assert len(sampler.select(list(torch.rand(3, 2, 1, 4, 4))).views) == 2
    with pytest.raises(HVSError, match=r"HardPairSampler\(images\): expected a sampler made with views that it can render"):
        sampler(images())


@pytest.mark.parametrize(
    ("candidates", "words"),
    [
        ([torch.rand(32, 3, 4, 4), torch.rand(32, 3, 4, 4), torch.rand(31, 3, 4, 4), torch.rand(32, 3, 4, 4)], "[32, 32, 31, 32]"),
        ([torch.rand(2, 3, 4, 4)] * 3, "4 candidate tensors, as the slots say, got 3 tensors"),
        (torch.rand(4, 2, 3, 4, 4), "4 candidate tensors"),
        ([torch.zeros(2, 3, 4, 4, dtype=torch.uint8)] * 4, "floating-point tensors of shape (B, C, h, w), got a uint8"),
        ([torch.rand(2, 3, 4, 4)] * 3 + [torch.rand(2, 3, 5, 5)], "of one size, got sizes [(3, 4, 4), (3, 5, 5)]"),
        ([torch.rand(2, 3, 4, 4)] * 3 + [torch.rand(2, 3, 4, 4, device="meta")], "candidates on cpu, meta"),
    ],
)
def test_candidates_that_do_not_fit(candidates, words: str) -> None:
    with pytest.raises(HVSError) as error:
        sampler_of(slot(16)).select(candidates)
    assert str(error.value).startswith("HardPairSampler.select(candidates): expected ")
    assert words in str(error.value)


def test_the_message_for_batch_sizes_is_the_documented_one() -> None:
    with pytest.raises(HVSError) as error:
        sampler_of(slot(16)).select([torch.rand(size, 3, 4, 4) for size in (32, 32, 31, 32)])
    assert str(error.value) == (
        "HardPairSampler.select(candidates): expected 4 candidate tensors of one batch size, got batch sizes [32, 32, 31, 32].\n"
        "  hint: a DataLoader without drop_last gives a smaller last batch; render all candidates from one ImageBatch."
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"policy": "hardst"}, "HardPairSampler(policy): expected one of"),
        ({"policy": policies.hardest}, "got the function hardest, which makes one.\n  hint: call it: policies.hardest(...)"),
        ({"policy": 3}, "HardPairSampler(policy): expected a policy, its name, or a function of the table, got int 3"),
        (
            {"scoring": "cheep"},
            "HardPairSampler(scoring): expected one of cheap, full, got 'cheep'.\n  hint: did you mean 'cheap'?",
        ),
        ({"scoring": {"scale": 0.5}}, "HardPairSampler(scoring): expected a Scoring, or one of cheap, full, got dict"),
        ({"views": 4}, "HardPairSampler(views): expected a CandidateViews, or one or several ViewSlots, got int 4"),
        ({"views": []}, "HardPairSampler(views)"),
        ({"views": transforms.Compose([])}, "hvs_aug.convert(transform) makes slots of a transform"),
        ({"teacher": 3}, "HardPairSampler(teacher): expected a callable"),
        ({"model": 3}, "HardPairSampler(model): expected a callable"),
    ],
)
def test_options_out_of_range(options, words: str) -> None:
    with pytest.raises(HVSError) as error:
        sampler_of(**options)
    assert words in str(error.value)


def test_an_autocast_dtype_that_the_device_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.amp, "is_autocast_available", lambda device: False)
    with pytest.raises(HVSError, match=r"Scoring\(dtype\): expected a dtype that cpu autocasts to, got torch.bfloat16"):
        sampler_of(scoring=Scoring(dtype=torch.bfloat16))(images())


def test_a_loss_that_needs_a_teacher_says_so() -> None:
    loss = NTXentLoss(temperature=0.1)
    loss.needs_teacher = True
    with pytest.raises(HVSError, match=r"HardPairSampler\(teacher\): expected the teacher that NTXentLoss compares with"):
        sampler_of(loss=loss)


def test_a_teacher_that_the_loss_does_not_use_is_refused() -> None:
    words = r"HardPairSampler\(teacher\): expected no teacher, since NTXentLoss does not look at one, got Flatten"
    with pytest.raises(HVSError, match=words):
        sampler_of(loss=NTXentLoss(temperature=0.1), teacher=nn.Flatten())
    with pytest.raises(HVSError, match="CallableLoss does not look at one"):
        sampler_of(loss=distance, teacher=nn.Flatten())
    for loss in (CallableLoss(distance, teacher=True), NegativeCosineLoss(), DINOLoss()):
        assert sampler_of(loss=loss, teacher=nn.Flatten()).teacher is not None

    class Own(TableLoss):
        accepts_teacher = True

    assert sampler_of(loss=Own(torch.zeros(4, 4, 4)), teacher=nn.Flatten()).teacher is not None


class OwnLosses(PairLoss):
    """Each view has a loss of its own, which is its number; pairs have none."""

    def _table(self, student, teacher, slots, extras) -> Tensor:
        views = sum(slot.candidates for slot in slots)
        return torch.diag(torch.arange(float(views)))[..., None].repeat(1, 1, student[0].shape[1])


@pytest.mark.parametrize("policy", ["hardest", policies.hardest(search="sampled"), "semi_hard:1", policies.softmax(1e-3)], ids=str)
def test_a_loss_of_a_local_view_alone_decides_among_local_views(policy) -> None:
    slots = [ViewSlot(None, 2, 1, "global"), ViewSlot(None, 4, 2, "local", role="local")]
    sampler = sampler_of(slots, loss=OwnLosses(), policy=policy)
    hard = sampler.select([torch.rand(2, 3, 8, 8)] * 2 + [torch.rand(2, 3, 4, 4)] * 4)
    assert hard.indices.t().tolist() == [[1, 4, 5]] * 2
    assert hard.loss.tolist() == [10.0, 10.0]


def test_a_model_elsewhere_is_refused_before_any_work() -> None:
    model = nn.Linear(2, 2, device="meta")
    sampler = sampler_of(model=lambda pixels: model(pixels))
    state = sampler.state_dict()
    with pytest.raises(HVSError, match=r"HardPairSampler\(model\): expected a model on cpu, where the images are, got one on meta"):
        sampler(images())
    assert torch.equal(sampler.state_dict()["generator"], state["generator"])
    assert sampler.step == 0


def test_a_teacher_sees_the_global_slots_only_and_byol_picks_by_it() -> None:
    student, teacher = Counted(nn.AdaptiveAvgPool2d(2)), Counted(nn.AdaptiveAvgPool2d(2))
    views = crops()
    sampler = HardPairSampler(
        lambda pixels: student(pixels).flatten(1),
        NegativeCosineLoss(),
        views,
        teacher=lambda pixels: teacher(pixels).flatten(1),
        generator=seeded(),
    )
    hard = sampler(images())
    assert student.calls == [(16, 3, 32, 32), (16, 3, 16, 16)]
    assert teacher.calls == [(16, 3, 32, 32)]
    assert [None if output is None else tuple(output.shape) for output in hard.teacher_outputs] == [(1, 4, 12), (1, 4, 12), None]
    assert torch.equal(hard.teacher_outputs[0], hard.outputs[0])


def test_extras_go_to_the_model_and_come_back_for_the_winners() -> None:
    seen = []
    masks = torch.rand(4, 4, 8, 8, generator=seeded()) > 0.5

    def model(pixels: Tensor, *arguments: Tensor) -> Tensor:
        seen.append([tuple(value.shape) for value in arguments])
        return pixels.mean((2, 3))

    loss = CallableLoss(distance)
    loss.model_extras = ("masks",)
    sampler = sampler_of(crops(), model=model, loss=loss)
    hard = sampler(images(), {"masks": masks})
    assert seen == [[(16, 8, 8)], []]  # the local slot gets none
    assert hard.extras["masks"].shape == (2, 4, 8, 8)
    for image in range(4):
        for view in range(2):
            assert torch.equal(hard.extras["masks"][view, image], masks[hard.indices[view, image], image])
    with pytest.raises(HVSError, match="expected 'masks', which CallableLoss passes to the model"):
        sampler(images())
    with pytest.raises(HVSError, match=r"extras\['masks'\]\): expected a tensor with leading axes \(V, B\), V = 8 or 4 \(global\)"):
        sampler(images(), {"masks": masks[:3]})
    # At half the size the token grid is half as fine.
    seen.clear()
    sampler_of(crops(), model=model, loss=loss, scoring=Scoring(scale=0.5))(images(), {"masks": masks})
    assert seen == [[(16, 4, 4)], []]


def test_extras_that_only_the_caller_wants_come_back() -> None:
    names = torch.arange(16).view(4, 4)
    hard = sampler_of()(images(), {"names": names})
    assert torch.equal(hard.extras["names"], names.gather(0, hard.indices))


def test_every_chooses_on_every_kth_step_and_returns_random_views_between() -> None:
    model = Counted(nn.Flatten())
    sampler = sampler_of(model=model, scoring=Scoring(every=3))
    scored = [bool(sampler(images()).loss.isfinite().all()) for _ in range(7)]
    assert scored == [True, False, False, True, False, False, True]
    assert len(model.calls) == 3
    assert sampler(images()).indices.tolist() == [[0] * 4, [1] * 4]


def test_a_policy_without_a_table_runs_no_model() -> None:
    model = Counted(nn.Flatten())
    hard = sampler_of(model=model, policy="random")(images())
    assert model.calls == []
    assert hard.loss.isnan().all()
    assert len(hard.views) == 2


def test_a_sampled_search_finds_the_hardest_of_few_combinations() -> None:
    exact, sampled = sampler_of()(images()), sampler_of(policy=policies.hardest(search="sampled", limit=6))(images())
    assert torch.equal(exact.indices, sampled.indices)  # there are no more than six
    few = sampler_of(policy=policies.hardest(search="sampled", limit=2))(images())
    assert few.loss.sum() < exact.loss.sum()


def test_local_views_with_a_loss_of_their_own_need_a_sampled_search() -> None:
    loss = NTXentLoss(temperature=0.5)
    loss.local_pairs = True
    with pytest.raises(HVSError, match='search="sampled"'):
        sampler_of(crops(), loss=loss)
    for policy in (
        policies.mixture(0.5),
        policies.schedule({0: policies.random(), 9: policies.easiest()}),
        "softmax:1",
        "warmup:3",
    ):
        with pytest.raises(HVSError, match='search="sampled"'):
            sampler_of(crops(), loss=loss, policy=policy)
    for policy in (policies.hardest(search="sampled"), policies.semi_hard(0.5), policies.mixture(0.5, policies.semi_hard(1.0))):
        sampler_of(crops(), loss=loss, policy=policy)


def test_a_policy_that_answers_wrongly_is_refused() -> None:
    def wrong(table, slots, *, params, step, generator):
        return torch.zeros(3, table.shape[-1], dtype=torch.int64)

    with pytest.raises(HVSError, match=r"HardPairSampler\(policy\)"):
        sampler_of(policy=wrong)(images())


def test_a_non_finite_pair_never_wins_is_counted_and_said_once() -> None:
    table = torch.rand(4, 4, 3, generator=seeded())
    table = table + table.transpose(0, 1)
    table[0, 1, 0] = table[1, 0, 0] = math.nan
    table[2, 3, 1] = table[3, 2, 1] = math.inf
    sampler = sampler_of(loss=TableLoss(table))
    with pytest.warns(UserWarning, match=r"2 image\(s\) was not finite"):
        hard = sampler(images(3))
    assert hard.nonfinite.item() == 2
    assert hard.loss.isfinite().all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sampler(images(3)).nonfinite.item() == 2
    nothing = sampler_of(loss=TableLoss(torch.full((4, 4, 3), math.nan)))
    with pytest.warns(UserWarning, match=r"3 image\(s\)"):
        assert nothing(images(3)).indices.tolist() == [[0] * 3, [1] * 3]


def test_negative_and_equal_losses() -> None:
    hard = sampler_of(loss=TableLoss(torch.full((4, 4, 4), -1.0) - torch.eye(4)[..., None]))(images())
    assert hard.indices.tolist() == [[0] * 4, [1] * 4]  # all pairs are equal: the lowest


def test_a_saved_sampler_continues_as_the_unbroken_one() -> None:
    sampler = sampler_of(scoring=Scoring(every=2))
    sampler(images())
    state = pickle.loads(pickle.dumps(sampler.state_dict()))
    unbroken = [sampler(images()) for _ in range(3)]
    resumed = sampler_of(scoring=Scoring(every=2), generator=seeded(99))
    resumed.load_state_dict(state)
    for first in unbroken:
        second = resumed(images())
        assert torch.equal(first.params.boxes, second.params.boxes)
        assert torch.equal(first.indices, second.indices)
    with pytest.raises(HVSError, match="expected keys generator and step"):
        sampler.load_state_dict({"step": 1})
    before = sampler.state_dict()
    wrong = [{**state, "step": "one"}, {**state, "generator": torch.zeros(3)}, {**state, "generator": None}, None]
    for other in wrong:
        with pytest.raises(HVSError, match=r"HardPairSampler.load_state_dict\(state\)"):
            sampler.load_state_dict(other)
    assert sampler.step == before["step"] and torch.equal(sampler.generator.get_state(), before["generator"])


def test_the_default_generator_differs_between_ranks_and_samplers_and_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    def first(rank: int, number: int) -> Tensor:
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setattr(draw, "_numbers", itertools.count(number))  # of the modules that were made before, as in a new process
        torch.manual_seed(7)
        return sampler_of(generator=None)(images()).params.boxes

    assert torch.equal(first(0, 5), first(0, 5))
    assert not torch.equal(first(0, 5), first(1, 5)) and not torch.equal(first(0, 5), first(0, 6))


def test_image_batches_of_different_sizes() -> None:
    batch = ImageBatch(images(3), torch.tensor([[40, 40], [20, 30], [8, 40]]))
    boxes = sampler_of()(batch).params.boxes
    assert ((boxes[..., :2] + boxes[..., 2:]) <= batch.sizes).all()


def test_views_do_not_depend_on_the_callers_autocast() -> None:
    params = sampler_of().views.make_params(images(), seeded())
    plain = sampler_of(scoring=Scoring(scale=0.5), model=lambda pixels: pixels.mean((2, 3)))(images(), params=params)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = sampler_of(scoring=Scoring(scale=0.5), model=lambda pixels: pixels.mean((2, 3)))(images(), params=params)
    assert all(torch.equal(first, second) for first, second in zip(plain.views, mixed.views, strict=True))


def test_repr_is_the_constructor_call() -> None:
    text = repr(sampler_of(pairs(), model=SmallResNet(), loss=NTXentLoss(temperature=0.1), scoring=Scoring(scale=0.5, every=2)))
    assert text.startswith("HardPairSampler(model=SmallResNet, loss=NTXentLoss(temperature=0.1")
    assert text.endswith(
        "scoring=Scoring(scale=0.5, dtype=None, chunk=None, channels_last=False, every=2, restore_buffers=True, wait=45.0))"
    )
    assert "policy" not in text


@pytest.mark.parametrize(
    "options", [{}, {"scoring": Scoring(scale=0.5)}, {"scoring": Scoring(chunk=3, channels_last=True)}], ids=str
)
def test_score_table_search_never_wait_for_the_device(options) -> None:
    """FakeTensorMode runs device="cuda" without a GPU, and raises where the host looks at a value or a tensor is on the CPU."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        with torch.device("cuda"):
            model = SmallResNet()
        candidates = [torch.rand(4, 3, 32, 32, device="cuda") for _ in range(4)]
        sampler = HardPairSampler(model, NTXentLoss(temperature=0.1), slot(32), generator=None, **options)
        hard = sampler.select(candidates)
        assert hard.views[0].device.type == "cuda"
        assert hard.indices.device.type == "cuda"
        assert hard.loss.shape == (4,)
        multi = HardPairSampler(model, CallableLoss(distance), list(crops().slots), **options)
        many = [torch.rand(4, 3, size, size, device="cuda") for size in (32, 32, 32, 32, 16, 16, 16, 16)]
        assert len(multi.select(many).views) == 4


def test_the_whole_way_from_fake_photographs() -> None:
    params = pairs(size=32).make_params(images())
    with FakeTensorMode(allow_non_fake_inputs=True):
        with torch.device("cuda"):
            model = SmallResNet()
        sampler = HardPairSampler(model, NTXentLoss(temperature=0.1), pairs(size=32), scoring=Scoring(scale=0.5))
        hard = sampler(torch.zeros(4, 3, 40, 40, dtype=torch.uint8, device="cuda"), params=params)
        assert [tuple(view.shape) for view in hard.views] == [(4, 3, 32, 32)] * 2
        assert hard.views[0].device.type == "cuda"
        assert hard.params.boxes.device.type == "cuda"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    "options", [{}, {"scoring": Scoring(scale=0.5)}, {"scoring": "cheap"}, {"policy": "random-scored"}], ids=str
)
def test_a_step_on_a_gpu_never_waits_and_keeps_its_random_state(options) -> None:
    model, batch = SmallResNet().cuda(), images().cuda()
    sampler = HardPairSampler(model, NTXentLoss(temperature=0.1), pairs(size=32), **options)
    sampler(batch)  # the first call may initialise libraries
    state = torch.cuda.get_rng_state()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        hard = [sampler(batch) for _ in range(3)][-1]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert hard.views[0].is_cuda and hard.indices.is_cuda


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_non_finite_losses_on_a_gpu_are_said_some_steps_later() -> None:
    table = torch.full((4, 4, 3), math.nan, device="cuda")
    sampler = sampler_of(loss=TableLoss(table))
    sampler(images(3).cuda())
    torch.cuda.synchronize()
    with pytest.warns(UserWarning, match="was not finite"):
        sampler(images(3).cuda())


def test_fake_mode_would_notice_a_look_at_a_value() -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        with torch.device("cuda"):
            model = SmallResNet()
        sampler = HardPairSampler(model, lambda first, second: distance(first, second) * first.sum().item(), slot(32))
        with pytest.raises(Exception, match=r"item|data.dependent|scalar"):
            sampler.select([torch.rand(4, 3, 32, 32, device="cuda") for _ in range(4)])


def test_listeners_are_told_when_a_step_begins_and_what_it_chose() -> None:
    sampler, told = sampler_of(), []
    sampler.listeners.append(told.append)
    hard = [sampler(images()), sampler.select(list(torch.rand(4, 2, 3, 16, 16)))]
    assert told == [None, hard[0], None, hard[1]]


def test_under_another_default_device_and_dtype_the_choice_is_the_same() -> None:
    for views, policy in ((pairs(), "hardest"), (crops(), "softmax:1"), (pairs(), "semi_hard:0.5"), (crops(), "mixture:0.5")):
        params = views.make_params(images(), seeded(1))
        candidates = [view for part in views.transform(images(), params) for view in part]
        model = lambda pixels: pixels.mean((2, 3))  # noqa: E731
        plain = sampler_of(views, model=model, policy=policy).select(candidates).indices
        with torch.device("meta"):
            elsewhere = sampler_of(views, model=model, policy=policy).select(candidates).indices
        assert torch.equal(plain, elsewhere)
        torch.set_default_dtype(torch.float64)
        try:
            double = sampler_of(views, model=model, policy=policy, generator=seeded()).select(candidates)
        finally:
            torch.set_default_dtype(torch.float32)
        assert double.loss.dtype == torch.float32 and double.indices.shape == plain.shape
