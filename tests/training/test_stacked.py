"""Students in a stack: the same trainings as one after another."""

import copy

import pytest
import torch

import ddbench
from ddbench import networks
from ddbench.api.planning import missing_work
from ddbench.budget import Budget
from ddbench.data.registry import load_dataset
from ddbench.errors import JobFailed
from ddbench.evaluation import evaluate
from ddbench.evaluation.evaluate import evaluate_seeds
from ddbench.evaluation.protocol import find_protocol
from ddbench.jobs.job import DataName
from ddbench.jobs.sweep import Sweep
from ddbench.records.store import RecordStore
from ddbench.training.batch_schedule import BatchSchedule
from ddbench.training.compute import Compute
from ddbench.training.loop import train
from ddbench.training.precision import Execution
from ddbench.training.recipe import StudentRecipe
from ddbench.training.stacked import StackedNetworks, stackable, train_together

SEEDS = (3, 4, 7)
DSA = {"name": "dsa", "ops": ["color", "crop", "cutout", "scale", "rotate"]}
CUTMIX = {"name": "cutmix", "alpha": 1.0}
SGD = {"name": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}
ADAMW = {"name": "adamw", "lr": 1e-3, "weight_decay": 0.01}
KL = {"name": "kl", "temperature": 4.0}


def recipe(network, **changes):
    fields = {"network": network, "optimizer": SGD, "schedule": {"name": "cosine"}, "epochs": 8, "batch": 12}
    return StudentRecipe.model_validate({**fields, **changes})


def members(name, side=8):
    shape = {"channels": 1, "side": side, "classes": 10}
    return [networks.create(name, **shape, seed=seed, key=("student",)).double() for seed in SEEDS]


def data(count=30, side=8):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 1, side, side, generator=generator).double(), torch.arange(count) % 10


def guess(batch):
    """A stand-in for a teacher: logits that follow from the images as they are shown."""
    return batch.images.flatten(1)[:, :10] * 3


@pytest.mark.parametrize(
    ("name", "changes", "labeller"),
    [
        ("convnet-d2-w8", {"augmentations": [DSA]}, None),
        ("convnet-d2-w8-bn", {"optimizer": ADAMW, "mix": CUTMIX, "loss": KL, "labels": "teacher"}, guess),
        ("convnet-d2-w8-bn", {"bn_batch": 4, "mix": {"name": "mixup"}}, None),
        ("lenet", {"epochs": 3}, None),
        ("mlp-w16", {"optimizer": {"name": "adam", "lr": 1e-3}}, None),
    ],
)
def test_each_training_is_the_one_that_it_is_alone(name, changes, labeller):
    chosen, (images, classes) = recipe(name, **changes), data()
    together, alone = members(name), members(name)
    found = train_together(
        together, images, classes, chosen, schedules=[BatchSchedule(seed) for seed in SEEDS], labeller=labeller
    )
    for seed, one, two, got in zip(SEEDS, together, alone, found, strict=True):
        wanted = train(two, images, classes, chosen, seed=seed, labeller=labeller)
        assert (got.steps, got.final_loss) == (wanted.steps, pytest.approx(wanted.final_loss, rel=1e-9))
        for name_, value in two.state_dict().items():
            torch.testing.assert_close(one.state_dict()[name_], value, rtol=1e-8, atol=1e-10)
        one.eval(), two.eval()
        torch.testing.assert_close(one(images), two(images), rtol=1e-8, atol=1e-9)


def test_a_stack_gives_what_its_members_give():
    kept = members("convnet-d2-w8-bn")
    copies = copy.deepcopy(kept)
    images = torch.randn(3, 5, 1, 8, 8, dtype=torch.float64)
    found = StackedNetworks.of(kept)(images)
    torch.testing.assert_close(found, torch.stack([one(own) for one, own in zip(copies, images, strict=True)]))
    for one, two in zip(kept, copies, strict=True):  # running statistics, updated once
        for name, value in two.named_buffers():
            torch.testing.assert_close(dict(one.named_buffers())[name], value)


def test_one_that_diverges_leaves_the_others_alone():
    chosen, (images, classes) = recipe("convnet-d2-w8"), data()
    together, alone = members("convnet-d2-w8"), members("convnet-d2-w8")
    with torch.no_grad():
        next(together[1].parameters()).fill_(float("inf"))
    schedules = [BatchSchedule(seed) for seed in SEEDS]
    first, failed, last = train_together(together, images, classes, chosen, schedules=schedules)
    assert isinstance(failed, JobFailed) and "not finite (nan) at step 0" in str(failed)
    for seed, two, got in ((SEEDS[0], alone[0], first), (SEEDS[2], alone[2], last)):
        assert got.final_loss == pytest.approx(train(two, images, classes, chosen, seed=seed).final_loss, rel=1e-9)


def test_what_stacks():
    def can(name, side=8):
        return stackable(networks.create(name, channels=3, side=side, classes=10), name, side)

    assert can("convnet-d2-w8") and can("resnet18-bn") and can("convnet-d2-w8-bn")
    assert not can("timm:resnet10t", 32)
    assert not can("efficientnet-b0", 32)  # dropout


@pytest.fixture
def toy_set(toys):
    return ddbench.distill("toy", ipc=2, recipe="generic"), load_dataset("digits"), find_protocol("toy-soft-v1")


def test_a_cell_at_once_has_the_runs_of_its_seeds(toy_set):
    synset, digits, protocol = toy_set
    apart = evaluate_seeds(synset, digits, protocol, seeds=(0, 1, 2), setting=Compute())
    at_once = evaluate_seeds(synset, digits, protocol, seeds=(0, 1, 2), setting=Compute(stack=True))
    assert [run.seed for run in at_once.runs] == [0, 1, 2]
    assert [run.stacked for run in apart.runs] == [False] * 3 and [run.stacked for run in at_once.runs] == [True] * 3
    for one, two in zip(apart.runs, at_once.runs, strict=True):
        assert two.final_loss == pytest.approx(one.final_loss, rel=1e-3)
        assert (two.steps, two.teacher) == (one.steps, one.teacher)


def test_what_does_not_fit_is_halved(toy_set, monkeypatch):
    synset, digits, protocol = toy_set
    sizes, real = [], evaluate.train_together

    def small(students, *args, **more):
        sizes.append(len(students))
        if len(students) > 2:
            raise torch.OutOfMemoryError("too many")
        return real(students, *args, **more)

    monkeypatch.setattr(evaluate, "train_together", small)
    record = evaluate_seeds(synset, digits, protocol, seeds=range(5), setting=Compute(stack=True))
    assert sizes == [5, 2, 3, 1, 2] and [run.seed for run in record.runs] == [0, 1, 2, 3, 4]
    assert all(run.status == "ok" for run in record.runs)


def test_bf16_stacks_as_well():
    chosen, (images, classes) = recipe("convnet-d2-w8"), data()
    together = [member.float() for member in members("convnet-d2-w8")]
    schedules, how = [BatchSchedule(seed) for seed in SEEDS], Execution("bf16")
    found = train_together(together, images.float(), classes, chosen, schedules=schedules, execution=how)
    assert all(weights.dtype == torch.float32 for member in together for weights in member.parameters())
    alone = [train(m, images, classes, chosen, seed=s) for s, m in zip(SEEDS, members("convnet-d2-w8"), strict=True)]
    for one, two in zip(found, alone, strict=True):
        assert one.final_loss == pytest.approx(two.final_loss, rel=0.1)


def test_a_stack_is_one_job(toys, tmp_path):
    def left(stack):
        how = Compute(stack=stack)
        cells = Sweep(
            ["toy"],
            [DataName("digits")],
            [Budget(ipc=1)],
            ["toy-hard-v1"],
            seeds=(0, 1, 2),
            recipe="generic",
            compute=how,
        ).cells()
        return missing_work(cells, RecordStore(tmp_path))

    assert (left(False), left(True)) == (1 + 3, 1 + 1)
