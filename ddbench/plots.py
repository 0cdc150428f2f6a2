"""Plots of cells: accuracy against IPC, bars of one budget, accuracy against bytes. PNG, SVG or PDF by suffix.

Made for a paper's column (3.4 inches, text of 8 points) and for print without colour: every method has a colour
that colour-blind readers can tell, a marker and a line style, the same in every plot of one table.
"""

import io
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ddbench.errors import UsageError
from ddbench.files import write_atomic
from ddbench.table_forms import DAGGER
from ddbench.tables import row_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")
COLUMN, PAGE = 3.4, 7.0  # widths in inches
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#AA4499", "#000000", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p")
LINES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)))
CROWD = 8  # methods; more make bands unreadable, and a column too narrow
ACCURACY = "Top-1 accuracy (%)"
HELD = ("online", "stored")  # labels as a method gives them, not packed
SETTINGS: Any = {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "svg.hashsalt": "ddbench",  # the same cells give the same file
}


@dataclass(frozen=True)
class Style:
    """How one method is drawn in every plot."""

    colour: str
    marker: str
    line: Any

    @property
    def point(self) -> dict[str, Any]:
        """Keywords of a marker: filled, with a white rim that keeps neighbours apart."""
        return {"color": self.colour, "marker": self.marker, "markeredgecolor": "white", "markeredgewidth": 0.4}


def plot_all(frame: pd.DataFrame, folder: Path, suffixes: Sequence[str] = SUFFIXES) -> list[Path]:
    """Draw everything that the cells allow and return the files, sorted.

    Per data set, protocol and student: accuracy against IPC, and against bytes, those of the labels alone where some are
    packed; per data set and budget: bars.
    """
    written, frame = [], _labelled(frame)
    for name, figure in _figures(frame):
        stem = re.sub(r"[^A-Za-z0-9@.-]+", "-", name).lstrip(".-")
        written += [save(figure, folder / f"{stem}{suffix}") for suffix in suffixes]
    return sorted(written)


def save(figure: "Figure", path: Path) -> Path:
    """Write a figure whole or not at all, 200 dots per inch; UsageError unless the suffix is one of `SUFFIXES`."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(f"{path}: a plot is written as one of {', '.join(SUFFIXES)}")
    dates = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(suffix, {})
    png: Any = {"pil_kwargs": {"compress_level": 3}} if suffix == ".png" else {}  # half the time, files a tenth larger
    buffer = io.BytesIO()
    with _settings():
        figure.savefig(buffer, format=suffix[1:], dpi=200, metadata=dates, **png)
    write_atomic(path, buffer.getvalue())
    return path


def accuracy_against_ipc(frame: pd.DataFrame, dataset: str, protocol: str, student: str) -> "Figure":
    """A line per method with its 95 % interval as a band; methods on all data as dashed horizontal lines.

    The IPC axis is logarithmic and only the measured IPCs are ticks. A line is broken where a cell is missing. Where
    some methods have several IPCs, those with one are left to `bars`.
    UsageError where no cell has an IPC and an accuracy.
    """
    part, styles = _chosen(frame, dataset, protocol, student), _styles(frame)
    lines = part[part["ipc"].notna()]
    counts = lines.groupby("label")["ipc"].transform("size")
    lines = lines[counts > 1] if (counts > 1).any() else lines
    if lines.empty:
        raise UsageError(f"no accuracy by IPC for {dataset}, {protocol}, {student}")
    with _settings():
        figure, axes = _figure(lines["label"].nunique() + int((part["budget"] == "all").sum()))
        ticks = sorted(set(lines["ipc"]))
        shifts = _shifts(ticks, lines["label"].nunique())
        for shift, (label, cells) in zip(shifts, lines.groupby("label"), strict=True):
            laid = cells.set_index("ipc")[["top1", "ci_low", "ci_high"]].reindex(ticks)
            _draw_line(
                axes, str(label), styles[str(label)], laid, [tick * shift for tick in ticks], band=len(shifts) <= CROWD
            )
        _draw_references(axes, part)
        _ipc_axis(axes, ticks)
        drawn = "bands and bars" if len(shifts) <= CROWD else "bars"
        shown = pd.concat([lines, part[part["budget"] == "all"]])
        _finish(figure, axes, shown, f"{dataset}, {protocol}\n{student} students", drawn)
    return figure


def accuracy_against_bytes(frame: pd.DataFrame, dataset: str, protocol: str, student: str) -> "Figure":
    """Accuracy against the bytes that a student needs, a point per cell, the budgets of one method joined.

    UsageError where no cell has both.
    """
    part, styles = _chosen(frame, dataset, protocol, student), _styles(frame)
    part = part[part["bytes"] > 0].sort_values("bytes")
    if part.empty:
        raise UsageError(f"no bytes for {dataset}, {protocol}, {student}")
    with _settings():
        figure, axes = _figure(part["label"].nunique())
        for label, cells in part.groupby("label"):
            style = styles[str(label)]
            axes.plot(
                cells["bytes"], 100 * cells["top1"], linestyle=style.line, linewidth=0.7, label=label, **style.point
            )
            _draw_intervals(axes, cells["bytes"], cells, style)
        axes.set_xscale("log", base=2)
        _bytes_axis(axes)
        _finish(figure, axes, part, f"{dataset}, {protocol}\n{student} students")
    return figure


def accuracy_against_label_bytes(frame: pd.DataFrame, dataset: str, protocol: str, student: str) -> "Figure":
    """Accuracy against the bytes of the labels alone, a line per method and form: its label batches, fewer and fewer.

    Colour, line and filling tell methods apart, markers the forms: teachers that label online (their weights are the
    bytes), fp16, int8, the k largest logits. UsageError where no cell has both.
    """
    part = _families(_chosen(frame, dataset, protocol, student))
    if part.empty:
        raise UsageError(f"no bytes of labels for {dataset}, {protocol}, {student}")
    families, forms = sorted(set(part["family"])), sorted(set(part["labels"]), key=_form_order)
    with _settings():
        figure, axes = _figure(part.groupby(["family", "labels"]).ngroups)
        for (family, form), cells in part.groupby(["family", "labels"]):
            place = families.index(family)
            colour, marker = COLOURS[place % len(COLOURS)], MARKERS[forms.index(form) % len(MARKERS)]
            style = Style(colour, marker, LINES[place % len(LINES)])
            face = {"markerfacecolor": "white" if place % 2 else colour, "markeredgecolor": colour}
            point = {**style.point, "markeredgewidth": 1.0, **face}
            axes.plot(
                cells["label_bytes"],
                100 * cells["top1"],
                linestyle=style.line,
                label=f"{family}, {form}",
                zorder=3,
                **point,
            )
            _draw_intervals(axes, cells["label_bytes"], cells, style)
        axes.set_xscale("log", base=2)
        _bytes_axis(axes, "Bytes of the labels")
        _finish(figure, axes, part, f"{dataset}, {protocol}\n{student} students")
    return figure


def _families(part: pd.DataFrame) -> pd.DataFrame:
    """The cells with labels, in the order of their bytes, and whose they are: the method, the recipe too if it has several."""
    part = part[part["label_bytes"] > 0].sort_values("label_bytes")
    pairs = zip(part["recipe"], part["labels"], strict=True)
    part = part.assign(base=[name if form in HELD else name.rpartition("+")[0] for name, form in pairs])
    several = part.groupby("method")["base"].transform("nunique") > 1
    named = zip(part["method"], part["base"], several, part["reduced"], strict=True)
    return part.assign(
        family=[method + f" ({base})" * many + DAGGER * reduced for method, base, many, reduced in named]
    )


def _form_order(form: str) -> tuple[int, str]:
    first = (*HELD, "fp16", "int8")
    return (first.index(form) if form in first else len(first), form)


def bars(frame: pd.DataFrame, dataset: str, budget: str) -> "Figure":
    """Horizontal bars with 95 % intervals: a panel per protocol (and student), a row per method, for one budget.

    A dashed line marks what all the data give. UsageError where there is no such cell.
    """
    part = _labelled(frame)
    part = part[(part["dataset"] == dataset) & part["budget"].isin((budget, "all"))]
    rows = sorted(set(part.loc[part["budget"] == budget, "label"]), reverse=True)
    if not rows:
        raise UsageError(f"no cell for {dataset} at {budget}")
    panels = list(part[part["budget"] == budget].groupby(["protocol", "student"]).groups)
    width = COLUMN if len(panels) <= 2 else PAGE
    with _settings():
        figure, grid = _panels(width, min(len(panels), 4), math.ceil(len(panels) / 4), len(rows))
        for axes, (protocol, student) in zip(grid, panels, strict=False):
            here = part[(part["protocol"] == protocol) & (part["student"] == student)]
            _draw_bars(axes, here[here["budget"] == budget], rows)
            for value in 100 * here.loc[(here["budget"] == "all") & (here["status"] == "ok"), "top1"]:
                axes.axvline(value, color="#555555", linestyle="--", linewidth=0.9)
            axes.set_title(f"{protocol}\n{student}", fontsize=8)
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        whole = "; dashed: all data" if (part["budget"] == "all").any() else ""
        whole += "; dark: best or tied" if part["best"].any() and width == PAGE else ""
        figure.supxlabel(f"{ACCURACY}, 95 % interval{whole}", fontsize=8)
        figure.suptitle(f"{dataset}, {budget.replace('ipc', 'IPC')}", fontsize=9)
        _settle(figure)
    return figure


def _figures(frame: pd.DataFrame) -> Iterator[tuple[str, "Figure"]]:
    good = frame[frame["status"] == "ok"]
    for (dataset, protocol, student), part in good.groupby(["dataset", "protocol", "student"]):
        name = f"{dataset}_{protocol}_{student}"
        if part["ipc"].notna().any():
            yield f"accuracy-ipc_{name}", accuracy_against_ipc(frame, dataset, protocol, student)
        if (part["bytes"] > 0).any():
            yield f"accuracy-bytes_{name}", accuracy_against_bytes(frame, dataset, protocol, student)
        if not part.loc[part["label_bytes"] > 0, "labels"].isin(HELD).all():
            yield f"accuracy-labels_{name}", accuracy_against_label_bytes(frame, dataset, protocol, student)
    for dataset, budget in good[good["budget"] != "all"].groupby(["dataset", "budget"]).groups:
        yield f"bars_{dataset}_{budget}", bars(frame, dataset, budget)


def _labelled(frame: pd.DataFrame) -> pd.DataFrame:
    if "label" in frame.columns:
        return frame
    pairs = zip(row_labels(frame), frame["reduced"], strict=True)
    return frame.assign(label=[label + DAGGER * reduced for label, reduced in pairs])


def _chosen(frame: pd.DataFrame, dataset: str, protocol: str, student: str) -> pd.DataFrame:
    part = _labelled(frame)
    here = (part["dataset"] == dataset) & (part["protocol"] == protocol) & (part["student"] == student)
    return part[here & (part["status"] == "ok")]


def _styles(frame: pd.DataFrame) -> dict[str, Style]:
    """A style per label of the whole frame: the cycles have different lengths, so that pairs repeat late."""
    names = sorted(set(_labelled(frame)["label"]))
    return {
        name: Style(COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], LINES[i % len(LINES)])
        for i, name in enumerate(names)
    }


@contextmanager
def _settings() -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context(SETTINGS):
        yield


def _figure(entries: int) -> tuple["Figure", "Axes"]:
    """A figure with room for a legend of that many entries: column-wide, or page-wide where there are many."""
    from matplotlib.figure import Figure

    wide = entries > CROWD + 1
    size = (PAGE, 3.4 + 0.16 * math.ceil(entries / 4)) if wide else (COLUMN, 2.6 + 0.16 * math.ceil(entries / 2))
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.add_subplot()


def _panels(width: float, columns: int, lines: int, rows: int) -> tuple["Figure", list["Axes"]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, 0.45 + lines * (0.75 + 0.19 * rows)), layout="constrained")
    made = figure.subplots(lines, columns, sharey=True, squeeze=False)
    return figure, list(made.flat)


def _shifts(ticks: Sequence[int], count: int) -> list[float]:
    """Factors that set the methods at one IPC a little apart, so that equal accuracies do not hide each other."""
    gaps = [math.log(high / low) for low, high in pairwise(ticks)]
    spread = min(0.16, 0.02 * count) * min(gaps, default=1.0)
    return [math.exp(spread * (i / (count - 1) - 0.5)) if count > 1 else 1.0 for i in range(count)]


def _draw_line(axes: "Axes", label: str, style: Style, cells: pd.DataFrame, x: Sequence[float], *, band: bool) -> None:
    """One method's line, its cells laid on all ticks: a missing one is NaN and breaks the line and the band."""
    axes.plot(x, 100 * cells["top1"], linestyle=style.line, label=label, zorder=3, **style.point)
    if band:
        axes.fill_between(x, 100 * cells["ci_low"], 100 * cells["ci_high"], color=style.colour, alpha=0.15, linewidth=0)
    _draw_intervals(axes, x, cells, style)


def _draw_intervals(axes: "Axes", x: Iterable[float], cells: pd.DataFrame, style: Style) -> None:
    """Thin error bars, for points that stand alone and for print without colour."""
    axes.vlines(list(x), 100 * cells["ci_low"], 100 * cells["ci_high"], color=style.colour, linewidth=0.7)


def _draw_references(axes: "Axes", part: pd.DataFrame) -> None:
    for row in part[part["budget"] == "all"].itertuples():
        label = f"{row.label}: {100 * row.top1:.1f}"
        axes.axhline(100 * row.top1, color="#555555", linestyle="--", linewidth=0.9, label=label, zorder=1)


def _draw_bars(axes: "Axes", cells: pd.DataFrame, rows: Sequence[str]) -> None:
    found = {row.label: row for row in cells.itertuples()}
    good = [(place, found[label]) for place, label in enumerate(rows) if label in found and found[label].status == "ok"]
    places, faces = [place for place, _ in good], ["#0072B2" if row.tied else "#9CC3DD" for _, row in good]
    axes.barh(places, [100 * row.top1 for _, row in good], height=0.7, color=faces)
    axes.hlines(places, [100 * row.ci_low for _, row in good], [100 * row.ci_high for _, row in good], color="black")
    for place, row in good:
        _write_value(axes, place, row)
    for place, label in enumerate(rows):
        if place not in places:
            axes.text(2, place, found[label].status if label in found else "—", va="center", color="#777777")
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlim(0, 100)
    axes.grid(axis="y", visible=False)


def _write_value(axes: "Axes", place: int, row: Any) -> None:
    """The mean in its bar, or behind the interval of a bar too short for it."""
    inside = row.top1 > 0.3
    right = 100 * (row.top1 if pd.isna(row.ci_high) else row.ci_high)
    colour = "white" if row.tied and inside else "black"
    axes.text(2 if inside else right + 2, place, f"{100 * row.top1:.1f}", va="center", color=colour)


def _ipc_axis(axes: "Axes", ticks: Sequence[int]) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(list(ticks)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(list(ticks), [str(tick) for tick in ticks])
    axes.set_xlim(min(ticks) / 1.25, max(ticks) * 1.25)
    axes.set_xlabel("Images per class (IPC)")


def _bytes_axis(axes: "Axes", label: str = "Bytes that a student needs") -> None:
    """Ticks in KiB, MiB, GiB, five at most: powers of two, or round numbers where the range is narrow."""
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

    low, high = (math.log2(max(1.0, value)) for value in axes.get_xlim())
    unit = 1024.0 ** (low // 10)
    step = max(1, math.ceil((high - low) / 5))
    ticks = [2.0**power for power in range(math.ceil(low), math.floor(high) + 1) if power % step == 0]
    if len(ticks) < 3:
        found = MaxNLocator(4).tick_values(2**low / unit, 2**high / unit)
        ticks = [unit * tick for tick in found if 2**low <= unit * tick <= 2**high]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([_bytes_text(tick) for tick in ticks])
    axes.set_xlabel(label)


def _bytes_text(size: float) -> str:
    power = int(math.log2(size) // 10)
    return f"{size / 1024**power:g} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"


def _finish(figure: "Figure", axes: "Axes", part: pd.DataFrame, title: str, drawn: str = "bars") -> None:
    low, high = (100 * fill for fill in (part["ci_low"].fillna(part["top1"]), part["ci_high"].fillna(part["top1"])))
    margin = 0.06 * max(5.0, high.max() - low.min())
    axes.set_ylim(max(0.0, low.min() - margin), min(100.5, high.max() + margin))
    axes.set_ylabel(ACCURACY)
    axes.set_title(title)
    columns = 2 if figure.get_figwidth() == COLUMN else 4
    legend = figure.legend(loc="outside lower center", ncols=columns, handlelength=2.6, columnspacing=1.0)
    if part["ci_low"].notna().any():
        legend.set_title(f"{drawn}: 95 % interval")
    _settle(figure)


def _settle(figure: "Figure") -> None:
    """Lay the figure out once, and not again for every format."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
    figure.set_layout_engine("none")
