"""Small runs on images of noise, and what they leave behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hvs_aug.pretraining.checkpoint import load_checkpoint
from hvs_aug.pretraining.loop import Pretraining, Settings


class Noise:
    """Images of noise, each its own; remembers which were asked for."""

    def __init__(self, count: int = 12, side: int = 16) -> None:
        self.pixels = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int, /) -> tuple[Tensor, int]:
        self.asked.append(index)
        return self.pixels[index], 0


def settings(method: str = "simclr", **changed: Any) -> Settings:
    """Three epochs of three steps."""
    return Settings(**{"method": method, "size": 16, "epochs": 3, "batch_size": 4, **changed})


def small_run(method: str = "simclr", images: Any = None, **changed: Any) -> Pretraining:
    return Pretraining(settings(method, **changed), Noise() if images is None else images)


def saved(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All that a checkpoint holds."""
    return load_checkpoint(path / "checkpoint.safetensors")


def metrics(path: Path) -> list[dict[str, Any]]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in (path / "metrics.jsonl").read_text().splitlines()]
