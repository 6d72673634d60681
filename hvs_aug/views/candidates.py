"""CandidateViews: draw several candidate views of every image, and render them on the device."""

from __future__ import annotations

import functools
import os
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from .._check import fail, readable, require
from ..data.batch import ImageBatch
from ..ops import blur, color, crop, per_sample
from .draw import draw_slot, own_generator
from .params import ViewParams
from .presets import preset_slots
from .recipe import ViewRecipe, ViewSlot

__all__ = ["CandidateViews"]


class CandidateViews(nn.Module):
    """Draw candidate views of every image, and render them from what was drawn.

    Drawing is apart from rendering: :meth:`make_params` draws on the CPU, :meth:`transform` renders on the images' device, and the
    same parameters give the same views, bit for bit, at any size. Nothing drawn is kept on the module.

    On a CPU the views are rendered one by one (:mod:`hvs_aug.ops.per_sample`), on ``torch.get_num_threads()`` threads; elsewhere as
    one batch, with masks. Both give the same views: the crop of a uint8 image within one gray level (1.6 for bicubic), as the CPU's
    resize is torch's fixed-point one, and all that follows within 1e-5.

    Args:
        slots: one :class:`ViewSlot`, or several; DINO has three.
        compile: render as one batch compiled by torch.compile, on any device; it needs a C++ compiler or a GPU.

    Raises:
        HVSError: if there is no slot, or a recipe is of an unknown kind.

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

    def __init__(self, slots: ViewSlot | Sequence[ViewSlot], *, compile: bool = False) -> None:
        super().__init__()
        self.slots: tuple[ViewSlot, ...] = (slots,) if isinstance(slots, ViewSlot) else tuple(slots)
        require(len(self.slots) > 0, "CandidateViews(slots)", "at least one ViewSlot", "none")
        for slot in self.slots:
            require(isinstance(slot, ViewSlot), "CandidateViews(slots)", "ViewSlots", slot)
            known = isinstance(slot.recipe, (ViewRecipe, nn.Module))
            require(known, "ViewSlot(recipe)", "a ViewRecipe or a Kornia pipeline", slot.recipe)
        pipelines = {str(index): slot.recipe for index, slot in enumerate(self.slots) if isinstance(slot.recipe, nn.Module)}
        self.kornia = nn.ModuleDict({name: _kornia_pipeline(pipeline) for name, pipeline in pipelines.items()})
        self.compile_views = compile
        self._generator: torch.Generator | None = None

    @classmethod
    def preset(cls, name: str, size: int = 224, candidates: int | None = None, *, compile: bool = False) -> CandidateViews:
        """The candidate views of a method's own augmentation; see :func:`hvs_aug.views.presets.preset_slots`."""
        return cls(preset_slots(name, size, candidates), compile=compile)

    @property
    def candidates(self) -> int:
        """V, the number of candidate views drawn for each image."""
        return sum(slot.candidates for slot in self.slots)

    def make_params(self, images: ImageBatch | Tensor, generator: torch.Generator | None = None) -> ViewParams:
        """Draw the parameters of all candidates of every image.

        Args:
            images: the raw images; only their number and sizes are looked at.
            generator: a CPU generator. By default the module's own, which starts from ``torch.initial_seed()`` and the rank; the
                global random state is never touched.

        Returns:
            ViewParams of V views on the CPU: one seed gives the same views on every device.
        """
        batch = ImageBatch.of(images)
        if generator is None:
            self._generator = generator = self._generator or own_generator()
        require(
            isinstance(generator, torch.Generator) and generator.device.type == "cpu",
            "CandidateViews.make_params(generator)",
            "a CPU torch.Generator",
            generator,
            "parameters are drawn on the CPU, so that one seed gives the same views on every device.",
        )
        drawn = []
        for index, slot in enumerate(self.slots):
            kornia = self._kornia(index)
            if kornia is None:
                drawn.append(draw_slot(slot, index, batch.sizes, generator))
            else:
                drawn.append(kornia.draw(slot, index, batch, generator))
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
            HVSError: if the params are of other images or slots, or a recipe draws colours that these channels do not define.
        """
        batch = ImageBatch.of(images)
        call = "CandidateViews.transform"
        require(
            params.boxes.shape[1] == len(batch),
            f"{call}(params)",
            f"the params of {len(batch)} images",
            f"of {params.boxes.shape[1]}",
        )
        known = all(0 <= slot < len(self.slots) for slot in params.slots) and list(params.slots) == sorted(params.slots)
        require(known, f"{call}(params)", f"views in the order of {len(self.slots)} slots", f"slots {params.slots}")
        scales = list(scale) if isinstance(scale, Sequence) else [scale] * len(self.slots)
        fits = len(scales) == len(self.slots) and all(value > 0 for value in scales)
        require(fits, f"{call}(scale)", "a positive fraction of the training size, or one for each slot", scale)
        if readable(params.sizes, batch.sizes):
            require(
                torch.equal(params.sizes, batch.sizes),
                f"{call}(params)",
                "params drawn for these images",
                "params of images of other sizes",
                "draw them from the batch that is rendered: params = views.make_params(images).",
            )
        moved = params
        if batch.device.type != "cpu" or self.compile_views:
            moved = params.to(batch.device, non_blocking=True)
        with torch.autocast(batch.device.type, enabled=False):  # the views are the same in a caller's mixed precision
            return [self._render(batch, params, moved, index, scales[index]) for index in range(len(self.slots))]

    def _render(self, batch: ImageBatch, given: ViewParams, moved: ViewParams, index: int, scale: float) -> Tensor:
        """Render the views of one slot; a Kornia pipeline takes its params as they were given."""
        recipe = self.slots[index].recipe
        kornia = self._kornia(index)
        if kornia is not None:
            rendered: Tensor = kornia.render(batch, given, index, scale)
            return rendered
        of_slot = moved.of_slot(index)
        size = max(1, round(recipe.size * scale))
        _require_colours(recipe, batch.pixels.shape[1])
        if batch.device.type == "cpu" and not self.compile_views:
            return render_per_sample(batch.pixels, of_slot, recipe, size)
        render = compiled_render_batch() if self.compile_views else render_batch
        return render(
            batch.pixels,
            of_slot.boxes,
            of_slot.flips,
            of_slot.jitter,
            of_slot.order,
            of_slot.gray,
            of_slot.blur,
            of_slot.solarize,
            recipe,
            size,
        )

    def forward(self, images: ImageBatch | Tensor, generator: torch.Generator | None = None) -> tuple[list[Tensor], ViewParams]:
        """Draw and render: ``(transform(images, params), params)``."""
        params = self.make_params(images, generator)
        return self.transform(images, params), params

    def extra_repr(self) -> str:
        """The slots, one a line."""
        return "\n".join(map(repr, self.slots))

    def _kornia(self, index: int) -> Any:
        return dict(self.kornia.items()).get(str(index))


def _kornia_pipeline(pipeline: nn.Module) -> nn.Module:
    from .kornia_pipeline import KorniaPipeline  # here, so that Kornia is imported only where it is used

    return KorniaPipeline(pipeline)


def _number_candidates(params: ViewParams, slots: Sequence[ViewSlot]) -> ViewParams:
    from .kornia_pipeline import number_candidates

    return number_candidates(params, slots)


def render_batch(
    pixels: Tensor,
    boxes: Tensor,
    flips: Tensor,
    factors: Tensor,
    order: Tensor,
    gray: Tensor,
    sigma: Tensor,
    solarized: Tensor,
    recipe: ViewRecipe,
    size: int,
) -> Tensor:
    """The batched schedule: every operation on all views, masked by what was drawn, without a look at a value.

    Shape: pixels ``(B, C, H, W)``; the rest ``(V, B, ...)`` as in ViewParams, on one device -> ``(V, B, C, size, size)``.
    """
    views, images = boxes.shape[:2]
    rendered = crop.crop_resize(pixels, boxes, flips, size, recipe.interpolation).clamp(0, 1).flatten(0, 1)
    for operation in recipe.order:
        if operation == "jitter" and recipe.jitter_prob > 0:
            rendered = color.jitter(rendered, factors.flatten(0, 1), order.flatten(0, 1))
        elif operation == "gray" and recipe.gray_prob > 0:
            rendered = color.grayscale(rendered, gray.flatten())
        elif operation == "blur" and recipe.blur_prob > 0:
            radius, shrink = _scaled_blur(recipe, size)
            rendered = blur.gaussian_blur(rendered, sigma.flatten() * shrink, radius)
        elif operation == "solarize" and recipe.solarize_prob > 0:
            rendered = color.solarize(rendered, solarized.flatten(), recipe.solarize_threshold)
    if recipe.mean is not None and recipe.std is not None:
        rendered = color.normalize(rendered, recipe.mean, recipe.std)
    return rendered.view(views, images, *rendered.shape[1:])


@functools.cache
def compiled_render_batch() -> Callable[..., Tensor]:
    """:func:`render_batch` compiled once for all sizes of images and batches."""
    return torch.compile(render_batch, dynamic=True, fullgraph=True)


def render_per_sample(pixels: Tensor, params: ViewParams, recipe: ViewRecipe, size: int) -> Tensor:
    """The CPU schedule: every view on its own, shared out among ``torch.get_num_threads()`` threads; as :func:`render_batch`."""
    views, images = params.boxes.shape[:2]
    channels = pixels.shape[1]
    total = views * images
    out = torch.empty(total, channels, size, size)
    radius, shrink = _scaled_blur(recipe, size)
    render = per_sample.compiled_render_views()
    arguments = (
        pixels,
        list(range(images)) * views,
        params.boxes.flatten(0, 1).tolist(),
        params.flips.flatten().tolist(),
        params.jitter.flatten(0, 1).tolist(),
        params.order.flatten(0, 1).tolist(),
        params.gray.flatten().tolist(),
        (params.blur.flatten() * shrink).tolist(),
        params.solarize.flatten().tolist(),
        [per_sample.OPERATION_CODES[operation] for operation in recipe.order],
        recipe.interpolation == "bicubic",
        radius,
        recipe.solarize_threshold,
        list(color.LUMINANCE) if channels == 3 else [1.0] * channels,
        list(recipe.mean or ()),
        list(recipe.std or ()),
        out,
    )
    threads = torch.get_num_threads()
    if threads == 1 or total == 1:
        render(*arguments, 0, total)
    else:
        _share_out(lambda start, stop: render(*arguments, start, stop), total, threads)
    return out.view(views, images, channels, size, size)


def _scaled_blur(recipe: ViewRecipe, size: int) -> tuple[int, float]:
    """The kernel's radius and the factor for sigma at a size other than the training size."""
    shrink = size / recipe.size
    return min(round(recipe.blur_kernel // 2 * shrink), size - 1), shrink


def _require_colours(recipe: ViewRecipe, channels: int) -> None:
    hint = "make a recipe for such images: dataclasses.replace(recipe, ...), with these at 0 and a mean and std of their channels."
    if recipe.mean is not None and len(recipe.mean) != channels:
        fail("ViewRecipe(mean)", f"one mean for each of the images' {channels} channels", f"{len(recipe.mean)}", hint)
    if channels == 3:
        return
    drawn = {
        "saturation": "jitter" in recipe.order and recipe.jitter_prob > 0 and recipe.saturation > 0,
        "hue": "jitter" in recipe.order and recipe.jitter_prob > 0 and recipe.hue > 0,
        "gray_prob": "gray" in recipe.order and recipe.gray_prob > 0,
        "contrast": channels != 1 and "jitter" in recipe.order and recipe.jitter_prob > 0 and recipe.contrast > 0,
    }
    undefined = [name for name, on in drawn.items() if on]
    if undefined:
        fail(
            "CandidateViews.transform(images)",
            f"RGB images, since the recipe draws {', '.join(undefined)}",
            f"{channels} channels",
            hint,
        )


def _share_out(render: Callable[[int, int], None], total: int, threads: int) -> None:
    """Render views [0, total) on several threads, each taking the next few until none are left."""
    step = max(1, total // (8 * threads))
    starts: queue.SimpleQueue[int] = queue.SimpleQueue()
    for start in range(0, total, step):
        starts.put(start)

    def work() -> None:
        while True:
            try:
                start = starts.get_nowait()
            except queue.Empty:
                return
            render(start, min(start + step, total))

    with _rendering:
        torch.set_num_threads(1)
        try:
            for task in [_threads(threads).submit(work) for _ in range(threads)]:
                task.result()
        finally:
            torch.set_num_threads(threads)


# The views are what is shared out, so each of torch's own operations runs on one core meanwhile. Depending on its version, torch
# keeps that number for the process or for each thread: it is set in both, and put back for the caller, one rendering at a time.
_rendering = threading.Lock()
_pools: dict[int, ThreadPoolExecutor] = {}
os.register_at_fork(after_in_child=_pools.clear)  # threads do not survive a fork


def _threads(count: int) -> ThreadPoolExecutor:
    if count not in _pools:
        _pools[count] = ThreadPoolExecutor(count, "hvs_aug.views", initializer=torch.set_num_threads, initargs=(1,))
    return _pools[count]
