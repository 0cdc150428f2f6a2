"""`hello`: projectors against direct definitions, encoders and columns, weak teachers, the fit, targets, and the whole."""

import json
from dataclasses import replace

import pytest
import small_tasks
import torch
import torch.nn.functional as F
from ddbench.methods.engines.decoupled.codecs import pixel_bounds
from ddbench.methods.engines.decoupled.patches import PatchFields, join_tiles, patch_images
from ddbench.methods.engines.encoders import image_encoders as encoders_engine
from ddbench.methods.engines.encoders.image_encoders import EncoderFields, class_means, encoder_of, stand_in, start_of
from ddbench.methods.engines.encoders.patch_update import Updater, cut_tiles, enlarged, updated
from ddbench.methods.engines.encoders.projector import Adapted, FitFields, FromSpace, first_factors, fitted, merged
from ddbench.methods.engines.encoders.weak_teachers import WeakFields, weak_labels, weak_teachers
from pydantic import ValidationError
from small_tasks import CPU, colored_folder, digits, refused, shipped_record, stopped_elsewhere
from torch import nn
from watching import Watch

from ddbench import networks
from ddbench.data.dataset import memory_split
from ddbench.data.registry import load_dataset
from ddbench.data.spaces import Space
from ddbench.distillation.method import find_method
from ddbench.errors import UsageError
from ddbench.evaluation.protocol import find_protocol
from ddbench.evaluation.sizes import bytes_of
from ddbench.jobs.job import distill_job
from ddbench.networks import clip
from ddbench.randomness import forked, rng, seed_of
from ddbench.synset.matched_recipe import match_recipe
from ddbench.synset.projection import (
    Encoder,
    Projector,
    ProjectorForm,
    clip_encoder,
    conv_change,
    convolutions,
    matrix_shapes,
    named_encoder,
    teacher_encoder,
)
from ddbench.synset.synset import SynSet, Targets, load, save
from ddbench.synset.targets import Binding, targets_of
from ddbench.synset.teachers import Teacher
from ddbench.training.batch_schedule import Batch
from ddbench.training.loop import train
from ddbench.training.losses import LOSSES, Labels

ONE, TWO = "convnet-d1-w4-bn", "convnet-d2-w4-bn"
QUICK = {
    "encoder": "stand-in",
    "stand_in_epochs": 2,
    "teacher_epochs": 4,
    "snapshots": 2,
    "snapshot_first": 2,
    "rank_conv": 2,
    "rank_columns": 3,
    "fit_epochs": 2,
    "fit_crop": "none",
    "pool": 6,
    "crops": 2,
    "student_batch": 10,
    "student_epochs": 2,
}
every_form = pytest.mark.parametrize("form", ["square", "flat"])


def a_task(ipc=2, *, network=TWO, **more):
    return small_tasks.a_task(ipc, network=network, **more)


def hyper_of(**changes):
    return small_tasks.hyper_of("hello", **{**QUICK, **changes})


def distilled(task=None, **changes):
    return find_method("hello").distill(task or a_task(), hyper_of(**changes))


def normal(*shape, key="x", dtype=torch.float32):
    return torch.randn(*shape, generator=rng(0, "test", key), dtype=dtype)


# factors of convolutions

CONVS = {
    "plain": {"in_channels": 4, "out_channels": 6, "kernel_size": 3},
    "strided": {"in_channels": 4, "out_channels": 6, "kernel_size": 3, "stride": 2, "padding": 1},
    "uneven": {"in_channels": 4, "out_channels": 6, "kernel_size": (1, 3), "stride": (2, 1), "padding": (0, 1)},
    "grouped": {"in_channels": 4, "out_channels": 6, "kernel_size": 3, "groups": 2, "padding": 1},
    "depthwise": {"in_channels": 4, "out_channels": 8, "kernel_size": 3, "groups": 4, "padding": 2, "dilation": 2},
    "pointwise": {"in_channels": 4, "out_channels": 6, "kernel_size": 1, "stride": 2, "bias": False},
}


def a_conv(kind):
    with forked(0, "conv", kind):
        return nn.Conv2d(**CONVS[kind]).double()


def factors_for(conv, form, rank=3):
    rows, columns = matrix_shapes(wrapped(conv), 2, ProjectorForm(conv=form))["conv.0"]
    return normal(rows, rank, key="a", dtype=torch.float64), normal(rank, columns, key="b", dtype=torch.float64)


def wrapped(*layers, width=1, side=9):
    body = nn.Sequential(*layers).eval().requires_grad_(False)
    return Encoder(body, Space("pixel"), 4, side, width, "test", {"kind": "teacher", "hash": "0" * 64}, 0, "0" * 64)


def apart(conv, images, a, b, form):
    """What the factors add to a convolution, as thin convolutions one after another: never a product of A and B."""
    outputs, inputs, height, width = conv.weight.shape
    rank, groups = b.shape[0], conv.groups
    (sy, sx), (py, px), (dy, dx) = conv.stride, conv.padding, conv.dilation
    if form == "square":  # along a row, then along a column
        thin = b.view(rank, inputs, 1, width).repeat(groups, 1, 1, 1)
        along = F.conv2d(images, thin, stride=(1, sx), padding=(0, px), dilation=(1, dx), groups=groups)
        tall = a.view(outputs, height, rank).permute(0, 2, 1)[..., None]
        return F.conv2d(along, tall, stride=(sy, 1), padding=(py, 0), dilation=(dy, 1), groups=groups)
    thin = b.view(rank, inputs, height, width).repeat(groups, 1, 1, 1)
    few = F.conv2d(images, thin, stride=conv.stride, padding=conv.padding, dilation=conv.dilation, groups=groups)
    return F.conv2d(few, a[..., None, None], groups=groups)


@every_form
@pytest.mark.parametrize("kind", CONVS)
def test_factors_of_a_convolution_are_thin_convolutions(kind, form):
    conv = a_conv(kind)
    a, b = factors_for(conv, form)
    images = normal(2, 4, 9, 9, dtype=torch.float64)
    changed = conv._conv_forward(images, conv.weight + conv_change(a, b, conv.weight.shape, form), conv.bias)
    assert torch.allclose(changed, conv(images) + apart(conv, images, a, b, form), rtol=1e-9, atol=1e-9)


@every_form
def test_a_change_is_the_sum_over_the_rank_entry_by_entry(form):
    conv = a_conv("grouped")
    a, b = factors_for(conv, form)
    found = conv_change(a, b, conv.weight.shape, form)
    outputs, inputs, height, width = conv.weight.shape
    for o in range(outputs):
        for i in range(inputs):
            for y in range(height):
                for x in range(width):
                    row, column = (
                        (o * height + y, i * width + x) if form == "square" else (o, (i * height + y) * width + x)
                    )
                    wanted = sum(float(a[row, r] * b[r, column]) for r in range(3))
                    assert float(found[o, i, y, x]) == pytest.approx(wanted, abs=1e-12)


def an_encoder(dtype=torch.float32):
    """Strided, padded and grouped convolutions with batch norms that have statistics, and 10 features."""
    with forked(0, "encoder"):
        layers = [
            nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 10, 3, groups=2), nn.BatchNorm2d(10), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        ]  # fmt: skip
        body = nn.Sequential(*layers).to(dtype)
        body.train()(normal(16, 4, 9, 9, key="statistics", dtype=dtype))
    return wrapped(*body, width=10)


def a_start(encoder, classes=5, dtype=torch.float32):
    columns = F.normalize(normal(encoder.width, classes, key="columns", dtype=dtype), dim=0)
    return encoders_engine.ProjectorStart(encoder, columns, None)


def drawn_factors(encoder, fields, classes=5):
    first = first_factors(encoder, classes, fields, 0)
    return {name: tensor + 0.3 * normal(*tensor.shape, key=name) for name, tensor in first.items()}


@every_form
def test_a_projector_begins_as_the_encoders_own_to_the_bit(form):
    encoder, images = an_encoder(), normal(6, 4, 9, 9)
    start, fields = a_start(encoder), FitFields(rank_conv=2, rank_columns=3, conv_form=form)
    factors = first_factors(encoder, 5, fields, 0)
    assert {name.rpartition(".")[0] for name in factors} == {"conv.0", "conv.3", "columns"}
    own = encoder.module(images) @ start.columns
    assert torch.equal(Adapted(start, factors, fields.form()).train()(images), own)
    assert torch.equal(Projector(encoder, start.columns, factors, fields.form())(images), own)


@every_form
@pytest.mark.parametrize(("scale", "normalised"), [(1.0, False), (4.0, True)])
def test_merged_factors_give_what_factors_apart_give(form, scale, normalised):
    encoder, images = an_encoder(), normal(6, 4, 9, 9)
    start = a_start(encoder)
    fields = FitFields(rank_conv=2, rank_columns=3, conv_form=form, scale=scale, normalised=normalised)
    factors = drawn_factors(encoder, fields)
    x = images
    for name, layer in encoder.module.named_children():
        own = layer(x)
        if isinstance(layer, nn.Conv2d):
            own = own + apart(layer, x, factors[f"conv.{name}.a"], factors[f"conv.{name}.b"], form)
        x = own
    if normalised:
        x = x / x.square().sum(1, keepdim=True).sqrt()
    wanted = scale * (x @ start.columns + (x @ factors["columns.a"]) @ factors["columns.b"])
    before = {name: tensor.clone() for name, tensor in encoder.module.state_dict().items()}
    module = Projector(encoder, start.columns, factors, fields.form())
    assert torch.allclose(module(images), wanted, rtol=1e-5, atol=1e-5)
    assert torch.allclose(Adapted(start, factors, fields.form())(images), wanted, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(wanted, encoder.module(images) @ start.columns, atol=0.1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.module.state_dict().items())


def test_ranks_are_at_most_their_matrix_and_rank_0_adapts_nothing():
    encoder = an_encoder()
    found = first_factors(encoder, 3, FitFields(rank_conv=10_000, rank_columns=10_000), 0)
    shapes = matrix_shapes(encoder, 3, ProjectorForm())
    assert {part: found[f"{part}.a"].shape[1] for part in shapes} == {part: min(s) for part, s in shapes.items()}
    assert set(first_factors(encoder, 3, FitFields(rank_conv=0, rank_columns=2), 0)) == {"columns.a", "columns.b"}
    assert set(first_factors(encoder, 3, FitFields(rank_conv=1, rank_columns=0), 0)) == {
        f"conv.{n}.{e}" for n in (0, 3) for e in "ab"
    }


def test_images_of_another_side_are_resized_and_of_another_space_mapped():
    encoder = an_encoder()
    module = Projector(encoder, a_start(encoder).columns, {}, ProjectorForm())
    large = normal(2, 4, 18, 18)
    small = F.interpolate(large, (9, 9), mode="bilinear", antialias=True)
    assert torch.equal(module(large), module(small))
    own = Space("normalised", mean=(0.1, 0.2, 0.3, 0.4), std=(0.5, 0.6, 0.7, 0.8))
    mean, std = (torch.tensor(v)[:, None, None] for v in (own.mean, own.std))
    pixels = normal(2, 4, 9, 9)
    shown = FromSpace(module, Space("pixel"), own, 4)((pixels - mean) / std)
    assert torch.allclose(shown, module(pixels), atol=1e-5)


# the loss


@pytest.mark.parametrize("beta", [0.0, 0.7])
@pytest.mark.parametrize("mixed", [False, True])
def test_the_loss_is_the_squared_error_and_the_cross_entropy(beta, mixed):
    student, wanted = normal(6, 5, key="s", dtype=torch.float64), normal(6, 5, key="t", dtype=torch.float64)
    classes, permutation = torch.tensor([0, 1, 2, 3, 4, 0]), torch.tensor([1, 2, 3, 4, 5, 0])
    labels = Labels(classes, wanted, permutation, 0.3) if mixed else Labels(classes, wanted)
    total = sum((student[i, k] - wanted[i, k]) ** 2 / 30 for i in range(6) for k in range(5))
    for i in range(6):
        log_z = sum(student[i, k].exp() for k in range(5)).log()
        entropy = log_z - student[i, classes[i]]
        if mixed:
            entropy = 0.3 * entropy + 0.7 * (log_z - student[i, classes[permutation[i]]])
        total = total + beta * entropy / 6
    assert float(LOSSES.build({"name": "mse-ce", "beta": beta})(student, labels)) == pytest.approx(float(total))


def test_the_loss_needs_logits_and_a_weight_that_is_not_negative():
    with pytest.raises(UsageError, match="needs soft labels"):
        LOSSES.build({"name": "mse-ce", "beta": 1.0})(torch.zeros(2, 3), Labels(torch.tensor([0, 1])))
    with pytest.raises(UsageError, match="beta"):
        LOSSES.build({"name": "mse-ce", "beta": -1.0})


# weak teachers


def test_snapshots_are_the_training_stopped_after_their_epochs():
    fields = WeakFields(teacher_epochs=6, snapshots=3, snapshot_first=2, teacher_batch=40)
    task = a_task()
    assert fields.snapshot_epochs() == [2, 4, 6]
    found, space = weak_teachers(task, fields), task.space("normalised")
    images, labels = task.tensors(space)
    recipe = fields.teacher_recipe(TWO).without_flip()
    for teacher, epoch in zip(found, [2, 4, 6], strict=True):
        network = task.create_stage_network("weak-teachers", name=TWO)
        last = min(-(-epoch * 150 // 40), recipe.steps(150))
        train(network, images, labels, recipe, seed=seed_of(0, "weak-teachers"), loop=lambda s, t, e=last: range(s, e))
        assert all(torch.equal(tensor, teacher.state[name]) for name, tensor in network.state_dict().items())
    assert len({teacher.hash for teacher in found}) == 3
    assert sorted(credit.facts["epoch"] for credit in task.logged_teachers.values()) == [2, 4, 6]


def test_snapshots_are_shared_by_synthesis_seeds_and_by_choices_of_epochs():
    base = {"teacher_epochs": 4, "teacher_batch": 40}
    first = weak_teachers(a_task(), WeakFields(**base, snapshots=2))
    again = weak_teachers(a_task(seed=9, reporter=(watch := Watch())), WeakFields(**base, snapshots=1))
    assert again[0].hash == first[1].hash and not watch.steps
    between = weak_teachers(a_task(), WeakFields(**base, snapshots=4))
    assert [t.hash for t in between][::3] == [t.hash for t in first] and len({t.hash for t in between}) == 4
    assert weak_teachers(a_task(stage_seed=1), WeakFields(**base, snapshots=1))[0].hash != first[1].hash


def test_nine_snapshots_of_the_paper_are_evenly_spaced():
    assert WeakFields(teacher_epochs=90).snapshot_epochs() == [1, 12, 23, 34, 45, 57, 68, 79, 90]
    assert WeakFields(teacher_epochs=90, snapshot_last=9).snapshot_epochs() == list(range(1, 10))
    with pytest.raises(ValidationError, match="do not fit epochs 1 to 8"):
        WeakFields(teacher_epochs=8)
    with pytest.raises(ValidationError, match="do not fit epochs 1 to 20"):
        WeakFields(teacher_epochs=10, snapshot_last=20)


def test_weak_labels_are_the_mean_or_those_of_one():
    task = a_task()
    found = weak_teachers(task, WeakFields(teacher_epochs=3, snapshots=3, teacher_batch=10))
    images = task.tensors(task.space("normalised"))[0][:7].requires_grad_()
    outputs = torch.stack([teacher.module(CPU)(images) for teacher in found])
    batch = Batch(images, torch.arange(7), 0)
    mean = weak_labels(task, found, "mean")(batch)
    assert torch.allclose(mean, sum(outputs) / 3, atol=1e-5) and not mean.requires_grad
    draw, drawn = weak_labels(task, found, "random"), set()
    for step in range(30):
        given = draw(replace(batch, step=step))
        (number,) = [n for n in range(3) if torch.equal(given, outputs[n])]
        drawn.add(number)
    assert drawn == {0, 1, 2}


# encoders


def test_a_stand_in_is_trained_on_its_classes_alone():
    task, fields = a_task(), EncoderFields(encoder="stand-in", stand_in_epochs=2, teacher_batch=40)
    teacher = stand_in(task, fields)
    chosen = [task.dataset.class_names.index(name) for name in teacher.class_names]
    assert len(chosen) == 5 and chosen == sorted(chosen)
    images, labels = task.tensors(task.space("normalised"))
    rows = [i for i, label in enumerate(labels.tolist()) if label in chosen]
    own = torch.tensor([chosen.index(int(labels[i])) for i in rows])
    network = networks.create(TWO, channels=1, side=8, classes=5, seed=0, key=("stand-in",))
    recipe = fields.teacher_recipe(TWO).without_flip().model_copy(update={"epochs": 2})
    train(network, images[rows], own, recipe, seed=seed_of(0, "stand-in"))
    assert all(torch.equal(tensor, teacher.state[name]) for name, tensor in network.state_dict().items())
    assert encoders_engine.stand_in_classes(a_task(stage_seed=1), 0.5) != chosen


def test_columns_are_normalised_class_means_of_features():
    task = a_task()
    encoder = encoder_of(task, EncoderFields(encoder=ONE, encoder_drawn=True))
    images, labels = task.tensors(encoder.space)
    columns = class_means(task, encoder)
    assert columns.shape == (encoder.width, 10)
    for c in range(10):
        mean = (
            torch.stack([encoder.module(images[i : i + 1])[0] for i in (labels == c).nonzero()[:, 0]]).double().mean(0)
        )
        assert torch.allclose(columns[:, c].double(), mean / mean.norm(), atol=1e-6)


@pytest.mark.parametrize("drawn", [True, False])
def test_an_encoder_may_be_trained_on_the_split_drawn_or_kept(drawn):
    task = a_task()
    made = encoder_of(task, EncoderFields(encoder=ONE, encoder_drawn=drawn, teacher_epochs=1))
    facts = task.teachers[made.params["hash"]]
    assert facts == {"network": ONE, "encoder": "drawn" if drawn else "trained on the split"}
    kept = encoder_of(task, EncoderFields(encoder=f"teacher:{made.params['hash']}"))
    assert kept.hash == made.hash and kept.stored == sum(
        tensor.nbytes for name, tensor in task.recall_teacher(made.params["hash"]).state.items() if "head" not in name
    )


NEVER = {"teacher_epochs": 1_000_000, "stand_in_epochs": 1_000_000}  # trainings that no test would live to see end


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"encoder": "open_clip:RN51"}, "RN51"),
        ({"encoder": "open_clip:RN50:no-such"}, "no-such"),
        ({"encoder": "open_clip:hf-hub:some/model"}, "unknown open_clip model"),
        ({"encoder": "open_clip:coca_roberta-ViT-B-32"}, "another library's model"),
        ({"encoder": "convnet-d9"}, "unknown network"),
        ({"encoder": "teacher:" + "0" * 64}, "is not in the cache"),
        ({"encoder_side": 32}, "encoder_side is for"),
        ({"encoder": "torchvision:resnet18"}, "are for 3 channels"),
        ({"shuffle": 3}, "shuffle 3 does not divide"),
        ({"factor": 3}, "factor 3 does not divide"),
        ({"pool": 1}, "raise pool"),
    ],
)
def test_a_wish_that_cannot_be_met_is_one_line_before_anything_is_trained(changes, line):
    with refused(line):
        distilled(**{**NEVER, **changes})


def test_a_stand_in_needs_other_classes():
    data = digits()
    labels = torch.arange(20) % 2
    two = replace(data, class_names=data.class_names[:2], train=memory_split(data.train.read()[:20], labels))
    with pytest.raises(UsageError, match="2 are too few"):
        distilled(a_task(data=two), **NEVER)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"prompt": "a photo"}, "must have one {}, where the class goes"),
        ({"update_steps": 3}, "factor must be 2 or more"),
        ({"weights": "pretrained"}, "weights"),
        ({"rank_conv": 0, "rank_columns": 0}, "nothing would be fitted"),
    ],
)
def test_fields_that_make_no_sense_are_refused(changes, line):
    with pytest.raises(ValidationError, match=line):
        hyper_of(**changes)


def test_nothing_to_fit_is_an_error_before_weak_teachers_are_trained():
    with pytest.raises(UsageError, match="no convolutions to adapt"):
        distilled(stand_in_network="mlp", **NEVER_WEAK)


def test_a_model_beyond_the_limit_is_refused_unmade(monkeypatch):
    monkeypatch.setattr(clip, "MAX_BYTES", 2**20)
    clip.load_clip.cache_clear()
    with pytest.raises(UsageError, match=r"open_clip model 'RN50' takes 0\.4 GiB"):
        clip.load_clip("RN50", None, 0)


# the fit


def test_a_step_of_the_fit_is_that_of_the_papers_loss():
    """One step of SGD from B = 0 on the whole split: the gradient of the loss written out, by autograd in float64."""
    task, ranks = a_task(), {"rank_conv": 2, "rank_columns": 3}
    sgd = {"fit_optimizer": "sgd", "fit_lr": 0.5, "fit_epochs": 1, "fit_batch": 150, "fit_crop": "none", "fit_ce": 0.3}
    fields = FitFields(**ranks, **sgd)
    start = start_of(task, EncoderFields(encoder=ONE, encoder_drawn=True))
    before = start.encoder.hash, {k: v.clone() for k, v in start.encoder.module.state_dict().items()}
    images, classes = task.tensors(task.space("normalised"))
    y = normal(150, 10, key="weak")
    found = fitted(task, fields, start, lambda batch: y[batch.index], "test").tensors
    first = {k: v.double().requires_grad_() for k, v in first_factors(start.encoder, 10, fields, 0).items()}
    (name, conv), *others = convolutions(start.encoder.module).items()
    assert not others
    conv, norm, *rest = start.encoder.module[0][0].double()
    outputs, inputs, height, width = conv.weight.shape
    a, b = first[f"{name}.a"], first[f"{name}.b"]
    weight = torch.einsum("oyr,rix->oiyx", a.view(outputs, height, 2), b.view(2, inputs, width)) + conv.weight
    x = norm(F.conv2d(images.double(), weight, conv.bias, padding=1))
    for layer in rest:
        x = layer(x)
    logits = x.flatten(1) @ (start.columns.double() + first["columns.a"] @ first["columns.b"])
    log_p = logits.log_softmax(1)
    loss = (logits - y.double()).square().mean() - 0.3 * log_p[torch.arange(150), classes].mean()
    gradients = torch.autograd.grad(loss, list(first.values()))
    assert {k for k in found if k != "columns"} == set(first)
    for (key, value), gradient in zip(first.items(), gradients, strict=True):
        assert torch.allclose(found[key].double(), value - 0.5 * gradient, rtol=1e-4, atol=1e-6), key
        assert key.endswith(".a") or bool(gradient.abs().max() > 1e-3)
    start.encoder.module.float()
    assert all(torch.equal(v, before[1][k]) for k, v in start.encoder.module.state_dict().items()), "E was changed"


def test_the_fit_brings_the_projector_to_its_labels_and_leaves_teachers_alone():
    task = a_task(data=load_dataset("digits"), network="convnet-d2-w16-bn")
    weak = weak_teachers(task, WeakFields(teacher_epochs=6, snapshots=2, snapshot_first=4))
    states = [{k: v.clone() for k, v in t.state.items()} for t in weak]
    start = start_of(task, EncoderFields(encoder="stand-in", stand_in_epochs=6))
    labels = weak_labels(task, weak, "mean")
    fields = FitFields(rank_conv=4, rank_columns=8, fit_epochs=8, fit_lr=0.02, fit_batch=64, fit_crop="none")
    images, classes = task.tensors(task.space("normalised"))
    wanted = labels(Batch(images, torch.arange(len(images)), 0))
    before = merged(task, start, Targets("projector", params_of(start, fields), {"columns": start.columns}))
    after = merged(task, start, fitted(task, fields, start, labels, [t.hash for t in weak]))
    errors = [float((module(images) - wanted).square().mean()) for module in (before, after)]
    assert errors[1] < 0.3 * errors[0]
    assert float((after(images).argmax(1) == classes).float().mean()) > 0.8
    assert all(torch.equal(v, state[k]) for t, state in zip(weak, states, strict=True) for k, v in t.state.items())


def params_of(start, fields):
    form = fields.form()
    encoder = {"encoder": start.encoder.params, "columns": start.columns_from}
    return {**encoder, "conv": form.conv, "scale": form.scale, "normalised": form.normalised}


def test_the_fit_is_shared_by_synthesis_seeds_and_keyed_by_its_settings():
    one, two = distilled(a_task(seed=1)), distilled(a_task(seed=2))
    assert all(torch.equal(t, two.targets.tensors[k]) for k, t in one.targets.tensors.items())
    assert not torch.equal(one.images, two.images)
    for changes in ({"combine": "random"}, {"fit_ce": 0.0}, {"conv_form": "flat"}, {"fit_mix": "cutmix"}):
        other = distilled(a_task(seed=1), **changes)
        assert not torch.equal(one.targets.tensors["columns.b"], other.targets.tensors["columns.b"]), changes


# stops


def a_job(**changes):
    return small_tasks.a_job("hello", network=TWO, **{**QUICK, **changes})


FACTOR_2 = {"factor": 2, "pool": 20, "update_steps": 2}


@pytest.mark.parametrize(
    ("label", "step", "left"),
    [
        (f"training a stand-in, {TWO}", 7, None),
        (f"training weak teachers, {TWO}", 25, 44 - 25),  # past the snapshot after epoch 2, of 1438 images in 128s
        ("fitting the projector", 9, 22 - 9),
        ("scoring patches", 4, None),
    ],
)
def test_a_stopped_job_goes_on_to_the_same_bits(label, step, left, tmp_path, monkeypatch):
    whole = distill_job(a_job(**FACTOR_2))
    stopped_elsewhere(monkeypatch, tmp_path / "another", lambda: distill_job(a_job(**FACTOR_2), Watch(label, step)))
    watch = Watch()
    assert distill_job(a_job(**FACTOR_2), watch).hash == whole.hash
    if left is not None:
        assert watch.steps[label] == left
    else:
        assert watch.steps["updating tiles"] == (10 if label.startswith("training") else 6)


# the image update


def test_tiles_are_cut_and_joined_row_by_row():
    images = torch.arange(2 * 3 * 6 * 6).float().view(2, 3, 6, 6)
    tiles = cut_tiles(images, 2)
    assert torch.equal(tiles[1], images[0, :, :3, 3:]) and torch.equal(tiles[6], images[1, :, 3:, :3])
    assert torch.equal(join_tiles(tiles, 2), images)


def test_an_update_is_adam_on_the_squared_error_of_features():
    with forked(0, "embed"):
        embed = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten()).double().requires_grad_(False)
    patches = normal(3, 1, 8, 8, key="patches", dtype=torch.float64)
    start = F.interpolate(patches, (4, 4), mode="bilinear", antialias=True)
    bounds = torch.tensor(-0.9, dtype=torch.float64), torch.tensor(0.8, dtype=torch.float64)
    found = updated(start, patches, embed, bounds, steps=3, lr=0.05)
    for tile, patch, mine in zip(start, patches, found, strict=True):  # alone: tiles do not know of each other
        x, m, v = tile[None].clone(), 0.0, 0.0
        for t in range(1, 4):
            x.requires_grad_()
            large = F.interpolate(x, (8, 8), mode="bilinear")
            loss = (embed(large) - embed(patch[None])).square().mean()
            (g,) = torch.autograd.grad(loss, x)
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            x = x.detach() - 0.05 * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
            x = x.clamp(-0.9, 0.8)
        assert torch.allclose(mine, x[0], atol=1e-9)
    assert torch.equal(updated(start, patches, embed, bounds, steps=0, lr=0.05), start)


def test_an_update_brings_tiles_nearer_to_their_patches_features():
    task, fields = a_task(ipc=1), hyper_of(factor=2, pool=20, update_steps=20, update_lr=0.05)
    space = task.space("normalised")
    encoder = encoder_of(task, EncoderFields(encoder="stand-in", stand_in_epochs=4))
    judge = teacher_encoder(task.recall_teacher(encoder.params["hash"]))
    classify = nn.Sequential(judge.module, nn.Linear(encoder.width, 10)).requires_grad_(False)
    seen, errors = {}, []

    def note(label, patches, tiles):
        seen[label] = patches
        return tiles

    plain = patch_images(task, space, classify, PatchFields(factor=2, pool=20), note)
    new = patch_images(
        task, space, classify, PatchFields(factor=2, pool=20), Updater(task, fields, encoder.module, space, 1)
    )
    for images in (plain, new):
        wanted = torch.cat([seen[label] for label in range(10)])
        given = encoder.module(enlarged(cut_tiles(images, 2), 8))
        errors.append(float((given - encoder.module(wanted)).square().mean()))
    assert errors[1] < 0.9 * errors[0]
    black, white = pixel_bounds(space, 1)
    assert float(new.min()) >= float(black.min()) - 1e-6 and float(new.max()) <= float(white.max()) + 1e-6


def test_the_projector_may_score_patches():
    assert not torch.equal(distilled(judge="projector").images, distilled().images)


# targets


@pytest.fixture
def synset():
    return distilled()


def test_labels_are_the_merged_projectors_for_the_batch_as_it_is(synset):
    task = a_task()
    label = task.labeller(synset)
    images = normal(7, 1, 8, 8).requires_grad_()
    params, tensors = synset.targets.params, synset.targets.tensors
    encoder = named_encoder(params["encoder"])
    form = ProjectorForm(params["conv"], params["scale"], params["normalised"])
    module = Projector(encoder, tensors["columns"], {k: t for k, t in tensors.items() if k != "columns"}, form)
    given = label(Batch(images, torch.arange(7), 0))
    assert torch.allclose(given, module(images), atol=1e-5) and not given.requires_grad
    pixel = replace(synset, space=Space("pixel"), codec="float", images=synset.pixels(digits()))
    black, white = pixel_bounds(synset.space, 1)
    shown = a_task().labeller(pixel)(Batch((images - black) / (white - black), torch.arange(7), 0))
    assert torch.allclose(shown, given, atol=1e-4)


def test_the_record_says_what_a_stand_in_is_and_was_trained_on():
    synset = distilled(task := a_task())
    facts = {"network": TWO, "encoder": "stand-in", "trained_on": encoders_engine.stand_in_names(task, 0.5)}
    assert task.teachers[synset.targets.params["encoder"]["hash"]] == facts


def test_bytes_are_factors_and_columns_and_the_encoder_is_external(synset):
    tensors = synset.targets.tensors
    parts = {name: tensor.shape for name, tensor in tensors.items()}
    assert parts == {
        "conv.0.0.0.a": (4 * 3, 2), "conv.0.0.0.b": (2, 1 * 3), "conv.0.1.0.a": (4 * 3, 2), "conv.0.1.0.b": (2, 4 * 3),
        "columns.a": (16, 3), "columns.b": (3, 10), "columns": (16, 10),
    }  # fmt: skip
    stored = 4 * (12 * 2 + 2 * 3 + 12 * 2 + 2 * 12 + 16 * 3 + 3 * 10 + 160)
    # weights and biases of two convolutions; weight, bias, mean, variance and an int64 count of two norms
    external = 4 * (4 * 9 + 4 + 4 * 4 * 9 + 4) + 2 * (4 * 4 * 4 + 8)
    lines = bytes_of(synset, digits(), find_protocol("shipped-v1"))
    assert (lines["targets"], lines["external"]) == (stored, external)
    assert "targets" not in bytes_of(synset, digits(), find_protocol("hard-v1"))


def changed(synset, params=None, tensors=None, drop=()):
    kept = {name: t for name, t in synset.targets.tensors.items() if name not in drop}
    return replace(
        synset, targets=Targets("projector", {**synset.targets.params, **(params or {})}, {**kept, **(tensors or {})})
    )


CLIP = {"kind": "open_clip", "model": "RN50", "tag": "openai", "weights": "0" * 64}


@pytest.mark.parametrize(
    ("params", "tensors", "drop", "line"),
    [
        ({"more": 1}, None, (), "params must be"),
        ({"encoder": 3}, None, (), "encoder must be"),
        ({"encoder": {"kind": ["x"]}}, None, (), "encoder must be"),
        ({"encoder": {"kind": "path", "hash": "0" * 64}}, None, (), "encoder must be"),
        ({"encoder": {"kind": "teacher", "hash": "../../x"}}, None, (), "is not a teacher's hash"),
        ({"encoder": {"kind": "teacher", "hash": "0" * 64, "seed": 1}}, None, (), "is not a teacher's hash"),
        ({"encoder": {**CLIP, "model": 5}}, None, (), "must be texts"),
        ({"encoder": {**CLIP, "tag": None}}, None, (), "a tag or a seed"),
        ({"encoder": {**CLIP, "seed": 1}}, None, (), "a tag or a seed"),
        ({"encoder": {**CLIP, "weights": "x"}}, None, (), "digest of its weights"),
        ({"conv": "round"}, None, (), "conv must be"),
        ({"scale": 0.0}, None, (), "scale must be"),
        ({"scale": True}, None, (), "scale must be"),
        ({"scale": float("inf")}, None, (), "scale must be"),
        ({"normalised": 1}, None, (), "normalised must be"),
        ({"columns": {"prompt": "{}"}}, None, (), "columns must be"),
        ({"columns": {"prompt": "{}", "texts": "0" * 64}}, None, ("columns",), "only an open_clip encoder"),
        ({"columns": {"prompt": "{} {}", "texts": "0" * 64}, "encoder": CLIP}, None, ("columns",), "must have one"),
        ({"columns": {"prompt": "x" * 2000, "texts": "0" * 64}}, None, ("columns",), "at most 1000"),
        (None, None, ("columns",), "goes with columns = null"),
        (None, None, ("columns.a",), "pair of factors"),
        (None, {"stray": torch.zeros(2, 2)}, (), "pair of factors"),
        (None, {"columns": torch.zeros(16, 9)}, (), "a column for each of 10"),
        (None, {"columns": torch.zeros(16, 10, dtype=torch.float64)}, (), "float32 matrix"),
        (None, {"columns.a": torch.zeros(16)}, (), "float32 matrix"),
        (None, {"columns.a": torch.zeros(16, 0), "columns.b": torch.zeros(0, 10)}, (), "float32 matrix"),
        (None, {"columns.a": torch.zeros(16, 2)}, (), "different ranks"),
        (None, {"columns.b": torch.zeros(3, 11)}, (), "a column for each of 10"),
    ],
)
def test_targets_that_are_not_well_formed_are_refused(synset, params, tensors, drop, line):
    with refused(line):
        targets_of(changed(synset, params, tensors, drop))


@pytest.mark.parametrize(
    ("tensors", "line"),
    [
        ({"conv.9.a": torch.zeros(12, 1), "conv.9.b": torch.zeros(1, 3)}, "has no 'conv.9' to adapt"),
        ({"conv.0.0.0.a": torch.zeros(13, 2)}, r"must be \[12, r\] and \[r, 3\]"),
        ({"conv.0.0.0.a": torch.zeros(12, 4), "conv.0.0.0.b": torch.zeros(4, 3)}, "r at most 3"),
        ({"columns.a": torch.zeros(17, 3)}, r"must be \[16, r\] and \[r, 10\]"),
        ({"columns": torch.zeros(17, 10)}, "columns must have 16 rows"),
    ],
)
def test_factors_must_fit_their_encoder(synset, tensors, line):
    odd = changed(synset, tensors=tensors)
    kind, _ = targets_of(odd)
    with pytest.raises(UsageError, match=line):
        kind.bind(Binding(odd, digits(), CPU))


def test_an_encoder_that_is_gone_is_one_line(synset):
    with refused("not in the cache"):
        a_task().labeller(changed(synset, params={"encoder": {"kind": "teacher", "hash": "0" * 64}}))


def test_an_encoder_without_an_embedding_or_of_other_channels_is_refused(synset):
    task = a_task()
    for name, side, line in (("torchvision:squeezenet1_1", 32, "no embedding"), (TWO, 8, "reads 3 channels")):
        state = networks.create(name, channels=3, side=side, classes=10).state_dict()
        teacher = replace(task.teacher(name, task.space("pixel"), "0" * 64, state), channels=3, side=side)
        encoder = {"kind": "teacher", "hash": task.keep_teacher(teacher)}
        with pytest.raises(UsageError, match=line):
            task.labeller(changed(synset, params={"encoder": encoder}))


def test_a_set_travels_and_its_student_trains(synset, tmp_path):
    save(synset, tmp_path / "set.safetensors")
    again = load(tmp_path / "set.safetensors")
    assert again.hash == synset.hash
    assert again.student_recipe.loss == {"name": "mse-ce", "beta": 0.1} and again.student_recipe.labels == "targets"
    record = shipped_record(again)
    assert record.runs[0].status == "ok"
    (facts,) = record.teachers.values()
    assert facts.network == f"projector on {TWO}" and facts.accuracy > 0.1


def test_random_borrows_the_projector(synset):
    data = digits()
    indices = torch.stack([(data.train.labels == c).nonzero()[0, 0] for c in range(10)])
    own = SynSet.of(data, classes=torch.arange(10), space=synset.space, indices=indices)
    found = match_recipe(own, synset, data)
    assert found.student_recipe == synset.student_recipe and found.targets is synset.targets
    batch = Batch(found.pixels(data), torch.arange(10), 0)
    assert torch.equal(a_task().labeller(found)(batch), a_task().labeller(synset)(batch))


def test_a_projectors_accuracy_is_shown_with_the_set():
    synset = distill_job(a_job())
    roles = [facts.get("role") for facts in synset.provenance.teachers.values()]
    assert sorted(filter(None, roles)) == ["projector", "weak teacher", "weak teacher"]
    (accuracy,) = [f["accuracy"] for f in synset.provenance.teachers.values() if f.get("role") == "projector"]
    data = load_dataset("digits")
    images = (data.test.read().float() / 255 - data.mean[0]) / data.std[0]
    logits = a_task(data=data).labeller(synset)(Batch(images, torch.arange(len(images)), 0))
    assert accuracy == pytest.approx(float((logits.argmax(1) == data.test.labels).double().mean()))


# open_clip

TINY = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
"""A CLIP ResNet of the real one's build, some thousandth of its size."""


@pytest.fixture
def tiny(tmp_path):
    """The name of an architecture that open_clip knows within a test."""
    import open_clip
    from open_clip import factory

    (tmp_path / "tiny-rn.json").write_text(json.dumps(TINY), encoding="utf-8")
    before = list(factory._MODEL_CONFIG_PATHS)
    open_clip.add_model_config(tmp_path / "tiny-rn.json")
    clip.load_clip.cache_clear()
    yield "tiny-rn"
    factory._MODEL_CONFIG_PATHS[:] = before
    factory._rescan_model_configs()
    clip.load_clip.cache_clear()


@pytest.fixture
def colors(tmp_path):
    """A folder data set of noisy images of 16 px in two classes, called in two words."""
    return colored_folder(tmp_path / "colors", 16, 12)


CLIPPED = {"prompt": "a picture of a {}.", "fit_batch": 8, "teacher_batch": 8}


def clipped(name, task, **changes):
    return distilled(task, **{**CLIPPED, "encoder": f"open_clip:{name}", **changes})


def test_text_columns_are_made_again_of_prompts_and_cost_nothing(tiny, colors):
    task = a_task(ipc=1, data=colors, network=ONE)
    start = start_of(task, EncoderFields(encoder=f"open_clip:{tiny}", prompt="a picture of a {}."))
    assert start.columns.shape == (24, 2) and torch.allclose(start.columns.norm(dim=0), torch.ones(2))
    synset = clipped(tiny, task)
    assert "columns" not in synset.targets.tensors
    clip.load_clip.cache_clear()
    kind, targets = targets_of(synset)
    (teacher,) = kind.teachers(synset)
    factors = targets.tensors
    columns = start.columns + factors["columns.a"] @ factors["columns.b"]
    assert torch.equal(teacher.merged.columns, columns)
    assert kind.bytes(synset)["targets"] == sum(t.nbytes for t in factors.values())
    whole = clip.load_clip(tiny, None, 0)
    assert kind.bytes(synset)["external"] == sum(t.nbytes for t in whole.state_dict().values())
    import open_clip

    for c, words in enumerate(("dark wall", "light wall")):
        own = whole.encode_text(open_clip.get_tokenizer(tiny)([f"a picture of a {words}."]))[0]
        assert torch.allclose(start.columns[:, c], own / own.norm(), atol=1e-6)
    facts = task.teachers[start.encoder.hash]
    assert facts == {"network": f"open_clip:{tiny}", "encoder": "drawn"}


def test_before_the_fit_the_projector_is_zero_shot_clip(tiny, colors):
    """Proposition 1 of the paper: the largest logit is that of the most similar text."""
    task = a_task(ipc=1, data=colors, network=ONE)
    start = start_of(task, EncoderFields(encoder=f"open_clip:{tiny}"))
    module = Projector(start.encoder, start.columns, {}, ProjectorForm())
    images = normal(9, 3, 32, 32)
    whole = clip.load_clip(tiny, None, 0)
    import open_clip

    texts = open_clip.get_tokenizer(tiny)(["a photo of a dark wall.", "a photo of a light wall."])
    image, text = whole.encode_image(images, normalize=True), whole.encode_text(texts, normalize=True)
    assert torch.equal(module(images).argmax(1), (image @ text.T).argmax(1))


def test_class_means_may_take_the_place_of_texts(tiny, colors):
    synset = clipped(tiny, a_task(1, data=colors, network=ONE), columns="class-means")
    assert synset.targets.params["columns"] is None and synset.targets.tensors["columns"].shape == (24, 2)


def test_other_weights_or_class_names_than_the_fits_are_refused(tiny, colors):
    synset = clipped(tiny, a_task(1, data=colors, network=ONE))
    other = changed(synset, params={"encoder": {**synset.targets.params["encoder"], "seed": 1}})
    with pytest.raises(UsageError, match="fitted to"):
        a_task(data=colors).labeller(other)
    other = changed(synset, params={"columns": {"prompt": "no {}", "texts": synset.targets.params["columns"]["texts"]}})
    with pytest.raises(UsageError, match="called otherwise"):
        a_task(data=colors).labeller(other)


def test_drawn_clip_weights_are_keyed_and_leave_the_generators_alone(tiny):
    before = torch.get_rng_state()
    one = clip_encoder(tiny, None, 0).hash
    assert torch.equal(torch.get_rng_state(), before)
    clip.load_clip.cache_clear()
    assert clip_encoder(tiny, None, 0).hash == one != clip_encoder(tiny, None, 1).hash


def test_without_the_library_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "open_clip", None)
    with pytest.raises(UsageError, match=r"pip install 'ddbench\[clip\]'"):
        distilled(encoder="open_clip:RN50:openai", **NEVER_WEAK)


NEVER_WEAK = {"teacher_epochs": 1_000_000}


def test_weights_that_cannot_be_had_are_one_line(monkeypatch):
    import open_clip

    def refuse(*_, **__):
        raise RuntimeError("no\nnetwork")

    monkeypatch.setattr(open_clip, "create_model", refuse)
    clip.load_clip.cache_clear()
    with refused("no network"):
        clip.load_clip("RN50", "openai", 0)


def test_wordnet_ids_become_words():
    assert clip.words_of(["n01440764", "n02102040"]) == ["tench", "English Springer Spaniel"]
    assert clip.words_of(["fire_truck", "n01440764"]) == ["fire truck", "n01440764"]  # not a folder of ids
    with pytest.raises(UsageError, match="'n99999999' looks like a WordNet id"):
        clip.words_of(["n01440764", "n99999999"])
    assert clip.prompts_of("{}!", ["a_b"]) == ["a b!"]
    with pytest.raises(UsageError, match=r"one \{\}"):
        clip.prompts_of("{} {}", ["a"])


def test_ranks_on_clips_resnet_are_the_papers_parameters():
    """0.8 M at ranks 8 and 128 with 1,000 classes, 1.5 M with a whole W: what the paper says, in the form "square"."""
    import open_clip

    with clip._quiet():
        tower = open_clip.create_model("RN50", load_weights=False, device=torch.device("meta")).visual
    encoder = replace(an_encoder(), module=tower, width=1024)
    count = {}
    for form in ("square", "flat"):
        shapes = matrix_shapes(encoder, 1000, ProjectorForm(conv=form))
        ranks = {part: min(128 if part == "columns" else 8, *shape) for part, shape in shapes.items()}
        count[form] = {part: ranks[part] * sum(shape) for part, shape in shapes.items()}
    square = count["square"]
    assert square["columns"] == 259_072 and round(sum(square.values()) / 1e6, 1) == 0.8
    assert round((sum(square.values()) - square["columns"] + 1024 * 1000) / 1e6, 1) == 1.5
    assert round(sum(count["flat"].values()) / 1e6, 1) == 0.9
    fields = FitFields(rank_conv=8, rank_columns=128)
    made = first_factors(encoder, 1000, fields, 0)
    assert sum(tensor.numel() for tensor in made.values()) == sum(square.values())


@pytest.mark.slow
def test_the_real_resnet_of_clip_with_drawn_weights_from_end_to_end(tmp_path):
    """RN50 at 224 px, on a folder of two classes: fit, set, labels and a student."""
    data = colored_folder(tmp_path / "colors", 32, 4)
    task = a_task(1, data=data, network=ONE)
    synset = clipped("RN50", task, rank_conv=8, rank_columns=2, fit_epochs=1, pool=4)
    encoder = synset.targets.params["encoder"]
    assert (encoder["model"], encoder["tag"], encoder["seed"]) == ("RN50", None, 0)
    assert sum(t.numel() for n, t in synset.targets.tensors.items() if n.startswith("conv.")) > 500_000
    record = shipped_record(synset, data)
    assert record.runs[0].status == "ok"
    assert next(iter(record.teachers.values())).network == "projector on open_clip:RN50"
    clip.load_clip.cache_clear()


def test_the_teacher_class_is_one():
    """What records and borrowing ask of a projector is what they ask of any network that labels."""
    (found,) = targets_of(made := distilled())[0].teachers(made)
    assert isinstance(found, Teacher) and len(found.hash) == 64
    other = changed(made, params={"scale": 2.0})
    (twice,) = targets_of(other)[0].teachers(other)
    assert twice.hash != found.hash
    images = normal(3, 1, 8, 8)
    assert torch.allclose(twice.module(CPU)(images), 2 * found.module(CPU)(images), atol=1e-5)
