"""Estimates against the truth: sleeps on a clock that knows nothing else, and a student that is really trained."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch

from ddbench import plugins
from ddbench.budget import Budget
from ddbench.data.registry import load_dataset
from ddbench.distillation.method import Hyper, Method
from ddbench.distillation.recipes import resolve
from ddbench.distillation.task import Task
from ddbench.errors import JobFailed, NotDefined, UsageError
from ddbench.evaluation.evaluate import evaluate_seeds
from ddbench.evaluation.from_tensors import from_tensors
from ddbench.evaluation.protocol import find_protocol
from ddbench.jobs import estimate
from ddbench.jobs.estimate import Estimate, Estimator, probed
from ddbench.jobs.job import DataName, DistillJob, distill_job
from ddbench.synset.synset import SynSet
from ddbench.system.rank import as_one_of, count
from ddbench.training.compute import Compute
from ddbench.training.recipe import StudentRecipe

DIGITS = DataName("digits")


class Sleepy(Hyper):
    iterations: int = 100
    pause: float = 0.02
    before: float = 0.0
    staged: int = 0
    entries: int = 0
    strict: bool = True
    needs: Literal["anything", "all", "what is defined"] = "anything"


def distill(task: Task, hyper: Sleepy) -> SynSet:
    def build() -> tuple[dict, dict]:
        steps = []
        for step in task.loop(0, hyper.staged, "experts"):
            time.sleep(hyper.pause)
            steps.append(step)
        return {"nothing": torch.zeros(1)}, {"steps": len(steps)}

    space = task.space("normalised")
    time.sleep(hyper.before)
    if hyper.staged:
        made = task.cached("experts", {"staged": hyper.staged}, build)
        if hyper.needs == "all" and made.info["steps"] < hyper.staged:
            raise JobFailed("the experts are not trained")
    if hyper.needs == "what is defined":
        raise NotDefined("no room for one image")
    if hyper.entries:
        fill(task, hyper)
    for _ in task.loop(0, hyper.iterations, "sleeping"):
        time.sleep(hyper.pause)
    indices = torch.stack([places[0] for places in task.class_indices()])
    return task.synset(space=space, classes=torch.arange(10), indices=indices)


def fill(task: Task, hyper: Sleepy) -> None:
    """Fill a stage entry by entry, until it says that all are there."""
    stage = task.open_cache("entries", {})
    stage.save("another", {})
    stage.drop("another")
    while missing := {f"{n:04d}" for n in range(hyper.entries)} - set(stage.entries()):
        with stage.locked():
            for _, name in zip(task.loop(0, len(missing), "filling"), sorted(missing), strict=hyper.strict):
                time.sleep(hyper.pause)
                stage.save(name, {"x": torch.full((2,), float(name))})
    product = stage.load(f"{hyper.entries - 1:04d}")
    assert product is not None and product.tensors["x"].tolist() == [hyper.entries - 1] * 2


def eat(task: Task, hyper: Sleepy) -> SynSet:
    held = []
    for _ in task.loop(0, hyper.iterations, "eating"):
        held.append(torch.ones(4_000_000) if len(held) < 4 else None)
        time.sleep(hyper.pause)
    assert len(held) < hyper.iterations, "the probe goes on to the end"
    raise JobFailed("it ate too much")


def fail(task: Task, hyper: Sleepy) -> SynSet:
    for _ in task.loop(0, 3, "a short loop"):
        pass
    raise JobFailed("diverges at once")


METHODS = {name: Method(name, Sleepy, call) for name, call in (("sleepy", distill), ("hungry", eat), ("broken", fail))}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DDBENCH_CACHE", str(tmp_path / "cache"))
    find = plugins.find
    monkeypatch.setattr(plugins, "find", lambda group, name: METHODS.get(name) or find(group, name))
    monkeypatch.setattr(estimate, "PROBE_SECONDS", 0.6)
    return tmp_path / "cache"


def job(method: str = "sleepy", **hyper: float | str) -> DistillJob:
    resolved = resolve(METHODS[method], load_dataset("digits"), Budget(1), overrides=hyper)
    return DistillJob.of(DIGITS, resolved, 0, Compute())


def near(found: Estimate, truth: float) -> None:
    assert found.seconds == pytest.approx(truth, rel=1e-6), found


@pytest.mark.usefixtures("slept")
def test_a_loop_is_extrapolated_and_nothing_is_written(own_cache: Path) -> None:
    started = time.perf_counter()
    found = probed(job(iterations=50_000, pause=0.02, before=0.2))
    assert time.perf_counter() - started < 10
    near(found, 1000.2)
    assert found.basis.startswith("sleeping: 50,000 iterations")
    assert not list(own_cache.rglob("*.safetensors"))


@pytest.mark.usefixtures("slept")
def test_a_short_loop_is_timed_whole() -> None:
    found = probed(job(iterations=10, pause=0.02, before=0.3))
    near(found, 0.5)
    assert "whole" in found.basis


@pytest.mark.usefixtures("slept")
def test_a_stage_that_is_missing_is_timed_with_what_follows(own_cache: Path) -> None:
    found = probed(job(staged=1000, pause=0.02, iterations=500))
    near(found, 30)
    assert "experts: 1,000" in found.basis and "; sleeping: 500" in found.basis and "left out" not in found.basis
    probed(job(staged=5, pause=0.001, iterations=5))
    assert not own_cache.exists() or not list(own_cache.rglob("*.*"))


def test_several_processes_have_stages_of_their_own() -> None:
    alone = job(staged=1000, pause=0.001, iterations=5)
    together = replace(alone, compute=Compute(devices=2))
    distill_job(alone)
    assert "experts" not in probed(replace(alone, seed=1)).basis
    found = probed(together)
    assert "experts: 1,000" in found.basis and found.basis.endswith("; timed in one process, not in 2")
    with as_one_of(2):
        distill_job(together)
    assert count() == 1 and "experts" not in probed(replace(together, seed=1)).basis


@pytest.mark.usefixtures("slept")
def test_where_the_method_cannot_go_on_from_half_done_work_the_estimate_ends() -> None:
    found = probed(job(staged=1000, pause=0.02, iterations=500, needs="all"))
    near(found, 20)
    assert found.basis.endswith(
        "what follows is left out: it needs what was cut short (JobFailed: the experts are not trained)"
    )
    found = probed(job(staged=5, pause=0.001, iterations=5, needs="all"))
    assert "whole" in found.basis


@pytest.mark.parametrize("staged", [0, 1000])
def test_what_a_definition_excludes_is_no_estimate(staged: int) -> None:
    excluded = job(staged=staged, needs="what is defined")
    with pytest.raises(NotDefined, match="no room"):
        probed(excluded)
    found = Estimator(Compute()).of_set(excluded.resolved(), load_dataset("digits"), job=excluded)
    assert found.excluded and found.seconds is None and "no room" in found.basis


def test_a_method_that_fails_before_anything_was_cut_short_fails() -> None:
    with pytest.raises(JobFailed, match="at once"):
        probed(job("broken"))
    broken = job("broken")
    found = Estimator(Compute()).of_set(broken.resolved(), load_dataset("digits"), job=broken)
    assert not found.excluded and found.seconds is None and "at once" in found.basis


def test_seeds_of_a_recipe_share_a_probe() -> None:
    told: list[str] = []
    estimator, digits = Estimator(Compute(), told.append), load_dataset("digits")
    first, second = (
        estimator.of_set(each.resolved(), digits, job=each)
        for each in (job(iterations=3, pause=0.001), replace(job(iterations=3, pause=0.001), seed=1))
    )
    assert first is second and len(told) == 1


@pytest.mark.usefixtures("slept")
@pytest.mark.parametrize("strict", [True, False])
def test_a_stage_of_entries_keeps_them_in_memory(strict: bool, own_cache: Path) -> None:
    """The stage asks for the rest of its entries again and again, or fails: either way the probe ends in it."""
    found = probed(job(entries=1000, pause=0.02, iterations=5, strict=strict))
    near(found, 20)
    assert "'entries' only" in found.basis
    found = probed(job(entries=3, pause=0.001, iterations=5))
    assert "whole" in found.basis
    assert not list(own_cache.rglob("*.safetensors"))
    short = job(entries=3, pause=0.001, iterations=5)
    distill_job(short)
    short.path.unlink()
    entries = list(own_cache.rglob("stages/**/*.safetensors"))
    probed(short)
    assert len(entries) == 3 and list(own_cache.rglob("stages/**/*.safetensors")) == entries


def test_the_memory_of_a_loop_is_seen() -> None:
    found = probed(job("hungry", iterations=1000, pause=0.05))
    # 64 MB are held; less shows where the process uses pages again that it had freed before
    assert found.peak_memory is None or 24e6 < found.peak_memory < 200e6


def test_a_student_is_estimated_within_a_factor_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """In seconds of the processor, which others who use it do not make longer."""
    digits, compute = load_dataset("digits"), Compute()
    images = torch.randn(50, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    synset = from_tensors(images, torch.arange(50) % 10, digits)
    network = "convnet-d2-w16"
    found = Estimator(compute).of_student(None, digits, "hard-v1", network, synset=synset)
    started = time.process_time()
    evaluate_seeds(synset, digits, find_protocol("hard-v1"), seeds=(0,), setting=compute, network=network)
    truth = time.process_time() - started
    assert found.seconds is not None and truth / 2 < found.seconds < 2 * truth


def student(protocol: str, synset: SynSet | None = None) -> Estimate:
    recipe = resolve(METHODS["sleepy"], load_dataset("digits"), Budget(1))
    return Estimator(Compute()).of_student(recipe, load_dataset("digits"), protocol, synset=synset)


def test_what_is_left_out_or_cannot_be_known_says_so() -> None:
    soft = student("soft-v1")
    assert soft.seconds is not None and "labels" in soft.basis and "without the reference teacher's" in soft.basis
    unknown = student("shipped-v1")
    assert unknown.seconds is None and "not known" in unknown.basis and not unknown.excluded
    with pytest.raises(UsageError, match="covers images"):
        student("hard-small-v1")


def test_a_set_that_is_there_tells_its_own_recipe() -> None:
    digits = load_dataset("digits")
    bare = from_tensors(torch.zeros(20, 1, 8, 8), torch.arange(20) % 10, digits)
    assert student("shipped-v1", bare).excluded
    own = StudentRecipe(
        network="convnet-d1-w8", optimizer={"name": "sgd", "lr": 0.1}, loss={"name": "soft-ce"}, labels="targets",
        epochs=3, batch=10,
    )  # fmt: skip
    known = student("shipped-v1", replace(bare, student_recipe=own))
    assert known.seconds is not None and "without what teachers in the set" in known.basis
