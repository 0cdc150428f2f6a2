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
    "SYNTHESIS": (USED_BY_METHODS, {1: "c4d0f4ec27c3bf2438529a39de571c8b999409e7d2bdcd246deaf35a4ce091e8"}),
    "TRAINING": (SCORING, {1: "42badb3afc960bb4f37174ba18710a523cf5ad9d8323ae065995939aa2cb77fe"}),
}
"""Version of `ddbench.system.code` -> modules that it begins with, besides our entry points of `PARTS`; and pins."""
ENGINES = {
    "selection.bins": {1: "2907a7688d457a2b4a46b2a0f6f3b0152c936b2b953d57d04c2e4b77c80c7ea5"},
    "selection.dynamics": {1: "04ee203a4973023733c6db333ac717419b3580cd976250647813449ed5a92abe"},
    "encoders.image_encoders": {1: "3cb6eac027dceb2cdd43c982be00ba1c24f6fb74f7b30a06fa929e3930b128ed"},
    "trajectory.experts": {1: "18a814801830788f9dfed8115b352a94e3eb630e07f4bf8f712cd14ea21ee47c"},
    "decoupled.priors": {1: "447e784c864ea952ecb756d7a55937c3954f046778be569f425eef817fece9f1"},
    "encoders.projector": {1: "80a43d4252fa01017c60f1724374a8885b79594496c9741585e3f4e0f84a6319"},
    "encoders.weak_teachers": {1: "89a8b4f6a56ba7d34001af32b538ea48cd7ff6a1de537048c40ec67efb9db68d"},
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
