"""How many views a second each library makes, on the same photographs, from the same ranges, with the same cores.

    python -m benchmarks.augmentation [--quick] [--data DIR] [--out FILE]
    python -m benchmarks.augmentation --draw      # the README's chart, from the file that is there

Method: every round of a workload runs all contestants one after the other on the same photographs, the next ones of ``--data``;
reported are medians over the rounds, and ratios of medians. Libraries that work on one PIL image or array at a time run in as
many worker processes as there are cores (torchvision v2 also in one process, on torch's threads; the better of the two counts),
the others on that many threads. Ours includes collating and drawing. Kornia runs twice: on whole batches, as it is meant to be
used, of photographs brought to one size beforehand, untimed, since its crop takes no others; and on the views of one image at a
time. ``crop_error`` is the mean difference, in gray levels, of a contestant's downscaled photographs from torchvision's
antialiased resize in floating point: above 1, its views are another distribution, as are those of libraries that jitter every
image of a batch in one order. ``limit`` reads every source pixel of the crops once and writes every view once, on as many threads:
no renderer on this machine can be faster.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms.v2.functional import resize

from benchmarks import contestants
from benchmarks.common import RESULTS, arguments, interleave, machine, summarise, table, write
from hvs_aug import CandidateViews, ImageBatch, ViewRecipe, ViewSlot, collate_images
from hvs_aug.data.decode import decode_image
from hvs_aug.ops import RandomResizedCrop
from hvs_aug.views.presets import preset_slots

SIZES = {
    "cifar32": ("simclr-sthalles", 32),
    "simclr32": ("simclr-sthalles", 32),
    "simclr96": ("simclr-sthalles", 96),
    "simclr224": ("simclr", 224),
    "dino": ("dino", 224),
}
"""Presets and sizes. cifar32 starts from the photographs reduced to 32 x 32, as CIFAR's are; the others from whole photographs."""

ONE_ORDER = {"kornia", "dali"}
"""Libraries that apply brightness, contrast, saturation and hue to a whole batch in one order."""


def plan_of(workload: str) -> contestants.Plan:
    """SimCLR: 4 candidates; DINO: the 2 + 8 views that it trains on. Bilinear, which all of the libraries have."""
    name, size = SIZES[workload]
    if name == "dino":
        return [(bilinear(slot.recipe), slot.select) for slot in preset_slots(name, size)]
    return [(bilinear(slot.recipe), slot.candidates) for slot in preset_slots(name, size, 4)]


def bilinear(recipe: ViewRecipe) -> ViewRecipe:
    return recipe.replace(RandomResizedCrop, interpolation="bilinear")


def photographs(data: Path | None, count: int | None) -> list[bytes]:
    """The JPEG bytes of the photographs, of a folder or of those that the demo uses."""
    if data is not None:
        return [path.read_bytes() for path in sorted(data.glob("*.jpg"))[:count]]
    from hvs_aug.pretraining.photographs import photographs as packaged

    return [encode_jpeg(pixels) for pixels in list(packaged().values())[:count]]


def encode_jpeg(pixels: Tensor) -> bytes:
    """A uint8 image (3, H, W) as a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


class Rounds:
    """Hands out the photographs of one round after the other, the same to every contestant that counts along."""

    def __init__(self, images: Sequence[Any], per_round: int) -> None:
        self.images, self.per_round = images, per_round

    def __iter__(self) -> Iterator[list[Any]]:
        endless = itertools.cycle(self.images)
        while True:
            yield list(itertools.islice(endless, self.per_round))


def batches(images: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [images[start : start + size] for start in range(0, len(images), size)]


def run_batches(make: Callable[[Sequence[Any]], Any], rounds: Rounds, batch_size: int) -> Callable[[], None]:
    """A contestant that takes a list of images at a time."""
    turns = iter(rounds)

    def run() -> None:
        for batch in batches(next(turns), batch_size):
            make(batch)

    return run


def run_one_by_one(
    makes: Sequence[Callable[[Tensor], Any]], counts: Sequence[int], rounds: Rounds, batch_size: int
) -> Callable[[], None]:
    """A contestant that takes one image at a time, in this process; its views are stacked into batches as a loader would."""
    turns = iter(rounds)

    def run() -> None:
        for batch in batches(next(turns), batch_size):
            for make, count in zip(makes, counts, strict=True):
                for _ in range(count):
                    torch.stack([make(image) for image in batch])

    return run


class WorkerRun:
    """A contestant in worker processes, kept alive from one round to the next."""

    def __init__(
        self, images: Sequence[Tensor], make: Any, plan: contestants.Plan, rounds: Rounds, batch_size: int, workers: int
    ) -> None:
        self.order = RoundOrder(len(images), rounds.per_round)
        dataset = contestants.ViewsOfPhotographs(images, make, plan)
        self.loader = DataLoader(
            dataset, batch_size, sampler=self.order, num_workers=workers, persistent_workers=True, multiprocessing_context="fork"
        )

    def __call__(self) -> None:
        for _ in self.loader:
            pass
        self.order.round += 1


class RoundOrder(torch.utils.data.Sampler[int]):
    """The indices of one round's photographs."""

    def __init__(self, total: int, per_round: int) -> None:
        self.total, self.per_round, self.round = total, per_round, 0

    def __iter__(self) -> Iterator[int]:
        start = self.round * self.per_round
        return iter([index % self.total for index in range(start, start + self.per_round)])

    def __len__(self) -> int:
        return self.per_round


def line_up(
    workload: str, jpegs: list[bytes], decoded: list[Tensor], per_round: int, batch_size: int, threads: int
) -> dict[str, Any]:
    """All contestants of a workload whose library is installed."""
    plan = plan_of(workload)
    counts = [count for _, count in plan]
    if workload == "cifar32":
        decoded = [resize(image, [32, 32]) for image in decoded]
        jpegs = [encode_jpeg(image) for image in decoded]
    pixels, files = Rounds(decoded, per_round), Rounds(jpegs, per_round)
    runs: dict[str, Any] = {
        "ours": run_batches(contestants.ours(plan), pixels, batch_size),
        "ours_from_jpeg": run_batches(contestants.ours(plan), files, batch_size),
        "limit": run_batches(limit(plan, threads), pixels, batch_size),
    }
    for name, make in contestants.PER_IMAGE.items():
        if name == "lightly" and workload == "dino":
            continue  # its views are the PIL contestant's
        try:
            makes = [make(recipe) for recipe, _ in plan]
        except ImportError as error:
            print(f"{name} is left out: {error}")
            continue
        if name == "torchvision_v2":
            runs["torchvision_v2_threads"] = run_one_by_one(makes, counts, pixels, batch_size)
        runs[name] = WorkerRun(decoded, make, plan, pixels, batch_size, threads)
    for name, copies in contestants.COPIES.items():
        try:
            made = [copies(recipe, count) for recipe, count in plan]
        except ImportError as error:
            print(f"{name} is left out: {error}")
            continue
        runs[name] = run_one_by_one(made, [1] * len(made), pixels, batch_size)
        if name == "kornia":
            uniform = [resize(image, list(decoded[0].shape[-2:])) for image in decoded]
            runs["kornia_batch"] = run_batches(contestants.kornia_batch(plan), Rounds(uniform, per_round), batch_size)
    try:
        runs["dali_from_jpeg"] = run_batches(contestants.dali(plan, batch_size, threads), files, batch_size)
    except ImportError as error:
        print(f"dali is left out: {error}")
    return runs


def crop_errors(decoded: list[Tensor], jpegs: list[bytes], size: int = 96) -> dict[str, float]:
    """Mean difference in gray levels of each library's downscaled photographs from torchvision's in floating point."""
    from torchvision.transforms.v2 import functional as F

    recipe, _ = plan_of("simclr224")[0]
    errors: dict[str, list[float]] = {}
    for image, jpeg in zip(decoded, jpegs, strict=True):
        whole = contestants.identity(replace(recipe, size=size), image.shape[2] / image.shape[1])
        expected = F.resize(image.to(torch.float32) / 255, [size, size], antialias=True)
        made = {"ours": contestants.ours([(whole, 1)])([image])[0][0, 0]}
        sources: dict[str, Callable[[], Tensor]] = {}
        for name, make in contestants.PER_IMAGE.items():
            if name != "lightly":  # its view transform has a fixed ratio range; its crop is torchvision's
                sources[name] = lambda make=make, whole=whole, image=image: make(whole)(image)
        for name, copies in contestants.COPIES.items():
            sources[name] = lambda copies=copies, whole=whole, image=image: copies(whole, 1)(image)[0]
        sources["dali"] = lambda whole=whole, jpeg=jpeg: contestants.dali([(whole, 1)], 1, 1)([jpeg])[0][0]
        for name, source in sources.items():
            try:
                made[name] = source()
            except ImportError:
                continue
        for name, view in made.items():
            errors.setdefault(name, []).append(float((view - expected).abs().mean()) * 255)
    return {name: sum(values) / len(values) for name, values in errors.items()}


def shares_of_operations(decoded: list[Tensor]) -> list[dict[str, Any]]:
    """What each operation of the SimCLR recipe costs, by leaving it out, and what rendering the winners alone saves."""
    (slot,) = preset_slots("simclr", 224, 4)
    batch = collate_images(decoded)
    full = CandidateViews(slot)
    params = full.make_params(batch, torch.Generator().manual_seed(0))
    contestants_: dict[str, Callable[[], object]] = {"all": lambda: full.transform(batch, params)}
    for name, operation in slot.recipe.steps:
        without = CandidateViews(replace(slot, recipe=slot.recipe.without(type(operation))))
        contestants_[f"without {name}"] = lambda without=without: without.transform(batch, params)
    winners = params.select(torch.arange(2)[:, None].expand(2, len(batch)))
    contestants_["winners at 224, candidates at 112"] = lambda: (full.transform(batch, params, 0.5), full.transform(batch, winners))
    contestants_["drawing"] = lambda: full.make_params(batch)
    seconds = interleave(contestants_, repeats=9, warmup=2)
    whole = summarise(seconds["all"])["median"]
    return [
        {"workload": "simclr224 share", "contestant": name, **summarise(times), "of_all": summarise(times)["median"] / whole}
        for name, times in seconds.items()
    ]


def decoding(jpegs: list[bytes]) -> list[dict[str, Any]]:
    """Decoding alone: torchvision's decoder behind collate_images against PIL, and the bytes that cross to the device."""

    def pil() -> None:
        for jpeg in jpegs:
            Image.open(io.BytesIO(jpeg)).convert("RGB").load()

    def ours() -> None:
        for jpeg in jpegs:
            decode_image(jpeg, max_side=1024)  # as collate_images does

    batch = collate_images(list(jpegs))
    seconds = interleave(
        {"decode ours": ours, "decode PIL": pil, "collate ours": lambda: collate_images(list(jpegs))}, repeats=7, warmup=1
    )
    rows = [
        {"workload": "decode", "contestant": name, **summarise(times), "images_per_s": len(jpegs) / summarise(times)["median"]}
        for name, times in seconds.items()
    ]
    rows.append(
        {
            "workload": "bytes to the device per image",
            "contestant": "ours",
            "bytes": batch.pixels.numel() * batch.pixels.element_size() / len(batch),
            "bytes_published": 4 * 3 * 224 * 224 * 4,
        }
    )
    return rows


@numba.njit(nogil=True)
def _read_and_write(values: Any, offsets: Any, rows: Any, channels: Any, boxes: Any, out: Any, start: Any, stop: Any) -> int:
    """Read each byte of the boxes and write each value of the views; the sum keeps the reads from being left out."""
    total = 0
    for view in range(start, stop):
        image = view % len(offsets)
        top, left, height, width = boxes[view]
        for y in range(top, top + height):
            begin = offsets[image] + y * rows[image] + left * channels
            line = values[begin : begin + width * channels]
            for x in range(line.size):
                total += line[x]
        target = out[view]
        for i in range(target.size):
            target[i] = np.float32(0.5)
    return total


def limit(plan: contestants.Plan, threads: int) -> Callable[[Sequence[Tensor]], None]:
    """The least that a renderer does, for the boxes that ours draws: every source pixel read once, every view written once."""
    slots = [ViewSlot(recipe, candidates=count, select=1, name=f"view-{i}") for i, (recipe, count) in enumerate(plan)]
    views = CandidateViews(slots)
    pool = ThreadPoolExecutor(threads)
    outs: dict[tuple[int, int], Any] = {}  # as ours, whose views' memory serves the next ones

    def run(images: Sequence[Tensor]) -> None:
        batch = ImageBatch.pack(list(images))
        params = views.make_params(batch)
        for index, (recipe, _) in enumerate(plan):
            boxes = params.of_slot(index).boxes.flatten(0, 1).numpy()
            values = batch.channels * recipe.shape[0] * recipe.shape[1]
            out = outs.setdefault((index, len(boxes)), np.empty((len(boxes), values), np.float32))
            layout = batch.layout()
            flat = layout.values.numpy(), layout.offsets.numpy(), layout.rows.numpy(), batch.channels, boxes, out
            edges = np.linspace(0, len(boxes), threads + 1).astype(int).tolist()
            for task in [pool.submit(_read_and_write, *flat, *ends) for ends in itertools.pairwise(edges)]:
                task.result()

    return run


def main() -> None:
    parser: argparse.ArgumentParser = arguments("augmentation", __doc__)
    parser.add_argument("--draw", action="store_true", help="draw the chart of the measured rows, and measure nothing")
    parser.add_argument("--workloads", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[16, 64])
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    if options.draw:
        draw(options.out or RESULTS / "augmentation.json")
        return
    threads = os.cpu_count() or 1
    torch.set_num_threads(threads)
    jpegs = photographs(options.data, 8 if options.quick else None)
    decoded = [decode_image(jpeg)[0] for jpeg in jpegs]
    per_round = len(jpegs) if options.quick else 64
    batch_sizes = [8] if options.quick else options.batch_sizes
    repeats = 2 if options.quick else options.repeats
    rows: list[dict[str, Any]] = []
    rates: dict[tuple[str, int, str], float] = {}
    errors = crop_errors(decoded[:8], jpegs[:8])
    for workload, batch_size in itertools.product(options.workloads, batch_sizes):
        started = time.perf_counter()
        # A batch of CIFAR-sized images takes milliseconds: several make a round, so that more is measured than the first touch.
        images = 4 * per_round if workload == "cifar32" else per_round
        views = images * sum(count for _, count in plan_of(workload))
        runs = line_up(workload, jpegs, decoded, images, batch_size, threads)
        for name, times in interleave(runs, repeats=repeats, warmup=1).items():
            rates[workload, batch_size, name] = views / summarise(times)["median"]
            library = name.removesuffix("_from_jpeg").removesuffix("_threads").removesuffix("_batch")
            rows.append(
                {
                    "workload": workload,
                    "batch": batch_size,
                    "contestant": name,
                    **summarise(times),
                    "views_per_s": rates[workload, batch_size, name],
                    "crop_error": errors.get(library),
                    "one_order_per_batch": library in ONE_ORDER,
                }
            )
        del runs
        print(table([row for row in rows if row["workload"] == workload and row["batch"] == batch_size], COLUMNS))
        print(f"({time.perf_counter() - started:.0f} s)")
    decodings = decoding(jpegs)
    rows += shares_of_operations(decoded[:16]) + decodings
    summary = ratios(rates, max(batch_sizes)) | of_decoding(decodings, rates, max(batch_sizes))
    print(table([{"ratio": key, "value": value} for key, value in summary.items()], ["ratio", "value"]))
    settings = {"photographs": len(jpegs), "per_round": per_round, "batch_sizes": batch_sizes, "threads": threads}
    write("augmentation", settings, rows, summary, options.out)


TITLES = {"simclr224": "SimCLR, 224 pixels", "dino": "DINO, 2 x 224 and 8 x 96 pixels", "cifar32": "SimCLR, CIFAR-sized images"}
NAMES = {
    "limit": "read and write alone",
    "ours": "hvs_aug",
    "ours_from_jpeg": "hvs_aug, from JPEG",
    "dali_from_jpeg": "DALI, from JPEG",
    "torchvision_pil": "torchvision, PIL",
    "torchvision_v2": "torchvision v2",
    "albumentations": "albumentations",
    "lightly": "Lightly",
    "kornia_batch": "Kornia, whole batches",
    "kornia": "Kornia, image by image",
    "torchaug": "torchaug",
}
"""What the chart calls workloads and contestants."""


def fastest(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, str], float]:
    """Views a second at the largest batch, by workload and contestant; of torchvision v2's two runs that of the faster."""
    timed = [row for row in rows if "views_per_s" in row]
    found: dict[tuple[str, str], float] = {}
    for row in timed:
        if row["batch"] == max(each["batch"] for each in timed):
            key = row["workload"], row["contestant"].removesuffix("_threads")
            found[key] = max(found.get(key, 0.0), row["views_per_s"])
    return found


def draw(path: Path) -> None:
    """Draw views a second of the largest batch, as ``path`` with the suffix .png."""
    from hvs_aug.analysis.plots import bars

    speeds = fastest(json.loads(path.read_text())["rows"])
    rows = [
        {"workload": title, "contestant": words, "views a second": speeds[workload, name]}
        for workload, title in TITLES.items()
        for name, words in NAMES.items()
        if (workload, name) in speeds
    ]
    bars({"rows": rows}, value="views a second").savefig(path.with_suffix(".png"))


COLUMNS = ["workload", "batch", "contestant", "views_per_s", "median", "iqr", "crop_error", "one_order_per_batch"]


def ratios(rates: dict[tuple[str, int, str], float], batch_size: int) -> dict[str, float]:
    """The figures that the README quotes: at the largest batch, ours against each."""

    def rate(workload: str, name: str) -> float | None:
        found = [rates[key] for key in ((workload, batch_size, name), (workload, batch_size, f"{name}_threads")) if key in rates]
        return max(found) if found else None

    wanted = {
        "simclr224_vs_kornia": ("simclr224", "ours", "kornia_batch"),
        "simclr224_vs_kornia_image_by_image": ("simclr224", "ours", "kornia"),
        "simclr224_vs_torchvision_v2": ("simclr224", "ours", "torchvision_v2"),
        "simclr224_vs_torchvision_pil": ("simclr224", "ours", "torchvision_pil"),
        "simclr224_vs_dali_cpu": ("simclr224", "ours_from_jpeg", "dali_from_jpeg"),
        "dino_vs_torchvision_pil": ("dino", "ours", "torchvision_pil"),
        "cifar32_vs_kornia": ("cifar32", "ours", "kornia_batch"),
        "cifar32_vs_kornia_image_by_image": ("cifar32", "ours", "kornia"),
        "cifar32_vs_dali_cpu": ("cifar32", "ours", "dali_from_jpeg"),
        "cifar32_vs_dali_cpu_from_jpeg": ("cifar32", "ours_from_jpeg", "dali_from_jpeg"),
        "simclr32_vs_albumentations": ("simclr32", "ours", "albumentations"),
        "simclr224_vs_limit": ("simclr224", "ours", "limit"),
        "cifar32_vs_limit": ("cifar32", "ours", "limit"),
    }
    summary = {}
    for key, (workload, ours, other) in wanted.items():
        ours_rate, other_rate = rate(workload, ours), rate(workload, other)
        if ours_rate is not None and other_rate is not None:
            summary[key] = ours_rate / other_rate
    return summary | {"threads": float(machine()["threads"])}


def of_decoding(rows: Sequence[dict[str, Any]], rates: dict[tuple[str, int, str], float], batch_size: int) -> dict[str, float]:
    """How much of a run from files is decoding, how fast images are collated against decoded, and what crosses to a device."""
    per_second = {row["contestant"]: row["images_per_s"] for row in rows if "images_per_s" in row}
    summary = {
        "collated_vs_decoded": per_second["collate ours"] / per_second["decode ours"],
        "bytes_to_device_per_image": rows[-1]["bytes"],
    }
    from_files = rates.get(("simclr224", batch_size, "ours_from_jpeg"))
    from_pixels = rates.get(("simclr224", batch_size, "ours"))
    if from_files is not None and from_pixels is not None:
        summary["simclr224_decoding_share"] = 1 - from_files / from_pixels
    return summary


if __name__ == "__main__":
    main()
