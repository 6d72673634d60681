"""What else tells which pair is hard: how much of the hardness each cheaper way to look at the candidates captures.

    python -m benchmarks.proxies [--quick] [--data DIR] [--methods simclr simsiam] [--points 0 50 150]

Method: that of ``captured`` in benchmarks.forward_overhead (hvs_aug/analysis/overhead.py): a network is trained, and at several
points each contestant chooses among the candidates of photographs that are not trained on; 1 is the hardest choice by the losses
at full size, 0 a random one. ``arithmetic`` is the contestant's floating-point operations as a share of those of scoring at full
size, by torch.utils.flop_counter. No time is measured, so the machine need not be quiet.

Contestants: a smaller render; one whose blur is not made smaller with it; a window of half the side out of the middle of each view,
at full resolution; tiles from all over the view, joined to an image of half the side; an early exit after the second of four
stages; a cascade, which screens all pairs at a quarter of the side and scores the leading two again at half; the crops' overlap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import arguments, table, write
from benchmarks.forward_overhead import SMALL, build, images_of, shown
from hvs_aug.analysis.overhead import FULL, Chooser, Factory, Workload, hardness, ours
from hvs_aug.selection.losses import NegativeCosineLoss
from hvs_aug.selection.policies import min_iou
from hvs_aug.selection.sampler import HardPairSampler, HardViews
from hvs_aug.selection.scoring import Scoring
from hvs_aug.selection.search import exact, selection_loss
from hvs_aug.views.candidates import CandidateViews
from hvs_aug.views.params import ViewParams


class Proxy:
    """Chooses the hardest pair by a table that ``scored(batch, params)`` makes."""

    def __init__(self, views: CandidateViews, scored: Callable[[Any, ViewParams], Tensor]) -> None:
        self.views, self.scored = views, scored

    def __call__(self, images: Any, extras: Any = None, *, params: ViewParams | None = None) -> HardViews:
        assert params is not None
        scores = self.scored(images, params)
        indices = exact(scores, self.views.slots)
        loss = selection_loss(scores, indices)
        return HardViews([], None, indices, loss, None, None, torch.zeros((), dtype=torch.int64), {})


def changed(change: Callable[[ViewParams], ViewParams], scale: float) -> Factory:
    """Score at a fraction of the side what is drawn otherwise."""

    def make(trainee: Any, views: CandidateViews) -> Chooser:
        sampler = trainee.sampler(views, scoring=Scoring(scale=scale))
        return Proxy(views, lambda batch, params: sampler.score(batch, params=change(params)).table)

    return make


def sharper(params: ViewParams) -> ViewParams:
    """Twice the blur, which is then as many pixels at half the side as it was in full."""
    return replace(params, blur=2 * params.blur)


def middle(params: ViewParams) -> ViewParams:
    """The middle of each crop, half as high and wide; at half the side it has the resolution of the whole."""
    top, left, height, width = params.boxes.unbind(-1)
    smaller = ((height + 1) // 2, (width + 1) // 2)
    boxes = torch.stack([top + (height - smaller[0]) // 2, left + (width - smaller[1]) // 2, *smaller], -1)
    return sharper(replace(params, boxes=boxes))


def tiled(pixels: Tensor, tiles: int = 8) -> Tensor:
    """Every second of ``tiles`` x ``tiles`` tiles in each direction, joined: (n, C, h, w) -> (n, C, h / 2, w / 2)."""
    cut = pixels.unflatten(-2, (tiles, -1)).unflatten(-1, (tiles, -1))
    return cut[..., ::2, :, ::2, :].flatten(-2).flatten(-3, -2)


def seen_by(model: Callable[[Any], Callable[[Tensor], Any]]) -> Factory:
    """Score with another model of the trainee."""
    return lambda trainee, views: HardPairSampler(model(trainee), trainee.pair_loss, views)


def early_exit(trainee: Any) -> Callable[[Tensor], Any]:
    """The pooled features of a ResNet's second stage, as prediction and projection where the loss compares these."""
    body = getattr(trainee.encoder, "body", None)
    first = (
        nn.Sequential(body.conv1, body.bn1, body.relu, body.maxpool, body.layer1, body.layer2)
        if body is not None
        else nn.Sequential(trainee.encoder.stem, trainee.encoder.stages[0])
    )

    def features(pixels: Tensor) -> Any:
        pooled = first(pixels).mean((2, 3))
        return (pooled, pooled) if isinstance(trainee.pair_loss, NegativeCosineLoss) else pooled

    return features


def cascade(trainee: Any, views: CandidateViews) -> Chooser:
    """All pairs at a quarter of the side; the leading two of each image, which hold three or four of four views, again at half."""
    quarter, half = (trainee.sampler(views, scoring=Scoring(scale=scale)) for scale in (0.25, 0.5))

    def scored(batch: Any, params: ViewParams) -> Tensor:
        first = quarter.score(batch, params=params).table
        upper = torch.triu_indices(*first.shape[:2], offset=1)
        leading = first[upper[0], upper[1]].topk(2, dim=0).indices
        kept = torch.full_like(first, torch.nan)
        second = half.score(batch, params=params).table
        columns = torch.arange(first.shape[2])
        for pairs in upper[:, leading].unbind(1):
            for u, v in (pairs, pairs.flip(0)):
                kept[u, v, columns] = second[u, v, columns]
        kept.diagonal().zero_()
        return kept

    return Proxy(views, scored)


CONTESTANTS: dict[str, Factory] = {
    FULL: ours(),
    "two thirds": ours(scoring=Scoring(scale=2 / 3)),
    "half": ours(scoring=Scoring(scale=0.5)),
    "0.4": ours(scoring=Scoring(scale=0.4)),
    "quarter": ours(scoring=Scoring(scale=0.25)),
    "half, blur in full": changed(sharper, 0.5),
    "window of half the side": changed(middle, 0.5),
    "tiles of half the side": seen_by(lambda trainee: lambda pixels: trainee.score(tiled(pixels))),
    "early exit": seen_by(early_exit),
    "cascade": cascade,
    "smallest overlap": ours(policy=min_iou()),
}


def share_of_arithmetic(workload: Workload, factory: Factory) -> float:
    """The operations of one choice over those of the choice at full size."""
    trainee = workload.build()
    views = trainee.views(workload.size, workload.candidates)
    batch = next(workload.batches(workload.train))
    params = views.make_params(batch, torch.Generator().manual_seed(0))
    counts = []
    for made in (factory, ours()):
        chooser = made(trainee, views)
        with FlopCounterMode(display=False) as counter:
            chooser(batch, params=params)
        counts.append(counter.get_total_flops())
    return counts[0] / counts[1]


def main(words: Sequence[str] | None = None) -> None:
    parser = arguments("proxies", __doc__)
    parser.add_argument("--methods", nargs="+", choices=("simclr", "simsiam"), default=["simclr", "simsiam"])
    parser.add_argument("--points", type=int, nargs="+", default=(0, 50, 150), help="training steps after which choices are judged")
    parser.add_argument("--judged", type=int, default=8, help="batches of 16 that are judged at each point")
    options = parser.parse_args(words)
    size, batch = (64, 4) if options.quick else (128, 16)
    points = (0, 2) if options.quick else tuple(options.points)
    train, held_out = images_of(options.data)
    rows: list[dict[str, Any]] = []
    for method in options.methods:
        encoder = "resnet8" if options.quick else SMALL[method]
        workload = Workload(
            lambda method=method, encoder=encoder: build(method, encoder, size, None),
            size,
            batch,
            4,
            train,
            held_out,
            torch.device("cpu"),
        )
        found = hardness(workload, CONTESTANTS, points=points, judged=1 if options.quick else options.judged, progress=shown)
        name = f"{method} {encoder} {size}px B={batch} N=4"
        for setting, factory in CONTESTANTS.items():
            facts = {"workload": name, "method": method, "setting": setting}
            rows.append({**facts, "arithmetic": share_of_arithmetic(workload, factory), **found[setting]})
        own = [row for row in rows if row["method"] == method]
        print(name, table(own, ["setting", "arithmetic", "captured", "agreement"]), sep="\n", flush=True)
        summary = {
            f"{row['method']}_{row['setting'].replace(' ', '_')}": row["captured"] for row in rows if row["setting"] == "half"
        }
        settings = {
            "size": size,
            "batch": batch,
            "points": list(points),
            "judged": options.judged,
            "data": "packaged photographs" if options.data is None else str(options.data),
        }
        write("proxies", settings, rows, summary, options.out)


if __name__ == "__main__":
    main()
