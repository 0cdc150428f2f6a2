"""The trajectory methods against their definitions: whole outer iterations written out, and their choices by loops."""

import math
from dataclasses import replace
from fractions import Fraction

import pytest
import small_tasks
import torch
from ddbench.methods import ast, datm
from ddbench.methods.engines.trajectory.experts import ExpertRecipe, Experts
from ddbench.methods.engines.trajectory.flat import FlatNetwork, flatten
from ddbench.methods.engines.trajectory.gradient import TrajectoryEngine
from ddbench.methods.engines.trajectory.outer_loop import draw_expert, draw_start, inner_steps
from small_tasks import random_places, refused
from torch.func import functional_call
from watching import Kept

from ddbench import networks
from ddbench.augment import DSA
from ddbench.budget import Budget
from ddbench.data.registry import load_dataset
from ddbench.distillation.method import find_method
from ddbench.distillation.recipes import resolve
from ddbench.errors import JobFailed, UsageError
from ddbench.randomness import rng

SEED, NETWORK = 5, "convnet-d2-w4"
COMMON = {
    "iterations": 3,
    "syn_steps": 4,
    "expert_epochs": 2,
    "max_start_epoch": 3,
    "experts": 2,
    "batch_syn": 7,
    "lr_img": 3.0,
    "lr_lr": 3e-7,
    "lr_teacher": 0.02,
    "space": "normalised",
}
AST = {"weight_perturb": True, "balance_loss": True, "match_middle": True, "init": "real", "student_epochs": 300}
SMOOTH = ExpertRecipe(
    lr=0.003,
    momentum=0.9,
    weight_decay=1e-3,
    decay_epoch=27,
    decay_factor=0.6,
    loss_ramp=10,
    gradient_penalty=2.0,
)


def a_task(ipc=1, **more):
    return small_tasks.a_task(ipc, network=NETWORK, **more)


def hyper_of(name, **fields):
    return small_tasks.hyper_of(name, **{**COMMON, **fields})


def run(name, hyper):
    """The states after every outer iteration, and the set."""
    kept = Kept()
    synset = find_method(name).distill(a_task(checkpoint=kept), hyper)
    assert [state["iteration"] for state in kept.states] == [*range(1, hyper.iterations + 1)]
    return kept.states, synset


def experts_of(hyper, recipe):
    """The experts that a run has trained; another recipe's are not there."""
    task = a_task()
    return Experts(task, task.space("normalised"), recipe, hyper.experts)


def begun():
    """Images that the methods begin with: one random real image of every class; and the classes, one-hot."""
    task = a_task()
    return task.read(task.space("normalised"), torch.cat(random_places(task, 1))), torch.eye(10)


NET = networks.create(NETWORK, channels=1, side=8, classes=10).double()
SHAPES = {name: value.shape for name, value in NET.named_parameters()}


def parts_of(vector):
    split = vector.split([shape.numel() for shape in SHAPES.values()])
    return {name: part.view(shape) for (name, shape), part in zip(SHAPES.items(), split, strict=True)}


def logits(vector, images):
    return functional_call(NET, parts_of(vector.double()), (images.double(),))


def by_hand(
    hyper,
    experts,
    images,
    labels,
    *,
    soft=False,
    frozen=False,
    lr_y=None,
    window=None,
    inner=0.0,
    begin=lambda vector, iteration: vector,
    factor=lambda t: 1.0,
    middle=(),
):
    """(images, alpha, labels) after every outer iteration: one graph of all student steps, torch's own SGD.

    Args:
        soft: TESLA's labels.
        frozen: TESLA's gradient, in which a step takes its weights as constants.
        lr_y: labels are logits, learned with this step size.
        window: iteration -> exclusive end of the start epochs.
        inner: the student's momentum.
        begin: what the start is made of an expert's weights.
        factor: of the inner loss, by start epoch.
        middle: (student step, expert epochs) matched besides the last.
    """
    task, dsa = a_task(), DSA(("color", "crop", "cutout", "scale", "rotate"), align_corners=True)
    images = images.double().clone().requires_grad_()
    alpha = torch.tensor(hyper.lr_teacher, dtype=torch.float64, requires_grad=True)
    labels = labels.double().clone().requires_grad_(lr_y is not None)
    optimizers = [torch.optim.SGD([images], hyper.lr_img, momentum=0.5)]
    optimizers += [torch.optim.SGD([alpha], hyper.lr_lr, momentum=0.5)]
    optimizers += [torch.optim.SGD([labels], lr_y, momentum=0.9)] if lr_y is not None else []
    for iteration in range(hyper.iterations):
        expert = draw_expert(task, hyper.experts, iteration)
        t = draw_start(task, 0, window(iteration) if window else hyper.max_start_epoch, iteration)
        epochs = {k: experts.at(expert, t + k).double() for k in range(hyper.expert_epochs + 1)}
        start = begin(epochs[0], iteration)
        if soft:
            labels = logits(epochs[hyper.expert_epochs], images).softmax(1).detach()
        student, momentum, matched = start.clone().requires_grad_(), torch.zeros_like(start), {}
        for i, step in enumerate(inner_steps(task, 10, hyper.batch_syn, hyper.syn_steps, iteration, dsa)):
            here = student.detach().requires_grad_() if frozen else student
            wanted = labels[step.index] if lr_y is None else labels[step.index].softmax(1)
            given = logits(here, dsa.apply(images[step.index], step.drawn)).log_softmax(1)
            value = factor(t) * -(wanted * given).sum(1).mean()
            momentum = inner * momentum + torch.autograd.grad(value, here, create_graph=True)[0]
            student = student - alpha * momentum
            matched[i + 1] = student
        pairs = [*middle, (hyper.syn_steps, hyper.expert_epochs)]
        terms = [((matched[s] - epochs[k]) ** 2).sum() / ((start - epochs[k]) ** 2).sum() for s, k in pairs]
        for optimizer in optimizers:
            optimizer.zero_grad()
        sum(terms).backward()
        for optimizer in optimizers:
            optimizer.step()
        yield images.detach().clone(), alpha.item(), labels.detach().clone()


def check_run(states, wanted, first):
    """That every iteration went the way of the definition, and some way at all."""
    for state, (images, alpha, labels) in zip(states, wanted, strict=True):
        way = images - first
        assert way.norm() > 0.01 * first.norm() and (state["images"] - images).norm() < 1e-3 * way.norm()
        assert abs(alpha - 0.02) > 1e-5 and state["syn_lr"] - 0.02 == pytest.approx(alpha - 0.02, rel=1e-3)
        torch.testing.assert_close(state["labels"].double(), labels, rtol=1e-3, atol=1e-4)


# mtt


@pytest.mark.parametrize("gradient", ["adjoint", "unrolled"])
@pytest.mark.parametrize("batch", [7, None])
def test_mtt_is_its_loop_written_out(gradient, batch):
    hyper = hyper_of("mtt", gradient=gradient, batch_syn=batch)
    states, synset = run("mtt", hyper)
    images, labels = begun()
    check_run(states, by_hand(hyper, experts_of(hyper, ExpertRecipe()), images, labels), images)
    assert torch.equal(synset.images, states[-1]["images"])


# tesla


@pytest.mark.parametrize("soft", [False, True])
def test_tesla_is_its_loop_written_out(soft):
    """With soft labels: of this iteration's target checkpoint, for the images as they are now, un-augmented."""
    hyper = hyper_of("tesla", soft_labels=soft, lr_lr=1e-3 if soft else 3e-7)
    states, synset = run("tesla", hyper)
    experts, (images, labels) = experts_of(hyper, ExpertRecipe()), begun()
    check_run(states, by_hand(hyper, experts, images, labels, soft=soft, frozen=True), images)
    assert torch.equal(synset.images, states[-1]["images"]) and synset.classes.tolist() == [*range(10)]
    if soft:
        task = a_task()
        last = experts.at(draw_expert(task, 2, 2), draw_start(task, 0, 3, 2) + 2)
        shipped = synset.targets.tensors["labels"].double()
        torch.testing.assert_close(shipped, logits(last, synset.images).detach(), rtol=1e-4, atol=1e-4)
        assert synset.targets.kind == "soft" and synset.targets.params == {"form": "logits"}
        assert not torch.allclose(states[0]["labels"], states[1]["labels"], atol=1e-3)


# ftd


def test_ftd_is_mtts_loop_on_flat_experts_and_ships_the_average():
    decay = 0.6
    hyper = hyper_of("ftd", gsam_alpha=0.4, ema_decay=decay)
    states, synset = run("ftd", hyper)
    images, labels = begun()
    experts = experts_of(hyper, ExpertRecipe(rho=0.01, gsam_alpha=0.4))
    wanted = [*by_hand(hyper, experts, images, labels)]
    check_run(states, wanted, images)
    weights = [decay**3, decay**2 * (1 - decay), decay * (1 - decay), 1 - decay]  # the start's first
    average = sum(w * i for w, i in zip(weights, [images, *(at[0] for at in wanted)], strict=True))
    assert (synset.images - average).norm() < 1e-3 * (average - images).norm()
    assert synset.student_recipe.optimizer["lr"] == states[-1]["syn_lr"]  # not averaged


def test_the_weight_of_ftds_start_in_the_average_is_d_to_the_iterations(monkeypatch):
    real = TrajectoryEngine.roll

    def roll(self, segment, synthetic):  # every step leads to 0: what is left of the average is the start's
        rollout = real(self, segment, synthetic)
        gradient = replace(rollout.gradient(), images=synthetic.images.clone(), syn_lr=0.0)
        return replace(rollout, gradient=lambda: gradient)

    monkeypatch.setattr(TrajectoryEngine, "roll", roll)
    hyper = hyper_of("ftd", gsam_alpha=0.4, ema_decay=0.9, lr_img=1.0, momentum=0.0)
    synset = run("ftd", hyper)[1]
    torch.testing.assert_close(synset.images, 0.9**3 * begun()[0])


# datm


def datm_of(**fields):
    return hyper_of("datm", **{"lr_y": 0.5, "init": "real", "final_epoch": 6, "threshold": 1e9, **fields})


def test_datm_is_its_loop_written_out():
    growth = {"current_max_start_epoch": 1, "expansion_end_epoch": 2}
    hyper = datm_of(**growth)
    states, synset = run("datm", hyper)
    images, _ = begun()
    experts = experts_of(hyper, ExpertRecipe(rho=0.01, gsam_alpha=0.3))
    one = int(torch.randint(2, (), generator=rng(SEED, "synthesis", "label-expert")))
    labels = logits(experts.at(one, 6), images).detach()
    wanted = [*by_hand(hyper, experts, images, labels, lr_y=0.5, window=lambda iteration: 1 + min(2, iteration))]
    check_run(states, wanted, images)
    for state, (_, _, learned) in zip(states, wanted, strict=True):
        way = learned - labels
        assert way.norm() > 0.1 * labels.norm() and (state["labels"] - learned).norm() < 1e-3 * way.norm()
    assert torch.equal(synset.targets.tensors["labels"], states[-1]["labels"])
    assert synset.targets.kind == "soft" and synset.targets.params == {"form": "logits"}
    assert torch.equal(synset.images, states[-1]["images"])  # no average


def test_datm_draws_its_start_epochs_from_the_window(monkeypatch):
    asked = []

    def draw(task, low, high, iteration):
        asked.append((low, high, iteration))
        return low

    monkeypatch.setattr(datm, "draw_start", draw)
    growth = {"current_max_start_epoch": 2, "expansion_end_epoch": 3}
    run("datm", datm_of(min_start_epoch=1, max_start_epoch=4, iterations=5, **growth))
    assert asked == [(1, 2, 0), (1, 2, 1), (1, 3, 2), (1, 4, 3), (1, 4, 4)]


def test_above_the_threshold_nothing_changes_and_nothing_is_differentiated(monkeypatch):
    losses, asked, real, backward = [1.0, 1.0001, 0.5, 70.0, 2.0], [], TrajectoryEngine.roll, TrajectoryEngine._adjoint
    left = iter(losses)
    monkeypatch.setattr(TrajectoryEngine, "roll", lambda *args: replace(real(*args), loss=next(left)))
    monkeypatch.setattr(TrajectoryEngine, "_adjoint", lambda *args: asked.append(1) or backward(*args))
    states, synset = run("datm", datm_of(threshold=1.0, iterations=5))
    assert len(asked) == 2  # at the threshold and below it
    for before, after, loss in zip(states, states[1:], losses[1:], strict=False):
        assert after["velocity"].keys() == {"images", "labels", "syn_lr"}
        for one, other in ((before, after), (before["velocity"], after["velocity"])):
            same = [torch.equal(torch.as_tensor(one[part]), torch.as_tensor(other[part])) for part in after["velocity"]]
            assert same == [loss > 1.0] * 3
    assert torch.equal(synset.images, states[2]["images"])


# ast


def perturbed_by_hand(vector, iteration):
    """W + d W for every four-dimensional W, with || d ||_F = 1."""
    generator, moved = rng(SEED, "synthesis", "perturb", iteration), []
    for value in parts_of(vector).values():
        if value.dim() == 4:
            d = torch.randn(value.numel(), generator=generator).double().view(value.shape)
            value = value + d / (d**2).sum().sqrt() * value
        moved.append(value.reshape(-1))
    return torch.cat(moved)


def balance_by_hand(t, last):
    half = last // 2
    return math.log(t - half + 8) / math.log(5) if t >= half else math.log(5) / math.log(half - t + 8)


@pytest.mark.parametrize("on", [{"weight_perturb"}, {"balance_loss"}, {"match_middle"}, {*AST}, set()])
def test_ast_is_its_loop_written_out(on):
    """A perturbed start, in the denominator too; balanced loss; the epochs in between; momentum in the student."""
    switches = {name: name in on for name in ("weight_perturb", "balance_loss", "match_middle")}
    sizes = {"syn_steps": 8, "expert_epochs": 3, "max_start_epoch": 4}
    hyper = hyper_of("ast", **{**AST, **switches, **sizes, "lr_lr": 1e-7})
    states, synset = run("ast", hyper)
    images, labels = begun()
    options = {"inner": 0.9}
    if hyper.weight_perturb:
        options["begin"] = perturbed_by_hand
    if hyper.balance_loss:
        options["factor"] = lambda t: balance_by_hand(t, 4)
    if hyper.match_middle:
        options["middle"] = [(2, 1), (4, 2)]  # k (N // M) = 2 k
    check_run(states, by_hand(hyper, experts_of(hyper, SMOOTH), images, labels, **options), images)
    assert torch.equal(synset.images, states[-1]["images"])


# choices


def numbers(experts):
    """What stands for their weights."""
    return [*torch.arange(float(experts))[:, None]]


# datm


@pytest.mark.parametrize(
    ("low", "first", "last", "end", "iterations"),
    [(0, 1, 4, 7, 9), (2, 10, 20, 13, 20), (0, 3, 3, 5, 6), (1, 2, 9, 1, 3)],
)
def test_datms_window_grows_by_the_formula(low, first, last, end, iterations):
    growth = {"current_max_start_epoch": first, "expansion_end_epoch": end}
    hyper = datm_of(min_start_epoch=low, max_start_epoch=last, **growth)
    for iteration in range(iterations):
        exact = first + Fraction((last - first) * iteration, end)
        assert datm.window_end(hyper, iteration) == min(last, math.floor(exact))
    assert datm.window_end(hyper, 0) == first and datm.window_end(hyper, end) == last
    fixed = datm_of(min_start_epoch=low, max_start_epoch=last)
    assert {datm.window_end(fixed, iteration) for iteration in range(iterations)} == {last}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"min_start_epoch": 3}, "min_start_epoch must be below"),
        ({"min_start_epoch": 1, "current_max_start_epoch": 1, "expansion_end_epoch": 5}, "min_start_epoch must be"),
        ({"current_max_start_epoch": 2}, "give both"),
        ({"expansion_end_epoch": 2}, "give both"),
    ],
)
def test_a_window_without_epochs_is_refused(fields, words):
    overrides = {**COMMON, "lr_y": 1.0, **fields}
    with pytest.raises(UsageError, match=words):
        resolve(find_method("datm"), load_dataset("digits"), Budget(1), recipe="generic", overrides=overrides)


class Table:
    """Experts whose final logits for the real images of a task are looked up: table [experts, n, K]."""

    def __init__(self, task, table, final):
        self.images, self.table, self.final = task.tensors(task.space("normalised"))[0].flatten(1), table, final
        assert len(self.images.unique(dim=0)) == len(self.images)

    def at(self, expert, epoch):
        assert epoch == self.final
        return torch.tensor([float(expert)])

    def network(self, vector, images):
        places = (images.flatten(1)[:, None] == self.images).all(2).int().argmax(1)
        return self.table[int(vector)][places]


def a_table(task, experts, right, seed):
    """Logits that are right for a given share of images."""
    g, labels = torch.Generator().manual_seed(seed), task.dataset.labels
    table = torch.randn(experts, len(labels), 10, generator=g)
    for expert in range(experts):
        for place, label in enumerate(labels.tolist()):
            if torch.rand((), generator=g) < right:
                table[expert, place, label] += 10
    return table


def right_by_loops(task, table, ipc, *, reset=False):
    """Places; `reset`: what they would be if every class began with expert 0."""
    reference, chosen = 0, []
    for label in range(10):
        reference = 0 if reset else reference
        places = [place for place, own in enumerate(task.dataset.labels.tolist()) if own == label]
        order = torch.randperm(len(places), generator=rng(task.seed, "synthesis", "right", label)).tolist()
        mine = []
        while True:
            for place in (places[i] for i in order):
                right = max(range(10), key=lambda k: table[reference, place, k]) == label
                if len(mine) < ipc and place not in mine and right:
                    mine.append(place)
            if len(mine) == ipc:
                break
            reference = (reference + 1) % len(table)
        chosen += mine
    return chosen


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_datm_begins_with_images_that_experts_classify_rightly(seed):
    task = a_task(5, seed=seed)
    table = a_table(task, 4, 0.3, seed)
    found = datm.rightly_classified(task, datm_of(experts=4), Table(task, table, 6), numbers(4))
    wanted = right_by_loops(task, table, 5)
    assert found.tolist() == wanted and len(set(wanted)) == 50
    assert task.dataset.labels[found].tolist() == [label for label in range(10) for _ in range(5)]
    assert wanted != right_by_loops(task, table, 5, reset=True)


def test_datms_next_expert_goes_on_where_one_did_not_find_enough_and_stays_for_later_classes():
    task = a_task(2)
    labels = task.dataset.labels
    table = torch.zeros(2, len(labels), 10)
    pools = task.class_indices()
    for expert in (0, 1):  # everything right but for class 3, of which each expert knows one image
        table[expert, torch.arange(len(labels)), labels] = 1.0
        table[expert, pools[3]] = torch.eye(10)[0]
        table[expert, pools[3][expert], 3] = 2.0
    later = pools[4][: len(pools[4]) // 2]
    table[0, later] = torch.eye(10)[0]  # expert 0 would not take these
    found = datm.rightly_classified(task, datm_of(), Table(task, table, 6), numbers(2))
    assert found[6:8].tolist() == pools[3][:2].tolist()
    order = pools[4][torch.randperm(len(pools[4]), generator=rng(SEED, "synthesis", "right", 4))]
    assert found[8:10].tolist() == order[:2].tolist()
    assert set(order[:2].tolist()) & set(later.tolist())  # else this tested nothing
    table[1, pools[3]] = torch.eye(10)[0]
    with refused(r"only 1 images of class 3 rightly, 2 are needed.*final_epoch", JobFailed):
        datm.rightly_classified(task, datm_of(), Table(task, table, 6), numbers(2))


def test_datms_labels_are_the_mean_logits_of_the_experts_that_are_right():
    task = a_task(3)
    table = a_table(task, 4, 0.5, 7)
    hyper = datm_of(experts=4, init="correct")
    learned = datm.begin(task, hyper, Table(task, table, 6))
    places = datm.rightly_classified(task, hyper, Table(task, table, 6), numbers(4))
    assert torch.equal(learned.images, task.read(task.space("normalised"), places))
    assert learned.logits and learned.syn_lr == 0.02 and learned.iteration == 0
    counts = set()
    for row, place in enumerate(places.tolist()):
        label = int(task.dataset.labels[place])
        right = [table[e, place] for e in range(4) if int(table[e, place].argmax()) == label]
        counts.add(len(right))
        torch.testing.assert_close(learned.labels[row], sum(right) / len(right))
    assert {1, 2, 3} <= counts


def test_datms_real_init_takes_one_experts_logits_right_or_wrong():
    task = a_task(2)
    table = a_table(task, 3, 0.3, 1)
    learned = datm.begin(task, datm_of(experts=3, init="real"), Table(task, table, 6))
    one = int(torch.randint(3, (), generator=rng(SEED, "synthesis", "label-expert")))
    assert torch.equal(learned.labels, Table(task, table, 6).network(torch.tensor([one]), learned.images))
    assert not torch.equal(learned.labels.argmax(1), torch.arange(10).repeat_interleave(2))
    assert torch.equal(learned.images, task.read(task.space("normalised"), torch.cat(random_places(task, 2))))


# ast


def test_middle_targets_need_a_step_each():
    overrides = {**COMMON, **AST, "student_epochs": 9, "syn_steps": 2, "expert_epochs": 3}
    with pytest.raises(UsageError, match="match_middle needs syn_steps"):
        resolve(find_method("ast"), load_dataset("digits"), Budget(1), recipe="generic", overrides=overrides)


@pytest.mark.parametrize(
    ("t", "last", "inside", "power"),
    [(0, 1, 8, 1), (2, 5, 8, 1), (10, 20, 8, 1), (19, 20, 17, 1), (0, 20, 18, -1), (9, 20, 9, -1)],
)
def test_the_balance_factor(t, last, inside, power):
    """Times log_5(t - T // 2 + 8) from T // 2 on, before it divided by log_5(T // 2 - t + 8)."""
    assert ast.balance(t, last) == pytest.approx((math.log(inside) / math.log(5)) ** power)


def test_the_perturbation_is_of_kernels_alone_and_of_frobenius_norm_one():
    network = networks.create("convnet-d2-w4", channels=1, side=8, classes=10)
    flat, vector = FlatNetwork(network), flatten(network).add(2)  # away from 0
    kept = vector.clone()
    moved = ast.perturbed(vector, flat.kernels(), rng(0, "x"))
    assert torch.equal(vector, kept)
    kinds = set()
    for before, after in zip(flat.unflatten(vector).values(), flat.unflatten(moved).values(), strict=True):
        kinds.add(before.dim())
        if before.dim() == 4:
            assert (after / before - 1).norm().item() == pytest.approx(1, rel=1e-4)
        else:
            assert torch.equal(before, after)
    assert kinds == {1, 2, 4}
    assert not torch.equal(moved, ast.perturbed(vector, flat.kernels(), rng(1, "x")))


def blobs(sizes, spread=0.05):
    """Points around centres far apart, and the blob of each, in mixed order."""
    g = torch.Generator().manual_seed(len(sizes))
    own = torch.cat([torch.full((size,), blob) for blob, size in enumerate(sizes)])
    own = own[torch.randperm(len(own), generator=g)]
    centres = 10 * torch.eye(len(sizes), len(sizes))
    return centres[own] + spread * torch.randn(len(own), len(sizes), generator=g), own


@pytest.mark.parametrize("count", [5, 6, 8, 10, 14, 25])
def test_the_nearest_to_every_centre_are_chosen_and_larger_clusters_give_what_is_left(count):
    sizes = [6, 7, 8, 9, 10]
    points, own = blobs(sizes)
    found = ast.near_centers(points, count, 5)
    assert len(found) == len(set(found.tolist())) == count
    by_size = sorted(range(5), key=lambda blob: -sizes[blob])
    wanted = set()
    for blob in range(5):
        places = (own == blob).nonzero()[:, 0].tolist()
        centre = points[places].double().mean(0)
        places.sort(key=lambda p: float((points[p].double() - centre).square().sum()))
        wanted |= set(places[: count // 5 + (blob in by_size[: count % 5])])
    assert set(found.tolist()) == wanted


@pytest.mark.parametrize("count", range(1, 13))
def test_every_count_gives_that_many_distinct_points(count):
    points, own = blobs([1, 1, 2, 4, 4])  # clusters of fewer points than their share
    found = ast.near_centers(points, count, 5)
    assert found.dtype == torch.int64 and len(found) == len(set(found.tolist())) == count
    assert set(own[found].tolist()) == {*range(5)} or count < 5
    if count == 1:
        assert found.item() == int((points - points.mean(0)).square().sum(1).argmin())


def test_ast_begins_near_the_centres_of_a_random_experts_logits():
    task = a_task(4)
    table = a_table(task, 3, 0.5, 2)
    fields = {**COMMON, **AST, "student_epochs": 9, "experts": 3, "final_epoch": 9, "clusters": 3}
    hyper = hyper_of("ast", **fields)
    found = ast.representative_images(task, hyper, Table(task, table, 9))
    one = int(torch.randint(3, (), generator=rng(SEED, "synthesis", "cluster-expert")))
    wanted = [pool[ast.near_centers(table[one][pool], 4, 3)] for pool in task.class_indices()]
    assert torch.equal(found, task.read(task.space("normalised"), torch.cat(wanted)))
