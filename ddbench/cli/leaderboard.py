"""`ddbench leaderboard`: build the site, or show it on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from ddbench.cli import options as o
from ddbench.cli.app import SETTINGS
from ddbench.cli.output import say
from ddbench.leaderboard.build import Built, build_leaderboard
from ddbench.leaderboard.serving import server_for

app = typer.Typer(no_args_is_help=True, help="Build the site of the records, or show it.", **SETTINGS)

Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the site.")]
Pictures = Annotated[
    bool, typer.Option("--pictures/--no-pictures", help="Draw sets of the records that the cache still has.")
]


@app.command(
    "build",
    epilog=o.examples(
        "ddbench leaderboard build", "ddbench leaderboard build --results ddbench-demo/records --out site"
    ),
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


@app.command("serve", epilog=o.examples("ddbench leaderboard serve", "ddbench leaderboard serve --port 8001"))
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
    _built(results, out, pictures, quiet)
    with server_for(out, port) as server:
        print(f"http://127.0.0.1:{server.server_address[1]}/", flush=True)
        server.serve_forever()


def _built(results: list[Path] | None, out: Path, pictures: bool, quiet: bool) -> Built:
    made = build_leaderboard(results or (), out, pictures=pictures)
    counts = f"{made.rows:,} rows, {made.records:,} records, {made.pictures:,} pictures"
    say(f"{counts}: open {made.index} in a browser", quiet=quiet)
    return made
