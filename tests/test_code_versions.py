"""Numbers raised by hand, and the source that they stand for."""

import hashlib
from pathlib import Path

import pytest
from ddbench.methods.engines import bins, dynamics, experts, priors

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
STUDENT = {1: "888970c7fb374290913229094cb1d426b311759fd14db22461fde44a0344f785"}
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
EXPERTS = {1: "09c78a8b1580b23f2d7d49bc607decf2bfcad7ff35ef601010848085a4b80a10"}
"""By `experts.CODE_VERSION`: SHA-256 of the files above, whose change may change what an expert becomes."""
PRIOR_ENGINES = (
    "codecs.py",
    "decoupled.py",
    "kept.py",
    "measured_norm.py",
    "patches.py",
    "priors.py",
    "recover.py",
    "relabel.py",
    "squeeze.py",
    "students.py",
    "windows.py",
)
PRIORS = {1: "83b570d0a5bba8275926f5a2b7e4ec449c550b57a349971b826325d47cac110f"}
"""By `priors.CODE_VERSION`: SHA-256 of the files above, whose change may change a committee's priors."""
DYNAMICS = {1: "7f80bb2821abb19ad8ebe0446a6aabce54e0ba417d83ed3093053d220cb214bc"}
"""By `dynamics.CODE_VERSION`: SHA-256 of methods/engines/dynamics.py, whose change may change what is recorded."""
BINS = {1: "2ba9e0ea8230376512fe875bfe174f398a1c1606cc3c1c6dc43e3aa83f63131c"}
"""By `bins.CODE_VERSION`: SHA-256 of bins.py and graph_cut.py, whose change may change what is in a bin of DQ."""
SOURCES = {
    student: (STUDENT, STUDENT_FILES, ()),
    experts: (EXPERTS, EXPERT_FILES, EXPERT_ENGINES),
    priors: (PRIORS, (), PRIOR_ENGINES),
    dynamics: (DYNAMICS, (), ("dynamics.py",)),
    bins: (BINS, (), ("bins.py", "graph_cut.py")),
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
