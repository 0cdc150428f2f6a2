"""Sets of what is in memory: tensors, NumPy arrays and lists make the same set."""

import numpy as np
import pytest
import torch

from ddbench.data.registry import load_dataset
from ddbench.errors import UsageError
from ddbench.evaluation.from_tensors import from_tensors

IMAGES = torch.randn(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))
CLASSES = torch.arange(10)
SOFT = torch.randn(10, 10, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "convert",
    [
        lambda tensor: tensor.numpy(),
        lambda tensor: tensor.numpy().astype(np.float64),
        lambda tensor: tensor.tolist(),
        lambda tensor: tuple(tensor),
        lambda tensor: [row.numpy() for row in tensor],
    ],
    ids=["array", "doubles", "lists", "tensors", "arrays"],
)
def test_arrays_and_lists_are_taken_as_tensors(convert):
    digits = load_dataset("digits")
    wanted = from_tensors(IMAGES, CLASSES, digits, soft_labels=SOFT)
    assert from_tensors(convert(IMAGES), convert(CLASSES), digits, soft_labels=convert(SOFT)).hash == wanted.hash


def test_pixels_and_a_set_does_not_change_with_the_array():
    pixels = np.random.default_rng(0).integers(0, 256, (10, 1, 8, 8), dtype=np.uint8)
    made = from_tensors(pixels, np.arange(10, dtype=np.int16), load_dataset("digits"))
    before = made.images.clone()
    pixels[:] = 0
    assert made.codec == "uint8" and torch.equal(made.images, before) and before.any()


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"images": [[1.0], [1.0, 2.0]]}, "images must be a tensor, a NumPy array or lists"),
        ({"images": object()}, "images must be"),
        ({"images": np.array(["a"])}, "images must be"),
        ({"images": IMAGES.numpy()[:, 0]}, "images have shape"),
        ({"labels": "cat"}, "labels must be"),
        ({"labels": [None] * 10}, "labels must be"),
        ({"labels": np.full(10, 0.5)}, "whole numbers"),
        ({"labels": np.ones(10, dtype=bool)}, "whole numbers"),
        ({"soft_labels": [["a"]]}, "soft labels must be"),
        ({"soft_labels": np.eye(10, dtype=int)}, "soft labels must be floats"),
    ],
)
def test_what_is_no_array_of_numbers_is_refused(changes, word):
    fields = {"images": IMAGES, "labels": CLASSES, **changes}
    with pytest.raises(UsageError, match=word):
        from_tensors(dataset=load_dataset("digits"), **fields)
