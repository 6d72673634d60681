"""Charts show what they are given: lines, bars and numbers are looked up in what was drawn."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from hvs_aug import HVSError
from hvs_aug.analysis import plots
from hvs_aug.analysis.style import DARK, LIGHT


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


def test_numbers_have_separators_and_ours_one_colour() -> None:
    rows = [{"contestant": name, "workload": "", "views a second": rate} for name, rate in (("hvs_aug", 20500.0), ("PIL", 90.0))]
    figure = plots.bars({"rows": rows}, value="views a second")
    assert "  20,500" in [text.get_text() for text in figure.axes[0].texts]
    assert figure.axes[0].xaxis.get_major_formatter()(20000.0, 0) == "20,000"
    assert figure.axes[0].xaxis.get_major_formatter()(0.00005, 0) == "0.00005"
    assert [bar.get_facecolor()[:3] for bar in figure.axes[0].patches] == [to_rgb(LIGHT.ours), to_rgb(LIGHT.bar)]
    for theme in (LIGHT, DARK):
        curves = plots.curves({"loss": {"random views": ([1, 2], [3, 4]), "hard views": ([1, 2], [3, 4])}}, theme=theme)
        assert [line.get_color() for line in curves.axes[0].lines] == [theme.muted, theme.ours]
        assert curves.get_facecolor()[:3] == to_rgb(theme.paper)


def test_hardness_and_cost_has_two_panels_for_each_workload() -> None:
    rows = [
        {"workload": "a", "setting": "cheap", "ratio": 1.1, "captured": 0.9},
        {"workload": "a", "setting": "random views", "ratio": 1.0, "captured": 0.0},
        {"workload": "a", "setting": "published", "ratio": 9.0, "captured": 1.0},
        {"workload": "b", "setting": "cheap", "ratio": 1.2, "captured": 0.8},
    ]
    figure = plots.hardness_and_cost(rows, {"a": "SimCLR"})
    assert len(figure.axes) == 4 and figure.axes[0].get_title(loc="left") == "SimCLR"
    assert [text.get_text() for text in figure.axes[0].texts] == ["+0 %", "+10 %", "+800 % →"]  # cheapest first
    assert [text.get_text() for text in figure.axes[1].texts] == ["0 %", "90 %", "100 %"]
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    assert widths == pytest.approx([0.0, 10.0, 13.0])  # the longest is cut, so that the others can be told apart
    with pytest.raises(HVSError, match="expected at least one row"):
        plots.hardness_and_cost([])


def test_histogram_shows_shares_and_chance() -> None:
    figure = plots.histogram({"A": 0.75, "B": 0.25}, "Choice", "candidate", expected=0.5)
    assert [bar.get_height() for bar in figure.axes[0].patches] == [75, 25]
    assert figure.axes[0].lines[0].get_ydata() == [50, 50]
