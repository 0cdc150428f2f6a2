"""Pruning scores against straightforward definitions, the rules that keep samples by them, and `prune` and `prune-kd`."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import small_tasks
import torch
from ddbench.methods.engines.selection.dynamics import ROWS, Dynamics, DynamicsFields, Recorded, described, dynamics_of
from ddbench.methods.engines.selection.pruning import (
    SCORES,
    KeepFields,
    beta_choice,
    dropped,
    kept,
    require_enough,
    stratified_choice,
)
from ddbench.methods.engines.selection.subsets import GEOMETRY, SubsetFields, subset
from ddbench.methods.engines.students import RealStudentFields
from pydantic import ValidationError

from ddbench.budget import Budget
from ddbench.data.registry import load_dataset
from ddbench.errors import UsageError
from ddbench.randomness import rng
from ddbench.synset.targets import targets_of
from ddbench.training.loop import train
from ddbench.training.losses import LOSSES, Labels
from ddbench.training.optimizers import SCHEDULES

N, T, K, J = 500, 14, 10, 4


@pytest.fixture(scope="module")
def told():
    """Logits [T, n, K] and features [T, n, d] that get better, worse or nowhere, with labels."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(0, K, (N,), generator=generator)
    skill = torch.linspace(-1, 5, N)[torch.randperm(N, generator=generator)]
    logits = torch.randn(T, N, K, generator=generator)
    times = torch.linspace(0, 1, T)[:, None]
    logits[:, torch.arange(N), labels] += skill * times
    return logits, torch.randn(T, N, 6, generator=generator), labels


@pytest.fixture(scope="module")
def dynamics(told):
    logits, features, labels = told
    rows = {name: torch.zeros(T, N) for name in ROWS}
    for t in range(T):
        for name, values in described(logits[t], labels).items():
            rows[name][t] = values.float()
        rows["feature"][t] = features[t].square().sum(1)
        if t:
            new, old = logits[t].double().log_softmax(1), logits[t - 1].double().log_softmax(1)
            rows["movement"][t] = (new.exp() * (new - old)).abs().sum(1).float()
    rows["prediction"] = rows["prediction"].int()
    return Dynamics((Recorded(**rows, labels=labels, network=None),), labels)


def probabilities(logits):
    e = [math.exp(z) for z in logits]
    return [x / sum(e) for x in e]


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def sample_std(values):
    centre = mean(values)
    return math.sqrt(sum((v - centre) ** 2 for v in values) / (len(values) - 1))


def straightforward(name, z, h, y):
    """The score of one sample from its logits z[t][k], features h[t][d] and class y, in Python's floats."""
    p = [probabilities(row) for row in z]
    error = [math.sqrt(sum((p[t][k] - (k == y)) ** 2 for k in range(K))) for t in range(T)]
    own = [row[y] for row in p]
    if name == "el2n":
        return mean(error)
    if name == "grand":  # the gradient of cross-entropy by weights (p - y) h^T and biases p - y, its 2-norm
        norms = []
        for t in range(T):
            delta = [p[t][k] - (k == y) for k in range(K)]
            norms.append(math.sqrt(sum((d * x) ** 2 for d in delta for x in h[t]) + sum(d * d for d in delta)))
        return mean(norms)
    if name == "forgetting":
        right = [max(range(K), key=lambda k, t=t: z[t][k]) == y for t in range(T)]
        return float(sum(right[t - 1] and not right[t] for t in range(1, T))) if any(right) else float(T)
    if name in ("aum", "aum-prob"):
        v = z if name == "aum" else p
        return -sum(v[t][y] - max(v[t][k] for k in range(K) if k != y) for t in range(T))
    if name == "entropy":
        return -sum(x * math.log(x) for x in p[-1])
    windows = [own[k : k + J] for k in range(T - J + 1)]
    if name == "dyn-unc":
        return mean(sample_std(w) for w in windows)
    if name == "dual":
        return mean(10 * sample_std(w) * (1 - mean(w)) for w in windows)
    moves = [sum(abs(p[t][k] * math.log(p[t][k] / p[t - 1][k])) for k in range(K)) for t in range(1, T)]
    value, last = 0.0, len(moves) - J
    for k in range(last + 1):
        w = moves[k : k + J]
        value += 0.9 * 0.1 ** (last - k) * math.sqrt(sum((m - mean(w)) ** 2 for m in w))
    return value


@pytest.mark.parametrize("name", list(SCORES))
def test_a_score_is_its_definition(name, told, dynamics):
    fields = DynamicsFields(score_epochs=T, window=J)
    found = SCORES[name](dynamics, fields)
    z, h, y = told[0].double().tolist(), told[1].double().tolist(), told[2].tolist()
    wanted = torch.tensor(
        [straightforward(name, [z[t][i] for t in range(T)], [h[t][i] for t in range(T)], y[i]) for i in range(N)],
        dtype=torch.float64,
    )
    assert found.dtype == torch.float64
    assert torch.allclose(found, wanted, rtol=1e-6, atol=1e-6)
    assert torch.equal(found.argsort(stable=True), wanted.argsort(stable=True))


def test_scores_of_several_trainings_are_averaged(dynamics):
    run = dynamics.runs[0]
    both = Dynamics((run, Recorded(**{**vars(run), "error": run.error * 3})), dynamics.labels)
    fields = DynamicsFields(score_epochs=T, window=J)
    assert torch.allclose(SCORES["el2n"](both, fields), 2 * SCORES["el2n"](dynamics, fields))


@pytest.mark.parametrize(("name", "epochs", "fits"), [("dual", 4, True), ("dual", 3, False), ("tdds", 5, True), ("tdds", 4, False), ("el2n", 1, True)])  # fmt: skip
def test_epochs_that_make_no_window_are_one_line(name, epochs, fits):
    fields = DynamicsFields(score_epochs=epochs, window=4)
    if fits:
        SCORES[name].require_epochs(fields)
    else:
        with pytest.raises(UsageError, match="a window of 4 epochs needs at least"):
            SCORES[name].require_epochs(fields)


A_TASK = SimpleNamespace(rng=lambda *key: rng(5, *key))
POOLS = [torch.arange(0, 300), torch.arange(300, 500)]


def test_hard_keeps_the_largest_of_each_pool_and_easy_the_smallest():
    scores = torch.randperm(500, generator=rng(0, "scores")).double()
    for keep, sign in (("hard", -1), ("easy", 1)):
        found = kept(A_TASK, KeepFields(keep=keep), scores, scores, POOLS, [20, 10]).tolist()
        wanted = [
            sorted(pool.tolist(), key=lambda i: sign * float(scores[i]))[:n]
            for pool, n in zip(POOLS, (20, 10), strict=True)
        ]
        assert found == [*wanted[0], *wanted[1]]


def straightforward_strata(scores, count, mis_ratio, strata):
    """How many of which bin CCS takes: {bin: (members, budget)}, its algorithm written out."""
    order = sorted(range(len(scores)), key=lambda i: scores[i])
    rest = order[: len(order) - int(mis_ratio * len(order))]
    low, high = scores[rest[0]], scores[rest[-1]]
    bins = {}
    for i in rest:
        bins.setdefault(min(strata - 1, int((scores[i] - low) / ((high - low) / strata))), set()).add(i)
    plan, left, waiting = {}, count, set(bins)
    while waiting:
        smallest = min(waiting, key=lambda b: (len(bins[b]), b))
        plan[smallest] = (bins[smallest], min(len(bins[smallest]), left // len(waiting)))
        left -= plan[smallest][1]
        waiting.remove(smallest)
    assert left == 0
    return plan


@pytest.mark.parametrize(("count", "mis_ratio", "strata"), [(50, 0.3, 50), (300, 0.3, 50), (350, 0.3, 10), (10, 0.0, 3), (500, 0.0, 50)])  # fmt: skip
def test_ccs_takes_from_every_stratum_its_share(count, mis_ratio, strata):
    scores = torch.randn(500, generator=rng(1, "scores"), dtype=torch.float64) ** 3
    found = stratified_choice(scores, count, mis_ratio, strata, rng(2, "draw")).tolist()
    assert len(set(found)) == len(found) == count
    for members, budget in straightforward_strata(scores.tolist(), count, mis_ratio, strata).values():
        assert len(members & set(found)) == budget


def test_ccs_with_equal_scores_draws_at_random():
    found = stratified_choice(torch.zeros(40, dtype=torch.float64), 10, 0.25, 50, rng(0, "draw"))
    assert len(set(found.tolist())) == 10


def test_beta_sampling_draws_by_its_density_times_the_score():
    """How often each of six samples is drawn first, against the weights of SciPy's density."""
    from scipy.stats import beta

    scores = torch.tensor([0.5, 1.0, 2.0, 1.5, 0.7, 1.1], dtype=torch.float64)
    truth = torch.tensor([0.9, 0.8, 0.35, 0.5, 0.7, 0.6], dtype=torch.float64)
    m, r = float(truth.mean()), 1 - 1 / 6  # fewer than ten samples: all are the top
    b = 15 * (1 - m) * (1 - r**4)
    weights = beta.pdf(truth.numpy(), 16 - b, b) * scores.numpy()
    draws = [int(beta_choice(scores, truth, 1, 4.0, rng(seed, "draw"))) for seed in range(4000)]
    shares = torch.bincount(torch.tensor(draws), minlength=6) / 4000
    assert torch.allclose(shares.double(), torch.tensor(weights / weights.sum()), atol=0.03)


def test_beta_sampling_draws_without_replacement_and_easier_samples_the_fewer_are_kept():
    truth = torch.linspace(0.05, 0.95, 400, dtype=torch.float64)
    scores = 10 * truth * (1 - truth)
    few, many = (beta_choice(scores, truth, n, 4.0, rng(0, "draw")) for n in (20, 200))
    assert len(set(few.tolist())) == 20 and len(set(many.tolist())) == 200
    assert truth[few].mean() > truth[many].mean()


def test_more_samples_than_there_are_is_one_line():
    require_enough(KeepFields(), ["class 'a'", "class 'b'"], POOLS, [300, 200])
    with pytest.raises(UsageError, match="201 samples of class 'b' were asked for, but there are 200"):
        require_enough(KeepFields(), ["class 'a'", "class 'b'"], POOLS, [300, 201])
    with pytest.raises(UsageError, match=r"141 samples of class 'b' .* there are 140 once the hardest 0.3 are dropped"):
        require_enough(KeepFields(keep="ccs"), ["class 'a'", "class 'b'"], POOLS, [210, 141])
    assert dropped(10, 0.3) == 3


# the methods

QUICK = {"score_network": "convnet-d1-w4-bn", "score_epochs": 4, "score_batch": 64, "window": 2}
NEVER = {"score_epochs": 1_000_000}  # a training that no test would live to see the end of


def a_task(budget=3, *, seed=1):
    return small_tasks.a_task(budget, network="convnet-d1-w4-bn", seed=seed, data=load_dataset("digits"))


def fields_of(**changes):
    return SubsetFields.model_validate({**QUICK, **changes})


def distilled(method, budget=3, *, seed=1, **changes):
    task = a_task(budget, seed=seed)
    fields = {**QUICK, "student_epochs": 2, "student_batch": 10, **changes}
    return task, small_tasks.distilled(method, task, **fields)


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
    wanted = small_tasks.distilled("random", a_task(seed=4))
    assert torch.equal(distilled("prune", seed=4, score="random")[1].indices, wanted.indices)


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
    task, synset = distilled("prune", student_steps=7, student_end=0.001, nesterov=True)
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
        _, synset = distilled("prune-kd", budget, teacher_epochs=1)
        assert synset.student_recipe.loss["alpha"] == pytest.approx(alpha, abs=2e-3)
    _, synset = distilled("prune-kd", Budget(1), teacher_epochs=1, alpha=0.25)
    assert synset.student_recipe.loss["alpha"] == 0.25


def test_students_learn_classes_and_the_teachers_outputs_for_what_they_see():
    task, synset = distilled("prune-kd", teacher_epochs=1, score="el2n", keep="easy")
    assert synset.indices is not None and synset.student_recipe.labels == "targets"
    kind, _ = targets_of(synset)
    (teacher,) = kind.teachers(synset)
    assert teacher.network == task.network  # self-distillation
    assert torch.equal(synset.indices, distilled("prune", score="el2n", keep="easy")[1].indices)
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
    _, synset = distilled("prune-kd", teacher_epochs=1, teacher="convnet-d1-w2-bn")
    kind, _ = targets_of(synset)
    assert kind.teachers(synset)[0].network == "convnet-d1-w2-bn"


def test_a_set_that_is_kept_has_its_space():
    for space in ("pixel", "normalised", "zca"):
        _, synset = distilled("prune", Budget(1), space=space)
        assert synset.space.kind == space and replace(synset).hash == synset.hash
