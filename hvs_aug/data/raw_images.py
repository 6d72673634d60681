"""The photographs in a folder, a .zip or a .tar, decoded on demand and labelled by their folder."""

from __future__ import annotations

import lzma
import os
import shutil
import struct
import tarfile
import tempfile
import warnings
import weakref
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from .._check import HVSError, fail, require_name
from .collate import Undecodable
from .decode import decode_image

__all__ = ["RawImages"]

_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"},
)
_ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")


class _Span(NamedTuple):
    """Where the bytes of one image lie; no open handle, so that any process or thread can read it after fork, spawn or pickle."""

    file: str
    offset: int = 0
    size: int = -1  # to the end
    zip_method: int | None = None

    def read(self) -> bytes:
        with open(self.file, "rb") as file:
            file.seek(self.offset)
            if self.zip_method is not None:
                # A zip entry's data follow its local header, whose name and extra field may differ from the directory's.
                file.seek(sum(struct.unpack("<HH", file.read(30)[26:])), os.SEEK_CUR)
            data = file.read(self.size)
        return zlib.decompress(data, -zlib.MAX_WBITS) if self.zip_method == zipfile.ZIP_DEFLATED else data


class RawImages(Dataset[tuple[object, ...]]):
    """Raw images with the index of their class: the name of the folder that each file lies in.

    Args:
        path: a folder, searched in depth; a .zip or a .tar (a compressed .tar is unpacked once, into a temporary file); an
            image file; or a list of such paths. In folders and archives, files count by their suffix, hidden ones never.
        on_error: "raise", or "skip": an image that does not decode becomes an :class:`Undecodable`, which collate_images
            leaves out of the batch; the first one warns, and ``undecodable`` lists them all, from every worker process.
        return_path: whether the path follows the label in a sample.
        channels: as in :func:`collate_images`.
        max_side: as in :func:`collate_images`, which counts what was reduced here too.

    Attributes:
        classes: names of the classes, sorted. A flat folder or archive has one, its own name.
        paths: of each image, sorted; inside an archive, ``archive/member``.
        labels: of each image, an index into ``classes``.

    Shape: a sample is (image (C, H, W) of (H, W, C) memory, label) or (image, label, path).
    Raises: HVSError naming the path if it is missing, has no image, or is an archive that cannot be read; and, on access, naming
        the file that does not decode.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        on_error: str = "raise",
        return_path: bool = False,
        *,
        channels: int = 3,
        max_side: int | None = 1024,
    ) -> None:
        require_name(on_error, ("raise", "skip"), "RawImages(on_error)")
        self.on_error, self.return_path, self.channels, self.max_side = on_error, return_path, channels, max_side
        sources = [path] if isinstance(path, (str, os.PathLike)) else list(path)
        found = [image for source in sources for image in self._find(Path(source))]
        if not found:
            hint = f"images are files that end in {', '.join(sorted(_SUFFIXES))}."
            fail("RawImages(path)", "at least one image", f"none in {', '.join(map(str, sources)) or 'an empty list'}", hint)
        found.sort(key=lambda entry: entry[0])
        self.classes: list[str] = sorted({name for _, name, _ in found})
        index = {name: label for label, name in enumerate(self.classes)}
        self.paths: list[str] = [name for name, _, _ in found]
        self.labels: list[int] = [index[name] for _, name, _ in found]
        self._spans = [span for _, _, span in found]
        # One flag an image, in memory that worker processes share.
        flags: Any = torch.zeros(len(found), dtype=torch.bool)
        self._failed: Tensor = flags.share_memory_()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[object, ...]:
        image = self._decode(index)
        return (image, self.labels[index], self.paths[index]) if self.return_path else (image, self.labels[index])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} images of {len(self.classes)} classes, from {self.paths[0]} on)"

    @property
    def undecodable(self) -> list[str]:
        """Paths of the images that were asked for so far and did not decode, in this and all worker processes."""
        return [path for path, failed in zip(self.paths, self._failed.tolist(), strict=True) if failed]

    def _decode(self, index: int) -> Tensor | Undecodable:
        path = self.paths[index]
        try:
            try:
                data = self._spans[index].read()
            except (OSError, zlib.error, struct.error) as error:
                fail(f"RawImages({path})", "a file that can be read", str(error))
            image, downscaled = decode_image(data, self.channels, self.max_side, f"RawImages({path})")
        except HVSError as error:
            if self.on_error == "raise":
                raise
            reason = str(error).partition(": ")[2].partition("\n")[0]
            first = not self._failed.any()
            self._failed[index] = True
            if first:
                rest = "later ones without a warning: RawImages.undecodable lists them"
                warnings.warn(f"RawImages: {path} is left out ({reason}); {rest}.", stacklevel=3)
            return Undecodable(path, reason)
        if downscaled:
            # A mark on the tensor, so that the sample stays (image, label); collate_images, in the same process, counts it.
            vars(image)["downscaled"] = True
        return image

    def _find(self, path: Path) -> list[tuple[str, str, _Span]]:
        """Return (path, class, span) of each image in a folder or an archive, or of one file."""
        if not path.exists():
            fail("RawImages(path)", "an existing folder, .zip, .tar or image file", str(path))
        if path.is_dir():
            # Strings, not Paths: a folder may hold millions.
            root, own = str(path), path.resolve().name
            return [
                (file, os.path.basename(folder) if folder != root else own, _Span(file))
                for folder, _, names in os.walk(root, followlinks=True)
                for file in (os.path.join(folder, name) for name in names)
                if _is_image(file[len(root) :])
            ]
        if not path.name.lower().endswith(_ARCHIVES):
            return [(str(path), path.resolve().parent.name, _Span(str(path)))]
        try:
            members = _zip_spans(path) if path.suffix.lower() == ".zip" else self._tar_spans(path)
        except (zipfile.BadZipFile, tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            fail("RawImages(path)", "an archive that can be read", f"{path} ({error})", "it is damaged, cut short, or no archive.")
        own = path.name.removesuffix(".gz").removesuffix(".bz2").removesuffix(".xz")
        own = own.rpartition(".")[0] or own
        return [(f"{path}/{name}", name.rpartition("/")[0].rpartition("/")[2] or own, span) for name, span in members]

    def _tar_spans(self, path: Path) -> list[tuple[str, _Span]]:
        if _is_plain_tar(path):
            with tarfile.open(path) as archive:
                return [(member.name, _Span(str(path), member.offset_data, member.size)) for member in archive if _is_photo(member)]
        # A compressed stream has no random access.
        descriptor, unpacked = tempfile.mkstemp(prefix="hvs_aug-", suffix=".images")
        weakref.finalize(self, _remove, unpacked, os.getpid())
        spans = []
        with open(descriptor, "wb") as target, tarfile.open(path) as archive:
            for member in archive:
                source = archive.extractfile(member) if _is_photo(member) else None
                if source is not None:
                    spans.append((member.name, _Span(unpacked, target.tell(), member.size)))
                    shutil.copyfileobj(source, target)
        return spans


def _zip_spans(path: Path) -> list[tuple[str, _Span]]:
    with zipfile.ZipFile(path) as archive:
        members = [info for info in archive.infolist() if _is_image(info.filename) and not info.is_dir()]
    for info in members:
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
            got = f"{info.filename} in {path}, encrypted or compressed otherwise"
            fail("RawImages(path)", "a .zip whose files are stored or deflated", got, "pack the images again, with zip -0.")
    return [(info.filename, _Span(str(path), info.header_offset, info.compress_size, info.compress_type)) for info in members]


def _is_image(name: str) -> bool:
    """Tell by suffix; hidden files and the resource forks that macOS packs into archives are none."""
    rooted = "/" + name.replace(os.sep, "/")
    return (
        os.path.splitext(rooted)[1].lower() in _SUFFIXES and "/." not in rooted.replace("/./", "/") and "/__MACOSX/" not in rooted
    )


def _is_photo(member: tarfile.TarInfo) -> bool:
    return member.isfile() and _is_image(member.name)


def _is_plain_tar(path: Path) -> bool:
    try:
        with tarfile.open(path, "r:"):
            return True
    except tarfile.TarError:
        return False


def _remove(path: str, owner: int) -> None:
    # A forked worker inherits the finaliser, and must leave the file to its owner.
    if os.getpid() == owner:
        os.unlink(path)
