"""The libraries that make views, each as its users would set it up, all drawing from the ranges of one ViewRecipe.

Each function returns ``make(image) -> view`` or, for the batched ones, ``make(images) -> list of batches``. None is a dependency of
hvs_aug: a library that is not installed is left out of the table, and said so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hvs_aug import CandidateViews, ViewRecipe, ViewSlot, collate_images, ops

Plan = Sequence[tuple[ViewRecipe, int]]
"""What is made of each image: recipes, and how many views of each."""


@dataclass(frozen=True)
class Numbers:
    """The numbers of a recipe as the libraries' own arguments take them; 0 and the identity where an operation is left out."""

    size: int
    scale: tuple[float, float]
    ratio: tuple[float, float]
    interpolation: str
    flip_prob: float
    jitter_prob: float
    factors: tuple[tuple[float, float], ...]  # brightness, contrast, saturation
    hue: tuple[float, float]
    gray_prob: float
    blur_prob: float
    blur_sigma: tuple[float, float]
    blur_kernel: int
    solarize_prob: float
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None

    @staticmethod
    def of(recipe: ViewRecipe) -> Numbers:
        """Read a recipe of the presets' operations, each at most once."""
        assert isinstance(recipe.size, int)
        jitter: Any = recipe.find(ops.ColorJitter) or ops.ColorJitter(p=0.0)
        blur: Any = recipe.find(ops.GaussianBlur) or ops.GaussianBlur(1, p=0.0)
        normalize: Any = recipe.find(ops.Normalize)

        def prob(kind: type[ops.Operation]) -> float:
            return float(getattr(recipe.find(kind), "p", 0.0))

        return Numbers(
            recipe.size,
            recipe.crop.scale,
            recipe.crop.ratio,
            recipe.crop.interpolation,
            prob(ops.RandomHorizontalFlip),
            jitter.p,
            (jitter.brightness, jitter.contrast, jitter.saturation),
            jitter.hue,
            prob(ops.RandomGrayscale),
            blur.p,
            blur.sigma,
            blur.kernel_size,
            prob(ops.RandomSolarize),
            None if normalize is None else normalize.mean,
            None if normalize is None else normalize.std,
        )


def identity(recipe: ViewRecipe, ratio: float) -> ViewRecipe:
    """The recipe's resize alone, of a whole image of that aspect ratio: what the check of each contestant's crop renders."""
    ratio_range = (ratio * (1 - 1e-9), ratio * (1 + 1e-9))
    return ViewRecipe(recipe.size, [replace(recipe.crop, scale=(1.0, 1.0), ratio=ratio_range)])


# One image at a time -----------------------------------------------------------------------------------------------------------


def torchvision_pil(recipe: ViewRecipe) -> Callable[[Tensor], Tensor]:
    """torchvision v1 on a PIL image: what the four repos run."""
    numbers = Numbers.of(recipe)
    from torchvision import transforms as T

    steps: list[Any] = [
        T.RandomResizedCrop(numbers.size, numbers.scale, numbers.ratio, T.InterpolationMode(numbers.interpolation)),
        T.RandomHorizontalFlip(numbers.flip_prob),
        T.RandomApply([T.ColorJitter(*numbers.factors, numbers.hue)], numbers.jitter_prob),
        T.RandomGrayscale(numbers.gray_prob),
        T.RandomApply([_PILBlur(numbers.blur_sigma)], numbers.blur_prob),
        T.RandomSolarize(128, numbers.solarize_prob),
        T.ToTensor(),
    ]
    steps += [T.Normalize(numbers.mean, numbers.std)] if numbers.mean else []
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
    numbers = Numbers.of(recipe)
    from torchvision.transforms import v2 as T

    steps: list[Any] = [
        T.RandomResizedCrop(numbers.size, numbers.scale, numbers.ratio, T.InterpolationMode(numbers.interpolation), antialias=True),
        T.RandomHorizontalFlip(numbers.flip_prob),
        T.RandomApply([T.ColorJitter(*numbers.factors, numbers.hue)], numbers.jitter_prob),
        T.RandomGrayscale(numbers.gray_prob),
        T.RandomApply([T.GaussianBlur(numbers.blur_kernel, numbers.blur_sigma)], numbers.blur_prob),
        T.RandomSolarize(128, numbers.solarize_prob),
        T.ToDtype(torch.float32, scale=True),
    ]
    steps += [T.Normalize(numbers.mean, numbers.std)] if numbers.mean else []
    pipeline: Callable[[Tensor], Tensor] = T.Compose(steps)
    return pipeline


def albumentations(recipe: ViewRecipe) -> Callable[[Tensor], Tensor]:
    """albumentations on a NumPy array (OpenCV)."""
    numbers = Numbers.of(recipe)
    import albumentations as A
    import cv2
    from albumentations.pytorch import ToTensorV2

    cv2.setNumThreads(0)  # its own advice inside worker processes
    interpolation = cv2.INTER_CUBIC if numbers.interpolation == "bicubic" else cv2.INTER_LINEAR
    jitter = A.ColorJitter(*numbers.factors, numbers.hue, p=numbers.jitter_prob)
    pipeline = A.Compose(
        [
            A.RandomResizedCrop((numbers.size, numbers.size), numbers.scale, numbers.ratio, interpolation=interpolation),
            A.HorizontalFlip(p=numbers.flip_prob),
            jitter,
            A.ToGray(p=numbers.gray_prob),
            A.GaussianBlur((numbers.blur_kernel, numbers.blur_kernel), numbers.blur_sigma, p=numbers.blur_prob),
            A.Solarize((0.5, 0.5), p=numbers.solarize_prob),
            A.Normalize(numbers.mean or (0, 0, 0), numbers.std or (1, 1, 1)),
            ToTensorV2(),
        ]
    )
    return lambda image: pipeline(image=image.permute(1, 2, 0).numpy())["image"]


def lightly(recipe: ViewRecipe) -> Callable[[Tensor], Tensor]:
    """The view of lightly's SimCLRTransform, on a PIL image."""
    numbers = Numbers.of(recipe)
    from lightly.transforms.simclr_transform import SimCLRViewTransform

    pipeline = SimCLRViewTransform(
        input_size=numbers.size,
        cj_prob=numbers.jitter_prob,
        cj_bright=numbers.factors[0][1] - 1,
        cj_contrast=numbers.factors[1][1] - 1,
        cj_sat=numbers.factors[2][1] - 1,
        cj_hue=numbers.hue[1],
        min_scale=numbers.scale[0],
        random_gray_scale=numbers.gray_prob,
        gaussian_blur=numbers.blur_prob,
        sigmas=numbers.blur_sigma,
        hf_prob=numbers.flip_prob,
        normalize={"mean": list(numbers.mean), "std": list(numbers.std)} if numbers.mean and numbers.std else None,
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
    numbers = Numbers.of(recipe)
    import kornia.augmentation as K

    steps: list[Any] = [
        K.RandomResizedCrop((numbers.size, numbers.size), numbers.scale, numbers.ratio, resample=numbers.interpolation),
        K.RandomHorizontalFlip(numbers.flip_prob),
        K.ColorJitter(*numbers.factors, numbers.hue, p=numbers.jitter_prob),
        K.RandomGrayscale(p=numbers.gray_prob),
        K.RandomGaussianBlur((numbers.blur_kernel, numbers.blur_kernel), numbers.blur_sigma, p=numbers.blur_prob),
        K.RandomSolarize(0.5, 0.0, p=numbers.solarize_prob),
    ]
    steps += [K.Normalize(torch.tensor(numbers.mean), torch.tensor(numbers.std))] if numbers.mean and numbers.std else []
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
    numbers = Numbers.of(recipe)
    import torchaug.transforms as T
    from torchvision.transforms.v2.functional import normalize

    steps: list[Any] = [
        T.RandomResizedCrop(numbers.size, numbers.scale, numbers.ratio, numbers.interpolation, num_chunks=-1, batch_transform=True),
        T.RandomHorizontalFlip(numbers.flip_prob, batch_transform=True),
        T.RandomColorJitter(
            *numbers.factors,
            numbers.hue,
            p=numbers.jitter_prob,
            num_chunks=-1,
            batch_transform=True,
        ),
        T.RandomGrayscale(numbers.gray_prob, batch_transform=True),
        T.RandomGaussianBlur(numbers.blur_kernel, numbers.blur_sigma, p=numbers.blur_prob, batch_transform=True),
        T.RandomSolarize(0.5, numbers.solarize_prob, batch_transform=True),
    ]
    pipeline = T.SequentialTransform(steps)

    def make(image: Tensor) -> Tensor:
        # Its grayscale and solarization want floating point in [0, 1].
        views = pipeline(image.to(torch.float32).div(255).expand(count, -1, -1, -1).clone())
        return normalize(views, list(numbers.mean), list(numbers.std)) if numbers.mean and numbers.std else views

    return make


COPIES: dict[str, Callable[[ViewRecipe, int], Callable[[Tensor], Tensor]]] = {"kornia": kornia, "torchaug": torchaug}


def ours(plan: Plan) -> Callable[[Sequence[Any]], list[Tensor]]:
    """hvs_aug: collate decoded images or JPEG bytes, draw, render."""
    slots = [ViewSlot(recipe, candidates=count, select=1, name=f"view-{i}") for i, (recipe, count) in enumerate(plan)]
    views = CandidateViews(slots)
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
    numbers = Numbers.of(recipe)
    from nvidia.dali import fn, types

    interpolation = types.INTERP_CUBIC if numbers.interpolation == "bicubic" else types.INTERP_LINEAR
    view = fn.random_resized_crop(
        decoded,
        size=[numbers.size, numbers.size],
        random_area=list(numbers.scale),
        random_aspect_ratio=list(numbers.ratio),
        interp_type=interpolation,
    )

    def drawn(probability: float) -> Any:
        return probability > 0 and fn.random.coin_flip(probability=probability, dtype=types.BOOL)

    if drawn(numbers.jitter_prob):
        view = fn.color_twist(
            view,
            brightness=fn.random.uniform(range=list(numbers.factors[0])),
            contrast=fn.random.uniform(range=list(numbers.factors[1])),
            saturation=fn.random.uniform(range=list(numbers.factors[2])),
            hue=fn.random.uniform(range=[360 * bound for bound in numbers.hue]),
        )
    if drawn(numbers.gray_prob):
        view = fn.saturation(view, saturation=0.0)
    if drawn(numbers.blur_prob):
        view = fn.gaussian_blur(view, sigma=fn.random.uniform(range=list(numbers.blur_sigma)), window_size=numbers.blur_kernel)
    if drawn(numbers.solarize_prob):
        view = fn.cast(view + (view >= 128) * (255 - 2 * fn.cast(view, dtype=types.INT16)), dtype=types.UINT8)
    return fn.crop_mirror_normalize(
        view,
        dtype=types.FLOAT,
        output_layout="CHW",
        mirror=fn.random.coin_flip(probability=numbers.flip_prob),
        mean=[255 * value for value in numbers.mean or (0, 0, 0)],
        std=[255 * value for value in numbers.std or (1, 1, 1)],
    )
