"""Small networks with everything that a scoring forward could disturb."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hvs_aug.ops import RandomHorizontalFlip, RandomResizedCrop
from hvs_aug.views.candidates import CandidateViews
from hvs_aug.views.recipe import ViewRecipe, ViewSlot


class Counted(nn.Module):
    """Counts its forwards, and the images in each."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.calls: list[tuple[int, ...]] = []

    def forward(self, images: Tensor, *arguments: Tensor) -> object:
        self.calls.append(tuple(images.shape))
        return self.module(images, *arguments)


class SmallResNet(nn.Module):
    """A residual network with BatchNorm and dropout, which takes any size."""

    def __init__(self, width: int = 8, outputs: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(width, outputs))

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.stem(images)
        return self.head(torch.relu(hidden + self.block(hidden)).mean((2, 3)))


class QueueModel(nn.Module):
    """MoCo's queue: every forward in training mode writes its outputs into a buffer and moves a pointer."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = SmallResNet()
        self.register_buffer("queue", torch.zeros(64, 8))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))

    def forward(self, images: Tensor) -> Tensor:
        output = self.encoder(images)
        with torch.no_grad():
            rows = (self.pointer + torch.arange(len(output))) % len(self.queue)
            self.queue[rows] = output.to(self.queue.dtype)
            self.pointer += len(output)
        return output


class CentredLoss(nn.Module):
    """A loss whose every call replaces its moving-average centre by a new tensor, as DINO's does."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(8))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        loss = ((first - self.center) - (second - self.center).roll(1, -1)).square().sum(-1)
        self.center = 0.9 * self.center + 0.1 * first.mean(0)
        return loss


class SmallTransformer(nn.Module):
    """A vision transformer built like those of the DINO and iBOT repos: a ModuleList of blocks, one class token."""

    def __init__(self, size: int = 32, patch: int = 8, width: int = 16, fixed: bool = False) -> None:
        super().__init__()
        self.fixed = fixed
        self.patch_embed = nn.Conv2d(3, width, patch, patch)
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(torch.randn(1, (size // patch) ** 2 + 1, width))
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(width, 2, width, 0.0, batch_first=True) for _ in range(2))

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = self.patch_embed(pixels)
        grid = tokens.shape[-2:]
        position = self.pos_embed[:, 1:]
        if not self.fixed:
            side = int(position.shape[1] ** 0.5)
            position = position.transpose(1, 2).unflatten(2, (side, side))
            position = nn.functional.interpolate(position, size=grid, mode="bicubic").flatten(2).transpose(1, 2)
        tokens = tokens.flatten(2).transpose(1, 2) + position
        tokens = torch.cat([(self.cls_token + self.pos_embed[:, :1]).expand(len(tokens), -1, -1), tokens], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return tokens[:, 0]


def slot(size: int = 16, candidates: int = 4, select: int = 2, **options: Any) -> ViewSlot:
    """A slot whose views differ a lot."""
    return ViewSlot(ViewRecipe(size, [RandomResizedCrop(scale=(0.1, 1.0)), RandomHorizontalFlip()]), candidates, select, **options)


def pairs(candidates: int = 4, size: int = 16) -> CandidateViews:
    return CandidateViews(slot(size, candidates))


def crops() -> CandidateViews:
    """DINO's three slots, small."""
    return CandidateViews(
        [
            slot(32, 2, 1, name="global-1"),
            slot(32, 2, 1, name="global-2"),
            slot(16, 4, 2, name="local", role="local"),
        ]
    )


def images(batch: int = 4, side: int = 40, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
