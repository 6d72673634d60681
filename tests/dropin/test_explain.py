from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from torchvision import transforms

from hvs_aug._check import HVSError
from hvs_aug.dropin.explain import differences, explain
from hvs_aug.views.presets import PRESETS, preset_slots


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
        "  crop: size 32, scale (0.2, 1), ratio (0.75, 1.333), interpolation bilinear",
        "  jitter: probability 0.8, brightness 0.4, contrast 0.4, saturation 0.4, hue 0.1",
        "  gray: probability 0.2",
        "  flip: probability 0.5",
        "  normalize: mean (0.4914, 0.4822, 0.4465), std (0.2023, 0.1994, 0.201)",
        "no difference from preset 'simsiam' at size 32",
    ]


def test_differences_from_the_closest_preset() -> None:
    text = explain(f"{HERE}:pair(32, gray=0.5)")
    assert text.endswith("preset 'simsiam' at size 32 has:\n  view.gray_prob 0.2 instead of 0.5")
    assert "preset 'simclr' at size 32 has:" in explain(f"{HERE}:pair(size=32)", preset="simclr")
    assert explain(f"{HERE}:MADE.view") == explain(f"{HERE}:pair(32)")


@pytest.mark.parametrize("name", list(PRESETS))
def test_a_preset_does_not_differ_from_itself(name: str) -> None:
    slots = preset_slots(name)
    assert differences(slots, slots) == []
    assert all(differences(slots, preset_slots(other)) for other in PRESETS if other != name)


def test_only_what_has_an_effect_differs() -> None:
    (slot,) = preset_slots("simsiam")
    off = replace(slot, recipe=replace(slot.recipe, solarize_threshold=0.9, order=(*slot.recipe.order, "solarize")))
    assert differences([slot], [off]) == []
    on = replace(off, candidates=6, recipe=replace(off.recipe, solarize_prob=0.1, blur_prob=0.0))
    assert differences([slot], [on]) == [
        "view.candidates 6 instead of 4",
        "view: no blur_prob",
        "view: no blur_sigma",
        "view: no blur_kernel",
        "view.order (jitter, gray, flip, solarize) instead of (jitter, gray, blur, flip)",
        "view.solarize_prob 0.1",
        "view.solarize_threshold 0.9",
    ]
    assert differences([slot, slot], [slot]) == ["view: no such slot"]
    assert differences([slot], [slot, slot])[0] == "view: draw 4, keep 2 beside these"


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
    assert explain("their_module:views").startswith("view: draw 4, keep 2\n  crop: size 8")
