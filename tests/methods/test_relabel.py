"""How sets of the decoupled family are stored and labelled, and the student that they ship."""

import io

import numpy as np
import pytest
import small_tasks
import torch
from ddbench.methods.engines.decoupled.codecs import pixel_bounds, stored, through_jpeg
from ddbench.methods.engines.decoupled.relabel import RelabelFields, relabeled
from PIL import Image
from pydantic import ValidationError
from small_tasks import digits, refused, shipped_record

from ddbench import networks
from ddbench.data.spaces import Space, transform_for
from ddbench.synset import teachers
from ddbench.synset.synset import Targets, load, save
from ddbench.synset.targets import targets_of
from ddbench.training.batch_schedule import BatchSchedule
from ddbench.training.batches import views_of

NETWORK = "convnet-d1-w4-bn"


def a_task(flip=False):
    return small_tasks.a_task(network=NETWORK, data=digits(flip=flip))


def fields_of(**changes):
    return RelabelFields.model_validate({"student_batch": 8, "student_epochs": 2, **changes})


def a_teacher(seed=0):
    task, network = a_task(), networks.create(NETWORK, channels=1, side=8, classes=10, seed=seed)
    found = task.teacher(NETWORK, task.space("normalised"), "0" * 64, network.state_dict())
    teachers.keep(found)
    return found


def some_images(count=10):
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def a_set(fields, task=None, labellers=None, **more):
    task = task or a_task()
    labellers = labellers or [(a_teacher(), 0.25), (a_teacher(1), 0.75)]
    space = task.space("normalised")
    images = stored(more.pop("images", some_images()), space, fields.codec)
    return relabeled(task, fields, space, labellers, **{"images": images, "classes": torch.arange(10), **more})


# the student


def test_the_student_is_fkds_where_nothing_is_said():
    recipe = RelabelFields(student_batch=1024).student_of(a_task(flip=True))
    assert recipe.model_dump(mode="json") == {
        "network": NETWORK,
        "optimizer": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.01, "decay_all": False},
        "schedule": {"name": "cosine", "stretch": 1.0},
        "loss": {"name": "kl", "temperature": 20.0, "squared": False},
        "labels": "targets",
        "augmentations": [{"name": "random-resized-crop", "scale": [0.08, 1.0]}, {"name": "flip", "p": 0.5}],
        "mix": {"name": "cutmix", "alpha": 1.0},
        "epochs": 300,
        "max_steps": None,
        "batch": 1024,
    }


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        (
            {"student_optimizer": "sgd", "student_lr": 0.2, "student_weight_decay": 1e-4},
            {"optimizer": {"name": "sgd", "lr": 0.2, "weight_decay": 1e-4, "momentum": 0.9}},
        ),
        ({"decay_all": True}, {"optimizer": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.01, "decay_all": True}}),
        ({"student_warmup": 5}, {"schedule": {"name": "warmup-cosine", "epochs": 5.0, "start": 0.01}}),
        ({"eta": 2.0}, {"schedule": {"name": "cosine", "stretch": 2.0}}),
        ({"temperature": 30.0, "squared": True}, {"loss": {"name": "kl", "temperature": 30.0, "squared": True}}),
        ({"mix": "mixup", "mix_alpha": 0.8}, {"mix": {"name": "mixup", "alpha": 0.8}}),
        ({"mix": "none"}, {"mix": None}),
        ({"student_epochs": 80, "student_batch": 64}, {"epochs": 80, "batch": 64}),
        ({"bn_batch": 8}, {"bn_batch": 8}),
        (
            {"student_crop": "pad", "student_pad": 0.125},
            {"augmentations": [{"name": "pad-crop", "fraction": 0.125}, {"name": "flip", "p": 0.5}]},
        ),
        ({"student_crop": "none"}, {"augmentations": [{"name": "flip", "p": 0.5}]}),
        (
            {"shuffle": 2, "student_crop_low": 0.5},
            {
                "augmentations": [
                    {"name": "shuffle-patches", "factor": 2},
                    {"name": "random-resized-crop", "scale": [0.5, 1.0]},
                    {"name": "flip", "p": 0.5},
                ]
            },
        ),
    ],
)
def test_every_field_is_the_students(fields, wanted):
    plain = RelabelFields(student_batch=16).student_of(a_task(flip=True)).model_dump(mode="json")
    changed = RelabelFields.model_validate({"student_batch": 16, **fields})
    recipe = changed.student_of(a_task(flip=True))
    assert recipe.model_dump(mode="json") == {**plain, **wanted}
    without = changed.student_of(a_task())  # digits: a flip changes the class
    assert [part for part in recipe.augmentations if part["name"] != "flip"] == without.augmentations
    batch = next(views_of(torch.zeros(20, 1, 8, 8), recipe, BatchSchedule(0)))  # a training takes it
    assert batch.images.shape == (min(recipe.batch, 20), 1, 8, 8)


def test_a_warm_up_and_a_stretch_exclude_each_other():
    with pytest.raises(ValidationError, match="student_warmup"):
        fields_of(student_warmup=1, eta=2.0)


# codecs


def test_pixel_bounds_are_black_and_white():
    space = Space("normalised", mean=(0.49, 0.48, 0.45), std=(0.2, 0.3, 0.25))
    black, white = pixel_bounds(space, 3)
    for channel, (mean, std) in enumerate(zip(space.mean, space.std, strict=True)):
        assert float(black[channel, 0, 0]) == pytest.approx(-mean / std)
        assert float(white[channel, 0, 0]) == pytest.approx((1 - mean) / std)
    low, high = pixel_bounds(Space("pixel"), 1)
    assert low.shape == high.shape == (1, 1, 1) and (float(low), float(high)) == (0, 1)


SPACES = [Space("pixel"), Space("normalised", mean=(0.3, 0.5, 0.4), std=(0.2, 0.25, 0.3))]


def encoded(pixels, space):
    """Float pixels [n, 3, H, W] in a space."""
    mean, std = (torch.tensor(values or (other,) * 3) for values, other in ((space.mean, 0.0), (space.std, 1.0)))
    return (pixels - mean[:, None, None]) / std[:, None, None]


@pytest.mark.parametrize("space", SPACES)
def test_pixels_are_truncated_and_clamped(space):
    generator = torch.Generator().manual_seed(0)
    whole = torch.randint(-40, 300, (4, 3, 16, 16), generator=generator)
    part = 0.02 + 0.96 * torch.rand(whole.shape, generator=generator)  # off the edges, where float32 would decide
    found = stored(encoded((whole + part) / 255, space), space, "uint8")
    assert found.dtype == torch.uint8 and torch.equal(found, whole.clamp(0, 255).to(torch.uint8))


@pytest.mark.parametrize("space", SPACES)
def test_pixels_that_were_bytes_stay_what_they_were(space):
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert torch.equal(stored(encoded(every.float() / 255, space), space, "uint8"), every)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg75_is_pils_default_jpeg(channels):
    generator = torch.Generator().manual_seed(0)
    smooth = torch.rand(2, channels, 4, 4, generator=generator)
    images = torch.nn.functional.interpolate(smooth, (32, 32), mode="bilinear")
    space = Space("pixel")
    eight_bit, found = stored(images, space, "uint8"), stored(images, space, "jpeg75")
    assert found.dtype == torch.uint8 and found.shape == images.shape and not torch.equal(found, eight_bit)
    for one, pixels in zip(found, eight_bit, strict=True):
        file = io.BytesIO()
        picture = pixels[0].numpy() if channels == 1 else pixels.permute(1, 2, 0).numpy()
        Image.fromarray(picture).save(file, "JPEG")
        decoded = np.array(Image.open(file))
        assert np.array_equal(one.numpy(), decoded[None] if channels == 1 else decoded.transpose(2, 0, 1))
        assert torch.equal(one, through_jpeg(pixels)) and not torch.equal(one, through_jpeg(pixels, quality=95))


def test_a_float_set_stays_in_the_space():
    images = 3 * some_images(10)  # beyond what pixels may be
    synset = a_set(fields_of(codec="float"), images=images)
    assert synset.codec == "float" and synset.images.dtype == torch.float32 and torch.equal(synset.images, images)
    assert torch.equal(synset.pixels(digits()), images)


@pytest.mark.parametrize("codec", ["uint8", "jpeg75"])
def test_a_set_of_pixels_is_read_as_pixels(codec):
    images, task = some_images(10), a_task()
    synset = a_set(fields_of(codec=codec), images=images)
    assert synset.codec == codec and synset.images.dtype == torch.uint8
    assert torch.equal(synset.images, stored(images, task.space("normalised"), codec))
    wanted = transform_for(task.space("normalised"), digits()).encode(synset.images.float() / 255)
    assert torch.equal(synset.pixels(digits()), wanted)
    low, high = pixel_bounds(task.space("normalised"), 1)
    step = float(high - low) / 255
    error = (synset.pixels(digits()) - images.clamp(float(low), float(high))).abs().max()
    assert error < (1.01 * step if codec == "uint8" else 60 * step)


# labels


@pytest.mark.parametrize(
    ("fields", "more"),
    [
        ({}, {}),
        ({"label_bn": "batch"}, {"bn": "batch"}),
        ({"label_bn": "batch", "label_sub_batch": 4}, {"bn": "batch", "sub_batch": 4}),
    ],
)
def test_teachers_label_online_by_their_weights(fields, more):
    task, labellers = a_task(), [(a_teacher(), 0.25), (a_teacher(1), 0.75)]
    synset = a_set(fields_of(**fields), task, labellers)
    assert synset.targets.kind == "teachers" and not synset.targets.tensors
    named = [{"hash": teacher.hash, "weight": weight} for teacher, weight in labellers]
    assert synset.targets.params == {"teachers": named, **more}
    assert task.teachers == {teacher.hash: {"label_weight": weight} for teacher, weight in labellers}
    assert synset.student_recipe == fields_of(**fields).student_of(task)
    batch = next(views_of(task.training_images(synset)[0], synset.student_recipe, BatchSchedule(0)))
    wanted = 0
    for teacher, weight in labellers:
        module = teacher.module(torch.device("cpu"))
        if not fields:
            logits = module(batch.images)
        else:
            parts = batch.images.split(fields.get("label_sub_batch", len(batch.images)))
            logits = torch.cat([module.train()(part) for part in parts])
        wanted = wanted + weight * logits
    torch.testing.assert_close(task.labeller(synset)(batch), wanted)


@pytest.mark.parametrize(("encoding", "topk"), [("fp16", None), ("int8", None), ("topk", 3)])
def test_replayed_labels_are_the_online_ones_of_the_seeds_stream(encoding, topk, tmp_path):
    online, task = a_set(fields_of()), a_task()
    synset = a_set(fields_of(labels="replay", replay_encoding=encoding, replay_topk=topk), task)
    assert synset.targets.kind == "replay" and synset.targets.params["encoding"] == encoding
    assert synset.targets.params["seed"] == 5 and synset.targets.params["made_by"] == online.targets.params
    assert torch.equal(synset.images, online.images) and synset.student_recipe == online.student_recipe
    kind, _ = targets_of(synset)
    ask, stored_ = task.labeller(online), task.labeller(synset)
    views = [*views_of(task.training_images(online)[0], online.student_recipe, kind.schedule(synset))]
    assert len(views) == synset.student_recipe.steps(10) == 2
    for batch in views:
        wanted, found = ask(batch), stored_(batch)
        if topk is None:
            torch.testing.assert_close(found, wanted, rtol=0.01, atol=0.01)
        best = wanted.topk(topk or 1, dim=1)
        torch.testing.assert_close(found.gather(1, best.indices), best.values, rtol=0.01, atol=0.01)
    path = tmp_path / "set.safetensors"
    save(synset, path)
    runs = [shipped_record(made, seed=1).runs[0] for made in (load(path), synset)]
    assert [run.status for run in runs] == ["ok", "ok"] and runs[0].top1 == runs[1].top1 and runs[0].steps == 2


def test_stored_labels_cannot_be_replayed():
    soft = Targets("soft", {"form": "logits"}, {"labels": torch.zeros(10, 10)})
    assert a_set(fields_of(), targets=soft).targets is soft
    with refused("labels = replay"):
        a_set(fields_of(labels="replay"), targets=soft)


@pytest.mark.parametrize("changes", [{"replay_encoding": "topk"}, {"replay_topk": 3}])
def test_how_many_logits_are_kept_goes_with_the_encoding(changes):
    with pytest.raises(ValidationError, match="goes with the encoding topk"):
        fields_of(**changes)
