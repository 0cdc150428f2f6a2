"""Views: what a set's stored tensors become before a student sees them."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from small_sets import refused

from ddbench import networks, plugins
from ddbench.augment import build_augmentation
from ddbench.data.registry import load_dataset
from ddbench.data.spaces import Space, make_space, transform_for
from ddbench.errors import UsageError
from ddbench.evaluation.evaluate import evaluate_seeds
from ddbench.evaluation.protocol import find_protocol
from ddbench.evaluation.reference_teacher import reference_teacher
from ddbench.evaluation.sizes import bytes_of
from ddbench.extras.import_export import export_set, import_set
from ddbench.randomness import rng
from ddbench.report.pictures import as_seen
from ddbench.synset import teachers, views
from ddbench.synset.matched_recipe import match_recipe
from ddbench.synset.synset import SynSet, Targets, Views, load, save
from ddbench.synset.targets import Binding, online_teacher, targets_of
from ddbench.synset.targets.stored_soft_labels import record_soft_labels
from ddbench.synset.views import drawn, expand, find_view_kind, training_count, training_images
from ddbench.synset.views.tiles import one_tile
from ddbench.training.batch_schedule import BatchSchedule
from ddbench.training.batches import Batches, Order, views_of
from ddbench.training.compute import Compute
from ddbench.training.loop import train
from ddbench.training.recipe import StudentRecipe

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
    images, classes = training_images(synset, digits)
    assert torch.equal(images, expand(synset, digits)[0]) and len(classes) == 30
    run = evaluate_seeds(synset, digits, find_protocol("shipped-v1"), seeds=(0,), setting=Compute())
    assert run.runs[0].steps == 2 * 30 // 6 and run.runs[0].status == "ok"
    assert run.synsets[synset.hash].images == N  # what is stored


def test_views_are_mapped_into_a_teachers_space(toys):
    digits = load_dataset("digits")
    synset = a_set(space="pixel")
    record = evaluate_seeds(synset, digits, find_protocol("toy-soft-v1"), seeds=(0,), setting=Compute())
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


@pytest.mark.parametrize(
    ("limit", "value", "message"),
    [("MAX_IMAGES", 29, "30 training images are more than 29"), ("MAX_BYTES", 1000, r"would take .* GiB")],
)
def test_views_that_would_fill_all_memory_are_refused_before_they_are_made(monkeypatch, limit, value, message):
    monkeypatch.setattr(views, limit, value)
    with pytest.raises(UsageError, match=message):
        expanded(a_set())


def test_a_kind_must_be_one(monkeypatch):
    monkeypatch.setattr(plugins, "find", lambda group, name: 3)
    with pytest.raises(UsageError, match="not of ViewKind"):
        find_view_kind("three")


TILED = RECIPE.model_copy(
    update={
        "labels": "classes",
        "loss": {"name": "ce"},
        "augmentations": [{"name": "pad-crop", "pad": 2}, {"name": "flip", "p": 0.5}],
        "epochs": 3,
    }
)
CANVASES = torch.randn(N, 1, 8, 8, generator=torch.Generator().manual_seed(4))


def canvases(factor=2, **changes):
    view = Views("tiles", {} if factor is None else {"factor": factor})
    return a_set(view, **{"images": CANVASES, "student_recipe": TILED, **changes})


def enlarged(image, factor):
    """All tiles of an image [C, H, H], each enlarged to H: [factor^2, C, H, H], row by row."""
    size = image.shape[-1] // factor
    corners = [(size * row, size * column) for row in range(factor) for column in range(factor)]
    tiles = torch.stack([image[:, y : y + size, x : x + size] for y, x in corners])
    return F.interpolate(tiles, image.shape[-2:], mode="bilinear", align_corners=False)


def which(view, image, factor):
    """The only tile of an image that a view is, enlarged."""
    same = [place for place, tile in enumerate(enlarged(image, factor)) if torch.allclose(view, tile, atol=1e-5)]
    assert len(same) == 1
    return same[0]


@pytest.mark.parametrize(("side", "factor"), [(8, 2), (9, 3), (8, 4)])
def test_a_view_is_one_enlarged_tile_and_every_tile_is_as_likely(side, factor):
    images = torch.randn(40, 3, side, side, generator=torch.Generator().manual_seed(5))
    found = []
    for step in range(30):
        shown_now = one_tile(images, rng(0, step), factor=factor)
        assert shown_now.shape == images.shape
        found.append([which(view, image, factor) for view, image in zip(shown_now, images, strict=True)])
    counts = torch.tensor(found).flatten().bincount(minlength=factor**2)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3
    pairs = torch.tensor([row[0] * factor**2 + row[1] for row in found])  # of two images of a batch: independent
    assert len(pairs.unique()) > min(15, factor**2)
    assert all(len({row[place] for row in found}) > 1 for place in range(40))  # another tile at another step


def test_canvases_are_the_training_images():
    synset = canvases()
    images, classes = expanded(synset)
    assert torch.equal(images, CANVASES) and torch.equal(classes, synset.classes) and training_count(synset) == N
    assert bytes_of(synset, load_dataset("digits"), find_protocol("hard-v1"))["extra"] == 0


def test_views_and_augmentations_have_draws_of_their_own():
    schedule = BatchSchedule(5, (2, 3, 11), drawn(canvases()))
    batches = Batches(CANVASES, TILED, schedule)
    for step, view in ((0, 2), (1, 3), (2, 11), (4, 3)):
        wanted = one_tile(CANVASES[Order(N, 6, 5).at(view)], rng(5, "view", view), factor=2)
        generator = rng(5, "augment", view)
        for spec in TILED.augmentations:
            wanted = build_augmentation(spec)(wanted, generator)
        assert torch.equal(batches.at(step).images, wanted)
    plain = TILED.model_copy(update={"augmentations": []})
    for batch in views_of(CANVASES, plain, BatchSchedule(1, draw=drawn(canvases()))):
        for view, place in zip(batch.images, batch.index, strict=True):
            which(view, CANVASES[place], 2)


def trained(images, classes, recipe=TILED, **more):
    student = networks.create("convnet-d1-w8", channels=1, side=8, classes=10, seed=3, key=("student",))
    return train(student, images, classes, recipe, seed=3, **more).final_loss


def final_loss(synset, protocol="shipped-v1"):
    run = evaluate_seeds(synset, load_dataset("digits"), find_protocol(protocol), seeds=(3,), setting=Compute()).runs[0]
    assert run.status == "ok", run.reason
    return run.final_loss


def test_a_student_is_shown_tiles():
    synset = canvases()
    assert final_loss(synset) == trained(*expanded(synset), schedule=BatchSchedule(3, draw=drawn(synset)))
    assert final_loss(synset) != final_loss(replace(synset, views=None))


def test_without_drawn_views_a_training_has_the_bits_that_it_had():
    for synset in (canvases(1), replace(canvases(), views=None), a_set(student_recipe=TILED)):
        assert drawn(synset) is None and final_loss(synset) == trained(*expanded(synset))


def test_canvases_are_mapped_once_and_tiles_taken_in_the_teachers_space(toys):
    digits = load_dataset("digits")
    own = make_space("pixel", digits)
    synset = canvases(space=own, images=CANVASES.sigmoid())
    space = a_teacher().space
    images, _ = training_images(synset, digits, space=space)
    mapped = transform_for(space, digits)
    tiles = mapped.encode(one_tile(synset.pixels(digits), rng(0), factor=2))
    torch.testing.assert_close(drawn(synset)(images, rng(0)), tiles, rtol=0, atol=1e-5)
    assert final_loss(synset, "toy-soft-v1") != final_loss(replace(synset, views=None), "toy-soft-v1")


def a_teacher():
    digits = load_dataset("digits")
    recipe = find_protocol("toy-soft-v1").reference(digits)
    found = reference_teacher(recipe, digits, torch.device("cpu"))
    teachers.keep(found)
    return found


def test_a_replay_holds_the_labels_of_the_tiles(toys):
    digits, cpu, teacher = load_dataset("digits"), torch.device("cpu"), a_teacher()
    recipe = TILED.model_copy(update={"labels": "targets", "loss": {"name": "kl", "temperature": 4.0}})
    online = canvases(student_recipe=recipe, targets=online_teacher(teacher))
    stored = replace(online, targets=record_soft_labels(online, digits, cpu, seed=11))
    kind, targets = targets_of(stored)
    batches = [*views_of(CANVASES, recipe, BatchSchedule(11, draw=drawn(online)))]
    again = [*views_of(CANVASES, recipe, kind.schedule(stored))]
    for place, (batch, same) in enumerate(zip(batches, again, strict=True)):
        assert torch.equal(batch.images, same.images)
        assert torch.equal(targets.tensors["logits"][place], teacher.module(cpu)(batch.images).half())
    by_hand = trained(
        *expanded(online),
        recipe,
        schedule=BatchSchedule(11, draw=drawn(online)),
        labeller=kind.bind(Binding(stored, digits, cpu)),
    )
    assert final_loss(stored) == by_hand


def test_one_soft_label_for_a_canvas_is_refused():
    labels = Targets("soft", {"form": "logits"}, {"labels": torch.randn(N, 10)})
    with pytest.raises(UsageError, match="one label for each stored image does not fit tiles"):
        targets_of(canvases(targets=labels))
    targets_of(canvases(1, targets=labels))


def test_a_baseline_borrows_the_recipe_and_not_the_views():
    digits = load_dataset("digits")
    own = replace(a_set(), views=None)
    found = match_recipe(own, canvases(), digits)
    assert found.views is None and found.student_recipe == TILED and found.targets is None
    assert final_loss(found) == trained(*expanded(own))


@pytest.mark.parametrize("name", ["set.pt", "set.npz", "folder"])
def test_an_export_of_tiles_has_the_canvases(tmp_path, caplog, name):
    digits = load_dataset("digits")
    pixels = torch.randint(0, 256, (N, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(6))
    export_set(canvases(images=pixels, codec="uint8"), digits, tmp_path / name)
    assert "views (tiles) are left out" in caplog.text
    read = import_set(tmp_path / name, dataset=digits, space="normalised")
    assert (
        read.views is None and read.student_recipe is None and torch.equal(read.classes.sort().values, torch.arange(N))
    )
    wanted = pixels.flip(0) if name == "folder" else pixels  # a folder goes class by class
    back = (transform_for(read.space, digits).decode(read.pixels(digits)) * 255).round().byte()
    assert torch.equal(back, wanted)


def test_a_picture_of_tiles_has_the_canvases():
    digits = load_dataset("digits")
    pixels, _, title = as_seen(canvases(), digits)
    assert torch.equal(pixels, transform_for(canvases().space, digits).decode(CANVASES))
    assert title.endswith("1 per class, shown by tiles")


def test_sets_with_views_go_to_a_file_and_back(tmp_path):
    save(canvases(), tmp_path / "set")
    read = load(tmp_path / "set")
    assert read.hash == canvases().hash != canvases(4).hash
    assert torch.equal(drawn(read)(CANVASES, rng(0)), drawn(canvases())(CANVASES, rng(0)))
    synset = a_set(compensators(quantise=True))
    save(synset, tmp_path / "set")
    read = load(tmp_path / "set")
    assert read.hash == synset.hash and torch.equal(expanded(read)[0], expanded(synset)[0])


MALFORMED_TILES = {
    "no factor": (Views("tiles"), "factor = a whole number"),
    "more params": (Views("tiles", {"factor": 2, "size": 4}), "factor = a whole number"),
    "half": (Views("tiles", {"factor": 2.0}), "factor = a whole number"),
    "a truth": (Views("tiles", {"factor": True}), "factor = a whole number"),
    "no tile": (Views("tiles", {"factor": 0}), "at least 1"),
    "not whole": (Views("tiles", {"factor": 3}), "does not divide images of 8 px"),
    "tensors": (Views("tiles", {"factor": 2}, {"slots": SLOTS}), "no tensors"),
}


@pytest.mark.parametrize("case", [*MALFORMED, *MALFORMED_TILES])
def test_malformed_views_are_refused(case):
    view, message = (MALFORMED | MALFORMED_TILES)[case]
    for ask in (training_count, expanded, drawn):
        with refused(message):
            ask(a_set(view, images=CANVASES))


def test_a_whitened_space_is_refused():
    for synset in (a_set(space="zca"), canvases(space="zca")):
        with refused("whitened"):
            training_count(synset)
