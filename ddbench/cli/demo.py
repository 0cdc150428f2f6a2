"""The demo's command."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ddbench.cli import options as o
from ddbench.cli.options import examples
from ddbench.cli.output import progress, say
from ddbench.report.format import duration

if TYPE_CHECKING:
    from ddbench.extras.demo import DemoResult


def register(app: typer.Typer) -> None:
    """Add this file's command."""
    app.command("demo", epilog=examples("ddbench demo", "ddbench demo --methods random,dm --seeds 1 --out small-demo"))(
        demo
    )


def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write to.")] = Path("ddbench-demo"),
    methods: Annotated[
        str | None,
        typer.Option("--methods", "--method", metavar="NAMES", help="Only these, comma-separated (default: all)."),
    ] = None,
    seeds: Annotated[
        str, typer.Option("--seeds", metavar="N|S,..", help="How many evaluation seeds, or which (0,3,5).")
    ] = "3",
    workers: Annotated[
        int | None, typer.Option("--workers", metavar="N", min=1, help="Processes (DDBENCH_WORKERS, 2).")
    ] = None,
    threads: o.Threads = None,
    device: o.Device = None,
    precision: o.Precision = None,
    compile: o.Compile = None,
    quiet: o.Quiet = False,
) -> None:
    """Run every method on the embedded digits.

    Writes records, a table, plots, pictures and the sets into a folder. What is there is reused.
    """
    from dataclasses import replace

    from ddbench import api
    from ddbench.cli.planning import Steady, missing_work
    from ddbench.extras.demo import PLAN, run_demo
    from ddbench.settings import default_workers

    began = time.monotonic()
    preset = default_workers() if "DDBENCH_WORKERS" in os.environ else 2
    plan = replace(PLAN, seeds=o.seeds(seeds))
    names = o.words(methods, "--methods") if methods is not None else None
    with progress(quiet) as reporter:
        outcome = run_demo(
            out,
            plan=plan,
            methods=names,
            workers=workers or preset,
            setting=api.setting(device, threads, precision, compile),
            reporter=reporter,
            counted=lambda cells, store, show: Steady(show, missing_work(cells, store)),
        )
    _finish(outcome, out, time.monotonic() - began, quiet)
    raise typer.Exit(outcome.report.exit_code())


def _finish(outcome: "DemoResult", out: Path, seconds: float, quiet: bool) -> None:
    """The table on stdout; what was done, written and left out on stderr."""
    from ddbench.cli.running import print_records, tell
    from ddbench.records.store import read_record

    print_records([read_record(path) for path in outcome.report.records])
    tell(outcome.report, quiet=quiet)
    for line in outcome.left_out:
        say(f"left out: {line}", quiet=quiet)
    if not quiet:
        _list_files(outcome, out, seconds)


def _list_files(outcome: "DemoResult", out: Path, seconds: float) -> None:
    folders: dict[Path, int] = {}
    for path in [*outcome.report.records, *outcome.files]:
        top = out / path.relative_to(out).parts[0]
        folders[top] = folders.get(top, 0) + 1
    say(f"\nDone in {duration(seconds)}. Written to {out}:")
    for path, count in folders.items():
        say(f"  {path}" + (f"/  {count} files" if path.is_dir() else ""))
    pictured = next((path for path in outcome.files if path.parent.name == "sets"), None)
    say("\nTry next:")
    say(f"  ddbench table --results {out / 'records'} --view long")
    if pictured is not None:
        say(f"  ddbench show {pictured}")
        say(f"  ddbench evaluate {pictured} --network mlp --seeds 3")
    say("  ddbench run dm --dataset digits --ipc 3 --seed 1 --dry-run")
