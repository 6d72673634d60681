"""What the choice of views is worth: the accuracy of the features after equally many steps, for each way to choose.

    python -m benchmarks.quality [--quick] [--data TRAIN --test TEST] [--images 10000] [--epochs 10] [--seeds 2] [--resume]

Method: the same small network trained with the same seeds, images and number of steps; only the choice of views differs. Accuracy
is that of a weighted k-nearest-neighbour vote (k = 20) of the test images among the training images, also with augmented queries.
``loss`` is the mean training loss of the last epoch: what a choice keeps high. No time is measured: the machine need not be quiet.
A run of minutes on small images says whether a choice does harm, not what hard views gain in hundreds of epochs of ImageNet.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.common import RESULTS, arguments, require, resumed, table, write
from hvs_aug import CHEAP, Scoring
from hvs_aug.data.raw_images import RawImages
from hvs_aug.pretraining.build import METHODS, build_method
from hvs_aug.pretraining.evaluation import augmented_features, features, knn_accuracy
from hvs_aug.pretraining.photographs import photograph_tiles
from hvs_aug.selection import policies

SIZE, BATCH = 32, 128
ARMS: dict[str, dict[str, Any]] = {
    "random views": {"policy": policies.random(control=False)},
    "full size": {},
    "half": {"scoring": Scoring(scale=0.5)},
    "cheap": {"scoring": CHEAP},
    "smallest overlap": {"policy": policies.min_iou()},
}


def images_of(path: Path | None, test: Path | None, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images and labels, then those to test on: some of two archives or folders, or the demo's tiles."""
    if path is None:
        tiles = photograph_tiles()
        return tiles.train, tiles.train_labels, tiles.test, tiles.test_labels
    require(test is not None, "quality(--test)", "images to test on, labelled by the same folders", "none")
    parts: list[Tensor] = []
    for place, most in ((path, count), (test, max(1, count // 5))):
        dataset = RawImages(place)
        chosen = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))[:most].tolist()
        samples = [dataset[index] for index in chosen]
        parts.append(torch.stack([image for image, *_ in samples if isinstance(image, Tensor)]))
        parts.append(torch.tensor([label for _, label, *_ in samples]))
    return parts[0], parts[1], parts[2], parts[3]


def train(method_name: str, options: dict[str, Any], images: Tensor, epochs: int, seed: int) -> tuple[Any, float]:
    """One run: the trained method, and its mean loss in the last epoch."""
    method = build_method(method_name, SIZE, encoder="resnet8-strided" if METHODS[method_name].fewest > 1 else None, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    views = method.views(SIZE)
    sampler = method.sampler(views, generator=generator, **options)
    weights = [weight for weight in method.parameters() if weight.requires_grad]
    peak = method.learning_rate * math.sqrt(BATCH / 256)
    optimizer = torch.optim.AdamW(weights, lr=peak, weight_decay=method.weight_decay)
    steps = len(images) // BATCH
    losses: list[float] = []
    for step in tqdm(range(epochs * steps), leave=False):
        if step % steps == 0:
            order = torch.randperm(len(images), generator=generator)
        progress = step / (epochs * steps)
        for group in optimizer.param_groups:
            group["lr"] = peak * min(1.0, 20 * progress + 0.01) * (1 + math.cos(math.pi * progress)) / 2
        method.schedule(progress)
        batch = images[order[step % steps * BATCH :][:BATCH]]
        loss = method.loss(sampler(batch, method.extras(views.slots, BATCH, generator)))
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        method.clip_gradients()
        optimizer.step()
        method.after_step()
        losses.append(loss.item())
    return method, statistics.fmean(losses[-steps:])


def main(words: Sequence[str] | None = None) -> None:
    parser = arguments("quality", __doc__)
    parser.add_argument("--test", type=Path, help="images to test on, if --data is given")
    parser.add_argument("--method", default="simclr", choices=sorted(METHODS))
    parser.add_argument("--images", type=int, default=10_000, help="how many of --data; a fifth as many of --test")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--resume", action="store_true", help="keep the runs that the file to write already holds")
    options = parser.parse_args(words)
    epochs, seeds = (1, 1) if options.quick else (options.epochs, options.seeds)
    bank, bank_labels, queries, labels = images_of(options.data, options.test, options.images)
    settings = {"method": options.method, "size": SIZE, "batch": BATCH, "epochs": epochs, "images": len(bank), "test": len(queries)}
    settings["data"] = "packaged photographs" if options.data is None else options.data.name
    path = options.out or RESULTS / "quality.json"
    rows = resumed(path, settings, timed=False) if options.resume else []
    recipe = METHODS[options.method].views(SIZE).slots[0].recipe
    for seed in range(seeds):
        for arm, chosen in ARMS.items():
            if any((row["arm"], row["seed"]) == (arm, seed) for row in rows):
                continue
            method, loss = train(options.method, chosen, bank, epochs, seed)
            known = features(method, bank, recipe)
            row = {
                "arm": arm,
                "seed": seed,
                "loss": loss,
                "knn": knn_accuracy(known, bank_labels, features(method, queries, recipe), labels),
                "knn_augmented": knn_accuracy(known, bank_labels, augmented_features(method, queries, recipe), labels),
            }
            rows.append(row)
            print(table([row], list(row)), flush=True)
            write("quality", settings, rows, means(rows), path)
    print(table([{"summary": key, "value": value} for key, value in means(rows).items()], ["summary", "value"]))


def means(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The mean accuracy of each arm over its seeds."""
    arms = dict.fromkeys(row["arm"] for row in rows)
    return {
        f"{arm.replace(' ', '_')}_{key}": statistics.fmean(row[key] for row in rows if row["arm"] == arm)
        for arm in arms
        for key in ("knn", "knn_augmented")
    }


if __name__ == "__main__":
    main()
