"""WebDataset and Hugging Face streams as the inner loader, from local shards of real photographs."""

from __future__ import annotations

import gc
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hvs_aug.data.batch import ImageBatch
from hvs_aug.data.collate import collate_images
from hvs_aug.dropin.loader import HardViewLoader
from hvs_aug.selection.losses import NTXentLoss
from hvs_aug.selection.sampler import HardPairSampler

from ..dropin.photographs import photographs
from ..selection.models import pairs
from .example import SMALL, main_of

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    """WebDataset leaves its shards open; have them closed here, where that is no error."""
    yield
    gc.collect()


def encoded(index: int) -> bytes:
    file = io.BytesIO()
    photographs()[index].save(file, "jpeg")
    return file.getvalue()


def tar_shards(folder: Path) -> str:
    """Two shards of three photographs each."""
    for shard in range(2):
        with tarfile.open(folder / f"train-{shard:04d}.tar", "w") as tar:
            for index in range(3 * shard, 3 * shard + 3):
                for name, data in ((f"{index:06d}.jpg", encoded(index)), (f"{index:06d}.cls", str(index).encode())):
                    entry = tarfile.TarInfo(name)
                    entry.size = len(data)
                    tar.addfile(entry, io.BytesIO(data))
    return str(folder / "train-{0000..0001}.tar")


def parquet_shards(folder: Path, datasets: Any) -> str:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    for shard in range(2):
        indices = list(range(3 * shard, 3 * shard + 3))
        rows = {"image": [{"bytes": encoded(index), "path": None} for index in indices], "label": indices}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(str(folder / f"train-{shard}.parquet"))
    return str(folder / "train-*.parquet")


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 8))


def sampler() -> HardPairSampler:
    return HardPairSampler(model(), NTXentLoss(temperature=0.2), pairs(), generator=torch.Generator().manual_seed(0))


def check(raw: Any, take: Any) -> None:
    """Every photograph once, in order; the views are those of the raw batch, its labels and structure as they were."""
    batches = list(raw)
    assert [take(batch)[1].tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5]]
    sizes = [size for batch in batches for size in take(batch)[0].sizes.tolist()]
    assert sizes == [[photograph.height, photograph.width] for photograph in photographs()]
    loader = HardViewLoader(raw, sampler())
    with pytest.raises(TypeError):
        len(loader)
    expected = sampler()
    for _ in range(2):  # two epochs
        for batch, chosen in zip(raw, loader, strict=True):
            images, labels = take(batch)
            views, same = take(chosen)
            assert isinstance(images, ImageBatch) and type(chosen) is type(batch) and torch.equal(labels, same)
            assert all(torch.equal(ours, theirs) for ours, theirs in zip(views, expected(images).views, strict=True))


def from_tuple(batch: Any) -> tuple[Any, Tensor]:
    return batch[0], batch[1]


def from_dict(batch: Any) -> tuple[Any, Tensor]:
    return batch["image"], batch["label"]


def test_webdataset(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    samples = webdataset.WebDataset(tar_shards(tmp_path), shardshuffle=False).to_tuple("jpg", "cls").map_tuple(bytes, int)
    check(DataLoader(samples, batch_size=4, collate_fn=collate_images), from_tuple)
    # Its own loader, whose batches are made in its pipeline, is an inner loader too.
    batched = samples.batched(4, collation_fn=collate_images)
    own = webdataset.WebLoader(batched, batch_size=None)
    loader = HardViewLoader(own, HardPairSampler(model(), NTXentLoss(temperature=0.2), pairs()))
    assert [labels.tolist() for _, labels in loader] == [[0, 1, 2, 3], [4, 5]]


@pytest.mark.parametrize("form", [None, "torch"])
def test_hugging_face_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str | None) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    files = parquet_shards(tmp_path, datasets)
    stream = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True, cache_dir=str(tmp_path / "cache"))
    check(DataLoader(stream.with_format(form), batch_size=4, collate_fn=collate_images), from_dict)


def test_the_webdataset_example(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("webdataset")
    losses = main_of("webdataset_stream")(["--shards", tar_shards(tmp_path), "--steps", "2", *SMALL])
    assert len(losses) == 2 and all(0 < loss < 20 for loss in losses)
    assert capsys.readouterr().out.startswith("step 2  loss ")


def test_the_hugging_face_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    files = parquet_shards(tmp_path, datasets)
    means = main_of("huggingface_stream")(["--dataset", "parquet", "--files", files, "--epochs", "1", *SMALL])
    assert len(means) == 1 and 0 < means[0] < 20
    assert capsys.readouterr().out.startswith("epoch 0  loss ")
