from __future__ import annotations

import gc
import pickle
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightly.data import LightlyDataset
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import BatchSampler, ConcatDataset, DataLoader, Dataset, IterableDataset, SequentialSampler, Subset
from torchvision import transforms
from torchvision.datasets import ImageFolder, VisionDataset

from hvs_aug._check import HVSError
from hvs_aug.dropin import wrap as module
from hvs_aug.dropin.loader import HardViewLoader
from hvs_aug.dropin.wrap import wrap
from hvs_aug.selection.losses import NTXentLoss
from hvs_aug.selection.scoring import CHEAP, Scoring
from hvs_aug.views.convert import convert

from .photographs import photographs, save_photographs

PIPELINE = transforms.Compose([transforms.RandomResizedCrop(16), transforms.RandomHorizontalFlip(), transforms.ToTensor()])
SMALL = transforms.Compose([transforms.RandomResizedCrop(8), transforms.ToTensor()])


class Several:
    """A transform of several views, named in ``kind`` as one of the repos' is."""

    def __init__(self, *views: Any) -> None:
        self.transforms = list(views)

    def __call__(self, image: Any) -> list[Any]:
        return [transform(image) for transform in self.transforms]


class MultiViewTransform(Several):
    pass


PAIR = MultiViewTransform(PIPELINE, PIPELINE)
MULTI_CROP = MultiViewTransform(PIPELINE, PIPELINE, SMALL, SMALL, SMALL)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3 * 16, 8)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(nn.functional.adaptive_avg_pool2d(images, 4).flatten(1))


class Masked(ImageFolder):
    """Draws something for each view from its shape, as iBOT's dataset does."""

    epoch = -1

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __getitem__(self, index: int) -> Any:
        views, label = super().__getitem__(index)
        masks = [np.full((view.shape[1] // 4, view.shape[2] // 4), 100 * index + place) for place, view in enumerate(views)]
        return views, label, masks, self.epoch


class MaskedLoss(NTXentLoss):
    model_extras = ("masks",)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_photographs(tmp_path_factory.mktemp("photographs"))


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return Model()


def loss() -> NTXentLoss:
    return NTXentLoss(temperature=0.2)


def wrapped(loader: DataLoader[Any], model: Any, **options: Any) -> Any:
    return wrap(loader, model=model, loss=loss(), **options)


def test_batches_have_the_structure_of_the_repos_own(folder: Path, model: Model) -> None:
    loader = DataLoader(ImageFolder(folder, PAIR), batch_size=4)
    for (views, labels), (own_views, own_labels) in zip(wrapped(loader, model), loader, strict=True):
        assert [view.shape for view in views] == [view.shape for view in own_views]
        assert torch.equal(labels, own_labels)
        assert all(view.dtype == torch.float32 for view in views)


def test_multi_crop(folder: Path, model: Model) -> None:
    loader = wrapped(DataLoader(ImageFolder(folder, MULTI_CROP), batch_size=4), model)
    views, _ = next(iter(loader))
    assert [view.shape[-1] for view in views] == [16, 16, 8, 8, 8]
    assert [(slot.candidates, slot.select, slot.role) for slot in loader.hard_pairs.slots] == [(4, 2, "global"), (6, 3, "local")]


def test_with_the_cheap_preset_the_model_scores_at_half_the_side(folder: Path, model: Model) -> None:
    sizes: list[int] = []
    model.register_forward_pre_hook(lambda module, arguments: sizes.append(arguments[0].shape[-1]))
    batches = 0
    for _ in range(2):
        for views, _labels in wrapped(loader := DataLoader(ImageFolder(folder, MULTI_CROP), batch_size=2), model, scoring="cheap"):
            assert [view.shape[-1] for view in views] == [16, 16, 8, 8, 8]
            batches += 1
    assert 2 < batches <= 16 and len(loader) == batches // 2
    assert sizes == [8, 4] * batches


def test_the_users_objects_are_not_changed(folder: Path, model: Model) -> None:
    dataset = ImageFolder(folder, PAIR)
    nested = Subset(dataset, [3, 1, 2, 0])
    loader = DataLoader(nested, batch_size=2)
    before = dict(vars(dataset)), dict(vars(loader)), torch.get_rng_state()
    state = random.getstate()
    hard = wrapped(loader, model)
    assert hard.dataset is not nested and len(hard) == 2
    assert vars(dataset) == before[0] and vars(loader) == before[1]
    assert dataset.transform is PAIR and dataset.transforms.transform is PAIR and nested.dataset is dataset
    assert torch.equal(torch.get_rng_state(), before[2]) and random.getstate() == state
    list(hard)
    assert dataset.transform is PAIR and nested.dataset is dataset
    assert isinstance(loader.dataset[0][0], list)


def test_switched_off_it_is_the_users_loader() -> None:
    loader = DataLoader(Subset(ConcatDataset([[1]]), [0]))  # pyright: ignore
    assert wrapped(loader, None, enabled=False) is loader


def test_the_new_loader_reads_as_the_old_one(folder: Path, model: Model) -> None:
    def seeded(worker: int) -> None:
        torch.manual_seed(worker)

    generator = torch.Generator().manual_seed(3)
    loader = DataLoader(
        ImageFolder(folder, PAIR),
        batch_size=4,
        shuffle=True,
        num_workers=2,
        timeout=30,
        generator=generator,
        worker_init_fn=seeded,
        prefetch_factor=3,
        persistent_workers=True,
        drop_last=True,
        multiprocessing_context="fork",
    )
    inner = wrapped(loader, model).loader
    own = {"dataset", "collate_fn", "_iterator"}
    assert {name: value for name, value in vars(inner).items() if name not in own} == {
        name: value for name, value in vars(loader).items() if name not in own
    }
    assert inner.generator is generator and inner.sampler is loader.sampler


def test_shuffling_follows_the_users_generator(folder: Path, model: Model) -> None:
    def order(hard: bool) -> list[list[int]]:
        loader: Any = DataLoader(ImageFolder(folder, PAIR), batch_size=2, shuffle=True, generator=torch.Generator().manual_seed(5))
        loader = wrapped(loader, model) if hard else loader
        return [labels.tolist() for _ in range(3) for _, labels in loader]

    assert order(hard=True) == order(hard=False)


def test_a_batch_sampler_is_kept(folder: Path, model: Model) -> None:
    dataset = ImageFolder(folder, PAIR)
    batches = BatchSampler(SequentialSampler(dataset), 4, drop_last=False)
    hard = wrapped(DataLoader(dataset, batch_sampler=batches), model)
    assert hard.loader.batch_sampler is batches and [len(labels) for _, labels in hard] == [4, 2]


def test_called_in_every_epoch_it_goes_on(folder: Path, model: Model, as_in_a_new_process: Callable[[], None]) -> None:
    def epochs(again: bool) -> list[Tensor]:
        as_in_a_new_process()
        torch.manual_seed(1)
        loader = DataLoader(ImageFolder(folder, PAIR), batch_size=6)
        hard = wrapped(loader, model)
        hard.hard_pairs.generator.manual_seed(3)
        drawn = []
        for _ in range(3):
            hard = wrapped(loader, model) if again else hard
            drawn += [views[0] for views, _ in hard]
        assert hard.hard_pairs.step == 3
        return drawn

    every, once = epochs(again=True), epochs(again=False)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(every, once, strict=True))
    assert not torch.equal(every[0], every[1]) and not torch.equal(every[1], every[2])


def test_a_generator_of_the_users_own_is_not_overruled(folder: Path, model: Model) -> None:
    loader = DataLoader(ImageFolder(folder, PAIR), batch_size=6)
    drawn = [next(iter(wrapped(loader, model, generator=torch.Generator().manual_seed(2))))[0][0] for _ in range(2)]
    assert torch.equal(*drawn)


def test_it_follows_changes_of_the_users_objects(folder: Path, model: Model) -> None:
    dataset = Masked(folder, PAIR)
    loader = DataLoader(Subset(dataset, range(6)), batch_size=6)

    def epoch(**options: Any) -> Any:
        hard = wrap(loader, model=lambda images, masks: model(images), loss=MaskedLoss(temperature=0.2), **options)
        return hard, next(iter(hard))

    first, batch = epoch()
    assert batch[3].tolist() == [-1] * 6
    dataset.set_epoch(7)
    second, batch = epoch()
    assert batch[3].tolist() == [7] * 6 and second.loader is first.loader
    third, batch = epoch(candidates=6)
    assert third.loader is not first.loader and third.hard_pairs.slots[0].candidates == 6 and third.hard_pairs.step == 3


def test_the_raw_dataset_reaches_spawned_workers(folder: Path, model: Model) -> None:
    inner = wrapped(DataLoader(Subset(ImageFolder(folder, PAIR), range(4)), batch_size=4), model).loader
    dataset, collate_fn = pickle.loads(pickle.dumps((inner.dataset, inner.collate_fn)))
    batch = collate_fn([dataset[index] for index in range(4)])
    assert len(batch.images) == 4 and batch.rest[1].tolist() == [0, 0, 0, 1]


def test_persistent_workers_live_on(folder: Path, model: Model) -> None:
    loader = DataLoader(ImageFolder(folder, PAIR), batch_size=3, num_workers=1, persistent_workers=True)
    hard = wrapped(loader, model)
    assert len(list(hard)) == 2
    workers = hard.loader._iterator
    assert len(list(wrapped(loader, model))) == 2 and hard.loader._iterator is workers
    workers._shutdown_workers()


def test_masks_are_drawn_by_the_dataset_for_every_candidate(folder: Path, model: Model) -> None:
    loader = DataLoader(Masked(folder, MULTI_CROP), batch_size=3)
    seen: list[Tensor] = []

    def score(images: Tensor, masks: Tensor | None = None) -> Tensor:
        seen.extend([] if masks is None else [masks])
        return model(images)

    hard = wrap(loader, model=score, loss=MaskedLoss(temperature=0.2))
    views, labels, masks, _ = next(iter(hard))
    assert seen[0].shape == (4 * 3, 4, 4) and seen[0][:, 0, 0].tolist() == [0, 100, 200, 1, 101, 201, 2, 102, 202, 3, 103, 203]
    assert len(views) == 5 and len(masks) == 2 and labels.tolist() == [0, 0, 0]
    expected = [[100 * image + int(hard.last.indices[view, image]) for image in range(3)] for view in range(2)]
    assert [mask[:, 0, 0].tolist() for mask in masks] == expected


def test_nested_datasets(folder: Path, model: Model) -> None:
    parts = [Subset(ImageFolder(folder, PAIR), [0, 1]), ImageFolder(folder, MultiViewTransform(PIPELINE, PIPELINE))]
    hard = wrapped(DataLoader(ConcatDataset(parts), batch_size=8), model)
    assert next(iter(hard))[0][0].shape == (8, 3, 16, 16)
    differing = ConcatDataset([ImageFolder(folder, PAIR), ImageFolder(folder, MULTI_CROP)])
    with pytest.raises(HVSError, match="one transform for all parts of the dataset"):
        wrapped(DataLoader(differing, batch_size=8), model)


def test_lightly_dataset(folder: Path, model: Model) -> None:
    dataset = LightlyDataset(str(folder), transform=PAIR)
    views, _, names = next(iter(wrapped(DataLoader(dataset, batch_size=2), model)))
    assert len(views) == 2 and names[0].endswith("0-0.png") and dataset.transform is PAIR


def test_datasets_that_use_the_other_attribute(model: Model) -> None:
    class Joint(VisionDataset):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> Any:
            return self.transforms(photographs()[index], index)

    dataset = Joint("", transform=PAIR)
    views, labels = next(iter(wrapped(DataLoader(dataset, batch_size=2), model)))
    assert len(views) == 2 and labels.tolist() == [0, 1] and dataset.transforms.transform is PAIR


def test_a_stream(model: Model) -> None:
    class Stream(IterableDataset[Any]):
        transform = None

        def __init__(self, transform: Any) -> None:
            self.transform = transform

        def __iter__(self) -> Iterator[Any]:
            yield from ({"image": self.transform(image), "label": index} for index, image in enumerate(photographs()))

    hard = wrapped(DataLoader(Stream(PAIR), batch_size=4), model)
    with pytest.raises(TypeError):
        len(hard)
    assert [(batch["label"].tolist(), len(batch["image"])) for batch in hard] == [([0, 1, 2, 3], 2), ([4, 5], 2)]


def test_images_are_read_as_the_repo_reads_them(tmp_path: Path, model: Model) -> None:
    photograph = photographs()[0].resize((40, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # lying on its side: PIL's loaders leave it so
    (tmp_path / "one").mkdir()
    photograph.save(tmp_path / "one" / "a.jpg", exif=exif)
    hard = wrapped(DataLoader(ImageFolder(tmp_path, PAIR), batch_size=1), model)
    assert next(iter(hard.loader)).images.sizes.tolist() == [[20, 40]]


def test_grey_datasets_keep_their_one_channel(model: Model) -> None:
    class Grey(Dataset[Any]):
        transform = None

        def __init__(self, *steps: Any) -> None:
            view = transforms.Compose([transforms.RandomResizedCrop(16), transforms.ToTensor(), *steps])
            self.transform = MultiViewTransform(view, view)

        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> Any:
            return self.transform(photographs()[index].convert("L")), index

    for steps in ([], [transforms.Normalize((0.5,), (0.5,))]):
        hard = wrapped(DataLoader(Grey(*steps), batch_size=2), lambda images: images.flatten(1))
        assert next(iter(hard))[0][0].shape == (2, 1, 16, 16)


def test_nothing_is_kept_of_a_loader_that_is_gone(folder: Path, model: Model) -> None:
    loader = DataLoader(ImageFolder(folder, PAIR), batch_size=4)
    hard = wrapped(loader, model)
    assert len(module._wrapped[loader]) == 1 and wrapped(hard, model) is hard
    gc.collect()
    kept = len(module._wrapped)
    del loader
    gc.collect()
    assert len(module._wrapped) == kept - 1


class Restacking(ImageFolder):
    def __getitem__(self, index: int) -> Any:
        views, label = super().__getitem__(index)
        return torch.stack(list(views)), label


def test_bad_input(folder: Path, model: Model) -> None:
    def refused(loader: Any, words: str, **options: Any) -> None:
        with pytest.raises(HVSError, match=words):
            wrapped(loader, model, **options)

    refused(DataLoader(ImageFolder(folder)), "a dataset with a transform, got ImageFolder without one")
    refused(DataLoader([1, 2, 3]), "a dataset with a transform, got list without one")  # pyright: ignore
    refused(DataLoader(ImageFolder(folder, PIPELINE)), "several views of an image, got ImageFolder with Compose")
    refused([1, 2], "a torch DataLoader, got list")
    turned = transforms.Compose([transforms.RandomResizedCrop(16), transforms.RandomPerspective(), transforms.ToTensor()])
    loader = DataLoader(ImageFolder(folder, MultiViewTransform(turned, turned)))
    refused(loader, "got RandomPerspective", views="converted")
    refused(DataLoader(ImageFolder(folder, PAIR)), r"wrap\(views\): expected one of auto, converted, own", views="owm")
    refused(
        DataLoader(ImageFolder(folder, PAIR)), r"wrap\(transform\): expected a transform that the dataset holds", transform=SMALL
    )


def test_a_dataset_that_computes_with_its_views_is_refused(folder: Path, model: Model) -> None:
    for views in ("converted", "auto", "own"):
        with pytest.raises(HVSError, match="a dataset that hands its views on as they are, got one that computes with them"):
            wrapped(DataLoader(Restacking(folder, PAIR)), model, views=views)


def test_a_dataset_whose_images_are_normalised_already(model: Model) -> None:
    view = transforms.Compose([transforms.RandomResizedCrop(16), transforms.ConvertImageDtype(torch.float32)])

    class Tensors(Dataset[Any]):
        transform = MultiViewTransform(view, view)

        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> Any:
            return self.transform(torch.full((3, 20, 20), -1.5)), index

    with pytest.warns(UserWarning, match="values in .0, 1."):
        hard = wrapped(DataLoader(Tensors(), batch_size=2), model)
    assert float(next(iter(hard))[0][0].max()) == pytest.approx(-1.5)


def test_the_slots_are_those_of_the_transform(folder: Path, model: Model) -> None:
    hard = wrapped(DataLoader(ImageFolder(folder, MULTI_CROP), batch_size=4), model, candidates=3, scoring=Scoring(scale=0.5))
    assert isinstance(hard, HardViewLoader)
    assert list(hard.hard_pairs.slots) == convert(MULTI_CROP, 3) and hard.hard_pairs.scoring.scale == 0.5


def test_options_are_checked_before_any_work(model: Model) -> None:
    loader = DataLoader([1, 2, 3])  # which is refused, too, but later
    with pytest.raises(
        HVSError, match=r"wrap\(\*\*options\): expected one of .*, got 'candidate'.\n  hint: did you mean 'candidates'"
    ):
        wrapped(loader, model, candidate=8)
    with pytest.raises(HVSError, match=r"wrap\(\*\*options\).*got 'polcy'.\n  hint: did you mean 'policy'"):
        wrapped(loader, model, polcy="hardest", enabled=False)


def test_options_reach_the_sampler(folder: Path, model: Model) -> None:
    generator = torch.Generator().manual_seed(3)
    loader = DataLoader(ImageFolder(folder, PAIR), batch_size=4)
    sampler = wrapped(loader, model, policy="semi_hard:0.8", scoring="cheap", generator=generator).hard_pairs
    assert repr(sampler.policy) == "semi_hard(quantile=0.8, limit=1024)" and sampler.scoring == CHEAP
    assert sampler.generator is generator
    with pytest.raises(HVSError, match="did you mean 'semi_hard'"):
        wrapped(loader, model, policy="semihard:0.8")
