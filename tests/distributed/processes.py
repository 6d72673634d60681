"""Two processes that talk by gloo on the CPU, and a count of what they exchange."""

from __future__ import annotations

import multiprocessing
import pickle
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_SECONDS = 240  # after which a process counts as hung; one that is started on a busy machine imports for a minute


class Processes:
    """Run a function ``(rank, *arguments)`` in both processes at once, and return what each gave."""

    def __init__(self, store: Path) -> None:
        context = multiprocessing.get_context("spawn")
        pipes = [context.Pipe() for _ in range(2)]
        self._pipes = [ours for ours, _ in pipes]
        self._processes = [
            context.Process(target=_serve, args=(rank, str(store), theirs), daemon=True) for rank, (_, theirs) in enumerate(pipes)
        ]
        for process in self._processes:
            process.start()

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        for pipe in self._pipes:
            pipe.send_bytes(pickle.dumps((function, arguments)))
        answers = []
        for rank, pipe in enumerate(self._pipes):
            if not pipe.poll(_SECONDS):
                self.end()
                pytest.fail(f"rank {rank} did not answer within {_SECONDS} s")
            answers.append(pickle.loads(pipe.recv_bytes()))
        failed = [f"rank {rank}:\n{answer}" for rank, (fine, answer) in enumerate(answers) if not fine]
        assert not failed, "\n".join(failed)
        return [answer for _, answer in answers]

    def end(self) -> None:
        for process in self._processes:
            process.terminate()
            process.join()


def _serve(rank: int, store: str, pipe: Any) -> None:
    torch.set_num_threads(1)
    wait = timedelta(seconds=_SECONDS / 2)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=wait)
    while True:
        function, arguments = pickle.loads(pipe.recv_bytes())
        torch.manual_seed(0)
        try:
            answer = True, function(rank, *arguments)
        except Exception:
            answer = False, traceback.format_exc()
        pipe.send_bytes(pickle.dumps(answer))


class Traffic(TorchDispatchMode):
    """The collectives that run inside, each as its name and the bytes of this process's own contribution."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[tuple[str, int]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace in ("c10d", "_c10d_functional"):
            name = function.name().partition("::")[2]
            own = tree_leaves(args[1] if name == "allgather_" else args[0])
            self.sent.append((name, sum(value.nbytes for value in own if isinstance(value, Tensor))))
        return function(*args, **(kwargs or {}))
