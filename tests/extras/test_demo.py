"""The demo: its plan, who takes part, and that it writes and reuses what it says."""

import json
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from ddbench.cli.app import app
from ddbench.data.registry import load_dataset
from ddbench.data.spaces import make_space
from ddbench.distillation.method import method_names
from ddbench.errors import UsageError
from ddbench.extras.demo import PLAN, Plan, choose, first_cells, run_demo, shipped_cells
from ddbench.jobs.job import distill_job
from ddbench.records.store import RecordStore
from ddbench.report.pictures import as_seen
from ddbench.synset.synset import SynSet, Views
from ddbench.training.compute import Compute

TOY = Plan(
    ipc=2,
    lines=("random", "toy"),
    line_ipcs=(1, 2),
    protocol="toy-hard-v1",
    soft=("random",),
    soft_protocol="toy-soft-v1",
    seeds=(0, 1),
)


def names(cells):
    return sorted((cell.made.resolved().method.name, str(cell.made.resolved().budget), cell.protocol) for cell in cells)


def test_every_method_of_ours_takes_part_with_a_set_at_the_plans_ipc():
    chosen = choose(PLAN, Compute())
    assert set(chosen.shown) == set(method_names()) and not chosen.left_out
    for name, job in chosen.shown.items():
        recipe = job.resolved()
        assert recipe.budget.ipc == (None if name == "whole" else PLAN.ipc)
        assert recipe.dataset == "digits" and recipe.name in ("demo", "generic")
    lines = {(job.resolved().method.name, job.resolved().budget.ipc) for job in chosen.more}
    assert lines == {(name, ipc) for name in PLAN.lines for ipc in PLAN.line_ipcs if ipc != PLAN.ipc}


def test_first_cells_score_everything_hard_and_some_soft():
    cells = first_cells(PLAN, choose(PLAN, Compute(), ["random", "herding", "whole"]), Compute())
    assert names(cells) == [
        ("herding", "IPC 3", "hard-v1"),
        ("random", "IPC 1", "hard-v1"),
        ("random", "IPC 10", "hard-v1"),
        ("random", "IPC 3", "hard-v1"),
        ("random", "IPC 3", "soft-v1"),
        ("whole", "all", "hard-v1"),
    ]
    assert all(cell.seeds == PLAN.seeds for cell in cells)


def test_a_method_without_a_recipe_is_left_out_with_a_line(toys):
    chosen = choose(PLAN, Compute())
    left = " ".join(chosen.left_out)
    assert "broken" in left and "no-method" in left  # plugins that cannot be loaded do not stop the demo
    assert set(chosen.shown) >= {"random", "dm"}


@pytest.mark.parametrize(("ipc", "taken"), [(1, 1), (2, 1), (5, 5), (40, 9)])
def test_a_method_takes_part_at_the_ipc_that_it_has_a_recipe_for(ipc, taken, toys):
    """The toy has recipes for digits at IPC 1, 3, 5, 7 and 9; the nearest one stands for it, and no other."""
    chosen = choose(replace(TOY, ipc=ipc, line_ipcs=(ipc,)), Compute(), ["random", "toy"])
    assert [job.resolved().budget.ipc for job in chosen.shown.values()] == [ipc, taken]
    assert not chosen.more and not chosen.left_out
    cells = first_cells(TOY, chosen, Compute())
    assert ("toy", f"IPC {taken}", "toy-hard-v1") in names(cells)


def test_an_unknown_method_is_refused():
    with pytest.raises(UsageError, match="random"):
        choose(PLAN, Compute(), ["radnom"])


def test_sets_that_ship_a_recipe_are_scored_by_it_beside_the_baseline():
    plan = replace(PLAN, shipped_ipc=3)
    chosen = choose(plan, Compute(), ["random", "dm"])
    assert shipped_cells(plan, chosen, Compute()) == []  # nothing is made yet
    short = chosen.shown["dm"].resolved()
    short = replace(short, hyper=short.hyper.model_copy(update={"iterations": 1, "space": "pixel"}))
    chosen.shown["dm"] = type(chosen.shown["dm"]).of(chosen.shown["dm"].data, short, 0, Compute())
    distill_job(chosen.shown["dm"])
    own, borrowed = shipped_cells(plan, chosen, Compute())
    assert own.made == chosen.shown["dm"] and own.lender is None
    assert borrowed.lender == chosen.shown["dm"] and borrowed.made.resolved().method.name == "random"
    assert borrowed.made.resolved().hyper.space == "pixel"  # the baseline in the set's own space


def test_the_demo_writes_what_it_lists_and_is_not_done_twice(toys, tmp_path):
    out = tmp_path / "demo"
    chosen = ["random", "kcenter", "whole"]
    first = run_demo(out, plan=TOY, methods=chosen)
    assert first.report.exit_code() == 0 and first.report.done == 2 * (1 + 1 + 1 + 1 + 1) and not first.report.reused
    assert all(path.is_file() for path in first.files + first.report.records)
    made = {str(path.relative_to(out)) for path in first.files}
    assert {"table.md", "table.csv", "pictures/random_ipc2.png", "sets/whole_all.safetensors"} <= made
    assert any(path.startswith("plots/accuracy-ipc") for path in made)
    assert sum(len(record.runs) for record in RecordStore(out / "records")) == first.report.done
    second = run_demo(out, plan=TOY, methods=chosen)
    assert second.report.reused == first.report.done and not second.report.done
    assert second.files == first.files


def test_the_command_shows_a_table_and_what_was_written(tmp_path):
    out = tmp_path / "demo"
    words = ["demo", "--methods", "kcenter", "--seeds", "1", "--workers", "1", "--out", str(out)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.stderr
    assert "IPC 3" in result.stdout and "kcenter" in result.stdout
    assert "0 runs reused, 1 made" in result.stderr and "Try next:" in result.stderr
    again = CliRunner().invoke(app, words)
    assert "1 runs reused, 0 made" in again.stderr and again.stdout == result.stdout
    rows = json.loads(CliRunner().invoke(app, ["table", "--results", str(out / "records"), "--json"]).stdout)
    assert [(row["method"], row["protocol"]) for row in rows] == [("kcenter", "hard-v1")]


def test_a_picture_shows_what_a_student_sees():
    digits = load_dataset("digits")
    tensors = {"compensators": torch.full((2, 1, 1, 8, 8), 0.1), "slots": torch.zeros(10, dtype=torch.int64)}
    places = torch.stack([(digits.train.labels == c).nonzero()[0, 0] for c in range(10)])
    about = {"classes": torch.arange(10), "space": make_space("normalised", digits), "indices": places}
    pixels, classes, title = as_seen(SynSet.of(digits, **about), digits)
    assert torch.allclose(pixels, digits.train.read(places).float() / 255, atol=1e-6)
    assert classes.tolist() == list(range(10)) and title == "imported on digits, 1 per class"
    pixels, classes, title = as_seen(SynSet.of(digits, **about, views=Views("compensators", {}, tensors)), digits)
    assert len(pixels) == 30 and classes.tolist() == 3 * list(range(10))
    assert title == "imported on digits, 3 per class, made of 10 stored"
