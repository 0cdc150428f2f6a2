"""The pages: what each is given, and the templates that write it. Every text is escaped by the template engine."""

from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

import jinja2

from ddbench.distillation.method import find_method, method_names
from ddbench.errors import UsageError
from ddbench.records.store import budget_label
from ddbench.report.commands import commands_again, needed
from ddbench.report.facts import method_facts, recipe_budgets
from ddbench.report.format import budget_words, duration, settings, size
from ddbench.report.papers import Figure, Paper

from . import forms
from .board import Row, choices, curves
from .drawings import HEIGHT, LEFT, WIDTH, chart, whisker
from .entries import STANDINGS, Entry, file_name
from .gallery import Picture

PACKAGE = "ddbench.leaderboard"
ASSETS = ("site.css", "theme.js", "board.js", "record.js")
CHOICES = {
    "dataset": "Data set",
    "budget": "Budget",
    "protocol": "Protocol",
    "student": "Student",
    "standing": "Standing",
}
FILTERS: dict[str, Any] = {"budget_words": budget_words, "file_size": size, "duration": duration} | {
    each.__name__: each
    for each in (forms.accuracy, forms.rank, forms.reported, forms.runs, forms.number, file_name, forms.prose)
}
MOST_CURVES = 12  # in one chart


def asset(name: str) -> str:
    """A style sheet or script that travels with the package."""
    return (resources.files(PACKAGE) / "assets" / name).read_text(encoding="utf-8")


@cache
def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.PackageLoader(PACKAGE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= FILTERS
    made.globals |= {"whisker": whisker, "standings": STANDINGS, "width": WIDTH, "height": HEIGHT, "left": LEFT}
    return made


def _write(template: str, **about: Any) -> str:
    return _environment().get_template(template).render(**about)


def index_page(rows: Sequence[Row], about: Mapping[str, Any]) -> str:
    """The front page: the filters and every row."""
    filters = {name: (title, choices(rows, name)) for name, title in CHOICES.items()}
    return _write("index.html", root="", rows=rows, filters=filters, about=about, **_columns(rows))


def methods_page(rows: Sequence[Row], about: Mapping[str, Any]) -> str:
    """The list of methods: what each is, and how many rows it has."""
    counts: dict[str, list[int]] = {}
    for row in rows:
        counts.setdefault(row.method, [0, 0])[row.standing == "reported"] += 1
    names = sorted({*method_names(), *counts})
    found = [(name, facts_of(name), *counts.get(name, (0, 0))) for name in names]
    return _write("methods.html", root="", methods=found, about=about)


def method_page(
    name: str,
    rows: Sequence[Row],
    papers: Mapping[str, Paper],
    pictures: Sequence[Picture],
    about: Mapping[str, Any],
) -> str:
    """The page of a method: its algorithm, its differences, hyper-parameters, recipes, results, pictures and curves."""
    facts = facts_of(name)
    own = [row for row in rows if row.method == name]
    measured = [row for row in own if row.standing != "reported"]
    return _write(
        "method.html",
        root="../",
        name=name,
        facts=facts,
        steps=forms.steps(facts["description"]) if facts else [],
        recipes=[_recipe(entry) for entry in facts["recipes"]] if facts else [],
        rows=measured,
        figures=_figures(own),
        papers=papers,
        pictures=[picture for picture in pictures if picture.method == name],
        charts=_charts(measured),
        about=about,
        **_columns(measured),
    )


def record_page(about: Mapping[str, Any]) -> str:
    """The page that shows any record: its script reads the record's own file."""
    return _write("record.html", root="", about=about)


def record_script(entry: Entry, ids: Mapping[str, list[str]], superseded: Mapping[str, list[str]]) -> str:
    """A record's file: one call with everything that is needed to doubt it.

    Args:
        entry: the record.
        ids: the entries of every key hash.
        superseded: the entries that supersede a key hash.
    """
    record, key = entry.record, entry.record.key_hash()
    whole = {
        "id": entry.id,
        "key": key,
        "standing": entry.standing,
        "means": STANDINGS[entry.standing],
        "about": entry.about,
        "reduced": record.reduced,
        "recipe_name": record.recipe_name,
        "budget": budget_words(budget_label(record.budget)),
        "page": f"methods/{file_name(record.method)}.html",
        "reproduce": list(commands_again(record)),
        "needed": list(needed(record)),
        "supersedes": ids.get(record.supersedes or "", []),
        "superseded_by": superseded.get(key, []),
        "record": record.model_dump(mode="json", by_alias=True),
    }
    return f"ddbenchRecord({forms.script_json(whole)});\n"


@cache
def facts_of(name: str) -> dict[str, Any] | None:
    """What is known of an installed method; None of one that is not here or cannot be loaded."""
    try:
        return method_facts(find_method(name)) if name in method_names() else None
    except UsageError:
        return None


def _recipe(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {**entry, "budget": recipe_budgets(entry), "fields": settings(entry["hyper"])}


def _figures(rows: Sequence[Row]) -> list[Figure]:
    """Every reported figure of the rows, each once."""
    return list(dict.fromkeys(figure for row in rows for figure in row.figures))


def _charts(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A chart per place of rows that were scored on the way, at most `MOST_CURVES` lines each."""
    places: dict[tuple[str, ...], list[Any]] = {}
    for row, curve in curves(rows):
        place = (row.dataset, budget_words(row.budget), row.protocol, row.student)
        places.setdefault(place, []).append((row.what or row.method, curve))
    return [
        {"title": ", ".join(place), "drawing": chart(found[:MOST_CURVES]), "curves": found[:MOST_CURVES]}
        for place, found in places.items()
    ]


def _columns(rows: Sequence[Row]) -> dict[str, bool]:
    """Which notes a table needs."""
    return {
        "any_reduced": any(row.reduced for row in rows),
        "any_reported": any(row.figures for row in rows),
    }
