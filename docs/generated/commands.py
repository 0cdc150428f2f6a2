"""The command line: help of every command, and output of commands."""

import shlex
from collections.abc import Iterator

import typer
from typer.core import TyperGroup
from typer.testing import CliRunner

from ddbench.cli.app import SECTIONS, app
from ddbench.plugins import names

from .text import code

WIDTH = 88
"""Characters of a line of help."""


def reference() -> str:
    """List every command with its help, in the sections of `ddbench --help`."""
    sections = {**SECTIONS, "Site": names("ddbench.commands")}
    parts = ["### ddbench", code(printed("ddbench --help"))]
    for title, commands in sections.items():
        parts.append(f"## {title}")
        for name in (full for command in commands for full in _with_own(command)):
            parts += [f"### ddbench {name}", code(printed(f"ddbench {name} --help"))]
    return "\n\n".join(parts)


def _with_own(name: str) -> Iterator[str]:
    """Yield a command, or the commands of a group."""
    top = typer.main.get_command(app)
    assert isinstance(top, TyperGroup)
    found = top.get_command(typer.Context(top), name)
    own = getattr(found, "commands", {})
    yield from (f"{name} {each}" for each in own) if own else (name,)


def printed(line: str) -> str:
    """Run a command and return its output on stdout.

    Raises:
        RuntimeError: it failed.
    """
    _, *args = shlex.split(line)
    done = CliRunner().invoke(app, args, terminal_width=WIDTH, env={"COLUMNS": str(WIDTH)})
    if done.exit_code:
        raise RuntimeError(f"{line}: {done.stderr.strip() or done.exception}")
    return done.stdout
