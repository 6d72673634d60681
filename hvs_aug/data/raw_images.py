"""The photographs in a folder, a .zip or a .tar, decoded on demand and labelled by their folder."""

from __future__ import annotations

import contextlib
import functools
import os
import struct
import tempfile
import warnings
import weakref
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from .._check import HVSError, fail, require_name
from .collate import RawImage, Undecodable
from .decode import decode_image
from .sources import SUFFIXES, Found, Span, find, printable

__all__ = ["RawImages"]

_UNREAD, _READING, _READ, _FAILED = range(4)  # of an image


class RawImages(Dataset[tuple[object, ...]]):
    """Raw images with the index of their class: the name of the folder that each file lies in.

    Args:
        path: a folder, searched in depth; a .zip or a .tar (the images of a compressed .tar are unpacked once, into a temporary
            file); an image file; or a list of such paths. In folders and archives, images are found by their suffix (.avif,
            .heic and .jxl if Pillow has the plugin), and hidden files are skipped. Links are followed once each, but never to a
            folder that contains the link.
        on_error: "raise", or "skip": an image that cannot be read or decoded becomes an :class:`Undecodable`, which
            collate_images leaves out of the batch; the first one warns, and ``undecodable`` lists them all, from every worker
            process.
        return_path: whether the path follows the label in a sample.
        channels: as in :func:`collate_images`.
        max_side: as in :func:`collate_images`, which counts what was reduced here too.

    Attributes:
        classes: names of the classes, sorted. A flat folder or archive has one, its own name.
        paths: of each image, sorted; inside an archive, ``archive/member``.
        labels: of each image, an index into ``classes``.
        left_out: files that look like images and are not read, as ``"path: reason"``; a warning counts them.

    Shape: a sample is (image (C, H, W) of (H, W, C) memory, label) or (image, label, path).
    Raises: HVSError naming the path if it is missing, has no image, or is an archive that cannot be read; if a folder cannot be
        listed, or a link leads to no file, unless these are skipped; and, on access, naming the file that does not decode.
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
        found, left_out = self._find([Path(source) for source in sources])
        self.left_out: tuple[str, ...] = tuple(map(printable, left_out))
        named = f"{len(left_out)} files are left out; the first is {self.left_out[0]}" if left_out else ""
        if not found:
            hint = f"images are files that end in {', '.join(sorted(SUFFIXES))}."
            got = f"none in {', '.join(printable(str(source)) for source in sources) or 'an empty list'}"
            fail("RawImages(path)", "at least one image", f"{got} ({named})" if named else got, hint)
        if named:
            warnings.warn(f"RawImages: {named}; RawImages.left_out lists them.", stacklevel=2)
        found.sort(key=lambda entry: entry.path)
        self.classes: list[str] = sorted({entry.label for entry in found})
        index = {name: label for label, name in enumerate(self.classes)}
        self.paths: list[str] = [entry.path for entry in found]
        self.labels: list[int] = [index[entry.label] for entry in found]
        self._spans: list[Span] = [entry.span for entry in found]
        # One byte an image, in memory that worker processes share.
        states: Any = torch.zeros(len(found), dtype=torch.uint8)
        self._states: Tensor = states.share_memory_()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[object, ...]:
        image = self._decode(index)
        return (image, self.labels[index], self.paths[index]) if self.return_path else (image, self.labels[index])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} images of {len(self.classes)} classes, from {self.paths[0]} on)"

    @property
    def undecodable(self) -> list[str]:
        """Paths of the images that failed to decode so far, in this process and all worker processes."""
        return [self.paths[index] for index in (self._states == _FAILED).nonzero().flatten().tolist()]

    @property
    def unfinished(self) -> list[str]:
        """Paths of images that a process began to decode and did not finish: after a worker died, the image that it decoded."""
        return [self.paths[index] for index in (self._states == _READING).nonzero().flatten().tolist()]

    def _decode(self, index: int) -> Tensor | Undecodable:
        path, before = printable(self.paths[index]), int(self._states[index])
        self._states[index] = _READING
        try:
            try:
                data = self._spans[index].read()
            except (OSError, zlib.error, struct.error) as error:
                fail(
                    f"RawImages({path})",
                    "a file that can be read",
                    error.strerror if isinstance(error, OSError) and error.strerror else str(error),
                )
            image, downscaled = decode_image(data, self.channels, self.max_side, f"RawImages({path})")
        except HVSError as error:
            if self.on_error == "raise":
                self._states[index] = _READ
                raise
            first = before != _FAILED and not (self._states == _FAILED).any()
            self._states[index] = _FAILED
            reason = str(error).removeprefix(f"RawImages({path}): ").partition("\n")[0]
            if first:
                rest = "later ones without a warning: RawImages.undecodable lists them"
                warnings.warn(f"RawImages: {path} is left out ({reason}); {rest}.", stacklevel=3)
            return Undecodable(path, reason)
        self._states[index] = _READ
        image = image.as_subclass(RawImage)
        if downscaled:
            # A mark on the tensor, so that the sample stays (image, label); collate_images, in the same process, counts it.
            vars(image)["downscaled"] = True
        return image

    def _find(self, sources: list[Path]) -> tuple[list[Found], list[str]]:
        """The images, and what is left out."""
        found: list[Found] = []
        left_out: list[str] = []
        with contextlib.ExitStack() as opened:

            @functools.cache
            def unpacked() -> IO[bytes]:
                file = opened.enter_context(tempfile.NamedTemporaryFile(prefix="hvs_aug-", suffix=".images", delete=False))
                weakref.finalize(self, _remove, file.name, os.getpid())
                return file

            for source in sources:
                images, others, unlisted = find(source, unpacked)
                if self.on_error == "raise":
                    broken = [*unlisted, *(f"{image.path}: {image.span.problem}" for image in images if image.span.problem)]
                    if broken:
                        hint = 'mend or remove it, or pass on_error="skip".'
                        fail("RawImages(path)", "folders and files that can be read", printable(broken[0]), hint)
                found += images
                left_out += others + unlisted
        return found, left_out


def _remove(path: str, owner: int) -> None:
    # A forked worker inherits the finaliser, and must leave the file to its owner.
    if os.getpid() == owner:
        os.unlink(path)
