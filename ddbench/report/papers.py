"""Figures that papers report: typed, cited, and apart from what is measured here.

`results/reported/KEY.toml` holds one paper's figures: top-1 accuracies (fractions) of cells, each with where it was read
and whether that was in somebody else's text. Several sources of one cell are all kept. A figure is a target only under
the protocol "own", the method's own post-evaluation; the file says what other protocols are.
"""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Annotated, Self

from pydantic import Field, StringConstraints, ValidationError, model_validator

from ddbench.budget import Budget
from ddbench.data.dataset import DatasetCard
from ddbench.errors import UsageError, first_problem, unknown
from ddbench.records.record import Fraction, Name, Strict

PACKAGE = "ddbench.papers"  # results/reported, also in a wheel
OWN = "own"
Word = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.+:_-]*$")]
Text = Annotated[str, StringConstraints(min_length=2, max_length=400, pattern=r"^[^\x00-\x1f\x7f]+$")]


class Source(Strict):
    """Where figures were read; `quoted`: in another text than their authors' own material."""

    read_in: Text
    quoted: bool


class Sizes(Strict):
    """What is known of a data set that people bring as a folder of that name: enough to estimate a cell's cost."""

    title: Name
    classes: Annotated[int, Field(ge=2)]
    channels: Annotated[int, Field(ge=1, le=3)]
    side: Annotated[int, Field(ge=1)]
    train: Annotated[int, Field(ge=1)]
    test: Annotated[int, Field(ge=1)]

    def card(self, name: str) -> DatasetCard:
        """The card of the data set, which is not here."""
        how = f"put it into a folder and name that: --data {name}=folder:PATH"
        sizes = (self.classes, self.channels, self.side, self.train, self.test)
        return DatasetCard(name, self.title, *sizes, available=False, how_to_get=how)


class Value(Strict):
    """One budget's figure: mean and, where the paper gives it, standard deviation of top-1, fractions."""

    ipc: Annotated[int, Field(ge=1)] | None = None
    fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    all: bool = False
    top1: Fraction
    std: Annotated[float, Field(ge=0, le=0.5)] | None = None

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if (self.ipc is not None) + (self.fraction is not None) + self.all != 1:
            raise ValueError("give one of ipc, fraction or all = true")
        return self


class Figures(Strict):
    """Figures of one method, data set, student network, protocol and source.

    Attributes:
        network: the student's name here; `printed` is how the source prints it.
        protocol: "own", the method's own post-evaluation, or another that the file describes.
        source: a name among the file's sources.
        recipe: the recipe here that it is the figure of, where that is not the cell's default.
        note: what a reader must know.
    """

    method: Word
    dataset: Word
    network: Word
    printed: Name
    protocol: Word
    source: Word
    recipe: Word | None = None
    note: Text | None = None
    cells: Annotated[list[Value], Field(min_length=1)]


class Paper(Strict):
    """One file: a paper, the methods that it presents, and what it reports.

    Attributes:
        methods: names of the methods that are the paper's own.
        outside: those of all its methods that the suite does not have.
    """

    title: Text
    arxiv: Annotated[str, StringConstraints(pattern=r"^\d{4}\.\d{4,5}$")] | None = None
    methods: list[Word]
    outside: list[Word] = Field(default_factory=list)
    protocols: dict[Word, Text] = Field(default_factory=dict)
    datasets: dict[Word, Sizes] = Field(default_factory=dict)
    sources: dict[Word, Source]
    figures: Annotated[list[Figures], Field(min_length=1)]

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        for place, group in enumerate(self.figures):
            if group.source not in self.sources:
                raise ValueError(f"figures.{place}: its source {group.source!r} is not among sources")
            if group.protocol != OWN and group.protocol not in self.protocols:
                raise ValueError(f"figures.{place}: its protocol {group.protocol!r} is not described in protocols")
            if group.protocol == OWN and group.method not in self.methods:
                raise ValueError(f"figures.{place}: protocol own, but {group.method!r} is not a method of the paper")
        if OWN in self.protocols:
            raise ValueError('protocols: "own" is the method\'s own and needs no description')
        return self


@dataclass(frozen=True)
class Figure:
    """One reported accuracy, with its citation.

    Attributes:
        paper: key of the file.
        method, dataset, network, protocol, recipe, note, printed: see `Figures`.
        budget: of the cell.
        top1: mean, a fraction.
        std: the paper's own deviation, a fraction; None: it gives none.
        read_in: where it was read.
        quoted: whether that is another text than its authors' own material.
        outside: whether the suite does not have the method.
    """

    paper: str
    method: str
    dataset: str
    budget: Budget
    network: str
    printed: str
    protocol: str
    top1: float
    std: float | None
    read_in: str
    quoted: bool
    outside: bool
    recipe: str | None = None
    note: str | None = None

    def words(self) -> str:
        """For people, in percent: "46.3 ±0.8"."""
        return f"{100 * self.top1:.1f}" + ("" if self.std is None else f" ±{100 * self.std:.1f}")


def parse(text: str, where: str) -> Paper:
    """Read a file strictly; UsageError names `where`, the first bad field, and how many more there are."""
    try:
        return Paper.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{where}: {error}") from error
    except ValidationError as error:
        raise UsageError(f"{where}: {first_problem(error)}") from error


@cache
def papers() -> dict[str, Paper]:
    """Every paper by its key, in the order of the keys."""
    files = (file for file in resources.files(PACKAGE).iterdir() if file.name.endswith(".toml"))
    found = {file.name.removesuffix(".toml"): parse(file.read_text(encoding="utf-8"), file.name) for file in files}
    return dict(sorted(found.items()))


def find_paper(name: str, known: dict[str, Paper]) -> tuple[str, tuple[str, ...]]:
    """The key of a paper, and which of its own methods are meant: a key or arXiv id means all, a method's name that one.

    Raises:
        UsageError: nothing is called so; the near names are given.
    """
    plain = name.lower().removeprefix("arxiv:").strip()
    for key, paper in known.items():
        if plain in (key, paper.arxiv):
            return key, tuple(paper.methods)
    for key, paper in known.items():
        if plain in paper.methods:
            return key, (plain,)
    names = {*known, *(m for paper in known.values() for m in paper.methods)}
    raise unknown("paper", name, names | {paper.arxiv for paper in known.values() if paper.arxiv})


def figures_of(key: str, paper: Paper) -> Iterator[Figure]:
    """Every figure of a paper, in the file's order."""
    for group in paper.figures:
        source = paper.sources[group.source]
        for cell in group.cells:
            yield Figure(
                paper=key,
                method=group.method,
                dataset=group.dataset,
                budget=Budget(cell.ipc, cell.fraction),
                network=group.network,
                printed=group.printed,
                protocol=group.protocol,
                top1=cell.top1,
                std=cell.std,
                read_in=source.read_in,
                quoted=source.quoted,
                outside=group.method in paper.outside,
                recipe=group.recipe,
                note=group.note,
            )


def find(among: dict[str, Paper] | None = None, **wanted: str | Budget) -> list[Figure]:
    """The reported figures whose fields (`method`, `dataset`, `budget`, ...) have these values; the papers' own come first.

    `among`: papers; None: those that come with the suite.
    """
    known = papers() if among is None else among
    every = (figure for key, paper in known.items() for figure in figures_of(key, paper))
    fitting = [figure for figure in every if all(getattr(figure, name) == value for name, value in wanted.items())]
    return sorted(fitting, key=lambda figure: figure.protocol != OWN)
