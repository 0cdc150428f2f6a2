"""Reported figures: every file is valid and cited, names are the suite's, and a broken file says what is wrong."""

import pytest

from ddbench.budget import Budget
from ddbench.data.registry import dataset_names, describe
from ddbench.distillation.method import find_method, method_names
from ddbench.distillation.recipes import published
from ddbench.errors import UsageError
from ddbench.networks import canonical
from ddbench.report.papers import figures_of, find, find_paper, papers, parse

FILE = """
title = "A paper"
arxiv = "2401.00001"
methods = ["dm"]
outside = ["ghost"]

[protocols]
other = "evaluated by somebody else"

[sources.table]
read_in = "its table 1"
quoted = false

[[figures]]
method = "dm"
dataset = "digits"
network = "convnet-d2"
printed = "ConvNet"
protocol = "own"
source = "table"
cells = [
  { ipc = 1, top1 = 0.8, std = 0.01 },
  { fraction = 0.1, top1 = 0.9 },
]

[[figures]]
method = "ghost"
dataset = "digits"
network = "convnet-d2"
printed = "ConvNet"
protocol = "other"
source = "table"
note = "as listed"
cells = [{ all = true, top1 = 0.95 }]
"""


def test_the_files_are_valid_and_name_what_the_suite_has():
    assert len(papers()) > 20
    for key, paper in papers().items():
        figures = list(figures_of(key, paper))
        assert len(set(figures)) == len(figures), key  # none is given twice from one source
        assert not set(paper.outside) & set(method_names())
        assert {figure.dataset for figure in figures} <= {*dataset_names(), *paper.datasets}
        for figure in figures:
            assert figure.outside == (figure.method not in method_names()), figure


def test_every_figure_has_a_source_and_none_is_from_memory():
    for figure in find():
        assert len(figure.read_in) > 5 and "memory" not in f"{figure.read_in} {figure.note}".lower(), figure
        assert 0 < figure.top1 < 1 and (figure.std is None or figure.std < 0.05), figure
    assert all(paper.sources.keys() == {group.source for group in paper.figures} for paper in papers().values())


def test_networks_have_the_suites_canonical_names_and_recipes_exist():
    for key, paper in papers().items():
        for figure in figures_of(key, paper):
            own = paper.datasets.get(figure.dataset) or describe(figure.dataset)
            assert canonical(figure.network, side=own.side) == figure.network
            if figure.recipe and not figure.outside:
                names = {entry.name for entry in published(find_method(figure.method)).recipe}
                assert figure.recipe in names, figure


def test_own_figures_of_images_of_another_size_are_not_targets():
    found = find(method="cvdd", dataset="imagenette") + find(method="rded", dataset="imagenette")
    assert found and all(figure.protocol != "own" for figure in found)


@pytest.mark.parametrize(
    ("method", "dataset", "ipc", "network", "top1", "std"),
    [  # typed anew from the fact sheets
        ("datm", "cifar10", 10, "convnet-d3", 66.8, 0.2),
        ("ftd", "cifar100", 50, "convnet-d3", 50.7, 0.3),
        ("sre2l", "imagenet-1k", 50, "torchvision:resnet50", 55.6, 0.3),
        ("cda", "imagenet-21k-p", 20, "timm:resnet101", 36.1, None),
        ("cvdd", "cifar100", 10, "resnet101", 52.5, None),
        ("sre2l++", "tiny-imagenet", 1, "resnet18", 9.3, None),
        ("dm", "cifar10", 1250, "convnet-d3", 80.8, 0.3),
        ("datadam", "imagenet-1k-64", 10, "convnet-d4", 6.3, 0.0),
        ("pca", "imagenet-1k", 50, "torchvision:resnet18", 39.1, None),
        ("tesla", "imagenet-1k-64", 1, "convnet-d4", 7.7, 0.2),
    ],
)
def test_figures_typed_anew(method, dataset, ipc, network, top1, std):
    (figure,) = find(method=method, dataset=dataset, budget=Budget(ipc), network=network, protocol="own")
    assert 100 * figure.top1 == pytest.approx(top1)
    assert figure.std is None if std is None else 100 * figure.std == pytest.approx(std)


def test_both_sources_of_a_conflict_are_kept_the_own_one_first():
    found = find(method="mtt", dataset="cifar10", budget=Budget(10), network="convnet-d3")
    assert {round(100 * figure.top1, 1) for figure in found} >= {65.3, 65.4}
    assert found[0].paper == "mtt" and found[0].protocol == "own" and found[0].quoted
    twice = find(method="sre2l", dataset="tiny-imagenet", budget=Budget(50), network="resnet18", protocol="own")
    assert [round(100 * figure.top1, 2) for figure in twice] == [41.1, 41.11, 41.22]


def test_infer_says_which_recipe_a_figure_is_of():
    found = find(method="infer", dataset="cifar100", budget=Budget(50), network="resnet18")
    assert {(figure.recipe, round(100 * figure.top1, 1)) for figure in found} == {("static", 62.8), ("dynamic", 68.9)}


def test_a_file_is_read_with_its_citations():
    one = {"toy": parse(FILE, "toy.toml")}
    first, second, third = find(among=one)
    assert (first.method, first.budget, first.words()) == ("dm", Budget(1), "80.0 ±1.0")
    assert (first.top1, first.std) == (0.8, 0.01)
    assert (second.budget, second.std, second.words()) == (Budget(fraction=0.1), None, "90.0")
    assert (third.outside, third.protocol, third.note, third.budget) == (True, "other", "as listed", Budget())
    assert find(among=one, method="dm", budget=Budget(fraction=0.1)) == [second]
    assert find(among=one, network="mlp") == [] and find(among=one, protocol="other") == [third]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("top1 = 0.8,", "top1 = 80.0,", "top1"),
        ("top1 = 0.8, ", "", "top1: is missing"),
        ("std = 0.01", "std = -0.01", "std"),
        ("ipc = 1,", "ipc = 0,", "ipc"),
        ("ipc = 1, top1", "ipc = 1, fraction = 0.1, top1", "one of ipc, fraction or all"),
        ("ipc = 1, top1", "top1", "one of ipc, fraction or all"),
        ('source = "table"', 'source = "hearsay"', "not among sources"),
        ('source = "table"\ncells', "cells", "source: is missing"),
        ('read_in = "its table 1"', 'read_in = ""', "read_in"),
        ('protocol = "other"', 'protocol = "third"', "not described"),
        ('protocol = "other"', 'protocol = "own"', "not a method of the paper"),
        ('arxiv = "2401.00001"', 'arxiv = "abs/1"', "arxiv"),
        ('printed = "ConvNet"', 'printed = "ConvNet"\nguess = true', "unknown key"),
        ("[protocols]", '[protocols]\nown = "mine"', "needs no description"),
        ("methods =", "methods", "toy.toml"),
    ],
)
def test_a_broken_file_is_refused_with_file_and_field(old, new, message):
    assert old in FILE
    with pytest.raises(UsageError, match=r"^toy\.toml: ") as error:
        parse(FILE.replace(old, new, 1) if old != 'source = "table"\ncells' else FILE.replace(old, new), "toy.toml")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_papers_are_found_by_key_method_and_arxiv_id():
    assert find_paper("MTT", papers()) == ("mtt", ("mtt",))
    assert find_paper("arXiv:2501.07575", papers()) == ("cvdd", ("cvdd", "sre2l++"))
    assert find_paper("sre2l++", papers()) == ("cvdd", ("sre2l++",))
    assert find_paper("pad", papers()) == ("pad", ())
    with pytest.raises(UsageError, match=r"unknown paper 'dattm': did you mean datm") as error:
        find_paper("dattm", papers())
    assert "\n" not in str(error.value)
