from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch.distributed as dist

from .processes import Processes


@pytest.fixture(scope="package")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Two gloo processes, started once for the folder."""
    if not (dist.is_available() and dist.is_gloo_available()):
        pytest.skip("no gloo")
    pool = Processes(tmp_path_factory.mktemp("gloo") / "store")
    yield pool
    pool.end()
