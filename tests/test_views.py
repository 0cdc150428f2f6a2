"""Views: what a set's stored tensors become before a student sees them."""

from dataclasses import replace

import pytest
import torch

from ddbench import plugins, views
from ddbench.data import load_dataset
from ddbench.errors import UsageError
from ddbench.evaluation import Setting, evaluate_once, training_images
from ddbench.protocol import find_protocol
from ddbench.space import Space, make_space
from ddbench.storage import bytes_of
from ddbench.student_recipe import StudentRecipe
from ddbench.synset import SynSet, Targets, Views, load, save
from ddbench.targets import targets_of
from ddbench.views import expand, find_view_kind, training_count

M, K, N = 2, 3, 10  # compensators of 2 networks and 3 slots for 10 images
SLOTS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 0])
COMPENSATORS = 0.5 * torch.randn(M, K, 1, 8, 8, generator=torch.Generator().manual_seed(1))
RECIPE = StudentRecipe(
    network="convnet-d1-w8",
    optimizer={"name": "sgd", "lr": 0.05},
    loss={"name": "kl", "temperature": 4.0},
    labels="targets",
    epochs=2,
    batch=6,
)


def compensators(tensors=None, **params):
    return Views("compensators", params, tensors or {"compensators": COMPENSATORS, "slots": SLOTS})


def a_set(view=None, space="normalised", **changes):
    digits = load_dataset("digits")
    fields = {
        "classes": torch.arange(N).flip(0),
        "space": make_space(space, digits) if isinstance(space, str) else space,
        "views": view or compensators(),
        "indices": torch.stack([(digits.train.labels == c).nonzero()[0, 0] for c in reversed(range(N))]),
    }
    if "images" in changes:
        del fields["indices"]
    return SynSet.of(digits, **{**fields, **changes})


def expanded(synset):
    return expand(synset, load_dataset("digits"))


@pytest.mark.parametrize("quantise", [False, True])
@pytest.mark.parametrize("space", ["pixel", "normalised", Space("normalised", mean=(0.4,), std=(0.2,))])
def test_compensated_images_by_definition(space, quantise):
    digits = load_dataset("digits")
    synset = a_set(compensators(quantise=quantise) if quantise else None, space=space)
    images, classes = expanded(synset)
    pixels = digits.train.read(synset.indices).float() / 255
    mean, std = (synset.space.mean[0], synset.space.std[0]) if synset.space.mean else (0.0, 1.0)
    assert len(images) == len(classes) == (M + 1) * N == training_count(synset) and len(synset) == N
    torch.testing.assert_close(images[:N], (pixels - mean) / std)
    for m in range(M):
        for i in range(N):
            place = N * (m + 1) + i
            wanted = (pixels[i] + std * COMPENSATORS[m, SLOTS[i]]).clamp(0, 1)
            if quantise:
                wanted = (wanted * 255).round() / 255
            torch.testing.assert_close(images[place] * std + mean, wanted, rtol=0, atol=1e-5)
            assert classes[place] == synset.classes[i]
    assert float(images.min()) >= -mean / std - 1e-6 and float(images.max()) <= (1 - mean) / std + 1e-6


def test_stored_images_stay_as_they_are():
    outside = 5 * torch.randn(N, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    images, _ = expanded(a_set(compensators(quantise=True), images=outside))
    assert torch.equal(images[:N], outside) and float(images[N:].abs().max()) < float(outside.abs().max())
    eight_bits = torch.randint(0, 256, (N, 1, 8, 8), dtype=torch.uint8)
    nothing = compensators(
        {"compensators": torch.zeros(1, 1, 1, 8, 8), "slots": torch.zeros_like(SLOTS)}, quantise=True
    )
    synset = a_set(nothing, images=eight_bits, codec="uint8", space="pixel")
    images, _ = expanded(synset)
    assert torch.equal(images[:N], images[N:]) and torch.equal((images[:N] * 255).round().byte(), eight_bits)


def test_a_set_without_views_is_what_it_stores():
    digits = load_dataset("digits")
    synset = replace(a_set(), views=None)
    images, classes = expand(synset, digits)
    assert torch.equal(images, synset.pixels(digits)) and torch.equal(classes, synset.classes)
    assert training_count(synset) == N


def test_a_student_trains_on_the_views():
    """`max_steps` left aside, steps count training images after views."""
    digits = load_dataset("digits")
    labels = Targets("soft", {"form": "logits"}, {"labels": torch.randn((M + 1) * N, 10)})
    synset = a_set(student_recipe=RECIPE, targets=labels)
    images, classes, space = training_images(synset, digits)
    assert torch.equal(images, expand(synset, digits)[0]) and len(classes) == 30 and space == synset.space
    run = evaluate_once(synset, digits, find_protocol("shipped-v1"), seed=0, setting=Setting())
    assert run.runs[0].steps == 2 * 30 // 6 and run.runs[0].status == "ok"
    assert run.synsets[synset.hash].images == N  # what is stored


def test_views_are_mapped_into_a_teachers_space(toys):
    digits = load_dataset("digits")
    synset = a_set(space="pixel")
    record = evaluate_once(synset, digits, find_protocol("toy-soft-v1"), seed=0, setting=Setting())
    assert record.runs[0].status == "ok"


def test_soft_labels_are_of_the_training_images():
    short = Targets("soft", {"form": "logits"}, {"labels": torch.randn(N, 10)})
    with pytest.raises(UsageError, match=r"\[30, 10\]"):
        targets_of(a_set(targets=short))
    targets_of(replace(a_set(targets=short), views=None))


def test_compensators_are_extra_bytes():
    digits = load_dataset("digits")
    lines = bytes_of(a_set(), digits, find_protocol("hard-v1"))
    assert lines["extra"] == COMPENSATORS.nbytes + SLOTS.nbytes and lines["images"] == N * 64
    assert (
        lines["images_encoded"]
        == bytes_of(replace(a_set(), views=None), digits, find_protocol("hard-v1"))["images_encoded"]
    )


def test_a_set_with_views_goes_to_a_file_and_back(tmp_path):
    synset = a_set(compensators(quantise=True))
    save(synset, tmp_path / "set")
    read = load(tmp_path / "set")
    assert read.hash == synset.hash and torch.equal(expanded(read)[0], expanded(synset)[0])


def spoiled(**tensors):
    return compensators({"compensators": COMPENSATORS, "slots": SLOTS, **tensors})


MALFORMED = {
    "unknown kind": (Views("compensator"), "did you mean compensators"),
    "parameter": (compensators(quantize=True), "quantise"),
    "parameter type": (compensators(quantise=1), "quantise"),
    "no slots": (compensators({"compensators": COMPENSATORS}), "slots"),
    "more": (spoiled(more=SLOTS), "hold"),
    "precision": (spoiled(compensators=COMPENSATORS.double()), "float32"),
    "shape": (spoiled(compensators=COMPENSATORS[..., :7]), r"\[M, K, 1, 8, 8\]"),
    "dimensions": (spoiled(compensators=COMPENSATORS[0]), r"\[M, K, 1, 8, 8\]"),
    "none": (spoiled(compensators=COMPENSATORS[:0]), "1 <= M"),
    "no slot": (spoiled(compensators=COMPENSATORS[:, :0]), "1 <= K"),
    "too many slots": (spoiled(compensators=torch.zeros(1, N + 1, 1, 8, 8)), "K <= n"),
    "slots' type": (spoiled(slots=SLOTS.int()), "int64"),
    "slots' number": (spoiled(slots=SLOTS[1:]), r"\[10\]"),
    "slots' range": (spoiled(slots=SLOTS + 1), "0 to 2"),
    "negative slots": (spoiled(slots=SLOTS - 1), "0 to 2"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_views_are_refused(case):
    views, message = MALFORMED[case]
    synset = a_set(views)
    for ask in (training_count, expanded):
        with pytest.raises(UsageError, match=message) as error:
            ask(synset)
        assert "\n" not in str(error.value)


def test_a_whitened_space_is_refused():
    with pytest.raises(UsageError, match="whitened"):
        training_count(a_set(space="zca"))


def test_more_images_than_a_set_may_have(monkeypatch):
    monkeypatch.setattr("ddbench.views.MAX_IMAGES", 29)
    with pytest.raises(UsageError, match="30 training images are more than 29"):
        expanded(a_set())


def test_a_kind_must_be_one(monkeypatch):
    monkeypatch.setattr(plugins, "find", lambda group, name: 3)
    with pytest.raises(UsageError, match="not a ViewKind"):
        find_view_kind("three")


def test_views_that_would_fill_all_memory_are_refused_before_they_are_made(monkeypatch):
    monkeypatch.setattr(views, "MAX_BYTES", 1000)
    with pytest.raises(UsageError, match=r"would take .* GiB"):
        expanded(a_set())
