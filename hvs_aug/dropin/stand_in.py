"""What stands in the place of a dataset's transform in the workers, and the batches that they make."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import default_collate

from .._check import describe, fail
from ..data.batch import ImageBatch
from ..data.collate import collate_images
from ..views.own_generators import drawing_parts, seeded_parts
from ..views.recipe import ViewSlot
from ..views.trace import Path, Stacked, is_constant, is_image, is_view, kept_random_state, leaves, mapped, unstacked

__all__ = ["Collate", "Layout", "OwnTransform", "RawBatch", "RawTransform", "Stand", "image_in", "replay"]

_CALL = "wrap(loader)"


class Stand(Tensor):
    """What a dataset gets in the place of a view. Whatever is computed from it has lost its ``payload``, which tells it apart."""

    payload: Any = None
    number: int = -1  # of the view, as the transform returns them; -1 where a transform of one view is called several times

    @staticmethod
    def of(pixels: Tensor, payload: Any, number: int) -> Stand:
        stand = pixels.as_subclass(Stand)
        stand.payload, stand.number = payload, number
        return stand


@dataclass(frozen=True)
class Layout:
    """How candidates and views go together.

    Attributes:
        slots: of the sampler.
        views: for each slot, the numbers of the views that it stands for.
        follows: for a view that no slot stands for, the one that it shares a draw with.
        draws: how many times the user's own transform is called for an image; 0 where views are made on the device.
    """

    slots: tuple[ViewSlot, ...]
    views: tuple[tuple[int, ...], ...]
    follows: Mapping[int, int]
    draws: int

    @property
    def count(self) -> int:
        """How many views a sample has."""
        return sum(map(len, self.views)) + len(self.follows)


# ---- in the place of the transform ----


class _InItsPlace:
    """Has the attributes of the transform in whose place it stands."""

    transform: Any

    def __getattr__(self, name: str) -> Any:
        if name == "transform" or name.startswith("__"):  # not yet set, as while unpickling
            raise AttributeError(name)
        return getattr(self.transform, name)


class RawTransform(_InItsPlace):
    """Passes the image on as it is, in stand-ins that have the structure and shapes of what the transform returns."""

    def __init__(self, transform: Any, structure: Any, shapes: Sequence[tuple[int, ...]]) -> None:
        self.transform, self.structure, self.shapes = transform, structure, list(shapes)

    def __call__(self, image: Any, *_: Any, **__: Any) -> Any:
        pixels = _raw_pixels(image, self.shapes[0][0])

        def stand(_: Path, number: Any) -> Any:
            if is_constant(number):
                return number
            return Stand.of(torch.empty(self.shapes[max(number, 0)], device="meta"), pixels, number)

        return mapped(self.structure, stand)


def _raw_pixels(image: Any, channels: int) -> Any:
    """The image with as many channels as the transform makes of it, otherwise as the dataset's own pipeline reads it."""
    if not isinstance(image, Image.Image):
        return image
    if image.mode == "1" or (channels == 3 and len(image.getbands()) != 3):
        image = image.convert("L" if channels == 1 else "RGB")
    # As an array, which is not turned by the EXIF orientation: the dataset's own pipeline does not turn it either.
    return np.asarray(image)


@dataclass(frozen=True)
class Drawn:
    """What a transform returned for one image under each seed: views[draw][number]."""

    seeds: tuple[int, ...]
    views: tuple[tuple[Tensor, ...], ...]


class OwnTransform(_InItsPlace):
    """Runs the user's own transform several times, each under a seed that is recorded."""

    def __init__(self, transform: Callable[..., Any], draws: int, is_single: bool) -> None:
        self.transform, self.draws, self.is_single = transform, draws, is_single
        self.parts = drawing_parts(transform)

    def __call__(self, *given: Any, **named: Any) -> Any:
        seeds = tuple(int(seed) for seed in torch.randint(2**31, (self.draws,)))
        with kept_random_state():
            returned = [unstacked(_seeded(seed, self.parts, self.transform, *given, **named)) for seed in seeds]
        numbers: dict[int, int] = {}
        for _, leaf in leaves(returned[0]):
            if is_view(leaf):
                numbers.setdefault(id(leaf), len(numbers))
        drawn = Drawn(seeds, tuple(_distinct_views(value) for value in returned))

        def stand(_: Path, leaf: Any) -> Any:
            return Stand.of(leaf.detach(), drawn, -1 if self.is_single else numbers[id(leaf)]) if is_view(leaf) else leaf

        return mapped(returned[0], stand)


def _distinct_views(returned: Any) -> tuple[Tensor, ...]:
    return tuple({id(leaf): leaf for _, leaf in leaves(returned) if is_view(leaf)}.values())


def _seeded(seed: int, parts: Sequence[Any], transform: Callable[..., Any], *given: Any, **named: Any) -> Any:
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the transforms draw from it
    random.seed(seed)
    with seeded_parts(parts, seed):
        return transform(*given, **named)


def replay(transform: Callable[[Any], Any], image: Any, seed: int) -> Any:
    """Run a transform on an image again under a recorded seed (``loader.last.extras["seed"]``), and return its views.

    The global random state, and that of transforms with generators of their own (albumentations), is afterwards as before.
    """
    with kept_random_state():
        return _seeded(seed, drawing_parts(transform), transform, image)


# ---- batches ----


@dataclass(frozen=True)
class RawBatch:
    """One batch before its views are chosen.

    Attributes:
        images: raw images, or ``None``.
        candidates: or V tensors ``(B, C, h, w)`` that the user's own transform made, in slot order.
        seeds: their seeds, ``(V, B)`` int64.
        following: for each view that follows another, its tensors of every draw.
        rest: the samples, collated or, for a collate_fn of the user's own, as a list; an empty tensor in the place of each view.
        places: where these stand, with the number of the view.
        is_collated: whether ``rest`` is.
        stacked: where lists of views stand that are to be one tensor.
        is_single: whether ``rest`` is one sample that is no batch (``DataLoader(batch_size=None)``).
    """

    images: ImageBatch | None
    candidates: tuple[Tensor, ...]
    seeds: Tensor | None
    following: Mapping[int, tuple[Tensor, ...]]
    rest: Any
    places: Mapping[Path, int]
    is_collated: bool
    stacked: tuple[Path, ...] = ()
    is_single: bool = False

    def _moved(self, move: Callable[[Any], Any]) -> RawBatch:
        following = {number: tuple(map(move, views)) for number, views in self.following.items()}
        images = None if self.images is None else move(self.images)
        return replace(self, images=images, candidates=tuple(map(move, self.candidates)), following=following)

    def to(self, device: torch.device | str, non_blocking: bool = False, **_: Any) -> RawBatch:
        """Move images or candidates; what else is in the batch stays."""
        return self._moved(lambda value: value.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> RawBatch:
        """Copy images or candidates to page-locked memory; DataLoader calls this."""
        return self._moved(lambda value: value.pin_memory())


class Collate:
    """The collate_fn of the workers: takes images or candidates out of the samples, and collates what else they hold."""

    def __init__(
        self, layout: Layout, stands: int, channels: int, max_side: int | None, collates: bool, batches: bool = True
    ) -> None:
        self.layout, self.stands, self.channels, self.max_side = layout, stands, channels, max_side
        self.collates, self.batches = collates, batches

    def __call__(self, samples: Any) -> RawBatch:
        """Make a batch of samples; without batches of the loader's own, of one sample, or of the dataset's list of several."""
        if self.batches or self._are_samples(samples):
            return self._batch(samples)
        return replace(self._batch([samples]), is_single=True)

    def _are_samples(self, item: Any) -> bool:
        """Whether an item of a loader with batch_size=None is a list of samples, each with all of its views."""
        several = isinstance(item, list) and len(item) > 0
        return several and all(sum(isinstance(leaf, Stand) for _, leaf in leaves(one)) >= self.stands for one in item)

    def _batch(self, samples: Sequence[Any]) -> RawBatch:
        rests: list[Any] = []
        payloads: list[Any] = []
        places: dict[Path, int] = {}
        for sample in samples:
            rest, payload, found = self._taken_apart(sample)
            rests.append(rest)
            payloads.append(payload)
            if places and found != places:
                fail(_CALL, "samples of one structure", f"views at {_shown(found)}, where others have them at {_shown(places)}")
            places = found
        rest = default_collate(rests) if self.collates else rests
        stacked = tuple(_stacked(samples[0])) if samples else ()
        if self.layout.draws == 0:
            images = collate_images(payloads, channels=self.channels, max_side=self.max_side)
            return RawBatch(images, (), None, {}, rest, places, self.collates, stacked)
        layout = self.layout
        rows = [(draw, number) for numbers in layout.views for draw in range(layout.draws) for number in numbers]
        candidates = tuple(torch.stack([payload.views[draw][number] for payload in payloads]) for draw, number in rows)
        seeds = torch.tensor([[payload.seeds[number][draw] for payload in payloads] for draw, number in rows])
        following = {
            number: tuple(torch.stack([payload.views[draw][number] for payload in payloads]) for draw in range(layout.draws))
            for number in layout.follows
        }
        return RawBatch(None, candidates, seeds, following, rest, places, self.collates, stacked)

    def _taken_apart(self, sample: Any) -> tuple[Any, Any, dict[Path, int]]:
        """The sample without its views, what stood for them, and where."""
        places: dict[Path, int] = {}
        stands: dict[int, Stand] = {}
        hint = "views='own' lets the dataset go on with real views; HardViewLoader takes a loader of raw images."

        def taken(path: Path, leaf: Any) -> Any:
            if not isinstance(leaf, Stand):
                return leaf
            if leaf.payload is None:
                place = "".join(f"[{step!r}]" for step in path)
                fail(_CALL, "a dataset that hands its views on as they are", f"one that computes with them, at sample{place}", hint)
            number = leaf.number if leaf.number >= 0 else len(places)
            places[path] = number
            stands[number] = leaf
            return torch.empty(0)

        rest = mapped(sample, taken)
        if len(stands) < self.stands:
            got = f"{len(stands)} of {self.stands} in {describe(sample)}"
            fail(_CALL, "samples that hold the views that the transform returned", got, hint)
        payload = stands[min(stands)].payload
        if isinstance(payload, Drawn) and stands[min(stands)].number < 0:  # one call for each view
            drawn = [stands[number].payload for number in sorted(stands)]
            views = tuple(tuple(one.views[draw][0] for one in drawn) for draw in range(self.layout.draws))
            return rest, _PerView(tuple(one.seeds for one in drawn), views), places
        if isinstance(payload, Drawn):
            return rest, _PerView((payload.seeds,) * self.layout.count, payload.views), places
        return rest, payload, places


@dataclass(frozen=True)
class _PerView:
    """What the user's own transform made of one image: seeds[number][draw] and views[draw][number]."""

    seeds: tuple[tuple[int, ...], ...]
    views: tuple[tuple[Tensor, ...], ...]


def _stacked(value: Any, path: Path = ()) -> Iterator[Path]:
    """Where lists stand that were one tensor of views."""
    if isinstance(value, Stacked):
        yield path
    parts = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    for key, inner in parts:
        yield from _stacked(inner, (*path, key))


def _shown(places: Mapping[Path, int]) -> str:
    return ", ".join("".join(f"[{step!r}]" for step in path) for path in places)


def image_in(given: Any) -> Any:
    """The image that a transform is given, or the first in a structure; ``None`` where there is none."""
    return next((leaf for _, leaf in leaves(given) if is_image(leaf)), None)
