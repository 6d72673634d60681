"""Hard View Selection (arXiv 2310.03940) as a drop-in augmentation stage: draw many views, train on the pair that is hardest.

>>> import torch, hvs_aug
>>> views = hvs_aug.CandidateViews.preset("simclr", size=32, candidates=4)
>>> encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 16))
>>> sampler = hvs_aug.HardPairSampler(model=encoder, loss=hvs_aug.NTXentLoss(temperature=0.1), views=views)
>>> images = torch.randint(0, 256, (8, 3, 40, 48), dtype=torch.uint8)  # raw, as hvs_aug.collate_images collates them
>>> first, second = sampler(images).views
>>> first.shape
torch.Size([8, 3, 32, 32])
"""

from ._check import HVSError
from .data import ImageBatch, RawImages, collate_images
from .dropin.loader import HardViewLoader
from .dropin.wrap import wrap
from .selection import policies
from .selection.losses import (
    CallableLoss,
    DINOLoss,
    IBOTLoss,
    MoCoLoss,
    NegativeCosineLoss,
    NTXentLoss,
    PairLoss,
    SwAVLoss,
    VICRegLoss,
)
from .selection.reuse import reuse
from .selection.sampler import HardPairSampler, HardViews
from .selection.scoring import CHEAP, Scoring
from .views.candidates import CandidateViews
from .views.convert import convert, register_converter
from .views.params import ViewParams
from .views.recipe import ViewRecipe, ViewSlot

__all__ = [
    "CHEAP",
    "CallableLoss",
    "CandidateViews",
    "DINOLoss",
    "HVSError",
    "HardPairSampler",
    "HardViewLoader",
    "HardViews",
    "IBOTLoss",
    "ImageBatch",
    "MoCoLoss",
    "NTXentLoss",
    "NegativeCosineLoss",
    "PairLoss",
    "RawImages",
    "Scoring",
    "SwAVLoss",
    "VICRegLoss",
    "ViewParams",
    "ViewRecipe",
    "ViewSlot",
    "collate_images",
    "convert",
    "policies",
    "register_converter",
    "reuse",
    "wrap",
]

__version__ = "0.1.0"
