"""Code behind a number: versions of the suite's kernel, and a digest of what the modules of a method do.

Modules are found and read, never imported, and compared by their syntax trees without docstrings and comments. What a
module imports counts wherever the import stands, in a function too; a name that is made up when the code runs
(`importlib.import_module(text)`) and compiled modules are not seen.
"""

import ast
from collections.abc import Collection, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ddbench import plugins
from ddbench.hashing import digest

SYNTHESIS = 1
"""Version of all that a method calls in the core. Raise it when a change of that may change any set, or any network or
other product of a stage: what is cached is then made again, and runs on older sets are run again. A test pins the code."""
TRAINING = 1
"""Version of all that scores a set: students, teachers of protocols, tests. Raise it when a change of that may change any
accuracy: teachers of protocols and runs are then made again. A test pins the code."""

METHODS = "ddbench.methods"
"""Group of entry points, and the package of our own methods, whose modules are no part of the kernel."""
_SAYS_NOTHING = ("ctx", "kind", "type_comment")


@cache
def of_method(name: str) -> str | None:
    """Digest of a method's module and of those of its own package that it imports, directly or not, 64 hex digits.

    None where there is no such method, or no source of it.
    """
    point = plugins.declared(METHODS, name)
    if point is None:
        return None
    modules = closure((point.module,), package_of(point.module))
    return digest_of(modules) if point.module in modules else None


def package_of(module: str) -> str:
    """Package whose modules are a method's own: the top one; of a method inside of ddbench, `ddbench.methods`."""
    parts = module.split(".")
    return ".".join(parts[: 2 if parts[0] == "ddbench" else 1])


def closure(roots: Collection[str], package: str, *, without: Collection[str] = ()) -> dict[str, Path]:
    """Files of a package's modules that these import, directly or not, the roots among them, by module name.

    The packages above a module count as well, as Python runs them first. `without` are modules left out, with all that
    only they import.
    """
    files: dict[str, Path] = {}
    ahead = list(roots)
    while ahead:
        name = ahead.pop()
        if name in files or name in without or (path := _file(name, package)) is None:
            continue
        files[name] = path
        ahead += [name.rpartition(".")[0], *_imported(name, path)]
    return files


def digest_of(modules: dict[str, Path]) -> str:
    """Digest of what modules do, under their names: equal for files that differ in comments, docstrings or layout."""
    return digest({name: _read(path)[0] for name, path in modules.items()})


def forget() -> None:
    """Read files anew when asked next: for tests, which edit them."""
    for each in (of_method, _read, _places):
        each.cache_clear()


@cache
def _places(package: str) -> tuple[Path | None, tuple[Path, ...]]:
    """File of a package, or of a module that is none, and the folders of its modules; imports nothing below it."""
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        return None, ()
    if spec is None:
        return None, ()
    own = Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    return own, tuple(map(Path, spec.submodule_search_locations or ()))


def _file(name: str, package: str) -> Path | None:
    """Source of a module of the package; None if there is none."""
    own, folders = _places(package)
    if name == package:
        return own
    if not name.startswith(f"{package}."):
        return None
    parts = name.removeprefix(f"{package}.").split(".")
    bases = [folder.joinpath(*parts) for folder in folders]
    files = [file for base in bases for file in (base / "__init__.py", base.parent / f"{base.name}.py")]
    return next((file for file in files if file.is_file()), None)


def _imported(name: str, path: Path) -> Iterator[str]:
    """Names that a module imports, made absolute; what is imported from a module may be one itself."""
    here = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for level, module, names in _read(path)[1]:
        above = here.split(".")[: len(here.split(".")) - level + 1] if level else []
        base = ".".join([*above, *([module] if module else [])])
        yield base
        yield from (f"{base}.{each}" for each in names)


@cache
def _read(path: Path) -> tuple[str, list[tuple[int, str, list[str]]]]:
    """Digest of what a file does, and its imports as (level, module, names); of one that is no Python, of its bytes."""
    content = path.read_bytes()
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return digest(content.hex()), []
    return digest(repr(_plain(tree))), list(_imports(tree))


def _imports(tree: ast.AST) -> Iterator[tuple[int, str, list[str]]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or "", [alias.name for alias in node.names]


def _plain(value: Any) -> Any:
    """A syntax tree as tuples, without places, docstrings and empty fields, which versions of Python add."""
    if isinstance(value, list):
        return [_plain(each) for each in value if not _is_docstring(each)]
    if not isinstance(value, ast.AST):
        return value
    fields = ((name, getattr(value, name, None)) for name in value._fields if name not in _SAYS_NOTHING)
    return (type(value).__name__, *((name, _plain(part)) for name, part in fields if part is not None and part != []))


def _is_docstring(node: Any) -> bool:
    """True for a statement that is a text alone, which does nothing wherever it stands."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
