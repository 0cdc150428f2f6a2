"""The command line: flags and printing. It starts without torch, and imports a command when it is called."""

from collections.abc import Sequence

import typer

from ddbench.cli.app import app


def main(args: Sequence[str] | None = None) -> None:
    """Run `ddbench ARGS` (default: this process's arguments) and leave with its exit code: 0, 1, 2 or 130."""
    typer.main.get_command(app).main(args=None if args is None else list(args), prog_name="ddbench")
