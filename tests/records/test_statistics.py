"""Statistics against SciPy and by hand."""

import math
from statistics import fmean

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from ddbench.records.statistics import (
    combine,
    compare,
    equivalent,
    holm,
    linear_combination,
    paired_difference,
    pairwise,
    rank_ranges,
    std,
    summarize,
    t_interval,
    ties_with_best,
    units,
    unpaired_difference,
    variance_parts,
)

VALUES = [0.61, 0.64, 0.60, 0.67, 0.63]
OTHERS = [0.58, 0.62, 0.61, 0.60, 0.59]


def runs(values, synthesis=0):
    return {(synthesis, seed): value for seed, value in enumerate(values)}


def draws(values, evaluation=0):
    return {(seed, evaluation): value for seed, value in enumerate(values)}


def test_sample_deviation():
    assert std([1, 2, 6]) == pytest.approx(math.sqrt((4 + 1 + 9) / 2))
    assert std([0.5]) is None


def test_one_value_has_no_interval():
    assert t_interval([0.5]) is None
    summary = summarize(runs([0.5]))
    assert (summary.mean, summary.std, summary.low, summary.high, summary.n) == (0.5, None, None, None, 1)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=12))
def test_interval_surrounds_the_mean(values):
    low, high = t_interval(values)
    assert low <= fmean(values) + 1e-12 and fmean(values) - 1e-12 <= high


def test_one_synthesis_seed_is_summed_over_evaluations():
    summary = summarize(runs(VALUES))
    assert (summary.n, summary.draws, summary.over) == (5, 1, "evaluation")
    assert (summary.low, summary.high) == pytest.approx(t_interval(VALUES))


def test_two_levels_use_means_of_synthesis_seeds():
    samples = runs([0.5, 0.7], 0) | runs([0.8, 0.8], 1) | runs([0.4, 0.5, 0.6], 2)
    summary = summarize(samples)
    assert units(samples) == pytest.approx({0: 0.6, 1: 0.8, 2: 0.5})
    assert (summary.n, summary.draws, summary.over) == (7, 3, "synthesis")
    assert summary.mean == pytest.approx((0.6 + 0.8 + 0.5) / 3)
    assert (summary.low, summary.high) == pytest.approx(t_interval([0.6, 0.8, 0.5]))


def test_single_values_are_not_tested():
    found = unpaired_difference([0.6], [0.5])
    assert found.mean == pytest.approx(0.1)
    assert (found.p, found.low, found.test) == (None, None, "none")


@pytest.mark.parametrize("shift", [0.0, 0.004, 0.006, -0.02])
@pytest.mark.parametrize("seed", range(5))
def test_equivalence_is_two_one_sided_tests_of_scipy(shift, seed):
    draws = np.random.default_rng(seed)
    a, b = draws.normal(0.9, 0.01, 40), draws.normal(0.9 + shift, 0.01, 40)
    samples = [{(0, place): float(value) for place, value in enumerate(values)} for values in (a, b)]
    above = scipy.stats.ttest_1samp(a - b, -0.01, alternative="greater").pvalue
    below = scipy.stats.ttest_1samp(a - b, 0.01, alternative="less").pvalue
    found, difference = equivalent(*samples, 0.01)
    assert found == (max(above, below) < 0.05)
    assert difference.mean == pytest.approx((a - b).mean()) and difference.test == "paired"


def test_single_runs_show_no_equivalence():
    assert not equivalent({(0, 0): 0.5}, {(0, 0): 0.5}, 0.1)[0]


def test_constant_differences_are_certain():
    assert paired_difference([0.5, 0.75], [0.25, 0.5]).p == 0
    assert paired_difference([0.5, 0.75], [0.5, 0.75]).p == 1
    assert unpaired_difference([0.5, 0.5], [0.25, 0.25]).p == 0


def test_equal_seeds_are_paired_and_others_not():
    assert compare(runs(VALUES), runs(OTHERS)).test == "paired"
    assert compare(runs(VALUES), runs(OTHERS[:3])).test == "welch"
    assert compare(draws(VALUES), draws(OTHERS)).test == "paired"
    assert compare(draws(VALUES), runs(OTHERS)).test == "welch"  # synthesis seeds are not evaluation seeds


def test_what_cannot_be_told_from_the_best_ties():
    cells = {
        "a": runs(VALUES),
        "b": runs([v - 0.005 * (-1) ** i for i, v in enumerate(VALUES)]),
        "c": runs([0.1, 0.12, 0.1]),
    }
    assert ties_with_best(cells) == ("a", {"a", "b"})


def test_pairing_tells_apart_what_welch_does_not():
    lower = [value - 0.01 - 0.001 * (i % 2) for i, value in enumerate(VALUES)]
    assert scipy.stats.ttest_ind(VALUES, lower, equal_var=False).pvalue > 0.05
    assert ties_with_best({"a": runs(VALUES), "b": runs(lower)}) == ("a", {"a"})


def test_between_single_runs_only_equal_values_tie():
    cells = {"a": runs([0.6]), "b": runs([0.6]), "c": runs([0.599])}
    assert ties_with_best(cells) == ("a", {"a", "b"})


# --- against SciPy on random inputs, to 1e-12

EXACT = pytest.approx(0, abs=1e-12)


def scattered(count=200):
    """Pairs of samples of unequal sizes and spreads; what hypothesis finds (equal values) SciPy warns of."""
    for seed in range(count):
        random = np.random.default_rng(seed)
        sizes, spreads = random.integers(2, 12, 2), random.uniform(0.001, 0.2, 2)
        yield [
            list(random.uniform(0.2, 0.8) + spread * random.standard_normal(size))
            for size, spread in zip(sizes, spreads, strict=True)
        ]


def test_intervals_agree_with_scipy():
    for values, _ in scattered():
        for level in (0.8, 0.95, 0.99):
            expected = scipy.stats.t.interval(level, len(values) - 1, np.mean(values), scipy.stats.sem(values))
            assert np.subtract(t_interval(values, level), expected) == EXACT


def test_welch_agrees_with_scipy():
    for a, b in scattered():
        expected = scipy.stats.ttest_ind(a, b, equal_var=False)
        for found in (unpaired_difference(a, b), linear_combination([(1, a), (-1, b)])):
            assert np.subtract((found.low, found.high), expected.confidence_interval(0.95)) == EXACT
            assert found.p - expected.pvalue == EXACT


def test_pooled_agrees_with_scipy():
    for a, b in scattered():
        assert unpaired_difference(a[:1], b).p - scipy.stats.ttest_ind(a[:1], b).pvalue == EXACT


def test_paired_agrees_with_scipy():
    for a, b in scattered():
        n = min(len(a), len(b))
        expected = scipy.stats.ttest_rel(a[:n], b[:n])
        found = paired_difference(a[:n], b[:n])
        assert np.subtract((found.low, found.high), expected.confidence_interval(0.95)) == EXACT
        assert found.p - expected.pvalue == EXACT


# --- linear combinations


def test_a_combination_is_the_definition_of_welch_and_satterthwaite():
    terms = [(0.3, VALUES), (0.7, OTHERS[:3]), (-0.5, [0.1, 0.3, 0.2, 0.25])]
    parts = [(weight**2 * np.var(values, ddof=1) / len(values), len(values) - 1) for weight, values in terms]
    variance = sum(part for part, _ in parts)
    freedom = variance**2 / sum(part**2 / own for part, own in parts)
    centre = sum(weight * np.mean(values) for weight, values in terms)
    expected = scipy.stats.t.interval(0.9, freedom, centre, math.sqrt(variance))
    found = linear_combination(terms, 0.9)
    assert np.subtract((found.low, found.high), expected) == EXACT and found.mean - centre == EXACT
    assert found.p - 2 * scipy.stats.t.sf(abs(centre) / math.sqrt(variance), freedom) == EXACT


def test_a_combination_of_one_sample_is_its_interval():
    found = linear_combination([(1.0, VALUES)])
    assert (found.low, found.high) == pytest.approx(t_interval(VALUES), abs=1e-12)
    assert found.p == pytest.approx(scipy.stats.ttest_1samp(VALUES, 0).pvalue)


def test_a_combination_with_a_single_value_has_no_interval():
    found = linear_combination([(0.5, VALUES), (0.5, [0.5])])
    assert (found.mean, found.low, found.p, found.test) == (
        pytest.approx(0.5 * fmean(VALUES) + 0.25),
        None,
        None,
        "none",
    )


def test_cells_on_the_same_seeds_are_combined_seed_by_seed():
    cells = [(0.5, draws(VALUES)), (0.5, draws(OTHERS)), (-1.0, draws([0.4, 0.5, 0.3, 0.45, 0.5]))]
    steps = [0.5 * a + 0.5 * b - c for a, b, c in zip(VALUES, OTHERS, [0.4, 0.5, 0.3, 0.45, 0.5], strict=True)]
    found = combine(cells)
    assert (found.low, found.high) == pytest.approx(t_interval(steps), abs=1e-12)
    assert found.test == "paired"


def test_cells_on_other_seeds_are_independent():
    found = combine([(0.5, draws(VALUES)), (0.5, draws(OTHERS)), (-1.0, runs(OTHERS[:3]))])
    own = [(a + b) / 2 for a, b in zip(VALUES, OTHERS, strict=True)]
    assert found == linear_combination([(1.0, own), (-1.0, OTHERS[:3])])
    # the same seed numbers of another level are other seeds
    assert combine([(1.0, draws(VALUES)), (-1.0, runs(OTHERS))]).test == "welch"


@pytest.mark.parametrize(
    "pair", [(runs(VALUES), runs(OTHERS)), (runs(VALUES), runs(OTHERS[:3])), (draws(VALUES), runs(OTHERS))]
)
def test_a_combination_of_two_is_their_comparison(pair):
    a, b = pair
    found, expected = combine([(1.0, a), (-1.0, b)]), compare(a, b)
    assert (found.test, found.n) == (expected.test, expected.n)
    assert (
        np.subtract(
            (found.mean, found.low, found.high, found.p), (expected.mean, expected.low, expected.high, expected.p)
        )
        == EXACT
    )


# --- parts of the variance


def nested(groups):
    return {(seed, index): value for seed, group in enumerate(groups) for index, value in enumerate(group)}


def test_variance_parts_agree_with_scipys_analysis_of_variance():
    for seed in range(100):
        random = np.random.default_rng(seed)
        sizes = random.integers(2, 6, random.integers(2, 7))
        groups = [random.normal(random.normal(0.5, 0.1), 0.05, size) for size in sizes]
        parts, n, k = variance_parts(nested(groups)), sum(sizes), len(sizes)
        within = sum((size - 1) * np.var(group, ddof=1) for size, group in zip(sizes, groups, strict=True)) / (n - k)
        ratio = scipy.stats.f_oneway(*groups).statistic  # MSB / MSW
        between = max(0, (ratio - 1) * within / ((n - sum(sizes**2) / n) / (k - 1)))
        assert np.subtract((parts.within, parts.between, parts.total), (within, between, within + between)) == EXACT
        assert (parts.n, parts.draws) == (n, k)


def test_variance_parts_by_hand():
    parts = variance_parts(nested([[0.2, 0.4], [0.5, 0.7], [0.8, 1.0]]))
    # within: 3 * 0.02 / 3; means 0.3, 0.6, 0.9: MSB = 2 * 0.18 / 2
    assert (parts.within, parts.between, parts.total) == pytest.approx((0.02, (0.18 - 0.02) / 2, 0.02 + 0.08))


def test_variance_between_is_never_negative():
    parts = variance_parts(nested([[0.1, 0.9], [0.9, 0.1]]))
    assert parts.between == 0 and parts.total == parts.within == pytest.approx(0.32)


def test_variance_parts_that_cannot_be_told_are_none():
    one, single, repeated = runs([0.5]), runs(VALUES), draws(VALUES)
    assert variance_parts(one).within is None and variance_parts(one).total is None
    parts = variance_parts(single)
    assert (parts.total, parts.between) == (None, None) and parts.within == pytest.approx(np.var(VALUES, ddof=1))
    parts = variance_parts(repeated)
    assert (parts.within, parts.between) == (None, None) and parts.total == pytest.approx(np.var(VALUES, ddof=1))


def test_variance_parts_estimate_the_parts():
    """Unbiased where the part between is never cut at zero; mean of 2,000 estimates within four standard errors."""
    random = np.random.default_rng(0)
    sizes, found = (2, 3, 5, 4), []
    for _ in range(2000):
        found.append(variance_parts(nested([random.normal(random.normal(0, 1.0), 0.1, size) for size in sizes])))
    for estimates, truth in (([p.between for p in found], 1.0), ([p.within for p in found], 0.01)):
        assert min(estimates) > 0
        assert abs(np.mean(estimates) - truth) < 4 * np.std(estimates) / math.sqrt(len(estimates))


# --- many comparisons


def rejected(values, alpha):
    """Holm's procedure as it is written: from the smallest, stop at the first that is not below alpha / (m - i)."""
    found = set()
    for place, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        if values[index] >= alpha / (len(values) - place):
            break
        found.add(index)
    return found


@given(st.lists(st.floats(1e-6, 1), max_size=12), st.floats(0.001, 0.5))
def test_adjusted_values_reject_what_holm_rejects(values, alpha):
    assert {index for index, p in enumerate(holm(values)) if p < alpha * (1 - 1e-12)} <= rejected(values, alpha)
    assert rejected(values, alpha) <= {index for index, p in enumerate(holm(values)) if p < alpha * (1 + 1e-12)}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_adjusted_values_keep_the_order_and_lie_between_p_and_bonferroni(values):
    adjusted = holm(values)
    for p, own in zip(values, adjusted, strict=True):
        assert p <= own <= min(1, len(values) * p)
    order = sorted(range(len(values)), key=values.__getitem__)
    assert [adjusted[index] for index in order] == sorted(adjusted)


def test_holm_by_hand():
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([]) == [] and holm([0.2]) == [0.2]


def test_pairs_are_adjusted_over_what_was_tested():
    cells = {"c": runs([0.3]), "a": runs(VALUES), "b": runs(OTHERS), "d": runs([0.2])}
    found = pairwise(cells)
    assert [pair.a + pair.b for pair in found] == ["ab", "ac", "ad", "bc", "bd", "cd"]
    tested = [pair for pair in found if pair.adjusted is not None]
    assert len(tested) == 5 and found[-1].adjusted is None and not found[-1].told_apart()
    assert [pair.adjusted for pair in tested] == holm([compare(cells[p.a], cells[p.b]).p for p in tested])


def test_pairs_with_one_cell_are_a_smaller_family():
    cells = {"a": runs(VALUES), "b": runs(OTHERS), "c": runs([v - 0.2 for v in OTHERS])}
    found = pairwise(cells, against=["b"])
    assert [(pair.a, pair.b) for pair in found] == [("a", "b"), ("b", "c")]
    assert [pair.adjusted for pair in found] == holm([pair.difference.p for pair in found])


def test_ranks_are_ranges_of_what_is_not_told_apart():
    near = [value - 0.004 * (-1) ** index for index, value in enumerate(VALUES)]
    cells = {"far": runs([v - 0.3 for v in OTHERS]), "a": runs(VALUES), "b": runs(near)}
    ranges = rank_ranges(cells, pairwise(cells))
    assert list(ranges.items()) == [("a", (1, 2)), ("b", (1, 2)), ("far", (3, 3))]


def test_single_runs_share_all_ranks():
    cells = {"a": runs([0.9]), "b": runs([0.5]), "c": runs([0.1])}
    assert set(rank_ranges(cells, pairwise(cells)).values()) == {(1, 3)}


def test_overlapping_ranges_need_not_be_a_tie():
    """a and c are told apart, b from neither: no grouping into classes could say that."""
    noise = [0.0, 0.05, -0.05, 0.02, -0.02]
    cells = {"a": draws([0.70 + x for x in noise]), "b": runs([0.66, 0.5]), "c": draws([0.60 + x for x in noise])}
    assert rank_ranges(cells, pairwise(cells)) == {"a": (1, 2), "b": (1, 3), "c": (2, 3)}


# --- coverage by simulation


SIMULATIONS = 4000
TOLERANCE = 4 * math.sqrt(0.95 * 0.05 / SIMULATIONS)  # four standard errors of a share: 0.0138


def covers(interval, truth):
    return interval[0] <= truth <= interval[1]


def share(simulate):
    random = np.random.default_rng(0)
    return np.mean([simulate(random) for _ in range(SIMULATIONS)])


def cell(random, centre, between, within, sizes):
    groups = [random.normal(random.normal(centre, between), within, size) for size in sizes]
    return nested([list(map(float, group)) for group in groups])


def test_coverage_over_one_level():
    def simulate(random):
        found = summarize(cell(random, 0.6, 0.0, 0.03, [5]))
        return covers((found.low, found.high), 0.6)

    assert abs(share(simulate) - 0.95) < TOLERANCE


def test_coverage_over_two_levels():
    """The synthesis is inside the bar; an interval over all runs as if they were independent is far too short."""

    def simulate(random):
        samples = cell(random, 0.6, 0.04, 0.01, [4] * 5)
        found, naive = summarize(samples), t_interval(list(samples.values()))
        return covers((found.low, found.high), 0.6), covers(naive, 0.6)

    random = np.random.default_rng(1)
    right, naive = np.mean([simulate(random) for _ in range(SIMULATIONS)], axis=0)
    assert abs(right - 0.95) < TOLERANCE and naive < 0.75


@pytest.mark.parametrize("case", ["paired", "welch"])
def test_coverage_of_a_difference(case):
    sizes = ([3] * 5, [3] * 5) if case == "paired" else ([3] * 6, [2] * 9)

    def simulate(random):
        found = compare(cell(random, 0.7, 0.05, 0.02, sizes[0]), cell(random, 0.6, 0.03, 0.02, sizes[1]))
        assert found.test == case
        return covers((found.low, found.high), 0.1)

    assert abs(share(simulate) - 0.95) < TOLERANCE


def test_coverage_of_a_combination_with_a_shared_set():
    """Two protocols of one set share its synthesis: combined seed by seed the interval covers."""

    def simulate(random):
        sets, base = random.normal(0, 0.05, 6), cell(random, 0.5, 0.02, 0.01, [2] * 9)
        first, second = (
            {(s, e): 0.7 + sets[s] + random.normal(0, 0.01) for s in range(6) for e in range(2)} for _ in "ab"
        )
        found = combine([(0.5, first), (0.5, second), (-1.0, base)])
        return covers((found.low, found.high), 0.2)

    assert abs(share(simulate) - 0.95) < TOLERANCE


def test_holm_keeps_the_rate_of_families_with_a_false_rejection():
    """Five equal methods, ten pairs: uncorrected, most families hold a false claim; corrected, at most 5 %."""
    random, count = np.random.default_rng(2), 1000
    claims = []
    for _ in range(count):
        pairs = pairwise({name: runs(list(map(float, random.normal(0.6, 0.02, 5)))) for name in "abcde"})
        claims.append((any(p.told_apart() for p in pairs), any(p.difference.p < 0.05 for p in pairs)))
    corrected, plain = np.mean(claims, axis=0)
    assert corrected < 0.05 + 4 * math.sqrt(0.05 * 0.95 / count) and plain > 0.15
