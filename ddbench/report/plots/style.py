"""How plots look: sizes, colors, one layout, and how a figure becomes a file.

Made for a paper's column (3.4 inches, text of 8 points) and for print without color: every method has a color
that color-blind readers can tell, a marker and a line style, the same in every plot of one table.
"""

import io
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath

from ddbench.errors import UsageError
from ddbench.report.format import DAGGER
from ddbench.report.plots import SUFFIXES
from ddbench.report.tables import row_labels
from ddbench.system.files import write_atomic

COLUMN, PAGE = 3.4, 7.0  # widths in inches
COLORS = ("#0072B2", "#D55E00", "#009E73", "#AA4499", "#000000", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p")
LINES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)))
GRAY = "#555555"
CROWD = 8  # methods; more make bands unreadable, and a column too narrow
LEGEND_LINE = 0.16  # inches that a line of a legend takes
ACCURACY = "Top-1 accuracy (%)"
SETTINGS: Any = {
    "font.size": 8,
    "axes.titlesize": 9,
    "figure.titlesize": 9,
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

    color: str
    marker: str
    line: Any

    @property
    def point(self) -> dict[str, Any]:
        """Keywords of a marker: filled, with a white rim that keeps neighbors apart."""
        return {"color": self.color, "marker": self.marker, "markeredgecolor": "white", "markeredgewidth": 0.4}


def save(figure: Figure, path: Path) -> Path:
    """Write a figure whole or not at all, 200 dots per inch; UsageError unless the suffix is one of `SUFFIXES`."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(f"{path}: a plot is written as one of {', '.join(SUFFIXES)}")
    dates = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(suffix, {})
    png: Any = {"pil_kwargs": {"compress_level": 3}} if suffix == ".png" else {}  # half the time, files a tenth larger
    buffer = io.BytesIO()
    with settings():
        figure.savefig(buffer, format=suffix[1:], dpi=200, metadata=dates, **png)
    write_atomic(path, buffer.getvalue())
    return path


def labeled(frame: pd.DataFrame) -> pd.DataFrame:
    """The cells with a column `label`, unique in its place, a dagger at reduced recipes."""
    if "label" in frame.columns:
        return frame
    pairs = zip(row_labels(frame), frame["reduced"], strict=True)
    return frame.assign(label=[label + DAGGER * reduced for label, reduced in pairs])


def chosen(frame: pd.DataFrame, dataset: str, protocol: str, student: str) -> pd.DataFrame:
    """The labeled cells of one place that have an accuracy."""
    part = labeled(frame)
    here = (part["dataset"] == dataset) & (part["protocol"] == protocol) & (part["student"] == student)
    return part[here & (part["status"] == "ok")]


def styles_of(frame: pd.DataFrame) -> dict[str, Style]:
    """A style per label of the whole frame: the cycles have different lengths, so that pairs repeat late."""
    names = sorted(set(labeled(frame)["label"]))
    return {
        name: Style(COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)], LINES[i % len(LINES)])
        for i, name in enumerate(names)
    }


@contextmanager
def settings() -> Iterator[None]:
    """Within the block, `SETTINGS` are matplotlib's."""
    with matplotlib.rc_context(SETTINGS):
        yield


def figure_for(entries: int) -> tuple[Figure, Axes]:
    """A figure with room for a legend of that many entries: column-wide, or page-wide where there are many."""
    wide = entries > CROWD + 1
    lines = math.ceil(entries / (4 if wide else 2))
    size = (PAGE, 3.4 + LEGEND_LINE * lines) if wide else (COLUMN, 2.6 + LEGEND_LINE * lines)
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.add_subplot()


def room_for(labels: Iterable[str]) -> float:
    """Inches that the longest of some labels takes in the text of plots, 8 points, with what stands between it and an axis."""
    longest = max(labels, key=len, default="")
    return 0.15 + float(TextPath((0, 0), longest or " ", size=8).get_extents().width) / 72


def panels_for(width: float, columns: int, lines: int, rows: int) -> tuple[Figure, list[Axes]]:
    """Panels side by side that share their rows."""
    figure = Figure(figsize=(width, 0.45 + lines * (0.75 + 0.19 * rows)), layout="constrained")
    made = figure.subplots(lines, columns, sharey=True, squeeze=False)
    return figure, list(made.flat)


def draw_line(
    axes: Axes,
    label: str,
    style: Style,
    x: "Sequence[float] | pd.Series[float]",
    cells: pd.DataFrame,
    *,
    band: bool = False,
    **look: Any,
) -> None:
    """One method's cells in order, with their intervals, as a band too if wanted; NaN breaks line and band.

    `look`: what is other than the style has it.
    """
    axes.plot(x, 100 * cells["top1"], **{"linestyle": style.line, "label": label, "zorder": 3, **style.point, **look})
    if band:
        axes.fill_between(x, 100 * cells["ci_low"], 100 * cells["ci_high"], color=style.color, alpha=0.15, linewidth=0)
    draw_intervals(axes, x, cells, style)


def draw_intervals(axes: Axes, x: Iterable[float], cells: pd.DataFrame, style: Style) -> None:
    """Thin error bars, for points that stand alone and for print without color."""
    ends = zip(x, 100 * cells["ci_low"], 100 * cells["ci_high"], strict=True)
    bars = [[(place, low), (place, high)] for place, low, high in ends if low == low]
    axes.add_collection(LineCollection(bars, colors=style.color, linewidths=0.7), autolim=False)


def draw_references(axes: Axes, part: pd.DataFrame) -> None:
    """What all the data give, as dashed lines across."""
    for row in part[part["budget"] == "all"].itertuples():
        label = f"{row.label}: {100 * row.top1:.1f}"
        axes.axhline(100 * row.top1, color=GRAY, linestyle="--", linewidth=0.9, label=label, zorder=1)


def finish(figure: Figure, axes: Axes, part: pd.DataFrame, title: str, drawn: str = "error bars") -> None:
    """The accuracy axis around the cells of `part`, title, legend below, layout. `drawn` is what shows the intervals."""
    low, high = (100 * fill for fill in (part["ci_low"].fillna(part["top1"]), part["ci_high"].fillna(part["top1"])))
    margin = 0.06 * max(5.0, high.max() - low.min())
    axes.set_ylim(max(0.0, low.min() - margin), min(100.5, high.max() + margin))
    axes.set_ylabel(ACCURACY)
    axes.set_title(title)
    add_legend(figure, f"{drawn}: 95 % interval" if part["ci_low"].notna().any() else "")
    settle(figure)


def _renderer(figure: Figure) -> RendererAgg:
    """What measures texts."""
    return FigureCanvasAgg(figure).get_renderer()


def add_legend(figure: Figure, title: str = "") -> None:
    """The legend below the axes, in two columns or, on a page, four; fewer, in a higher figure, where names are long."""
    renderer = _renderer(figure)
    most = 2 if figure.get_figwidth() == COLUMN else 4
    for columns in range(most, 0, -1):
        legend = figure.legend(loc="outside lower center", ncols=columns, handlelength=2.6, columnspacing=1.0)
        entries = len(legend.get_texts())
        if columns == 1 or legend.get_window_extent(renderer).width <= figure.bbox.width:
            break
        legend.remove()
    figure.set_figheight(
        figure.get_figheight() + LEGEND_LINE * (math.ceil(entries / columns) - math.ceil(entries / most))
    )
    if title:
        legend.set_title(title)


def settle(figure: Figure) -> None:
    """Lay the figure out once, and not again for every format; with an engine left, each file is drawn twice."""
    if len(figure.axes) == 1 and not (figure.get_suptitle() or figure.get_supxlabel()):
        _settle_one(figure, figure.axes[0])
    else:
        engine = figure.get_layout_engine()
        assert engine is not None
        engine.execute(figure)
    figure.set_layout_engine(None)


def _settle_one(figure: Figure, axes: Axes) -> None:
    """One axes above the legend, without texts of the figure's own, in one pass: what stands around it takes what it needs, whatever the axes' size."""
    renderer = _renderer(figure)
    pad, page = 0.04 * figure.dpi, figure.bbox
    inner, outer = axes.get_window_extent(renderer), axes.get_tightbbox(renderer, bbox_extra_artists=axes.texts)
    assert outer is not None
    below = sum(legend.get_window_extent(renderer).height + pad for legend in figure.legends)
    left, right = pad + inner.x0 - outer.x0, page.width - pad - (outer.x1 - inner.x1)
    low, high = pad + below + inner.y0 - outer.y0, page.height - pad - (outer.y1 - inner.y1)

    def place() -> None:
        axes.set_position(
            (left / page.width, low / page.height, (right - left) / page.width, (high - low) / page.height)
        )

    place()
    beside = axes.yaxis.get_tightbbox(renderer)  # another size may have other ticks, with more digits
    if beside is not None and beside.x0 < pad / 2:
        left += pad - beside.x0
        place()
