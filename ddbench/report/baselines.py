"""Baselines of scores: which results a score is computed from, and the command that makes one that is missing.

All results behind a score share data set, student network and setting (device, precision, compiled, stacked, threads,
build). A baseline stands in the set's space, so that no score measures whitening; under a soft protocol it is labeled
by the same teacher.
"""

import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ddbench.report.commands import borrow_words, data_words, file_words, scoring_words, size_words
from ddbench.report.frame import SETTING, UNPACKED, protocol_family

Cell = Mapping[str, Any]  # a row of `ddbench.report.frame.results_frame`
KEY = (
    "method",
    "recipe_hash",
    "code",
    "synthesis",
    "imported",
    "distill_network",
    "dataset",
    "budget",
    "student",
    *SETTING,
)
DEFAULT_SPACE = "normalised"  # of the baselines


@dataclass(frozen=True)
class Families:
    """The protocol families that scores read, and their baselines; None where a family has no plain twin."""

    hard: str = "hard"
    hard_plain: str | None = "hard-plain"
    soft: str = "soft"
    soft_plain: str | None = "soft-plain"
    shipped: str = "shipped"
    whole: str = "whole"
    random: str = "random"

    def own(self) -> set[str]:
        """The families that are of this size alone; `shipped` is of every size."""
        return {name for name in (self.hard, self.hard_plain, self.soft, self.soft_plain) if name}


FULL, SMALL = Families(), Families("hard-small", None, "soft-small", None)


def soft_twins(protocols: Iterable[str]) -> dict[str, str]:
    """The hard protocols among some labels, each with its soft twin: its label, or its family where it is not among them."""
    known = {protocol_family(label): label for label in sorted(protocols)}
    twins = {family: family.replace(FULL.hard, FULL.soft, 1) for family in known if family.split("-")[0] == FULL.hard}
    return {known[hard]: known.get(soft, soft) for hard, soft in twins.items()}


@dataclass(frozen=True)
class Missing:
    """An ingredient that is not among the cells: of which score, what it is, and the command that makes it ("")."""

    score: str
    what: str
    command: str

    def __str__(self) -> str:
        return f"{self.score}: {self.what}" + (f" ({self.command})" if self.command else "")


class Baselines:
    """Results with an accuracy, looked up by what they are."""

    def __init__(self, rows: Iterable[Cell]) -> None:
        self._places: dict[tuple[Any, ...], list[Cell]] = {}
        self._labels: dict[str, str] = {}
        for row in rows:
            self._places.setdefault(_place(row, row["protocol_family"]), []).append(row)
            self._labels.setdefault(row["protocol_family"], row["protocol"])

    def label(self, family: str) -> str:
        """The family's protocol among the cells, else the newest that is installed."""
        from ddbench import plugins

        if family not in self._labels:
            versions = [name for name in plugins.names("ddbench.evaluators") if name.rpartition("-v")[0] == family]
            newest = max(versions, key=lambda name: int(name.rpartition("-v")[2]), default=f"{family}-v1")
            self._labels[family] = newest
        return self._labels[family]

    def whole(self, row: Cell, families: Families) -> list[Cell]:
        """The whole data under the hard protocol."""
        return self._found(row, families.hard, method=families.whole, borrowed=None, space=row["space"])

    def random(self, row: Cell, family: str, families: Families) -> list[Cell]:
        """Random images of the row's budget under a family; `row` is the set's own cell there, or as good as it."""
        wanted = {"method": families.random, "borrowed": None, "space": row["space"], "budget": row["budget"]}
        if row["protocol_family"] == family:
            wanted["teacher"] = row["teacher"]
        return self._found(row, family, **wanted)

    def borrowing(self, row: Cell, families: Families) -> list[Cell]:
        """Random images trained by the student recipe that the row's set ships."""
        lender = row["imported"] or row["recipe_hash"]
        wanted = {"method": families.random, "borrowed": row["method"], "lender": lender, "budget": row["budget"]}
        return self._found(row, families.shipped, **wanted)

    def _found(self, row: Cell, family: str, **wanted: Any) -> list[Cell]:
        cells = self._places.get(_place(row, family), [])
        return [cell for cell in cells if all(cell[name] == value for name, value in wanted.items())]


def _place(row: Cell, family: str) -> tuple[Any, ...]:
    return (family, *(row[name] for name in ("dataset", "student", *SETTING)))


def own_command(row: Cell, protocol: str) -> str:
    """The command that scores the row's set under a protocol, on the same seeds and in the same setting.

    A set that was imported, or whose labels were packed, is named as a file; "" where several packed ones are meant.
    """
    if row["labels"] in (None, *UNPACKED) and not row["imported"]:
        return _line([*_made_by(row, row["method"]), "--recipe", row["recipe"].removesuffix("+set")], row, protocol)
    made = row["imported"] or row["synset"]
    if made is None:
        return ""
    return _line(file_words(made, row["dataset"], row["method"] if row["imported"] else None), row, protocol)


def whole_command(row: Cell, protocol: str, families: Families) -> str:
    """The command that scores the whole data in the row's space, network and setting, as often as the row's set."""
    seeds = {evaluation for _, evaluation in row["samples"]}
    seeds = seeds if len(seeds) >= row["draws"] else set(range(row["draws"]))
    return _line(["run", families.whole, *data_words(row["dataset"]), *_space_words(row)], row, protocol, seeds)


def random_command(row: Cell, protocol: str, families: Families) -> str:
    """The command that scores random images in the row's space, budget, network and setting."""
    return _line([*_made_by(row, families.random), *_space_words(row)], row, protocol)


def borrowing_command(row: Cell, protocol: str, families: Families) -> str:
    """The command that trains random images by the row's student recipe, for its first synthesis seed.

    Indices move into another space by themselves, but not into a whitened one.
    """
    seed = min((synthesis or 0 for synthesis, _ in row["samples"]), default=0)
    head = ["run", families.random, *_place_words(row), "--seed", str(seed)]
    head += _space_words(row) if row["space"] == "zca" else []
    return _line([*head, *borrow_words(row["method"])], row, protocol)


def draws_words(row: Cell) -> str:
    """The synthesis seeds in words, where there are several."""
    seeds = _synthesis_seeds(row)
    return f" for synthesis seeds {','.join(map(str, seeds))}" if len(seeds) > 1 else ""


def changed_words(row: Cell) -> str:
    """A reminder for a recipe that was changed on the command line."""
    return " with the same --set" if row["recipe"].endswith("+set") else ""


def by_command(lacking: Iterable[Sequence[Missing]]) -> Iterator[Missing]:
    """Every missing ingredient once, with all the scores that want it, in the order of their first need."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for missing in (each for row in lacking for each in row):
        found.setdefault((missing.what, missing.command), {})[missing.score] = None
    for (what, command), scores in found.items():
        yield Missing(", ".join(scores), what, command)


def _line(head: Sequence[str], row: Cell, protocol: str, seeds: Collection[int] | None = None) -> str:
    seeds = seeds or {evaluation for _, evaluation in row["samples"]}
    return shlex.join(["ddbench", *head, *scoring_words(protocol, row["student"], seeds, row)])


def _made_by(row: Cell, method: str) -> list[str]:
    seeds, where = _synthesis_seeds(row), _place_words(row)
    if len(seeds) > 1:
        return ["sweep", "--methods", method, *where, "--synthesis-seeds", ",".join(map(str, seeds))]
    return ["run", method, *where, *(["--seed", str(seeds[0])] if seeds and seeds[0] else [])]


def _synthesis_seeds(row: Cell) -> list[int]:
    return sorted({synthesis for synthesis, _ in row["samples"] if synthesis is not None})


def _place_words(row: Cell) -> list[str]:
    return [*data_words(row["dataset"]), *size_words(row["ipc"], row["fraction"])]


def _space_words(row: Cell) -> list[str]:
    return [] if row["space"] == DEFAULT_SPACE else ["--set", f"space={row['space']}"]
