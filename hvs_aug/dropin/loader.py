"""HardViewLoader: makes a loader of hard views from a loader of raw images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, SupportsIndex, overload

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, SequentialSampler

from .._check import HVSError, describe, fail, require
from .._processes import world_size
from .._workers import batches_of
from ..analysis.log import Log, SelectionLog
from ..data.batch import ImageBatch
from ..selection.reached import find_modules
from ..selection.sampler import HardPairSampler, HardViews
from ..selection.slots import slot_rows
from ..views.trace import mapped
from .stand_in import Layout, RawBatch

__all__ = ["HardViewLoader", "ViewIndexError", "ViewList"]

_RAW = "give the DataLoader's dataset no transform, and collate_fn=hvs_aug.collate_images."
_NO_BATCH = object()


class ViewIndexError(HVSError, IndexError):
    """A training loop asked for a view that no slot selects."""


class ViewList(list[Tensor]):
    """The chosen views of a batch, as a list. The error for an index that is too large says how many there are, and why."""

    @overload
    def __getitem__(self, index: SupportsIndex) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Tensor | list[Tensor]:
        try:
            return super().__getitem__(index)
        except IndexError:
            expected = f"a view index below {len(self)}, the number of views that are selected"
            hint = "the slots' `select` decides it; make them return as many views as the training loop uses."
            try:
                fail("HardViewLoader", expected, repr(index), hint)
            except HVSError as error:
                raise ViewIndexError(str(error)) from None


class HardViewLoader:
    """Wrap a loader of raw images: choose the hard views of every batch, and yield the batch with them in place of the images.

    A batch of the inner loader is an ImageBatch, a uint8 tensor ``(B, C, H, W)``, or a tuple, list or dict that holds one of
    these. The yielded batch holds the list of S views ``(B, C, h, w)`` instead, and everything else unchanged. A loss can name
    further tensors that the model gets (``model_extras``, iBOT's masks): a list in the batch with one of them for each global
    candidate is passed to the sampler, and those of the chosen views are yielded.

    ``len``, ``.dataset``, ``.sampler``, ``.batch_size`` and every other attribute are the inner loader's. On a GPU the next raw
    batch is copied on a separate stream while the training step runs.

    Args:
        loader: the inner loader, any iterable.
        sampler: chooses the views; kept as ``.hard_pairs``.
        device: where the views are made; by default that of the sampler's model.
        batch_format: a function ``(hard_views, batch)`` that makes the batch to yield, for loops that want another structure.
        log: gets the numbers of every ``log_every``-th choice by name, and the sampler's step: ``logger.log_metrics`` of a
            logger of Lightning, ``wandb.log``, or a function of your own (:class:`hvs_aug.analysis.log.SelectionLog` lists the
            numbers). The host waits for the device at these steps alone.
        layout, collate_fn: used by :func:`hvs_aug.wrap` only.

    Attributes:
        last: the HardViews of the batch that was yielded last. If your own transform made the candidates,
            ``last.extras["seed"]`` has the seeds of the chosen views (:func:`hvs_aug.dropin.stand_in.replay`).

    Raises:
        HVSError: if a batch holds no raw images, or if each of several processes would read all of the data.
    """

    def __init__(
        self,
        loader: Iterable[Any],
        sampler: HardPairSampler,
        device: torch.device | str | None = None,
        batch_format: Callable[[HardViews, Any], Any] | None = None,
        *,
        log: Log | None = None,
        log_every: int = 50,
        layout: Layout | None = None,
        collate_fn: Callable[[list[Any]], Any] | None = None,
    ) -> None:
        require(isinstance(loader, Iterable), "HardViewLoader(loader)", "an iterable of batches", loader)
        require(isinstance(sampler, HardPairSampler), "HardViewLoader(sampler)", "a HardPairSampler", sampler)
        self.loader: Any = loader
        self.hard_pairs = sampler
        self._device = None if device is None else torch.device(device)
        self._layout, self._collate_fn = layout, collate_fn
        self.batch_format = batch_format
        self._log = None if log is None else SelectionLog(sampler.slots, log, log_every)
        self.last: HardViews | None = None

    @property
    def device(self) -> torch.device | None:
        """The device on which the views are made: the one that was given, else the current device of the model."""
        return _model_device(self.hard_pairs) if self._device is None else self._device

    def __len__(self) -> int:
        """The inner loader's number of batches; TypeError where it has none."""
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        if name == "loader":  # not yet set, as while unpickling
            raise AttributeError(name)
        return getattr(self.loader, name)

    def __iter__(self) -> Iterator[Any]:
        _require_own_share(self.loader)
        if self.device is None or self.device.type != "cuda":
            for batch in self._moved():
                yield self.choose(batch)
            return
        batches = self._moved()
        batch = next(batches, _NO_BATCH)
        while batch is not _NO_BATCH:
            chosen = self.choose(batch)
            # The next batch is asked for while the device is busy with this one.
            batch = next(batches, _NO_BATCH)
            yield chosen

    def __repr__(self) -> str:
        return f"HardViewLoader({self.loader!r}, {self.hard_pairs!r})"

    def _moved(self) -> Iterator[Any]:
        """The inner loader's batches, their images on the device."""
        device = self.device
        make_stream: Any = torch.cuda.Stream
        stream = make_stream(device) if device is not None and device.type == "cuda" else None
        for number, batch in enumerate(batches_of(self.loader)):
            if isinstance(batch, RawBatch):
                yield self._moved_whole(batch, device, stream)
                continue
            key = _locate(batch)
            if number == 0:
                _require_raw(_images(batch, key))
            if device is None:
                yield batch
                continue
            with torch.cuda.stream(stream):  # without one, as on the CPU, this does nothing
                moved = _replaced(batch, key, lambda images: images.to(device, non_blocking=True))
            if stream is not None:
                current = torch.cuda.current_stream(device)
                current.wait_stream(stream)
                _pixels(_images(moved, key)).record_stream(current)
            yield moved

    def _moved_whole(self, batch: RawBatch, device: torch.device | None, stream: Any) -> RawBatch:
        if device is None:
            return batch
        with torch.cuda.stream(stream):
            moved = batch.to(device, non_blocking=True)
        if stream is not None:
            current = torch.cuda.current_stream(device)
            current.wait_stream(stream)
            parts = [] if moved.images is None else [moved.images.pixels]
            for value in (*parts, *moved.candidates, *(view for views in moved.following.values() for view in views)):
                value.record_stream(current)
        return moved

    def choose(self, batch: Any) -> Any:
        """Return the batch that iteration yields for one batch of raw images, which must be on the device already."""
        if isinstance(batch, RawBatch):
            return self._chosen(batch)
        key = _locate(batch)
        places = self._extra_places(batch, key)
        extras = {name: torch.stack(list(batch[place])) for name, place in places.items()}
        views = self._seen(self.hard_pairs(_images(batch, key), extras or None))
        if self.batch_format is not None:
            return self.batch_format(views, batch)
        formatted = _replaced(batch, key, lambda _: ViewList(views.views))
        for name, place in places.items():
            formatted = _replaced(formatted, place, partial(_unbind, views.extras[name]))
        return formatted

    def _chosen(self, batch: RawBatch) -> Any:
        """The same of a batch of :func:`hvs_aug.wrap`: each view where the transform's stood, in collated or single samples."""
        layout = self._layout
        assert layout is not None
        names: Sequence[str] = getattr(self.hard_pairs.loss, "model_extras", ())
        holder = _common(batch.places) if names else None
        places = self._extra_places(batch.rest, holder[0] if holder else None) if names and batch.is_collated else {}
        extras = {name: torch.stack(list(batch.rest[place])) for name, place in places.items()}
        if batch.images is not None:
            hard = self.hard_pairs(batch.images, extras or None)
        else:
            assert batch.seeds is not None
            hard = self.hard_pairs.select(batch.candidates, {"seed": batch.seeds})
        self._seen(hard)
        order = [number for numbers in layout.views for number in numbers]
        views = dict(zip(order, hard.views, strict=True)) | self._following(batch, hard)
        if holder is not None:
            formatted = _at(batch.rest, holder, lambda _: ViewList(hard.views))
            for name, place in places.items():
                formatted = _replaced(formatted, place, partial(_unbind, hard.extras[name]))
        elif batch.is_collated:
            formatted = _stacked(_with_views(batch.rest, batch.places, views), batch.stacked, 1)
        else:
            assert self._collate_fn is not None
            samples = []
            for row, sample in enumerate(batch.rest):
                own = _with_views(sample, batch.places, {number: view[row] for number, view in views.items()})
                samples.append(_stacked(own, batch.stacked, 0))
            formatted = self._collate_fn(samples[0] if batch.is_single else samples)
        return formatted if self.batch_format is None else self.batch_format(hard, formatted)

    def _seen(self, hard: HardViews) -> HardViews:
        self.last = hard
        if self._log is not None:
            self._log.see(hard, self.hard_pairs.step)
        return hard

    def _following(self, batch: RawBatch, hard: HardViews) -> dict[int, Tensor]:
        """The views that share a draw with a winner."""
        layout = self._layout
        assert layout is not None
        rows = slot_rows(layout.slots, hard.indices)
        draws = {numbers[0]: chosen[0] for numbers, chosen in zip(layout.views, rows, strict=True)}
        found = {}
        for number, leader in layout.follows.items():
            made = torch.stack(batch.following[number])
            found[number] = made[draws[leader], torch.arange(made.shape[1], device=made.device)]
        return found

    def _extra_places(self, batch: Any, key: Any) -> dict[str, Any]:
        """Where the batch has what the loss passes to the model, by name: lists with one tensor for each global candidate."""
        names: Sequence[str] = getattr(self.hard_pairs.loss, "model_extras", ())
        if not names:
            return {}
        if isinstance(batch, Mapping):
            return {name: name for name in names if name in batch}
        slots = self.hard_pairs.slots
        counts = {sum(slot.candidates for slot in slots), sum(slot.candidates for slot in slots if slot.role == "global")}

        def fits(element: Any) -> bool:
            listed = isinstance(element, (list, tuple)) and len(element) in counts
            return listed and all(isinstance(part, Tensor) for part in element)

        places = [place for place, element in enumerate(batch if key is not None else ()) if place != key and fits(element)]
        if len(places) < len(names):
            fail(
                "HardViewLoader(loader)",
                f"batches with {' and '.join(names)} for each of the {min(counts)} global candidates",
                f"{len(places)} such lists",
                "the dataset draws one for each view that its transform returns; with hvs_aug.wrap, one for each candidate.",
            )
        return dict(zip(names, places, strict=False))


def _require_own_share(loader: Any) -> None:
    """Refuse a loader that would give every one of several processes all of the data."""
    if world_size() == 1 or not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return
    sampler: Any = loader.batch_sampler if loader.batch_sampler is not None else loader.sampler
    while type(sampler) is BatchSampler:
        sampler = sampler.sampler
    if type(sampler) in (RandomSampler, SequentialSampler):
        hint = (
            "DataLoader(..., sampler=torch.utils.data.DistributedSampler(dataset)), or wrap what "
            "accelerator.prepare(loader) returned; a sampler class of your own is taken as it is."
        )
        expected = f"a DataLoader that reads a share of the data in each of {world_size()} processes"
        fail("HardViewLoader(loader)", expected, f"one with a {type(sampler).__name__}, which reads all of it", hint)


def _with_views(batch: Any, places: Mapping[Any, int], views: Mapping[int, Any]) -> Any:
    """The batch, or sample, with views in their places; a list of nothing but views says how many there are."""
    chosen = {id(view) for view in views.values()}
    filled = mapped(batch, lambda path, leaf: views[places[path]] if path in places else leaf)
    return _listed(filled, chosen)


def _stacked(batch: Any, places: Sequence[tuple[Any, ...]], axis: int) -> Any:
    """The batch, or sample, with one tensor in the place of each list of views that a transform returns as one."""
    for place in places:
        batch = _at(batch, place, lambda views: torch.stack(list(views), axis))
    return batch


def _listed(value: Any, chosen: set[int]) -> Any:
    if isinstance(value, Mapping):
        return {name: _listed(inner, chosen) for name, inner in value.items()}
    if type(value) in (list, tuple):
        parts = [_listed(inner, chosen) for inner in value]
        is_views = len(parts) > 0 and all(id(part) in chosen for part in parts)
        return ViewList(parts) if is_views and isinstance(value, list) else type(value)(parts)
    return value


def _common(places: Mapping[Any, int]) -> tuple[Any, ...]:
    """The path of what holds all of the views."""
    paths = list(places)
    common = paths[0][:-1]
    return common if all(path[: len(common)] == common for path in paths) else ()


def _at(batch: Any, path: tuple[Any, ...], function: Callable[[Any], Any]) -> Any:
    """The batch with what stands at a path passed through the function."""
    if not path:
        return function(batch)
    return _replaced(batch, path[0], lambda inner: _at(inner, path[1:], function))


def _model_device(sampler: HardPairSampler) -> torch.device | None:
    for module in find_modules(sampler.model, sampler.teacher):
        for weight in module.parameters():
            return weight.device
    return None


def _locate(batch: Any) -> Any:
    """The index or key of the raw images in a batch; None where the batch is nothing else."""
    if isinstance(batch, (ImageBatch, Tensor)):
        return None
    items: list[tuple[Any, Any]] = []
    if isinstance(batch, (tuple, list)):
        items = list(enumerate(batch))
    elif isinstance(batch, Mapping):
        items = list(batch.items())
    batches = [key for key, value in items if isinstance(value, ImageBatch)]
    places = batches or [key for key, value in items if isinstance(value, Tensor) and value.ndim == 4]
    if places:
        return places[0]
    inside = ", ".join(f"{len(value)} tensors" if isinstance(value, list) else describe(value) for _, value in items[:3])
    got = f"a {type(batch).__name__} of {inside}" if items else describe(batch)
    fail("HardViewLoader(loader)", "batches with an ImageBatch or a tensor (B, C, H, W) of raw images", got, _RAW)


def _images(batch: Any, key: Any) -> ImageBatch | Tensor:
    images: ImageBatch | Tensor = batch if key is None else batch[key]
    return images


def _pixels(images: ImageBatch | Tensor) -> Tensor:
    return images.pixels if isinstance(images, ImageBatch) else images


def _require_raw(images: ImageBatch | Tensor) -> None:
    call = "HardViewLoader(loader)"
    is_raw = isinstance(images, ImageBatch) or images.dtype in (torch.uint8, torch.uint16) or images.is_floating_point()
    if not is_raw or (isinstance(images, Tensor) and images.ndim != 4):
        fail(call, "images as uint8 or uint16, or floating point in [0, 1], of shape (B, C, H, W)", images, _RAW)
    ImageBatch.of(images).require_unit_range(call)


def _unbind(values: Tensor, _: Any) -> list[Tensor]:
    return list(values)


def _replaced(batch: Any, key: Any, function: Callable[[Any], Any]) -> Any:
    """The batch with one element passed through the function."""
    if key is None:
        return function(batch)
    if isinstance(batch, Mapping):
        return {name: function(value) if name == key else value for name, value in batch.items()}
    parts = [function(value) if place == key else value for place, value in enumerate(batch)]
    if isinstance(batch, list):
        return parts
    return type(batch)(*parts) if hasattr(batch, "_fields") else tuple(parts)
