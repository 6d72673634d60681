"""The command line, ``hvs-aug COMMAND``: one file for each command. What a command needs is imported when it runs."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from . import benchmark, demo, explain, inspect, pretrain, report, study
from .options import in_terms_of_options

__all__ = ["main"]

_COMMANDS: dict[str, Any] = {
    "demo": demo,
    "pretrain": pretrain,
    "inspect": inspect,
    "report": report,
    "benchmark": benchmark,
    "study": study,
    "explain": explain,
}
"""Modules with ``PURPOSE``, ``add_options(parser)``, ``run(arguments)`` and ``OPTIONS``, which option an argument comes from."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0 after success; 2 after bad input, which one sentence on stderr explains; 130 after Ctrl-C; 143 after SIGTERM; 141 where
    the reader of the output has gone (``| head -1``), as for any command that a shell ends by SIGPIPE.
    """
    parsed = _parser().parse_args(arguments)
    from .._check import HVSError

    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            _COMMANDS[parsed.name].run(parsed)
            sys.stdout.flush()
        except HVSError as error:
            print(f"hvs-aug {parsed.name}: {in_terms_of_options(str(error), _COMMANDS[parsed.name].OPTIONS)}", file=sys.stderr)
            return 2
        except BrokenPipeError:
            # What is left in the buffer goes nowhere, or the interpreter would complain about it as it ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        except OSError as error:
            print(f"hvs-aug {parsed.name}: {error.strerror or error}: {error.filename or ''}".rstrip(": "), file=sys.stderr)
            return 2
        except KeyboardInterrupt as interrupt:
            print(f"\nhvs-aug {parsed.name}: {_stopped(interrupt)}", file=sys.stderr)
            return 128 + getattr(interrupt, "signal", 2)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hvs-aug", description="Hard View Selection: pretrain on the views that are hardest.")
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, command in _COMMANDS.items():
        purpose = command.PURPOSE
        options = commands.add_parser(name, help=purpose, description=f"{purpose[0].upper()}{purpose[1:]}.")
        options.set_defaults(name=name)
        command.add_options(options)
    return parser


def _stopped(interrupt: KeyboardInterrupt) -> str:
    checkpoint = getattr(interrupt, "checkpoint", None)
    if checkpoint is None:
        return "stopped"
    return f"stopped after step {getattr(interrupt, 'step', 0)}; {checkpoint} holds the run, --resume continues it"


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)


def _version() -> str:
    from .. import __version__

    return f"hvs-aug {__version__}"
