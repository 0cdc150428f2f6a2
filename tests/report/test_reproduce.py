"""Reproducing a table: a tiny paper of digits from dry run to verdicts, verdicts by hand-made records, and errors."""

import json

import pytest
from typer.testing import CliRunner

from ddbench.budget import Budget
from ddbench.cli.app import app
from ddbench.errors import UsageError
from ddbench.hashing import digest
from ddbench.records.record import Record
from ddbench.records.store import RecordStore
from ddbench.report import papers
from ddbench.report.papers import parse
from ddbench.report.reproduce import Choice, chosen_figures, compare, full_figure, items_of, reduced_items, verdict_of
from ddbench.report.verdict import grids, render, rows
from ddbench.settings import cache_dir, results_dir
from ddbench.training.compute import Compute

PAPER = """
title = "A toy paper"
arxiv = "2401.00001"
methods = ["toy"]
outside = ["ghost"]

[protocols]
listed = "as the paper lists it"

[datasets.pets]
title = "Pets"
classes = 3
channels = 3
side = 16
train = 300
test = 60

[sources.table]
read_in = "its table 1"
quoted = false

[[figures]]
method = "toy"
dataset = "digits"
network = "convnet-d1-w8"
printed = "ConvNet"
protocol = "own"
source = "table"
cells = [
  { ipc = 5, top1 = 0.5, std = 0.5 },
  { ipc = 7, top1 = 0.999 },
  { ipc = 9, top1 = 0.5 },
  { ipc = 8, top1 = 0.5 },
]

[[figures]]
method = "toy"
dataset = "digits"
network = "mlp"
printed = "MLP"
protocol = "own"
source = "table"
cells = [{ ipc = 5, top1 = 0.001, std = 0.0 }]

[[figures]]
method = "toy"
dataset = "pets"
network = "convnet-d1-w8"
printed = "ConvNet"
protocol = "own"
source = "table"
cells = [{ ipc = 1, top1 = 0.4 }]

[[figures]]
method = "ghost"
dataset = "digits"
network = "mlp"
printed = "MLP"
protocol = "listed"
source = "table"
cells = [{ ipc = 5, top1 = 0.6 }]
"""
DATE = "2026-01-31T12:00:00+00:00"


@pytest.fixture
def paper(toys, monkeypatch):
    one = {"toy-paper": parse(PAPER, "toy-paper.toml")}
    monkeypatch.setattr(papers, "papers", lambda: one)
    return one["toy-paper"]


def ddbench(*words):
    return CliRunner().invoke(app, ["reproduce", *(str(word) for word in words)])


def lines(*words):
    done = ddbench(*words, "--format", "json", "-q")
    assert done.exit_code in (0, 1), done.stderr
    return done.exit_code, json.loads(done.stdout)


def by_cell(found):
    return {(row["dataset"], row["budget"], row["student"]): row for row in found}


@pytest.mark.parametrize(
    ("top1", "std", "low", "high", "expected"),
    [
        (0.50, None, 0.49, 0.51, "agrees"),
        (0.49, None, 0.49, 0.51, "agrees"),  # the ends count
        (0.48, None, 0.49, 0.51, "above"),
        (0.52, None, 0.49, 0.51, "below"),
        (0.48, 0.01, 0.4901, 0.51, "above"),
        (0.48, 0.02, 0.49, 0.51, "agrees"),  # within the paper's own deviation
        (0.525, 0.02, 0.49, 0.51, "agrees"),
        (0.54, 0.02, 0.49, 0.51, "below"),
        (0.50, 0.02, None, None, "no verdict"),
    ],
)
def test_the_rule(top1, std, low, high, expected):
    assert verdict_of(top1, std, low, high) == expected


def test_from_dry_run_to_verdicts(paper, toys):
    code, planned = lines("2401.00001", "--seeds", "2", "--dry-run")
    assert code == 0 and not list(results_dir().rglob("*.json")) and not list(cache_dir().rglob("synsets/*"))
    cells = by_cell(planned)
    first = cells["digits", "IPC 5", "convnet-d1-w8"]
    assert (first["sets_cached"], first["trainings_missing"], first["recipe"], first["not_run"]) == (
        0,
        2,
        "shipping",
        None,
    )
    assert len(first["recipe_hash"]) == 64
    pets = cells["pets", "IPC 1", "convnet-d1-w8"]
    assert pets["not_run"].startswith("no data") and pets["recipe_hash"] is None and pets["recipe"] == "pets"
    assert "no recipe" in cells["digits", "IPC 8", "convnet-d1-w8"]["not_run"]

    code, found = lines("toy", "--seeds", "2")
    cells = by_cell(found)
    assert code == 1  # one job failed
    first = cells["digits", "IPC 5", "convnet-d1-w8"]
    assert (first["verdict"], first["n"], first["paper_std"]) == ("agrees", 2, 0.5)
    assert (
        first["difference"] == pytest.approx(first["top1"] - 0.5) and first["ci_low"] < first["top1"] < first["ci_high"]
    )
    other = cells["digits", "IPC 5", "mlp"]
    assert (other["n"], other["recipe_hash"]) == (2, first["recipe_hash"])
    assert cells["digits", "IPC 9", "convnet-d1-w8"]["verdict"] == "failed"
    assert "diverged" in cells["digits", "IPC 9", "convnet-d1-w8"]["why"]
    assert cells["digits", "IPC 8", "convnet-d1-w8"]["verdict"] == "not run"
    assert cells["pets", "IPC 1", "convnet-d1-w8"]["why"].startswith("no data")

    assert len(list(cache_dir().glob("synsets/*.safetensors"))) == 2  # IPC 5 (one set for two students) and 7
    calls = toys.path.read_text()
    code, again = lines("toy", "--seeds", "2")
    assert again == found and toys.path.read_text() == calls
    code, shown = lines("toy", "--seeds", "2", "--recorded")
    assert code == 0 and shown == found
    _, planned = lines("toy", "--seeds", "2", "--dry-run", "--cells", "digits/5,digits/7")
    assert {(row["trainings_missing"], row["sets_cached"]) for row in planned} == {(0, 1)}


def test_one_run_has_no_verdict(paper):
    _, found = lines("toy", "--seeds", "1", "--cells", "digits/7")
    (row,) = found
    assert (row["verdict"], row["why"], row["n"], row["ci_low"]) == ("no verdict", "one run has no interval", 1, None)


def test_another_protocol_has_no_verdict(paper):
    _, found = lines("toy", "--seeds", "2", "--cells", "digits/7", "--protocols", "toy-hard-v1")
    (row,) = found
    assert (row["verdict"], row["why"], row["n"]) == ("no verdict", "not the paper's own post-evaluation", 2)
    assert row["difference"] == pytest.approx(row["top1"] - 0.999)


def test_reduced_runs_stand_apart(paper):
    _, found = lines("toy", "--seeds", "2", "--reduced", "--cells", "digits/5")
    (row,) = found
    assert (row["reduced"], row["recipe"], row["n"], row["verdict"], row["difference"]) == (
        True,
        "shipping-reduced",
        2,
        None,
        None,
    )
    assert (row["paper_top1"], row["paper_dataset"]) == (0.5, "digits")
    _, full = lines("toy", "--seeds", "2", "--recorded", "--cells", "digits/5", "--networks", "convnet-d1-w8")
    assert [row["verdict"] for row in full] == ["not run"]  # a reduced run is no run of the cell
    text = ddbench("toy", "--seeds", "2", "--reduced", "--cells", "digits/5", "--format", "markdown", "-q").stdout
    assert "REDUCED" in text and "50.0 ±50.0 (digits, full setting)" in text and "agrees" not in text
    done = ddbench("toy", "--reduced", "--networks", "mlp")
    assert done.exit_code == 2 and "--reduced" in done.stderr


def test_a_variant_of_a_data_set_is_never_printed_as_the_data_set(toys):
    dm = papers.find(method="dm", protocol="own")
    figure = full_figure(dm, "dm", "cifar10-jpeg", Budget(10))
    assert figure is not None and (figure.dataset, figure.top1) == ("cifar10", 0.489)
    assert full_figure(dm, "dm", "cifar100-jpeg", Budget(10)).dataset == "cifar100"
    assert full_figure(dm, "dm", "cifar", Budget(10)) is None
    items = reduced_items(dm, papers.papers()["dm"], ["dm"], Choice(), ["cifar10-jpeg/10"])
    compared = compare(items, [])
    (grid,) = grids("DM", compared)
    ((_, shown),) = grid.rows
    assert shown[0].text == "cifar10-jpeg IPC 10" and "REDUCED" in grid.title
    assert shown[2].text == "48.9 ±0.6 (cifar10, full setting)"
    assert compared[0].why == "no data: a folder data set, named by --data cifar10-jpeg=folder:PATH"


def record(item, values, *, threads=1, status="ok", network=None, synthesis=0):
    """A record of an item's cell with so many runs."""
    resolved = item.recipe
    synset = digest(["set", synthesis])
    common = {"device": "cpu", "precision": "float32", "threads": threads, "build": "2.9.0", "date": DATE}
    runs = [common | {"seed": i, "synset": synset, "status": "ok", "top1": value} for i, value in enumerate(values)]
    if status != "ok":
        runs = [common | {"seed": 0, "synset": None, "status": status, "reason": "because"}]
    plain = {"protocol": item.protocol, "protocol_version": 1, "protocol_digest": digest("p"), "dataset": "digits"}
    plain |= {"budget": item.budget.to_json(), "student_network": network or item.network, "method": "toy"}
    plain |= {"distill_network": resolved.network, "recipe": resolved.to_json(), "recipe_hash": resolved.hash}
    plain |= {"synthesis_seed": synthesis, "runs": runs}
    plain |= {"synsets": {synset: {"images": 50, "bytes": {"images": 10}}} if status == "ok" else {}}
    return Record.model_validate(plain)


def the_item(paper, cell="digits/7", **choice):
    (figure,) = chosen_figures("toy-paper", paper, ["toy"], [cell])
    (item,) = items_of([figure], paper, Choice(compute=Compute(), **choice))
    return item


def test_verdicts_of_hand_made_records(paper):
    item = the_item(paper)

    def verdicts(*records):
        return [(each.verdict, each.n) for each in compare([item], records)]

    assert verdicts() == [("not run", 0)]
    assert verdicts(record(item, [0.998, 1.0])) == [("agrees", 2)]
    assert verdicts(record(item, [0.50, 0.51, 0.52])) == [("below", 3)]
    assert verdicts(record(item, [], status="failed")) == [("failed", 0)]
    assert verdicts(record(item, [], status="failed", network=item.recipe.network)) == [("failed", 0)]
    assert verdicts(record(item, [], status="n/a")) == [("n/a", 0)]
    assert verdicts(record(item, [0.5, 0.6], network="mlp")) == [("not run", 0)]
    assert verdicts(record(item, [0.5, 0.6], synthesis=1)) == [("not run", 0)]
    two = verdicts(record(item, [0.50, 0.51, 0.52]), record(item, [0.998, 1.0], threads=2))
    assert sorted(two) == [("agrees", 2), ("below", 3)]  # two settings are never pooled
    (each,) = compare([item], [record(item, [0.50, 0.51, 0.52])])
    assert each.why == "no deviation given" and each.difference == pytest.approx(0.51 - 0.999)


def test_synthesis_seeds_are_the_units(paper):
    item = the_item(paper, synthesis_seeds=(0, 1))
    (each,) = compare([item], [record(item, [0.50, 0.52]), record(item, [0.60, 0.62], synthesis=1)])
    assert (each.n, each.draws, each.verdict) == (4, 2, "agrees")  # t interval over two means is wide
    assert each.mean == pytest.approx(0.56)


def test_formats(paper):
    item = the_item(paper)
    compared = compare([item], [record(item, [0.50, 0.51, 0.52])])
    text = render("A toy paper", compared, "markdown")
    assert "| toy | digits IPC 7 | convnet-d1-w8 | 99.9 | 51.0 | -48.9 | 3 |" in text and "below" in text
    assert "widened on both sides" in text and "Source: its table 1." in text
    assert "\\begin{tabular}" in render("A toy paper", compared, "latex")
    assert render("A toy paper", compared, "csv").splitlines()[0].startswith("method,dataset,budget")
    assert json.loads(render("A toy paper", compared, "json")) == rows(compared)
    with pytest.raises(UsageError, match="unknown table format"):
        render("A toy paper", compared, "html")
    done = ddbench("toy", "--recorded", "--cells", "digits/7")
    assert done.exit_code == 0 and "not run" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tox"], "unknown paper 'tox': did you mean toy"),
        (["toy", "--cells", "digits/6"], "unknown cell (among those of toy-paper) 'digits/6': did you mean"),
        (["toy", "--networks", "lenet"], "unknown network"),
        (["toy", "--methods", "gost"], "did you mean ghost"),
        (["toy", "--protocols", "hard-v9"], "unknown protocol 'hard-v9'"),
        (["toy", "--format", "html"], "unknown table format 'html'"),
        (["toy", "--data", "pets=/somewhere"], "NAME=folder:PATH is needed"),
        (["toy", "--data", "digits=folder:/x"], "no folder stands for"),
        (["toy", "--cells", "digits/5", "--networks", "mlp", "--methods", "ghost"], "unknown cell"),
    ],
)
def test_errors_are_one_line(paper, words, message):
    if words[-1] == "ghost":
        words, message = ["toy", "--methods", "ghost", "--cells", "digits/9"], "unknown cell"
    done = ddbench(*words)
    assert done.exit_code == 2 and message in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_methods_outside_the_suite_are_listed_and_not_run(paper):
    _, found = lines("toy", "--methods", "all", "--recorded", "--cells", "digits/5", "--networks", "mlp")
    (ghost,) = [row for row in found if row["method"] == "ghost"]
    assert (ghost["verdict"], ghost["why"]) == ("not run", "the suite does not have the method")


def test_records_of_the_command_are_ordinary_ones(paper):
    lines("toy", "--seeds", "2", "--cells", "digits/5", "--networks", "mlp")
    (stored,) = RecordStore(results_dir())
    assert (stored.method, stored.protocol, stored.student_network, len(stored.runs)) == ("toy", "shipped-v1", "mlp", 2)
