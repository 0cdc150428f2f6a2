"""Stored soft labels: stored logits are the online ones of the same schedule, and a student sees the batches that they are of."""

from dataclasses import replace
from functools import partial

import pytest
import small_sets
import torch
from small_sets import (
    a_recipe,
    a_teacher,
    forget_teachers,
    labeller_of,
    refused,
    refused_when_spoilt,
    with_param,
    with_tensor,
)

from ddbench import networks
from ddbench.data.registry import load_dataset
from ddbench.errors import JobFailed, UsageError
from ddbench.evaluation.evaluate import evaluate_seeds
from ddbench.evaluation.protocol import find_protocol
from ddbench.evaluation.sizes import bytes_of
from ddbench.synset.synset import Views, load, save
from ddbench.synset.targets import committee, targets_of
from ddbench.synset.targets import recording as module
from ddbench.synset.targets.encodings import LEVELS, TopK, encoding_of
from ddbench.synset.targets.stored_soft_labels import record_soft_labels
from ddbench.training.batch_schedule import BatchSchedule
from ddbench.training.batches import views_of
from ddbench.training.compute import Compute
from ddbench.training.loop import train

CPU = torch.device("cpu")
RECIPE = a_recipe(augmentations=[{"name": "pad-crop", "pad": 2}, {"name": "flip"}])
STEPS = 7  # 3 epochs of 20 images in batches of 8


a_set = partial(small_sets.a_set, RECIPE)


def recorded(synset, **options):
    made = record_soft_labels(synset, load_dataset("digits"), CPU, seed=11, **options)
    return replace(synset, targets=made)


def shown_to_student(synset, recipe=RECIPE):
    """Batches and labels of a training on a set with replay, as they pass by."""
    label, schedule = labeller_of(synset)
    shown = []

    def spy(batch):
        shown.append((batch, label(batch)))
        return shown[-1][1]

    student = networks.create(recipe.network, channels=1, side=8, classes=10, seed=3)
    train(student, synset.images, synset.classes, recipe, seed=3, labeller=spy, schedule=schedule)
    return shown


@pytest.mark.parametrize(("bn", "sub_batch"), [("eval", None), ("batch", None), ("batch", 4)])
@pytest.mark.parametrize("name", ["convnet-d2-w8-bn", "mobilenetv2"])
def test_labels_are_the_online_ones_rounded(name, bn, sub_batch):
    online = a_set(targets=committee([(a_teacher(name), 0.5), (a_teacher(seed=1), 2.0)], bn, sub_batch))
    synset = recorded(online)
    ask, _ = labeller_of(online)
    shown = shown_to_student(synset)
    views = list(views_of(online.images, RECIPE, BatchSchedule(11)))
    assert len(shown) == len(views) == STEPS
    for step, ((batch, labels), view) in enumerate(zip(shown, views, strict=True)):
        assert (batch.step, batch.seed) == (step, 11) and torch.equal(batch.images, view.images)
        assert torch.equal(labels, ask(view).half().float()) and labels.dtype == torch.float32
    assert synset.targets.params == {
        "encoding": "fp16",
        "seed": 11,
        "images": 20,
        "batch": 8,
        "made_by": online.targets.params,
    }
    assert synset.targets.tensors["steps"].tolist() == list(range(STEPS))


def test_int8_is_within_half_a_step():
    online = a_set()
    synset = recorded(online, encoding="int8")
    ask, _ = labeller_of(online)
    scale = synset.targets.tensors["scale"]
    for batch, labels in shown_to_student(synset):
        exact = ask(batch)
        bound = (exact.amax(1) - exact.amin(1)) / (2 * LEVELS) / 2
        assert torch.allclose(scale[batch.step] / 2, bound, rtol=1e-5)
        assert bool(((labels - exact).abs() <= bound[:, None] * (1 + 1e-4)).all())
        assert torch.allclose(labels.amax(1), exact.amax(1), rtol=1e-5)


def test_int8_of_equal_logits():
    how = encoding_of("int8", None, 10)
    entry = how.write(torch.full((3, 10), 2.5))
    assert torch.equal(how.read(entry, 10), torch.full((3, 10), 2.5)) and entry["scale"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("k", [1, 3, 9])
def test_topk_keeps_the_largest_and_the_probability_of_the_rest(k):
    online = a_set()
    synset = recorded(online, encoding="topk", topk=k)
    ask, _ = labeller_of(online)
    for batch, labels in shown_to_student(synset):
        exact = ask(batch)
        values, places = exact.topk(k, dim=1)
        assert torch.equal(labels.gather(1, places), values.half().float())
        others = torch.ones_like(exact, dtype=torch.bool).scatter(1, places, False)
        for row in range(len(exact)):
            shared = labels[row][others[row]]
            assert len(shared.unique()) == 1
            wanted = exact[row].softmax(0)[others[row]].mean()  # evenly, at temperature 1
            assert float(labels[row].softmax(0)[others[row]][0]) == pytest.approx(float(wanted), rel=0.01)


def test_topk_of_many_classes_takes_wider_places():
    assert TopK(2).shapes(4, 32768)["indices"][0] == torch.int16
    assert TopK(2).shapes(4, 32769)["indices"][0] == torch.int32
    logits = torch.zeros(1, 40000)
    logits[0, 39999], logits[0, 7] = 9.0, 8.0
    entry = TopK(2).write(logits)
    assert entry["indices"].tolist() == [[39999, 7]]
    assert torch.equal(TopK(2).read(entry, 40000)[0, [39999, 7]], torch.tensor([9.0, 8.0]))
    far = TopK(2).write(torch.arange(32768.0)[None] / 100)
    assert far["indices"].dtype == torch.int16 and far["indices"].tolist() == [[32767, 32766]]


@pytest.mark.parametrize(
    ("options", "each"),
    [({}, 10 * 2), ({"encoding": "int8"}, 10 + 8), ({"encoding": "topk", "topk": 3}, 3 * 2 + 3 * 2 + 2)],
)
def test_bytes_are_what_is_stored(options, each):
    synset = recorded(a_set(), **options)
    kind, _ = targets_of(synset)
    assert kind.bytes(synset) == {"targets": STEPS * (8 * each + 8)}  # 8 rows a step, and its number
    assert kind.teachers(synset) == []
    lines = bytes_of(synset, load_dataset("digits"), find_protocol("shipped-v1"))
    assert lines["targets"] == STEPS * (8 * each + 8) and "external" not in lines


def test_pruned_steps_cycle():
    online = a_set()
    synset = recorded(online, keep=[1, 4, 6])
    whole = recorded(online)
    shown = shown_to_student(synset)
    assert [batch.step for batch, _ in shown] == [1, 4, 6, 1, 4, 6, 1]
    for batch, labels in shown:
        assert torch.equal(labels, whole.targets.tensors["logits"][batch.step].float())
    assert synset.targets.tensors["logits"].shape == (3, 8, 10)


def test_a_small_set_is_one_batch():
    few = torch.arange(5)
    synset = recorded(a_set(classes=few, images=torch.randn(5, 1, 8, 8)))
    assert synset.targets.tensors["logits"].shape == (3, 5, 10) and len(shown_to_student(synset)) == 3


def test_a_set_goes_to_a_file_and_back(tmp_path):
    for name, options in {"fp16": {}, "int8": {}, "topk": {"topk": 2}}.items():
        synset = recorded(a_set(), encoding=name, **options)
        save(synset, tmp_path / name)
        read = load(tmp_path / name)
        assert read.hash == synset.hash
        for (_, ours), (_, theirs) in zip(shown_to_student(read), shown_to_student(synset), strict=True):
            assert torch.equal(ours, theirs)


def test_views_count():
    views = Views("compensators", {}, {"compensators": torch.zeros(1, 2, 1, 8, 8), "slots": torch.arange(20) % 2})
    synset = recorded(a_set(views=views))
    assert synset.targets.params["images"] == 40 and len(synset.targets.tensors["steps"]) == 15
    targets_of(synset)
    with refused("40 training images"):
        targets_of(replace(synset, views=None))
    with refused("batches of 8, not none"):
        targets_of(replace(synset, student_recipe=None))


def test_another_streams_batches_are_refused():
    synset = recorded(a_set(), keep=[0, 2])
    label, _ = labeller_of(synset)
    views = list(views_of(synset.images, RECIPE, BatchSchedule(11)))
    label(views[2])
    with pytest.raises(UsageError, match="step 1 of seed 11"):
        label(views[1])
    with pytest.raises(UsageError, match="step 2 of seed 12"):
        label(replace(views[2], seed=12))


def test_an_evaluation_shows_the_stream_and_needs_no_teacher():
    digits = load_dataset("digits")
    synset = recorded(a_set())
    forget_teachers()
    records = [
        evaluate_seeds(synset, digits, find_protocol("shipped-v1"), seeds=(seed,), setting=Compute())
        for seed in (0, 0, 1)
    ]
    runs = [record.runs[0] for record in records]
    assert [run.status for run in runs] == ["ok"] * 3 and runs[0].steps == STEPS
    assert runs[0].final_loss == runs[1].final_loss != runs[2].final_loss
    assert records[0].teachers == {}


def test_a_loop_that_ends_early_leaves_what_it_came_to():
    asked = []

    def loop(start, total):
        asked.append((start, total))
        return range(start, 3)

    synset = recorded(a_set(), loop=loop)
    whole = recorded(a_set())
    assert asked == [(0, STEPS)] and synset.targets.tensors["steps"].tolist() == [0, 1, 2]
    assert torch.equal(synset.targets.tensors["logits"], whole.targets.tensors["logits"][:3])
    assert len(shown_to_student(synset)) == STEPS
    targets_of(recorded(a_set(), loop=lambda start, total: []))  # a dry run may not come to any


def test_teachers_can_be_given():
    elsewhere = replace(a_teacher(), recipe_hash="1" * 64)
    online = a_set(targets=committee([(elsewhere, 1.0)]))
    with pytest.raises(UsageError, match="not in the cache"):
        recorded(online)
    same = recorded(a_set(targets=committee([(a_teacher(), 1.0)])))
    found = recorded(online, recall={elsewhere.hash: elsewhere}.get)
    assert torch.equal(found.targets.tensors["logits"], same.targets.tensors["logits"])


def test_too_many_labels_are_refused_before_they_are_made(monkeypatch):
    monkeypatch.setattr(module, "MAX_BYTES", STEPS * 8 * 10 * 2)
    recorded(a_set())
    many = RECIPE.model_copy(update={"epochs": 10**6})
    asked = []
    with refused(r"2,500,000 steps would take 0\.4 GiB"):
        recorded(a_set(student_recipe=many), loop=lambda start, total: asked.append(total) or [])
    assert not asked


def test_logits_beyond_half_precision_fail():
    online = a_set(targets=committee([(a_teacher(), 1e9)]))
    with pytest.raises(JobFailed, match="too large"):
        recorded(online)
    recorded(online, encoding="int8")


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"targets": None}, {}, "of the kind teachers"),
        ({"student_recipe": None}, {}, "student recipe"),
        ({}, {"encoding": "fp8"}, "one of fp16, int8, topk"),
        ({}, {"encoding": "topk"}, "goes with"),
        ({}, {"topk": 3}, "goes with"),
        ({}, {"encoding": "topk", "topk": 10}, "1 to 9"),
        ({}, {"encoding": "topk", "topk": 0}, "1 to 9"),
        ({}, {"keep": []}, "at least one"),
        ({}, {"keep": [2, 1]}, "rising"),
        ({}, {"keep": [1, 1]}, "rising"),
        ({}, {"keep": [-1, 1]}, "0 or more"),
    ],
)
def test_what_cannot_be_recorded(changes, options, message):
    with refused(message):
        recorded(a_set(**changes), **options)


MALFORMED = {
    "missing param": ("fp16", lambda params, tensors: params.pop("seed"), "params"),
    "extra param": ("fp16", with_param("k", 3), "params"),
    "seed": ("fp16", with_param("seed", -1), "seed"),
    "seed type": ("fp16", with_param("seed", True), "seed"),
    "images": ("fp16", with_param("images", 21), "21 training images"),
    "batch": ("fp16", with_param("batch", 7), "batches of 7, not 8"),
    "batch type": ("fp16", with_param("batch", 8.0), "batch"),
    "encoding": ("fp16", with_param("encoding", "fp32"), "encoding"),
    "another encoding": ("fp16", with_param("encoding", "int8"), "hold"),
    "topk without values": ("fp16", with_param("encoding", "topk"), "goes with"),
    "makers": ("fp16", with_param("made_by", {"teachers": []}), "list"),
    "makers type": ("fp16", with_param("made_by", None), "list"),
    "no steps": ("fp16", lambda params, tensors: tensors.pop("steps"), "steps"),
    "steps type": ("fp16", with_tensor("steps", torch.Tensor.int), "steps"),
    "falling steps": ("fp16", with_tensor("steps", lambda t: t.flip(0)), "rising"),
    "negative steps": ("fp16", with_tensor("steps", lambda t: t - 1), "0 or more"),
    "fewer steps": ("fp16", with_tensor("steps", lambda t: t[:-1]), r"\[6, 8, 10\]"),
    "empty": ("fp16", with_tensor("steps", lambda t: t[:0]), "at least one"),
    "rows": ("fp16", with_tensor("logits", lambda t: t[:, :7]), r"\[7, 8, 10\]"),
    "classes": ("fp16", with_tensor("logits", lambda t: t[:, :, :9]), r"\[7, 8, 10\]"),
    "type": ("fp16", with_tensor("logits", torch.Tensor.float), "float16"),
    "extra": ("fp16", lambda params, tensors: tensors.update(more=torch.zeros(1)), "hold"),
    "scale": ("int8", with_tensor("scale", lambda t: -t), "scale"),
    "scale shape": ("int8", with_tensor("scale", lambda t: t[0]), "scale"),
    "places": ("topk", with_tensor("indices", lambda t: t + 10), "0 to 9"),
    "negative places": ("topk", with_tensor("indices", lambda t: t - 10), "0 to 9"),
    "wide places": ("topk", with_tensor("indices", torch.Tensor.long), "indices"),
    "k": ("topk", with_tensor("values", lambda t: t[..., :2]), "indices"),
    "flat": ("topk", with_tensor("values", lambda t: t.flatten()[0]), "goes with"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_replays_are_refused(case):
    encoding, spoil, message = MALFORMED[case]
    synset = recorded(a_set(), encoding=encoding, topk=3 if encoding == "topk" else None)
    refused_when_spoilt(synset, spoil, message)
