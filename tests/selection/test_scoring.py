"""Scoring as one value, and policies and scorings by name."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from torch import nn

import hvs_aug
from hvs_aug import CandidateViews, HardPairSampler, NTXentLoss
from hvs_aug._check import HVSError
from hvs_aug.selection import policies
from hvs_aug.selection.named import POLICIES, as_policy, as_scoring
from hvs_aug.selection.scoring import CHEAP, Scoring


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scale": 0}, "Scoring(scale): expected a number in (0, 1], got int 0"),
        ({"scale": 1.5}, "Scoring(scale): expected a number in (0, 1], got float 1.5"),
        ({"scale": True}, "Scoring(scale)"),
        ({"scale": "half"}, "Scoring(scale)"),
        ({"dtype": torch.float64}, "Scoring(dtype): expected torch.bfloat16, torch.float16, torch.float32 or None"),
        ({"dtype": "bfloat16"}, "Scoring(dtype)"),
        ({"chunk": 0}, "Scoring(chunk): expected an integer of at least 1 or None, got int 0"),
        ({"chunk": True}, "Scoring(chunk)"),
        ({"every": 0}, "Scoring(every): expected an integer of at least 1, got int 0"),
        ({"every": 1.5}, "Scoring(every)"),
        ({"every": None}, "Scoring(every)"),
        ({"channels_last": 1}, "Scoring(channels_last): expected True or False, got int 1"),
        ({"wait": 0}, "Scoring(wait): expected a number of seconds above 0, got int 0"),
        ({"wait": True}, "Scoring(wait)"),
        ({"restore_buffers": "update"}, "Scoring(restore_buffers): expected True or False"),
    ],
)
def test_values_out_of_range(options: dict, words: str) -> None:
    with pytest.raises(HVSError) as error:
        Scoring(**options)
    assert words in str(error.value)


def test_values_in_range() -> None:
    assert Scoring(scale=1, chunk=1, every=1) == Scoring(chunk=1)
    assert Scoring(scale=0.01, dtype=torch.float16).scale == 0.01
    assert hash(Scoring()) == hash(Scoring())
    with pytest.raises(FrozenInstanceError):
        Scoring().scale = 0.5  # type: ignore[misc]


def test_the_cheap_preset_is_one() -> None:
    assert Scoring(scale=0.5, dtype=torch.bfloat16, channels_last=True) == CHEAP
    assert replace(CHEAP, every=2).every == 2
    assert (hvs_aug.CHEAP, hvs_aug.Scoring) == (CHEAP, Scoring)


def test_scorings_by_name() -> None:
    assert as_scoring("cheap") is CHEAP and as_scoring("full") == Scoring() and as_scoring(CHEAP) is CHEAP
    with pytest.raises(HVSError, match=r"^--scoring: expected one of cheap, full, got 'cheep'.\n  hint: did you mean 'cheap'\?$"):
        as_scoring("cheep", "--scoring")
    with pytest.raises(HVSError, match=r"HardPairSampler\(scoring\): expected a Scoring, or one of cheap, full, got float 0.5"):
        as_scoring(0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("hardest", policies.hardest()),
        ("easiest", policies.easiest()),
        ("random", policies.random(control=False)),
        ("random-scored", policies.random()),
        ("min_iou", policies.min_iou()),
        ("softmax:0.5", policies.softmax(0.5)),
        ("semi_hard:0.8", policies.semi_hard(0.8)),
        ("mixture:1", policies.mixture(1.0)),
        ("warmup:1000", policies.warmup(1000)),
    ],
)
def test_policies_by_name(name: str, policy: policies.Policy) -> None:
    assert as_policy(name) == policy
    assert name.partition(":")[0] in POLICIES


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ("hardes", "expected one of easiest, hardest, .*, got 'hardes'.\n  hint: did you mean 'hardest'?"),
        ("", "expected one of"),
        ("hardest:1", "expected hardest alone, got 'hardest:1'"),
        ("random-scored:", "expected random-scored alone"),
        ("softmax", "expected softmax with a number after a colon, got 'softmax'.\n  hint: for example softmax:0.5."),
        ("softmax:warm", "expected softmax with a number after a colon, got 'softmax:warm'"),
        ("warmup:2.5", "expected warmup with a whole number after a colon, got 'warmup:2.5'"),
        ("softmax:0", "softmax(temperature): expected a number above 0, got float 0.0"),
        ("softmax:nan", "softmax(temperature): expected a number above 0"),
        ("semi_hard:2", "semi_hard(quantile): expected a number in [0, 1], got float 2.0"),
        (policies.hardest, "got the function hardest, which makes one.\n  hint: call it: policies.hardest(...)."),
        (policies.warmup, "call it: policies.warmup(...)"),
        (policies.Policy, "expected a policy, its name, or a function of the table"),
        (None, "expected a policy, its name, or a function of the table, got NoneType None"),
    ],
)
def test_what_is_no_policy(policy, words: str) -> None:
    with pytest.raises(HVSError) as error:
        as_policy(policy, "--policy")
    assert str(error.value).startswith("--policy: ")
    first, _, rest = words.partition(".*")
    assert first in str(error.value) and rest in str(error.value)


def test_a_function_of_the_users_own_is_a_policy() -> None:
    def own(table, slots, *, params, step, generator):
        return table

    assert as_policy(own) is own


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_model_of_another_dtype_is_named(dtype: torch.dtype) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 8)).to(dtype)
    sampler = HardPairSampler(net, NTXentLoss(0.1), CandidateViews.preset("simclr", 16))
    pixels = torch.randint(0, 256, (4, 3, 40, 40), dtype=torch.uint8)
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(HVSError, match=rf"\(model\): expected a model that takes float32 views, got one with {name} weights"):
        sampler(pixels)
    casting = HardPairSampler(lambda views: net(views.to(dtype)), NTXentLoss(0.1), CandidateViews.preset("simclr", 16))
    assert bool(casting(pixels).loss.isfinite().all())
