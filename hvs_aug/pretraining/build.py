"""The methods by name."""

from __future__ import annotations

from typing import Any

import torch

from .._check import require, require_name
from .methods import BYOL, Method, SimCLR, SimSiam
from .networks import VisionTransformer, build_encoder, patch_of
from .self_distillation import DINO, IBOT

__all__ = ["METHODS", "build_method"]

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
            expected = f"a transformer whose patch divides {patch_of(size)} pixels, to which {name} rounds its local views"
            require(patch_of(size) % network.patch == 0, "build_encoder(name)", expected, f"{encoder!r} with {network.patch}")
        return kind(network, **options)
