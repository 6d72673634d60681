"""The pictures with which a transform is tried out: of the kind of the example."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from hvs_aug.views import trace
from hvs_aug.views.trace import probe_like


@pytest.mark.parametrize("channels", [None, 1, 3, 4])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_a_probe_is_of_the_kind_of_the_example(kind: str, dtype: str, channels: int | None) -> None:
    planes = () if channels is None else (channels,)
    example: Any = np.zeros((5, 7, *planes), dtype) if kind == "numpy" else torch.zeros(*planes, 5, 7, dtype=getattr(torch, dtype))
    probe = probe_like(example)
    assert type(probe) is type(example) and probe.dtype == example.dtype and probe.ndim == example.ndim
    assert channels is None or probe.shape[-1 if kind == "numpy" else 0] == channels
    assert 0 <= probe.min() < probe.max() <= (255 if dtype == "uint8" else 1)


def test_a_probe_fills_the_range_of_levels_and_is_not_clipped() -> None:
    pixels = trace._picture(100, 120, 3)
    assert pixels.shape == (3, 100, 120)
    assert all(115 < plane.mean() < 140 and plane.std() > 50 for plane in pixels)
    assert np.isin(pixels, (0, 255)).mean() < 0.02
