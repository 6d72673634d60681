"""The scoring forward: how it groups, what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hvs_aug._check import HVSError
from hvs_aug.selection.forward import by_view, forward_slots, map_output

from .models import Counted


def test_one_forward_per_resolution_view_major() -> None:
    model = Counted(nn.Flatten())
    views = [torch.rand(2, 3, 1, 8, 8), torch.rand(4, 3, 1, 4, 4), torch.rand(1, 3, 1, 8, 8)]
    outputs = forward_slots(model, views)
    assert model.calls == [(9, 1, 8, 8), (12, 1, 4, 4)]
    for view, output in zip(views, outputs, strict=True):
        torch.testing.assert_close(output, view.flatten(2), rtol=0, atol=0)


def test_outputs_are_split_without_copying() -> None:
    kept = []
    views = [torch.rand(2, 3, 1, 4, 4), torch.rand(1, 3, 1, 4, 4)]
    outputs = forward_slots(lambda pixels: kept.append(pixels.flatten(1) * 2) or kept[0], views)
    assert outputs[0].data_ptr() == kept[0].data_ptr()
    assert outputs[1].untyped_storage().data_ptr() == kept[0].untyped_storage().data_ptr()


def test_slots_left_out_and_arguments() -> None:
    seen = []

    def model(pixels: Tensor, *arguments: Tensor) -> Tensor:
        seen.append([tuple(value.shape) for value in (pixels, *arguments)])
        return pixels.flatten(1)

    views = [torch.rand(2, 3, 1, 8, 8), None, torch.rand(4, 3, 1, 8, 8)]
    outputs = forward_slots(model, views, [(torch.zeros(2, 3, 5),), (), ()])
    assert seen == [[(6, 1, 8, 8), (6, 5)], [(12, 1, 8, 8)]]
    assert outputs[1] is None


@pytest.mark.parametrize("chunk", [1, 4, 5, 11, 12, 100])
def test_chunks_are_equal_parts_and_change_no_output(chunk: int) -> None:
    model = Counted(nn.Flatten())
    views = [torch.rand(4, 3, 1, 4, 4)]
    (output,) = forward_slots(model, views, chunk=chunk)
    torch.testing.assert_close(output, views[0].flatten(2), rtol=0, atol=0)
    counts = [shape[0] for shape in model.calls]
    assert sum(counts) == 12
    assert max(counts) <= chunk
    assert max(counts) - min(counts) <= 1


def test_structures_of_output() -> None:
    views = [torch.rand(2, 3, 1, 4, 4)]
    for chunk in (None, 4):
        (pair,) = forward_slots(lambda pixels: [pixels.flatten(1), pixels], views, chunk=chunk)
        assert isinstance(pair, tuple)
        assert [tuple(value.shape) for value in pair] == [(2, 3, 16), (2, 3, 1, 4, 4)]
        (named,) = forward_slots(lambda pixels: {"z": pixels.flatten(1)}, views, chunk=chunk)
        assert named["z"].shape == (2, 3, 16)
    doubled = map_output(lambda value: 2 * value, {"z": torch.ones(1)})
    assert doubled["z"].item() == 2


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda pixels: pixels.flatten(1)[:-1], "first axis is the 6 images of the call, got a float32 tensor of shape (5, 16)"),
        (lambda pixels: pixels.mean(), "first axis is the 6 images"),
        (lambda pixels: pixels.flatten(1).argmax(1), "floating-point outputs, got a int64 tensor"),
        (lambda pixels: "loss", "a tensor, or a tuple or dict of tensors, got str"),
        (lambda pixels: (pixels, None), "a tensor, or a tuple or dict of tensors, got NoneType"),
        (lambda pixels: (), "at least one tensor"),
        (lambda pixels: pixels.flatten(1).to("meta"), "outputs on cpu, where the images are"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(model, words: str) -> None:
    with pytest.raises(HVSError) as error:
        forward_slots(model, [torch.rand(2, 3, 1, 4, 4)])
    assert str(error.value).startswith("HardPairSampler(model): expected ")
    assert words in str(error.value)


def test_channels_last() -> None:
    seen = []
    views = [torch.rand(2, 3, 3, 8, 8)]
    forward_slots(lambda pixels: seen.append(pixels.is_contiguous(memory_format=torch.channels_last)) or pixels, views)
    forward_slots(
        lambda pixels: seen.append(pixels.is_contiguous(memory_format=torch.channels_last)) or pixels, views, channels_last=True
    )
    assert seen == [False, True]


def test_no_images_have_no_views() -> None:
    assert by_view(torch.zeros(0, 5), 0).shape == (0, 0, 5)
    assert by_view(torch.zeros(6, 5), 3).shape == (2, 3, 5)
