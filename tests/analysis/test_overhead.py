"""What is reported about cost: counted operations, judged choices, the row that is recommended. No clock is asserted."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from hvs_aug._check import HVSError
from hvs_aug.analysis import hardness, overhead, step_cost
from hvs_aug.analysis.overhead import measure, recommend
from hvs_aug.analysis.workload import FULL, RANDOM, Runner, Workload, ours, settings
from hvs_aug.ops import RandomHorizontalFlip, RandomResizedCrop
from hvs_aug.selection.losses import CallableLoss
from hvs_aug.selection.policies import random as at_random
from hvs_aug.selection.sampler import HardPairSampler
from hvs_aug.selection.scoring import Scoring
from hvs_aug.views.candidates import CandidateViews
from hvs_aug.views.recipe import ViewRecipe, ViewSlot


class Small(nn.Module):
    """A linear trainee: its operations can be counted by hand."""

    fewest = 2
    learning_rate, weight_decay = 1e-3, 0.0
    scoring_teacher = None

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3 * 8 * 8, 5, bias=False)
        self.pair_loss = CallableLoss(lambda first, second: (first - second).square().sum(-1))
        self.steps = 0

    def views(self, size: int, candidates: int | None = None) -> CandidateViews:
        return CandidateViews(
            ViewSlot(ViewRecipe(size, [RandomResizedCrop(scale=(0.1, 1.0)), RandomHorizontalFlip()]), candidates or 4, 2)
        )

    def sampler(self, views: CandidateViews, **options) -> HardPairSampler:
        options.setdefault("generator", torch.Generator().manual_seed(0))
        return HardPairSampler(self.score, self.pair_loss, views, **options)

    def extras(self, slots, images, generator) -> None:
        return None

    def score(self, images: Tensor) -> Tensor:
        return self.layer(nn.functional.adaptive_avg_pool2d(images, 8).flatten(1))

    def loss(self, hard) -> Tensor:
        self.steps += 1
        first, second = self.score(torch.cat(hard.views)).chunk(2)
        return (first - second).square().mean()

    def clip_gradients(self) -> None:
        self.clipped = self.steps

    def after_step(self) -> None:
        assert self.clipped == self.steps


def photographs(count: int = 6) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (3, 20 + index, 30), dtype=torch.uint8, generator=generator) for index in range(count)]


def workload(build=Small) -> Workload:
    return Workload(build, 8, 4, 4, photographs(), photographs(3), torch.device("cpu"))


CONTESTANTS = {
    FULL: ours(),
    "half": ours(scoring=Scoring(scale=0.5)),
    "every 2nd": ours(scoring=Scoring(every=2)),
    "random": lambda trainee, views: trainee.sampler(views, policy=at_random(control=False)),
}


@pytest.fixture(scope="module")
def rows() -> dict[str, dict]:
    seen: list[str] = []

    def progress(items, what):
        seen.append(what)
        return items

    found = measure(workload(), CONTESTANTS, repeats=2, warmup=0, points=(0, 2), judged=16, progress=progress)
    assert seen == ["cost", "hardness"]
    return {row["setting"]: row for row in found}


def test_rows_and_their_ratios(rows) -> None:
    assert list(rows) == [RANDOM, *CONTESTANTS]
    base = rows[RANDOM]
    assert (base["ratio"], base["bound"], base["over_bound"], base["captured"]) == (1.0, 1.0, 1.0, 0.0)
    for row in rows.values():
        assert row["ratio"] == pytest.approx(row["median"] / base["median"])
        assert row["over_bound"] == pytest.approx(row["ratio"] / row["bound"])
        assert row["ratio_quartiles"][0] <= row["ratio_quartiles"][1]
        assert row["repeats"] == 2
        assert row["peak_bytes"] > 2 * 4 * 3 * 8 * 8 * 4  # at least the two views
        assert all(row[part] >= 0 for part in ("views", "scoring", "search", "render", "training"))
    assert rows[RANDOM]["scoring"] == 0
    assert rows[FULL]["scoring"] > 0


def test_the_bound_is_what_the_arithmetic_says(rows) -> None:
    """A step on two views is a forward and one product for the weights' gradient (images need none): 2 + 2 of v; scoring is 4."""
    forward_of_a_view = 1.0
    step = 2 * forward_of_a_view + 2 * forward_of_a_view
    assert rows[FULL]["bound"] == pytest.approx((step + 4 * forward_of_a_view) / step)
    assert rows["every 2nd"]["bound"] == pytest.approx((step + 2 * forward_of_a_view) / step)
    assert rows["random"]["bound"] == 1.0
    assert 1.0 < rows["half"]["bound"] <= rows[FULL]["bound"]  # equal where this PyTorch counts no pooling


def test_hardness_captured_is_one_for_the_hardest_and_none_for_a_random_choice(rows) -> None:
    assert rows[FULL]["captured"] == pytest.approx(1.0)
    assert rows[FULL]["agreement"] == 1.0
    assert abs(rows["random"]["captured"]) < 0.35
    assert rows["every 2nd"]["captured"] == pytest.approx(0.5, abs=0.25)
    assert 0.3 < rows["half"]["captured"] <= 1.0
    assert [point["steps"] for point in rows["half"]["by_point"]] == [0, 2]
    assert rows["half"]["captured"] == rows["half"]["by_point"][1]["captured"]


def test_the_judgement_against_a_loop_over_pairs() -> None:
    runner = Runner(workload(), CONTESTANTS[FULL])
    batch = next(workload().batches(photographs()))
    half = HardPairSampler(runner.trainee.score, runner.trainee.pair_loss, runner.views, scoring=Scoring(scale=0.5))
    found = hardness._judge(hardness._Judge(runner, runner.choose), {FULL: runner.choose, "half": half}, [batch])["half"]
    params = runner.views.make_params(batch, torch.Generator().manual_seed(2))
    table = runner.choose.score(batch, params=params).table
    chosen = half(batch, params=params).indices
    gained = span = agreed = 0.0
    for image in range(len(batch)):
        losses = {pair: float(table[(*pair, image)]) for pair in itertools.combinations(range(4), 2)}
        chance, best = sum(losses.values()) / 6, max(losses, key=losses.__getitem__)
        own = tuple(sorted(chosen[:, image].tolist()))
        gained, span, agreed = gained + losses[own] - chance, span + losses[best] - chance, agreed + (own == best)
    assert found["captured"] == pytest.approx(gained / span, abs=0.1)  # the chance level there is the mean of some draws
    assert found["agreement"] == agreed / len(batch)


def test_a_contestant_that_is_judged_counts_no_steps_but_draws_on() -> None:
    runner = Runner(workload(), CONTESTANTS[FULL])
    every = HardPairSampler(
        runner.trainee.score, runner.trainee.pair_loss, runner.views, scoring=Scoring(every=2), policy="mixture:0.5"
    )
    batches = [batch for batch, _ in zip(workload().batches(photographs()), range(3), strict=False)]
    before = every.state_dict()
    hardness._judge(hardness._Judge(runner, runner.choose), {FULL: runner.choose, "every": every}, batches)
    after = every.state_dict()
    assert after["step"] == before["step"] == 0
    assert not torch.equal(after["generator"], before["generator"])


def test_a_setting_that_chooses_on_every_kth_step_is_timed_on_one_step_of_each_kind() -> None:
    built: list[Small] = []

    def build() -> Small:
        built.append(Small())
        return built[-1]

    step_cost.costs(
        workload(build), {"third": ours(scoring=Scoring(every=3))}, repeats=2, warmup=1, progress=lambda items, _: items
    )
    timed = [3 + 3 + 1 + 1, (3 + 3 + 1) * 2 + 1]  # rounds, parts, operations; the peak is that of one step
    assert [trainee.steps for trainee in built] == timed
    sampler = HardPairSampler(Small().score, Small().pair_loss, Small().views(8), scoring=Scoring(every=3))
    assert step_cost._mean(lambda number: {0: 10.0, 1: 1.0}[number], sampler) == pytest.approx((10 + 1 + 1) / 3)
    assert step_cost._mean(lambda number: 10.0, lambda *_: None) == 10.0


def test_full_size_is_the_yardstick() -> None:
    with pytest.raises(HVSError, match="expected one named 'full size', got \\['half'\\]"):
        measure(workload(), {"half": ours(scoring=Scoring(scale=0.5))})


def test_recommended_is_the_hardest_within_the_limit() -> None:
    def row(setting: str, ratio: float, captured: float) -> dict:
        return {"setting": setting, "ratio": ratio, "captured": captured}

    listed = [row(RANDOM, 1.0, 0.0), row(FULL, 1.7, 1.0), row("a", 1.05, 0.86), row("b", 1.09, 0.9), row("c", 1.01, 0.2)]
    assert recommend(listed)["setting"] == "b"
    assert recommend(listed, limit=1.06)["setting"] == "a"
    assert recommend(listed, limit=1.02)["setting"] == "a"  # none is cheap enough: the cheapest that keeps enough
    assert recommend([row(RANDOM, 1.0, 0.0), row("c", 1.01, 0.2), row("d", 1.3, 0.4)])["setting"] == "d"
    said = overhead.advice([row(RANDOM, 1.0, 0.0), row("half", 1.07, 0.91)])
    use, cost = said.splitlines()
    assert use == "use half: HardPairSampler(model, loss, views, scoring=Scoring(scale=0.5))"
    assert overhead.advice([row("cheap", 1.07, 0.91)]).splitlines()[0].endswith('views, scoring="cheap")')
    assert overhead.advice([row("smallest overlap", 1.0, 0.91)]).splitlines()[0].endswith("views, policy=policies.min_iou())")
    assert overhead.advice([row(FULL, 1.6, 1.0)]).splitlines()[0] == "use full size: HardPairSampler(model, loss, views)"
    assert cost == "it takes +7% time a step against random views, and captures 91% of the hardness"


def test_what_costs_more_than_it_says_is_not_recommended() -> None:
    noisy = {"setting": "half", "ratio": 1.05, "ratio_quartiles": [0.9, 1.3], "captured": 0.99}
    steady = {"setting": "cheap", "ratio": 1.08, "ratio_quartiles": [1.07, 1.09], "captured": 0.9}
    assert recommend([noisy, steady])["setting"] == "cheap"
    said = overhead.advice([noisy])
    assert "(half of the rounds: -10% to +30%)" in said and "the rounds differ much" in said
    assert "the rounds differ" not in overhead.advice([steady])
    assert "no setting captures 85 %" in overhead.advice([steady | {"captured": 0.5}])


def test_settings_suit_the_network() -> None:
    assert "channels last" in settings(transformer=False)
    assert "channels last" not in settings(transformer=True)
    for name, factory in settings(transformer=False).items():
        assert isinstance(factory(Small(), Small().views(8)), HardPairSampler), name


def test_batches_are_whole_and_different() -> None:
    source = workload().batches(photographs())
    first, second = next(source), next(source)
    assert len(first) == len(second) == 4
    assert first.pixels.dtype == torch.uint8
    assert not torch.equal(first.sizes, second.sizes)
