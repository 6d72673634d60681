"""What the GPU renderer would start on a GPU: machine code without spills, few kernels, few bytes, little memory, no waiting."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hvs_aug import CandidateViews, ImageBatch, ViewRecipe, ViewSlot, ops
from hvs_aug.ops import gpu
from hvs_aug.views.presets import PRESETS, preset_slots

pytest.importorskip("triton", reason="Triton is not installed")

from benchmarks.gpu_launches import Launch, has_assembler, machine_code, rendering, type_of

pytestmark = pytest.mark.needs("triton>=3.6")


def everything() -> ViewSlot:
    """A slot with every operation that has a GPU kernel, twice a mean, and a blur between."""
    jitter = ops.ColorJitter(0.4, 0.4, 0.2, 0.1)
    first = [ops.RandomVerticalFlip(), ops.RandomInvert(), jitter, ops.RandomPosterize(4), ops.GaussianBlur(23)]
    last = [ops.RandomGrayscale(), jitter, ops.RandomSolarize(), ops.Normalize((0.5,) * 3, (0.2,) * 3), ops.RandomErasing()]
    return ViewSlot(ViewRecipe(96, [ops.RandomResizedCrop(), *first, *last]))


@functools.cache
def launches(recipe: str) -> tuple[Launch, ...]:
    if recipe == "everything":
        return rendering(everything(), 4, dtype=torch.bfloat16, channels_last=True).launches
    return rendering(preset_slots(recipe, 224)[-1], 4).launches


@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize(
    ("recipe", "number"),
    [
        *[("simclr", number) for number in range(4)],
        ("byol", 3),  # a blur, solarize and normalise
        *[("everything", number) for number in range(5)],
    ],
)
def test_machine_code_does_not_spill(recipe: str, number: int, capability: int) -> None:
    launch = launches(recipe)[number]
    if not has_assembler(capability):
        pytest.skip("Triton brings no ptxas")
    code = machine_code(launch, capability)
    assert code["spilled_bytes"] == 0
    assert 16 <= code["registers"] <= 168  # three blocks of 128 threads on a multiprocessor
    assert code["shared_bytes"] <= 16 * 1024
    assert code["tensor_core_instructions"] == 0  # which would round to TF32


@pytest.mark.parametrize("name", PRESETS)
def test_presets_take_at_most_eight_kernels_and_none_of_torchs(name: str) -> None:
    for slot in preset_slots(name, 224):
        rendered = rendering(slot, 64)
        assert 1 <= len(rendered.launches) <= 8
        assert rendered.torch_operations == ()
        assert rendered.waits == 0


def test_bytes_and_memory_of_simclr() -> None:
    """256 x 4 views at 224 from 500 x 375; and the counts would see a pass more."""
    rendered = rendering(preset_slots("simclr", 224)[0], 256)
    least = 3 * 224 * 224 * 4 + 3 * 375 * 500 / 4
    assert least < rendered.bytes_per_view() <= 5 * least
    assert rendered.sources + rendered.views <= rendered.peak <= 1.5 * (rendered.sources + rendered.views)
    blurred = ViewSlot(ViewRecipe(224, [ops.RandomResizedCrop(), ops.GaussianBlur(23)]))
    alone = rendering(blurred, 16)
    box = float(alone.boxes[..., 2:].prod(-1).double().mean()) * 3
    views = 3 * 224 * 224 * 4
    assert alone.bytes_per_view() == pytest.approx(box + 5 * views)  # written by the crop; twice read and written by the blur


def test_nothing_of_the_size_of_a_canvas_is_made() -> None:
    """Half precision and strided sources are read as they are: memory does not grow with their size."""
    slot = ViewSlot(ViewRecipe(8), candidates=1, select=1)
    small, large = (rendering(slot, 2, side, side) for side in (16, 512))
    assert large.peak - large.sources == small.peak - small.sources


def test_kernels_are_compiled_for_a_recipe_and_not_for_a_batch() -> None:
    """What a kernel is compiled for does not depend on the number and size of images, the scale, or the views' size."""
    slot = preset_slots("simclr", 224)[0]
    compiled = set()
    for batch, height, scale in ((3, 100, 1.0), (16, 375, 1.0), (17, 640, 0.5), (1, 50, 0.25)):
        for launch in rendering(slot, batch, height, scale=scale).launches:
            constants = {name: value for name, value in launch.arguments.items() if isinstance(value, (bool, str)) or value is None}
            fixed = {
                name for name in launch.kernel.arg_names if launch.kernel.params[launch.kernel.arg_names.index(name)].is_constexpr
            }
            constants |= {name: launch.arguments[name] for name in fixed}
            compiled.add((launch.name, str(sorted(constants.items()))))
    assert len(compiled) == 4


class StandInDriver:
    """What Triton asks of a driver before it starts a kernel."""

    def get_current_target(self) -> object:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


@pytest.mark.parametrize("size", [64, 1])  # numbers that are 1 are constants to Triton
def test_triton_itself_binds_the_arguments_of_a_launch(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that a launch does before it reaches the device; and the machine code above is that of these arguments."""
    from triton.runtime import driver

    (given,) = preset_slots("simclr", 64)
    slot = replace(given, recipe=replace(given.recipe.replace(ops.GaussianBlur, kernel_size=1), size=size)) if size == 1 else given
    images = ImageBatch.pack([torch.zeros(3, 40, 40, dtype=torch.uint8)])
    params = CandidateViews(slot).make_params(images)
    drawn = {name: params.draws(name) for name, _ in slot.recipe.steps}
    bound = []

    def bind(kernel: Any, grid: tuple[int, ...], **arguments: Any) -> None:
        bound.append((kernel, arguments, kernel.warmup(**arguments, grid=grid, enable_fp_fusion=True)))

    monkeypatch.setattr(gpu, "_launch", bind)
    monkeypatch.setattr(driver, "_active", StandInDriver())
    gpu.render(images, params.boxes, drawn, slot.recipe.plan())
    assert [kernel.fn.__name__ for kernel, _, _ in bound] == ["crop_pass", "pixel_pass", "blur_rows", "blur_pass"]
    for kernel, arguments, compiled in bound:
        for name, kind in compiled.src.signature.items():
            if kind != "constexpr":
                assert kind == type_of(arguments[name]), (kernel.fn.__name__, name)


def test_what_the_host_does_for_one_slot() -> None:
    """Counted, not timed: Python frames and operations of torch, beside the launches."""
    slot = preset_slots("simclr", 224)[0]
    views = CandidateViews(slot)
    images = ImageBatch.of(torch.zeros(1, 3, 50, 50, dtype=torch.uint8).expand(256, -1, -1, -1))
    params = views.make_params(images, torch.Generator().manual_seed(0))
    drawn = {name: params.draws(name) for name, _ in slot.recipe.steps}
    plan = slot.recipe.plan()

    def render() -> None:
        with mock.patch.object(gpu, "_launch", NoLaunch()):
            gpu.render(images, params.boxes, drawn, plan)

    frames, operations = count_frames(render), count_operations(render)
    assert 20 <= frames <= 160 and 1 <= operations <= 10
    frames, operations = (count(lambda: views.make_params(images)) for count in (count_frames, count_operations))
    assert 20 <= frames <= 100 and 20 <= operations <= 110


class NoLaunch:
    def __call__(self, kernel: object, grid: object, **arguments: object) -> None:
        """Start nothing."""


def count_frames(run: Callable[[], object]) -> int:
    """How many Python functions are called."""
    run()  # fills caches
    calls = 0

    def see(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(see)
    try:
        run()
    finally:
        sys.setprofile(None)
    return calls


class Operations(TorchDispatchMode):
    """Counts operations that are no views."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def count_operations(run: Callable[[], object]) -> int:
    with Operations() as operations:
        run()
    return operations.count
