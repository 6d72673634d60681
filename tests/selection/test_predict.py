"""Predicted pair losses equal a ridge regression spelled out row by row, and never wait for a device."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Sequence
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from hvs_aug._check import HVSError
from hvs_aug.data.batch import ImageBatch
from hvs_aug.selection.predict import PairPredictor
from hvs_aug.views.candidates import CandidateViews
from hvs_aug.views.params import ViewParams
from hvs_aug.views.presets import preset_slots
from hvs_aug.views.recipe import ViewRecipe, ViewSlot

from ..reference import predict as reference

Slots = Sequence[ViewSlot]

TOLERANCE = 1e-4  # of the largest prediction; sums and a solve in float32 differ from float64 by 2e-6 of it

RECIPE = ViewRecipe(
    size=32,
    flip_prob=0.5,
    jitter_prob=0.8,
    brightness=1.0,
    contrast=0.8,
    saturation=0.8,
    hue=0.2,
    gray_prob=0.3,
    blur_prob=0.5,
    blur_kernel=5,
    solarize_prob=0.3,
)
OTHER = replace(RECIPE, scale=(0.4, 1.0), blur_prob=1.0, solarize_prob=0.0)
LOCAL = replace(RECIPE, size=16, scale=(0.05, 0.4))

ONE_SLOT = (ViewSlot(RECIPE, 4, 2),)
DINO = (ViewSlot(OTHER, 2, 1), ViewSlot(RECIPE, 2, 1), ViewSlot(LOCAL, 6, 3, role="local"))
GLOBALS_AND_LOCALS = (ViewSlot(RECIPE, 4, 2), ViewSlot(LOCAL, 6, 3, role="local"))
LAYOUTS = [
    pytest.param(ONE_SLOT, id="4-choose-2"),
    pytest.param(DINO, id="dino"),
    pytest.param(GLOBALS_AND_LOCALS, id="globals-and-locals"),
    pytest.param((ViewSlot(LOCAL, 3, 2, role="local"), ViewSlot(RECIPE, 3, 2), ViewSlot(OTHER, 2, 1)), id="locals-first"),
    pytest.param((ViewSlot(RECIPE, 4, 2, tie="crop"),), id="same-crops"),
    pytest.param((ViewSlot(ViewRecipe(size=32), 4, 2),), id="crops-alone"),
    pytest.param((ViewSlot(RECIPE, 2, 2),), id="one-pair"),
    pytest.param((ViewSlot(RECIPE, 5, 1),), id="no-pair"),
]


def different_sizes(batch: int) -> ImageBatch:
    """Blank images on one canvas, each of its own height and width."""
    sizes = torch.tensor([[48 - 5 * (image % 5), 40 + 3 * (image % 9)] for image in range(batch)])
    return ImageBatch(torch.zeros(batch, 3, 48, 64, dtype=torch.uint8), sizes)


def equal_sizes(batch: int) -> Tensor:
    return torch.zeros(batch, 3, 48, 64, dtype=torch.uint8)


def drawn(
    slots: Slots, batch: int = 5, seed: int = 0, images: Callable[[int], ImageBatch | Tensor] = different_sizes
) -> ViewParams:
    return CandidateViews(slots).make_params(images(batch), torch.Generator().manual_seed(seed))


def pool(slots: Slots, times: int = 3) -> list[ViewSlot]:
    """The same slots, each with several times as many candidates."""
    return [replace(slot, candidates=times * slot.candidates) for slot in slots]


def noisy_table(params: ViewParams, seed: int = 0, broken: float = 0.0) -> Tensor:
    """Losses of overlap, gray and noise, another for each direction; a share of them NaN, and as large a one infinite."""
    generator = torch.Generator().manual_seed(seed)
    gray = params.gray.float()
    table = 7 - 2 * params.iou() + (gray[:, None] - gray).abs()
    table = table + torch.randn(table.shape, generator=generator)
    draw = torch.rand(table.shape, generator=generator)
    table[draw < broken] = torch.nan
    table[draw > 1 - broken / 2] = torch.inf
    table[(draw > 1 - broken) & (draw <= 1 - broken / 2)] = -torch.inf
    return table


def learned(slots: Slots, *history: tuple[ViewParams, Tensor]) -> PairPredictor:
    predictor = PairPredictor(slots)
    for params, table in history:
        predictor.learn(params, table)
    return predictor


def agree(got: Tensor, expected: Tensor) -> None:
    """Assert equality as far as sums and a solve in float32 go."""
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    assert got.dtype == torch.float32 and got.shape == expected.shape
    torch.testing.assert_close(got.double(), expected.double(), rtol=TOLERANCE, atol=TOLERANCE * scale)


class TestReference:
    """The reference against numbers worked out by hand."""

    def hand_drawn(self, slots: tuple[int, int]) -> ViewParams:
        """Two views of an image of 40 x 20: its upper half, coloured and gray, and its left half, blurred and solarized."""
        return ViewParams(
            boxes=torch.tensor([[[0, 0, 20, 20]], [[0, 0, 40, 10]]]),
            flips=torch.tensor([[True], [False]]),
            jitter=torch.tensor([[[2.0, 0.5, 0.0, 0.25]], [[1.0, 1.0, 1.0, 0.0]]]),
            order=torch.arange(4).expand(2, 1, 4),
            gray=torch.tensor([[True], [False]]),
            blur=torch.tensor([[0.0], [1.5]]),
            solarize=torch.tensor([[False], [True]]),
            sizes=torch.tensor([[40, 20]]),
            slots=slots,
        )

    def test_inputs_by_hand(self) -> None:
        log = {value: float(torch.tensor(value, dtype=torch.float64).log()) for value in (0.1, 0.5, 2.0)}
        upper = [log[0.5], 0.0, log[2.0], log[0.5], log[0.1], 0.25, 1.0, 0.0]
        left = [log[0.5], 1.5, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]
        params = self.hand_drawn((0, 0))
        assert reference.drawn_values(params, 0, 0) == pytest.approx(upper)
        assert reference.drawn_values(params, 1, 0) == pytest.approx(left)
        crops = [200 / 600, 0.125**0.5]  # centres at (1/4, 1/2) and (1/2, 1/4) of the image
        within = [value for a, b in zip(upper, left, strict=True) for value in (abs(a - b), a + b)]
        between = [value for a, b in zip(upper, left, strict=True) for value in (abs(a - b), a, b)]
        assert reference.inputs_of_pair(params, 0, 1, 0) == pytest.approx(crops + within)
        assert reference.inputs_of_pair(params, 1, 0, 0) == pytest.approx(crops + within)
        assert reference.inputs_of_pair(self.hand_drawn((0, 1)), 0, 1, 0) == pytest.approx(crops + between)

    def test_overlaps_are_those_of_the_params(self) -> None:
        params = drawn(GLOBALS_AND_LOCALS)
        for u, v, image in itertools.product(range(10), range(10), range(5)):
            assert reference.inputs_of_pair(params, u, v, image)[0] == pytest.approx(float(params.iou()[u, v, image]), abs=1e-6)

    def test_kinds(self) -> None:
        assert reference.kinds(ONE_SLOT) == [(0, 0)]
        assert reference.kinds(DINO) == [(0, 1), (0, 2), (1, 2)]
        assert reference.kinds(GLOBALS_AND_LOCALS) == [(0, 0), (0, 1)]
        assert reference.kinds([ViewSlot(RECIPE, 5, 1)]) == []

    def test_weights_are_those_of_least_squares_with_penalty_rows(self) -> None:
        """Ridge regression is least squares on more rows: one for each weight, of its penalty's root and the target 0."""
        params = drawn(ONE_SLOT)
        table = noisy_table(params)
        inputs, targets = [], []
        for image in range(5):
            of_image = reference.rows(params, table, (0, 0), image)
            inputs += of_image[0]
            targets += of_image[1]
        x, y = torch.tensor(inputs, dtype=torch.float64), torch.tensor(targets, dtype=torch.float64)
        assert x.shape == (60, 18)
        penalty = (0.1 * x.square().sum(0) + 1e-6).sqrt()
        rows, goals = torch.cat([x, penalty.diag()]), torch.cat([y, torch.zeros(18, dtype=torch.float64)])
        expected = torch.linalg.lstsq(rows, goals[:, None]).solution[:, 0]
        torch.testing.assert_close(reference.weights([(params, table)], ONE_SLOT)[0, 0], expected)


@pytest.mark.parametrize("slots", LAYOUTS)
class TestAgreement:
    @pytest.mark.parametrize("images", [equal_sizes, different_sizes])
    def test_after_one_table(self, slots: Slots, images: Callable[[int], ImageBatch | Tensor]) -> None:
        params = drawn(slots, images=images)
        history = [(params, noisy_table(params))]
        agree(learned(slots, *history).table(params), reference.predicted_table(history, params, slots))

    def test_after_each_of_three_tables(self, slots: Slots) -> None:
        """Of other images, of batches of other sizes, and of losses that another way of scoring has turned round."""
        predictor, history, new = PairPredictor(slots), [], drawn(slots, 3, seed=9)
        for step, batch in enumerate((5, 2, 4)):
            params = drawn(slots, batch, seed=step)
            history.append((params, noisy_table(params, step) * (-1) ** step))
            predictor.learn(*history[-1])
            agree(predictor.table(new), reference.predicted_table(history, new, slots))

    @pytest.mark.parametrize("broken", [0.1, 0.4])
    def test_entries_that_are_not_finite_are_left_out(self, slots: Slots, broken: float) -> None:
        history = []
        for step in range(2):
            params = drawn(slots, seed=step)
            history.append((params, noisy_table(params, step, broken)))
            history[-1][1][..., step] = torch.nan  # an image without a single loss
        got = learned(slots, *history).table(params)
        assert got.isfinite().all()
        agree(got, reference.predicted_table(history, params, slots))

    def test_more_candidates_than_were_learned_from(self, slots: Slots) -> None:
        params, many = drawn(slots), drawn(pool(slots), 3, seed=1)
        history = [(params, noisy_table(params))]
        got = learned(slots, *history).table(many)
        assert got.shape == (len(many), len(many), 3) and len(many) == 3 * len(params)
        agree(got, reference.predicted_table(history, many, slots))

    def test_learned_from_any_number_of_candidates(self, slots: Slots) -> None:
        few, many = drawn(slots), drawn(pool(slots, 2), 3, seed=1)
        history = [(few, noisy_table(few)), (many, noisy_table(many))]
        agree(learned(slots, *history).table(few), reference.predicted_table(history, few, slots))


@pytest.mark.parametrize("name", ["simclr", "byol", "dino"])
@pytest.mark.parametrize("size", [32, 64])
def test_agreement_for_the_methods_own_augmentations(name: str, size: int) -> None:
    slots = preset_slots(name, size)
    params, later = drawn(slots, 3), drawn(slots, 2, seed=1)
    history = [(params, noisy_table(params)), (later, noisy_table(later))]
    agree(learned(slots, *history).table(params), reference.predicted_table(history, params, slots))


counts = st.tuples(st.integers(1, 4), st.integers(1, 4)).map(lambda pair: (max(pair), min(pair)))


@given(
    st.lists(st.tuples(counts, st.sampled_from(["global", "local"])), min_size=1, max_size=3),
    st.lists(st.integers(1, 3), min_size=1, max_size=3),
    st.sampled_from([0.0, 0.2, 0.8]),
    st.integers(0, 10_000),
)
def test_agreement_whatever_the_slots(
    layout: list[tuple[tuple[int, int], str]], batches: list[int], broken: float, seed: int
) -> None:
    slots = [ViewSlot(RECIPE, *count, role=role) for count, role in layout]
    history = []
    for step, batch in enumerate(batches):
        params = drawn(slots, batch, seed + step)
        history.append((params, noisy_table(params, seed + step, broken)))
    agree(learned(slots, *history).table(params), reference.predicted_table(history, params, slots))


@pytest.mark.parametrize("slots", LAYOUTS)
def test_the_table_is_symmetric_with_zeros_where_nothing_is_compared(slots: Slots) -> None:
    params = drawn(slots, 6)
    got = learned(slots, (params, noisy_table(params))).table(params)
    assert torch.equal(got, got.transpose(0, 1))
    for u, v in itertools.product(range(len(params)), repeat=2):
        one, other = sorted((params.slots[u], params.slots[v]))
        if u != v and (one, other) not in reference.kinds(slots):
            assert (got[u, v] == 0).all(), (u, v)
        elif u == v:
            assert (got[u, v] != 0).any(), (u, v)  # a view's own loss
        elif one != other or slots[one].candidates > 2:  # a single pair of an image has nothing to differ from
            assert (got[u, v] != 0).all(), (u, v)


@pytest.mark.parametrize("slots", LAYOUTS)
def test_what_is_not_compared_is_not_learned_from(slots: Slots) -> None:
    """Two local views, two of a slot that keeps one."""
    params = drawn(slots)
    table = noisy_table(params)
    changed = table.clone()
    for u, v in itertools.product(range(len(params)), repeat=2):
        if u != v and (*sorted((params.slots[u], params.slots[v])),) not in reference.kinds(slots):
            changed[u, v] = 1000 * (u + 1)
    assert torch.equal(learned(slots, (params, table)).table(params), learned(slots, (params, changed)).table(params))


@pytest.mark.parametrize("slots", LAYOUTS)
def test_nothing_learned_predicts_nothing(slots: Slots) -> None:
    params = drawn(slots)
    nothing = torch.zeros(len(params), len(params), 5)
    assert torch.equal(PairPredictor(slots).table(params), nothing)
    assert torch.equal(learned(slots, (params, torch.full_like(nothing, torch.nan))).table(params), nothing)
    assert torch.equal(learned(slots, (params, nothing)).table(params), nothing)


def test_a_kind_of_which_nothing_was_learned_predicts_nothing() -> None:
    params = drawn(GLOBALS_AND_LOCALS)
    table = noisy_table(params)
    table[4:] = table[:, 4:] = torch.nan
    got = learned(GLOBALS_AND_LOCALS, (params, table)).table(params)
    assert (got[4:] == 0).all() and (got[:, 4:] == 0).all() and (got[0, 1:4] != 0).all()
    agree(got, reference.predicted_table([(params, table)], params, GLOBALS_AND_LOCALS))


def correlation(predicted: Tensor, table: Tensor, pairs: Tensor) -> float:
    """Of the chosen pairs (P, 2) of all images, each image's mean apart."""
    one, other = (values[pairs[:, 0], pairs[:, 1]].double() for values in (predicted, table))
    one, other = one - one.mean(0), other - other.mean(0)
    return float((one * other).sum() / (one.square().sum() * other.square().sum()).sqrt())


def lightness(params: ViewParams) -> Tensor:
    values = params.jitter[..., 0].clamp(min=0.1).log()
    return (values[:, None] - values).abs()


def darkness(params: ViewParams) -> Tensor:
    values = params.jitter[..., 0].clamp(min=0.1).log()
    return -(values[:, None] + values)


@pytest.mark.parametrize("loss", [lambda params: 5 - 3 * params.iou(), lightness, darkness], ids=["iou", "difference", "sum"])
@pytest.mark.parametrize("slots", [ONE_SLOT, DINO, GLOBALS_AND_LOCALS], ids=["4-choose-2", "dino", "globals-and-locals"])
def test_a_loss_of_one_input_is_found(slots: Slots, loss: Callable[[ViewParams], Tensor]) -> None:
    """And predicted for other views of other images, kind by kind."""
    params, new = drawn(slots, 64), drawn(pool(slots, 2), 32, seed=1)
    predicted = learned(slots, (params, loss(params))).table(new)
    for kind in reference.kinds(slots):
        pairs = [(u, v) for u, v in itertools.combinations(range(len(new)), 2) if (new.slots[u], new.slots[v]) == kind]
        assert correlation(predicted, loss(new), torch.tensor(pairs)) > 0.99, kind


@pytest.mark.parametrize("slots", [ONE_SLOT, DINO, GLOBALS_AND_LOCALS], ids=["4-choose-2", "dino", "globals-and-locals"])
def test_how_hard_an_image_is_does_not_matter(slots: Slots) -> None:
    params = drawn(slots)
    table = noisy_table(params)
    shifted = table + torch.tensor([-20.0, 3.0, 0.0, 7.0, 50.0])
    agree(learned(slots, (params, shifted)).table(params), learned(slots, (params, table)).table(params))


@pytest.mark.parametrize("slots", [ONE_SLOT, DINO, GLOBALS_AND_LOCALS], ids=["4-choose-2", "dino", "globals-and-locals"])
def test_losses_of_another_scale_are_predicted_at_that_scale(slots: Slots) -> None:
    params = drawn(slots)
    table = noisy_table(params)
    expected = learned(slots, (params, table)).table(params)
    for factor in (-1.0, 0.25, 1024.0):
        agree(learned(slots, (params, factor * table)).table(params), factor * expected)


@pytest.mark.parametrize("slots", [ONE_SLOT, DINO, GLOBALS_AND_LOCALS], ids=["4-choose-2", "dino", "globals-and-locals"])
def test_permuted_candidates_permute_the_table(slots: Slots) -> None:
    params = drawn(slots)
    table = noisy_table(params)
    order = torch.cat([torch.tensor(params.slots).eq(slot).nonzero()[:, 0].flip(0).roll(1) for slot in range(len(slots))])
    permuted = params.select(order[:, None].expand(-1, 5), params.slots)
    assert not torch.equal(permuted.boxes, params.boxes)
    predictor = learned(slots, (params, table))
    expected = predictor.table(params)[order][:, order]
    agree(predictor.table(permuted), expected)
    agree(learned(slots, (permuted, table[order][:, order])).table(permuted), expected)


def test_images_do_not_mix() -> None:
    """Each image's predictions are those of its views, whatever else is in the batch."""
    params = drawn(DINO)
    predictor = learned(DINO, (params, noisy_table(params)))
    tensors = ("boxes", "flips", "jitter", "order", "gray", "blur", "solarize")
    for image in range(5):
        alone = replace(params, sizes=params.sizes[[image]], **{name: getattr(params, name)[:, [image]] for name in tensors})
        agree(predictor.table(alone), predictor.table(params)[..., [image]])


def test_the_latest_table_counts_most() -> None:
    params = drawn(ONE_SLOT, 32)
    likes, dislikes = params.iou(), -params.iou()
    pairs = torch.combinations(torch.arange(4))
    for first, second in ((likes, dislikes), (dislikes, likes)):
        got = learned(ONE_SLOT, (params, first), (params, second)).table(params)
        assert correlation(got, second, pairs) > 0.99
        whole = learned(ONE_SLOT, (params, second)).table(params)
        agree(got, whole * (1 - 0.8) / (1 + 0.8))  # what the older one says is taken off, at 0.8 of its weight


def test_flips_and_the_order_of_colours_do_not_matter() -> None:
    params = drawn(GLOBALS_AND_LOCALS)
    table = noisy_table(params)
    other = replace(params, flips=~params.flips, order=params.order.flip(-1))
    expected = learned(GLOBALS_AND_LOCALS, (params, table)).table(params)
    assert torch.equal(learned(GLOBALS_AND_LOCALS, (other, table)).table(other), expected)


@pytest.mark.parametrize("slots", [ONE_SLOT, DINO, GLOBALS_AND_LOCALS], ids=["4-choose-2", "dino", "globals-and-locals"])
def test_a_factor_of_zero_counts_as_a_tenth(slots: Slots) -> None:
    params = drawn(slots)
    table = noisy_table(params)
    black, dark = params.jitter.clone(), params.jitter.clone()
    black[1:, ::2, :3], dark[1:, ::2, :3] = 0.0, 0.1
    zero, tenth = replace(params, jitter=black), replace(params, jitter=dark)
    got = learned(slots, (zero, table)).table(zero)
    assert got.isfinite().all()
    assert torch.equal(got, learned(slots, (tenth, table)).table(tenth))
    agree(got, reference.predicted_table([(zero, table)], zero, slots))


def test_what_is_given_stays_as_it_is() -> None:
    params = drawn(DINO)
    table = noisy_table(params, broken=0.2)
    names = [field.name for field in fields(params) if isinstance(getattr(params, field.name), Tensor)]
    before = {name: getattr(params, name).clone() for name in names}
    copy = table.clone()
    predictor = learned(DINO, (params, table))
    predicted = predictor.table(params)
    assert torch.equal(table.nan_to_num(7.5), copy.nan_to_num(7.5)) and torch.equal(table.isnan(), copy.isnan())
    for name, value in before.items():
        assert torch.equal(getattr(params, name), value), name
    expected = predicted.clone()
    predicted.zero_()  # the table is the caller's
    assert torch.equal(predictor.table(params), expected)


def test_the_global_random_state_is_left_alone() -> None:
    params = drawn(DINO)
    table = noisy_table(params)
    state = torch.get_rng_state()
    learned(DINO, (params, table)).table(params)
    assert torch.equal(torch.get_rng_state(), state)


class TestState:
    def after_two(self, slots: Slots) -> PairPredictor:
        return learned(slots, *((params, noisy_table(params)) for params in (drawn(slots), drawn(slots, seed=1))))

    @pytest.mark.parametrize("slots", LAYOUTS)
    def test_goes_on_bit_for_bit(self, slots: Slots) -> None:
        predictor, new = self.after_two(slots), drawn(slots, seed=2)
        file = io.BytesIO()
        state = predictor.state_dict()
        assert all(isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items())
        torch.save(state, file)
        file.seek(0)
        restored = PairPredictor(slots)
        restored.load_state_dict(torch.load(file, weights_only=True))
        before = predictor.table(new)
        assert torch.equal(restored.table(new), before)
        table = noisy_table(new, seed=2)
        restored.learn(new, table)
        assert torch.equal(predictor.table(new), before)  # the one that was saved did not learn it
        predictor.learn(new, table)
        assert torch.equal(restored.table(new), predictor.table(new))

    def test_of_a_predictor_is_not_shared_with_the_next(self) -> None:
        predictor, restored, new = self.after_two(DINO), PairPredictor(DINO), drawn(DINO, seed=2)
        restored.load_state_dict(predictor.state_dict())
        before = predictor.table(new)
        restored.learn(new, noisy_table(new, seed=2))
        assert torch.equal(predictor.table(new), before) and not torch.equal(restored.table(new), before)

    def test_of_one_that_learned_nothing(self) -> None:
        restored, new = PairPredictor(DINO), drawn(DINO)
        restored.load_state_dict(PairPredictor(DINO).state_dict())
        assert (restored.table(new) == 0).all()
        table = noisy_table(new)
        restored.learn(new, table)
        assert torch.equal(restored.table(new), learned(DINO, (new, table)).table(new))

    def test_replaces_what_was_learned_before(self) -> None:
        predictor, new = self.after_two(DINO), drawn(DINO, seed=2)
        other = learned(DINO, (new, noisy_table(new)))
        other.load_state_dict(predictor.state_dict())
        assert torch.equal(other.table(new), predictor.table(new))
        other.load_state_dict(PairPredictor(DINO).state_dict())
        assert (other.table(new) == 0).all()

    def test_that_is_unknown_is_refused(self) -> None:
        predictor, new = self.after_two(DINO), drawn(DINO, seed=2)
        before = predictor.table(new)
        for state in (
            {"nonsense": torch.zeros(3)},
            {**predictor.state_dict(), "nonsense": torch.zeros(3)},
            self.after_two(ONE_SLOT).state_dict(),
        ):
            with pytest.raises(HVSError) as caught:
                predictor.load_state_dict(state)
            assert "PairPredictor.load_state_dict(state)" in str(caught.value)
        assert torch.equal(predictor.table(new), before)


@pytest.mark.parametrize("slots", LAYOUTS)
def test_on_a_device(slots: Slots) -> None:
    with FakeTensorMode():
        params = drawn(slots, 5).to("cuda")
        many = drawn(pool(slots), 3).to("cuda")
        views = len(params)
        predictor = PairPredictor(slots)
        for _ in range(2):
            predictor.learn(params, torch.randn(views, views, 5, device="cuda"))
        result, more = predictor.table(params), predictor.table(many)
        nothing = PairPredictor(slots).table(params)
        restored = PairPredictor(slots)
        restored.load_state_dict({name: value.cpu() for name, value in predictor.state_dict().items()})
        again = restored.table(params)
        restored.learn(params, torch.randn(views, views, 5, device="cuda"))
    for table, shape in (
        (result, (views, views, 5)),
        (more, (3 * views, 3 * views, 3)),
        (nothing, (views, views, 5)),
        (again, (views, views, 5)),
    ):
        assert table.device.type == "cuda" and table.shape == shape and table.dtype == torch.float32


def test_autocast_changes_nothing() -> None:
    params = drawn(DINO)
    table = noisy_table(params)
    expected = learned(DINO, (params, table)).table(params)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        predictor = learned(DINO, (params, table))
        got = predictor.table(params)
    assert torch.equal(got, expected)
    assert all(value.dtype == torch.float32 for value in predictor.state_dict().values())


def test_a_slot_without_views_has_no_part() -> None:
    params = drawn(DINO)
    predictor = learned(DINO, (params, noisy_table(params)))
    few = params.of_slot(0)
    got = predictor.table(few)
    assert torch.equal(got, predictor.table(params)[: len(few), : len(few)])
    assert (got[0, 1] == 0).all()  # one of them is kept


@pytest.mark.parametrize("slots", [ONE_SLOT, DINO, GLOBALS_AND_LOCALS], ids=["4-choose-2", "dino", "globals-and-locals"])
def test_facts_are_further_values_of_a_view(slots: Slots) -> None:
    params = drawn(slots)
    facts = torch.rand(len(params), 5, 2, generator=torch.Generator().manual_seed(7))
    table = noisy_table(params)
    predictor = PairPredictor(slots)
    predictor.learn(params, table, facts)
    agree(predictor.table(params, facts), reference.predicted_table([(params, table, facts)], params, slots, facts))
    alone = torch.zeros_like(table)
    alone.diagonal().copy_(facts[..., 0].t())
    predictor = PairPredictor(slots)
    predictor.learn(params, alone, facts)
    own, rest = predictor.table(params, facts).diagonal().t(), params.slots.count(0)
    got, expected = (values[:rest] - values[:rest].mean(0) for values in (own, facts[..., 0]))
    assert float((got * expected).sum() / (got.norm() * expected.norm())) > 0.95


def test_no_graph_is_kept() -> None:
    params = drawn(DINO)
    predictor = learned(DINO, (params, noisy_table(params).requires_grad_()))
    assert not predictor.table(params).requires_grad
