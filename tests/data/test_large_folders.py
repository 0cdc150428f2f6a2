"""Images above 128 px: methods and protocols read them a batch at a time, and give what they give in memory."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from ddbench.evaluators.hard import HARD_V1, RESNET
from ddbench.evaluators.soft import LARGE, PAD_CROP, SOFT_V1, TEACHER
from PIL import Image

from ddbench.budget import Budget
from ddbench.data.dataset import memory_split
from ddbench.data.images import FromFiles
from ddbench.data.registry import load_dataset
from ddbench.data.spaces import make_space
from ddbench.data.streamed import ReadImages
from ddbench.distillation.method import find_method
from ddbench.distillation.task import Task
from ddbench.evaluation.evaluate import evaluate_seeds
from ddbench.evaluation.protocol import Tier, find_protocol
from ddbench.evaluation.reference_teacher import reference_teacher
from ddbench.evaluation.sizes import bytes_of
from ddbench.synset import teachers
from ddbench.synset.matched_recipe import match_recipe
from ddbench.synset.synset import SynSet, Targets, Views
from ddbench.synset.targets.stored_soft_labels import record_soft_labels
from ddbench.synset.views import drawn, expand, training_images
from ddbench.training.compute import Compute
from ddbench.training.loop import predict
from ddbench.training.recipe import StudentRecipe

CPU = torch.device("cpu")
SIDE, EACH, BATCH = 136, 10, 4
NETWORK = "convnet-d2-w4-bn"
FEW = {"network": NETWORK, "epochs": 2, "batch": BATCH}
HARD = replace(HARD_V1, tiers=(Tier(None, {**RESNET, **FEW}),))
SOFT = replace(
    SOFT_V1,
    tiers=(Tier(None, {**LARGE, **FEW}),),
    teacher=(Tier(None, {**TEACHER, **FEW, "augmentations": PAD_CROP}),),
)
RECIPE = StudentRecipe(
    network=NETWORK,
    optimizer={"name": "sgd", "lr": 0.05},
    loss={"name": "kl", "temperature": 4.0},
    labels="targets",
    augmentations=[{"name": "flip", "p": 0.5}],
    epochs=2,
    batch=BATCH,
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two classes of ten images for training and three for the test, told apart by their brightness."""
    root, generator = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for split, count in (("train", EACH), ("test", 3)):
        for number, name in enumerate(("dark", "light")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                noise = generator.integers(0, 128, (20, 20, 3), dtype=np.uint8) + np.uint8(100 * number)
                Image.fromarray(noise).resize((170, 160)).save(root / split / name / f"{i}.jpg")
    (root / "dataset.toml").write_text(f'name = "photos"\nside = {SIDE}\n')
    return root


@pytest.fixture
def streamed(photos):
    return load_dataset(f"folder:{photos}")


@pytest.fixture
def resident(streamed):
    """The same data set in memory, under the same names."""
    train, test = (
        replace(memory_split(split.read(), split.labels), hash=split.hash) for split in (streamed.train, streamed.test)
    )
    return replace(streamed, train=train, test=test)


@pytest.fixture
def reads(streamed, monkeypatch):
    """How many images were asked for at once, counted."""
    seen, plain = Counter(), FromFiles.__call__

    def counted(self, indices):
        seen[len(self.listing) if indices is None else len(indices)] += 1
        return plain(self, indices)

    monkeypatch.setattr(FromFiles, "__call__", counted)
    return seen


def a_task(data, **changes):
    return Task(data, **{"budget": Budget(2), "network": NETWORK, "seed": 0, "device": CPU, **changes})


def distil(name, task, **changes):
    method = find_method(name)
    return method.distill(task, method.hyper.model_validate_json(json.dumps({**method.toy, **changes})))


def random_set(data, **changes):
    places = torch.tensor([3, 12, 0, 19, 7, 11])
    fields = {"classes": data.train.labels[places], "space": make_space("normalised", data), "indices": places}
    return SynSet.of(data, **{**fields, **changes})


def a_teacher(data, kind="normalised"):
    teacher = teachers.Teacher.of(
        data,
        network=NETWORK,
        space=make_space(kind, data),
        recipe_hash="0" * 64,
        state=a_task(data).create_network("teacher").state_dict(),
    )
    teachers.keep(teacher)
    return teacher


@pytest.mark.parametrize("protocol", [HARD, SOFT], ids=["hard", "soft"])
@pytest.mark.parametrize("stack", [False, True])
def test_protocols_train_on_the_whole_split_a_batch_at_a_time(
    streamed, resident, reads, tmp_path, monkeypatch, protocol, stack
):
    monkeypatch.setattr("ddbench.evaluation.sizes.AT_ONCE", BATCH)  # bytes of a set are counted by such parts
    synset, setting = distil("whole", a_task(streamed, budget=Budget())), Compute(stack=stack)
    found = evaluate_seeds(synset, streamed, protocol, seeds=(0,), setting=setting).runs[0]
    assert len(synset) == 20 and set(reads) == {BATCH, 6}  # six: the test
    monkeypatch.setenv("DDBENCH_CACHE", str(tmp_path / "another"))
    wanted = evaluate_seeds(synset, resident, protocol, seeds=(0,), setting=setting).runs[0]
    assert found.status == "ok" and (found.top1, found.final_loss) == (wanted.top1, wanted.final_loss)


def test_the_reference_teacher_is_that_of_the_split_in_memory(streamed, resident, reads, tmp_path, monkeypatch):
    recipe = SOFT.reference(streamed)
    found = reference_teacher(recipe, streamed, CPU)
    assert set(reads) == {BATCH}
    monkeypatch.setenv("DDBENCH_CACHE", str(tmp_path / "another"))
    assert found.hash == reference_teacher(recipe, resident, CPU).hash


def test_images_of_a_set_are_read_when_they_are_shown(streamed, resident, reads):
    whole = random_set(streamed)
    tiled = random_set(streamed, views=Views("tiles", {"factor": 2}))
    for synset in (whole, tiled):
        images, classes = training_images(synset, streamed)
        assert isinstance(images, ReadImages) and len(images) == 6 and not reads
        assert torch.equal(classes, synset.classes)
    assert torch.equal(images[torch.tensor([4, 0])], expand(whole, resident)[0][[4, 0]]) and set(reads) == {2}
    pixel = make_space("pixel", streamed)
    other, _ = training_images(whole, streamed, space=pixel)
    torch.testing.assert_close(other[torch.arange(6)], training_images(whole, resident, space=pixel)[0])
    assert isinstance(training_images(whole, resident)[0], torch.Tensor) and drawn(tiled) is not None


def test_labels_are_stored_of_images_that_are_read(streamed, resident, reads):
    online = Targets("teachers", {"teachers": [{"hash": a_teacher(streamed).hash, "weight": 1.0}]})
    synset = random_set(streamed, student_recipe=RECIPE, targets=online)
    found = record_soft_labels(synset, streamed, CPU, seed=0)
    assert set(reads) == {BATCH}
    wanted = record_soft_labels(synset, resident, CPU, seed=0)
    assert torch.equal(found.tensors["logits"], wanted.tensors["logits"])


def test_a_baseline_is_labelled_as_it_is_read(streamed, resident):
    teacher = a_teacher(streamed, "pixel")
    soft = Targets("soft", {"form": "logits"}, {"labels": torch.zeros(6, 2)})
    lender = random_set(streamed, student_recipe=RECIPE, targets=soft)
    lender = lender.with_provenance(teachers={teacher.hash: {"label_weight": 1.0}})
    found, wanted = (match_recipe(random_set(data), lender, data) for data in (streamed, resident))
    torch.testing.assert_close(found.targets.tensors["labels"], wanted.targets.tensors["labels"])
    assert float(found.targets.tensors["labels"].abs().sum()) > 0


def test_bytes_are_counted_in_parts(streamed, resident, reads, monkeypatch):
    monkeypatch.setattr("ddbench.evaluation.sizes.AT_ONCE", 4)
    synset, protocol = random_set(streamed), find_protocol("hard-v1")
    assert bytes_of(synset, streamed, protocol) == bytes_of(synset, resident, protocol)
    assert reads == {4: 1, 2: 1}


def test_a_holdout_is_read_when_it_is_shown(streamed, resident, reads):
    task, plain = a_task(streamed), a_task(resident)
    held, wanted = task.holdout(0.3), plain.holdout(0.3)
    space, network = task.space("normalised"), task.create_network("student")
    shown, kept = held.images(space), task.images(space)
    assert (len(shown), len(kept)) == (6, 14) and not reads
    logits = predict(network, shown, batch=4)
    torch.testing.assert_close(logits, predict(network, wanted.images(space)), rtol=0, atol=1e-5)
    places = torch.tensor([13, 2])
    assert torch.equal(kept[places], plain.images(space)[places]) and max(reads) == 4


SQUEEZED = {"teacher_epochs": 1, "teacher_batch": BATCH, "student_epochs": 1, "student_batch": BATCH}


@pytest.mark.parametrize(
    ("method", "changes", "largest"),
    [
        ("sre2l", {**SQUEEZED, "iterations": 2, "init": "real"}, BATCH),
        ("rded", {**SQUEEZED, "pool": 3, "crops": 2}, BATCH),
        ("prune", {"score_epochs": 1, "score_batch": BATCH}, 7),  # all are looked at after an epoch
        ("prune", {"score_epochs": 1, "score_batch": BATCH, "score": "herding"}, 7),
        ("kcenter", {"features": "random-network"}, 7),
        ("dq", {**SQUEEZED, "bins": 2}, EACH),  # a class, up to some hundred at a time
    ],
)
def test_methods_give_the_set_that_they_give_in_memory(
    streamed, resident, reads, tmp_path, monkeypatch, method, changes, largest
):
    monkeypatch.setattr("ddbench.methods.engines.selection.coresets.SHOWN_LARGE", 7)
    found = distil(method, a_task(streamed), **changes)
    assert max(reads) == largest
    monkeypatch.setenv("DDBENCH_CACHE", str(tmp_path / "another"))
    assert found.hash == distil(method, a_task(resident), **changes).hash


def test_a_committees_priors_are_measured_on_images_that_are_read(streamed, reads):
    few = {**SQUEEZED, "iterations": 2, "prior": None, "prior_fraction": 0.3, "pool": 3}
    synset = distil("cvdd", a_task(streamed), **few)
    assert len(synset) == 4 and max(reads) == 6  # those that are held out, up to a thousand at a time
