"""README shows the records: its tables and figure are those that the records give, and the grid behind them is whole."""

import importlib
import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from ddbench.cli.app import app
from ddbench.distillation.method import find_method
from ddbench.errors import UsageError
from ddbench.hashing import digest
from ddbench.jobs.job import DataName, distill_job
from ddbench.jobs.sweep import planned, without_set
from ddbench.records.record import Record
from ddbench.records.store import RecordStore
from ddbench.training.compute import Compute

ROOT = Path(__file__).parents[1]


@pytest.fixture
def scripts(monkeypatch):
    """The two scripts of `benchmarks/`, which import each other by name."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("readme"), importlib.import_module("digits_grid")


@pytest.fixture
def shown(scripts):
    return scripts[0].shown(RecordStore(scripts[1].MEASURED / "digits"))


def record(scripts, method, values, *, protocol="hard-v1", ipc=1, build="2.9.0", **changes):
    """A record of a cell of the grid with one run for each value; without values the cell is n/a."""
    cell = scripts[1].grid([method], [protocol], Compute(), ipcs=[ipc]).cells()[0]
    plain = json.loads((planned(cell) or without_set(cell)).to_json()) | changes
    synset = digest([method, ipc, build]) if values else None
    run = {"device": "cpu", "precision": "float32", "threads": 1, "build": build, "synset": synset}
    run |= {"date": "2026-01-31T12:00:00+00:00"}
    results = [{"status": "ok", "top1": top1} for top1 in values] or [{"status": "n/a", "reason": "not defined"}]
    plain["runs"] = [run | {"seed": seed} | result for seed, result in enumerate(results)]
    plain["synsets"] = {synset: {"images": 10, "bytes": {"images": 640}}} if values else {}
    return Record.from_json(json.dumps(plain), "made for a test")


def former(scripts, method, values):
    """A record of a recipe that is the default one no more."""
    now = record(scripts, method, values)
    recipe = now.recipe | {"name": "former"}
    return record(scripts, method, values, recipe=recipe, recipe_hash=digest(recipe))


def rows(table):
    return {label: [cell.text for cell in cells] for label, cells in table.rows}


def test_readme_is_what_the_records_give(scripts, shown):
    readme, _ = scripts
    text = readme.README.read_text(encoding="utf-8")
    assert text == readme.put(text, readme.block(*shown)), "run: python benchmarks/readme.py"


def test_the_figure_is_drawn_from_the_records_and_is_light(scripts, shown):
    readme, _ = scripts
    assert readme.figure_hash(readme.FIGURE) == readme.drawn_hash(shown[0]), "run: python benchmarks/readme.py"
    assert readme.FIGURE.stat().st_size <= 100_000
    with Image.open(readme.FIGURE) as image:
        assert "transparency" not in image.info and image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def test_drawing_keeps_the_hash(scripts, shown, tmp_path):
    readme, _ = scripts
    readme.draw(shown[0], tmp_path / "figure.png")
    assert readme.figure_hash(tmp_path / "figure.png") == readme.drawn_hash(shown[0])
    assert readme.figure_hash(tmp_path / "none.png") is None


def test_another_accuracy_gives_another_hash(scripts):
    readme, _ = scripts
    hashes = {readme.drawn_hash(readme.shown([record(scripts, "random", [top1], ipc=3)])[0]) for top1 in (0.5, 0.51)}
    assert len(hashes) == 2


def test_every_method_has_a_row_and_what_is_missing_a_dash(scripts):
    readme, grid = scripts
    records = [record(scripts, "random", [0.5, 0.52]), record(scripts, "rded", [])]
    records.append(record(scripts, "whole", [0.98]))
    table = readme.fixed_table(*readme.shown(records))
    assert list(rows(table)) == [*grid.methods(), "*runs (n)*"]
    assert rows(table)["random"][0].startswith("51.0 ±") and rows(table)["random"][1:] == ["—"] * 5
    assert rows(table)["rded"][0] == "n/a" and rows(table)["whole"] == ["98.0"] * 3 + ["—"] * 3
    assert rows(table)["*runs (n)*"] == ["1-2", "1", "1", "—", "—", "—"]
    assert "—: not measured." in table.notes and any("n/a" in note for note in table.notes)


def test_of_two_settings_the_one_with_most_runs_is_shown_whatever_its_accuracy(scripts):
    readme, _ = scripts
    records = [record(scripts, "random", [0.9], build="2.8.0"), record(scripts, "random", [0.5, 0.5])]
    table = readme.fixed_table(*readme.shown(records))
    assert rows(table)["random"][0].startswith("50.0")
    assert any(note.startswith("Left out: 1 results") for note in table.notes)


def test_other_recipes_and_students_are_left_out(scripts):
    readme, _ = scripts
    other = record(scripts, "random", [0.9], student_network="mlp")
    frame, left_out = readme.shown([record(scripts, "random", [0.5]), other, former(scripts, "dm", [0.9])])
    assert list(frame["top1"]) == [0.5] and left_out == 2


def test_marks_are_among_what_is_shown(scripts):
    readme, _ = scripts
    shown = [record(scripts, "random", [0.5, 0.51]), record(scripts, "dm", [0.7, 0.71])]
    table = readme.fixed_table(*readme.shown([*shown, former(scripts, "mtt", [0.9, 0.91])]))
    assert [label for label, cells in table.rows if cells[0].best] == ["dm"]


def test_a_shipped_set_stands_beside_random_by_its_recipe(scripts):
    readme, grid = scripts
    own = record(scripts, "rded", [0.8], protocol="shipped-v1", ipc=3)
    changes = {"borrowed": "rded", "lender": own.recipe_hash}
    lent = record(scripts, "random", [0.79], protocol="shipped-v1", ipc=3, **changes)
    table = readme.shipped_table(readme.shown([own, lent])[0])
    assert rows(table)["rded"] == ["—", "—", "80.0", "79.0", "—", "—"]
    assert set(grid.BASELINES).isdisjoint(rows(table)) and not any(cell.best for _, row in table.rows for cell in row)


def test_what_ships_no_recipe_is_not_applicable_in_the_figure(scripts):
    readme, _ = scripts
    records = [record(scripts, "random", [0.5], ipc=3), record(scripts, "rded", [0.8], protocol="shipped-v1", ipc=3)]
    frame = readme.drawn(readme.shown(records)[0])
    assert set(zip(frame["method"], frame["protocol"], frame["status"], strict=True)) == {
        ("random", "hard-v1", "ok"),
        ("random", "shipped-v1", "n/a"),
        ("rded", "shipped-v1", "ok"),
    }


def test_a_page_without_marks_is_refused(scripts):
    readme, _ = scripts
    page = f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n"
    assert readme.put(page, "new") == f"before\n{readme.BEGIN}\n\nnew\n{readme.END}\nafter\n"
    assert readme.put(readme.put(page, "old"), "new") == readme.put(page, "new")
    with pytest.raises(UsageError, match="lacks"):
        readme.put("before\n", "new")


def test_the_grid_is_every_method_once(scripts):
    _, grid = scripts
    parts = {name: grid.part(name, Compute()) for name in (*grid.PARTS, grid.BORROWED)}
    cells = [(cell.made, cell.protocol, cell.network, cell.lender) for part in parts.values() for cell in part]
    assert max(Counter(cells).values()) == 1
    draws = Counter((cell.made.resolved().method.name, cell.made.resolved().budget) for cell in parts["hard"])
    for (name, _), count in draws.items():
        assert count == (1 if find_method(name).deterministic else 3)
    assert {name for name, _ in draws} == set(grid.methods()) and {len(cell.seeds) for cell in parts["hard"]} == {5}
    assert len(parts["networks"]) == len(grid.FAMILIES) * len(grid.NETWORKS)
    with pytest.raises(UsageError, match="unknown part"):
        grid.part("harder", Compute())


def test_the_baselines_ship_no_recipe_and_the_default_network_is_not_run_twice(scripts):
    readme, grid = scripts
    for job in grid.grid(grid.BASELINES, [], Compute(), ipcs=[1]).distillations():
        assert distill_job(job).student_recipe is None
    assert readme.find_protocol("hard-v1").student(DataName("digits").load()).network not in grid.NETWORKS


def test_a_dry_run_counts_what_is_recorded(scripts, tmp_path, monkeypatch, capsys):
    _, grid = scripts
    store = RecordStore(tmp_path / "results")
    store.add(record(scripts, "random", [0.5, 0.5], build=Compute().identity()["build"]))
    monkeypatch.setattr(grid, "methods", lambda: ["random"])
    grid.dry_run(["hard"], store, Compute(), workers=2)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("hard: 43 of 45 trainings missing, 9 sets to make, ")
    assert lines[1].endswith("with 2 worker(s). Nothing was run or written.") and len(store.paths()) == 1


def test_a_dry_run_knows_shipped_records_without_their_sets(scripts, tmp_path, monkeypatch, capsys):
    _, grid = scripts
    store, build = RecordStore(tmp_path / "results"), Compute().identity()["build"]
    own = record(scripts, "dm", [0.8] * 5, protocol="shipped-v1", student_recipe_hash="0" * 64, build=build)
    store.add(own)
    lent = {"borrowed": "dm", "lender": own.recipe_hash, "student_recipe_hash": "0" * 64}
    store.add(record(scripts, "random", [0.7], protocol="shipped-v1", build=build, **lent))
    monkeypatch.setattr(grid, "methods", lambda: ["dm"])
    grid.dry_run(["shipped", grid.BORROWED], store, Compute(), workers=1)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("shipped: 10 of 15 trainings missing, 2 sets to make, ")
    assert lines[1].startswith("borrowed: 14 of 15 trainings missing, ")


def test_a_part_runs_and_goes_on(scripts, tmp_path, monkeypatch):
    _, grid = scripts
    store = RecordStore(tmp_path / "results")
    monkeypatch.setattr(grid, "FAMILIES", ("random",))
    monkeypatch.setattr(grid, "NETWORKS", ("mlp",))
    for _ in range(2):
        assert grid.run(["networks"], store, Compute(), 1, retry_failed=False) == 0
        (made,) = store
        assert made.student_network == "mlp" and [run.seed for run in made.runs] == [0, 1, 2]


def asked():
    """README's commands that read the records."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = [line.split("#")[0].split() for line in text.splitlines() if line.startswith("ddbench ")]
    kept = [words[1:] for words in found if words[1] in ("table", "compare", "scores", "plot", "leaderboard")]
    return [words for words in kept if "curves" not in words]  # of a run that README makes before


def test_readme_has_such_commands():
    assert {words[0] for words in asked()} == {"table", "compare", "scores", "plot", "leaderboard"}


@pytest.mark.parametrize("words", asked(), ids=" ".join)
def test_a_command_of_readme_works_on_the_records_of_a_clone(words, tmp_path, monkeypatch):
    (tmp_path / "results").symlink_to(ROOT / "results")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DDBENCH_RESULTS", raising=False)
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 0, found.output
    assert found.stdout.strip()
