"""Claims: when the runs of a submitted record hold against runs that were made here on the same set.

Rule. Let m be the mean of the a claimed runs of one setting, and x_1..x_n the accuracies of n students trained here on
the very set (its hash is checked), with mean x and sample standard deviation s. The claim

    holds where |m - x| <= w,  w = 0.005 + t(0.995, n - 1) s sqrt(1/a + 1/n),
    is too high where m - x > w, and too low where x - m > w;

half a point for another machine's arithmetic, plus the 99 % interval for the mean of a further runs. Only the spread of
our students counts, so a claim cannot widen its own interval. The claim is undecided with fewer than 3 students, and where
it would hold only by a w above 0.03: more seeds are needed. An honest claim is refused at most once in a hundred.

A claim of 3 or more seeds, 0 to a - 1, also holds where each of its runs was repeated here in its setting with exactly
the same accuracy.

First the facts must agree: the cell of the set, the installed protocol, and the set's images and bytes as counted here.
The cost of the distillation cannot be checked this way.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from statistics import fmean
from typing import Any, Literal

from ddbench.errors import UsageError
from ddbench.records.record import Record, Run, RunIdentity
from ddbench.records.statistics import std, t_quantile
from ddbench.records.store import merge

Verdict = Literal["holds", "too high", "too low", "undecided"]
LEVEL, MARGIN, WIDEST, FEWEST = 0.99, 0.005, 0.03, 3


@dataclass(frozen=True)
class Verification:
    """Claimed runs of one setting against ours; accuracies and tolerance are fractions.

    Attributes:
        verdict: by the rule of the module.
        claimed, claimed_runs: mean and number of the claimed runs.
        found, found_runs: mean and number of our runs.
        tolerance: w of the rule; infinite with one student.
        repeated: number of claimed runs that we have with the same seed and setting, and number of those equal to ours.
        setting: setting of the claimed runs, in words.
    """

    verdict: Verdict
    claimed: float
    claimed_runs: int
    found: float
    found_runs: int
    tolerance: float
    repeated: tuple[int, int] = (0, 0)
    setting: str = ""

    @property
    def holds(self) -> bool:
        """True where the claim holds."""
        return self.verdict == "holds"


def tolerance(claimed: int, found: Sequence[float]) -> float:
    """Return w of the rule for so many claimed runs and our accuracies; infinite for one student."""
    spread = std(found)
    if spread is None:
        return math.inf
    n = len(found)
    return MARGIN + t_quantile(n - 1, LEVEL) * spread * math.sqrt(1 / claimed + 1 / n)


def judge(claimed: Sequence[float], found: Sequence[float]) -> Verification:
    """Apply the rule of the module's docstring to one or more accuracies of each side (fractions)."""
    wide, gap = tolerance(len(claimed), found), fmean(claimed) - fmean(found)
    verdict: Verdict = "holds"
    if abs(gap) > wide:
        verdict = "too high" if gap > 0 else "too low"
    if len(found) < FEWEST or (verdict == "holds" and wide > WIDEST):
        verdict = "undecided"
    return Verification(verdict, fmean(claimed), len(claimed), fmean(found), len(found), wide)


def judge_record(claimed: Record, found: Record, synset: str) -> list[Verification]:
    """Judge each setting that a record claims for a set.

    Args:
        claimed: the claim.
        found: our record of the same cell; of several settings, the one with most runs counts.
        synset: hash of the set.

    Raises:
        UsageError: the records differ in cell, protocol, images or bytes; or one of them has no accuracy of that set.
    """
    check_facts(claimed, found, synset)
    ours = max(_settings(found, synset).values(), key=len, default=[])
    theirs = _settings(claimed, synset)
    if not theirs or not ours:
        side = "the record claims" if not theirs else "there is here"
        raise UsageError(f"{side} no accuracy of set {synset[:12]}")
    return [_judge_setting(runs, ours, found) for runs in theirs.values()]


def claim_holds(claimed: Record, measured: Sequence[Record]) -> bool:
    """Return True if every claim of a submitted record holds against our measured records of its cell.

    Returns False as well where nothing was measured on one of its sets, or where the records differ in their facts.
    """
    sets = {run.synset for run in claimed.runs if run.status == "ok" and run.synset is not None}
    if not measured or not sets:
        return False
    ours = reduce(partial(merge, where="two folders of records"), measured)
    try:
        return all(found.holds for synset in sets for found in judge_record(claimed, ours, synset))
    except UsageError:
        return False


def _judge_setting(runs: list[Run], ours: list[Run], found: Record) -> Verification:
    result = judge([run.top1 or 0.0 for run in runs], [run.top1 or 0.0 for run in ours])
    own = {_trained(run): run.top1 for run in found.runs}
    pairs = [(run.top1, own[_trained(run)]) for run in runs if _trained(run) in own]
    equal = sum(theirs == mine for theirs, mine in pairs)
    none_chosen = len(runs) >= FEWEST and sorted(run.seed for run in runs) == list(range(len(runs)))
    if none_chosen and equal == len(runs):
        result = replace(result, verdict="holds")
    first = runs[0]
    words = f"{first.device}, {first.precision}, {first.threads} thread(s), torch {first.build}"
    return replace(result, repeated=(len(pairs), equal), setting=words)


def _trained(run: Run) -> RunIdentity:
    """Return the identity of a training on a given set, whatever code the set is said to be made by."""
    return run.identity()._replace(code=None, synthesis=1)


def _settings(record: Record, synset: str) -> dict[tuple[Any, ...], list[Run]]:
    """Group the runs of a set that have an accuracy by setting."""
    groups = {
        setting: [run for run in runs if run.status == "ok" and run.synset == synset]
        for setting, runs in record.by_setting().items()
    }
    return {setting: runs for setting, runs in groups.items() if runs}


def check_facts(claimed: Record, found: Record, synset: str) -> None:
    """Raise UsageError where a claim is of another cell or protocol than ours, or states another size of the set."""
    own, other = claimed.key(), found.key()
    if own != other:
        names = sorted(name for name in own.keys() | other.keys() if own.get(name) != other.get(name))
        raise UsageError(f"the record is of another cell than this set: {', '.join(names)} differ")
    if claimed.protocol_digest != found.protocol_digest:
        raise UsageError(f"the record's {claimed.protocol} is not the one that is installed: its digest differs")
    if synset not in claimed.synsets:
        raise UsageError(f"the record does not name the set {synset[:12]}")
    stated, counted = claimed.synsets[synset], found.synsets[synset]
    if stated.images != counted.images or stated.bytes != counted.bytes:
        theirs, ours = (f"{facts.images} images, {dict(facts.bytes)} bytes" for facts in (stated, counted))
        raise UsageError(f"the record states {theirs}, but the set has {ours}")
