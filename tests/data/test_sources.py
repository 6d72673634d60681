"""Folders and archives of every odd kind: the same images and classes, none twice, none lost without a word."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import stat
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from torch.utils.data import DataLoader

from hvs_aug._check import HVSError
from hvs_aug.data import RawImages, Undecodable, collate_images
from hvs_aug.data.sources import Span, printable

from .photographs import encode, photograph

PNG = encode(photograph(), "PNG")


def tree(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(PNG)
    return root


def names(images: RawImages, root: Path) -> list[str]:
    return [os.path.relpath(path, root) for path in images.paths]


def tar_of(path: Path, *members: tuple[str, bytes | None, str], kind: str = "w") -> Path:
    """A tar of (name, data, link): a link starts with its type."""
    with tarfile.open(path, kind) as archive:
        for name, data, link in members:
            info = tarfile.TarInfo(name)
            if data is None:
                info.type = {"->": tarfile.SYMTYPE, "=>": tarfile.LNKTYPE, "|": tarfile.FIFOTYPE}[link[: 1 + (link[0] != "|")]]
                info.linkname = link[2:]
                archive.addfile(info)
            else:
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return path


def zip_of(path: Path, *members: tuple[str, bytes, int]) -> Path:
    """A zip of (name as it is written, data, Unix mode)."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data, mode in members:
            info = zipfile.ZipInfo("x")
            info.filename, info.external_attr = name, mode << 16
            archive.writestr(info, data, zipfile.ZIP_DEFLATED)
    return path


def test_links_to_folders_are_followed_once_and_loops_end(tmp_path: Path) -> None:
    root = tree(tmp_path / "r", "cat/a.png", "dog/b.png")
    for name in ("up", "up2"):
        (root / "cat" / name).symlink_to("..")
    (root / "cat" / "self").symlink_to(".")
    (root / "cat" / "round.png").symlink_to("round.png")
    assert names(RawImages(root, on_error="skip"), root) == ["cat/a.png", "cat/round.png", "dog/b.png"]
    (root / "cat" / "round.png").unlink()
    (root / "kitten").symlink_to("cat")
    images = RawImages(root)
    assert names(images, root) == ["cat/a.png", "dog/b.png", "kitten/a.png"] and images.classes == ["cat", "dog", "kitten"]


def test_folders_that_link_to_each_other_are_read_to_an_end(tmp_path: Path) -> None:
    root = tmp_path / "r"
    for name in range(9):  # 9! ways through
        tree(root, f"{name}/a.png")
        for other in range(9):
            (root / str(name) / f"to{other}").symlink_to(f"../{other}")
    assert 9 <= len(RawImages(root)) <= 9 + 81


def linked_folder(root: Path) -> Path:
    tree(root, "cat/a.png", "blobs/data")
    (root / "dog").mkdir()
    (root / "dog" / "soft.png").symlink_to("../cat/a.png")
    os.link(root / "cat" / "a.png", root / "dog" / "hard.png")
    (root / "dog" / "blob.png").symlink_to("../blobs/data")
    (root / "chain").symlink_to("dog")
    (root / "bird.png").symlink_to("chain/soft.png")
    return root


def linked_tar(path: Path) -> Path:
    return tar_of(
        path,
        ("./cat/a.png", PNG, ""),
        ("dog/soft.png", None, "->../cat/a.png"),
        ("dog/hard.png", None, "=>./cat/a.png"),
        ("dog/blob.png", None, "->../blobs/data"),
        ("chain", None, "->dog"),
        ("bird.png", None, "->chain/soft.png"),
        ("blobs/data", PNG, ""),
        kind=f"w:{path.suffix[1:].replace('tar', '')}",
    )


def linked_zip(path: Path) -> Path:
    link = stat.S_IFLNK | 0o777
    return zip_of(
        path,
        ("cat/a.png", PNG, stat.S_IFREG | 0o644),
        ("dog/soft.png", b"../cat/a.png", link),
        ("dog/hard.png", PNG, 0),
        ("dog/blob.png", b"../blobs/data", link),
        ("chain", b"dog", link),
        ("bird.png", b"chain/soft.png", link),
        ("blobs/data", PNG, 0),
    )


KINDS: dict[str, Callable[[Path], Path]] = {"": linked_folder, ".zip": linked_zip, ".tar": linked_tar, ".tar.gz": linked_tar}


@pytest.mark.parametrize("suffix", KINDS)
def test_links_count_as_what_they_lead_to_in_a_folder_and_an_archive_alike(suffix: str, tmp_path: Path) -> None:
    root = KINDS[suffix](tmp_path / f"all{suffix}")
    images = RawImages(root)
    direct = ["bird.png", "cat/a.png", "dog/blob.png", "dog/hard.png", "dog/soft.png"]
    chained = [name for name in names(images, root) if name.startswith("chain/")]
    assert [name for name in names(images, root) if name not in chained] == direct
    assert chained == ["chain/blob.png", "chain/hard.png", "chain/soft.png"]
    assert images.classes == ["all", "cat", "chain", "dog"]
    for image, _ in images:
        assert getattr(image, "shape", None) == (3, 24, 36)


@pytest.mark.parametrize("suffix", ["", ".zip", ".tar", ".tar.gz"])
def test_a_link_that_leads_nowhere_is_refused_or_skipped_by_name(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"all{suffix}"
    if suffix == "":
        tree(path, "cat/a.png")
        (path / "cat" / "b.png").symlink_to("gone.png")
    elif suffix == ".zip":
        zip_of(path, ("cat/a.png", PNG, 0), ("cat/b.png", b"gone.png", stat.S_IFLNK))
    else:
        tar_of(path, ("cat/a.png", PNG, ""), ("cat/b.png", None, "->gone.png"), kind=f"w:{path.suffix[1:].replace('tar', '')}")
    with pytest.raises(HVSError, match=r"RawImages\(path\): expected folders and files that can be read, got .*cat/b.png: a link "):
        RawImages(path)
    images = RawImages(path, on_error="skip")
    with pytest.warns(UserWarning, match=r"cat/b.png is left out"):
        assert isinstance(images[1][0], Undecodable)
    assert images.undecodable == [f"{path}/cat/b.png"] and not isinstance(images[0][0], Undecodable)


def test_links_in_an_archive_do_not_multiply_its_files_without_end(tmp_path: Path) -> None:
    members = [(f"pics/{index}.png", PNG, "") for index in range(100)]
    bomb = tar_of(tmp_path / "a.tar", *members, *[(f"link{index}", None, "->pics") for index in range(100)])
    with pytest.raises(HVSError, match="links to folders that repeat its files more than 16 times"):
        RawImages(bomb)
    loop = tar_of(
        tmp_path / "b.tar", ("a.png", PNG, ""), ("x.png", None, "->y.png"), ("y.png", None, "->x.png"), ("up", None, "->.")
    )
    assert [path[-5:] for path in RawImages(loop, on_error="skip").paths] == ["a.png", "x.png", "y.png"]


def test_names_as_other_systems_write_them(tmp_path: Path) -> None:
    members = [
        "cat\\a.png",
        "./dog/b.png",
        "./c.png",
        "//bird//d.png",
        "__MACOSX/cat/._a.png",
        "cat/._a.png",
        ".hidden/e.png",
        "A.PNG",
    ]
    for path in (
        zip_of(tmp_path / "all.zip", *[(name, PNG, 0) for name in members]),
        tar_of(tmp_path / "all.tar", *[(name.replace("\\", "/"), PNG, "") for name in members]),
    ):
        images = RawImages(path)
        assert names(images, path) == ["A.PNG", "bird/d.png", "c.png", "cat/a.png", "dog/b.png"]
        assert images.classes == ["all", "bird", "cat", "dog"]


def test_an_entry_that_was_written_again_counts_once_as_last_written(tmp_path: Path) -> None:
    newer = encode(photograph(30, 40), "PNG")
    tar = tar_of(tmp_path / "all.tar", ("cat/a.png", PNG, ""), ("cat/a.png", newer, ""))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's
        zipped = zip_of(tmp_path / "all.zip", ("cat/a.png", PNG, 0), ("cat/a.png", newer, 0))
    for path in (tar, zipped):
        images = RawImages(path)
        assert len(images) == 1 and images[0][0].shape == (3, 30, 40)  # type: ignore[attr-defined]


def test_what_is_no_regular_file_is_left_out_with_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree(tmp_path / "r", "a.png")
    os.mkfifo(root / "fifo.png")
    (root / "folder.png").mkdir()
    monkeypatch.chdir(root)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket.png")
        with pytest.warns(
            UserWarning, match=r"2 files are left out; the first is .*(fifo|socket).png: no regular file; RawImages.left_out"
        ):
            images = RawImages(root)
    assert names(images, root) == ["a.png"] and len(images.left_out) == 2
    for name in ("fifo.png", "socket.png"):
        with pytest.raises(HVSError, match=rf"got .*{name}, which is no regular file"):
            RawImages(root / name)
    tar = tar_of(tmp_path / "all.tar", ("a.png", PNG, ""), ("fifo.png", None, "|"))
    zipped = zip_of(tmp_path / "all.zip", ("a.png", PNG, 0), ("fifo.png", b"", stat.S_IFIFO))
    for path in (tar, zipped):
        with pytest.warns(UserWarning, match=r"1 files are left out; the first is .*fifo.png: no regular file"):
            assert names(RawImages(path), path) == ["a.png"]


def test_a_file_that_became_a_named_pipe_does_not_block(tmp_path: Path) -> None:
    images = RawImages(tree(tmp_path, "a.png"))
    (tmp_path / "a.png").unlink()
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(HVSError, match=r"a.png\): expected a file that can be read, got no regular file"):
        images[0]


@pytest.mark.parametrize("suffix", ["", ".zip", ".tar"])
def test_formats_that_need_a_plugin_are_read_or_named(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.init()
    files = ["cat/a.png", "cat/b.heic", "cat/c.jxl", "cat/d.nef", "e.tar.gz", "cat/f.txt"]
    path = tree(tmp_path / "r", *files)
    if suffix:
        path = tmp_path / f"all{suffix}"
        members = [(name, PNG, 0) for name in files]
        zip_of(path, *members) if suffix == ".zip" else tar_of(path, *[(name, data, "") for name, data, _ in members])
    monkeypatch.setattr(Image, "OPEN", {name: value for name, value in Image.OPEN.items() if name not in ("HEIF", "JXL")})
    with pytest.warns(UserWarning, match=r"RawImages: 4 files are left out; the first is .*; RawImages.left_out lists them"):
        images = RawImages(path)
    reasons = {os.path.relpath(line.partition(": ")[0], path): line.partition(": ")[2] for line in images.left_out}
    assert reasons == {
        "cat/b.heic": ".heic, which Pillow reads only with a plugin",
        "cat/c.jxl": ".jxl, which Pillow reads only with a plugin",
        "cat/d.nef": ".nef, which is not read",
        "e.tar.gz": "an archive inside, which is not opened",
    }
    monkeypatch.setitem(Image.OPEN, "HEIF", Image.OPEN["PNG"])
    with pytest.warns(UserWarning, match="3 files are left out"):
        assert names(RawImages(path), path) == ["cat/a.png", "cat/b.heic"]


def test_a_folder_of_nothing_else_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(
        HVSError, match=r"at least one image, got none in .* \(1 files are left out; the first is .*a.nef: .nef, which is"
    ):
        RawImages(tree(tmp_path, "a.nef"))


@pytest.mark.skipif("AVIF" not in Image.MIME and not Image.init() and "AVIF" not in Image.OPEN, reason="this Pillow has no AVIF")
@pytest.mark.skipif(".avif" not in Image.registered_extensions(), reason="this Pillow reads no AVIF")
def test_avif_counts_where_pillow_reads_it(tmp_path: Path) -> None:
    tree(tmp_path, "a.png")
    photograph().save(tmp_path / "b.avif")
    images = RawImages(tmp_path)
    assert names(images, tmp_path) == ["a.png", "b.avif"]
    assert [image.shape for image, _ in images] == [(3, 24, 36)] * 2  # type: ignore[attr-defined]


@contextlib.contextmanager
def not_listed(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[None]:
    scan = os.scandir  # permissions do not stop root, who may run the suite

    def refused(path: str) -> object:
        if str(path) == str(folder):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refused)
        yield


def test_a_folder_that_cannot_be_listed_is_refused_or_skipped_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree(tmp_path / "r", "cat/a.png", "dog/b.png")
    with not_listed(monkeypatch, root / "dog"):
        with pytest.raises(HVSError, match=r"expected folders and files that can be read, got .*/dog: Permission denied"):
            RawImages(root)
        with pytest.warns(UserWarning, match=r"1 files are left out; the first is .*/dog: Permission denied"):
            assert names(RawImages(root, on_error="skip"), root) == ["cat/a.png"]


def test_a_file_that_cannot_be_opened_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = RawImages(tree(tmp_path, "a.png"))

    def refused(*_: object) -> int:
        raise PermissionError(13, "Permission denied", "a.png")

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(HVSError, match=r"a.png\): expected a file that can be read, got Permission denied\."):
        images[0]


def test_names_that_are_not_utf_8_are_read_and_printable(tmp_path: Path) -> None:
    broken = os.fsdecode(b"caf\xe9.png")
    root = tree(tmp_path / "r", f"cat/{broken}")
    tar = tar_of(tmp_path / "all.tar", (f"cat/{broken}", PNG, ""))
    for path in (root, tar):
        images = RawImages(path)
        assert images[0][0].shape == (3, 24, 36)  # type: ignore[attr-defined]
    assert Path(RawImages(root).paths[0]).read_bytes() == PNG
    (root / "cat" / broken).write_bytes(PNG[:50])
    with pytest.raises(HVSError, match=r"caf\\xe9\.png\): expected a whole image") as caught:
        RawImages(root)[0]
    assert str(caught.value).encode("utf-8")
    with pytest.warns(UserWarning, match=r"caf\\xe9\.png is left out"):
        marker = RawImages(root, on_error="skip")[0][0]
    assert isinstance(marker, Undecodable) and marker.name.encode("utf-8").endswith(rb"caf\xe9.png")
    assert printable("déjà.png") == "déjà.png"


def lying_zip(path: Path, stated: int, data: bytes) -> Path:
    """A zip whose one deflated entry states another size than it inflates to."""
    zip_of(path, ("a.png", data, 0))
    whole = bytearray(path.read_bytes())
    for signature, place in ((b"PK\1\2", 24), (b"PK\3\4", 22)):
        where = whole.find(signature) + place
        whole[where : where + 4] = struct.pack("<I", stated)
    path.write_bytes(whole)
    return path


def test_a_zip_entry_that_lies_about_its_size_is_refused_without_being_inflated(tmp_path: Path) -> None:
    bomb = bytes(300_000_000)
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    assert len(compressor.compress(bomb) + compressor.flush()) < 400_000
    for stated, words in (
        (1000, "does not inflate to the 1,000 bytes that the .zip states"),
        (300_000_000, "300,000,000 bytes, more than"),
    ):
        path = lying_zip(tmp_path / "a.zip", stated, bomb if stated == 1000 else PNG)
        with pytest.raises(HVSError, match=rf"a.zip/a.png\): expected a file that can be read, got {words}"):
            RawImages(path)[0]
    with pytest.raises(HVSError, match="does not inflate to the 9 bytes"):
        RawImages(lying_zip(tmp_path / "b.zip", 9, PNG))[0]
    with pytest.raises(HVSError, match="does not inflate to the 99,999 bytes"):
        RawImages(lying_zip(tmp_path / "b.zip", 99_999, PNG))[0]


def test_a_zip_entry_that_is_damaged_is_refused_by_its_checksum(tmp_path: Path) -> None:
    bitmap = encode(photograph(), "BMP")  # a format that has no checksum of its own
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.bmp", bitmap)
    whole = bytearray((tmp_path / "a.zip").read_bytes())
    whole[500] ^= 0x40
    (tmp_path / "a.zip").write_bytes(whole)
    with pytest.raises(HVSError, match=r"a.bmp\): expected a file that can be read, got the checksum in the .zip is another"):
        RawImages(tmp_path / "a.zip")[0]


def test_an_encrypted_entry_is_refused_or_skipped_by_name(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", ("cat/a.png", PNG, 0), ("cat/b.png", PNG, 0))
    whole = bytearray(path.read_bytes())
    whole[whole.rfind(b"PK\1\2") + 8] |= 1
    path.write_bytes(whole)
    with pytest.raises(HVSError, match="a.zip/cat/b.png: encrypted"):
        RawImages(path)
    with pytest.warns(UserWarning, match="b.png is left out .*encrypted"):
        batch, labels = collate_images([RawImages(path, on_error="skip")[index] for index in (0, 1)])
    assert len(batch) == 1 and labels.tolist() == [0]


@pytest.mark.parametrize("kind", ["tar", "gz", "xz"])
def test_a_tar_that_goes_on_behind_a_damaged_header_is_refused(kind: str, tmp_path: Path) -> None:
    tar_of(tmp_path / "a.tar", *[(f"cat/{index}.png", PNG, "") for index in range(5)])
    whole = bytearray((tmp_path / "a.tar").read_bytes())
    header = next(place for place in range(0, len(whole), 512) if whole[place : place + 5] == b"cat/3")
    whole[header : header + 100] = b"x" * 100  # its checksum is wrong now; tarfile ends here without a word
    (tmp_path / "a.tar").write_bytes(whole)
    path = tmp_path / "a.tar"
    if kind != "tar":
        import gzip
        import lzma

        path = tmp_path / f"a.tar.{kind}"
        path.write_bytes({"gz": gzip.compress, "xz": lzma.compress}[kind](bytes(whole)))
    with pytest.raises(
        HVSError, match=rf"an archive that can be read, got .*{path.name} \(no header of a member at byte {header:,}\)"
    ):
        RawImages(path)


def test_a_large_member_of_a_compressed_tar_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        info = tarfile.TarInfo("a.png")
        info.size = (1 << 28) + 1
        with open("/dev/zero", "rb") as zeros:
            archive.addfile(info, zeros)
    images = RawImages(path, on_error="skip")
    with pytest.warns(UserWarning, match=r"268,435,457 bytes, more than the 268,435,456 that are read"):
        images[0]


def test_a_file_that_shrank_is_refused(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "a.tar", ("cat/a.png", PNG, ""))
    images = RawImages(path)
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(HVSError, match=r"got 88 of [\d,]+ bytes: the file is cut short"):
        images[0]
    zipped = zip_of(tmp_path / "a.zip", ("cat/a.png", PNG, 0))
    images = RawImages(zipped)
    zipped.write_bytes(b"text" * 100)
    with pytest.raises(HVSError, match="got no file where the directory of the .zip says"):
        images[0]


def test_archives_of_10_000_entries(tmp_path: Path) -> None:
    small = encode(Image.new("L", (1, 1)), "PNG")
    for path in (
        tar_of(tmp_path / "a.tar", *[(f"{index % 10}/{index}.png", small, "") for index in range(10_000)]),
        zip_of(tmp_path / "a.zip", *[(f"{index % 10}/{index}.png", small, 0) for index in range(10_000)]),
    ):
        images = RawImages(path)
        assert len(images) == 10_000 and len(images.classes) == 10
        assert images[9_999][0].shape == (3, 1, 1)  # type: ignore[attr-defined]


class Killed(RawImages):
    """Whose second image kills the process that decodes it, as a fault in a decoder would."""

    def __getitem__(self, index: int) -> tuple[object, ...]:
        if index == 1:
            self._spans[1] = KillingSpan("")  # type: ignore[call-overload]
        return super().__getitem__(index)


class KillingSpan(Span):
    def read(self) -> bytes:
        os.kill(os.getpid(), 9)
        return b""


def test_the_file_that_killed_a_worker_is_known(tmp_path: Path) -> None:
    images = Killed(tree(tmp_path, "a.png", "b.png", "c.png"))
    with pytest.raises(RuntimeError, match="exited unexpectedly|killed by signal"):
        list(DataLoader(images, batch_size=3, collate_fn=collate_images, num_workers=1))
    assert images.unfinished == [str(tmp_path / "b.png")] and images.undecodable == []
