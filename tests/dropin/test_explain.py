from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torchvision import transforms
from torchvision.transforms import v2

from hvs_aug._check import HVSError
from hvs_aug.dropin.explain import differences, explain
from hvs_aug.ops import GaussianBlur, RandomHorizontalFlip, RandomInvert, RandomSolarize
from hvs_aug.views.convert import convert_view
from hvs_aug.views.converters import reading
from hvs_aug.views.presets import PRESETS, preset_slots
from hvs_aug.views.recipe import ViewRecipe


class Pair:
    """A module's own transform, as a user would name it on the command line."""

    def __init__(self, size: int, gray: float = 0.2) -> None:
        jitter = transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8)
        crop = transforms.RandomResizedCrop(size, scale=(0.2, 1.0))
        steps = [crop, jitter, transforms.RandomGrayscale(gray), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
        self.view = transforms.Compose([*steps, transforms.Normalize((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))])


def pair(size: int, gray: float = 0.2) -> list[transforms.Compose]:
    return [Pair(size, gray).view] * 2


MADE = Pair(32)
HERE = "tests.dropin.test_explain"


def test_what_it_says() -> None:
    assert explain(f"{HERE}:pair(32)").splitlines() == [
        "view: draw 4, keep 2",
        "  v2.RandomResizedCrop(size=32, scale=(0.2, 1))",
        "  v2.ToImage()",
        "  v2.ToDtype(torch.float32, scale=True)",
        "  v2.RandomApply([v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)], p=0.8)",
        "  v2.RandomGrayscale(p=0.2)",
        "  v2.RandomHorizontalFlip()",
        "  v2.Normalize(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.201))",
        "no difference from preset 'simsiam' at size 32",
    ]


@pytest.mark.parametrize("name", ["simsiam", "byol", "dino"])
def test_its_lines_are_torchvisions(name: str) -> None:
    for slot in preset_slots(name, 32):
        steps = [eval(line, {"v2": v2, "torch": torch}) for line in slot.recipe.torchvision_lines()]
        assert convert_view(steps) == slot.recipe


def test_differences_from_the_closest_preset() -> None:
    text = explain(f"{HERE}:pair(32, gray=0.5)")
    assert text.splitlines()[-4:] == [
        "preset 'simsiam' at size 32 differs in:",
        "  yours                      the preset's",
        " view",
        "  v2.RandomGrayscale(p=0.5)  v2.RandomGrayscale(p=0.2)",
    ]
    assert "preset 'simclr' at size 32 differs in:" in explain(f"{HERE}:pair(size=32)", preset="simclr")
    assert explain(f"{HERE}:MADE.view") == explain(f"{HERE}:pair(32)")


@pytest.mark.parametrize("name", list(PRESETS))
def test_a_preset_does_not_differ_from_itself(name: str) -> None:
    slots = preset_slots(name)
    assert differences(slots, slots) == []
    assert all(differences(slots, preset_slots(other)) for other in PRESETS if other != name)


def test_a_row_for_each_operation_that_differs() -> None:
    (slot,) = preset_slots("simsiam")
    recipe = slot.recipe.without(GaussianBlur)
    steps = [
        *recipe.operations[:2],
        RandomHorizontalFlip(),
        *recipe.operations[2:3],
        RandomSolarize(0.9, p=0.1),
        RandomInvert(),
        RandomInvert(),
    ]
    other = replace(slot, candidates=6, recipe=ViewRecipe(224, [*steps, recipe.operations[-1]]))
    assert differences([slot], [other]) == [
        ("view", "draw 4, keep 2", "draw 6, keep 2"),
        ("view", "v2.GaussianBlur(kernel_size=23)".join(["v2.RandomApply([", "], p=0.5)"]), "none"),
        ("view", "none", "v2.RandomSolarize(threshold=0.9, p=0.1)"),
        ("view", "none", "v2.RandomInvert()"),
        ("view", "none", "v2.RandomInvert()"),
        (
            "view",
            "order: RandomResizedCrop, ColorJitter, RandomGrayscale, RandomHorizontalFlip, Normalize",
            "order: RandomResizedCrop, ColorJitter, RandomHorizontalFlip, RandomGrayscale, Normalize",
        ),
    ]
    assert differences([slot, slot], [slot]) == [("view", "draw 4, keep 2 at 224 px", "none")]
    assert differences([slot], [slot, slot]) == [("view", "none", "draw 4, keep 2 at 224 px")]


def test_a_file_that_registers_converters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_registered", {})
    with pytest.raises(HVSError, match="got Pair"):
        explain(f"{HERE}:MADE")
    lines = ["import hvs_aug", "hvs_aug.register_converter('Pair', lambda pair: [pair.view, pair.view])"]
    (tmp_path / "mine.py").write_text("\n".join(lines))
    assert explain(f"{HERE}:MADE", register=tmp_path / "mine.py") == explain(f"{HERE}:pair(32)")
    with pytest.raises(HVSError, match=r"explain\(register\): expected a Python file, got .*absent.py"):
        explain(f"{HERE}:MADE", register=tmp_path / "absent.py")


@pytest.mark.parametrize(
    "target, words",
    [
        ("MADE", "module:object"),
        ("no_such_module:x", "a module that can be imported, got 'no_such_module'"),
        (f"{HERE}:absent", "an object of tests.dropin.test_explain"),
        (f"{HERE}:pair(32", "an object of"),
        (f"{HERE}:pair(open('x'))", "with literal arguments"),
        (f"{HERE}:pair(1) + pair(1)", "neither a name"),
        (f"{HERE}:Pair", f"a transform, got 'Pair', which makes one.\n  hint: write the call: {HERE}:Pair"),
        (f"{HERE}:Pair(32)", "got Pair"),
    ],
)
def test_bad_targets(target: str, words: str) -> None:
    with pytest.raises(HVSError) as raised:
        explain(target)
    assert words in str(raised.value)


def test_bad_preset() -> None:
    with pytest.raises(HVSError, match="did you mean 'simsiam'"):
        explain(f"{HERE}:MADE.view", preset="simsia")


def test_the_working_directory_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["from torchvision import transforms as t", "views = [t.Compose([t.RandomResizedCrop(8), t.ToTensor()])] * 2"]
    (tmp_path / "their_module.py").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    assert explain("their_module:views").startswith("view: draw 4, keep 2\n  v2.RandomResizedCrop(size=8)")
