from __future__ import annotations

import pytest
import torch
from torch.utils.data._utils.pin_memory import pin_memory

from hvs_aug._check import HVSError
from hvs_aug.data import ImageBatch


def batch() -> ImageBatch:
    return ImageBatch(torch.zeros(2, 3, 8, 9, dtype=torch.uint8), torch.tensor([[8, 9], [5, 1]]), 1, ("a.jpg: cut short",))


def test_moving_keeps_every_field(monkeypatch: pytest.MonkeyPatch) -> None:
    moved = batch().to("meta")
    assert moved.device.type == "meta" and moved.sizes.device.type == "cpu"
    assert (moved.downscaled, moved.skipped) == (1, ("a.jpg: cut short",))
    pinned: list[torch.Tensor] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    images, labels = pin_memory((batch(), torch.ones(2)))  # what a DataLoader does with each batch
    assert isinstance(images, ImageBatch) and images.skipped == ("a.jpg: cut short",) and len(labels) == 2
    assert [tensor.shape for tensor in pinned] == [(2, 3, 8, 9), (2,)]


def test_a_plain_tensor_fills_its_canvas() -> None:
    made = ImageBatch.of(torch.rand(3, 1, 4, 6))
    assert made.sizes.tolist() == [[4, 6]] * 3 and ImageBatch.of(made) is made
    with pytest.raises(HVSError, match="expected an ImageBatch or a \\(B, C, H, W\\) tensor, got a float32 tensor"):
        ImageBatch.of(torch.rand(3, 4))


@pytest.mark.parametrize(
    "pixels, sizes, message",
    [
        (torch.zeros(3, 8, 8), torch.ones(1, 2, dtype=torch.int64), r"ImageBatch\(pixels\): expected a \(B, C, H, W\) tensor"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.int32), torch.ones(1, 2, dtype=torch.int64), "uint8 or floating point, got a int32"),
        (torch.zeros(1, 3, 8, 8), torch.ones(2, 2, dtype=torch.int64), r"expected an int64 tensor of shape \(1, 2\)"),
        (torch.zeros(1, 3, 8, 8), torch.ones(1, 2), r"expected an int64 tensor of shape \(1, 2\), got a float32"),
        (torch.zeros(1, 3, 8, 8), torch.tensor([[8, 9]]), r"from 1 to the canvas's \(8, 8\), got sizes from \(8, 9\) to \(8, 9\)"),
        (torch.zeros(1, 3, 8, 8), torch.tensor([[0, 8]]), r"from 1 to the canvas's \(8, 8\), got sizes from \(0, 8\)"),
    ],
)
def test_what_does_not_fit_together_is_refused(pixels: torch.Tensor, sizes: torch.Tensor, message: str) -> None:
    with pytest.raises(HVSError, match=message):
        ImageBatch(pixels, sizes)
