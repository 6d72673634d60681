"""The preset "cheap": how to score where a step may cost about a tenth more than one on random views."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["cheap"]


def cheap(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Options of HardPairSampler that keep most of the hardness for little time, on this device.

    Candidates are scored at 0.4 of the side, in channels-last memory, and in bfloat16 where the device computes with it. What that
    costs and keeps is measured by ``python -m benchmarks.forward_overhead``, and on your own machine by ``hvs-aug benchmark``.

    Example:
        >>> cheap()["score_scale"]
        0.4
    """
    options: dict[str, Any] = {"score_scale": 0.4, "channels_last": True}
    return options | {"autocast": torch.bfloat16} if _computes_in_bfloat16(torch.device(device)) else options


def _computes_in_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    # Elsewhere a CPU has to take the detour over float32, which is slower than staying there. Older releases do not tell.
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(known.get("amx_bf16") or known.get("avx512_bf16"))
