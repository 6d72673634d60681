"""wrap on datasets, transforms and loaders that nobody here has seen: written as strangers write them."""

from __future__ import annotations

import itertools
import random
import warnings
from collections import namedtuple
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset
from torchvision import transforms
from torchvision.transforms import v2

from hvs_aug._check import HVSError
from hvs_aug.dropin.loader import ViewList
from hvs_aug.dropin.stand_in import replay
from hvs_aug.dropin.wrap import wrap
from hvs_aug.selection.losses import NTXentLoss

from .photographs import photographs

VIEW = transforms.Compose([transforms.RandomResizedCrop(16), transforms.RandomHorizontalFlip(), transforms.ToTensor()])
SMALL = transforms.Compose([transforms.RandomResizedCrop(8), transforms.ToTensor()])


def posterized_strangely(image: Image.Image) -> Image.Image:
    """What nothing here can express."""
    return ImageOps.posterize(image, random.choice([1, 2, 8]))


UNKNOWN = transforms.Compose([transforms.RandomResizedCrop(16), transforms.Lambda(posterized_strangely), transforms.ToTensor()])


class TwoCrops:
    """A stranger's two lines."""

    def __init__(self, view: Callable[[Any], Any]) -> None:
        self.view = view

    def __call__(self, image: Any) -> list[Any]:
        return [self.view(image), self.view(image)]


class Photographs(Dataset[Any]):
    """Photographs in samples that ``sample(views, index)`` makes."""

    def __init__(
        self, transform: Any, sample: Callable[[Any, int], Any] = lambda views, index: (views, index), mode: str = "RGB"
    ) -> None:
        self.images = [image.convert(mode) for image in photographs()]
        self.transform, self.sample = transform, sample

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return self.sample(self.transform(self.images[index]), index)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 8)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(nn.functional.adaptive_avg_pool2d(images.mean(1, keepdim=True), 4).flatten(1))


def wrapped(dataset: Any, loader: Any = None, **options: Any) -> Any:
    loader = DataLoader(dataset, batch_size=3) if loader is None else loader
    return wrap(loader, model=options.pop("model", None) or Model(), loss=NTXentLoss(temperature=0.2), **options)


def shapes(batch: Any) -> Any:
    if isinstance(batch, Tensor):
        return tuple(batch.shape)
    return {key: shapes(value) for key, value in batch.items()} if isinstance(batch, dict) else [shapes(value) for value in batch]


Sample = namedtuple("Sample", "index views")


@pytest.mark.parametrize(
    "sample",
    [
        lambda views, index: views,
        lambda views, index: (index, views, 0),
        lambda views, index: (*views, index),
        lambda views, index: (views[1], index, views[0]),
        lambda views, index: {"views": views, "label": index},
        lambda views, index: {"a": {"b": [index, views]}, "again": views[0]},
        lambda views, index: Sample(index, tuple(views)),
        lambda views, index: (dict(zip(("one", "two"), views, strict=True)), index),
    ],
)
@pytest.mark.parametrize("views", ["converted", "own"])
def test_views_stand_where_the_dataset_puts_them(sample: Callable[[Any, int], Any], views: str) -> None:
    dataset = Photographs(TwoCrops(VIEW), sample)
    hard = wrapped(dataset, views=views)
    for batch, own in zip(hard, DataLoader(dataset, batch_size=3), strict=True):
        assert type(batch) in (type(own), ViewList) and shapes(batch) == shapes(own)
    assert [(slot.candidates, slot.select) for slot in hard.hard_pairs.slots] == [(4, 2)]


def test_a_view_is_never_put_in_anothers_place() -> None:
    class Marked(TwoCrops):
        def __call__(self, image: Any) -> Any:
            return [0.25 * self.view(image), self.view(image) * 0 + 0.5, SMALL(image)]

    for sample in (lambda views, index: (index, views), lambda views, index: {"c": views[2], "b": views[1], "a": views[0]}):
        hard = wrapped(Photographs(Marked(VIEW), sample), views="own")
        batch = next(iter(hard))
        first, second, third = batch[1] if isinstance(batch, list) else (batch["a"], batch["b"], batch["c"])
        assert float(first.max()) <= 0.25 and bool((second == 0.5).all()) and third.shape[-1] == 8


def test_a_transform_of_a_dict() -> None:
    def both(sample: dict[str, Any]) -> dict[str, Any]:
        return sample | {"image": [VIEW(sample["image"]) for _ in range(2)]}

    class Dicts(Photographs):
        def __getitem__(self, index: int) -> Any:
            return self.transform({"image": self.images[index], "index": index})

    with pytest.warns(UserWarning, match="a transform that gets an image and returns its views alone"):
        hard = wrapped(Dicts(both))
    batch = next(iter(hard))
    assert shapes(batch["image"]) == [(3, 3, 16, 16)] * 2 and batch["index"].tolist() == [0, 1, 2]


class Twice(Photographs):
    """Calls the transform of one view for each view."""

    def __getitem__(self, index: int) -> Any:
        return self.transform(self.images[index]), self.transform(self.images[index]), index


class OneByOne(Photographs):
    """Calls a list of transforms, under a name that does not tell."""

    def __init__(self, several: list[Any]) -> None:
        super().__init__(None)
        self.several = several
        del self.transform

    def __getitem__(self, index: int) -> Any:
        return [view(self.images[index]) for view in self.several]


@pytest.mark.parametrize("views", ["converted", "own"])
def test_datasets_that_call_it_for_each_view(views: str) -> None:
    first, second, index = next(iter(wrapped(Twice(VIEW), views=views)))
    assert first.shape == second.shape == (3, 3, 16, 16) and index.tolist() == [0, 1, 2] and not torch.equal(first, second)
    dataset = OneByOne([VIEW, VIEW, SMALL, SMALL, SMALL])
    for hard in (wrapped(dataset, views=views), wrapped(dataset, views=views, transform=dataset.several)):
        assert shapes(next(iter(hard))) == [(3, 3, 16, 16)] * 2 + [(3, 3, 8, 8)] * 3
    assert [(slot.role, slot.candidates, slot.select) for slot in hard.hard_pairs.slots] == [("global", 4, 2), ("local", 6, 3)]


def test_a_transform_that_the_dataset_hides() -> None:
    class Hidden(Photographs):
        def __getitem__(self, index: int) -> Any:
            return HIDDEN(self.images[index])

    with pytest.raises(HVSError, match="several views of an image, got Hidden.*\n  hint: if the dataset has one, pass it as wrap"):
        wrapped(Hidden(VIEW))


HIDDEN = TwoCrops(VIEW)


def test_a_dataset_of_pairs_of_images_is_refused() -> None:
    class Pairs(Photographs):
        def __getitem__(self, index: int) -> Any:
            return self.transform(self.images[index]), self.transform(self.images[index - 1])

    with pytest.raises(HVSError, match="all views of a sample of one image, got one that makes them of several"):
        wrapped(Pairs(VIEW))


def test_a_transform_that_is_a_class_attribute() -> None:
    class Shared(Photographs):
        transform = TwoCrops(VIEW)

        def __init__(self) -> None:
            self.images, self.sample = photographs(), lambda views, index: (views, index)

    assert shapes(next(iter(wrapped(Shared())))) == [[(3, 3, 16, 16)] * 2, (3,)]
    assert isinstance(Shared.transform, TwoCrops)


def test_a_transform_under_another_name() -> None:
    class Named(Photographs):
        def __init__(self) -> None:
            super().__init__(None)
            self.target_transform, self.augmentations = (lambda label: label), {"train": [TwoCrops(VIEW)]}

        def __getitem__(self, index: int) -> Any:
            return self.augmentations["train"][0](self.images[index]), self.target_transform(index)

    assert shapes(next(iter(wrapped(Named())))) == [[(3, 3, 16, 16)] * 2, (3,)]


# ---- the user's own transform, run as it is ----


def test_what_cannot_be_converted_is_run_as_it_is_with_one_warning() -> None:
    dataset = Photographs(TwoCrops(UNKNOWN))
    loader = DataLoader(dataset, batch_size=3)
    with pytest.warns(UserWarning, match="own transform") as warned:
        hard = wrapped(None, loader)
    (message,) = (str(warning.message) for warning in warned)
    assert "got Lambda()" in message and "2 times for every image" in message and "views='own'" in message
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wrapped(None, loader, views="own")
        again = wrapped(None, loader, model=hard.hard_pairs.model)  # the next epoch
    assert again.loader is hard.loader
    with pytest.raises(HVSError, match="got Lambda"):
        wrapped(None, loader, views="converted")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_choice_can_be_replayed(workers: int) -> None:
    dataset = Photographs(TwoCrops(UNKNOWN))
    hard = wrapped(None, DataLoader(dataset, batch_size=3, num_workers=workers), views="own", candidates=6)
    seen = 0
    for views, index in hard:
        seeds, indices = hard.last.extras["seed"], hard.last.indices
        for place in range(2):
            for row in range(len(index)):
                # Candidate i of the slot is view i % 2 of draw i // 2.
                made = replay(dataset.transform, dataset.images[int(index[row])], int(seeds[place, row]))
                assert torch.equal(views[place][row], made[int(indices[place, row]) % 2])
                seen += 1
    assert seen == 12 and bool((hard.last.loss == hard.last.loss).all())


def test_the_hardest_of_the_candidates_are_chosen() -> None:
    dataset = Photographs(TwoCrops(UNKNOWN))
    hard = wrapped(dataset, views="own", candidates=8)
    batch = next(iter(hard.loader))
    chosen = hard.choose(batch)
    expected = hard.hard_pairs.select(batch.candidates)
    assert len(batch.candidates) == 8
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(chosen[0], expected.views, strict=True))


def test_a_view_that_shares_a_crop_follows_the_one_that_was_chosen() -> None:
    crop, end = transforms.RandomResizedCrop(16, scale=(0.1, 0.3)), transforms.ToTensor()
    invert = transforms.Compose([transforms.RandomInvert(1.0), end])

    def globals_and_teachers(image: Image.Image) -> dict[str, Any]:
        crops = [crop(image) for _ in range(2)]
        return {"crops": [end(each) for each in crops], "teacher": [invert(each) for each in crops]}

    with pytest.warns(UserWarning, match="views that share no draw"):
        hard = wrapped(Photographs(globals_and_teachers), candidates=8)
    assert len(hard.hard_pairs.slots) == 2
    for batch, _ in hard:
        for ours, teachers in zip(batch["crops"], batch["teacher"], strict=True):
            torch.testing.assert_close(ours, 1 - teachers, atol=1e-6, rtol=0)


def test_views_of_different_draws_that_do_not_go_together_are_refused() -> None:
    jitter = transforms.ColorJitter(0.4)

    def jittered_once(image: Image.Image) -> list[Tensor]:
        image = jitter(image)
        return [UNKNOWN(image), UNKNOWN(image)]

    with pytest.raises(HVSError, match="draws at least two of its views independently, got function"):
        wrapped(Photographs(jittered_once), views="own")

    def with_offsets(image: Image.Image) -> dict[str, Any]:
        return {"views": [UNKNOWN(image), UNKNOWN(image)], "offset": random.random()}

    with pytest.raises(HVSError, match="other values do not depend on what it draws for its views, got function"):
        wrapped(Photographs(with_offsets), views="own")


def test_parts_that_cannot_be_read_are_still_told_apart() -> None:
    class Unreadable:
        def __init__(self, size: int) -> None:
            self.crop = transforms.RandomResizedCrop(size)

        def __call__(self, image: Any) -> Tensor:
            return transforms.functional.to_tensor(posterized_strangely(self.crop(image)))

    large, small = Unreadable(16), Unreadable(8)
    with pytest.warns(UserWarning, match="got Unreadable"):
        hard = wrapped(Photographs(lambda image: [large(image), large(image), small(image), small(image)]))
    assert [(slot.role, slot.candidates, slot.select) for slot in hard.hard_pairs.slots] == [("global", 4, 2), ("local", 4, 2)]


def test_constants_beside_the_views_are_kept() -> None:
    def flagged(image: Image.Image) -> dict[str, Any]:
        return {"views": [VIEW(image), VIEW(image)], "weak": True, "name": "pair"}

    batch = next(iter(wrapped(Photographs(flagged), views="converted")))[0]
    assert batch["weak"].tolist() == [True] * 3 and batch["name"] == ["pair"] * 3 and len(batch["views"]) == 2


def test_the_same_draws_for_a_seed_and_others_in_every_epoch() -> None:
    def epochs() -> list[Tensor]:
        torch.manual_seed(4)
        hard = wrapped(Photographs(TwoCrops(UNKNOWN)), views="own", generator=torch.Generator().manual_seed(0))
        return [next(iter(hard))[0][0] for _ in range(2)]

    first, second = epochs(), epochs()
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1]) and not torch.equal(first[0], first[1])


def test_candidates_that_whole_draws_cannot_give_are_refused() -> None:
    dataset = Photographs(TwoCrops(UNKNOWN))
    with pytest.raises(HVSError, match="as many candidates for every view that is kept"):
        wrapped(dataset, views="own", candidates=5)


# ---- images as the dataset's own loader leaves them ----


MODES = ["RGB", "L", "RGBA", "LA", "CMYK", "1", "P"]
# Pillow resizes I;16 since release 11.
SIXTEEN_BITS = [("I;16", True), pytest.param("I;16", False, marks=pytest.mark.needs("pillow>=11"))]


@pytest.mark.parametrize("mode, in_color", [*itertools.product(MODES, [False, True]), *SIXTEEN_BITS])
def test_channels_are_those_of_the_datasets_own_views(mode: str, in_color: bool) -> None:
    start = [v2.RGB()] if in_color else []
    view = v2.Compose(
        [*start, v2.RandomResizedCrop(16, scale=(1, 1), ratio=(0.5, 2)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    )
    if mode == "I;16":
        images = [Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257) for image in photographs()]
    else:
        images = [image.convert(mode) for image in photographs()]
    dataset = Photographs(TwoCrops(view))
    dataset.images = images
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hard = wrapped(dataset)
    own, ours = next(iter(DataLoader(dataset, batch_size=6)))[0], next(iter(wrapped_all(hard)))
    assert ours.shape[1:] == own[0].shape[1:]
    torch.testing.assert_close(ours.mean((0, 2, 3)), own[0].mean((0, 2, 3)), atol=0.06, rtol=0)


def wrapped_all(hard: Any) -> list[Tensor]:
    return [torch.cat([batch[0][0] for batch in hard])]


def test_large_images_are_reduced_only_where_that_is_asked_for() -> None:
    class Wide(Photographs):
        def __init__(self) -> None:
            super().__init__(TwoCrops(VIEW))
            self.images = [Image.new("RGB", (2100, 6))] * 2

    sizes = [next(iter(wrapped(Wide(), max_side=side).loader)).images.sizes.tolist() for side in (None, 700)]
    assert sizes == [[[6, 2100]] * 2, [[2, 700]] * 2]


# ---- loaders ----


class Counting(DataLoader[Any]):
    """A loader with an ``__iter__`` and a state of its own."""

    read = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        for batch in super().__iter__():
            self.read += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"read": self.read}


def test_a_loader_class_of_the_users_own_is_kept() -> None:
    loader = Counting(Photographs(TwoCrops(VIEW)), batch_size=2)
    hard = wrapped(None, loader)
    assert len(list(hard)) == 3 and isinstance(hard.loader, Counting)
    assert hard.state_dict() == {"read": 3} and loader.state_dict() == {"read": 0}


def stacked(samples: list[Any], scale: float) -> dict[str, Any]:
    return {
        "crops": torch.stack([torch.stack(list(views)) for views, _ in samples]) * scale,
        "names": [f"n{index}" for _, index in samples],
    }


@pytest.mark.parametrize("views", ["converted", "own"])
def test_a_collate_fn_of_the_users_own_gets_the_chosen_views(views: str) -> None:
    loader = DataLoader(Photographs(TwoCrops(VIEW)), batch_size=4, num_workers=1, collate_fn=partial(stacked, scale=-1.0))
    hard = wrapped(None, loader, views=views)
    batch = next(iter(hard))
    assert batch["names"] == ["n0", "n1", "n2", "n3"]
    assert torch.equal(batch["crops"], -torch.stack(hard.last.views, 1))


@pytest.mark.parametrize("transform", [TwoCrops(VIEW), TwoCrops(UNKNOWN)])
def test_streams(transform: Any) -> None:
    class Stream(IterableDataset[Any]):
        def __init__(self) -> None:
            self.transform, self.read = transform, 0

        def __iter__(self) -> Iterator[Any]:
            for index, image in enumerate(photographs()):
                self.read += 1
                yield index, self.transform(image)

    stream = Stream()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hard = wrapped(stream)
    assert stream.read == 0
    assert [(index.tolist(), shapes(views)) for index, views in hard] == [
        ([0, 1, 2], [(3, 3, 16, 16)] * 2),
        ([3, 4, 5], [(3, 3, 16, 16)] * 2),
    ]


def test_each_model_has_a_state_of_its_own() -> None:
    loader = DataLoader(Photographs(TwoCrops(VIEW)), batch_size=3)
    one, other = Model(), Model()
    steps = []
    for model in (one, other, one, other):
        # Made anew in every epoch, as a lambda is.
        hard = wrap(loader, model=lambda images, model=model: model(images), loss=NTXentLoss(temperature=0.2))
        steps.append(hard.hard_pairs.step)
        list(hard)
    assert steps == [0, 0, 2, 2]


def test_the_global_random_state_is_as_before() -> None:
    def drawn(hard: bool) -> list[float]:
        torch.manual_seed(0), np.random.seed(0), random.seed(0)  # noqa: NPY002
        if hard:
            wrapped(Photographs(TwoCrops(VIEW)))
        return [float(np.random.rand()), random.random()]  # noqa: NPY002

    assert drawn(True) == drawn(False)


def test_the_device_follows_the_model() -> None:
    model = Model()
    hard = wrapped(Photographs(TwoCrops(VIEW)), model=model)
    assert hard.device == torch.device("cpu")
    model.to("meta")
    assert hard.device == torch.device("meta")


# ---- one tensor of views, and loaders that make no batches ----


class Stacking(TwoCrops):
    """Returns both views as one tensor (2, C, h, w)."""

    def __call__(self, image: Any) -> Any:
        return torch.stack(super().__call__(image))


@pytest.mark.parametrize("view, views", [(VIEW, "converted"), (UNKNOWN, "own")])
def test_a_transform_that_stacks_its_views(view: Any, views: Any) -> None:
    dataset = Photographs(Stacking(view))
    hard = wrapped(dataset, views=views)
    batch, own = next(iter(hard)), next(iter(DataLoader(dataset, batch_size=3)))
    assert batch[0].shape == own[0].shape == (3, 2, 3, 16, 16) and batch[1].tolist() == [0, 1, 2]
    assert torch.equal(batch[0], torch.stack(hard.last.views, 1))
    seen: list[Any] = []
    loader = DataLoader(dataset, batch_size=3, collate_fn=lambda samples: seen.append(samples) or len(samples))
    hard = wrapped(dataset, loader, views=views)
    assert next(iter(hard)) == 3 and [sample[0].shape for sample in seen[0]] == [(2, 3, 16, 16)] * 3


def squared(one: Tensor, other: Tensor) -> Tensor:
    return (one - other).square().mean(-1)


def test_a_loader_without_batches() -> None:
    dataset = Photographs(TwoCrops(VIEW))
    loader = DataLoader(dataset, batch_size=None)
    hard = wrap(loader, model=Model(), loss=squared)
    items, own = list(hard), next(iter(loader))
    assert len(items) == 6 and [number for _, number in items] == list(range(6))
    assert [view.shape for view in items[0][0]] == [view.shape for view in own[0]] == [(3, 16, 16)] * 2
    assert torch.equal(items[-1][0][1], hard.last.views[1][0])


class InLists(Photographs):
    """Is asked for whole batches."""

    def __getitem__(self, indices: Any) -> Any:
        return [super(InLists, self).__getitem__(index) for index in indices]


def test_a_dataset_that_makes_the_batches() -> None:
    dataset = InLists(TwoCrops(VIEW))
    batches = torch.utils.data.BatchSampler(torch.utils.data.SequentialSampler(range(6)), 3, False)
    loader = DataLoader(dataset, batch_size=None, sampler=batches, collate_fn=torch.utils.data.default_collate)
    hard = wrapped(dataset, loader)
    (views, numbers), (own, _) = next(iter(hard)), next(iter(loader))
    assert [view.shape for view in views] == [view.shape for view in own] == [(3, 3, 16, 16)] * 2
    assert numbers.tolist() == [0, 1, 2] and hard.last.indices.shape == (2, 3)
