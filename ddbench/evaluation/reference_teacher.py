"""Reference teacher of a soft protocol, trained once and cached; and the test accuracy of teachers, for records."""

import json
from collections.abc import Callable

import torch

from ddbench import networks
from ddbench.data.dataset import Dataset
from ddbench.data.spaces import make_space, transform_for
from ddbench.data.streamed import ReadImages
from ddbench.settings import cache_dir
from ddbench.synset import teachers
from ddbench.synset.teachers import Teacher
from ddbench.system import code
from ddbench.system.files import write_atomic
from ddbench.training.batch_schedule import Images
from ddbench.training.cache import Cache
from ddbench.training.loop import accuracy, train
from ddbench.training.recipe import StudentRecipe


def reference_teacher(
    recipe: StudentRecipe,
    dataset: Dataset,
    device: torch.device,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Teacher:
    """Return the teacher of a soft protocol: trained once by `recipe` on the training split, in `normalised` space.

    Args:
        recipe: the teacher's recipe, part of the protocol's digest.
        dataset: its training split is read; the test split is not.
        device: where to train, if it is not cached.
        seed: stage seed.
        progress: called with (steps done, steps).
    """
    space = make_space("normalised", dataset)
    key = {
        "recipe": recipe.model_dump(mode="json"),
        "dataset": dataset.id,
        "split_hash": dataset.train.hash,
        "space": space.to_json(),
        "precision": "float32",
        "code": code.TRAINING,
        "seed": seed,
    }

    def make() -> Teacher:
        shape = {"channels": dataset.channels, "side": dataset.side, "classes": len(dataset.class_names)}
        network = networks.create(recipe.network, **shape, seed=seed, key=("reference-teacher",)).to(device)
        transform, split = transform_for(space, dataset), dataset.train
        if split.resident:
            images: Images = transform.encode(split.read().float() / 255).to(device)
        else:
            images = ReadImages.of(split, transform, device)
        train(network, images, split.labels.to(device), recipe, seed=seed, progress=progress)
        return Teacher.of(
            dataset, network=recipe.network, space=space, recipe_hash=recipe.hash(), state=network.state_dict()
        )

    return teachers.cached(Cache("reference-teacher", key), "product", make)


def measured_accuracy(teacher: Teacher, dataset: Dataset, device: torch.device) -> float:
    """Top-1 of a sealed teacher on the test split, a fraction; measured once and kept beside the teacher.

    For people and records only: no method ever sees it.
    """
    path = cache_dir() / "teachers" / f"{teacher.hash}.accuracy.json"
    key = f"{dataset.id} {dataset.test.hash}"
    try:
        return float(json.loads(path.read_text(encoding="utf-8"))[key])
    except (OSError, ValueError, KeyError, TypeError):
        measured = accuracy(teacher.module(device), dataset.test, transform_for(teacher.space, dataset), device).top1
        write_atomic(path, json.dumps({key: measured}) + "\n")
        return measured
