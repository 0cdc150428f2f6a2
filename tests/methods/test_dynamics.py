"""Training dynamics: what is recorded equals a straightforward look at the network; made once, stopped and gone on with."""

from dataclasses import replace

import pytest
import small_tasks
import torch
import torch.nn.functional as F
from ddbench.methods.engines.selection.dynamics import DynamicsFields, Recorder, described, dynamics_of
from pydantic import ValidationError
from small_tasks import digits
from watching import Stopped, Watch

from ddbench import networks
from ddbench.errors import JobFailed, UsageError
from ddbench.randomness import seed_of
from ddbench.training.batch_schedule import BatchSchedule
from ddbench.training.batches import views_of
from ddbench.training.checkpoints import Checkpoint
from ddbench.training.loop import train

NETWORK = "convnet-d1-w4-bn"
TRAINING = f"training {NETWORK} for scores"
QUICK = {"score_epochs": 3, "score_batch": 40, "score_lr": 0.05, "score_crop": "none"}


def a_task(*, resident=True, **more):
    data = digits()
    return small_tasks.a_task(network=NETWORK, data=replace(data, train=replace(data.train, resident=resident)), **more)


def fields_of(**changes):
    return DynamicsFields.model_validate({**QUICK, **changes})


def same(one, two):
    return all(
        torch.equal(getattr(a, name), getattr(b, name))
        for a, b in zip(one.runs, two.runs, strict=True)
        for name in ("error", "true", "other", "margin", "entropy", "prediction", "feature")
    )


def test_a_row_is_what_the_definitions_give():
    logits = torch.randn(60, 7, generator=torch.Generator().manual_seed(0)) * 3
    labels = torch.arange(60) % 7
    found = described(logits, labels)
    for i in range(60):
        z, y = logits[i].double(), int(labels[i])
        p = torch.exp(z) / torch.exp(z).sum()
        others = [k for k in range(7) if k != y]
        target = torch.zeros(7, dtype=torch.float64)
        target[y] = 1
        assert found["error"][i].item() == pytest.approx(torch.linalg.vector_norm(p - target).item(), rel=1e-12)
        assert found["true"][i].item() == pytest.approx(p[y].item(), rel=1e-12)
        assert found["other"][i].item() == pytest.approx(max(p[k].item() for k in others), rel=1e-12)
        assert found["margin"][i].item() == pytest.approx(z[y].item() - max(z[k].item() for k in others), rel=1e-12)
        assert found["entropy"][i].item() == pytest.approx(-(p * p.log()).sum().item(), rel=1e-12)
        assert found["prediction"][i].item() == z.argmax().item()
        # what the design asks for: the squared norm of p follows
        squared = found["error"][i] ** 2 + 2 * found["true"][i] - 1
        assert squared.item() == pytest.approx((p @ p).item(), rel=1e-9)


def test_the_easiest_samples_keep_their_order():
    logits = torch.tensor([[30.0, 0.0, 0.0], [31.0, 0.0, 0.0], [32.0, 0.0, 0.0]])
    errors = described(logits, torch.zeros(3, dtype=torch.int64))["error"].float()
    assert errors[0] > errors[1] > errors[2] > 0


def test_after_each_epoch_all_samples_are_looked_at_in_eval_mode():
    """Against a training stopped at the end of each epoch, whose network is then asked about all images."""
    task, fields = a_task(), fields_of()
    run = dynamics_of(task, fields, movement=True).runs[0]
    recipe, space = fields.score_recipe(task), task.space("normalised")
    images, labels = task.tensors(space)
    before = None
    for epoch in range(3):
        network = task.create_stage_network("dynamics", 0, name=NETWORK)
        ends = -(-(epoch + 1) * 150 // 40) if epoch < 2 else recipe.steps(150)  # the last epoch ends with the steps
        steps = recipe.steps(150)
        train(
            network, images, labels, recipe, seed=seed_of(0, "dynamics", 0),
            loop=lambda start, total, ends=ends: range(start, min(ends, total)),
        )  # fmt: skip
        assert ends <= steps
        network.eval()
        with torch.no_grad():
            logits = network(images)
            features = network.embed(images)
        p = logits.double().softmax(1)
        wanted = (p - F.one_hot(labels, 10)).norm(dim=1)
        assert torch.allclose(run.error[epoch].double(), wanted, rtol=1e-5, atol=1e-7)
        assert torch.allclose(run.feature[epoch], features.square().sum(1), rtol=1e-5)
        assert torch.equal(run.prediction[epoch].long(), logits.argmax(1))
        if before is not None:
            moved = (p * (p / before).log()).abs().sum(1)
            assert torch.allclose(run.movement[epoch].double(), moved, rtol=1e-4, atol=1e-6)
        before = p
    assert bool((run.movement[0] == 0).all())


def test_outputs_of_the_training_are_those_of_its_own_batches():
    """Each sample in the epoch whose permutation shows it; those the last step leaves unseen are looked at afterwards."""
    task = a_task()
    fields = fields_of(score_outputs="train", score_crop="pad")
    run = dynamics_of(task, fields).runs[0]
    recipe, space = fields.score_recipe(task), task.space("normalised")
    images, labels = task.tensors(space)
    seed, network, seen = seed_of(0, "dynamics", 0), task.create_stage_network("dynamics", 0, name=NETWORK), set()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, fused=True)
    steps = recipe.steps(150)
    for step, batch in enumerate(views_of(images, recipe, BatchSchedule(seed))):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (1 + torch.cos(torch.tensor(torch.pi * step / steps, dtype=torch.float64)).item()) / 2
        logits = network(batch.images)
        for position, place in enumerate(batch.index.tolist()):
            epoch = (step * 40 + position) // 150
            seen.add((epoch, place))
            margin = logits[position].detach().double()
            own = margin[labels[place]].clone()
            margin[labels[place]] = -torch.inf
            assert run.margin[epoch, place].item() == pytest.approx((own - margin.max()).item(), rel=1e-4, abs=1e-5)
        loss = F.cross_entropy(logits, labels[batch.index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    unseen = [place for place in range(150) if (2, place) not in seen]
    assert len(seen) == 40 * steps and len(unseen) == 450 - 40 * steps > 0
    network.eval()
    with torch.no_grad():
        left = network(images[unseen])
    assert torch.equal(run.prediction[2, unseen].long(), left.argmax(1))


def test_a_training_is_made_once_for_all_scores_and_synthesis_seeds():
    watch = Watch()
    one = dynamics_of(a_task(reporter=watch), fields_of())
    two = dynamics_of(a_task(seed=7, reporter=watch), fields_of(score_first=2, window=2))
    assert watch.steps[TRAINING] == 11  # 3 * 150 // 40 steps, once
    assert torch.equal(one.runs[0].error[1:], two.runs[0].error)
    assert not same(one, dynamics_of(a_task(stage_seed=1), fields_of()))


def test_several_trainings_begin_with_other_weights():
    runs = dynamics_of(a_task(), fields_of(score_runs=2)).runs
    assert len(runs) == 2 and not torch.equal(runs[0].error, runs[1].error)
    assert torch.equal(runs[0].error, dynamics_of(a_task(), fields_of()).runs[0].error)


@pytest.mark.parametrize("outputs", ["eval", "train"])
@pytest.mark.parametrize("step", [2, 4, 8, 11])
def test_a_training_that_is_stopped_goes_on_with_its_rows(outputs, step, tmp_path, monkeypatch):
    fields = fields_of(score_outputs=outputs)
    monkeypatch.setenv("DDBENCH_CACHE", str(tmp_path / "whole"))
    whole = dynamics_of(a_task(), fields, movement=True)
    monkeypatch.setenv("DDBENCH_CACHE", str(tmp_path / "stopped"))
    monkeypatch.setattr(Checkpoint.__init__, "__defaults__", (0.0,))  # saved after every step
    with pytest.raises(Stopped):
        dynamics_of(a_task(reporter=Watch(TRAINING, step)), fields, movement=True)
    watch = Watch()
    resumed = dynamics_of(a_task(reporter=watch), fields, movement=True)
    assert watch.steps.get(TRAINING, 0) == 11 - step
    assert same(whole, resumed) and torch.equal(whole.runs[0].movement, resumed.runs[0].movement)


def test_a_split_that_does_not_fit_in_memory_is_read_as_it_is_shown():
    held, read = dynamics_of(a_task(), fields_of()), a_task(stage_seed=0, resident=False)
    fields = fields_of()
    network = read.create_stage_network("dynamics", 0, name=NETWORK)
    images = read.images(read.space("normalised"))
    assert not isinstance(images, torch.Tensor)
    recorder = Recorder(network, images, read.dataset.labels, fields.score_recipe(read), False, False)
    recorder.train(seed_of(0, "dynamics", 0), Checkpoint(None), read.loop)
    assert torch.equal(recorder.rows["error"], held.runs[0].error)


def test_the_network_that_scored_is_credited():
    task = a_task()
    found = dynamics_of(task, fields_of())
    assert torch.equal(found.labels, task.dataset.labels)
    credit = task.logged_teachers["scoring network 0"]
    assert credit.teacher().hash == found.runs[0].network.hash and credit.facts["role"] == "scoring network"


def test_a_network_without_an_embedding_is_one_line(monkeypatch):
    monkeypatch.setattr(networks, "create", lambda *a, **k: torch.nn.Flatten())
    with pytest.raises(UsageError, match="has no embedding"):
        dynamics_of(a_task(), fields_of())


def test_a_training_that_diverges_says_so():
    with pytest.raises(JobFailed, match="not finite"):
        dynamics_of(a_task(), fields_of(score_lr=1e20))


@pytest.mark.parametrize("change", [{"score_last": 4}, {"score_first": 4}, {"score_first": 3, "score_last": 2}])
def test_epochs_that_are_not_trained_cannot_be_read(change):
    with pytest.raises(ValidationError, match="scores read epochs"):
        fields_of(**change)


def test_no_flip_where_a_flip_changes_the_class():
    assert all(part["name"] != "flip" for part in fields_of().score_recipe(a_task()).augmentations)
