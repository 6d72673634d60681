"""The preset "cheap": hard views where a step may cost at most a tenth more than one on random views."""

from __future__ import annotations

from typing import Any

__all__ = ["CHEAP"]

CHEAP: dict[str, Any] = {"every": 8, "predict": 32, "score_scale": 0.5}
"""Options of HardPairSampler: ``HardPairSampler(model, loss, views, **CHEAP)``.

The model scores on every 8th step, at half the side. Between, 32 candidates are drawn for each view that is kept, none of them is
run through the model, and the pair is chosen whose recorded parameters predict the highest loss. What that costs and keeps is
measured by ``python -m benchmarks.forward_overhead``, and on your own machine by ``hvs-aug benchmark``.
"""
