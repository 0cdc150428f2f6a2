"""What every recipe that ships resolves to, hash and source, kept in `recipes.json` beside this file.

Where a recipe was added or changed on purpose, write it anew: `python tests/methods/test_recipes_kept.py`, and read the diff.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from ddbench.distillation.method import find_method, method_names
from ddbench.distillation.recipes import RecipeFile, Resolved, published, read_hyper
from ddbench.hashing import digest

KEPT = Path(__file__).parent / "recipes.json"


def cells(file: RecipeFile) -> Iterator[tuple[str, str]]:
    """Every cell's data set, budget and name, and 16 digits of its hash and of its source's, and whether it is default.

    The recipe is resolved with its network as written and its data set unread.
    """
    method = find_method(file.method)
    for entry in file.recipe:
        hyper = read_hyper(method, entry.hyper, entry.name)
        for budget in entry.budgets():
            one = Resolved(method, entry.dataset, "", budget, entry.network, hyper, entry.name, entry.source)
            line = f"{one.hash[:16]} {digest(one.source)[:16]}"
            yield f"{one.dataset} {budget} {one.name}", line + " default" * entry.default


def found() -> dict[str, str]:
    """Every recipe that ships, by method and cell."""
    lines = {}
    for name in method_names():
        file = published(find_method(name))
        lines[f"{name} generic"] = digest(file.generic)[:16]
        lines |= {f"{name} {cell}": line for cell, line in cells(file)}
    return lines


def test_every_recipe_resolves_to_what_it_did():
    kept, now = json.loads(KEPT.read_text()), found()
    other = sorted(key for key in kept.keys() | now.keys() if kept.get(key) != now.get(key))
    assert not other, f"changed, added or gone; if on purpose, run {Path(__file__).name}: {'; '.join(other)}"


if __name__ == "__main__":
    KEPT.write_text(json.dumps(found(), indent=0, sort_keys=True) + "\n")
