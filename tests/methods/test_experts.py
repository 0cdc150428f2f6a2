"""Experts against textbook trainings in float64; and what is kept, drawn, shared and gone on from."""

import logging
import math
from dataclasses import replace
from functools import cache
from itertools import product

import pytest
import small_tasks
import torch
import torch.nn.functional as F
from ddbench.methods.engines.trajectory import expert_step, experts
from ddbench.methods.engines.trajectory.expert_step import ExpertBatch, gradient_penalty, gradients, step
from ddbench.methods.engines.trajectory.experts import ExpertRecipe, Experts, entry, pieces
from ddbench.methods.engines.trajectory.flat import FlatNetwork, flatten
from pydantic import ValidationError
from watching import StopAt, Stopped

from ddbench import networks
from ddbench.augment import DSA, OPS
from ddbench.cli.showing import _set_lines
from ddbench.data.registry import load_dataset
from ddbench.distillation.task import Task
from ddbench.errors import JobFailed, UsageError
from ddbench.jobs import job as jobs
from ddbench.jobs.estimate import probed
from ddbench.jobs.job import distill_job
from ddbench.progress import Reporter
from ddbench.randomness import rng
from ddbench.report.facts import set_facts
from ddbench.training import cache as stages
from ddbench.training.memory import saved_activation_bytes

IMAGES = 70  # with batches of 25 an epoch has three steps, the last of 20 images
PLAIN = ExpertRecipe(lr=0.05, batch=25)
HEAVY = PLAIN.model_copy(update={"momentum": 0.9, "weight_decay": 1e-2, "decay_epoch": 2, "decay_factor": 0.3})
GSAM = PLAIN.model_copy(update={"rho": 0.3, "gsam_alpha": 0.4, "weight_decay": 1e-2})
AST = HEAVY.model_copy(update={"loss_ramp": 3, "gradient_penalty": 2.0, "lr": 0.01})
ALL = {"plain": PLAIN, "momentum": HEAVY, "gsam": GSAM, "ast": AST}


def a_task(seed=0, **more):
    return small_tasks.a_task(seed=seed, data=small_tasks.digits(IMAGES), **more)


def some(recipe=PLAIN, count=2, task=None, **more):
    task = task or a_task()
    return Experts(task, task.space("normalised"), recipe, count, **more)


def names(made):
    return made._stage.entries()


@pytest.fixture
def trained(monkeypatch):
    """The (experts, 0-based epoch) that were trained, in order."""
    calls, real = [], Experts._epoch

    def spy(self, which, epoch, *more):
        calls.append((tuple(which), epoch))
        return real(self, which, epoch, *more)

    monkeypatch.setattr(Experts, "_epoch", spy)
    return calls


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Call it to have an empty cache."""

    def move(name):
        monkeypatch.setenv("DDBENCH_CACHE", str(tmp_path / name))

    return move


@cache
def textbook(recipe, expert, epochs):
    """Snapshots 0 to `epochs` in float64: a loop over batches with torch's own SGD, one parameter tensor at a time."""
    task = a_task()
    network = networks.create(task.network, channels=1, side=8, classes=10, key=("expert", expert)).double()
    images, labels = task.tensors(task.space("normalised"))
    images, weights = images.double(), list(network.parameters())
    dsa = DSA(tuple(op for op in OPS if op != "flip"), align_corners=True, crop_rounding="floor")
    how = {"momentum": recipe.momentum, "weight_decay": recipe.weight_decay}
    optimizer = torch.optim.SGD(weights, lr=recipe.lr, **how)
    found = [flatten(network)]
    for epoch in range(epochs):
        if epoch == recipe.decay_epoch:
            optimizer = torch.optim.SGD(weights, lr=recipe.lr * recipe.decay_factor, **how)
        order = torch.randperm(IMAGES, generator=rng(0, "expert", expert, "order", epoch))
        for number in range(math.ceil(IMAGES / recipe.batch)):
            places = order[number * recipe.batch : (number + 1) * recipe.batch]
            seen = dsa(images[places], rng(0, "expert", expert, "dsa", epoch, number))
            factor = (0.5, 2 / 3, 5 / 6)[epoch] if epoch < recipe.loss_ramp else 1.0

            def loss(places=places, seen=seen, factor=factor):
                value = factor * F.cross_entropy(network(seen), labels[places])
                if recipe.gradient_penalty:
                    value = value + recipe.gradient_penalty * penalty(network, images[places])
                return value

            towards = gsam_by_tensors(loss, weights, recipe) if recipe.rho else torch.autograd.grad(loss(), weights)
            for weight, direction in zip(weights, towards, strict=True):
                weight.grad = direction
            optimizer.step()
        found.append(flatten(network))
    return found


def slope_of(network, images):
    images = images.clone().requires_grad_()
    return torch.autograd.grad(network(images).sum(), images, create_graph=True)[0]


def penalty(network, images):
    return (slope_of(network, images).square().sum(1).sqrt() - 1).square().mean()


def penalty_by_positions(network, images):
    slope = slope_of(network, images)
    places = product(range(len(images)), range(images.shape[2]), range(images.shape[3]))
    return torch.stack([(slope[b, :, i, j].square().sum().sqrt() - 1) ** 2 for b, i, j in places]).mean()


def gsam_by_tensors(loss, weights, recipe):
    """Facts on FTD's experts, step by step, one parameter tensor at a time."""
    g = torch.autograd.grad(loss(), weights)
    norm = sum((w.detach().abs() * d).square().sum() for w, d in zip(weights, g, strict=True)).sqrt()
    moves = [recipe.rho * w.detach() ** 2 * d / (norm + 1e-12) for w, d in zip(weights, g, strict=True)]
    with torch.no_grad():
        for weight, move in zip(weights, moves, strict=True):
            weight += move
    sharp = torch.autograd.grad(loss(), weights)
    with torch.no_grad():
        for weight, move in zip(weights, moves, strict=True):
            weight -= move
    size = sum(d.square().sum() for d in g).sqrt()
    sharp_size = sum(d.square().sum() for d in sharp).sqrt()
    cosine = sum((a * b).sum() for a, b in zip(g, sharp, strict=True)) / (size * sharp_size + 1e-12)
    unit = [d / (sharp_size + 1e-12) for d in sharp]
    across = [d - cosine * size * u for d, u in zip(g, unit, strict=True)]
    return [s - recipe.gsam_alpha * a for s, a in zip(sharp, across, strict=True)]


@pytest.mark.parametrize("recipe", ALL.values(), ids=ALL)
@pytest.mark.parametrize("group", [1, 2])
def test_a_trajectory_is_what_the_textbook_gives(recipe, group):
    made = some(recipe, count=2, group=group)
    made.train(4)
    wanted = textbook(recipe, 1, 4)
    assert torch.equal(made.at(1, 0), wanted[0].float())
    for epoch in range(1, 5):
        moved = (wanted[epoch] - wanted[epoch - 1]).norm()
        assert (made.at(1, epoch) - wanted[epoch]).norm() < 1e-4 * moved, epoch
        assert moved > 1e-3


def color_batch(count=6):
    network = networks.create("convnet-d2-w4", channels=3, side=8, classes=5, seed=1)
    images = torch.randn(1, count, 3, 8, 8, generator=rng(0, "images"), dtype=torch.float64)
    labels = torch.arange(count)[None] % 5
    return network.double(), ExpertBatch(images, 1.5 * images.flip(4), labels)


def test_the_gradient_penalty_has_a_norm_for_every_pixel():
    network, batch = color_batch()
    found = gradient_penalty(FlatNetwork(network), flatten(network), batch.images[0])
    network.requires_grad_()
    assert found.item() == pytest.approx(penalty_by_positions(network, batch.images[0]).item(), rel=1e-12)


def test_losses_and_the_clipping_factor():
    network, batch = color_batch()
    start, weight = flatten(network)[None], 2.0
    plain = F.cross_entropy(network(batch.augmented[0]), batch.labels[0])
    penalty = penalty_by_positions(network, batch.images[0])
    recipe = ExpertRecipe(loss_ramp=10, gradient_penalty=weight)
    assert [recipe.scale_at(epoch) for epoch in (0, 1, 9, 10, 49)] == [0.5, 0.55, 0.95, 1.0, 1.0]
    for epoch, factor in ((0, 0.5), (1, 0.55), (9, 0.95), (10, 1.0)):
        loss = step(FlatNetwork(network), recipe, epoch, batch, start.clone(), torch.zeros_like(start))
        assert loss.item() == pytest.approx((factor * plain + weight * penalty).item(), rel=1e-10)


@pytest.mark.parametrize("recipe", [ExpertRecipe(), ExpertRecipe(gradient_penalty=2.0)], ids=["plain", "penalty"])
def test_a_batch_in_parts_has_the_same_gradient(recipe, monkeypatch):
    network, batch = color_batch(11)
    vectors = torch.stack([flatten(network), 0.9 * flatten(network)])
    two = ExpertBatch(*(torch.cat([part, part]) for part in (batch.images, batch.augmented, batch.labels)))
    whole = gradients(FlatNetwork(network), recipe, 0.5, two, vectors)
    monkeypatch.setattr(expert_step, "chunk_images", lambda device, side: 4)
    assert len(list(two.parts())) == 3
    for a, b in zip(whole, gradients(FlatNetwork(network), recipe, 0.5, two, vectors), strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("recipe", ALL.values(), ids=ALL)
def test_a_trajectory_in_pieces_has_the_same_bits(recipe, elsewhere):
    whole = some(recipe)
    whole.train(5)
    elsewhere("pieces")
    for upto, final in ((0, None), (1, 3), (2, None), (4, 5), (5, 5)):
        in_pieces = some(recipe)
        in_pieces.train(upto, final)
    for expert, epoch in product(range(2), range(6)):
        assert torch.equal(whole.at(expert, epoch), in_pieces.at(expert, epoch)), epoch


def test_the_final_epoch_of_some_experts_only(trained):
    made = some(PLAIN, count=3)
    made.train(1, final=4, final_of=[1])
    assert set(names(made)) == {entry(e, k) for e in range(3) for k in (0, 1)} | {entry(1, 4)}
    assert len(trained) == 3 * 1 + 3


def test_a_split_that_is_not_held_gives_the_same_experts(elsewhere):
    held = some()
    held.train(1)
    wanted = held.at(0, 1)
    elsewhere("read as needed")
    task = a_task()
    task._source = replace(task._source, train=replace(task._source.train, resident=False))
    read = some(task=task)
    read.train(1)
    assert torch.equal(read.at(0, 1), wanted)


def test_only_what_is_asked_for_is_made_and_kept(trained):
    made = some(HEAVY)
    made.train(1, final=5)
    assert [epoch for _, epoch in trained] == [*range(5), *range(5)]
    velocities = {f"{e:03d}-{k:03d}-velocity" for e in range(2) for k in (1, 5)}  # none at rest: epochs 0 and 2
    assert set(names(made)) == {entry(e, k) for e in range(2) for k in (0, 1, 5)} | velocities
    del trained[:]
    some(HEAVY).train(1, final=5)
    assert trained == []
    made.train(3)  # from 1 on, not from 5
    made.train(0, final=7)
    made.train(2, final=1)
    assert [epoch for _, epoch in trained] == [1, 2, 1, 2, 5, 6, 5, 6]
    assert {name for name in names(made) if len(name) == 7} == {
        entry(e, k) for e in range(2) for k in (0, 1, 2, 3, 5, 7)
    }


@pytest.mark.parametrize(
    ("stored", "wanted", "start_at", "expected"),
    [
        ([], [0, 1, 2], [], [range(3)]),
        ([], [0, 1, 9], [], [range(10)]),
        ([0, 1, 2], [0, 1, 2], [0, 1, 2], []),
        ([0, 1], [0, 1, 2, 5], [0, 1], [range(2, 6)]),
        ([0, 1, 4], range(7), [0, 1, 4], [range(2, 4), range(5, 7)]),
        ([0, 1, 8], [0, 1, 2, 9], [0, 1, 8], [range(2, 3), range(9, 10)]),
        ([0, 1, 2, 3], [4], [0, 1], [range(2, 5)]),
    ],
)
def test_pieces_go_on_from_the_nearest(stored, wanted, start_at, expected):
    assert pieces(stored, wanted, start_at) == expected


@pytest.mark.parametrize("group", [1, 2])
def test_a_stopped_run_goes_on(group, trained, elsewhere):
    whole = some(HEAVY, group=group)
    whole.train(1, final=5)
    elsewhere("stopped")
    with pytest.raises(Stopped):
        some(HEAVY, task=a_task(reporter=StopAt(5, "training experts")), group=group).train(1, final=5)
    del trained[:]
    steps = StopAt(watched="training experts")
    again = some(HEAVY, task=a_task(reporter=steps), group=group)
    again.train(1, final=5)
    assert steps.seen == [*range(1, 8)]  # of 12
    assert trained[0] == (((0,), 4) if group == 1 else ((0,), 2))
    for expert, epoch in product(range(2), (0, 1, 5)):
        assert torch.allclose(whole.at(expert, epoch), again.at(expert, epoch), atol=1e-6 * (group - 1), rtol=0)


def test_the_other_of_two_processes_finds_what_the_first_made(trained, monkeypatch):
    made, real = some(), stages.Cache.locked

    def taken_meanwhile(self):
        monkeypatch.setattr(stages.Cache, "locked", real)
        some().train(2)
        return real(self)

    monkeypatch.setattr(stages.Cache, "locked", taken_meanwhile)
    made.train(2)
    assert len(trained) == 4 and made.at(1, 2).isfinite().all()


def test_snapshots_are_not_the_same_memory():
    made = some()
    made.train(1)
    kept = made.at(0, 1)
    before = kept.clone()
    made.train(3)
    assert torch.equal(kept, before) and made.at(0, 1) is kept
    assert len({made.at(0, k).data_ptr() for k in range(4)}) == 4
    assert all((made.at(0, k + 1) - made.at(0, k)).norm() > 1e-3 for k in range(3))


def test_runs_share_what_is_trained_alike(trained):
    some(count=1).train(2)
    made = len(trained)
    some(count=1, task=a_task(seed=3)).train(1, final=2)
    assert len(trained) == made
    other_space = a_task()
    reserved = a_task()
    reserved.holdout(0.5)
    other = (
        some(PLAIN.model_copy(update={"lr": 0.04}), count=1),
        some(count=1, task=a_task(stage_seed=1)),
        some(count=1, task=a_task(network="convnet-d1-w5")),
        some(count=1, task=reserved),
        Experts(other_space, other_space.space("pixel"), PLAIN, 1),
    )
    folders = {each._stage.folder for each in other} | {some()._stage.folder}
    assert len(folders) == 6
    other[1].train(0)
    assert not torch.equal(other[1].at(0, 0), some().at(0, 0))


def test_reading_a_snapshot_reads_one_file_once(monkeypatch):
    some(HEAVY).train(2)
    read, real = [], stages.read_sealed

    def spy(path):
        read.append(path.stem)
        return real(path)

    monkeypatch.setattr(stages, "read_sealed", spy)
    made = some(HEAVY)
    made.train(2)
    assert read == []
    made.at(1, 1), made.at(1, 1)
    assert read == ["001-001"]


def test_memory_holds_a_bounded_number(monkeypatch):
    monkeypatch.setattr(experts, "CACHE_BYTES", 4 * some().network.size * 3)
    made = some()
    made.train(4)
    for epoch in (0, 1, 0, 2, 3):
        made.at(0, epoch)
    assert list(made._cache) == ["000-000", "000-002", "000-003"]


def test_a_diverged_expert_is_a_failed_job():
    made = some(PLAIN.model_copy(update={"lr": 1e30}))
    with pytest.raises(JobFailed, match="expert 0 diverged in epoch 1"):
        made.train(2)
    assert names(made) == ["000-000"]


def test_what_is_not_there_is_said():
    made = some()
    made.train(1)
    for expert in (-1, 2):
        with pytest.raises(UsageError, match="experts 0 to 1"):
            made.at(expert, 0)
    with pytest.raises(JobFailed, match="expert 1 after 2 epochs"):
        made.at(1, 2)
    for upto, final in ((-1, None), (2, -1)):
        with pytest.raises(UsageError, match="epochs are 0 or above"):
            made.train(upto, final)
    with pytest.raises(UsageError, match="count"):
        some(count=0)
    for wrong in ({"lr": 0.0}, {"lr": "1"}, {"momentum": 1.0}, {"batch": 0}, {"decay": 1}, {"rho": -0.1}):
        with pytest.raises(ValidationError):
            ExpertRecipe(**wrong)


@pytest.mark.parametrize("damaged", ["000-003", "000-003-velocity"])
def test_a_damaged_entry_is_made_again(damaged, trained, caplog):
    made = some(HEAVY, count=1)
    made.train(3)
    bits = made.at(0, 3).clone()
    path = made._stage.folder / f"{damaged}.safetensors"
    raw = path.read_bytes()
    path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    del trained[:]
    with caplog.at_level(logging.WARNING, "ddbench"):
        some(HEAVY, count=1).train(4)
    assert "damaged" in caplog.text and [epoch for _, epoch in trained] == [2, 3]
    assert torch.equal(some(HEAVY, count=1).at(0, 3), bits) and path.exists()


def kept_of(network, images):
    vector = torch.zeros(network.size, requires_grad=True)
    return saved_activation_bytes(lambda: network(vector, images), [vector])


def test_how_many_train_at_once_follows_from_memory(monkeypatch):
    network, batch = color_batch()
    flat, images = FlatNetwork(network.float()), batch.images[0].float()
    bytes_of = [kept_of(flat, images[:n].clone()) for n in (1, 2)]
    assert bytes_of[0] > 4 * 3 * 4 * 64 and bytes_of[1] == pytest.approx(2 * bytes_of[0], rel=0.05)
    made = some()
    image = torch.zeros(1, 1, 8, 8)
    needed = 25 * kept_of(made.network, image) * 4
    for free, group in ((0, 1), (3.5 * needed, 3), (1e15, experts.GROUP)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (int(free), 0))
        assert made._fitting() == group


def a_job(**fields):
    """A job of three experts that are read up to epoch 2."""
    small = {"experts": 3, "expert_epochs": 1, "max_start_epoch": 2, "iterations": 2, "syn_steps": 2}
    return small_tasks.a_job("mtt", 1, network="convnet-d1-w4", **{**small, **fields})


class Lines(Reporter):
    def __init__(self):
        self.lines = []

    def line(self, text):
        self.lines.append(text)


def test_the_runner_tests_the_experts_for_people_to_see(tmp_path):
    reporter = Lines()
    made = distill_job(a_job(), reporter)
    facts = made.provenance.teachers
    assert len(facts) == 3 and {f["name"] for f in facts.values()} == {"expert 0", "expert 1", "expert 2"}
    digits = load_dataset("digits")
    again = some(ExpertRecipe(), 3, small_tasks.a_task(seed=0, data=digits))
    mean, std = digits.mean[0], digits.std[0]
    logits = again.network(again.at(1, 2), (digits.test.read().float() / 255 - mean) / std)
    right = (logits.argmax(1) == digits.test.labels).double().mean().item()
    wanted = {"role": "expert", "name": "expert 1", "epoch": 2, "network": "convnet-d1-w4"}
    found = next(f for f in facts.values() if f["name"] == "expert 1")
    assert found == {**wanted, "accuracy": pytest.approx(right)}
    (line,) = reporter.lines
    assert line.startswith("experts: 3 convnet-d1-w4, epoch 2, test accuracy ") and line.endswith(" %")
    shown = dict(_set_lines(set_facts(made, tmp_path / "x")))
    assert f"experts: {shown['experts']}" == line and not shown["teachers"]


def test_no_method_sees_an_accuracy(monkeypatch):
    asked = []
    monkeypatch.setattr(jobs, "measured_accuracy", lambda teacher, dataset, device: asked.append(teacher) or 0.5)
    real = Task.loop

    def loop(self, *args):
        assert asked == [] and not hasattr(self, "test")
        yield from real(self, *args)

    monkeypatch.setattr(Task, "loop", loop)
    distill_job(a_job())
    assert len(asked) == 3 and all(teacher.hash for teacher in asked)


@pytest.mark.parametrize("epochs", [2, 2000])
def test_a_dry_run_estimates_experts_and_saves_none(epochs, tmp_path):
    found = probed(a_job(max_start_epoch=epochs), 0.2)
    assert not list(tmp_path.rglob("stages/**/*.safetensors"))
    if epochs > 2:
        assert "training experts: 6,003 iterations" in found.basis and "'experts' only" in found.basis


def test_a_recipe_of_more_than_999_epochs_and_experts_keeps_its_names_apart():
    stored = [entry(3, 17), entry(3, 1017), entry(1003, 4), f"{entry(3, 18)}-velocity"]
    assert experts._stored(3, stored) == {17, 1017} and experts._stored(1003, stored) == {4}
    assert stored[0] == "003-017"
