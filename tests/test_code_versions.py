"""Numbers raised by hand, and the source that they stand for."""

import hashlib
from pathlib import Path

from ddbench.methods.engines import dynamics, experts, priors

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
PRIORS = {1: "2bbfeb26110402d6a1a43bb468bf8c1184bcfdbedbae9d4b329ab8461a69c476"}
"""By `priors.CODE_VERSION`: SHA-256 of the files above, whose change may change a committee's priors."""
DYNAMICS = {1: "7f80bb2821abb19ad8ebe0446a6aabce54e0ba417d83ed3093053d220cb214bc"}
"""By `dynamics.CODE_VERSION`: SHA-256 of methods/engines/dynamics.py, whose change may change what is recorded."""


def digest_of(patterns, root=CORE, total=None):
    total = total or hashlib.sha256()
    for path in sorted(path for pattern in patterns for path in root.glob(pattern)):
        total.update(f"{path.relative_to(root).as_posix()}\n".encode())
        total.update(path.read_bytes())
    return total


def test_the_code_version_of_students_stands_for_this_source():
    found = digest_of(STUDENT_FILES).hexdigest()
    assert STUDENT.get(student.CODE_VERSION) == found, (
        "the source that trains students, teachers and reference teachers has changed. If it may change any number: "
        "raise ddbench.student.CODE_VERSION, so that cached teachers and sets are made again, and pin "
        f"{{{student.CODE_VERSION + 1}: {found!r}}} here. If it cannot (a comment, a name): "
        f"update the pin to {{{student.CODE_VERSION}: {found!r}}}"
    )


def test_the_code_version_of_experts_stands_for_this_source():
    found = digest_of(EXPERT_ENGINES, ENGINES, digest_of(EXPERT_FILES)).hexdigest()
    assert EXPERTS.get(experts.CODE_VERSION) == found, (
        "the source that trains experts has changed. If it may change any number: raise CODE_VERSION in "
        f"methods/engines/experts.py, so that experts are trained again, and pin {{{experts.CODE_VERSION + 1}: {found!r}}} "
        f"here. If it cannot (a comment, a name): update the pin to {{{experts.CODE_VERSION}: {found!r}}}"
    )


def test_the_code_version_of_priors_stands_for_this_source():
    found = digest_of(PRIOR_ENGINES, ENGINES).hexdigest()
    assert PRIORS.get(priors.CODE_VERSION) == found, (
        "the source that distils for CV-DD's priors has changed. If it may change any number: raise CODE_VERSION in "
        f"methods/engines/priors.py, so that priors are measured again, and pin {{{priors.CODE_VERSION + 1}: {found!r}}} "
        f"here. If it cannot (a comment, a name): update the pin to {{{priors.CODE_VERSION}: {found!r}}}"
    )


def test_every_pattern_names_files():
    assert all(list(CORE.glob(pattern)) for pattern in (*STUDENT_FILES, *EXPERT_FILES))
    assert all((ENGINES / name).exists() for name in (*EXPERT_ENGINES, *PRIOR_ENGINES))


def test_the_code_version_of_dynamics_stands_for_this_source():
    found = digest_of(("dynamics.py",), ENGINES).hexdigest()
    assert DYNAMICS.get(dynamics.CODE_VERSION) == found, (
        "the source that records training dynamics has changed. If it may change any number: raise CODE_VERSION in "
        f"methods/engines/dynamics.py and pin {{{dynamics.CODE_VERSION + 1}: {found!r}}} here. If it cannot (a comment, "
        f"a name): update the pin to {{{dynamics.CODE_VERSION}: {found!r}}}"
    )
