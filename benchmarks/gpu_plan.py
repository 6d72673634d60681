"""What the GPU renderer starts, moves and needs, counted without a GPU.

    python -m benchmarks.gpu_plan [--quick] [--out FILE]

Method: the renderer runs on stand-in tensors, and what it would start is recorded. Bytes are counted from shapes, and from the
boxes and sigmas that were drawn: every value that a kernel reads or writes counts once for that kernel. That the candidates of one
image share its pixels in the GPU's cache is not counted on. The least is every source pixel read once and every view written once.
Registers and spilled bytes are those of ``ptxas -v`` on the machine code that Triton builds for three generations of GPUs. Nothing
here was timed: ``limit_ms`` is how long an H100 takes to move the least of 256 x 4 float32 views at 3.35 TB/s, ``moved_ms`` how
long it takes to move what is counted.
"""

from __future__ import annotations

from typing import Any

from benchmarks.common import arguments, table, write
from benchmarks.gpu_launches import Rendering, has_assembler, machine_code, rendering
from hvs_aug._check import require
from hvs_aug.ops import gpu
from hvs_aug.views.presets import PRESETS, preset_slots

SIZE, HEIGHT, WIDTH = 224, 375, 500
CAPABILITIES = (80, 90, 100)
BANDWIDTH = 3.35e12  # bytes a second, NVIDIA H100 SXM data sheet


def least_bytes(rendered: Rendering) -> float:
    """Of all views: the sources once, and what is written once."""
    return rendered.sources + rendered.views


def main() -> None:
    parser = arguments("gpu_plan", __doc__)
    options = parser.parse_args()
    require(
        gpu.is_installed(),
        "gpu_plan",
        "a Triton of 3.6 or newer, which builds the kernels",
        "none",
        "pip install triton, on Linux.",
    )
    batch = 16 if options.quick else 256
    rows: list[dict[str, Any]] = []
    summary: dict[str, float] = {}
    most = 0
    for name in ["simclr"] if options.quick else PRESETS:
        for slot in preset_slots(name, SIZE):
            rendered = rendering(slot, batch, HEIGHT, WIDTH)
            views = rendered.boxes.shape[0] * batch
            kernels = len(rendered.launches) + len(rendered.torch_operations)
            most = max(most, kernels)
            row: dict[str, Any] = {
                "preset": name,
                "slot": slot.name,
                "views": views,
                "kernels": kernels,
                "bytes_per_view": rendered.bytes_per_view(),
                "least_bytes_per_view": least_bytes(rendered) / views,
                "bytes_vs_least": rendered.bytes_per_view() * views / least_bytes(rendered),
                "peak_vs_sources_and_views": rendered.peak / least_bytes(rendered),
                "blocking_copies": rendered.waits,
            }
            rows.append(row)
            if name == "simclr":
                summary["gpu_bytes_vs_least"] = row["bytes_vs_least"]
                summary["peak_vs_sources_and_views"] = row["peak_vs_sources_and_views"]
                summary["limit_ms"] = 1e3 * least_bytes(rendered) / BANDWIDTH
                summary["moved_ms"] = 1e3 * rendered.bytes_per_view() * views / BANDWIDTH
                rows += machine_rows(rendered)
    summary["kernels_per_slot"] = most
    print(table([row for row in rows if "kernels" in row], ["preset", "slot", "kernels", "bytes_per_view", "bytes_vs_least"]))
    print(table([row for row in rows if "kernel" in row], ["kernel", "capability", "registers", "spilled_bytes", "shared_bytes"]))
    settings = {"size": SIZE, "images": batch, "height": HEIGHT, "width": WIDTH, "bandwidth": BANDWIDTH}
    write("gpu_plan", settings, rows, summary, options.out)


def machine_rows(rendered: Rendering) -> list[dict[str, Any]]:
    """Registers and spills of each kernel of SimCLR for each generation of GPUs."""
    kernels = {launch.name: launch for launch in rendered.launches}
    return [
        {"kernel": name, "capability": f"sm_{capability}", **machine_code(launch, capability)}
        for name, launch in kernels.items()
        for capability in CAPABILITIES
        if has_assembler(capability)
    ]


if __name__ == "__main__":
    main()
