"""Copies of public objects do what the originals do; threads and workers change nothing."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

import hvs_aug
from hvs_aug import CandidateViews, HardPairSampler, HardViewLoader, ImageBatch, NTXentLoss, policies
from tests.selection.models import SmallResNet, images, pairs, slot


def distance(one: Tensor, other: Tensor) -> Tensor:
    return (one - other).square().mean(-1)


def sampler(seed: int = 0) -> HardPairSampler:
    torch.manual_seed(seed)
    return HardPairSampler(SmallResNet(), NTXentLoss(0.5), pairs(), generator=torch.Generator().manual_seed(seed))


def raw_loader() -> DataLoader[Any]:
    return DataLoader([(image, 0) for image in images(8)], batch_size=4)


OBJECTS: dict[str, Callable[[], Any]] = {
    "CHEAP": lambda: hvs_aug.CHEAP,
    "Scoring": lambda: hvs_aug.Scoring(scale=0.5, every=2),
    "ViewRecipe": lambda: pairs().slots[0].recipe,
    "ViewSlot": slot,
    "CandidateViews": lambda: CandidateViews.preset("dino", 32),
    "ViewParams": lambda: pairs().make_params(images()),
    "ImageBatch": lambda: ImageBatch.of(images()),
    "NTXentLoss": lambda: NTXentLoss(0.1),
    "NegativeCosineLoss": hvs_aug.NegativeCosineLoss,
    "DINOLoss": hvs_aug.DINOLoss,
    "IBOTLoss": hvs_aug.IBOTLoss,
    "MoCoLoss": lambda: hvs_aug.MoCoLoss(0.2),
    "SwAVLoss": hvs_aug.SwAVLoss,
    "VICRegLoss": hvs_aug.VICRegLoss,
    "CallableLoss": lambda: hvs_aug.CallableLoss(distance),
    "HardPairSampler": sampler,
    "HardViewLoader": lambda: HardViewLoader(raw_loader(), sampler()),
    "HardViews": lambda: sampler()(images()),
    "HVSError": lambda: hvs_aug.HVSError("expected one, got none"),
    "policy hardest": policies.hardest,
    "policy easiest": policies.easiest,
    "policy random": policies.random,
    "policy min_iou": policies.min_iou,
    "policy warmup": lambda: policies.warmup(5, policies.mixture(0.5, policies.semi_hard(0.9))),
    "policy softmax": lambda: policies.softmax(0.5),
}


def test_every_public_class_is_here() -> None:
    classes = {name for name in hvs_aug.__all__ if isinstance(getattr(hvs_aug, name), type)}
    elsewhere = {"RawImages", "PairLoss"}  # in tests/data/test_raw_images.py; an abstract class
    assert classes - elsewhere <= OBJECTS.keys()


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))], ids=["deepcopy", "pickle"])
def test_a_copy_is_shown_like_its_original(name: str, copied: Callable[[Any], Any]) -> None:
    original = OBJECTS[name]()
    twin = copied(original)
    assert type(twin) is type(original)
    if name not in ("HardViews", "HardViewLoader"):  # whose members are shown by their place in memory
        assert repr(twin) == repr(original)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))], ids=["deepcopy", "pickle"])
def test_a_copied_sampler_goes_on_like_its_original(copied: Callable[[Any], Any]) -> None:
    original = sampler()
    original(images())
    twin = copied(original)
    for _ in range(2):
        torch.manual_seed(0)  # of dropout
        first = original(images())
        torch.manual_seed(0)
        second = twin(images())
        assert torch.equal(first.indices, second.indices) and all(map(torch.equal, first.views, second.views))


@pytest.mark.filterwarnings("ignore:HardPairSampler scores in the mode that the model is in")
@pytest.mark.filterwarnings("ignore:HardPairSampler scores with the model in eval mode:UserWarning")
def test_two_samplers_in_two_threads_choose_as_each_would_alone() -> None:
    def chosen(one: HardPairSampler, found: dict[int, list[Tensor]], seed: int) -> None:
        one.model.eval()  # dropout draws from the global random state, which threads share
        found[seed] = [one(images(seed=step)).indices for step in range(6)]

    together: dict[int, list[Tensor]] = {}
    alone: dict[int, list[Tensor]] = {}
    threads = [threading.Thread(target=chosen, args=(sampler(seed), together, seed)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in (1, 2):
        chosen(sampler(seed), alone, seed)
        assert all(map(torch.equal, together[seed], alone[seed]))


class TwoViews(Dataset[Any]):
    def __init__(self) -> None:
        self.pixels = images(16, side=20)
        self.transform = v2.Compose([v2.RandomResizedCrop(16), v2.ToDtype(torch.float32, scale=True)])

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[list[Tensor], int]:
        image = self.pixels[index]
        return [self.transform(image), self.transform(image)], index


def epochs(**options: Any) -> list[Tensor]:
    """Everything that two epochs of a wrapped loader yield and choose; the candidates are drawn where the sampler is."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 8))
    loader = DataLoader(TwoViews(), 4, shuffle=True, generator=torch.Generator().manual_seed(5), **options)
    generator = torch.Generator().manual_seed(7)
    found = []
    for _ in range(2):
        wrapped = hvs_aug.wrap(loader, model=model, loss=NTXentLoss(0.5), generator=generator)
        for views, labels in wrapped:
            found += [*views, labels, wrapped.last.indices, wrapped.last.params.boxes, *wrapped.last.params.drawn.values()]
    return found


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning", "ignore:This DataLoader will create:UserWarning")
def test_workers_and_prefetching_change_nothing() -> None:
    expected = epochs()
    for options in ({"num_workers": 1}, {"num_workers": 4, "prefetch_factor": 1}):
        found = epochs(**options)
        assert len(found) == len(expected) and all(map(torch.equal, found, expected)), options
