"""Means, intervals and comparisons of accuracies, with the synthesis inside the error bar where it was repeated.

A sample is keyed by (synthesis seed, evaluation seed). With two or more synthesis seeds the units of an interval
or a test are the per-seed means; with one they are its evaluation runs, and the interval says nothing about how
another synthesis would fare. All intervals are Student's t, at 95 % unless said; tests hold them to SciPy's. Quantiles
come from `scipy.special`: importing `scipy.stats` takes a second more, and `ddbench table` is to take less.
"""

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import Generic, TypeVar

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


@dataclass(frozen=True)
class VarianceParts:
    """Variances of a cell's accuracies (squared fractions); None where they cannot be told.

    total: of one run of a fresh synthesis; between: of what synthesis seeds have in common; within: of the evaluation
    seeds of one synthesis; n: runs; draws: synthesis seeds.
    """

    total: float | None
    between: float | None
    within: float | None
    n: int
    draws: int


@dataclass(frozen=True)
class Pair(Generic[Name]):
    """Two cells compared, the one with the higher mean first; `adjusted` is Holm's p over all pairs that were tested."""

    a: Name
    b: Name
    difference: Difference
    adjusted: float | None

    def told_apart(self, alpha: float = 0.05) -> bool:
        """Tell whether a is above b after correction; a pair without a test never is."""
        return self.adjusted is not None and self.adjusted < alpha and self.difference.mean > 0


def std(values: Sequence[float]) -> float | None:
    """Compute the sample standard deviation (n - 1 in the denominator); None for one value."""
    if len(values) < 2:
        return None
    centre = fmean(values)
    return math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1))


def t_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """Compute the t interval of the mean: mean -+ t(n - 1) * std / sqrt(n); None for one value. Not clipped to [0, 1]."""
    spread = std(values)
    if spread is None:
        return None
    half = t_quantile(len(values) - 1, level) * spread / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def units(samples: Samples) -> dict[int, float]:
    """Give what varies: per-seed means by synthesis seed where there are two or more, else values by evaluation seed."""
    groups = _by_synthesis(samples)
    if len(groups) == 1:
        return next(iter(groups.values()))
    return {seed or 0: fmean(group.values()) for seed, group in groups.items()}


def variance_parts(samples: Samples) -> VarianceParts:
    """One-way random effects by analysis of variance, for groups of unequal sizes; at least one sample is needed.

    With k synthesis seeds of n_i runs and N runs in all: within = MSW, between = max(0, (MSB - MSW) / n0),
    n0 = (N - sum n_i^2 / N) / (k - 1) (Searle, Casella and McCulloch, Variance Components, 3.6). One run per synthesis
    gives the total alone, one synthesis the part within it alone.
    """
    groups = [list(group.values()) for group in _by_synthesis(samples).values()]
    n, k = len(samples), len(groups)
    centres = [fmean(group) for group in groups]
    squares = math.fsum((x - centre) ** 2 for group, centre in zip(groups, centres, strict=True) for x in group)
    within = squares / (n - k) if n > k else None
    if k < 2:
        return VarianceParts(None, None, within, n, k)
    grand = math.fsum(map(math.fsum, groups)) / n
    between_squares = math.fsum(
        len(group) * (centre - grand) ** 2 for group, centre in zip(groups, centres, strict=True)
    )
    if within is None:
        return VarianceParts(between_squares / (k - 1), None, None, n, k)
    size = (n - sum(len(group) ** 2 for group in groups) / n) / (k - 1)
    between = max(0.0, (between_squares / (k - 1) - within) / size)
    return VarianceParts(between + within, between, within, n, k)


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
    return linear_combination([(1.0, a), (-1.0, b)], level)


def linear_combination(terms: Sequence[tuple[float, Sequence[float]]], level: float = 0.95) -> Difference:
    """Test the sum of weight * mean over independent samples against 0; no test where a sample is a single value.

    error^2 = sum weight_i^2 s_i^2 / n_i, with the degrees of freedom of Welch and Satterthwaite. At least one term.
    """
    gap, n = math.fsum(weight * fmean(values) for weight, values in terms), min(len(values) for _, values in terms)
    if n < 2:
        return Difference(gap, None, None, None, n, "none")
    parts = [(weight * (std(values) or 0.0)) ** 2 / len(values) for weight, values in terms]
    total = sum(parts)
    share = sum(part**2 / (len(values) - 1) for part, (_, values) in zip(parts, terms, strict=True))
    freedom = total**2 / share if share else float(n)
    return _tested(gap, math.sqrt(total), freedom, n, "welch", level)


def combine(terms: Sequence[tuple[float, Samples]], level: float = 0.95) -> Difference:
    """Test the sum of weight * mean over cells against 0, as `compare` does for two.

    Cells on the same seeds are first added up seed by seed, so that what they share (one set under two protocols)
    counts as it should; cells on other seeds count as independent.
    """
    classes: dict[tuple[bool, frozenset[int]], dict[int, float]] = {}
    for weight, samples in terms:
        values = units(samples)
        total = classes.setdefault((_repeats_synthesis(samples), frozenset(values)), dict.fromkeys(values, 0.0))
        for seed, value in values.items():
            total[seed] += weight * value
    sums = [list(values.values()) for values in classes.values()]
    if len(sums) == 1:
        return paired_difference(sums[0], [0.0] * len(sums[0]), level)
    return linear_combination([(1.0, values) for values in sums], level)


def compare(a: Samples, b: Samples, level: float = 0.95) -> Difference:
    """Difference of two cells, a - b: paired where the same seeds were used on both sides, else unpaired."""
    left, right = units(a), units(b)
    same_level = _repeats_synthesis(a) == _repeats_synthesis(b)
    if same_level and len(left) > 1 and left.keys() == right.keys():
        return paired_difference([left[seed] for seed in left], [right[seed] for seed in left], level)
    return unpaired_difference(list(left.values()), list(right.values()), level)


def equivalent(a: Samples, b: Samples, margin: float, alpha: float = 0.05) -> tuple[bool, Difference]:
    """Test whether two cells differ by less than `margin`: two one-sided tests, each at alpha (TOST).

    Both reject where the interval of level 1 - 2 alpha lies within (-margin, margin) (Schuirmann, 1987), which is the
    interval of the difference that comes along. Cells without a test are not shown to be equivalent.
    """
    gap = compare(a, b, 1 - 2 * alpha)
    return gap.low is not None and gap.high is not None and -margin < gap.low and gap.high < margin, gap


def holm(values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values, in the order given: reject where one is below alpha, and no more than alpha of all
    families hold a false rejection.

    Sorted upwards, the i-th of m (from 0) becomes max over j <= i of min(1, (m - j) p_j).
    """
    order = sorted(range(len(values)), key=values.__getitem__)
    adjusted, highest = [0.0] * len(values), 0.0
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - place) * values[index]))
        adjusted[index] = highest
    return adjusted


def pairwise(
    cells: Mapping[Name, Samples], *, against: Collection[Name] | None = None, level: float = 0.95
) -> list[Pair[Name]]:
    """Every pair of cells (or those with a cell of `against`), best mean first, p values adjusted by Holm.

    Intervals are of one difference each, not adjusted. Pairs without a test do not count.
    """
    chosen = [(a, b) for a, b in combinations(_ranked(cells), 2) if against is None or a in against or b in against]
    differences = [compare(cells[a], cells[b], level) for a, b in chosen]
    tested = iter(holm([each.p for each in differences if each.p is not None]))
    return [
        Pair(a, b, each, None if each.p is None else next(tested))
        for (a, b), each in zip(chosen, differences, strict=True)
    ]


def rank_ranges(
    cells: Mapping[Name, Samples], pairs: Sequence[Pair[Name]], alpha: float = 0.05
) -> dict[Name, tuple[int, int]]:
    """Give the first and the last rank that each cell may have, best mean first.

    First: 1 + how many are told apart above it; last: the number of cells less how many are told apart below it. Two
    cells whose ranges overlap may or may not be told apart: the pair says. `pairs` are all pairs of the cells.
    """
    apart = [pair for pair in pairs if pair.told_apart(alpha)]
    above = {name: sum(pair.b == name for pair in apart) for name in cells}
    below = {name: sum(pair.a == name for pair in apart) for name in cells}
    return {name: (1 + above[name], len(cells) - below[name]) for name in _ranked(cells)}


def ties_with_best(cells: Mapping[Name, Samples], alpha: float = 0.05) -> tuple[Name, set[Name]]:
    """Find the cell with the highest mean, and all that are not told apart from it (p >= alpha), itself among them.

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


def _ranked(cells: Mapping[Name, Samples]) -> list[Name]:
    means = {name: fmean(units(samples).values()) for name, samples in cells.items()}
    return sorted(cells, key=lambda name: -means[name])


def _by_synthesis(samples: Samples) -> dict[int | None, dict[int, float]]:
    """Values by evaluation seed, by synthesis seed, in the order of the seeds."""
    groups: dict[int | None, dict[int, float]] = {}
    for (synthesis, evaluation), value in sorted(samples.items(), key=lambda item: (item[0][0] or 0, item[0][1])):
        groups.setdefault(synthesis, {})[evaluation] = value
    return groups


def _repeats_synthesis(samples: Samples) -> bool:
    return len({synthesis for synthesis, _ in samples}) > 1


def _tested(gap: float, error: float, freedom: float, n: int, test: str, level: float) -> Difference:
    from scipy.special import stdtr

    half = t_quantile(freedom, level) * error
    certain = 1.0 if gap == 0 else 0.0  # without any variation: equal, or different
    p = float(2 * stdtr(freedom, -abs(gap) / error)) if error else certain
    return Difference(gap, gap - half, gap + half, p, n, test)


def t_quantile(freedom: float, level: float) -> float:
    """Give the number of standard errors that a two-sided t interval of that level reaches on either side."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + level) / 2))
