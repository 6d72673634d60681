"""The losses that make a pair of views hard, each as one table over all pairs of candidates."""

from __future__ import annotations

from .contrastive import CallableLoss, NegativeCosineLoss, NTXentLoss
from .distillation import DINOLoss, IBOTLoss
from .pair import Output, PairLoss, SlotOutputs

__all__ = ["CallableLoss", "DINOLoss", "IBOTLoss", "NTXentLoss", "NegativeCosineLoss", "Output", "PairLoss", "SlotOutputs"]
