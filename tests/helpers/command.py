"""The command line in a test's own process."""

from typer.testing import CliRunner

from ddbench.cli.app import app


def ddbench(*words):
    """The command: `.exit_code`, `.stdout`, `.stderr`."""
    return CliRunner().invoke(app, [str(word) for word in words])


def done(result):
    """The result of a command that succeeded."""
    assert result.exit_code == 0, (result.stdout, result.stderr, result.exception)
    return result
