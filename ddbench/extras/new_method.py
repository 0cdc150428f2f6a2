"""Template of a method plugin: a package of its own that installs, works as it is, and passes `ddbench check`.

The files lie in `ddbench/extras/template`: a small method on one page, the means of groups of real images. Its author
replaces the docstring, the hyper-parameters, `distill` and `METHOD` step by step; the checks pass in between.
"""

import re
from pathlib import Path
from string import Template

from ddbench.distillation.method import method_names
from ddbench.errors import CannotWrite, UsageError
from ddbench.system.files import make_folder, write_atomic

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
LONGEST = 40
SOURCE = Path(__file__).resolve().parents[2]
TEMPLATE = Path(__file__).with_name("template")


def new_method(name: str, folder: Path | None = None) -> Path:
    """Write a plugin for a method of that name and return its folder.

    Args:
        name: small letters and digits, parts joined by hyphens; not the name of an installed method.
        folder: the folder to make; None: `ddbench-NAME` in the current one. It must be new or empty, and outside ddbench.

    Raises:
        UsageError: a name that is not allowed, a folder that is not empty, a place that cannot be written.
    """
    if not NAME.fullmatch(name) or len(name) > LONGEST:
        raise UsageError(f"method name {name!r:.80}: at most {LONGEST} small letters and digits, parts joined by -")
    if name in method_names():
        raise UsageError(f"method {name!r} is installed already: choose another name")
    place = folder if folder is not None else Path(f"ddbench-{name}")
    if (SOURCE / "pyproject.toml").exists() and place.resolve().is_relative_to(SOURCE):
        raise UsageError(f"{place}: is inside ddbench; a plugin is a package of its own: give another --out DIR")
    make_folder(place)
    if not place.is_dir() or any(place.iterdir()):
        raise CannotWrite(f"{place}: is not empty")
    package = "ddbench_" + name.replace("-", "_")
    hyper = "".join(part.capitalize() for part in name.split("-")) + "Hyper"
    words = {"name": name, "package": package, "title": name.replace("-", " ").capitalize(), "hyper": hyper}
    files = {
        "pyproject.toml": "pyproject.toml.txt",
        "README.md": "README.md.txt",
        f"{package}/method.py": "method.py.txt",
        f"{package}/recipes/{name}.toml": "recipe.toml.txt",
        f"tests/test_{package}.py": "test.py.txt",
    }
    for path, source in files.items():
        text = Template((TEMPLATE / source).read_text(encoding="utf-8")).substitute(words)
        write_atomic(place / path, text)
    write_atomic(place / package / "__init__.py", "")
    return place
