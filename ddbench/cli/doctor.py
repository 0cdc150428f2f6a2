"""Is everything in order."""

from dataclasses import asdict

from ddbench.cli import options as o
from ddbench.cli.output import print_json, print_table
from ddbench.errors import DDBenchError
from ddbench.extras.doctor import Finding, findings, healthy

STATES = {True: "ok", False: "bad", None: "note"}
DATA = "data set "


@o.command("ddbench doctor", "ddbench doctor --json")
def doctor(as_json: o.Json = False) -> None:
    """Check versions, device, folders, plugins, data sets.

    Exit code 1 if something is broken.
    """
    checked = findings()
    if as_json:
        print_json([asdict(each) for each in checked])
    else:
        print_table(("what", "state", "found"), _rows(checked))
    if not healthy(checked):
        broken = ", ".join(each.name for each in checked if each.ok is False)
        raise DDBenchError(f"not in order: {broken}")


def _rows(checked: list[Finding]) -> list[tuple[str, str, str]]:
    """A row per finding; data sets that are not here share one, as `ddbench datasets` says how to get them."""
    rows = [(f.name, STATES[f.ok], f.detail) for f in checked if f.ok is not None or not f.name.startswith(DATA)]
    absent = [f.name.removeprefix(DATA) for f in checked if f.ok is None and f.name.startswith(DATA)]
    how = "ddbench datasets NAME says how to get it: "
    return rows + ([("other data sets", STATES[None], how + ", ".join(absent))] if absent else [])
