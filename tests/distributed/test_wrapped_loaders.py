"""Two processes read disjoint halves of a wrapped loader's data, or are told at once that they would not."""

from __future__ import annotations

import math
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
    if "distributed" in kind:
        loader = DataLoader(dataset, batch_size=4, sampler=DistributedSampler(dataset))
    if "accelerate" in kind:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT="29544")
        from accelerate import Accelerator

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            accelerator = Accelerator(cpu=True)
            loader = accelerator.prepare(wrapped(loader)) if "after" in kind else wrapped(accelerator.prepare(loader))
    try:
        return [int(number) for _, numbers in wrapped(loader) for number in numbers]
    except HVSError as error:
        return str(error)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Processes of their own for Accelerate, which keeps a state in each."""
    pytest.importorskip("accelerate")
    processes = Processes(tmp_path_factory.mktemp("store") / "store")
    yield processes
    processes.end()


def test_a_loader_of_all_the_data_is_refused(processes: Processes) -> None:
    for said in processes(read_with, "shuffled"):
        assert "reads a share of the data in each of 2 processes, got one with a RandomSampler" in said
        assert "DistributedSampler(dataset)" in said and "accelerator.prepare" in said


def test_a_distributed_sampler(processes: Processes) -> None:
    first, second = processes(read_with, "distributed")
    assert len(first) == len(second) == 20 and sorted(first + second) == list(range(40))


@pytest.mark.parametrize("kind", ["accelerate before wrap", "accelerate after wrap, distributed"])
def test_a_loader_that_accelerate_prepared(pool: Processes, kind: str) -> None:
    first, second = pool(read_with, kind)
    assert len(first) == len(second) == 20 and sorted(first + second) == list(range(40))


def test_accelerate_does_not_share_out_a_wrapped_loader(pool: Processes) -> None:
    """It leaves what is no DataLoader as it is, so that each process would read all of the data."""
    for said in pool(read_with, "accelerate after wrap"):
        assert (
            "reads a share of the data in each of 2 processes" in said and "wrap what accelerator.prepare(loader) returned" in said
        )


def trained(rank: int, kind: str) -> tuple[list[int], list[torch.Tensor], list[float], float]:
    """Two epochs over a wrapped loader, wrapped anew in each, as the repos' own loops are; under DDP or FSDP2."""
    torch.manual_seed(0)
    network: Any = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Flatten(), torch.nn.Linear(288, 8)
    )
    if kind == "ddp":
        network = torch.nn.parallel.DistributedDataParallel(network)
    else:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard  # which older releases do not have

        fully_shard(network, mesh=init_device_mesh("cpu", (2,)))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    dataset = Numbered()
    loader = DataLoader(dataset, batch_size=4, sampler=DistributedSampler(dataset))
    numbers: list[int] = []
    losses = []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        hard = wrap(loader, model=network, loss=NTXentLoss(temperature=0.2, gather=True))
        for (first, second), index in hard:
            numbers += index.tolist() if epoch == 0 else []
            loss = contrast(network(torch.cat([first, second])))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss))
    weights = [getattr(value, "full_tensor", lambda value=value: value)().detach() for value in network.parameters()]
    return numbers, weights, losses, float(hard.last.loss.mean())


def contrast(outputs: torch.Tensor) -> torch.Tensor:
    outputs = torch.nn.functional.normalize(outputs, dim=1)
    images = len(outputs) // 2
    logits = (outputs @ outputs.T / 0.2).fill_diagonal_(-torch.inf)
    return torch.nn.functional.cross_entropy(logits, torch.arange(2 * images).roll(images))


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_training_with_a_wrapped_loader(processes: Processes, kind: str) -> None:
    if kind == "fsdp2":
        fsdp = pytest.importorskip("torch.distributed.fsdp")
        if not hasattr(fsdp, "fully_shard"):
            pytest.skip("this PyTorch has no FSDP2")
    (first, weights, losses, chosen), (second, same, _, _) = processes(trained, kind)
    assert sorted(first + second) == list(range(40)) and len(first) == 20
    assert all(torch.equal(one, other) for one, other in zip(weights, same, strict=True))
    assert len(losses) == 10 and all(map(math.isfinite, [*losses, chosen])) and losses[-1] != losses[0]
