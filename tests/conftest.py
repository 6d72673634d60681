"""What every test starts from: a fixed random state, reproducible properties, and no test of what is not there."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version

import pytest
import torch
from hypothesis import HealthCheck, settings
from packaging.requirements import Requirement

from hvs_aug.views import draw

settings.register_profile("suite", derandomize=True, deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def _fixed_random_state() -> None:
    """The global random state, from which tests take weights and pixels; the library itself never touches it."""
    torch.manual_seed(0)


@pytest.fixture
def as_in_a_new_process(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A function after which modules are numbered, and so draw, as in a process that has made none."""
    return lambda: monkeypatch.setattr(draw, "_numbers", itertools.count())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    """Skip what runs on a stand-in for a GPU (FakeTensor) where PyTorch 2.4 asks for a driver even then."""
    try:
        return (yield)
    except RuntimeError as error:
        has_no_driver = "CUDA driver version is insufficient" in str(error) or "Found no NVIDIA driver" in str(error)
        if torch.__version__.startswith("2.4.") and has_no_driver:
            pytest.skip("PyTorch 2.4 has no stand-in for a CUDA device without a driver")
        raise


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is marked ``gpu`` on a machine without one, and what is marked ``needs`` without these packages."""
    if item.get_closest_marker("gpu") is not None and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    for marker in item.iter_markers("needs"):
        for requirement in map(Requirement, marker.args):
            if not is_installed(requirement):
                pytest.skip(f"needs {requirement}")


def is_installed(requirement: Requirement) -> bool:
    """Whether a package of this name is there, in a version that fits."""
    try:
        return requirement.specifier.contains(version(requirement.name), prereleases=True)
    except PackageNotFoundError:
        return False
