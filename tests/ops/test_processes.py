"""Without numba, without a cache on disk, in forked processes: the same views."""

from __future__ import annotations

import logging
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hvs_aug import CandidateViews, HVSError, ViewParams, ViewRecipe, ViewSlot, ops
from hvs_aug.ops import cpu, kernel
from tests.ops.pictures import of_dtype, pictures

RECIPE = ViewRecipe(
    20, [ops.RandomResizedCrop(), ops.RandomHorizontalFlip(), ops.ColorJitter(0.4, 0.4, 0.4, 0.1), ops.RandomSolarize()]
)


def rendered(renderer: str = "auto", params: ViewParams | None = None) -> tuple[Tensor, ViewParams]:
    views = CandidateViews(ViewSlot(RECIPE, 2, 1), renderer=renderer)
    images = of_dtype(pictures(33, 40), torch.uint8)
    params = params or views.make_params(images, torch.Generator().manual_seed(0))
    return views.transform(images, params)[0], params


@pytest.mark.parametrize("reason", ["not installed", "switched off"])
def test_without_numba_the_definition_renders_and_one_warning_says_so(
    reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected, params = rendered("definition")
    if reason == "not installed":
        monkeypatch.setattr(kernel, "numba", None)
    else:
        monkeypatch.setattr(kernel.numba.config, "DISABLE_JIT", 1)
    cpu.warn_if_missing.cache_clear()
    with caplog.at_level(logging.WARNING, "hvs_aug"):
        for _ in range(3):
            assert torch.equal(rendered("auto", params)[0], expected)
    cpu.warn_if_missing.cache_clear()
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "numba is not installed, or NUMBA_DISABLE_JIT is set"
    ]
    with pytest.raises(HVSError, match=r"CandidateViews\(renderer\): expected numba for 'cpu', got no such package"):
        rendered("cpu", params)


def test_with_numba_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    rendered()  # a first use may say that it compiled
    caplog.clear()
    cpu.warn_if_missing.cache_clear()
    rendered("auto")
    rendered("definition")
    assert caplog.records == []


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(28, "No space left on device")], ids=str)
def test_where_no_cache_can_be_written_the_renderer_is_compiled_all_the_same(
    error: OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    from numba.core import caching

    def refused(self: object, *_: object) -> None:
        raise error

    if isinstance(error, PermissionError):
        # What numba finds where the home, and the folder of the package, are read-only.
        monkeypatch.setattr(caching._CacheLocator, "ensure_cache_path", refused)
        monkeypatch.setattr(kernel.numba.config, "CACHE_DIR", "")
    else:
        monkeypatch.setattr(caching.IndexDataCacheFile, "save", refused)
        monkeypatch.setattr(caching.IndexDataCacheFile, "load", lambda self, key: None)
    fresh = ops.cpu_kernel(ops.RandomInvert.cpu_kernel.function)
    assert fresh.address != 0
    assert fresh.address == fresh.address != ops.RandomInvert.cpu_kernel.address


def test_the_cache_is_of_these_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel calls functions of other files, whose changes numba's cache does not see."""
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "gray.py").write_text(f"RED = '{name}'")
        (tmp_path / name / "jitter.py").write_text("from .gray import RED")
    digests = {kernel.digest_of_sources(tmp_path / name) for name in ("one", "other")}
    assert len(digests) == 2
    names = []
    for digest in ("one", "other"):
        monkeypatch.setattr(kernel, "digest_of_sources", lambda folder, digest=digest: digest)
        kernel.compiled(
            lambda cache: lambda function: names.append((cache, function.__qualname__)), ops.RandomInvert.cpu_kernel.function
        )
    assert names == [(True, "invert.one"), (True, "invert.other")]


def test_threads_that_start_together_compile_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(cpu, "_compiled_walk", lambda dtype, make=cpu._compiled_walk: made.append(dtype) or make(dtype))
    cpu._walk.cache_clear()
    expected, params = rendered("definition")
    cpu._walk.cache_clear()
    made.clear()
    results: list[Tensor] = []
    threads = [threading.Thread(target=lambda: results.append(rendered("cpu", params)[0])) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == ["uint8"] and len(results) == 6
    for result in results:
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)


def run(script: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    import os

    environment = {key: value for key, value in os.environ.items() if key != "NUMBA_CACHE_DIR"} | environment
    command = [sys.executable, "-c", textwrap.dedent(script)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=environment, cwd=Path(__file__).parents[2], check=False
    )


def test_the_package_works_where_numba_cannot_be_imported(tmp_path: Path) -> None:
    result = run(
        """
        import sys
        sys.modules["numba"] = None
        import torch
        from hvs_aug import CandidateViews
        views = CandidateViews.preset("simclr", size=32)
        images = torch.randint(0, 256, (4, 3, 40, 50), dtype=torch.uint8)
        params = views.make_params(images)
        first, = views.transform(images, params)
        second, = views.transform(images, params)
        assert torch.equal(first, second) and first.isfinite().all()
        assert not any(name.startswith(("numba.", "llvmlite")) for name in sys.modules)
        """,
        tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("numba is not installed") == 1


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="no fork on this system")
def test_a_child_forked_while_a_thread_compiles_or_renders_renders_the_same(tmp_path: Path) -> None:
    result = run(
        """
        import os, signal, threading, time
        import numpy as np
        import torch
        from hvs_aug import CandidateViews, ViewRecipe, ViewSlot, ops

        torch.set_num_threads(4)
        recipe = ViewRecipe(24, [ops.RandomResizedCrop(), ops.RandomSolarize()])
        views = CandidateViews(ViewSlot(recipe, 4, 1), renderer="cpu")
        images = torch.randint(0, 256, (16, 3, 40, 50), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        params = views.make_params(images)
        # No torch operation that is large enough for OpenMP: its threads do not survive a fork, and torch would wait for them.
        is_done = False
        rendered = []

        def work():
            while not is_done:
                rendered.append(views.transform(images, params)[0].numpy())

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()

        def child():
            signal.alarm(30)  # a child that hangs is killed
            own, = views.transform(images, params)
            np.save(os.environ["OUT"], own.numpy())
            os._exit(0)

        states = []
        for turn in range(6):
            time.sleep(0.3 if turn == 0 else 0.01 * turn)  # the first while the threads compile
            pid = os.fork()
            if pid == 0:
                child()
            states.append(os.waitpid(pid, 0)[1])
            if states[-1]:
                break
            rendered.append(np.load(os.environ["OUT"]))
        is_done = True
        for thread in threads:
            thread.join()
        assert states == [0] * 6, states
        assert len(rendered) > 8 and all(np.array_equal(rendered[0], other) for other in rendered)
        """,
        tmp_path,
        NUMBA_CACHE_DIR=str(tmp_path),
        OUT=str(tmp_path / "views.npy"),
    )
    assert result.returncode == 0, result.stderr
