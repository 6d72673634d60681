from __future__ import annotations

import io
import struct
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile

from hvs_aug._check import HVSError
from hvs_aug.data import decode
from hvs_aug.data.decode import decode_image, downscale, from_pil, reduced_size, to_unit_range

from .photographs import encode, oriented, photograph, pixels_of


def by_pil(data: bytes, mode: str = "RGB") -> np.ndarray[Any, Any]:
    return pixels_of(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert(mode))


def hwc_memory(pixels: torch.Tensor) -> bool:
    return pixels.permute(1, 2, 0).is_contiguous()


@pytest.mark.parametrize("options", [{}, {"quality": 50}, {"progressive": True}, {"subsampling": 0}, {"subsampling": "4:2:0"}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("channels", [3, 1])
def test_jpeg_has_the_pixels_of_pil(mode: str, channels: int, options: dict[str, Any]) -> None:
    data = encode(photograph(31, 45).convert(mode), **options)
    pixels, reduced = decode_image(data, channels)
    assert pixels.dtype == torch.uint8 and hwc_memory(pixels) and not reduced
    np.testing.assert_allclose(pixels.numpy().astype(int), by_pil(data, "RGB" if channels == 3 else "L"), atol=1)


@pytest.mark.parametrize("kind", ["PNG", "WebP", "BMP", "GIF", "TIFF", "PPM"])
@pytest.mark.parametrize("channels", [3, 1])
def test_other_formats_are_decoded_as_pil_does(kind: str, channels: int) -> None:
    data = encode(photograph(), kind)
    pixels, _ = decode_image(data, channels)
    assert pixels.shape == (channels, 24, 36) and hwc_memory(pixels)
    np.testing.assert_array_equal(pixels.numpy(), by_pil(data, "RGB" if channels == 3 else "L"))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
@pytest.mark.parametrize("channels", [3, 1])
def test_png_of_every_mode_converts_as_pil_does(mode: str, channels: int) -> None:
    image = photograph().convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    data = encode(image, "PNG")
    np.testing.assert_array_equal(decode_image(data, channels)[0].numpy(), by_pil(data, "RGB" if channels == 3 else "L"))


@pytest.mark.parametrize("transparency", [3, bytes(range(0, 256, 2))])
def test_a_transparent_palette_keeps_its_colours_and_does_not_warn(transparency: int | bytes) -> None:
    image = photograph().quantize(128)
    pixels, _ = decode_image(encode(image, "PNG", transparency=transparency))
    np.testing.assert_array_equal(pixels.numpy(), pixels_of(image.convert("RGB")))


def test_alpha_is_dropped_not_composited() -> None:
    image = photograph()
    expected = pixels_of(image)
    image.putalpha(0)
    np.testing.assert_array_equal(decode_image(encode(image, "PNG"))[0].numpy(), expected)
    assert decode_image(encode(image, "PNG"), channels=4)[0].shape == (4, 24, 36)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_grey_keeps_its_16_bits(kind: str, channels: int) -> None:
    values = np.arange(24 * 36, dtype=np.uint16).reshape(24, 36) * 75
    pixels, _ = decode_image(encode(Image.fromarray(values), kind), channels)
    assert pixels.dtype == torch.uint16 and hwc_memory(pixels)
    np.testing.assert_array_equal(pixels.numpy(), np.broadcast_to(values, (channels, 24, 36)))


def test_16_bit_colour_png_keeps_its_16_bits() -> None:
    values = np.random.default_rng(0).integers(0, 65536, (5, 7, 3), dtype=np.uint16)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 7, 5, 16, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    pixels, _ = decode_image(data)
    assert pixels.dtype == torch.uint16
    np.testing.assert_array_equal(pixels.numpy(), values.transpose(2, 0, 1))
    with pytest.raises(HVSError, match="photo.png: expected a whole image"):
        decode_image(data[:-60], name="photo.png")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP"])
@pytest.mark.parametrize("channels", [3, 1])
def test_all_eight_orientations_are_turned_upright(orientation: int, kind: str, channels: int) -> None:
    data = oriented(photograph(), orientation, kind)
    pixels, _ = decode_image(data, channels)
    assert pixels.shape == ((channels, 36, 24) if orientation >= 5 else (channels, 24, 36)) and hwc_memory(pixels)
    np.testing.assert_allclose(pixels.numpy().astype(int), by_pil(data, "RGB" if channels == 3 else "L"), atol=1)


def test_the_orientations_of_the_test_image_differ() -> None:
    seen = {decode_image(oriented(photograph(), orientation))[0].numpy().tobytes() for orientation in range(1, 9)}
    assert len(seen) == 8


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_far_larger_jpeg_is_drafted_and_looks_as_if_it_were_not(orientation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = oriented(photograph(600, 900), orientation)
    full, reduced = decode_image(data)
    assert not reduced
    asked: list[tuple[int, int]] = []
    draft = JpegImageFile.draft

    def spy(image: JpegImageFile, mode: str | None, size: tuple[int, int] | None) -> object:
        asked.append(image.size)
        answer = draft(image, mode, size)
        asked.append(image.size)
        return answer

    monkeypatch.setattr(JpegImageFile, "draft", spy)
    small, reduced = decode_image(data, max_side=200)
    assert asked == [(900, 600), (225, 150)]
    assert reduced and hwc_memory(small) and small.shape == ((3, 200, 133) if orientation == 6 else (3, 133, 200))
    exact = downscale(full, (small.shape[1], small.shape[2]))
    assert (small.int() - exact.int()).abs().float().mean() < 1


def test_a_slightly_larger_jpeg_is_reduced_exactly_and_a_smaller_one_not_at_all() -> None:
    data = encode(photograph(60, 90))
    full, _ = decode_image(data)
    small, reduced = decode_image(data, max_side=60)
    assert reduced and torch.equal(small, downscale(full, (40, 60)))
    same, reduced = decode_image(data, max_side=90)
    assert not reduced and torch.equal(same, full)


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
@pytest.mark.parametrize("max_side", [None, 32])
@pytest.mark.parametrize("channels", [3, 1])
def test_a_truncated_jpeg_is_refused_by_name(options: dict[str, Any], max_side: int | None, channels: int) -> None:
    data = encode(photograph(64, 96), quality=95, **options)
    for length in (3, 20, 150, len(data) // 2, len(data) * 9 // 10, len(data) - 2):
        with pytest.raises(HVSError, match=r"cats/tabby\.jpg: expected a whole image, got \d+ bytes that do not decode") as caught:
            decode_image(data[:length], channels, max_side, name="cats/tabby.jpg")
        assert "hint: the file is damaged, cut short, or no image" in str(caught.value)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # PIL's, before it gives up on a TIFF
@pytest.mark.parametrize("kind", ["PNG", "WebP", "BMP", "GIF", "TIFF"])
def test_other_truncated_files_are_refused(kind: str) -> None:
    data = encode(photograph(64, 96), kind)
    for length in (10, len(data) // 2):
        with pytest.raises(HVSError, match="expected a whole image"):
            decode_image(data[:length])


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", b"not an image at all", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff" + bytes(100)])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(HVSError, match=r"notes.txt: expected a whole image"):
        decode_image(data, name="notes.txt")


def test_another_number_of_channels_is_refused() -> None:
    with pytest.raises(HVSError, match="expected 4 channels, got 3") as caught:
        decode_image(encode(photograph()), channels=4)
    assert "pass channels=3" in str(caught.value)


def test_bytes_of_any_type_give_the_same_pixels() -> None:
    data = encode(photograph())
    expected = decode_image(data)[0]
    for same in (bytearray(data), memoryview(data), memoryview(bytearray(data))):
        assert torch.equal(decode_image(same)[0], expected)


def test_pil_decodes_jpeg_where_torchvision_no_longer_does(monkeypatch: pytest.MonkeyPatch) -> None:
    data = oriented(photograph(), 6)
    expected = decode_image(data)[0]
    monkeypatch.setattr(decode, "_torchvision_decodes", lambda: False)
    pixels, _ = decode_image(data)
    assert hwc_memory(pixels) and (pixels.int() - expected.int()).abs().max() <= 1


def test_decoding_does_not_warn_of_deprecated_functions() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decode_image(encode(photograph()))


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_pil_modes_of_more_than_8_bits(mode: str) -> None:
    values = np.linspace(0, 65535, 24 * 36).round().reshape(24, 36)
    kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
    image = Image.fromarray((values / 65535 if mode == "F" else values).astype(kind))
    assert image.mode == mode
    pixels = from_pil(image, 1, "image")
    assert pixels.dtype == (torch.float32 if mode == "F" else torch.uint16)
    np.testing.assert_allclose(pixels[0].double().numpy(), values / (65535 if mode == "F" else 1), rtol=1e-6)


def test_pil_values_outside_their_range_are_refused() -> None:
    with pytest.raises(HVSError, match=r"scan: expected a mode I image with values in \[0, 65535\], got values in \[-1, 7\]"):
        from_pil(Image.fromarray(np.array([[-1, 7]], dtype=np.int32)), 1, "scan")
    with pytest.raises(HVSError, match=r"scan: expected a floating-point image with values in \[0, 1\], got values in \[0, 7\]"):
        from_pil(Image.fromarray(np.array([[0, 7]], dtype=np.float32)), 1, "scan")


def test_unreadable_exif_is_passed_over() -> None:
    image = photograph()
    image.info["exif"] = b"Exif\0\0 garbage that is no TIFF header"
    np.testing.assert_array_equal(from_pil(image, 3, "image").numpy(), pixels_of(photograph()))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -0.01, 1.01])
def test_floating_point_outside_the_unit_range_is_refused(value: float) -> None:
    with pytest.raises(HVSError, match=r"expected a floating-point image with values in \[0, 1\]") as caught:
        to_unit_range(torch.tensor([[[0.5, value]]]))
    assert "remove Normalize" in str(caught.value)


def test_unit_range_of_each_dtype() -> None:
    assert to_unit_range(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx([0, 0.2, 1])
    assert to_unit_range(torch.tensor([0, 13107, 65535], dtype=torch.uint16)).tolist() == pytest.approx([0, 0.2, 1])
    assert to_unit_range(torch.tensor([0, 0.5, 1], dtype=torch.float64)).dtype == torch.float32
    with pytest.raises(HVSError, match="expected a uint8, uint16 or floating-point image, got a int64 tensor"):
        to_unit_range(torch.tensor([1]))


@pytest.mark.parametrize("size, max_side, expected", [((100, 50), 10, (10, 5)), ((3, 4000), 1000, (1, 1000)), ((7, 7), 3, (3, 3))])
def test_reduced_size_keeps_the_aspect(size: tuple[int, int], max_side: int, expected: tuple[int, int]) -> None:
    assert reduced_size(*size, max_side) == expected


def test_downscale_is_that_of_pil_and_does_not_touch_its_input() -> None:
    image = photograph(80, 120)
    pixels = from_pil(image, 3, "image")
    before = pixels.clone()
    small = downscale(pixels, (30, 45))
    assert hwc_memory(small) and torch.equal(pixels, before)
    expected = pixels_of(image.resize((45, 30), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(small.numpy().astype(int), expected, atol=1)
    real = downscale(before.float().div(255), (30, 45))
    assert real.dtype == torch.float32 and real.min() >= 0 and real.max() <= 1
    np.testing.assert_allclose(real.numpy() * 255, expected, atol=1)
