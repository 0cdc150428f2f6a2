"""Sweeps: nothing lost, nothing doubled, nothing done twice, whatever happens."""

import errno
import multiprocessing
import os
from dataclasses import replace
from pathlib import Path

import contents
import pytest
import torch

import ddbench
from ddbench.budget import Budget
from ddbench.data.registry import load_dataset
from ddbench.errors import CannotWrite, UsageError
from ddbench.jobs.job import DataName
from ddbench.jobs.pool import PRELOAD
from ddbench.jobs.sweep import Cell, run_cells
from ddbench.records.store import RecordStore
from ddbench.settings import cache_dir, results_dir
from ddbench.training.compute import Compute


def grid(**changes):
    import toybox

    return replace(toybox.a_grid([]), **changes)


def content(root=None):
    return contents.content(root or results_dir())


def runs(root=None):
    return [run for record in content(root).values() for run in record["runs"]]


def only_whole_files(folder):
    return not [path for path in Path(folder).rglob("*") if path.name.endswith(".tmp")]


def test_one_and_two_workers_warm_and_cold_are_identical(toys, tmp_path, monkeypatch):
    report = ddbench.sweep(grid())
    assert (report.done, report.reused, report.exit_code(), len(report.records)) == (8, 0, 0, 4)
    alone = content()
    assert len(alone) == 4 and all(len(record["runs"]) == 2 for record in alone.values())
    assert toys.processes("distill") == {str(os.getpid())} and toys.count("distill") == 2

    for path in (cache_dir() / "synsets").glob("*.safetensors"):
        path.unlink()
    ddbench.sweep(grid(), results=tmp_path / "warm")  # stages and teacher are there, sets are not
    assert content(tmp_path / "warm") == alone and toys.count("distill") == 4 and toys.count("stage") == 1

    monkeypatch.setenv("DDBENCH_CACHE", str(tmp_path / "another"))
    report = ddbench.sweep(grid(), results=tmp_path / "two", workers=2)
    assert report.done == 8 and content(tmp_path / "two") == alone
    assert len(toys.processes("distill")) >= 2 and toys.count("distill") == 6


def test_a_second_run_does_nothing(toys):
    ddbench.sweep(grid())
    before = {path: path.stat().st_mtime_ns for path in results_dir().rglob("*.json")}
    calls = toys.path.read_text()
    for path in (cache_dir() / "synsets").glob("*.safetensors"):
        path.unlink()  # the records say all that is asked for
    report = ddbench.sweep(grid())
    assert (report.done, report.reused, report.exit_code(), len(report.records)) == (0, 8, 0, 4)
    assert toys.path.read_text() == calls
    assert {path: path.stat().st_mtime_ns for path in results_dir().rglob("*.json")} == before


def test_more_seeds_are_added_to_the_same_records(toys):
    ddbench.sweep(grid(seeds=(0,)))
    first = content()
    report = ddbench.sweep(grid(seeds=(0, 1)))
    assert (report.done, report.reused) == (4, 4) and toys.count("distill") == 2
    assert content().keys() == first.keys()
    for name, record in first.items():
        assert content()[name]["runs"][0] == record["runs"][0]


def test_a_failing_method_is_recorded_and_the_others_go_on(toys):
    bad = grid(overrides=["fail=bug"], protocols=["toy-hard-v1"])
    good = grid(protocols=["toy-hard-v1"])
    report = run_cells(bad.cells() + good.cells(), RecordStore(results_dir()))
    assert report.exit_code() == 1 and len(report.failed) == 4 and report.done == 8
    assert {reason for _, reason in report.failed} == {"RuntimeError: a bug of two lines"}
    failed = [run for run in runs() if run["status"] == "failed"]
    assert len(failed) == 4 and len(runs()) == 8
    assert all(run["synset"] is None and run["top1"] is None for run in failed)
    calls = toys.path.read_text()
    report = ddbench.sweep(bad)  # a failure is a result: it is not tried again unasked
    assert (report.done, report.reused, toys.path.read_text()) == (0, 4, calls)


def test_failed_jobs_are_retried_on_request(toys, tmp_path):
    failing = grid(overrides=["fail=marked"], protocols=["toy-hard-v1"], synthesis_seeds=(0,))
    (tmp_path / "toy.mark").touch()
    assert ddbench.sweep(failing).exit_code() == 1
    assert [run["status"] for run in runs()] == ["failed"] * 2
    (tmp_path / "toy.mark").unlink()
    assert ddbench.sweep(failing).done == 0
    report = ddbench.sweep(failing, retry_failed=True)
    assert (report.done, report.exit_code()) == (2, 0)
    assert [run["status"] for run in runs()] == ["ok"] * 2  # what failed has given way


def test_a_diverging_student_is_a_failed_run(toys, monkeypatch):
    from ddbench.evaluation import protocol

    hot = protocol.find_protocol("toy-hard-v1").tiers[0].student["optimizer"]
    monkeypatch.setitem(hot, "lr", 1e30)
    report = ddbench.sweep(grid(protocols=["toy-hard-v1"], synthesis_seeds=(0,)))
    assert report.exit_code() == 1 and len(report.failed) == 2
    assert all(run["status"] == "failed" and "finite" in run["reason"] and run["synset"] for run in runs())


@pytest.mark.slow
def test_a_worker_that_dies_fails_its_job_alone(toys):
    # each try gets one step further, by its checkpoint, so that eight steps are too many for three tries
    cells = grid(overrides=["fail=die", "steps=8"], protocols=["toy-hard-v1"], synthesis_seeds=(0,)).cells()
    cells += grid(protocols=["toy-hard-v1"]).cells()
    report = run_cells(cells, RecordStore(results_dir()), workers=2)
    assert report.done == 6 and {reason for _, reason in report.failed} == {"its worker process died"}
    assert sorted(run["status"] for run in runs()) == ["failed"] * 2 + ["ok"] * 4


def test_shipped_sets(toys):
    ships = grid(protocols=["shipped-v1"], overrides=["ships=soft"], synthesis_seeds=(0,))
    report = ddbench.sweep(ships)
    (record,) = content().values()
    assert report.done == 2 and record["student_recipe_hash"] and [r["status"] for r in record["runs"]] == ["ok"] * 2
    assert ddbench.sweep(ships).reused == 2
    report = ddbench.sweep(grid(protocols=["shipped-v1"], synthesis_seeds=(0,)))
    assert report.done == 0 and len(report.skipped) == 1 and "no student recipe" in report.skipped[0]
    assert report.exit_code() == 0


def test_a_failing_shipped_set_is_not_made_again_unasked(toys):
    failing = grid(protocols=["shipped-v1"], overrides=["ships=soft", "fail=diverge"], synthesis_seeds=(0,))
    report = ddbench.sweep(failing)
    assert report.exit_code() == 1 and [run["reason"] for run in runs()] == ["the toy diverged"] * 2
    calls = toys.path.read_text()
    assert ddbench.sweep(failing).reused == 2 and toys.path.read_text() == calls


def borrowing(lender_space="normalised"):
    def cell(method, overrides=(), lender=None):
        recipe = None if method == "random" else "generic"
        (job,) = grid(methods=[method], overrides=overrides, synthesis_seeds=(0,), recipe=recipe).distillations()
        return Cell(DataName("digits"), "shipped-v1", (0,), Compute(), made=job, lender=lender), job

    theirs, job = cell("toy", ["ships=soft", f"space={lender_space}"])
    return [cell("random", lender=job)[0], theirs]


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_baseline_borrows_from_a_set_of_the_same_sweep(toys, workers):
    report = run_cells(borrowing(), RecordStore(results_dir()), workers=workers)
    assert (report.done, report.exit_code()) == (2, 0) and toys.count("distill") == 1
    by_method = {record["method"]: record for record in content().values()}
    assert by_method["random"]["borrowed"] == "toy" and by_method["toy"]["borrowed"] is None
    assert run_cells(borrowing(), RecordStore(results_dir())).reused == 2


def test_bad_input_of_one_cell_does_not_stop_the_others(toys):
    report = run_cells(borrowing("zca"), RecordStore(results_dir()))
    assert report.exit_code() == 2 and report.done == 1 and len(report.problems) == 1
    assert "--set space=zca" in report.problems[0] and "random on digits" in report.problems[0]
    missing = Cell(DataName("digits"), "toy-hard-v1", (0,), Compute(), file=Path("/absent/set"))
    report = run_cells([missing, *grid(protocols=["toy-hard-v1"]).cells()], RecordStore(results_dir()))
    assert report.done == 4 and "/absent/set" in report.problems[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["tyo"]}, "did you mean toy"),
        ({"protocols": ["toy-hard-v2"]}, "did you mean toy-hard-v1"),
        ({"datasets": [DataName("digit")]}, "did you mean digits"),
        ({"budgets": [Budget(ipc=500)]}, "above the size of class"),
        ({"overrides": ["stepps=1"]}, "did you mean steps"),
        ({"recipe": "papper"}, "did you mean paper"),
        ({"networks": ["resnet19"]}, "did you mean"),
        ({"protocols": ["hard-small-v1"]}, "8 px"),
        ({"protocols": ["shipped-v1"], "networks": ["resnet19"]}, "did you mean"),
    ],
)
def test_bad_input_is_one_line_before_anything_runs(toys, changes, message):
    with pytest.raises(UsageError, match=message) as error:
        ddbench.sweep(grid(**changes))
    assert "\n" not in str(error.value)
    assert toys.count("distill") == 0 and not list(results_dir().rglob("*.json"))


def test_two_sweeps_on_one_folder_lose_and_double_nothing(toys, tmp_path):
    import toybox

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    words = ["nap=0.05"]
    running = [context.Process(target=toybox.sweep_apart, args=(dict(os.environ), words)) for _ in range(2)]
    for process in running:
        process.start()
    for process in running:
        process.join()
    assert [process.exitcode for process in running] == [0, 0]
    found = content()
    assert toys.count("distill") == 2 and toys.count("stage") == 1  # each set, each stage once
    ddbench.sweep(grid(overrides=words), results=tmp_path / "alone")
    assert found == content(tmp_path / "alone")


@pytest.mark.parametrize("part", ["synsets", "stages", "teachers"])
def test_a_corrupted_cache_entry_is_made_again(toys, tmp_path, part, caplog):
    ddbench.sweep(grid())
    for path in (cache_dir() / part).rglob("*.safetensors"):
        raw = bytearray(path.read_bytes())
        raw[-1] ^= 1
        path.write_bytes(raw)
    if part == "stages":
        for path in (cache_dir() / "synsets").glob("*.safetensors"):
            path.unlink()
    report = ddbench.sweep(grid(), results=tmp_path / "again")
    assert report.done == 8 and content(tmp_path / "again") == content() and "damaged" in caplog.text


def test_an_unwritable_results_folder_writes_nothing(toys, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotWrite, match="cannot") as error:
        ddbench.sweep(grid(), results=tmp_path / "file" / "results")
    assert "\n" not in str(error.value) and toys.count("distill") == 0
    assert (tmp_path / "file").read_text() == "" and not (cache_dir() / "synsets").exists()


@pytest.mark.parametrize("place", ["results", "synsets", "teachers", "stages"])
def test_a_full_disk_leaves_no_part_and_the_next_run_finishes(toys, tmp_path, monkeypatch, place):
    real, state = os.fsync, {"full": False, "seen": 0}

    def fsync(descriptor):
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        if f"/{place}/" in name and name.endswith(".tmp"):
            state["seen"] += 1
            if state["full"] or state["seen"] > (1 if place == "results" else 0):
                state["full"] = True
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(CannotWrite, match="No space left"):
        ddbench.sweep(grid())
    monkeypatch.undo()
    _again(monkeypatch, tmp_path)
    assert only_whole_files(tmp_path)
    stored = runs()
    report = ddbench.sweep(grid())
    assert report.exit_code() == 0 and report.done == 8 - len(stored) and report.reused == len(stored)
    ddbench.sweep(grid(), results=tmp_path / "alone")
    assert content() == content(tmp_path / "alone")


def _again(monkeypatch, tmp_path):
    """`undo` took the folders with it."""
    for name in ("CACHE", "DATA", "RESULTS"):
        monkeypatch.setenv(f"DDBENCH_{name}", str(tmp_path / "home" / name.lower()))
    monkeypatch.setenv("DDBENCH_DEVICE", "cpu")
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "toys")


def test_a_broken_record_is_named_and_kept(toys):
    ddbench.sweep(grid(seeds=(0,)))
    path = sorted(results_dir().rglob("*.json"))[0]
    path.write_text("{")
    with pytest.raises(UsageError, match=path.name):
        ddbench.sweep(grid())
    assert path.read_text() == "{"


def test_evaluate_tensors_from_anyones_own_loop():
    digits = load_dataset("digits")
    images = (digits.train.read()[:50].float() / 255 - digits.mean[0]) / digits.std[0]
    record = ddbench.evaluate(
        images, digits.train.labels[:50], dataset="digits", protocol="hard-v1", seeds=[4], name="mine"
    )
    (run,) = record.runs
    assert record.method == "mine" and record.imported == run.synset and run.seed == 4 and run.top1 > 0.5
    assert not results_dir().exists()
    with pytest.raises(UsageError, match="labels"):
        ddbench.evaluate(images, dataset="digits")
    with pytest.raises(UsageError, match="finite"):
        ddbench.evaluate(images * torch.nan, digits.train.labels[:50], dataset="digits")
    with pytest.raises(UsageError, match="student recipe"):
        ddbench.evaluate(images, digits.train.labels[:50], dataset="digits", protocol="shipped-v1")


def test_evaluate_adds_to_a_store_beside_a_broken_neighbour(toys, tmp_path):
    synset = ddbench.distill("toy", ipc=1, recipe="generic", out=tmp_path / "set.safetensors")
    broken = results_dir() / "digits" / "x" / "broken.json"
    broken.parent.mkdir(parents=True)
    broken.write_text("{")
    for seeds, stored in (((0,), 1), ((0, 1), 2)):
        record = ddbench.evaluate(
            tmp_path / "set.safetensors", protocol="toy-hard-v1", seeds=seeds, results=results_dir()
        )
        assert len(record.runs) == stored and record.runs[0].synset == synset.hash
    assert record.method == "toy" and record.synthesis_seed == 0


def test_overrides_as_a_mapping_or_as_words(toys):
    by_mapping = ddbench.distill(
        "toy", ipc=1, recipe="generic", overrides={"steps": 3, "flag": True, "sizes": [4], "space": "pixel"}
    )
    by_words = ddbench.distill(
        "toy", ipc=1, recipe="generic", overrides=["steps=3", "flag=true", "sizes=[4]", "space=pixel"]
    )
    assert by_mapping.hash == by_words.hash and toys.count("distill") == 1
    assert by_mapping.provenance.recipe["hyper"]["sizes"] == [4]
