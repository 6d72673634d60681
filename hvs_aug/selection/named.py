"""Policies and scorings by name: one parser for ``HardPairSampler``, ``wrap`` and the command line."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

from .._check import HVSError, fail, require_name
from . import policies
from .policies import Policy
from .scoring import CHEAP, Scoring

__all__ = ["POLICIES", "SCORINGS", "as_policy", "as_scoring"]

POLICIES: dict[str, Callable[..., Policy]] = {
    "hardest": policies.hardest,
    "easiest": policies.easiest,
    "random": lambda: policies.random(control=False),
    "random-scored": policies.random,
    "min_iou": policies.min_iou,
    "softmax": policies.softmax,
    "semi_hard": policies.semi_hard,
    "mixture": policies.mixture,
    "warmup": policies.warmup,
}
"""Policies by name."""

_NUMBERS: dict[str, tuple[type[int] | type[float], str]] = {
    "softmax": (float, "softmax:0.5"),
    "semi_hard": (float, "semi_hard:0.9"),
    "mixture": (float, "mixture:0.5"),
    "warmup": (int, "warmup:1000"),
}
"""The policies whose name is followed by a number, what kind of number, and an example."""

SCORINGS: dict[str, Scoring] = {"full": Scoring(), "cheap": CHEAP}
"""Scorings by name."""


def as_policy(policy: str | Policy, call: str = "HardPairSampler(policy)") -> Policy:
    """Return the given policy, or the policy of a name such as ``"min_iou"`` or ``"semi_hard:0.8"``.

    Args:
        call: names the argument in an error: ``"--policy"`` on the command line.

    Raises:
        HVSError: for an unknown name, with the closest one that is known; a missing or wrong number; a function of
            :mod:`hvs_aug.policies` that was not called; or anything else that is not a policy.

    Example:
        >>> as_policy("semi_hard:0.8")
        semi_hard(quantile=0.8, limit=1024)
    """
    if isinstance(policy, str):
        return _by_name(policy, call)
    if isinstance(policy, types.FunctionType) and getattr(policies, policy.__name__, None) is policy:
        fail(call, "a policy", f"the function {policy.__name__}, which makes one", f"call it: policies.{policy.__name__}(...).")
    if not callable(policy) or isinstance(policy, type):
        fail(call, "a policy, its name, or a function of the table", policy, "for example policies.hardest() or 'semi_hard:0.8'.")
    return policy


def as_scoring(scoring: str | Scoring, call: str = "HardPairSampler(scoring)") -> Scoring:
    """Return the given scoring, or the one with the name ``"full"`` or ``"cheap"``.

    Raises:
        HVSError: for an unknown name (the error names the closest known one), or anything that is not a Scoring.
    """
    if isinstance(scoring, str):
        require_name(scoring, SCORINGS, call)
        return SCORINGS[scoring]
    if not isinstance(scoring, Scoring):
        fail(call, f"a Scoring, or one of {', '.join(sorted(SCORINGS))}", scoring, "hvs_aug.Scoring(scale=0.5), for example.")
    return scoring


def _by_name(name: str, call: str) -> Policy:
    kind, colon, number = name.partition(":")
    require_name(kind, POLICIES, call)
    if kind not in _NUMBERS:
        if colon:
            fail(call, f"{kind} alone", repr(name), f"{', '.join(_NUMBERS)} are followed by a number.")
        return POLICIES[kind]()
    read, example = _NUMBERS[kind]
    try:
        value: Any = read(number)
    except ValueError:
        what = "a whole number" if read is int else "a number"
        fail(call, f"{kind} with {what} after a colon", repr(name), f"for example {example}.")
    try:
        return POLICIES[kind](value)
    except HVSError as error:
        raise HVSError(f"{call}: {error}") from None
