"""A method plugin to start from: a package of its own that works as it is, installs, and passes `ddbench check`.

What is written is a small method, means of groups of real images, on one page: its docstring, hyper-parameters, `distill`
and `METHOD` are there to be replaced one after the other, with the checks passing in between.
"""

import re
from pathlib import Path
from string import Template

from ddbench.distillation.method import method_names
from ddbench.errors import CannotWrite, UsageError
from ddbench.system.files import make_folder, write_atomic

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
LONGEST = 40
SOURCE = Path(__file__).resolve().parent.parent

PYPROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "ddbench-$name"
version = "0.1.0"
description = "$name, a method of dataset distillation for ddbench"
requires-python = ">=3.11"
dependencies = ["ddbench"]

[project.optional-dependencies]
dev = ["pytest>=8.2"]

[project.entry-points."ddbench.methods"]
$name = "$package.method:METHOD"

[tool.setuptools]
packages = ["$package", "$package.recipes"]

[tool.setuptools.package-data]
"$package.recipes" = ["*.toml"]
"""

README = """\
# $name

A method for ddbench. The method is `$package/method.py`, its settings are in `$package/recipes/$name.toml`.

```
pip install --no-deps --editable .
ddbench methods $name
ddbench check $name
ddbench run $name --dataset digits --ipc 3
```
"""

METHOD = '''\
"""$title: every image is the mean of a group of real ones.

Replace this text by the algorithm box of your paper.

1. For every class draw IPC groups of g training images each, without replacement.
2. The distilled image of a group is its mean, x = (1/g) sum_i x_i, in `space`.

Differences from the paper: none, there is no paper. Not yet measured.
"""

from typing import Literal

import torch
from ddbench.distillation import Hyper, Method, SynSet, Task
from ddbench.errors import NotDefined
from pydantic import Field


class $hyper(Hyper):
    """Hyper-parameters of `$name`: a line for each, with its unit, the paper's symbol and its range."""

    group: int = Field(4, ge=1, description="images in a group, g")
    space: Literal["pixel", "normalised", "zca"] = Field("normalised", description="space that a student trains in")


def distill(task: Task, hyper: $hyper) -> SynSet:
    """The means of IPC groups of every class."""
    assert task.ipc is not None  # METHOD says that the budget is images per class
    space = task.space(hyper.space)
    images, labels = task.tensors(space)
    groups = torch.cat([draw_groups(task, places, hyper.group) for places in task.class_indices()])
    return task.synset(space=space, images=group_means(images, groups), classes=labels[groups[:, 0]])


def draw_groups(task: Task, places: torch.Tensor, size: int) -> torch.Tensor:
    """IPC groups of a class's places, int64 [ipc, size], each place in one group at most; NotDefined if there are too few."""
    assert task.ipc is not None
    if task.ipc * size > len(places):
        raise NotDefined(f"{task.ipc} groups of {size} images are more than the {len(places)} of a class")
    label = int(task.dataset.labels[places[0]])
    drawn = places[torch.randperm(len(places), generator=task.rng("groups", label))]
    return drawn[: task.ipc * size].reshape(task.ipc, size)


def group_means(images: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Means of the images [n, C, H, W] of each group, int64 [m, g]: float32 [m, C, H, W]."""
    return images[groups.to(images.device)].mean(1)


METHOD = Method(
    name="$name",
    hyper=$hyper,
    distill=distill,
    title="$title",
    paper="",
    arxiv="",
    differences=(),
    toy={"group": 2},
)
'''

RECIPE = """\
# Settings of $name. Each names its source; what a paper does not establish is said here.
method = "$name"

[[recipe]]
name = "first"
dataset = "digits"
ipc = [1, 3, 10]
default = true
source = "chosen by hand, not tuned"

[recipe.hyper]
group = 4
"""

TEST = '''\
"""$name: its formula against the definition, and what every method must do."""

import pytest
import torch
from ddbench.extras.check import CHECKS
from ddbench.distillation.method import find_method
from $package.method import METHOD, group_means


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Nothing of a test stays in your own cache."""
    monkeypatch.setenv("DDBENCH_CACHE", str(tmp_path))


def test_group_means_by_definition():
    """One pixel at a time, in float64."""
    images = torch.randn(6, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    groups = torch.tensor([[0, 3, 5], [1, 2, 4]])
    found = group_means(images, groups)
    for row, group in enumerate(groups.tolist()):
        for y in range(2):
            for x in range(2):
                wanted = sum(images[place, 0, y, x].double().item() for place in group) / 3
                assert abs(found[row, 0, y, x].item() - wanted) < 1e-6


def test_it_is_registered():
    """The entry point leads here."""
    assert find_method("$name") is METHOD


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_conformance(check):
    """What `ddbench check $name` runs."""
    check.run(METHOD)
'''


def new_method(name: str, folder: Path | None = None) -> Path:
    """Write a plugin for a method of that name; returns its folder.

    Args:
        name: small letters and digits, parts joined by hyphens; of no installed method.
        folder: where to; None: `ddbench-NAME` in the current folder. It must be new or empty, and outside of ddbench.

    Raises:
        UsageError: a name that cannot be, a folder with something in it, a place that cannot be written.
    """
    if not NAME.fullmatch(name) or len(name) > LONGEST:
        raise UsageError(
            f"method name {name!r:.80}: at most {LONGEST} small letters and digits are needed, parts joined by -"
        )
    if name in method_names():
        raise UsageError(f"method {name!r} is installed already: choose another name")
    place = folder if folder is not None else Path(f"ddbench-{name}")
    if (SOURCE / "pyproject.toml").exists() and place.resolve().is_relative_to(SOURCE):
        raise UsageError(f"{place}: is inside of ddbench; a plugin is a package of its own: give another --out DIR")
    make_folder(place)
    if not place.is_dir() or any(place.iterdir()):
        raise CannotWrite(f"{place}: there is something in it already")
    for path, text in _files(name).items():
        write_atomic(place / path, text)
    return place


def _files(name: str) -> dict[str, str]:
    """Every file of the plugin, by its path in the folder."""
    package = "ddbench_" + name.replace("-", "_")
    title = name.replace("-", " ").capitalize()
    hyper = "".join(part.capitalize() for part in name.split("-")) + "Hyper"
    words = {"name": name, "package": package, "title": title, "hyper": hyper}
    texts = {
        "pyproject.toml": PYPROJECT,
        "README.md": README,
        f"{package}/__init__.py": "",
        f"{package}/method.py": METHOD,
        f"{package}/recipes/{name}.toml": RECIPE,
        f"tests/test_{package}.py": TEST,
    }
    return {path: Template(text).substitute(words) for path, text in texts.items()}
