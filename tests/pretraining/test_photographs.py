"""The demo's tiles: from the wheels alone, and no pixel both in training and in testing."""

from __future__ import annotations

import importlib.util
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from hvs_aug._check import HVSError
from hvs_aug.pretraining import photographs as module
from hvs_aug.pretraining.photographs import photograph_tiles, photographs


def test_the_photographs_are_read_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    found = photographs()
    assert len(found) == 20 and {"astronaut", "ihc", "china", "flower", "motorcycle_left"} < found.keys()
    for picture in found.values():
        assert picture.dtype == torch.uint8 and picture.ndim == 3 and len(picture) == 3
        assert picture.shape[1] * picture.shape[2] <= 1.01 * 320 * 320
        assert picture.float().std() > 5  # none is black


def test_training_and_test_tiles_share_no_pixel_and_keep_their_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    # The value of a pixel says which column it is from.
    pictures = {name: torch.arange(width, dtype=torch.int64).expand(3, 60, width) for name, width in {"a": 160, "b": 200}.items()}
    monkeypatch.setattr(module, "photographs", lambda folder: pictures)
    tiles = photograph_tiles(tile=40, stride=10)
    assert tiles.names == ("a", "b") and tiles.train.shape[1:] == tiles.test.shape[1:] == (3, 40, 40)
    assert len(tiles.train) == len(tiles.train_labels) and len(tiles.test) == len(tiles.test_labels)
    assert len(tiles.train) == 2 * len(tiles.test)
    for label in (0, 1):
        train, test = (
            set(pixels[of == label].flatten().tolist())
            for pixels, of in zip((tiles.train, tiles.test), (tiles.train_labels, tiles.test_labels), strict=True)
        )
        assert train and test
        assert min(abs(one - other) for one in train for other in test) > 4


def test_a_folder_of_ones_own_photographs(tmp_path: Path) -> None:
    with pytest.raises(HVSError, match=r"photographs\(folder\): expected a folder with images in it, got none in "):
        photographs(tmp_path)
    pixels = torch.arange(200, dtype=torch.uint8).expand(60, 200)
    Image.fromarray(pixels.numpy()).save(tmp_path / "grey.png")
    tiles = photograph_tiles(tile=40, stride=10, folder=tmp_path)
    assert tiles.names == ("grey",) and torch.equal(tiles.sources[0], pixels.expand(3, 60, 200))
    assert len(tiles.train) == 2 * len(tiles.test) > 0


def test_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "photographs", lambda folder: {"a": torch.zeros(3, 60, 160, dtype=torch.uint8)})
    with pytest.raises(HVSError, match=r"photograph_tiles\(tile\): expected a side from 1 to 50 pixels, got int 64"):
        photograph_tiles(tile=64)
    with pytest.raises(HVSError, match=r"photograph_tiles\(stride\)"):
        photograph_tiles(stride=0)


def test_a_missing_wheel_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        HVSError, match=r"expected skimage, whose wheel carries photographs.*\n  hint: pip install 'hvs_aug\[demo\]'"
    ):
        photographs()
