"""wrap: one line that gives a training loop hard views, around the loader that it already has."""

from __future__ import annotations

import copy
import inspect
import time
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NoReturn

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, default_collate

from .._check import HVSError, fail, require, require_name
from ..analysis.log import Log
from ..selection.losses import PairLoss
from ..selection.policies import Policy
from ..selection.reached import find_modules
from ..selection.sampler import HardPairSampler, HardViews
from ..selection.scoring import Scoring
from ..views.convert import Role, convert, returned_views, with_candidates
from ..views.recipe import ViewSlot
from ..views.trace import Returned, ReturnedView, is_view, kept_random_state, leaves, probe_like
from .dataset import Call, called, swapped, transforms_of
from .loader import HardViewLoader
from .stand_in import Collate, Layout, OwnTransform, RawTransform, image_in

__all__ = ["wrap"]

_CALL = "wrap(loader)"
_BY_HAND = "hvs_aug.HardViewLoader(loader, sampler) takes any loader of raw images, made with collate_fn=hvs_aug.collate_images."
_KEPT = 2  # models for which one loader's state is kept


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
    log: Log | None = None,
    log_every: int = 50,
    transform: Any = None,
    views: Literal["auto", "converted", "own"] = "auto",
    max_side: int | None = None,
    **unknown: NoReturn,
) -> Any:
    """Give a training loop hard views: it gets the same batches as before, with views that are chosen among more candidates.

    One sample is read to find the transform that returns several views, and where its views are in the sample. The transform is
    converted to slots (:func:`hvs_aug.convert`), and a copy of the loader reads the raw images, with the same sampler, workers
    and seeds. If the transform cannot be converted exactly, the workers run it unchanged, several times for each image, and the
    views are chosen among these. Neither the loader nor its dataset is changed. Call it at the head of the function that trains
    an epoch: if it is called again with the same loader and model, it continues with the same workers and random numbers.

    Args:
        loader: the repo's DataLoader, or a subclass. The repo's own collate_fn gets the samples after the choice, with the
            chosen views in them. With batch_size=None, views are chosen for each list of samples that the dataset returns, or
            for each sample, which has no others in its batch.
        model, loss, teacher, policy, scoring, generator: as for :class:`HardPairSampler`.
        candidates: as for :func:`hvs_aug.convert`; by default twice the views that are kept.
        enabled: False returns the loader itself.
        device, batch_format, log, log_every: as for :class:`HardViewLoader`.
        transform: the transform itself, if it is not found in the dataset; or a list of transforms that the dataset calls one
            by one (SwAV's ``dataset.trans``).
        views: ``"converted"`` refuses a transform that cannot be converted; ``"own"`` lets the workers run it unchanged;
            ``"auto"`` converts it if possible, and otherwise lets the workers run it and warns.
        max_side: reduce raw images whose longer side has more pixels, antialiased; by default no image is reduced.
        unknown: not for use: an unknown option is refused with an error that names the closest known one.

    Some losses pass a further tensor of each view to the model (iBOT's masks). Then the dataset gets placeholders with the
    shapes of the global candidates, in their order, and draws a mask for each of them.

    Raises:
        HVSError: if an option is unknown; if the loader is not a DataLoader; if its dataset has no transform of several views,
            or computes with the views; with ``views="converted"``, if the transform cannot be converted exactly.
    """
    for name in unknown:
        require_name(name, [option for option in inspect.signature(wrap).parameters if option != "unknown"], "wrap(**options)")
    require_name(views, ("auto", "converted", "own"), "wrap(views)")
    if not enabled or isinstance(loader, HardViewLoader):
        return loader
    require(isinstance(loader, DataLoader), _CALL, "a torch DataLoader", loader, _BY_HAND)
    options = (transform, views, candidates, max_side)
    known = _known(loader, model)
    if known is not None and known.options == options and known.is_current(loader):
        reading, raw = known.reading, known.raw
        _refresh(raw, loader, reading.swaps)
    else:
        extras = tuple(getattr(loss, "model_extras", ()))
        with kept_random_state():
            reading = _Reader(loader, extras, transform, candidates, max_side).read(views)
        raw = reading.raw_loader(loader)
    sampler = HardPairSampler(
        model, loss, reading.layout.slots, teacher=teacher, policy=policy, scoring=scoring, generator=generator
    )
    if known is not None:
        state = known.hard.hard_pairs.state_dict()
        if generator is not None:
            state["generator"] = sampler.generator.get_state()
        sampler.load_state_dict(state)
    how = {"log": log, "log_every": log_every, "layout": reading.layout, "collate_fn": loader.collate_fn}
    hard = HardViewLoader(raw, sampler, device, batch_format, **how)
    _keep(loader, model, _Wrapped(hard, raw, reading, options))
    return hard


# ---- what is kept of a loader ----


@dataclass(frozen=True)
class _Wrapped:
    """What is kept of a loader and a model, for the next call with both."""

    hard: HardViewLoader
    raw: Any
    reading: _Reading
    options: tuple[Any, ...]

    def is_current(self, loader: DataLoader[Any]) -> bool:
        """Whether the dataset still applies the transforms that were read."""
        return all(swapped(loader.dataset, {key: None}) is not loader.dataset for key in self.reading.swaps)


_wrapped: weakref.WeakKeyDictionary[DataLoader[Any], dict[Any, _Wrapped]] = weakref.WeakKeyDictionary()


def _key(model: Any) -> Any:
    """A model is told by its modules, as a function that calls it may be made anew in every epoch."""
    return tuple(map(id, find_modules(model))) or str(getattr(model, "__qualname__", type(model)))


def _known(loader: DataLoader[Any], model: Any) -> _Wrapped | None:
    return _wrapped.get(loader, {}).get(_key(model))


def _keep(loader: DataLoader[Any], model: Any, wrapped: _Wrapped) -> None:
    kept = _wrapped.setdefault(loader, {})
    kept.pop(_key(model), None)
    kept[_key(model)] = wrapped
    while len(kept) > _KEPT:
        del kept[next(iter(kept))]


def _refresh(raw: Any, loader: DataLoader[Any], swaps: Mapping[int, Any]) -> None:
    """Bring the copy up to date with what was set on the dataset since (an epoch number)."""

    def refresh(copied: Any, original: Any) -> None:
        if copied is original or not hasattr(original, "__dict__"):
            return
        for name, value in vars(original).items():
            new = swapped(value, swaps)
            if new is value:
                vars(copied)[name] = value
            else:
                refresh(vars(copied)[name], value)

    refresh(raw.dataset, loader.dataset)


# ---- reading a loader ----


@dataclass(frozen=True)
class _Reading:
    """How a loader's views are made.

    Attributes:
        layout: of candidates and views.
        found: the transforms of the dataset that make them.
        swaps: what stands in their place, by their id.
        collate: of the workers.
    """

    layout: Layout
    found: tuple[Any, ...]
    swaps: Mapping[int, Any]
    collate: Collate

    def raw_loader(self, loader: DataLoader[Any]) -> Any:
        """A copy of the loader, of its own class and state, whose dataset and collate_fn are ours."""
        dataset = swapped(loader.dataset, self.swaps)
        raw = copy.copy(loader)
        # torch's DataLoader refuses to have these set; a loader that holds another one (Accelerate's) reads through that.
        vars(raw).update(dataset=dataset, collate_fn=self.collate, _iterator=None)
        for name, inner in vars(loader).items():
            if isinstance(inner, DataLoader):
                vars(raw)[name] = self.raw_loader(inner)
        return raw


class _Reader:
    """Reads one sample of a loader's dataset, and what its transform does."""

    def __init__(
        self,
        loader: DataLoader[Any],
        extras: Sequence[str],
        transform: Any,
        candidates: int | Sequence[int] | None,
        max_side: int | None,
    ) -> None:
        self.dataset, self.extras, self.candidates, self.max_side = loader.dataset, extras, candidates, max_side
        self.batches = loader.batch_sampler is not None or loader.batch_size is not None
        self.collates = loader.collate_fn is default_collate and self.batches
        # A dataset that is asked for whole batches is asked for one of two.
        self.index: Any = [0, 1] if isinstance(loader.sampler, BatchSampler) and not self.batches else 0
        self.is_stream = isinstance(loader.dataset, IterableDataset)
        self.found = transforms_of(loader.dataset) if transform is None else [transform]
        if transform is not None:
            probe = swapped(loader.dataset, {id(transform): transform if isinstance(transform, list) else (lambda image: image)})
            is_held = probe is not loader.dataset or isinstance(transform, list)
            require(is_held, "wrap(transform)", "a transform that the dataset holds", transform, "pass the object itself.")
        self.calls = self._calls()
        if not self.calls and transform is None and not self.is_stream:
            named, self.found = self.found, transforms_of(loader.dataset, by_name=False)
            self.calls = self._calls()
            self.found = self.found if self.calls else named
        name = type(loader.dataset).__name__
        hint = f"if the dataset has one, pass it as wrap(..., transform=). {_BY_HAND}"
        require(len(self.found) > 0, _CALL, "a dataset with a transform", f"{name} without one", hint)
        came = f"{name} with {', '.join(type(one).__name__ for one in self.found[:3])}"
        require(len(self.calls) > 0, _CALL, "a dataset with a transform that returns several views of an image", came, hint)
        self.example = self.calls[0].given

    def read(self, views: str) -> _Reading:
        """Convert the transform, or say how it is run as it is."""
        returned, made_of = self._returned()
        reason: HVSError | None = None
        if views != "own":
            try:
                reading = self._converted(returned, made_of)
                self._run_through(reading)
                return reading
            except HVSError as error:
                if views == "converted" or self.extras:
                    raise
                reason = error
        began = time.perf_counter()
        reading = self._own(returned, made_of)
        self._run_through(reading)
        if reason is not None:
            _warn(reason, reading.layout, time.perf_counter() - began)
        return reading

    def _calls(self) -> list[Call]:
        """The calls that made the views of the first sample."""
        if self.is_stream:
            # A stream may not be read twice: the transform is run on a picture.
            calls = [Call(found, found, probe_like(), 0) for found in self.found if callable(found)]
            calls = [replace(call, views=len(made.views)) for call in calls if (made := returned_views(call.part)) is not None]
        else:
            calls = called(self.dataset, self.found, lambda dataset: dataset[self.index])
        several = [call for call in calls if call.views > 1]
        single = [call for call in calls if call.views == 1]
        if several:
            return several[:1]
        if len(single) > 1:
            hint = f"views of one image are chosen. {_BY_HAND}"
            is_alike = all(call.given is single[0].given for call in single)
            require(
                is_alike, _CALL, "a dataset that makes all views of a sample of one image", "one that makes them of several", hint
            )
            return single
        return []

    def _returned(self) -> tuple[Returned, tuple[Any, ...]]:
        """What a sample's views are, and the transforms of the dataset that make them."""
        if self.calls[0].views == 1:  # one call for each view
            views = [replace(self._one(call.part), paths=((index,),)) for index, call in enumerate(self.calls)]
            found = {id(call.transform): call.transform for call in self.calls}
            return Returned(tuple(views), -1, False), tuple(found.values())
        returned = returned_views(self.calls[0].part, self.example)
        hint = "it must return the same views for every image."
        if returned is None:
            fail(_CALL, "a transform that returns several views of a picture", self.calls[0].part, hint)
        found = {id(self.calls[0].part): self.calls[0].part}
        for other in (part for held in self.found for part in (held if isinstance(held, (list, tuple)) else [held])):
            made = returned_views(other, self.example) if callable(other) and id(other) not in found else None
            if made is not None:
                shapes = [[view.shape for view in one.views] for one in (made, returned)]
                require(shapes[0] == shapes[1], _CALL, "one transform for all parts of the dataset", f"views of shapes {shapes}")
                found[id(other)] = other
        return returned, tuple(found.values())

    def _one(self, part: Any) -> ReturnedView:
        """The view that a transform of one view returns."""
        return ReturnedView(((),), (part,), None, tuple(part(probe_like(self.example)).shape))

    def _converted(self, returned: Returned, found: tuple[Any, ...]) -> _Reading:
        expected = "a transform that gets an image and returns its views alone"
        is_plain = not returned.has_others and image_in(self.example) is self.example
        hint = "it gets or returns more than that, so it cannot be converted."
        require(is_plain, _CALL, expected, self.calls[0].part, hint)
        if returned.structure == -1:
            slots = convert([call.part for call in self.calls], self.candidates, self.example)
        else:
            slots = convert(self.calls[0].part, self.candidates, self.example)
            for other in found[1:]:
                same = convert(other, self.candidates, self.example)
                require(same == slots, _CALL, "one transform for all parts of the dataset", f"{slots} and {same}")
        numbers = iter(range(len(returned.views)))
        views = tuple(tuple(next(numbers) for _ in range(slot.select)) for slot in slots)
        layout = Layout(tuple(slots), views, {}, 0)
        shapes = [view.shape for view in returned.views]
        structure: Any = returned.structure
        stands = len(shapes)
        if self.extras:
            globals_ = [slot.recipe.shape for slot in slots if slot.role == "global" for _ in range(slot.candidates)]
            shapes, stands = [(shapes[0][0], *shape) for shape in globals_], len(globals_)
            structure = list(range(stands))
        if structure == -1:
            swaps = self._single_swaps(lambda number, part: RawTransform(part, -1, [shapes[number]]))
        else:
            swaps = {id(one): RawTransform(one, structure, shapes) for one in found}
        collate = Collate(layout, stands, shapes[0][0], self.max_side, self.collates, self.batches)
        return _Reading(layout, found, swaps, collate)

    def _single_swaps(self, make: Callable[[int, Any], Any]) -> dict[int, Any]:
        """Stand-ins for transforms of one view each, by the id of what the dataset holds."""
        swaps: dict[int, Any] = {}
        for number, call in enumerate(self.calls):
            if isinstance(call.transform, (list, tuple)):
                swaps.setdefault(id(call.transform), []).append(make(number, call.part))
            else:
                swaps[id(call.transform)] = make(number, call.part)
        return swaps

    def _own(self, returned: Returned, found: tuple[Any, ...]) -> _Reading:
        """Slots of the views that the transform returns, those of one part together, each drawn several times."""
        self._require_apart(returned)
        first = returned.views[0].shape
        groups: list[tuple[Any, Role, list[int]]] = []
        follows = {number: view.follows for number, view in enumerate(returned.views) if view.follows is not None}
        for number, view in enumerate(returned.views):
            if number in follows:
                continue
            role: Role = view.role or ("local" if view.shape[1] * view.shape[2] < first[1] * first[2] else "global")
            parts = tuple(map(id, view.pipeline)) if view.pipeline and number not in follows.values() else number
            if groups and groups[-1][:2] == (parts, role):
                groups[-1][2].append(number)
            else:
                groups.append((parts, role, [number]))
        slots = [
            ViewSlot(None, 2 * len(numbers), len(numbers), f"{role}-{index}", role)
            for index, (_, role, numbers) in enumerate(groups, start=1)
        ]
        slots = with_candidates(slots, self.candidates)
        draws = {slot.candidates / slot.select for slot in slots}
        expected = "as many candidates for every view that is kept, as the transform makes all views at once"
        is_whole = len(draws) == 1 and min(draws) % 1 == 0
        require(is_whole, "wrap(candidates)", expected, f"{[(slot.candidates, slot.select) for slot in slots]}")
        layout = Layout(tuple(slots), tuple(tuple(numbers) for _, _, numbers in groups), follows, int(min(draws)))
        if returned.structure == -1:
            swaps = self._single_swaps(lambda number, part: OwnTransform(part, layout.draws, True))
        else:
            swaps = {id(one): OwnTransform(one, layout.draws, False) for one in found}
        collate = Collate(layout, len(returned.views), first[0], self.max_side, self.collates, self.batches)
        return _Reading(layout, found, swaps, collate)

    def _require_apart(self, returned: Returned) -> None:
        """Fail if views of different draws would not go together."""
        transform = self.calls[0].part
        hint = "render the candidates yourself, and call sampler.select(candidates)."
        leading = sum(view.follows is None for view in returned.views)
        require(leading > 1, _CALL, "a transform that draws at least two of its views independently", transform, hint)
        if not returned.has_others:
            return
        probe = probe_like(self.example)
        first, second = ([leaf for _, leaf in leaves(transform(probe)) if not is_view(leaf)] for _ in range(2))
        is_alike = len(first) == len(second) and all(map(_is_same, first, second))
        require(is_alike, _CALL, "a transform whose other values do not depend on what it draws for its views", transform, hint)

    def _run_through(self, reading: _Reading) -> None:
        """Read one sample as the workers will, so that what cannot work is refused now."""
        if self.is_stream:
            return
        dataset: Any = swapped(self.dataset, reading.swaps)
        try:
            reading.collate([dataset[0]] if self.batches else dataset[self.index])
        except HVSError:
            raise
        except Exception as error:
            hint = "views='own' lets the dataset go on with real views; HardViewLoader takes a loader of raw images."
            expected = "a dataset that hands its views on as they are"
            fail(_CALL, expected, f"{type(self.dataset).__name__}, in which {type(error).__name__} is raised: {error}", hint)


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, (Tensor, np.ndarray)):
        return one.shape == other.shape and bool((one == other).all())
    return one is other or bool(one == other)


def _warn(reason: HVSError, layout: Layout, seconds: float) -> None:
    said, _, hint = str(reason).rstrip(".").partition("\n  hint: ")
    cost = f"{layout.draws} times for every image (here some {1000 * seconds:.0f} ms an image and worker)"
    why = f"as it was not converted: {said}" + (f" ({hint})" if hint else "")
    means = "views='own' says that this is meant, views='converted' refuses it."
    warnings.warn(f"wrap lets the workers run the dataset's own transform, {cost}, {why}. {means}", stacklevel=4)
