"""PCA: what is kept, how it is tiled, what a student is shown and how it is trained."""

from dataclasses import replace

import pytest
import small_tasks
import torch
import torch.nn.functional as F
from ddbench.methods import pca
from ddbench.methods.engines.selection.dynamics import dynamics_of
from ddbench.methods.engines.selection.pruning import SCORES
from ddbench.methods.pca import PCAHyper, canvases, combine, prune
from pydantic import ValidationError
from small_tasks import a_job, refused, shipped_record

from ddbench.budget import Budget
from ddbench.data.registry import load_dataset
from ddbench.distillation.method import find_method
from ddbench.jobs.job import distill_job
from ddbench.settings import cache_dir
from ddbench.synset.matched_recipe import match_recipe
from ddbench.synset.views import drawn, expand
from ddbench.training.batch_schedule import BatchSchedule
from ddbench.training.batches import views_of

SEED = 5
QUICK = {"score_epochs": 2, "student_epochs": 2}


def a_task(ipc=2, *, data=None, **more):
    return small_tasks.a_task(ipc, data=data or load_dataset("digits"), **more)


def scores_of(task):
    return torch.rand(len(task.dataset.labels), generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def shrunk(image, size):
    """Triangle-weighted means of the pixels around each wide one, what antialiased bilinear interpolation is."""
    side = image.shape[-1]
    ratio = side / size
    at, pixels = (torch.arange(size) + 0.5) * ratio, torch.arange(side) + 0.5
    weights = (1 - (pixels[None] - at[:, None]).abs() / ratio).clamp(min=0)
    weights = weights / weights.sum(1, keepdim=True)
    return torch.einsum("yh,xw,chw->cyx", weights, weights, image)


@pytest.mark.parametrize(("side", "tiles"), [(8, 1), (8, 2), (9, 3), (32, 2)])
def test_a_canvas_is_shrunk_whole_images_row_by_row(side, tiles):
    images = torch.randn(3 * tiles**2, 3, side, side, generator=torch.Generator().manual_seed(0))
    found, size = canvases(images, tiles), side // tiles
    assert found.shape == (3, 3, side, side)
    for number, image in enumerate(images):
        canvas, tile = divmod(number, tiles**2)
        y, x = (size * corner for corner in divmod(tile, tiles))
        there = found[canvas, :, y : y + size, x : x + size]
        torch.testing.assert_close(there, shrunk(image, size), rtol=0, atol=1e-5)


def test_bicubic_is_another_way_to_shrink():
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    wanted = F.interpolate(images, (4, 4), mode="bicubic", antialias=True)
    assert torch.equal(canvases(images, 2, "bicubic")[0, :, :4, 4:], wanted[1])


@pytest.mark.parametrize("tiles", [1, 2, 3])
def test_the_easiest_of_each_class_are_kept_in_their_order(tiles):
    task, data = a_task(), load_dataset("digits")
    scores, labels = scores_of(task), data.train.labels
    for label, places in enumerate(prune(task, PCAHyper(tiles=tiles), scores)):
        pool = sorted((float(scores[place]), place) for place in (labels == label).nonzero()[:, 0].tolist())
        assert places.tolist() == [place for _, place in pool[: 2 * tiles**2]]


def test_equal_scores_keep_the_first():
    task = a_task()
    for pool, places in zip(
        task.class_indices(), prune(task, PCAHyper(), torch.zeros(len(task.dataset.labels))), strict=True
    ):
        assert torch.equal(places, pool[:8])


def test_shuffled_canvases_hold_the_same_images():
    task = a_task()
    ranked = prune(task, PCAHyper(), scores_of(task))
    shuffled = prune(task, PCAHyper(arrange="shuffled"), scores_of(task))
    for one, other in zip(ranked, shuffled, strict=True):
        assert torch.equal(one.sort().values, other.sort().values) and not torch.equal(one, other)


@pytest.mark.parametrize("codec", ["float", "uint8", "jpeg75"])
def test_canvases_are_of_the_classes_images_as_the_codec_stores_them(codec):
    task, data = a_task(), load_dataset("digits")
    places = prune(task, PCAHyper(), scores_of(task))
    found = combine(task, PCAHyper(codec=codec), places)
    assert found.shape == (20, 1, 8, 8) and found.dtype == (torch.float32 if codec == "float" else torch.uint8)
    for label in range(10):
        for place, chosen in enumerate(places[label].tolist()):
            canvas, tile = divmod(place, 4)
            y, x = 4 * (tile // 2), 4 * (tile % 2)
            there = found[2 * label + canvas, :, y : y + 4, x : x + 4].float()
            wanted = shrunk(data.train.read(torch.tensor([chosen]))[0].float(), 4)  # the codec's pixels, 0 to 255
            if codec == "float":
                there = 255 * (there * data.std[0] + data.mean[0])
            off = (there - wanted).abs().max()
            assert off < {"float": 1e-3, "uint8": 1.001, "jpeg75": 60}[codec]


def test_one_tile_stores_the_images_as_they_are():
    task, data = a_task(), load_dataset("digits")
    places = prune(task, PCAHyper(tiles=1), scores_of(task))
    found = combine(task, PCAHyper(tiles=1), places)
    assert torch.equal(found, data.train.read(torch.cat(places)))


def distilled(ipc=2, **fields):
    return distill_job(a_job("pca", ipc, seed=SEED, **{**QUICK, **fields}))


def test_a_set_is_made_of_what_el2n_finds_easiest():
    synset, hyper = distilled(codec="float"), PCAHyper(**QUICK, codec="float")
    task = a_task(network=synset.provenance.recipe["network"])
    scores = SCORES["el2n"](dynamics_of(task, hyper), hyper)
    pool = task.class_indices()[3]
    assert synset.per_class() == [2] * 10 and (synset.views.kind, synset.views.params) == ("tiles", {"factor": 2})
    easiest = pool[scores[pool].argsort()[:8]]
    assert torch.equal(synset.images[synset.classes == 3], canvases(task.read(synset.space, easiest), 2))


def test_students_learn_classes_by_the_papers_hard_protocol():
    recipe = distilled(score_epochs=2, student_epochs=300).student_recipe
    assert recipe.optimizer == {"name": "adamw", "lr": 1e-3, "weight_decay": 0.01, "decay_all": False}
    assert recipe.schedule == {"name": "cosine", "stretch": 1.0}
    assert (recipe.labels, recipe.loss, recipe.mix) == ("classes", {"name": "ce"}, None)
    assert (recipe.epochs, recipe.batch, recipe.max_steps) == (300, 128, None)
    crop = {"name": "random-resized-crop", "scale": [0.08, 1.0]}
    assert recipe.augmentations == [crop]  # a flip changes a digit
    flipping = replace(load_dataset("digits"), flip=True)
    assert PCAHyper().student(a_task(data=flipping)).augmentations == [crop, {"name": "flip", "p": 0.5}]


def test_a_student_is_shown_one_tile_of_each_canvas_an_epoch():
    synset = distilled(codec="float")
    plain = synset.student_recipe.model_copy(update={"augmentations": [], "batch": 20})
    images, _ = expand(synset, load_dataset("digits"))
    for batch in views_of(images, plain, BatchSchedule(0, draw=drawn(synset))):
        assert batch.index.sort().values.tolist() == list(range(20))
        for view, canvas in zip(batch.images, images[batch.index], strict=True):
            tiles = canvas.unfold(1, 4, 4).unfold(2, 4, 4).flatten(1, 2).transpose(0, 1)
            whole = F.interpolate(tiles, (8, 8), mode="bilinear", align_corners=False)
            assert float((whole - view).abs().amax((1, 2, 3)).min()) < 1e-5


def test_one_tile_needs_no_views():
    assert distilled(tiles=1).views is None


def test_scores_are_made_once_for_all_settings():
    for fields in ({}, {"tiles": 1}, {"arrange": "shuffled"}, {"codec": "float"}):
        distilled(**fields)
    distilled(ipc=1)
    assert len([*(cache_dir() / "stages" / "dynamics").iterdir()]) == 1


def test_random_borrows_the_recipe_and_is_shown_whole():
    digits, synset = load_dataset("digits"), distilled()
    found = match_recipe(distill_job(a_job("random", seed=SEED)), synset, digits)
    assert found.student_recipe == synset.student_recipe and found.views is None and found.targets is None
    for each in (found, synset):
        run = shipped_record(each, digits).runs[0]
        assert run.status == "ok" and run.steps == 2


def test_bad_input_is_one_line_before_scores_are_made(monkeypatch):
    def never(*args):
        raise AssertionError("scores were made")

    monkeypatch.setattr(pca, "dynamics_of", never)
    cases = [
        (a_task(1), 3, "tiles 3 does not divide images of 8 px"),
        (a_task(50), 2, "needs 200 images of class '0'"),
        (a_task(5, data=small_tasks.digits()), 2, "needs 20 images"),
        (a_task(Budget(fraction=0.1)), 1, "ipc"),
    ]
    for task, tiles, message in cases:
        with refused(message):
            find_method("pca").distill(task, PCAHyper(tiles=tiles))
    for tiles in (0, 4):
        with pytest.raises(ValidationError):
            PCAHyper(tiles=tiles)
