"""The demo's command."""

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ddbench.cli import options as o
from ddbench.cli.output import print_records, progress, say, tell
from ddbench.extras.demo import PLAN, DemoResult, run_demo
from ddbench.records.store import read_record
from ddbench.report.format import duration
from ddbench.settings import default_workers


@o.command("ddbench demo", "ddbench demo --methods random,dm --seeds 1 --out small-demo")
def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write to.")] = Path("ddbench-demo"),
    methods: Annotated[
        str | None,
        typer.Option("--methods", "--method", metavar="NAMES", help="Only these, comma-separated (default: all)."),
    ] = None,
    seeds: o.FewSeeds = "3",
    workers: Annotated[
        int | None, typer.Option("--workers", metavar="N", min=1, help="Processes (DDBENCH_WORKERS, 2).")
    ] = None,
    *,
    how: o.ComputeFlags,
    quiet: o.Quiet = False,
) -> None:
    """Run every method on the embedded digits.

    Writes records, a table, plots, pictures and the sets into a folder. What is there is reused.
    """
    began = time.monotonic()
    preset = default_workers() if "DDBENCH_WORKERS" in os.environ else 2
    with progress(quiet) as reporter:
        result = run_demo(
            out,
            plan=replace(PLAN, seeds=o.seeds(seeds)),
            methods=o.listed(methods, "--methods"),
            workers=workers or preset,
            compute=how.compute(),
            reporter=reporter,
        )
    print_records(read_record(path) for path in result.report.records)
    tell(result.report, quiet=quiet)
    for line in result.left_out:
        say(f"left out: {line}", quiet=quiet)
    if not quiet:
        _list_files(result, out, time.monotonic() - began)
    raise typer.Exit(result.report.exit_code())


def _list_files(result: DemoResult, out: Path, seconds: float) -> None:
    folders: dict[Path, int] = {}
    for path in [*result.report.records, *result.files]:
        top = out / path.relative_to(out).parts[0]
        folders[top] = folders.get(top, 0) + 1
    say(f"\nDone in {duration(seconds)}. Written to {out}:")
    for path, count in folders.items():
        say(f"  {path}" + (f"/  {count} files" if path.is_dir() else ""))
    pictured = next((path for path in result.files if path.parent.name == "sets"), None)
    say("\nTry next:")
    say(f"  ddbench table --results {out / 'records'} --view long")
    if pictured is not None:
        say(f"  ddbench show {pictured}")
        say(f"  ddbench evaluate {pictured} --network mlp --seeds 3")
    say("  ddbench run dm --dataset digits --ipc 3 --seed 1 --dry-run")
