"""Count what the batched schedule launches and moves, on fake CUDA tensors: no GPU is needed, and no kernel is run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hvs_aug import CandidateViews, ImageBatch, ViewSlot

__all__ = ["count_kernels"]


class Traffic(TorchDispatchMode):
    """Counts the operations that compute something, and the bytes of their operands and results."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels = 0
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
        if func.is_view or not any(tensor.device.type == "cuda" for tensor in tensors):
            return result
        self.kernels += 1
        self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return result


def count_kernels(slot: ViewSlot, images: int, height: int = 375, width: int = 500) -> dict[str, float]:
    """Kernels per batch and bytes per view of one slot's candidates, uncompiled.

    The least bytes are those of every source pixel read once, and every view written once.
    """
    views = CandidateViews(slot)
    sizes = torch.tensor([[height, width]]).expand(images, 2)
    pixels = torch.zeros(1, dtype=torch.uint8).expand(images, 3, height, width)
    params = views.make_params(ImageBatch(pixels, sizes), torch.Generator().manual_seed(0))
    with FakeTensorMode(allow_non_fake_inputs=True):
        on_device = ImageBatch(torch.empty(images, 3, height, width, dtype=torch.uint8, device="cuda"), sizes)
        with Traffic() as traffic:
            views.transform(on_device, params)
    total = slot.candidates * images
    written = 3 * slot.recipe.size**2 * 4
    return {
        "kernels": traffic.kernels,
        "bytes_per_view": traffic.bytes / total,
        "least_bytes_per_view": written + 3 * height * width / slot.candidates,
    }
