"""Sinkhorn and Knopp's algorithm: assignments of a batch to prototypes, by which SwAV, DINOv2 and DINOv3 make their targets."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from ..._processes import world_size

__all__ = ["log_assignments"]


def log_assignments(scores: Tensor, epsilon: float, iterations: int, gather: bool) -> Tensor:
    """The logarithm of the assignment of every row: a distribution over prototypes, each of which has an equal share of the rows.

    In logarithms, so that nothing overflows. Each iteration divides by the sums over the rows, then by those over the prototypes;
    the factors 1/K and 1/B of the algorithm cancel. A row that is not finite has no share, and is -inf.

    Shape: (..., rows, K) -> (..., rows, K) float32.
    Source: SwAV, arXiv 2006.09882, equations 3 to 5.

    Args:
        gather: sum over the rows of all processes, one exchange of 4 (...) K bytes for each iteration.
    """
    present = scores.isfinite().all(-1, keepdim=True)
    weights = torch.where(present, scores.float() / epsilon, -torch.inf)
    for _ in range(iterations):
        sums = weights.logsumexp(-2, keepdim=True)
        if gather and world_size() > 1:
            others = [torch.empty_like(sums) for _ in range(world_size())]
            dist.all_gather(others, sums)
            sums = torch.stack(others).logsumexp(0)
        weights = weights - sums
        weights = torch.where(present, weights - weights.logsumexp(-1, keepdim=True), -torch.inf)
    return weights
