"""Methods: a page for each, of its docstring, its hyper-parameters and its recipes; and the table of all."""

import re
from collections.abc import Iterable, Sequence
from importlib.metadata import entry_points
from typing import Any

from ddbench.distillation.method import GROUP, Method, find_method
from ddbench.report.facts import allowed, method_facts, recipe_budgets
from ddbench.report.format import plain
from ddbench.report.papers import papers

from .text import description, facts, folded, table

ELSEWHERE = re.compile(r"Differences from the papers?: see `DIFFERENCES`\. ?")
"""Where a docstring points to the list that its page has below."""


def names() -> list[str]:
    """List the suite's own methods, sorted; other installed ones are not documented here."""
    return sorted(point.name for point in entry_points(group=GROUP) if point.module.startswith("ddbench."))


def file(name: str) -> str:
    """Return the file name of a method's page in `methods/`, fit for a URL."""
    return f"{name.replace('+', 'p')}.md"


def overview() -> str:
    """Write the table of all methods, in Markdown, so that its links are checked."""
    lines = ["| method | what it is | paper | budget | recipes |", "| --- | --- | --- | --- | --- |"]
    for name in names():
        found = method_facts(find_method(name))
        budgets, count = ", ".join(found["budgets"]), len(found["recipes"])
        lines.append(f"| [{name}]({file(name)}) | {found['title']} | {found['paper']} | {budgets} | {count} |")
    return "\n".join(lines)


def page(name: str) -> str:
    """Write the page of a method, in Markdown."""
    method = find_method(name)
    found = method_facts(method)
    parts = [
        f"# {name}: {found['title']}",
        _lead(found),
        facts(_declared(method)),
        "## Algorithm",
        description(ELSEWHERE.sub("", found["description"])),
        "## Differences from the paper",
        _differences(found["differences"]),
        "## Hyper-parameters",
        _hyper(found["hyper"]),
        "## Recipes",
        _recipes(found),
        "## Run it",
        _commands(name, found["recipes"], method),
    ]
    return "\n\n".join(parts)


def _lead(found: dict[str, Any]) -> str:
    if not found["paper"]:
        return "A baseline."
    arxiv = found["arxiv"]
    return found["paper"] + (f", [arXiv {arxiv}](https://arxiv.org/abs/{arxiv})." if arxiv else ".")


def _declared(method: Method) -> dict[str, str]:
    """What the method says of itself."""
    balanced = "the same number for every class" if method.balanced else "need not be the same for every class"
    return {
        "budget": " or ".join(method.budgets),
        "images": balanced,
        "synthesis seed": "draws nothing by it" if method.deterministic else "another one gives another set",
        "snapshots": "can be scored on the way (`--snapshots`)" if method.snapshots else "none",
        "network": f"`{method.network}`, where no recipe names one",
    }


def _differences(differences: Sequence[str]) -> str:
    if not differences:
        return "None are known."
    return description("\n".join(f"- {each}" for each in differences))


def _hyper(rows: Iterable[dict[str, Any]]) -> str:
    """Every hyper-parameter; those without a default are given by every recipe."""
    shown = [
        (
            f"`{row['name']}`",
            "needed" if row["required"] else f"`{plain(row['default'])}`",
            allowed(row),
            row["description"],
        )
        for row in rows
    ]
    return "Changed by `--set NAME=VALUE`.\n\n" + table(("name", "default", "allowed", "meaning"), shown)


def _recipes(found: dict[str, Any]) -> str:
    """Every recipe with its source; sources that several share stand once, below."""
    if not found["recipes"]:
        return "None is published: every cell takes the defaults."
    sources = list(dict.fromkeys(entry["source"] for entry in found["recipes"]))
    rows = [_recipe(entry, sources.index(entry["source"]) + 1) for entry in found["recipes"]]
    head = ("recipe", "data set", "budget", "network", "fields", "source")
    parts = [
        "Chosen by `--recipe NAME`; \\* is the default of its cell. One that ends in `-reduced` is cheaper than the "
        "published one. Fields that a recipe does not name have their defaults.",
        table(head, rows),
        "Sources:",
        description("\n".join(f"{place}. {source}" for place, source in enumerate(sources, start=1))),
    ]
    if found["generic"]:
        fields = ", ".join(f"`{key} = {plain(value)}`" for key, value in found["generic"].items())
        parts.append(f"`--recipe generic`, for a cell without a recipe, begins with {fields}.")
    return "\n\n".join(parts)


def _recipe(entry: dict[str, Any], source: int) -> list[str]:
    values = [f"{key} = {plain(value)}" for key, value in entry["hyper"].items()]
    fields = folded(values) if values else "the defaults"
    name = entry["name"] + (" *" if entry["default"] else "")
    return [name, entry["dataset"], recipe_budgets(entry), f"`{entry['network']}`", fields, str(source)]


def _commands(name: str, recipes: Iterable[dict[str, Any]], method: Method) -> str:
    """What runs the method on the embedded digits, and what its paper's table takes."""
    lines = [f"ddbench run {name} --dataset digits{_budget(recipes, method)}"]
    if name in {own for paper in papers().values() for own in paper.methods}:
        lines.append(f"ddbench reproduce {name} --dry-run")
    return "\n".join(["```", *lines, "```"])


def _budget(recipes: Iterable[dict[str, Any]], method: Method) -> str:
    """A budget that the method has a recipe for on digits, or one that it takes; nothing where it takes everything."""
    here = [entry for entry in recipes if entry["dataset"] == "digits" and entry["default"]]
    for kind, otherwise in (("ipc", max(3, method.toy_ipc)), ("fraction", 0.1)):
        if kind in method.budgets:
            given = [entry[kind] for entry in here if kind in entry] or [otherwise]
            first = given[0][0] if isinstance(given[0], list) else given[0]
            return f" --{kind} {first}"
    return ""
