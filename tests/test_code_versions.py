"""Numbers raised by hand, and the source that they stand for."""

import hashlib
from pathlib import Path

import pytest
from ddbench.methods.engines import bins, dynamics, encoders, experts, priors, projector, weak_teachers

import ddbench
from ddbench import student

CORE = Path(ddbench.__file__).parent
ENGINES = Path(experts.__file__).parent
STUDENT_FILES = (
    "augment/*.py",
    "grouped.py",
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
)
STUDENT = {1: "48560dc1486563269ca6282b93a6312e2c53c14d191e8d52814c78b1472eb2f1"}
"""By `ddbench.student.CODE_VERSION`: SHA-256 of the files above, whose change may change what a training gives."""
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
EXPERTS = {1: "4b629b007247725a50f476cf41a4cbcb62c60e05eb96201b7316c68945680263"}
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
PRIORS = {1: "10672ab6e91f74fc9fcf1cc8e3b708da3bfac55f41f5f926ff8e9de5ba3c14d8"}
"""By `priors.CODE_VERSION`: SHA-256 of the files above, whose change may change a committee's priors."""
DYNAMICS = {1: "7f80bb2821abb19ad8ebe0446a6aabce54e0ba417d83ed3093053d220cb214bc"}
"""By `dynamics.CODE_VERSION`: SHA-256 of methods/engines/dynamics.py, whose change may change what is recorded."""
BINS = {1: "fd45416dc98ce1f685352376d928bc70792a08a2e3cd125e8677e4bb3504e1d3"}
"""By `bins.CODE_VERSION`: SHA-256 of bins.py and graph_cut.py, whose change may change what is in a bin of DQ."""
ENCODER_FILES = ("clip.py", "projection.py")
ENCODERS = {1: "2d8bfa92d51d66b1eb0a12761415a3901d194054436a208b816aa91a6a332d64"}
"""By `encoders.CODE_VERSION`: SHA-256 of encoders.py and the files above: what an encoder and its columns become."""
WEAK_TEACHERS = {1: "8d3713a5d9506ed76b44c78474e6698c729bccae7fd228a6c3ac30f129759458"}
"""By `weak_teachers.CODE_VERSION`: SHA-256 of weak_teachers.py, whose change may change what a snapshot is."""
PROJECTORS = {1: "a0912ff1c6df2aea21cbcdc62e51e6884f0e137ec0222a418b28fffa7fb9ca83"}
"""By `projector.CODE_VERSION`: SHA-256 of projector.py and ddbench/projection.py, whose change may change factors."""
SOURCES = {
    student: (STUDENT, STUDENT_FILES, ()),
    experts: (EXPERTS, EXPERT_FILES, EXPERT_ENGINES),
    priors: (PRIORS, ("kept.py",), PRIOR_ENGINES),
    dynamics: (DYNAMICS, (), ("dynamics.py",)),
    bins: (BINS, (), ("bins.py", "graph_cut.py")),
    encoders: (ENCODERS, ENCODER_FILES, ("encoders.py",)),
    weak_teachers: (WEAK_TEACHERS, (), ("weak_teachers.py",)),
    projector: (PROJECTORS, ("projection.py",), ("projector.py",)),
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
