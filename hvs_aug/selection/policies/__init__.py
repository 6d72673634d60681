"""Policies: which views to train on, given the table of losses. Each has a file of its own.

A policy is a function of the table that returns indices. An example of your own:

    def second_hardest(table, slots, *, params, step, generator):
        losses = search.combination_losses(table, combinations := search.anchor_combinations(slots))
        return combinations.to(table.device)[losses.topk(2, dim=0).indices[1]].t()
"""

from .choice import choose, needs_table, searches_exactly
from .easiest import easiest
from .hardest import hardest
from .min_iou import min_iou
from .mixture import mixture
from .policy import Policy
from .random import random
from .schedule import schedule, warmup
from .semi_hard import semi_hard
from .softmax import softmax

__all__ = [
    "Policy",
    "choose",
    "easiest",
    "hardest",
    "min_iou",
    "mixture",
    "needs_table",
    "random",
    "schedule",
    "searches_exactly",
    "semi_hard",
    "softmax",
    "warmup",
]
