"""Cells and tables: what is pooled, what is kept apart, and a golden table of each format from a small store."""

import csv
import io
import json
import math

import numpy as np
import pandas as pd
import pytest
from made_records import a_record, without_set

from ddbench.errors import UsageError
from ddbench.hashing import digest
from ddbench.records.statistics import t_interval, variance_parts
from ddbench.records.store import RecordStore
from ddbench.report import columns, tables
from ddbench.report.frame import bytes_total, label_bytes, label_form, results_frame
from ddbench.report.renderers import FORMATS, Grid, Shown, blocks, grids_text
from ddbench.report.tables import VIEWS, grids, pivot, render, row_labels


def record(method="dm", ipc=1, values=(), *, teacher=None, setting=None, **changes):
    """A record with one ok run per value; `setting` changes the runs."""
    run = {"teacher": teacher and digest(teacher)} | (setting or {})
    teachers = {digest(teacher): {"network": "mlp", "accuracy": 0.9}} if teacher else {}
    return a_record(method, values, ipc=ipc, run=run, teachers=teachers, **changes)


def toy():
    """A store's content with everything a table can show: a tie, a gap, n/a, a failure, a reduced recipe, a reference."""
    return [
        record("dm", 1, [0.70, 0.72]),
        record("dm", 10, [0.90, 0.92]),
        record("random", 1, [0.50, 0.52]),
        record("random", 10, [0.91, 0.905]),
        record("datadam", 1, [0.60, 0.61], name="quick-reduced"),
        without_set("infer", "n/a", "needs two images per class"),
        without_set("infer", "failed", "loss is not finite", ipc=10),
        record("whole", None, [0.99]),
    ]


def shown(frame, label):
    table = pivot(frame)
    return dict(
        zip((head[2] for head in table.headers), next(row for name, row in table.rows if name == label), strict=True)
    )


def test_toy_cells_from_a_store(tmp_path):
    store = RecordStore(tmp_path)
    for each in toy():
        store.add(each)
    frame = results_frame(store)
    assert len(frame) == 8
    row = frame[(frame["method"] == "dm") & (frame["ipc"] == 1)].iloc[0]
    low, high = t_interval([0.70, 0.72])
    assert (row.top1, row.ci_low, row.ci_high) == pytest.approx((0.71, low, high))
    assert (row.n, row.draws, row.status, row.bytes, row.distill_seconds) == (2, 1, "ok", 1000, 8.0)
    assert row.samples == {(0, 0): 0.70, (0, 1): 0.72}
    assert row.best and row.tied


def test_labels_are_counted_apart_and_say_their_form():
    assert label_bytes({"images": 100, "targets": 5, "extra": 7}) == 5
    assert label_bytes({"images": 100, "targets": 5, "external": 2}) == 7
    assert label_bytes({"images": 100}) is None
    assert label_form(record(), {"external": 2}) == "online" and label_form(record(), {}) is None
    assert label_form(record(), {"targets": 2}) == "stored"
    assert label_form(record(), {"targets": 2, "external": 3}) == "online"  # a projector: its factors, and the encoder
    for packing, wanted in (
        ({"encoding": "int8", "topk": None, "keep": "first", "draw": "uniform"}, "int8"),
        ({"encoding": "topk", "topk": 3, "keep": "random", "draw": "cycle"}, "topk3 random cycle"),
    ):
        recipe = {"method": "dm", "name": "paper+x", "labels": packing}
        packed = record("dm", 1, [0.5], recipe=recipe, recipe_hash=digest(recipe))
        assert label_form(packed, {"targets": 2}) == wanted
        row = results_frame([packed]).iloc[0]
        assert (row.labels, row.label_bytes, row.bytes) == (wanted, 300, 1000)


def test_bytes_count_images_once():
    assert bytes_total({"images": 100, "images_encoded": 30, "targets": 5}) == 35
    assert bytes_total({"images": 100, "targets": 5}) == 105


MARKDOWN = """\
**Top-1 accuracy (%)**

| method | digits hard-v1 IPC 1 | digits hard-v1 IPC 10 | digits hard-v1 all |
| --- | ---: | ---: | ---: |
| datadam† | 60.5 ±6.4 | — | — |
| dm | **71.0 ±12.7** | **91.0 ±12.7** | — |
| infer | n/a | failed | — |
| random | 51.0 ±12.7 | **90.8 ±3.2** | — |
| whole | — | — | 99.0 |

- ±: 95 % confidence half-width (Student's t) over the evaluation seeds of a single set.
- n = 1-2 runs (1 distilled set x evaluation seeds).
- **bold**: the best of its column, and those that are not significantly different from it (p > 0.05; paired t test, else Welch's; not corrected).
- A single run has no interval, and two single runs cannot be tested against each other.
- †: a reduced recipe, cheaper than the published one.
- n/a: the method is not defined there.
- All results: device cpu, precision float32, threads 1, build 2.9.0.
"""
# By hand: with two values the half width is 12.706 * |a - b| / 2. At IPC 1 datadam is 0.10 and 0.11 below dm (paired
# t = 21, p = 0.03), random 0.20 and 0.20; at IPC 10 random is 0.01 above and 0.015 below (t = 0.2): a tie.


def test_golden_markdown():
    assert render(results_frame(toy()), "markdown") == MARKDOWN


def test_golden_latex():
    text = render(results_frame(toy()), "latex")
    assert r"\begin{tabular}{lrrr}" in text
    assert r"\multicolumn{3}{c}{hard-v1} \\" + "\n" + r"\cmidrule(lr){2-4}" in text
    assert r"method & IPC 1 & IPC 10 & all \\" in text
    assert r"dm & \textbf{71.0 $\pm$12.7} & \textbf{91.0 $\pm$12.7} & -- \\" in text
    assert r"datadam$^\dagger$ & 60.5 $\pm$6.4 & -- & -- \\" in text
    assert text.count("{") == text.count("}")


@pytest.mark.parametrize(
    ("form", "name", "words"), [("latex", "a_b%c&d#{x}", r"a\_b\%c\&d\#\{x\}"), ("markdown", "a|b", r"a\|b")]
)
def test_names_are_escaped(form, name, words):
    assert words in render(results_frame([record(name, values=[0.5])]), form)


def test_golden_terminal():
    lines = [line.split() for line in render(results_frame(toy()), "terminal").splitlines()]
    assert ["method", "IPC", "1", "IPC", "10", "all"] in lines
    assert ["dm", "71.0", "±12.7", "*", "91.0", "±12.7", "*", "—"] in lines
    assert ["infer", "n/a", "failed", "—"] in lines
    assert ["whole", "—", "—", "99.0"] in lines


def test_a_wide_pivot_is_cut_on_the_terminal_only():
    wide = [record("dm", ipc, [0.5], dataset=name) for ipc in (1, 2, 3, 4) for name in ("digits", "mnist", "svhn")]
    text = render(results_frame(wide), "terminal")
    assert text.count("Top-1 accuracy") == 3 and text.count("All results") == 1
    assert render(results_frame(wide), "markdown").count("Top-1 accuracy") == 1


def test_long_csv_and_json_are_fractions():
    frame = results_frame(toy())
    rows = list(csv.DictReader(io.StringIO(render(frame, "csv", "long"))))
    data = json.loads(render(frame, "json", "long"))
    assert len(rows) == len(data) == len(frame)
    for found in (rows, data):
        dm = next(row for row in found if row["method"] == "dm" and str(row["ipc"]) == "1")
        assert float(dm["top1"]) == pytest.approx(0.71)
    infer = next(row for row in data if row["method"] == "infer" and row["ipc"] == 1)
    assert (infer["top1"], infer["status"], infer["reason"]) == (None, "n/a", "needs two images per class")
    assert next(row for row in data if row["method"] == "whole")["samples"] == [[0, 0, 0.99]]


def test_the_pivot_is_text_in_csv_and_numbers_as_a_frame():
    rows = list(csv.reader(io.StringIO(render(results_frame(toy()), "csv", "pivot"))))
    assert ["infer", "n/a", "failed", "—"] in rows
    means = tables.table(results_frame(toy()), "pivot")
    assert means.columns.names == ["dataset", "protocol", "budget"]
    assert means.loc["dm", ("digits", "hard-v1", "IPC 1")] == pytest.approx(0.71)
    assert math.isnan(means.loc["whole", ("digits", "hard-v1", "IPC 1")])


@pytest.mark.parametrize(
    ("chosen", "kept"),
    [
        ({"methods": ["dm"], "protocols": ["hard"]}, {("dm", "digits")}),
        ({"datasets": ["mine"]}, {("random", "mine@0123abcd")}),
        ({"networks": ["mlp"], "protocols": ["hard-v1"]}, {("mtt", "digits")}),
        ({"datasets": ["digitz"]}, "data set"),
        ({"protocols": ["soft"]}, "protocol"),
        ({"methods": ["mtt"], "networks": ["convnet-d2"]}, "student network"),
    ],
)
def test_records_are_chosen_by_names_that_some_have(chosen, kept):
    records = [record(values=[0.5]), record("mtt", values=[0.6], student_network="mlp")]
    records.append(record("random", values=[0.4], dataset="mine@0123abcd"))
    if isinstance(kept, str):
        with pytest.raises(UsageError, match=f"unknown {kept}"):
            results_frame(records, **chosen)
    else:
        frame = results_frame(records, **chosen)
        assert set(zip(frame["method"], frame["dataset"], strict=True)) == kept


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("view", VIEWS)
def test_every_format_and_view_takes_any_cells(form, view):
    for records in ([], [without_set("infer", "n/a", "none")], toy()):
        assert isinstance(render(results_frame(records), form, view), str)


@pytest.mark.parametrize(
    ("form", "view"), [("html", "pivot"), ("csv", "wide"), ("terminal", "wide"), ("markdown", "variances")]
)
def test_unknown_names_are_refused(form, view):
    with pytest.raises(UsageError, match="unknown"):
        render(results_frame(toy()), form, view)


def test_protocol_versions_are_not_mixed():
    second = {"protocol": "hard-v2", "protocol_version": 2, "protocol_digest": digest("second")}
    mixed = [record(values=[0.5]), record(values=[0.6], **second)]
    with pytest.raises(UsageError, match=r"hard-v1 and hard-v2"):
        results_frame(mixed)
    assert list(results_frame(mixed, protocols=["hard-v2"])["top1"]) == [0.6]
    small = {"protocol": "hard-small-v1", "protocol_digest": digest("small")}
    assert len(results_frame([record(values=[0.5]), record(values=[0.6], **small)])) == 2


def test_one_version_with_two_digests_is_refused():
    with pytest.raises(UsageError, match="two digests"):
        results_frame([record(values=[0.5]), record("dc", values=[0.6], protocol_digest=digest("edited"))])


def test_synthesis_seeds_are_pooled_in_two_levels():
    draws = [
        record("dm", 1, values, synthesis=seed) for seed, values in enumerate([[0.5, 0.7], [0.8], [0.4, 0.5, 0.6]])
    ]
    (row,) = results_frame(draws).to_dict("records")
    assert (row["n"], row["draws"], row["over"]) == (6, 3, "synthesis")
    assert row["top1"] == pytest.approx((0.6 + 0.8 + 0.5) / 3)
    assert (row["ci_low"], row["ci_high"]) == pytest.approx(t_interval([0.6, 0.8, 0.5]))


SETTINGS = [{"device": "cuda"}, {"precision": "tf32"}, {"threads": 2}, {"build": "2.10.0"}, {"compiled": True}]


@pytest.mark.parametrize("other", [*({"setting": each} for each in (*SETTINGS, {"stacked": True})), {"teacher": "b"}])
def test_settings_and_teachers_are_never_pooled(other):
    frame = results_frame(
        [record(values=[0.5], teacher="a"), record(values=[0.7], synthesis=1, **({"teacher": "a"} | other))]
    )
    assert sorted(frame["top1"]) == [0.5, 0.7]
    labels = row_labels(frame)
    assert len(set(labels)) == 2
    (name, value), *_ = other.get("setting", {"teacher": "teacher"}).items()
    assert name in " ".join(labels) or str(value) in " ".join(labels)


def test_two_sets_of_one_seed_are_never_pooled():
    same_seed = [record(values=[0.5]), record(values=[0.7], made="elsewhere")]
    assert sorted(results_frame(same_seed)["top1"]) == [0.5, 0.7]


def test_a_failed_distillation_counts_with_its_cell():
    lost = without_set("dm", "failed", "loss is not finite").model_copy(update={"synthesis_seed": 1})
    frame = results_frame([record(values=[0.5, 0.6], teacher="a"), lost])
    assert (list(frame["failed"]), list(frame["n"]), list(frame["status"])) == ([1], [2], ["ok"])
    assert shown(frame, "dm")["IPC 1"].text.endswith("(1 failed)")


def test_superseded_records_are_left_out_unless_asked_for():
    old = record("random", values=[0.5])
    new = record("random", values=[0.6], name="better", supersedes=old.key_hash())
    assert list(results_frame([old, new])["recipe"]) == ["better"]
    assert sorted(results_frame([old, new], superseded=True)["superseded"]) == [False, True]


def test_parts_of_a_record_in_two_stores_are_one_cell():
    later = record(values=[0.9, 0.7])
    frame = results_frame([record(values=[0.5]), later])
    assert frame["samples"].iloc[0] == {(0, 0): 0.5, (0, 1): 0.7}


def test_recipes_of_one_method_are_told_apart_by_name():
    frame = results_frame([record(values=[0.5], name="table"), record(values=[0.6], name="code-reduced")])
    assert sorted(label for label, _ in pivot(frame).rows) == ["dm (code-reduced)†", "dm (table)"]
    assert list(results_frame([record(values=[0.5], name="quick-reduced+set")])["reduced"]) == [True]


def test_a_row_with_both_marks_the_reduced_cell_only():
    frame = results_frame([record("dm", 1, [0.5], name="a"), record("dm", 10, [0.6], name="b-reduced")])
    assert [cell.text for cell in shown(frame, "dm").values()] == ["50.0", "60.0†"]


def test_a_baseline_that_borrows_says_from_whom():
    frame = results_frame([record("random", values=[0.5], borrowed=name) for name in ("dm", "datadam")])
    assert sorted(row_labels(frame)) == ["random (as datadam)", "random (as dm)"]


def test_two_lenders_of_one_name_are_told_apart_and_no_other_row_is():
    made = [("infer", "a" * 64), ("infer", "b" * 64), ("dm", "c" * 64)]
    frame = results_frame([record("random", values=[0.5], borrowed=name, lender=lender) for name, lender in made])
    other = [record("random", 10, [0.5], borrowed="dm", lender="d" * 64), record("random", values=[0.5])]
    both = results_frame([*other, record("random", values=[0.5], borrowed="dm", lender="c" * 64)])
    assert sorted(row_labels(frame)) == [
        "random (as dm)",
        "random (as infer, lender aaaaaaaa)",
        "random (as infer, lender bbbbbbbb)",
    ]
    assert sorted(set(row_labels(both))) == ["random", "random (as dm)"]  # a lender has another recipe at each budget


def test_columns_are_budgets_in_the_order_of_their_size_by_student():
    frame = results_frame([record("dm", ipc, [0.5]) for ipc in (None, 50, 1, 10)])
    assert [head[2] for head in pivot(frame).headers] == ["IPC 1", "IPC 10", "IPC 50", "all"]
    students = results_frame([record(values=[0.5]), record(values=[0.6], student_network="mlp")])
    assert [head[1] for head in pivot(students).headers] == ["hard-v1 (convnet-d2)", "hard-v1 (mlp)"]


def test_seeds_that_give_the_same_set_are_one_draw():
    """A method that draws nothing: its students' runs are the same runs again, not another synthesis."""
    first = record("prune", 10, [0.8, 0.9])
    again = [first.model_copy(update={"synthesis_seed": seed}) for seed in (1, 2)]
    (row,) = results_frame([*again, first]).to_dict("records")
    assert (row["n"], row["draws"], row["over"]) == (2, 1, "evaluation")
    assert row["samples"] == {(0, 0): 0.8, (0, 1): 0.9}
    assert row["ci_high"] > row["ci_low"]


def test_draws_with_learned_step_sizes_are_one_cell_and_each_lender_has_its_own_baseline():
    """Under shipped-v1 every set's student recipe has its own hash; what made it is what draws share."""
    hashes = [digest(f"step size {seed}") for seed in (0, 1)]
    recipes = {name: digest(name) for name in ("one", "other")}
    made = [
        record("mtt", values=[0.8 + seed / 10], synthesis=seed, student_recipe_hash=hashes[seed]) for seed in (0, 1)
    ]
    borrowing = [
        record("random", values=[0.5], synthesis=seed, student_recipe_hash=hashes[seed], borrowed="mtt", lender=lender)
        for seed in (0, 1)
        for lender in recipes.values()
    ]
    frame = results_frame([*made, *borrowing])
    assert len(frame) == 3
    own = frame[frame["method"] == "mtt"].iloc[0]
    assert own.draws == 2 and own.samples == {(0, 0): 0.8, (1, 0): pytest.approx(0.9)} and own.student_recipe is None
    assert list(frame[frame["method"] == "random"]["draws"]) == [2, 2]
    assert len({each.key_hash() for each in (*made, *borrowing)}) == 6


# --- parts of the variance


def nested():
    return [record("dm", 1, values, synthesis=seed) for seed, values in enumerate([[0.2, 0.4], [0.5, 0.7], [0.8, 1.0]])]


def test_variance_view_shows_the_parts_as_standard_deviations():
    records = [*nested(), record("random", 1, [0.5, 0.6]), record("whole", None, [0.99])]
    records.append(without_set("infer", "n/a", "no"))
    (table,) = grids(results_frame(records), "variance")
    rows = {label: [cell.text for cell in shown] for label, shown in table.rows}
    # by hand: MSW = 0.02, MSB = 0.18
    within, between = 0.02, (0.18 - 0.02) / 2
    expected = [f"{100 * math.sqrt(value):.2f}" for value in (within + between, between, within)]
    assert rows["dm"][5:] == [*expected, "6", "3"]
    assert rows["random"][5:] == ["—", "—", f"{100 * np.std([0.5, 0.6], ddof=1):.2f}", "2", "1"]
    assert rows["whole"][5:8] == rows["infer"][5:8] == ["—", "—", "—"] and rows["infer"][4] == "n/a"
    row = tables.table(results_frame(nested()), "variance").iloc[0]
    parts = variance_parts(row["samples"])
    spreads = (row.std_total**2, row.std_between**2, row.std_within**2)
    assert spreads == pytest.approx((parts.total, parts.between, parts.within))


# --- student networks


def crossed():
    """dm (distilled with convnet-d2) on three students, random on three, whole on two of them."""
    students = {"convnet-d2": [0.9, 0.92], "mlp": [0.5, 0.55], "resnet18": [0.7, 0.71]}
    sets = [record("dm", 1, values, student_network=name) for name, values in students.items()]
    free = [
        record("random", 1, [v - 0.3 for v in values], student_network=name, distill_network=None)
        for name, values in students.items()
    ]
    some = [record("mtt", 1, students[name], student_network=name) for name in ("convnet-d2", "mlp")]
    alone = [record("dm", 10, [0.95], student_network="convnet-d2"), record("ftd", 10, [0.9], student_network="mlp")]
    return [*sets, *free, *some, *alone]


def test_networks_view_pivots_by_student_and_averages_the_others():
    (table,) = grids(results_frame(crossed()), "networks")
    assert [head for (head,) in table.headers] == ["convnet-d2", "mlp", "resnet18", "mean of others"]
    assert table.title.endswith("digits, hard-v1, IPC 1")
    rows = {label: [cell.text for cell in shown] for label, shown in table.rows}
    low, high = t_interval([(0.5 + 0.7) / 2, (0.55 + 0.71) / 2])
    assert rows["dm"][0].startswith("91.0") and rows["dm"][0].endswith("‡") and "‡" not in rows["dm"][1]
    assert rows["dm"][3] == f"61.5 ±{50 * (high - low):.1f}"
    assert rows["mtt"][2:] == ["—", "—"]
    assert rows["random"][3].startswith("41.3") and not any("‡" in text for text in rows["random"])


def test_networks_data_repeat_the_mean_in_every_row():
    frame = tables.table(results_frame(crossed()), "networks")
    assert len(frame) == 8
    dm, random = (frame[frame["method"] == name] for name in ("dm", "random"))
    assert set(dm["others"]) == {2} and set(random["others"]) == {3}
    assert list(dm["top1_others"]) == pytest.approx([(0.525 + 0.705) / 2] * 3)
    assert list(random["top1_others"]) == pytest.approx([(0.91 + 0.525 + 0.705) / 3 - 0.3] * 3)
    assert frame[frame["method"] == "mtt"]["top1_others"].isna().all()
    assert dict(zip(dm["student"], dm["is_distill_network"], strict=True)) == {
        "convnet-d2": True,
        "mlp": False,
        "resnet18": False,
    }


def test_a_failed_network_leaves_no_mean():
    lost = without_set("dm", "failed", "diverged").model_copy(update={"student_network": "vgg11"})
    frame = tables.table(results_frame([*crossed(), lost]), "networks")
    assert frame["top1_others"].isna().all()


def test_networks_of_different_methods_are_no_comparison_across_architectures():
    records = [record("dm", 1, [0.5]), record("mtt", 1, [0.6], student_network="mlp")]
    assert tables.table(results_frame(records), "networks").empty
    assert "No method has several student networks" in render(results_frame(records), "markdown", "networks")


# --- the standard schema


@pytest.mark.parametrize(
    ("view", "documented"),
    [
        ("long", columns.CELL),
        ("variance", columns.CELL | columns.VARIANCE),
        ("networks", columns.CELL | columns.NETWORKS),
    ],
)
def test_csv_and_json_load_into_pandas_unchanged(view, documented):
    frame = results_frame([*toy(), *nested(), *crossed()])
    made = tables.table(frame, view)
    read = {
        "csv": pd.read_csv(io.StringIO(render(frame, "csv", view))),
        "json": pd.read_json(io.StringIO(render(frame, "json", view))),
    }
    assert list(made) == list(documented)
    for form, table in read.items():
        assert len(table) == len(made) and set(table) == set(documented) - (
            {"samples", "snapshots"} if form == "csv" else set()
        )
        for name in (
            "top1",
            "std",
            "ci_low",
            "bytes",
            *(name for name in documented if name.startswith(("std", "top1"))),
        ):
            np.testing.assert_allclose(table[name].astype(float), made[name].astype(float), rtol=1e-9)
        assert list(table["method"]) == list(made["method"]) and list(table["best"]) == list(made["best"])


def test_every_column_has_one_meaning():
    for table in (columns.CELL, columns.VARIANCE, columns.NETWORKS, columns.SCORES, columns.PAIRS, columns.RANKS):
        assert all(meaning and "\n" not in meaning for meaning in table.values())


# on a narrow terminal


@pytest.mark.parametrize("width", [44, 60, 80, 200])
def test_a_wide_grid_comes_in_blocks_that_lose_nothing_and_are_not_wider_than_asked(width):
    heads = [("digits", "hard-v1 (a-long-student)", f"ipc {place}") for place in range(9)]
    cells_of = [
        [Shown(f"{100 + 10 * row + place}.5 ±1.0", best=place == row) for place in range(9)] for row in range(3)
    ]
    cells_of[1][0] = cells_of[1][1] = Shown("—")
    table = Grid("Top-1", "method", heads, [(f"method-{row}", cells_of[row]) for row in range(3)], ["a note"])
    text = grids_text([table], "terminal", width)
    assert max(map(len, text.splitlines())) <= width and "…" not in text
    assert all(text.count(cell.text) == 1 for shown in cells_of for cell in shown if cell.text != "—")
    assert text.count("a note") == 1 and text.rstrip().endswith("a note")
    parts = blocks(table, width)
    assert [head for part in parts for head in part.headers] == heads
    assert all(any(cell.text != "—" for cell in shown) for part in parts for _, shown in part.rows)
    assert (len(parts) == 1) == (width == 200)


def test_every_block_has_the_columns_that_say_what_a_row_is():
    heads = [("than",), *((f"figure {place}",) for place in range(6))]
    rows = [(name, [Shown(other), *map(Shown, "123—56")]) for name, other in (("dm", "mtt"), ("dm", "random"))]
    parts = blocks(Grid("T", "method", heads, rows, keys=1), 40)
    assert len(parts) > 1 and all(part.headers[0] == ("than",) for part in parts)
    assert [head for part in parts for head in part.headers[1:]] == heads[1:]
    for part in parts:
        assert [(label, shown[0].text) for label, shown in part.rows] == [("dm", "mtt"), ("dm", "random")]


def test_a_column_wider_than_the_terminal_is_a_block_of_its_own_and_no_rows_are_one_block():
    empty = Grid("T", "method", [("a", "b"), ("a", "b")], [])
    assert blocks(empty, 20) == [empty]
    table = Grid("T", "method", [("x" * 50,), ("y",)], [("dm", [Shown("1"), Shown("2")])])
    assert [part.headers for part in blocks(table, 40)] == [[("x" * 50,)], [("y",)]]
