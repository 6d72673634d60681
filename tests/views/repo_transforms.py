"""Transforms as the repos have them: their class names, attributes and behaviour, in our own words."""

from __future__ import annotations

import random
from typing import Any

from PIL import Image, ImageFilter, ImageOps
from torchvision import transforms as v1

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def named(name: str, call: Any, **attributes: Any) -> Any:
    """An object of a new class of that name, which does ``call`` and has those attributes."""
    transform = type(name, (), {"__call__": lambda self, image: call(image)})()
    vars(transform).update(attributes)
    return transform


def blur(probability: float = 1.0, low: float = 0.1, high: float = 2.0, name: str = "GaussianBlur", **attributes: Any) -> Any:
    """Blur with Pillow, with a probability and a radius drawn from a range."""

    def call(image: Image.Image) -> Image.Image:
        radius = random.uniform(low, high)
        return image.filter(ImageFilter.GaussianBlur(radius)) if random.random() < probability else image

    return named(name, call, **attributes)


def dino_blur(p: float, name: str = "GaussianBlur") -> Any:
    return blur(p, name=name, prob=p, radius_min=0.1, radius_max=2.0)


def solarize(probability: float, name: str = "Solarization", **attributes: Any) -> Any:
    """Solarize with Pillow, with a probability; at 128 where there is no attribute threshold."""
    threshold = attributes.get("threshold", 128)
    return named(name, lambda image: ImageOps.solarize(image, threshold) if random.random() < probability else image, **attributes)


def dino(size: int = 224, local_size: int = 96, locals_: int = 8, name: str = "DataAugmentationDINO", **attributes: Any) -> Any:
    """DINO's multi-crop transform: two globals, then the locals."""
    colour = v1.Compose(
        [v1.RandomHorizontalFlip(0.5), v1.RandomApply([v1.ColorJitter(0.4, 0.4, 0.2, 0.1)], 0.8), v1.RandomGrayscale(0.2)]
    )
    end = v1.Compose([v1.ToTensor(), v1.Normalize(MEAN, STD)])

    def view(side: int, scale: tuple[float, float], p: float, *more: Any) -> v1.Compose:
        crop = v1.RandomResizedCrop(side, scale=scale, interpolation=Image.BICUBIC)
        return v1.Compose([crop, colour, dino_blur(p), *more, end])

    first, second = view(size, (0.4, 1.0), 1.0), view(size, (0.4, 1.0), 0.1, solarize(0.2, p=0.2))
    local = view(local_size, (0.05, 0.4), 0.5)
    others = attributes.get("global_crops_number", 2) - 1

    def call(image: Any) -> list[Any]:
        return [first(image), *(second(image) for _ in range(others)), *(local(image) for _ in range(locals_))]

    parts = {"global_transfo1": first, "global_transfo2": second, "local_transfo": local, "local_crops_number": locals_}
    return named(name, call, **parts, **attributes)


def simsiam_view(size: int = 224) -> v1.Compose:
    return v1.Compose(
        [
            v1.RandomResizedCrop(size, scale=(0.2, 1.0)),
            v1.RandomApply([v1.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            v1.RandomGrayscale(p=0.2),
            v1.RandomApply([blur(sigma=[0.1, 2.0])], p=0.5),
            v1.RandomHorizontalFlip(),
            v1.ToTensor(),
            v1.Normalize(MEAN, STD),
        ]
    )


def two_crops(view: Any) -> Any:
    return named("TwoCropsTransform", lambda image: [view(image), view(image)], base_transform=view)
