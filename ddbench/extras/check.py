"""What every installed method must do, on digits with its declared toy settings: a third party's as ours.

`ddbench check NAME` runs these checks on one method, and the suite's own tests run them on all of ours. Each is a function
of the method that raises `Broken` with the reason. They distil into a cache of their own.
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
from ddbench.synset.synset import SynSet, load
from ddbench.training.compute import Compute

CHANCE, BETTER = 0.1, 0.3
"""Top-1 of a guess on the ten digits, and what a student must reach on a toy set: far above it, far below a good one."""
TOLERANCE = 1e-3  # of the sum of a row of probabilities


class Broken(DDBenchError):
    """A method does not do what every method must."""


@dataclass(frozen=True)
class Check:
    """One demand: what it is called, what it says, and what raises `Broken` where a method does not meet it."""

    name: str
    says: str
    run: Callable[[Method], None]


@dataclass(frozen=True)
class Outcome:
    """A check and what came of it; `problem` is None where the method passed."""

    check: Check
    problem: str | None

    @property
    def passed(self) -> bool:
        """Whether the method does what the check demands."""
        return self.problem is None


def toy_job(method: Method, seed: int = 0) -> DistillJob:
    """The cheapest cell of a method: digits at its smallest IPC (or a tenth, or all of it), generic recipe, toy settings."""
    fields = {**published(method).generic, **method.toy}
    recipe = resolve(method, load_dataset("digits"), _budget(method), recipe="generic", overrides=fields)
    return DistillJob.of(DataName("digits"), recipe, seed, Compute())


def _budget(method: Method) -> Budget:
    if "ipc" in method.budgets:
        return Budget(ipc=method.toy_ipc)
    return Budget(fraction=0.1) if "fraction" in method.budgets else Budget()


def demand(truth: bool, otherwise: str) -> None:
    """Raise `Broken` with the reason unless it is true."""
    if not truth:
        raise Broken(otherwise)


def page(method: Method) -> None:
    """The module has a docstring, every hyper-parameter says what it is, and the settings can be written down."""
    module = inspect.getmodule(method.hyper)
    demand(bool(module and (module.__doc__ or "").strip()), "its module has no docstring: say what the steps are")
    silent = [name for name, field in method.hyper.model_fields.items() if not field.description]
    demand(not silent, f"hyper-parameter {', '.join(silent)} has no description: unit, paper symbol, meaning")
    demand(bool(method.budgets) and {*method.budgets} <= {"ipc", "fraction", "all"}, f"budgets are {method.budgets}")
    hyper = toy_job(method).resolved().hyper
    again = method.hyper.model_validate_json(canonical_json(hyper.model_dump(mode="json")))
    demand(again == hyper, "its hyper-parameters do not read back from JSON as they were written")


def recipes(method: Method) -> None:
    """Published recipes read strictly, are of this method, fill its hyper-parameters, and one at most is a cell's default."""
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
    """The set is whole: of this data set, balanced if declared so, finite, of the right shape, and its file reads back."""
    dataset = load_dataset("digits")
    before, made = dataset.train.read().clone(), toy_job(method)
    synset = distill_job(made)
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
    _probabilities(synset)
    told = synset.provenance
    demand(told.method == method.name, f"the set's provenance names {told.method!r}")
    demand(told.recipe == made.resolved().to_json(), "the set's provenance has another recipe than it was made by")
    demand(torch.equal(dataset.train.read(), before), "the training images were written to")
    demand(load(made.path).hash == synset.hash, "the set reads back from its file with another hash")


def _probabilities(synset: SynSet) -> None:
    """Rows of stored probabilities sum to 1."""
    targets = synset.targets
    if targets is None or targets.params.get("form") != "probabilities" or "labels" not in targets.tensors:
        return
    sums = targets.tensors["labels"].double().sum(1)
    demand(float((sums - 1).abs().max()) <= TOLERANCE, "rows of its label probabilities do not sum to 1")


def equal_seeds(method: Method) -> None:
    """Equal seeds give equal bits, whatever a global random stream holds."""
    first = distill_job(toy_job(method)).hash
    with own_cache(), forked(99, "conformance"):
        second = distill_job(toy_job(method)).hash
    demand(
        first == second, "equal seeds gave two sets: it draws from a stream that is not keyed (task.rng, task.forked)"
    )


def other_seeds(method: Method) -> None:
    """Another seed gives another set, or the method declares that it draws nothing."""
    same = distill_job(toy_job(method, 0)).hash == distill_job(toy_job(method, 1)).hash
    demand(same or not method.deterministic, "another seed gave another set, though it declares deterministic=True")
    demand(
        not same or method.deterministic, "another seed gave the same set: draw by task.rng, or say deterministic=True"
    )


def better_than_chance(method: Method) -> None:
    """A student of `hard-v1` that is trained on the toy set tells digits apart."""
    synset = distill_job(toy_job(method))
    (run,) = evaluate_seeds(
        synset, load_dataset("digits"), find_protocol("hard-v1"), seeds=(0,), setting=Compute()
    ).runs
    demand(run.status == "ok", f"its student failed: {run.reason}")
    reached = run.top1 or 0.0
    demand(
        reached > BETTER, f"its student reaches {reached:.3f}; a guess reaches {CHANCE}, above {BETTER} is asked for"
    )


CHECKS = tuple(
    Check(name, inspect.cleandoc(run.__doc__ or "").splitlines()[0], run)
    for name, run in (
        ("page", page),
        ("recipes", recipes),
        ("whole set", whole_set),
        ("equal seeds", equal_seeds),
        ("other seeds", other_seeds),
        ("better than chance", better_than_chance),
    )
)


def check_method(method: Method, seen: Callable[[Outcome], None] | None = None) -> list[Outcome]:
    """Put a method through every check, in a cache that is gone afterwards; one that breaks does not stop the others.

    Args:
        method: what `ddbench.distillation.method.find_method` gives.
        seen: told each outcome as soon as it is there.
    """
    found = []
    with own_cache():
        for check in CHECKS:
            found.append(Outcome(check, _problem(check, method)))
            if seen is not None:
                seen(found[-1])
    return found


def _problem(check: Check, method: Method) -> str | None:
    """Why a method does not pass, in one line; an error of its own code with the place where it arose."""
    try:
        check.run(method)
    except DDBenchError as error:
        return " ".join(str(error).split()) or type(error).__name__
    except Exception as error:  # the code is somebody's: whatever it raises is its outcome
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}, line {place.lineno}"
        return " ".join(f"{type(error).__name__}: {error} ({where})".split())
    return None


@contextmanager
def own_cache() -> Iterator[None]:
    """An empty cache within the block, gone afterwards; data sets stay where they are."""
    data, names = data_dir(), ("DDBENCH_CACHE", "DDBENCH_DATA")
    with tempfile.TemporaryDirectory(prefix="ddbench-check-") as folder, variables_kept(*names):
        os.environ.update(DDBENCH_CACHE=folder, DDBENCH_DATA=str(data))
        yield
