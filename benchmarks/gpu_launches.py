"""What the GPU renderer would do, without a GPU: its launches on stand-in tensors, their bytes and memory, and machine code."""

from __future__ import annotations

import re
import subprocess
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hvs_aug import CandidateViews, ImageBatch, ViewSlot
from hvs_aug.ops import gpu

__all__ = ["Launch", "Rendering", "has_assembler", "machine_code", "rendering", "type_of"]


@dataclass(frozen=True)
class Launch:
    """One kernel that would be started: its name, its number of programs, and its arguments, tensors as stand-ins."""

    name: str
    kernel: Any
    programs: int
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Rendering:
    """What rendering one slot would start and need.

    Attributes:
        launches: the kernels of Triton.
        torch_operations: the names of torch's own operations on the device.
        waits: how many copies to the device make the host wait.
        peak: bytes on the device at most, the sources and the views among them.
        sources: bytes of the source images.
        views: bytes of the rendered views.
        boxes, sigmas: what was drawn, on the CPU.
    """

    launches: tuple[Launch, ...]
    torch_operations: tuple[str, ...]
    waits: int
    peak: int
    sources: int
    views: int
    boxes: Tensor
    sigmas: Tensor | None

    def bytes_per_view(self) -> float:
        """Bytes that the kernels read and write for one view, each value once a kernel: a cache between kernels is not counted on.

        A crop reads its box; a kernel that blurs reads and writes what is blurred, and the last one the others too where
        operations follow it.
        """
        total = 0.0
        count = self.boxes.shape[0] * self.boxes.shape[1]
        area = self.boxes[..., 2] * self.boxes[..., 3]
        for launch in self.launches:
            given = launch.arguments
            pixels = given["channels"] * given["area"]
            rendered = launch.programs // _programs_of_view(launch)
            share = rendered / count
            if launch.name == "crop_pass":
                total += share * given["channels"] * given["values"].element_size() * float(area.double().mean())
                total += share * pixels * given["target"].element_size()
                continue
            moved = pixels * 4
            if launch.name == "blur_rows":
                total += share * self._blurred() * 2 * moved
                continue
            written = pixels * given["target"].element_size()
            only_blurred = launch.name == "blur_pass" and given["is_in_place"] and not given["steps"] and given["mean_of"] is None
            total += share * (self._blurred() if only_blurred else 1.0) * (moved + written)
        return total

    def _blurred(self) -> float:
        """The share of views that are blurred."""
        assert self.sigmas is not None
        return float((self.sigmas > 0).double().mean())


def _programs_of_view(launch: Launch) -> int:
    given = launch.arguments
    return gpu._tiles("crop" if launch.name == "crop_pass" else "pixels", given["area"] // given["width"], given["width"])


def rendering(slot: ViewSlot, batch: int, height: int = 375, width: int = 500, scale: float = 1.0, **options: Any) -> Rendering:
    """Render the candidates of a slot from a packed uint8 batch of images of one size, on stand-in tensors."""
    views = CandidateViews(slot)
    sizes = torch.tensor([[height, width]]).expand(batch, 2)
    offsets = torch.arange(batch) * (3 * height * width)
    values = torch.zeros(1, dtype=torch.uint8).expand(batch * 3 * height * width)
    params = views.make_params(ImageBatch(values, sizes, offsets, 3), torch.Generator().manual_seed(0))
    with FakeTensorMode(allow_non_fake_inputs=True), _recorded() as launches, _Memory() as memory:
        pixels = torch.empty(batch * 3 * height * width, dtype=torch.uint8, device="cuda")
        moved = {name: value.to("cuda") for name, value in params.drawn.items()}
        boxes = params.boxes.to("cuda")
        memory.operations.clear()
        memory.waits = 0
        drawn = {name: {key: moved[f"{name}.{key}"] for key in operation.identity} for name, operation in slot.recipe.steps}
        out = gpu.render(ImageBatch(pixels, sizes, offsets, 3), boxes, drawn, slot.recipe.plan(scale), **options)
        written = out.numel() * out.element_size()
    sigmas = [value for name, value in params.drawn.items() if name.endswith(".sigma")]
    operations = tuple(name for name in memory.operations if not name.startswith("aten._to_copy"))
    return Rendering(
        tuple(launches), operations, memory.waits, memory.peak, pixels.numel(), written, params.boxes, sigmas[0] if sigmas else None
    )


@contextmanager
def _recorded() -> Iterator[list[Launch]]:
    """Collect launches instead of starting them."""
    launches: list[Launch] = []

    def record(kernel: Any, grid: tuple[int, ...], **arguments: Any) -> None:
        name = getattr(kernel, "fn", kernel).__name__
        launches.append(Launch(name, kernel, grid[0], _without_memory(arguments)))

    with mock.patch.object(gpu, "_launch", record):
        yield launches


def _without_memory(value: Any) -> Any:
    """The arguments with tensors of no values, of the same dtypes."""
    if isinstance(value, Tensor):
        return torch.empty(0, dtype=value.dtype, device="cpu")
    if isinstance(value, dict):
        return {name: _without_memory(entry) for name, entry in value.items()}
    return type(value)(map(_without_memory, value)) if isinstance(value, tuple) else value


class _Memory(TorchDispatchMode):
    """Adds up the tensors on the device that are alive, and names the operations that compute something there."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = self.waits = 0
        self.operations: list[str] = []
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        on_device = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and leaf.device.type == "cuda"]
        if on_device and not func.is_view and "empty" not in str(func):
            self.operations.append(str(func))
        if on_device and func is torch.ops.aten._to_copy.default and not (kwargs or {}).get("non_blocking"):
            self.waits += 1
        for tensor in on_device:
            storage = tensor.untyped_storage()
            if storage._cdata not in self._known:
                self._known.add(storage._cdata)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())
        return result

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def machine_code(launch: Launch, capability: int) -> dict[str, int]:
    """Compile a launch for a compute capability (80, 90, 100), and say what ``ptxas -v`` says of it, and what it holds.

    Raises: RuntimeError if ptxas fails, or says neither.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia.compiler import get_ptxas
    from triton.compiler import ASTSource

    names = launch.kernel.arg_names
    constants = {
        (names.index(name),): value for name, value in launch.arguments.items() if _is_constant(launch.kernel, name, value)
    }
    signature = {
        name: "constexpr" if (index,) in constants else type_of(launch.arguments[name]) for index, name in enumerate(names)
    }
    # Triton assumes as much of every pointer that torch allocates.
    aligned = {
        (index,): [["tt.divisibility", 16]]
        for index, name in enumerate(names)
        if (index,) not in constants and _is_aligned(launch.kernel, index, launch.arguments[name])
    }
    source = ASTSource(launch.kernel, signature, constants, aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"enable_fp_fusion": True})
    architecture = re.search(r"\.target (\w+)", compiled.asm["ptx"])
    assert architecture is not None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(compiled.asm["ptx"])
        command = [
            get_ptxas(capability).path,
            "-v",
            "--gpu-name",
            architecture[1],
            str(path),
            "-o",
            str(path.with_suffix(".cubin")),
        ]
        said = subprocess.run(command, capture_output=True, text=True, check=False)
    registers = re.search(r"Used (\d+) registers", said.stderr)
    spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", said.stderr)
    if said.returncode != 0 or registers is None or spills is None:
        raise RuntimeError(f"ptxas failed on {launch.name}: {said.stderr[-2000:]}")
    return {
        "registers": int(registers[1]),
        "spilled_bytes": int(spills[1]) + int(spills[2]),
        "shared_bytes": int(compiled.metadata.shared),
        "tensor_core_instructions": len(re.findall(r"\bw?g?mma\b|\btcgen05", compiled.asm["ptx"])),
    }


def has_assembler(capability: int) -> bool:
    """Whether Triton finds its ptxas for a compute capability."""
    from triton.backends.nvidia.compiler import get_ptxas

    try:
        return Path(get_ptxas(capability).path).exists()
    except RuntimeError:
        return False


def _is_constant(kernel: Any, name: str, value: Any) -> bool:
    return value is None or bool(kernel.params[kernel.arg_names.index(name)].is_constexpr)


def _is_aligned(kernel: Any, index: int, value: Any) -> bool:
    """Whether Triton takes a pointer or a number for a multiple of 16."""
    if isinstance(value, Tensor):
        return not kernel.params[index].do_not_specialize_on_alignment
    return isinstance(value, int) and value % 16 == 0 and not kernel.params[index].do_not_specialize


_TYPES = {
    torch.bool: "u1",
    torch.uint8: "u8",
    torch.uint16: "u16",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float32: "fp32",
    torch.float64: "fp64",
}


def type_of(value: Any) -> Any:
    """The type of an argument, as Triton writes it."""
    if isinstance(value, Tensor):
        return f"*{_TYPES[value.dtype]}"
    if isinstance(value, tuple):
        return tuple(map(type_of, value))
    if isinstance(value, float):
        return "fp32"
    return "i32" if -(2**31) <= value < 2**31 else "i64"
