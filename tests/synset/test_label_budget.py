"""Label budgets: packed labels are those that a direct recording gives, bytes are exact, draws keyed and uniform."""

import json
import math
import shlex
from dataclasses import replace
from fractions import Fraction
from functools import partial
from itertools import pairwise

import pytest
import small_sets
import torch
from command import ddbench, done
from ddbench.methods.engines.decoupled.relabel import RelabelFields, relabeled
from pydantic import ValidationError
from small_sets import a_recipe, a_teacher, forget_teachers, refused, refused_when_spoilt, with_param, with_tensor

from ddbench import networks
from ddbench.budget import Budget
from ddbench.cli.options import byte_count
from ddbench.data.registry import load_dataset
from ddbench.data.spaces import make_space
from ddbench.distillation.method import find_method
from ddbench.distillation.recipes import resolve
from ddbench.distillation.task import Task
from ddbench.errors import UsageError
from ddbench.evaluation.evaluate import evaluate_seeds
from ddbench.evaluation.protocol import find_protocol
from ddbench.evaluation.sizes import bytes_of
from ddbench.extras.import_export import export_set, import_set
from ddbench.hashing import digest
from ddbench.randomness import rng
from ddbench.records.store import RecordStore
from ddbench.report.format import size
from ddbench.synset import label_compression
from ddbench.synset.label_compression import Packing, full_bytes, full_size, pack_labels, parts
from ddbench.synset.matched_recipe import match_recipe
from ddbench.synset.synset import Provenance, SynSet, Targets, load, save
from ddbench.synset.targets import Binding, recording, targets_of
from ddbench.synset.targets.soft import labels_of
from ddbench.synset.targets.stored_soft_labels import record_soft_labels
from ddbench.training.batch_schedule import BatchSchedule
from ddbench.training.compute import Compute
from ddbench.training.loop import train

CPU = torch.device("cpu")
RECIPE = a_recipe(epochs=8)
STEPS = 20  # 8 epochs of 20 images in batches of 8
FULL = STEPS * (8 * 10 * 2 + 8)  # rows, classes, fp16; the number of a step


a_set = partial(small_sets.a_set, RECIPE)


def recorded(synset, **options):
    return replace(synset, targets=record_soft_labels(synset, load_dataset("digits"), CPU, seed=11, **options))


def packed(synset, seed=None, **packing):
    return pack_labels(synset, load_dataset("digits"), Packing(**packing), CPU, seed=seed)


def shown_to_student(synset, recipe=RECIPE):
    """Steps and labels of a training, as they pass by."""
    kind, _ = targets_of(synset)
    label = kind.bind(Binding(synset, load_dataset("digits"), CPU))
    shown = []

    def spy(batch):
        shown.append((batch.step, label(batch)))
        return shown[-1][1]

    student = networks.create(recipe.network, channels=1, side=8, classes=10, seed=3)
    train(student, synset.images, synset.classes, recipe, seed=3, labeller=spy, schedule=kind.schedule(synset))
    return shown


FORMS = {"fp16": {}, "int8": {}, "topk": {"topk": 3}}


# packed is what is recorded


@pytest.mark.parametrize("encoding", FORMS)
def test_online_labels_are_packed_as_they_are_recorded(encoding):
    online, more = a_set(), FORMS[encoding]
    assert packed(online, 11, encoding=encoding, **more).hash == recorded(online, encoding=encoding, **more).hash
    kept = {"fp16": 5, "int8": 5, "topk": 7}[encoding]  # of 840 bytes: 168, 152 and 120 a label batch
    pruned = packed(online, 11, encoding=encoding, ratio=4.0, **more)
    wanted = recorded(online, encoding=encoding, keep=list(range(kept)), draw="uniform", **more)
    assert pruned.hash == wanted.hash and pruned.targets.params["draw"] == "uniform"


@pytest.mark.parametrize("encoding", FORMS)
def test_stored_labels_are_pruned_without_a_teacher(encoding):
    more = {"encoding": encoding, **FORMS[encoding]}
    whole = recorded(a_set(), **more)
    wanted = recorded(a_set(), keep=[0, 1, 2, 3, 4], draw="cycle", **more)
    forget_teachers()
    each = (sum(t.nbytes for t in whole.targets.tensors.values())) // STEPS
    found = packed(whole, bytes=5 * each, draw="cycle", **more)
    assert found.hash == wanted.hash and "draw" not in found.targets.params
    assert packed(found, bytes=2 * each, draw="cycle", **more).targets.tensors["steps"].tolist() == [0, 1]
    assert packed(whole, **more).hash == whole.hash


def test_what_was_pruned_keeps_its_draw_where_only_the_encoding_changes():
    pruned = recorded(a_set(), keep=[3, 5], draw="uniform")
    found = packed(pruned, encoding="int8")
    assert found.targets.params == {**pruned.targets.params, "encoding": "int8"}
    assert found.targets.tensors["steps"].tolist() == [3, 5]
    assert packed(pruned, ratio=1.0).targets.tensors["steps"].tolist() == list(
        range(STEPS)
    )  # all: the teachers are asked
    assert "draw" not in packed(pruned, ratio=1.0).targets.params


def test_stored_logits_become_int8_within_half_a_step():
    whole = recorded(a_set())
    forget_teachers()
    exact = whole.targets.tensors["logits"].double()
    found = packed(whole, encoding="int8")
    read = (
        found.targets.tensors["offset"].double()[..., None]
        + found.targets.tensors["scale"].double()[..., None] * found.targets.tensors["logits"].double()
    )
    bound = (exact.amax(2) - exact.amin(2)) / 254 / 2
    assert bool(((read - exact).abs() <= bound[..., None] * (1 + 1e-4)).all()) and not torch.equal(read, exact)
    for (_, ours), (_, theirs) in zip(shown_to_student(found), shown_to_student(whole), strict=True):
        assert 0 < float((ours - theirs).abs().max()) <= float(bound.max()) * (1 + 1e-4)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_stored_logits_become_topk(k):
    whole = recorded(a_set())
    three = packed(whole, encoding="topk", topk=3)
    forget_teachers()
    exact = whole.targets.tensors["logits"].double()
    found = packed(whole, encoding="topk", topk=k)
    values, places = exact.topk(k, dim=2)
    assert torch.equal(found.targets.tensors["values"].double(), values)
    others = exact.softmax(2).scatter(2, places, 0.0).sum(2)  # what the rest has together
    partition = exact.logsumexp(2)
    rest = (others.log() + partition) - math.log(10 - k)
    assert torch.allclose(found.targets.tensors["rest"].double(), rest, rtol=1e-3, atol=1e-3)
    again = packed(three, encoding="topk", topk=k)  # fewer of those that are stored
    assert torch.equal(again.targets.tensors["values"], found.targets.tensors["values"])
    assert torch.allclose(again.targets.tensors["rest"].double(), rest, rtol=2e-3, atol=2e-3)
    for name in ("int8", "fp16"):
        with pytest.raises(UsageError, match="not in the cache"):
            packed(three, encoding=name)
    with pytest.raises(UsageError, match="not in the cache"):
        packed(three, encoding="topk", topk=4)


@pytest.mark.parametrize("before", [{"encoding": "int8"}, {"encoding": "topk", "topk": 2}])
def test_where_what_is_stored_does_not_suffice_the_teachers_are_asked(before):
    lossy = recorded(a_set(), **before)
    assert packed(lossy).hash == recorded(a_set()).hash
    assert packed(recorded(a_set(), keep=[0, 1]), ratio=2.0).targets.tensors["steps"].tolist() == list(range(10))
    forget_teachers()
    for way in ({}, {"encoding": "topk", "topk": 3}):
        with refused("not in the cache"):
            packed(lossy, **way)


def test_a_random_share_is_keyed_and_reads_the_same_rows():
    whole, online = recorded(a_set()), a_set()
    found = packed(whole, ratio=4.0, keep="random")
    steps = found.targets.tensors["steps"]
    order = torch.randperm(STEPS, generator=rng(11, "kept label batches"))[:5].sort().values
    assert torch.equal(steps, order) and steps.tolist() != [0, 1, 2, 3, 4]
    assert torch.equal(found.targets.tensors["logits"], whole.targets.tensors["logits"][steps])
    assert found.hash == packed(online, 11, ratio=4.0, keep="random").hash
    assert not torch.equal(steps, packed(online, 12, ratio=4.0, keep="random").targets.tensors["steps"])


# arithmetic


@pytest.mark.parametrize(
    ("packing", "kept"),
    [
        ({"ratio": 1.0}, 20),
        ({"ratio": 1.1}, 18),  # 20 / 1.1 = 18.2
        ({"ratio": 2.5}, 8),
        ({"ratio": 3.0}, 6),  # 6.67, down
        ({"ratio": 20.0}, 1),
        ({"bytes": FULL}, 20),
        ({"bytes": FULL - 1}, 19),
        ({"bytes": 10 * FULL}, 20),
        ({"bytes": 168}, 1),
        ({"bytes": 335}, 1),
        ({"encoding": "int8", "ratio": 1.0}, 20),  # more would fit than there are
        ({"encoding": "int8", "ratio": 4.0}, 5),  # 840 bytes, 152 each
        ({"encoding": "topk", "topk": 2, "ratio": 4.0}, 9),  # 88 each
        ({"encoding": "topk", "topk": 2, "ratio": 38.0}, 1),  # 88.4 bytes
    ],
    ids=str,
)
def test_as_many_label_batches_are_kept_as_fit(packing, kept):
    chosen = Packing(**packing)
    found = packed(a_set(), 0, **packing)
    assert len(found.targets.tensors["steps"]) == chosen.batches(RECIPE, 20, 10) == kept
    stored = sum(tensor.nbytes for tensor in found.targets.tensors.values())
    limit = chosen.bytes or Fraction(FULL) / Fraction(str(chosen.ratio))
    assert stored <= limit and (kept == STEPS or stored + stored // kept > limit)
    lines = bytes_of(found, load_dataset("digits"), find_protocol("shipped-v1"))
    assert lines["targets"] == stored == parts(found)["targets"] and "external" not in lines
    assert full_size(found) == full_size(a_set()) == full_bytes(RECIPE, 20, 10) == FULL


def test_a_ratio_is_lplds_share_of_the_label_batches():
    imagenet = RECIPE.model_copy(update={"epochs": 300, "batch": 128})
    for ipc, batches in ((10, 23437), (50, 117187)):  # E x steps, IPC x 1000 images
        assert imagenet.steps(1000 * ipc) == batches
        for ratio, rho in ((10, Fraction(9, 10)), (40, Fraction(975, 1000))):
            kept = Packing(ratio=float(ratio)).batches(imagenet, 1000 * ipc, 1000)
            assert kept == math.floor((1 - rho) * batches)


@pytest.mark.parametrize(
    ("packing", "message"),
    [
        ({"ratio": 20.5}, "below one label batch: 168 bytes in fp16"),
        ({"bytes": 167}, "167 bytes is below"),
        ({"encoding": "int8", "bytes": 151}, "152 bytes in int8"),
        ({"ratio": 0.5}, "at least 1"),
        ({"ratio": math.nan}, "at least 1"),
        ({"ratio": math.inf}, "at least 1"),
        ({"bytes": 0}, "at least 1"),
        ({"ratio": 2.0, "bytes": 1000}, "not both"),
        ({"encoding": "fp8"}, "fp16"),
        ({"encoding": "topk"}, "goes with"),
        ({"topk": 2}, "goes with"),
        ({"encoding": "topk", "topk": 10}, "1 to 9"),
        ({"keep": "last"}, "first"),
        ({"draw": "unifrom"}, "uniform"),
        ({"draw": "cycle"}, "keep and draw go with"),
        ({"keep": "random"}, "keep and draw go with"),
    ],
    ids=str,
)
def test_what_cannot_be_packed_is_one_line(packing, message):
    for synset in (a_set(), recorded(a_set())):
        with refused(message):
            packed(synset, **packing)


def test_sets_that_cannot_be_packed():
    with pytest.raises(UsageError, match="no targets"):
        packed(a_set(targets=None))
    with pytest.raises(UsageError, match="student recipe"):
        packed(a_set(student_recipe=None))
    with pytest.raises(UsageError, match="schedule of seed 11, not of 12"):
        packed(recorded(a_set()), 12)


def test_labels_beyond_what_can_be_stored_are_refused_before_they_are_made(monkeypatch):
    online = a_set()
    monkeypatch.setattr(recording, "MAX_BYTES", FULL // 2)
    forget_teachers()
    with pytest.raises(UsageError, match="labels of 20 steps would take"):
        packed(online)
    many = online.student_recipe.model_copy(update={"epochs": 10**6})
    with pytest.raises(UsageError, match=r"labels of 1,250,000 steps would take"):
        packed(replace(online, student_recipe=many), ratio=2.0, keep="random")
    monkeypatch.setattr(label_compression, "MOST", STEPS - 1)
    with pytest.raises(UsageError, match="20 label batches is too much to draw"):
        packed(online, ratio=2.0, keep="random")


# draws


def test_a_training_draws_kept_label_batches_by_key():
    pruned = packed(a_set(), 11, ratio=4.0)
    shown = shown_to_student(pruned)
    steps = pruned.targets.tensors["steps"].tolist()
    wanted = [steps[int(torch.randint(len(steps), (), generator=rng(11, "kept view", step)))] for step in range(STEPS)]
    assert [step for step, _ in shown] == wanted and len(set(wanted)) > 1
    assert any(one == two for one, two in pairwise(wanted))  # with replacement
    for step, labels in shown:
        assert torch.equal(labels, pruned.targets.tensors["logits"][steps.index(step)].float())
    in_turn = packed(a_set(), 11, ratio=4.0, draw="cycle")
    assert [step for step, _ in shown_to_student(in_turn)] == [0, 1, 2, 3, 4] * 4
    assert in_turn.hash != pruned.hash


def test_draws_are_uniform_and_of_the_step_alone():
    steps = (2, 3, 5, 7, 11, 13, 17, 19)
    schedule = BatchSchedule(4, steps, uniform=True)
    drawn = torch.tensor([schedule.view(step) for step in range(16000)])
    counts = torch.stack([(drawn == step).sum() for step in steps]).double()
    assert float(((counts - 2000) ** 2 / 2000).sum()) < 24.3  # chi squared, 7 degrees of freedom, p = 0.001
    pairs = torch.bincount((drawn[:-1] == drawn[1:]).long()).double()
    assert float(pairs[1] / pairs.sum()) == pytest.approx(1 / 8, abs=0.012)  # the next does not know the last
    assert [schedule.view(step) for step in (15999, 3, 0)] == [int(drawn[step]) for step in (15999, 3, 0)]
    assert [BatchSchedule(5, steps, uniform=True).view(step) for step in range(50)] != drawn[:50].tolist()
    with pytest.raises(UsageError, match="list"):
        BatchSchedule(0, uniform=True)


def test_students_of_all_seeds_see_the_same_draws_and_the_epochs_do_not_matter():
    pruned = packed(a_set(), 11, ratio=4.0)
    short = [step for step, _ in shown_to_student(pruned)]
    longer = shown_to_student(pruned, RECIPE.model_copy(update={"epochs": 16}))
    assert len(longer) == 2 * STEPS and [step for step, _ in longer[:STEPS]] == short


# soft labels


def soft_set(form="logits", dtype=torch.float32, **params):
    logits = 3 * torch.randn(20, 10, generator=torch.Generator().manual_seed(1))
    labels = logits if form == "logits" else logits.softmax(1)
    return a_set(targets=Targets("soft", {"form": form, **params}, {"labels": labels.to(dtype)}))


def label_of(synset):
    return shown_to_student(synset, RECIPE.model_copy(update={"mix": None, "epochs": 1, "batch": 20}))[0][1]


@pytest.mark.parametrize("form", ["logits", "probabilities"])
@pytest.mark.parametrize("mixed", [{}, {"mixed": "logits"}])
def test_soft_labels_are_encoded_again(form, mixed, tmp_path):
    plain = soft_set(form, **mixed)
    exact = plain.targets.tensors["labels"].double()
    logits = exact if form == "logits" else exact.log()
    half = packed(plain)
    assert half.targets.params == plain.targets.params and torch.equal(
        half.targets.tensors["labels"], exact.float().half()
    )
    eight = packed(plain, encoding="int8")
    assert eight.targets.params == {"form": "logits", **mixed, "encoding": "int8"}
    bound = (logits.amax(1) - logits.amin(1)) / 254 / 2
    assert bool(((labels_of(eight.targets, 10) - logits).abs() <= bound[:, None] * (1 + 1e-4)).all())
    top = packed(plain, encoding="topk", topk=4)
    found = labels_of(top.targets, 10)
    values, places = logits.topk(4, dim=1)
    assert torch.allclose(found.gather(1, places).double(), values, rtol=1e-3, atol=1e-3)
    assert torch.allclose(found.double().exp().sum(1), logits.exp().sum(1), rtol=5e-3)
    for synset, each in ((half, 20), (eight, 18), (top, 4 * 2 + 4 * 2 + 2)):
        assert parts(synset)["targets"] == 20 * each and full_size(synset) == 20 * 20
        save(synset, tmp_path / "set")
        assert load(tmp_path / "set").hash == synset.hash
        assert torch.equal(label_of(load(tmp_path / "set")), label_of(synset))
        run = evaluate_seeds(synset, load_dataset("digits"), find_protocol("shipped-v1"), seeds=(0,), setting=Compute())
        assert run.runs[0].status == "ok"
    assert packed(top, encoding="topk", topk=2).targets.tensors["values"].shape == (20, 2)
    for before, after in ((eight, {"encoding": "topk", "topk": 2}), (eight, {}), (top, {"encoding": "int8"})):
        with pytest.raises(UsageError, match="do not suffice"):
            packed(before, **after)


def test_soft_labels_cannot_be_dropped():
    assert packed(soft_set(), encoding="topk", topk=2, ratio=2.0).targets.params["encoding"] == "topk"
    with pytest.raises(UsageError, match=r"400 bytes in fp16 are above the label budget of 399"):
        packed(soft_set(), bytes=399)
    with pytest.raises(UsageError, match="too large for fp16"):
        packed(a_set(targets=Targets("soft", {"form": "logits"}, {"labels": torch.full((20, 10), 1e6)})))


# sets that are compared, and sets that leave


def test_a_baseline_borrows_the_packing():
    digits = load_dataset("digits")
    own = SynSet.of(
        digits, classes=digits.train.labels[:20], indices=torch.arange(20), space=make_space("normalised", digits)
    )
    pruned = packed(a_set(), 11, encoding="int8", ratio=4.0)
    found = match_recipe(own, pruned, digits)
    online = replace(own, student_recipe=RECIPE, targets=Targets("teachers", pruned.targets.params["made_by"]))
    assert found.targets.params == pruned.targets.params and found.targets.params["draw"] == "uniform"
    assert found.hash == packed(online, 11, encoding="int8", ratio=4.0).hash
    in_turn = match_recipe(own, packed(a_set(), 11, encoding="int8", ratio=4.0, draw="cycle"), digits)
    assert "draw" not in in_turn.targets.params
    teacher = a_teacher()
    made = Provenance(method="toy", teachers={teacher.hash: {"label_weight": 1.0}})
    soft = packed(replace(soft_set(), provenance=made), encoding="topk", topk=3)
    lent = match_recipe(own, soft, digits)
    targets_of(lent)
    plain = match_recipe(own, replace(soft_set(), provenance=made), digits)
    assert lent.targets.params == soft.targets.params
    assert torch.equal(lent.targets.tensors["values"], plain.targets.tensors["labels"].topk(3, dim=1).values.half())


def test_encoded_soft_labels_are_exported_as_logits(tmp_path):
    synset = packed(soft_set("probabilities"), encoding="int8")
    export_set(synset, load_dataset("digits"), tmp_path / "set.pt")
    found = torch.load(tmp_path / "set.pt", weights_only=True)
    assert found["soft_form"] == "logits" and torch.equal(found["soft_labels"], labels_of(synset.targets, 10))
    back = import_set(tmp_path / "set.pt", dataset=load_dataset("digits"), space="normalised")
    assert torch.equal(back.targets.tensors["labels"], found["soft_labels"])


# files from elsewhere


@pytest.mark.parametrize("value", ["random", 1, None, ["uniform"], {"uniform": 1}], ids=str)
def test_an_unknown_draw_is_refused(value, tmp_path):
    synset = recorded(a_set())
    params = {**synset.targets.params, "draw": value}
    bad = replace(synset, targets=Targets("replay", params, synset.targets.tensors))
    save(bad, tmp_path / "bad")
    with refused("draw must be cycle or uniform"):
        targets_of(load(tmp_path / "bad"))


MALFORMED = {
    "encoding": ("int8", with_param("encoding", "fp16"), "int8 or topk"),
    "type": ("int8", with_param("encoding", 8), "int8 or topk"),
    "another": ("int8", with_param("encoding", "topk"), "goes with"),
    "form": ("int8", with_param("form", "probabilities"), "int8 or topk"),
    "scale": ("int8", with_tensor("scale", lambda t: -t), "scale"),
    "rows": ("int8", with_tensor("logits", lambda t: t[:19]), r"\[20, 10\]"),
    "extra": ("int8", lambda params, tensors: tensors.update(labels=torch.zeros(20, 10)), "hold"),
    "places": ("topk", with_tensor("indices", lambda t: t + 10), "0 to 9"),
    "k": ("topk", with_tensor("values", lambda t: t[:, :2]), "indices"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_encoded_soft_labels_are_refused(case):
    encoding, spoil, message = MALFORMED[case]
    synset = packed(soft_set(), encoding=encoding, topk=3 if encoding == "topk" else None)
    refused_when_spoilt(synset, spoil, message)


# provenance, hashes, methods


def made_by_method(**changes):
    recipe = {"method": "sre2l", "name": "demo", "dataset": "digits", "budget": {"ipc": 2}, "network": "convnet-d2"}
    made = {"method": "sre2l", "recipe": recipe, "recipe_hash": digest(recipe), "seed": 11, "seconds": 3.0}
    return a_set(provenance=Provenance(**made), **changes)


def test_a_packing_has_a_name():
    every = Packing("topk", 3, ratio=2.5, keep="random", draw="cycle")
    assert every.words() == "topk3-2.5x-random-cycle" and Packing(bytes=2000).words() == "fp16-2000B"
    assert Packing("int8").words() == "int8" and Packing(ratio=40.0).words() == "fp16-40x"


def test_a_packed_set_is_a_cell_of_its_own():
    online = made_by_method()
    found = packed(online, ratio=4.0)
    made, before = found.provenance, online.provenance
    assert found.targets.params["seed"] == 11 and made.seed == 11 and made.seconds == 3.0
    assert made.recipe["name"] == "demo+fp16-4x" and made.recipe_hash == digest(made.recipe) != before.recipe_hash
    assert {key: made.recipe[key] for key in before.recipe if key != "name"} == {
        key: value for key, value in before.recipe.items() if key != "name"
    }
    assert online.hash in made.note and made.recipe["labels"]["batches"] == 5
    again = packed(found, bytes=400, encoding="int8").provenance.recipe
    assert again["name"] == "demo+int8-400B" and again["labels"]["batches"] == 2
    assert "seed" not in made.recipe["labels"] and packed(online, 4).provenance.recipe["labels"]["seed"] == 4
    assert packed(a_set(), encoding="topk", topk=2).provenance.recipe_hash is None  # imported: its hash tells it apart
    records = [
        evaluate_seeds(synset, load_dataset("digits"), find_protocol("shipped-v1"), seeds=(0,), setting=Compute())
        for synset in (online, found)
    ]
    assert records[0].key() != records[1].key() and records[1].recipe_name == "demo+fp16-4x"
    facts = records[1].synsets[found.hash].bytes
    assert facts["targets"] == 5 * 168 and "external" not in facts and records[0].synsets[online.hash].bytes["external"]


def test_a_recipe_says_only_what_it_changes_of_a_label_budget():
    method, overrides = find_method("sre2l"), {"labels": "replay", "label_ratio": 40.0}
    changed = resolve(method, load_dataset("digits"), Budget(ipc=10), overrides=overrides)
    plain = changed.to_json()["hyper"]
    assert plain["label_ratio"] == 40.0 and "label_draw" not in plain
    assert method.hyper.model_validate_json(json.dumps(plain)) == changed.hyper


NETWORK = "convnet-d1-w4-bn"


def by_method(**changes):
    task = Task(load_dataset("digits"), Budget(1), NETWORK, 5, CPU)
    fields = RelabelFields.model_validate({"student_batch": 4, "student_epochs": 20, "codec": "float", **changes})
    space, images = task.space("pixel"), torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    fields.require_room(task, 10)
    labellers = [(a_teacher(), 0.25), (a_teacher(seed=1), 0.75)]
    return relabeled(task, fields, space, labellers, classes=torch.arange(10), images=images)


@pytest.mark.parametrize("encoding", FORMS)
@pytest.mark.parametrize(
    ("fields", "packing"),
    [
        ({"label_ratio": 4.0}, {"ratio": 4.0}),
        ({"label_bytes": 1000, "label_draw": "cycle"}, {"bytes": 1000, "draw": "cycle"}),
        ({"label_ratio": 4.0, "label_keep": "random"}, {"ratio": 4.0, "keep": "random"}),
        ({"label_ratio": 1.0}, {"ratio": 1.0}),
    ],
    ids=str,
)
def test_a_methods_option_gives_what_the_command_makes_of_the_whole_set(encoding, fields, packing):
    replay = {"labels": "replay", "replay_encoding": encoding, "replay_topk": FORMS[encoding].get("topk")}
    packing = {"encoding": encoding, **FORMS[encoding], **packing}
    wanted = by_method(**replay, **fields)
    assert packed(by_method(), 5, **packing).hash == wanted.hash
    assert packed(by_method(**replay), **packing).hash == wanted.hash


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"labels": "replay", "label_ratio": 0.5}, "label_ratio"),
        ({"labels": "replay", "label_ratio": 4.0, "label_bytes": 1000}, "not both"),
        ({"label_ratio": 4.0}, "labels = replay"),
        ({"label_bytes": 1000}, "labels = replay"),
        ({"labels": "replay", "label_draw": "cycle"}, "keep and draw go with ratio or bytes"),
        ({"labels": "replay", "label_keep": "random"}, "keep and draw go with ratio or bytes"),
    ],
)
def test_fields_that_do_not_go_together(fields, message):
    with pytest.raises(ValidationError, match=message):
        RelabelFields.model_validate({"student_batch": 4, **fields})


def test_a_budget_below_one_batch_is_refused_before_the_method_works():
    with pytest.raises(UsageError, match="below one label batch: 88 bytes"):
        by_method(labels="replay", label_bytes=87)


# the command


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "set.safetensors"
    save(made_by_method(), path)
    return path


def test_the_command_packs_a_file(file, tmp_path):
    out = tmp_path / "packed.safetensors"
    result = done(ddbench("pack-labels", file, "--ratio", "4", "--out", out))
    wanted = packed(load(file), ratio=4.0)
    assert result.stdout == f"{out} {wanted.hash}\n" and load(out).hash == wanted.hash
    assert load(out).provenance == wanted.provenance
    weights = parts(load(file))["external"]
    for words in ("5 label batches, drawn uniformly: 840 bytes, 4.0 times fewer", f"external: {size(weights)} before"):
        assert words in result.stderr, result.stderr
    assert done(ddbench("pack-labels", file, "--ratio", "4", "--out", out, "--quiet")).stderr == ""
    forget_teachers()
    words = ("--encoding", "topk", "--topk", "2", "--bytes", "0.2KB", "--draw", "cycle", "--keep", "random", "--json")
    facts = json.loads(done(ddbench("pack-labels", out, *words, "--out", tmp_path / "two")).stdout)
    assert facts == {
        "file": str(tmp_path / "two"),
        "hash": load(tmp_path / "two").hash,
        "before": {"hash": wanted.hash, "bytes": {"images": 5120, "targets": 840}},
        "bytes": {"images": 5120, "targets": 176},
        "full_fp16_bytes": FULL,
        "ratio": FULL / 176,
        "encoding": "topk",
        "label_batches": 2,
        "draw": "cycle",
    }
    run = json.loads(done(ddbench("evaluate", out, "--protocol", "shipped-v1", "--seeds", "1", "--json")).stdout)
    assert run["recipe"]["name"] == "demo+fp16-4x" and run["synsets"][wanted.hash]["bytes"]["targets"] == 840


BAD = {
    "no such file": (("nowhere",), "nowhere"),
    "encoding": (("SET", "--encoding", "fp8"), "fp16"),
    "two budgets": (("SET", "--ratio", "2", "--bytes", "2MB"), "not both"),
    "bytes": (("SET", "--bytes", "2 Mb/s"), "--bytes 2 Mb/s: a number of bytes"),
    "no bytes": (("SET", "--bytes", "0"), "at least 1"),
    "too few": (("SET", "--bytes", "100"), "below one label batch: 168 bytes"),
    "ratio": (("SET", "--ratio", "0.9"), "at least 1"),
    "k": (("SET", "--topk", "2"), "goes with"),
    "draw": (("SET", "--draw", "randm"), "cycle"),
    "keep": (("SET", "--keep", "last"), "first"),
    "seed": (("SET", "--seed", "-1"), "--seed"),
    "no teacher": (("SET",), "is not in the cache"),
    "place": (("SET", "--out", "set.safetensors/x"), "set.safetensors"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_writes_nothing(case, file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if case == "no teacher":
        forget_teachers()
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    words, named = BAD[case]
    words = [str(file) if word == "SET" else word for word in words]
    result = ddbench("pack-labels", *words, *(() if "--out" in words else ("--out", "x.safetensors")))
    assert result.exit_code == 2 and result.stdout == "", (result.stdout, result.exception)
    assert result.stderr.startswith("ddbench: error: ") and result.stderr.count("\n") == 1 and named in result.stderr
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("text", "count"),
    [("2000", 2000), ("2kB", 2000), ("2MB", 2_000_000), ("1.5MiB", 3 * 2**19), ("1 GiB", 2**30), ("0.3kB", 300)],
)
def test_sizes_are_read_as_they_are_written(text, count):
    assert byte_count(text, "--bytes") == count


@pytest.mark.parametrize("text", ["", "MB", "-1", "1e6", "2TB", "1.MB", "inf", "٢"])
def test_other_words_are_no_sizes(text):
    with pytest.raises(UsageError, match="--bytes"):
        byte_count(text, "--bytes")


def test_a_record_of_a_packed_set_shows_the_commands_that_make_it_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changes = ("--set", "iterations=3", "--set", "teacher_epochs=1", "--set", "student_epochs=8")
    done(ddbench("distill", "sre2l", "--ipc", "1", *changes, "--seed", "2", "--out", "set"))
    done(ddbench("pack-labels", "set", "--encoding", "int8", "--ratio", "3", "--out", "packed"))
    done(ddbench("evaluate", "packed", "--protocol", "shipped-v1", "--seeds", "2", "--results", "one"))
    (path,) = RecordStore(tmp_path / "one").paths()
    lines = json.loads(done(ddbench("show", path, "--json")).stdout)["reproduce"]
    assert [shlex.split(line)[1] for line in lines] == ["distill", "pack-labels", "evaluate"]
    for line in lines:
        words = shlex.split(line)[1:]
        done(ddbench(*words, *(("--results", "two") if words[0] == "evaluate" else ())))
    (one,), (two,) = RecordStore(tmp_path / "one"), RecordStore(tmp_path / "two")
    assert one.key() == two.key() and one.synsets.keys() == two.synsets.keys()
    assert [(run.seed, run.top1) for run in one.runs] == [(run.seed, run.top1) for run in two.runs]
