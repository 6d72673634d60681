"""Policies: what each promises about its choice, under a generator, and what is said of a wrong one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import FrozenInstanceError
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from hvs_aug._check import HVSError
from hvs_aug.selection import policies, search
from hvs_aug.selection.policies import choose, easiest, hardest, min_iou, mixture, random, schedule, semi_hard, softmax, warmup
from hvs_aug.views.recipe import ViewSlot

from ..reference import policies as reference
from .outputs import MULTI_CROP, close
from .test_search import every_selection, random_table

PAIRS = (ViewSlot(None, 4, 2),)
SLOTS = {"pairs": PAIRS, "multi-crop": MULTI_CROP}
EVERY: dict[str, Callable[[], policies.Policy]] = {
    "hardest": hardest,
    "guarded": lambda: hardest(0.8),
    "sampled": lambda: hardest(search="sampled", limit=5),
    "easiest": easiest,
    "random": random,
    "softmax": lambda: softmax(0.5),
    "softmax, sampled": lambda: softmax(0.5, search="sampled", limit=5),
    "semi_hard": lambda: semi_hard(0.5),
    "mixture": lambda: mixture(0.5),
    "warmup": lambda: warmup(3),
}


@pytest.mark.parametrize("name", [*EVERY, "min_iou"])
def test_a_policy_is_shown_as_the_call_that_makes_it_and_does_not_change(name: str) -> None:
    policy = (EVERY | {"min_iou": min_iou})[name]()
    assert eval(repr(policy), vars(policies)) == policy
    assert name == "warmup" or hash(policy) == hash(eval(repr(policy), vars(policies)))
    with pytest.raises(FrozenInstanceError):
        policy.limit = 3  # type: ignore[attr-defined]


def pick(
    policy: policies.Policy, table: Tensor | None, slots: Sequence[ViewSlot], seed: int = 0, step: int = 5, params: Any = None
) -> Tensor:
    return choose(policy, table, slots, params=params, step=step, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=SLOTS)
def slots(request: pytest.FixtureRequest) -> Sequence[ViewSlot]:
    return SLOTS[request.param]


@pytest.mark.parametrize("name", EVERY)
class TestEveryPolicy:
    def test_valid_indices(self, name: str, slots: Sequence[ViewSlot]) -> None:
        table = random_table(slots, 50)
        before = table.clone()
        indices = pick(EVERY[name](), table, slots)  # which checks range and repetition
        row = 0
        for slot in slots:
            assert (indices[row : row + slot.select].diff(dim=0) > 0).all()
            row += slot.select
        assert torch.equal(table, before)

    def test_a_generator_decides(self, name: str, slots: Sequence[ViewSlot]) -> None:
        table, state = random_table(slots, 50), torch.get_rng_state()
        assert torch.equal(pick(EVERY[name](), table, slots, seed=1), pick(EVERY[name](), table, slots, seed=1))
        assert torch.equal(torch.get_rng_state(), state)

    def test_images_without_a_finite_selection_get_the_first(self, name: str, slots: Sequence[ViewSlot]) -> None:
        table = torch.full_like(random_table(slots, 5), torch.nan)
        if name not in ("random", "mixture"):
            assert torch.equal(pick(EVERY[name](), table, slots), search.first(table, slots))

    def test_non_finite_ones_are_not_kept(self, name: str, slots: Sequence[ViewSlot]) -> None:
        table = random_table(slots, 200, "broken")[..., 1:]
        possible = every_selection(table, slots)[1].isfinite().any(0)
        if name in ("hardest", "easiest", "softmax", "semi_hard", "warmup"):
            assert search.selection_loss(table, pick(EVERY[name](), table, slots))[possible].isfinite().all()

    def test_shown_as_the_call_that_makes_it(self, name: str, slots: Sequence[ViewSlot]) -> None:
        policy = EVERY[name]()
        assert eval(repr(policy), vars(policies)) == policy


def test_hardest_and_easiest_equal_the_reference(slots: Sequence[ViewSlot]) -> None:
    for kind in ("random", "tied", "broken"):
        table = random_table(slots, 6, kind)
        assert torch.equal(pick(hardest(), table, slots), reference.hardest(table, slots))
        assert torch.equal(pick(easiest(), table, slots), reference.easiest(table, slots))


@pytest.mark.parametrize("quantile", [0, 0.3, 0.5, 0.99, 1])
@pytest.mark.parametrize("kind", ["random", "tied", "broken"])
def test_semi_hard_equals_the_reference(slots: Sequence[ViewSlot], quantile: float, kind: str) -> None:
    table = random_table(slots, 6, kind)
    torch.testing.assert_close(
        search.selection_loss(table, pick(semi_hard(quantile), table, slots)),
        search.selection_loss(table, reference.semi_hard(table, slots, quantile)),
        equal_nan=True,
    )
    if slots is PAIRS:
        assert torch.equal(pick(semi_hard(quantile), table, slots), reference.semi_hard(table, slots, quantile))


def test_semi_hard_of_more_selections_than_the_limit() -> None:
    slots = [ViewSlot(None, 2, 1), ViewSlot(None, 16, 8, role="local")]
    table = random_table(slots, 100)
    losses = search.selection_loss(table, pick(semi_hard(0.5, limit=512), table, slots))
    combinations = search.draw_combinations(slots, 5000, torch.Generator().manual_seed(9))
    rank = (search.combination_losses(table, combinations) < losses).float().mean(0)
    assert ((rank - 0.5).abs() < 0.1).all()


@pytest.mark.parametrize("temperature", [0.3, 2.0])
@pytest.mark.parametrize("kind", ["random", "broken"])
@pytest.mark.parametrize("how", ["exact", "sampled"])
def test_softmax_draws_by_the_softmax_of_all_selections(slots: Sequence[ViewSlot], temperature: float, kind: str, how: str) -> None:
    draws = 20_000
    table = random_table(slots, 2, kind, local_pairs=how == "sampled", seed=1)[..., 1:]
    probabilities = reference.softmax_probabilities(table, slots, temperature)[:, 0]
    indices = pick(softmax(temperature, search=how), table.expand(-1, -1, draws), slots)
    selections = every_selection(table, slots)[0]
    frequency = (indices[None] == selections[..., None]).all(1).double().mean(1)
    deviation = (probabilities * (1 - probabilities) / draws).sqrt()
    assert ((frequency - probabilities).abs() <= 4.5 * deviation + 1e-9).all()
    assert frequency.sum() == pytest.approx(1)


def test_softmax_goes_to_the_hardest(slots: Sequence[ViewSlot]) -> None:
    table = random_table(slots, 50)
    assert torch.equal(pick(softmax(1e-6), table, slots), pick(hardest(), table, slots))


def test_softmax_of_many_satellites_is_finite() -> None:
    slots = [ViewSlot(None, 4, 2), ViewSlot(None, 32, 16, role="local")]
    for scale in (1e-3, 1e3):
        indices = pick(softmax(0.1), random_table(slots, 20) * scale, slots)
        assert indices.shape == (18, 20)


def test_random_is_uniform(slots: Sequence[ViewSlot]) -> None:
    draws = 20_000
    table = random_table(slots, 1).expand(-1, -1, draws)
    indices = pick(random(), table, slots)
    selections = every_selection(table[..., :1], slots)[0]
    frequency = (indices[None] == selections[..., None]).all(1).double().mean(1)
    probability = 1 / len(selections)
    assert ((frequency - probability).abs() < 4.5 * (probability / draws) ** 0.5).all()


def test_the_order_of_hardness() -> None:
    table = random_table(PAIRS, 500)
    means = [
        search.selection_loss(table, pick(policy, table, PAIRS)).mean()
        for policy in (easiest(), semi_hard(0.3), random(), softmax(1.0), mixture(0.8), hardest())
    ]
    assert means == sorted(means)


def params_with(iou: Tensor) -> Any:
    return SimpleNamespace(iou=lambda: iou.clone(), boxes=torch.zeros(len(iou), iou.shape[-1], 4, dtype=torch.int64))


def test_min_iou(slots: Sequence[ViewSlot]) -> None:
    iou = random_table(slots, 6, local_pairs=True).abs()
    iou.diagonal().fill_(1)
    chosen = pick(min_iou(), None, slots, params=params_with(iou))
    assert torch.equal(chosen, reference.min_iou(iou, slots))
    assert not policies.needs_table(min_iou(), 0)


def test_mixture(slots: Sequence[ViewSlot]) -> None:
    table = random_table(slots, 5000)
    hard = pick(hardest(), table, slots)
    share = (pick(mixture(0.3), table, slots) == hard).all(0).double().mean()
    other = (pick(random(), table, slots) == hard).all(0).double().mean()
    assert share == pytest.approx(0.3 + 0.7 * float(other), abs=0.03)
    assert torch.equal(pick(mixture(1.0), table, slots), hard)
    assert torch.equal(pick(mixture(0.0), None, slots, params=params_with(table)), pick(random(), table, slots))
    assert torch.equal(pick(mixture(1.0, easiest()), table, slots), pick(easiest(), table, slots))


def test_a_schedule_changes_by_step() -> None:
    table = random_table(PAIRS, 20)
    policy = schedule({0: random(control=False), 10: easiest(), 20: hardest()})
    for step, other in ((0, random()), (9, random()), (10, easiest()), (19, easiest()), (20, hardest()), (10_000, hardest())):
        assert torch.equal(pick(policy, table, PAIRS, step=step), pick(other, table, PAIRS, step=step))
    assert [policies.needs_table(policy, step) for step in (0, 9, 10, 25)] == [False, False, True, True]
    assert torch.equal(pick(warmup(10, easiest()), table, PAIRS, step=10), pick(easiest(), table, PAIRS))
    assert torch.equal(pick(warmup(10), table, PAIRS, step=9), pick(random(), table, PAIRS))
    assert torch.equal(pick(warmup(0), table, PAIRS, step=0), pick(hardest(), table, PAIRS))
    assert torch.equal(pick(warmup(10), None, PAIRS, step=9, params=params_with(table)), pick(random(), table, PAIRS))


def test_what_runs_no_model() -> None:
    assert policies.needs_table(random(), 0) and not policies.needs_table(random(control=False), 0)
    assert (
        policies.needs_table(hardest(), 0) and policies.needs_table(mixture(0.5), 0) and not policies.needs_table(mixture(0.0), 0)
    )
    assert policies.needs_table(lambda table, slots, **rest: table, 0)


def test_a_guard_against_outliers() -> None:
    table = random_table(PAIRS, 100)
    table[1, 2, 7] = table[2, 1, 7] = 1e6
    table.diagonal().zero_()
    pairs = torch.stack([table[u, v] for u in range(4) for v in range(u + 1, 4)]).flatten()
    for quantile in (0.0, 0.5, 0.95, 1.0):
        highest = pairs.sort().values[int(quantile * (pairs.numel() - 1))]
        chosen = pick(hardest(quantile), table, PAIRS)
        left = (torch.stack([table[u, v] for u in range(4) for v in range(u + 1, 4)]) <= highest).any(0)
        losses = search.selection_loss(table, chosen)
        assert (losses[left] <= highest).all() and torch.equal(chosen[:, ~left], search.first(table, PAIRS)[:, ~left])
    assert torch.equal(pick(hardest(1.0), table, PAIRS), pick(hardest(), table, PAIRS))
    assert search.selection_loss(table, pick(hardest(0.95), table, PAIRS))[7] < 1e6
    assert pick(hardest(1.0), torch.zeros(1, 1, 1), [ViewSlot(None, candidates=1, select=1)]).tolist() == [[0]]  # no pair at all


def test_a_guard_counts_pairs_that_can_be_kept_together() -> None:
    """The two candidates of a slot that keeps one, and two local views, are no pair, however large their entry is."""
    table = random_table(MULTI_CROP, 20)
    before = pick(hardest(0.9), table, MULTI_CROP)
    for u, v in ((0, 1), (5, 6), (2, 3)):
        table[u, v] = table[v, u] = -100.0
    assert torch.equal(pick(hardest(0.9), table, MULTI_CROP), before)


def test_another_search() -> None:
    exact = [hardest(), easiest(), softmax(1.0), mixture(0.5), warmup(5, mixture(0.5, hardest(0.9)))]
    assert all(policies.searches_exactly(policy) for policy in exact)
    own = lambda table, slots, **rest: table  # noqa: E731
    others = [own, min_iou(), semi_hard(0.5), policies.random(), hardest(search="sampled"), warmup(5, mixture(1, semi_hard(0.5)))]
    assert not any(policies.searches_exactly(policy) for policy in others)
    table = random_table(MULTI_CROP, 30, local_pairs=True)
    assert torch.equal(pick(hardest(search="sampled"), table, MULTI_CROP), search.sampled(table, MULTI_CROP))


class TestOwnPolicy:
    def test_the_example_in_the_docstring(self) -> None:
        code = policies.__doc__.split("your own:")[1]
        scope: dict[str, Any] = {"search": search}
        exec("if True:" + code, scope)
        table = random_table(PAIRS, 20)
        second = search.selection_loss(table, pick(scope["second_hardest"], table, PAIRS))
        close(second, every_selection(table, PAIRS)[1].sort(0).values[-2])

    @pytest.mark.parametrize(
        "indices, message",
        [
            (torch.zeros(2, 3), r"expected int64 indices \(2, 3\), one row per kept view, got a float32 tensor"),
            (torch.zeros(3, 3, dtype=torch.int64), r"expected int64 indices \(2, 3\).*got a int64 tensor of shape \(3, 3\)"),
            (torch.tensor([[0], [1]]), r"expected int64 indices \(2, 3\).*got a int64 tensor of shape \(2, 1\)"),
            ([[0, 0, 0], [1, 1, 1]], r"expected int64 indices \(2, 3\).*got list"),
            (torch.tensor([[0, 0, 0], [1, 4, 1]]), r"expected indices from 0 to 3 for slot 'view', got indices from 0 to 4"),
            (torch.tensor([[-1, 0, 0], [1, 2, 1]]), r"expected indices from 0 to 3 for slot 'view', got indices from -1 to 2"),
            (
                torch.tensor([[0, 3, 0], [1, 3, 1]]),
                r"expected different candidates in the 2 rows of slot 'view', got one candidate twice",
            ),
        ],
    )
    def test_wrong_indices(self, indices: Any, message: str) -> None:
        with pytest.raises(HVSError, match=r"HardPairSampler\(policy\): " + message):
            pick(lambda table, slots, **rest: indices, random_table(PAIRS, 3), PAIRS)

    def test_indices_of_another_slot(self) -> None:
        indices = torch.tensor([[0], [2], [3], [1]])
        with pytest.raises(
            HVSError, match=r"expected indices from 5 to 6 for slot 'global 2', got indices from 1 to 1.\n.*slot order"
        ):
            pick(lambda table, slots, **rest: indices, random_table(MULTI_CROP, 1), MULTI_CROP)


class TestBadInput:
    @pytest.mark.parametrize("value", [0, -1.0, float("nan"), None])
    def test_temperature(self, value: Any) -> None:
        with pytest.raises(HVSError, match=r"softmax\(temperature\): expected a number above 0, got"):
            softmax(value)

    @pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), "half"])
    def test_fractions(self, value: Any) -> None:
        for make, call in (
            (mixture, r"mixture\(p\)"),
            (semi_hard, r"semi_hard\(quantile\)"),
            (hardest, r"hardest\(max_loss_quantile\)"),
        ):
            with pytest.raises(HVSError, match=call + r": expected a number in \[0, 1\], got"):
                make(value)

    def test_others(self) -> None:
        with pytest.raises(HVSError, match=r"semi_hard\(limit\): expected an integer of at least 1, got int 0"):
            semi_hard(0.5, limit=0)
        with pytest.raises(HVSError, match=r"warmup\(steps\): expected a number of steps, got float 1.5"):
            warmup(1.5)
        for phases in ({}, {1: hardest()}, {0: hardest(), -1: random()}, [hardest()]):
            with pytest.raises(HVSError, match=r"schedule\(phases\): expected a dict from first steps to policies, with step 0"):
                schedule(phases)
        with pytest.raises(HVSError, match=r"hardest\(search\): expected one of exact, sampled, got 'exakt'.\n.*mean 'exact'"):
            hardest(search="exakt")

    def test_nothing_to_choose_by(self) -> None:
        with pytest.raises(HVSError, match=r"hardest\(.*\)\(table\): expected a table of losses, got None"):
            pick(hardest(), None, PAIRS)
        with pytest.raises(
            HVSError, match=r"min_iou\(params\): expected the params of the candidates, got None.\n.*CandidateViews"
        ):
            pick(min_iou(), None, PAIRS)
        with pytest.raises(HVSError, match=r"policy\(params\): expected the params .*, got None.\n.*random\(control=True\)"):
            pick(random(control=False), None, PAIRS)


def test_softmax_keeps_the_only_candidate_of_a_slot() -> None:
    alone = [ViewSlot(None, 2, 1), ViewSlot(None, 1, 1, role="local")]
    table = torch.rand(3, 3, 5, generator=torch.Generator().manual_seed(0))
    assert (pick(softmax(0.5), table + table.transpose(0, 1), alone)[1] == 2).all()


def test_the_guard_counts_pairs_of_slots_that_keep_one_view_each() -> None:
    table = torch.full((4, 4, 1), 1000.0)  # two candidates of one slot are never kept together
    table[:2, 2:, 0] = torch.tensor([[1.0, 2.0], [100.0, 3.0]])
    table[2:, :2] = table[:2, 2:].transpose(0, 1)
    assert pick(hardest(0.7), table, [ViewSlot(None, 2, 1), ViewSlot(None, 2, 1)])[:, 0].tolist() == [1, 3]
