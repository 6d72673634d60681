"""The oldest releases that setup.cfg allows, as constraints for pip: ``python tests/lower_bounds.py > constraints.txt``.

What a user installs is named (the package's own requirements and the extras below); of the tools of development the newest will do.
"""

from __future__ import annotations

import configparser
import re
from pathlib import Path

SETUP = Path(__file__).resolve().parent.parent / "setup.cfg"
EXTRAS = ("demo", "lightning", "lightly")


def lower_bounds(text: str) -> list[str]:
    """Each ``name>=version`` of a setup.cfg as ``name==version``.

    >>> lower_bounds("[options]\\ninstall_requires =\\n    torch>=2.4\\n[options.extras_require]\\ndemo =\\n    timm>=1.0.3\\n")
    ['torch==2.4', 'timm==1.0.3']
    """
    settings = configparser.ConfigParser()
    settings.read_string(text)
    extras = settings["options.extras_require"]
    lines = [settings["options"]["install_requires"], *(extras.get(name, "") for name in EXTRAS)]
    return [f"{name}=={version}" for name, version in re.findall(r"^([\w.-]+)>=([\w.]+)$", "\n".join(lines), re.MULTILINE)]


if __name__ == "__main__":
    print("\n".join(lower_bounds(SETUP.read_text())))
