"""How fast the pair is found once the outputs are there, against the published way, and how much harder it is.

    python -m benchmarks.selection [--quick] [--device cpu|cuda] [--out FILE]

Method: contestants run in turn in one process on the same outputs (``benchmarks.common``). ``published`` is a straightforward
implementation in the published style (``benchmarks/published.py``): 128 random combinations, the loss of each computed
anew, and a running maximum. ``hvs_aug`` is the table and the exact search. The forward that makes the outputs is in neither.

Outputs are made up: cosines of unit vectors with unit prototypes, as DINO's head returns them, in 16 dimensions, where a softmax
over them is about as sharp as a trained head's; each view is its image's vector plus noise of the given share, the teacher's is
a little off the student's. The mean loss depends on that share, so it is a column; the summary's is that of 0.5.

Summary: ``dino_vs_published``: B=32, 65,536 prototypes, 4 global and 16 local candidates, time of published / time of hvs_aug.
``dino_loss_gained``: mean loss of the exact optimum / that of the 128 combinations. ``simclr_vs_published``: B=256, 4 candidates,
128 dimensions, time likewise. ``peak_bytes_vs_outputs``: bytes alive at once, beside the outputs, over the outputs' own, at
B=64, 20 candidates, 65,536 prototypes: tensors counted, or a GPU's own count with ``--device cuda``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.common import arguments, interleave, summarise, table, write
from benchmarks.live_bytes import LiveBytes
from benchmarks.published import interleaved, published_dino, published_simclr_table_search
from hvs_aug.selection import policies
from hvs_aug.selection.losses import DINOLoss, NTXentLoss
from hvs_aug.selection.search import exact, sampled, selection_loss
from hvs_aug.views.recipe import ViewSlot

TEACHER, STUDENT = 0.04, 0.1
"""DINO's temperatures."""


def dino_slots(local: int) -> tuple[ViewSlot, ...]:
    """Two globals, each the best of two, and half of the local candidates."""
    first, second = (ViewSlot(None, 2, 1, name=f"global {place}") for place in (1, 2))
    return (first, second, ViewSlot(None, local, local // 2, name="local", role="local"))


def dino_outputs(batch: int, local: int, width: int, noise: float, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """The student's outputs (V, B, K), the teacher's of the four globals, and the centre (K,)."""
    generator = torch.Generator().manual_seed(0)

    def unit(*shape: int) -> Tensor:
        return F.normalize(torch.randn(shape, generator=generator), dim=-1)

    prototypes = unit(width, 16).T
    views = F.normalize((1 - noise) * unit(1, batch, 16) + noise * unit(4 + local, batch, 16), dim=-1)
    taught = F.normalize(views[:4] + 0.2 * unit(4, batch, 16), dim=-1)
    student, teacher = views @ prototypes, taught @ prototypes
    return student.to(device), teacher.to(device), teacher.mean((0, 1)).to(device)


def dino_contestants(batch: int, local: int, width: int, noise: float, device: str) -> dict[str, Callable[[], Tensor]]:
    """Each returns the losses (B,) of the views that it keeps."""
    slots = dino_slots(local)
    student, teacher, center = dino_outputs(batch, local, width, noise, device)
    loss = DINOLoss(TEACHER, STUDENT, center)
    by_slot, taught = list(student.split([2, 2, local])), [*teacher.split([2, 2]), None]
    order = interleaved(2, local)
    crops, targets = [student[view] for view in order], [teacher[view] for view in order[:4]]
    generator = torch.Generator().manual_seed(0)

    def ours(search: Callable[[Tensor, Sequence[ViewSlot]], Tensor]) -> Tensor:
        losses = loss.table(by_slot, taught, slots)
        return selection_loss(losses, search(losses, slots))

    return {
        "hvs_aug": partial(ours, exact),
        "hvs_aug, 128 sampled": partial(ours, partial(sampled, limit=128, generator=generator)),
        "published": lambda: published_dino(crops, targets, center, TEACHER, STUDENT, local // 2, 128, generator)[1],
    }


def simclr_contestants(views: int, batch: int, width: int, device: str) -> dict[str, Callable[[], Tensor]]:
    """Each returns the losses (B,) of the pairs that it keeps."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(views, batch, width, generator=generator)
    outputs = (torch.randn(batch, width, generator=generator) + noise).to(device)
    slots, loss = (ViewSlot(None, views, 2),), NTXentLoss(0.1)

    def ours() -> Tensor:
        losses = loss.table([outputs], None, slots)
        return selection_loss(losses, exact(losses, slots))

    return {"hvs_aug": ours, "published": lambda: published_simclr_table_search(outputs, 0.1)[1]}


def compare(workload: str, sizes: dict[str, Any], runs: dict[str, Callable[[], Tensor]], repeats: int) -> list[dict[str, Any]]:
    """One row for each contestant: its time, and the mean loss of what it kept."""
    times = interleave(runs, repeats=repeats, warmup=1)
    rows = []
    for name, run in runs.items():
        kept = float(run().mean())
        rows.append({"workload": workload, **sizes, "contestant": name, **summarise(times[name]), "mean_loss": kept})
    print(table(rows, [*rows[0]]))
    return rows


def scaling(
    workload: str, base: dict[str, int], steps: dict[str, Sequence[int]], device: str, repeats: int
) -> list[dict[str, Any]]:
    """Ours alone, the table and the search apart, with one size changed at a time."""
    rows = []
    for name, values in steps.items():
        for value in values:
            sizes = {**base, name: value}
            if workload == "dino":
                slots = dino_slots(sizes["local"])
                student, teacher, center = dino_outputs(sizes["batch"], sizes["local"], sizes["width"], 0.5, device)
                outputs: Any = list(student.split([2, 2, sizes["local"]])), [*teacher.split([2, 2]), None], slots
                make = partial(DINOLoss(TEACHER, STUDENT, center).table, *outputs)
            else:
                slots = (ViewSlot(None, sizes["views"], 2),)
                outputs = [torch.randn(sizes["views"], sizes["batch"], sizes["width"], device=device)], None, slots
                make = partial(NTXentLoss(0.1).table, *outputs)
            times = interleave({"table": make, "search": partial(exact, make(), slots)}, repeats=repeats, warmup=1)
            for part, seconds in times.items():
                rows.append({"workload": f"{workload} {name}", **sizes, "contestant": f"hvs_aug {part}", **summarise(seconds)})
    print(table(rows, [*rows[0]]))
    return rows


def policy_rows(batch: int, device: str, repeats: int) -> list[dict[str, Any]]:
    """The time of each policy on DINO's table."""
    slots = dino_slots(16)
    losses = torch.randn(20, 20, batch, device=device)
    made = {
        "hardest": policies.hardest(),
        "hardest, guarded": policies.hardest(0.95),
        "easiest": policies.easiest(),
        "random": policies.random(),
        "softmax": policies.softmax(0.1),
        "semi_hard": policies.semi_hard(0.5),
        "mixture": policies.mixture(0.5),
    }
    generator = torch.Generator().manual_seed(0)
    runs = {name: partial(policy, losses, slots, params=None, step=0, generator=generator) for name, policy in made.items()}
    times = interleave(runs, repeats=repeats, warmup=1)
    rows = [{"workload": "policies", "batch": batch, "contestant": name, **summarise(times[name])} for name in made]
    print(table(rows, [*rows[0]]))
    return rows


def peak_bytes(batch: int, width: int, device: str) -> float:
    """Bytes alive at once while DINO's table is made, over the bytes of the outputs: 4 global and 16 local candidates."""
    slots = dino_slots(16)

    def empty(views: int) -> Tensor:
        return torch.zeros(views, batch, width, device=device)

    def outputs() -> tuple[list[Tensor], list[Tensor | None]]:
        return [empty(2), empty(2), empty(16)], [empty(2), empty(2), None]

    own = (20 + 4) * batch * width * 4
    if device == "cpu":
        with FakeTensorMode():
            student, teacher = outputs()
            with LiveBytes() as count:
                DINOLoss(center=torch.zeros(width)).table(student, teacher, slots)
        return count.peak / own
    student, teacher = outputs()
    center = torch.zeros(width, device=device)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    DINOLoss(center=center).table(student, teacher, slots)
    return (torch.cuda.max_memory_allocated() - before) / own


def main() -> None:
    parser = arguments("selection", __doc__)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    quick, device = options.quick, options.device
    repeats = 2 if quick else options.repeats
    width, batch, simclr_batch = (512, 4, 16) if quick else (65536, 32, 256)

    rows, dino = [], []
    for noise in (0.5,) if quick else (0.3, 0.5, 0.7):
        sizes = {"batch": batch, "local": 16, "width": width, "noise": noise}
        dino += compare("dino", sizes, dino_contestants(batch, 16, width, noise, device), repeats)
    simclr_sizes = {"views": 4, "batch": simclr_batch, "width": 128}
    simclr = compare("simclr", simclr_sizes, simclr_contestants(4, simclr_batch, 128, device), repeats)
    rows += dino + simclr
    if quick:
        dino_steps: dict[str, Sequence[int]] = {"batch": [2, 4]}
        simclr_steps: dict[str, Sequence[int]] = {"views": [2, 4]}
    else:
        dino_steps = {"batch": [8, 16, 32, 64, 128], "local": [8, 16, 32], "width": [1024, 4096, 16384, 65536]}
        simclr_steps = {"batch": [64, 128, 256, 512, 1024], "views": [2, 4, 8, 16], "width": [64, 128, 512, 2048]}
    rows += scaling("dino", {"batch": batch, "local": 16, "width": width}, dino_steps, device, repeats)
    rows += scaling("simclr", simclr_sizes, simclr_steps, device, repeats)
    rows += policy_rows(batch, device, repeats)

    def value(part: Sequence[dict[str, Any]], contestant: str, key: str) -> float:
        found = [row[key] for row in part if row["contestant"] == contestant and row.get("noise", 0.5) == 0.5]
        return float(found[0])

    summary = {
        "dino_vs_published": value(dino, "published", "median") / value(dino, "hvs_aug", "median"),
        "dino_loss_gained": value(dino, "hvs_aug", "mean_loss") / value(dino, "published", "mean_loss"),
        "simclr_vs_published": value(simclr, "published", "median") / value(simclr, "hvs_aug", "median"),
        "peak_bytes_vs_outputs": peak_bytes(64, 65536, device),
    }
    print(table([{"summary": key, "value": number} for key, number in summary.items()], ["summary", "value"]))
    settings = {
        "device": device,
        "quick": quick,
        "combinations": 128,
        "dino": {"batch": batch, "width": width},
        "simclr": simclr_sizes,
    }
    write("selection", settings, rows, summary, options.out)


if __name__ == "__main__":
    main()
