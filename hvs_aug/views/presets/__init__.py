"""The methods' own augmentations, as data: a file for each, every number with the line that it comes from.

Where the code of HVS (github.com/automl/hvp) differs from the method that it extends, the method's own repo is followed: its
SimSiam branch blurs with probability 1 - p (custom_transform.py), with torchvision's 9-tap kernel instead of PIL's.

PIL's ``ImageFilter.GaussianBlur(radius)``, which most of the repos use, approximates a Gaussian of that standard deviation by three
box filters. Here it is the Gaussian itself, with the 23 taps that hold it at the largest sigma of 2. PIL's ``ImageOps.solarize``
inverts gray levels from 128 on, which are the rounded values of 0.5 and above.
"""

from __future__ import annotations

from typing import Protocol

from ..._check import require_name
from ..recipe import ViewSlot
from . import byol, dino, ibot, mocov3, simclr, simclr_sthalles, simsiam

__all__ = ["PRESETS", "preset_slots"]


class Preset(Protocol):
    """The slots for a size and a number of candidates, which has a default."""

    def __call__(self, size: int, candidates: int = ...) -> tuple[ViewSlot, ...]: ...


# Candidates drawn where none are asked for are as in HVS (arXiv 2310.03940): 4 views for two-view methods, and for DINO and iBOT
# twice the views of each slot.
PRESETS: dict[str, Preset] = {
    "simclr": simclr.slots,
    "simclr-sthalles": simclr_sthalles.slots,
    "simsiam": simsiam.slots,
    "byol": byol.slots,
    "mocov3": mocov3.slots,
    "dino": dino.slots,
    "ibot": ibot.slots,
}
"""The slots of each method, by its name, for a size and a number of candidates."""


def preset_slots(name: str, size: int = 224, candidates: int | None = None) -> tuple[ViewSlot, ...]:
    """The slots of a method's own augmentation.

    Args:
        name: one of ``PRESETS``.
        size: pixels of the (global) views. Below 64 it is the method's variant for CIFAR-sized data.
        candidates: for two-view methods the number of candidate views of each image, of which two are kept; for ``dino`` and
            ``ibot`` how many candidates are drawn for every view that is kept. Default 4, and 2.

    Raises:
        HVSError: for an unknown name, with the closest one that is known.
    """
    require_name(name, PRESETS, "CandidateViews.preset(name)")
    return PRESETS[name](size) if candidates is None else PRESETS[name](size, candidates)
