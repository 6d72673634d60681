"""Which images a folder, a .zip or a .tar holds, and where their bytes lie."""

from __future__ import annotations

import lzma
import os
import posixpath
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from PIL import Image

from .._check import fail

__all__ = ["ARCHIVES", "SUFFIXES", "Found", "Span", "find", "printable"]

SUFFIXES = frozenset(
    {".bmp", ".dib", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".pnm", ".png", ".ppm", ".tif", ".tiff", ".webp"},
)
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
# Read where Pillow has the plugin, and named where it has not.
_PLUGINS = {".avif": "AVIF", ".heic": "HEIF", ".heif": "HEIF", ".hif": "HEIF", ".jxl": "JXL", ".jp2": "JPEG2000"}
_NEVER = frozenset({".arw", ".cr2", ".dng", ".nef", ".psd", ".svg", ".tga", ".7z", ".rar", ".zst"})
_MOST_BYTES = 1 << 28  # as decode_image takes
_NOT_REGULAR = "no regular file"
_LINKS = 40  # followed for one name, as Linux does


class Span(NamedTuple):
    """Where the bytes of one image lie; no open handle, so that any process or thread can read it after fork, spawn or pickle.

    Attributes:
        offset, size: of the bytes in ``file``; a size of -1 reaches to its end.
        deflated: how many bytes a deflated zip entry has when it is inflated; ``None`` for bytes stored as they are.
        crc: checksum of a zip entry's bytes.
        problem: why they cannot be read, found while listing; "" if nothing was.
    """

    file: str
    offset: int = 0
    size: int = -1
    deflated: int | None = None
    crc: int | None = None
    problem: str = ""

    def read(self) -> bytes:
        """Return the bytes.

        Raises: OSError if they are missing, cut short, larger than 256 MiB, not those that the archive describes, or in no
            regular file; zlib.error or struct.error if the archive is damaged.
        """
        if self.problem:
            raise OSError(self.problem)
        # A named pipe would wait for a writer.
        with open(os.open(self.file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise OSError(_NOT_REGULAR)
            size = status.st_size if self.size < 0 else self.size
            if max(size, self.deflated or 0) > _MOST_BYTES:
                raise OSError(f"{max(size, self.deflated or 0):,} bytes, more than the {_MOST_BYTES:,} that are read")
            file.seek(self.offset)
            if self.crc is not None:
                # A zip entry's data follow its local header, whose name and extra field may differ from the directory's.
                header = file.read(30)
                if header[:4] != b"PK\3\4":
                    raise OSError("no file where the directory of the .zip says")
                file.seek(sum(struct.unpack("<HH", header[26:])), os.SEEK_CUR)
            data = file.read(size)
        if len(data) != size:
            raise OSError(f"{len(data):,} of {size:,} bytes: the file is cut short")
        if self.deflated is not None:
            inflater = zlib.decompressobj(-zlib.MAX_WBITS)
            data = inflater.decompress(data, self.deflated + 1)
            if len(data) != self.deflated:
                raise OSError(f"does not inflate to the {self.deflated:,} bytes that the .zip states")
        if self.crc is not None and zlib.crc32(data) != self.crc:
            raise OSError("the checksum in the .zip is another")
        return data


class Found(NamedTuple):
    """One image: its path (inside an archive, ``archive/member``), its class and its bytes."""

    path: str
    label: str
    span: Span


class Listing(NamedTuple):
    """What a folder or archive holds: images; what looks like one and is left out; folders that cannot be listed.

    Those of the last two are ``"path: reason"``.
    """

    images: list[Found]
    left_out: list[str]
    unlisted: list[str]


def find(path: Path, unpacked: Callable[[], IO[bytes]]) -> Listing:
    """List the images of a folder, an archive or one file.

    A class is the folder that an image lies in; images that lie in no folder of their archive, or directly in the given folder,
    have its name as their class. Hidden files and those that macOS packs beside images are skipped. Links are followed once
    each, but never to a folder that contains the link. Folders and archives are read alike.

    Args:
        unpacked: opens the file that the images of a compressed .tar are written to.

    Raises: HVSError if the path does not exist, is no regular file, or is an archive that cannot be read.
    """
    if not path.exists():
        fail("RawImages(path)", "an existing folder, .zip, .tar or image file", printable(str(path)))
    if path.is_dir():
        return _in_folder(str(path))
    if not path.is_file():
        fail("RawImages(path)", "a folder, .zip, .tar or image file", f"{printable(str(path))}, which is no regular file")
    if not path.name.lower().endswith(ARCHIVES):
        return Listing([Found(str(path), path.resolve().parent.name, Span(str(path)))], [], [])
    try:
        members = _in_zip(path) if path.suffix.lower() == ".zip" else _in_tar(path, unpacked)
    except (zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, zlib.error, OSError, EOFError, ValueError, struct.error) as error:
        got = f"{printable(str(path))} ({error})"
        fail("RawImages(path)", "an archive that can be read", got, "it is damaged, cut short, or no archive.")
    own = path.name.removesuffix(".gz").removesuffix(".bz2").removesuffix(".xz")
    own = own.rpartition(".")[0] or own
    images, left_out = [], []
    for name, span in sorted(members.items()):
        if _is_image(name) and span.problem == _NOT_REGULAR:
            left_out.append(f"{path}/{name}: {_NOT_REGULAR}")
        elif _is_image(name):
            images.append(Found(f"{path}/{name}", posixpath.basename(posixpath.dirname(name)) or own, span))
        elif reason := _left_out(name):
            left_out.append(f"{path}/{name}: {reason}")
    return Listing(images, left_out, [])


def printable(path: str) -> str:
    """The path with what is not UTF-8 in it as escapes, for messages and files."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _in_folder(root: str) -> Listing:
    listing = Listing([], [], [])
    followed: set[tuple[int, int]] = set()
    # Each folder to list with those that it lies in. Strings, not Paths: a folder may hold millions.
    waiting: list[tuple[str, tuple[tuple[int, int], ...]]] = [(root, ())]
    while waiting:
        folder, above = waiting.pop()
        label = os.path.basename(os.path.realpath(root) if folder == root else folder)
        try:
            own = _identity(os.stat(folder))
            if own in above:
                continue  # a link to a folder that it lies in
            with os.scandir(folder) as entries:
                for entry in entries:
                    if _is_hidden(entry.name):
                        continue
                    if not _is_folder(entry):
                        _list_file(entry, label, listing)
                    elif not entry.is_symlink():
                        waiting.append((entry.path, (*above, own)))
                    elif (link := _identity(entry.stat(follow_symlinks=False))) not in followed:
                        followed.add(link)
                        waiting.append((entry.path, (*above, own)))
        except OSError as error:
            listing.unlisted.append(f"{folder}: {error.strerror}")
    return listing


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _list_file(entry: os.DirEntry[str], label: str, listing: Listing) -> None:
    if not _is_image(entry.name):
        if reason := _left_out(entry.name):
            listing.left_out.append(f"{entry.path}: {reason}")
        return
    try:
        mode = entry.stat().st_mode if entry.is_symlink() else (stat.S_IFREG if entry.is_file() else 0)
    except OSError:
        span = Span(entry.path, problem="a link that leads to no file")
    else:
        if not stat.S_ISREG(mode):
            listing.left_out.append(f"{entry.path}: {_NOT_REGULAR}")
            return
        span = Span(entry.path)
    listing.images.append(Found(entry.path, label, span))


def _in_zip(path: Path) -> dict[str, Span]:
    """Spans of all files of a .zip by name; later entries of one name take the place of earlier ones."""
    files: dict[str, Span] = {}
    links: dict[str, str] = {}
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            # Only Windows writes backslashes, between folders.
            name = _member(info.filename.replace("\\", "/"))
            kind = stat.S_IFMT(info.external_attr >> 16)
            if info.is_dir() or kind == stat.S_IFDIR:
                continue
            if kind in (stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK):
                files[name] = Span(str(path), problem=_NOT_REGULAR)
                continue
            problem = "encrypted" if info.flag_bits & 1 else ""
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                problem = "neither stored nor deflated; pack the images again, with zip -0"
            if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
                problem = problem or "stored with two different sizes"
            deflated = info.file_size if info.compress_type == zipfile.ZIP_DEFLATED else None
            span = Span(str(path), info.header_offset, info.compress_size, deflated, info.CRC, problem)
            files[name] = span
            if kind == stat.S_IFLNK and not problem and info.file_size < 4096:
                links[name] = posixpath.join(posixpath.dirname(name), os.fsdecode(span.read()))
    return _with_links(files, links)


def _in_tar(path: Path, open_unpacked: Callable[[], IO[bytes]]) -> dict[str, Span]:
    """Spans of all files of a .tar by name; a compressed one has no random access, and its images are copied to a file."""
    if _is_plain_tar(path):
        return _with_links(*_tar_members(path))
    unpacked = open_unpacked()
    files, links = _tar_members(path, unpacked)
    named = {end for name, target in links.items() if _is_image(name) and (end := _end_of(_member(target), links)) in files}
    if more := {name for name in named if not _is_image(name)}:
        files |= {name: span for name, span in _tar_members(path, unpacked, more)[0].items() if name in more}
    unpacked.flush()
    return _with_links(files, links)


def _tar_members(
    path: Path, unpacked: IO[bytes] | None = None, wanted: Collection[str] | None = None
) -> tuple[dict[str, Span], dict[str, str]]:
    """Spans of all files of a .tar by name, and what its links point to; images or the files ``wanted`` go to ``unpacked``."""
    files: dict[str, Span] = {}
    links: dict[str, str] = {}
    with tarfile.open(path, "r:" if unpacked is None else "r:*") as archive:
        while (member := archive.next()) is not None:
            vars(archive)["members"] = []  # the library keeps an object for each otherwise
            name = _member(member.name)
            links.pop(name, None)
            if member.issym():
                links[name] = posixpath.join(posixpath.dirname(name), member.linkname)
            elif member.islnk():
                links[name] = member.linkname
            elif not member.isfile():
                files |= {} if member.isdir() else {name: Span(str(path), problem=_NOT_REGULAR)}
            elif member.issparse():
                files[name] = Span(str(path), problem="stored as a sparse file, which is not read")
            elif unpacked is None:
                files[name] = Span(str(path), member.offset_data, member.size)
            elif member.size > _MOST_BYTES:
                files[name] = Span(str(path), problem=f"{member.size:,} bytes, more than the {_MOST_BYTES:,} that are read")
            else:
                files[name] = Span(unpacked.name, unpacked.tell(), member.size)
                source = archive.extractfile(member) if (_is_image(name) if wanted is None else name in wanted) else None
                if source is not None:
                    shutil.copyfileobj(source, unpacked)
        _require_end(archive)
    return files, links


def _require_end(archive: tarfile.TarFile) -> None:
    """Refuse a .tar that goes on behind the last header that could be read: tarfile ends there without a word."""
    file: Any = archive.fileobj
    file.seek(archive.offset)
    block = file.read(tarfile.BLOCKSIZE)
    if block.strip(b"\0"):
        raise tarfile.ReadError(f"no header of a member at byte {archive.offset:,}")


def _with_links(files: dict[str, Span], links: Mapping[str, str]) -> dict[str, Span]:
    """The files, with those that links lead to under the links' own names, be it by a link to a file or to its folder."""
    found = {name: span for name, span in files.items() if name not in links}
    ends = {link: _end_of(_member(target), links) for link, target in links.items()}
    for link, end in ends.items():
        if _is_image(link):
            missing = Span("", problem=f"a link to {links[link]}, which the archive does not hold")
            found[link] = missing if end is None else files.get(end, missing)
    names = sorted(found)
    for link, end in ends.items():
        if _is_image(link) or end is None or f"{link}/".startswith(f"{end}/"):
            continue  # done, or a link to itself or to a folder that it lies in
        for name in names[bisect_left(names, f"{end}/") : bisect_left(names, f"{end}0")]:  # "0" follows "/"
            found[link + name[len(end) :]] = found[name]
        if len(found) > 16 * len(files) + 1000:
            raise ValueError("links to folders that repeat its files more than 16 times")
    return found


def _end_of(name: str, links: Mapping[str, str]) -> str | None:
    """Where a name leads once every link in its path is followed; None for a loop."""
    for _ in range(_LINKS):
        parts = name.split("/")
        heads = ("/".join(parts[:count]) for count in range(1, len(parts) + 1))
        count, head = next(((count, head) for count, head in enumerate(heads, 1) if head in links), (0, ""))
        if not head:
            return name
        name = _member(posixpath.join(links[head], *parts[count:]))
    return None


def _member(name: str) -> str:
    """A member's name without ``./``, ``//`` and a leading slash."""
    return posixpath.normpath(name).lstrip("/")


def _is_hidden(name: str) -> bool:
    return name == "__MACOSX" or name.startswith(".")


def _is_shown(name: str) -> bool:
    return not any(_is_hidden(part) for part in name.split("/"))


def _is_image(name: str) -> bool:
    suffix = os.path.splitext(name)[1].lower()
    return (suffix in SUFFIXES or _has_plugin(suffix)) and _is_shown(name)


def _left_out(name: str) -> str:
    """Why a file that may be meant as an image is not read; "" for any other."""
    suffix = os.path.splitext(name)[1].lower()
    if not _is_shown(name) or suffix in SUFFIXES or _has_plugin(suffix):
        return ""
    if suffix in _PLUGINS:
        return f"{suffix}, which Pillow reads only with a plugin"
    if name.lower().endswith(ARCHIVES):
        return "an archive inside, which is not opened"
    return f"{suffix}, which is not read" if suffix in _NEVER else ""


def _has_plugin(suffix: str) -> bool:
    if suffix not in _PLUGINS:
        return False
    Image.init()
    return _PLUGINS[suffix] in Image.OPEN


def _is_plain_tar(path: Path) -> bool:
    try:
        with tarfile.open(path, "r:"):
            return True
    except tarfile.TarError:
        return False
