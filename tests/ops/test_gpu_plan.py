"""What the GPU renderer would start on a GPU: machine code without spills, few kernels, few bytes, little memory, no waiting."""

from __future__ import annotations

import functools

import pytest
import torch

from hvs_aug import ViewRecipe, ViewSlot, ops
from hvs_aug.views.presets import PRESETS, preset_slots

pytest.importorskip("triton", reason="Triton is not installed")

from benchmarks.gpu_launches import Launch, has_assembler, machine_code, rendering


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
