"""The losses that make a pair of views hard, each as one table over all pairs of candidates."""

from __future__ import annotations

from .contrastive import CallableLoss, NegativeCosineLoss, NTXentLoss
from .distillation import DINOLoss, IBOTLoss
from .moco import MoCoLoss
from .pair import Output, PairLoss, SlotOutputs
from .swav import SwAVLoss
from .vicreg import VICRegLoss

__all__ = [
    "CallableLoss",
    "DINOLoss",
    "IBOTLoss",
    "MoCoLoss",
    "NTXentLoss",
    "NegativeCosineLoss",
    "Output",
    "PairLoss",
    "SlotOutputs",
    "SwAVLoss",
    "VICRegLoss",
]
