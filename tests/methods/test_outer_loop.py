"""What the trajectory methods share around the gradient: draws, optimizers, stops, going on, the student they ship."""

from dataclasses import replace

import pytest
import torch
from ddbench.methods.engines.trajectory import gradient as trajectory
from ddbench.methods.engines.trajectory import outer_loop
from ddbench.methods.engines.trajectory.gradient import Gradient, TrajectoryEngine
from ddbench.methods.engines.trajectory.outer_loop import Learned, draw_expert, draw_start, dsa_of, inner_steps
from pydantic import ValidationError
from small_tasks import a_job, a_task, digits, distilled, hyper_of, refused, shipped_record
from watching import Kept, StopAt, Stopped

from ddbench.augment import OPS
from ddbench.budget import Budget
from ddbench.data.registry import load_dataset
from ddbench.distillation.method import find_method
from ddbench.distillation.recipes import resolve
from ddbench.errors import JobFailed, UsageError
from ddbench.jobs.job import distill_job
from ddbench.randomness import rng
from ddbench.settings import cache_dir
from ddbench.training.checkpoints import Checkpoint
from ddbench.training.recipe import StudentRecipe

SEED = 5
STILL = tuple(op for op in OPS if op != "flip")
COMMON = {
    "iterations": 4,
    "syn_steps": 3,
    "expert_epochs": 2,
    "max_start_epoch": 2,
    "experts": 2,
    "batch_syn": 7,
    "lr_img": 3.0,
    "lr_lr": 1e-7,
    "lr_teacher": 0.02,
    "space": "normalised",
}
OWN = {
    "mtt": {},
    "tesla": {"soft_labels": True},
    "ftd": {"gsam_alpha": 1.0, "ema_decay": 0.7},
    "datm": {"lr_y": 5.0, "init": "real", "final_epoch": 3, "threshold": 1e9},
    "ast": {
        **{"weight_perturb": True, "balance_loss": True, "match_middle": True, "init": "representative"},
        **{"student_epochs": 300, "final_epoch": 2, "clusters": 2},
    },
}
LOOP = "matching trajectories"
every_method = pytest.mark.parametrize("name", OWN)


def distil(name, task=None, **fields):
    return distilled(name, task or a_task(), **{**COMMON, **OWN[name], **fields})


# draws


@pytest.mark.parametrize(
    ("images", "batch", "steps", "sizes"),
    [
        (10, 4, 7, [2, 4, 4, 2, 4, 4, 2]),
        (8, 4, 5, [4, 4, 4, 4, 4]),
        (6, None, 3, [6, 6, 6]),
        (6, 500, 2, [6, 6]),
        (5, 1, 6, [1] * 6),
    ],
)
def test_batches_are_the_chunks_of_a_permutation_from_its_end(images, batch, steps, sizes):
    task = a_task()
    for iteration in (0, 1):
        made = inner_steps(task, images, batch, steps, iteration, dsa_of(task))
        assert [len(step.index) for step in made] == sizes  # a remainder first, whatever the iteration before left
        wanted, left = [], []
        for i in range(steps):
            if not left:
                generator = rng(SEED, "synthesis", "inner-order", iteration, i)
                order = torch.randperm(images, generator=generator).tolist()
                size = batch or images
                left = [order[first : first + size] for first in range(0, images, size)]
            wanted.append(left.pop(-1))
        assert [step.index.tolist() for step in made] == wanted
        cycle = len([*range(0, images, batch or images)])
        for first in range(0, steps - cycle + 1, cycle):
            seen = [place for step in made[first : first + cycle] for place in step.index.tolist()]
            assert sorted(seen) == [*range(images)]


def test_augmentation_is_drawn_anew_in_each_step_for_each_image():
    task = a_task()
    made = [inner_steps(task, 10, 4, 30, iteration, dsa_of(task)) for iteration in (0, 1)]
    drawn = [step.drawn for steps in made for step in steps]
    assert {d.op for d in drawn} == set(STILL)  # digits: a flip would change the class
    assert all(len(step.drawn) == len(step.index) for steps in made for step in steps)
    angles = [tuple(d.parameters["angle"].tolist()) for d in drawn if d.op == "rotate"]
    assert len(set(angles)) == len(angles) > 2 and all(len(set(angle)) == len(angle) for angle in angles)


def test_the_augmentation_is_the_familys():
    found = [dsa_of(a_task(data=digits(flip=flip))) for flip in (False, True)]
    assert [dsa.ops for dsa in found] == [STILL, OPS]
    assert all(dsa.align_corners and not dsa.siamese and dsa.crop_rounding == "floor" for dsa in found)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 4), (3, 6)])
def test_start_epochs_are_all_but_the_exclusive_end(low, high):
    task = a_task()
    found = [draw_start(task, low, high, iteration) for iteration in range(400)]
    assert set(found) == set(range(low, high))
    assert min(found.count(t) for t in range(low, high)) > 0.7 * 400 / (high - low)


def test_each_expert_serves_once_per_cycle():
    task = a_task()
    order = [draw_expert(task, 5, iteration) for iteration in range(50)]
    cycles = [tuple(order[first : first + 5]) for first in range(0, 50, 5)]
    assert all(sorted(cycle) == [0, 1, 2, 3, 4] for cycle in cycles) and len(set(cycles)) > 5


# the outer step


def test_the_outer_step_is_torchs_sgd_with_momentum():
    g = torch.Generator().manual_seed(0)
    hyper = hyper_of("mtt", **{**COMMON, "lr_img": 0.3, "lr_lr": 0.002})
    images, labels = torch.randn(4, 1, 8, 8, generator=g), torch.randn(4, 10, generator=g)
    learned = Learned(images.clone(), labels.clone(), 1.0, logits=True)
    alpha = torch.tensor(1.0, dtype=torch.float64)
    theirs = [torch.optim.SGD([images], 0.3, momentum=0.5), torch.optim.SGD([alpha], 0.002, momentum=0.5)]
    theirs.append(torch.optim.SGD([labels], 0.7, momentum=0.9))
    for _ in range(5):
        gradient = Gradient(torch.randn(4, 1, 8, 8, generator=g), torch.randn(4, 10, generator=g), 3.0)
        images.grad, labels.grad = gradient.images.clone(), gradient.labels.clone()
        alpha.grad = torch.tensor(gradient.syn_lr, dtype=torch.float64)
        learned.descend(gradient, hyper, 0.7, 0.9)
        for optimizer in theirs:
            optimizer.step()
    torch.testing.assert_close(learned.images, images)
    torch.testing.assert_close(learned.labels, labels)
    assert learned.syn_lr == pytest.approx(float(alpha), rel=1e-12)


@pytest.mark.parametrize("what", ["images", "labels", "syn_lr"])
def test_an_outer_step_to_what_is_not_finite_is_refused(what):
    fields = {"images": torch.zeros(2, 1, 8, 8), "labels": torch.zeros(2, 10), "syn_lr": 0.0}
    gradient = Gradient(**fields)
    broken = replace(gradient, **{what: fields[what] + float("nan")})
    hyper = hyper_of("mtt", **COMMON)
    learned = Learned(torch.zeros(2, 1, 8, 8), torch.zeros(2, 10), 1.0, logits=True)
    learned.descend(gradient, hyper, 1.0, 0.9)
    with pytest.raises(JobFailed, match="diverged"):
        learned.descend(broken, hyper, 1.0, 0.9)
    fresh = Learned(torch.zeros(2, 1, 8, 8), torch.zeros(2, 10), 1.0, logits=True)
    huge = replace(gradient, images=gradient.images + 1e30)  # finite, but the step is not
    with pytest.raises(JobFailed, match="diverged"):
        fresh.descend(huge, hyper.model_copy(update={"lr_img": 1e30}), 1.0, 0.9)


# whole runs of every method


@every_method
def test_a_stopped_run_goes_on_to_the_same_bits(name, tmp_path):
    whole = distil(name)
    for last in (2, 4):
        path, steps = tmp_path / f"{last}.safetensors", StopAt(watched=LOOP)
        with pytest.raises(Stopped):
            distil(name, a_task(checkpoint=Checkpoint(path, interval=0), reporter=StopAt(last, LOOP)))
        assert distil(name, a_task(checkpoint=Checkpoint(path), reporter=steps)).hash == whole.hash
        assert steps.seen == [*range(last + 1, 5)]
    assert distil(name, iterations=3).hash != whole.hash


@every_method
def test_neither_clock_nor_global_generators_matter(name, tmp_path, monkeypatch):
    torch.manual_seed(1)
    first = distil(name)
    monkeypatch.setenv("DDBENCH_CACHE", str(tmp_path / "another"))
    for clock in ("time", "monotonic", "time_ns"):
        monkeypatch.setattr(f"time.{clock}", lambda: 12345)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert distil(name).hash == first.hash
    assert torch.equal(torch.get_rng_state(), before)


def break_at(monkeypatch, kind, iteration):
    """Let the step size turn negative, or the loss be infinite, at an outer iteration."""
    calls = iter(range(100))
    if kind == "negative":
        real = TrajectoryEngine._adjoint

        def adjoint(self, *args):
            found = real(self, *args)
            return replace(found, syn_lr=1e6) if next(calls) == iteration else found

        monkeypatch.setattr(TrajectoryEngine, "_adjoint", adjoint)
    else:
        loss = trajectory._loss
        monkeypatch.setattr(trajectory, "_loss", lambda *args: loss(*args) / (next(calls) != iteration))


@pytest.mark.parametrize(("kind", "words"), [("negative", "step size turned negative"), ("loss", "diverged")])
@every_method
def test_a_failed_job_says_so_in_a_line_and_its_checkpoint_is_gone_on_from(name, kind, words, tmp_path, monkeypatch):
    path = tmp_path / "state.safetensors"
    with monkeypatch.context() as broken:
        break_at(broken, kind, 2)
        with refused(words, JobFailed):
            distil(name, a_task(checkpoint=Checkpoint(path, interval=0)))
    state = Checkpoint(path).load()
    assert state["iteration"] == 2 and state["syn_lr"] > 0 and torch.isfinite(state["images"]).all()
    steps = StopAt(watched=LOOP)
    again = distil(name, a_task(checkpoint=Checkpoint(path, interval=0), reporter=steps))
    assert steps.seen == [3, 4] and again.hash == distil(name).hash


# what is shipped


@every_method
def test_the_set_ships_its_student(name):
    synset = distil(name, a_task(checkpoint=(kept := Kept())))
    learned = kept.states[-1]["syn_lr"]
    assert learned > 0 and learned != COMMON["lr_teacher"]
    sgd = {"name": "sgd", "lr": learned, "momentum": 0.9, "weight_decay": 5e-4}
    wanted = StudentRecipe(
        network="convnet-d1-w4",
        optimizer=sgd,
        schedule={"name": "step", "at": 0.5, "factor": 0.1},
        augmentations=[{"name": "dsa", "ops": list(STILL), "align_corners": True, "crop_rounding": "floor"}],
        epochs=1000,
        batch=256,
    )
    soft = {"loss": {"name": "soft-ce"}, "labels": "targets"}
    slower = {"optimizer": {**sgd, "weight_decay": 1e-3}, "schedule": {"name": "step", "at": 0.5, "factor": 0.5}}
    own = {"tesla": soft, "datm": {**soft, "batch": 128}, "ast": {"epochs": 300, **slower}}.get(name, {})
    assert synset.student_recipe == wanted.model_copy(update=own)
    assert (synset.targets is not None) == (name in ("tesla", "datm"))
    assert synset.space == a_task().space("normalised") and synset.codec == "float"
    assert synset.classes.tolist() == [*range(10)]
    flipped = distil(name, a_task(data=digits(flip=True)), iterations=1).student_recipe
    assert flipped.augmentations[0]["ops"] == list(OPS)


def test_tesla_without_soft_labels_ships_none():
    synset = distil("tesla", soft_labels=False)
    assert synset.targets is None and synset.student_recipe.labels == "classes"
    assert synset.student_recipe.loss == {"name": "ce"}


@every_method
def test_the_shipped_student_trains(name):
    made = distil(name, iterations=1)
    short = replace(made, student_recipe=made.student_recipe.model_copy(update={"epochs": 2}))
    assert 0 <= shipped_record(short).runs[0].top1 <= 1


# what is refused


def test_compiled_steps_give_the_same_set_but_for_the_last_digits_and_a_recipe_of_its_own():
    hyper = hyper_of("mtt", **COMMON)
    assert "match_compiled" not in hyper.model_dump()
    assert hyper.model_copy(update={"match_compiled": True}).model_dump()["match_compiled"] is True
    plain, compiled = distil("mtt", iterations=2), distil("mtt", iterations=2, match_compiled=True)
    torch.testing.assert_close(compiled.images, plain.images, rtol=1e-3, atol=1e-4)
    assert compiled.hash != plain.hash


def test_compiling_goes_with_the_adjoint():
    with pytest.raises(ValidationError, match="does not go with gradient = unrolled"):
        distil("mtt", match_compiled=True, gradient="unrolled")


def test_compiling_where_nothing_compiles_is_a_line_and_trains_nothing(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(outer_loop, "Experts", None)
    with pytest.raises(UsageError, match="compile on: there is no"):
        distil("mtt", match_compiled=True)


@every_method
def test_a_budget_that_does_not_fit_is_a_line_and_trains_nothing(name):
    method, dataset, fields = find_method(name), load_dataset("digits"), {**COMMON, **OWN[name]}
    with pytest.raises(UsageError, match=f"{name} takes a budget of ipc, not fraction"):
        resolve(method, dataset, Budget(fraction=0.1), recipe="generic", overrides=fields)
    with pytest.raises(UsageError, match="images per class"):
        distil(name, a_task(Budget(fraction=0.1)))
    with pytest.raises(UsageError, match="IPC 1000"):
        distill_job(a_job(name, 1000, **fields))
    assert not (cache_dir() / "stages").exists()


@pytest.mark.parametrize(
    ("network", "words"), [("convnet-d1-w4-bn", "batch normalization"), ("mobilenetv2-in", "draws nothing")]
)
@pytest.mark.parametrize("name", ["mtt", "datm"])
def test_a_network_that_is_more_than_its_parameters_is_refused_before_experts_train(name, network, words):
    with pytest.raises(UsageError, match=words):
        distil(name, a_task(network=network))
    assert not (cache_dir() / "stages").exists()


def test_experts_are_trained_as_far_as_they_are_read():
    task, hyper = a_task(), hyper_of("mtt", **{**COMMON, "max_start_epoch": 3})
    experts = outer_loop.open_experts(task, hyper, outer_loop.ExpertRecipe())
    assert experts.at(0, 4).isfinite().all()
    with pytest.raises(JobFailed):
        experts.at(0, 5)
