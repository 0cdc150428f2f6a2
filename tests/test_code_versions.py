"""Numbers raised by hand, and the source that they stand for."""

import hashlib
from pathlib import Path

import ddbench
from ddbench import student

CORE = Path(ddbench.__file__).parent
STUDENT_FILES = (
    "augment/*.py",
    "losses.py",
    "networks/build.py",
    "networks/convnet.py",
    "networks/parts.py",
    "networks/resnet.py",
    "randomness.py",
    "schedules.py",
    "student.py",
)
STUDENT = {1: "f742721bce68fb02d4bbb9426751043fa5324881eb28213c56a9230983329b7f"}
"""By `ddbench.student.CODE_VERSION`: SHA-256 of the files above, whose change may change what a training gives."""


def digest_of(patterns):
    total = hashlib.sha256()
    for path in sorted(path for pattern in patterns for path in CORE.glob(pattern)):
        total.update(f"{path.relative_to(CORE).as_posix()}\n".encode())
        total.update(path.read_bytes())
    return total.hexdigest()


def test_the_code_version_of_students_stands_for_this_source():
    found = digest_of(STUDENT_FILES)
    assert STUDENT.get(student.CODE_VERSION) == found, (
        "the source that trains students, teachers and reference teachers has changed. If it may change any number: "
        "raise ddbench.student.CODE_VERSION, so that cached teachers and sets are made again, and pin "
        f"{{{student.CODE_VERSION + 1}: {found!r}}} here. If it cannot (a comment, a name): "
        f"update the pin to {{{student.CODE_VERSION}: {found!r}}}"
    )


def test_every_pattern_names_files():
    assert all(list(CORE.glob(pattern)) for pattern in STUDENT_FILES)
