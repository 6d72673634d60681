"""Hard views over WebDataset shards: anything that yields raw images can be the loader inside.

    python examples/webdataset_stream.py --shards 'shards/train-{0000..1281}.tar' --steps 100000

Shards hold FILE.jpg (or .png, .jpeg, .webp) and FILE.cls. Differs from SimCLR's settings: a ResNet-18, SGD without a schedule, one
process (with several, pass nodesplitter=webdataset.split_by_node).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
import torchvision
import webdataset
from torch import Tensor, nn
from torch.nn import functional as F

import hvs_aug

TEMPERATURE = 0.1


def nt_xent(first: Tensor, second: Tensor) -> Tensor:
    """SimCLR's loss."""
    outputs = F.normalize(torch.cat([first, second]), dim=-1)
    own = torch.eye(len(outputs), dtype=torch.bool, device=outputs.device)
    similarities = (outputs @ outputs.t() / TEMPERATURE).masked_fill(own, -torch.inf)
    return F.cross_entropy(similarities, torch.arange(len(outputs), device=outputs.device).roll(len(first)))


def main(arguments: Sequence[str] | None = None) -> list[float]:
    """Train, and return the losses."""
    parser = argparse.ArgumentParser(description="SimCLR with hard views over WebDataset shards")
    parser.add_argument("--shards", required=True, help="a path or URL, with {0000..1281} for several")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--size", type=int, default=224, help="pixels a side of a view")
    parser.add_argument("--workers", type=int, default=8)
    options = parser.parse_args(arguments)

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # Neither decoded nor transformed here: collate_images decodes in the worker, and the views are made on the device.
    shards = webdataset.WebDataset(options.shards, shardshuffle=100, empty_check=False).shuffle(1000)
    samples = shards.to_tuple("jpg;png;jpeg;webp", "cls").map_tuple(bytes, int).repeat()
    raw = torch.utils.data.DataLoader(
        samples, batch_size=options.batch_size, num_workers=options.workers, collate_fn=hvs_aug.collate_images
    )

    model = torchvision.models.resnet18()
    model.fc = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 128))
    model.to(device)
    views = hvs_aug.CandidateViews.preset("simclr", size=options.size)
    sampler = hvs_aug.HardPairSampler(model, hvs_aug.NTXentLoss(temperature=TEMPERATURE), views)
    loader = hvs_aug.HardViewLoader(raw, sampler, device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.06)

    losses = []
    for _, ((first, second), _) in zip(range(options.steps), loader, strict=False):
        loss = nt_xent(model(first), model(second))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        if len(losses) % 100 == 0 or len(losses) == options.steps:
            print(f"step {len(losses)}  loss {torch.stack(losses[-100:]).mean():.4f}")
    return [float(loss) for loss in losses]


if __name__ == "__main__":
    main()
