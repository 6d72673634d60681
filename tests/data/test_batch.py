from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch.utils.data._utils.pin_memory import pin_memory

from hvs_aug._check import HVSError
from hvs_aug.data import ImageBatch, collate_images


def images() -> list[torch.Tensor]:
    return [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in ((4, 5), (1, 7), (6, 2))]


def batch() -> ImageBatch:
    return ImageBatch(
        torch.zeros(2, 3, 8, 9, dtype=torch.uint8), torch.tensor([[8, 9], [5, 1]]), downscaled=1, skipped=("a.jpg: cut short",)
    )


def test_moving_keeps_every_field(monkeypatch: pytest.MonkeyPatch) -> None:
    moved = batch().to("meta")
    assert moved.device.type == "meta" and moved.sizes.device.type == "cpu"
    assert (moved.downscaled, moved.skipped) == (1, ("a.jpg: cut short",))
    pinned: list[torch.Tensor] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor, *device: pinned.append(tensor) or tensor)
    images, labels = pin_memory((batch(), torch.ones(2)))  # what a DataLoader does with each batch
    assert isinstance(images, ImageBatch) and images.skipped == ("a.jpg: cut short",) and len(labels) == 2
    assert [tensor.shape for tensor in pinned] == [(2, 3, 8, 9), (2,)]


def test_a_plain_tensor_fills_its_canvas() -> None:
    made = ImageBatch.of(torch.rand(3, 1, 4, 6))
    assert made.sizes.tolist() == [[4, 6]] * 3 and ImageBatch.of(made) is made
    with pytest.raises(HVSError, match="expected an ImageBatch or a \\(B, C, H, W\\) tensor, got a float32 tensor"):
        ImageBatch.of(torch.rand(3, 4))


@pytest.mark.parametrize("layout", ["packed", "planes", "channels last", "every second"])
def test_every_value_lies_where_the_layout_says(layout: str) -> None:
    if layout == "packed":
        made = ImageBatch.pack(images())
    else:
        planes = torch.randint(0, 256, (4, 3, 5, 6), dtype=torch.uint8)
        planes = planes.contiguous(memory_format=torch.channels_last) if layout == "channels last" else planes
        made = ImageBatch.of(planes[::2, :, :, ::2] if layout == "every second" else planes)
    values, offsets, rows, column, channel = made.layout()
    assert values.untyped_storage().data_ptr() == made.pixels.untyped_storage().data_ptr()  # no copy
    for index, image in enumerate(made):
        for c, y, x in torch.cartesian_prod(*map(torch.arange, image.shape)).tolist():
            assert values[offsets[index] + y * rows[index] + x * column + c * channel] == image[c, y, x]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32])
@pytest.mark.parametrize("hwc", [True, False])
def test_packing_copies_each_image(dtype: torch.dtype, hwc: bool) -> None:
    sources = [image.to(dtype) for image in images()]
    sources = [image.permute(1, 2, 0).contiguous().permute(2, 0, 1) if hwc else image for image in sources]
    out = torch.zeros(3 * (20 + 7 + 12), dtype=dtype)
    made = ImageBatch.pack(sources, out)
    assert made.pixels.data_ptr() == out.data_ptr() and made.dtype == dtype
    assert len(made) == 3 and made.sizes.tolist() == [[4, 5], [1, 7], [6, 2]]
    for image, source in zip(made, sources, strict=True):
        assert torch.equal(image, source)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("rows", [slice(1, 3), torch.tensor([2, 0, 2]), torch.tensor([True, False, True])])
def test_rows_are_the_images_that_they_name(packed: bool, rows: slice | torch.Tensor) -> None:
    made = ImageBatch.pack(images()) if packed else ImageBatch(torch.rand(3, 2, 4, 4), torch.tensor([[4, 4], [1, 3], [2, 2]]))
    part = made[rows]
    names = torch.arange(3)[rows].tolist()
    assert len(part) == len(names) and part.channels == made.channels
    for image, name in zip(part, names, strict=True):
        assert torch.equal(image, made.image(name))


@pytest.mark.parametrize(
    "value, shown", [(-2.1, "[-2.1, 0.5] in image 1"), (255, "[0.5, 255] in image 1"), (torch.nan, "[nan, nan] in image 1")]
)
@pytest.mark.parametrize("packed", [True, False])
def test_floating_point_outside_the_unit_range_is_refused(value: float, shown: str, packed: bool) -> None:
    pixels = torch.full((2, 1, 2, 2), 0.5)
    pixels[1, 0, 1, 1] = value
    made = ImageBatch.pack(list(pixels)) if packed else ImageBatch.of(pixels)
    with pytest.raises(
        HVSError, match="CandidateViews.transform\\(images\\): expected floating-point images with values in"
    ) as caught:
        made.require_unit_range("CandidateViews.transform(images)")
    assert shown in str(caught.value) and "leave out Normalize" in str(caught.value)
    assert made.outside_unit_range().item() == 1
    made[:1].require_unit_range()
    ImageBatch.of(pixels.to("meta")).require_unit_range()  # no value can be read there


def test_what_lies_beside_an_image_and_integers_are_always_in_range() -> None:
    pixels = torch.zeros(1, 1, 2, 3)
    pixels[..., 2] = 7
    ImageBatch(pixels, torch.tensor([[2, 2]])).require_unit_range()
    for dtype in (torch.uint8, torch.uint16):
        whole = ImageBatch.of(torch.full((1, 1, 2, 2), 255).to(dtype))
        whole.require_unit_range()
        assert whole.outside_unit_range().item() == 0


@pytest.mark.parametrize("rows", [0, [0, 1], torch.tensor(0), torch.tensor([0.0]), torch.tensor([[0]]), None], ids=str)
def test_what_names_no_rows_is_refused(rows: object) -> None:
    with pytest.raises(HVSError, match=r"ImageBatch\[rows\]: expected a slice or a one-dimensional index tensor"):
        ImageBatch.pack(images())[rows]  # type: ignore[index]


def test_nested_tensors_are_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are experimental
        nested = torch.nested.nested_tensor([torch.rand(3, 4, 5), torch.rand(3, 6, 7)])
    for call in (ImageBatch.of, lambda value: collate_images([value])):
        with pytest.raises(HVSError, match="got a float32 nested tensor"):
            call(nested)


def test_what_cannot_be_packed_is_refused() -> None:
    for wrong, message in (
        ([], "at least one image, got none"),
        (
            [torch.zeros(3, 2, 2), torch.zeros(1, 2, 2)],
            r"images of 3 channels and torch.float32 on the CPU, got a float32 tensor of shape \(1",
        ),
        ([torch.zeros(3, 2, 2), torch.zeros(3, 2, 2, dtype=torch.uint8)], "got a uint8 tensor"),
        ([torch.zeros(2, 2)], "got a float32 tensor of shape"),
        ([torch.zeros(())], "got a float32 tensor of shape"),
        ([torch.zeros(3, 2, 2, device="meta")], "on meta"),
        ([torch.zeros(3, 2, 2, dtype=torch.float64)], "uint8, uint16 or float32 images, got a float64 tensor"),
        ([torch.zeros(3, 0, 2)], "heights and widths of at least 1"),
        ([np.zeros((3, 2, 2), np.uint8)], "tensors, got ndarray"),
        ([torch.zeros(3, 2, 2), None], "on the CPU, got NoneType"),
        ([torch.zeros(3, 2, 2).to_sparse()], "got a float32 tensor with layout torch.sparse_coo, of shape"),
        (torch.zeros(()), "a list of"),
        (None, "a list of"),
    ):
        with pytest.raises(HVSError, match=message):
            ImageBatch.pack(wrong)
    for out in (torch.zeros(12, requires_grad=True), torch.zeros(12, device="meta")):
        with pytest.raises(HVSError, match=r"ImageBatch.pack\(out\): expected a tensor on the CPU that requires no gradient"):
            ImageBatch.pack([torch.zeros(3, 2, 2)], out)
    with pytest.raises(
        HVSError, match=r"ImageBatch.pack\(out\): expected 12 values of torch.float32, got a float32 tensor of shape \(13,\)"
    ):
        ImageBatch.pack([torch.zeros(3, 2, 2)], torch.zeros(13))


@pytest.mark.parametrize(
    "pixels, sizes, message",
    [
        (
            torch.zeros(3, 8, 8),
            torch.ones(1, 2, dtype=torch.int64),
            r"ImageBatch\(pixels\): expected a \(B, C, H, W\) tensor, or a",
        ),
        (
            torch.zeros(1, 3, 8, 8, dtype=torch.int32),
            torch.ones(1, 2, dtype=torch.int64),
            "uint8, uint16 or floating-point values, got a int32",
        ),
        (torch.zeros(1, 3, 8, 8), torch.ones(2, 2, dtype=torch.int64), r"expected an int64 tensor of shape \(1, 2\)"),
        (torch.zeros(1, 3, 8, 8), torch.ones(1, 2), r"expected an int64 tensor of shape \(B, 2\), got a float32"),
        (
            torch.zeros(1, 3, 8, 8),
            torch.tensor([[8, 9]]),
            r"from 1 to those of pixels, \(8, 8\), got sizes from \(8, 9\) to \(8, 9\)",
        ),
        (torch.zeros(1, 3, 8, 8), torch.tensor([[0, 8]]), r"from 1 to those of pixels, \(8, 8\), got sizes from \(0, 8\)"),
        (
            torch.zeros(1, 3, 8, 8).to_sparse(),
            torch.tensor([[8, 8]]),
            "got a float32 tensor with layout torch.sparse_coo, of shape",
        ),
        (torch.zeros(1, 3, 8, 8).to(torch.float8_e4m3fn), torch.tensor([[8, 8]]), "floating-point values, got a float8_e4m3fn"),
    ],
)
def test_what_does_not_fit_together_is_refused(pixels: torch.Tensor, sizes: torch.Tensor, message: str) -> None:
    with pytest.raises(HVSError, match=message):
        ImageBatch(pixels, sizes)


@pytest.mark.parametrize(
    "sizes, offsets, channels, message",
    [
        ([[2, 2]], [1], 3, r"images within the 12 values of pixels, got images from 1 to 13"),
        ([[2, 2]], [-1], 3, "got images from -1 to 11"),
        ([[0, 2]], [0], 3, "heights and widths of at least 1"),
        ([[2, 2]], [0, 0], 3, r"ImageBatch\(offsets\): expected an int64 tensor of shape \(1,\)"),
        ([[2, 2]], [0], 0, "the number of channels of the packed images, got int 0"),
        ([[2, 2]], [0], "3", r"ImageBatch\(channels\): expected the number of channels, got str"),
        ([[2, 2]], [0], 2.5, r"ImageBatch\(channels\): expected the number of channels, got float"),
        ([[2**31, 2**33]], [0], 3, "images within the 12 values of pixels"),  # 2 ** 64 values, which an int64 takes for 0
        ([[2, 2]], [2**63 - 10], 3, "images within the 12 values of pixels"),
    ],
)
def test_packed_images_lie_within_the_pixels(sizes: list[list[int]], offsets: list[int], channels: int, message: str) -> None:
    with pytest.raises(HVSError, match=message):
        ImageBatch(torch.zeros(12, dtype=torch.uint8), torch.tensor(sizes), torch.tensor(offsets), channels)
