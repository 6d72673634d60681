"""How fast a GPU makes views: ours, Kornia and torchvision v2, on images that are on the device already.

    python -m benchmarks.gpu [--quick] [--out FILE] [--device cuda]

Method: 256 images of 500 x 375, uint8, four views of each by SimCLR's recipe, and 64 images with the 20 candidates of DINO. All
contestants of a workload run in turn, in an order shuffled for each round; times are those between two CUDA events, with as many
repetitions between them as take 20 ms; reported are medians over the rounds. ``ours`` draws and renders; ``ours, drawn before``
renders only. Kornia gets the images as one float batch, repeated for the views, and draws one order of jitter for a batch.
torchvision v2 makes one view after the other. ``difference`` is the largest between our kernels and our definition.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks import contestants
from benchmarks.common import arguments, summarise, table, write
from hvs_aug import CandidateViews, ImageBatch, ViewRecipe, ops
from hvs_aug.views.presets import preset_slots

HEIGHT, WIDTH, SIZE = 375, 500, 224
IMAGES = {"simclr": 256, "dino": 64}
REPEATED_UNTIL = 0.02  # seconds


def line_up(name: str, images: Tensor, size: int, *, compiles: bool) -> dict[str, Callable[[], object]]:
    """The contestants of a workload: images ``(B, 3, H, W)`` uint8 on the device."""
    slots = preset_slots(name, size)
    views = CandidateViews(slots)
    batch = ImageBatch.of(images)
    params = views.make_params(batch, torch.Generator().manual_seed(0))
    definition = CandidateViews(slots, renderer="definition")
    bare = CandidateViews([replace(slot, recipe=crop_alone(slot.recipe)) for slot in slots])
    drawn = bare.make_params(batch, torch.Generator().manual_seed(0))
    eager = [(contestants.kornia(slot.recipe, -1), slot.candidates) for slot in slots]
    one_by_one = [(contestants.torchvision_v2(slot.recipe), slot.candidates) for slot in slots]

    def kornia(pipelines: list[tuple[Callable[[Tensor], Tensor], int]]) -> list[Tensor]:
        return [pipeline(images.repeat(count, 1, 1, 1)) for pipeline, count in pipelines]

    runs: dict[str, Callable[[], object]] = {
        "ours": lambda: views(batch),
        "ours, drawn before": lambda: views.transform(batch, params),
        "ours, the crop alone": lambda: bare.transform(batch, drawn),
        "our definition": lambda: definition.transform(batch, params),
        "kornia": lambda: kornia(eager),
        "torchvision v2": lambda: [
            torch.stack([make(image) for image in images]) for make, count in one_by_one for _ in range(count)
        ],
    }
    if compiles:
        compiled = [(torch.compile(pipeline), count) for pipeline, count in eager]
        runs["kornia, compiled"] = lambda: kornia(compiled)
    return runs


def crop_alone(recipe: ViewRecipe) -> ViewRecipe:
    return ViewRecipe(recipe.size, [operation for operation in recipe.operations if isinstance(operation, ops.RandomResizedCrop)])


def seconds(run: Callable[[], object], times: int, device: str) -> float:
    """Of one of ``times`` repetitions, between two events on the device."""
    if device == "cpu":
        begin = time.perf_counter()
        for _ in range(times):
            run()
        return (time.perf_counter() - begin) / times
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    for _ in range(times):
        run()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3 / times


def timed(runs: Mapping[str, Callable[[], object]], rounds: int, device: str) -> dict[str, list[float]]:
    """The seconds of every round for each contestant, after two that do not count."""
    times = {}
    for name, run in runs.items():
        seconds(run, 1, device)
        times[name] = min(100, math.ceil(REPEATED_UNTIL / seconds(run, 1, device)))
    measured: dict[str, list[float]] = {name: [] for name in runs}
    order, shuffled = list(runs), random.Random(0)
    for _ in range(rounds):
        shuffled.shuffle(order)
        for name in order:
            measured[name].append(seconds(runs[name], times[name], device))
    return measured


def difference(name: str, images: Tensor, size: int) -> float:
    """The largest difference between the kernels and the definition, in units of the pixels before normalisation."""
    slots = preset_slots(name, size)
    views = CandidateViews(slots)
    few = ImageBatch.of(images[:8])
    params = views.make_params(few, torch.Generator().manual_seed(1))
    rendered, defined = views.transform(few, params), CandidateViews(slots, renderer="definition").transform(few, params)
    pairs = zip(rendered, defined, strict=True)
    deviations = [min(contestants.Numbers.of(slot.recipe).std or (1.0,)) for slot in slots]
    return max(float((one - other).abs().max()) * deviation for (one, other), deviation in zip(pairs, deviations, strict=True))


def main() -> None:
    parser: argparse.ArgumentParser = arguments("gpu", __doc__)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="cpu, with --quick: to see that it runs")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("benchmarks.gpu: no CUDA device, nothing is measured.")
        return
    if options.device == "cpu" and not options.quick:
        parser.error("--device cpu needs --quick: its times say nothing of a GPU")
    rows: list[dict[str, Any]] = []
    summary: dict[str, float] = {}
    size = 64 if options.quick else SIZE
    for name, count in IMAGES.items():
        count = 2 if options.quick else count
        generator = torch.Generator().manual_seed(0)
        coarse = torch.rand(count, 3, HEIGHT // 8, WIDTH // 8, generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, (HEIGHT, WIDTH), mode="bicubic").clamp(0, 1)
        images = (smooth * 255).round().to(torch.uint8).to(options.device)
        runs = line_up(name, images, size, compiles=name == "simclr" and options.device == "cuda")
        views = count * sum(slot.candidates for slot in preset_slots(name, size))
        measured = timed(runs, 2 if options.quick else 9, options.device)
        medians = {contestant: summarise(taken)["median"] for contestant, taken in measured.items()}
        for contestant, taken in measured.items():
            row = {"workload": name, "contestant": contestant, **summarise(taken), "views_per_s": views / medians[contestant]}
            rows.append(row | ({"difference": difference(name, images, size)} if contestant == "ours" else {}))
        summary[f"{name}_ms"] = 1e3 * medians["ours"]
        summary[f"{name}_drawn_before_ms"] = 1e3 * medians["ours, drawn before"]
        kornia = min(median for contestant, median in medians.items() if contestant.startswith("kornia"))
        summary[f"{name}_vs_kornia"] = kornia / medians["ours"]
        summary[f"{name}_vs_torchvision_v2"] = medians["torchvision v2"] / medians["ours"]
        print(table([row for row in rows if row["workload"] == name], ["workload", "contestant", "median", "iqr", "views_per_s"]))
    settings = {"images": IMAGES, "height": HEIGHT, "width": WIDTH, "size": size, "device": options.device, "quick": options.quick}
    write("gpu", settings, rows, summary, options.out)


if __name__ == "__main__":
    main()
