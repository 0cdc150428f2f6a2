"""Scores: formulas over accuracies under named protocols. Everything is a fraction; LRS and ARS lie in [0, 1].

HLR, IOR and LRS as DD-Ranking defines them (its code feeds percent into a normalization meant for fractions;
here only fractions are accepted). Exp is convex, so a score is computed from mean accuracies, not averaged over
runs. LRS and ARS are strictly increasing in what they combine: the exponential changes no ranking.
"""

import math

from ddbench.errors import UsageError


def hlr(whole_hard: float, set_hard: float) -> float:
    """Hard-label recovery: what the set loses against the whole data under one hard protocol; lower is better.

    HLR = whole(hard) - set(hard), in [-1, 1]. UsageError unless both are fractions in [0, 1].
    """
    return _fraction("whole_hard", whole_hard) - _fraction("set_hard", set_hard)


def ior(set_accuracy: float, random_accuracy: float) -> float:
    """Improvement over random: set(shipped) - random(borrowing the set's recipe), or both hard; in [-1, 1].

    Higher is better. UsageError unless both are fractions in [0, 1].
    """
    return _fraction("set_accuracy", set_accuracy) - _fraction("random_accuracy", random_accuracy)


def lrs(hlr: float, ior: float, weight: float = 0.5) -> float:
    """Label-robust score: normalize(weight * IOR - (1 - weight) * HLR), in [0, 1]; higher is better.

    `hlr` and `ior` are differences of fractions, in [-1, 1]; `weight` is in [0, 1], 0.5 as published. 0.269 stands
    for no gain and no loss. UsageError out of range (percent, say).
    """
    weight = _fraction("weight", weight)
    return normalize(weight * _difference("ior", ior) - (1 - weight) * _difference("hlr", hlr))


def ars(
    set_augmented: float, random_augmented: float, set_plain: float, random_plain: float, weight: float = 0.5
) -> float:
    """Augmentation-robust score: how far the set beats random with and without augmentation; in [0, 1].

    normalize(weight * (set - random under the protocol) + (1 - weight) * (set - random under its plain twin)).
    `ars-hard` reads hard-v1 and hard-plain-v1, `ars-soft` soft-v1 and soft-plain-v1. Accuracies are fractions.
    """
    weight = _fraction("weight", weight)
    augmented = ior(set_augmented, random_augmented)
    plain = ior(set_plain, random_plain)
    return normalize(weight * augmented + (1 - weight) * plain)


def normalize(combined: float) -> float:
    """(e^a - e^-1) / (e - e^-1): [-1, 1] onto [0, 1], increasing; what lies outside (the end of an interval) is clamped."""
    low = math.exp(-1)
    return min(1.0, max(0.0, (math.exp(combined) - low) / (math.e - low)))


def _fraction(name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise UsageError(f"{name} = {value}: a fraction in [0, 1] is needed (percent is only for showing)")
    return value


def _difference(name: str, value: float) -> float:
    if not -1 <= value <= 1:
        raise UsageError(f"{name} = {value}: a difference of fractions in [-1, 1] is needed, not percent")
    return value
