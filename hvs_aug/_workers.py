"""The batches of a loader whose worker processes may die."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from multiprocessing.connection import wait
from typing import TypeVar

__all__ = ["batches_of"]

_Batch = TypeVar("_Batch")
_SECONDS = 5.0  # that a process takes at most to end after it has closed its files


def batches_of(loader: Iterable[_Batch]) -> Iterator[_Batch]:
    """The batches of a loader; where one is lost with the worker process that made it, the error says how that ended.

    A DataLoader says so itself, but not while the worker has closed its files and still runs.

    Raises: RuntimeError in the words of a DataLoader if a worker died; else whatever the loader raises.
    """
    iterator = iter(loader)
    try:
        yield from iterator
    except (OSError, EOFError) as error:
        if str(error).startswith("Caught "):  # raised by the dataset, in a worker that lives on
            raise
        workers = {worker.sentinel: worker for worker in getattr(iterator, "_workers", ())}
        ended = [workers[sentinel] for sentinel in wait(list(workers), _SECONDS)] if workers else []
        for worker in ended:
            worker.join()
        died = next((worker for worker in ended if worker.exitcode), None)
        if died is None:
            raise
        code = died.exitcode
        how = f"is killed by signal: {signal.strsignal(-code)}" if code < 0 else f"exited unexpectedly, with code {code}"
        raise RuntimeError(f"DataLoader worker (pid {died.pid}) {how}.") from error
