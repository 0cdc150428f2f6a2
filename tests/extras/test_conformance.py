"""What every installed method must do (`ddbench.extras.check`), ours as a third party's; and that each demand can fail."""

import os
from dataclasses import replace

import pytest
import torch
from pydantic import Field

from ddbench import plugins
from ddbench.data.registry import load_dataset
from ddbench.distillation.method import GROUP, Hyper, Method, find_method, method_names
from ddbench.extras.check import CHECKS, check_method, own_cache
from ddbench.settings import cache_dir, data_dir
from ddbench.synset.synset import Targets


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name.replace(" ", "-"))
@pytest.mark.parametrize("name", method_names())
def test_conformance(name, check):
    check.run(find_method(name))


class FaultyHyper(Hyper):
    """Hyper-parameters of the methods below."""

    size: int = Field(1, ge=1, description="nothing")


class SilentHyper(Hyper):
    """A hyper-parameter that does not say what it is."""

    size: int = 1


def faulty(change):
    """`random` with one fault: `change(task, images, classes)` gives the fields of the set."""

    def distill(task, hyper):
        images, labels = task.tensors(task.space("normalised"))
        orders = [torch.randperm(len(p), generator=task.rng("choice", c)) for c, p in enumerate(task.class_indices())]
        chosen = torch.cat([p[order[:1]] for p, order in zip(task.class_indices(), orders, strict=True)])
        fields = {"space": task.space("normalised"), "images": images[chosen], "classes": labels[chosen]}
        return task.synset(**{**fields, **change(task, fields["images"], fields["classes"])})

    return Method(name="faulty", hyper=FaultyHyper, distill=distill)


def write_to_the_data(task, images, classes):
    task._source.train.read()[0].add_(1)
    return {}


WRONG_SUMS = Targets("soft", {"form": "probabilities"}, {"labels": torch.full((10, 10), 0.2)})


def bug(task, images, classes):
    raise ZeroDivisionError("a bug\nof two lines")


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """Beside what is installed, the method that `broken_checks` is asked about: jobs find a method by its name."""
    find = plugins.find
    monkeypatch.setattr(plugins, "find", lambda group, name: ASKED.get((group, name)) or find(group, name))
    yield
    ASKED.clear()


ASKED = {}


def broken_checks(method):
    if method.name == "faulty":
        ASKED[GROUP, "faulty"] = method
    return {o.check.name: o.problem for o in check_method(method) if not o.passed}


FAULTS = {
    "unbalanced": (
        lambda task, images, classes: {"classes": torch.cat([classes[1:2], classes[1:]])},
        "whole set",
        "images per class",
    ),
    "not finite": (lambda task, images, classes: {"images": images / 0.0}, "whole set", "not finite"),
    "global stream": (
        lambda task, images, classes: {"images": images + 1e-3 * torch.randn(images.shape)},
        "equal seeds",
        "not keyed",
    ),
    "same for all": (
        lambda task, images, classes: {"images": torch.stack([task.tensors(task.space("normalised"))[0][0]] * 10)},
        "other seeds",
        "the same set",
    ),
    "noise": (
        lambda task, images, classes: {"images": torch.randn(images.shape, generator=task.rng("noise"))},
        "better than chance",
        "a guess reaches 0.1",
    ),
    "wrong sums": (lambda task, images, classes: {"targets": WRONG_SUMS}, "whole set", "sum to 1"),
    "a bug": (bug, "whole set", "ZeroDivisionError: a bug of two lines (test_conformance.py, line"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found_by_its_check_and_named_in_one_line(fault):
    change, check, words = FAULTS[fault]
    found = broken_checks(faulty(change))
    assert words in found[check] and "\n" not in found[check]
    assert "page" not in found and "recipes" not in found


def test_a_method_that_writes_to_the_training_images_is_found():
    pixels = load_dataset("digits").train.read()
    before = pixels.clone()
    try:
        assert broken_checks(faulty(write_to_the_data))["whole set"] == "the training images were written to"
    finally:
        pixels.copy_(before)


def test_what_is_declared_is_held_against_what_is_done():
    sound = faulty(lambda task, images, classes: {})
    assert broken_checks(sound) == {}
    assert set(broken_checks(replace(sound, deterministic=True))) == {"other seeds"}
    assert "size has no description" in broken_checks(replace(sound, hyper=SilentHyper))["page"]
    assert set(broken_checks(replace(sound, budgets=("ipc", "bytes")))) == {"page"}
    assert "recipes" in broken_checks(replace(sound, toy={"sise": 1}))


def test_checks_leave_the_cache_and_the_environment_as_they_were(tmp_path):
    def ours():
        return {name: value for name, value in os.environ.items() if name.startswith("DDBENCH_")}

    before = ours()
    assert broken_checks(find_method("random")) == {}
    assert ours() == before and not (cache_dir() / "synsets").exists()
    data = data_dir()
    with own_cache():
        inside = cache_dir()
        assert inside.is_dir() and data_dir() == data
    assert not inside.exists()
