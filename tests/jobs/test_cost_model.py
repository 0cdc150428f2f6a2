"""The cost model: steps against what methods really do, sums against hand calculations, probes kept and reused."""

import pytest
import torch
from ddbench.methods.engines.decoupled import recover
from ddbench.methods.engines.trajectory import experts

from ddbench import plugins
from ddbench.budget import Budget
from ddbench.data.registry import describe, load_dataset
from ddbench.distillation.method import find_method, method_names
from ddbench.distillation.recipes import resolve
from ddbench.distillation.task import Task
from ddbench.errors import NotDefined, UsageError
from ddbench.jobs import cost_model
from ddbench.jobs.cost_model import CostModel, Line, Work, plan_of, shown_as, stand_in, student_work
from ddbench.jobs.estimate import foresee
from ddbench.jobs.probe import Enough, Peek
from ddbench.report.papers import OWN, find
from ddbench.training.compute import Compute
from ddbench.training.recipe import StudentRecipe

CPU = torch.device("cpu")


def toy_recipe(name, ipc=1, **changes):
    method = find_method(name)
    return resolve(method, load_dataset("digits"), Budget(ipc), recipe="generic", overrides={**method.toy, **changes})


def plan(name, ipc=1, **changes):
    found = plan_of(toy_recipe(name, ipc, **changes), load_dataset("digits"), Compute())
    assert found is not None
    return found


def run(name, ipc=1, **changes):
    recipe = toy_recipe(name, ipc, **changes)
    task = Task(load_dataset("digits"), recipe.budget, recipe.network, 0, CPU)
    return task, recipe.method.distill(task, recipe.hyper)


def test_every_method_with_figures_of_its_own_says_its_cost():
    own = {figure.method for figure in find(protocol=OWN) if not figure.outside}
    assert own <= set(plugins.names(cost_model.GROUP)) <= set(method_names())


def test_a_students_steps():
    recipe = StudentRecipe(
        network="mlp", optimizer={"name": "sgd", "lr": 0.1}, augmentations=[{"name": "flip"}], epochs=7, batch=8
    )
    training, asked = student_work(recipe, "mlp", 20, ["lenet"])
    assert (training.kind, training.steps, training.images, training.network) == ("train", 7 * 20 // 8, 8, "mlp")
    assert training.shown == ('{"name":"flip"}',)
    assert (asked.kind, asked.steps, asked.images, asked.network) == ("forward", 17, 8, "lenet")


@pytest.mark.parametrize(("name", "passes"), [("mtt", 1), ("tesla", 1), ("ftd", 2)])
def test_trajectories_take_the_steps_that_are_foreseen(name, passes, monkeypatch):
    more = {"ftd": {"gsam_alpha": 0.1, "ema_decay": 0.9}}.get(name, {})
    calls, gradients = [], experts.step.__globals__["gradients"]
    monkeypatch.setitem(experts.step.__globals__, "gradients", lambda *args: calls.append(1) or gradients(*args))
    expert, inner, second, *_ = plan(name, experts=2, expert_epochs=2, **more).works
    _, synset = run(name, experts=2, expert_epochs=2, **more)
    assert len(calls) == expert.steps and expert.images == 256
    assert inner.steps == second.steps == 5 * 4 and inner.images == 10
    assert expert.steps == passes * 2 * 2 * -(-len(load_dataset("digits").train) // 256)
    assert len(list(cost_model.cache_dir().glob("stages/experts/*/*.safetensors"))) >= expert.entries - 2
    found = plan(name, experts=2, expert_epochs=2, **more)
    assert found.student.steps(found.images) == synset.student_recipe.steps(10)


@pytest.mark.parametrize("name", ["sre2l", "cda"])
def test_recovery_takes_the_steps_that_are_foreseen(name, monkeypatch):
    monkeypatch.setattr(recover, "CPU_PIXELS", 20 * 64)  # two problems in a stack
    monkeypatch.setattr("ddbench.methods.costs.CPU_PIXELS", 20 * 64)
    calls, step = [], recover._Stack.step
    monkeypatch.setattr(recover._Stack, "step", lambda self, t: calls.append(len(self.values)) or step(self, t))
    small = {"iterations": 6, "teacher_epochs": 2}
    found = plan(name, 4, **small)
    teacher, work = found.works
    _, synset = run(name, 4, **small)
    assert (len(calls), calls[0]) == (work.steps, work.images) == (2 * 6, 20)
    train = len(load_dataset("digits").train)
    assert teacher.steps == 2 * train // teacher.images and teacher.stage == "squeeze"
    assert found.student == synset.student_recipe and found.images == len(synset)
    assert found.labellers == (teacher.network,)


def test_a_committee_shares_the_recovery_and_all_of_it_labels():
    found = plan("cvdd", 4, voters=1, iterations=8)
    recovering = [work for work in found.works if work.kind == "image"]
    assert len(recovering) == 2 and sum(work.steps * work.images for work in recovering) == 8 * 4 * 10
    assert len(found.labellers) == 2


def test_compensators_show_a_student_more_images():
    found = plan("infer", 2)
    _, synset = run("infer", 2, iterations=2, teacher_epochs=1)
    from ddbench.synset.views import training_count

    assert found.images == training_count(synset) and found.student == synset.student_recipe


def test_matching_sees_real_and_synthetic_images():
    works = {work.label: work for work in plan("dm", 3).works}
    train = load_dataset("digits").train.labels.bincount()
    real = sum(min(32, int(count)) for count in train)
    assert works["features of real images"].steps * works["features of real images"].images == pytest.approx(40 * real)
    assert works["gradient"].steps * works["gradient"].images == pytest.approx(40 * 30)
    assert works["new networks"].steps == 40


def test_sums_are_those_of_lines(monkeypatch):
    model = CostModel(Compute(), channels=1, side=8, classes=10)
    lines = {"train": Line(0.1, 0.01, kept=1000.0, weights=50.0), "forward": Line(0.0, 0.002, 1000.0, 50.0)}
    monkeypatch.setattr(model, "_network", lambda kind, name: lines[kind])
    monkeypatch.setattr(model, "_augment", lambda part: Line(0.001, 0.0001))
    work = Work("x", "train", 7, 20, "mlp", shown_as({"name": "flip"}, None))
    assert model.seconds(work) == pytest.approx(7 * (0.1 + 0.01 * 20 + 0.001 + 0.0001 * 20))
    assert model.seconds(Work("x", "augment", 3, 10, shown=work.shown)) == pytest.approx(3 * 0.002)
    assert model.memory(work) == 20 * (1000 + 2 * 4 * 64) + 4 * 50
    assert model.memory(Work("x", "forward", 7, 20, "mlp")) == 20 * 2 * 4 * 64 + 4 * 50


def test_the_line_goes_through_both_probes(monkeypatch):
    monkeypatch.setattr(cost_model, "_timed", lambda call, device: call())
    line = cost_model._fit(lambda count: 0.02 + 0.003 * count, CPU)
    assert (line.a, line.b) == (pytest.approx(0.02), pytest.approx(0.003))
    slow = cost_model._fit(lambda count: 1.0 + 0.5 * count, CPU)
    assert (slow.a, slow.b) == (pytest.approx(1.0), pytest.approx(0.5))
    assert cost_model._fit(lambda count: 0.1 / count, CPU).b == 0.0


def test_probes_are_kept_per_machine(monkeypatch):
    told = []
    work = Work("x", "second", 2, 4, "convnet-d1-w8", shown_as({"name": "flip", "p": 0.5}))
    first = CostModel(Compute(), 1, 8, 10, told.append).seconds(work)
    assert first > 0 and len(told) == 2
    monkeypatch.setattr(cost_model, "_timed", lambda call, device: pytest.fail("timed again"))
    assert CostModel(Compute(), 1, 8, 10, told.append).seconds(work) == first and len(told) == 2
    monkeypatch.setattr(cost_model, "_timed", lambda call, device: 1.0)
    assert CostModel(Compute(threads=2), 1, 8, 10, told.append).seconds(work) != first


def test_a_stand_in_has_sizes_and_no_pixels():
    card = describe("tiny-imagenet")
    found = stand_in(card, Budget(50))
    assert (len(found.class_names), len(found.train), len(found.test), found.side) == (200, 100_000, 10_000, 64)
    assert found.train.labels.bincount().tolist() == [500] * 200
    with pytest.raises(UsageError, match="not on this machine"):
        found.train.read(torch.tensor([0]))


def test_cells_are_foreseen_with_what_is_cached(monkeypatch):
    monkeypatch.setattr(CostModel, "seconds", lambda self, work: work.steps * work.images)
    monkeypatch.setattr(CostModel, "memory", lambda self, work: work.images)
    recipe, digits = toy_recipe("sre2l", 2), load_dataset("digits")
    whole = foresee(recipe, digits, "shipped-v1", None, Compute())
    rest = foresee(recipe, digits, "shipped-v1", None, Compute(), cached={"squeeze": [1]})
    teacher, recovering = plan("sre2l", 2).works
    assert whole.distill.seconds == teacher.steps * teacher.images + recovering.steps * recovering.images
    assert rest.distill.seconds == recovering.steps * recovering.images
    student = plan("sre2l", 2).student.steps(20) * 10
    assert whole.student.seconds == pytest.approx(2 * student + len(digits.test))  # its labels cost as many images
    hard = foresee(recipe, digits, "hard-v1", "mlp", Compute())
    assert hard.student.seconds == pytest.approx(300 * 20 + len(digits.test))
    assert foresee(toy_recipe("random"), digits, "hard-v1", None, Compute()) is None


def test_a_cell_without_definition_is_excluded():
    with pytest.raises(NotDefined):
        plan("infer", 1)
    found = foresee(toy_recipe("infer", 1), load_dataset("digits"), "shipped-v1", None, Compute())
    assert found.distill.excluded and found.student.excluded and "no room" in found.distill.basis


def test_a_peek_counts_the_entries_of_stages():
    recipe, digits = toy_recipe("mtt"), load_dataset("digits")

    def stages():
        peek = Peek(digits, recipe.budget, recipe.network, 0, CPU)
        with pytest.raises(Enough):
            recipe.method.distill(peek, recipe.hyper)
        return peek.stages

    assert stages() == {"experts": [0]}
    run("mtt")
    (entries,) = stages()["experts"]
    assert entries >= 2  # the beginning and the first epoch
