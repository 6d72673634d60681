"""SimCLR in Lightning with hard views: a callback, and a loader of raw images. The LightningModule knows nothing of them.

    python examples/lightning_simclr.py --data FOLDER --epochs 100 --devices 8

Differs from SimCLR's settings: a ResNet-18, SGD without a schedule, negatives from each process's own batch.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import lightning
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

import hvs_aug
from hvs_aug.integrations.lightning import HardViewSelection

TEMPERATURE = 0.1


class SimCLR(lightning.LightningModule):
    """A ResNet-18 with a projection head, trained on pairs of views."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = torchvision.models.resnet18()
        self.backbone.fc = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 128))

    def forward(self, images: Tensor) -> Tensor:
        projections: Tensor = self.backbone(images)
        return projections

    def training_step(self, batch: Any, index: int) -> Tensor:
        (first, second), _ = batch
        outputs = F.normalize(torch.cat([self(first), self(second)]), dim=-1)
        images = len(first)
        own = torch.eye(2 * images, dtype=torch.bool, device=outputs.device)
        similarities = (outputs @ outputs.t() / TEMPERATURE).masked_fill(own, -torch.inf)
        loss = F.cross_entropy(similarities, torch.arange(2 * images, device=outputs.device).roll(images))
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.06)


def main(arguments: Sequence[str] | None = None) -> lightning.Trainer:
    """Train, and return the trainer."""
    parser = argparse.ArgumentParser(description="SimCLR in Lightning with hard views")
    parser.add_argument("--data", required=True, metavar="FOLDER", help="images in folders, or a .zip or .tar of them")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--steps", type=int, default=-1, help="stop after so many")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--size", type=int, default=224, help="pixels a side of a view")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--devices", default="auto")
    parser.add_argument("--out", default=".", metavar="FOLDER", help="where logs and checkpoints go")
    parser.add_argument("--resume", metavar="CHECKPOINT")
    options = parser.parse_args(arguments)

    lightning.seed_everything(0)
    loader = torch.utils.data.DataLoader(
        hvs_aug.RawImages(options.data),
        batch_size=options.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=options.workers,
        collate_fn=hvs_aug.collate_images,
    )
    views = hvs_aug.CandidateViews.preset("simclr", size=options.size)
    loss = hvs_aug.NTXentLoss(temperature=TEMPERATURE)
    hard = HardViewSelection(lambda module: hvs_aug.HardPairSampler(module, loss, views))
    trainer = lightning.Trainer(
        max_epochs=options.epochs,
        max_steps=options.steps,
        devices=options.devices,
        callbacks=[hard],
        default_root_dir=options.out,
        log_every_n_steps=1,
    )
    trainer.fit(SimCLR(), loader, ckpt_path=options.resume)
    return trainer


if __name__ == "__main__":
    main()
