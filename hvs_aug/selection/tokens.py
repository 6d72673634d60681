"""Scoring with a fraction of a vision transformer's patch tokens."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from .._check import fail, require

__all__ = ["TokenKeep", "patch_side"]

_CALL = "HardPairSampler(token_keep)"


class TokenKeep:
    """Drop patch tokens before the first block of every vision transformer inside a model, while :meth:`dropping` is open.

    A vision transformer is a module with ``patch_embed``, a sequence of ``blocks`` and an absolute ``pos_embed``: timm's
    VisionTransformer, and those of the DINO and iBOT repos. The class and register tokens stay. All candidates of an image keep
    the same tokens, so that the tokens that were dropped tell no candidate from another.

    Args:
        modules: the modules to look into.
        keep: fraction of the patch tokens that stays, in (0, 1]; at least one does.
        generator: draws the tokens, on the CPU.

    Raises:
        HVSError: if there is no such transformer, it has no absolute position embedding, or it is compiled (a hook added to a
            compiled model is not seen).
    """

    def __init__(self, modules: Iterable[nn.Module], keep: float, generator: torch.Generator | None = None) -> None:
        inner = list(dict.fromkeys(module for root in modules for module in root.modules()))
        if any(isinstance(module, torch._dynamo.eval_frame.OptimizedModule) for module in inner):
            hint = "pass model=compiled._orig_mod; it shares its weights."
            fail(_CALL, "a model that is not compiled", "a torch.compile'd one", hint)
        self.backbones = [module for module in inner if _is_transformer(module)]
        require(
            len(self.backbones) > 0,
            _CALL,
            "a model with a vision transformer (patch_embed, blocks, an absolute pos_embed)",
            f"none among {', '.join(sorted({type(module).__name__ for module in inner})[:8]) or 'no modules'}",
            "for a convolutional model use score_scale.",
        )
        self.keep = keep
        self.generator = generator
        self._batch = self._start = 0
        self._drawn: dict[tuple[int, torch.device], Tensor] = {}

    @contextmanager
    def dropping(self, batch: int) -> Iterator[None]:
        """Drop tokens in the forwards inside, the same for row r and row r + batch of an input."""
        self._batch = batch
        self._drawn.clear()
        hooks = [
            _first_block(backbone).register_forward_pre_hook(partial(self._drop, prefix=_prefix(backbone)))
            for backbone in self.backbones
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def begin(self, start: int, count: int) -> None:
        """Say which rows the next forward has; ``forward_slots`` calls this before each."""
        self._start = start

    def _drop(self, block: nn.Module, arguments: tuple[Tensor, ...], prefix: int) -> tuple[Tensor, ...]:
        """A forward pre-hook: take the kept tokens out of ``(n, prefix + patches, width)``."""
        tokens = arguments[0]
        patches = tokens[:, prefix:]
        rows = self.rows(patches.shape[1], len(patches), patches.device)
        kept = patches.gather(1, rows[..., None].expand(-1, -1, patches.shape[2]))
        return (torch.cat([tokens[:, :prefix], kept], dim=1), *arguments[1:])

    def rows(self, tokens: int, count: int, device: torch.device) -> Tensor:
        """The kept patch tokens of ``count`` images from the current start: ``(count, kept)`` int64, ascending."""
        drawn = self._drawn.get((tokens, device))
        if drawn is None:
            kept = max(1, math.floor(self.keep * tokens + 0.5))
            order = torch.rand(self._batch, tokens, generator=self.generator).argsort(1)
            drawn = order[:, :kept].sort(1).values.to(device, non_blocking=True)
            self._drawn[(tokens, device)] = drawn
        images = torch.arange(self._start, self._start + count, device=device) % self._batch
        return drawn[images]


def patch_side(modules: Iterable[nn.Module]) -> int | None:
    """The side in pixels of the patches of the first vision transformer inside modules, or ``None``."""
    for backbone in (module for root in modules for module in root.modules() if _is_transformer(module)):
        for layer in backbone.get_submodule("patch_embed").modules():
            if isinstance(layer, nn.Conv2d):
                return int(layer.stride[0])
    return None


def _prefix(backbone: nn.Module) -> int:
    """How many class and register tokens come first: timm says, the repos' networks have one."""
    count = getattr(backbone, "num_prefix_tokens", None)
    return 1 if count is None else int(count)


def _first_block(backbone: nn.Module) -> nn.Module:
    blocks = backbone.get_submodule("blocks")
    return next(iter(blocks.children()))


def _is_transformer(module: nn.Module) -> bool:
    blocks = getattr(module, "blocks", None)
    return (
        isinstance(getattr(module, "patch_embed", None), nn.Module)
        and isinstance(blocks, (nn.ModuleList, nn.Sequential))
        and len(blocks) > 0
        and isinstance(getattr(module, "pos_embed", None), Tensor)
        and getattr(module, "rope", None) is None
    )
