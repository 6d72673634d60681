"""Lightly's own SimCLR example with hard views: the import of hvs_aug and the line that wraps the loader are all that is added.

    python examples/lightly_simclr.py --data FOLDER --epochs 100

Differs from SimCLR's settings: a ResNet-18, SGD without a schedule, one process.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
import torchvision
from lightly.data import LightlyDataset
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms import SimCLRTransform
from torch import Tensor, nn

import hvs_aug
from hvs_aug.integrations.lightly import pair_loss


class SimCLR(nn.Module):
    """A ResNet-18 with Lightly's projection head."""

    def __init__(self) -> None:
        super().__init__()
        resnet = torchvision.models.resnet18()
        self.backbone = nn.Sequential(*list(resnet.children())[:-1], nn.Flatten())
        self.projection_head = SimCLRProjectionHead(512, 512, 128)

    def forward(self, images: Tensor) -> Tensor:
        projections: Tensor = self.projection_head(self.backbone(images))
        return projections


def main(arguments: Sequence[str] | None = None) -> list[float]:
    """Train, and return the losses."""
    parser = argparse.ArgumentParser(description="Lightly's SimCLR with hard views")
    parser.add_argument("--data", required=True, metavar="FOLDER", help="images, in folders of any depth")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--size", type=int, default=224, help="pixels a side of a view")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)

    torch.manual_seed(options.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = SimCLR().to(device)
    criterion = NTXentLoss(temperature=0.1)
    dataset = LightlyDataset(options.data, transform=SimCLRTransform(input_size=options.size))
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=options.batch_size, shuffle=True, drop_last=True, num_workers=options.workers
    )
    loader = hvs_aug.wrap(loader, model=model, loss=pair_loss(criterion))  # hard views
    optimizer = torch.optim.SGD(model.parameters(), lr=0.06)

    losses = []
    for epoch in range(options.epochs):
        total = torch.zeros((), device=device)
        for (first, second), _, _ in loader:
            loss = criterion(model(first.to(device)), model(second.to(device)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()
        losses.append(float(total) / len(loader))
        print(f"epoch {epoch}  loss {losses[-1]:.4f}")
    return losses


if __name__ == "__main__":
    main()
