"""Hyper-parameters chosen on a holdout of the training split, never on test; what the choice cost is written down.

1. A fixed, stratified part of the training split is held out; candidates see the rest as their whole data set.
2. Every candidate (the grid in order, or some of it drawn by key) is distilled once, and students are trained on its
   set under the protocol and scored on the held-out part.
3. The candidate with the best mean wins (a tie: the earlier one) and becomes a recipe file.

A finished candidate is kept in the cache, so that a stopped run loses one at most.
"""

import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from ddbench.budget import Budget
from ddbench.data.dataset import Dataset, Split, memory_split
from ddbench.distillation.method import Method, find_method
from ddbench.distillation.recipes import Resolved, resolve
from ddbench.distillation.task import Task, stratified
from ddbench.errors import JobFailed, UsageError
from ddbench.evaluation.evaluate import evaluate_seeds
from ddbench.evaluation.protocol import Protocol, find_protocol
from ddbench.extras.tune.grid import draw
from ddbench.extras.tune.recipe_file import recipe_text
from ddbench.hashing import digest
from ddbench.jobs.job import DataName, check_balance, check_budget
from ddbench.jobs.pool import attempt
from ddbench.progress import Reporter
from ddbench.records.statistics import t_interval
from ddbench.settings import cache_dir
from ddbench.synset.synset import SynSet
from ddbench.system import code
from ddbench.system.files import check_writable, locked, write_atomic
from ddbench.training.compute import Compute

log = logging.getLogger("ddbench")


@dataclass(frozen=True)
class Candidate:
    """One choice of values, and how its students did on the held-out part.

    Attributes:
        values: the grid's hyper-parameters.
        top1: accuracy per evaluation seed, fractions; empty if it failed.
        reason: why it failed, or None.
        seconds: distillation and students together.
    """

    values: dict[str, Any]
    top1: tuple[float, ...]
    reason: str | None
    seconds: float

    @property
    def mean(self) -> float | None:
        """Mean accuracy; None if it failed."""
        return math.fsum(self.top1) / len(self.top1) if self.top1 else None

    def interval(self) -> tuple[float, float] | None:
        """95 % interval over the evaluation seeds; None with fewer than two."""
        return t_interval(self.top1) if len(self.top1) > 1 else None


@dataclass(frozen=True)
class TuneReport:
    """What tuning found and what it cost.

    Attributes:
        candidates: in the order of trying.
        winner: the best of them.
        recipe: the winner as the text of a recipe file.
        path: where that was written, or None.
        reused: candidates that an earlier run had finished.
        seconds: of all candidates, those of earlier runs among them.
        trainings: students trained, likewise.
    """

    candidates: tuple[Candidate, ...]
    winner: Candidate
    recipe: str
    path: Path | None
    reused: int
    seconds: float
    trainings: int


@dataclass(frozen=True)
class _Study:
    """Everything that a candidate's score depends on, besides its values."""

    method: Method
    dataset: Dataset
    budget: Budget
    protocol: Protocol
    network: str | None
    seeds: tuple[int, ...]
    seed: int
    setting: Compute
    holdout: float

    def path(self) -> Path:
        """Where finished candidates are kept."""
        key = {
            "source": code.of_method(self.method.name),
            "code": [code.SYNTHESIS, code.TRAINING],
            "protocol": self.protocol.digest(),
            "network": self.network,
            "test": self.dataset.test.hash,
            "seeds": self.seeds,
            "seed": self.seed,
            "setting": self.setting.identity(),
        }
        return cache_dir() / "tune" / f"{digest(key)[:32]}.json"


def tune(
    method: str | Method,
    data: DataName,
    budget: Budget,
    *,
    grid: Mapping[str, Sequence[Any]],
    trials: int | None = None,
    protocol: str = "hard-v1",
    network: str | None = None,
    holdout: float = 0.2,
    seeds: Sequence[int] = (0, 1, 2),
    seed: int = 0,
    recipe: str | None = None,
    distill_network: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    compute: Compute | None = None,
    reporter: Reporter | None = None,
    out: Path | str | None = None,
) -> TuneReport:
    """Choose a method's hyper-parameters for a data set and budget.

    Args:
        method: the method or its name.
        data: the data set.
        budget: how much may be kept.
        grid: values to try, by hyper-parameter; see `parse_grid`.
        trials: how many combinations to draw, without repetition; None tries all in order.
        protocol: how students are trained.
        network: student network; None: the protocol's default.
        holdout: fraction of each class of the training split that scores.
        seeds: evaluation seeds of each candidate.
        seed: synthesis seed, and key of the draw.
        recipe: what the other hyper-parameters come from: a recipe's name, "generic" or a file; None: the cell's
            default.
        distill_network: instead of the recipe's.
        overrides: hyper-parameters that are changed but not tried.
        compute: how to compute; None: `Compute.here()`.
        reporter: shown the progress.
        out: recipe file to write (its name must end in .toml to be used as one).

    Returns:
        Every candidate with its scores, the winner, and what was spent.

    Raises:
        UsageError: bad input: an unknown or wrong value in the grid, a budget above a class's remaining images.
        JobFailed: every candidate failed; the first reason is given.
    """
    found = method if isinstance(method, Method) else find_method(method)
    setting, show = compute or Compute.here(), reporter or Reporter()
    chosen = draw(grid, trials, seed)
    if out is not None:
        check_writable(Path(out))
    if not seeds:
        raise UsageError("tuning needs at least one evaluation seed")
    study = _Study(
        method=found,
        dataset=held_out(data.load(), holdout),
        budget=budget,
        protocol=find_protocol(protocol),
        network=network,
        seeds=tuple(seeds),
        seed=seed,
        setting=setting,
        holdout=holdout,
    )
    settle = partial(resolve, found, study.dataset, budget, recipe=recipe, network=distill_network)
    recipes = [settle(overrides={**(overrides or {}), **values}) for values in chosen]
    _check(study, recipes)
    report = _run(study, list(zip(chosen, recipes, strict=True)), show)
    best = recipes[report.candidates.index(report.winner)]
    dataset = data.load().id
    text = recipe_text(best, dataset, source_line(report, study, dataset, best.name.removesuffix("+set")))
    if out is not None:
        write_atomic(Path(out), text)
    return replace(report, recipe=text, path=None if out is None else Path(out))


def held_out(dataset: Dataset, fraction: float) -> Dataset:
    """A data set whose train is the kept part of another's train, and whose test is the held-out part of it.

    The other's test split is not in it. UsageError: a fraction outside (0, 1), or one that empties a class.
    """
    kept, held = stratified(dataset.train.labels, fraction, "tune", dataset.train.hash)
    name = f"{dataset.id}-holdout" if "@" in dataset.id else f"{dataset.id}@holdout"
    return replace(dataset, id=name, train=_subset(dataset.train, kept), test=_subset(dataset.train, held))


def _subset(split: Split, places: torch.Tensor) -> Split:
    """Some images of a split, as a split of its own."""
    if split.resident:
        return memory_split(split.read(places), split.labels[places])

    def read(indices: torch.Tensor | None) -> torch.Tensor:
        return split.read(places if indices is None else places[indices])

    return Split(split.labels[places], digest([split.hash, places.tolist()]), False, read)


def _check(study: _Study, recipes: Sequence[Resolved]) -> None:
    """Everything that can be known to be wrong before an hour is spent."""
    for recipe in recipes:
        check_budget(recipe, study.dataset)
    if not study.protocol.shipped:
        study.protocol.student(study.dataset, study.network)


def _run(study: _Study, work: Sequence[tuple[dict[str, Any], Resolved]], show: Reporter) -> TuneReport:
    kept, candidates, reused = _kept(study.path()), [], 0
    for number, (values, recipe) in enumerate(work):
        candidate = kept.get(recipe.hash)
        if candidate is None:
            candidate = _try(study, values, recipe, show)
            _keep(study.path(), recipe.hash, candidate)
        else:
            candidate, reused = replace(candidate, values=values), reused + 1
        candidates.append(candidate)
        show.advance("candidates", number + 1, len(work))
    winner = max(candidates, key=lambda candidate: -1.0 if candidate.mean is None else candidate.mean)
    if winner.mean is None:
        raise JobFailed(f"every candidate failed; the first: {candidates[0].reason}")
    return TuneReport(
        candidates=tuple(candidates),
        winner=winner,
        recipe="",
        path=None,
        reused=reused,
        seconds=math.fsum(candidate.seconds for candidate in candidates),
        trainings=sum(len(candidate.top1) for candidate in candidates),
    )


def _try(study: _Study, values: dict[str, Any], recipe: Resolved, show: Reporter) -> Candidate:
    """Distil by one candidate and score its students on the held-out part."""
    started = time.perf_counter()
    outcome = attempt(_scores, study, recipe, show)
    if outcome.usage or outcome.skipped:
        raise UsageError(f"{study.method.name} with {values}: {outcome.usage or outcome.skipped}")
    return Candidate(values, outcome.value or (), outcome.failure, round(time.perf_counter() - started, 3))


def _scores(study: _Study, recipe: Resolved, show: Reporter) -> tuple[float, ...]:
    synset = _distil(study, recipe, show)
    return tuple(_score(study, synset, seed) for seed in study.seeds)


def _distil(study: _Study, recipe: Resolved, show: Reporter) -> SynSet:
    device = study.setting.apply()
    task = Task(study.dataset, recipe.budget, recipe.network, study.seed, device, reporter=show)
    synset = recipe.method.distill(task, recipe.hyper)
    check_balance(synset, recipe)
    return synset


def _score(study: _Study, synset: SynSet, seed: int) -> float:
    record = evaluate_seeds(
        synset,
        study.dataset,
        study.protocol,
        seeds=(seed,),
        setting=study.setting,
        network=study.network,
        label="tuned",
    )
    run = record.runs[0]
    if run.top1 is None:
        raise JobFailed(run.reason or "a student failed")
    return run.top1


def _kept(path: Path) -> dict[str, Candidate]:
    """Finished candidates by the hash of their recipe; a damaged file is logged and counts as empty."""
    if not path.exists():
        return {}
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        return {key: TypeAdapter(Candidate).validate_python(value) for key, value in plain.items()}
    except (OSError, ValueError, AttributeError) as error:
        log.warning("kept candidates are damaged: tried again (%s)", " ".join(str(error).split())[:200])
        return {}


def _keep(path: Path, key: str, candidate: Candidate) -> None:
    with locked(path):
        plain = {known: asdict(other) for known, other in _kept(path).items()}
        plain[key] = asdict(candidate)
        write_atomic(path, json.dumps(plain, indent=2, sort_keys=True, default=str) + "\n")


def source_line(report: TuneReport, study: _Study, dataset: str, base: str) -> str:
    """How the winner was found, for the recipe's `source`."""
    bounds = report.winner.interval()
    interval = f" ({bounds[0]:.4f} to {bounds[1]:.4f})" if bounds else ""
    return (
        f"tuned on a holdout of {study.holdout:g} of the training split of {dataset}: best of "
        f"{len(report.candidates)} candidates under {study.protocol.name}, synthesis seed {study.seed}, evaluation "
        f"seeds {', '.join(map(str, study.seeds))}; held-out accuracy {report.winner.mean:.4f}{interval}; {report.trainings} trainings, "
        f"{report.seconds:.0f} s in all, {datetime.now(UTC):%Y-%m-%d}; other fields from recipe {base}"
    )
