"""Whether a claim holds: the rule against SciPy and simulation, hand-made cases, and sets that are trained on again."""

import json
import math

import numpy as np
import pytest
import scipy.stats
from command import ddbench

from ddbench import distill, evaluate
from ddbench.errors import UsageError
from ddbench.extras.verify import verify
from ddbench.records.claims import FEWEST, MARGIN, WIDEST, judge, judge_record, tolerance
from ddbench.records.record import Record
from ddbench.records.store import RecordStore

FOUND = [0.60, 0.61, 0.62, 0.61, 0.60]


@pytest.mark.parametrize("claimed", [1, 3, 5, 20])
@pytest.mark.parametrize("found", [FOUND, [0.5, 0.51, 0.49], [0.3, 0.32]])
def test_tolerance_by_definition(claimed, found):
    n = len(found)
    spread = math.sqrt(sum((x - sum(found) / n) ** 2 for x in found) / (n - 1))
    wanted = 0.005 + scipy.stats.t.ppf(0.995, n - 1) * spread * math.sqrt(1 / claimed + 1 / n)
    assert tolerance(claimed, found) == pytest.approx(wanted, rel=1e-12)
    assert tolerance(claimed, found[:1]) == math.inf


def test_an_honest_claim_is_refused_at_most_once_in_a_hundred():
    """Without the margin the interval is exact: 1 % of claims drawn from the same students lie outside."""
    draws, n, a = 20_000, 5, 3
    rng = np.random.default_rng(0)
    claimed, found = rng.normal(0.6, 0.01, (draws, a)), rng.normal(0.6, 0.01, (draws, n))
    wide = np.array([tolerance(a, row) for row in found.tolist()]) - MARGIN
    outside = np.mean(np.abs(claimed.mean(1) - found.mean(1)) > wide)
    assert abs(outside - 0.01) < 4 * math.sqrt(0.01 * 0.99 / draws)


WIDE = tolerance(5, FOUND)
CASES = {
    "the same runs": (FOUND, FOUND, "holds"),
    "one run alone": ([0.608], FOUND, "undecided"),
    "just inside": ([0.608 + WIDE - 1e-6] * 5, FOUND, "holds"),
    "just above": ([0.608 + WIDE + 1e-6] * 5, FOUND, "too high"),
    "just below": ([0.608 - WIDE - 1e-6] * 5, FOUND, "too low"),
    "a point above students without spread": ([0.61] * 3, [0.60] * 3, "too high"),
    "within half a point of these": ([0.6049] * 3, [0.60] * 3, "holds"),
    "two students": ([0.60] * 5, [0.60, 0.601], "undecided"),
    "one student": ([0.60] * 5, [0.60], "undecided"),
    "two students, far off": ([0.90] * 5, [0.60, 0.601], "undecided"),
    "a wide tolerance": ([0.60] * 5, [0.55, 0.60, 0.65], "undecided"),
    "beyond a wide tolerance": ([0.99] * 5, [0.55, 0.60, 0.65], "too high"),
    "a claim that spreads itself wide": ([0.2, 0.9, 1.0], FOUND, "too high"),
}


@pytest.mark.parametrize("case", CASES)
def test_hand_made_cases(case):
    claimed, found, verdict = CASES[case]
    result = judge(claimed, found)
    assert result.verdict == verdict and result.holds == (verdict == "holds")
    assert result.claimed == pytest.approx(sum(claimed) / len(claimed)) and result.found_runs == len(found)
    if result.holds:
        assert result.found_runs >= FEWEST and result.tolerance <= WIDEST
        assert abs(result.claimed - result.found) <= result.tolerance


# --- records and sets


@pytest.fixture
def claimed(toys, tmp_path):
    """A set of the toy method and an honest record of it: its file, the record and the record's file."""
    path = tmp_path / "toy.safetensors"
    distill("toy", ipc=2, recipe="generic", overrides={"ships": "classes"}, out=path)
    evaluate(path, protocol="toy-hard-v1", seeds=3, results=tmp_path / "theirs")
    (file,) = RecordStore(tmp_path / "theirs").paths()
    return path, Record.from_json(file.read_text(), "x"), file


def changed(record, **changes):
    """The record with other values of its runs."""
    return record.model_copy(update={"runs": [run.model_copy(update=changes) for run in record.runs]})


def test_an_honest_claim_is_met_to_the_bit(claimed, toys, tmp_path):
    path, record, _ = claimed
    (result,) = verify(record, path, seeds=4)
    assert result.repeated == (3, 3) and result.found_runs == 4 and result.claimed_runs == 3
    assert result.verdict == "holds" and result.tolerance > WIDEST and "cpu" in result.setting  # students spread widely
    assert result.tolerance == tolerance(3, [run.top1 for run in evaluate(path, protocol="toy-hard-v1", seeds=4).runs])


def test_what_is_claimed_is_never_reused(claimed):
    path, record, _ = claimed
    (result,) = verify(changed(record, top1=0.999), path, seeds=8)
    assert result.verdict == "too high" and result.repeated == (3, 0) and result.claimed == pytest.approx(0.999)


def test_runs_that_repeat_decide_only_if_all_do_and_none_was_chosen(claimed):
    path, record, _ = claimed
    one_off = [record.runs[0].model_copy(update={"top1": record.runs[0].top1 + 1e-4}), *record.runs[1:]]
    for runs in (record.runs[:2], record.runs[1:], one_off):
        (result,) = verify(record.model_copy(update={"runs": runs}), path, seeds=3)
        assert result.verdict == "undecided" and result.repeated[0] == len(runs)


def test_every_setting_is_judged_for_itself(claimed):
    path, record, _ = claimed
    other = [run.model_copy(update={"device": "cuda", "top1": 1.0}) for run in record.runs]
    mixed = record.model_copy(update={"runs": record.runs + other})
    first, second = verify(mixed, path, seeds=8)
    assert first.verdict == "holds" and second.verdict == "too high" and "cuda" in second.setting
    assert second.repeated == (0, 0)


def test_a_record_of_another_set_cell_or_protocol_is_refused(claimed, tmp_path):
    path, record, _ = claimed
    other = tmp_path / "other.safetensors"
    distill("toy", ipc=2, recipe="generic", seed=1, overrides={"ships": "classes"}, out=other)
    with pytest.raises(UsageError, match="which the record does not name"):
        verify(record, other)
    with pytest.raises(UsageError, match="its digest differs"):
        verify(record.model_copy(update={"protocol_digest": "0" * 64}), path)
    with pytest.raises(UsageError, match="--borrow"):
        verify(record, path, borrow=other)
    with pytest.raises(UsageError, match="synthesis_seed differ"):
        verify(record.model_copy(update={"synthesis_seed": 3}), path, seeds=1)
    (key,) = record.synsets
    for change in ({"images": 19}, {"bytes": {"images": 1}}):
        facts = {key: record.synsets[key].model_copy(update=change)}
        with pytest.raises(UsageError, match="but the set has 20 images"):
            verify(record.model_copy(update={"synsets": facts}), path, seeds=1)
    failed = changed(record, status="failed", reason="why", top1=None, per_class=None)
    with pytest.raises(UsageError, match="the record claims no accuracy"):
        verify(failed, path, seeds=1)


def test_a_borrowing_baseline_is_verified_with_its_lender(claimed, tmp_path):
    path, _, _ = claimed
    own = tmp_path / "random.safetensors"
    distill("random", ipc=2, out=own)
    record = evaluate(own, protocol="shipped-v1", seeds=2, borrow=path)
    with pytest.raises(UsageError, match="toy: give that set"):
        verify(record, own)
    (result,) = verify(record, own, borrow=path, seeds=3)
    assert result.repeated == (2, 2)


def test_our_runs_go_where_they_are_wanted(claimed, tmp_path):
    path, record, _ = claimed
    result = verify(record, path, seeds=3, results=tmp_path / "ours")
    (mine,) = RecordStore(tmp_path / "ours")
    assert mine.key() == record.key() and len(mine.runs) == 3
    (key,) = record.synsets
    assert judge_record(record, mine, key) == result


def test_the_command_says_so_by_its_exit_code(claimed, tmp_path):
    path, record, file = claimed
    words = ["verify", file, "--synset", path, "--quiet", "--seeds"]
    found = ddbench(*words, 2)
    assert found.exit_code == 1 and "undecided: give more --seeds" in found.stderr
    found = ddbench(*words, 3)
    assert found.exit_code == 0 and "holds" in found.stdout and found.stderr == ""
    file.write_text(changed(record, top1=1.0).to_json())
    found = ddbench(*words, 8, "--json")
    assert found.exit_code == 1 and "too high" in found.stderr
    (facts,) = json.loads(found.stdout)
    assert facts["verdict"] == "too high" and facts["claimed"] == 1.0 and facts["equal_runs"] == 0
    assert ddbench("verify", file, "--synset", file).exit_code == 2
