"""The table of scores: HLR, IOR, LRS and ARS per (method, data set, budget, student network), and what accuracy costs.

Each score is computed from mean accuracies (see `ddbench.report.scores`) and has an interval where its cells have one: those of
LRS and ARS are increasing in a linear combination of cells, whose interval (see `statistics.combine`) is mapped. What a
score lacks is named with the command that makes it. Where one side of HLR or IOR is a single run, its variance is taken
from the other (see `statistics.unpaired_difference`); LRS and ARS then have no interval.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import pandas as pd

from ddbench.errors import unknown
from ddbench.records.statistics import Difference, combine, compare
from ddbench.records.store import budget_size
from ddbench.report import columns, scores
from ddbench.report.baselines import (
    FULL,
    KEY,
    SMALL,
    Baselines,
    Cell,
    Families,
    Missing,
    borrowing_command,
    by_command,
    changed_words,
    draws_words,
    own_command,
    random_command,
    whole_command,
)
from ddbench.report.format import DAGGER, DASH, budget_words, half, percent
from ddbench.report.frame import framed
from ddbench.report.renderers import Grid, Shown, data_text, grids_text, is_data
from ddbench.report.tables import REDUCED, row_labels

HEADS = "data set|budget|student|HLR|IOR|against|LRS|ARS hard|ARS soft|top-1|under|per KiB|per s"
MOST = 12  # notes on what is missing


def score_table(
    frame: pd.DataFrame, *, methods: Collection[str] | None = None, weight: float = 0.5, ars_weight: float = 0.5
) -> pd.DataFrame:
    """Scores of every set among the cells, columns `columns.SCORES` and `label`, in the order of the cells.

    Args:
        frame: see `ddbench.report.frame.results_frame`; with the baselines that the scores need. A column `label` is taken over.
        methods: methods to show; None shows all. The whole data has no row.
        weight: of IOR in LRS, in [0, 1].
        ars_weight: of the augmented protocol in ARS, in [0, 1].

    `missing` holds tuples of `Missing`, `label` the method with what else tells its row apart. UsageError for a weight
    out of range or a method that no cell has.
    """
    scores.lrs(0, 0, weight), scores.lrs(0, 0, ars_weight)  # refused also where no score has its ingredients
    for name in methods or ():
        if name not in set(frame["method"]):
            raise unknown("method (among the records)", name, set(frame["method"]))
    kept = frame[(frame["status"] == "ok") & (frame["superseded"] == False)]  # noqa: E712 - a column of objects
    named = kept if "label" in kept else kept.assign(label=row_labels(kept))
    rows: list[dict[str, Any]] = named.to_dict("records")
    baselines = Baselines(rows)
    found = [
        _Scores(baselines, own, families, weight, ars_weight).row()
        for families, own in _sets(rows)
        if methods is None or next(iter(own.values()))[0]["method"] in methods
    ]
    found.sort(key=lambda row: (row["dataset"], row["student"], *budget_size(row["budget"])))
    return framed(found, [*columns.SCORES, "label"])


def _sets(rows: Iterable[Cell]) -> list[tuple[Families, dict[str, list[Cell]]]]:
    """The cells of every set and student network by family, for each size of protocols that it has."""
    groups: dict[tuple[Any, ...], dict[str, list[Cell]]] = {}
    for row in rows:
        if row["borrowed"] is None and row["method"] != FULL.whole:
            own = groups.setdefault(tuple(row[name] for name in KEY), {})
            own.setdefault(row["protocol_family"], []).append(row)
    found = []
    for own in groups.values():
        sizes = [size for size in (FULL, SMALL) if size.own() & own.keys()]
        for size in sizes or ([FULL] if FULL.shipped in own else []):
            kept = {family: cells for family, cells in own.items() if family in size.own() | {size.shipped}}
            found.append((size, kept))
    return found


class _Scores:
    """The scores of one set and student network."""

    def __init__(
        self, baselines: Baselines, own: Mapping[str, list[Cell]], families: Families, weight: float, ars_weight: float
    ) -> None:
        self.baselines, self.own, self.families = baselines, own, families
        self.weight, self.ars_weight = weight, ars_weight
        order = [name for name in (families.hard, families.shipped, families.soft) if name in own]
        self.main = own[(order or list(own))[0]][0]
        self.missing: list[Missing] = []

    def row(self) -> dict[str, Any]:
        """Everything but what is derived of nothing."""
        main, names = self.main, [*columns.SET, *columns.PLACE, *columns.SETTING]
        names += ["imported", "student", "distill_network", "space", "recipe_hash", "protocol", "label"]
        row = {name: main[name] for name in [*names, "top1", "bytes", "distill_seconds"]}
        row |= {"hard": self.families.hard, "lrs_weight": self.weight, "ars_weight": self.ars_weight}
        row |= self._robust_labels()
        row |= self._robust_augmentation("ars_hard", self.families.hard, self.families.hard_plain)
        row |= self._robust_augmentation("ars_soft", self.families.soft, self.families.soft_plain)
        row["top1_per_kib"] = _per(main["top1"], main["bytes"], 1024)
        row["top1_per_second"] = _per(main["top1"], main["distill_seconds"], 1)
        return row | {"missing": tuple(self.missing)}

    def _robust_labels(self) -> dict[str, Any]:
        """HLR, IOR, and LRS of both."""
        hard, whole = self._set(self.families.hard, "HLR"), self._whole()
        row: dict[str, Any] = {}
        if hard and whole:
            row |= {"hlr": scores.hlr(whole["top1"], hard["top1"])}
            row |= _ends("hlr", compare(whole["samples"], hard["samples"]))
        if self.main["method"] == self.families.random:
            return row
        baseline, own, random = self._improvement()
        if own and random:
            row |= {"ior": scores.ior(own["top1"], random["top1"]), "ior_baseline": baseline}
            row |= _ends("ior", compare(own["samples"], random["samples"]))
        if hard and whole and own and random:
            row["lrs"] = scores.lrs(row["hlr"], row["ior"], self.weight)
            gain, loss = self.weight, 1 - self.weight
            row |= _mapped("lrs", [(gain, own), (-gain, random), (-loss, whole), (loss, hard)])
        return row

    def _improvement(self) -> tuple[str, Cell | None, Cell | None]:
        """What IOR compares: the set as shipped and random that borrows from it, else both under the hard protocol."""
        shipped = self._one(self.own.get(self.families.shipped, []), "IOR", "the set", "", ask=False)
        if shipped is not None:
            what = f"{self.families.random} that borrows from {shipped['method']}{draws_words(shipped)}"
            command = borrowing_command(shipped, self.baselines.label(self.families.shipped), self.families)
            borrowing = self._one(self.baselines.borrowing(shipped, self.families), "IOR", what, command)
            if borrowing is not None:
                return "borrowed", shipped, borrowing
        return "hard", self._set(self.families.hard, "IOR"), self._random(self.families.hard, "IOR")

    def _robust_augmentation(self, name: str, augmented: str, plain: str | None) -> dict[str, Any]:
        """ARS of a protocol and its plain twin; nothing where the set has neither."""
        if plain is None or not {augmented, plain} & self.own.keys() or self.main["method"] == self.families.random:
            return {}
        title = name.replace("_", " ").replace("ars", "ARS")
        sets = [self._set(family, title) for family in (augmented, plain)]
        bases = [self._random(family, title) for family in (augmented, plain)]
        first, second, random_first, random_second = (*sets, *bases)
        if not (first and second and random_first and random_second):
            return {}
        score = scores.ars(first["top1"], random_first["top1"], second["top1"], random_second["top1"], self.ars_weight)
        w, rest = self.ars_weight, 1 - self.ars_weight
        terms = [(w, first), (-w, random_first), (rest, second), (-rest, random_second)]
        return {name: score} | _mapped(name, terms)

    def _set(self, family: str, score: str) -> Cell | None:
        protocol = self.baselines.label(family)
        what = f"{self.main['method']} under {protocol}{changed_words(self.main)}"
        return self._one(self.own.get(family, []), score, what, own_command(self.main, protocol))

    def _whole(self) -> Cell | None:
        protocol = self.baselines.label(self.families.hard)
        command = whole_command(self.main, protocol, self.families)
        return self._one(
            self.baselines.whole(self.main, self.families), "HLR", f"the whole data under {protocol}", command
        )

    def _random(self, family: str, score: str) -> Cell | None:
        protocol, own = self.baselines.label(family), self.own.get(family, [self.main])[0]
        command = random_command(self.main, protocol, self.families)
        found = self.baselines.random(own, family, self.families)
        return self._one(found, score, f"{self.families.random} under {protocol}", command)

    def _one(self, found: list[Cell], score: str, what: str, command: str, *, ask: bool = True) -> Cell | None:
        """The one cell that was found; else None, and what is missing is kept."""
        if len(found) == 1:
            return found[0]
        if found:
            self.missing.append(Missing(score, f"{what}: several cells differ in set, teacher or recipe", ""))
        elif ask:
            self.missing.append(Missing(score, what, command))
        return None


def _ends(name: str, found: Difference) -> dict[str, Any]:
    return {f"{name}_low": found.low, f"{name}_high": found.high}


def _mapped(name: str, terms: list[tuple[float, Cell]]) -> dict[str, Any]:
    """The interval of a linear combination as that of the score that normalizes it."""
    found = combine([(weight, cell["samples"]) for weight, cell in terms if weight])
    ends = (found.low, found.high)
    low, high = (None if end is None else scores.normalize(end) for end in ends)
    return {f"{name}_low": low, f"{name}_high": high}


def _per(top1: float, amount: float, unit: float) -> float | None:
    """Accuracy per unit of an amount; None where the amount is not known or nothing."""
    return top1 / (amount / unit) if amount > 0 else None


def data(table: pd.DataFrame) -> pd.DataFrame:
    """The scores as plain data: columns `columns.SCORES`, what is missing as text."""
    missing = ["; ".join(map(str, found)) or None for found in table["missing"]]
    return table.assign(missing=pd.Series(missing, index=table.index, dtype=object))[list(columns.SCORES)]


def render(table: pd.DataFrame, form: str = "terminal") -> str:
    """The scores as text in one of `renderers.FORMATS`."""
    return data_text(data(table), form) if is_data(form) else grids_text([grid(table)], form)


def grid(table: pd.DataFrame) -> Grid:
    """The scores as people read them: differences in points, LRS and ARS with the ends of their intervals."""
    rows = []
    for row in table.itertuples():
        what = [row.dataset, budget_words(row.budget), row.student]
        found = [percent(row.hlr) + half(row.hlr_low, row.hlr_high), percent(row.ior) + half(row.ior_low, row.ior_high)]
        found += [row.ior_baseline or DASH, _score(row.lrs, row.lrs_low, row.lrs_high)]
        found += [_score(row.ars_hard, row.ars_hard_low, row.ars_hard_high)]
        found += [_score(row.ars_soft, row.ars_soft_low, row.ars_soft_high)]
        cost = [_rate(row.top1_per_kib), _rate(row.top1_per_second)]
        shown = [*what, *found, percent(row.top1), row.protocol, *cost]
        rows.append((row.label + DAGGER * row.reduced, [Shown(text) for text in shown]))
    return Grid(
        "Scores (accuracies and differences in points)",
        "method",
        [(head,) for head in HEADS.split("|")],
        rows,
        notes(table),
        keys=3,
    )


def notes(table: pd.DataFrame) -> list[str]:
    """Footnotes: what the scores and their intervals are, and what is missing."""
    lines = ["HLR: whole data - set under the hard protocol, lower is better. IOR: set - random, higher is better."]
    if (table["ior_baseline"] == "borrowed").any():
        lines.append(
            "IOR against borrowed: both with the method's own training recipe; against hard: both under the hard protocol."
        )
    if table[["lrs", "ars_hard", "ars_soft"]].notna().any(axis=None):
        weights = f"weights {table['lrs_weight'].iloc[0]:g} and {table['ars_weight'].iloc[0]:g}"
        lines.append(f"LRS, ARS: in [0, 1], higher is better, {weights}; 0.269 means no gain and no loss.")
    if table[["hlr_low", "ior_low"]].notna().any(axis=None):
        lines.append(
            "±: 95 % confidence half-width; brackets: 95 % interval; over distilled sets where there are several."
        )
    lines.append("per KiB, per s: top-1 accuracy under that protocol, per KiB stored and per second of distillation.")
    if table["reduced"].any():
        lines.append(REDUCED)
    lacking = list(by_command(table["missing"]))
    lines += [f"Not measured, {missing}" for missing in lacking[:MOST]]
    if len(lacking) > MOST:
        lines.append(f"{len(lacking) - MOST} more are not measured: --format csv lists all in its column missing.")
    return lines


def _score(value: float, low: float, high: float) -> str:
    """A score with the ends of its interval, which is not symmetric."""
    if pd.isna(value):
        return DASH
    return f"{value:.3f}" + ("" if pd.isna(low) else f" [{low:.3f}, {high:.3f}]")


def _rate(value: float) -> str:
    return DASH if pd.isna(value) else f"{100 * value:.3g}" if value < 10 else f"{100 * value:.0f}"
