"""Which renderer CandidateViews takes, what it refuses before it starts, and what it does where memory does not suffice."""

from __future__ import annotations

import runpy
import sys
import warnings
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import Tensor

from hvs_aug import CandidateViews, HVSError, ImageBatch
from hvs_aug.ops import batched, cpu, gpu, triton_kernel


def batch_on(device: str, channels: int = 3) -> SimpleNamespace:
    return SimpleNamespace(device=torch.device(device), pixels=torch.zeros(1), channels=channels)


def test_by_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "why_not", lambda device, channels: "")
    views = CandidateViews.preset("simclr", 16)
    assert views._renderer_of(batch_on("cpu")) is (cpu.render if cpu.is_available() else batched.render)
    assert views._renderer_of(batch_on("cuda")) is gpu.render
    assert CandidateViews.preset("simclr", 16, renderer="definition")._renderer_of(batch_on("cuda")) is batched.render


@pytest.mark.parametrize("device", ["mps", "xpu"])
def test_other_devices_get_the_definition_without_a_warning(device: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert CandidateViews.preset("simclr", 16)._renderer_of(batch_on(device)) is batched.render


def test_one_warning_where_the_kernels_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "triton", None)
    monkeypatch.setattr(gpu, "WHY_MISSING", "Triton is not installed")
    views = CandidateViews.preset("simclr", 16)
    with pytest.warns(UserWarning, match="renders slowly on cuda, without its kernels: Triton is not installed"):
        assert views._renderer_of(batch_on("cuda")) is batched.render
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert views._renderer_of(batch_on("cuda")) is batched.render


def test_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(gpu, "triton", SimpleNamespace(__version__="3.6.0"))
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(gpu, "_driver_failure", lambda: "")
    assert gpu.why_not(cuda, 3) == ""
    assert "16 channels" in gpu.why_not(cuda, 17)
    assert "CPU" in gpu.why_not(torch.device("cpu"), 3)
    monkeypatch.setattr(gpu, "_driver_failure", lambda: "Triton does not start: no C compiler")
    assert "no C compiler" in gpu.why_not(cuda, 3)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert "below 8.0" in gpu.why_not(cuda, 3)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "NVIDIA" in gpu.why_not(cuda, 3)
    monkeypatch.setattr(gpu, "triton", None)
    monkeypatch.setattr(gpu, "WHY_MISSING", "Triton 3.0.0 is older than 3.6")
    assert "older than 3.6" in gpu.why_not(cuda, 3)
    with pytest.raises(HVSError, match="renderer"):
        CandidateViews.preset("simclr", 16, renderer="triton")


@pytest.mark.parametrize("version, why", [("3.0.0", "Triton 3.0.0 is older than 3.6"), (None, "Triton is not installed")])
def test_an_old_triton_is_not_touched(version: str | None, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch 2.4 brings Triton 3.0, whose decorators do not know our options: importing the library failed."""
    old = None if version is None else ModuleType("triton")
    monkeypatch.setitem(sys.modules, "triton", old)
    monkeypatch.setitem(sys.modules, "triton.language", old)
    if old is not None:
        old.__version__, old.language = version, None
    monkeypatch.setitem(sys.modules, "old_kernel", ModuleType("old_kernel"))  # dataclasses look the module up
    loaded = runpy.run_path(triton_kernel.__file__, run_name="old_kernel")
    assert loaded["triton"] is None and loaded["tl"] is None and loaded["WHY_MISSING"] == why
    assert loaded["launched"](varying=(), tables=())(len) is len and loaded["gpu_kernel"](len).function is len


def test_a_driver_that_does_not_start_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise RuntimeError("no driver")

    driver = SimpleNamespace(active=SimpleNamespace(get_current_target=fails))
    monkeypatch.setattr(gpu, "triton", SimpleNamespace(runtime=SimpleNamespace(driver=driver)))
    gpu._driver_failure.cache_clear()
    assert gpu._driver_failure() == "Triton does not start: no driver"
    gpu._driver_failure.cache_clear()


@pytest.mark.needs("triton>=3.6")
def test_triton_is_refused_for_images_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    views = CandidateViews.preset("simclr", 16, renderer="triton")
    with pytest.raises(HVSError, match="NVIDIA GPU"):
        views(torch.zeros(1, 3, 20, 20, dtype=torch.uint8))


class SmallMemory:
    """A renderer that fails with more than so many images, and counts how many it is given."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.given: list[int] = []

    def render(self, images: ImageBatch, *rest: object) -> Tensor:
        self.given.append(len(images))
        if len(images) > self.most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return batched.render(images, *rest)


def test_out_of_memory_is_tried_again_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randint(0, 256, (20, 3, 24, 20), dtype=torch.uint8)
    views = CandidateViews.preset("simclr", 16, renderer="definition")
    params = views.make_params(images)
    (expected,) = views.transform(images, params)
    memory = SmallMemory(3)
    monkeypatch.setattr(views, "_renderer_of", lambda batch: memory.render)
    with pytest.warns(UserWarning, match="set chunk=3"):
        (rendered,) = views.transform(images, params)
    assert memory.given == [20, 3, 3, 3, 3, 3, 3, 2]
    assert torch.equal(rendered, expected)
    views.chunk = 3
    assert torch.equal(views.transform(images, params)[0], expected)


def test_out_of_memory_twice_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.zeros(20, 3, 24, 20, dtype=torch.uint8)
    views = CandidateViews.preset("simclr", 16)
    memory = SmallMemory(0)
    monkeypatch.setattr(views, "_renderer_of", lambda batch: memory.render)
    with pytest.warns(UserWarning, match="set chunk=3"), pytest.raises(torch.cuda.OutOfMemoryError):
        views(images)
    assert memory.given == [20, 3]


@pytest.mark.parametrize("chunk", [0, -1, 2.5, True])
def test_chunks_are_counted(chunk: object) -> None:
    with pytest.raises(HVSError, match="chunk"):
        CandidateViews.preset("simclr", 16).__class__(CandidateViews.preset("simclr", 16).slots, chunk=chunk)
