"""What the choice of views is worth: the accuracy of the features at equal epochs, equal arithmetic and equal time.

    python -m benchmarks.quality --data TRAIN --test TEST [--unseen] [--only simclr cheap] [--budget-minutes 60] [--list] [--quick]
    python -m benchmarks.quality --data TRAIN --test TEST --images 50000 --encoder resnet18 --epochs 100 --device cuda

Method: runs of one small network that differ in the choice of views alone (`hvs_aug.pretraining.study`), paired by their
seeds. A run is a row, written as it ends and skipped when it is there, so that the file grows over days. The settings of each
method were chosen for *random views*, by the mean of kNN and linear probe on a fifth of the training images (rows of the kind
"tuning"); all arms get them as they are. Arithmetic is counted in one step of each arm; its time is measured apart, in a quiet
interleaved run (``--times``).

At equal cost an arm that costs more trains for fewer epochs. ``BUDGETS`` gives random views as many epochs as 20 epochs of
``cheap`` cost, rounded up by arithmetic, and ``all`` as many as those cost, rounded to the nearest. kNN votes with k = 20;
``transfer`` is kNN on tiles of the demo's photographs, which no run has seen. Intervals are Student's t over paired seeds, 95 %.

With ``--data`` alone the images are tiles of the photographs in that folder, and without it the demo's (quality_tiles.json).
``--unseen`` trains on half of the classes and asks about the others (quality_unseen.json).
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import RESULTS, arguments, interleave, require, resumed, summarise, table, write
from benchmarks.joint_crop import JointCropViews
from benchmarks.quality_rows import Key, Runs
from hvs_aug import ImageBatch
from hvs_aug.analysis.paired import Difference
from hvs_aug.data.raw_images import RawImages
from hvs_aug.ops import GaussianBlur, RandomSolarize
from hvs_aug.pretraining.build import METHODS
from hvs_aug.pretraining.evaluation import features, knn_accuracy
from hvs_aug.pretraining.methods import Method
from hvs_aug.pretraining.photographs import photograph_tiles
from hvs_aug.pretraining.study import ARMS as LIBRARY_ARMS
from hvs_aug.pretraining.study import Arm, LabelledImages, Study, arithmetic, evaluate, prepared, spread_of, train
from hvs_aug.views.recipe import ViewSlot

ARMS = LIBRARY_ARMS | {"jointcrop": Arm("random", candidates=0, make=JointCropViews)}
EPOCHS, TUNING_EPOCHS = 20, 10
LOCAL_VIEWS = 2


def small_crops(slot: ViewSlot) -> ViewSlot:
    """DINO's multi-crop for small images: neither blur nor solarisation, as SimSiam's for CIFAR, and few local views, for time."""
    plain = [step for step in slot.recipe.operations if not isinstance(step, GaussianBlur | RandomSolarize)]
    slot = replace(slot, recipe=replace(slot.recipe, operations=plain))
    if slot.role != "local":
        return slot
    return replace(slot, select=LOCAL_VIEWS, candidates=LOCAL_VIEWS * slot.candidates // slot.select)


def distilled(method: str, encoder: str, learning_rate: float, momentum: float = 0.99) -> Study:
    """DINO or iBOT at this scale: a small head, since every local view and patch goes through it."""
    head = {"prototypes": 256, "hidden": 128, "bottleneck": 64}
    options = head if momentum == 0.99 else head | {"momentum": momentum}
    return Study(method, encoder, options, batch_size=64, learning_rate=learning_rate, recast=small_crops)


STUDIES = {
    "simclr": Study("simclr"),
    "simsiam": Study("simsiam", batch_size=64, learning_rate=3e-3),
    "simsiam-256": Study("simsiam"),
    "byol": Study("byol", batch_size=64, learning_rate=3e-3),
    "dino": distilled("dino", "resnet8-strided", 3e-3),
    "ibot": distilled("ibot", "vit-micro/8", 1e-3),
}
"""The settings of each method: the best of its tuning. SimSiam at 256 is what its tuning rejects: who collapses there?"""

TUNING: dict[str, list[Study]] = {
    "simclr": [
        *(Study("simclr", options={"temperature": temperature}) for temperature in (0.1, 0.2, 0.5)),
        *(Study("simclr", learning_rate=rate) for rate in (1e-3, 6e-3)),
    ],
    "simsiam": [
        *(Study("simsiam", learning_rate=rate) for rate in (3e-4, 1e-3, 3e-3)),
        *(Study("simsiam", batch_size=64, learning_rate=rate) for rate in (1e-3, 3e-3)),
    ],
    "byol": [
        *(Study("byol", learning_rate=rate) for rate in (1e-3, 3e-3)),
        Study("byol", batch_size=64, learning_rate=3e-3),
    ],
    "dino": [distilled("dino", "resnet8-strided", rate) for rate in (1e-3, 3e-3)],
    "ibot": [distilled("ibot", "vit-micro/8", rate) for rate in (1e-3, 3e-3)],
}
BUDGETS = {"simclr": (25, 12), "simsiam": (26, 13), "byol": (28, 14), "dino": (26, 13), "ibot": (26, 13)}
"""Epochs of random views, and of all views, that cost what 20 epochs of ``cheap`` cost."""


@dataclass(frozen=True)
class Run:
    """One row to be: which way of choosing, for how many epochs, from which seed."""

    method: str
    arm: str
    epochs: int
    seed: int

    def __str__(self) -> str:
        return f"{self.method} {self.arm} {self.epochs} epochs seed {self.seed}"


def plan() -> Iterator[Run]:
    """All runs, the most telling ones first."""
    for seed in range(5):
        for method in BUDGETS if seed < 3 else ("simclr",):
            random, every = BUDGETS[method]
            yield from (Run(method, arm, EPOCHS, seed) for arm in ("random", "cheap"))
            yield Run(method, "random", random, seed)
            yield Run(method, "all", every, seed)
        if seed < 3:
            yield from (Run("simclr", arm, EPOCHS, seed) for arm in ("warmup", "half", "full", "all"))
    for seed in range(2):
        yield from (Run("simsiam", arm, EPOCHS, seed) for arm in ("full", "warmup", "mixture", "outliers", "random-scored"))
        for arm in (
            "min_iou",
            "jointcrop",
            "random-scored",
            "mixture",
            "softmax",
            "quarter",
            "easiest",
            "semi_hard",
            "colours",
        ):
            yield Run("simclr", arm, EPOCHS, seed)
        yield from (Run("simclr", arm, EPOCHS, seed) for arm in ("half-3", "half-8", "half-16", "outliers"))
        yield from (Run("simclr", arm, epochs, seed) for epochs in (5, 10, 40, 80) for arm in ("random", "cheap"))
        yield from (Run("simsiam-256", arm, EPOCHS, seed) for arm in ("random", "half", "full", "warmup", "mixture", "outliers"))
        yield Run("dino", "full", EPOCHS, seed)
    yield from (Run("simclr", arm, EPOCHS, seed) for seed in (3, 4) for arm in ("warmup", "half", "full", "all"))


def images_of(path: Path | None, test: Path | None, count: int) -> LabelledImages:
    """Training images and labels, then those to test on: some of two archives or folders, or tiles of photographs."""
    if path is None or test is None:
        require(path is None or path.is_dir(), "quality(--test)", "images to test on, labelled by the same folders", "none")
        return LabelledImages.of_tiles(path)
    parts: list[Any] = []
    for place, most in ((path, count), (test, max(1, count // 5))):
        dataset = RawImages(place)
        chosen = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))[:most].tolist()
        samples = [dataset[index] for index in chosen]
        parts += [ImageBatch.pack([image for image, *_ in samples]), torch.tensor([label for _, label, *_ in samples])]
    return LabelledImages(*parts)


def halves(images: LabelledImages) -> tuple[LabelledImages, LabelledImages]:
    """The images of the first half of the classes, and those of the others."""
    middle = (int(images.train_labels.max()) + 1) // 2
    parts = []
    for is_first in (True, False):
        kept, asked = ((labels < middle) == is_first for labels in (images.train_labels, images.test_labels))
        parts.append(LabelledImages(images.train[kept], images.train_labels[kept], images.test[asked], images.test_labels[asked]))
    return parts[0], parts[1]


def row_of(run: Run, study: Study, images: LabelledImages, judged: LabelledImages, kind: str = "run") -> dict[str, Any]:
    """Train one run on images, and evaluate it on others."""
    started = time.perf_counter()
    steps = run.epochs * (len(images.train) // study.batch_size)
    method, curve = train(study, ARMS[run.arm], images.train, steps, run.seed)
    found = scores(method, study, judged)
    return {
        "kind": kind,
        "method": run.method,
        "arm": run.arm,
        "epochs": run.epochs,
        "seed": run.seed,
        "settings": settings_of(study),
        **found,
        "loss": statistics.fmean(line["loss"] for line in curve[-4:]),
        "feature_std": curve[-1]["feature_std"],
        "feature_rank": curve[-1]["feature_rank"],
        "curve": curve,
        "seconds": round(time.perf_counter() - started, 1),
    }


def scores(method: Method, study: Study, images: LabelledImages) -> dict[str, float]:
    """What the features know of the images, and of the demo's tiles."""
    recipe = study.slots()[0].recipe
    tiles = photograph_tiles()
    known, asked = (features(method, part, recipe) for part in (tiles.train, tiles.test))
    transfer = knn_accuracy(known, tiles.train_labels, asked, tiles.test_labels)
    return evaluate(method, study, images) | {"transfer": transfer}


def settings_of(study: Study) -> dict[str, Any]:
    """What a method was trained by, its own values in the place of ``None``."""
    kind = METHODS[study.method]
    rate = kind.learning_rate if study.learning_rate is None else study.learning_rate
    found = {"encoder": study.encoder, "learning_rate": rate, **study.options}
    if study.recast:
        found["views"] = study.recast.__name__
    return found if study.batch_size == 256 else found | {"batch_size": study.batch_size}


def untrained_row(method: str, study: Study, images: LabelledImages) -> dict[str, Any]:
    """What the first weights know, without a step."""
    run = prepared(study, ARMS["random"], images.train, 1, seed=0)
    known = features(run.method, images.train[:512], run.views.slots[0].recipe)
    row = {"kind": "untrained", "method": method, "arm": "untrained", "epochs": 0, "seed": 0, "settings": settings_of(study)}
    return row | scores(run.method, study, images) | spread_of(known)


def cost_rows(method: str, study: Study, images: LabelledImages) -> list[dict[str, Any]]:
    """The arithmetic of a step of every arm that the plan has for a method, over that of a step on random views."""
    arms = dict.fromkeys(["random", *(run.arm for run in plan() if run.method == method)])
    counted = {arm: arithmetic(study, ARMS[arm], images.train) for arm in arms if not ARMS[arm].warmup}
    key = {"kind": "arithmetic", "method": method}
    return [key | {"arm": arm, "flops": flops, "ratio": flops / counted["random"]} for arm, flops in counted.items()]


def time_rows(method: str, study: Study, images: LabelledImages, repeats: int) -> list[dict[str, Any]]:
    """The seconds of a step of the arms whose time is claimed, interleaved."""
    batch = images.train[: study.batch_size]
    contestants = {}
    for arm in ("random", "cheap", "half", "full", "all"):
        run = prepared(study, ARMS[arm], images.train, 10 * repeats, 0)
        contestants[arm] = lambda run=run: run.train_step(batch)
    seconds = {arm: summarise(values) for arm, values in interleave(contestants, repeats, warmup=3).items()}
    base = seconds["random"]["median"]
    return [
        {"kind": "time", "method": method, "arm": arm, **found, "ratio": found["median"] / base} for arm, found in seconds.items()
    ]


def scaled(epochs: int, length: int) -> int:
    """The epochs of a run where one of 20 has ``length``, rounded up."""
    return math.ceil(epochs * length / EPOCHS)


def summary_of(rows: Sequence[dict[str, Any]], length: int = EPOCHS) -> dict[str, float]:
    """The claims: paired differences of kNN with their intervals, for each comparison that has two seeds or more.

    Where a run has ``length`` epochs in the place of 20, all the others have so many times more.
    """
    found: dict[str, float] = {}

    runs = Runs(rows)
    longer = partial(scaled, length=length)

    def compare(name: str, ours: Key, theirs: Key, measure: str = "knn") -> None:
        state(name, runs.difference(ours, theirs, measure))

    def state(name: str, difference: Difference | None) -> None:
        if difference is None or difference.pairs < 2:
            return
        found[name] = round(difference.mean, 3)
        found[f"{name}_low"], found[f"{name}_high"] = round(difference.low, 3), round(difference.high, 3)
        found[f"{name}_seeds"] = difference.pairs

    for method, budgets in BUDGETS.items():
        random, every = map(longer, budgets)
        cheap = (method, "cheap", length)
        for name, key in (("random", (method, "random", length)), ("hard", cheap)):
            if scored := runs.values(key):
                found[f"{method}_{name}_knn"] = round(statistics.fmean(scored.values()), 3)
        compare(f"{method}_gain_equal_epochs", cheap, (method, "random", length))
        compare(f"{method}_gain_equal_arithmetic", cheap, (method, "random", random))
        compare(f"{method}_gain_over_all_views_equal_arithmetic", cheap, (method, "all", every))
        for measure in ("knn_augmented", "probe", "transfer"):
            compare(f"{method}_{measure}_gain_equal_epochs", cheap, (method, "random", length), measure)
            compare(f"{method}_{measure}_gain_equal_arithmetic", cheap, (method, "random", random), measure)
        times = {row["arm"]: row["ratio"] for row in rows if row["kind"] == "time" and row["method"] == method}
        if not times:
            continue
        found[f"{method}_cheap_time_ratio"] = round(times["cheap"], 3)
        # The budgets are whole epochs by arithmetic; they answer for time where cheap took no longer and all views no less.
        if times["cheap"] * length <= random:
            compare(f"{method}_gain_equal_time", cheap, (method, "random", random))
        if times["cheap"] * length <= times["all"] * every * 1.02:
            compare(f"{method}_gain_over_all_views_equal_time", cheap, (method, "all", every))
    hard = {method: (method, "cheap", length) for method in BUDGETS}
    rivals = {
        "gain_equal_epochs": {method: (method, "random", length) for method in BUDGETS},
        "gain_equal_arithmetic": {method: (method, "random", longer(BUDGETS[method][0])) for method in BUDGETS},
        "gain_over_all_views_equal_arithmetic": {method: (method, "all", longer(BUDGETS[method][1])) for method in BUDGETS},
    }
    for name, theirs in rivals.items():
        for suffix, measure in (("", "knn"), ("_knn_augmented", "knn_augmented"), ("_probe", "probe")):
            state(f"pooled{suffix}_{name}", runs.pooled([(hard[method], theirs[method]) for method in BUDGETS], measure))
    compare("simclr_cheap_gain_vs_full", ("simclr", "cheap", length), ("simclr", "full", length))
    compare("simclr_cheap_gain_vs_half", ("simclr", "cheap", length), ("simclr", "half", length))
    for method, arm in dict.fromkeys((run.method, run.arm) for run in plan()):
        if arm not in ("random", "cheap"):
            name = f"{method}_{arm}_gain_equal_epochs".replace("-", "_")
            compare(name, (method, arm, length), (method, "random", length))
    for epochs in (5, 10, 40, 80):
        compare(f"simclr_gain_at_{epochs}_epochs", ("simclr", "cheap", longer(epochs)), ("simclr", "random", longer(epochs)))
    return found


def main(words: Sequence[str] | None = None) -> None:
    parser = arguments("quality", __doc__)
    parser.add_argument("--test", type=Path, help="images to test on, if --data is given")
    parser.add_argument("--images", type=int, default=10_000, help="how many of --data; a fifth as many of --test")
    parser.add_argument("--unseen", action="store_true", help="train on half of the classes, evaluate on the others")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="runs whose names hold all of these words: simclr cheap 'seed 0'")
    parser.add_argument("--encoder", help="another network, in a file of its own: resnet18")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of the runs of 20 epochs; all others in proportion")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--budget-minutes", type=float, help="begin no run after so many minutes")
    parser.add_argument("--list", action="store_true", help="print what is there and what is to come, and stop")
    parser.add_argument(
        "--tune", nargs="+", metavar="METHOD", choices=sorted(TUNING), default=[], help="try settings on random views"
    )
    parser.add_argument(
        "--times", nargs="+", metavar="METHOD", choices=sorted(STUDIES), default=[], help="time the arms; quiet machine"
    )
    parser.add_argument("--repeats", type=int, default=15, help="rounds of --times")
    parser.add_argument("--draw", action="store_true", help="draw the chart of the finished runs, and run nothing")
    options = parser.parse_args(words)
    if options.draw:
        from benchmarks.quality_tables import draw

        path = options.out or RESULTS / "quality.json"
        draw(json.loads(path.read_text()), path.with_suffix(".png"))
        return
    studies = {method: replace(study, device=options.device) for method, study in STUDIES.items()}
    if options.encoder is not None:
        studies = {method: replace(study, encoder=options.encoder) for method, study in studies.items()}
    name = "quality_tiles" if options.test is None else "quality_unseen" if options.unseen else "quality"
    name += f"_{options.encoder}" if options.encoder else ""
    name += f"_{options.epochs}" if options.epochs != EPOCHS else ""
    path = options.out or RESULTS / f"{name}.json"
    images = images_of(options.data, options.test, options.images)
    if options.quick:
        images = replace(images, train=images.train[:512], train_labels=images.train_labels[:512])
    judged = images
    if options.unseen:
        images, judged = halves(images)
    settings = {"size": 32, "batch": 256, "images": len(images.train), "test": len(judged.test)}
    settings["data"] = "packaged photographs" if options.data is None else options.data.name
    if options.unseen:
        settings["classes"] = "trained on half of them, evaluated on the others"
    rows = resumed(path, settings, timed=False)
    have = {
        json.dumps([row["kind"], *(row.get(key) for key in ("method", "arm", "epochs", "seed")), row.get("settings")])
        for row in rows
    }
    deadline = time.monotonic() + 60 * (options.budget_minutes or 1e9)

    def is_new(kind: str, run: Run, study: Study) -> bool:
        return json.dumps([kind, run.method, run.arm, run.epochs, run.seed, settings_of(study)]) not in have

    def add(*found: dict[str, Any]) -> None:
        rows.extend(found)
        shown = ("kind", "method", "arm", "epochs", "seed", "knn", "knn_augmented", "probe", "feature_std", "ratio", "seconds")
        print(table(found, [name for name in shown if any(name in row for row in found)]), flush=True)
        write(name, settings, rows, summary_of(rows, options.epochs), path)

    if options.times:
        rows = [row for row in rows if not (row["kind"] == "time" and row["method"] in options.times)]
        for method in options.times:
            add(*time_rows(method, studies[method], images, options.repeats))
        return
    for method in options.tune:
        held = images.validation()
        for study in TUNING[method]:
            run = Run(method, "random", TUNING_EPOCHS, 0)
            if is_new("tuning", run, study):
                add(row_of(run, study, held, held, "tuning"))
    if options.tune:
        return
    runs = [replace(run, epochs=scaled(run.epochs, options.epochs)) for run in plan()]
    wanted = [run for run in runs if all(word in str(run) for word in options.only or ())]
    if options.quick:
        wanted = [replace(run, epochs=1) for run in wanted[:2]]
    if options.list:
        print("\n".join(f"{'to come' if is_new('run', run, studies[run.method]) else 'done':8} {run}" for run in wanted))
        return
    for run in wanted:
        if time.monotonic() > deadline:
            break
        study = studies[run.method]
        if not any(row["kind"] == "untrained" and row["method"] == run.method for row in rows):
            add(untrained_row(run.method, study, judged), *cost_rows(run.method, study, images))
        if is_new("run", run, study):
            add(row_of(run, study, images, judged))
    print(
        table([{"summary": key, "value": value} for key, value in summary_of(rows, options.epochs).items()], ["summary", "value"])
    )


if __name__ == "__main__":
    main()
