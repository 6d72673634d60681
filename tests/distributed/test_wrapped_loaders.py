"""Two processes read disjoint halves of a wrapped loader's data, or are told at once that they would not."""

from __future__ import annotations

import os
import warnings
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from torchvision import transforms

from hvs_aug._check import HVSError
from hvs_aug.dropin.wrap import wrap
from hvs_aug.selection.losses import NTXentLoss

from .processes import Processes

VIEW = transforms.Compose([transforms.RandomResizedCrop(8), transforms.ToTensor()])


def two_crops(image: Any) -> list[Any]:
    return [VIEW(image), VIEW(image)]


class Numbered(Dataset[Any]):
    """40 images, each with its number."""

    transform = staticmethod(two_crops)

    def __init__(self) -> None:
        self.transform = two_crops  # type: ignore[method-assign]

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> Any:
        pixels = torch.full((3, 12, 12), index, dtype=torch.uint8)
        return self.transform(transforms.functional.to_pil_image(pixels)), index


def wrapped(loader: Any) -> Any:
    return wrap(loader, model=torch.nn.Flatten(), loss=NTXentLoss(temperature=0.2))


def read_with(rank: int, kind: str) -> list[int] | str:
    dataset = Numbered()
    loader: Any = DataLoader(dataset, batch_size=4, shuffle=kind != "distributed")
    if kind == "distributed":
        loader = DataLoader(dataset, batch_size=4, sampler=DistributedSampler(dataset))
    if kind == "accelerate":
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT="29544")
        from accelerate import Accelerator

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loader = Accelerator(cpu=True).prepare(loader)
    try:
        return [int(number) for _, numbers in wrapped(loader) for number in numbers]
    except HVSError as error:
        return str(error)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Any:
    processes = Processes(tmp_path_factory.mktemp("store") / "store")
    yield processes
    processes.end()


def test_a_loader_of_all_the_data_is_refused(pool: Processes) -> None:
    for said in pool(read_with, "shuffled"):
        assert "reads a share of the data in each of 2 processes, got one with a RandomSampler" in said
        assert "DistributedSampler(dataset)" in said and "accelerator.prepare" in said


def test_a_distributed_sampler(pool: Processes) -> None:
    first, second = pool(read_with, "distributed")
    assert len(first) == len(second) == 20 and sorted(first + second) == list(range(40))


def test_a_loader_that_accelerate_prepared(pool: Processes) -> None:
    pytest.importorskip("accelerate")
    first, second = pool(read_with, "accelerate")
    assert len(first) == len(second) == 20 and sorted(first + second) == list(range(40))
