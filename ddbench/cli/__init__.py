"""The command line: a thin layer over the Python calls. Starts without torch; every command imports what it needs."""

from collections.abc import Sequence


def main(args: Sequence[str] | None = None) -> None:
    """Run `ddbench ARGS` (default: this process's arguments) and leave with its exit code: 0, 1, 2 or 130."""
    from ddbench.cli.app import command

    command()(args=None if args is None else list(args), prog_name="ddbench")
