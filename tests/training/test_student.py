"""Students: batches, losses, schedules and the training loop against straightforward computations."""

import math

import pytest
import torch
from torch.nn import functional as F

from ddbench import networks
from ddbench.augment import build_augmentation, build_mixing
from ddbench.data.dataset import Split
from ddbench.data.registry import load_dataset
from ddbench.data.spaces import make_space, transform_for
from ddbench.data.streamed import ReadImages
from ddbench.errors import JobFailed, UsageError
from ddbench.randomness import forked, rng
from ddbench.training.batch_schedule import BatchSchedule
from ddbench.training.batches import Order, views_of
from ddbench.training.checkpoints import Checkpoint
from ddbench.training.loop import accuracy, predict, score, train
from ddbench.training.losses import LOSSES, Labels
from ddbench.training.optimizers import OPTIMIZERS, SCHEDULES
from ddbench.training.recipe import StudentRecipe

SGD = {"name": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}


def recipe(**changes):
    fields = {
        "network": "convnet-d1-w8",
        "optimizer": SGD,
        "schedule": {"name": "step", "at": 0.5, "factor": 0.1},
        "epochs": 4,
        "batch": 12,
    }
    return StudentRecipe.model_validate({**fields, **changes})


def network(name="convnet-d1-w8"):
    return networks.create(name, channels=1, side=8, classes=10, seed=1)


def data(count=30):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 1, 8, 8, generator=generator), torch.arange(count) % 10


@pytest.mark.parametrize(
    ("images", "changes", "steps"),
    [
        (100, {"epochs": 10, "batch": 20}, 50),
        (10, {"epochs": 10, "batch": 256}, 10),  # a small set is one batch: a step an epoch
        (30, {"epochs": 4, "batch": 12}, 10),
        (31, {"epochs": 1, "batch": 12}, 2),
        (100, {"epochs": 10, "batch": 20, "max_steps": 49}, 49),
        (100, {"epochs": 10, "batch": 20, "max_steps": 51}, 50),
        (1, {"epochs": 1, "batch": 1}, 1),
    ],
)
def test_steps(images, changes, steps):
    assert recipe(**changes).steps(images) == steps


def by_hand(images, classes, steps, batch, seed, *, lr=0.05, momentum=0.9, decay=5e-4, drop=0.1, stop=None):
    """Momentum SGD with weight decay and a step schedule, as written in any textbook."""
    model = network().train()
    buffers = [torch.zeros_like(p) for p in model.parameters()]
    schedule = torch.cat([torch.randperm(len(images), generator=rng(seed, "epoch", e)) for e in range(steps)])
    for step in range(steps if stop is None else stop):
        index = schedule[step * batch : (step + 1) * batch]
        logits = model(images[index])
        loss = -(logits - logits.logsumexp(1, keepdim=True))[torch.arange(batch), classes[index]].mean()
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        rate = lr if step < 0.5 * steps else lr * drop
        with torch.no_grad():
            for p, g, v in zip(model.parameters(), gradients, buffers, strict=True):
                v.mul_(momentum).add_(g + decay * p)
                p.sub_(rate * v)
    return model, float(loss.detach())


def test_training_is_the_textbook_loop():
    images, classes = data()
    student = network()
    done = train(student, images, classes, recipe(), seed=7)
    assert done.steps == 10 and done.seconds > 0
    wanted, loss = by_hand(images, classes, 10, 12, 7)
    for ours, theirs in zip(student.parameters(), wanted.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)
    assert done.final_loss == pytest.approx(loss, abs=1e-6)
    assert student.training


def test_augmentation_and_mixing_are_applied_in_order_with_the_draws_of_the_step():
    images, classes = data()
    specs = [{"name": "pad-crop", "pad": 2}, {"name": "flip"}]
    plan = recipe(augmentations=specs, mix={"name": "cutmix", "alpha": 1.0}, max_steps=3)
    seen = []

    class Spy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network()

        def forward(self, batch):
            seen.append(batch.clone())
            return self.inner(batch)

    labelled = []

    def labeller(batch):
        labelled.append(batch)
        return torch.zeros(len(batch.images), 10)

    train(Spy(), images, classes, plan.model_copy(update={"loss": {"name": "soft-ce"}}), seed=5, labeller=labeller)
    order = Order(30, 12, 5)
    for step in range(3):
        generator = rng(5, "augment", step)
        wanted = images[order.at(step)]
        for spec in specs:
            wanted = build_augmentation(spec)(wanted, generator)
        wanted, permutation, weight = build_mixing(plan.mix)(wanted, generator)
        batch = labelled[step]
        assert torch.equal(seen[step], wanted) and torch.equal(batch.images, wanted)  # labels see what the student sees
        assert torch.equal(batch.index, order.at(step)) and (batch.step, batch.seed) == (step, 5)
        assert torch.equal(batch.permutation, permutation) and batch.weight == weight


def test_the_same_seed_gives_the_same_bits_and_dropout_is_keyed():
    images, classes = data()
    plan = recipe(epochs=1)

    def run(seed):
        torch.manual_seed(torch.seed() % 2**31)  # whatever the global generator holds
        student = torch.nn.Sequential(torch.nn.Dropout(0.5), network())
        before = torch.random.get_rng_state()
        train(student, images, classes, plan, seed=seed)
        assert torch.equal(torch.random.get_rng_state(), before)
        return torch.cat([p.detach().flatten() for p in student.parameters()])

    first = run(0)
    assert torch.equal(first, run(0)) and not torch.equal(first, run(1))


def test_cosine_is_per_step_and_ends_at_zero():
    factor = SCHEDULES.build({"name": "cosine"})
    assert factor(0, 100, 5) == 1 and factor(50, 100, 5) == pytest.approx(0.5) and factor(100, 100, 5) < 1e-12
    for step in range(100):
        assert factor(step, 100, 5) == pytest.approx(0.5 * (1 + math.cos(math.pi * step / 100)))
    assert SCHEDULES.build({"name": "cosine", "stretch": 2.0})(100, 100, 5) == pytest.approx(0.5)


def test_a_short_cosine_goes_down_up_and_down():
    """CV-DD's ImageNette squeeze: torch's scheduler with T_max = 100 over 300 epochs, here per step."""
    factor = SCHEDULES.build({"name": "cosine", "stretch": 1 / 3})
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    torchs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100)
    for epoch in range(300):
        assert factor(epoch, 300, 1) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        torchs.step()
    assert [factor(e, 300, 1) for e in (0, 100, 200, 300)] == pytest.approx([1, 0, 1, 0], abs=1e-12)


def test_warmup_then_cosine():
    factor = SCHEDULES.build({"name": "warmup-cosine", "epochs": 5})
    rates = [factor(step, 200, 4) for step in range(201)]
    for step in range(20):  # 5 epochs of 4 steps
        assert rates[step] == pytest.approx(0.01 + 0.99 * step / 20)
    for step in range(20, 201):
        assert rates[step] == pytest.approx((1 + math.cos(math.pi * (step - 20) / 180)) / 2)
    assert rates[20] == 1 and rates[200] < 1e-12
    assert SCHEDULES.build({"name": "warmup-cosine", "epochs": 5, "start": 0.5})(0, 200, 4) == 0.5
    cosine = SCHEDULES.build({"name": "cosine"})
    without = SCHEDULES.build({"name": "warmup-cosine", "epochs": 0})
    assert [without(step, 10, 2) for step in range(11)] == [cosine(step, 10, 2) for step in range(11)]
    cut = SCHEDULES.build({"name": "warmup-cosine", "epochs": 5})  # a training that ends within its warm-up
    assert [cut(step, 10, 4) for step in range(10)] == pytest.approx([0.01 + 0.99 * step / 20 for step in range(10)])


def test_step_schedules():
    half = SCHEDULES.build({"name": "step", "at": 0.5, "factor": 0.1})
    assert [half(step, 10, 1) for step in range(10)] == [1.0] * 5 + [0.1] * 5
    every = SCHEDULES.build({"name": "step-every", "epochs": 2, "factor": 0.5})
    assert [every(step, 18, 3) for step in (0, 5, 6, 11, 12, 17)] == [1, 1, 0.5, 0.5, 0.25, 0.25]
    assert {SCHEDULES.build({"name": "constant"})(s, 10, 1) for s in range(10)} == {1.0}


def test_the_learning_rate_follows_the_schedule(monkeypatch):
    images, classes = data()
    rates = []
    real = torch.optim.SGD.step

    def step(self, *args, **kwargs):
        rates.append(self.param_groups[0]["lr"])
        return real(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    train(network(), images, classes, recipe(schedule={"name": "cosine"}), seed=0)
    assert rates == pytest.approx([0.05 * (1 + math.cos(math.pi * t / 10)) / 2 for t in range(10)])


@pytest.mark.parametrize("decay_all", [False, True])
def test_adamw_decays_matrices_only_or_everything(decay_all):
    model = network("convnet-d1-w8-bn")
    fields = {"name": "adamw", "lr": 0.1, "weight_decay": 0.5, "decay_all": decay_all}
    optimizer = OPTIMIZERS.build(fields)(model.parameters())
    before = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    shrunk = 0
    for old, new in zip(before, model.parameters(), strict=True):
        shrinks = decay_all or old.ndim >= 2
        assert torch.allclose(new, old * (1 - 0.1 * 0.5) if shrinks else old, atol=1e-7)
        shrunk += shrinks
    assert 0 < shrunk < len(before) + decay_all


@pytest.mark.parametrize("name", ["adam", "adamw"])
@pytest.mark.parametrize(("options", "betas"), [({}, (0.9, 0.999)), ({"betas": (0.5, 0.9)}, (0.5, 0.9))])
def test_adam_step_by_definition(name, options, betas):
    """Weight decay is a part of Adam's gradient, and apart from AdamW's."""
    p = torch.nn.Parameter(torch.tensor([[1.0, -2.0]]))
    optimizer = OPTIMIZERS.build({"name": name, "lr": 0.1, "weight_decay": 0.2, **options})([p])
    m = v = torch.zeros(1, 2)
    theta, (first, second) = p.detach().clone(), betas
    for t, g in enumerate((torch.tensor([[0.3, -1.0]]), torch.tensor([[-0.2, 0.5]])), 1):
        p.grad = g.clone()
        optimizer.step()
        coupled, decoupled = (g + 0.2 * theta, 1.0) if name == "adam" else (g, 1 - 0.1 * 0.2)
        m, v = first * m + (1 - first) * coupled, second * v + (1 - second) * coupled**2
        theta = decoupled * theta - 0.1 * (m / (1 - first**t)) / ((v / (1 - second**t)).sqrt() + 1e-8)
    assert torch.allclose(p, theta, atol=1e-6)


def logits(seed, count=6):
    return 5 * torch.randn(count, 10, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_kl_is_torchs_and_the_textbooks(temperature):
    student, teacher, classes = logits(0), logits(1), torch.arange(6)
    found = LOSSES.build({"name": "kl", "temperature": temperature})(student, Labels(classes, teacher))
    p, q = F.softmax(teacher / temperature, 1), F.softmax(student / temperature, 1)
    torchs = torch.nn.KLDivLoss(reduction="batchmean")(q.log(), p)
    by_hand = (p * (p.log() - q.log())).sum(1).mean()
    assert float(found) == pytest.approx(float(torchs), rel=1e-5) == pytest.approx(float(by_hand), rel=1e-5)
    squared = LOSSES.build({"name": "kl", "temperature": temperature, "squared": True})
    assert float(squared(student, Labels(classes, teacher))) == pytest.approx(temperature**2 * float(by_hand), rel=1e-5)
    same = LOSSES.build({"name": "kl", "temperature": temperature})(teacher + 3, Labels(classes, teacher))
    assert abs(float(same)) < 1e-6


def test_soft_cross_entropy_by_definition():
    student, teacher = logits(0), logits(1)
    found = LOSSES.build({"name": "soft-ce", "temperature": 2.0})(student, Labels(torch.arange(6), teacher))
    wanted = -(F.softmax(teacher / 2, 1) * F.log_softmax(student, 1)).sum(1).mean()
    assert float(found) == pytest.approx(float(wanted), rel=1e-6)


def test_mixed_cross_entropy_by_definition():
    student, classes = logits(0), torch.tensor([3, 1, 4, 1, 5, 9])
    permutation = torch.tensor([5, 4, 3, 2, 1, 0])
    found = LOSSES.build({"name": "ce"})(student, Labels(classes, None, permutation, 0.3))
    weights = 0.3 * F.one_hot(classes, 10) + 0.7 * F.one_hot(classes[permutation], 10)
    assert float(found) == pytest.approx(float(-(weights * F.log_softmax(student, 1)).sum(1).mean()), rel=1e-6)
    alone = LOSSES.build({"name": "ce"})(student, Labels(classes))
    assert float(alone) == pytest.approx(float(F.cross_entropy(student, classes)))


def test_a_loss_from_another_package(toys):
    images, classes = data()
    student = network()
    done = train(student, images, classes, recipe(loss={"name": "toy-squares", "weight": 0.5}, epochs=1), seed=0)
    assert done.steps == 2
    student, found = logits(0), LOSSES.build({"name": "toy-squares"})
    assert float(found(student, Labels(torch.arange(6)))) == pytest.approx(
        float((student - torch.eye(10)[:6]).square().sum(1).mean())
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": {"name": "sdg", "lr": 1.0}}, "did you mean sgd"),
        ({"optimizer": {"name": "sgd"}}, "lr"),
        ({"optimizer": {"name": "sgd", "lr": "0.1"}}, "lr"),
        ({"optimizer": {"name": "sgd", "lr": True}}, "lr"),
        ({"optimizer": {"name": "sgd", "lr": -1.0}}, "lr"),
        ({"optimizer": {"name": "sgd", "lr": 0.1, "dampening": 0.1}}, "dampening"),
        ({"schedule": {"name": "step", "at": 2.0}}, "at"),
        ({"loss": {"name": "kl", "temperature": 0.0}}, "temperature"),
        ({"loss": {"name": "kl"}}, "soft labels"),
        ({"augmentations": [{"name": "pad-crop", "pad": 1.5}]}, "pad"),
        ({"mix": {"name": "cutmix", "alpha": "one"}}, "alpha"),
    ],
)
def test_a_wrong_part_is_one_line(change, message):
    images, classes = data()
    with pytest.raises(UsageError, match=message) as error:
        train(network(), images, classes, recipe(**change), seed=0)
    assert "\n" not in str(error.value)


def test_whole_numbers_stand_for_floats():
    assert OPTIMIZERS.build({"name": "sgd", "lr": 1})([torch.nn.Parameter(torch.zeros(1))]).defaults["lr"] == 1


@pytest.mark.parametrize("steps", [1, 3, 120])
def test_divergence_is_a_failed_job(steps):
    """However short the training: a network that gives no finite outputs is not scored."""
    images, classes = data()
    digits = load_dataset("digits")
    transform = transform_for(make_space("normalised", digits), digits)
    student = network()
    with pytest.raises(JobFailed, match="finite"):
        train(student, images, classes, recipe(optimizer={**SGD, "lr": 1e38}, max_steps=steps, epochs=500), seed=0)
        accuracy(student, digits.test, transform, torch.device("cpu"))


def test_score_by_definition():
    found_logits = torch.randn(500, 12, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 11, (500,), generator=torch.Generator().manual_seed(1))  # class 11 never occurs
    found = score(found_logits, labels)
    order = found_logits.argsort(1, descending=True)
    right = [int(order[i, 0]) == int(labels[i]) for i in range(500)]
    assert found.top1 == pytest.approx(sum(right) / 500)
    assert found.top5 == pytest.approx(sum(int(labels[i]) in order[i, :5].tolist() for i in range(500)) / 500)
    for c in range(11):
        members = [r for r, label in zip(right, labels.tolist(), strict=True) if label == c]
        assert found.per_class[c] == pytest.approx(sum(members) / len(members))
    assert found.per_class[11] == 0
    assert score(torch.eye(10), torch.arange(10)).top5 is None and score(torch.eye(10), torch.arange(10)).top1 == 1


def test_predictions_do_not_depend_on_the_batch_and_use_eval_mode():
    model = network("convnet-d1-w8-bn")
    images, classes = data(50)
    train(model, images, classes, recipe(epochs=1), seed=0)
    whole = predict(model, images, 50)
    assert not model.training
    assert torch.allclose(predict(model, images, 7), whole, atol=1e-5)
    with forked(0, "x"):
        model.eval()
        assert torch.allclose(model(images), whole, atol=1e-6)


def test_accuracy_maps_the_test_split_into_the_space():
    digits = load_dataset("digits")
    transform = transform_for(make_space("zca", digits), digits)
    model = network()
    pixels = transform.encode(digits.test.read().float() / 255)
    wanted = (model(pixels).argmax(1) == digits.test.labels).double().mean()
    assert accuracy(model, digits.test, transform, torch.device("cpu")).top1 == pytest.approx(float(wanted))


def test_without_flip():
    specs = [
        {"name": "flip"},
        {"name": "dsa", "ops": ["crop", "flip"]},
        {"name": "dsa"},
        {"name": "pad-crop", "pad": 1},
    ]
    kept = recipe(augmentations=specs).without_flip().augmentations
    assert kept == [
        {"name": "dsa", "ops": ["crop"]},
        {"name": "dsa", "ops": ["color", "crop", "cutout", "scale", "rotate"]},
        {"name": "pad-crop", "pad": 1},
    ]


def test_a_recipes_hash_depends_on_every_field():
    base = recipe()
    changes = [
        {"network": "mlp"},
        {"optimizer": {**SGD, "lr": 0.1}},
        {"schedule": {"name": "cosine"}},
        {"loss": {"name": "kl"}},
        {"labels": "targets"},
        {"augmentations": [{"name": "flip"}]},
        {"mix": {"name": "cutmix"}},
        {"epochs": 5},
        {"max_steps": 5},
        {"batch": 13},
        {"bn_batch": 4},
    ]
    assert set().union(*changes) == set(StudentRecipe.model_fields)
    assert len({base.hash(), *(recipe(**change).hash() for change in changes)}) == len(changes) + 1


def test_a_later_field_does_not_change_older_recipes():
    plain = recipe()
    assert "bn_batch" not in plain.model_dump() and "bn_batch" not in plain.model_dump(mode="json")
    assert "bn_batch" not in plain.model_dump_json() and recipe(bn_batch=None).hash() == plain.hash()
    assert plain.hash() == "8221348b3670653d10fd519d59d7935851a269232b99ca18e7b71b138f7e4e6b"
    grouped = recipe(bn_batch=4)
    assert grouped.model_dump(mode="json")["bn_batch"] == 4
    assert StudentRecipe.model_validate_json(grouped.model_dump_json()) == grouped
    assert StudentRecipe.model_validate_json(plain.model_dump_json()) == plain
    with pytest.raises(ValueError, match="bn_batch"):
        recipe(bn_batch=0)


def test_batch_norms_of_a_student_see_groups():
    """One training of batches of 12 with bn_batch 5 against gradients of chunks, one after another."""
    images, classes = data()
    student, wanted = (network("convnet-d1-w8-bn") for _ in range(2))
    plan = recipe(bn_batch=5, schedule={"name": "constant"}, optimizer={"name": "sgd", "lr": 0.05})
    train(student, images, classes, plan, seed=2)
    order = Order(30, 12, 2)
    for step in range(10):
        index = order.at(step)
        given = torch.cat([wanted.train()(part) for part in images[index].split(5)])
        loss = F.cross_entropy(given, classes[index])
        with torch.no_grad():
            for p, g in zip(wanted.parameters(), torch.autograd.grad(loss, list(wanted.parameters())), strict=True):
                p -= 0.05 * g
    ours, theirs = student.state_dict(), wanted.state_dict()
    assert list(ours) == list(theirs)
    for name in ours:
        assert torch.allclose(ours[name].float(), theirs[name].float(), atol=1e-5), name
    whole = network("convnet-d1-w8-bn")
    train(whole, images, classes, plan.model_copy(update={"bn_batch": None}), seed=2)
    assert not torch.allclose(whole.state_dict()["head.weight"], ours["head.weight"])


AUGMENTED = {"augmentations": [{"name": "pad-crop", "pad": 2}], "mix": {"name": "mixup", "alpha": 0.8}}


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def with_dropout():
    return torch.nn.Sequential(torch.nn.Dropout(0.3), network("convnet-d1-w8-bn"))


def same(one, two):
    return list(one) == list(two) and all(torch.equal(one[name], two[name]) for name in one)


def test_a_schedule_of_another_seed_shows_its_batches_and_leaves_the_networks_draws():
    images, classes = data()
    plan, shown = recipe(**AUGMENTED), []

    def spy(batch):
        shown.append(batch)
        return torch.zeros(len(batch.images), 10)

    def run(seed, schedule):
        student = with_dropout()
        soft = plan.model_copy(update={"loss": {"name": "soft-ce"}})
        train(student, images, classes, soft, seed=seed, labeller=spy, schedule=schedule)
        return weights(student)

    own, lent = run(1, None), run(1, BatchSchedule(8))
    assert [batch.seed for batch in shown] == [1] * 10 + [8] * 10
    for ours, theirs in zip(shown[10:], views_of(images, plan, BatchSchedule(8)), strict=True):
        assert torch.equal(ours.images, theirs.images) and torch.equal(ours.index, theirs.index)
    assert not same(own, lent) and not same(lent, run(2, BatchSchedule(8)))  # the dropout is seed 2's
    assert same(lent, run(1, BatchSchedule(8))) and same(own, run(1, BatchSchedule(1)))


def test_a_loop_counts_the_steps_and_may_end_early():
    images, classes = data()
    asked, seen = [], []

    def loop(start, total):
        asked.append((start, total))
        for step in range(start, total):
            if step == 4:
                return
            yield step
            seen.append(step)

    student = network()
    done = train(student, images, classes, recipe(), seed=7, loop=loop)
    assert asked == [(0, 10)] and seen == [0, 1, 2, 3] and done.steps == 4
    wanted, loss = by_hand(images, classes, 10, 12, 7, stop=4)
    assert torch.allclose(student.head.weight, wanted.head.weight, atol=1e-6)
    assert done.final_loss == pytest.approx(loss, abs=1e-6)
    assert train(student, images, classes, recipe(), seed=7, loop=lambda start, total: []).steps == 0


OPTIMIZERS_TO_RESUME = [
    SGD,
    {"name": "sgd", "lr": 0.05},
    {"name": "adam", "lr": 0.01, "weight_decay": 1e-3},
    {"name": "adamw", "lr": 0.01},
    {"name": "adamw", "lr": 0.01, "decay_all": True},
]


def stopped_after(count):
    return lambda start, total: range(start, min(start + count, total))


@pytest.mark.parametrize("optimizer", OPTIMIZERS_TO_RESUME, ids=lambda o: "-".join(map(str, o.values())))
def test_a_stopped_training_goes_on_to_the_same_bits(tmp_path, optimizer):
    images, classes = data()
    plan = recipe(optimizer=optimizer, schedule={"name": "cosine"}, bn_batch=5, **AUGMENTED)
    whole, path, starts = with_dropout(), tmp_path / "training.safetensors", []
    wanted = train(whole, images, classes, plan, seed=3)
    for count in (4, 3, 99):  # stopped twice, each time with another network and another history of the generator

        def loop(start, total, count=count):
            starts.append(start)
            return stopped_after(count)(start, total)

        torch.rand(5)
        student = with_dropout()
        done = train(student, images, classes, plan, seed=3, loop=loop, checkpoint=Checkpoint(path, 0.0))
    assert starts == [0, 4, 7] and same(weights(student), weights(whole))
    assert (done.steps, done.final_loss) == (10, wanted.final_loss) and path.exists()
    again = with_dropout()
    done = train(again, images, classes, plan, seed=3, checkpoint=Checkpoint(path, 0.0))
    assert (done.steps, done.final_loss) == (10, wanted.final_loss) and same(weights(again), weights(whole))


def test_the_state_of_another_training_is_not_taken(tmp_path):
    images, classes = data()
    path = tmp_path / "training.safetensors"
    train(network(), images, classes, recipe(), seed=3, loop=stopped_after(4), checkpoint=Checkpoint(path, 0.0))
    for plan, seed in ((recipe(), 4), (recipe(epochs=3), 3)):
        student, wanted = network(), network()
        train(student, images, classes, plan, seed=seed, checkpoint=Checkpoint(path, 1e9))
        train(wanted, images, classes, plan, seed=seed)
        assert same(weights(student), weights(wanted))


@pytest.mark.parametrize(("resident", "largest"), [(True, 1000), (False, 200)])
def test_large_images_are_tested_a_few_at_a_time(resident, largest):
    read = []

    def reader(places):
        read.append(len(places))
        return torch.zeros(len(places), 1, 8, 8, dtype=torch.uint8)

    split = Split(torch.zeros(1300, dtype=torch.int64), "0" * 64, resident, reader)
    assert len(predict(network(), ReadImages(split, lambda pixels: pixels, torch.device("cpu")))) == 1300
    assert max(read) == largest and sum(read) == 1300
