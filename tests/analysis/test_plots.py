"""Figures show what they are given: pixels, frames and words are looked up in what was drawn."""

from __future__ import annotations

import itertools
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from hvs_aug import CandidateViews, HVSError, ImageBatch, ViewSlot
from hvs_aug.analysis import plots
from hvs_aug.ops import Normalize

SLOTS = (ViewSlot(None, candidates=3, select=2),)
MULTI_CROP = (
    ViewSlot(None, candidates=2, select=1, name="global-1"),
    ViewSlot(None, candidates=2, select=1, name="global-2"),
    ViewSlot(None, candidates=8, select=4, name="local", role="local"),
)


def panel(candidates: int = 3, channels: int = 3, **fields: object) -> plots.Panel:
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
    return plots.Panel(**(given | fields))


def words(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def frames(figure: Figure, color: str) -> list[Rectangle]:
    return [patch for patch in figure.axes[0].patches if not patch.get_fill() and patch.get_edgecolor()[:3] == to_rgb(color)]


def test_chosen_views_are_framed_and_the_rest_is_not() -> None:
    figure = plots.contact_sheet([panel(chosen=(0, 2))], SLOTS, "Some candidates")
    drawn = frames(figure, plots.ACCENT)
    assert len(drawn) == 4  # two crops on the photograph, two candidates
    assert len(frames(figure, "white")) == 1
    images = [tuple(round(value) for value in image.get_extent()) for image in figure.axes[0].images]
    assert len(images) == 4
    for frame, index in zip(drawn[2:], (0, 2), strict=True):
        left, right, bottom, top = images[1 + index]
        assert frame.get_bbox().bounds == pytest.approx((left, top, right - left, bottom - top))
    assert "Some candidates" in words(figure) and "cat.jpg" in words(figure)


def test_crops_are_drawn_where_they_are() -> None:
    figure = plots.contact_sheet([panel(chosen=(0, 2))], SLOTS)
    left, right, bottom, top = figure.axes[0].images[0].get_extent()
    scale = (right - left) / 60
    assert (bottom - top) / 40 == pytest.approx(scale)
    crop = frames(figure, plots.ACCENT)[1].get_bbox()  # of candidate 2: top 4, left 2, height 10, width 12
    assert crop.bounds == pytest.approx((left + 2 * scale, top + 4 * scale, 12 * scale, 10 * scale))


def test_words_under_each_candidate() -> None:
    table = torch.tensor([[0.0, 1.25, 0.5], [1.25, 0.0, 3.0], [0.5, 3.0, 0.0]])
    iou = torch.tensor([[1.0, 0.2, 0.6], [0.2, 1.0, 0.4], [0.6, 0.4, 1.0]])
    said = words(plots.contact_sheet([panel(table=table, iou=iou, chosen=(1, 2))], SLOTS))
    assert said.count("loss 3.00   IoU 0.40") == 2 and "loss 1.25   IoU 0.20" in said
    assert [word for word in said if word.startswith("with")] == ["with B", "with C", "with B"]
    without = words(plots.contact_sheet([panel(table=None, iou=iou)], SLOTS))
    assert [word for word in without if word.startswith("IoU")] == ["IoU 0.20", "IoU 0.20", "IoU 0.40"]
    bare = words(plots.contact_sheet([panel(table=None, iou=None, boxes=None)], SLOTS))
    assert not any(word.startswith(("IoU", "loss", "with")) for word in bare)


def test_partner_is_one_that_could_be_kept_too() -> None:
    table = torch.rand(12, 12)
    table[4:, 4:] = 100.0  # two local views, which have no loss of their own
    table[0, 1] = table[1, 0] = 100.0  # two candidates of one slot that keeps one
    crowd = panel(12, table=table, chosen=(1, 2, 4, 5, 6, 7))
    for index in range(12):
        other = plots.partner(crowd, index, MULTI_CROP)
        assert other is not None and table[index, other] < 100
    assert plots.partner(crowd, 1, MULTI_CROP) == 2 and plots.partner(crowd, 2, MULTI_CROP) == 1
    assert plots.partner(crowd, 4, MULTI_CROP) in (1, 2)
    nan = torch.tensor([[0.0, float("nan"), -1.0], [float("nan"), 0.0, 1.0], [-1.0, 1.0, 0.0]])
    assert plots.partner(panel(table=nan), 0, SLOTS) == 2
    assert plots.partner(panel(1), 0, (ViewSlot(None, 1, 1),)) is None


def test_multi_crop_sheet_names_slots_and_colours_local_views() -> None:
    figure = plots.contact_sheet([panel(12, chosen=(1, 2, 4, 5, 6, 7))] * 2, MULTI_CROP)
    assert {"global-1", "global-2", "local", "A", "L"} < set(words(figure))
    assert len(frames(figure, plots.ACCENT)) == 2 * 4 and len(frames(figure, plots.LOCAL)) == 2 * 8
    assert not frames(figure, "white")  # with so many only the chosen crops are drawn on the photograph


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_sheet_renders_any_number_of_channels(channels: int) -> None:
    figure = plots.contact_sheet([panel(channels=channels, chosen=(0, 1))], SLOTS)
    figure.set_dpi(50)
    figure.canvas.draw()
    assert figure.axes[0].images[0].get_array().shape == (40, 60, 3)


def test_sheet_refuses_other_candidates() -> None:
    with pytest.raises(HVSError, match=r"contact_sheet\(shown\): expected 3 candidates, as the slots say, got 4 in cat\.jpg"):
        plots.contact_sheet([panel(4)], SLOTS)
    with pytest.raises(HVSError, match="expected at least one panel, got none"):
        plots.contact_sheet([], SLOTS)


def test_panels_hold_each_images_candidates_without_normalisation() -> None:
    views = CandidateViews.preset("simsiam", size=24, candidates=3)
    batch = ImageBatch(torch.randint(0, 256, (2, 3, 40, 50), dtype=torch.uint8), torch.tensor([[40, 50], [30, 20]]))
    params = views.make_params(batch, torch.Generator().manual_seed(0))
    plain = CandidateViews(replace(views.slots[0], recipe=views.slots[0].recipe.without(Normalize)))
    (expected,) = plain.transform(batch, params)
    made = plots.panels(batch, views, params, torch.rand(3, 3, 2), torch.tensor([[0, 1], [2, 2]]), ["a", "b"])
    for image, one in enumerate(made):
        torch.testing.assert_close(torch.stack(list(one.views)), expected[:, image], atol=1e-5, rtol=0)
        assert torch.equal(one.boxes, params.boxes[:, image]) and torch.equal(one.iou, params.iou()[..., image])
    assert made[1].source.shape == (3, 30, 20) and torch.equal(made[1].source, batch.pixels[1, :, :30, :20])
    assert [one.chosen for one in made] == [(0, 2), (1, 2)] and [one.name for one in made] == ["a", "b"]
    with pytest.raises(HVSError, match=r"panels\(names\): expected 2 names"):
        plots.panels(batch, views, params, names=["a"])


def test_panels_without_crops_show_none() -> None:
    views = CandidateViews.preset("simclr", size=24, candidates=2)
    images = torch.zeros(1, 3, 30, 30, dtype=torch.uint8)
    uncropped = replace(views.make_params(images), uncropped=(0,))
    (one,) = plots.panels(images, views, uncropped)
    assert one.boxes is None and one.iou is None and one.name == "image 1"


def test_tags_do_not_cover_each_other() -> None:
    taken: list[tuple[float, float]] = []
    places = [plots._free_place(5.0, 5.0, taken) for _ in range(3)]
    assert [left for left, _ in places] == sorted({left for left, _ in places})
    assert all(second[0] - first[0] >= plots.TAG for first, second in itertools.pairwise(places))


def test_labels() -> None:
    assert plots.labels(3) == ["A", "B", "C"] and plots.labels(27)[-1] == "27"


def test_curves_draw_every_run_and_average_long_ones() -> None:
    steps = list(range(500))
    noisy = [float(step % 2) for step in steps]
    gap = [1.0, float("nan"), 3.0]
    figure = plots.curves(
        {"loss": {"random": (steps, noisy), "hard": (steps, noisy)}, "IoU": {"hard": ([1, 2, 3], gap)}}, xlabel="step"
    )
    loss, iou = figure.axes
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["loss", "IoU"] and loss.get_xlabel() == "step"
    assert len(loss.lines) == 4 and len(iou.lines) == 1
    averaged = loss.lines[1]
    assert len(averaged.get_xdata()) == 491 and np.allclose(averaged.get_ydata(), 0.5)
    assert np.isnan(iou.lines[0].get_ydata()).tolist() == [False, True, False]
    assert iou.lines[0].get_color() == loss.lines[3].get_color() != loss.lines[1].get_color()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["random", "hard"]


def test_curves_refuse_what_does_not_fit() -> None:
    with pytest.raises(HVSError, match=r"expected as many values as steps for loss of hard, got 1 for 2"):
        plots.curves({"loss": {"hard": ([1, 2], [0.5])}})
    with pytest.raises(HVSError, match="expected at least one metric, got none"):
        plots.curves({})


def test_bars_show_medians_and_their_spread() -> None:
    rows = [
        {"workload": workload, "contestant": name, "median": seconds, "iqr": 0.02, "repeats": 3}
        for workload in ("simclr", "dino")
        for name, seconds in (("ours", 0.1), ("theirs", 0.4))
    ]
    figure = plots.bars({"benchmark": "augmentation", "rows": [*rows, {"workload": "other", "contestant": "x", "views": 3}]})
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["simclr", "dino"]
    assert [bar.get_width() for bar in figure.axes[0].patches] == [0.1, 0.4]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["ours", "theirs"]
    whisker = figure.axes[0].collections[0].get_segments()[1]
    assert whisker[:, 0].tolist() == pytest.approx([0.39, 0.41])
    with pytest.raises(HVSError, match=r"bars\(document\): expected rows with contestant and speed, got none among 4"):
        plots.bars({"rows": rows}, value="speed")


def test_drawing_leaves_matplotlib_as_it_was() -> None:
    with matplotlib.rc_context({"axes.grid": False, "axes.titlelocation": "center"}):
        before = dict(matplotlib.rcParams)
        plots.curves({"loss": {"hard": ([1, 2], [0.5, 0.2])}})
        assert dict(matplotlib.rcParams) == before
