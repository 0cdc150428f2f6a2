"""Recipes: strict files, how a cell finds its recipe, `--set`, hashes."""

import inspect
import json
from dataclasses import replace
from pathlib import Path
from textwrap import dedent

import pytest

from ddbench.budget import Budget
from ddbench.data.registry import load_dataset
from ddbench.distillation import recipes
from ddbench.distillation.method import find_method
from ddbench.distillation.recipes import family, parse, parse_overrides, published, resolve, restore
from ddbench.errors import UsageError

GOOD = """
method = "toy"
[[recipe]]
name = "paper"
dataset = "digits"
ipc = 1
source = "table 1"
"""


@pytest.fixture
def toy(toys):
    return find_method("toy")


def digits(dataset="digits"):
    return replace(load_dataset("digits"), id=dataset)


def resolved(toy, **kwargs):
    return resolve(toy, digits(), Budget(ipc=1), **kwargs)


def refused(call):
    with pytest.raises(UsageError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


BAD_FILES = {
    "unknown key": (GOOD + "surprise = 1\n", "recipe.0.surprise: unknown key"),
    "unknown top key": ("surprise = 1\n" + GOOD, "surprise: unknown key"),
    "missing source": (GOOD.replace('source = "table 1"', ""), "recipe.0.source: is missing"),
    "empty source": (GOOD.replace("table 1", ""), "recipe.0.source"),
    "missing name": (GOOD.replace('name = "paper"', ""), "recipe.0.name: is missing"),
    "bad name": (GOOD.replace('"paper"', '"The Paper"'), "recipe.0.name"),
    "missing data set": (GOOD.replace('dataset = "digits"', ""), "recipe.0.dataset: is missing"),
    "missing method": (GOOD.replace('method = "toy"', ""), "method: is missing"),
    "no budget": (GOOD.replace("ipc = 1", ""), "one of ipc, fraction or all"),
    "two budgets": (GOOD + "fraction = 0.1\n", "one of ipc, fraction or all"),
    "all and ipc": (GOOD + "all = true\n", "one of ipc, fraction or all"),
    "ipc text": (GOOD.replace("ipc = 1", 'ipc = "1"'), "recipe.0.ipc"),
    "ipc bool": (GOOD.replace("ipc = 1", "ipc = true"), "recipe.0.ipc"),
    "ipc float": (GOOD.replace("ipc = 1", "ipc = 1.0"), "recipe.0.ipc"),
    "ipc zero": (GOOD.replace("ipc = 1", "ipc = [1, 0]"), "recipe.0.ipc"),
    "ipc none": (GOOD.replace("ipc = 1", "ipc = []"), "recipe.0.ipc"),
    "fraction above": (GOOD.replace("ipc = 1", "fraction = 1.5"), "recipe.0.fraction"),
    "fraction zero": (GOOD.replace("ipc = 1", "fraction = 0.0"), "recipe.0.fraction"),
    "default text": (GOOD + 'default = "yes"\n', "recipe.0.default"),
    "hyper no table": (GOOD + "hyper = 3\n", "recipe.0.hyper"),
    "twice": (GOOD + 'source = "table 2"\n', "Cannot overwrite"),
    "broken": ("method = ", "Invalid value"),
}


@pytest.mark.parametrize(("text", "message"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_wrong_file_is_one_line_with_file_and_key(text, message):
    result = refused(lambda: parse(text, "toy.toml"))
    assert result.startswith("toy.toml: ") and message in result


def test_a_good_file():
    (entry,) = parse(GOOD, "toy.toml").recipe
    assert entry.budgets() == [Budget(ipc=1)] and not entry.default and entry.network == "convnet"
    (entry,) = parse(GOOD.replace("ipc = 1", "ipc = [1, 10]"), "x").recipe
    assert entry.budgets() == [Budget(ipc=1), Budget(ipc=10)]
    (entry,) = parse(GOOD.replace("ipc = 1", "fraction = [0.1, 1]"), "x").recipe  # a whole number stands for a float
    assert entry.budgets() == [Budget(fraction=0.1), Budget(fraction=1.0)]
    (entry,) = parse(GOOD.replace("ipc = 1", "all = true"), "x").recipe
    assert entry.budgets() == [Budget()] and Budget().to_json() == {"all": True}
    assert (Budget(ipc=3).to_json(), Budget(fraction=0.5).to_json()) == ({"ipc": 3}, {"fraction": 0.5})


@pytest.mark.parametrize(
    "budget", [{"ipc": 0}, {"ipc": -1}, {"ipc": 1.0}, {"ipc": True}, {"fraction": 0.0}, {"fraction": 1.1}]
)
def test_budgets_are_checked(budget):
    refused(lambda: Budget(**budget))


def test_the_default_is_found_and_defaults_are_filled_in(toy):
    result = resolved(toy)
    assert result.name == "paper" and result.source == "table 1" and result.network == "convnet-d2"
    assert result.hyper.model_dump() == {**toy.hyper().model_dump(), "steps": 4, "lr": 0.2}


def test_another_recipe_by_name(toy):
    result = resolved(toy, recipe="cheap-reduced")
    assert (result.name, result.network) == ("cheap-reduced", "convnet-d1-w8")
    assert (result.hyper.steps, result.hyper.lr) == (1, 0.1)  # nothing is taken over from the default recipe


def test_generic_takes_the_methods_defaults(toy):
    result = resolved(toy, recipe="generic")
    assert result.name == "generic" and (result.hyper.steps, result.hyper.lr) == (2, 0.1)
    assert resolve(toy, digits("svhn"), Budget(ipc=7), recipe="generic").budget == Budget(ipc=7)


def test_overrides_beat_the_recipe_and_show_in_the_name(toy):
    result = resolved(toy, overrides={"lr": 0.5})
    assert result.hyper.lr == 0.5 and result.hyper.steps == 4 and result.name == "paper+set"
    assert resolved(toy, network="mlp").network.startswith("mlp")


def test_a_file_of_ones_own(toy, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(GOOD + "[recipe.hyper]\nsteps = 9\n")
    assert resolved(toy, recipe=str(path)).hyper.steps == 9
    path.write_text(GOOD.replace('"toy"', '"dm"'))
    assert "dm" in refused(lambda: resolved(toy, recipe=str(path)))
    path.write_bytes(b"\xff\xfe")
    assert str(path) in refused(lambda: resolved(toy, recipe=str(path)))
    assert "absent.toml" in refused(lambda: resolved(toy, recipe=str(tmp_path / "absent.toml")))
    path.write_text(GOOD + "[recipe.hyper]\nstep = 9\n")
    result = refused(lambda: resolved(toy, recipe=str(path)))
    assert str(path) in result and "'step'" in result and "did you mean steps" in result


def test_a_cell_without_a_recipe_names_the_nearest(toy):
    result = refused(lambda: resolve(toy, digits(), Budget(ipc=10)))
    assert "toy has no recipe for digits at IPC 10" in result
    assert "digits at IPC 1 (paper)" in result and "cifar10" not in result and "--recipe generic" in result
    result = refused(lambda: resolve(toy, digits("cifar100"), Budget(ipc=10)))
    assert "cifar10 at IPC 10" in result
    result = refused(lambda: resolved(toy, recipe="papper"))
    assert "did you mean paper" in result
    result = refused(lambda: resolve(toy, digits(), Budget(ipc=10), recipe="code"))
    assert "no recipe 'code' for digits at IPC 10" in result


def test_several_recipes_without_a_default(toy):
    result = refused(lambda: resolve(toy, digits("cifar10"), Budget(ipc=10)))
    assert "code | other" in result


def test_a_budget_that_the_method_does_not_know(toy):
    assert "ipc" in refused(lambda: resolve(toy, digits(), Budget(fraction=0.1)))
    assert "ipc" in refused(lambda: resolve(toy, digits(), Budget()))


def test_folders_find_recipes_by_their_own_name(toy):
    assert family("pets@0123abcd") == "pets" and family("digits") == "digits"
    result = resolve(toy, digits("pets@0123abcd"), Budget(ipc=1))
    assert result.name == "pets" and result.dataset == "pets@0123abcd"


BAD_FIELDS = {
    "unknown": ({"stepps": 1}, "did you mean steps"),
    "range": ({"lr": 10.0}, "lr"),
    "zero": ({"steps": 0}, "steps"),
    "float for int": ({"steps": 1.5}, "steps"),
    "text for float": ({"lr": "0.1"}, "lr"),
    "bool for int": ({"steps": True}, "steps"),
    "bool for float": ({"lr": True}, "lr"),
    "int for bool": ({"flag": 1}, "flag"),
    "choice": ({"ships": "everything"}, "ships"),
    "infinite": ({"nap": float("inf")}, "nap"),
    "nan": ({"nap": float("nan")}, "nap"),
    "none": ({"lr": None}, "lr"),
    "list": ({"sizes": [1, "two"]}, "sizes"),
}


@pytest.mark.parametrize(("fields", "message"), BAD_FIELDS.values(), ids=BAD_FIELDS.keys())
def test_wrong_hyper_parameters_are_one_line(toy, fields, message):
    result = refused(lambda: resolved(toy, overrides=fields))
    assert message in result and "toy.toml, recipe paper" in result


def test_whole_numbers_stand_for_floats_and_lists_for_tuples(toy):
    result = resolved(toy, overrides={"lr": 1, "sizes": [3, 4]})
    assert result.hyper.lr == 1.0 and isinstance(result.hyper.lr, float) and result.hyper.sizes == (3, 4)
    assert result.hash == resolved(toy, overrides={"lr": 1.0, "sizes": (3, 4)}).hash


def test_set_words(toy):
    words = ["steps=5", "lr=0.5", "flag=true", "ships=soft", "sizes=[4, 5]"]
    assert parse_overrides(toy, words) == {"steps": 5, "lr": 0.5, "flag": True, "ships": "soft", "sizes": (4, 5)}
    assert parse_overrides(toy, ["lr=1e-3"]) == {"lr": 0.001} and parse_overrides(toy, []) == {}
    for word, message in (
        ("steps", "KEY=VALUE"),
        ("stepps=1", "did you mean steps"),
        ("steps=many", "steps=many"),
        ("steps=1.5", "steps"),
        ("ships=all", "ships"),
        ("flag=perhaps", "flag"),
        ("lr=", "lr"),
    ):
        assert message in refused(lambda word=word: parse_overrides(toy, [word]))
    assert "lr" in refused(lambda: resolved(toy, overrides=parse_overrides(toy, ["lr=-1"])))
    assert "nap" in refused(lambda: resolved(toy, overrides=parse_overrides(toy, ["nap=inf"])))


def test_the_hash_depends_on_every_field_and_on_nothing_else(toy):
    base = resolved(toy)
    changes = [
        {"dataset": "mnist"},
        {"split_hash": "0" * 64},
        {"budget": Budget(ipc=3)},
        {"budget": Budget(fraction=0.1)},
        {"network": "mlp"},
        {"name": "code"},
        {"method": replace(toy, name="other")},
        *({"hyper": toy.hyper(**{"steps": 4, "lr": 0.2, **f})} for f in ({"steps": 5}, {"lr": 0.3}, {"flag": True})),
        {"hyper": toy.hyper(steps=4, lr=0.2, sizes=(2, 1))},
    ]
    hashes = {base.hash, *(replace(base, **change).hash for change in changes)}
    assert len(hashes) == len(changes) + 1
    assert replace(base, source="another table").hash == base.hash
    assert replace(base, hyper=toy.hyper(lr=0.2, steps=4)).hash == base.hash


def test_a_resolved_recipe_reads_back_as_it_was_written(toy):
    result = resolved(toy, overrides={"sizes": [7], "ships": "soft"})
    read = restore(json.loads(json.dumps(result.to_json())), result.source)
    assert read == result and read.hash == result.hash
    shuffled = dict(reversed(list(result.to_json().items())))
    assert restore(shuffled).hash == result.hash


def test_the_toys_file_is_what_is_published(toy):
    names = ["paper", "cheap-reduced", "code", "other", "pets", "shipping", "shipping-reduced", "broken"]
    assert [entry.name for entry in published(toy).recipe] == names


# --- what recipes of a file share

TABLE = """
method = "toy"

[base.all]
source = "arXiv 0000.00000"
network = "mlp"
hyper = {steps = 4, lr = 0.1}

[base.paper]
like = "all"
name = "paper"
default = true
note = "table 1"
hyper = {lr = 0.2}

[[recipe]]
like = "paper"
dataset = ["digits", "mnist"]
ipc        = [  1,     10]
each.steps = [  8,    "-"]
each.lr    = ["-",    0.3]
note       = ["-", "typo"]
hyper = {flag = true}
"""


def shared(*recipe, table=TABLE):
    """The recipes of a file with one more, of these lines."""
    return parse("\n".join([table, "[[recipe]]", 'dataset = "svhn"', *recipe]), "toy.toml").recipe[4:]


def test_a_table_stands_for_its_cells():
    entries = parse(TABLE, "toy.toml").recipe
    assert [(e.dataset, e.ipc, e.hyper) for e in entries] == [
        ("digits", 1, {"flag": True, "steps": 8}),
        ("digits", 10, {"flag": True, "lr": 0.3}),
        ("mnist", 1, {"flag": True, "steps": 8}),
        ("mnist", 10, {"flag": True, "lr": 0.3}),
    ]
    assert {(e.name, e.network, e.default) for e in entries} == {("paper", "mlp", True)}
    sources = ["arXiv 0000.00000; table 1", "arXiv 0000.00000; table 1; typo"]
    assert [e.source for e in entries] == sources * 2


def test_the_tables_of_docs_and_docstring_are_read():
    page = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text().partition("### Recipe files")[2]
    docstring = inspect.cleandoc(recipes.__doc__).partition("recipes of `cifar10`:")[2]
    for table in (page.partition("```toml\n")[2].partition("```")[0], 'method = "mtt"\n' + dedent(docstring)):
        columns = [(e.ipc, e.hyper["syn_steps"], e.hyper.get("batch_syn")) for e in parse(table, "docs").recipe]
        assert [ipc for ipc, *_ in columns] == [1, 10, 50] and columns[0][2] is None and columns[2][2]


def test_a_recipe_goes_before_its_bases_and_a_later_base_before_an_earlier():
    (entry,) = shared('like = ["paper", "all"]', "all = true", "hyper = {steps = 9}")
    assert (entry.name, entry.default, entry.hyper) == ("paper", True, {"steps": 9, "lr": 0.1})
    (entry,) = shared('like = ["all", "paper"]', "all = true", "default = false", 'network = "convnet"')
    assert (entry.hyper, entry.default, entry.network) == ({"steps": 4, "lr": 0.2}, False, "convnet")
    (entry,) = shared('like = "paper"', "ipc = 3", 'source = "another one"', 'note = "page 2"')
    assert entry.source == "another one; page 2"


def test_budgets_and_columns_are_taken_over_or_replaced_as_a_whole():
    base = TABLE + '\n[base.cells]\nlike = "paper"\nipc = [1, 10]\neach.steps = [5, 6]\n'
    assert [(e.ipc, e.hyper["steps"]) for e in shared('like = "cells"', table=base)] == [(1, 5), (10, 6)]
    (entry,) = shared('like = "cells"', "fraction = 0.1", "hyper.steps = 7", table=base)
    assert (entry.ipc, entry.fraction, entry.hyper["steps"]) == (None, 0.1, 7)
    (entry,) = shared('like = "cells"', "hyper.steps = 7", table=base)
    assert entry.ipc == [1, 10] and entry.hyper["steps"] == 7
    columns = shared('like = "paper"', "fraction = [0.1, 0.5]", "each.sizes = [[1], [2, 3]]")
    assert [(e.fraction, e.hyper["sizes"]) for e in columns] == [(0.1, [1]), (0.5, [2, 3])]


BAD_SHARING = {
    "unknown base": (('like = "papper"', "ipc = 1"), ("recipe.1.like", "papper", "paper")),
    "base of a wrong type": (("like = 3", "ipc = 1"), ("recipe.1.like",)),
    "many bases": ((f"like = {['all'] * 17}", "ipc = 1"), ("recipe.1.like",)),
    "unknown key of a base": (("ipc = 1", "[base.x]", "hypper = {}"), ("base.x.hypper", "unknown key")),
    "wrong type in a base": (("ipc = 1", "[base.x]", 'ipc = "1"'), ("base.x.ipc",)),
    "base no table": (("ipc = 1", "[base]", "x = 1"), ("base.x",)),
    "name of a base": (("ipc = 1", "[base.'a\tb']"), ("base.",)),
    "still no name": (('like = "all"', "ipc = 1"), ("recipe.1.name", "missing")),
    "still no source": (('name = "paper"', "ipc = 1", 'note = "a note"'), ("recipe.1.source", "missing")),
    "still no budget": (('like = "paper"',), ("recipe.1", "one of ipc")),
    "column too short": (('like = "paper"', "ipc = [1, 3]", "each.lr = [0.1]"), ("recipe.1.each.lr", "1 values for 2")),
    "column without cells": (('like = "paper"', "ipc = 1", "each.lr = [0.1]"), ("recipe.1.each.lr", "list")),
    "column no list": (('like = "paper"', "ipc = [1, 3]", "each.lr = 0.1"), ("recipe.1.each.lr",)),
    "notes too few": (('like = "paper"', "ipc = [1, 3]", 'note = ["a"]'), ("recipe.1.note", "1 values for 2")),
    "notes of a base too few": (
        (
            "like = 'two'",
            "ipc = [1, 3, 5]",
            'note = ["a", "b", "c"]',
            "[base.two]",
            "like = 'paper'",
            'note = ["a", "b"]',
        ),
        ("recipe.1.note", "2 values for 3"),
    ),
    "note no text": (('like = "paper"', "ipc = [1, 3]", "note = [1, 2]"), ("recipe.1.note",)),
    "said twice": (('like = "paper"', "ipc = [1]", "each.lr = [1]", "hyper.lr = 1"), ("recipe.1", "'lr'")),
    "no data set": (('like = "paper"', "ipc = 1", "[[recipe]]", "dataset = []"), ("recipe.2.dataset",)),
}


@pytest.mark.parametrize(("lines", "words"), BAD_SHARING.values(), ids=BAD_SHARING.keys())
def test_wrong_sharing_is_one_line_with_file_and_key(lines, words):
    result = refused(lambda: shared(*lines))
    assert result.startswith("toy.toml: ") and all(word in result for word in words), result


def test_bases_in_a_circle_are_refused():
    for circle in ("[base.a]\nlike = 'a'\n", "[base.a]\nlike = 'b'\n[base.b]\nlike = 'a'\n"):
        result = refused(lambda text=GOOD + circle: parse(text, "toy.toml"))
        assert "toy.toml: base.a.like" in result and "above" in result


LAST = "[[recipe]]\nlike = 'b999'\nname = 'deep'\ndataset = 'digits'\nall = true\nsource = 'table 1'\n"


def levels(count, *lines):
    """A file whose bases are each like the one before."""
    bases = [f"[base.b{i}]\nlike = {[f'b{i - 1}'] * 2 if i else []}\n" + "\n".join(lines) for i in range(count)]
    return "\n".join(['method = "toy"', *bases, LAST])


def test_a_thousand_levels_of_bases_are_read():
    (entry,) = parse(levels(1000, "hyper = {steps = 3}"), "toy.toml").recipe
    assert (entry.name, entry.hyper) == ("deep", {"steps": 3})


MANY = [str(i) for i in range(3000)]
TOO_MUCH = {
    "notes that double": levels(1000, 'note = "n"'),
    "bases": levels(3000),
    "recipes": TABLE.replace('["digits", "mnist"]', str(MANY)),
    "hyper-parameters": GOOD + "".join(f"hyper.a{i} = 1\n" for i in MANY),
    "columns": GOOD.replace("ipc = 1", "ipc = [1]") + "".join(f"each.a{i} = [1]\n" for i in MANY),
    "letters": GOOD + f'note = "{"n" * 20_000}"\n',
}


@pytest.mark.parametrize("text", TOO_MUCH.values(), ids=TOO_MUCH.keys())
def test_a_file_that_would_fill_the_memory_is_refused(text):
    assert refused(lambda: parse(text, "toy.toml")).startswith("toy.toml: ")
