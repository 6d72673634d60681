from __future__ import annotations

import pickle
from collections import namedtuple
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors

from hvs_aug._check import HVSError
from hvs_aug.data import ImageBatch, Undecodable, collate, collate_images, decode_image

from .photographs import encode, oriented, photograph, pixels_of


def hwc_memory(image: Tensor) -> bool:
    return image.permute(1, 2, 0).is_contiguous()


def random_image(height: int, width: int, channels: int = 3) -> Tensor:
    return torch.randint(0, 256, (channels, height, width), dtype=torch.uint8)


@given(
    sizes=st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), min_size=1, max_size=6),
    channels=st.sampled_from([1, 3, 5]),
    channels_last=st.booleans(),
    dtype=st.sampled_from([torch.uint8, torch.float32, torch.uint16]),
)
def test_images_lie_behind_each_other_unchanged(
    sizes: list[tuple[int, int]], channels: int, channels_last: bool, dtype: torch.dtype
) -> None:
    raw = [random_image(height, width, channels) for height, width in sizes]
    images = [
        {torch.uint8: image, torch.float32: image / 255, torch.uint16: (image.int() * 257).to(torch.uint16)}[dtype] for image in raw
    ]
    if channels_last:
        images = [image.permute(1, 2, 0).contiguous().permute(2, 0, 1) for image in images]
    batch = collate_images(images, channels=channels)
    assert batch.pixels.shape == (channels * sum(h * w for h, w in sizes),) and batch.dtype == dtype and batch.channels == channels
    assert batch.downscaled == 0 and batch.skipped == ()
    assert batch.sizes.tolist() == [list(size) for size in sizes] and batch.sizes.dtype == torch.int64
    for index, image in enumerate(images):
        assert torch.equal(batch.image(index), image) and hwc_memory(batch.image(index))


def test_each_image_is_written_once(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[int, ...]] = []
    write = collate.write_packed
    monkeypatch.setattr(collate, "write_packed", lambda image, place: (written.append(tuple(image.shape)), write(image, place)))
    files: list[Any] = [
        encode(photograph(20, 30)),
        encode(photograph(40, 30), "PNG"),
        photograph(7, 9),
        np.zeros((3, 4, 3), np.uint8),
    ]
    batch = collate_images([*files, encode(photograph(90, 60))], max_side=45)
    assert written == [(3, 20, 30), (3, 40, 30), (3, 7, 9), (3, 3, 4), (3, 45, 30)] == [tuple(image.shape) for image in batch]


def test_a_header_that_does_not_tell_the_size_costs_a_copy_and_nothing_else() -> None:
    files = [
        encode(photograph(20, 30, seed), "WebP" if seed % 2 else "PNG", **({"lossless": True} if seed % 2 else {}))
        for seed in range(4)
    ]
    batch = collate_images(files)
    for index, image in enumerate(batch):
        np.testing.assert_array_equal(image.numpy(), pixels_of(photograph(20, 30, index)))


def test_memory_is_written_anew_only_when_nobody_reads_it() -> None:
    images = [random_image(30, 40)]
    held = [
        collate_images(images).pixels[5:],
        collate_images(images).image(0),
        collate_images(images)[:1],
        collate_images(images).pixels.numpy(),
    ]
    copies = [torch.as_tensor(part.pixels if isinstance(part, ImageBatch) else part).clone() for part in held]
    for _ in range(8):
        collate_images([random_image(30, 40)])
    for part, copy in zip(held, copies, strict=True):
        assert torch.equal(torch.as_tensor(part.pixels if isinstance(part, ImageBatch) else part), copy)


def test_one_float_image_makes_the_batch_float() -> None:
    grey16 = Image.fromarray(np.full((3, 4), 13107, dtype=np.uint16))
    batch = collate_images([random_image(2, 2, 1) * 0 + 51, grey16, np.full((2, 3), 0.2)], channels=1)
    assert batch.dtype == torch.float32
    for image in batch:
        assert image.flatten().tolist() == pytest.approx([0.2] * image.numel())


def test_8_and_16_bits_together_become_float() -> None:
    batch = collate_images([np.full((2, 3), 51, np.uint8), np.full((4, 2), 13107, np.uint16)], channels=1)
    assert batch.dtype == torch.float32 and batch.sizes.tolist() == [[2, 3], [4, 2]]
    assert torch.equal(batch.pixels, torch.full((14,), 0.2))


def test_16_bit_images_keep_their_bits() -> None:
    values = np.arange(24 * 36, dtype=np.uint16).reshape(24, 36) * 75
    batch = collate_images([encode(Image.fromarray(values), "PNG"), Image.fromarray(values), values[..., None]], channels=1)
    assert batch.dtype == torch.uint16
    for image in batch:
        np.testing.assert_array_equal(image[0].numpy(), values)
    small = collate_images([values], channels=1, max_side=18).image(0)
    expected = Image.fromarray(values.astype(np.float32)).resize((18, 12), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(small[0].numpy().astype(int), np.asarray(expected), atol=1)


def test_every_kind_of_image_gives_the_same_pixels() -> None:
    image = photograph()
    array = np.array(image)
    tensor = torch.from_numpy(pixels_of(image).copy())
    png = encode(image, "PNG")
    read_only = array.copy()
    read_only.setflags(write=False)
    kinds: list[Any] = [
        image,
        array,
        read_only,
        np.asfortranarray(array),
        array[::-1, ::-1].copy()[::-1, ::-1],
        tensor,
        tv_tensors.Image(tensor),
        png,
        bytearray(png),
        memoryview(png),
        torch.frombuffer(bytearray(png), dtype=torch.uint8),
        np.frombuffer(png, dtype=np.uint8),
    ]
    batch = collate_images(kinds)
    assert batch.pixels.dtype == torch.uint8 and type(batch.pixels) is Tensor
    for index in range(len(kinds)):
        assert torch.equal(batch.image(index), tensor), type(kinds[index])


def test_inputs_are_left_as_they_are() -> None:
    tensor, array = random_image(4, 5) / 255, np.random.default_rng(0).random((4, 5, 3))
    before = tensor.clone(), array.copy()
    batch = collate_images([tensor, array])
    batch.pixels.zero_()
    assert torch.equal(tensor, before[0]) and np.array_equal(array, before[1])


@pytest.mark.parametrize("dtype", ["u1", ">u2", "<u2", "f2", ">f4", "f4", "f8"])
def test_arrays_of_every_dtype(dtype: str) -> None:
    top = {"u1": 255, "u2": 65535}.get(dtype[-2:], 1)
    array = (np.linspace(0, 1, 60).reshape(4, 5, 3) * top).astype(dtype)
    image = collate_images([array]).image(0)
    assert image.dtype == {"u1": torch.uint8, "u2": torch.uint16}.get(dtype[-2:], torch.float32)
    np.testing.assert_allclose(image.double().numpy(), array.transpose(2, 0, 1).astype(float), atol=1e-6)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"])
@pytest.mark.parametrize("channels", [1, 3])
def test_pil_images_of_every_mode_convert_as_pil_does(mode: str, channels: int) -> None:
    source = photograph()
    image = source.convert("RGBA").convert("PA") if mode == "PA" else _to_lab(source) if mode == "LAB" else source.convert(mode)
    want = "L" if channels == 1 else "RGB"
    try:
        expected = pixels_of(image.convert(want))
    except ValueError:  # PIL itself does not go from this mode to that
        with pytest.raises(HVSError, match="samples\\[0\\]"):
            collate_images([image], channels=channels)
        return
    np.testing.assert_array_equal(collate_images([image], channels=channels).image(0).numpy(), expected)


def _to_lab(image: Image.Image) -> Image.Image:
    return Image.merge("LAB", image.split())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_of_pil_images_and_files_is_applied(orientation: int) -> None:
    import io

    data = oriented(photograph(), orientation, "PNG")
    upright = decode_image(data)[0]
    opened = Image.open(io.BytesIO(data))
    converted = Image.open(io.BytesIO(data)).convert("RGB")
    for index, image in enumerate((data, opened, converted)):
        assert torch.equal(collate_images([image]).image(0), upright), index


Pair = namedtuple("Pair", ["photo", "label"])


@pytest.mark.parametrize("kind", [tuple, list])
def test_tuples_and_lists_keep_their_structure(kind: type) -> None:
    out = collate_images([kind([photograph(seed=i), i, f"{i}.jpg", {"box": torch.ones(2) * i}]) for i in range(3)])
    assert type(out) is kind and isinstance(out[0], ImageBatch) and len(out[0]) == 3
    assert out[1].tolist() == [0, 1, 2] and list(out[2]) == ["0.jpg", "1.jpg", "2.jpg"]
    assert out[3]["box"].tolist() == [[0, 0], [1, 1], [2, 2]]
    for index in range(3):
        np.testing.assert_array_equal(out[0].image(index).numpy(), pixels_of(photograph(seed=index)))


def test_namedtuples_keep_their_type() -> None:
    out = collate_images([Pair(photograph(), 4), Pair(photograph(), 5)])
    assert isinstance(out, Pair) and isinstance(out.photo, ImageBatch) and out.label.tolist() == [4, 5]


@pytest.mark.parametrize("key", ["image", "img", "pixel_values"])
def test_dicts_keep_their_keys_in_order(key: str) -> None:
    out = collate_images([{"id": i, key: photograph(), "text": "a"} for i in range(2)])
    assert list(out) == ["id", key, "text"] and isinstance(out[key], ImageBatch)
    assert out["id"].tolist() == [0, 1] and out["text"] == ["a", "a"]


def test_large_images_are_reduced_and_counted() -> None:
    images = [photograph(20, 30), photograph(80, 120), np.zeros((200, 20, 3), np.float32), encode(photograph(400, 200))]
    batch = collate_images(images, max_side=40)
    assert batch.downscaled == 3 and batch.sizes.tolist() == [[20, 30], [27, 40], [40, 4], [40, 20]]
    reference = pixels_of(photograph(80, 120).resize((40, 27), Image.Resampling.BILINEAR)) / 255
    np.testing.assert_allclose(batch.image(1).numpy(), reference, atol=1.01 / 255)
    assert collate_images(images, max_side=None).downscaled == 0


def test_images_are_bounded_by_default() -> None:
    assert collate_images([np.zeros((4, 3000, 3), np.uint8)]).sizes.tolist() == [[1, 1024]]


def test_undecodable_samples_are_left_out_with_all_their_fields() -> None:
    bad = Undecodable("b.jpg", "cut short")
    out = collate_images([(bad, 0, "b"), (photograph(seed=1), 1, "x"), (bad, 2, "b"), (photograph(seed=3), 3, "y")])
    assert out[0].skipped == ("b.jpg: cut short",) * 2 and len(out[0]) == 2
    assert out[1].tolist() == [1, 3] and list(out[2]) == ["x", "y"]
    np.testing.assert_array_equal(out[0].image(1).numpy(), pixels_of(photograph(seed=3)))
    with pytest.raises(
        HVSError, match=r"expected at least one image that decodes, got 2 that do not; the first is b.jpg: cut short"
    ):
        collate_images([bad, bad])


def test_a_truncated_file_is_refused_by_its_place_and_path() -> None:
    data = encode(photograph(64, 64))
    with pytest.raises(
        HVSError, match=r"collate_images\(samples\[1\], cats/a.jpg\): expected a whole image, got \d+ bytes that do not"
    ):
        collate_images([(data, 0, "cats/b.jpg"), (data[:-40], 1, "cats/a.jpg")])


def test_a_truncated_pil_image_read_late_is_refused() -> None:
    import io

    image = Image.open(io.BytesIO(encode(photograph(64, 64))[:-40]))
    with pytest.raises(HVSError, match=r"samples\[0\]\): expected an image that PIL can read .* \(image file is truncated"):
        collate_images([image])


BAD: dict[str, tuple[Sequence[Any], dict[str, Any], str, str]] = {
    "empty batch": ([], {}, "expected a list of at least one sample, got list []", ""),
    "no image": ([None], {}, "expected a PIL image, an array (H, W, C) or (H, W), a tensor", ""),
    "views": ([([torch.zeros(3, 2, 2)] * 2, 0)], {}, "got a list of 2", "no transform that makes views"),
    "four axes": ([torch.zeros(1, 3, 2, 2)], {}, "got a float32 tensor of shape (1, 3, 2, 2) on cpu", "no transform"),
    "empty image": ([torch.zeros(3, 0, 5)], {}, "expected a height and a width of at least 1, got 0 x 5", ""),
    "empty array": ([np.zeros((5, 0, 3), np.uint8)], {}, "expected a height and a width of at least 1, got 5 x 0", ""),
    "empty PIL": ([Image.new("RGB", (0, 3))], {}, "expected a height and a width of at least 1, got 3 x 0", ""),
    "grey": (
        [torch.zeros(4, 5)],
        {},
        "expected 3 channels, got 1 in an image of shape (1, 4, 5)",
        "pass channels=1, as in functools.partial",
    ),
    "many": ([np.zeros((4, 5, 13))], {}, "expected 3 channels, got 13", "pass channels=13"),
    "colour": ([np.zeros((4, 5, 3))], {"channels": 1}, "expected 1 channels, got 3", "pass channels=3"),
    "tensor as HWC": (
        [torch.zeros(8, 9, 3)],
        {},
        "got 8 in an image of shape (8, 9, 3)",
        "tensors are (C, H, W), NumPy arrays (H, W, C)",
    ),
    "PIL bands": ([Image.new("RGB", (2, 2))], {"channels": 4}, "expected 4 channels, got 3", "pass channels=3"),
    "normalised": ([torch.full((3, 2, 2), -2.1)], {}, "values in [0, 1], got values in [-2.1, -2.1]", "remove Normalize"),
    "0 to 255 floats": (
        [np.full((2, 2, 3), 255.0)],
        {},
        "values in [0, 1], got values in [255, 255]",
        "divide the values by their maximum",
    ),
    "nan": ([torch.full((3, 2, 2), torch.nan)], {}, "values in [0, 1], got values in [nan, nan]", ""),
    "int64": (
        [torch.zeros(3, 2, 2, dtype=torch.int64)],
        {},
        "a uint8, uint16 or floating-point image, got a int64 tensor",
        "",
    ),
    "bool array": (
        [np.zeros((2, 2, 3), bool)],
        {},
        "a uint8, uint16 or floating-point array, got a bool array of shape (2, 2, 3)",
        "",
    ),
    "uint32": ([np.zeros((2, 2, 3), np.uint32)], {}, "floating-point array, got a uint32 array of shape (2, 2, 3)", ""),
    "text": (["a.jpg"], {}, "got str 'a.jpg'", ""),
    "keys": (
        [{"photo": 1, "label": 2}],
        {},
        "'image', 'img', 'pixel_values', got a dict with the keys 'photo', 'label'",
        "rename the image's key",
    ),
    "mixed": (
        [(torch.zeros(3, 2, 2), 0), torch.zeros(3, 2, 2)],
        {},
        "samples[1]): expected the structure of samples[0], a tuple",
        "",
    ),
    "lengths": (
        [(torch.zeros(3, 2, 2), 0), (torch.zeros(3, 2, 2),)],
        {},
        "samples[1]): expected the structure of samples[0], a tuple",
        "",
    ),
    "lost key": (
        [{"image": torch.zeros(3, 2, 2)}, {"img": 0}],
        {},
        "samples[1]): expected the structure of samples[0], a dict with the keys 'image', got a dict with",
        "",
    ),
    "channels": (
        [torch.zeros(3, 2, 2)],
        {"channels": 0},
        "collate_images(channels): expected a count of at least 1, got int 0",
        "",
    ),
    "sparse": ([torch.zeros(3, 2, 2, dtype=torch.uint8).to_sparse()], {}, "got a uint8 tensor with layout torch.sparse_coo", ""),
    "meta": (
        [torch.zeros(3, 2, 2, dtype=torch.uint8), torch.zeros(3, 2, 2, dtype=torch.uint8, device="meta")],
        {},
        "collate_images(samples[1]): expected a tensor that holds values, got a uint8 tensor of shape (3, 2, 2) on meta",
        "",
    ),
    "max_side as text": (
        [torch.zeros(3, 2, 2)],
        {"max_side": "224"},
        "a number of pixels of at least 1, or None, got str '224'",
        "",
    ),
    "max_side": (
        [torch.zeros(3, 2, 2)],
        {"max_side": 0},
        "collate_images(max_side): expected a number of pixels of at least 1",
        "",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_words(case: str) -> None:
    samples, arguments, message, hint = BAD[case]
    with pytest.raises(HVSError) as caught:
        collate_images(samples, **arguments)
    assert message in str(caught.value) and hint in str(caught.value)
    assert str(caught.value).startswith("collate_images(")


class Photographs(Dataset[tuple[Any, int]]):
    """Images of several kinds and sizes, picklable."""

    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = photograph(10 + index, 20 - index, seed=index)
        return (image if index % 2 else encode(image, "PNG")), index


class Broken(Photographs):
    """One of whose files is cut short."""

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image, label = super().__getitem__(index)
        return (image[:-30] if index == 2 else image), label


def test_batches_cross_from_a_worker_as_they_are() -> None:
    collate = partial(collate_images, max_side=15)
    options: dict[str, Any] = {"batch_size": 4, "collate_fn": collate}
    here = list(DataLoader(Photographs(), **options))
    there = list(DataLoader(Photographs(), **options, num_workers=1))
    assert len(here) == len(there) == 2
    for (images, labels), (expected, numbers) in zip(there, here, strict=True):
        assert isinstance(images, ImageBatch) and images.pixels.is_shared()
        assert torch.equal(images.pixels.float(), expected.pixels.float()) and images.dtype == expected.dtype
        assert images.offsets is not None and expected.offsets is not None and torch.equal(images.offsets, expected.offsets)
        assert images.channels == expected.channels
        assert torch.equal(images.sizes, expected.sizes) and images.downscaled == expected.downscaled >= 2
        assert torch.equal(labels, numbers)


def test_an_error_in_a_worker_reaches_the_main_process_as_itself() -> None:
    with pytest.raises(HVSError, match=r"samples\[2\]\): expected a whole image"):
        list(DataLoader(Broken(), batch_size=4, collate_fn=collate_images, num_workers=1))


def test_the_collate_function_and_its_batches_pickle() -> None:
    collate = pickle.loads(pickle.dumps(partial(collate_images, channels=1)))
    batch = collate([photograph(), Undecodable("a", "b")])
    again = pickle.loads(pickle.dumps(batch))
    assert torch.equal(again.pixels, batch.pixels) and again.skipped == ("a: b",) and again.channels == 1


@pytest.mark.gpu
def test_the_loader_pins_the_pixels() -> None:
    for images, labels in DataLoader(Photographs(), batch_size=4, collate_fn=collate_images, num_workers=1, pin_memory=True):
        assert images.pixels.is_pinned() and labels.is_pinned()
        moved = images.to("cuda", non_blocking=True)
        assert moved.device.type == "cuda" and torch.equal(moved.pixels.cpu(), images.pixels) and not moved.sizes.is_cuda


@pytest.mark.parametrize("count", [1, 5])
def test_tensors_of_one_size_are_packed_as_those_of_several(count: int) -> None:
    images = [random_image(6, 9) for _ in range(count)]
    together, apart = collate_images(images), collate_images([*images, random_image(2, 3)])[: len(images)]
    assert together.pixels.dtype == torch.uint8 and together.sizes.tolist() == [[6, 9]] * count
    for index, image in enumerate(images):
        assert torch.equal(together.image(index), image) and torch.equal(apart.image(index), image)
    with pytest.raises(HVSError, match="expected 1 channels, got 3"):
        collate_images(images, channels=1)
    assert collate_images([random_image(30, 40)] * 2, max_side=20).downscaled == 2
