"""Reproducing a paper's table: its reported figures as cells of a grid, and what the records then say of each.

Verdict. Ours is a mean over n units (see `ddbench.records.statistics`) with a 95 % t interval [low, high]; the paper's is a mean m
with its own deviation s (0 where it gives none, which is said). Ours

    agrees  where low - s <= m <= high + s,
    is above where low - s > m, and below where high + s < m.

There is no verdict with n = 1 (no interval), under another protocol than the paper's own post-evaluation, for a figure
that is itself of another evaluation, and for a reduced recipe: there the difference is only shown, or not even that.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from ddbench.budget import Budget
from ddbench.data.dataset import Dataset
from ddbench.data.registry import dataset_names, describe
from ddbench.distillation.method import Method, find_method, method_names
from ddbench.distillation.recipes import Resolved, published, resolve
from ddbench.errors import UsageError, unknown
from ddbench.evaluation.protocol import find_protocol
from ddbench.jobs.estimate import stand_in
from ddbench.jobs.job import DataName, DistillJob, check_budget
from ddbench.jobs.sweep import Cell
from ddbench.networks import canonical
from ddbench.records.record import Record
from ddbench.report.frame import pooled
from ddbench.report.papers import OWN, Figure, Paper, figures_of
from ddbench.training.compute import Compute

if TYPE_CHECKING:
    import pandas as pd

Verdict = Literal["agrees", "above", "below", "not run", "failed", "n/a", "no verdict"]
REDUCED = "-reduced"
RULE = (
    "Verdict: agrees if the paper's mean lies in our 95 % confidence interval, widened on both sides by the paper's own "
    "standard deviation; else our mean is above or below."
)


@dataclass(frozen=True)
class Choice:
    """What of a table is wanted, and how it is run.

    Attributes:
        protocols: names; `shipped-v1` is the paper's own post-evaluation.
        seeds: evaluation seeds.
        synthesis_seeds: seeds of the distillations.
        compute: how to compute.
        data: data sets that are folders here, by the name that they have in figures and recipes.
    """

    protocols: tuple[str, ...] = ("shipped-v1",)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    synthesis_seeds: tuple[int, ...] = (0,)
    compute: Compute = field(default_factory=Compute)
    data: Mapping[str, DataName] | None = None

    def named(self, dataset: str) -> DataName:
        """What is loaded where a figure or a recipe says `dataset`."""
        return (self.data or {}).get(dataset, DataName(dataset))


@dataclass(frozen=True)
class Item:
    """A figure under a protocol, or a reduced recipe, and what is run for it.

    Attributes:
        figure: the paper's; None: a reduced recipe for whose budget the paper reports nothing.
        method, dataset, budget: of the cell; of a reduced recipe its own, not the figure's.
        protocol: that scores it.
        network: student network; None: the set's own.
        recipe: resolved, on a stand-in where the data are not here; None: there is none.
        cells: one for each synthesis seed; none where it cannot be run.
        source: the data set, or its stand-in; None where nothing is known of it.
        why: why it cannot be run, for people.
        reduced: a reduced recipe, never to be held against the paper's figure.
    """

    figure: Figure | None
    method: str
    dataset: str
    budget: Budget
    protocol: str
    network: str | None
    recipe: Resolved | None = None
    cells: tuple[Cell, ...] = ()
    source: Dataset | None = None
    why: str | None = None
    reduced: bool = False

    def key(self) -> tuple[Any, ...]:
        """What is run: two figures of one cell share it."""
        return self.method, self.dataset, self.budget, self.protocol, self.network, self.recipe and self.recipe.hash

    @property
    def dataset_id(self) -> str:
        """The id of the data set that is run; of one that is not here, its name."""
        return self.source.id if self.source is not None and self.cells else self.dataset

    def plain(self) -> dict[str, Any]:
        """What it is, as plain data."""
        return {
            "method": self.method,
            "dataset": self.dataset_id,
            "budget": str(self.budget),
            "student": self.network,
            "protocol": self.protocol,
            "recipe": self.recipe and self.recipe.name,
            "recipe_hash": self.recipe.hash if self.recipe and self.cells else None,
            "reduced": self.reduced,
        }

    def words(self) -> str:
        """For people: "mtt on cifar10, IPC 10, convnet-d3, shipped-v1"."""
        parts = [f"{self.method} on {self.dataset}", str(self.budget), self.network or "the set's student"]
        return ", ".join([*parts, self.protocol])


@dataclass(frozen=True)
class Compared:
    """An item and what the records say: one for each setting that it was run in.

    Accuracies are fractions; `low` and `high` end the 95 % interval; `setting` says device, precision, threads.
    """

    item: Item
    verdict: Verdict
    why: str | None = None
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    draws: int = 0
    setting: str = ""

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's, a fraction; None where they are not to be compared."""
        if self.mean is None or self.item.figure is None or self.item.reduced:
            return None
        return self.mean - self.item.figure.top1


def verdict_of(top1: float, std: float | None, low: float | None, high: float | None) -> Verdict:
    """The rule of the module's docstring, on fractions; "no verdict" without an interval."""
    if low is None or high is None:
        return "no verdict"
    wide = std or 0.0
    return "above" if low - wide > top1 else "below" if high + wide < top1 else "agrees"


def chosen_figures(
    key: str, paper: Paper, methods: Sequence[str], cells: Sequence[str] = (), networks: Sequence[str] = ()
) -> list[Figure]:
    """The figures of a paper's methods that are asked for, in the file's order.

    Args:
        key: of the paper.
        paper: its file.
        methods: names.
        cells: as `cifar10/10`, `cifar10/0.1`, `cifar10/all`, or `cifar10` for all its budgets; none: all.
        networks: student networks; none: all.

    Raises:
        UsageError: the paper reports no such method, cell or network; the near ones are named.
    """
    every = list(figures_of(key, paper))
    for name in methods:
        if name not in {figure.method for figure in every}:
            raise unknown(f"method (among the figures of {key})", name, {figure.method for figure in every})
    found = [figure for figure in every if figure.method in methods]
    for name in networks:
        if name not in {figure.network for figure in found}:
            raise unknown(f"network (among the figures of {key})", name, {figure.network for figure in found})
    found = [figure for figure in found if not networks or figure.network in networks]
    names = {figure: cell_names(figure.dataset, figure.budget) for figure in found}
    wanted = _wanted(cells, {name for pair in names.values() for name in pair}, key)
    return [figure for figure in found if not cells or wanted & set(names[figure])]


def cell_names(dataset: str, budget: Budget) -> tuple[str, str]:
    """How a cell is asked for: its data set, and data set and budget ("cifar10/10")."""
    size = budget.ipc or (f"{budget.fraction:g}" if budget.fraction else "all")
    return dataset, f"{dataset}/{size}"


def _wanted(cells: Sequence[str], known: set[str], key: str) -> set[str]:
    for name in cells:
        if name not in known:
            raise unknown(f"cell (among those of {key})", name, known)
    return set(cells)


def items_of(figures: Iterable[Figure], paper: Paper, choice: Choice) -> list[Item]:
    """Every figure under every protocol as an item, with the cells that would be run.

    Raises:
        UsageError: an unknown protocol; a folder given by `data` that cannot be read.
    """
    return [_item(figure, paper, protocol, choice) for figure in figures for protocol in choice.protocols]


def _item(figure: Figure, paper: Paper, protocol: str, choice: Choice) -> Item:
    item = Item(figure, figure.method, figure.dataset, figure.budget, protocol, figure.network)
    find_protocol(protocol)
    if figure.outside or figure.method not in method_names():
        return replace(item, why="the suite does not have the method")
    source, why = _source(figure.dataset, figure.budget, paper, choice)
    return _planned(replace(item, source=source, why=why), find_method(figure.method), figure.recipe, choice)


def _source(dataset: str, budget: Budget, paper: Paper, choice: Choice) -> tuple[Dataset | None, str | None]:
    """The data set, or a stand-in for it and why it is not here."""
    if dataset in (choice.data or {}):
        return choice.named(dataset).load(), None
    if dataset in dataset_names():
        card = describe(dataset)
    elif dataset in paper.datasets:
        card = paper.datasets[dataset].card(dataset)
    else:
        return None, f"no data: a folder data set, named by --data {dataset}=folder:PATH"
    if not card.available:
        return stand_in(card, budget), f"no data: {card.how_to_get}"
    try:
        return DataName(dataset).load(), None
    except UsageError as error:
        return stand_in(card, budget), f"no data: {error}"


def _planned(item: Item, method: Method, recipe: str | None, choice: Choice) -> Item:
    """The item with its recipe and, where the data are here, its cells."""
    source = item.source
    if source is None:
        return item
    try:
        budget = Budget() if method.budgets == ("all",) else item.budget
        found = resolve(method, source, budget, recipe=recipe)
        if item.network is not None:
            item = replace(item, network=canonical(item.network, side=source.side))
        if item.why is not None:
            return replace(item, recipe=found)
        check_budget(found, source)
        protocol = find_protocol(item.protocol)
        if not protocol.shipped:
            protocol.student(source, item.network)
    except UsageError as error:
        return replace(item, why=f"{item.why}; {error}" if item.why else str(error))
    data = choice.named(item.dataset)
    cells = tuple(
        Cell(
            data=data,
            made=DistillJob.of(data, found, seed, choice.compute),
            protocol=item.protocol,
            network=item.network,
            seeds=choice.seeds,
            compute=choice.compute,
        )
        for seed in choice.synthesis_seeds
    )
    return replace(item, recipe=found, cells=cells)


def reduced_items(
    figures: Sequence[Figure], paper: Paper, methods: Sequence[str], choice: Choice, cells: Sequence[str] = ()
) -> list[Item]:
    """The recipes of some methods that are named as reduced, each beside the figure of the full setting, if any.

    The figure is that of the data set that the reduced one is cut from (`cifar10-jpeg`: `cifar10`), at the same budget.

    Raises:
        UsageError: a cell that has no reduced recipe.
    """
    found = [
        (find_method(name), entry, budget)
        for name in methods
        if name in method_names()
        for entry in published(find_method(name)).recipe
        if entry.name.endswith(REDUCED)
        for budget in entry.budgets()
    ]
    known = {name for _, entry, budget in found for name in cell_names(entry.dataset, budget)}
    wanted = _wanted(cells, known, "the reduced recipes")
    items = []
    for method, entry, budget in found:
        if cells and not wanted & set(cell_names(entry.dataset, budget)):
            continue
        source, why = _source(entry.dataset, budget, paper, choice)
        figure = full_figure(figures, method.name, entry.dataset, budget)
        for protocol in choice.protocols:
            item = Item(
                figure, method.name, entry.dataset, budget, protocol, None, source=source, why=why, reduced=True
            )
            items.append(_planned(item, method, entry.name, choice))
    return items


def full_figure(figures: Sequence[Figure], method: str, dataset: str, budget: Budget) -> Figure | None:
    """The method's own figure on the data set that `dataset` is a part or a variant of, at the budget; or None."""
    for figure in figures:
        same = dataset == figure.dataset or dataset.startswith(f"{figure.dataset}-")
        if same and (figure.method, figure.budget, figure.protocol) == (method, budget, OWN):
            return figure
    return None


def compare(items: Sequence[Item], records: Iterable[Record]) -> list[Compared]:
    """What the records say of each item: a pure function of both."""
    kept = list(records)
    compared = []
    for item in items:
        rows, _ = pooled(record for record in kept if _belongs(record, item))
        compared += [_compared(item, row) for row in rows.itertuples()] or [Compared(item, "not run", item.why)]
    return compared


def _belongs(record: Record, item: Item) -> bool:
    if item.recipe is None or not item.cells or record.borrowed or record.imported:
        return False
    seeds = {cell.made.seed for cell in item.cells if cell.made}
    if (record.method, record.recipe_hash, record.protocol) != (item.method, item.recipe.hash, item.protocol):
        return False
    without_set = all(run.synset is None for run in record.runs)  # such a record is kept under the recipe's own network
    networks = {item.network} if item.network else {record.student_network}
    if find_protocol(item.protocol).shipped and without_set:
        networks.add(item.recipe.network)
    return record.synthesis_seed in seeds and record.student_network in networks


def _compared(item: Item, row: "pd.Series[Any] | Any") -> Compared:
    setting = f"{row.device}, {row.precision}, {row.threads} thread(s)"
    if row.status != "ok":
        return Compared(item, "failed" if row.status == "failed" else "n/a", row.reason, setting=setting)
    low, high = (None if value != value else float(value) for value in (row.ci_low, row.ci_high))
    verdict, why = _judged(item, low, high)
    return Compared(item, verdict, why, float(row.top1), low, high, int(row.n), int(row.draws), setting)


def _judged(item: Item, low: float | None, high: float | None) -> tuple[Verdict, str | None]:
    figure = item.figure
    if item.reduced or figure is None:
        return "no verdict", "a reduced recipe"
    if not find_protocol(item.protocol).shipped:
        return "no verdict", "not the paper's own post-evaluation"
    if figure.protocol != OWN:
        return "no verdict", "the figure is of another evaluation"
    if low is None:
        return "no verdict", "one run has no interval"
    return verdict_of(figure.top1, figure.std, low, high), None if figure.std is not None else "no deviation given"
