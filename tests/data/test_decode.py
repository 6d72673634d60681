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

from hvs_aug._check import HVSError
from hvs_aug.data import collate_images, decode, pillow
from hvs_aug.data.decode import decode_image
from hvs_aug.data.pillow import from_pil
from hvs_aug.data.pixels import downscale, reduced_size, to_unit_range

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


COLOUR = {"L": 0, "RGB": 2, "LA": 4, "RGBA": 6}


def png16(values: np.ndarray[Any, Any], *extra: bytes, behind: bytes = b"", body: bytes | None = None) -> bytes:
    """A 16-bit PNG of (H, W, C) values, with chunks before and behind those of its pixels."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    colour = {1: 0, 3: 2, 2: 4, 4: 6}[channels]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(rows)) if body is None else body
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + pixels + behind + chunk(b"IEND", b"")


def chunk(kind: bytes, body: bytes, wrong: int = 0) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) ^ wrong)


def values16(channels: int, height: int = 5, width: int = 7) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 65536, (height, width, channels), dtype=np.uint16)


EXTRA = {"none": (), "gAMA": (chunk(b"gAMA", struct.pack(">I", 45455)),), "sRGB": (chunk(b"sRGB", b"\0"),)}


@pytest.mark.parametrize("extra", EXTRA)
@pytest.mark.parametrize("bands", [2, 3, 4])
def test_16_bit_colour_png_keeps_its_16_bits(bands: int, extra: str) -> None:
    values = values16(bands)
    for channels in {3, bands}:
        pixels, _ = decode_image(png16(values, *EXTRA[extra]), channels)
        assert pixels.dtype == torch.uint16 and hwc_memory(pixels)
        colours = values if channels == bands else values[..., :1].repeat(3, 2) if bands == 2 else values[..., :3]
        np.testing.assert_array_equal(pixels.numpy(), colours.transpose(2, 0, 1))


@pytest.mark.parametrize("extra", EXTRA)
@pytest.mark.parametrize("bands", [3, 4])
def test_16_bit_colour_in_one_channel_is_pils_gray(bands: int, extra: str) -> None:
    values = values16(bands)
    data = png16(values, *EXTRA[extra])
    pixels, _ = decode_image(data, channels=1)
    assert pixels.dtype == torch.float32
    luma = values[..., :3].astype(float) @ [0.299, 0.587, 0.114] / 65535
    np.testing.assert_allclose(pixels[0].numpy(), luma, atol=1e-5)
    np.testing.assert_allclose(pixels[0].numpy() * 255, by_pil(data, "L")[0], atol=1.5)  # Pillow drops the lower 8 bits first


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bands", [3, 4])
def test_16_bit_colour_tiff_keeps_its_16_bits(order: str, bands: int) -> None:
    values = values16(bands)
    pixels, _ = decode_image(tiff16(values, order))
    assert pixels.dtype == torch.uint16
    np.testing.assert_array_equal(pixels.numpy(), values[..., :3].transpose(2, 0, 1))


def tiff16(values: np.ndarray[Any, Any], order: str) -> bytes:
    """An uncompressed TIFF of (H, W, C) 16-bit values."""
    height, width, channels = values.shape
    tags = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, channels, 8), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 200)]
    tags += [(277, 3, 1, channels), (278, 3, 1, height), (279, 4, 1, values.size * 2), *([(338, 3, 1, 2)] if channels == 4 else [])]
    body = struct.pack(f"{order}{channels}H", *[16] * channels).ljust(12, b"\0") + struct.pack(f"{order}H", len(tags))
    for tag, kind, count, value in tags:
        packed = struct.pack(f"{order}HH", value, 0) if kind == 3 and count == 1 else struct.pack(f"{order}I", value)
        body += struct.pack(f"{order}HHI", tag, kind, count) + packed
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 20)
    return (head + body).ljust(200, b"\0") + values.astype(f"{order}u2").tobytes()


def test_damaged_16_bit_png_is_refused_and_ends_no_process() -> None:
    values = values16(3, 64, 64)
    whole = png16(values)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    packed = zlib.compress(rows)
    flipped = bytearray(packed)
    flipped[30] ^= 0xFF
    wrong = {
        "cut short": whole[:-60],
        "flipped byte": png16(values, body=chunk(b"IDAT", bytes(flipped))),
        "checksum": png16(values, body=chunk(b"IDAT", packed[:40], wrong=1) + chunk(b"IDAT", packed[40:])),
        "rows": png16(values, body=chunk(b"IDAT", zlib.compress(rows[: len(rows) // 2]))),
        "filter": png16(values, body=chunk(b"IDAT", zlib.compress(b"\x09" + rows[1:]))),
        "end": whole[:-12],
    }
    for name, data in wrong.items():
        with pytest.raises(HVSError, match="photo.png: expected a whole image"):
            print(name, decode_image(data, name="photo.png")[0].shape)


def test_interlaced_16_bit_png_is_whole() -> None:
    # One pixel is all in the first pass of Adam7.
    data = png16(values16(3, 1, 1))
    interlaced = data[:8] + chunk(b"IHDR", data[16:28] + b"\x01") + data[33:]
    assert torch.equal(decode_image(interlaced)[0], decode_image(data)[0])


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


@pytest.mark.parametrize("size", [(600, 900), (2, 3000), (257, 259), (3000, 1)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_reduced_jpeg_is_the_whole_image_reduced_within_one_level(size: tuple[int, int], orientation: int) -> None:
    data = oriented(photograph(*size), orientation)
    small, reduced = decode_image(data, max_side=50)
    assert reduced and hwc_memory(small) and max(small.shape) == 50
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    expected = pixels_of(upright.resize((small.shape[2], small.shape[1]), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(small.numpy().astype(int), expected, atol=1)


def test_what_an_encoder_wrote_beyond_the_edge_does_not_show_in_a_reduced_jpeg() -> None:
    pixels = np.full((208, 208, 3), 40, np.uint8)
    pixels[:, 201:] = pixels[201:] = 255
    data = bytearray(encode(Image.fromarray(pixels), quality=95, subsampling=0))
    frame = data.find(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 201, 201)
    small, _ = decode_image(data, max_side=50)
    expected = pixels_of(Image.open(io.BytesIO(data)).resize((50, 50), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(small.numpy().astype(int), expected, atol=1)


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


def exif_of(*tags: tuple[int, int, int, bytes], order: str = "<", more: bytes = b"") -> bytes:
    """EXIF with (tag, type, count, value or offset) in its first directory, and bytes behind it."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(tags))
    body = b"".join(struct.pack(f"{order}HHI", tag, kind, count) + value.ljust(4, b"\0") for tag, kind, count, value in tags)
    return b"Exif\0\0" + head + body + bytes(4) + more


TURN = (0x0112, 3, 1, struct.pack("<H", 6))
RDF = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" %s/></x:xmpmeta>'
ORIENTED = {
    "short": exif_of(TURN),
    "big-endian short": exif_of((0x0112, 3, 1, b"\0\6"), order=">"),
    "big-endian long": exif_of((0x0112, 4, 1, b"\0\0\0\6"), order=">"),
    "little-endian long": exif_of((0x0112, 4, 1, b"\6\0\0\0")),
    "byte": exif_of((0x0112, 1, 1, b"\6")),
    "text": exif_of((0x0112, 2, 2, b"6\0")),
    "two values": exif_of((0x0112, 3, 2, b"\6\0\3\0")),
    "no value": exif_of((0x0112, 3, 0, b"")),
    "nine": exif_of((0x0112, 3, 1, b"\x09")),
    "unknown type": exif_of((0x0112, 77, 1, b"\6")),
    "rational": exif_of((0x0112, 5, 1, struct.pack("<I", 26)), more=struct.pack("<II", 6, 1)),
    "behind an odd tag": exif_of((0x0100, 12, 1, struct.pack("<I", 9999)), TURN),
    "no tags": exif_of(),
}


def files_with(exif: bytes) -> dict[str, bytes]:
    image = photograph(48, 64)
    xmp = b"http://ns.adobe.com/xap/1.0/\0" + RDF % b""
    plain = encode(image, exif=exif)
    segment = b"\xff\xe1" + struct.pack(">H", len(xmp) + 2) + xmp
    files = {kind: encode(image, kind, exif=exif) for kind in ("JPEG", "PNG", "WebP")}
    files["JPEG behind XMP"] = plain[:2] + segment + plain[2:]
    files["16-bit PNG"] = png16(values16(3, 48, 64), chunk(b"eXIf", exif[6:]))
    files["16-bit PNG, behind the pixels"] = png16(values16(3, 48, 64), behind=chunk(b"eXIf", exif[6:]))
    return files


@pytest.mark.filterwarnings("ignore:Metadata Warning", "ignore:Truncated File Read")  # Pillow's
@pytest.mark.parametrize("case", ORIENTED)
def test_orientation_is_that_of_pillow_on_every_path(case: str) -> None:
    for kind, data in files_with(ORIENTED[case]).items():
        expected = by_pil(data)
        for channels, max_side in ((3, None), (1, None), (3, 32)):
            got, _ = decode_image(data, channels, max_side)
            whole = expected.shape[1:]
            assert tuple(got.shape[1:]) == (whole if max_side is None else (whole[0] // 2, whole[1] // 2)), (
                kind,
                channels,
                max_side,
            )
        if "16-bit" not in kind:
            np.testing.assert_allclose(decode_image(data)[0].numpy().astype(int), expected, atol=1)
        else:
            np.testing.assert_array_equal(decode_image(data)[0].numpy() >> 8, expected)
        opened = collate_images([Image.open(io.BytesIO(data))])
        assert opened.sizes.tolist() == [list(whole)], kind


@pytest.mark.parametrize("attribute", [b'tiff:Orientation="6"', b"tiff:Orientation='6'", b'tiff:Orientation="0"'])
def test_orientation_of_xmp_is_that_of_pillow(attribute: bytes) -> None:
    xmp = RDF % attribute
    segment = b"http://ns.adobe.com/xap/1.0/\0" + xmp
    jpeg = encode(photograph(48, 64))
    files = [
        jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:],
        png16(values16(3, 48, 64), chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)),
        encode(photograph(48, 64), "WebP", xmp=xmp),
    ]
    for data in files:
        assert decode_image(data)[0].shape == by_pil(data).shape
        assert decode_image(data, max_side=32)[0].shape[1:] == tuple(side // 2 for side in by_pil(data).shape[1:])


ODD_TAGS = {
    "Copyright as a double": exif_of(TURN, (0x8298, 12, 1, struct.pack("<I", 38)), more=struct.pack("<d", 1.5)),
    "ResolutionUnit as undefined": exif_of(TURN, (0x0128, 7, 8, struct.pack("<I", 38)), more=b"abcd1234"),
    "a directory that is none": exif_of(TURN, (0x8769, 4, 1, struct.pack("<I", 5000))),
}


@pytest.mark.parametrize("case", ODD_TAGS)
def test_an_odd_tag_costs_the_tag_and_not_the_picture(case: str) -> None:
    image = photograph(48, 64)
    for kind in ("JPEG", "PNG", "WebP"):
        data = encode(image, kind, exif=ODD_TAGS[case])
        upright = pixels_of(Image.open(io.BytesIO(data)).convert("RGB").transpose(Image.Transpose.ROTATE_270))
        np.testing.assert_allclose(decode_image(data)[0].numpy().astype(int), upright, atol=1)
        assert decode_image(data, max_side=32)[0].shape == (3, 32, 24)
        assert collate_images([Image.open(io.BytesIO(data))]).sizes.tolist() == [[64, 48]]


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiff_is_turned_once(orientation: int, compression: str | None) -> None:
    tags = {274: orientation, 0x8298: "c"}
    data = encode(photograph(), "TIFF", tiffinfo=tags, **({"compression": compression} if compression else {}))
    expected = pixels_of(Image.open(io.BytesIO(data)).convert("RGB"))  # Pillow's decoder turns a TIFF
    np.testing.assert_array_equal(decode_image(data)[0].numpy(), expected)
    loaded = Image.open(io.BytesIO(data))
    loaded.load()
    for image in (Image.open(io.BytesIO(data)), loaded):
        np.testing.assert_array_equal(from_pil(image, 3, "image").numpy(), expected)


def test_one_channel_of_a_colour_jpeg_is_pils_gray_where_colours_are_clipped() -> None:
    chroma = Image.merge("YCbCr", [Image.new("L", (16, 16), value) for value in (10, 250, 20)])
    data = encode(chroma, quality=100, subsampling=0)
    np.testing.assert_allclose(decode_image(data, channels=1)[0].numpy().astype(int), by_pil(data, "L"), atol=1)


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WebP", "TIFF"])
def test_the_first_frame_counts(kind: str) -> None:
    frames = [photograph(seed=seed) for seed in range(3)]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode_image(data)[0].numpy(), by_pil(data))


def test_large_images_are_converted_strip_by_strip_to_the_same_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    images = [photograph(50, 30).convert(mode) for mode in ("RGB", "P", "CMYK", "LA", "1")]
    whole = [from_pil(image, 3, "image") for image in images]
    monkeypatch.setattr(pillow, "_STRIP", 300)
    for image, expected in zip(images, whole, strict=True):
        assert torch.equal(from_pil(image, 3, "image"), expected)


HUGE = {
    "PNG": b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 11000, 11000, 8, 2, 0, 0, 0)) + chunk(b"IDAT", b""),
    "16-bit PNG": b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 9000, 9000, 16, 2, 0, 0, 0)) + chunk(b"IDAT", b""),
    "PPM": b"P6 11000 11000 255\n",
    "BMP": b"BM" + struct.pack("<IIIIiiHHIIIIII", 0, 0, 54, 40, 11000, 11000, 1, 24, 0, 0, 0, 0, 0, 0),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", HUGE)
def test_an_image_that_would_take_more_than_1_gib_is_refused_before_it_is_decoded(kind: str) -> None:
    with pytest.raises(
        HVSError, match=r"huge: expected an image of at most [\d,]+ pixels, got (11000 x 11000|9000 x 9000) pixels"
    ) as caught:
        decode_image(HUGE[kind], name="huge")
    assert "reduce it beforehand" in str(caught.value)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_jpeg_of_absurd_dimensions_is_refused_before_it_is_decoded() -> None:
    data = bytearray(encode(photograph()))
    frame = data.find(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 65000, 65000)
    with pytest.raises(HVSError, match=r"expected an image of at most [\d,]+ pixels, got 65000 x 65000 pixels"):
        decode_image(data)


def test_formats_that_run_other_programs_are_no_images() -> None:
    with pytest.raises(HVSError, match="expected a whole image, got .*no image format that Pillow reads"):
        decode_image(encode(photograph(), "EPS"))


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


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32])
@pytest.mark.parametrize("size", [(24, 1), (1, 24), (1, 1), (20, 7)])
def test_downscale_to_any_size_is_that_of_pil(dtype: torch.dtype, size: tuple[int, int]) -> None:
    # torch interpolates floating point to a width of 1 wrongly.
    top = {torch.uint8: 255, torch.uint16: 65535, torch.float32: 1}[dtype]
    for channels in (1, 3):
        values = np.random.default_rng(0).random((channels, 36, 27)) * top
        pixels = torch.from_numpy(values.round() if top > 1 else values).to(dtype)
        bands = [Image.fromarray(band.double().numpy().astype(np.float32)) for band in pixels]
        expected = np.stack([np.asarray(band.resize(size[::-1], Image.Resampling.BILINEAR)) for band in bands])
        small = downscale(pixels, size)
        assert small.dtype == dtype and hwc_memory(small)
        np.testing.assert_allclose(small.double().numpy(), expected, atol=1 if top > 1 else 1e-5)


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
