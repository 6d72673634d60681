"""The methods by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from .._check import require, require_name
from ..views.candidates import CandidateViews
from ..views.convert import convert, with_candidates
from ..views.target import load_transform
from .methods import BYOL, Method, SimCLR, SimSiam
from .networks import VisionTransformer, build_encoder
from .self_distillation import DINO, IBOT

__all__ = ["METHODS", "build_method", "encoder_of", "transform_size", "use_transform"]

METHODS: dict[str, type[Method]] = {"simclr": SimCLR, "simsiam": SimSiam, "byol": BYOL, "dino": DINO, "ibot": IBOT}


def build_method(name: str, size: int, encoder: str | None = None, seed: int = 0, **options: Any) -> Method:
    """Build a method with networks for views of that many pixels; its first weights depend on the seed alone.

    ``options`` go to its constructor: ``temperature`` of SimCLR, ``momentum`` of BYOL.

    Raises: HVSError for an unknown method or encoder, with the closest one that is known, or an encoder that the method cannot use.

    Example:
        >>> build_method("simclr", size=32).encode(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 64])
    """
    require_name(name, METHODS, "build_method(name)")
    kind = METHODS[name]
    encoder = encoder if encoder is not None else kind.default_encoders[size >= 64]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_encoder(encoder, size)
        if issubclass(kind, DINO) and isinstance(network, VisionTransformer):
            side = min(pixels for slot in kind.views(size).slots for pixels in slot.recipe.shape)
            expected = f"a transformer whose patch divides {side} pixels, the side of {name}'s local views"
            require(side % network.patch == 0, "build_encoder(name)", expected, f"{encoder!r} with {network.patch}")
        return kind(network, **options)


def encoder_of(method: Method) -> Any:
    """The network below the heads that is trained."""
    return method.student.encoder if isinstance(method, DINO) else method.encoder


def use_transform(method: Method, name: str, target: str) -> None:
    """Make views by a transform of the user's, ``module:object``, in the place of the method's augmentation.

    Raises: HVSError if it cannot be imported or converted (:func:`hvs_aug.convert`), or its views are not those that the method
        trains on: two global ones, and local ones for DINO and iBOT alone.
    """
    slots = convert(load_transform(target, "--transform"))
    counts = {role: sum(slot.select for slot in slots if slot.role == role) for role in ("global", "local")}
    takes_locals = isinstance(method, DINO)
    expected = f"a transform of two global views{' and any number of local ones' if takes_locals else ''}, for {name}"
    got = f"{counts['global']} global and {counts['local']} local views"
    require(counts["global"] == 2 and (takes_locals or counts["local"] == 0), "--transform", expected, got)
    patch = getattr(encoder_of(method), "patch", 1)
    for slot in slots:
        fits = all(side % patch == 0 for side in slot.recipe.shape)
        require(fits, "--transform", f"views of whole patches of {patch} pixels", f"{slot.name} of {slot.recipe.size}")

    def views(size: int, candidates: int | None = None) -> CandidateViews:
        if candidates == method.fewest:
            return CandidateViews([replace(slot, candidates=slot.select) for slot in slots])
        return CandidateViews(with_candidates(slots, candidates))

    method.views = views  # type: ignore[method-assign]


def transform_size(target: str) -> int:
    """The pixels of the largest view of a transform."""
    sides: list[int] = [side for slot in convert(load_transform(target, "--transform")) for side in slot.recipe.shape]
    return max(sides)
