"""The commands there are, each imported when it is called, and how errors leave the program."""

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ddbench import plugins
from ddbench.errors import DDBenchError, UsageError, unknown

GROUP = "ddbench.commands"
INTERRUPTED = "ddbench: stopped; run the same command again to resume"
SETTINGS: dict[str, Any] = {
    "rich_markup_mode": None,
    "add_completion": False,
    "context_settings": {"help_option_names": ["-h", "--help"], "max_content_width": 100},
}
"""Of every Typer app of ours."""
COMMANDS = {
    "Start": {
        "demo": ("demo:demo", "Run every method on the embedded digits."),
        "doctor": ("doctor:doctor", "Check versions, device, folders, plugins, data sets."),
    },
    "See what there is": {
        "methods": ("listing:methods", "List the methods; or one with its steps, hyper-parameters, recipes."),
        "datasets": ("listing:datasets", "List the data sets; or one, and how to get it."),
        "protocols": ("listing:protocols", "List the protocols; or one with every constant."),
        "networks": ("listing:networks", "List the networks, with --dataset their parameters."),
    },
    "Run": {
        "distill": ("running:distill", "Distill a data set by a method, into a file."),
        "pack-labels": ("packing:pack_labels", "Pack a set's soft labels: in fewer bytes, or fewer of them."),
        "evaluate": ("running:evaluate", "Train and test students on a set; record the runs."),
        "run": ("running:run", "Distill, evaluate and record one cell."),
        "sweep": ("running:sweep", "Distill, evaluate and record a grid: every combination."),
        "reproduce": ("reproducing:reproduce", "Run the cells of a paper's table and compare."),
        "tune": ("tune:tune", "Choose hyper-parameters on a holdout of train."),
    },
    "Results": {
        "table": ("results:table", "Make a table of records, with 95 % intervals."),
        "scores": ("results:scores", "Score sets from records: HLR, IOR, LRS, ARS, and accuracy per cost."),
        "compare": ("results:compare", "Compare methods within each column, corrected for many comparisons."),
        "plot": ("results:plot", "Plot records, or sets: each kind of plot answers a question."),
        "show": ("showing:show", "Show what is in a set or a record; draw a set."),
    },
    "Sets from and to elsewhere": {
        "import": ("import_export:import_", "Make a set of images and labels from elsewhere."),
        "export": ("import_export:export", "Write a set for other code: .pt, .npz, or PNGs."),
    },
    "Your own": {
        "new-method": ("plugin_kit:new_method", "Write a method plugin to start from."),
        "check": ("plugin_kit:check", "Check that a method passes the tests that all methods must pass."),
        "submit": ("submitting:submit", "Write a submission, for a pull request."),
        "verify": ("submitting:verify", "Train students on a record's set: does its claim hold?"),
        "pull": ("submitting:pull", "Fetch the set, teacher or experts of a record."),
        "check-submissions": ("submitting:check_submissions", "Check the submissions of a repository."),
    },
}
"""Section of the help -> command -> its function below `ddbench.cli`, and the first line of that function's docstring.

Ours are listed here and not among the entry points, because an entry point holds neither a section nor a line of help.
"""
SECTIONS = {title: tuple(commands) for title, commands in COMMANDS.items()}
HOMES = {name: home for commands in COMMANDS.values() for name, (home, _) in commands.items()}


class Commands(TyperGroup):
    """The top command: ours in sections and those of plugins, imported when they are called; errors in one line."""

    def main(self, args: Sequence[str] | None = None, *more: Any, **kwargs: Any) -> Any:
        """Run a command and leave with its exit code."""
        words = list(sys.argv[1:] if args is None else args)
        kwargs["standalone_mode"] = False
        sys.exit(_guarded(lambda: super(Commands, self).main(words or ["--help"], *more, **kwargs)))

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of our commands and of those of plugins; none is imported."""
        return [*HOMES, *_plugin_names()]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import a command: one of ours, else a plugin's; UsageError where there is none."""
        if cmd_name in HOMES:
            module, _, function = HOMES[cmd_name].partition(":")
            return _command(cmd_name, getattr(import_module(f"ddbench.cli.{module}"), function))
        if cmd_name not in _plugin_names():
            raise unknown("command", cmd_name, self.list_commands(ctx))
        target = plugins.find(GROUP, cmd_name)
        if isinstance(target, typer.Typer):
            return typer.main.get_command(target)
        if not callable(target):
            raise UsageError(
                f"command {cmd_name!r}: its entry point is a {type(target).__name__}, no Typer or function"
            )
        return _command(cmd_name, target)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the help's list of commands in sections."""
        for title, commands in COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl([(name, line) for name, (_, line) in commands.items()])
        if names := _plugin_names():
            with formatter.section("From plugins"):
                formatter.write_dl([(name, f"see ddbench {name} --help") for name in names])


def _plugin_names() -> list[str]:
    return [name for name in plugins.names(GROUP) if name not in HOMES]


def _command(name: str, function: Callable[..., Any]) -> Any:
    """A function with typed parameters as a command; its examples are those of `options.command`."""
    own = typer.Typer(**SETTINGS)
    own.command(name, epilog=getattr(function, "examples", None))(function)
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
    except UsageError as error:
        return _fail(f"ddbench: error: {_line(error)}", 2)
    except DDBenchError as error:
        return _fail(f"ddbench: error: {_line(error)}", 1)
    except Exception as error:
        if not hasattr(error, "format_message"):  # of click, which typer brings its own of, or uses the installed one
            raise
        context = getattr(error, "ctx", None)
        text = " ".join(error.format_message().split()).rstrip(".")
        return _fail(f"ddbench: error: {text}" + (f" (see {context.command_path} --help)" if context else ""), 2)


def _fail(line: str, code: int) -> int:
    sys.stdout.flush()
    print(line, file=sys.stderr)
    return code


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


app = typer.Typer(
    name="ddbench",
    cls=Commands,
    pretty_exceptions_enable=False,
    epilog="\b\nStart with:\n  ddbench demo",
    **SETTINGS,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"ddbench {version('ddbench')}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Distill data sets, score the sets under fixed protocols, and make tables and plots of the records."""
