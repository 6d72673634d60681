"""What a figure depends on beside the code: versions, processor and device."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

__all__ = ["machine"]

_PACKAGES = ("torch", "torchvision", "numpy", "numba", "kornia", "timm")


def machine(device: str | torch.device = "cpu") -> dict[str, str]:
    """The versions and the machine by plain names, for a report.

    Args:
        device: where it is computed.
    """
    from .. import __version__

    versions = {"hvs_aug": __version__, "Python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    device = torch.device(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    return {
        **versions,
        "device": f"{device.type}, {name}",
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "system": platform.platform(terse=True),
    }


def _processor() -> str:
    described = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*:\s*(.+)", described.read_text()) if described.exists() else None
    return named[1] if named else platform.processor() or platform.machine()
