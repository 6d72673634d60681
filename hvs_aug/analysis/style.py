"""The look of all figures: colours for a light and for a dark page, one colour for ours, numbers as a reader writes them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec

from .._check import fail

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["DARK", "LIGHT", "Theme", "canvas", "color_of", "figure_class", "readable_number", "styled", "thousands"]

P = ParamSpec("P")


@dataclass(frozen=True)
class Theme:
    """The colours of a page: ``ours`` is what this library does or chose, ``local`` a local view, the rest is in ``series``."""

    paper: str
    ink: str
    muted: str
    faint: str
    grid: str
    bar: str
    ours: str
    local: str
    series: tuple[str, ...]


LIGHT = Theme(
    paper="#ffffff",
    ink="#1f2430",
    muted="#5c6370",
    faint="#d8dbe2",
    grid="#eceef2",
    bar="#aeb4c0",
    ours="#e8590c",
    local="#1c7ed6",
    series=("#1c7ed6", "#2f9e44", "#9c36b5", "#0c8599", "#c2255c"),
)
DARK = Theme(
    paper="#1b1e24",
    ink="#e6e8ec",
    muted="#a0a7b4",
    faint="#3a3f4a",
    grid="#2a2e37",
    bar="#5f6672",
    ours="#ff8a3d",
    local="#4dabf7",
    series=("#4dabf7", "#69db7c", "#da77f2", "#3bc9db", "#f783ac"),
)


def color_of(name: str, theme: Theme) -> str | None:
    """The colour of what a chart names: one for ours, one for random views; ``None`` for anything else.

    Example:
        >>> color_of("hard views", LIGHT) == color_of("hvs_aug, from JPEG", LIGHT) == LIGHT.ours
        True
    """
    if name.startswith(("ours", "hvs", "hard")):
        return theme.ours
    return theme.muted if name.startswith("random") else None


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in the style of this module, whatever the user's; matplotlib looks it up as each part is made."""

    @functools.wraps(draw)
    def in_style(*arguments: P.args, **options: P.kwargs) -> Figure:
        figure_class()
        from matplotlib import rc_context

        theme: Any = options.get("theme", LIGHT)
        with rc_context(_settings(theme)):
            return draw(*arguments, **options)

    return in_style


def _settings(theme: Theme) -> Any:
    return {
        "font.size": 9,
        "text.color": theme.ink,
        "axes.facecolor": theme.paper,
        "axes.edgecolor": theme.faint,
        "axes.labelcolor": theme.muted,
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "figure.facecolor": theme.paper,
        "grid.color": theme.grid,
        "xtick.color": theme.muted,
        "ytick.color": theme.muted,
        "legend.frameon": False,
    }


def thousands(axes: Axes, *names: str) -> None:
    """Write the numbers of these axes ("x", "y") with separators and without exponents: 20,000 and 0.00005."""
    from matplotlib.ticker import FuncFormatter

    def written(value: float, _: int | None) -> str:
        return f"{value:,.9f}".rstrip("0").rstrip(".") if abs(value) < 1e12 else f"{value:.3g}"

    for name in names:
        getattr(axes, f"{name}axis").set_major_formatter(FuncFormatter(written))


def readable_number(value: float) -> str:
    """A number to three digits, as a reader expects it.

    Example:
        >>> readable_number(1090.4), readable_number(80.13), readable_number(0.0123)
        ('1,090', '80.1', '0.0123')
    """
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def canvas(width: float, height: float, theme: Theme) -> tuple[Figure, Axes]:
    """A figure of one Axes in pixels, with the origin at the top left. 100 units are an inch, so fonts are as elsewhere."""
    figure = figure_class()(figsize=(width / 100, height / 100), dpi=150, facecolor=theme.paper)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_autoscale_on(False)
    axes.set(xlim=(0, width), ylim=(height, 0))
    return figure, axes


def figure_class() -> type[Figure]:
    """matplotlib's Figure, or an error that says how to install it."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        fail("hvs_aug.analysis", "matplotlib, for its figures", "no such package", "pip install 'hvs-aug[demo]'")
    return Figure
