"""CandidateViews: draw several candidate views of every image, and render them on the device."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .._check import fail, is_traced, readable, require, require_name
from .._watch import CountWatch
from ..data.batch import ImageBatch
from ..ops import CenterCrop, Resize, batched, cpu, gpu
from ..ops.crop import unit_of
from ..ops.operation import Draws, is_number, require_count
from ..ops.plan import RenderPlan
from .draw import OwnGenerator, draw_slot, identities
from .params import ViewParams
from .presets import preset_slots
from .recipe import ViewRecipe, ViewSlot

__all__ = ["CandidateViews"]

Renderer = Literal["auto", "definition", "cpu", "triton"]
_Render = Callable[..., Tensor]


class CandidateViews(nn.Module):
    """Draw candidate views of every image, and render them from what was drawn.

    Drawing and rendering are separate. :meth:`make_params` draws on the CPU; :meth:`transform` renders on the images' device.
    The same parameters give the same views, bit for bit, at any size. The module stores nothing that was drawn.

    On a CPU the views are rendered by kernels that numba compiles (:mod:`hvs_aug.ops.cpu`), on ``torch.get_num_threads()`` threads;
    on an NVIDIA GPU by kernels that Triton compiles (:mod:`hvs_aug.ops.gpu`); elsewhere, and where these are not installed, by the
    operations' definitions (:mod:`hvs_aug.ops.batched`). They differ by less than 1e-5.

    Args:
        slots: one :class:`ViewSlot`, or several; DINO has three.
        renderer: ``"auto"`` chooses by the images' device, ``"definition"`` renders by the definitions, ``"cpu"`` by the
            kernels for the CPU, ``"triton"`` by those for the GPU, or fails.
        chunk: how many images are rendered at a time; all by default. If a GPU runs out of memory, rendering is tried once more
            with fewer, and a warning says which chunk to set.

    Raises:
        HVSError: if there is no slot, or a recipe is of an unknown kind, or the renderer is not installed.

    Example:
        >>> import torch
        >>> views = CandidateViews.preset("simclr", size=32, candidates=4)
        >>> images = torch.randint(0, 256, (2, 3, 48, 64), dtype=torch.uint8)
        >>> (rendered,), params = views(images, generator=torch.Generator().manual_seed(0))
        >>> rendered.shape
        torch.Size([4, 2, 3, 32, 32])
        >>> again, = views.transform(images, params)
        >>> bool((again == rendered).all())
        True
    """

    def __init__(self, slots: ViewSlot | Sequence[ViewSlot], *, renderer: Renderer = "auto", chunk: int | None = None) -> None:
        super().__init__()
        call = "CandidateViews(slots)"
        given: Any = slots if isinstance(slots, (list, tuple)) else [slots]
        self.slots: tuple[ViewSlot, ...] = tuple(given)
        require(len(self.slots) > 0, call, "at least one ViewSlot", "none")
        for slot in self.slots:
            require(isinstance(slot, ViewSlot), call, "ViewSlots", slot, "hvs_aug.convert makes them of a transform.")
            known = isinstance(slot.recipe, (ViewRecipe, nn.Module))
            require(known, "ViewSlot(recipe)", "a ViewRecipe or a Kornia pipeline", slot.recipe)
        prepares = {slot.recipe.prepares for slot in self.slots if isinstance(slot.recipe, ViewRecipe)}
        hint = "boxes of all slots are in pixels of the same prepared image."
        require(len(prepares) <= 1, call, "recipes with the same Resize and CenterCrop before the crop", prepares, hint)
        self._prepares: tuple[Resize | CenterCrop, ...] = next(iter(prepares), ())
        pipelines = {str(index): slot.recipe for index, slot in enumerate(self.slots) if isinstance(slot.recipe, nn.Module)}
        fits = not (self._prepares and pipelines)
        expected = "no Resize or CenterCrop before the crop where another slot has a Kornia pipeline"
        require(fits, call, expected, list(self._prepares), hint)
        self.kornia = nn.ModuleDict({name: _kornia_pipeline(pipeline) for name, pipeline in pipelines.items()})
        call = "CandidateViews(renderer)"
        require_name(renderer, ("auto", "definition", "cpu", "triton"), call)
        require(renderer != "cpu" or cpu.is_available(), call, "numba for 'cpu'", "no such package", "pip install numba")
        is_installed = renderer != "triton" or gpu.is_installed()
        require(is_installed, call, "a Triton of 3.6 or newer for 'triton'", "none", "pip install triton, on Linux.")
        self.renderer = renderer
        self.chunk = None if chunk is None else require_count(chunk, "CandidateViews(chunk)")
        self._has_warned = False
        self._needed = identities(self.slots)
        flips = {"RandomHorizontalFlip.applied": torch.tensor(False, device="cpu")} if pipelines else {}
        self._identities = flips | self._needed
        self._outside = CountWatch(
            "CandidateViews got images with {count} values outside [0, 1]: leave out Normalize (CandidateViews normalises last), "
            "or divide by the largest value. This is said once."
        )
        self._own = OwnGenerator()

    @classmethod
    def preset(cls, name: str, size: int = 224, candidates: int | None = None, *, renderer: Renderer = "auto") -> CandidateViews:
        """The candidate views of a method's own augmentation; see :func:`hvs_aug.views.presets.preset_slots`."""
        return cls(preset_slots(name, size, candidates), renderer=renderer)

    @property
    def candidates(self) -> int:
        """V, the number of candidate views drawn for each image."""
        return sum(slot.candidates for slot in self.slots)

    def make_params(self, images: ImageBatch | Tensor, generator: torch.Generator | None = None) -> ViewParams:
        """Draw the parameters of all candidates of every image.

        Args:
            images: the raw images; only their number and sizes are looked at.
            generator: a CPU generator. By default the module's own (:class:`hvs_aug.views.draw.OwnGenerator`): equal seeds
                give equal views, and no two modules, ranks or worker processes draw the same.

        Returns:
            ViewParams of V views on the CPU: one seed gives the same views on every device.

        Raises:
            HVSError: if the generator is not on the CPU, or an image is too small for a ``CenterCrop``.
        """
        batch = ImageBatch.of(images)
        generator = self._own.get() if generator is None else generator
        require(
            isinstance(generator, torch.Generator) and generator.device.type == "cpu",
            "CandidateViews.make_params(generator)",
            "a CPU torch.Generator",
            generator,
            "parameters are drawn on the CPU, so that one seed gives the same views on every device.",
        )
        sizes = self._prepared_sizes(batch.sizes)
        drawn = []
        for index, slot in enumerate(self.slots):
            kornia = self._kornia(index)
            own = draw_slot(slot, index, sizes, generator) if kornia is None else kornia.draw(slot, index, batch, generator)
            drawn.append(_with_identities(own, self._identities))
        params = ViewParams.concatenate(drawn)
        return params if len(self.kornia) == 0 else _number_candidates(params, self.slots)

    def transform(self, images: ImageBatch | Tensor, params: ViewParams, scale: float | Sequence[float] = 1.0) -> list[Tensor]:
        """Render the views that the parameters describe.

        Args:
            images: the images that they were drawn for.
            params: all candidates, or those selected with ``params.select(indices, slots)``.
            scale: render at this fraction of the training size, or at one for each slot; blur follows.

        Returns:
            One tensor for each slot, ``(views, B, C, size, size)`` float32, normalised, on the images' device.

        Raises:
            HVSError: if the params belong to other images or slots, or an operation is not defined for the images' channels.
        """
        batch = ImageBatch.of(images)
        call = "CandidateViews.transform"
        scales: list[float] = list(scale) if isinstance(scale, Sequence) else [scale] * len(self.slots)
        fits = len(scales) == len(self.slots) and all(is_number(value) and value > 0 for value in scales)
        require(fits, f"{call}(scale)", "a positive fraction of the training size, or one for each slot", scale)
        self._require_params(params, batch, f"{call}(params)")
        for slot in self.slots:
            if isinstance(slot.recipe, ViewRecipe):
                slot.recipe.require_channels(batch.channels)
        batch.require_unit_range(f"{call}(images)")
        if batch.dtype.is_floating_point and not readable(batch.pixels) and not is_traced(batch.pixels):
            self._outside.see(batch.outside_unit_range())
        render = self._renderer_of(batch)
        moved = params.to("cpu") if render is cpu.render else params.to(batch.device, non_blocking=True)
        with torch.autocast(batch.device.type, enabled=False):  # the views are the same in a caller's mixed precision
            prepared = self._prepared(batch)
            return [
                self._render(prepared, params, moved.of_slot(index), index, scales[index], render)
                for index in range(len(self.slots))
            ]

    def _renderer_of(self, batch: ImageBatch) -> _Render:
        """What renders images of this batch: by its device, or as ``renderer`` says."""
        device, call = batch.device, "CandidateViews.transform(images)"
        if self.renderer == "cpu":
            require(device.type == "cpu", call, "images on the CPU for renderer='cpu'", f"on {device}")
        if self.renderer == "triton" and not is_traced(batch.pixels):
            reason = gpu.why_not(device, batch.channels)
            require(
                not reason, call, "images on an NVIDIA GPU that the kernels are for, for renderer='triton'", f"{device}: {reason}"
            )
        if self.renderer == "definition" or is_traced(batch.pixels):
            return batched.render
        if device.type == "cpu" and self.renderer != "triton":
            cpu.warn_if_missing()
            return cpu.render if cpu.is_available() else batched.render
        reason = gpu.why_not(device, batch.channels)
        if not reason:
            return gpu.render
        if device.type == "cuda" and not self._has_warned:
            self._has_warned = True
            warnings.warn(f"CandidateViews renders slowly on {device}, without its kernels: {reason}.", stacklevel=4)
        return batched.render

    def _render(self, batch: ImageBatch, given: ViewParams, own: ViewParams, index: int, scale: float, render: _Render) -> Tensor:
        """Render the views of one slot; a Kornia pipeline takes its params as they were given."""
        kornia = self._kornia(index)
        if kornia is not None:
            rendered: Tensor = kornia.render(batch, given, index, scale)
            return rendered
        recipe: ViewRecipe = self.slots[index].recipe
        drawn: dict[str, Draws] = {name: own.draws(name) for name, _ in recipe.steps}
        plan = recipe.plan(scale)
        try:
            return _in_chunks(render, batch, own.boxes, drawn, plan, self.chunk)
        except torch.cuda.OutOfMemoryError:
            chunk = -(-min(self.chunk or len(batch), len(batch)) // 8)
            if len(batch) <= 1:
                raise
            message = (
                f"CandidateViews ran out of memory on {batch.device}, and renders {chunk} images at a time: set chunk={chunk}."
            )
            warnings.warn(message, stacklevel=4)
        return _in_chunks(render, batch, own.boxes, drawn, plan, chunk)

    def _require_params(self, params: ViewParams, batch: ImageBatch, call: str) -> None:
        """Fail unless the params are of these images and slots, as far as that can be told without waiting for a device."""
        hint = "draw them from the batch that is rendered: params = views.make_params(images)."
        require(isinstance(params, ViewParams), call, "ViewParams", params, hint)
        count = params.boxes.shape[1]
        require(count == len(batch), call, f"the params of {len(batch)} images", f"of {count}", hint)
        known = all(0 <= slot < len(self.slots) for slot in params.slots) and list(params.slots) == sorted(params.slots)
        require(known, call, f"views in the order of {len(self.slots)} slots", f"slots {params.slots}")
        missing = sorted(self._needed.keys() - params.drawn.keys())
        require(not missing, call, "what the operations of these slots drew", f"params without {missing}", hint)
        for name, identity in self._needed.items():
            value, shape = params.drawn[name], (*params.boxes.shape[:2], *identity.shape)
            fits = value.shape == shape and value.dtype == identity.dtype
            require(fits, call, f"{name} as a {identity.dtype} tensor of shape {shape}", value, hint)
        sizes = self._prepared_sizes(batch.sizes)
        if readable(params.sizes, sizes):
            same = torch.equal(params.sizes, sizes)
            require(same, call, "params drawn for these images", "params of images of other sizes", hint)
        if readable(params.boxes, params.sizes):
            self._require_boxes(params, call)

    def _require_boxes(self, params: ViewParams, call: str) -> None:
        """Fail unless the boxes of all recipes are within their images; the kernels for the CPU look at no bounds."""
        views = [view for view, slot in enumerate(params.slots) if self._kornia(slot) is None]
        corners, sides = torch.split(params.boxes[views], 2, -1)
        is_valid = ((corners >= 0) & (sides >= 1) & (sides <= params.sizes - corners)).all(-1)
        if not is_valid.all():
            view, image = (~is_valid).nonzero()[0].tolist()
            box, size = params.boxes[views][view, image].tolist(), params.sizes[image].tolist()
            fail(call, "boxes of at least one pixel, within their images", f"the box {box} in image {image} of {size} pixels")

    def _prepared_sizes(self, sizes: Tensor) -> Tensor:
        """The sizes of the images after what the recipes do before they crop."""
        if not self._prepares:
            return sizes
        prepared = sizes.tolist()
        for operation in self._prepares:
            prepared = [operation.prepared_size(*size) for size in prepared]
        return torch.tensor(prepared, dtype=torch.int64, device="cpu")

    def _prepared(self, batch: ImageBatch) -> ImageBatch:
        """The images after what the recipes do before they crop."""
        if not self._prepares:
            return batch
        images = []
        for image in batch:
            pixels = image.to(torch.float32) * unit_of(image.dtype)
            for operation in self._prepares:
                pixels = operation.prepare(pixels)
            images.append(pixels.permute(1, 2, 0).reshape(-1))
        counts = torch.tensor([len(values) for values in images], dtype=torch.int64, device="cpu")
        return ImageBatch(torch.cat(images), self._prepared_sizes(batch.sizes), counts.cumsum(0) - counts, batch.channels)

    def forward(self, images: ImageBatch | Tensor, generator: torch.Generator | None = None) -> tuple[list[Tensor], ViewParams]:
        """Draw and render: ``(transform(images, params), params)``."""
        params = self.make_params(images, generator)
        return self.transform(images, params), params

    def extra_repr(self) -> str:
        """The slots, one a line."""
        return "\n".join(map(repr, self.slots))

    def _kornia(self, index: int) -> Any:
        return dict(self.kornia.items()).get(str(index))


def _in_chunks(
    render: _Render, batch: ImageBatch, boxes: Tensor, drawn: Mapping[str, Draws], plan: RenderPlan, chunk: int | None
) -> Tensor:
    """Render so many images at a time."""
    if chunk is None or chunk >= len(batch):
        return render(batch, boxes, drawn, plan)
    out = torch.empty(*boxes.shape[:2], batch.channels, *plan.size, dtype=torch.float32, device=batch.device)
    for start in range(0, len(batch), chunk):
        rows = slice(start, start + chunk)
        own = {name: {key: value[:, rows] for key, value in draws.items()} for name, draws in drawn.items()}
        out[:, rows] = render(batch[rows], boxes[:, rows], own, plan)
    return out


def _kornia_pipeline(pipeline: nn.Module) -> nn.Module:
    from .kornia_pipeline import KorniaPipeline  # here, so that Kornia is imported only where it is used

    return KorniaPipeline(pipeline)


def _number_candidates(params: ViewParams, slots: Sequence[ViewSlot]) -> ViewParams:
    from .kornia_pipeline import number_candidates

    return number_candidates(params, slots)


def _with_identities(params: ViewParams, recorded: Mapping[str, Tensor]) -> ViewParams:
    """Record for the views of a slot that the operations which other slots alone have change nothing."""
    if params.drawn.keys() == recorded.keys():
        return params
    shape = params.boxes.shape[:2]
    drawn = {name: params.drawn.get(name, value.expand(*shape, *value.shape)) for name, value in recorded.items()}
    return replace(params, drawn=drawn)
