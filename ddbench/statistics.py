"""Means, intervals and comparisons of accuracies, with the synthesis inside the error bar where it was repeated.

A sample is keyed by (synthesis seed, evaluation seed). With two or more synthesis seeds the units of an interval
or a test are the per-seed means; with one they are its evaluation runs, and the interval says nothing about how
another synthesis would fare. All intervals are Student's t, at 95 % unless said.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TypeVar

Seeds = tuple[int | None, int]  # (synthesis seed, evaluation seed)
Samples = Mapping[Seeds, float]
Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Summary:
    """Mean, sample standard deviation and interval of a cell; None where one value cannot tell.

    n: runs; draws: synthesis seeds; over: what `std` and the interval vary, "synthesis" or "evaluation".
    """

    mean: float
    std: float | None
    low: float | None
    high: float | None
    n: int
    draws: int
    over: str


@dataclass(frozen=True)
class Difference:
    """Mean of a - b with its interval and two-sided p value (None where they cannot be told), and how it was tested.

    n: pairs, or the smaller side's size; test: "paired", "welch", "pooled" (one side has one value), "none".
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    n: int
    test: str


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean of one or more values."""
    return fmean(values)


def std(values: Sequence[float]) -> float | None:
    """The sample standard deviation (n - 1 in the denominator); None for one value."""
    if len(values) < 2:
        return None
    centre = fmean(values)
    return math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1))


def t_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """The t interval of the mean: mean -+ t(n - 1) * std / sqrt(n); None for one value. Not clipped to [0, 1]."""
    spread = std(values)
    if spread is None:
        return None
    half = _quantile(len(values) - 1, level) * spread / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def units(samples: Samples) -> dict[int, float]:
    """What varies: per-seed means by synthesis seed where there are two or more, else values by evaluation seed."""
    groups: dict[int | None, dict[int, float]] = {}
    for (synthesis, evaluation), value in sorted(samples.items(), key=lambda item: (item[0][0] or 0, item[0][1])):
        groups.setdefault(synthesis, {})[evaluation] = value
    if len(groups) == 1:
        return next(iter(groups.values()))
    return {seed or 0: fmean(group.values()) for seed, group in groups.items()}


def summarize(samples: Samples, level: float = 0.95) -> Summary:
    """Two-level summary of one cell's accuracies; at least one sample is needed.

    The mean is the mean of the units, so that a synthesis seed with more evaluations weighs no more.
    """
    values = list(units(samples).values())
    draws = len({synthesis for synthesis, _ in samples})
    low, high = t_interval(values, level) or (None, None)
    over = "synthesis" if draws > 1 else "evaluation"
    return Summary(fmean(values), std(values), low, high, len(samples), draws, over)


def paired_difference(a: Sequence[float], b: Sequence[float], level: float = 0.95) -> Difference:
    """Paired t test of a - b, value by value; sequences of one length (ValueError otherwise)."""
    steps = [x - y for x, y in zip(a, b, strict=True)]
    if len(steps) < 2:
        return Difference(fmean(steps), None, None, None, len(steps), "none")
    error = (std(steps) or 0.0) / math.sqrt(len(steps))
    return _tested(fmean(steps), error, len(steps) - 1, len(steps), "paired", level)


def unpaired_difference(a: Sequence[float], b: Sequence[float], level: float = 0.95) -> Difference:
    """Welch's t test of mean(a) - mean(b).

    Where one side is a single value its variance is taken from the other side; two single values give no test.
    """
    gap, n = fmean(a) - fmean(b), min(len(a), len(b))
    variances = [spread**2 for spread in (std(a), std(b)) if spread is not None]
    if not variances:
        return Difference(gap, None, None, None, n, "none")
    if len(variances) == 1:
        error = math.sqrt(variances[0] * (1 / len(a) + 1 / len(b)))
        return _tested(gap, error, len(a) + len(b) - 2, n, "pooled", level)
    parts = [variances[0] / len(a), variances[1] / len(b)]
    total = sum(parts)
    weight = parts[0] ** 2 / (len(a) - 1) + parts[1] ** 2 / (len(b) - 1)
    freedom = total**2 / weight if weight else float(n)
    return _tested(gap, math.sqrt(total), freedom, n, "welch", level)


def compare(a: Samples, b: Samples, level: float = 0.95) -> Difference:
    """Difference of two cells, a - b: paired where the same seeds were used on both sides, else unpaired."""
    left, right = units(a), units(b)
    same_level = _repeats_synthesis(a) == _repeats_synthesis(b)
    if same_level and len(left) > 1 and left.keys() == right.keys():
        return paired_difference([left[seed] for seed in left], [right[seed] for seed in left], level)
    return unpaired_difference(list(left.values()), list(right.values()), level)


def ties_with_best(cells: Mapping[Name, Samples], alpha: float = 0.05) -> tuple[Name, set[Name]]:
    """The cell with the highest mean, and all that are not told apart from it (p >= alpha), itself among them.

    Where no test is possible (one value on both sides) only an equal value ties. Not corrected for the number of
    comparisons: a table's mark is a reading aid, not a claim. At least one cell is needed.
    """
    means = {name: fmean(units(samples).values()) for name, samples in cells.items()}
    best = max(means, key=lambda name: means[name])
    tied = {name for name, samples in cells.items() if name == best or _tie(cells[best], samples, alpha)}
    return best, tied


def _tie(best: Samples, other: Samples, alpha: float) -> bool:
    difference = compare(best, other)
    return difference.mean == 0 if difference.p is None else difference.p >= alpha


def _repeats_synthesis(samples: Samples) -> bool:
    return len({synthesis for synthesis, _ in samples}) > 1


def _tested(gap: float, error: float, freedom: float, n: int, test: str, level: float) -> Difference:
    from scipy.special import stdtr

    half = _quantile(freedom, level) * error
    certain = 1.0 if gap == 0 else 0.0  # without any variation: equal, or different
    p = float(2 * stdtr(freedom, -abs(gap) / error)) if error else certain
    return Difference(gap, gap - half, gap + half, p, n, test)


def _quantile(freedom: float, level: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + level) / 2))
