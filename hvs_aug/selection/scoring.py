"""Scoring: the settings of how candidates are scored."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .._check import fail, require

__all__ = ["CHEAP", "Scoring"]


@dataclass(frozen=True)
class Scoring:
    """How the model scores the candidates. ``hvs-aug benchmark`` measures what each setting costs.

    Args:
        scale: render the candidates for scoring at this fraction of the side, in (0, 1]; winners are rendered in full. For a vision
            transformer the side is rounded to whole patches.
        dtype: of the scoring forward: bfloat16, float16, or float32 for full precision; ``None`` follows the caller's autocast.
        chunk: at most this many images in one forward; ``None`` for all of one resolution.
        channels_last: pass the candidates in channels-last memory format.
        every: score on every k-th call only; the other calls return the first candidates, which are random views.
        restore_buffers: put buffers back after scoring; ``False`` lets scoring update BatchNorm statistics, as the published code
            does.
        wait: where all processes have to score at the same steps (negatives that are gathered, weights that FSDP2 shards), after
            how many seconds a process that does not come is an error in the others.

    Raises:
        HVSError: if a value is out of range.

    Example:
        >>> from dataclasses import replace
        >>> replace(CHEAP, every=2).scale
        0.5
    """

    scale: float = 1.0
    dtype: torch.dtype | None = None
    chunk: int | None = None
    channels_last: bool = False
    every: int = 1
    restore_buffers: bool = True
    wait: float = 45.0

    def __post_init__(self) -> None:
        is_number = isinstance(self.scale, (int, float)) and not isinstance(self.scale, bool)
        require(is_number and 0 < self.scale <= 1, "Scoring(scale)", "a number in (0, 1]", self.scale)
        if self.dtype not in (None, torch.float32, torch.bfloat16, torch.float16):
            fail("Scoring(dtype)", "torch.bfloat16, torch.float16, torch.float32 or None", self.dtype)
        for name in ("chunk", "every"):
            value = getattr(self, name)
            is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
            optional = name == "chunk" and value is None
            require(is_count or optional, f"Scoring({name})", f"an integer of at least 1{' or None' * (name == 'chunk')}", value)
        is_time = isinstance(self.wait, (int, float)) and not isinstance(self.wait, bool) and 0 < self.wait < float("inf")
        require(is_time, "Scoring(wait)", "a number of seconds above 0", self.wait)
        for name in ("channels_last", "restore_buffers"):
            require(isinstance(getattr(self, name), bool), f"Scoring({name})", "True or False", getattr(self, name))


CHEAP = Scoring(scale=0.5, dtype=torch.bfloat16, channels_last=True)
"""Hard views that cost little more than random ones: scored at half the side in bfloat16, rendered in full.

``benchmarks/README.md`` has what it costs and how hard its choices are; ``hvs-aug benchmark`` measures it on your machine. A
vision transformer must accept images of another size (timm: ``dynamic_img_size=True``).
"""
