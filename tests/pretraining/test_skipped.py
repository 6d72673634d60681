from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hvs_aug._check import HVSError
from hvs_aug.pretraining.skipped import SkippedImages, naming_killers


def test_each_image_counts_once_and_is_written(tmp_path: Path) -> None:
    path = tmp_path / "run" / "skipped.txt"
    skipped = SkippedImages(100, 0.02, path, is_resumed=False)
    skipped.add([])
    assert not path.parent.exists()
    skipped.add(["a.jpg: cut short", "b.jpg: text", "a.jpg: cut short"])
    skipped.add(["b.jpg: text"])  # the next epoch
    assert path.read_text() == "a.jpg: cut short\nb.jpg: text\n"
    with pytest.raises(HVSError, match=r"at most 2 of 100 images that cannot be read, got 3; the last is c.jpg: gone") as caught:
        skipped.add(["c.jpg: gone"])
    assert f"which {path} lists" in str(caught.value) and "--max-skipped" in str(caught.value)


def test_a_resumed_run_counts_what_was_skipped_before_and_a_new_one_does_not(tmp_path: Path) -> None:
    path = tmp_path / "skipped.txt"
    path.write_text("a.jpg: cut short\n")
    with pytest.raises(HVSError, match="got 2"):
        SkippedImages(100, 0.01, path, is_resumed=True).add(["b.jpg: text"])
    path.write_text("a.jpg: cut short\n")
    SkippedImages(100, 0.01, path, is_resumed=False).add(["b.jpg: text"])
    assert path.read_text() == "b.jpg: text\n"


def test_by_default_a_hundredth_and_never_fewer_than_ten_may_be_skipped() -> None:
    for images, allowed in ((13, 10), (2000, 20)):
        skipped = SkippedImages(images, None, None, is_resumed=False)
        skipped.add([f"{number}: x" for number in range(allowed)])
        with pytest.raises(HVSError, match=f"at most {allowed} of {images} images"):
            skipped.add(["one more: x"])


def test_any_share_is_allowed_where_it_is_asked_for() -> None:
    SkippedImages(3, 1.0, None, is_resumed=False).add(["a: x", "b: x", "c: x"])
    with pytest.raises(HVSError, match=r"max_skipped\): expected a number in \[0, 1\]"):
        SkippedImages(3, 2.0, None, is_resumed=False)


class Dataset:
    unfinished = ("caf\udce9.tif",)


def broken(message: str) -> Iterator[int]:
    yield 1
    raise RuntimeError(message)


def test_the_file_that_a_worker_died_of_is_named() -> None:
    assert list(naming_killers(iter([1, 2]), Dataset())) == [1, 2]
    death = "DataLoader worker (pid 7) is killed by signal: Segmentation fault."
    with pytest.raises(HVSError, match=r"one that died while caf\\xe9.tif was read \(DataLoader worker \(pid 7\) is killed"):
        list(naming_killers(broken(death), Dataset()))
    with pytest.raises(HVSError, match=r"one that died \(DataLoader worker \(pid 7\) is killed by signal: Segmentation fault.\)"):
        list(naming_killers(broken(death), object()))
    for message in ("out of memory", "Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback: out of memory"):
        with pytest.raises(RuntimeError, match=message[:10]):
            list(naming_killers(broken(message), Dataset()))
