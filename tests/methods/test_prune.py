"""`prune` and `prune-kd` from end to end: any score, any rule, either budget; what students are told."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from ddbench.methods.engines.selection.dynamics import dynamics_of
from ddbench.methods.engines.selection.pruning import SCORES
from ddbench.methods.engines.selection.subsets import GEOMETRY, SubsetFields, subset
from ddbench.methods.engines.students import RealStudentFields
from pydantic import ValidationError

from ddbench.budget import Budget
from ddbench.data.registry import load_dataset
from ddbench.distillation.method import find_method
from ddbench.distillation.task import Task
from ddbench.errors import UsageError
from ddbench.synset.targets import targets_of
from ddbench.training.loop import train
from ddbench.training.losses import LOSSES, Labels
from ddbench.training.optimizers import SCHEDULES

QUICK = {"score_network": "convnet-d1-w4-bn", "score_epochs": 4, "score_batch": 64, "window": 2}
NEVER = {"score_epochs": 1_000_000}  # a training that no test would live to see the end of


def a_task(budget=None, *, seed=1, network="convnet-d1-w4-bn"):
    return Task(load_dataset("digits"), budget or Budget(3), network, seed, torch.device("cpu"))


def fields_of(**changes):
    return SubsetFields.model_validate({**QUICK, **changes})


def distilled(method, budget=None, *, seed=1, **changes):
    found = find_method(method)
    hyper = found.hyper.model_validate({**QUICK, "student_epochs": 2, "student_batch": 10, **changes})
    task = a_task(budget, seed=seed)
    return task, hyper, found.distill(task, hyper)


@pytest.mark.parametrize("score", [*SCORES, *GEOMETRY, "random"])
@pytest.mark.parametrize(("budget", "total"), [(Budget(3), 30), (Budget(fraction=0.05), 72)])
def test_any_score_keeps_what_either_budget_asks_for(score, budget, total):
    task = a_task(budget)
    for balance in (True, False):
        places = subset(task, fields_of(score=score, balance=balance))
        assert len(places) == total and len(set(places.tolist())) == total
        counts = torch.bincount(task.dataset.labels[places], minlength=10)
        if balance:
            assert counts.max() - counts.min() <= (budget.ipc is None)


def test_the_easiest_of_each_class_are_kept_in_order():
    task, fields = a_task(), fields_of(score="el2n", keep="easy")
    places, values = subset(task, fields), SCORES["el2n"](dynamics_of(task, fields), fields)
    for label, pool in enumerate(task.class_indices()):
        wanted = sorted(pool.tolist(), key=lambda i: float(values[i]))[:3]
        assert places[3 * label : 3 * label + 3].tolist() == wanted


def test_without_balance_the_whole_split_is_ranked():
    task, fields = a_task(), fields_of(score="aum", keep="hard", balance=False)
    values = SCORES["aum"](dynamics_of(task, fields), fields)
    assert subset(task, fields).tolist() == sorted(range(len(values)), key=lambda i: -float(values[i]))[:30]


def test_random_is_the_baseline_of_that_name():
    other = find_method("random")
    wanted = other.distill(a_task(seed=4), other.hyper())
    assert torch.equal(distilled("prune", seed=4, score="random")[2].indices, wanted.indices)


def test_rules_that_draw_follow_the_synthesis_seed_and_rules_that_rank_do_not():
    for keep, moves in (("hard", False), ("easy", False), ("ccs", True), ("beta", True)):
        one, two = (subset(a_task(seed=seed), fields_of(score="dual", keep=keep)) for seed in (1, 2))
        assert torch.equal(one, two) != moves


@pytest.mark.parametrize(
    ("budget", "changes", "line"),
    [
        (Budget(150), {"score": "el2n"}, "150 samples of class '0' were asked for, but there are"),
        (Budget(110), {"keep": "ccs"}, "once the hardest 0.3 are dropped"),
        (Budget(fraction=0.8), {"keep": "ccs", "balance": False}, "of the training split were asked for"),
        (Budget(1), {"score": "dual", "window": 10, "score_epochs": 9}, "a window of 10 epochs needs at least 10"),
    ],
)
def test_a_wish_that_cannot_be_met_is_one_line_before_anything_is_trained(budget, changes, line):
    never = {} if "score_epochs" in changes else NEVER
    with pytest.raises(UsageError, match=line):
        subset(a_task(budget), fields_of(**{**never, **changes}))


def test_a_rule_for_scores_needs_a_score():
    with pytest.raises(ValidationError, match="keep = easy ranks by a score: herding is none"):
        fields_of(score="herding", keep="easy")


def test_prune_ships_the_papers_student():
    task, _hyper, synset = distilled("prune", student_steps=7, student_end=0.001, nesterov=True)
    recipe = synset.student_recipe
    assert recipe.optimizer == {"name": "sgd", "momentum": 0.9, "lr": 0.1, "weight_decay": 5e-4, "nesterov": True}
    assert recipe.steps(len(synset)) == 7 and recipe.labels == "classes" and recipe.mix is None
    factor = SCHEDULES.build(recipe.schedule)
    assert factor(0, 100, 10) == 1 and factor(100, 100, 10) == pytest.approx(0.001)
    assert factor(50, 100, 10) == pytest.approx((1 + 0.001) / 2)
    images, classes = task.training_images(synset)
    assert train(task.create_network(), images, classes, recipe, seed=0).steps == 7


def test_an_end_of_the_cosine_goes_with_a_plain_cosine():
    with pytest.raises(ValidationError, match="student_end"):
        RealStudentFields(student_end=0.1, eta=2.0)


def test_the_loss_is_the_papers_at_any_alpha():
    """(1 - a) CE + a T^2 KL(teacher || student), written out."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(6, 10, generator=generator, dtype=torch.float64) for _ in range(2))
    y = torch.arange(6)
    for alpha in (0.0, 0.3, 1.0):
        loss = LOSSES.build({"name": "ce-kd", "alpha": alpha, "temperature": 4.0, "squared": True})
        p, q = (teacher / 4).softmax(1), (student / 4).softmax(1)
        kl = (p * (p / q).log()).sum(1).mean() * 16
        ce = -student.softmax(1)[torch.arange(6), y].log().mean()
        assert loss(student, Labels(y, teacher)).item() == pytest.approx(
            ((1 - alpha) * ce + alpha * kl).item(), rel=1e-12
        )


def test_with_a_teacher_the_weight_falls_as_more_is_kept():
    for budget, alpha in ((Budget(fraction=0.1), 1 - 144 / 1437), (Budget(fraction=0.5), 1 - 718 / 1437)):
        _, _, synset = distilled("prune-kd", budget, teacher_epochs=1)
        assert synset.student_recipe.loss["alpha"] == pytest.approx(alpha, abs=2e-3)
    _, _, synset = distilled("prune-kd", Budget(1), teacher_epochs=1, alpha=0.25)
    assert synset.student_recipe.loss["alpha"] == 0.25


def test_students_learn_classes_and_the_teachers_outputs_for_what_they_see():
    task, _, synset = distilled("prune-kd", teacher_epochs=1, score="el2n", keep="easy")
    assert synset.indices is not None and synset.student_recipe.labels == "targets"
    kind, _ = targets_of(synset)
    (teacher,) = kind.teachers(synset)
    assert teacher.network == task.network  # self-distillation
    assert torch.equal(synset.indices, distilled("prune", score="el2n", keep="easy")[2].indices)
    images, classes = task.training_images(synset)
    seen = []

    def labeller(batch):
        given = task.labeller(synset)(batch)
        assert torch.allclose(given, teacher.module(task.device)(batch.images))
        seen.append(len(batch.images))
        return given

    train(task.create_network(), images, classes, synset.student_recipe, seed=0, labeller=labeller)
    assert sum(seen) == 60


def test_a_smaller_teacher_can_be_named():
    _, _, synset = distilled("prune-kd", teacher_epochs=1, teacher="convnet-d1-w2-bn")
    kind, _ = targets_of(synset)
    assert kind.teachers(synset)[0].network == "convnet-d1-w2-bn"


def test_a_step_of_distillation_is_the_loss_written_out():
    """One plain gradient step against autograd of the formula."""
    task, _, synset = distilled("prune-kd", Budget(1), teacher_epochs=1, alpha=0.7, temperature=2.0)
    images, classes = task.training_images(synset)
    recipe = synset.student_recipe.model_copy(
        update={"optimizer": {"name": "sgd", "lr": 0.1}, "augmentations": [], "epochs": 1}
    )
    one, two = task.create_network("a"), task.create_network("a")
    train(one, images, classes, recipe, seed=0, labeller=task.labeller(synset))
    kind, _ = targets_of(synset)
    teacher = kind.teachers(synset)[0].module(task.device)(images)
    given = two(images)
    kl = F.kl_div((given / 2).log_softmax(1), (teacher / 2).log_softmax(1), log_target=True, reduction="batchmean")
    (0.3 * F.cross_entropy(given, classes) + 0.7 * 4 * kl).backward()
    for mine, theirs in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.allclose(mine, theirs - 0.1 * theirs.grad, atol=1e-5)


def test_a_set_that_is_kept_has_its_space():
    for space in ("pixel", "normalised", "zca"):
        _, _, synset = distilled("prune", Budget(1), space=space)
        assert synset.space.kind == space and replace(synset).hash == synset.hash
