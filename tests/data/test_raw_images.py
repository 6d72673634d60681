from __future__ import annotations

import gc
import multiprocessing
import pickle
import tarfile
import warnings
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from hvs_aug._check import HVSError
from hvs_aug.data import ImageBatch, RawImages, Undecodable, collate_images, decode_image

from .photographs import encode, photograph

FILES = {  # name inside the folder or archive -> seed
    "cat/2.jpg": 2,
    "cat/10.jpg": 10,
    "dog/1.png": 1,
    "dog/b/3.JPEG": 3,
}
NOISE = {"readme.txt": b"no image", ".hidden.jpg": b"x", "cat/._2.jpg": b"x", "__MACOSX/cat/2.jpg": b"x", ".git/4.jpg": b"x"}


def encoded(name: str, seed: int) -> bytes:
    return encode(photograph(20 + seed, 30, seed), "PNG" if name.endswith("png") else "JPEG")


def contents(prefix: str = "") -> dict[str, bytes]:
    files = {name: encoded(name, seed) for name, seed in FILES.items()} | NOISE
    return {prefix + name: data for name, data in files.items()}


def folder_of(path: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def archive_of(path: Path, files: dict[str, bytes], source: Path) -> Path:
    folder_of(source, files)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for index, name in enumerate(reversed(files)):
                archive.write(source / name, name, zipfile.ZIP_DEFLATED if index % 2 else zipfile.ZIP_STORED)
    else:
        kind = path.suffix[1:].replace("tgz", "gz")
        with tarfile.open(path, "w" if kind == "tar" else f"w:{kind}") as archive:
            for name in reversed(files):
                archive.add(source / name, name)
    return path


SOURCES = ["folder", "a.zip", "a.tar", "a.tar.gz", "a.tgz", "a.tar.bz2", "a.tar.xz"]


def source_of(kind: str, tmp_path: Path, files: dict[str, bytes]) -> Path:
    return folder_of(tmp_path / kind, files) if kind == "folder" else archive_of(tmp_path / kind, files, tmp_path / "source")


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("prefix", ["", "train/"])
def test_class_folders_anywhere(kind: str, prefix: str, tmp_path: Path) -> None:
    path = source_of(kind, tmp_path, contents(prefix))
    images = RawImages(path, return_path=True)
    assert images.classes == ["b", "cat", "dog"] and len(images) == 4
    assert images.paths == [f"{path}/{prefix}{name}" for name in ("cat/10.jpg", "cat/2.jpg", "dog/1.png", "dog/b/3.JPEG")]
    assert images.labels == [1, 1, 2, 0]
    for (image, label, name), seed in zip(images, (10, 2, 1, 3), strict=True):
        assert isinstance(image, torch.Tensor) and image.permute(1, 2, 0).is_contiguous()
        assert torch.equal(image, decode_image(encoded(str(name), seed))[0])
        assert images.classes[int(str(label))] == str(name).split("/")[-2]


@pytest.mark.parametrize("kind", SOURCES)
def test_a_flat_source_is_one_class_of_its_own_name(kind: str, tmp_path: Path) -> None:
    path = source_of(kind, tmp_path, {"2.jpg": encode(photograph()), "1.jpg": encode(photograph())})
    images = RawImages(path)
    assert images.classes == ["folder" if kind == "folder" else "a"] and images.labels == [0, 0]
    assert [Path(name).name for name in images.paths] == ["1.jpg", "2.jpg"] and len(images[0]) == 2


def test_a_dot_in_front_of_members_is_no_hidden_folder(tmp_path: Path) -> None:
    path = archive_of(tmp_path / "a.tar", {"./cat/1.jpg": encode(photograph())}, tmp_path / "source")
    assert RawImages(path).classes == ["cat"]


def test_files_and_lists_of_files(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "photos", {"b.jpg": encode(photograph()), "a/x": encode(photograph(), "PNG")})
    assert RawImages(str(folder / "b.jpg")).classes == ["photos"]
    images = RawImages([folder / "b.jpg", folder / "a" / "x"])  # named outright, a file needs no suffix
    assert images.classes == ["a", "photos"] and [tuple(image.shape) for image, _ in images] == [(3, 24, 36)] * 2
    assert len(RawImages([folder, folder / "b.jpg"])) == 2


def test_channels_and_max_side_and_the_count_of_reduced_images(tmp_path: Path) -> None:
    files = {"1.jpg": encode(photograph(90, 60)), "2.jpg": encode(photograph(10, 20)), "3.png": encode(photograph(50, 40), "PNG")}
    images = RawImages(folder_of(tmp_path, files), channels=1, max_side=40)
    assert [tuple(image.shape) for image, _ in images] == [(1, 40, 27), (1, 10, 20), (1, 40, 32)]
    batch, labels = collate_images([images[0], images[1], images[2]], channels=1)
    assert batch.downscaled == 2 and labels.tolist() == [0, 0, 0]
    assert collate_images([images[0], images[1]], channels=1, max_side=20)[0].downscaled == 1
    assert RawImages(tmp_path, max_side=None)[0][0].shape == (3, 90, 60)


BROKEN = {
    "a/ok.jpg": encode(photograph()),
    "b/cut.jpg": encode(photograph(64, 64))[:-50],
    "b/text.png": b"text",
    "c/ok.png": encode(photograph()),
}


@pytest.mark.parametrize("kind", ["folder", "a.zip", "a.tar"])
def test_a_broken_file_raises_by_name(kind: str, tmp_path: Path) -> None:
    images = RawImages(source_of(kind, tmp_path, BROKEN))
    assert len(images) == 4
    for index, name in ((1, r"b/cut\.jpg"), (2, r"b/text\.png")):
        with pytest.raises(
            HVSError, match=rf"^RawImages\(.*{kind}/{name}\): expected a whole image, got \d+ bytes that do not decode"
        ):
            images[index]
    assert images.undecodable == []


def test_skipped_files_are_counted_and_never_black(tmp_path: Path) -> None:
    images = RawImages(folder_of(tmp_path, BROKEN), on_error="skip", return_path=True)
    with pytest.warns(UserWarning, match=r"b/cut\.jpg is left out \(expected a whole .* RawImages.undecodable lists them"):
        marker = images[1][0]
    assert isinstance(marker, Undecodable) and marker.name == str(tmp_path / "b/cut.jpg") and "\n" not in marker.reason
    batch, labels, paths = collate_images([images[index] for index in range(4)])  # and no second warning
    assert len(batch) == 2 and labels.tolist() == [0, 2] and [Path(path).name for path in paths] == ["ok.jpg", "ok.png"]
    assert (
        [name.partition(": ")[0] for name in batch.skipped]
        == images.undecodable
        == [str(tmp_path / f"b/{n}") for n in ("cut.jpg", "text.png")]
    )
    with pytest.raises(HVSError, match="expected at least one image that decodes, got 2 that do not; the first is .*cut.jpg"):
        collate_images([images[1], images[2]])


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_read_archives_and_report_what_they_skip(context: str, tmp_path: Path) -> None:
    for kind in ("a.tar.gz", "a.zip") if context == "fork" else ("a.tar.gz",):
        images = RawImages(source_of(kind, tmp_path, BROKEN), on_error="skip")
        collate = partial(collate_images, max_side=30)
        loader = DataLoader(images, batch_size=4, collate_fn=collate, num_workers=1, multiprocessing_context=context)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # inherited by a forked worker
            [(batch, labels)] = list(loader)
        assert isinstance(batch, ImageBatch) and batch.pixels.is_shared() and batch.downscaled == 2
        assert labels.tolist() == [0, 2] and batch.sizes.tolist() == [[20, 30]] * 2
        assert len(batch.skipped) == 2 and [Path(path).name for path in images.undecodable] == ["cut.jpg", "text.png"]
        assert torch.equal(batch.pixels, collate([images[0], images[3]])[0].pixels)  # the unpacked archive outlives the worker


def test_it_pickles(tmp_path: Path) -> None:
    images = RawImages(source_of("a.zip", tmp_path, contents()))
    again = pickle.loads(pickle.dumps(images))
    assert again.paths == images.paths and torch.equal(again[1][0], images[1][0])
    assert repr(again) == f"RawImages(4 images of 3 classes, from {tmp_path}/a.zip/cat/10.jpg on)"


def test_the_unpacked_copy_of_a_compressed_tar_goes_with_the_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = source_of("a.tgz", tmp_path, contents())
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    images = RawImages(path)
    assert len(list((tmp_path / "temporary").iterdir())) == 1 and len(images) == 4
    del images
    gc.collect()
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_forked_process_that_drops_the_dataset_leaves_the_unpacked_copy(tmp_path: Path) -> None:
    held = [RawImages(source_of("a.tgz", tmp_path, contents()))]
    other = multiprocessing.get_context("fork").Process(target=held.clear)
    other.start()
    other.join()
    assert other.exitcode == 0 and torch.equal(held[0][1][0], decode_image(encoded("cat/2.jpg", 2))[0])


def test_a_zip_behind_other_bytes_is_read(tmp_path: Path) -> None:
    path = source_of("a.zip", tmp_path, contents())
    path.write_bytes(b"#!/bin/sh\n" * 9 + path.read_bytes())
    assert torch.equal(RawImages(path)[1][0], decode_image(encoded("cat/2.jpg", 2))[0])


def bad_sources(tmp_path: Path) -> dict[str, tuple[Any, str, str]]:
    empty, textual = tmp_path / "empty", folder_of(tmp_path / "textual", {"a.txt": b"text"})
    empty.mkdir()
    whole = source_of("a.zip", tmp_path, contents()).read_bytes()
    tar = source_of("a.tar", tmp_path, contents()).read_bytes()
    gz = source_of("a.tgz", tmp_path, contents()).read_bytes()
    made = folder_of(
        tmp_path / "made", {"cut.zip": whole[:-40], "cut.tar": tar[:700], "cut.tgz": gz[: len(gz) // 2], "text.tar": b"text"}
    )
    with zipfile.ZipFile(made / "lzma.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.jpg", encode(photograph()))
    with zipfile.ZipFile(made / "none.zip", "w") as archive:
        archive.writestr("a.txt", "text")
    return {
        "missing": (tmp_path / "nowhere", f"an existing folder, .zip, .tar or image file, got {tmp_path}/nowhere", ""),
        "missing in list": ([tmp_path / "nowhere.jpg"], "nowhere.jpg", ""),
        "empty": (empty, f"expected at least one image, got none in {empty}", "images are files that end in .bmp, .dib"),
        "no image": (textual, f"expected at least one image, got none in {textual}", ".webp"),
        "no image in zip": (made / "none.zip", "none.zip", ".webp"),
        "empty list": ([], "got none in an empty list", ""),
        "cut zip": (made / "cut.zip", f"an archive that can be read, got {made}/cut.zip (File is not a zip file)", "cut short"),
        "cut tar": (made / "cut.tar", f"an archive that can be read, got {made}/cut.tar", "cut short"),
        "cut tgz": (made / "cut.tgz", f"an archive that can be read, got {made}/cut.tgz", "cut short"),
        "text as tar": (made / "text.tar", f"an archive that can be read, got {made}/text.tar", "no archive"),
        "lzma zip": (
            made / "lzma.zip",
            "lzma.zip/a.jpg: neither stored nor deflated; pack the images again, with zip -0",
            "on_error",
        ),
    }


CASES = ["missing", "missing in list", "empty", "no image", "no image in zip", "empty list", "cut zip", "cut tar", "cut tgz"]


@pytest.mark.parametrize("case", [*CASES, "text as tar", "lzma zip"])
def test_bad_sources_are_refused_in_words(case: str, tmp_path: Path) -> None:
    source, message, hint = bad_sources(tmp_path)[case]
    with pytest.raises(HVSError) as caught:
        RawImages(source)
    assert str(caught.value).startswith("RawImages(path): expected ") and message in str(caught.value) and hint in str(caught.value)


def test_a_file_that_is_no_image_or_vanished_is_refused(tmp_path: Path) -> None:
    images = RawImages([folder_of(tmp_path, {"notes.txt": b"text"}) / "notes.txt"])
    with pytest.raises(HVSError, match=r"RawImages\(.*notes.txt\): expected a whole image, got 4 bytes that do not decode"):
        images[0]
    (tmp_path / "notes.txt").unlink()
    with pytest.raises(HVSError, match=r"RawImages\(.*notes.txt\): expected a file that can be read, got .*No such file"):
        images[0]


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(HVSError, match=r"RawImages\(on_error\): expected one of raise, skip, got 'skp'") as caught:
        RawImages(".", on_error="skp")
    assert "did you mean 'skip'?" in str(caught.value)


def test_a_folder_reached_through_a_link_or_with_a_slash(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "photos", {"a/1.jpg": encode(photograph()), "2.jpg": encode(photograph())})
    (tmp_path / ".linked").symlink_to(folder)
    for path in (f"{folder}/", tmp_path / ".linked"):  # hidden counts below the folder that was asked for
        assert RawImages(path).classes == ["a", "photos"]
    (folder / "b").symlink_to(folder / "a")
    assert RawImages(folder).classes == ["a", "b", "photos"]


def test_without_collate_images_a_loader_stacks_what_it_can_and_names_it_otherwise(tmp_path: Path) -> None:
    for number, side in enumerate((8, 8, 9)):
        Image.new("RGB", (side, side)).save(tmp_path / f"{number}.png")
    images = RawImages(tmp_path)
    loader = DataLoader(images, batch_size=2)
    stacked, labels = next(iter(loader))
    assert type(stacked) is torch.Tensor and stacked.shape == (2, 3, 8, 8) and labels.tolist() == [0, 0]
    with pytest.raises(HVSError, match=r"shapes \(3, 8, 8\) and \(3, 9, 9\).\n  hint: .*collate_fn=hvs_aug.collate_images"):
        next(iter(DataLoader(images, batch_size=3)))
    (tmp_path / "0.png").write_bytes(b"no image")
    with pytest.warns(UserWarning, match="left out"), pytest.raises(HVSError, match="one that does not decode"):
        next(iter(DataLoader(RawImages(tmp_path, on_error="skip"), batch_size=2)))
