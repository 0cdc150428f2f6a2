"""Lists: data sets, networks, parts of a student's training, groups of plugins, columns of tables."""

import inspect
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from ddbench.leaderboard.entries import STANDINGS

from ddbench import networks, plugins
from ddbench.augment.registry import AUGMENTATIONS, MIXES
from ddbench.data.registry import dataset_names, describe
from ddbench.errors import UsageError
from ddbench.plugins import Components
from ddbench.report import columns
from ddbench.report.plots.registry import PLOTS
from ddbench.training.losses import LOSSES
from ddbench.training.optimizers import OPTIMIZERS, SCHEDULES

from .text import table

SHAPES = ((1, 8), (3, 32), (3, 64))
"""Channels and side of images for which the parameters of networks are counted, with ten classes."""
COMPONENTS: dict[str, Components] = {
    "Losses": LOSSES,
    "Schedules": SCHEDULES,
    "Optimizers": OPTIMIZERS,
    "Augmentations": AUGMENTATIONS,
    "Mixes": MIXES,
}
TABLES = {
    "Cells": ("ddbench table", columns.CELL),
    "Variances": ("ddbench table --view variance", columns.VARIANCE),
    "Student networks": ("ddbench table --view networks", columns.NETWORKS),
    "Scores": ("ddbench scores", columns.SCORES),
    "Pairs": ("ddbench compare --view pairs", columns.PAIRS),
    "Ranks": ("ddbench compare --view ranks", columns.RANKS),
}


def datasets() -> str:
    """Table of all named data sets, the same on every machine."""
    cards = [describe(name) for name in dataset_names()]
    color = {1: "gray", 3: "RGB"}
    rows = [
        (
            f"`{c.name}`",
            c.title,
            f"{c.classes:,}",
            f"{c.side} px, {color[c.channels]}",
            _count(c.train),
            _count(c.test),
        )
        for c in cards
    ]
    return table(("name", "title", "classes", "images", "train", "test"), rows)


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def known_networks() -> str:
    """Table of our networks, with their trainable parameters for some image shapes."""
    cards = [networks.describe(name) for name in networks.network_names()]
    counted = [f"{side} px, {'gray' if channels == 1 else 'RGB'}" for channels, side in SHAPES]
    rows = [
        (f"`{c.name}`", c.norm, c.description, c.source, *(_parameters(c.name, *shape) for shape in SHAPES))
        for c in cards
    ]
    return table(("name", "norm", "what it is", "source", *counted), rows)


def _parameters(name: str, channels: int, side: int) -> str:
    try:
        return f"{networks.parameter_count(name, channels, side, 10):,}"
    except UsageError:
        return "too small"


def components() -> str:
    """Tables of the parts of a training recipe: parameters and effect of each."""
    return "\n\n".join(f"## {title}\n\n{_components(parts)}" for title, parts in COMPONENTS.items())


def _components(parts: Components) -> str:
    rows = [(f"`{name}`", _parameter_words(make), _first_line(make)) for name, make in sorted(parts.builtin.items())]
    return table(("name", "parameters", "what it does"), rows)


def _parameter_words(make: Callable[..., Any]) -> str:
    found = inspect.signature(make).parameters.values()
    words = [f"`{p.name}`" if p.default is p.empty else f"`{p.name} = {p.default!r}`" for p in found]
    return ", ".join(words) or "none"


def _first_line(made: Callable[..., Any]) -> str:
    return inspect.cleandoc(made.__doc__ or "").splitlines()[0]


def kinds_of_plots() -> str:
    """Table of the kinds of plots and their questions."""
    return table(("kind", "question"), [(f"`{kind}`", plot.question) for kind, plot in PLOTS.items()])


def standings() -> str:
    """Table of the standings of a leaderboard row."""
    return table(("standing", "what it means"), STANDINGS.items())


def groups() -> str:
    """Table of all groups of entry points with our own entries."""
    rows = []
    for group, kind in plugins.KINDS.items():
        own = sorted(point.name for point in entry_points(group=group) if point.module.startswith("ddbench."))
        rows.append((f"`{group}`", kind, ", ".join(f"`{name}`" for name in own) or "none: ours are built in"))
    return table(("group", "what an entry is", "the suite's own"), rows)


def table_columns() -> str:
    """Tables of the columns of csv and JSON output."""
    parts = []
    for title, (command, meanings) in TABLES.items():
        rows = [(f"`{name}`", meaning) for name, meaning in meanings.items()]
        parts.append(f"## {title}\n\n`{command} --format csv`\n\n{table(('column', 'meaning'), rows)}")
    return "\n\n".join(parts)
