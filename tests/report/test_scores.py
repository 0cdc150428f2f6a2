"""Scores: their published formulas, their range, and that they only rise with what is good."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddbench.errors import UsageError
from ddbench.report.scores import ars, hlr, ior, lrs

fractions = st.floats(0, 1)
differences = st.floats(-1, 1)


def test_differences_by_hand():
    assert hlr(0.9, 0.6) == pytest.approx(0.3)
    assert ior(0.6, 0.4) == pytest.approx(0.2)


def test_lrs_is_the_published_formula():
    combined = 0.5 * 0.2 - 0.5 * 0.4
    expected = (math.exp(combined) - math.exp(-1)) / (math.e - math.exp(-1))
    assert lrs(hlr=0.4, ior=0.2) == pytest.approx(expected)
    assert lrs(0, 0) == pytest.approx(0.269, abs=5e-4)  # as facts on the peers have it


def test_lrs_reaches_both_ends():
    assert lrs(hlr=1, ior=-1) == 0
    assert lrs(hlr=-1, ior=1) == 1


def test_ars_is_the_published_formula():
    combined = 0.5 * (0.7 - 0.5) + 0.5 * (0.6 - 0.45)
    expected = (math.exp(combined) - math.exp(-1)) / (math.e - math.exp(-1))
    assert ars(0.7, 0.5, 0.6, 0.45) == pytest.approx(expected)


@given(differences, differences, fractions)
def test_lrs_is_in_range(loss, gain, weight):
    assert 0 <= lrs(loss, gain, weight) <= 1


@given(differences, differences, differences)
def test_lrs_rises_with_ior_and_falls_with_hlr(low, high, other):
    low, high = sorted((low, high))
    assert lrs(other, low) <= lrs(other, high)
    assert lrs(low, other) >= lrs(high, other)


@given(fractions, fractions, fractions, fractions, fractions)
def test_ars_is_in_range_and_rises_with_the_set(low, high, b, c, d):
    low, high = sorted((low, high))
    assert 0 <= ars(low, b, c, d) <= ars(high, b, c, d) <= 1


@pytest.mark.parametrize(
    "call", [lambda: hlr(90, 60), lambda: ior(0.5, -0.1), lambda: lrs(40, 20), lambda: lrs(0, 0, 2)]
)
def test_percent_and_bad_weights_are_refused(call):
    with pytest.raises(UsageError, match="is needed"):
        call()


def test_nan_is_refused():
    with pytest.raises(UsageError):
        hlr(float("nan"), 0.5)
