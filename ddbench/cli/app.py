"""The wiring: which commands there are, plugin commands, and how errors leave the program."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ddbench.cli import (
    demo,
    doctor,
    import_export,
    listing,
    packing,
    plugin_kit,
    reproducing,
    running,
    scoring,
    submitting,
    tune,
    viewing,
)
from ddbench.errors import DDBenchError, UsageError

CLICK_ERROR: Any = typer.BadParameter.__mro__[2]  # typer brings its own click, or uses the installed one
SECTIONS = {
    "Start": ("demo", "doctor"),
    "See what there is": ("methods", "datasets", "protocols", "networks"),
    "Run": ("distill", "pack-labels", "evaluate", "run", "sweep", "reproduce", "tune"),
    "Results": ("table", "scores", "compare", "plot", "show"),
    "Sets from and to elsewhere": ("import", "export"),
    "Your own": ("new-method", "check", "submit", "verify", "pull", "check-submissions"),
}
GROUP = "ddbench.commands"
INTERRUPTED = "ddbench: stopped; the same command, given again, goes on from what is stored"


class Commands(TyperGroup):
    """The top command: ours in sections, those of plugins loaded when they are called, errors in one line."""

    def main(self, args: Sequence[str] | None = None, *more: Any, **kwargs: Any) -> Any:
        """Run a command and leave with its exit code."""
        words = list(sys.argv[1:] if args is None else args)
        kwargs["standalone_mode"] = False
        sys.exit(_guarded(lambda: super(Commands, self).main(words or ["--help"], *more, **kwargs)))

    def list_commands(self, ctx: Any) -> list[str]:
        """Our commands and those of plugins; the latter are not loaded."""
        return [*self.commands, *(name for name in _plugin_names() if name not in self.commands)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """One of ours, else a plugin's, which is imported now."""
        if cmd_name in self.commands or cmd_name not in _plugin_names():
            return super().get_command(ctx, cmd_name)
        return _load(cmd_name)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the help's list of commands in sections."""
        for title, names in SECTIONS.items():
            rows = [(name, self.commands[name].get_short_help_str(90)) for name in names]
            with formatter.section(title):
                formatter.write_dl(rows)
        others = [name for name in _plugin_names() if name not in self.commands]
        if others:
            with formatter.section("From plugins"):
                formatter.write_dl([(name, f"see ddbench {name} --help") for name in others])


def _plugin_names() -> tuple[str, ...]:
    from ddbench import plugins

    return plugins.names(GROUP)


def _load(name: str) -> Any:
    """The plugin's command: its entry point is a `typer.Typer` or a function with typed parameters."""
    from ddbench import plugins

    found = plugins.find(GROUP, name)
    if isinstance(found, typer.Typer):
        return typer.main.get_command(found)
    if not callable(found):
        raise UsageError(f"command {name!r}: its entry point gives {type(found).__name__}, not a Typer or a function")
    own = typer.Typer(rich_markup_mode=None, add_completion=False)
    own.command(name)(found)
    return typer.main.get_command(own)


def _guarded(call: Callable[[], Any]) -> int:
    """Make the call and turn what it raises into one line on stderr and an exit code."""
    try:
        code = call()
        sys.stdout.flush()
        if code == 130:  # typer's own reading of Ctrl-C
            return _fail(INTERRUPTED, 130)
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        return _fail(INTERRUPTED, 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whoever read us has had enough
        return 1  # as click does where it meets this first
    except typer.Exit as leave:
        return int(leave.exit_code)
    except CLICK_ERROR as error:
        return _fail(f"ddbench: error: {_sentence(error)}", 2)
    except UsageError as error:
        return _fail(f"ddbench: error: {_line(error)}", 2)
    except DDBenchError as error:
        return _fail(f"ddbench: error: {_line(error)}", 1)


def _fail(line: str, code: int) -> int:
    sys.stdout.flush()
    print(line, file=sys.stderr)
    return code


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _sentence(error: Any) -> str:
    """A click error as one line, with where to look."""
    text = " ".join(error.format_message().split()).rstrip(".")
    context = getattr(error, "ctx", None)
    return f"{text} (see {context.command_path} --help)" if context else text


app = typer.Typer(
    name="ddbench",
    cls=Commands,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\b\nStart with:\n  ddbench demo",
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"ddbench {version('ddbench')}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Distil data sets, score the sets under fixed protocols, and make tables and plots of the records."""


for group in (
    demo,
    doctor,
    listing,
    running,
    packing,
    reproducing,
    tune,
    viewing,
    scoring,
    import_export,
    plugin_kit,
    submitting,
):
    group.register(app)


def command() -> Any:
    """The whole command line as one callable; see `Commands.main`."""
    return typer.main.get_command(app).main
