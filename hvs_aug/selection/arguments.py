"""What HardPairSampler accepts: its arguments, checked before any work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from .._check import fail, require
from ..views.candidates import CandidateViews
from ..views.recipe import ViewSlot
from .losses import PairLoss

__all__ = ["fitting_teacher", "name_of", "require_device", "require_dtype", "views_and_slots"]


def fitting_teacher(teacher: Callable[..., Any] | None, loss: PairLoss) -> Callable[..., Any] | None:
    """Return the teacher. A loss that compares with a teacher needs one, and any other loss refuses one."""
    call, name = "HardPairSampler(teacher)", type(loss).__name__
    if teacher is None:
        if loss.needs_teacher:
            hint = "pass teacher=, the same callable that the training step uses."
            fail(call, f"the teacher that {name} compares with", "None", hint)
        return None
    require(callable(teacher), call, "a callable", teacher)
    if not (loss.needs_teacher or loss.accepts_teacher):
        hint = "leave out teacher=. A loss of your own sets accepts_teacher = True, or is CallableLoss(function, teacher=True)."
        fail(call, f"no teacher, since {name} does not look at one", name_of(teacher), hint)
    return teacher


def views_and_slots(views: object) -> tuple[CandidateViews | None, tuple[ViewSlot, ...]]:
    """The renderer, if the slots have recipes, and the slots."""
    if isinstance(views, CandidateViews):
        return views, tuple(views.slots)
    slots = (views,) if isinstance(views, ViewSlot) else views
    if not isinstance(slots, (list, tuple)) or not slots or not all(isinstance(slot, ViewSlot) for slot in slots):
        hint = 'CandidateViews.preset("simclr", size=224, candidates=4); hvs_aug.convert(transform) makes slots of a transform.'
        fail("HardPairSampler(views)", "a CandidateViews, or one or several ViewSlots", views, hint)
    slots = tuple(slots)
    return (None if any(slot.recipe is None for slot in slots) else CandidateViews(slots)), slots


def require_device(name: str, roots: Sequence[nn.Module], device: torch.device) -> None:
    places = {weight.device for root in roots if (weight := next(root.parameters(), None)) is not None}
    if places and device not in places:
        fail(
            f"HardPairSampler({name})",
            f"a {name} on {device}, where the images are",
            f"one on {', '.join(sorted(map(str, places)))}",
            "move the images or the model with .to(device).",
        )


def require_dtype(device: torch.device, dtype: torch.dtype | None) -> None:
    if dtype in (None, torch.float32):
        return
    available = torch.amp.is_autocast_available(device.type)
    if available and device.type == "cuda" and dtype == torch.bfloat16 and torch.cuda.is_available():
        available = torch.cuda.is_bf16_supported()
    require(available, "Scoring(dtype)", f"a dtype that {device.type} autocasts to", str(dtype), "use torch.float32.")


def name_of(value: object) -> str:
    """A module by its class, a function by its name, anything else as it shows itself."""
    if isinstance(value, nn.Module):
        return type(value).__name__
    return getattr(value, "__qualname__", None) or repr(value)
