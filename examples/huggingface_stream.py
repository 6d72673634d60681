"""Hard views over a Hugging Face datasets stream: anything that yields raw images can be the loader inside.

    python examples/huggingface_stream.py --dataset parquet --files 'shards/train-*.parquet' --epochs 100

Or ``--dataset OWNER/NAME`` for one on the hub. Its images are in the column "image" or "img". Differs from SimCLR's settings: a
ResNet-18, SGD without a schedule, one process (with several, datasets.distributed.split_dataset_by_node).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import datasets
import torch
import torchvision
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
    """Train, and return the mean loss of each epoch."""
    parser = argparse.ArgumentParser(description="SimCLR with hard views over a Hugging Face stream")
    parser.add_argument("--dataset", required=True, help="a name on the hub, or parquet, imagefolder, webdataset with --files")
    parser.add_argument("--files", nargs="+", help="local shards")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--size", type=int, default=224, help="pixels a side of a view")
    parser.add_argument("--workers", type=int, default=8)
    options = parser.parse_args(arguments)

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    stream = datasets.load_dataset(options.dataset, data_files=options.files, split="train", streaming=True)
    stream = stream.shuffle(seed=0, buffer_size=1000)
    raw = torch.utils.data.DataLoader(
        stream,
        batch_size=options.batch_size,
        num_workers=options.workers,
        drop_last=True,
        collate_fn=hvs_aug.collate_images,
    )

    model = torchvision.models.resnet18()
    model.fc = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 128))
    model.to(device)
    views = hvs_aug.CandidateViews.preset("simclr", size=options.size)
    sampler = hvs_aug.HardPairSampler(model, hvs_aug.NTXentLoss(temperature=TEMPERATURE), views)
    loader = hvs_aug.HardViewLoader(raw, sampler, device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.06)

    means = []
    for epoch in range(options.epochs):
        stream.set_epoch(epoch)
        losses = []
        for batch in loader:
            first, second = batch["image"] if "image" in batch else batch["img"]
            loss = nt_xent(model(first), model(second))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        means.append(float(torch.stack(losses).mean()))
        print(f"epoch {epoch}  loss {means[-1]:.4f}")
    return means


if __name__ == "__main__":
    main()
