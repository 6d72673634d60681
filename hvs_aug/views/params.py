"""ViewParams: everything that was drawn for a batch of views, as tensors, for replay, overlap (IoU) and cheap scoring."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .._check import fail, readable, require

__all__ = ["ViewParams"]

_FORMAT = "hvs_aug.ViewParams/2"


@dataclass(frozen=True, eq=False)
class ViewParams:
    """What was drawn for V views of each of B images. The same params and images give the same views, bit for bit.

    The views are in the order of their slots. If an operation is not applied to a view, or is not in its recipe, its parameters
    are :attr:`hvs_aug.ops.Operation.identity`, which changes nothing.

    Attributes:
        boxes: ``(V, B, 4)`` int64 crops as (top, left, height, width) in source pixels, half-open.
        sizes: ``(B, 2)`` int64, the (height, width) of the images that the boxes were drawn for, after a ``Resize`` or
            ``CenterCrop`` that the recipes begin with.
        slots: for each of the V views the index of its slot.
        uncropped: the indices of the slots whose pipeline has no crop; their boxes are those of the whole image.
        drawn: what each operation drew, ``(V, B, ...)``, by the names of operation and parameter:
            ``"RandomHorizontalFlip.applied"``, ``"ColorJitter.factors"``, ``"GaussianBlur.sigma"``.
        extras: further tensors by name. One with leading axes ``(V, B)`` has a row for each view, which is selected with it;
            any other belongs to all of them (a Kornia pipeline's own records).

    Raises:
        HVSError: if a shape does not fit.
    """

    boxes: Tensor
    sizes: Tensor
    slots: tuple[int, ...]
    uncropped: tuple[int, ...] = ()
    drawn: Mapping[str, Tensor] = field(default_factory=dict)
    extras: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        boxes, sizes = self.boxes, self.sizes
        fits = _is_whole(boxes) and boxes.ndim == 3 and boxes.shape[2] == 4
        require(fits, "ViewParams(boxes)", "int64 of shape (V, B, 4)", boxes)
        views, images = boxes.shape[:2]
        fits = _is_whole(sizes) and sizes.shape == (images, 2)
        require(fits, "ViewParams(sizes)", f"int64 of shape {(images, 2)}", sizes)
        require(len(self.slots) == views, "ViewParams(slots)", f"{views} slot indices", f"{len(self.slots)}")
        for name, value in self.drawn.items():
            require(value.shape[:2] == (views, images), f"ViewParams(drawn[{name!r}])", f"axes {(views, images)} first", value)

    def __len__(self) -> int:
        """The number of views, V."""
        return len(self.boxes)

    def __eq__(self, other: object) -> bool:
        """Whether the other holds the same values, of the same dtypes, for the same slots."""
        if not isinstance(other, ViewParams):
            return NotImplemented
        ours, theirs = self._tensors(), other._tensors()
        is_alike = (self.slots, set(self.uncropped), ours.keys()) == (other.slots, set(other.uncropped), theirs.keys())
        return is_alike and all(
            value.dtype == theirs[name].dtype and torch.equal(value, theirs[name]) for name, value in ours.items()
        )

    def __hash__(self) -> int:
        return hash((self.slots, frozenset(self.uncropped), tuple(self.boxes.shape), frozenset(self._tensors())))

    def draws(self, operation: str) -> dict[str, Tensor]:
        """What one operation drew, by the names of its parameters; empty where there is no operation of this name."""
        start = f"{operation}."
        return {name.removeprefix(start): value for name, value in self.drawn.items() if name.startswith(start)}

    def iou(self, other: ViewParams | None = None) -> Tensor:
        """Intersection over union of the crops of every two views of an image, in source pixels: ``(V, V, B)`` float32 in [0, 1].

        With ``other``, which holds W views of the same images: the IoU of each view with each of those, ``(V, W, B)``.

        Raises:
            HVSError: if a view has no crop (a Kornia pipeline without one).
        """
        other = self if other is None else other
        for slot in (*self.uncropped, *other.uncropped):
            hint = "add a crop to its pipeline, before anything that rotates or warps."
            fail("ViewParams.iou()", "a crop in every slot", f"none in slot {slot}", hint)
        top, left, height, width = self.boxes[:, None].unbind(-1)
        others_top, others_left, others_height, others_width = other.boxes.unbind(-1)

        def overlap(low: Tensor, length: Tensor, others_low: Tensor, others_length: Tensor) -> Tensor:
            end = torch.minimum(low + length, others_low + others_length)
            return (end - torch.maximum(low, others_low)).clamp_(min=0)

        intersection = overlap(top, height, others_top, others_height) * overlap(left, width, others_left, others_width)
        return intersection / (height * width + others_height * others_width - intersection)

    def select(self, indices: Tensor, slots: Sequence[int] | None = None) -> ViewParams:
        """Gather the views that ``indices`` names for each image.

        Args:
            indices: ``(S, B)`` int64, each in [0, V).
            slots: the slot index of each of the S selected views; needed only where the params hold several slots.

        Raises:
            HVSError: if the slots are missing, or the indices do not fit, as far as that can be told without waiting for a device.
        """
        views, images = self.boxes.shape[:2]
        fits = _is_whole(indices) and indices.ndim == 2 and indices.shape[1] == images
        require(fits, "ViewParams.select(indices)", f"int64 of shape (S, {images})", indices)
        if readable(indices) and indices.numel():
            low, high = map(int, indices.aminmax())
            call = "ViewParams.select(indices)"
            require(low >= 0 and high < views, call, f"indices of the {views} views", f"indices from {low} to {high}")
        if slots is None:
            require(
                len(set(self.slots)) == 1,
                "ViewParams.select(slots)",
                "the slot of each selected view, since the params hold several slots",
                slots,
            )
            slots = (self.slots[0],) * len(indices)
        require(len(slots) == len(indices), "ViewParams.select(slots)", f"{len(indices)} slot indices", f"{len(slots)}")

        def gather(value: Tensor) -> Tensor:
            index = indices.to(value.device).view(*indices.shape, *(1,) * (value.ndim - 2))
            return value.gather(0, index.expand(*indices.shape, *value.shape[2:]))

        return self._by_view(gather, tuple(slots))

    def of_images(self, rows: slice | Tensor) -> ViewParams:
        """The params of some of the images, which a slice or a one-dimensional index tensor names."""
        return self._by_view(lambda value: value[:, rows], self.slots, self.sizes[rows])

    def span(self, slot: int) -> slice:
        """The range of one slot's views on the axis of views."""
        start = self.slots.index(slot) if slot in self.slots else 0
        return slice(start, start + self.slots.count(slot))

    def of_slot(self, slot: int) -> ViewParams:
        """The params of the views of one slot."""
        views = self.span(slot)
        uncropped = tuple(index for index in self.uncropped if index == slot)
        return replace(self._by_view(lambda value: value[views], self.slots[views]), uncropped=uncropped)

    @staticmethod
    def concatenate(parts: Sequence[ViewParams]) -> ViewParams:
        """The params of the views of several slots, in one, for the same images.

        Raises:
            HVSError: if the parts have different operations, or extras of the same name that do not fit.
        """
        call = "ViewParams.concatenate(parts)"
        require(len(parts) > 0, call, "at least one part", "none")
        first = parts[0]
        if len(parts) == 1:
            return first
        for part in parts:
            require(
                part.drawn.keys() == first.drawn.keys(), call, f"parts that drew {sorted(first.drawn)}", f"{sorted(part.drawn)}"
            )
        extras: dict[str, Tensor] = {}
        for name in dict.fromkeys(name for part in parts for name in part.extras):
            found = [part.extras[name] for part in parts if name in part.extras]
            if len(found) == len(parts) and all(part._has_rows(part.extras[name]) for part in parts):
                extras[name] = torch.cat(found)
            else:
                is_alike = all(value.shape == found[0].shape and torch.equal(value, found[0]) for value in found)
                hint = "give every part a row for each of its views, or the same tensor."
                require(is_alike, call, f"extras {name!r} of one value, or with rows in every part", found[-1], hint)
                extras[name] = found[0]
        return ViewParams(
            torch.cat([part.boxes for part in parts]),
            first.sizes,
            tuple(slot for part in parts for slot in part.slots),
            tuple(dict.fromkeys(slot for part in parts for slot in part.uncropped)),
            {name: torch.cat([part.drawn[name] for part in parts]) for name in first.drawn},
            extras,
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ViewParams:
        """Move every tensor; to a GPU from the CPU in one copy, from page-locked memory where ``non_blocking``."""
        tensors = self._tensors()
        target = torch.device(device)
        from_cpu = all(value.device.type == "cpu" for value in tensors.values())
        if target.type == "cpu" or not from_cpu or not readable(*tensors.values()):
            return self._of({name: value.to(device, non_blocking=non_blocking) for name, value in tensors.items()})
        bytes_ = [value.contiguous().view(-1).view(torch.uint8) for value in tensors.values()]
        padded = [value.numel() + -value.numel() % _ALIGNMENT for value in bytes_]
        packed = torch.empty(sum(padded), dtype=torch.uint8, device="cpu", pin_memory=non_blocking and target.type == "cuda")
        for place, value in zip(torch.split(packed, padded), bytes_, strict=True):
            place[: value.numel()].copy_(value)
        moved = torch.split(packed.to(target, non_blocking=non_blocking), padded)
        named = zip(tensors.items(), bytes_, moved, strict=True)
        return self._of({name: part[: own.numel()].view(value.dtype).view(value.shape) for (name, value), own, part in named})

    def _has_rows(self, value: Tensor) -> bool:
        """Whether an extra has a row for each view of each image."""
        return value.shape[:2] == self.boxes.shape[:2]

    def _tensors(self) -> dict[str, Tensor]:
        extras = {f"extras.{name}": value for name, value in self.extras.items()}
        return {"boxes": self.boxes, "sizes": self.sizes} | {f"drawn.{name}": value for name, value in self.drawn.items()} | extras

    def _of(self, tensors: Mapping[str, Tensor]) -> ViewParams:
        """These params with other tensors, named as in :meth:`_tensors`."""
        groups: dict[str, dict[str, Tensor]] = {"drawn": {}, "extras": {}}
        for name, value in tensors.items():
            group, _, key = name.partition(".")
            if key:
                groups[group][key] = value
        return replace(self, boxes=tensors["boxes"], sizes=tensors["sizes"], drawn=groups["drawn"], extras=groups["extras"])

    def _by_view(self, take: Callable[[Tensor], Tensor], slots: tuple[int, ...], sizes: Tensor | None = None) -> ViewParams:
        """These params with other views, or images of other sizes: ``take`` is applied to whatever has a row for each view."""
        chosen = {name: take(value) for name, value in self.drawn.items()}
        extras = {name: take(value) if self._has_rows(value) else value for name, value in self.extras.items()}
        return ViewParams(take(self.boxes), self.sizes if sizes is None else sizes, slots, self.uncropped, chosen, extras)

    def save(self, path: str | Path) -> None:
        """Write to a safetensors file, with a digest of its contents."""
        tensors = {name: value.detach().cpu().contiguous() for name, value in self._tensors().items()}
        layout = {"slots": _join(self.slots), "uncropped": _join(self.uncropped)}
        save_file(tensors, path, metadata={"format": _FORMAT, **layout, "sha256": _digest(tensors, layout)})

    @classmethod
    def load(cls, path: str | Path) -> ViewParams:
        """Read a file that :meth:`save` wrote.

        Raises:
            HVSError: if it is another kind or version of file, or was changed since.
        """
        call = "ViewParams.load(path)"
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - the file is no mapping
        except (OSError, SafetensorError) as error:
            fail(call, "a readable safetensors file", f"{path}: {error}")
        require(metadata.get("format") == _FORMAT, call, f"a file of format {_FORMAT}", f"format {metadata.get('format')}")
        layout = {"slots": metadata.get("slots", ""), "uncropped": metadata.get("uncropped", "")}
        require(
            metadata.get("sha256") == _digest(tensors, layout),
            call,
            "the contents that were saved",
            f"{path}, which was changed since",
        )
        has_both = {"boxes", "sizes"} <= tensors.keys() and all(map(_is_count, (layout["slots"], layout["uncropped"])))
        require(has_both, call, "boxes, sizes and numbers of slots", f"{path} without")
        boxes, sizes = (tensors.pop(name) for name in ("boxes", "sizes"))
        empty = cls(boxes, sizes, _split(layout["slots"]), _split(layout["uncropped"]))
        return empty._of({"boxes": boxes, "sizes": sizes} | tensors)


_ALIGNMENT = 16  # bytes, of every tensor within the one that crosses to a device


def _is_whole(value: object) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.int64


def _is_count(text: str) -> bool:
    return all(part.isdecimal() for part in text.split(",") if part)


def _join(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))


def _split(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(",") if number)


def _digest(tensors: Mapping[str, Tensor], layout: Mapping[str, str]) -> str:
    digest = hashlib.sha256(repr(sorted(layout.items())).encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
