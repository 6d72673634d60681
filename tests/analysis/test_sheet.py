"""The contact sheet shows what it is given: pixels, frames and words are looked up in what was drawn."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from hvs_aug import CandidateViews, HVSError, ImageBatch, ViewSlot
from hvs_aug.analysis import sheet
from hvs_aug.analysis.style import DARK, LIGHT
from hvs_aug.ops import Normalize

SLOTS = (ViewSlot(None, candidates=3, select=2),)
MULTI_CROP = (
    ViewSlot(None, candidates=2, select=1, name="global-1"),
    ViewSlot(None, candidates=2, select=1, name="global-2"),
    ViewSlot(None, candidates=8, select=4, name="local", role="local"),
)


def panel(candidates: int = 3, channels: int = 3, **fields: object) -> sheet.Panel:
    boxes = torch.tensor([[2 * index, index, 10, 12] for index in range(candidates)])
    pairs = torch.arange(candidates * candidates, dtype=torch.float32).view(candidates, candidates) / candidates**2
    given = {
        "name": "cat.jpg",
        "source": torch.full((channels, 40, 60), 128, dtype=torch.uint8),
        "views": [torch.full((channels, 16, 16), 0.5)] * candidates,
        "boxes": boxes,
        "iou": pairs,
        "table": pairs + pairs.t(),
    }
    return sheet.Panel(**(given | fields))


def words(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def frames(figure: Figure, color: str) -> list[Rectangle]:
    return [patch for patch in figure.axes[0].patches if not patch.get_fill() and patch.get_edgecolor()[:3] == to_rgb(color)]


def test_chosen_views_are_framed_and_the_rest_is_not() -> None:
    figure = sheet.contact_sheet([panel(chosen=(0, 2))], SLOTS, "Some candidates")
    drawn = frames(figure, LIGHT.ours)
    assert len(drawn) == 4  # two crops on the photograph, two candidates
    assert len(frames(figure, "white")) == 1
    images = [tuple(round(value) for value in image.get_extent()) for image in figure.axes[0].images]
    assert len(images) == 4
    for frame, index in zip(drawn[2:], (0, 2), strict=True):
        left, right, bottom, top = images[1 + index]
        assert frame.get_bbox().bounds == pytest.approx((left, top, right - left, bottom - top))
    assert "Some candidates" in words(figure) and "cat.jpg" in words(figure)


def test_crops_are_drawn_where_they_are() -> None:
    figure = sheet.contact_sheet([panel(chosen=(0, 2))], SLOTS)
    left, right, bottom, top = figure.axes[0].images[0].get_extent()
    scale = (right - left) / 60
    assert (bottom - top) / 40 == pytest.approx(scale)
    crop = frames(figure, LIGHT.ours)[1].get_bbox()  # of candidate 2: top 4, left 2, height 10, width 12
    assert crop.bounds == pytest.approx((left + 2 * scale, top + 4 * scale, 12 * scale, 10 * scale))


def test_words_under_each_candidate() -> None:
    table = torch.tensor([[0.0, 1.25, 0.5], [1.25, 0.0, 3.0], [0.5, 3.0, 0.0]])
    iou = torch.tensor([[1.0, 0.2, 0.6], [0.2, 1.0, 0.4], [0.6, 0.4, 1.0]])
    said = words(sheet.contact_sheet([panel(table=table, iou=iou, chosen=(1, 2))], SLOTS))
    assert said.count("loss 3.00   IoU 0.40") == 2 and "loss 1.25   IoU 0.20" in said
    assert [word for word in said if word.startswith("with")] == ["with B", "with C", "with B"]
    without = words(sheet.contact_sheet([panel(table=None, iou=iou)], SLOTS))
    assert [word for word in without if word.startswith("IoU")] == ["IoU 0.20", "IoU 0.20", "IoU 0.40"]
    bare = words(sheet.contact_sheet([panel(table=None, iou=None, boxes=None)], SLOTS))
    assert not any(word.startswith(("IoU", "loss", "with")) for word in bare)


def test_partner_is_one_that_could_be_kept_too() -> None:
    table = torch.rand(12, 12)
    table[4:, 4:] = 100.0  # two local views, which have no loss of their own
    table[0, 1] = table[1, 0] = 100.0  # two candidates of one slot that keeps one
    crowd = panel(12, table=table, chosen=(1, 2, 4, 5, 6, 7))
    for index in range(12):
        other = sheet.partner(crowd, index, MULTI_CROP)
        assert other is not None and table[index, other] < 100
    assert sheet.partner(crowd, 1, MULTI_CROP) == 2 and sheet.partner(crowd, 2, MULTI_CROP) == 1
    assert sheet.partner(crowd, 4, MULTI_CROP) in (1, 2)
    nan = torch.tensor([[0.0, float("nan"), -1.0], [float("nan"), 0.0, 1.0], [-1.0, 1.0, 0.0]])
    assert sheet.partner(panel(table=nan), 0, SLOTS) == 2
    assert sheet.partner(panel(1), 0, (ViewSlot(None, 1, 1),)) is None


def test_multi_crop_sheet_names_slots_and_colours_local_views() -> None:
    figure = sheet.contact_sheet([panel(12, chosen=(1, 2, 4, 5, 6, 7))] * 2, MULTI_CROP)
    assert {"Global 1", "Global 2", "Local", "A", "L"} < set(words(figure))
    assert len(frames(figure, LIGHT.ours)) == 2 * 4 and len(frames(figure, LIGHT.local)) == 2 * 8
    assert not frames(figure, "white")  # with so many only the chosen crops are drawn on the photograph


def test_a_crowded_photograph_without_a_choice_shows_the_global_crops() -> None:
    figure = sheet.contact_sheet([panel(12)], MULTI_CROP)
    assert len(frames(figure, "white")) == 4


def test_local_views_stand_below_their_own_heading() -> None:
    figure = sheet.contact_sheet([panel(12)], MULTI_CROP)
    places = {text.get_text(): text.get_position() for text in figure.axes[0].texts if text.get_text() in ("Global 1", "Local")}
    lefts_and_tops = [(round(box[0]), round(box[3])) for box in (image.get_extent() for image in figure.axes[0].images)][1:]
    assert all(top < places["Local"][1] for _, top in lefts_and_tops[:4])
    assert all(top > places["Local"][1] for _, top in lefts_and_tops[4:])
    assert places["Global 1"][0] == places["Local"][0] == lefts_and_tops[0][0] == lefts_and_tops[4][0]
    assert len({top for _, top in lefts_and_tops[4:]}) == 1


def test_a_dark_sheet_has_dark_paper() -> None:
    assert sheet.contact_sheet([panel()], SLOTS, theme=DARK).get_facecolor()[:3] == to_rgb(DARK.paper)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_sheet_renders_any_number_of_channels(channels: int) -> None:
    figure = sheet.contact_sheet([panel(channels=channels, chosen=(0, 1))], SLOTS)
    figure.set_dpi(50)
    figure.canvas.draw()
    assert figure.axes[0].images[0].get_array().shape == (40, 60, 3)


def test_sheet_refuses_other_candidates() -> None:
    with pytest.raises(HVSError, match=r"contact_sheet\(shown\): expected 3 candidates, as the slots say, got 4 in cat\.jpg"):
        sheet.contact_sheet([panel(4)], SLOTS)
    with pytest.raises(HVSError, match="expected at least one panel, got none"):
        sheet.contact_sheet([], SLOTS)


def test_panels_hold_each_images_candidates_without_normalisation() -> None:
    views = CandidateViews.preset("simsiam", size=24, candidates=3)
    batch = ImageBatch(torch.randint(0, 256, (2, 3, 40, 50), dtype=torch.uint8), torch.tensor([[40, 50], [30, 20]]))
    params = views.make_params(batch, torch.Generator().manual_seed(0))
    plain = CandidateViews(replace(views.slots[0], recipe=views.slots[0].recipe.without(Normalize)))
    (expected,) = plain.transform(batch, params)
    made = sheet.panels(batch, views, params, torch.rand(3, 3, 2), torch.tensor([[0, 1], [2, 2]]), ["a", "b"])
    for image, one in enumerate(made):
        torch.testing.assert_close(torch.stack(list(one.views)), expected[:, image], atol=1e-5, rtol=0)
        assert torch.equal(one.boxes, params.boxes[:, image]) and torch.equal(one.iou, params.iou()[..., image])
    assert made[1].source.shape == (3, 30, 20) and torch.equal(made[1].source, batch.pixels[1, :, :30, :20])
    assert [one.chosen for one in made] == [(0, 2), (1, 2)] and [one.name for one in made] == ["a", "b"]
    with pytest.raises(HVSError, match=r"panels\(names\): expected 2 names"):
        sheet.panels(batch, views, params, names=["a"])


def test_panels_without_crops_show_none() -> None:
    views = CandidateViews.preset("simclr", size=24, candidates=2)
    images = torch.zeros(1, 3, 30, 30, dtype=torch.uint8)
    uncropped = replace(views.make_params(images), uncropped=(0,))
    (one,) = sheet.panels(images, views, uncropped)
    assert one.boxes is None and one.iou is None and one.name == "image 1"


def test_tags_do_not_cover_each_other() -> None:
    taken: list[tuple[float, float]] = []
    places = [sheet._free_place(5.0, 5.0, taken) for _ in range(3)]
    assert [left for left, _ in places] == sorted({left for left, _ in places})
    assert all(second[0] - first[0] >= sheet.TAG for first, second in itertools.pairwise(places))


def test_labels() -> None:
    assert sheet.labels(3) == ["A", "B", "C"] and sheet.labels(27)[-1] == "27"
