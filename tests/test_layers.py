"""Hold the order of the packages: an import, wherever it stands, points to a room below its own; no circle of files."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "ddbench": "ddbench",
    "methods": "ddbench.methods",
    "evaluators": "ddbench.evaluators",
    "leaderboard": "ddbench.leaderboard",
}
FLOORS = (
    ("root", "system"),  # the one pair of rooms that may import each other
    ("data", "networks", "augment", "records"),
    ("training",),
    ("synset",),
    ("distillation", "evaluation"),
    ("jobs",),
    ("methods", "evaluators", "report"),
    ("api",),
    ("extras",),
    ("leaderboard",),
    ("cli",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
OPEN = {"ddbench", "ddbench.__main__"}  # names of the public calls, and the way into the command line


def modules():
    """Module -> its file."""
    found = {}
    for folder, package in FOLDERS.items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = [package, *path.relative_to(ROOT / folder).with_suffix("").parts]
            found[".".join(part for part in parts if part != "__init__")] = path
    return found


def imports(module, path, known):
    """Modules of ours that a file imports, inside functions as well."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            own = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
            base = ".".join([*own[: len(own) + 1 - node.level], *([node.module] if node.module else [])])
            source = base if node.level else node.module
            found |= {f"{source}.{alias.name}" if f"{source}.{alias.name}" in known else source for alias in node.names}
    return found & known.keys()


def room(module):
    """The package right below `ddbench`, or what lies beside the packages."""
    name = module.split(".")[1]
    return name if name in FLOOR else "root"


def graph():
    """Module -> modules that it imports."""
    known = modules()
    return {module: imports(module, path, known) for module, path in known.items()}


def test_imports_point_down():
    wrong = [
        f"{module} imports {other}"
        for module, others in graph().items()
        for other in others - OPEN
        if module not in OPEN
        and room(module) != room(other)
        and FLOOR[room(module)] <= FLOOR[room(other)]
        and {room(module), room(other)} != set(FLOORS[0])
    ]
    assert not wrong


def test_no_circle_of_files():
    TopologicalSorter({module: others - {module} for module, others in graph().items()}).prepare()


def test_every_package_has_a_floor():
    packages = {path.parent.name for path in (ROOT / "ddbench").glob("*/__init__.py")}
    assert packages <= FLOOR.keys()


def test_no_public_call_hides_a_package():
    import ddbench

    assert not set(ddbench.__all__) & FLOOR.keys()
