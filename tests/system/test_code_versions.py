"""Numbers raised by hand, and the code that they stand for: changed code is either pinned anew or a new version."""

from importlib import import_module

import pytest

from ddbench import plugins
from ddbench.distillation.method import method_names
from ddbench.system import code

CANNOT_CHANGE_A_NUMBER = {
    "ddbench": "names to import from elsewhere",
    "ddbench.records.addresses": "where files of submissions are",
    "ddbench.system.code": "the versions themselves",
    "ddbench.system.downloads": "files, checked by their hashes",
    "ddbench.system.environment": "what is recorded beside a number",
    "ddbench.errors": "words",
    "ddbench.system.files": "writes and locks",
    "ddbench.system.rank": "who writes",
    "ddbench.distillation.method": "how a method is declared",
    "ddbench.plugins": "what is installed",
    "ddbench.jobs.pool": "where jobs run",
    "ddbench.progress": "words",
    "ddbench.records.record": "how numbers are written",
    "ddbench.settings": "folders and defaults of flags, all in a run's identity",
    "ddbench.records.submission": "claims",
    "ddbench.schema": "how records are read",
}
"""Modules of the core that no pin covers, and why."""
USED_BY_METHODS = (
    "ddbench.data.registry",
    "ddbench.distillation.labels",
    "ddbench.distillation.task",
    "ddbench.networks.clip",
    "ddbench.training.loop",
    "ddbench.training.memory",
    "ddbench.synset.projection",
    "ddbench.data.resizing",
)
SCORING = ("ddbench.data.registry", "ddbench.evaluation.evaluate")
PARTS = (
    "ddbench.targets",
    "ddbench.views",
    "ddbench.losses",
    "ddbench.schedules",
    "ddbench.optimizers",
)
PARTS += ("ddbench.augmentations", "ddbench.mixes", "ddbench.datasets", "ddbench.networks")
KERNEL = {
    "SYNTHESIS": (USED_BY_METHODS, {1: "f472e0c8185a73bc1898c6c59faccd5d1ff1b74260e66954494e7f5904ee1743"}),
    "TRAINING": (SCORING, {1: "d5903910149c75b507af4829b833727c20386a3f12dbf42de7ceb580977f22a3"}),
}
"""Version of `ddbench.system.code` -> modules that it begins with, besides our entry points of `PARTS`; and pins."""
ENGINES = {
    "selection.bins": {1: "afaa71a94af6ce32c1d0b586d6bf08112494f031154939d8a1de90315e7f1533"},
    "selection.dynamics": {1: "1ca69df2089e60c8cc6cdc3151206566488c600ce0086c3c97b985af75470bf1"},
    "encoders.image_encoders": {1: "5a34e56254d696634f09a8a18234752ef32bb6f9284dce8938d5b79c42d4ceb5"},
    "trajectory.experts": {1: "dbefc5b7d82c1a1599b86c9c9e5819aaad713c58936b9fd802d835a82bd3ef9a"},
    "decoupled.priors": {1: "8afdba514934f0c7f61857966e970fa10f12bf5bb681e94a373b3d3de8249060"},
    "encoders.projector": {1: "a5378231a1962bfa6bdf8bb62a9fe7d51d0c150b72ceee3ec46b50c41280cf95"},
    "encoders.weak_teachers": {1: "7981d988cc17a6e12df63a4b574972940502767f51c5ba489978385b772ba78a"},
}
"""Engine with a CODE_VERSION, of a stage's products -> pins of the engine and what it imports of our methods."""


def own_parts():
    points = (plugins.declared(group, name) for group in PARTS for name in plugins.names(group))
    return [point.module for point in points if point.module.startswith("ddbench.")]


def kernel(name):
    return code.closure((*KERNEL[name][0], *own_parts()), "ddbench", without=CANNOT_CHANGE_A_NUMBER)


def check(pins, version, modules, what):
    found = code.digest_of(modules)
    assert pins.get(version) == found, (
        f"code that {what} stands for has changed: it covers {', '.join(sorted(modules))}. If any number may change: raise "
        f"the version, so that what older code made is made again, and pin {{{version + 1}: {found!r}}} here. If none can: "
        f"update the pin to {{{version}: {found!r}}}"
    )


@pytest.mark.parametrize("name", KERNEL)
def test_a_version_of_the_kernel_stands_for_this_code(name):
    check(KERNEL[name][1], getattr(code, name), kernel(name), f"ddbench.system.code.{name}")


@pytest.mark.parametrize("name", ENGINES)
def test_a_version_of_an_engine_stands_for_this_code(name):
    module = f"{code.METHODS}.engines.{name}"
    version = import_module(module).CODE_VERSION
    check(ENGINES[name], version, code.closure((module,), code.METHODS), f"{module}.CODE_VERSION")


def test_what_methods_import_of_the_kernel_is_pinned():
    methods = [plugins.declared(code.METHODS, name).module for name in method_names()]
    own = code.closure([name for name in methods if name.startswith(code.METHODS)], code.METHODS)
    used = {name for module, path in own.items() for name in code._imported(module, path)}
    reached = code.closure([name for name in used if name != code.METHODS], "ddbench", without=CANNOT_CHANGE_A_NUMBER)
    assert len(own) > 40 and reached.keys() <= kernel("SYNTHESIS").keys()


@pytest.mark.parametrize(
    "name", ["data.spaces", "distillation.task", "synset.teachers", "synset.views", "data.registry"]
)
def test_a_kernel_module_that_changes_breaks_the_pin(name, tmp_path):
    modules = kernel("SYNTHESIS")
    text = modules[f"ddbench.{name}"].read_text(encoding="utf-8")
    changed = {}
    for what, more in (("comment", "\n# nothing\n"), ("number", "\nOFFSET = 1e-3\n")):
        copy = tmp_path / f"{what}.py"
        copy.write_text(text + more, encoding="utf-8")
        changed[what] = {**modules, f"ddbench.{name}": copy}
    with pytest.raises(AssertionError, match="raise the version"):
        check({1: code.digest_of(modules)}, 1, changed["number"], "this")
    check({1: code.digest_of(modules)}, 1, changed["comment"], "this")


def test_what_is_left_out_is_there():
    assert all(code.closure((name,), "ddbench") for name in CANNOT_CHANGE_A_NUMBER)
