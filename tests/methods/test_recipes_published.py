"""The recipe files that ship: strict, sourced, one default a cell, every field of every one valid."""

import json
from collections import Counter

import pytest

from ddbench import networks
from ddbench.distillation.method import find_method, method_names
from ddbench.distillation.recipes import RecipeFile, published

OURS = ("demo", "-reduced")


def files() -> dict[str, RecipeFile]:
    return {name: published(find_method(name)) for name in method_names()}


@pytest.mark.parametrize("method", ["dm", "datadam"])
def test_published_cells_have_recipes(method):
    cells = {(entry.dataset, budget.ipc) for entry in files()[method].recipe for budget in entry.budgets()}
    papers = {"cifar10": (1, 10, 50), "cifar100": (1, 10, 50), "tiny-imagenet": (1, 10, 50)}
    small = {"digits": (1, 3, 10), "cifar10-jpeg": (1, 10), "fashion-mnist": (1, 10)}
    assert cells >= {(name, ipc) for name, ipcs in (papers | small).items() for ipc in ipcs}


def test_every_recipe_is_for_its_method_and_every_field_is_valid():
    for name, file in files().items():
        assert file.method == name
        hyper = find_method(name).hyper
        for entry in file.recipe:
            hyper.model_validate_json(json.dumps(entry.hyper))  # as JSON, where a list may stand for a tuple
            networks.parse(entry.network)
        hyper.model_validate_json(json.dumps(file.generic))


def test_a_recipe_names_its_paper_or_says_that_it_is_ours():
    for file in files().values():
        for entry in file.recipe:
            ours = entry.name.endswith(OURS)
            assert entry.source.startswith("ours, not published" if ours else "arXiv "), entry.source


def test_exactly_one_default_in_every_cell_and_no_name_twice():
    for name, file in files().items():
        defaults, cells, named = Counter(), set(), Counter()
        for entry in file.recipe:
            for budget in entry.budgets():
                cell = (entry.dataset, str(budget))
                cells.add(cell)
                named[(*cell, entry.name)] += 1
                defaults[cell] += entry.default
        assert all(defaults[cell] == 1 for cell in cells), (name, defaults)
        assert not named or max(named.values()) == 1, name


def test_dm_settings_are_those_of_the_readme():
    file = files()["dm"]
    rates = {
        (entry.dataset, budget.ipc): (entry.hyper["lr_img"], entry.hyper["batch_real"], entry.hyper["iterations"])
        for entry in file.recipe
        for budget in entry.budgets()
        if entry.name == "paper"
    }
    assert rates["cifar10", 50] == rates["cifar100", 125] == (1.0, 256, 20_000)
    assert rates["cifar10", 100] == rates["cifar10", 1250] == (10.0, 256, 20_000)


def test_datadam_paper_and_code_disagree_as_their_sources_do():
    entries = {e.name: e for e in files()["datadam"].recipe if e.dataset == "cifar10"}
    paper, code = entries["paper"], entries["code"]
    assert (paper.hyper["power"], paper.hyper["iterations"], paper.network) == (4, 8_000, "convnet-d3")
    assert (code.hyper["power"], code.hyper["iterations"], code.network) == (1, 20_000, "convnet-d3-bn")
    assert (paper.hyper["student"], code.hyper["student"]) == ("paper", "code")
    subset = next(e for e in files()["datadam"].recipe if (e.dataset, e.name) == ("imagewoof", "paper"))
    assert subset.hyper["task_balance"] == 0.02 and subset.network == "convnet-d5"
