"""Weeks of training in minutes: is anything leaked, drawn twice, or lost when a run is killed.

    python -m benchmarks.soak [--quick] [--steps 5000] [--kills 20] [--seed 0]

Method: every part runs in a process of its own, all at once. ``sampler`` calls a HardPairSampler, ``loader`` reads batches of
hvs_aug.wrap with two persistent workers, ``pretrain`` is the command on a folder of small PNG files with one worker, which is
started anew every epoch. Every 25 steps the resident memory of the process and its children is read, and the number of its open
files, threads and mapped shared-memory segments. ``bytes_per_step`` is the slope of a line through the mean memory of blocks of a
twentieth of the steps, after the first tenth, with its standard error. ``heap_per_step`` is that of the bytes which the process
itself has asked for and not given back (glibc's count), which pages that settle do not disturb. Files, threads and segments in
flight come and go, so the fewest of the last fifth of the steps are compared with the fewest of the fifth after the first tenth.
``time_ratio`` compares the median CPU time of a step in the same two fifths, which other processes on the machine disturb less than
the time of a clock.

``kill`` ends ``hvs-aug pretrain`` with SIGKILL at a random moment of its time, amid the writing of a checkpoint, or between the
writing and the renaming. It survived if the run that is then resumed ends with the same metrics, weights and optimiser, bit for
bit, as one that was not killed, and no process and no half file is left. ``draws`` counts equal rows of boxes and colour factors
that modules of equal seeds drew in several ranks, epochs and workers.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import multiprocessing
import os
import random
import signal
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

import hvs_aug
from benchmarks.common import arguments, table, write
from hvs_aug import CandidateViews, HardPairSampler, NTXentLoss, ViewRecipe, ViewSlot, cli, ops
from hvs_aug.pretraining.checkpoint import load_checkpoint
from hvs_aug.pretraining.loop import CHECKPOINT, ENCODER, METRICS, Pretraining

SIDE, BATCH, EVERY = 16, 4, 25
PARTS = ("sampler", "loader", "pretrain")
WAYS = ("moment", "moment", "half written", "moment", "not renamed")
RECIPE = ViewRecipe(SIDE, [ops.RandomResizedCrop(), ops.RandomHorizontalFlip(), ops.ColorJitter(0.4, 0.4, 0.4, 0.1)])


# ---------------------------------------------------------------------- what is run for thousands of steps


def begin() -> None:
    """In a process of its own: one thread, and workers that are forked, as by default on Linux."""
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)


def encoder() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 16)
    )


def sampler_steps() -> Iterator[None]:
    views = CandidateViews(ViewSlot(RECIPE, 4, 2))
    sampler = HardPairSampler(encoder(), NTXentLoss(0.5), views, generator=torch.Generator().manual_seed(0))
    while True:
        sampler(torch.randint(0, 256, (BATCH, 3, 20, 24), dtype=torch.uint8))
        yield


class TwoViews(Dataset[Any]):
    """Images of noise, each passed twice through one transform, as a repo's own dataset does it."""

    def __init__(self, images: int) -> None:
        self.pixels = torch.randint(0, 256, (images, 3, 20, 24), dtype=torch.uint8)
        self.transform = v2.Compose([v2.RandomResizedCrop(SIDE), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True)])

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[list[Tensor], int]:
        image = self.pixels[index]
        return [self.transform(image), self.transform(image)], index


def loader_steps() -> Iterator[None]:
    loader = DataLoader(TwoViews(BATCH * 250), BATCH, shuffle=True, num_workers=2, persistent_workers=True)
    model = encoder()
    while True:
        for _ in hvs_aug.wrap(loader, model=model, loss=NTXentLoss(0.5)):
            yield


def make_images(folder: Path, count: int) -> Path:
    generator = torch.Generator().manual_seed(0)
    (folder / "noise").mkdir(parents=True)
    for index in range(count):
        pixels = torch.randint(0, 256, (20, 24, 3), dtype=torch.uint8, generator=generator)
        Image.fromarray(pixels.numpy()).save(folder / "noise" / f"{index}.png")
    return folder


def pretrain(data: Path, out: Path, epochs: int, workers: int, *more: str) -> int:
    """The command, its output in a file."""
    small = ["--size", str(SIDE), "--batch-size", str(BATCH), "--device", "cpu", "--epochs", str(epochs), "--workers", str(workers)]
    with open(out.with_name(f"{out.name}.log"), "a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        return cli.main(["pretrain", "--data", str(data), "--out", str(out), *small, *more])


# ---------------------------------------------------------------------- memory, handles and time


def observed() -> dict[str, int]:
    """What this process holds now, and the memory of its children with it."""
    with open("/proc/self/task/" + str(os.getpid()) + "/children") as file:
        processes = ["self", *file.read().split()]
    with open("/proc/self/maps") as file:
        segments = sum("/dev/shm/" in line or "/torch_" in line for line in file)
    return {
        "bytes": sum(map(resident, processes)),
        "heap": heap(),
        "files": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "segments": segments,
    }


class _Heap(ctypes.Structure):
    """glibc's ``struct mallinfo2``."""

    NAMES = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    _fields_ = tuple((name, ctypes.c_size_t) for name in NAMES)


def heap() -> int:
    """Bytes that this process holds of those it asked glibc for."""
    ask = ctypes.CDLL(None).mallinfo2
    ask.restype = _Heap
    found = ask()
    return int(found.uordblks + found.hblkhd)


def resident(process: str) -> int:
    try:
        with open(f"/proc/{process}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (FileNotFoundError, ProcessLookupError):  # a worker that has just ended
        return 0


class Watch:
    """Counts steps, and what is held after some of them, in memory of its own that does not grow."""

    KEYS = ("bytes", "heap", "files", "threads", "segments")

    def __init__(self, most: int = 100_000) -> None:
        # Ones, not zeros: pages that nobody wrote to do not count as resident until they are written.
        self.seconds, self.held = np.ones(most), np.ones((most // EVERY, len(self.KEYS)))
        self.steps = 0
        self.last = time.process_time()

    def step(self) -> None:
        self.seconds[self.steps] = time.process_time() - self.last
        self.steps += 1
        if self.steps % EVERY == 0:
            seen = observed()
            self.held[self.steps // EVERY - 1] = [seen[key] for key in self.KEYS]
        self.last = time.process_time()

    def row(self, name: str) -> dict[str, Any]:
        """Memory by a line, handles by their fewest, seconds by their median."""
        looks = self.steps // EVERY
        held = self.held[:looks]
        slope, error = memory_slope(held[:, 0].tolist())
        heap_slope, heap_error = memory_slope(held[:, 1].tolist())
        early, late = slice(looks // 10, 3 * looks // 10), slice(looks - looks // 5, looks)
        grown = held[late, 2:].min(0) - held[early, 2:].min(0)
        medians = [float(np.median(self.seconds[part.start * EVERY : part.stop * EVERY])) for part in (early, late)]
        return {
            "part": name,
            "steps": self.steps,
            "bytes_per_step": slope,
            "bytes_per_step_error": error,
            "heap_per_step": heap_slope,
            "heap_per_step_error": heap_error,
            "mib_at_end": float(held[-1, 0]) / 2**20,
            **{f"{key}_leaked": int(value) for key, value in zip(self.KEYS[2:], grown, strict=True)},
            "cpu_milliseconds": medians[1] * 1000,
            "time_ratio": medians[1] / medians[0],
        }


def memory_slope(held: Sequence[float]) -> tuple[float, float]:
    """Bytes per step and their standard error: a line through block means, which are nearly independent, after the first tenth."""
    late = held[len(held) // 10 :]
    size = max(1, len(held) // 20)
    means = [statistics.fmean(late[start : start + size]) for start in range(0, len(late) - size + 1, size)]
    places = [index * size * EVERY for index in range(len(means))]
    center, mean = statistics.fmean(places), statistics.fmean(means)
    spread = sum((place - center) ** 2 for place in places)
    slope = sum((place - center) * value for place, value in zip(places, means, strict=True)) / spread
    rest = sum((value - mean - slope * (place - center)) ** 2 for place, value in zip(places, means, strict=True))
    return slope, math.sqrt(rest / (len(means) - 2) / spread)


def soak(name: str, steps: int, folder: Path) -> dict[str, Any]:
    """Run one part in this process."""
    begin()
    torch.manual_seed(0)
    watch = Watch()
    if name == "pretrain":
        data = make_images(folder / "data", BATCH * 250)
        train_step = Pretraining.train_step

        def watched(run: Pretraining, *given: Any, **named: Any) -> Any:
            metrics = train_step(run, *given, **named)
            watch.step()
            return metrics

        with mock.patch.object(Pretraining, "train_step", watched):
            assert pretrain(data, folder / "run", steps // 250, 1) == 0
    else:
        step = iter({"sampler": sampler_steps, "loader": loader_steps}[name]())
        for _ in range(steps):
            next(step)
            watch.step()
    return watch.row(name)


# ---------------------------------------------------------------------- kills


def killed(data: Path, out: Path, workers: int, way: str, more: Sequence[str]) -> None:
    """The command in a session of its own; it kills itself amid its second checkpoint if ``way`` says so."""
    os.setsid()
    begin()
    write_bytes, replace, written = Path.write_bytes, os.replace, []

    def half_written(path: Path, content: bytes) -> int:
        written.append(path)
        if CHECKPOINT not in path.name or len(written) < 2:
            return write_bytes(path, content)
        write_bytes(path, content[: len(content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    def not_renamed(source: Path, target: Path) -> None:
        written.append(target)
        if target.name == CHECKPOINT and len(written) >= 2:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    patches = {"half written": (Path, "write_bytes", half_written), "not renamed": (os, "replace", not_renamed)}
    with mock.patch.object(*patches[way]) if way in patches else contextlib.nullcontext():
        sys.exit(pretrain(data, out, 3, workers, *more))


def outcome(out: Path) -> tuple[list[dict[str, Any]], dict[str, Tensor], dict[str, Any], bytes]:
    """All that a run leaves behind, without its times."""
    metrics = [json.loads(line) for line in (out / METRICS).read_text().splitlines()]
    metrics = [{key: value for key, value in line.items() if "seconds" not in key and "per_second" not in key} for line in metrics]
    return metrics, *load_checkpoint(out / CHECKPOINT), (out / ENCODER).read_bytes()


def is_same(one: Any, other: Any) -> bool:
    (metrics, tensors, state, encoder), (metrics2, tensors2, state2, encoder2) = one, other
    same = tensors.keys() == tensors2.keys() and all(torch.equal(value, tensors2[name]) for name, value in tensors.items())
    return same and (metrics, state, encoder) == (metrics2, state2, encoder2)


def kill_runs(folder: Path, count: int, context: Any, seed: int = 0, ways: Sequence[str] = WAYS) -> list[dict[str, Any]]:
    """Kill so many runs, resume each, and compare it with an unbroken one."""
    moments = random.Random(seed)
    data = make_images(folder / "data", BATCH * 16)

    def start(out: Path, workers: int, way: str = "", *more: str) -> Any:
        process = context.Process(target=killed, args=(data, out, workers, way, more))
        process.start()
        return process

    for name in ("warm", "whole"):  # the first compiles
        begun = time.perf_counter()
        process = start(folder / name, 0)
        process.join()
        assert process.exitcode == 0, (folder / f"{name}.log").read_text()
        duration = time.perf_counter() - begun
    expected = outcome(folder / "whole")
    rows: list[dict[str, Any]] = []
    while len(rows) < count:
        number, way = len(rows), ways[len(rows) % len(ways)]
        workers = 2 * (number % 2)
        out = folder / f"{number}-{moments.random()}"
        process = start(out, workers, way)
        if way == "moment":
            process.join(moments.uniform(0, duration))
            process.kill()
        process.join()
        if process.exitcode != -signal.SIGKILL:  # it was done before
            continue
        had_checkpoint = (out / CHECKPOINT).exists()
        step = load_checkpoint(out / CHECKPOINT)[1]["step"] if had_checkpoint else 0
        resumed = start(out, workers, "", *(["--resume"] if had_checkpoint else []))
        resumed.join()
        survived = resumed.exitcode == 0 and is_same(outcome(out), expected)
        left = sorted(path.name for path in out.iterdir() if path.name.startswith("."))
        row = {"part": "kill", "way": way, "workers": workers, "resumed_at": step, "survived": survived and is_alone(process.pid)}
        rows.append({**row, "survived": row["survived"] and not left})
        print(f"kill {number}: {rows[-1]}", flush=True)
    return rows


def is_alone(group: int, limit: float = 30) -> bool:
    """Whether no process of this session is left, within the seconds that a worker needs to see that its parent has gone."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


# ---------------------------------------------------------------------- draws


class Drawing(Dataset[Tensor]):
    """Item by item, what each module draws for a few images where the item is made."""

    def __init__(self, modules: int, images: int, items: int) -> None:
        self.modules = [CandidateViews(ViewSlot(RECIPE, 2, 1)) for _ in range(modules)]
        self.images, self.items = torch.zeros(images, 3, 256, 256, dtype=torch.uint8), items

    def __len__(self) -> int:
        return self.items

    def __getitem__(self, index: int) -> Tensor:
        rows = []
        for module in self.modules:
            params = module.make_params(self.images)
            rows.append(torch.cat([params.boxes, params.drawn["ColorJitter.factors"]], -1).flatten(0, 1))
        return torch.cat(rows)


def draws(rank: int, folder: Path, epochs: int = 5, workers: int = 4, modules: int = 5, images: int = 125) -> None:
    """What one rank draws in its own process and in the workers of some epochs."""
    begin()
    os.environ["RANK"] = str(rank)
    torch.manual_seed(0)
    dataset = Drawing(modules, images, workers)
    found = [dataset[0]]
    warnings.filterwarnings("ignore", "This DataLoader will create")  # it computes nothing that is timed
    loader = DataLoader(dataset, batch_size=None, num_workers=workers)
    for _ in range(epochs):
        found += [rows.clone() for rows in loader]
    torch.save(torch.cat(found), folder / f"rank{rank}.pt")


def shared_draws(folder: Path, ranks: int, context: Any, **sizes: int) -> dict[str, Any]:
    """Draw in several ranks, and count the rows that are there already."""
    processes = [context.Process(target=draws, args=(rank, folder), kwargs=sizes) for rank in range(ranks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    rows = torch.cat([torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(ranks)])
    return {"part": "draws", "draws": len(rows), "shared": len(rows) - len(torch.unique(rows, dim=0))}


def soak_into(pipe: Any, name: str, steps: int, folder: Path) -> None:
    pipe.send(soak(name, steps, folder))


def started(context: Any, name: str, steps: int, folder: Path) -> Any:
    """The end of a pipe to which a process sends the row of one part."""
    ours, theirs = multiprocessing.Pipe()
    context.Process(target=soak_into, args=(theirs, name, steps, folder)).start()
    theirs.close()
    return ours


def main(words: Sequence[str] | None = None) -> None:
    parser = arguments("soak", __doc__)
    parser.add_argument("--steps", type=int, default=5000, help="of each part, in whole epochs of 250")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments at which runs are killed")
    options = parser.parse_args(words)
    steps, kills = (500, 2) if options.quick else (options.steps // 250 * 250, options.kills)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hvs_aug.pretraining.loop", "hvs_aug.cli", "torchvision.transforms.v2"])
    with tempfile.TemporaryDirectory() as place:
        folders = {name: Path(place) / name for name in (*PARTS, "draws", "kills")}
        running = {name: started(context, name, steps, folders[name]) for name in PARTS}
        for name in ("draws", "kills"):
            folders[name].mkdir()
        drawn = shared_draws(folders["draws"], 2 if options.quick else 4, context)
        kill_rows = kill_runs(folders["kills"], kills, context, options.seed)
        rows = [pipe.recv() for pipe in running.values()]
    for part in (rows, [drawn], kill_rows):
        print(table(part, list(part[0])))
    rows += [drawn, *kill_rows]
    soaked = rows[: len(PARTS)]
    worst = max(soaked, key=lambda row: row["bytes_per_step"])
    summary = {
        "kills_survived": sum(row.get("survived", False) for row in rows),
        "steps_soaked": sum(row["steps"] for row in soaked),
        "bytes_leaked_per_step": worst["bytes_per_step"],
        "bytes_leaked_per_step_error": worst["bytes_per_step_error"],
        "heap_leaked_per_step": max(row["heap_per_step"] for row in soaked),
        "handles_leaked": sum(max(0, row[f"{key}_leaked"]) for row in soaked for key in ("files", "threads", "segments")),
        "draws_shared": drawn["shared"],
    }
    print(table([{"summary": key, "value": value} for key, value in summary.items()], ["summary", "value"]))
    settings = {"steps": steps, "kills": kills, "seed": options.seed, "side": SIDE, "batch": BATCH, "every": EVERY}
    write("soak", settings, rows, summary, options.out)


if __name__ == "__main__":
    main()
