"""A user's Kornia pipeline as the recipe of a slot: its parameters are recorded, replayed, and read as boxes."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from kornia import augmentation as kornia_augmentation
from kornia.augmentation.container.base import ImageSequentialBase
from kornia.augmentation.container.params import ParamItem, PatchParamItem
from torch import Tensor, nn
from torch.nn import functional as F

from .._check import fail, require
from ..data.batch import ImageBatch
from ..ops.crop import unit_of
from .params import ViewParams
from .recipe import ViewSlot

__all__ = ["CANDIDATE", "KorniaPipeline", "number_candidates"]

CANDIDATE = "kornia.candidate"
"""The entry of ``ViewParams.extras`` that says which candidate of its slot each view is, ``(V, B)`` int64."""

_CROPS = (kornia_augmentation.RandomResizedCrop, kornia_augmentation.RandomCrop, kornia_augmentation.CenterCrop)
# A box can be read through these; other transforms may turn a box into something that is not a box.
_RECTANGULAR = (
    *_CROPS,
    kornia_augmentation.Resize,
    kornia_augmentation.RandomHorizontalFlip,
    kornia_augmentation.RandomVerticalFlip,
    kornia_augmentation.IntensityAugmentationBase2D,
)
_COLOUR_MODULES = ("kornia.color.", "kornia.enhance.", "kornia.filters.")
_REFUSED = (kornia_augmentation.MixAugmentationBaseV2, kornia_augmentation.AugmentationBase3D, kornia_augmentation.VideoSequential)


class KorniaPipeline(nn.Module):
    """Draw and render views with a pipeline of Kornia augmentations.

    Kornia draws one set of parameters for a batch of images of one size, some of them shared by the batch (the order of
    ``ColorJitter``), from torch's global generator. Here each candidate is one call, as in ``pipeline(x), pipeline(x)``, and so
    is each size of image, because Kornia takes images of one size: B photographs of B sizes need B calls, and a batch of CIFAR
    needs one. Every call draws from a seed taken from the caller's generator, and the global random state is put back after it.

    A call is recorded and replayed as a whole, so shared parameters stay shared and every view is the same bit for bit. The
    chosen views are then taken from it. So rendering the winners repeats every call that holds one: only their own for images
    of different sizes, up to all candidates of the slot for images of one size. HardPairSampler repeats none when it scores at
    full size.

    Args:
        pipeline: an ``AugmentationSequential``, ``ImageSequential``, ``nn.Sequential`` of augmentations, or one augmentation. It is
            copied, and the copy follows the images' device. Its views must come out in one size.

    Raises:
        HVSError: if it is none of these, or mixes images (``RandomMixUpV2``), or is made for video or volumes.

    Note: parameters are drawn and kept on the CPU. Kornia's own rendering waits for a GPU.
    """

    def __init__(self, pipeline: nn.Module) -> None:
        super().__init__()
        call = "ViewSlot(recipe)"
        known = (kornia_augmentation.AugmentationBase2D, ImageSequentialBase, nn.Sequential)
        require(isinstance(pipeline, known), call, "a ViewRecipe or a Kornia pipeline", pipeline)
        for module in pipeline.modules():
            if isinstance(module, _REFUSED):
                fail(call, "a Kornia pipeline that makes a view of one image", f"{type(module).__name__}, which does not")
        self.pipeline: Any = _as_sequence(copy.deepcopy(pipeline))
        for part in self.pipeline.modules():
            if isinstance(part, kornia_augmentation.ImageSequential):
                part.disable_features = True  # else it keeps a copy of what it rendered last
        drawing: Any = copy.deepcopy(self.pipeline).cpu()
        for part in drawing.modules():
            if hasattr(part, "set_rng_device_and_dtype"):
                part.set_rng_device_and_dtype(torch.device("cpu"), torch.float32)
        # Out of reach of Module.to, after which Kornia would draw on that device.
        self._drawing = (drawing,)
        self._device = torch.device("cpu")
        self.has_boxes = _has_boxes(self.pipeline)

    def draw(self, slot: ViewSlot, index: int, images: ImageBatch, generator: torch.Generator) -> ViewParams:
        """Draw the candidates of one slot.

        Returns:
            ViewParams on the CPU with the crops' boxes (rounded to whole source pixels where the pipeline resizes before it crops),
            the horizontal flips, and Kornia's own parameters in ``extras``; nothing else in ``drawn``. Without a crop,
            or with a rotation or warp before it, boxes are those of the whole image and the slot is ``uncropped``.
        """
        require(slot.tie is None, "ViewSlot(tie)", "None for a Kornia pipeline, whose candidates are drawn apart", repr(slot.tie))
        sizes = images.sizes
        groups: dict[tuple[int, int], list[int]] = {}
        for image, (height, width) in enumerate(sizes.tolist()):
            groups.setdefault((height, width), []).append(image)
        seeds = torch.randint(2**62, (slot.candidates, len(groups)), generator=generator).tolist()
        boxes = torch.cat([torch.zeros_like(sizes), sizes], dim=-1).repeat(slot.candidates, 1, 1)
        flips = torch.zeros(slot.candidates, len(sizes), dtype=torch.bool)
        calls = []
        for candidate in range(slot.candidates):
            for ((height, width), members), seed in zip(groups.items(), seeds[candidate], strict=True):
                shape = torch.Size((len(members), images.channels, height, width))
                with _isolated(seed, torch.device("cpu")):
                    drawn = self._drawing[0].forward_parameters(shape)
                calls.append(_Call(candidate, members, seed, (height, width), drawn))
                if self.has_boxes:
                    window = _Window(len(members), height, width)
                    window.follow(self.pipeline, drawn)
                    boxes[candidate, members], flips[candidate, members] = window.boxes(), window.mirrored
        return ViewParams(
            boxes,
            sizes,
            slots=(index,) * slot.candidates,
            uncropped=() if self.has_boxes else (index,),
            drawn={"RandomHorizontalFlip.applied": flips},
            extras=_pack(calls, _prefix(index)),
        )

    def render(self, images: ImageBatch, params: ViewParams, index: int, scale: float = 1.0) -> Tensor:
        """Render the views of one slot that the parameters hold.

        Shape: -> ``(views, B, C, h, w)`` float32 on the images' device. If ``scale`` is not 1, a view is rendered at its full
            size and then reduced, antialiased, because Kornia's blurs and noise are in pixels.
        """
        call = "CandidateViews.transform(params)"
        if CANDIDATE not in params.extras or _prefix(index) + "layout" not in params.extras:
            hint = "draw them with make_params of the same slots."
            fail(call, f"params with slot {index}'s Kornia parameters", "params without", hint)
        start = params.slots.index(index) if index in params.slots else 0
        wanted = params.extras[CANDIDATE][start : start + params.slots.count(index)].tolist()
        rendered: Tensor | None = None
        for entry in _unpack(params.extras, _prefix(index)):
            # Only the first images may be asked for; the others of the call stand in as black.
            present = [(place, image) for place, image in enumerate(entry.members) if image < len(images)]
            uses = [
                (row, image, place)
                for place, image in present
                for row, drawn in enumerate(wanted)
                if drawn[image] == entry.candidate
            ]
            if not uses:
                continue
            views = _reduced(self._call(images, entry, present), scale)
            if rendered is None:
                rendered = views.new_empty(len(wanted), len(images), *views.shape[1:])
            if views.shape[1:] != rendered.shape[2:]:
                got = f"views of shapes {tuple(rendered.shape[2:])} and {tuple(views.shape[1:])}"
                hint = "end it with a crop or a Resize to one size."
                fail("ViewSlot(recipe)", "a Kornia pipeline whose views have one size", got, hint)
            rows, columns, places = (list(place) for place in zip(*uses, strict=True))
            rendered[rows, columns] = views[places]
        if rendered is None:
            fail("CandidateViews.transform(params)", f"views of slot {index} of at least one image", "none")
        return rendered

    @torch.no_grad()
    def _call(self, batch: ImageBatch, entry: _Call, present: Sequence[tuple[int, int]]) -> Tensor:
        images = torch.stack([batch.image(image) for _, image in present]).to(torch.float32) * unit_of(batch.dtype)
        if len(present) < len(entry.members):
            given, images = images, images.new_zeros(len(entry.members), *images.shape[1:])
            images[[place for place, _ in present]] = given
        if self._device != batch.device:
            self.pipeline.to(batch.device)
            self._device = batch.device
        keys = {"data_keys": ["input"]} if isinstance(self.pipeline, kornia_augmentation.AugmentationSequential) else {}
        with _isolated(entry.seed, batch.device):
            views: Tensor = self.pipeline(images, params=entry.drawn, **keys)
        return views.to(batch.device, torch.float32)


def number_candidates(params: ViewParams, slots: Sequence[ViewSlot]) -> ViewParams:
    """Note for newly drawn views which candidate of its slot each is, so that those selected later find their call."""
    numbers = torch.cat([torch.arange(slot.candidates) for slot in slots])
    return replace(params, extras={**params.extras, CANDIDATE: numbers[:, None].repeat(1, params.boxes.shape[1])})


def _as_sequence(pipeline: nn.Module) -> nn.Module:
    if _is_sequence(pipeline):
        return pipeline
    if isinstance(pipeline, nn.Sequential) and not isinstance(pipeline, ImageSequentialBase):
        children = [_as_sequence(child) if isinstance(child, nn.Sequential) else child for child in pipeline]
        return kornia_augmentation.ImageSequential(*children)
    return kornia_augmentation.ImageSequential(pipeline)


def _reduced(views: Tensor, scale: float) -> Tensor:
    if scale == 1:
        return views
    size = [max(1, round(side * scale)) for side in views.shape[-2:]]
    return F.interpolate(views, size=size, mode="bilinear", antialias=True)


@contextlib.contextmanager
def _isolated(seed: int, device: torch.device) -> Iterator[None]:
    """Run Kornia, which draws from global generators, from a seed, and put their state back."""
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed the devices that are not forked
        if on_gpu:
            torch.cuda.default_generators[device.index].manual_seed(seed)
        yield


# ---- boxes -----------------------------------------------------------------------------------------------------------------------


def _is_sequence(module: nn.Module) -> bool:
    """Whether its children see the whole image, one after the other."""
    return isinstance(module, kornia_augmentation.ImageSequential) and not isinstance(module, kornia_augmentation.PatchSequential)


def _crops(module: nn.Module) -> bool:
    return isinstance(module, _CROPS) or getattr(module, "crops_like_kornia", False)


def _has_boxes(sequence: nn.Module) -> bool:
    """Whether there is a crop, and nothing before it through which its box cannot be read."""
    leaves = list(_leaves(sequence))
    shuffled = any(getattr(module, "random_apply", False) for module in sequence.modules())
    opaque = [not _rectangular(module) for module in leaves]
    crops = [place for place, module in enumerate(leaves) if _crops(module)]
    return bool(crops) and not any(opaque if shuffled else opaque[: crops[-1]])


def _leaves(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if _is_sequence(child):
            yield from _leaves(child)
        else:
            yield child


def _rectangular(module: nn.Module) -> bool:
    return isinstance(module, _RECTANGULAR) or _crops(module) or type(module).__module__.startswith(_COLOUR_MODULES)


class _Window:
    """What of the source is seen in the current image of a pipeline: per axis, source edge = origin + step * current edge."""

    def __init__(self, count: int, height: int, width: int) -> None:
        self.source = torch.tensor([width, height], dtype=torch.float64)
        self.current = self.source.clone()
        self.origin = torch.zeros(count, 2, dtype=torch.float64)
        self.step = torch.ones(count, 2, dtype=torch.float64)

    def follow(self, sequence: nn.Module, drawn: Any) -> None:
        """Go through the operations of a pipeline in the order in which they were drawn."""
        children = dict(sequence.named_children())
        for item in drawn:
            module = children[item.name]
            if _is_sequence(module):
                self.follow(module, item.data or ())
            elif isinstance(item.data, dict):
                applied = item.data["batch_prob"] > 0.5
                if isinstance(module, (kornia_augmentation.RandomHorizontalFlip, kornia_augmentation.RandomVerticalFlip)):
                    self._mirror(applied, 0 if isinstance(module, kornia_augmentation.RandomHorizontalFlip) else 1)
                elif (_crops(module) or isinstance(module, kornia_augmentation.Resize)) and bool(applied.any()):
                    self._crop(item.data)

    def _crop(self, data: Mapping[str, Tensor]) -> None:
        corners = data["src"].to(torch.float64)  # inclusive, clockwise from the top left, as (x, y)
        first, last = corners[:, 0], corners[:, 2] + 1
        padding = data.get("padding_size", torch.zeros(1, 4)).to(torch.float64)  # left, right, top, bottom
        # A crop larger than its (padded) image is the whole of it, resized.
        before, after = padding[:, ::2], padding[:, 1::2]
        first = torch.maximum(first - before, -before)
        last = torch.minimum(last - before, self.current + after)
        size = data["output_size"][0].to(torch.float64).flip(-1)
        self.origin = self.origin + self.step * first
        self.step = self.step * (last - first) / size
        self.current = size
        if "flip" in data:
            self._mirror(data["flip"], 0)

    def _mirror(self, applied: Tensor, axis: int) -> None:
        sign = torch.where(applied.to(torch.bool), -1.0, 1.0).to(torch.float64)
        shift = torch.where(applied.to(torch.bool), self.step[:, axis] * self.current[axis], 0.0)
        self.origin[:, axis] += shift
        self.step[:, axis] *= sign

    @property
    def mirrored(self) -> Tensor:
        return self.step[:, 0] < 0

    def boxes(self) -> Tensor:
        """(top, left, height, width) in whole source pixels, within the source: ``(n, 4)`` int64."""
        edges = torch.stack([self.origin, self.origin + self.step * self.current]).clamp(min=0)
        edges = torch.minimum(edges, self.source).round()
        low = torch.minimum(edges.amin(0), self.source - 1)
        extent = (edges.amax(0) - low).clamp(min=1)
        return torch.cat([low.flip(-1), extent.flip(-1)], dim=-1).to(torch.int64)


# ---- records ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Call:
    """One call of the pipeline: of which candidate, on which images, and what Kornia drew for it."""

    candidate: int
    members: list[int]
    seed: int
    size: tuple[int, int]
    drawn: list[ParamItem]


def _prefix(index: int) -> str:
    return f"kornia.{index}."


def _pack(calls: Sequence[_Call], prefix: str) -> dict[str, Tensor]:
    """Flatten the calls of a slot to one tensor for each dtype and their layout as JSON: one axis each, so nothing gathers them."""
    values: dict[str, list[Tensor]] = {}

    def encode(data: Any) -> Any:
        if isinstance(data, Tensor):
            dtype = str(data.dtype).removeprefix("torch.")
            flat = values.setdefault(dtype, [])
            flat.append(data.detach().cpu().reshape(-1))
            return {"dtype": dtype, "shape": list(data.shape)}
        if isinstance(data, PatchParamItem):
            return {"patch": [int(patch) for patch in data.indices], "item": encode(data.param)}
        if isinstance(data, ParamItem):
            return {"name": data.name, "data": encode(data.data)}
        if isinstance(data, dict):
            return {"dict": {name: encode(value) for name, value in data.items()}}
        if isinstance(data, (list, tuple)):
            return {type(data).__name__: [encode(value) for value in data]}
        if data is None or isinstance(data, (bool, int, float, str)):
            return {"value": data}
        fail("ViewSlot(recipe)", "a Kornia pipeline whose parameters are tensors and numbers", data)

    layout = [[call.candidate, call.members, call.seed, call.size, encode(call.drawn)] for call in calls]
    packed = {prefix + dtype: torch.cat(flat) for dtype, flat in values.items()}
    packed[prefix + "layout"] = torch.frombuffer(bytearray(json.dumps(layout).encode()), dtype=torch.uint8)
    return packed


def _unpack(extras: Mapping[str, Tensor], prefix: str) -> list[_Call]:
    """Restore what :func:`_pack` flattened; tensors are copies, which Kornia may change."""
    stored = {name.removeprefix(prefix): value.cpu() for name, value in extras.items() if name.startswith(prefix)}
    taken = dict.fromkeys(stored, 0)

    def decode(entry: Any) -> Any:
        if "dtype" in entry:
            dtype, shape = entry["dtype"], entry["shape"]
            start = taken[dtype]
            taken[dtype] = start + torch.Size(shape).numel()
            return stored[dtype][start : taken[dtype]].reshape(shape).clone()
        if "patch" in entry:
            return PatchParamItem(entry["patch"], decode(entry["item"]))
        if "name" in entry:
            return ParamItem(entry["name"], decode(entry["data"]))
        if "dict" in entry:
            return {name: decode(value) for name, value in entry["dict"].items()}
        if "list" in entry:
            return [decode(value) for value in entry["list"]]
        if "tuple" in entry:
            return tuple(decode(value) for value in entry["tuple"])
        return entry["value"]

    layout = json.loads(stored["layout"].numpy().tobytes())
    return [_Call(candidate, members, seed, tuple(size), decode(drawn)) for candidate, members, seed, size, drawn in layout]
