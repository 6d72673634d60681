"""Everything that was drawn for a batch of views, as tensors: what makes replay, IoU and cheap scoring possible."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .._check import fail, require

__all__ = ["ViewParams"]

_FORMAT = "hvs_aug.ViewParams/1"


@dataclass(frozen=True)
class ViewParams:
    """What was drawn for V views of each of B images. The same params and images give the same views, bit for bit.

    Every tensor has the leading axes ``(V, B)``; the views stand in the order of their slots. A value that changes nothing (its
    identity) stands where an operation was not drawn.

    Attributes:
        boxes: ``(V, B, 4)`` int64 crops as (top, left, height, width) in source pixels, half-open.
        flips: ``(V, B)`` bool, horizontal flip.
        jitter: ``(V, B, 4)`` float32: brightness, contrast and saturation factors (identity 1), hue shift in turns (identity 0).
        order: ``(V, B, 4)`` int64: ``order[..., i]`` is the column of ``jitter`` that is applied i-th.
        gray: ``(V, B)`` bool.
        blur: ``(V, B)`` float32, standard deviation in pixels of the training size; 0 where not blurred.
        solarize: ``(V, B)`` bool.
        sizes: ``(B, 2)`` int64, the (height, width) of the images that the boxes were drawn for.
        slots: for each of the V views the index of its slot.
        uncropped: the indices of the slots whose pipeline has no crop; their boxes are those of the whole image.
        extras: further tensors with leading axes ``(V, B)`` or any (a Kornia pipeline's own parameters), by name.

    """

    boxes: Tensor
    flips: Tensor
    jitter: Tensor
    order: Tensor
    gray: Tensor
    blur: Tensor
    solarize: Tensor
    sizes: Tensor
    slots: tuple[int, ...]
    uncropped: tuple[int, ...] = ()
    extras: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        views, images = self.boxes.shape[:2]
        for name, tail in _TAILS.items():
            value = getattr(self, name)
            require(value.shape == (views, images, *tail), f"ViewParams({name})", f"shape {(views, images, *tail)}", value)
        require(self.sizes.shape == (images, 2), "ViewParams(sizes)", f"shape {(images, 2)}", self.sizes)
        require(len(self.slots) == views, "ViewParams(slots)", f"{views} slot indices", f"{len(self.slots)}")

    def __len__(self) -> int:
        """The number of views, V."""
        return len(self.boxes)

    def iou(self, other: ViewParams | None = None) -> Tensor:
        """Intersection over union of the crops of every two views of an image, in source pixels: ``(V, V, B)`` float32 in [0, 1].

        With ``other``, W views of the same images, that of each view with each of those: ``(V, W, B)``.

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
        """
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

        views = self.boxes.shape[:2]
        chosen = {name: gather(getattr(self, name)) for name in _TAILS}
        extras = {name: gather(value) if value.shape[:2] == views else value for name, value in self.extras.items()}
        return self._with(chosen, slots=tuple(slots), extras=extras)

    def span(self, slot: int) -> slice:
        """Where the views of one slot stand, on the axis of views."""
        start = self.slots.index(slot) if slot in self.slots else 0
        return slice(start, start + self.slots.count(slot))

    def of_slot(self, slot: int) -> ViewParams:
        """The params of the views of one slot."""
        views = self.span(slot)
        return self._with({name: getattr(self, name)[views] for name in _TAILS}, slots=self.slots[views])

    @staticmethod
    def concatenate(parts: Sequence[ViewParams]) -> ViewParams:
        """The params of the views of several slots, in one, for the same images."""
        joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in _TAILS}
        return ViewParams(
            **joined,
            sizes=parts[0].sizes,
            slots=tuple(slot for part in parts for slot in part.slots),
            uncropped=tuple(slot for part in parts for slot in part.uncropped),
            extras={name: value for part in parts for name, value in part.extras.items()},
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ViewParams:
        """Move every tensor."""
        moved = {name: getattr(self, name).to(device, non_blocking=non_blocking) for name in (*_TAILS, "sizes")}
        extras = {name: value.to(device, non_blocking=non_blocking) for name, value in self.extras.items()}
        return self._with(moved, extras=extras)

    def _with(self, tensors: Mapping[str, Any], **others: Any) -> ViewParams:
        return replace(self, **tensors, **others)

    def save(self, path: str | Path) -> None:
        """Write to a safetensors file, with a digest of its contents."""
        tensors = {name: getattr(self, name).detach().cpu().contiguous() for name in (*_TAILS, "sizes")}
        tensors |= {f"extras.{name}": value.detach().cpu().contiguous() for name, value in self.extras.items()}
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
        extras = {name.removeprefix("extras."): value for name, value in tensors.items() if name.startswith("extras.")}
        own = {name: tensors[name] for name in (*_TAILS, "sizes")}
        return cls(**own, slots=_split(layout["slots"]), uncropped=_split(layout["uncropped"]), extras=extras)


# The axes that follow (V, B) in each tensor.
_TAILS: dict[str, tuple[int, ...]] = {
    "boxes": (4,),
    "flips": (),
    "jitter": (4,),
    "order": (4,),
    "gray": (),
    "blur": (),
    "solarize": (),
}
assert set(_TAILS) < {entry.name for entry in fields(ViewParams)}


def _join(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))


def _split(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(",") if number)


def _digest(tensors: Mapping[str, Tensor], layout: Mapping[str, str]) -> str:
    digest = hashlib.sha256(repr(sorted(layout.items())).encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()
