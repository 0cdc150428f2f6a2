"""Teachers: trained by the recipe that the fields give, once, member by member; stopped and gone on with."""

import math
from dataclasses import replace

import pytest
import small_tasks
import torch
import torch.nn.functional as F
from ddbench.methods.engines.decoupled.squeeze import SqueezeFields, squeeze
from pydantic import ValidationError
from small_tasks import digits, refused, stopped_elsewhere
from torch import nn
from watching import Stopped, Watch

from ddbench import networks
from ddbench.data.spaces import Space
from ddbench.errors import JobFailed, UsageError
from ddbench.randomness import rng
from ddbench.settings import cache_dir
from ddbench.synset import teachers
from ddbench.system.code import SYNTHESIS
from ddbench.training.batch_schedule import BatchSchedule
from ddbench.training.batches import views_of
from ddbench.training.cache import Cache
from ddbench.training.recipe import StudentRecipe

ONE, TWO, THREE = "convnet-d1-w4-bn", "convnet-d1-w6-bn", "convnet-d2-w4-bn"
QUICK = {"teacher_epochs": 2, "teacher_batch": 40, "teacher_lr": 0.05}


def a_task(*, flip=False, **more):
    return small_tasks.a_task(network=ONE, data=digits(flip=flip), **more)


def fields_of(**changes):
    return SqueezeFields.model_validate({**QUICK, **changes})


def squeezed(fields, names, **options):
    """Teachers, and the steps that were made for them."""
    watch = options.pop("reporter", None) or Watch()
    made = squeeze(a_task(reporter=watch, **options), fields, names)
    return made, {label.removeprefix("squeezing "): count for label, count in watch.steps.items()}


# the recipe


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, {}),
        (
            {"teacher_optimizer": "adam", "teacher_lr": 1e-3, "teacher_weight_decay": 1e-4},
            {"optimizer": {"name": "adam", "lr": 1e-3, "weight_decay": 1e-4}},
        ),
        ({"teacher_crop": "resized"}, {"augmentations": [{"name": "random-resized-crop"}, {"name": "flip", "p": 0.5}]}),
        ({"teacher_warmup": 5}, {"schedule": {"name": "warmup-cosine", "epochs": 5.0, "start": 0.01}}),
        ({"teacher_stretch": 1 / 3}, {"schedule": {"name": "cosine", "stretch": 1 / 3}}),
    ],
)
def test_the_recipe_is_what_the_fields_say(changes, wanted):
    recipe = SqueezeFields.model_validate({"teacher_epochs": 90, "teacher_batch": 32, **changes}).teacher_recipe(ONE)
    plain = StudentRecipe(
        network=ONE,
        optimizer={"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4},
        schedule={"name": "cosine", "stretch": 1.0},
        augmentations=[{"name": "pad-crop", "fraction": 0.125}, {"name": "flip", "p": 0.5}],
        epochs=90,
        batch=32,
    )
    assert recipe == plain.model_copy(update=wanted)


def test_a_warm_up_and_a_stretch_exclude_each_other():
    with pytest.raises(ValidationError, match="teacher_warmup"):
        fields_of(teacher_warmup=1, teacher_stretch=2.0)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_teacher_is_trained_as_written_out(optimizer, flip):
    """torch's optimizer and cosine on the batches of the stage seed; the last step's weights."""
    fields = fields_of(teacher_optimizer=optimizer, teacher_lr=0.02, teacher_weight_decay=0.01)
    found, _ = squeezed(fields, [ONE], flip=flip, stage_seed=3)
    task = a_task(flip=flip)
    network = networks.create(ONE, channels=1, side=8, classes=10, seed=3, key=("squeeze", ONE)).train()
    own = {"lr": 0.02, "weight_decay": 0.01}
    adam, sgd = (
        torch.optim.Adam(network.parameters(), **own),
        torch.optim.SGD(network.parameters(), **own, momentum=0.9),
    )
    optimizer = {"adam": adam, "sgd": sgd}[optimizer]
    images, labels = task.tensors(task.space("normalised"))
    recipe = fields.teacher_recipe(ONE)
    assert recipe.steps(150) == 7  # 2 epochs of 150 images in batches of 40
    batches = [*views_of(images, recipe if flip else recipe.without_flip(), BatchSchedule(3))]
    for step, batch in enumerate(batches):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 + math.cos(math.pi * step / 7)) / 2
        optimizer.zero_grad()
        F.cross_entropy(network(batch.images), labels[batch.index]).backward()
        optimizer.step()
    for name, value in network.state_dict().items():
        torch.testing.assert_close(found[ONE].state[name], value, rtol=1e-4, atol=1e-5)
    assert found[ONE].space == task.space("normalised") and found[ONE].network == ONE


# made once


def test_a_committee_goes_on_member_by_member():
    fields, names = fields_of(), [ONE, TWO, THREE]
    with pytest.raises(Stopped):
        squeezed(fields, names, reporter=Watch(f"squeezing {TWO}", 1))
    found, steps = squeezed(fields, names)
    assert set(steps) == {TWO, THREE} and steps[THREE] == 7
    assert [*found] == names and [teacher.network for teacher in found.values()] == names
    again, steps = squeezed(fields, [THREE, ONE])  # another committee has its members in common
    assert not steps and [*again] == [THREE, ONE] and again[ONE].hash == found[ONE].hash
    assert all(teachers.recall(teacher.hash).hash == teacher.hash for teacher in found.values())


@pytest.mark.parametrize("network", [ONE, "torchvision:mobilenet_v3_small"])
def test_a_teacher_that_is_stopped_in_the_middle_goes_on_to_the_same_bits(network, tmp_path, monkeypatch):
    """Also one whose dropout draws."""
    fields = fields_of(teacher_epochs=1, teacher_batch=30)
    whole, steps = squeezed(fields, [network])
    assert steps == {network: 5}
    stop = Watch(f"squeezing {network}", 3)
    stopped_elsewhere(monkeypatch, tmp_path / "another", lambda: squeezed(fields, [network], reporter=stop))
    again, steps = squeezed(fields, [network])
    assert steps == {network: 2} and again[network].hash == whole[network].hash
    assert not [*(tmp_path / "another").rglob("*.checkpoint*")]


def test_synthesis_seeds_share_teachers_and_nothing_else_does():
    fields = fields_of()
    first, _ = squeezed(fields, [ONE], seed=1)
    same, steps = squeezed(fields, [ONE], seed=2)
    assert not steps and same[ONE].hash == first[ONE].hash
    watch = Watch()
    task = a_task(reporter=watch)
    task.holdout(0.2)
    held = squeeze(task, fields, [ONE])[ONE]
    other_stage, more = squeezed(fields, [ONE], stage_seed=1)
    other_fields, most = squeezed(fields_of(teacher_lr=0.06), [ONE])
    assert watch.steps and more and most
    assert len({first[ONE].hash, held.hash, other_stage[ONE].hash, other_fields[ONE].hash}) == 4


def test_a_lost_teacher_is_made_again():
    fields = fields_of()
    first, _ = squeezed(fields, [ONE])
    path = next(p for p in cache_dir().rglob(f"{first[ONE].hash}.safetensors"))
    path.unlink()
    again, steps = squeezed(fields, [ONE])
    assert steps == {ONE: 7} and again[ONE].hash == first[ONE].hash and path.exists()


def test_a_teacher_that_diverges_is_a_line_and_no_teacher():
    with refused("not finite", JobFailed):
        squeezed(fields_of(teacher_lr=1e30), [ONE])
    assert not [*(cache_dir() / "stages" / "squeeze").rglob("teacher.safetensors")]


# other weights


@pytest.mark.parametrize("network", [ONE, "torchvision:mobilenet_v3_small"])
def test_random_weights_have_the_statistics_of_training_images(network):
    torch.manual_seed(1)
    found, steps = squeezed(fields_of(weights="random"), [network])
    assert not steps
    task = a_task()
    fresh = networks.create(network, channels=1, side=8, classes=10, seed=0, key=("squeeze", network))
    assert all(torch.equal(found[network].state[name], value.detach()) for name, value in fresh.named_parameters())
    first = next(name for name, module in fresh.named_modules() if isinstance(module, nn.BatchNorm2d))
    inputs = []
    fresh.get_submodule(first).register_forward_pre_hook(lambda _, args: inputs.append(args[0].detach()))
    places = torch.randperm(150, generator=rng(0, "random-weights"))[:64]
    fresh.eval()(task.read(task.space("normalised"), places))
    seen = inputs[0].transpose(0, 1).flatten(1)
    torch.testing.assert_close(found[network].state[f"{first}.running_mean"], seen.mean(1), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found[network].state[f"{first}.running_var"], seen.var(1), rtol=1e-4, atol=1e-6)


def test_random_weights_do_not_depend_on_the_global_generator(tmp_path, monkeypatch):
    name, hashes = "torchvision:mobilenet_v3_small", set()  # with dropout
    for seed in (1, 2):
        torch.manual_seed(seed)
        monkeypatch.setenv("DDBENCH_CACHE", str(tmp_path / str(seed)))
        before = torch.get_rng_state()
        hashes.add(squeezed(fields_of(weights="random"), [name])[0][name].hash)
        assert torch.equal(torch.get_rng_state(), before)
    assert len(hashes) == 1


@pytest.mark.parametrize(
    ("name", "words"), [(ONE, "no pretrained weights"), ("torchvision:resnet18", "3 channels and 1,000 classes")]
)
def test_weights_that_cannot_be_had_are_a_line(name, words):
    with refused(words):
        squeezed(fields_of(weights="pretrained"), [name])


def test_teachers_of_different_spaces_are_refused():
    """One of them as a library might give it, with constants of its own."""
    own, _ = squeezed(fields_of(weights="random"), [ONE])
    theirs = replace(own[ONE], network=TWO, space=Space("normalised", mean=(0.5,), std=(0.5,)))
    task = a_task()
    key = {"network": TWO, "weights": "pretrained", "code": SYNTHESIS}
    stage: Cache = task.open_cache("squeeze", key)
    stage.save("teacher", {}, {"teacher": teachers.keep(theirs)})
    same = task.open_cache("squeeze", {**key, "network": ONE})
    same.save("teacher", {}, {"teacher": own[ONE].hash})
    assert squeezed(fields_of(weights="pretrained"), [TWO])[0][TWO].space == theirs.space
    with pytest.raises(UsageError, match=f"{ONE}, {TWO} read different spaces"):
        squeezed(fields_of(weights="pretrained"), [ONE, TWO])


# for people


@pytest.mark.parametrize("weights", ["trained", "random"])
def test_teachers_are_credited(weights):
    task = a_task()
    found = squeeze(task, fields_of(weights=weights), [ONE, TWO])
    assert [*task.logged_teachers] == [f"teacher {ONE}", f"teacher {TWO}"]
    for name, credit in zip((ONE, TWO), task.logged_teachers.values(), strict=True):
        assert credit.teacher().hash == found[name].hash
        assert credit.facts == {"role": "teacher", "name": f"teacher {name}", "weights": weights}
