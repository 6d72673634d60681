"""Numbers, plots and a report of what was chosen: how hard it is, and how much it overlaps."""

from __future__ import annotations

from .metrics import (
    SelectionMeter,
    chance,
    color_distance,
    crop_scale,
    expected_loss,
    hardness_captured,
    mean_over_pairs,
    spread,
)
from .plots import bars, curves
from .report import Report, inspect
from .sheet import Panel, contact_sheet, panels

__all__ = [
    "Panel",
    "Report",
    "SelectionMeter",
    "bars",
    "chance",
    "color_distance",
    "contact_sheet",
    "crop_scale",
    "curves",
    "expected_loss",
    "hardness_captured",
    "inspect",
    "mean_over_pairs",
    "panels",
    "spread",
]
