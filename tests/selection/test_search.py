"""The search equals trying every combination: whatever the slots, ties and non-finite entries."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from benchmarks.published import published_combinations, published_dino
from hvs_aug._check import HVSError
from hvs_aug.selection import search
from hvs_aug.selection.losses import DINOLoss
from hvs_aug.selection.search import exact, first, sampled, selection_loss
from hvs_aug.views.recipe import ViewSlot

from ..reference import search as reference
from ..reference.losses import view_roles
from .outputs import MULTI_CROP

DINO = (ViewSlot(None, 2, 1), ViewSlot(None, 2, 1), ViewSlot(None, 16, 8, role="local"))


def random_table(slots: Sequence[ViewSlot], batch: int, kind: str = "random", local_pairs: bool = False, seed: int = 0) -> Tensor:
    """A symmetric table with 0 for two local views: random, tied (whole numbers from -2 to 2), broken (some NaN, inf), negative."""
    views = sum(slot.candidates for slot in slots)
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(views, views, batch, generator=generator)
    if kind == "tied":
        table = torch.randint(-2, 3, table.shape, generator=generator).float()
    if kind == "broken":
        broken = torch.rand(table.shape, generator=generator)
        for value, share in ((torch.nan, 0.05), (torch.inf, 0.1), (-torch.inf, 0.15)):
            table[(broken < share) & table.isfinite()] = value
        table[..., 0] = torch.nan
    if kind == "negative":
        table = -table.abs() - 1
    table = torch.where(torch.ones(views, views).triu().bool()[..., None], table, table.transpose(0, 1))
    local = torch.tensor([role == "local" for role in view_roles(slots)])
    apart = local[:, None] & local & ~torch.eye(views, dtype=torch.bool)
    return table if local_pairs else table.masked_fill(apart[..., None], 0)


def every_selection(table: Tensor, slots: Sequence[ViewSlot]) -> tuple[Tensor, Tensor]:
    """All selections (n, S) in the order in which ties are decided, and their losses (n, B); -inf where not finite."""
    selections = torch.tensor(reference.selections(slots))
    losses = torch.stack([selection_loss(table.double(), row[:, None].expand(-1, table.shape[-1])) for row in selections])
    return selections, torch.where(losses.isfinite(), losses, -torch.inf)


def try_all(table: Tensor, slots: Sequence[ViewSlot]) -> Tensor:
    selections, losses = every_selection(table, slots)
    best, choice = losses.max(0)
    return torch.where(best.isfinite(), selections[choice].T, first(table, slots))


GLOBALS = [(2, 1), (2, 2), (3, 1), (3, 2), (3, 3), (4, 1), (4, 2), (4, 3), (4, 4)]
LOCALS = [(candidates, select) for candidates in range(1, 9) for select in range(1, min(candidates, 4) + 1)]


@pytest.mark.parametrize("kind", ["random", "tied", "broken", "negative"])
class TestExact:
    @pytest.mark.parametrize("candidates, select", [(1, 1), *GLOBALS])
    def test_globals_alone(self, kind: str, candidates: int, select: int) -> None:
        slots = [ViewSlot(None, candidates, select)]
        table = random_table(slots, 6, kind)
        assert torch.equal(exact(table, slots), try_all(table, slots))

    @pytest.mark.parametrize("candidates, select", GLOBALS)
    def test_globals_and_locals(self, kind: str, candidates: int, select: int) -> None:
        for place, (satellites, kept) in enumerate(LOCALS):
            if math.comb(candidates, select) * math.comb(satellites, kept) > 140:
                continue
            slots = [ViewSlot(None, candidates, select), ViewSlot(None, satellites, kept, role="local")]
            table = random_table(slots, 3, kind, seed=place)
            assert torch.equal(exact(table, slots), try_all(table, slots)), (satellites, kept)

    @pytest.mark.parametrize("satellites, kept", [(7, 3), (8, 4)])
    def test_the_largest(self, kind: str, satellites: int, kept: int) -> None:
        slots = [ViewSlot(None, 4, 2), ViewSlot(None, satellites, kept, role="local")]
        table = random_table(slots, 8, kind)
        assert torch.equal(exact(table, slots), try_all(table, slots))

    def test_several_slots_of_both_kinds(self, kind: str) -> None:
        slots = [ViewSlot(None, 2, 1, role="local"), *MULTI_CROP, ViewSlot(None, 4, 3, role="local")]
        table = random_table(slots, 8, kind)
        assert torch.equal(exact(table, slots), try_all(table, slots))

    def test_the_checker_equals_the_reference(self, kind: str) -> None:
        table = random_table(MULTI_CROP, 4, kind)
        assert torch.equal(try_all(table, MULTI_CROP), reference.brute_force(table, MULTI_CROP))

    def test_in_blocks(self, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        table = random_table(MULTI_CROP, 5, kind)
        whole = exact(table, MULTI_CROP)
        monkeypatch.setattr(search, "_BLOCK_BYTES", 1)
        assert torch.equal(exact(table, MULTI_CROP), whole)


@pytest.mark.parametrize("kind", ["random", "negative"])
def test_permuted_candidates_permute_the_choice(kind: str) -> None:
    table = random_table(MULTI_CROP, 5, kind)
    order = torch.tensor([1, 0, 4, 2, 3, 6, 5])
    chosen = exact(table[order][:, order], MULTI_CROP)
    assert torch.equal(order[chosen].sort(0).values, exact(table, MULTI_CROP).sort(0).values)


sizes = st.tuples(st.integers(2, 4), st.integers(1, 4), st.integers(1, 6), st.integers(1, 4)).filter(
    lambda s: s[1] <= s[0] and s[3] <= s[2]
)


@given(sizes, st.integers(1, 4), st.integers(0, 10_000))
def test_the_chosen_loss_is_the_highest(size: tuple[int, int, int, int], batch: int, seed: int) -> None:
    slots = [ViewSlot(None, *size[:2]), ViewSlot(None, *size[2:], role="local")]
    table = random_table(slots, batch, seed=seed)
    chosen = exact(table, slots)
    torch.testing.assert_close(
        selection_loss(table.double(), chosen), every_selection(table, slots)[1].max(0).values, atol=1e-5, rtol=1e-5
    )
    assert chosen.dtype == torch.int64 and chosen.shape == (size[1] + size[3], batch)
    assert (chosen[: size[1]] < size[0]).all() and (chosen[size[1] :] >= size[0]).all()
    for part in (chosen[: size[1]], chosen[size[1] :]):
        assert (part.diff(dim=0) > 0).all()


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(0, 100))
def test_as_many_candidates_as_kept_is_the_identity(counts: list[int], seed: int) -> None:
    slots = [ViewSlot(None, count, count, role="local" if place else "global") for place, count in enumerate(counts)]
    table = random_table(slots, 3, seed=seed)
    everything = torch.arange(sum(counts))[:, None].expand(-1, 3)
    assert torch.equal(exact(table, slots), everything) and torch.equal(sampled(table, slots), everything)


def test_dinos_51480_combinations() -> None:
    table = random_table(DINO, 2)
    anchors = itertools.product((0, 1), (2, 3))
    best = torch.full((2,), -torch.inf, dtype=torch.float64)
    table64 = table.double()
    for anchor in anchors:
        gains = table64[4:, 4:].diagonal().T + table64[4:, anchor].sum(1)
        satellites = torch.tensor(list(itertools.combinations(range(16), 8)))
        losses = gains[satellites].sum(1).max(0).values
        best = best.maximum(losses + selection_loss(table64, torch.tensor(anchor)[:, None].expand(-1, 2)))
    torch.testing.assert_close(selection_loss(table, exact(table, DINO)).double(), best)


def test_selection_loss_equals_the_reference() -> None:
    table = random_table(MULTI_CROP, 5, "broken", local_pairs=True)
    chosen = sampled(table, MULTI_CROP, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(selection_loss(table, chosen).double(), reference.selection_loss(table, chosen), equal_nan=True)


class TestPublishedDefects:
    """What the published search does, and ours does not."""

    def test_losses_below_zero_select_too(self) -> None:
        slots = [ViewSlot(None, 4, 2)]
        table = random_table(slots, 5, "negative")
        table.diagonal().zero_()
        pairs = torch.stack([table[u, v] for u, v in itertools.combinations(range(4), 2)])
        assert torch.equal(selection_loss(table, exact(table, slots)), pairs.max(0).values)

    def test_nan_neither_wins_nor_sticks(self) -> None:
        slots = [ViewSlot(None, 3, 2)]
        table = torch.tensor([[0.0, torch.nan, 1.0], [torch.nan, 0.0, 2.0], [1.0, 2.0, 0.0]])[..., None]
        assert exact(table, slots)[:, 0].tolist() == [1, 2]

    def test_combinations_are_not_drawn_twice(self) -> None:
        slots = [ViewSlot(None, 4, 1), ViewSlot(None, 4, 2, role="local")]
        generator = torch.Generator().manual_seed(0)
        ours = search.draw_combinations(slots, 16, generator)
        assert len({tuple(row) for row in ours.tolist()}) == 16
        published = list(published_combinations(4, 4, 2, 16, generator))
        assert len({tuple(sorted(row)) for row in published}) < 16

    def test_any_two_globals_can_be_kept(self) -> None:
        """Published: one of even and one of odd place. With one slot, (0, 2) is a pair like any other."""
        slots = [ViewSlot(None, 4, 2)]
        table = torch.zeros(4, 4, 1)
        table[0, 2] = table[2, 0] = 1
        assert exact(table, slots)[:, 0].tolist() == [0, 2]

    def test_the_optimum_is_at_least_what_128_combinations_find(self) -> None:
        student, teacher = torch.randn(20, 6, 32), torch.randn(4, 6, 32)
        slots = [ViewSlot(None, 4, 2), ViewSlot(None, 16, 8, role="local")]
        table = DINOLoss(0.05, 0.1).table([student[:4], student[4:]], [teacher, None], slots)
        ours = selection_loss(table, exact(table, slots))
        generator = torch.Generator().manual_seed(0)
        _, published = published_dino(student, teacher, torch.zeros(32), 0.05, 0.1, 8, 128, generator)
        assert (ours >= published - 1e-5).all() and ours.mean() > published.mean() * 1.01


class TestSampled:
    @pytest.mark.parametrize("kind", ["random", "tied", "broken", "negative"])
    def test_all_of_them_where_the_limit_allows(self, kind: str) -> None:
        table = random_table(MULTI_CROP, 5, kind, local_pairs=True)
        selections, losses = every_selection(table, MULTI_CROP)
        order = sorted(range(len(selections)), key=lambda row: selections[row].tolist())
        selections, losses = selections[order], losses[order]
        best, choice = losses.max(0)
        expected = torch.where(best.isfinite(), selections[choice].T, first(table, MULTI_CROP))
        assert torch.equal(sampled(table, MULTI_CROP, limit=12), expected)
        assert torch.equal(sampled(table, MULTI_CROP, limit=1000), expected)

    @pytest.mark.parametrize(
        "slots", [MULTI_CROP, DINO, (ViewSlot(None, 30, 15),), (ViewSlot(None, 5, 5),), (ViewSlot(None, 1, 1),)]
    )
    @pytest.mark.parametrize("limit", [1, 7, 128])
    def test_combinations_are_distinct_valid_and_in_order(self, slots: Sequence[ViewSlot], limit: int) -> None:
        total = math.prod(math.comb(slot.candidates, slot.select) for slot in slots)
        rows = search.draw_combinations(slots, limit, torch.Generator().manual_seed(1)).tolist()
        assert len(rows) == min(limit, total) and rows == sorted(rows) and len(set(map(tuple, rows))) == len(rows)
        for row in rows:
            start = place = 0
            for slot in slots:
                part = row[place : place + slot.select]
                assert part == sorted(set(part)) and start <= part[0] and part[-1] < start + slot.candidates
                start, place = start + slot.candidates, place + slot.select

    def test_every_combination_is_as_likely(self) -> None:
        slots = [ViewSlot(None, 2, 1), ViewSlot(None, 5, 2, role="local")]
        generator = torch.Generator().manual_seed(0)
        counts: dict[tuple[int, ...], int] = {}
        for _ in range(2000):
            for row in search.draw_combinations(slots, 4, generator).tolist():
                counts[tuple(row)] = counts.get(tuple(row), 0) + 1
        assert len(counts) == 20 and all(330 < count < 470 for count in counts.values())  # 400 expected, 5 sigma are 86

    def test_a_generator_decides(self) -> None:
        table = random_table(DINO, 3, local_pairs=True)
        state = torch.get_rng_state()
        one, same, other = (sampled(table, DINO, 8, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
        assert torch.equal(one, same) and not torch.equal(one, other)
        assert torch.equal(torch.get_rng_state(), state)


class TestBadInput:
    @pytest.mark.parametrize("function", [exact, sampled])
    def test_tables(self, function: object) -> None:
        for table in (torch.zeros(3, 3, 2), torch.zeros(7, 7), torch.zeros(7, 6, 2), torch.zeros(7, 7, 2, dtype=torch.int64), None):
            with pytest.raises(
                HVSError, match=r"\(table\): expected a floating-point table \(7, 7, B\) for the slots' 7 candidates"
            ):
                function(table, MULTI_CROP)
        with pytest.raises(HVSError, match=r"\(slots\): expected a slot of role 'global', got roles \['local'\]"):
            function(torch.zeros(4, 4, 2), [ViewSlot(None, 4, 2, role="local")])

    def test_more_kept_than_drawn(self) -> None:
        with pytest.raises(HVSError, match=r"ViewSlot\(candidates\): expected at least the 3 views that are selected, got int 2"):
            ViewSlot(None, 2, 3)

    def test_local_views_that_interact(self) -> None:
        table = random_table(MULTI_CROP, 2, local_pairs=True)
        with pytest.raises(
            HVSError, match=r'search.exact\(local_pairs\).*\n  hint: use policies.hardest\(search="sampled", limit=128\)'
        ):
            exact(table, MULTI_CROP, local_pairs=True)
        slots = [ViewSlot(None, 7, 2)]
        assert torch.equal(exact(table, slots, local_pairs=True), try_all(table, slots))

    def test_too_many_anchors(self) -> None:
        slots = [ViewSlot(None, 20, 10)]
        with pytest.raises(
            HVSError, match=r'search.exact\(slots\): expected at most 20,000 ways .*, got 184,756.\n.*search="sampled"'
        ):
            exact(torch.zeros(20, 20, 1), slots)
        assert sampled(torch.zeros(20, 20, 1), slots).shape == (10, 1)

    @pytest.mark.parametrize("limit", [0, -1, 2.5])
    def test_limit(self, limit: int) -> None:
        with pytest.raises(HVSError, match=r"search.sampled\(limit\): expected an integer of at least 1"):
            sampled(torch.zeros(7, 7, 1), MULTI_CROP, limit)

    def test_more_combinations_than_numbers(self) -> None:
        with pytest.raises(HVSError, match=r"search.sampled\(slots\): expected fewer than 2 \*\* 62 combinations"):
            sampled(torch.zeros(80, 80, 1), [ViewSlot(None, 80, 40)])
