"""Snapshots: the set on the way of its distillation, offered, kept, scored and recorded, without changing anything."""

import json
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner
from watching import StopAt, Stopped

import ddbench
from ddbench.api.planning import missing_work, plan
from ddbench.budget import Budget
from ddbench.cli import options
from ddbench.cli.app import app
from ddbench.data.registry import load_dataset
from ddbench.distillation.method import find_method, method_names
from ddbench.distillation.recipes import published, resolve
from ddbench.distillation.snapshots import checked_shares, even_shares, kept, steps_at
from ddbench.errors import JobFailed, UsageError
from ddbench.evaluation.evaluate import evaluate_seeds
from ddbench.evaluation.protocol import find_protocol
from ddbench.jobs import job as jobs
from ddbench.jobs.estimate import probed
from ddbench.jobs.job import DataName, DistillJob, cached_set, distill_job, finished
from ddbench.jobs.sweep import Sweep
from ddbench.records.record import Record, Snapshot
from ddbench.records.store import RecordStore, merge
from ddbench.report.frame import results_frame
from ddbench.settings import results_dir
from ddbench.synset.synset import load
from ddbench.training.checkpoints import Checkpoint
from ddbench.training.compute import Compute

HALVES = (0.0, 0.5)
OFFERING = ["dm", "datadam", "mtt", "tesla", "ftd", "datm", "ast", "sre2l", "cda", "sre2l++", "cvdd", "infer"]


def a_job(name="toy", seed=0, snapshots=(), **overrides):
    method = find_method(name)
    fields = {**published(method).generic, **method.toy, **({"steps": 4} if name == "toy" else {}), **overrides}
    budget = Budget() if method.budgets == ("all",) else Budget(ipc=method.toy_ipc)
    recipe = resolve(method, load_dataset("digits"), budget, recipe="generic", overrides=fields)
    return DistillJob.of(DataName("digits"), recipe, seed, Compute(), snapshots)


def grid(**changes):
    fields = {"methods": ["toy"], "datasets": [DataName("digits")], "budgets": [Budget(ipc=1)], "recipe": "generic"}
    fields |= {"protocols": ["toy-hard-v1"], "seeds": (0, 1)}
    changes["overrides"] = ["steps=4", *changes.get("overrides", [])]
    return Sweep(**{**fields, **changes})


def runs():
    return [run for record in RecordStore(results_dir()) for run in record.runs]


def sets_at(job):
    return {step: load(path) for step, path in kept(job.snapshot_folder)[0].items()}


def scored(synset, protocol, seed):
    digits = load_dataset("digits")
    return evaluate_seeds(synset, digits, find_protocol(protocol), seeds=(seed,), setting=Compute()).runs[0]


# which steps


def test_steps_are_the_nearest_to_the_shares_and_below_the_last():
    assert even_shares(4) == (0, 0.25, 0.5, 0.75)
    assert steps_at(even_shares(4), 20_000) == (0, 5_000, 10_000, 15_000)
    assert steps_at(even_shares(3), 10) == (0, 3, 7)
    assert steps_at((0.0, 0.1, 0.999), 5) == (0, 1, 4)  # 0.5 is rounded up, and 5 would be the finished set
    assert steps_at(even_shares(1000), 1) == (0,)
    assert checked_shares((0.5, 0.0, 0.5)) == (0.0, 0.5)


@pytest.mark.parametrize("shares", [(1.0,), (-0.1,), (0.5, 2.0), (float("nan"),)])
def test_a_share_outside_of_the_distillation_is_refused(shares):
    with pytest.raises(UsageError, match="share from 0 to below 1"):
        checked_shares(shares)


def test_the_flag_takes_a_count_or_shares():
    assert options.shares(None) == ()
    assert options.shares("4") == (0, 0.25, 0.5, 0.75)
    assert options.shares("0.5,") == options.shares("0.5") == (0.5,)
    assert options.shares("0.9,0,0.1") == (0, 0.1, 0.9)
    for word in ("0", "many", "0.1,x", "1.5", "1001"):
        with pytest.raises(UsageError) as error:
            options.shares(word)
        assert "\n" not in str(error.value)


# what methods offer


def test_the_methods_that_learn_step_by_step_say_so():
    assert {name for name in method_names() if find_method(name).snapshots} == set(OFFERING)


@pytest.mark.parametrize("name", OFFERING)
def test_snapshots_change_nothing_and_are_whole_sets(name):
    plain = distill_job(a_job(name))
    a_job(name).path.unlink()
    job = a_job(name, snapshots=HALVES)
    made = distill_job(job)
    total = job.resolved().hyper.iterations
    assert made.hash == plain.hash and job.key == a_job(name).key
    found = sets_at(job)
    assert list(found) == [0, int(0.5 * total + 0.5)] and kept(job.snapshot_folder)[1] == total
    assert len({made.hash, *(synset.hash for synset in found.values())}) == 3
    for synset in found.values():
        assert synset.header().keys() == made.header().keys() and synset.per_class() == made.per_class()
        assert synset.provenance.recipe_hash == job.resolved().hash
        assert (synset.targets and synset.targets.kind) == (made.targets and made.targets.kind)
    assert scored(found[0], "hard-v1", 0).status == "ok"


SHORTER = [name for name in OFFERING if name in ("dm", "datadam", "mtt", "tesla", "ftd", "datm", "ast")]


@pytest.mark.parametrize("name", SHORTER)
def test_a_snapshot_is_the_set_of_a_run_with_so_many_iterations(name):
    """Nothing in these methods depends on how many iterations there will be."""
    step = {"iterations": 2} if name not in ("dm", "datadam") else {"iterations": 10}
    job = a_job(name, snapshots=(step["iterations"] / find_method(name).toy["iterations"],))
    distill_job(job)
    shorter = distill_job(a_job(name, **step))
    (found,) = sets_at(job).values()
    assert found.hash == shorter.hash


@pytest.mark.parametrize("name", ["random", "herding", "kcenter", "whole"])
def test_a_method_that_learns_nothing_has_none(name):
    job = a_job(name, snapshots=HALVES)
    assert job.snapshots == ()
    distill_job(job)
    assert not job.snapshot_folder.exists() and finished(job) is not None


def test_nobody_asks_nothing_is_made(toys):
    distill_job(a_job())
    assert toys.count("set") == 1 and not a_job().snapshot_folder.exists()


def test_a_dry_run_keeps_none(toys):
    probed(a_job(snapshots=HALVES))
    assert not a_job().snapshot_folder.exists()
    before = toys.count("set")
    distill_job(a_job())
    assert toys.count("set") == before + 1 and not a_job().snapshot_folder.exists()


def test_a_method_that_promises_and_does_not_offer_fails(toys, monkeypatch):
    import toybox

    monkeypatch.setattr("ddbench.distillation.task.Task.snapshot", lambda *_: None)
    assert toybox.METHOD.snapshots
    with pytest.raises(JobFailed, match="did not offer"):
        distill_job(a_job(snapshots=HALVES))


# kept in the cache


@pytest.mark.parametrize("last", [1, 2, 3])
def test_a_stopped_distillation_has_the_same_snapshots(toys, last, tmp_path, monkeypatch):
    job = a_job(snapshots=(0.0, 0.25, 0.5, 0.75))
    whole, wanted = distill_job(job), sets_at(job)
    monkeypatch.setenv("DDBENCH_CACHE", str(tmp_path / "another"))
    with pytest.raises(Stopped):
        distill_job(job, StopAt(last, "drifting"))
    begun = toys.count("step")
    assert distill_job(job).hash == whole.hash and toys.count("step") == begun + 4 - last
    found = sets_at(job)
    assert {step: synset.hash for step, synset in found.items()} == {step: s.hash for step, s in wanted.items()}


def test_a_run_that_was_stopped_without_snapshots_begins_anew_for_them(toys):
    with pytest.raises(Stopped):
        distill_job(a_job(), StopAt(3, "drifting"))
    distill_job(a_job(snapshots=HALVES))
    assert toys.count("step") == 3 + 4 and list(sets_at(a_job())) == [0, 2]


def test_a_cached_set_is_made_again_only_for_snapshots_that_are_not_there(toys):
    first = distill_job(a_job())
    seconds, stamp = first.provenance.seconds, a_job().path.stat().st_mtime_ns
    assert finished(a_job(snapshots=HALVES)) is None and cached_set(a_job(snapshots=HALVES)) is not None
    again = distill_job(a_job(snapshots=HALVES))
    assert again.hash == first.hash and again.provenance.seconds == seconds
    assert a_job().path.stat().st_mtime_ns == stamp  # what it cost is what it cost without
    assert toys.count("distill") == 2
    for shares in (HALVES, (0.5,), ()):
        distill_job(a_job(snapshots=shares))
    assert toys.count("distill") == 2
    distill_job(a_job(snapshots=(0.25,)))
    assert toys.count("distill") == 3 and list(sets_at(a_job())) == [0, 1, 2]
    assert not list((a_job().path.parent.parent / "checkpoints").glob("*.safetensors"))


def test_another_set_that_comes_out_takes_the_old_ones_place(toys, caplog):
    """On a GPU two distillations differ: the set must be the one that its snapshots are of."""
    old = replace(distill_job(a_job()), images=torch.zeros(10, 1, 8, 8))
    jobs.save(old, a_job().path)
    made = distill_job(a_job(snapshots=HALVES))
    assert made.hash != old.hash and cached_set(a_job()).hash == made.hash
    assert "another set came out" in caplog.text


def test_what_snapshots_take_is_no_part_of_what_the_set_cost(toys, monkeypatch):
    from ddbench.distillation import snapshots

    clock = iter(range(0, 1000, 100))
    monkeypatch.setattr(snapshots, "perf_counter", lambda: next(clock))
    made = distill_job(a_job(snapshots=HALVES))  # 100 s each by this clock
    assert -200 <= made.provenance.seconds < -190


def test_no_stage_that_distils_keeps_any(tmp_path):
    from ddbench.distillation.snapshots import Snapshots
    from ddbench.distillation.task import Task

    keeper = Snapshots(tmp_path / "kept", HALVES, lambda synset, *_: synset)
    task = Task(load_dataset("digits"), Budget(ipc=1), "convnet", 0, torch.device("cpu"), snapshots=keeper)
    with task.apart(1, Checkpoint(None)):
        assert task.snapshot_steps(4) == ()
        task.snapshot(0, 4, lambda: pytest.fail("made"))
    assert task.snapshot_steps(4) == (0, 2)


# scored and recorded


def alone(step, seed):
    """The accuracy of a student on the snapshot, trained by itself."""
    return scored(load(kept(a_job().snapshot_folder)[0][step]), "toy-hard-v1", seed)


@pytest.mark.parametrize("workers", [1, 2])
def test_every_run_has_its_accuracies_on_the_way(toys, workers):
    report = ddbench.sweep(grid(snapshots=HALVES), workers=workers)
    assert (report.done, report.snapshots, report.exit_code()) == (2, 4, 0)
    for run in runs():
        assert [each.step for each in run.snapshots] == [0, 2, 4] and run.snapshots[-1].top1 == run.top1
        for each in run.snapshots[:-1]:
            assert each.top1 == alone(each.step, run.seed).top1
    steps = toys.count("step")
    again = ddbench.sweep(grid(snapshots=HALVES), workers=workers)
    assert (again.done, again.snapshots, again.reused, toys.count("step")) == (0, 0, 2, steps)


def test_they_are_added_to_runs_that_are_recorded_and_change_nothing_else(toys):
    ddbench.sweep(grid())
    before = runs()
    cell = grid(snapshots=HALVES).cells()[0]
    store = RecordStore(results_dir())
    planned = plan(cell, store)
    assert (planned.missing, planned.snapshots, len(planned.sets())) == ((), 4, 1)
    assert missing_work([cell], store) == 5
    report = ddbench.sweep(grid(snapshots=HALVES))
    assert (report.done, report.snapshots, toys.count("distill")) == (0, 4, 2)
    after = runs()
    assert [run.identity() for run in after] == [run.identity() for run in before]
    assert [run.model_copy(update={"snapshots": None}) for run in after] == before
    ddbench.sweep(grid(snapshots=(0.0, 0.25, 0.5)))
    assert [[each.step for each in run.snapshots] for run in runs()] == [[0, 1, 2, 4]] * 2
    assert missing_work([cell], store) == 0
    calls = toys.path.read_text()
    ddbench.sweep(grid())  # without the flag nothing is lost
    assert toys.path.read_text() == calls and all(run.snapshots for run in runs())


def test_what_is_recorded_needs_no_cache(toys, tmp_path, monkeypatch):
    ddbench.sweep(grid(snapshots=HALVES))
    monkeypatch.setenv("DDBENCH_CACHE", str(tmp_path / "another"))
    report = ddbench.sweep(grid(snapshots=HALVES))
    assert (report.done, report.reused, toys.count("distill")) == (0, 2, 1)


def test_a_shipped_recipe_is_the_snapshots_own(toys):
    report = ddbench.sweep(grid(snapshots=HALVES, protocols=["shipped-v1"], overrides=["ships=soft"], seeds=(0,)))
    (run,) = runs()
    assert report.snapshots == 2 and [each.step for each in run.snapshots] == [0, 2, 4]


def test_a_student_that_diverges_on_a_snapshot_is_a_failure_and_no_point(toys, monkeypatch):
    real = jobs.evaluate_seeds

    def breaks(synset, *args, **more):
        record = real(synset, *args, **more)
        if "after 2 of" not in (synset.provenance.note or ""):
            return record
        (run,) = record.runs
        gone = {"top1": None, "per_class": None, "status": "failed", "reason": "loss is not finite"}
        return record.model_copy(update={"runs": [run.model_copy(update=gone)]})

    monkeypatch.setattr(jobs, "evaluate_seeds", breaks)
    report = ddbench.sweep(grid(snapshots=HALVES, seeds=(0,)))
    assert report.exit_code() == 1 and report.failed[0][1] == "loss is not finite" and "step 2" in report.failed[0][0]
    assert [each.step for each in runs()[0].snapshots] == [0, 4] and runs()[0].status == "ok"


def test_methods_without_snapshots_say_so_in_a_line(toys):
    asked = replace(grid(methods=["random", "toy"], snapshots=HALVES, seeds=(0,)), overrides=())
    report = ddbench.sweep(asked)
    assert report.exit_code() == 0 and report.skipped == [
        "random has no snapshots: it does not learn its images step by step"
    ]
    assert {record.method: bool(record.runs[0].snapshots) for record in RecordStore(results_dir())} == {
        "random": False,
        "toy": True,
    }


def test_a_distillation_that_fails_the_second_time_is_told(toys, tmp_path):
    asked = {"overrides": ["fail=marked"], "seeds": (0,)}
    ddbench.sweep(grid(**asked))
    (tmp_path / "toy.mark").touch()
    report = ddbench.sweep(grid(**asked, snapshots=HALVES))
    assert report.exit_code() == 1 and "snapshots" in report.failed[0][0]
    assert [run.status for run in runs()] == ["ok"]


def test_two_records_unite_their_snapshots(toys):
    ddbench.sweep(grid(seeds=(0,)))
    (record,) = RecordStore(results_dir())
    run = record.runs[0]

    def having(*points):
        own = [Snapshot(step=step, top1=top1) for step, top1 in points]
        return record.model_copy(update={"runs": [run.model_copy(update={"snapshots": own, "top1": 0.001})]})

    merged = merge(merge(record, having((4, 0.1), (9, 0.3))), having((0, 0.2), (4, 0.9)))
    (found,) = merged.runs
    assert [(each.step, each.top1) for each in found.snapshots] == [(0, 0.2), (4, 0.1), (9, 0.3)]
    assert found.top1 == run.top1 and Record.from_json(merged.to_json(), "x") == merged


# shown


def test_cells_hold_the_curves_by_seeds(toys):
    ddbench.sweep(grid(snapshots=HALVES, synthesis_seeds=(0, 1)))
    ddbench.sweep(grid(seeds=(0, 1, 2)))
    (row,) = results_frame(RecordStore(results_dir())).to_dict("records")
    assert row["n"] == 5 and row["snapshots"].keys() == {(0, 0), (0, 1), (1, 0), (1, 1)}
    for (synthesis, seed), curve in row["snapshots"].items():
        assert list(curve) == [0, 2, 4] and curve[4] == row["samples"][synthesis, seed]


def test_the_commands_speak_of_them(toys):
    words = ["run", "toy", "--ipc", "1", "--recipe", "generic", "--set", "steps=4", "--seeds", "1"]
    words += ["--protocol", "toy-hard-v1"]
    assert CliRunner().invoke(app, words).exit_code == 0
    dry = CliRunner().invoke(app, [*words, "--snapshots", "2", "--dry-run"])
    assert "again for its snapshots" in dry.stdout and "2 trainings on snapshots" in dry.stdout
    assert "To do: 1 set, 2 trainings" in dry.stdout
    made = CliRunner().invoke(app, [*words, "--snapshots", "2"])
    assert made.exit_code == 0 and "2 snapshots scored" in made.stderr
    (path,) = RecordStore(results_dir()).paths()
    assert "--snapshots 0,0.5" in CliRunner().invoke(app, ["show", str(path)]).stdout
    dry = CliRunner().invoke(app, [*words, "--snapshots", "2", "--dry-run"])
    assert "with its snapshots" in dry.stdout and "all 1 training is recorded" in dry.stdout
    rows = json.loads(CliRunner().invoke(app, ["table", "--json"]).stdout)
    assert [point[:3] for point in rows[0]["snapshots"]] == [[0, 0, 0], [0, 0, 2], [0, 0, 4]]
    bad = CliRunner().invoke(app, [*words, "--snapshots", "1.5"])
    assert bad.exit_code == 2 and len(bad.stderr.strip().splitlines()) == 1
    none = CliRunner().invoke(app, ["run", "random", "--ipc", "1", "--seeds", "1", "--snapshots", "2", "--dry-run"])
    assert "random has no snapshots" in none.stdout
