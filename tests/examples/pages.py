"""The presets as torchvision's lines, for examples/presets.md: ``python -m tests.examples.pages`` writes them anew."""

from __future__ import annotations

import re
from pathlib import Path

from hvs_aug.dropin.explain import differences
from hvs_aug.views.presets import PRESETS, preset_slots

PAGE = Path(__file__).parents[2] / "examples" / "presets.md"
LARGE, SMALL = 224, 32


def filled(text: str) -> str:
    """The page with the sections of all presets made anew."""
    sections = "\n".join(map(_section, PRESETS))
    return re.sub(r"(<!-- presets -->\n).*(<!-- end -->)", lambda found: found[1] + sections + found[2], text, flags=re.DOTALL)


def _section(name: str) -> str:
    large, small = preset_slots(name, LARGE), preset_slots(name, SMALL)
    lines = [f"## {name}", ""]
    for slot in large:
        lines += [f"`{slot.name}`: draw {slot.candidates}, keep {slot.select}", "", "```text"]
        lines += [*slot.recipe.torchvision_lines(), "```", ""]
    lines += ["| below 64 px (here 32) | at 224 px | then |", "|---|---|---|"]
    lines += [f"| {' | '.join([slot, f'`{ours}`', f'`{theirs}`'])} |" for slot, ours, theirs in differences(large, small)]
    return "\n".join([*lines, ""]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
