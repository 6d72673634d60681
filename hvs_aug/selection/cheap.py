"""The preset "cheap": hard views that cost little more than random ones, and are still chosen by the model."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["CHEAP"]

CHEAP: dict[str, Any] = {"score_scale": 0.5, "autocast": torch.bfloat16, "channels_last": True}
"""Options of HardPairSampler: ``HardPairSampler(model, loss, views, **CHEAP)``.

The model scores the candidates at half the side in bfloat16, and the winners are rendered in full. What that costs and keeps is
measured by ``python -m benchmarks.forward_overhead``, and on your own machine by ``hvs-aug benchmark``. A vision transformer has to
take images of another size (timm: ``dynamic_img_size=True``).
"""
