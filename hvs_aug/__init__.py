"""Hard View Selection (arXiv 2310.03940) as a drop-in augmentation stage."""

from ._check import HVSError
from .data.batch import ImageBatch
from .views.candidates import CandidateViews
from .views.params import ViewParams
from .views.recipe import ViewRecipe, ViewSlot

__all__ = ["CandidateViews", "HVSError", "ImageBatch", "ViewParams", "ViewRecipe", "ViewSlot"]

__version__ = "0.1.0"
