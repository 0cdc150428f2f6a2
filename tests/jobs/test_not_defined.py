"""Cells that a method's definition excludes: n/a with a reason everywhere, and no failure anywhere."""

import json
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

import ddbench
from ddbench import plugins
from ddbench.cli.app import app
from ddbench.distillation.method import Hyper, Method
from ddbench.errors import DDBenchError, NotDefined, UsageError
from ddbench.extras.demo import DemoPlan, run_demo
from ddbench.jobs.job import DataName
from ddbench.jobs.pool import Outcome, attempt
from ddbench.jobs.sweep import Cell, run_cells
from ddbench.records.store import RecordStore
from ddbench.settings import cache_dir, results_dir
from ddbench.training.compute import Compute

REASON = "the toy has no room at IPC 1"
TOY = ("--recipe", "generic", "--ipc", "1", "--set", "fail=undefined")


def command(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def grid(*overrides, **changes):
    import toybox

    return replace(toybox.a_grid(overrides), **{"protocols": ["toy-hard-v1"], "synthesis_seeds": (0,), **changes})


def runs():
    return [run for record in RecordStore(results_dir()) for run in record.runs]


def test_it_is_an_outcome_of_its_own():
    def excluded(_):
        raise NotDefined("no room")

    assert attempt(excluded, 0) == Outcome(skipped="no room")
    assert issubclass(NotDefined, DDBenchError) and not issubclass(NotDefined, UsageError)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_it_is_recorded_once_and_is_no_failure(workers, toys):
    cells = grid("fail=undefined").cells() + grid().cells()
    report = run_cells(cells, RecordStore(results_dir()), workers=workers)
    assert (report.exit_code(), report.done, report.failed, report.problems) == (0, 2, [], [])
    assert report.skipped == [f"toy on digits, IPC 1, seed 0, toy-hard-v1: {REASON}"] and len(report.records) == 2
    excluded = [run for run in runs() if run.status == "n/a"]
    assert [(run.seed, run.reason, run.synset, run.top1) for run in excluded] == [
        (s, REASON, None, None) for s in (0, 1)
    ]
    assert sorted(run.status for run in runs()) == ["n/a", "n/a", "ok", "ok"]
    again = ddbench.sweep(grid("fail=undefined"), retry_failed=True)
    assert (again.done, again.reused, again.skipped) == (0, 2, report.skipped[:1])  # said again, not tried again
    assert toys.count("distill") == 2
    assert ddbench.sweep(grid("fail=undefined", seeds=(0, 1, 2))).skipped == report.skipped[:1]
    assert [run.seed for run in runs() if run.status == "n/a"] == [0, 1, 2]


def test_what_failed_before_it_was_known_gives_way(toys, tmp_path):
    store = RecordStore(results_dir())
    failing = grid("fail=undefined")
    ddbench.sweep(failing)
    (path,) = store.paths()
    path.write_text(path.read_text().replace('"n/a"', '"failed"'))
    assert ddbench.sweep(failing).skipped == [] and ddbench.sweep(failing, retry_failed=True).exit_code() == 0
    assert [run.status for run in runs()] == ["n/a", "n/a"]


def test_a_shipped_cell_and_who_would_borrow_from_it(toys):
    (job,) = grid("fail=undefined").distillations()
    (plain,) = grid(methods=["random"], recipe=None).distillations()
    own, borrower = (
        Cell(DataName("digits"), "shipped-v1", (0,), Compute(), made=made, lender=lender)
        for made, lender in ((job, None), (plain, job))
    )
    report = run_cells([own, borrower], RecordStore(results_dir()))
    assert report.exit_code() == 0 and len(report.skipped) == 2
    assert any(line.endswith("is not defined, so nothing can be borrowed from it") for line in report.skipped)
    assert [run.status for run in runs()] == ["n/a"]
    assert run_cells([own], RecordStore(results_dir())).reused == 1 and toys.count("distill") == 1


def test_run_shows_it_and_the_table_keeps_it(toys):
    result = command("run", "toy", *TOY, "--protocol", "toy-hard-v1", "--seeds", "2")
    assert result.exit_code == 0 and f"n/a: toy on digits, IPC 1, seed 0, toy-hard-v1: {REASON}" in result.stderr
    assert "0 runs reused, 0 made" in result.stderr and "n/a" in result.stdout
    table = command("table", "--format", "markdown")
    assert "n/a" in table.stdout and "not defined there" in table.stdout
    (row,) = json.loads(command("table", "--json").stdout)
    assert (row["status"], row["reason"], row["top1"]) == ("n/a", REASON, None)


def test_distill_is_one_line_and_exit_code_1(toys, tmp_path):
    result = command("distill", "toy", *TOY, "--out", tmp_path / "x.safetensors")
    assert result.exit_code == 1 and result.stderr.strip() == f"ddbench: error: {REASON}"
    assert not (tmp_path / "x.safetensors").exists() and not list((cache_dir() / "synsets").glob("*.safetensors"))
    with pytest.raises(NotDefined, match="no room"):
        ddbench.distill("toy", ipc=1, recipe="generic", overrides={"fail": "undefined"})


def test_dry_runs_say_so_before_and_after(toys):
    plan = command("distill", "toy", *TOY, "--dry-run", "--quiet")
    assert plan.exit_code == 0 and f"toy on digits, IPC 1, seed 0: n/a, {REASON}" in plan.stdout
    words = ("run", "toy", *TOY, "--protocol", "toy-hard-v1,shipped-v1", "--seeds", "2")
    shown = []
    for _ in range(2):
        plan = command(*words, "--dry-run", "--quiet")
        lines = plan.stdout.splitlines()
        assert plan.exit_code == 0 and plan.stderr == "" and not runs()[4:]
        shown.append([line.strip() for line in lines if REASON in line])
        assert any(line.startswith("To do: 0 sets, 0 trainings.") for line in lines) and "Estimate" not in plan.stdout
        assert command(*words, "--quiet").exit_code == 0
    head = f"toy on digits, IPC 1, seed 0: n/a, {REASON}"
    assert shown == [[head, f"toy-hard-v1: n/a, {REASON}", f"shipped-v1: n/a, {REASON}"]] * 2


class Picky(Hyper):
    """Nothing to choose."""


def picky(task, hyper):
    if task.ipc < 2:
        raise NotDefined("picky needs two images of a class")
    places = torch.cat([pool[: task.ipc] for pool in task.class_indices()])
    return task.synset(space=task.space("normalised"), indices=places, classes=task.dataset.labels[places])


def test_the_demo_leaves_it_out_with_its_reason(toys, tmp_path, monkeypatch):
    find, method = plugins.find, Method("picky", Picky, picky)
    plan = DemoPlan(
        lines=("random", "picky"),
        line_ipcs=(1, 2),
        protocol="toy-hard-v1",
        soft=("picky",),
        soft_protocol="toy-soft-v1",
        shipped=("picky",),
        seeds=(0,),
    )
    with monkeypatch.context() as patched:
        patched.setattr(plugins, "find", lambda group, name: method if name == "picky" else find(group, name))
        for reused in (False, True):
            found = run_demo(tmp_path / "demo", plan=plan, methods=["random", "picky"])
            assert found.report.exit_code() == 0 and bool(found.report.reused) == reused
            (line,) = (line for line in found.report.skipped if "IPC 1" in line)
            assert line == "picky on digits, IPC 1, seed 0, toy-hard-v1: picky needs two images of a class"
        found_alone = run_demo(tmp_path / "alone", plan=replace(plan, ipc=1, line_ipcs=()), methods=["picky"])
    rows = [row for row in (tmp_path / "demo" / "table.md").read_text().splitlines() if "picky" in row]
    assert any("n/a" in row for row in rows)
    assert {path.name for path in found.files} >= {"picky_ipc3.png", "random_ipc3.png"}
    assert found_alone.report.exit_code() == 0 and [path.name for path in found_alone.files] == [
        "table.md",
        "table.csv",
    ]
