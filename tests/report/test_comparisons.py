"""Methods compared within a column: what is paired with what, the correction, ranks as ranges, and how they are shown."""

import math

import numpy as np
import pytest
import scipy.stats
from made_records import a_record as record

from ddbench.errors import UsageError
from ddbench.records.statistics import t_interval
from ddbench.report import columns
from ddbench.report.frame import results_frame
from ddbench.report.renderers import FORMATS
from ddbench.report.significance import VIEWS, compare, grids, render

GOOD = [0.80, 0.82, 0.81, 0.83, 0.79]
NEAR = [0.81, 0.80, 0.82, 0.81, 0.80]
POOR = [0.50, 0.55, 0.52, 0.51, 0.53]


def toy():
    return [record("good", GOOD), record("near", NEAR), record("poor", POOR), record("good", GOOD, ipc=10)]


def test_every_pair_of_a_column_against_scipy_and_holm():
    table = compare(results_frame(toy()), "pairs").set_index(["a", "b"])
    assert set(table.index) == {("good", "near"), ("good", "poor"), ("near", "poor")}
    values = {"good": GOOD, "near": NEAR, "poor": POOR}
    raw = {pair: scipy.stats.ttest_rel(values[pair[0]], values[pair[1]]) for pair in table.index}
    for pair, found in raw.items():
        row = table.loc[pair]
        assert row["p"] == pytest.approx(found.pvalue, abs=1e-12)
        assert (row["low"], row["high"]) == pytest.approx(tuple(found.confidence_interval(0.95)), abs=1e-12)
        assert row["difference"] == pytest.approx(row["top1_a"] - row["top1_b"])
        assert (row["tested"], row["n"], row["test"], row["over_a"]) == (3, 5, "paired", "evaluation")
    ordered = sorted(raw, key=lambda pair: raw[pair].pvalue)
    highest = 0.0
    for place, pair in enumerate(ordered):
        highest = max(highest, min(1, (3 - place) * raw[pair].pvalue))
        assert table.loc[pair]["p_holm"] == pytest.approx(highest, abs=1e-12)
    assert list(table["verdict"]) == ["not told apart", "a is higher", "a is higher"]


def test_ranks_are_ranges_and_name_their_cells():
    table = compare(results_frame(toy()), "ranks")
    found = {row.method: (row.first, row.last) for row in table.itertuples()}
    assert found == {"good": (1, 2), "near": (1, 2), "poor": (3, 3)}
    assert list(table["cells"]) == [3, 3, 3] and set(table["group"]) <= set(results_frame(toy())["group"])


def test_columns_do_not_meet():
    records = [*toy(), record("poor", [v + 0.2 for v in POOR], ipc=10), record("poor", POOR, student_network="mlp")]
    table = compare(results_frame(records), "pairs")
    assert sorted(table["budget"]) == ["ipc 1"] * 3 + ["ipc 10"] and set(table["student"]) == {"convnet-d2"}
    assert list(table[table["budget"] == "ipc 10"]["p_holm"]) == list(table[table["budget"] == "ipc 10"]["p"])


def test_pairs_with_one_method_are_a_smaller_family():
    table = compare(results_frame(toy()), "pairs", against="near")
    assert [(row.a, row.b) for row in table.itertuples()] == [("good", "near"), ("near", "poor")]
    assert set(table["tested"]) == {2}


def test_alpha_is_the_level_of_verdicts_and_intervals():
    strict = compare(results_frame(toy()), "pairs", alpha=1e-9)
    assert set(strict["verdict"]) == {"not told apart"}
    row = compare(results_frame(toy()), "pairs", alpha=0.2).iloc[0]
    steps = [a - b for a, b in zip(GOOD, NEAR, strict=True)]
    assert (row["low"], row["high"]) == pytest.approx(t_interval(steps, 0.8), abs=1e-12)


def test_single_runs_are_not_tested_and_tie():
    frame = results_frame([record("a", [0.9]), record("b", [0.1])])
    pair = compare(frame, "pairs").iloc[0]
    assert pair["verdict"] == "not tested" and math.isnan(pair["p_holm"]) and pair["tested"] == 0
    ranks = compare(frame, "ranks")
    assert set(zip(ranks["first"], ranks["last"], strict=True)) == {(1, 2)}
    assert any("cannot be tested" in note for note in grids(frame, "ranks")[-1].notes)


@pytest.mark.parametrize(
    "options",
    [{"alpha": 0}, {"alpha": 5}, {"view": "letters"}, {"view": "pairs", "against": "goood"}, {"against": "good"}],
)
def test_bad_options_are_refused(options):
    with pytest.raises(UsageError):
        compare(results_frame(toy()), **options)


def test_a_column_of_one_cell_is_nothing_to_compare():
    with pytest.raises(UsageError, match="nothing to compare"):
        compare(results_frame([record("good", GOOD)]))


def test_shown_as_people_read_it():
    (table,) = grids(results_frame(toy()), "ranks")
    assert table.title == "digits, hard-v1 (convnet-d2), IPC 1"
    assert [(label, shown[0].text, shown[0].best) for label, shown in table.rows] == [
        ("good", "1-2", True),
        ("near", "1-2", True),
        ("poor", "3", False),
    ]
    (table,) = grids(results_frame(toy()), "pairs")
    label, shown = table.rows[1]
    gap = np.mean(GOOD) - np.mean(POOR)
    assert (label, shown[0].text, shown[1].text) == ("good", "poor", f"{100 * gap:+.1f}")
    assert (shown[3].text, shown[-1].text, shown[-1].best) == ("< 0.001", "higher", True)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("view", VIEWS)
def test_every_format_takes_every_view(form, view):
    text = render(results_frame(toy()), form, view)
    assert "good" in text and "near" in text


def test_without_a_view_one_column_has_its_pairs_too():
    frame = results_frame(toy())
    assert [table.headers[0] for table in grids(frame)] == [("rank",), ("than",)]
    assert [table.headers[0] for table in grids(frame, against="good")] == [("than",)]
    assert len(grids(results_frame([*toy(), record("poor", POOR, ipc=10)]))) == 2  # ranks of two columns


def test_data_has_the_documented_columns():
    assert list(compare(results_frame(toy()), "pairs")) == list(columns.PAIRS)
    assert list(compare(results_frame(toy()), "ranks")) == list(columns.RANKS)
