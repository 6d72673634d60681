"""The views whose crops overlap least."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..._check import fail
from .. import search
from ..losses.pair import without_local_pairs
from .policy import BuiltIn, Call, Policy

__all__ = ["min_iou"]


@dataclass(frozen=True, repr=False)
class _MinIoU(BuiltIn):
    maker: ClassVar[str] = "min_iou"

    @property
    def needs_table(self) -> bool:
        return False

    def pick(self, call: Call) -> Tensor:
        if call.params is None:
            fail("min_iou(params)", "the params of the candidates", "None", "render the candidates with CandidateViews.")
        overlap = without_local_pairs(call.params.iou(), call.slots)
        overlap.diagonal().zero_()  # of a view with itself
        return search.exact(-overlap, call.slots).to(call.target[1], non_blocking=True)


def min_iou() -> Policy:
    """Keep the views whose crops overlap least, without running the model. This is the paper's baseline.

    The sum of the IoU over all kept pairs is smallest. Pairs of two local views do not count, as in the losses.
    Source: arXiv 2310.03940, the ablation of IoU-based selection.
    """
    return _MinIoU()
