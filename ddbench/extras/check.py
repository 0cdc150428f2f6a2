"""Checks that every method must pass, on digits with its own toy settings: a plugin's as ours.

`ddbench check NAME` runs them on one method, and the suite's own tests run them on all of ours. Each check is a function
of the method that raises `Broken` with the reason. The sets are distilled into a cache of their own.
"""

import inspect
import os
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from ddbench.budget import Budget
from ddbench.data.registry import load_dataset
from ddbench.distillation.method import Method
from ddbench.distillation.recipes import published, read_hyper, resolve
from ddbench.errors import DDBenchError
from ddbench.evaluation.evaluate import evaluate_seeds
from ddbench.evaluation.protocol import find_protocol
from ddbench.hashing import canonical_json
from ddbench.jobs.job import DataName, DistillJob, distill_job
from ddbench.randomness import forked
from ddbench.settings import data_dir, variables_kept
from ddbench.synset.synset import load
from ddbench.training.compute import Compute

CHANCE, BETTER = 0.1, 0.3
"""Top-1 of a guess on the ten digits, and what a student of a toy set must exceed: far above a guess, far below a good set."""
TOLERANCE = 1e-3  # of the sum of a row of probabilities


class Broken(DDBenchError):
    """A method fails a check."""


@dataclass(frozen=True)
class Check:
    """One check: its name, one sentence about it, and the function that raises `Broken` where a method fails."""

    name: str
    says: str
    run: Callable[[Method], None]


@dataclass(frozen=True)
class CheckResult:
    """Result of a check; `problem` is None where the method passed."""

    check: Check
    problem: str | None

    @property
    def passed(self) -> bool:
        """True where the check found no problem."""
        return self.problem is None


def toy_job(method: Method, seed: int = 0) -> DistillJob:
    """Make the cheapest job of a method: digits, its smallest budget, the generic recipe with its toy settings."""
    budget = Budget()
    if "ipc" in method.budgets:
        budget = Budget(ipc=method.toy_ipc)
    elif "fraction" in method.budgets:
        budget = Budget(fraction=0.1)
    fields = {**published(method).generic, **method.toy}
    recipe = resolve(method, load_dataset("digits"), budget, recipe="generic", overrides=fields)
    return DistillJob.of(DataName("digits"), recipe, seed, Compute())


def demand(truth: bool, otherwise: str) -> None:
    """Raise `Broken` with the reason `otherwise` unless `truth` holds."""
    if not truth:
        raise Broken(otherwise)


def page(method: Method) -> None:
    """The module has a docstring, every hyper-parameter has a description, and the settings can be written as JSON."""
    module = inspect.getmodule(method.hyper)
    demand(bool(module and (module.__doc__ or "").strip()), "its module has no docstring: say what the steps are")
    silent = [name for name, field in method.hyper.model_fields.items() if not field.description]
    demand(not silent, f"hyper-parameter {', '.join(silent)} has no description: unit, paper symbol, meaning")
    demand(bool(method.budgets) and {*method.budgets} <= {"ipc", "fraction", "all"}, f"budgets are {method.budgets}")
    hyper = toy_job(method).resolved().hyper
    again = method.hyper.model_validate_json(canonical_json(hyper.model_dump(mode="json")))
    demand(again == hyper, "its hyper-parameters do not read back from JSON as they were written")


def recipes(method: Method) -> None:
    """Published recipes are well formed, belong to this method, and name at most one default for each cell."""
    file = published(method)
    demand(file.method == method.name, f"recipes/{method.name}.toml is of method {file.method!r}")
    read_hyper(method, {**file.generic, **method.toy}, "generic and toy settings")
    defaults = set()
    for entry in file.recipe:
        read_hyper(method, entry.hyper, f"recipe {entry.name}")
        for budget in entry.budgets():
            demand(budget.kind in method.budgets, f"recipe {entry.name} is for {budget}, which its budgets exclude")
            cell = (entry.dataset, budget)
            demand(not (entry.default and cell in defaults), f"{entry.dataset} at {budget} has two default recipes")
            defaults |= {cell} if entry.default else set()


def whole_set(method: Method) -> None:
    """The set is complete: right data set, shape and balance, finite values, and its file reads back unchanged."""
    dataset = load_dataset("digits")
    before, job = dataset.train.read().clone(), toy_job(method)
    synset = distill_job(job)
    demand(synset.dataset == "digits" and synset.split_hash == dataset.train.hash, "the set is of another data set")
    demand(synset.class_names == dataset.class_names, "the set's class names are not the data set's")
    demand(synset.classes.dtype == torch.int64, f"classes are {synset.classes.dtype}, not int64")
    if method.balanced and "ipc" in method.budgets:
        wanted = [method.toy_ipc] * len(dataset.class_names)
        demand(synset.per_class() == wanted, f"images per class are {synset.per_class()}, but it declares balance")
    images = synset.pixels(dataset)
    demand(images.dtype == torch.float32, f"images are {images.dtype}, not float32")
    shape = (len(synset), dataset.channels, dataset.side, dataset.side)
    demand(tuple(images.shape) == shape, f"images have shape {list(images.shape)}, not {list(shape)}")
    demand(bool(torch.isfinite(images).all()), "images hold values that are not finite")
    targets = synset.targets
    if targets is not None and targets.params.get("form") == "probabilities" and "labels" in targets.tensors:
        sums = targets.tensors["labels"].double().sum(1)
        demand(float((sums - 1).abs().max()) <= TOLERANCE, "rows of its label probabilities do not sum to 1")
    provenance = synset.provenance
    demand(provenance.method == method.name, f"the set's provenance names {provenance.method!r}")
    demand(provenance.recipe == job.resolved().to_json(), "the set's provenance has another recipe than it was made by")
    demand(torch.equal(dataset.train.read(), before), "the training images were written to")
    demand(load(job.path).hash == synset.hash, "the set reads back from its file with another hash")


def equal_seeds(method: Method) -> None:
    """Equal seeds give equal bits, whatever the state of torch's global generator."""
    first = distill_job(toy_job(method)).hash
    with own_cache(), forked(99, "conformance"):
        second = distill_job(toy_job(method)).hash
    reason = "equal seeds gave two sets: it draws from a generator that is not keyed (use task.rng, task.forked)"
    demand(first == second, reason)


def other_seeds(method: Method) -> None:
    """Another seed gives another set, unless the method declares that it draws nothing."""
    same = distill_job(toy_job(method, 0)).hash == distill_job(toy_job(method, 1)).hash
    if method.deterministic:
        demand(same, "another seed gave another set, though it declares deterministic=True")
    else:
        demand(not same, "another seed gave the same set: draw by task.rng, or declare deterministic=True")


def better_than_chance(method: Method) -> None:
    """A `hard-v1` student that is trained on the toy set classifies digits better than chance."""
    record = evaluate_seeds(
        distill_job(toy_job(method)), load_dataset("digits"), find_protocol("hard-v1"), seeds=(0,), setting=Compute()
    )
    (run,) = record.runs
    demand(run.status == "ok", f"its student failed: {run.reason}")
    top1 = run.top1 or 0.0
    demand(top1 > BETTER, f"its student reaches {top1:.3f}; a guess reaches {CHANCE}, more than {BETTER} is needed")


CHECKS = tuple(
    Check(run.__name__.replace("_", " "), inspect.cleandoc(run.__doc__ or "").splitlines()[0], run)
    for run in (page, recipes, whole_set, equal_seeds, other_seeds, better_than_chance)
)


def check_method(method: Method, seen: Callable[[CheckResult], None] | None = None) -> list[CheckResult]:
    """Run every check on a method, in a temporary cache; a failed check does not stop the others.

    Args:
        method: the method, from `ddbench.distillation.method.find_method`.
        seen: called with each result as soon as it is there.
    """
    results = []
    with own_cache():
        for check in CHECKS:
            results.append(CheckResult(check, _problem(check, method)))
            if seen is not None:
                seen(results[-1])
    return results


def _problem(check: Check, method: Method) -> str | None:
    """Return why a method fails a check, in one line; for an error of the method's own code, with file and line."""
    try:
        check.run(method)
    except DDBenchError as error:
        return " ".join(str(error).split()) or type(error).__name__
    except Exception as error:  # anyone's code may raise anything, and that is the result
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}, line {place.lineno}"
        return " ".join(f"{type(error).__name__}: {error} ({where})".split())
    return None


@contextmanager
def own_cache() -> Iterator[None]:
    """Use an empty temporary cache within the block; data sets stay where they are."""
    data, names = data_dir(), ("DDBENCH_CACHE", "DDBENCH_DATA")
    with tempfile.TemporaryDirectory(prefix="ddbench-check-") as folder, variables_kept(*names):
        os.environ.update(DDBENCH_CACHE=folder, DDBENCH_DATA=str(data))
        yield
