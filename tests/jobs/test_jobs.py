"""Jobs: sets are kept by key, made once, made again when damaged; the pool survives what happens to its workers."""

import logging
import multiprocessing
import os
import time
from dataclasses import replace

import pytest
import torch

from ddbench.budget import Budget
from ddbench.data.registry import load_dataset
from ddbench.distillation.method import find_method
from ddbench.distillation.recipes import resolve
from ddbench.errors import CannotWrite, JobFailed, NotScored, UsageError
from ddbench.evaluation.protocol import find_protocol
from ddbench.evaluation.reference_teacher import reference_teacher
from ddbench.jobs.job import DataName, DistillJob, EvaluateJob, check_balance, check_budget, distill_job, evaluate_job
from ddbench.jobs.pool import Outcome, Work, attempt, run_all
from ddbench.synset.synset import load
from ddbench.system import code
from ddbench.training.compute import Compute


def job(seed=0, ipc=1, compute=None, **overrides):
    recipe = resolve(find_method("toy"), load_dataset("digits"), Budget(ipc=ipc), recipe="generic", overrides=overrides)
    return DistillJob.of(DataName("digits"), recipe, seed, compute or Compute())


def test_the_key_separates_what_makes_a_difference(toys, monkeypatch):
    base = job().key
    others = [job(1), job(ipc=2), job(steps=7), job(compute=Compute(threads=2)), job(compute=Compute(device="cuda"))]
    keys = {base, *(other.key for other in others)}
    monkeypatch.setattr(code, "of_method", lambda name: "edited")
    keys.add(job().key)
    monkeypatch.setattr(code, "SYNTHESIS", 2)
    keys.add(job().key)
    assert len(keys) == 8
    monkeypatch.undo()
    assert replace(job(), source="another table").key == base


def test_a_set_is_made_once_with_its_provenance(toys):
    made = distill_job(job())
    again = distill_job(job())
    assert toys.count("distill") == 1 and made.hash == again.hash and again.provenance == made.provenance
    facts = made.provenance
    recipe = job().resolved()
    assert (facts.method, facts.seed, facts.recipe_hash, facts.note) == ("toy", 0, recipe.hash, recipe.source)
    assert facts.recipe == recipe.to_json() and facts.seconds > 0
    assert facts.environment["device"] == "cpu" and facts.environment["threads"] == 1


def test_equal_seeds_equal_sets_whatever_is_cached(toys, tmp_path, monkeypatch):
    cold = distill_job(job())
    job().path.unlink()
    warm = distill_job(job())  # the stage is there now
    monkeypatch.setenv("DDBENCH_CACHE", str(tmp_path / "another"))
    torch.rand(7)
    elsewhere = distill_job(job())
    assert cold.hash == warm.hash == elsewhere.hash != distill_job(job(1)).hash
    assert toys.count("stage") == 2 and toys.count("distill") == 4


@pytest.mark.parametrize("damage", [b"", b"hello", None])
def test_a_damaged_set_is_made_again(toys, caplog, damage):
    made = distill_job(job())
    raw = job().path.read_bytes()
    job().path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]) if damage is None else damage)
    with caplog.at_level(logging.WARNING, "ddbench"):
        assert distill_job(job()).hash == made.hash
    assert "damaged" in caplog.text and toys.count("distill") == 2 and load(job().path).hash == made.hash


def test_a_budget_above_a_class_is_one_line(toys):
    with pytest.raises(UsageError, match=r"IPC 9999 is above the size of class '\d' of digits: 1\d\d") as error:
        distill_job(job(ipc=9999))
    assert "\n" not in str(error.value) and toys.count("distill") == 0
    counts = load_dataset("digits").train.labels.bincount()
    check_budget(job(ipc=int(counts.min())).resolved(), load_dataset("digits"))
    with pytest.raises(UsageError):
        check_budget(job(ipc=int(counts.min()) + 1).resolved(), load_dataset("digits"))


def test_balance_is_checked_where_it_is_declared(toys):
    made, recipe = distill_job(job()), job().resolved()
    check_balance(made, recipe)
    lopsided = replace(made, classes=torch.zeros(10, dtype=torch.int64))
    with pytest.raises(JobFailed, match="per class"):
        check_balance(lopsided, recipe)
    check_balance(lopsided, replace(recipe, method=replace(recipe.method, balanced=False)))


def evaluation(seed=0, protocol="toy-hard-v1", **more):
    return EvaluateJob(DataName("digits"), job().path, protocol, None, (seed,), Compute(), **more)


def test_an_evaluation_gives_a_record_with_one_run(toys):
    made = distill_job(job())
    record = evaluate_job(evaluation(seed=3))
    (run,) = record.runs
    assert (run.seed, run.status, run.synset, run.teacher, run.steps) == (3, "ok", made.hash, None, 12)
    assert run.top1 == pytest.approx(
        sum(a * int((load_dataset("digits").test.labels == c).sum()) for c, a in enumerate(run.per_class)) / 359
    )
    assert run.top5 is None and record.synsets[made.hash].images == 10
    assert evaluate_job(evaluation(seed=3)).runs[0].top1 == run.top1
    assert evaluate_job(evaluation(seed=4)).runs[0].final_loss != run.final_loss
    assert record.recipe_hash == job().resolved().hash and record.synthesis_seed == 0 and record.imported is None


def test_a_soft_protocol_names_its_teacher(toys):
    distill_job(job())
    record = evaluate_job(evaluation(protocol="toy-soft-v1"))
    ((key, facts),) = record.teachers.items()
    assert record.runs[0].teacher == key and facts.reference and 0.1 < facts.accuracy <= 1
    (size,) = (f.bytes["external"] for f in record.synsets.values())
    assert size > 0


def test_a_set_without_a_recipe_is_not_scored_as_shipped(toys):
    distill_job(job())
    with pytest.raises(NotScored, match="no student recipe"):
        evaluate_job(evaluation(protocol="shipped-v1"))


def raises(error):
    def call(job, *_):
        raise error

    return call


def test_what_a_job_raises_becomes_an_outcome(caplog):
    assert attempt(lambda x: x + 1, 2) == Outcome(3)
    assert attempt(raises(JobFailed("diverged")), 0) == Outcome(failure="diverged")
    assert attempt(raises(UsageError("wrong")), 0) == Outcome(usage="wrong")
    assert attempt(raises(NotScored("n/a")), 0) == Outcome(skipped="n/a")
    assert attempt(raises(MemoryError()), 0) == Outcome(failure="out of memory")
    assert attempt(raises(ValueError("two\nlines")), 0) == Outcome(failure="ValueError: two lines")
    assert "Traceback" in caplog.text  # a bug is not swallowed
    for error in (CannotWrite("full"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            attempt(raises(error), 0)


def gather(work, workers):
    import toybox

    found = []

    def done(work, outcome):
        found.append((work.job, outcome))
        return [Work(toybox.double, outcome.value)] if outcome.value == 4 else []

    run_all(work, done, workers=workers)
    return sorted(found, key=lambda pair: str(pair[0]))


@pytest.mark.parametrize("workers", [1, 2])
def test_work_may_lead_to_work(toys, workers):
    import toybox

    found = gather([Work(toybox.double, n) for n in (1, 2, 3)], workers)
    assert [(job, outcome.value) for job, outcome in found] == [(1, 2), (2, 4), (3, 6), (4, 8)]


def test_workers_see_the_environment_of_now(toys, monkeypatch):
    import toybox

    pids = set()
    for value in ("first", "second"):
        monkeypatch.setenv("DDBENCH_TEST_WORD", value)
        for _, outcome in gather([Work(toybox.surroundings, "DDBENCH_TEST_WORD") for _ in range(2)], 2):
            assert outcome.value[0] == value
            pids.add(outcome.value[1])
    assert os.getpid() not in pids


def test_a_death_is_blamed_on_the_job_that_causes_it(toys, caplog):
    """The neighbour of a job that kills its worker three times is not dragged along."""
    import toybox

    found = gather([Work(toybox.die, 0), Work(toybox.slow_double, 5), Work(toybox.slow_double, 6)], 2)
    assert [(job, outcome.value, outcome.failure) for job, outcome in found] == [
        (0, None, "its worker process died"),
        (5, 10, None),
        (6, 12, None),
    ]
    assert "tried again" in caplog.text


def test_a_full_disk_in_a_worker_ends_the_run_and_the_workers(toys):
    import toybox

    with pytest.raises(CannotWrite, match="No space"):
        gather([Work(toybox.full_disk, 0), Work(toybox.slow_double, 1)], 2)
    deadline = time.monotonic() + 10
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert multiprocessing.active_children() == []


def test_facts_of_a_teacher_that_is_credited_too_are_kept(toys, monkeypatch):
    """A method that says with what weight a network labels, and credits it, has both in the set's provenance."""
    import toybox

    digits = load_dataset("digits")
    recipe = find_protocol("toy-soft-v1").reference(digits)
    one, two = (reference_teacher(recipe, digits, torch.device("cpu"), seed=seed) for seed in (0, 1))

    def distill(task, hyper):
        task.teachers[one.hash] = {"label_weight": 0.5}
        task.teachers["f" * 64] = {"note": "not credited"}
        for name, teacher in (("one", one), ("two", two)):
            task.log_teacher(name, lambda teacher=teacher: teacher, role="teacher")
        return toybox.distill(task, hyper)

    monkeypatch.setattr(toybox, "METHOD", replace(toybox.METHOD, distill=distill))
    facts = distill_job(job()).provenance.teachers
    assert set(facts) == {one.hash, two.hash, "f" * 64} and facts["f" * 64] == {"note": "not credited"}
    assert facts[one.hash].pop("accuracy") > 0 and facts[two.hash].pop("accuracy") > 0
    plain = {"role": "teacher", "network": one.network}
    assert facts[one.hash] == {**plain, "name": "one", "label_weight": 0.5} and facts[two.hash] == {
        **plain,
        "name": "two",
    }
