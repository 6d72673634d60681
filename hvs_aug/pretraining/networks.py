"""The networks of the commands: a small ResNet, a small vision transformer that can mask patches, and the heads on top."""

from __future__ import annotations

import copy
import difflib
import itertools
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._check import fail, require, require_name

__all__ = [
    "ENCODERS",
    "PrototypeHead",
    "SmallResNet",
    "TimmNetwork",
    "VisionTransformer",
    "average",
    "build_encoder",
    "imported_timm",
    "mlp",
    "patch_of",
    "small_transformer",
    "teacher_of",
    "timm_network",
]


class SmallResNet(nn.Module):
    """A ResNet of three stages with one basic block each (8 layers with the stem and a head), for images of about 32 pixels.

    ``stride`` is that of the stem: 2 takes a quarter of the time.

    Shape: (n, 3, h, w) -> (n, 4 * width).
    Source: He et al., arXiv 1512.03385, section 4.2 (the CIFAR ResNets, n = 1); pre-activation as in arXiv 1603.05027.
    """

    def __init__(self, width: int = 16, stride: int = 1) -> None:
        super().__init__()
        self.features = 4 * width
        self.stem = nn.Conv2d(3, width, 3, stride, padding=1, bias=False)
        self.stages = nn.Sequential(_Block(width, width, 1), _Block(width, 2 * width, 2), _Block(2 * width, 4 * width, 2))
        self.norm = nn.BatchNorm2d(4 * width)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        images = images.contiguous(memory_format=torch.channels_last)  # convolutions then take 0.6 of the time on a CPU
        return F.relu(self.norm(self.stages(self.stem(images)))).mean((2, 3))


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.skip = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs or stride != 1 else None

    def forward(self, maps: Tensor) -> Tensor:
        active = F.relu(self.norm1(maps))
        skipped = maps if self.skip is None else self.skip(active)
        return cast("Tensor", skipped + self.conv2(F.relu(self.norm2(self.conv1(active)))))


class VisionTransformer(nn.Module):
    """A vision transformer of timm with a mask token, for views of any size that is a multiple of the patch.

    Shape: images (n, 3, h, w) -> the [CLS] token (n, features), normalised; ``with_patches`` adds the patch tokens
        (n, patches, features). With masks (n, h / patch, w / patch) bool, the embedding of a masked patch is the mask token.
    Source: ViT, arXiv 2010.11929; the mask token, iBOT, arXiv 2111.07832, section 3.1.
    """

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.body = body
        self.features: int = body.num_features
        self.patch: int = body.patch_embed.patch_size[0]
        self.mask_token = nn.Parameter(torch.zeros(self.features))

    def forward(self, images: Tensor, masks: Tensor | None = None, *, with_patches: bool = False) -> Any:
        body = self.body
        tokens = body.patch_embed(images)  # (n, rows, columns, width), as dynamic_img_size has it
        if masks is not None:
            tokens = torch.where(masks[..., None], self.mask_token.to(tokens.dtype), tokens)
        tokens = body.norm(body.blocks(body.norm_pre(body._pos_embed(tokens))))
        return (tokens[:, 0], tokens[:, body.num_prefix_tokens :]) if with_patches else tokens[:, 0]


def small_transformer(size: int, patch: int, width: int, depth: int, heads: int) -> VisionTransformer:
    """A plain transformer for views of that many pixels.

    Raises: HVSError if the size is no multiple of the patch, or timm is not installed.
    """
    _require_whole_patches(size, patch)
    body = imported_timm().models.vision_transformer.VisionTransformer(
        img_size=size,
        patch_size=patch,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        num_classes=0,
        dynamic_img_size=True,
    )
    return VisionTransformer(body)


class TimmNetwork(nn.Module):
    """Any network of timm without its classifier.

    Shape: (n, 3, h, w) -> (n, features).
    """

    def __init__(self, body: Any, size: int) -> None:
        super().__init__()
        self.body = body.eval()
        with torch.no_grad():
            self.features: int = self.body(torch.zeros(1, 3, size, size)).shape[-1]
        self.train()

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.body(images)
        return features


def timm_network(name: str, size: int) -> VisionTransformer | TimmNetwork:
    """A network of timm by its name there, without its classifier, its weights drawn anew (nothing is downloaded).

    Raises: HVSError for an unknown name, with the closest that timm knows, if the size is no multiple of a transformer's
        patch, or if timm is not installed.
    """
    timm = imported_timm()
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=1)
        fail("build_encoder(name)", "a model of timm", repr(f"timm:{name}"), f"did you mean 'timm:{close[0]}'?" if close else None)
    body = None
    for options in ({"img_size": size, "dynamic_img_size": True}, {"img_size": size}, {}):
        try:
            body = timm.create_model(name, pretrained=False, num_classes=0, **options)
            break
        except TypeError:  # convolutional networks take no size, and some transformers one size alone
            continue
    kind = timm.models.vision_transformer.VisionTransformer
    if isinstance(body, kind) and body.cls_token is not None:
        _require_whole_patches(size, body.patch_embed.patch_size[0])
        return VisionTransformer(body)
    return TimmNetwork(body, size)


def imported_timm() -> Any:
    """The module timm, or an error that says how to install it."""
    try:
        import timm
    except ImportError:
        fail("build_encoder(name)", "timm, which carries the transformers", "no such package", "pip install 'hvs-aug[demo]'")
    return timm


def _require_whole_patches(size: int, patch: int) -> None:
    require(size % patch == 0, "build_encoder(size)", f"a multiple of the transformer's patch of {patch} pixels", size)


class PrototypeHead(nn.Module):
    """DINO's head: an MLP to a bottleneck, L2-normalised, and cosines with weight-normalised prototypes.

    Shape: (..., features) -> (..., prototypes).
    Source: DINO, arXiv 2104.14294, appendix C (3 layers, GELU, bottleneck of 256, the prototypes' norm fixed at 1).
    """

    def __init__(self, features: int, prototypes: int, hidden: int, bottleneck: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(features, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        for module in self.mlp:
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        self.prototypes = nn.Parameter(torch.randn(prototypes, bottleneck))

    def forward(self, features: Tensor) -> Tensor:
        return F.linear(F.normalize(self.mlp(features), dim=-1), F.normalize(self.prototypes, dim=-1))


def mlp(*widths: int, last_norm: bool = False) -> nn.Sequential:
    """Linear layers of these widths with BatchNorm and ReLU between them; ``last_norm`` ends with an affine-free BatchNorm."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths[:-1]):
        layers += [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU(inplace=True)]
    layers.append(nn.Linear(widths[-2], widths[-1], bias=not last_norm))
    if last_norm:
        layers.append(nn.BatchNorm1d(widths[-1], affine=False))
    return nn.Sequential(*layers)


def teacher_of(student: nn.Module) -> nn.Module:
    """A copy of the student that gradients do not reach."""
    teacher = copy.deepcopy(student)
    for weight in teacher.parameters():
        weight.requires_grad_(False)
    return teacher


@torch.no_grad()
def average(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Move the teacher's weights towards the student's, in place: ``momentum * teacher + (1 - momentum) * student``."""
    own: list[Tensor] = list(teacher.parameters())
    theirs: list[Tensor] = list(student.parameters())
    torch._foreach_lerp_(own, theirs, 1 - momentum)


class ResNet(nn.Module):
    """torchvision's ResNet without its classifier; below 64 pixels with a stem of one 3x3 convolution and no pooling.

    Shape: (n, 3, h, w) -> (n, features).
    Source: He et al., arXiv 1512.03385; the small stem, SimCLR, arXiv 2002.05709, appendix B.9.
    """

    def __init__(self, name: str, size: int) -> None:
        super().__init__()
        import torchvision

        self.body = getattr(torchvision.models, name)(weights=None)
        self.features: int = self.body.fc.in_features
        self.body.fc = nn.Identity()
        if size < 64:
            self.body.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
            self.body.maxpool = nn.Identity()
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.body(images.contiguous(memory_format=torch.channels_last))
        return features


def patch_of(size: int) -> int:
    """The side of a patch: 16 pixels from 64 on, as in DINO; below that 4, so that a view has tokens enough."""
    return 16 if size >= 64 else 4


ENCODERS: dict[str, Callable[[int], nn.Module]] = {
    "resnet8": lambda size: SmallResNet(),
    "resnet8-strided": lambda size: SmallResNet(stride=2),
    "resnet18": lambda size: ResNet("resnet18", size),
    "resnet50": lambda size: ResNet("resnet50", size),
    "vit-micro": lambda size: small_transformer(size, patch_of(size), width=64, depth=4, heads=2),
    "vit-micro/8": lambda size: small_transformer(size, 8, width=96, depth=3, heads=3),
    "vit-tiny": lambda size: small_transformer(size, patch_of(size), width=192, depth=12, heads=3),  # DeiT, arXiv 2012.12877
    "vit-small": lambda size: small_transformer(size, patch_of(size), width=384, depth=12, heads=6),
}
"""Networks by name, each for views of so many pixels; ``.features`` is the width of what they return."""


def build_encoder(name: str, size: int) -> Any:
    """Build one of ``ENCODERS``, or ``timm:NAME`` of timm, for views of that many pixels.

    Raises: HVSError for an unknown name, with the closest one that is known, or a size that a transformer cannot take.
    """
    if name.startswith("timm:"):
        return timm_network(name.removeprefix("timm:"), size)
    require_name(name, ENCODERS, "build_encoder(name)")
    return ENCODERS[name](size)
