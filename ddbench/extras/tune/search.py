"""Hyper-parameter search on a holdout of the training split, never on the test split.

1. A fixed, stratified part of the training split is held out; candidates see the rest as their whole data set.
2. Every candidate (the grid in order, or some of it drawn by the seed) distills one set. Students are trained on it under
   the protocol and scored on the held-out part.
3. The candidate with the best mean wins (of equals, the earlier one) and becomes a recipe file, with the cost of the search.

Finished candidates are kept in the cache, so an interrupted search loses at most one.
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
from ddbench.system import code
from ddbench.system.files import check_writable, locked, write_atomic
from ddbench.training.compute import Compute

log = logging.getLogger("ddbench")


@dataclass(frozen=True)
class Candidate:
    """One combination of values, and the accuracy of its students on the held-out part.

    Attributes:
        values: hyper-parameters of the grid.
        top1: accuracy per evaluation seed, fractions; empty if the candidate failed.
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
        """Return the 95 % interval over the evaluation seeds; None with fewer than two."""
        return t_interval(self.top1) if len(self.top1) > 1 else None


@dataclass(frozen=True)
class TuneReport:
    """Result of a search and its cost.

    Attributes:
        candidates: all candidates, in the order of trying.
        winner: the best of them.
        recipe: the winner as the text of a recipe file.
        path: where that was written, or None.
        reused: number of candidates that an earlier run had finished.
    """

    candidates: tuple[Candidate, ...]
    winner: Candidate
    recipe: str
    path: Path | None
    reused: int

    @property
    def seconds(self) -> float:
        """Time of all candidates, including those of earlier runs."""
        return math.fsum(candidate.seconds for candidate in self.candidates)

    @property
    def trainings(self) -> int:
        """Number of students trained, including those of earlier runs."""
        return sum(len(candidate.top1) for candidate in self.candidates)


@dataclass(frozen=True)
class _Study:
    """Everything that a candidate's score depends on besides its recipe."""

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
        """Return the file in which finished candidates are kept."""
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
        budget: the budget.
        grid: values to try, by hyper-parameter; see `parse_grid`.
        trials: number of combinations to draw, without repetition; None tries all in order.
        protocol: protocol that trains the students.
        network: student network; None: the protocol's default.
        holdout: fraction of each class of the training split that is held out for scoring.
        seeds: evaluation seeds of each candidate.
        seed: synthesis seed, and seed of the draw.
        recipe: recipe of the other hyper-parameters: a name, "generic" or a file; None: the cell's default.
        distill_network: distillation network instead of the recipe's.
        overrides: hyper-parameters that are changed but not searched.
        compute: how to compute; None: `Compute.here()`.
        reporter: shows progress.
        out: recipe file to write (its name must end in .toml to be used as one).

    Returns:
        Every candidate with its scores, the winner, and the cost of the search.

    Raises:
        UsageError: bad input: an unknown or wrong value in the grid, a budget above a class's remaining images.
        JobFailed: every candidate failed; the first reason is given.
    """
    method = method if isinstance(method, Method) else find_method(method)
    combinations = draw(grid, trials, seed)
    if out is not None:
        check_writable(Path(out))
    if not seeds:
        raise UsageError("tuning needs at least one evaluation seed")
    study = _Study(
        method=method,
        dataset=held_out(data.load(), holdout),
        budget=budget,
        protocol=find_protocol(protocol),
        network=network,
        seeds=tuple(seeds),
        seed=seed,
        setting=compute or Compute.here(),
        holdout=holdout,
    )
    resolved = partial(resolve, method, study.dataset, budget, recipe=recipe, network=distill_network)
    recipes = [resolved(overrides={**(overrides or {}), **values}) for values in combinations]
    for each in recipes:
        check_budget(each, study.dataset)
    if not study.protocol.shipped:
        study.protocol.student(study.dataset, study.network)
    report = _run(study, combinations, recipes, reporter or Reporter())
    best, dataset = recipes[report.candidates.index(report.winner)], data.load().id
    text = recipe_text(best, dataset, source_line(report, study, dataset, best.name.removesuffix("+set")))
    if out is not None:
        write_atomic(Path(out), text)
    return replace(report, recipe=text, path=None if out is None else Path(out))


def held_out(dataset: Dataset, fraction: float) -> Dataset:
    """Split the training images of a data set into the train and the test split of a new one.

    The new test split is the held-out fraction; the old test split is not used.

    Raises:
        UsageError: a fraction outside (0, 1), or one that empties a class.
    """
    kept, held = stratified(dataset.train.labels, fraction, "tune", dataset.train.hash)
    name = f"{dataset.id}-holdout" if "@" in dataset.id else f"{dataset.id}@holdout"
    return replace(dataset, id=name, train=_subset(dataset.train, kept), test=_subset(dataset.train, held))


def _subset(split: Split, places: torch.Tensor) -> Split:
    """Return some images of a split as a split of its own."""
    if split.resident:
        return memory_split(split.read(places), split.labels[places])

    def read(indices: torch.Tensor | None) -> torch.Tensor:
        return split.read(places if indices is None else places[indices])

    return Split(split.labels[places], digest([split.hash, places.tolist()]), False, read)


def _run(
    study: _Study, combinations: Sequence[dict[str, Any]], recipes: Sequence[Resolved], reporter: Reporter
) -> TuneReport:
    kept, candidates, reused = _kept(study.path()), [], 0
    for number, (values, recipe) in enumerate(zip(combinations, recipes, strict=True)):
        if recipe.hash in kept:
            candidate, reused = replace(kept[recipe.hash], values=values), reused + 1
        else:
            candidate = _try(study, values, recipe, reporter)
            _keep(study.path(), recipe.hash, candidate)
        candidates.append(candidate)
        reporter.advance("candidates", number + 1, len(recipes))
    winner = max(candidates, key=lambda candidate: -1.0 if candidate.mean is None else candidate.mean)
    if winner.mean is None:
        raise JobFailed(f"every candidate failed; the first: {candidates[0].reason}")
    return TuneReport(tuple(candidates), winner, recipe="", path=None, reused=reused)


def _try(study: _Study, values: dict[str, Any], recipe: Resolved, reporter: Reporter) -> Candidate:
    """Distill with one candidate and score its students on the held-out part."""
    started = time.perf_counter()
    outcome = attempt(_scores, study, recipe, reporter)
    if outcome.usage or outcome.skipped:
        raise UsageError(f"{study.method.name} with {values}: {outcome.usage or outcome.skipped}")
    return Candidate(values, outcome.value or (), outcome.failure, round(time.perf_counter() - started, 3))


def _scores(study: _Study, recipe: Resolved, reporter: Reporter) -> tuple[float, ...]:
    device = study.setting.apply()
    task = Task(study.dataset, recipe.budget, recipe.network, study.seed, device, reporter=reporter)
    synset = recipe.method.distill(task, recipe.hyper)
    check_balance(synset, recipe)
    scores = []
    for seed in study.seeds:
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
        scores.append(run.top1)
    return tuple(scores)


def _kept(path: Path) -> dict[str, Candidate]:
    """Read finished candidates by the hash of their recipe; a damaged file is logged and counts as empty."""
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
    """Return one line on how the winner was found, for the recipe's `source`."""
    bounds = report.winner.interval()
    interval = f" ({bounds[0]:.4f} to {bounds[1]:.4f})" if bounds else ""
    return (
        f"tuned on a holdout of {study.holdout:g} of the training split of {dataset}: best of "
        f"{len(report.candidates)} candidates under {study.protocol.name}, synthesis seed {study.seed}, evaluation "
        f"seeds {', '.join(map(str, study.seeds))}; held-out accuracy {report.winner.mean:.4f}{interval}; "
        f"{report.trainings} trainings, {report.seconds:.0f} s in all, {datetime.now(UTC):%Y-%m-%d}; other fields from recipe {base}"
    )
