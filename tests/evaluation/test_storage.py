"""Bytes that a student needs, line by line."""

import io

import pytest
import torch
from PIL import Image

from ddbench.data.registry import load_dataset
from ddbench.data.spaces import make_space, transform_for
from ddbench.evaluation.protocol import find_protocol
from ddbench.evaluation.reference_teacher import reference_teacher
from ddbench.evaluation.sizes import LINES, bytes_of, png_bytes
from ddbench.synset.synset import SynSet, Targets, Views
from ddbench.synset.targets import online_teacher
from ddbench.training.recipe import StudentRecipe

INDICES = torch.tensor([3, 99, 1437, 0, 5, 6, 7, 8, 9, 10])
SHIPPED = StudentRecipe(
    network="mlp", optimizer={"name": "sgd", "lr": 0.1}, epochs=1, batch=4, labels="targets", loss={"name": "soft-ce"}
)


def a_set(**changes):
    digits = load_dataset("digits")
    fields = {
        "classes": digits.train.labels[INDICES],
        "space": make_space("normalised", digits),
        "indices": INDICES,
    }
    return SynSet.of(digits, **{**fields, **changes})


def count(synset, protocol="hard-v1", **more):
    return bytes_of(synset, load_dataset("digits"), find_protocol(protocol), **more)


def real():
    return load_dataset("digits").train.read()[INDICES]


@pytest.mark.parametrize("space", ["pixel", "normalised", "zca"])
def test_an_index_counts_as_the_image_that_it_names(space):
    digits = load_dataset("digits")
    lived = make_space(space, digits)
    by_index = count(a_set(space=lived))
    assert by_index == count(a_set(space=lived, indices=None, images=real(), codec="uint8"))
    assert by_index["images"] == 10 * 64
    as_float = a_set(space=lived, indices=None, images=transform_for(lived, digits).encode(real().float() / 255))
    assert count(as_float) == {**by_index, "images": 4 * 10 * 64}  # the pixels are the same, so is their encoding


def test_the_encoding_is_one_png_an_image():
    total = 0
    for image in real():
        buffer = io.BytesIO()
        Image.fromarray(image[0].numpy()).save(buffer, "PNG", compress_level=9)
        total += len(buffer.getvalue())
    assert count(a_set())["images_encoded"] == total
    colour = torch.randint(0, 256, (2, 3, 5, 5), dtype=torch.uint8)
    buffer = io.BytesIO()
    Image.fromarray(colour[0].permute(1, 2, 0).contiguous().numpy()).save(buffer, "PNG", compress_level=9)
    assert png_bytes(colour[:1]) == len(buffer.getvalue()) and png_bytes(colour) > png_bytes(colour[:1])


def test_large_sets_are_counted_raw_only():
    assert "images_encoded" not in count(a_set(), encode_limit=9)
    assert "images_encoded" in count(a_set(), encode_limit=10)


def test_targets_count_where_the_protocol_reads_them():
    labels = Targets("soft", {"form": "logits"}, {"labels": torch.randn(10, 10).half()})
    synset = a_set(targets=labels, student_recipe=SHIPPED)
    assert count(synset, "shipped-v1")["targets"] == 200
    assert "targets" not in count(synset, "hard-v1")
    by_classes = a_set(targets=labels, student_recipe=SHIPPED.model_copy(update={"labels": "classes"}))
    assert "targets" not in count(by_classes, "shipped-v1")


def test_extra_tensors_count_always():
    synset = a_set(views=Views("tiles", {}, {"a": torch.zeros(5), "b": torch.zeros(3, dtype=torch.int8)}))
    assert count(synset)["extra"] == 23


def test_models_from_outside_count(toys):
    digits = load_dataset("digits")
    recipe = find_protocol("toy-soft-v1").reference(digits)
    teacher = reference_teacher(recipe, digits, torch.device("cpu"))
    size = sum(t.nbytes for t in teacher.state.values())
    assert count(a_set(), "toy-soft-v1", reference=teacher)["external"] == size
    assert "external" not in count(a_set(), "hard-v1")
    online = a_set(targets=online_teacher(teacher), student_recipe=SHIPPED)
    found = count(online, "shipped-v1")
    assert found["external"] == size and "targets" not in found and set(found) <= set(LINES)
