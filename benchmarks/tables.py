"""The tables in the README and in benchmarks/README.md, made from the files in benchmarks/results/.

    python -m benchmarks.tables     # writes them anew, after a benchmark has run

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``. The tests fail where one is not what its file says.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from benchmarks.augmentation import fastest
from benchmarks.common import RESULTS, ROOT, results
from benchmarks.quality_rows import Runs
from benchmarks.quality_tables import METHODS, QUALITY_TABLES, markdown

PAGES = (ROOT / "README.md", ROOT / "benchmarks" / "README.md", RESULTS / "README.md")

_OTHERS = {
    "torchvision on PIL, 2 processes": "torchvision_pil",
    "torchvision v2 on tensors": "torchvision_v2",
    "Kornia, whole batches of one image size": "kornia_batch",
    "Kornia, image by image": "kornia",
    "albumentations, 2 processes": "albumentations",
    "torchaug": "torchaug",
    "DALI on the CPU, both from JPEG files": "dali_from_jpeg",
}
_WORKLOADS = {"simclr224": "SimCLR, 224 px", "dino": "DINO, 2 x 224 + 8 x 96 px", "cifar32": "SimCLR, CIFAR-sized"}


def filled(text: str) -> str:
    """The text with every table made anew."""

    def table(found: re.Match[str]) -> str:
        return f"<!-- table: {found[1]} -->\n{_table(found[1])}\n<!-- end -->"

    return re.sub(r"<!-- table: (\w+) -->\n.*?<!-- end -->", table, text, flags=re.DOTALL)


def _table(name: str) -> str:
    return QUALITY_TABLES[name](Runs(results("quality")["rows"])) if name in QUALITY_TABLES else TABLES[name]()


def _cost() -> str:
    """The settings that a user chooses among, for each method."""
    lines = []
    for method, rows in _overhead(main=True).items():
        cells = [f"{rows['full size']['ratio']:.2f}"]
        cells += [f"{rows[name]['ratio']:.2f}, {rows[name]['captured']:.2f}" for name in ("half", "cheap")]
        first = next(iter(rows.values()))
        drawn = f"{first['candidates']} candidates" if method in ("simsiam", "simclr") else f"{first['candidates']} for each view"
        lines.append([f"{METHODS[method]}, {_network(first)}, {drawn}", *cells])
    columns = ["", "full size: time", "half the side: time, hardness kept", '`"cheap"`: time, hardness kept']
    return markdown(columns, lines)


def _overhead(main: bool) -> dict[str, dict[str, dict[str, Any]]]:
    """The rows of forward_overhead by method (or workload, of the short tables) and setting."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in results("forward_overhead")["rows"]:
        if row["main"] == main:
            found.setdefault(row["method"] if main else row["workload"], {})[row["setting"]] = row
    return found


def _network(row: dict[str, Any]) -> str:
    return {"resnet18": "ResNet-18", "resnet50": "ResNet-50", "vit-tiny": "ViT-tiny", "vit-small": "ViT-small"}[row["encoder"]]


def _cost_others() -> str:
    """More candidates and larger networks, whose choices are judged after a few steps only."""
    lines = []
    for rows in _overhead(main=False).values():
        first = next(iter(rows.values()))
        name = f"{METHODS[first['method']]}, {_network(first)}, {first['candidates']} candidates"
        times = [f"{rows[setting]['ratio']:.2f} ({rows[setting]['bound']:.2f})" for setting in ("full size", "half")]
        lines.append([name, *times, f"{rows['cheap']['ratio']:.2f}" if "cheap" in rows else ""])
    return markdown(["", "full size: time (arithmetic)", "half the side: time (arithmetic)", '`"cheap"`: time'], lines)


def _cost_published() -> str:
    """Ours and the published way of scoring, at full size, with what the arithmetic allows."""
    lines = []
    for method, rows in _overhead(main=True).items():
        settings = [rows[name] for name in ("full size", "published", "published, pasted twice")]
        lines.append([METHODS[method], f"{settings[0]['bound']:.2f}", *(f"{row['ratio']:.2f}" for row in settings)])
    return markdown(["", "arithmetic", "ours", "published method", "published method, candidates scored twice"], lines)


def _cost_ways() -> str:
    """Every way to choose that was measured: the time of a step, and the hardness kept."""
    methods = _overhead(main=True)
    names = dict.fromkeys(name for rows in methods.values() for name in rows if not name.startswith(("published", "random")))
    lines = []
    for name in names:
        cells = [rows.get(name) for rows in methods.values()]
        lines.append([name, *(f"{row['ratio']:.2f}, {row['captured']:.2f}" if row else "" for row in cells)])
    return markdown(["time, hardness kept", *map(METHODS.__getitem__, methods)], lines)


def _speed() -> str:
    """Ours against the libraries that most people use, at the largest batch."""
    speeds = _speeds()
    lines = []
    for label, contestant in _OTHERS.items():
        ours = "ours_from_jpeg" if contestant.endswith("from_jpeg") else "ours"
        ratios = [speeds[workload, ours] / speeds[workload, contestant] for workload in _WORKLOADS]
        lines.append([label, *(f"{ratio:.1f} x" for ratio in ratios)])
    return markdown(["ours against", *_WORKLOADS.values()], lines)


def _speed_views() -> str:
    """Views a second of every contestant, and the error of its crops."""
    speeds = _speeds()
    errors = {row["contestant"]: row.get("crop_error") for row in results("augmentation")["rows"] if "views_per_s" in row}
    named = {"ours": "ours", "ours, from JPEG files": "ours_from_jpeg", **_OTHERS}
    named["one read of each source pixel and one write of each view"] = "limit"
    lines = []
    for label, contestant in named.items():
        error = errors[contestant]
        counts = [f"{speeds[workload, contestant]:,.0f}" for workload in _WORKLOADS]
        lines.append([label, *counts, "" if error is None else f"{error:.1f}"])
    return markdown(["views a second", *_WORKLOADS.values(), "crop error, gray levels"], lines)


def _speeds() -> dict[tuple[str, str], float]:
    return fastest(results("augmentation")["rows"])


def _speed_parts() -> str:
    """What a batch of 224-pixel SimCLR views takes without one of its parts, and what reaching the device takes."""
    augmentation = results("augmentation")
    summary, shares = augmentation["summary"], [row for row in augmentation["rows"] if "of_all" in row]
    lines = [[row["contestant"], f"{row['of_all']:.2f}"] for row in shares if row["contestant"] != "all"]
    lines.append(["decoding, where the images come from JPEG files", f"{summary['simclr224_decoding_share']:.2f}"])
    lines.append(["rate of collating over that of decoding", f"{summary['collated_vs_decoded']:.2f}"])
    lines.append(["MB that an image takes to the device", f"{summary['bytes_to_device_per_image'] / 1e6:.2f}"])
    return markdown(["SimCLR, 224 px", "share of the time, or as named"], lines)


def _selection() -> str:
    """The exact search with its table, and the published one over random combinations."""
    rows = {(row["workload"], row.get("noise"), row["contestant"]): row for row in results("selection")["rows"]}
    lines = []
    for label, key in (
        ("DINO, 32 images, 65,536 prototypes", ("dino", 0.5)),
        ("SimCLR, 256 images, 4 candidates", ("simclr", None)),
    ):
        ours, published = rows[(*key, "hvs_aug")], rows[(*key, "published")]
        cells = [f"{ours['median']:.3f}", f"{published['median']:.3f}", f"{published['median'] / ours['median']:.0f}"]
        harder = ours["mean_loss"] / published["mean_loss"] - 1
        lines.append([label, *cells, f"{100 * harder:.1f} %"])
    return markdown(["", "ours, s", "published method, s", "times as fast", "harder by, in mean loss"], lines)


def _choices() -> str:
    """What each way to score chooses at the end of the training, beside full size."""
    rows = results("choices")["rows"]
    words = {"full": "full size", "full, other batches": "full size, in batches of other images", "half": "half the side"}
    words |= {"cheap": "`CHEAP`", "quarter": "a quarter of the side"}
    lines = []
    for row in rows:
        if row["step"] == rows[-1]["step"]:
            names = ("agreement", "hardness", "iou", "scale", "color_distance", "kept")
            lines.append([words[row["way"]], *(f"{row[name]:.2f}" for name in names)])
    columns = ["scored at", "agreement", "hardness kept", "overlap (IoU)", "share of the image", "distance of colours", "kept"]
    return markdown(columns, lines)


def _soak() -> str:
    """What is promised of long runs, and what was seen."""
    document = results("soak")
    rows, summary = {row["part"]: row for row in document["rows"]}, document["summary"]
    killed = (
        "A run that is killed goes on from its last whole checkpoint, with the same metrics, weights and optimiser, bit for bit"
    )
    way = "runs of `hvs-aug pretrain` ended by SIGKILL, two of five amid a checkpoint, with 0 and 2 workers"
    lines = [[killed, way, f"{summary['kills_survived']:.0f} of {document['settings']['kills']}"]]
    parts = {
        "sampler": "sampler",
        "loader": "wrapped loader, two workers",
        "pretrain": "`hvs-aug pretrain`, one worker, anew each epoch",
    }
    for name, words in parts.items():
        own = [(rows[name][key], rows[name][f"{key}_error"]) for key in ("bytes_per_step", "heap_per_step")]
        resident, heap = (f"{round(value, 1) + 0.0:+.1f} ± {error:.1f}" for value, error in own)
        lines.append(
            [f"Growth of memory: {words}", f"{rows[name]['steps']:,} steps", f"{resident} bytes a step; asked for: {heap}"]
        )
    opened = f"{summary['handles_leaked']:.0f}"
    lines.append(
        ["No file, thread or shared-memory segment is left open", f"the same {summary['steps_soaked']:,.0f} steps", opened]
    )
    drawn = f"{rows['draws']['draws']:,} draws"
    lines.append(["Ranks, workers, epochs and modules never share a draw", drawn, f"{rows['draws']['shared']} shared"])
    return markdown(["promise", "shown by", "figure"], lines)


def _mutants() -> str:
    """How many of the small faults that were put into each part the tests notice."""
    lines = []
    rows = results("mutants")["rows"]
    for group in ("selection", "views", "ops"):
        own = [row for row in rows if row["group"] == group]
        able = [row for row in own if row["equivalent"] is None]
        killed = sum(row["killed"] for row in able)
        lines.append([f"`hvs_aug/{group}`", f"{len(own)}", f"{len(own) - len(able)}", f"{killed}", f"{killed / len(able):.0%}"])
    return markdown(["faults put into", "drawn", "that change nothing", "noticed", "share"], lines)


def _gpu_plan() -> str:
    """What a GPU would move for SimCLR's views of 224 pixels."""
    summary = results("gpu_plan")["summary"]
    lines = [
        ["kernels of one slot, at most", f"{summary['kernels_per_slot']:.0f}"],
        [
            "memory moved, over the least",
            f"{summary['gpu_bytes_vs_least']:.1f}",
        ],
        ["time that an H100 needs to move the least at 3.35 TB/s, ms", f"{summary['limit_ms']:.2f}"],
        ["time that it needs to move what the kernels move, ms", f"{summary['moved_ms']:.2f}"],
        ["peak memory, over that of the photographs and the views", f"{summary['peak_vs_sources_and_views']:.2f}"],
    ]
    return markdown(["SimCLR, 224 px, 256 images x 4 candidates, sources of 375 x 500", ""], lines)


def _fuzz() -> str:
    """What became of damaged and odd files."""
    summary = results("fuzz")["summary"]
    names = {
        "files_fuzzed": "files",
        "kinds": "kinds of damage",
        "shown_by_both": "shown by both, as Pillow shows them",
        "refused_by_both": "refused by both",
        "refused_where_pillow_shows": "refused here, shown by Pillow",
        "files_silently_wrong": "shown otherwise than by Pillow",
        "processes_killed": "processes killed",
        "hangs": "hangs",
    }
    return markdown(["", "count"], [[label, f"{summary[name]:,}"] for name, label in names.items()])


TABLES: dict[str, Callable[[], str]] = {
    "choices": _choices,
    "cost": _cost,
    "cost_others": _cost_others,
    "cost_published": _cost_published,
    "cost_ways": _cost_ways,
    "fuzz": _fuzz,
    "gpu_plan": _gpu_plan,
    "selection": _selection,
    "mutants": _mutants,
    "soak": _soak,
    "speed": _speed,
    "speed_parts": _speed_parts,
    "speed_views": _speed_views,
}


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(filled(page.read_text()))
