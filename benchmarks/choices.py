"""What scoring at half the side chooses otherwise than full size: how often, which pairs, and what they look like.

    python -m benchmarks.choices --data TRAIN --test TEST [--images 10000] [--epochs 10] [--quick]

Method: a network is trained with SimCLR on random views. After a tenth, half and all of its steps the same candidates of 2,048
images are scored in several ways: at full size, at half and a quarter of the side, as ``CHEAP``, and at full size in batches of
other images. ``agreement`` is the share of the images for which a way picks the pair that full size picks. The chosen pairs are
described by their means: overlap (IoU), share of the image in a crop, distance of colours, and ``hardness``, the loss at full
size over that of a random pair, of which the hardest pair has 1. ``kept`` is the share of the images whose pair is chosen again at
the next point. Images for which half the side and full size differ in the end are drawn to ``choices.png``, the pair of half
the side framed. No time is measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.common import RESULTS, arguments, table, write
from benchmarks.quality import images_of
from hvs_aug import CHEAP, ImageBatch, Scoring, ViewParams
from hvs_aug.analysis import color_distance, contact_sheet, crop_scale, expected_loss, mean_over_pairs, panels
from hvs_aug.pretraining.loop import Pretraining
from hvs_aug.pretraining.study import ARMS, Study, prepared
from hvs_aug.selection.search import exact, selection_loss

WAYS = {
    "full": Scoring(),
    "full, other batches": Scoring(),
    "half": Scoring(scale=0.5),
    "cheap": CHEAP,
    "quarter": Scoring(scale=0.25),
}
SHOWN = 6


def main(words: Sequence[str] | None = None) -> None:
    parser = arguments("choices", __doc__)
    parser.add_argument("--test", type=Path, help="images whose choices are compared, if --data is given")
    parser.add_argument("--images", type=int, default=10_000, help="how many of --data to train on")
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args(words)
    images = images_of(options.data, options.test, options.images)
    judged = images.test[: 64 if options.quick else 2048]
    epochs = 1 if options.quick else options.epochs
    rows: list[dict[str, Any]] = []
    before: dict[str, Tensor] = {}
    for run in points(images.train, epochs):
        views = run.method.views(run.settings.size)
        params = views.make_params(judged, torch.Generator().manual_seed(0))
        tables = {name: scored(run, judged, params, name) for name in WAYS}
        chosen = {name: exact(values, views.slots) for name, values in tables.items()}
        for name, indices in chosen.items():
            same = (indices == chosen["full"]).all(0).float().mean()
            row = {"step": run.step, "way": name, "agreement": float(same)} | described(
                indices, params, tables["full"], views.slots
            )
            if name in before:
                row["kept"] = float((indices == before[name]).all(0).float().mean())
            rows.append(row)
        before = chosen
    print(table(rows, list(rows[-1])))
    path = options.out or RESULTS / "choices.json"
    last = {row["way"]: row for row in rows if row["step"] == rows[-1]["step"]}
    summary = {f"{name.replace(', ', '_').replace(' ', '_')}_agreement": row["agreement"] for name, row in last.items()}
    settings = {"images": len(images.train), "judged": len(judged), "epochs": epochs, "method": "simclr"}
    write("choices", settings, rows, summary, path)
    differing = (chosen["full"] != chosen["half"]).any(0).nonzero().flatten()[:SHOWN]
    shown = panels(
        judged[differing], views, params.of_images(differing), tables["full"][..., differing], chosen["half"][:, differing]
    )
    contact_sheet(shown, views.slots, "Framed: the pair of half the side, where full size chooses another").savefig(
        path.with_suffix(".png")
    )


def points(images: ImageBatch, epochs: int) -> Iterator[Pretraining]:
    """The run after a tenth, half and all of its steps."""
    study = Study("simclr", batch_size=min(256, len(images)))
    batches = [rows for _ in range(epochs) for rows in torch.randperm(len(images), generator=_seeded()).split(study.batch_size)]
    batches = [rows for rows in batches if len(rows) == study.batch_size]
    run = prepared(study, ARMS["random"], images, len(batches), seed=0)
    marks = {max(1, round(share * len(batches))) for share in (0.1, 0.5, 1.0)}
    for rows in tqdm(batches, disable=None):
        run.train_step(images[rows])
        if run.step in marks:
            yield run


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def scored(run: Pretraining, images: ImageBatch, params: ViewParams, way: str) -> Tensor:
    """The losses of all pairs, (V, V, B), in batches of 256 images."""
    sampler = run.method.sampler(run.method.views(run.settings.size), scoring=WAYS[way])
    order = torch.randperm(len(images), generator=_seeded()) if "other" in way else torch.arange(len(images))
    parts = [sampler.score(images[rows], params=params.of_images(rows)).table for rows in order.split(256)]
    return torch.cat(parts, -1)[..., order.argsort()]


def described(indices: Tensor, params: ViewParams, losses: Tensor, slots: Any) -> dict[str, float]:
    """The means of the chosen pairs."""
    random, hardest = expected_loss(losses, slots), selection_loss(losses, exact(losses, slots))
    reached = (selection_loss(losses, indices) - random).mean() / (hardest - random).mean()
    return {
        "iou": float(mean_over_pairs(params.iou(), indices).mean()),
        "scale": float(crop_scale(params).gather(0, indices).mean()),
        "color_distance": float(mean_over_pairs(color_distance(params), indices).mean()),
        "hardness": float(reached),
    }


if __name__ == "__main__":
    main()
