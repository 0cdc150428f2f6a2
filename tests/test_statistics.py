"""Statistics against SciPy and by hand."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from ddbench.statistics import (
    compare,
    mean,
    paired_difference,
    std,
    summarize,
    t_interval,
    ties_with_best,
    units,
    unpaired_difference,
)

VALUES = [0.61, 0.64, 0.60, 0.67, 0.63]
OTHERS = [0.58, 0.62, 0.61, 0.60, 0.59]


def runs(values, synthesis=0):
    return {(synthesis, seed): value for seed, value in enumerate(values)}


def draws(values, evaluation=0):
    return {(seed, evaluation): value for seed, value in enumerate(values)}


def test_mean_and_sample_deviation():
    assert mean([1, 2, 6]) == 3
    assert std([1, 2, 6]) == pytest.approx(math.sqrt((4 + 1 + 9) / 2))
    assert std([0.5]) is None


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_interval_against_scipy(level):
    expected = scipy.stats.t.interval(level, len(VALUES) - 1, np.mean(VALUES), scipy.stats.sem(VALUES))
    assert t_interval(VALUES, level) == pytest.approx(expected)


def test_one_value_has_no_interval():
    assert t_interval([0.5]) is None
    summary = summarize(runs([0.5]))
    assert (summary.mean, summary.std, summary.low, summary.high, summary.n) == (0.5, None, None, None, 1)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=12))
def test_interval_surrounds_the_mean(values):
    low, high = t_interval(values)
    assert low <= mean(values) + 1e-12 and mean(values) - 1e-12 <= high


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


def test_paired_difference_against_scipy():
    expected = scipy.stats.ttest_rel(VALUES, OTHERS)
    found = paired_difference(VALUES, OTHERS)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert (found.n, found.test) == (5, "paired")


def test_welch_against_scipy():
    expected = scipy.stats.ttest_ind(VALUES, OTHERS[:3], equal_var=False)
    found = unpaired_difference(VALUES, OTHERS[:3])
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_one_value_against_several_uses_their_variance():
    expected = scipy.stats.ttest_ind([0.55], OTHERS, equal_var=True)
    assert unpaired_difference([0.55], OTHERS).p == pytest.approx(expected.pvalue)


def test_single_values_are_not_tested():
    found = unpaired_difference([0.6], [0.5])
    assert found.mean == pytest.approx(0.1)
    assert (found.p, found.low, found.test) == (None, None, "none")


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
