"""Twenty images for digits and teachers that label them: what tests of labels train students on."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from ddbench import networks
from ddbench.data.registry import load_dataset
from ddbench.data.spaces import make_space
from ddbench.errors import UsageError
from ddbench.synset import teachers
from ddbench.synset.synset import SynSet, Targets
from ddbench.synset.targets import Binding, committee, targets_of
from ddbench.training.recipe import StudentRecipe


def a_teacher(name="convnet-d2-w8-bn", seed=0):
    """An untrained network in the cache that reads pixels."""
    digits = load_dataset("digits")
    network = networks.create(name, channels=1, side=8, classes=10, seed=seed)
    how = {"network": name, "space": make_space("pixel", digits), "recipe_hash": "0" * 64}
    found = teachers.Teacher.of(digits, **how, state=network.state_dict())
    teachers.keep(found)
    return found


def a_recipe(**changes):
    """A small student that learns targets by KL on cropped and mixed images."""
    fields = {"network": "convnet-d1-w8", "optimizer": {"name": "sgd", "lr": 0.05}, "labels": "targets", "epochs": 3}
    fields |= {"loss": {"name": "kl", "temperature": 4.0}, "mix": {"name": "cutmix"}, "batch": 8}
    return StudentRecipe(**{**fields, "augmentations": [{"name": "pad-crop", "pad": 2}], **changes})


def a_set(recipe, **changes):
    """Twenty normalised images, two a class, labelled online by two teachers, and the student recipe that they ship."""
    digits = load_dataset("digits")
    fields = {
        "classes": torch.arange(20) % 10,
        "space": make_space("normalised", digits),
        "images": torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(0)),
        "student_recipe": recipe,
    }
    if "targets" not in changes:
        changes["targets"] = committee([(a_teacher(), 0.5), (a_teacher(seed=1), 2.0)])
    return SynSet.of(digits, **{**fields, **changes})


def labeller_of(synset):
    """What labels the batches of a training on the set, and the schedule that they must be of."""
    kind, _ = targets_of(synset)
    return kind.bind(Binding(synset, load_dataset("digits"), torch.device("cpu"))), kind.schedule(synset)


def with_tensor(name, change):
    """Spoil one tensor of targets."""
    return lambda params, tensors: tensors.update({name: change(tensors[name])})


def with_param(name, value):
    """Spoil one parameter of targets."""
    return lambda params, tensors: params.update({name: value})


@contextmanager
def refused(message):
    """A UsageError of one line."""
    with pytest.raises(UsageError, match=message) as error:
        yield
    assert "\n" not in str(error.value)


def forget_teachers():
    """Empty the cache of teachers."""
    for path in (teachers.cache_dir() / "teachers").glob("*"):
        path.unlink()


def refused_when_spoilt(synset, spoil, message):
    """The set's targets, with parameters and tensors changed by `spoil`, are refused in one line."""
    params, tensors = dict(synset.targets.params), dict(synset.targets.tensors)
    spoil(params, tensors)
    with refused(message):
        targets_of(replace(synset, targets=Targets(synset.targets.kind, params, tensors)))
