from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset

from hvs_aug import ops
from hvs_aug._check import HVSError
from hvs_aug.data.batch import ImageBatch
from hvs_aug.data.collate import collate_images
from hvs_aug.dropin.loader import HardViewLoader, ViewIndexError, ViewList
from hvs_aug.selection.losses import NTXentLoss
from hvs_aug.selection.sampler import HardPairSampler, HardViews
from hvs_aug.views.recipe import ViewRecipe, ViewSlot

from .photographs import photographs

SLOT = ViewSlot(ViewRecipe(16, [ops.RandomResizedCrop(), ops.RandomHorizontalFlip()]), candidates=4, select=2)


class Photographs(Dataset[Any]):
    """Raw photographs of different sizes with their index as label, in samples of the structure asked for."""

    def __init__(self, structure: str = "tuple", fails_at: int = -1) -> None:
        self.images = photographs()
        self.structure = structure
        self.fails_at = fails_at
        self.epoch = -1

    def __len__(self) -> int:
        return len(self.images)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __getitem__(self, index: int) -> Any:
        if index == self.fails_at:
            raise OSError("a damaged file")
        image = self.images[index]
        samples = {"tuple": (image, index), "list": [image, index], "dict": {"image": image, "label": index}}
        return samples.get(self.structure, image)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        yield from ((image, index) for index, image in enumerate(photographs()))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3 * 16, 8)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(nn.functional.adaptive_avg_pool2d(images, 4).flatten(1))


def make_sampler(seed: int = 0, **options: Any) -> HardPairSampler:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(seed)
    return HardPairSampler(Model(), NTXentLoss(temperature=0.2), SLOT, generator=generator, **options)


def make_loader(structure: str = "tuple", **options: Any) -> DataLoader[Any]:
    return DataLoader(Photographs(structure), batch_size=3, collate_fn=collate_images, **options)


@pytest.mark.parametrize("structure", ["tuple", "list", "dict", "alone"])
def test_views_take_the_images_place(structure: str) -> None:
    batches = list(HardViewLoader(make_loader(structure), make_sampler()))
    expected = [make_sampler()] * len(batches)
    assert len(batches) == 2
    for raw, batch, sampler in zip(make_loader(structure), batches, expected, strict=True):
        images = {"dict": "image", "alone": None}.get(structure, 0)
        views = batch if images is None else batch[images]
        assert isinstance(views, list) and [view.shape for view in views] == [(3, 3, 16, 16)] * 2
        chosen = sampler(raw if images is None else raw[images])
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(views, chosen.views, strict=True))
        if images is not None:
            labels = batch["label"] if structure == "dict" else batch[1]
            assert type(batch) is type(raw) and torch.equal(labels, raw["label"] if structure == "dict" else raw[1])


def test_named_tuples_and_plain_tensors() -> None:
    batch = namedtuple("batch", "images labels")
    loader = [batch(torch.randint(0, 256, (2, 3, 20, 20), dtype=torch.uint8), torch.arange(2))]
    ((views, labels),) = yielded = list(HardViewLoader(loader, make_sampler()))
    assert type(yielded[0]).__name__ == "batch" and len(views) == 2 and torch.equal(labels, torch.arange(2))


def test_it_has_what_the_inner_loader_has() -> None:
    dataset = Photographs()
    order = DistributedSampler(dataset, num_replicas=2, rank=0, shuffle=True)
    inner = DataLoader(dataset, batch_size=2, sampler=order, collate_fn=collate_images, drop_last=True)
    loader = HardViewLoader(inner, make_sampler())
    assert len(loader) == len(inner) == 1
    assert loader.dataset is dataset and loader.sampler is order and loader.batch_size == 2 and loader.drop_last
    labels = []
    for epoch in range(3):
        loader.sampler.set_epoch(epoch)
        loader.dataset.set_epoch(epoch)
        labels.append([batch_labels.tolist() for _, batch_labels in loader])
    assert dataset.epoch == 2 and len({str(epoch) for epoch in labels}) > 1
    with pytest.raises(AttributeError, match="colour"):
        _ = loader.colour


def test_epochs_do_not_repeat_each_other() -> None:
    loader = HardViewLoader(make_loader(), make_sampler())
    first, second = list(loader), list(loader)
    assert not torch.equal(first[0][0][0], second[0][0][0])
    again = HardViewLoader(make_loader(), make_sampler())
    assert torch.equal(next(iter(again))[0][1], first[0][0][1])


def test_last_are_the_hard_views_of_the_batch() -> None:
    loader = HardViewLoader(make_loader(), make_sampler())
    assert loader.last is None
    for views, _ in loader:
        assert isinstance(loader.last, HardViews) and loader.last.views[0] is views[0]


def test_a_stream_has_no_len() -> None:
    loader = HardViewLoader(DataLoader(Stream(), batch_size=3, collate_fn=collate_images), make_sampler())
    with pytest.raises(TypeError):
        len(loader)
    assert [labels.tolist() for _, labels in loader] == [[0, 1, 2], [3, 4, 5]]
    generator = HardViewLoader((batch for batch in make_loader()), make_sampler())
    with pytest.raises(TypeError):
        len(generator)
    assert len(list(generator)) == 2


def test_persistent_workers() -> None:
    inner = make_loader(num_workers=1, persistent_workers=True)
    loader = HardViewLoader(inner, make_sampler())
    first = [labels.tolist() for _, labels in loader]
    workers = inner._iterator
    assert [labels.tolist() for _, labels in loader] == first == [[0, 1, 2], [3, 4, 5]]
    assert inner._iterator is workers
    inner._iterator._shutdown_workers()


def test_a_failing_worker_raises() -> None:
    inner = DataLoader(Photographs(fails_at=4), batch_size=3, collate_fn=collate_images, num_workers=1)
    batches = iter(HardViewLoader(inner, make_sampler()))
    next(batches)
    with pytest.raises(OSError, match="a damaged file"):
        next(batches)


def test_another_structure() -> None:
    def concatenated(views: HardViews, batch: Any) -> Any:
        return torch.cat(views.views), batch[1], views.loss

    loader = HardViewLoader(make_loader(), make_sampler(), batch_format=concatenated)
    pixels, labels, loss = next(iter(loader))
    assert pixels.shape == (6, 3, 16, 16) and labels.tolist() == [0, 1, 2] and loss.shape == (3,)


def test_a_view_that_was_not_selected() -> None:
    views = next(iter(HardViewLoader(make_loader(), make_sampler())))[0]
    assert isinstance(views, ViewList) and len(views[:5]) == 2 and torch.equal(torch.cat(views), torch.cat([views[0], views[-1]]))
    with pytest.raises(ViewIndexError, match="expected a view index below 2, .* got 2") as raised:
        views[2]
    assert isinstance(raised.value, HVSError) and isinstance(raised.value, IndexError)
    views[0] = views[1]
    assert torch.equal(views[0], views[1])


class Masked(NTXentLoss):
    model_extras = ("masks",)


def test_what_the_dataset_drew_for_each_candidate_follows_the_winners() -> None:
    seen: list[Tensor] = []

    def model(images: Tensor, masks: Tensor) -> Tensor:
        seen.append(masks)
        return images.mean((2, 3))

    sampler = HardPairSampler(model, Masked(temperature=0.2), SLOT)
    images = ImageBatch.of(torch.randint(0, 256, (3, 3, 20, 20), dtype=torch.uint8))
    masks = list(torch.arange(4 * 3 * 4).view(4, 3, 2, 2))
    loader = HardViewLoader([(images, torch.arange(3), masks)], sampler)
    ((views, labels, chosen),) = list(loader)
    assert loader.last is not None
    indices = loader.last.indices
    assert torch.equal(seen[0].view(4, 3, 2, 2), torch.stack(masks))
    assert isinstance(chosen, list) and len(chosen) == len(views) == 2 and labels.tolist() == [0, 1, 2]
    for view in range(2):
        assert torch.equal(chosen[view], torch.stack([masks[indices[view, image]][image] for image in range(3)]))
    with pytest.raises(HVSError, match="masks for each of the 4 global candidates, got 0 such lists"):
        next(iter(HardViewLoader([(images, torch.arange(3), masks[:3])], sampler)))


@pytest.mark.parametrize(
    "batch, words",
    [
        (([torch.rand(2, 3, 16, 16)] * 2, torch.arange(2)), "got a tuple of 2 tensors, a int64 tensor"),
        ((torch.randn(2, 3, 16, 16), torch.arange(2)), "floating-point images with values in .0, 1., got values in "),
        ((torch.randint(0, 9, (2, 3, 16, 16)), torch.arange(2)), "images as uint8 or uint16, or floating point"),
        ("words", "got str 'words'"),
        (torch.arange(3), "of shape .B, C, H, W., got a int64 tensor"),
    ],
)
def test_batches_without_raw_images(batch: Any, words: str) -> None:
    with pytest.raises(HVSError, match=words) as raised:
        next(iter(HardViewLoader([batch], make_sampler())))
    assert "collate_fn=hvs_aug.collate_images" in str(raised.value) or "leave out Normalize" in str(raised.value)


def test_bad_arguments() -> None:
    with pytest.raises(HVSError, match="an iterable of batches"):
        HardViewLoader(3, make_sampler())  # pyright: ignore
    with pytest.raises(HVSError, match="a HardPairSampler"):
        HardViewLoader([], Model())  # pyright: ignore


def test_a_model_in_eval_mode_is_said_once() -> None:
    sampler = make_sampler()
    sampler.model.eval()
    with pytest.warns(UserWarning, match="eval mode") as warned:
        list(HardViewLoader(make_loader(), sampler))
    assert len(warned) == 1


def test_on_a_gpu_the_next_batch_is_asked_for_before_this_one_is_handed_out() -> None:
    events: list[str] = []

    class Recorded(HardViewLoader):
        def _moved(self) -> Iterator[Any]:
            for number in range(3):
                events.append(f"moved {number}")
                yield number

        def choose(self, batch: Any) -> Any:
            events.append(f"chosen {batch}")
            return batch

    for number in Recorded([], make_sampler(), device="cuda"):
        events.append(f"trained {number}")
    expected = "moved 0, chosen 0, moved 1, trained 0, chosen 1, moved 2, trained 1, chosen 2, trained 2"
    assert events == expected.split(", ")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_prefetch_gives_what_the_cpu_gives() -> None:
    here, there = make_sampler(), make_sampler()
    there.model.cuda()
    loader = HardViewLoader(make_loader(pin_memory=True), there)
    for (ours, labels), (theirs, same) in zip(loader, HardViewLoader(make_loader(), here), strict=True):
        assert ours[0].is_cuda and torch.equal(labels, same)
        assert (ours[0].cpu() - theirs[0]).abs().mean() < 0.05
