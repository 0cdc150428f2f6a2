"""`ddbench leaderboard`: build the site, or show it on this machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ddbench.cli import options as o
from ddbench.cli.options import examples
from ddbench.cli.output import say

if TYPE_CHECKING:
    from ddbench.leaderboard.build import Built

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="Build the site of the records, or show it.",
)

Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the site.")]
Pictures = Annotated[
    bool, typer.Option("--pictures/--no-pictures", help="Draw sets of the records that the cache still has.")
]


@app.command(
    "build",
    epilog=examples("ddbench leaderboard build", "ddbench leaderboard build --results ddbench-demo/records --out site"),
)
def build(
    results: o.ResultsToRead = None,
    out: Out = Path("ddbench-site"),
    pictures: Pictures = True,
    quiet: o.Quiet = False,
) -> None:
    """Write a static site of records, which works from a file.

    Records with a submission are shown as claimed; without --results, results/submitted is read as well.
    """
    made = _built(results, out, pictures, quiet)
    print(made.index)


@app.command("serve", epilog=examples("ddbench leaderboard serve", "ddbench leaderboard serve --port 8001"))
def serve(
    results: o.ResultsToRead = None,
    out: Out = Path("ddbench-site"),
    pictures: Pictures = True,
    port: Annotated[
        int, typer.Option("--port", metavar="N", min=0, max=65535, help="Port; 0 takes a free one.")
    ] = 8000,
    quiet: o.Quiet = False,
) -> None:
    """Build the site and show it on this machine, until Ctrl-C."""
    from ddbench.leaderboard.serving import server_for

    _built(results, out, pictures, quiet)
    with server_for(out, port) as server:
        print(f"http://127.0.0.1:{server.server_address[1]}/", flush=True)
        server.serve_forever()


def _built(results: list[Path] | None, out: Path, pictures: bool, quiet: bool) -> "Built":
    from ddbench.leaderboard.build import build
    from ddbench.leaderboard.entries import read

    made = build(read(results or ()), out, pictures=pictures)
    counts = f"{made.rows:,} rows, {made.records:,} records, {made.pictures:,} pictures"
    say(f"{counts}: open {made.index} in a browser", quiet=quiet)
    return made
