"""Signals to a run: Ctrl-C and SIGTERM end it after the step, SIGUSR1 asks for a checkpoint."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

__all__ = ["Asked", "Interrupted", "blocked_signals", "deferred_signals", "keep_working"]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, after the step was finished and the checkpoint written.

    Attributes:
        step: the last step.
        checkpoint: the checkpoint's path; ``None`` without an ``out``.
        signal: the signal's number.
    """

    def __init__(self, step: int, checkpoint: Path | None, number: int = signal.SIGINT) -> None:
        super().__init__(f"stopped after step {step}")
        self.step, self.checkpoint, self.signal = step, checkpoint, number


class Asked:
    """What signals have asked of a run.

    Attributes:
        stop: the signal that asks it to end, or ``None``.
        checkpoint: whether a checkpoint is wanted; whoever writes it sets this to ``False``.
    """

    def __init__(self) -> None:
        self.stop: int | None = None
        self.checkpoint = False

    def take(self, number: int, frame: FrameType | None = None) -> None:
        """The handler. A second Ctrl-C raises KeyboardInterrupt at once."""
        name = signal.Signals(number).name
        if number not in (signal.SIGINT, signal.SIGTERM):
            self.checkpoint = True
            _say(f"{name}: writing a checkpoint after this step")
        elif self.stop is None:
            self.stop = number
            _say(
                f"{name}: stopping after this step"
                if number == signal.SIGTERM
                else "stopping after this step; Ctrl-C again to stop at once"
            )
        elif number == signal.SIGINT:
            raise KeyboardInterrupt


@contextmanager
def deferred_signals() -> Iterator[Asked]:
    """Turn Ctrl-C, SIGTERM and SIGUSR1 into wishes, so that no step is cut in half; only in the main thread."""
    asked = Asked()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.signal(number, asked.take) for number in _numbers()}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def blocked_signals() -> Iterator[None]:
    """Hold signals back while workers are started, which inherit the block, so that none ends before :func:`keep_working`."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _numbers())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def keep_working(worker: int) -> None:
    """Let a DataLoader's worker go on after a signal to the whole job: the main process needs its batches to finish the step.

    Terminals send Ctrl-C, and Slurm the other two, to every process. SIGTERM from the main process still ends the worker.
    """
    for number in _numbers() - {signal.SIGTERM}:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # Linux; only there it can be told who sent the signal
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_the_parent_asks, daemon=True).start()


def _end_when_the_parent_asks() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def _numbers() -> set[int]:
    return {getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)}


def _say(line: str) -> None:
    os.write(2, f"\n{line}\n".encode())  # print() may not be called while the handler's thread is inside of it
