"""What hard views cost: the time of a training step, and the hardness that each cheap way to choose keeps.

    python -m benchmarks.forward_overhead [--quick] [--data DIR] [--size 128] [--methods simsiam dino] [--large]
    python -m benchmarks.forward_overhead --resume                       # go on where a run stopped: finished workloads are kept
    python -m benchmarks.forward_overhead --judge                        # keep the times, and judge the choices anew
    python -m benchmarks.forward_overhead --repo dino --checkout DIR     # a checkout of yours, through its example

Method: for each workload all contestants take training steps in turn, in one process, every one with a network of its own, on
the same raw photographs, which lie on the device; the order is shuffled anew for each round. Reported are medians and their ratio
to training on random views. ``bound`` is the ratio of the floating-point operations that torch.utils.flop_counter counts.
Hardness is judged apart, at several points of a real run, on photographs that are not trained on: 1 is the hardest selection by
the losses at full size, 0 the mean of random ones. ``published`` is our own straightforward implementation in the style of the
published code (benchmarks/published.py) on the same rendered candidates, and once with its second, pasted forward.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks import published
from benchmarks.common import RESULTS, ROOT, arguments, require, resumed, table, write
from hvs_aug.analysis.hardness import hardness
from hvs_aug.analysis.overhead import recommend
from hvs_aug.analysis.step_cost import costs
from hvs_aug.analysis.workload import FULL, OPTIONS, RANDOM, Factory, Workload, settings
from hvs_aug.data.raw_images import RawImages
from hvs_aug.pretraining.build import METHODS, build_method
from hvs_aug.pretraining.methods import Method
from hvs_aug.pretraining.networks import build_encoder
from hvs_aug.pretraining.photographs import photographs
from hvs_aug.selection.sampler import HardViews
from hvs_aug.views.candidates import CandidateViews
from hvs_aug.views.params import ViewParams

SMALL = {"simsiam": "resnet18", "simclr": "resnet18", "dino": "vit-tiny", "ibot": "vit-tiny"}
LARGE = {"simsiam": "resnet50", "simclr": "resnet50", "dino": "vit-small", "ibot": "vit-small"}
PROTOTYPES = {"dino": 65536, "ibot": 8192}
"""The repos' defaults: ``--out_dim`` of main_dino.py and of main_ibot.py."""
CANDIDATES = {"simsiam": (4, 8), "simclr": (4, 8), "dino": (2, 4), "ibot": (2, 4)}
"""Of the full table, then of a short one: N candidates of two views, or N for each view of a multi-crop that is kept."""

PUBLISHED, PASTED = "published", "published, pasted twice"
COLUMNS = [
    "workload",
    "setting",
    "ratio",
    "bound",
    "over_bound",
    "captured",
    "agreement",
    "views",
    "scoring",
    "search",
    "render",
    "training",
    "peak_mib",
]


class PublishedPair:
    """Two-view selection in the published style: every pair's loss after the other, a running maximum, torch.where."""

    def __init__(self, trainee: Any, views: CandidateViews, *, pasted: bool = False) -> None:
        self.trainee, self.views, self.pasted = trainee, views, pasted
        self.generator = torch.Generator().manual_seed(0)
        temperature = getattr(trainee, "temperature", None)
        self.pair_loss: Callable[..., Tensor] = (
            published.published_simsiam
            if temperature is None
            else lambda first, second: published.published_ntxent(first, second, temperature)
        )

    @torch.no_grad()
    def __call__(self, images: Any, extras: Any = None, *, params: ViewParams | None = None) -> HardViews:
        params = self.views.make_params(images, self.generator) if params is None else params
        candidates = list(self.views.transform(images, params)[0])
        if self.pasted:
            self.trainee.score(torch.cat(candidates))
        first, second, indices, loss = published.published_pair(self.trainee.score, candidates, self.pair_loss)
        return _hard([first, second], indices, loss)


class PublishedMultiCrop:
    """DINO's and iBOT's selection in the published style: the whole loss of each of 128 random combinations."""

    def __init__(self, trainee: Any, views: CandidateViews, *, pasted: bool = False) -> None:
        self.trainee, self.views, self.pasted = trainee, views, pasted
        self.generator = torch.Generator().manual_seed(0)
        first, second, local = views.slots
        self.globals = first.candidates + second.candidates
        self.selected_local = local.select
        self.order = torch.tensor(published.interleaved(first.candidates, local.candidates))

    @torch.no_grad()
    def __call__(self, images: Any, extras: Any = None, *, params: ViewParams | None = None) -> HardViews:
        params = self.views.make_params(images, self.generator) if params is None else params
        grouped = [view for slot in self.views.transform(images, params) for view in slot]
        crops = [grouped[index] for index in self.order.tolist()]
        choose = self._ibot if extras and "masks" in extras else self._dino
        chosen, indices, loss, kept = choose(crops, extras)
        return _hard(chosen, self.order.to(indices.device)[indices], loss, kept)

    def _dino(self, crops: list[Tensor], extras: Any) -> tuple[list[Tensor], Tensor, Tensor, dict[str, Tensor]]:
        trainee = self.trainee
        chosen, indices, loss = published.published_multicrop(
            trainee.score,
            trainee.teacher,
            crops,
            self.globals,
            center=trainee.center,
            teacher_temperature=trainee.pair_loss.teacher_temperature,
            student_temperature=trainee.pair_loss.student_temperature,
            select_local=self.selected_local,
            generator=self.generator,
            second_forward=self.pasted,
        )
        return chosen, indices, loss, {}

    def _ibot(self, crops: list[Tensor], extras: Any) -> tuple[list[Tensor], Tensor, Tensor, dict[str, Tensor]]:
        trainee, count = self.trainee, self.globals
        masks = extras["masks"].to(crops[0].device)[self.order[:count]]
        for _ in range(2 if self.pasted else 1):
            cls, patches = trainee.score(torch.cat(crops[:count]), masks.flatten(0, 1))
            local = trainee.score(torch.cat(crops[count:]))
            taught_cls, taught_patches = trainee.teacher(torch.cat(crops[:count]))
        indices, loss = published.published_ibot(
            [*cls.chunk(count), *local.chunk(len(crops) - count)],
            patches.chunk(count),
            taught_cls.chunk(count),
            taught_patches.chunk(count),
            list(masks),
            self.selected_local,
            generator=self.generator,
            lambda1=1.0,
            lambda2=1.0,
            cls_center=trainee.center,
            patch_center=trainee.patch_center,
            teacher_temperature=trainee.pair_loss.teacher_temperature,
            teacher_patch_temperature=trainee.pair_loss.teacher_temperature,
            student_temperature=trainee.pair_loss.student_temperature,
        )
        chosen = [torch.empty_like(crops[0]) for _ in range(2)] + [torch.empty_like(crops[-1]) for _ in range(self.selected_local)]
        for place in range(len(chosen)):
            for view in range(count) if place < 2 else range(count, len(crops)):
                chosen[place] = torch.where((indices[place] == view)[:, None, None, None], crops[view], chosen[place])
        rows = torch.arange(masks.shape[1], device=masks.device)
        return chosen, indices, loss, {"masks": masks[indices[:2], rows]}


def _hard(views: list[Tensor], indices: Tensor, loss: Tensor, extras: dict[str, Tensor] | None = None) -> HardViews:
    return HardViews(views, None, indices, loss, None, None, torch.zeros((), dtype=torch.int64), extras or {})


def contestants(method: str, encoder: str, brief: bool) -> dict[str, Factory]:
    """All settings and the published ways, or for a brief table full size, half and cheap."""
    made = settings(transformer="vit" in encoder)
    if brief:
        return {name: made[name] for name in (FULL, "half", "cheap")}
    kind = PublishedMultiCrop if method in ("dino", "ibot") else PublishedPair
    return made | {PUBLISHED: kind, PASTED: lambda trainee, views: kind(trainee, views, pasted=True)}


def images_of(data: Path | None) -> tuple[list[Tensor], list[Tensor]]:
    """Photographs to train on, and every fourth to judge on."""
    found = list(photographs().values()) if data is None else [sample[0] for sample in RawImages(data)]
    pixels = [image for image in found if isinstance(image, Tensor)]
    return [image for index, image in enumerate(pixels) if index % 4], pixels[::4]


def build(method: str, encoder: str, size: int, prototypes: int | None) -> Method:
    """The method with as many prototypes as its repo has; otherwise as ``hvs-aug pretrain`` builds it."""
    if method not in PROTOTYPES:
        return build_method(method, size, encoder=encoder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        kind: Any = METHODS[method]
        return kind(build_encoder(encoder, size), prototypes=prototypes or PROTOTYPES[method])


def shown(items: Sequence[Any], what: str) -> Iterable[Any]:
    """A progress bar."""
    return tqdm(items, desc=what, leave=False)


def tables(method: str, quick: bool = False, large: bool = False) -> list[tuple[str, int]]:
    """The encoder and the number of candidates of each of a method's tables: the full one, then the short ones."""
    if quick:
        return [("vit-micro" if "vit" in SMALL[method] else "resnet8", CANDIDATES[method][0])]
    encoder, other = (LARGE, SMALL) if large else (SMALL, LARGE)
    return [*((encoder[method], candidates) for candidates in CANDIDATES[method]), (other[method], CANDIDATES[method][0])]


def workloads(options: argparse.Namespace) -> Iterator[tuple[dict[str, Any], Workload, dict[str, Factory]]]:
    """What is to be measured: the facts by which a workload is known, the workload, and its contestants."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train, held_out = images_of(options.data)
    for method in options.methods:
        made = tables(method, options.quick, options.large)
        for turn, (encoder, candidates) in enumerate(made[:1] if options.main_only else made):
            name = f"{method} {encoder} {options.size}px B={options.batch} N={candidates}"
            workload = Workload(
                lambda method=method, encoder=encoder: build(method, encoder, options.size, options.prototypes),
                options.size,
                options.batch,
                candidates,
                train,
                held_out,
                device,
                torch.bfloat16 if device.type == "cuda" else None,
            )
            facts = {"workload": name, "method": method, "encoder": encoder, "candidates": candidates, "main": turn == 0}
            yield facts, workload, contestants(method, encoder, turn > 0)


def run(options: argparse.Namespace, finished: Sequence[dict[str, Any]] = ()) -> Iterator[list[dict[str, Any]]]:
    """Measure one workload after the other, and yield its rows. Those that are finished are left out, or judged anew."""
    for facts, workload, choosers in workloads(options):
        known = [row for row in finished if row["workload"] == facts["workload"]]
        if known and not options.judge:
            continue
        print(facts["workload"], flush=True)
        points = (0, 1) if options.quick else options.points if facts["main"] else (0, options.points[1])
        rows = known
        if not known:
            timed = costs(workload, choosers, repeats=options.repeats, warmup=1 if options.quick else 2, progress=shown)
            rows = [{**facts, **row, "peak_mib": row["peak_bytes"] / 2**20} for row in timed]
        judged = {name: factory for name, factory in choosers.items() if name != PASTED}  # it chooses as PUBLISHED does
        found = hardness(workload, judged, points=points, judged=1 if options.quick else options.judged, progress=shown)
        found |= {PASTED: found[PUBLISHED]} if PUBLISHED in found else {}
        rows = [{**row, **found.get(row["setting"], {"captured": 0.0})} for row in rows]
        print(table(rows, COLUMNS[1:]), flush=True)
        yield rows


def summarised(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The figures that the README quotes; those over several methods are the worst of them."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        if row["main"]:
            found.setdefault(row["method"], {})[row["setting"]] = row
    summary: dict[str, float] = {}
    for method, own in found.items():
        summary[f"{method}_full_ratio"] = own[FULL]["ratio"]
        summary[f"{method}_full_vs_bound"] = own[FULL]["over_bound"]
        summary[f"{method}_half_ratio"] = own["half"]["ratio"]
        summary[f"{method}_cheap_ratio"] = own["cheap"]["ratio"]
        summary[f"{method}_cheap_hardness_captured"] = own["cheap"]["captured"]
        summary[f"{method}_published_over_ours"] = own[PUBLISHED]["median"] / own[FULL]["median"]
        summary[f"{method}_pasted_over_ours"] = own[PASTED]["median"] / own[FULL]["median"]
        summary[f"{method}_recommended_ratio"] = recommend(list(own.values()))["ratio"]
    summary["half_hardness_captured"] = min(own["half"]["captured"] for own in found.values())
    summary["cheap_ratio"] = max(own["cheap"]["ratio"] for own in found.values())
    summary["cheap_hardness_captured"] = min(own["cheap"]["captured"] for own in found.values())
    if "dino" in found:
        summary["published_over_ours"] = summary["dino_published_over_ours"]
    return summary


UNTOUCHED = """
import runpy, sys
sys.path.insert(0, sys.argv[1])
import checkout
checkout.at_head = lambda owner, name, lines: None
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs an example without the lines that it adds: the repo's own training, on the same stand-ins."""


def run_checkout(repo: str, checkout: Path | None, words: Sequence[str]) -> list[dict[str, Any]]:
    """Time a user's checkout through its example: whole runs, start-up included, untouched and with hard views."""
    example = ROOT / "examples" / f"wrap_{repo}.py"
    is_there = example.is_file() and checkout is not None and checkout.is_dir()
    require(is_there, "forward_overhead(--repo, --checkout)", "a repo with an example and a folder", f"{repo} and {checkout}")
    given = [str(example), "--checkout", str(checkout), "--", *words]
    commands = {RANDOM: ["-c", UNTOUCHED, str(example.parent), *given], FULL: given}
    seconds: dict[str, float] = {}
    for name, command in commands.items():
        start = time.perf_counter()
        subprocess.run([sys.executable, *command], check=True)
        seconds[name] = time.perf_counter() - start
    return [
        {
            "workload": f"{repo} checkout",
            "setting": name,
            "median": taken,
            "iqr": 0.0,
            "repeats": 1,
            "ratio": taken / seconds[RANDOM],
        }
        for name, taken in seconds.items()
    ]


NAMES = {
    "cheap": "CHEAP: half size, bfloat16",
    "half": "half size",
    "quarter": "quarter size",
    "smallest overlap": "smallest overlap, no scoring",
    PUBLISHED: "as published, one scoring",
    PASTED: "as published, scored twice",
}
"""Settings, as the figure calls them; the others have their own names."""

TITLES = {"simclr": "SimCLR", "simsiam": "SimSiam", "dino": "DINO", "ibot": "iBOT"}


def draw(path: Path) -> Path:
    """Draw the main tables of a file as ``path`` with the suffix .png: settings that exist today, and the published code."""
    from hvs_aug.analysis.plots import hardness_and_cost

    shown = {RANDOM, *OPTIONS, PUBLISHED, PASTED}
    rows = [row for row in json.loads(path.read_text())["rows"] if row["main"] and row["setting"] in shown]
    titles = {row["workload"]: f"{TITLES[row['method']]}, {row['encoder']}" for row in rows}
    target = path.with_suffix(".png")
    hardness_and_cost([row | {"setting": NAMES.get(row["setting"], row["setting"])} for row in rows], titles).savefig(target)
    return target


def main(words: Sequence[str] | None = None) -> None:
    parser = arguments("forward_overhead", __doc__)
    parser.add_argument("--size", type=int, help="side of a view in pixels (default: 128; on a GPU 224)")
    parser.add_argument("--batch", type=int, help="images in a step (default: 16; on a GPU 128)")
    parser.add_argument("--methods", nargs="+", choices=sorted(METHODS.keys() & SMALL.keys()), default=list(SMALL))
    parser.add_argument("--large", action="store_true", help="the full tables with ResNet-50 and ViT-small (default on a GPU)")
    parser.add_argument("--prototypes", type=int, help="of DINO's and iBOT's heads (default: 65536 and 8192, as in the repos)")
    parser.add_argument("--main-only", action="store_true", help="leave out the short tables: more candidates, the other networks")
    parser.add_argument("--repeats", type=int, help="rounds that count (default: 9)")
    parser.add_argument("--points", type=int, nargs="+", default=(0, 50, 150), help="training steps after which choices are judged")
    parser.add_argument("--judged", type=int, default=6, help="batches of held-out images that are judged at each point")
    parser.add_argument("--resume", action="store_true", help="keep the workloads that the file to write already holds")
    parser.add_argument(
        "--judge", action="store_true", help="keep their times, and judge their choices anew: no quiet machine needed"
    )
    parser.add_argument("--repo", choices=sorted(SMALL), help="measure a checkout of this repo through its example")
    parser.add_argument("--checkout", type=Path, help="the folder of that checkout; its own arguments follow --")
    parser.add_argument("arguments", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--draw", action="store_true", help="draw the figure of the measured rows, and measure nothing")
    options = parser.parse_args(words)
    if options.draw:
        print(f"figure in {draw(options.out or RESULTS / 'forward_overhead.json')}")
        return
    options.prototypes = options.prototypes or (256 if options.quick else None)
    on_gpu = torch.cuda.is_available()
    options.size = options.size or (64 if options.quick else 224 if on_gpu else 128)
    options.batch = options.batch or (4 if options.quick else 128 if on_gpu else 16)
    options.repeats = options.repeats or (2 if options.quick else 9)
    options.large = options.large or (on_gpu and not options.quick)
    if options.repo is not None:
        rows = run_checkout(options.repo, options.checkout, options.arguments)
        print(table(rows, ["workload", "setting", "median", "ratio"]))
        return
    names = {"size", "batch", "methods", "large", "repeats", "points", "quick", "main_only", "prototypes", "judged"}
    used = {name: value for name, value in vars(options).items() if name in names}
    used["data"] = "packaged photographs" if options.data is None else str(options.data)
    used["points"] = list(used["points"])
    path = options.out or RESULTS / "forward_overhead.json"
    free = ("methods", "main_only", "points", "judged", "repeats")
    rows = resumed(path, used, free=free) if options.resume or options.judge else []
    for measured in run(options, rows):
        rows = [row for row in rows if row["workload"] != measured[0]["workload"]] + measured
        write("forward_overhead", used, rows, summarised(rows), path)
    print(f"figure in {draw(path)}")
    for name in dict.fromkeys(row["workload"] for row in rows):
        best = recommend([row for row in rows if row["workload"] == name])
        print(f"{name}: {best['setting']}, {best['ratio']:.2f}x a step, {best['captured']:.0%} of the hardness")


if __name__ == "__main__":
    main()
