"""The libraries that make views, each as its users would set it up, all drawing from the ranges of one ViewRecipe.

Each function returns ``make(image) -> view`` or, for the batched ones, ``make(images) -> list of batches``. None is a dependency of
hvs_aug: a library that is not installed is left out of the table, and said so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hvs_aug import CandidateViews, ViewRecipe, ViewSlot, collate_images

Plan = Sequence[tuple[ViewRecipe, int]]
"""What is made of each image: recipes, and how many views of each."""


def identity(recipe: ViewRecipe, ratio: float) -> ViewRecipe:
    """The recipe's resize alone, of a whole image of that aspect ratio: what the check of each contestant's crop renders."""
    ratio_range = (ratio * (1 - 1e-9), ratio * (1 + 1e-9))
    return ViewRecipe(size=recipe.size, scale=(1.0, 1.0), ratio=ratio_range, interpolation=recipe.interpolation)


# One image at a time -----------------------------------------------------------------------------------------------------------


def torchvision_pil(recipe: ViewRecipe) -> Callable[[Tensor], Tensor]:
    """torchvision v1 on a PIL image: what the four repos run."""
    from torchvision import transforms as T

    steps: list[Any] = [
        T.RandomResizedCrop(recipe.size, recipe.scale, recipe.ratio, T.InterpolationMode(recipe.interpolation)),
        T.RandomHorizontalFlip(recipe.flip_prob),
        T.RandomApply([T.ColorJitter(recipe.brightness, recipe.contrast, recipe.saturation, recipe.hue)], recipe.jitter_prob),
        T.RandomGrayscale(recipe.gray_prob),
        T.RandomApply([_PILBlur(recipe.blur_sigma)], recipe.blur_prob),
        T.RandomSolarize(128, recipe.solarize_prob),
        T.ToTensor(),
    ]
    steps += [T.Normalize(recipe.mean, recipe.std)] if recipe.mean else []
    pipeline = T.Compose(steps)
    return lambda image: pipeline(Image.fromarray(image.permute(1, 2, 0).numpy()))


class _PILBlur:
    def __init__(self, sigma: tuple[float, float]) -> None:
        self.sigma = sigma

    def __call__(self, image: Image.Image) -> Image.Image:
        from PIL import ImageFilter

        return image.filter(ImageFilter.GaussianBlur(float(torch.empty(()).uniform_(*self.sigma))))


def torchvision_v2(recipe: ViewRecipe) -> Callable[[Tensor], Tensor]:
    """torchvision v2 on a uint8 tensor."""
    from torchvision.transforms import v2 as T

    steps: list[Any] = [
        T.RandomResizedCrop(recipe.size, recipe.scale, recipe.ratio, T.InterpolationMode(recipe.interpolation), antialias=True),
        T.RandomHorizontalFlip(recipe.flip_prob),
        T.RandomApply([T.ColorJitter(recipe.brightness, recipe.contrast, recipe.saturation, recipe.hue)], recipe.jitter_prob),
        T.RandomGrayscale(recipe.gray_prob),
        T.RandomApply([T.GaussianBlur(recipe.blur_kernel, recipe.blur_sigma)], recipe.blur_prob),
        T.RandomSolarize(128, recipe.solarize_prob),
        T.ToDtype(torch.float32, scale=True),
    ]
    steps += [T.Normalize(recipe.mean, recipe.std)] if recipe.mean else []
    pipeline: Callable[[Tensor], Tensor] = T.Compose(steps)
    return pipeline


def albumentations(recipe: ViewRecipe) -> Callable[[Tensor], Tensor]:
    """albumentations on a NumPy array (OpenCV)."""
    import albumentations as A
    import cv2
    from albumentations.pytorch import ToTensorV2

    cv2.setNumThreads(0)  # its own advice inside worker processes
    interpolation = cv2.INTER_CUBIC if recipe.interpolation == "bicubic" else cv2.INTER_LINEAR
    ranges = [(max(0.0, 1 - s), 1 + s) for s in (recipe.brightness, recipe.contrast, recipe.saturation)]
    jitter = A.ColorJitter(*ranges, (-recipe.hue, recipe.hue), p=recipe.jitter_prob)
    pipeline = A.Compose(
        [
            A.RandomResizedCrop((recipe.size, recipe.size), recipe.scale, recipe.ratio, interpolation=interpolation),
            A.HorizontalFlip(p=recipe.flip_prob),
            jitter,
            A.ToGray(p=recipe.gray_prob),
            A.GaussianBlur((recipe.blur_kernel, recipe.blur_kernel), recipe.blur_sigma, p=recipe.blur_prob),
            A.Solarize((0.5, 0.5), p=recipe.solarize_prob),
            A.Normalize(recipe.mean or (0, 0, 0), recipe.std or (1, 1, 1)),
            ToTensorV2(),
        ]
    )
    return lambda image: pipeline(image=image.permute(1, 2, 0).numpy())["image"]


def lightly(recipe: ViewRecipe) -> Callable[[Tensor], Tensor]:
    """The view of lightly's SimCLRTransform, on a PIL image."""
    from lightly.transforms.simclr_transform import SimCLRViewTransform

    pipeline = SimCLRViewTransform(
        input_size=recipe.size,
        cj_prob=recipe.jitter_prob,
        cj_bright=recipe.brightness,
        cj_contrast=recipe.contrast,
        cj_sat=recipe.saturation,
        cj_hue=recipe.hue,
        min_scale=recipe.scale[0],
        random_gray_scale=recipe.gray_prob,
        gaussian_blur=recipe.blur_prob,
        sigmas=recipe.blur_sigma,
        hf_prob=recipe.flip_prob,
        normalize={"mean": list(recipe.mean), "std": list(recipe.std)} if recipe.mean and recipe.std else None,
    )
    return lambda image: pipeline(Image.fromarray(image.permute(1, 2, 0).numpy()))


PER_IMAGE: dict[str, Callable[[ViewRecipe], Callable[[Tensor], Tensor]]] = {
    "torchvision_pil": torchvision_pil,
    "torchvision_v2": torchvision_v2,
    "albumentations": albumentations,
    "lightly": lightly,
}


class ViewsOfPhotographs(torch.utils.data.Dataset[list[Tensor]]):
    """A data set whose items are all views of one photograph, for the contestants that live in worker processes."""

    def __init__(self, images: Sequence[Tensor], make: Callable[[ViewRecipe], Callable[[Tensor], Tensor]], plan: Plan) -> None:
        self.images, self.make, self.plan = images, make, plan
        self.pipelines: list[Callable[[Tensor], Tensor]] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> list[Tensor]:
        if self.pipelines is None:  # built in the worker: some of them do not pickle
            self.pipelines = [self.make(recipe) for recipe, _ in self.plan]
        image = self.images[index]
        return [view(image) for view, (_, count) in zip(self.pipelines, self.plan, strict=True) for _ in range(count)]


# Batches of views --------------------------------------------------------------------------------------------------------------


def kornia(recipe: ViewRecipe, count: int) -> Callable[[Tensor], Tensor]:
    """Stock Kornia on ``count`` copies of one image, or on a batch as it is."""
    import kornia.augmentation as K

    steps: list[Any] = [
        K.RandomResizedCrop((recipe.size, recipe.size), recipe.scale, recipe.ratio, resample=recipe.interpolation),
        K.RandomHorizontalFlip(recipe.flip_prob),
        K.ColorJitter(recipe.brightness, recipe.contrast, recipe.saturation, recipe.hue, p=recipe.jitter_prob),
        K.RandomGrayscale(p=recipe.gray_prob),
        K.RandomGaussianBlur((recipe.blur_kernel, recipe.blur_kernel), recipe.blur_sigma, p=recipe.blur_prob),
        K.RandomSolarize(0.5, 0.0, p=recipe.solarize_prob),
    ]
    steps += [K.Normalize(torch.tensor(recipe.mean), torch.tensor(recipe.std))] if recipe.mean and recipe.std else []
    pipeline = K.AugmentationSequential(*steps, data_keys=["input"])

    def make(image: Tensor) -> Tensor:
        scaled = image.to(torch.float32).div(255)
        views: Tensor = pipeline(scaled if image.ndim == 4 else scaled.expand(count, -1, -1, -1))
        return views

    return make


def kornia_batch(plan: Plan) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    """Stock Kornia on a whole batch of images of one size."""
    pipelines = [kornia(recipe, -1) for recipe, _ in plan]

    def make(images: Sequence[Tensor]) -> list[Tensor]:
        batch = torch.stack(list(images))
        return [pipeline(batch.repeat(count, 1, 1, 1)) for pipeline, (_, count) in zip(pipelines, plan, strict=True)]

    return make


def torchaug(recipe: ViewRecipe, count: int) -> Callable[[Tensor], Tensor]:
    """torchaug's batch transforms on ``count`` copies of one image: its crop takes no images of different sizes."""
    import torchaug.transforms as T
    from torchvision.transforms.v2.functional import normalize

    steps: list[Any] = [
        T.RandomResizedCrop(recipe.size, recipe.scale, recipe.ratio, recipe.interpolation, num_chunks=-1, batch_transform=True),
        T.RandomHorizontalFlip(recipe.flip_prob, batch_transform=True),
        T.RandomColorJitter(
            recipe.brightness,
            recipe.contrast,
            recipe.saturation,
            recipe.hue,
            p=recipe.jitter_prob,
            num_chunks=-1,
            batch_transform=True,
        ),
        T.RandomGrayscale(recipe.gray_prob, batch_transform=True),
        T.RandomGaussianBlur(recipe.blur_kernel, recipe.blur_sigma, p=recipe.blur_prob, batch_transform=True),
        T.RandomSolarize(0.5, recipe.solarize_prob, batch_transform=True),
    ]
    pipeline = T.SequentialTransform(steps)

    def make(image: Tensor) -> Tensor:
        # Its grayscale and solarization want floating point in [0, 1].
        views = pipeline(image.to(torch.float32).div(255).expand(count, -1, -1, -1).clone())
        return normalize(views, list(recipe.mean), list(recipe.std)) if recipe.mean and recipe.std else views

    return make


COPIES: dict[str, Callable[[ViewRecipe, int], Callable[[Tensor], Tensor]]] = {"kornia": kornia, "torchaug": torchaug}


def ours(plan: Plan, *, compile: bool = False) -> Callable[[Sequence[Any]], list[Tensor]]:
    """hvs_aug: collate decoded images or JPEG bytes, draw, render."""
    slots = [ViewSlot(recipe, candidates=count, select=1, name=f"view-{i}") for i, (recipe, count) in enumerate(plan)]
    views = CandidateViews(slots, compile=compile)
    return lambda images: views(collate_images(list(images)))[0]


def dali(plan: Plan, batch_size: int, threads: int) -> Callable[[Sequence[bytes]], list[Tensor]]:
    """NVIDIA DALI on the CPU, from JPEG bytes, each image decoded once; run without prefetch, so that it works in its own turn."""
    from nvidia.dali import fn, pipeline_def, types

    batch: list[np.ndarray[Any, Any]] = []
    options = {"prefetch_queue_depth": 1, "exec_async": False, "exec_pipelined": False, "enable_conditionals": True}

    @pipeline_def(batch_size=batch_size, num_threads=threads, device_id=None, **options)  # type: ignore[misc, unused-ignore]
    def pipeline() -> Any:
        decoded = fn.decoders.image(fn.external_source(lambda: batch), device="cpu", output_type=types.RGB)
        return tuple(_dali_view(decoded, recipe) for recipe, count in plan for _ in range(count))

    built = pipeline()
    built.build()

    def make(jpegs: Sequence[bytes]) -> list[Tensor]:
        batch[:] = [np.frombuffer(jpeg, np.uint8) for jpeg in jpegs]
        return [torch.from_numpy(np.array(output.as_array())) for output in built.run()]

    return make


def _dali_view(decoded: Any, recipe: ViewRecipe) -> Any:
    from nvidia.dali import fn, types

    interpolation = types.INTERP_CUBIC if recipe.interpolation == "bicubic" else types.INTERP_LINEAR
    view = fn.random_resized_crop(
        decoded,
        size=[recipe.size, recipe.size],
        random_area=list(recipe.scale),
        random_aspect_ratio=list(recipe.ratio),
        interp_type=interpolation,
    )

    def factor(strength: float) -> Any:
        return fn.random.uniform(range=[max(0.0, 1 - strength), 1 + strength])

    def drawn(probability: float) -> Any:
        return probability > 0 and fn.random.coin_flip(probability=probability, dtype=types.BOOL)

    if drawn(recipe.jitter_prob):
        view = fn.color_twist(
            view,
            brightness=factor(recipe.brightness),
            contrast=factor(recipe.contrast),
            saturation=factor(recipe.saturation),
            hue=fn.random.uniform(range=[-360 * recipe.hue, 360 * recipe.hue]),
        )
    if drawn(recipe.gray_prob):
        view = fn.saturation(view, saturation=0.0)
    if drawn(recipe.blur_prob):
        view = fn.gaussian_blur(view, sigma=fn.random.uniform(range=list(recipe.blur_sigma)), window_size=recipe.blur_kernel)
    if drawn(recipe.solarize_prob):
        view = fn.cast(view + (view >= 128) * (255 - 2 * fn.cast(view, dtype=types.INT16)), dtype=types.UINT8)
    return fn.crop_mirror_normalize(
        view,
        dtype=types.FLOAT,
        output_layout="CHW",
        mirror=fn.random.coin_flip(probability=recipe.flip_prob),
        mean=[255 * value for value in recipe.mean or (0, 0, 0)],
        std=[255 * value for value in recipe.std or (1, 1, 1)],
    )
