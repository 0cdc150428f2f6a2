"""Choose hyper-parameters on a held-out part of train."""

import typer


def register(app: typer.Typer) -> None:
    """Add this file's command."""
    app.command("tune")(tune)


def tune() -> None:
    """Choose hyper-parameters on a holdout of train."""
