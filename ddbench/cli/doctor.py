"""Is everything in order."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from ddbench.cli.options import Json, examples
from ddbench.cli.output import print_json, print_table
from ddbench.errors import DDBenchError

if TYPE_CHECKING:
    from ddbench.extras.doctor import Finding

STATES = {True: "ok", False: "bad", None: "note"}
DATA = "data set "


def register(app: typer.Typer) -> None:
    """Add this file's command."""
    app.command("doctor", epilog=examples("ddbench doctor", "ddbench doctor --json"))(doctor)


def doctor(as_json: Json = False) -> None:
    """Check versions, device, folders, plugins, data sets.

    Exit code 1 if something is broken.
    """
    from ddbench.extras.doctor import findings, healthy

    found = findings()
    if as_json:
        print_json([asdict(check) for check in found])
    else:
        print_table(("what", "state", "found"), _rows(found))
    if not healthy(found):
        broken = ", ".join(check.name for check in found if check.ok is False)
        raise DDBenchError(f"not in order: {broken}")


def _rows(found: "list[Finding]") -> list[tuple[str, str, str]]:
    """A row per check; data sets that are not here share one, as `ddbench datasets` says how to get them."""
    rows = [(c.name, STATES[c.ok], c.detail) for c in found if c.ok is not None or not c.name.startswith(DATA)]
    absent = [c.name.removeprefix(DATA) for c in found if c.ok is None and c.name.startswith(DATA)]
    how = "ddbench datasets NAME says how to get it: "
    return rows + ([("other data sets", STATES[None], how + ", ".join(absent))] if absent else [])
