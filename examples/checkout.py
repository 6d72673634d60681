"""What the wrap_*.py share: import the script of an untouched clone, and have one of its functions run lines of ours first."""

from __future__ import annotations

import argparse
import functools
import importlib
import inspect
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cpu_compat


def import_script(name: str, description: str) -> Any:
    """Parse ``--checkout DIR``, leave what follows ``--`` as the repo's own command line, and import its script, not yet run."""
    parser = argparse.ArgumentParser(description=description, usage="%(prog)s --checkout DIR -- [the repo's own arguments]")
    parser.add_argument("--checkout", type=Path, required=True, metavar="DIR", help="a clone of the repo; nothing in it is changed")
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    checkout = parser.parse_args(sys.argv[1:split]).checkout.resolve()
    if not (checkout / f"{name}.py").is_file():
        parser.error(f"no {name}.py in {checkout}")
    sys.argv = [str(checkout / f"{name}.py"), *sys.argv[split + 1 :]]
    sys.path.insert(0, str(checkout))
    cpu_compat.install()
    return importlib.import_module(name)


def at_head(owner: Any, name: str, lines: Callable[[types.SimpleNamespace], None]) -> None:
    """Have ``owner.name`` call ``lines`` first, with its arguments by name, which it may replace."""
    function = getattr(owner, name)

    @functools.wraps(function)
    def changed(*arguments: Any, **options: Any) -> Any:
        bound = inspect.signature(function).bind(*arguments, **options)
        names = types.SimpleNamespace(**bound.arguments)
        lines(names)
        bound.arguments.update(vars(names))
        return function(*bound.args, **bound.kwargs)

    setattr(owner, name, changed)
