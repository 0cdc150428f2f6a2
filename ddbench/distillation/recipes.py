"""Recipes: the settings of a run as strict TOML, resolved to plain data whose hash names caches and records.

A file has the `method`, the fields that its `[generic]` recipe begins with, and a `[[recipe]]` for one or several cells:
name, dataset, one of ipc, fraction (each a number or a list) and `all = true`, network, default, source, and a table
`hyper`. What recipes share stands once:

- `[base.NAME]` has any of these fields, and `like = "NAME"` or `like = ["NAME", "OTHER"]` takes them. What a recipe says
  itself goes before its bases, of which a later one goes before an earlier; tables `hyper` are joined field by field.
  A base may be like those that stand above it.
- `dataset` may be a list too: a recipe for each.
- `note` is added to the source that the recipe has so far.
- `each` is a table of columns: for a hyper-parameter a list of values, one for each number of the list of ipc or fraction,
  "-" where it is not given. `note` may be such a list.

This reads as the table of a paper, and stands for three recipes of `cifar10`:

    [base.table]
    name = "paper"
    default = true
    source = "arXiv 0000.00000, table 5"
    hyper = {iterations = 5000}

    [[recipe]]
    like = "table"
    dataset = "cifar10"
    network = "convnet-d3"
    ipc             = [    1,    10,     50]
    each.syn_steps  = [   50,    30,     30]
    each.lr_img     = [100.0, 100.0, 1000.0]
    each.batch_syn  = [  "-",   "-",    256]
    note            = [  "-",   "-", "the batch is of issue 7"]
"""

import json
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from ddbench.budget import Budget
from ddbench.data.dataset import Dataset
from ddbench.distillation.method import Hyper, Method, find_method
from ddbench.distillation.recipe_sharing import Ipcs, Name, Shares, WrittenFile, spelt_out
from ddbench.errors import UsageError, first_problem, unknown
from ddbench.hashing import digest
from ddbench.networks import canonical
from ddbench.system.files import read_text

GENERIC = "generic"
LARGEST = 2**20
"""Bytes of a recipe file."""


class RecipeEntry(BaseModel):
    """A recipe with all that it shares with others: the settings of one or several cells."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")
    name: Name
    dataset: str
    ipc: Ipcs | None = None
    fraction: Shares | None = None
    all: bool = False
    network: str = "convnet"
    default: bool = False
    source: str = Field(min_length=3)
    hyper: dict[str, Any] = {}

    @model_validator(mode="after")
    def _one_budget(self) -> "RecipeEntry":
        if (self.ipc is not None) + (self.fraction is not None) + self.all != 1:
            raise ValueError("give one of ipc, fraction or all = true")
        return self

    def budgets(self) -> list[Budget]:
        """Budgets that the entry is for."""
        if self.all:
            return [Budget()]
        ipcs = self.ipc if isinstance(self.ipc, list) else [self.ipc]
        fractions = self.fraction if isinstance(self.fraction, list) else [self.fraction]
        return [Budget(ipc=i, fraction=f) for i in ipcs for f in fractions]


class RecipeFile(BaseModel):
    """A recipe file of one method, its recipes spelt out."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")
    method: str
    generic: dict[str, Any] = {}
    recipe: list[RecipeEntry] = []


@dataclass(frozen=True)
class Resolved:
    """A recipe with nothing left open: method, data set, budget, network and every hyper-parameter.

    Attributes:
        name: of the recipe; ends in "-reduced" for a cheaper variant, in "+set" if a field was overridden.
        source: where the settings come from; not part of the hash.
    """

    method: Method
    dataset: str
    split_hash: str
    budget: Budget
    network: str
    hyper: Hyper
    name: str
    source: str

    def to_json(self) -> dict[str, Any]:
        """Recipe as plain data, without its source."""
        return {
            "method": self.method.name,
            "dataset": self.dataset,
            "split_hash": self.split_hash,
            "budget": self.budget.to_json(),
            "network": self.network,
            "hyper": self.hyper.model_dump(mode="json"),
            "name": self.name,
        }

    @property
    def hash(self) -> str:
        """SHA-256 of the recipe as canonical JSON."""
        return digest(self.to_json())


def restore(plain: Mapping[str, Any], source: str = "") -> Resolved:
    """Resolved recipe that `Resolved.to_json` wrote down, for another process or from a record."""
    method = find_method(plain["method"])
    return Resolved(
        method=method,
        dataset=plain["dataset"],
        split_hash=plain["split_hash"],
        budget=Budget.from_json(plain["budget"]),
        network=plain["network"],
        hyper=read_hyper(method, plain["hyper"], f"recipe {plain['name']}"),
        name=plain["name"],
        source=source,
    )


def parse(text: str, where: str) -> RecipeFile:
    """Read a recipe file strictly.

    Raises:
        UsageError: broken TOML, unknown or missing keys, wrong types, an unknown base; one line that names file and key.
    """
    try:
        written = WrittenFile.model_validate(tomllib.loads(text))
        recipes = [_entry(key, fields) for key, fields in spelt_out(written)]
    except ValidationError as error:
        raise UsageError(f"{where}: {first_problem(error)}") from error
    except (UsageError, ValueError, RecursionError) as error:  # broken TOML, a number of 5,000 digits, 1,000 brackets
        raise UsageError(f"{where}: {error}") from error
    return RecipeFile(method=written.method, generic=written.generic, recipe=recipes)


def _entry(key: str, fields: Mapping[str, Any]) -> RecipeEntry:
    try:
        return RecipeEntry.model_validate(fields)
    except ValidationError as error:
        raise UsageError(first_problem(error, within=key)) from error


def published(method: Method) -> RecipeFile:
    """Recipes that come with a method: `recipes/<name>.toml` beside its module; empty if there are none."""
    package = sys.modules[method.distill.__module__].__package__  # a package's own name, where that is the module
    if package:
        file = resources.files(package) / "recipes" / f"{method.name}.toml"
        if file.is_file():
            return _parsed(file.read_text(encoding="utf-8"), file.name)
    return RecipeFile(method=method.name)


@lru_cache(maxsize=64)
def _parsed(text: str, where: str) -> RecipeFile:
    """`parse`, once for one text: a site asks for every record's recipe again."""
    return parse(text, where)


def resolve(
    method: Method,
    dataset: Dataset,
    budget: Budget,
    *,
    recipe: str | None = None,
    network: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Resolved:
    """Find the recipe of a cell and fill in every default.

    Args:
        method: of the cell.
        dataset: of the cell.
        budget: of the cell.
        recipe: a name among the published ones, "generic" (the method's defaults), a path of a TOML file, or None for
            the published default.
        network: distillation network, instead of the recipe's.
        overrides: hyper-parameters to change (`--set`).

    Raises:
        UsageError: no such recipe (the nearest are named), a budget that the method does not know, a wrong field.
    """
    if budget.kind not in method.budgets:
        raise UsageError(f"{method.name} takes a budget of {' or '.join(method.budgets)}, not {budget}")
    file, where = _file(method, recipe)
    entry = _choose(file, method, dataset, budget, recipe)
    fields = {**(entry.hyper if entry.name != GENERIC else file.generic), **(overrides or {})}
    return Resolved(
        method=method,
        dataset=dataset.id,
        split_hash=dataset.train.hash,
        budget=budget,
        network=canonical(network or entry.network, side=dataset.side),
        hyper=read_hyper(method, fields, f"{where}, recipe {entry.name}"),
        name=entry.name + ("+set" if overrides or network else ""),
        source=entry.source,
    )


def family(dataset_id: str) -> str:
    """Name of a data set without the content hash that a folder's id ends in."""
    return dataset_id.partition("@")[0]


def entries_for(file: RecipeFile, dataset_id: str, budget: Budget) -> list[RecipeEntry]:
    """Recipes of a file that are for a data set and budget."""
    wanted = (dataset_id, family(dataset_id))
    return [entry for entry in file.recipe if entry.dataset in wanted and budget in entry.budgets()]


def _file(method: Method, recipe: str | None) -> tuple[RecipeFile, str]:
    if recipe is None or not _is_path(recipe):
        return published(method), f"{method.name}.toml"
    file = parse(read_text(Path(recipe), LARGEST, "recipe file"), recipe)
    if file.method != method.name:
        raise UsageError(f"{recipe}: method is {file.method!r}, but {method.name!r} was asked for")
    return file, recipe


def _is_path(recipe: str) -> bool:
    return recipe.endswith(".toml") or "/" in recipe


def _choose(file: RecipeFile, method: Method, dataset: Dataset, budget: Budget, recipe: str | None) -> RecipeEntry:
    if recipe == GENERIC or (recipe is None and not file.recipe):
        source = "the method's defaults, for a cell without a published recipe"
        return RecipeEntry(name=GENERIC, dataset=dataset.id, all=True, network=method.network, source=source)
    fitting = entries_for(file, dataset.id, budget)
    named = recipe is not None and not _is_path(recipe)
    chosen = [e for e in fitting if e.name == recipe] if named else [e for e in fitting if e.default] or fitting
    if len(chosen) == 1:
        return chosen[0]
    if not chosen:
        raise _missing(file, method, dataset, budget, fitting, recipe if named else None)
    raise UsageError(
        f"{method.name}: several recipes for {dataset.id} at {budget} and no default: "
        f"choose with --recipe {' | '.join(e.name for e in chosen)}"
    )


def _missing(
    file: RecipeFile,
    method: Method,
    dataset: Dataset,
    budget: Budget,
    fitting: Sequence[RecipeEntry],
    name: str | None,
) -> UsageError:
    if name is not None and fitting:
        return unknown(f"{method.name} recipe for {dataset.id} at {budget}", name, [e.name for e in fitting])
    cells = sorted({f"{e.dataset} at {b} ({e.name})" for e in file.recipe for b in e.budgets()})
    same = [cell for cell in cells if cell.startswith(family(dataset.id) + " ")]
    near = same or get_close_matches(f"{dataset.id} at {budget}", cells, n=4, cutoff=0.0)
    wanted = f"recipe {name!r}" if name else "recipe"
    return UsageError(
        f"{method.name} has no {wanted} for {dataset.id} at {budget}; nearest: {'; '.join(near[:4]) or 'none'}. "
        f"Use --recipe generic for the method's defaults, or give a file"
    )


def read_hyper(method: Method, fields: Mapping[str, Any], where: str) -> Hyper:
    """Hyper-parameters from plain fields; UsageError, beginning with `where`, names the field that is wrong."""
    for key in fields:
        if key not in method.hyper.model_fields:
            raise UsageError(f"{where}: {unknown('hyper-parameter', key, method.hyper.model_fields)}")
    try:
        # as JSON, so that a list may stand for a tuple: a resolved recipe must read back as it was written
        return method.hyper.model_validate_json(json.dumps(dict(fields), default=str))
    except ValidationError as error:
        raise UsageError(f"{where}: {first_problem(error)}") from error


def parse_overrides(method: Method, words: Sequence[str]) -> dict[str, Any]:
    """Read `KEY=VALUE` words by the types of the method's hyper-parameters: 5, 0.1, true, a text, or JSON.

    Raises:
        UsageError: no `=`, an unknown key, a value that does not read as the field's type.
    """
    overrides: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            raise UsageError(f"--set {word}: KEY=VALUE is needed")
        if key not in method.hyper.model_fields:
            raise unknown(f"hyper-parameter of {method.name}", key, method.hyper.model_fields)
        overrides[key] = _read(method, key, text)
    return overrides


def _read(method: Method, key: str, text: str) -> Any:
    annotation: TypeAdapter[Any] = TypeAdapter(cast(Any, method.hyper.model_fields[key].annotation))
    for read in (lambda: annotation.validate_json(text, strict=True), lambda: annotation.validate_python(text)):
        try:
            return read()
        except ValidationError as error:
            problem = error
    raise UsageError(f"--set {key}={text}: {first_problem(problem)}")
