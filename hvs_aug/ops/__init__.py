"""Operations on views: one file each, with its fields, its draw, its definition in torch, and its kernels.

``batched`` renders by the definitions, on any device; ``cpu`` by kernels that numba compiles, ``gpu`` by those of Triton.

>>> from hvs_aug import ViewRecipe, ops
>>> ViewRecipe(224, [ops.RandomResizedCrop(scale=(0.2, 1.0)), ops.RandomHorizontalFlip(), ops.RandomSolarize(0.5, p=0.2)])
ViewRecipe(224, [RandomResizedCrop(scale=(0.2, 1)), RandomHorizontalFlip(), RandomSolarize(p=0.2)])
"""

from .autocontrast import RandomAutocontrast
from .blur import GaussianBlur
from .center_crop import CenterCrop
from .crop import RandomResizedCrop
from .equalize import RandomEqualize
from .erasing import RandomErasing
from .gray import RandomGrayscale
from .horizontal_flip import RandomHorizontalFlip
from .invert import RandomInvert
from .jitter import ColorJitter
from .kernel import cpu_kernel
from .normalize import Normalize
from .operation import Operation
from .posterize import RandomPosterize
from .random_apply import RandomApply
from .random_choice import RandomChoice
from .resize import Resize
from .rotation import RandomRotation
from .sharpness import RandomAdjustSharpness
from .solarize import RandomSolarize
from .triton_kernel import device_function, gpu_kernel
from .vertical_flip import RandomVerticalFlip

__all__ = [
    "CenterCrop",
    "ColorJitter",
    "GaussianBlur",
    "Normalize",
    "Operation",
    "RandomAdjustSharpness",
    "RandomApply",
    "RandomAutocontrast",
    "RandomChoice",
    "RandomEqualize",
    "RandomErasing",
    "RandomGrayscale",
    "RandomHorizontalFlip",
    "RandomInvert",
    "RandomPosterize",
    "RandomResizedCrop",
    "RandomRotation",
    "RandomSolarize",
    "RandomVerticalFlip",
    "Resize",
    "cpu_kernel",
    "device_function",
    "gpu_kernel",
]
