"""Patches of real images against brute force: every crop of every image, one at a time."""

from dataclasses import replace

import pytest
import small_tasks
import torch
import torch.nn.functional as F
from ddbench.methods.engines.decoupled.patches import PatchFields, choose, patch_images
from small_tasks import refused

from ddbench import networks
from ddbench.data.dataset import memory_split
from ddbench.data.registry import load_dataset

SEED = 5


def digits(per_class=9, change=None):
    """The first images of every digit, in a mixed order; `change` maps (pixels, labels)."""
    whole = load_dataset("digits")
    pixels, labels = whole.train.read(), whole.train.labels
    places = torch.cat([(labels == c).nonzero()[:per_class, 0] for c in range(10)])
    places = places[torch.randperm(len(places), generator=torch.Generator().manual_seed(0))]
    pixels, labels = pixels[places], labels[places]
    pixels, labels = change(pixels.clone(), labels) if change else (pixels, labels)
    return replace(whole, train=memory_split(pixels, labels))


def a_task(ipc, data=None, seed=SEED):
    return small_tasks.a_task(ipc, data=data or digits(), seed=seed)


def a_teacher():
    network = networks.create("convnet-d1-w4-bn", channels=1, side=8, classes=10, seed=1)
    generator = torch.Generator().manual_seed(3)
    network.train()(torch.randn(64, 1, 8, 8, generator=generator))
    return network.eval().requires_grad_(False)


def fields_of(**changes):
    return PatchFields.model_validate({"pool": 7, "crops": 3, **changes})


def made(fields, ipc=2, data=None, seed=SEED):
    task = a_task(ipc, data, seed)
    return patch_images(task, task.space("normalised"), a_teacher(), fields)


def best_by_hand(fields, label):
    """(cross-entropy, window, window enlarged) of the best crop of each image of a class that is looked at, best first."""
    teacher, best = a_teacher(), []
    for _, crops in small_tasks.crops_by_hand(
        a_task(1), label, **fields.model_dump(include={"pool", "crops", "patch_low"})
    ):
        tried = [(-float(teacher(seen)[0].log_softmax(0)[label]), window, seen) for _, window, seen in crops]
        best.append(min(tried, key=lambda crop: crop[0]))
    return sorted(best, key=lambda crop: crop[0])


@pytest.mark.parametrize("difficulty", ["easy", "medium"])
@pytest.mark.parametrize("changes", [{}, {"pool": 300, "crops": 5}, {"patch_low": 0.5, "crops": 1}])
def test_patches_are_those_of_brute_force(difficulty, changes):
    """The lowest, or as many below the chosen as above them (one more above, where that does not go up)."""
    fields = fields_of(difficulty=difficulty, **changes)
    images = made(fields, ipc=2).unflatten(0, (10, 2))
    for label in range(10):
        best = best_by_hand(fields, label)
        first = 0 if difficulty == "easy" else (len(best) - 2) // 2
        wanted = torch.cat([seen for _, _, seen in best[first : first + 2]])
        torch.testing.assert_close(images[label], wanted, rtol=0, atol=1e-5)


def test_tiles_are_in_the_order_of_their_cross_entropy_row_by_row():
    fields = fields_of(pool=9, factor=2, crops=2)
    images = made(fields, ipc=2).unflatten(0, (10, 2))
    assert images.shape == (10, 2, 1, 8, 8)
    for label in range(10):
        best = best_by_hand(fields, label)[:8]
        small = [
            F.interpolate(window, (4, 4), mode="bilinear", align_corners=False, antialias=True)[0]
            for _, window, _ in best
        ]
        for number, image in enumerate(images[label]):
            own = small[4 * number : 4 * number + 4]
            wanted = torch.cat([torch.cat(own[:2], 2), torch.cat(own[2:], 2)], 1)
            torch.testing.assert_close(image, wanted, rtol=0, atol=1e-5)


def test_choices_by_sorting():
    errors = torch.tensor([5.0, 1.0, 4.0, 2.0, 3.0, 0.0])
    assert choose(errors, 3, "easy").tolist() == [5, 1, 3]
    assert choose(errors, 2, "medium").tolist() == [3, 4]
    assert choose(errors, 3, "medium").tolist() == [1, 3, 4]
    assert choose(errors, 6, "medium").tolist() == choose(errors, 6, "easy").tolist() == [5, 1, 3, 4, 2, 0]
    assert choose(torch.zeros(4), 2, "easy").tolist() == [0, 1]  # equals in their order


@pytest.mark.parametrize("factor", [1, 2])
def test_no_class_depends_on_another(factor):
    fields = fields_of(factor=factor)

    def darker(pixels, labels):
        pixels[labels == 3] //= 2
        return pixels, labels

    def fewer(pixels, labels):
        kept = (labels != 3) | (torch.arange(len(labels)) < 60)
        return pixels[kept], labels[kept]

    first = made(fields, ipc=1)
    rest = torch.arange(10) != 3
    for change in (darker, fewer):
        other = made(fields, ipc=1, data=digits(change=change))
        assert torch.equal(first[rest], other[rest])
    assert not torch.equal(first[3], made(fields, ipc=1, data=digits(change=darker))[3])


@pytest.mark.parametrize(
    ("changes", "ipc", "words"),
    [
        ({"factor": 3}, 1, "factor 3 does not divide images of 8 px"),
        ({"pool": 2}, 3, "3 patches of class '0' need as many images, but 2 are looked at"),
        ({"pool": 300, "factor": 2}, 3, "12 patches of class '0' need as many images, but 9 are looked at"),
    ],
)
def test_what_cannot_be_is_a_line(changes, ipc, words):
    with refused(words):
        made(fields_of(**changes), ipc=ipc)
