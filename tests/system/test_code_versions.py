"""Numbers raised by hand, and the source that they stand for."""

import hashlib
from pathlib import Path

import pytest
from ddbench.methods.engines.decoupled import priors
from ddbench.methods.engines.encoders import encoders, projector, weak_teachers
from ddbench.methods.engines.selection import bins, dynamics
from ddbench.methods.engines.trajectory import experts

import ddbench
from ddbench.training import loop

CORE = Path(ddbench.__file__).parent
ENGINES = Path(experts.__file__).parent
STUDENT_FILES = (
    "augment/*.py",
    "execution.py",
    "grouped.py",
    "label_budget.py",
    "losses.py",
    "networks/build.py",
    "networks/convnet.py",
    "networks/mobile.py",
    "networks/parts.py",
    "networks/resnet.py",
    "networks/small.py",
    "randomness.py",
    "schedules.py",
    "streams.py",
    "student.py",
    "targets/distances.py",
    "targets/encodings.py",
    "targets/recording.py",
    "targets/replay.py",
)
STUDENT = {1: "4f4369493b406b935b7767d6f875a55b6d6de32ea7cd6dca77c6b319a3c5e623"}
"""By `ddbench.training.loop.CODE_VERSION`: SHA-256 of the files above, whose change may change what a training gives."""
EXPERT_FILES = (
    "augment/crops.py",
    "augment/dsa.py",
    "networks/build.py",
    "networks/convnet.py",
    "networks/mobile.py",
    "networks/parts.py",
    "networks/resnet.py",
    "networks/small.py",
    "randomness.py",
)
EXPERT_ENGINES = ("expert_step.py", "experts.py", "flat.py")
EXPERTS = {1: "e5d1fe22d4ff7982b48d0920bcb776372f88a0e04aa61c68629d21e692f8cabc"}
"""By `experts.CODE_VERSION`: SHA-256 of the files above, whose change may change what an expert becomes."""
PRIOR_ENGINES = (
    "codecs.py",
    "decoupled.py",
    "measured_norm.py",
    "patches.py",
    "priors.py",
    "recover.py",
    "relabel.py",
    "squeeze.py",
    "students.py",
    "windows.py",
)
PRIORS = {1: "ad404877198fe7baa06ff826dbcbfdbb13b7cac526a572c1ce616d7cce6702e9"}
"""By `priors.CODE_VERSION`: SHA-256 of the files above, whose change may change a committee's priors."""
DYNAMICS = {1: "6009a2fa0ba971d96d8648e2acbb659f6072996b39d3c8d49a682c5df68ae538"}
"""By `dynamics.CODE_VERSION`: SHA-256 of methods/engines/selection/dynamics.py, whose change may change what is recorded."""
BINS = {1: "9315b1ddf9d6e5d38962d6960f45ea5cfe37f5b72fe78a1a7f6431c4d408ebe8"}
"""By `bins.CODE_VERSION`: SHA-256 of bins.py, graph_cut.py and the core's resizing.py, whose change may change what is in a bin of DQ."""
ENCODER_FILES = ("clip.py", "projection.py")
ENCODERS = {1: "3640ab608034dfb4553be58aa65cfe97297a0fca2dfcf7f51bc9051ad9d752a3"}
"""By `encoders.CODE_VERSION`: SHA-256 of encoders.py and the files above: what an encoder and its columns become."""
WEAK_TEACHERS = {1: "5a60057d5032e83edab60e8bfb9acec24cdb6fe18d4b36751f14d054f191341f"}
"""By `weak_teachers.CODE_VERSION`: SHA-256 of weak_teachers.py, whose change may change what a snapshot is."""
PROJECTORS = {1: "f4c718fc461b3faf81be48dbe1e95d0044d9fe99b18c5e208eea53a9af3fb278"}
"""By `projector.CODE_VERSION`: SHA-256 of projector.py and ddbench/synset/projection.py, whose change may change factors."""
SOURCES = {
    loop: (STUDENT, STUDENT_FILES, ()),
    experts: (EXPERTS, EXPERT_FILES, EXPERT_ENGINES),
    priors: (PRIORS, ("kept.py",), PRIOR_ENGINES),
    dynamics: (DYNAMICS, (), ("dynamics.py",)),
    bins: (BINS, ("resizing.py",), ("bins.py", "graph_cut.py")),
    encoders: (ENCODERS, ENCODER_FILES, ("encoders.py",)),
    weak_teachers: (WEAK_TEACHERS, (), ("weak_teachers.py",)),
    projector: (PROJECTORS, ("projection.py", "resizing.py"), ("projector.py",)),
}
"""Module with a CODE_VERSION -> pins, files of the core and of the engines that the number stands for."""


def digest_of(core, engines):
    total = hashlib.sha256()
    for root, patterns in ((CORE, core), (ENGINES, engines)):
        for path in sorted(path for pattern in patterns for path in root.glob(pattern)):
            total.update(f"{path.relative_to(root).as_posix()}\n".encode())
            total.update(path.read_bytes())
    return total.hexdigest()


@pytest.mark.parametrize("module", SOURCES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_a_code_version_stands_for_this_source(module):
    pins, core, engines = SOURCES[module]
    found, version = digest_of(core, engines), module.CODE_VERSION
    assert pins.get(version) == found, (
        f"source that {module.__name__}.CODE_VERSION stands for has changed. If that may change any number: raise it, so "
        f"that what is cached is made again, and pin {{{version + 1}: {found!r}}} here. If it cannot (a comment, a name): "
        f"update the pin to {{{version}: {found!r}}}"
    )


def test_every_pattern_names_files():
    for _, core, engines in SOURCES.values():
        assert all(list(CORE.glob(pattern)) for pattern in core) and all((ENGINES / name).exists() for name in engines)
