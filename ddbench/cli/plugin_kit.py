"""A method of one's own: the folder that it begins as, and the checks that it must pass."""

from pathlib import Path
from typing import Annotated

import typer

from ddbench.cli import options as o
from ddbench.cli.output import print_json, print_table, say
from ddbench.distillation.method import find_method
from ddbench.errors import DDBenchError
from ddbench.extras.check import CheckResult, check_method
from ddbench.extras.new_method import new_method as write_method


@o.command("ddbench new-method my-method")
def new_method(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the method: small letters, digits, hyphens.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder to make (default: ./ddbench-NAME).")
    ] = None,
    quiet: o.Quiet = False,
) -> None:
    """Write a method plugin to start from.

    A package of its own, outside of ddbench: one page that distils, a recipe, tests. It works as it is.
    """
    folder = write_method(name, out)
    say(f"Next: pip install --no-deps --editable {folder} && ddbench check {name}", quiet=quiet)
    print(folder)


@o.command("ddbench check my-method", "ddbench check dm --json")
def check(method: o.MethodName, as_json: o.Json = False, quiet: o.Quiet = False) -> None:
    """Check that a method passes the tests that all methods must pass.

    On digits, with the method's toy settings: the set is whole and finite, equal seeds give equal bits, students learn from
    it. Exit code 1 where a check fails.
    """
    results = check_method(find_method(method), lambda outcome: say(_line(outcome), quiet=quiet or as_json))
    if as_json:
        print_json([{"check": each.check.name, "passed": each.passed, "problem": each.problem} for each in results])
    else:
        print_table(("check", "state", "what"), [_row(each) for each in results])
    failed = [each.check.name for each in results if not each.passed]
    if failed:
        raise DDBenchError(f"{method} fails {len(failed)} of {len(results)} checks: {', '.join(failed)}")


def _line(outcome: CheckResult) -> str:
    return f"{outcome.check.name}: {outcome.problem or 'ok'}"


def _row(outcome: CheckResult) -> tuple[str, str, str]:
    return outcome.check.name, "ok" if outcome.passed else "fails", outcome.problem or outcome.check.says
