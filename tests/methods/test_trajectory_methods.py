"""The trajectory methods' rules against their definitions: whole outer iterations written out, and choices by loops."""

import math
from dataclasses import replace

import pytest
import torch
from ddbench.methods import datm
from ddbench.methods.engines.trajectory.experts import ExpertRecipe, Experts
from ddbench.methods.engines.trajectory.gradient import TrajectoryEngine
from ddbench.methods.engines.trajectory.outer_loop import draw_expert, draw_start, inner_steps
from torch.func import functional_call
from watching import Kept

from ddbench import networks
from ddbench.augment import DSA
from ddbench.budget import Budget
from ddbench.data.dataset import memory_split
from ddbench.data.registry import load_dataset
from ddbench.distillation.method import find_method
from ddbench.distillation.task import Task
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


def a_task(ipc=1, checkpoint=None, seed=SEED):
    whole = load_dataset("digits")
    data = replace(whole, train=memory_split(whole.train.read()[:150], whole.train.labels[:150]))
    return Task(data, Budget(ipc), NETWORK, seed, torch.device("cpu"), checkpoint=checkpoint)


def hyper_of(name, **fields):
    return find_method(name).hyper.model_validate({**COMMON, **fields})


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
    pools = [(task.dataset.labels == label).nonzero()[:, 0] for label in range(10)]
    chosen = [p[torch.randperm(len(p), generator=rng(SEED, "synthesis", "random", c))[0]] for c, p in enumerate(pools)]
    return task.read(task.space("normalised"), torch.stack(chosen)), torch.eye(10)


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
    optimisers = [torch.optim.SGD([images], hyper.lr_img, momentum=0.5)]
    optimisers += [torch.optim.SGD([alpha], hyper.lr_lr, momentum=0.5)]
    optimisers += [torch.optim.SGD([labels], lr_y, momentum=0.9)] if lr_y is not None else []
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
        for optimiser in optimisers:
            optimiser.zero_grad()
        sum(terms).backward()
        for optimiser in optimisers:
            optimiser.step()
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
        same = [
            *(torch.equal(before[part], after[part]) for part in ("images", "labels")),
            *(torch.equal(before["velocity"][part], after["velocity"][part]) for part in ("images", "labels")),
            before["syn_lr"] == after["syn_lr"],
            before["velocity"]["syn_lr"] == after["velocity"]["syn_lr"],
        ]
        assert same == [loss > 1.0] * 6
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
