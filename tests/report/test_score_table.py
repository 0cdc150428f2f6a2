"""The table of scores: every number against its formula on plain lists, and what is said where one is missing."""

import math
import shlex

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from made_records import a_record
from typer.main import get_command

from ddbench.cli.app import app
from ddbench.errors import UsageError
from ddbench.hashing import digest
from ddbench.records.statistics import t_interval
from ddbench.report import columns
from ddbench.report.baselines import SMALL, soft_twins
from ddbench.report.frame import results_frame
from ddbench.report.renderers import markdown
from ddbench.report.score_table import data, grid, score_table

WHOLE = [0.97, 0.96, 0.98]
SET = {"hard": [0.80, 0.83, 0.81], "hard-plain": [0.70, 0.74, 0.72], "shipped": [0.85, 0.88, 0.89]}
RANDOM = {"hard": [0.60, 0.66, 0.61], "hard-plain": [0.55, 0.52, 0.58]}
BORROWING = [0.70, 0.74, 0.69]


def record(
    method, protocol, values, *, ipc=10, space="normalised", name="paper", setting=None, teacher=None, **changes
):
    """A record under `protocol`-v1 with one run per value; 2,560 bytes and 8 seconds behind it."""
    network = changes.get("distill_network", "net")
    recipe = changes.pop("recipe", {"method": method, "name": name, "space": space, "network": network, "ipc": ipc})
    facts = {"images": 100, "bytes": {"images": 2560}, "space": space, "cost": {"seconds": 8.0}}
    fields = {"protocol": f"{protocol}-v1", "protocol_digest": digest(protocol)}
    fields |= {"student_network": "net", "distill_network": network}
    fields |= {"teachers": {teacher: {"network": "net", "accuracy": 0.9}}} if teacher else {}
    budget, run = None if method == "whole" else ipc, {"teacher": teacher} | (setting or {})
    return a_record(method, values, ipc=budget, recipe=recipe, facts=facts, run=run, **(fields | changes))


def made(protocol, **changes):
    return record("dm", protocol, SET[protocol], **changes)


def borrowed(values=BORROWING, **changes):
    return record("random", "shipped", values, borrowed="dm", lender=made("shipped").recipe_hash, **changes)


def everything():
    sets = [made(protocol) for protocol in SET]
    randoms = [record("random", protocol, values) for protocol, values in RANDOM.items()]
    return [*sets, *randoms, borrowed(), record("whole", "hard", WHOLE)]


def scored(records, method="dm", **options):
    table = score_table(results_frame(records), methods=[method], **options)
    assert len(table) == 1
    return table.iloc[0]


def mapped(value):
    return (math.exp(value) - math.exp(-1)) / (math.e - math.exp(-1))


def interval(values):
    return scipy.stats.t.interval(0.95, len(values) - 1, np.mean(values), scipy.stats.sem(values))


def lists(*names):
    return [np.array(values) for values in names]


# --- the numbers


def test_hlr_and_ior_are_paired_differences_of_the_right_cells():
    row = scored(everything())
    loss = np.subtract(WHOLE, SET["hard"])
    gain = np.subtract(SET["shipped"], BORROWING)
    assert (row.hlr, row.hlr_low, row.hlr_high) == pytest.approx((loss.mean(), *interval(loss)), abs=1e-12)
    assert (row.ior, row.ior_low, row.ior_high) == pytest.approx((gain.mean(), *interval(gain)), abs=1e-12)
    assert row.ior_baseline == "borrowed" and row.missing == ()


@pytest.mark.parametrize("weight", [0.5, 0.2, 0.0, 1.0])
def test_lrs_maps_the_interval_of_its_combination(weight):
    row = scored(everything(), weight=weight)
    shipped, random, whole, hard = lists(SET["shipped"], BORROWING, WHOLE, SET["hard"])
    combined = weight * (shipped - random) - (1 - weight) * (whole - hard)
    assert row.lrs == pytest.approx(mapped(combined.mean()), abs=1e-12)
    assert (row.lrs_low, row.lrs_high) == pytest.approx(tuple(map(mapped, interval(combined))), abs=1e-12)
    assert 0 <= row.lrs_low < row.lrs < row.lrs_high <= 1 and row.lrs_weight == weight


def test_ars_maps_the_interval_of_its_combination():
    row = scored(everything(), ars_weight=0.3)
    hard, random, plain, bare = lists(SET["hard"], RANDOM["hard"], SET["hard-plain"], RANDOM["hard-plain"])
    combined = 0.3 * (hard - random) + 0.7 * (plain - bare)
    assert row.ars_hard == pytest.approx(mapped(combined.mean()), abs=1e-12)
    assert (row.ars_hard_low, row.ars_hard_high) == pytest.approx(tuple(map(mapped, interval(combined))), abs=1e-12)
    assert math.isnan(row.ars_soft)


def test_ars_soft_uses_baselines_of_the_same_teacher():
    first, other = digest("first"), digest("other")
    records = [
        record("dm", "soft", [0.9, 0.8], teacher=first),
        record("dm", "soft-plain", [0.7, 0.75], teacher=first),
        record("random", "soft", [0.6, 0.65], teacher=first),
        record("random", "soft", [0.1, 0.15], teacher=other),
        record("random", "soft-plain", [0.5, 0.51], teacher=first),
    ]
    row = scored(records)
    assert row.ars_soft == pytest.approx(mapped(0.5 * (0.85 - 0.625) + 0.5 * (0.725 - 0.505)))
    assert math.isnan(row.ars_hard)
    stranger = scored([each for each in records if each.method == "dm" or other in each.teachers])
    assert math.isnan(stranger.ars_soft)


def test_ior_is_hard_against_hard_where_nothing_is_shipped():
    row = scored([made("hard"), record("random", "hard", RANDOM["hard"]), record("whole", "hard", WHOLE)])
    gain = np.subtract(SET["hard"], RANDOM["hard"])
    assert (row.ior, row.ior_low, row.ior_high) == pytest.approx((gain.mean(), *interval(gain)), abs=1e-12)
    assert row.ior_baseline == "hard"
    combined = 0.5 * gain - 0.5 * np.subtract(WHOLE, SET["hard"])
    assert (row.lrs_low, row.lrs_high) == pytest.approx(tuple(map(mapped, interval(combined))), abs=1e-12)


def test_a_shipped_set_without_a_borrowing_baseline_falls_back_and_says_so():
    records = [each for each in everything() if each.borrowed is None]
    row = scored(records)
    assert row.ior_baseline == "hard" and row.ior == pytest.approx(np.mean(SET["hard"]) - np.mean(RANDOM["hard"]))
    (missing,) = row.missing
    assert "--borrow SET-OF-dm.safetensors" in missing.command and "--protocol shipped-v1" in missing.command


def test_draws_of_one_set_are_combined_and_the_whole_is_independent():
    sets = [made("hard", synthesis=s).model_copy(update={"synthesis_seed": s}) for s in (0, 1, 2)]
    randoms = [record("random", "hard", [0.5 + s / 50, 0.52, 0.55], synthesis=s) for s in (0, 1, 2)]
    sets = [record("dm", "hard", [0.8 + s / 30, 0.82, 0.79], synthesis=s) for s in (0, 1, 2)]
    row = scored([*sets, *randoms, record("whole", "hard", WHOLE)])
    own = [np.mean([0.8 + s / 30, 0.82, 0.79]) for s in range(3)]
    base = [np.mean([0.5 + s / 50, 0.52, 0.55]) for s in range(3)]
    welch = scipy.stats.ttest_ind(WHOLE, own, equal_var=False).confidence_interval(0.95)
    assert (row.hlr_low, row.hlr_high) == pytest.approx(tuple(welch), abs=1e-12)
    # LRS = w (set - random) - (1 - w) (whole - set): set and random by synthesis seed, whole apart
    pairs = [set_ - 0.5 * random for set_, random in zip(own, base, strict=True)]
    found = scipy.stats.ttest_ind(pairs, np.multiply(0.5, WHOLE), equal_var=False).confidence_interval(0.95)
    assert (row.lrs_low, row.lrs_high) == pytest.approx(tuple(map(mapped, found)), abs=1e-12)


def test_one_run_has_scores_without_intervals():
    records = [record("dm", "hard", [0.8]), record("random", "hard", [0.6]), record("whole", "hard", [0.95])]
    row = scored(records)
    assert row.lrs == pytest.approx(mapped(0.5 * 0.2 - 0.5 * 0.15))
    assert math.isnan(row.lrs_low) and math.isnan(row.hlr_low) and math.isnan(row.ior_high)


def test_accuracy_per_cost():
    row = scored(everything())
    top1 = np.mean(SET["hard"])
    assert (row.protocol, row.top1, row.bytes) == ("hard-v1", pytest.approx(top1), 2560)
    assert row.top1_per_kib == pytest.approx(top1 / 2.5) and row.top1_per_second == pytest.approx(top1 / 8)
    free = made("hard").model_copy(deep=True)
    facts = {key: fact.model_copy(update={"cost": {}}) for key, fact in free.synsets.items()}
    assert math.isnan(scored([free.model_copy(update={"synsets": facts})]).top1_per_second)


# --- which cells count


@pytest.mark.parametrize(
    "stranger",
    [
        record("whole", "hard", WHOLE, space="zca"),
        record("whole", "hard", WHOLE, student_network="other"),
        record("whole", "hard", WHOLE, setting={"build": "2.10.0"}),
        record("whole", "hard", WHOLE, setting={"threads": 2}),
        record("whole", "hard-small", WHOLE),
        record("whole", "hard", WHOLE, dataset="mnist"),
    ],
    ids=["space", "student", "build", "threads", "protocol", "dataset"],
)
def test_ingredients_share_all_but_the_method(stranger):
    row = scored([made("hard"), stranger])
    assert math.isnan(row.hlr)
    (missing,) = [each for each in row.missing if "whole" in each.command]
    assert missing.score == "HLR" and missing.command.startswith(
        "ddbench run whole --dataset digits --protocol hard-v1"
    )


@pytest.mark.parametrize(
    "stranger", [record("random", "hard", [0.5], ipc=1), record("random", "hard", [0.5], space="zca")]
)
def test_random_shares_the_budget_and_the_space(stranger):
    assert math.isnan(scored([made("hard"), stranger]).ior)


def test_who_borrows_from_another_recipe_is_no_baseline():
    other = record("dm", "shipped", [0.5], name="table")
    stranger = record("random", "shipped", BORROWING, borrowed="dm", lender=other.recipe_hash)
    assert scored([made("shipped"), stranger]).ior_baseline is None


def test_two_baselines_are_not_chosen_between():
    twins = [record("random", "hard", [0.5, 0.6], name=name) for name in ("generic", "table")]
    row = scored([made("hard"), *twins])
    assert math.isnan(row.ior) and any("several cells differ" in str(missing) for missing in row.missing)


def test_small_protocols_have_their_own_row_and_no_ars():
    records = [record(*cell) for cell in (("dm", "hard-small", [0.5, 0.6]), ("whole", "hard-small", [0.7, 0.8]))]
    both = score_table(results_frame([*records, made("hard")]), methods=["dm"])
    assert sorted(both["hard"]) == ["hard", "hard-small"]
    small = both[both["hard"] == SMALL.hard].iloc[0]
    assert small.hlr == pytest.approx(0.2)
    assert not any(missing.score.startswith("ARS") for missing in small.missing)


def test_student_networks_and_recipes_are_rows_of_their_own():
    records = [made("hard"), made("hard", student_network="other"), made("hard", name="table")]
    table = score_table(results_frame(records))
    assert len(table) == 3 and set(table["student"]) == {"net", "other"}
    assert len(set(zip(table["label"], table["student"], strict=True))) == 3


def test_baselines_are_no_rows_but_random_has_its_hlr():
    table = score_table(results_frame(everything()))
    assert list(table["method"]) == ["dm", "random"]
    random = table[table["method"] == "random"].iloc[0]
    assert random.hlr == pytest.approx(np.mean(WHOLE) - np.mean(RANDOM["hard"]))
    assert math.isnan(random.ior) and math.isnan(random.ars_hard)


def test_superseded_records_are_left_out():
    old = record("dm", "hard", [0.1])
    new = record("dm", "hard", [0.2], name="better", supersedes=old.key_hash())
    assert list(score_table(results_frame([old, new], superseded=True))["recipe"]) == ["better"]


@pytest.mark.parametrize("options", [{"weight": 50}, {"ars_weight": -0.1}, {"methods": ["dmm"]}])
def test_bad_options_are_refused(options):
    with pytest.raises(UsageError):
        score_table(results_frame(everything()), **options)


def test_hard_protocols_have_their_soft_twins():
    labels = ["soft-v1", "hard-small-v1", "hard-plain-v1", "hard-v1", "soft-plain-v2", "shipped-v1", "harder-v1"]
    twins = {"hard-v1": "soft-v1", "hard-plain-v1": "soft-plain-v2", "hard-small-v1": "soft-small"}
    assert soft_twins(labels) == twins


# --- what is missing


PACKED = {"method": "dm", "name": "paper+int8-4x", "labels": {"recipe": "paper", "encoding": "int8", "ratio": 4.0}}
LACKING = {
    "one draw": [made("hard")],
    "draws": [made("hard", synthesis=s) for s in (0, 1)],
    "zca": [made("hard", space="zca"), made("shipped", space="zca")],
    "shipped": [made("shipped"), made("hard")],
    "changed": [made("hard", name="paper+set")],
    "folder": [made("hard", dataset="mine@0123abcd")],
    "imported": [made("hard", imported=digest("set"), synthesis_seed=None)],
    "bf16": [made("hard", setting={"precision": "bf16", "compiled": True})],
    "fraction": [made("hard", budget={"fraction": 0.125})],
    "packed": [made("hard", recipe=PACKED)],
    "packed draws": [made("hard", recipe=PACKED, synthesis=s) for s in (0, 1)],
}


@pytest.mark.parametrize("case", LACKING)
def test_missing_ingredients_come_with_commands_that_parse(case):
    table = score_table(results_frame(LACKING[case]))
    (missing,) = table["missing"]
    assert {each.score for each in missing} >= {"HLR", "IOR", "ARS hard"}
    for each in missing:
        if not each.command:
            assert case == "packed draws" and "dm" in each.what  # no one command scores several files
            continue
        _, name, *words = shlex.split(each.command)
        options = get_command(app).get_command(None, name).make_context(name, list(words)).params
        assert options["networks" if "networks" in options else "network"] == "net"
        assert (options["threads"], options["device"]) == (1, "cpu")
        assert (options["precision"], options["compile"]) == (("bf16", "on") if case == "bf16" else (None, None))
        assert ("space=zca" in words) == (case == "zca" and ("random" in words or "whole" in words))


def test_a_packed_set_is_scored_from_its_file():
    (packed,) = LACKING["packed"]
    (command,) = {each.command for each in scored([packed]).missing if each.what.startswith("dm under")}
    assert command.startswith(
        f"ddbench evaluate SET-{next(iter(packed.synsets))[:12]}.safetensors --protocol hard-plain"
    )


def test_a_missing_ingredient_is_noted_once_for_all_that_want_it():
    table = score_table(results_frame([made("hard"), record("mtt", "hard", [0.5, 0.6, 0.7])]))
    lines = [line for line in grid(table).notes if "ddbench run whole" in line]
    assert len(lines) == 1 and lines[0].startswith("Not measured, HLR: the whole data under hard-v1")
    assert any(line.startswith("Not measured, IOR, ARS hard: random under hard-v1") for line in grid(table).notes)


def test_the_grid_has_dashes_points_and_ends():
    (row,) = [cells_ for label, cells_ in grid(score_table(results_frame(everything()))).rows if label == "dm"]
    texts = [cell.text for cell in row]
    loss, gain = np.subtract(WHOLE, SET["hard"]), np.subtract(SET["shipped"], BORROWING)
    halves = [100 * (np.mean(values) - t_interval(list(values))[0]) for values in (loss, gain)]
    assert texts[:6] == ["digits", "IPC 10", "net", f"15.7 ±{halves[0]:.1f}", f"16.3 ±{halves[1]:.1f}", "borrowed"]
    lrs = mapped((np.mean(gain) - np.mean(loss)) / 2)
    assert texts[6].startswith(f"{lrs:.3f} [") and texts[8] == "—" and texts[9:] == ["81.3", "hard-v1", "32.5", "10.2"]
    assert "| dm | digits |" in markdown(grid(score_table(results_frame(everything()))))


def test_data_has_the_documented_columns():
    found = data(score_table(results_frame([*everything(), record("mtt", "hard", [0.5])])))
    assert list(found) == list(columns.SCORES)
    assert found["missing"].iloc[0] is None and "ddbench" in found[found["method"] == "mtt"]["missing"].iloc[0]
    assert isinstance(found, pd.DataFrame) and found["lrs"].dtype == float
