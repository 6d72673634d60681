"""wrap: the one line that gives a training function hard views, from the loader that it already has."""

from __future__ import annotations

import copy
import inspect
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, default_collate

from .._check import fail, require, require_name
from ..data.collate import collate_images
from ..selection.losses import PairLoss
from ..selection.policies import Policy
from ..selection.sampler import HardPairSampler, HardViews
from ..selection.scoring import Scoring
from ..views.convert import convert, returned_views
from ..views.recipe import ViewSlot
from .loader import HardViewLoader

__all__ = ["wrap"]

_CALL = "wrap(loader)"
_BY_HAND = "hvs_aug.HardViewLoader(loader, sampler) takes any loader of raw images, made with collate_fn=hvs_aug.collate_images."
# What a DataLoader is made with, apart from its dataset, its collate_fn and how it forms batches.
_OPTIONS = (
    "num_workers",
    "pin_memory",
    "timeout",
    "worker_init_fn",
    "multiprocessing_context",
    "generator",
    "prefetch_factor",
    "persistent_workers",
    "in_order",
)
_wrapped: weakref.WeakKeyDictionary[DataLoader[Any], HardViewLoader] = weakref.WeakKeyDictionary()


def wrap(
    loader: Any,
    *,
    model: Callable[..., Any],
    loss: PairLoss | Callable[[Any, Any], Tensor],
    candidates: int | Sequence[int] | None = None,
    teacher: Callable[..., Any] | None = None,
    policy: str | Policy = "hardest",
    scoring: str | Scoring = Scoring(),  # noqa: B008 - it is frozen
    generator: torch.Generator | None = None,
    enabled: bool = True,
    device: torch.device | str | None = None,
    batch_format: Callable[[HardViews, Any], Any] | None = None,
    **unknown: NoReturn,
) -> Any:
    """Give a training loop hard views: the same batches as from its loader, the views chosen among more candidates.

    The transform of the loader's dataset is converted to slots (:func:`hvs_aug.convert`); a new DataLoader with the same sampler,
    workers and seeds reads the raw images. Neither the loader nor its dataset is changed. Meant to be called at the head of the
    function that trains an epoch: called again with the same loader it goes on with the same workers and random numbers.

    Args:
        loader: the repo's DataLoader, whose dataset has a transform that returns several views.
        model, loss, teacher, policy, scoring, generator: as for :class:`HardPairSampler`.
        candidates: as for :func:`hvs_aug.convert`; by default twice the views that are kept.
        enabled: False returns the loader itself.
        device, batch_format: as for :class:`HardViewLoader`.
        unknown: takes no values; an option that there is not is refused, with the closest that there is.

    A dataset that goes on to work with the views, as iBOT's does to draw a mask for each, is given stand-ins that have the shapes
    of the global candidates, in their order.

    Raises:
        HVSError: if there is no such option; if the loader is no DataLoader or has a collate_fn of its own, or its dataset no
            transform of several views, or one that cannot be converted exactly.
    """
    for name in unknown:
        require_name(name, [option for option in inspect.signature(wrap).parameters if option != "unknown"], "wrap(**options)")
    if not enabled or isinstance(loader, HardViewLoader):
        return loader
    require(isinstance(loader, DataLoader), _CALL, "a torch DataLoader", loader, _BY_HAND)
    slots = _slots(loader.dataset, candidates)
    sampler = HardPairSampler(model, loss, slots, teacher=teacher, policy=policy, scoring=scoring, generator=generator)
    known = _wrapped.get(loader)
    raw: Any
    if known is not None:
        state = known.hard_pairs.state_dict()
        if generator is not None:
            state["generator"] = sampler.generator.get_state()
        sampler.load_state_dict(state)
    if known is not None and known.hard_pairs.slots == sampler.slots:
        raw = known.loader
        _refresh(raw.dataset, loader.dataset)
    else:
        raw = _raw_loader(loader, sampler.slots)
    _wrapped[loader] = HardViewLoader(raw, sampler, device, batch_format)
    return _wrapped[loader]


def _slots(dataset: Any, candidates: int | Sequence[int] | None) -> list[ViewSlot]:
    found: list[ViewSlot] | None = None
    for owner in _owners(dataset):
        if returned_views(owner.transform) is None:
            fail(_CALL, "a transform that returns several views of an image", owner.transform, _BY_HAND)
        slots = convert(owner.transform, candidates)
        require(found is None or found == slots, _CALL, "one transform for all parts of the dataset", f"{found} and {slots}")
        found = slots
    assert found is not None
    return found


def _inner(dataset: Any) -> list[Any]:
    """The datasets that a dataset is made of: ConcatDataset's, ChainDataset's, Subset's, or none."""
    attributes = vars(dataset)
    if isinstance(attributes.get("datasets"), (list, tuple)):
        return list(attributes["datasets"])
    return [attributes["dataset"]] if "dataset" in attributes else []


def _has_transform(dataset: Any) -> bool:
    return callable(vars(dataset).get("transform")) if hasattr(dataset, "__dict__") else False


def _owners(dataset: Any) -> Iterator[Any]:
    """The dataset, or those inside it, that apply a transform."""
    if _has_transform(dataset):
        yield dataset
        return
    inner = _inner(dataset) if hasattr(dataset, "__dict__") else []
    if not inner:
        hint = f"it is read from dataset.transform. {_BY_HAND}"
        fail(_CALL, "a dataset with a transform", f"{type(dataset).__name__} without one", hint)
    for part in inner:
        yield from _owners(part)


def _raw_dataset(dataset: Any, transform: _RawTransform) -> Any:
    """A copy of the dataset, and of those inside it, that returns raw images; the files and samples are shared."""
    raw = copy.copy(dataset)
    if _has_transform(dataset):
        raw.transform = transform
        if hasattr(vars(dataset).get("transforms"), "transform"):  # torchvision keeps it twice, and some datasets use this one
            raw.transforms = copy.copy(dataset.transforms)
            raw.transforms.transform = transform
    elif "datasets" in vars(dataset):
        raw.datasets = [_raw_dataset(part, transform) for part in dataset.datasets]
    else:
        raw.dataset = _raw_dataset(dataset.dataset, transform)
    return raw


def _refresh(raw: Any, dataset: Any) -> None:
    """Bring the copy up to date with what was set on the dataset since (an epoch number)."""
    own = {"transform", "transforms", "dataset", "datasets"}
    vars(raw).update({name: value for name, value in vars(dataset).items() if name not in own})
    if not _has_transform(dataset):
        for part, original in zip(_inner(raw), _inner(dataset), strict=True):
            _refresh(part, original)


def _raw_loader(loader: DataLoader[Any], slots: Sequence[ViewSlot]) -> DataLoader[Any]:
    batched = loader.batch_sampler is not None or loader.batch_size is not None
    require(batched, _CALL, "a DataLoader that makes batches", "one with batch_size=None", _BY_HAND)
    if loader.collate_fn is not default_collate:
        name = getattr(loader.collate_fn, "__qualname__", type(loader.collate_fn).__name__)
        fail(_CALL, "a DataLoader with the default collate_fn", f"its own, {name}", _BY_HAND)
    options = {name: getattr(loader, name) for name in _OPTIONS if hasattr(loader, name)}
    if not isinstance(loader.dataset, IterableDataset) and loader.batch_size is None:
        options["batch_sampler"] = loader.batch_sampler
    else:
        options |= {"batch_size": loader.batch_size, "drop_last": loader.drop_last}
        if not isinstance(loader.dataset, IterableDataset):
            options["sampler"] = loader.sampler
    sizes = [slot.recipe.size for slot in slots if slot.role == "global" for _ in range(slot.candidates)]
    return DataLoader(_raw_dataset(loader.dataset, _RawTransform(sizes)), collate_fn=_collate_raw, **options)


class _RawViews(list[Tensor]):
    """A raw image, to a dataset that looks at it a list of views that have shapes and no pixels."""

    def __init__(self, raw: Any, views: Sequence[Tensor]) -> None:
        super().__init__(views)
        self.raw = raw


class _RawTransform:
    """In the place of a dataset's transform: passes the image on as it is."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = list(sizes)

    def __call__(self, image: Any) -> _RawViews:
        if isinstance(image, Image.Image) and image.mode == "RGB":
            # As an array, which is not turned by the EXIF orientation: the dataset's own pipeline does not turn it either.
            image = np.asarray(image)
        channels = _channels(image)
        return _RawViews(image, [torch.empty(channels, size, size, device="meta") for size in self.sizes])


def _channels(image: Any) -> int:
    if isinstance(image, Image.Image):
        return 1 if len(image.getbands()) == 1 and image.mode != "P" else 3
    grey = image.ndim == 2
    return 1 if grey else int(image.shape[0 if isinstance(image, Tensor) else -1])


def _collate_raw(samples: Sequence[Any]) -> Any:
    """Take the raw images out of the samples, then :func:`collate_images`."""
    unwrapped, channels = zip(*map(_unwrapped, samples), strict=True)
    return collate_images(unwrapped, channels=max(channels))


def _unwrapped(sample: Any) -> tuple[Any, int]:
    """The sample with its raw image, and the number of that image's channels."""
    if isinstance(sample, _RawViews):
        return sample.raw, _channels(sample.raw)
    parts = list(sample.values()) if isinstance(sample, Mapping) else list(sample) if isinstance(sample, (tuple, list)) else []
    raw = [part.raw for part in parts if isinstance(part, _RawViews)]
    if not raw:
        fail(_CALL, "a dataset whose samples hold what its transform returned", f"{type(sample).__name__} without it", _BY_HAND)
    parts = [part.raw if isinstance(part, _RawViews) else part for part in parts]
    return dict(zip(sample, parts, strict=True)) if isinstance(sample, Mapping) else tuple(parts), _channels(raw[0])
