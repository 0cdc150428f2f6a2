"""The way in and out: submissions written, checked, verified, and their files fetched."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ddbench.cli import options as o
from ddbench.cli.output import print_json, print_table, progress, say
from ddbench.errors import DDBenchError, UsageError, unknown
from ddbench.extras import download
from ddbench.extras import submit as submissions
from ddbench.extras.verify import verify as verify_record
from ddbench.records.claims import Verification
from ddbench.records.store import read_record
from ddbench.settings import default_workers, results_dir

SUBMITTED = Path("results") / "submitted"
RecordFile = Annotated[Path, typer.Argument(metavar="RECORD", help="A record's file.")]


@o.command(
    'ddbench submit mine.safetensors --name "My method" --author "A. Author" --licence CC-BY-4.0 '
    "--address hf:me/sets/mine.safetensors",
    'ddbench submit results/measured/digits/hard-v1/dm_....json --synset dm.safetensors --name "DM, tuned" '
    '--author me --licence MIT --address file:dm.safetensors --supersedes old.json --appeal "more steps"',
)
def submit(
    source: Annotated[Path, typer.Argument(metavar="FILE|RECORD", help="A set that was evaluated, or a record of it.")],
    name: Annotated[str, typer.Option("--name", metavar="TEXT", help="Name of the submission.", show_default=False)],
    authors: Annotated[
        list[str], typer.Option("--author", metavar="TEXT", help="Author; may be repeated.", show_default=False)
    ],
    licence: Annotated[
        str, typer.Option("--licence", metavar="SPDX", help="Licence of the files: CC-BY-4.0.", show_default=False)
    ],
    address: Annotated[
        str,
        typer.Option(
            "--address",
            metavar="ADDRESS",
            help="Where the set can be had: https://..., hf:OWNER/REPO/PATH, or file:PATH beside the record.",
            show_default=False,
        ),
    ],
    synset: Annotated[
        Path | None, typer.Option("--synset", metavar="FILE", help="The set, where a record is given.")
    ] = None,
    code: Annotated[str | None, typer.Option("--code", metavar="URL", help="Where the code is.")] = None,
    paper: Annotated[str | None, typer.Option("--paper", metavar="URL", help="Where the paper is.")] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(
            "--also", metavar="FILE=ADDRESS", help="A teacher's or an expert's file of the cache; may be repeated."
        ),
    ] = None,
    supersedes: Annotated[
        Path | None, typer.Option("--supersedes", metavar="RECORD", help="Appeal: the record that this one replaces.")
    ] = None,
    appeal: Annotated[
        str | None, typer.Option("--appeal", metavar="TEXT", help="Appeal: why, in a line; the old record is kept.")
    ] = None,
    results: o.ResultsToRead = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder of submissions (default: ./results/submitted).")
    ] = SUBMITTED,
) -> None:
    """Write a submission, for a pull request.

    Every record of the set below --results becomes one, with who claims it and where the set can be had. Upload the very
    file: its size and SHA-256 are written down.
    """
    if (supersedes is None) != (appeal is None):
        raise UsageError("an appeal needs --supersedes RECORD and --appeal TEXT")
    of_record = source.suffix == ".json"
    if of_record and synset is None:
        raise UsageError("with a record, --synset FILE says which set it is of")
    file = synset if of_record and synset is not None else source
    records = [read_record(source)] if of_record else submissions.records_of(file, results or [results_dir()])
    files = dict(
        [submissions.shared_set(file, address), *(submissions.shared_product(*_pair(word)) for word in also or [])]
    )
    old = read_record(supersedes) if supersedes is not None else None
    if old is not None and len(records) > 1:
        raise UsageError(f"an appeal is of one record, and {file} has {len(records)}: name it instead of the set")
    words = {"name": name, "authors": authors, "licence": licence, "code": code, "paper": paper, "appeal": appeal}
    for record in records:
        print(submissions.submit(record, submissions.claim(files, **words), out, superseded=old))


def _pair(word: str) -> tuple[Path, str]:
    file, equals, address = word.partition("=")
    if not equals:
        raise UsageError(f"--also {word}: FILE=ADDRESS is needed")
    return Path(file), address


@o.command("ddbench verify results/submitted/digits/hard-v1/mine_....json --synset mine.safetensors")
def verify(
    record: RecordFile,
    synset: Annotated[Path, typer.Option("--synset", metavar="FILE", help="Its set.", show_default=False)],
    seeds: o.Seeds = "5",
    dataset: o.FolderOfSet = None,
    dataset_name: o.GivenName = None,
    borrow: o.Borrow = None,
    results: Annotated[
        Path | None, typer.Option("--results", metavar="DIR", help="Folder of records to add our runs to.")
    ] = None,
    workers: o.Workers = None,
    *,
    where: o.DeviceFlags,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Train students on a record's set: does its claim hold?

    A claim holds where its mean is within half a point, plus the 99 % interval that our students' spread gives for the mean
    of so many runs, of our mean; or where all its runs were made here again to the bit. It is undecided with fewer than 3
    students, or a tolerance above 3 points. Exit code 1 where it does not hold.
    """
    with progress(quiet) as reporter:
        verifications = verify_record(
            read_record(record),
            synset,
            seeds=o.seeds(seeds),
            dataset=dataset,
            dataset_name=dataset_name,
            borrow=borrow,
            results=results,
            workers=workers or default_workers(),
            compute=where.compute(),
            reporter=reporter,
        )
    if as_json:
        print_json([_facts(each) for each in verifications])
    else:
        columns = ("verdict", "claimed", "here", "tolerance", "equal runs", "claimed in")
        print_table(columns, [_row(each) for each in verifications], right=columns[1:5])
    wrong = [each for each in verifications if not each.holds]
    if wrong:
        word = "is undecided: give more --seeds" if wrong[0].verdict == "undecided" else f"is {wrong[0].verdict}"
        raise DDBenchError(f"the claim {word}")


def _facts(claim: Verification) -> dict[str, Any]:
    made, equal = claim.repeated
    wide = claim.tolerance if claim.found_runs > 1 else None
    plain = {name: value for name, value in vars(claim).items() if name not in ("repeated", "tolerance")}
    return {**plain, "tolerance": wide, "repeated_runs": made, "equal_runs": equal}


def _row(claim: Verification) -> tuple[str, ...]:
    made, equal = claim.repeated
    return (
        claim.verdict,
        f"{100 * claim.claimed:.2f} (n = {claim.claimed_runs})",
        f"{100 * claim.found:.2f} (n = {claim.found_runs})",
        f"{100 * claim.tolerance:.2f}",
        f"{equal} of {made}" if made else "-",
        claim.setting,
    )


@o.command(
    "ddbench pull results/submitted/digits/hard-v1/mine_....json --out sets",
    "ddbench pull mine_....json --what teacher",
)
def pull(
    record: RecordFile,
    what: Annotated[str, typer.Option("--what", metavar="KIND", help="set, teacher or experts.")] = "set",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder for sets (default: the current one).")
    ] = None,
    limit: Annotated[
        str | None, typer.Option("--limit", metavar="SIZE", help="Largest file to take: 500MB, 20GiB (8GiB).")
    ] = None,
    quiet: o.Quiet = False,
) -> None:
    """Fetch the set, teacher or experts of a record.

    From the addresses in it, hash-checked. Teachers and experts go into the cache, where what asks for them finds them;
    experts of somebody else are then taken as your own would be.
    """
    kind = next((each for each in download.KINDS if each == what), None)
    if kind is None:
        raise unknown("kind of file", what, download.KINDS)
    largest = download.LIMIT if limit is None else o.byte_count(limit, "--limit")
    with progress(quiet) as reporter:

        def advance(done: int, total: int) -> None:
            reporter.advance(f"fetching the {what}", done, total)

        found = download.pull(read_record(record), record, what=kind, out=out, limit=largest, progress=advance)
    for path, key in found:
        print(f"{path} {key}")


@o.command("ddbench check-submissions", "ddbench check-submissions --results results --base ../before/results")
def check_submissions(
    results: Annotated[
        Path, typer.Option("--results", metavar="DIR", help="Folder with submitted and measured.")
    ] = SUBMITTED.parent,
    base: Annotated[
        Path | None, typer.Option("--base", metavar="DIR", help="That folder before the change: nothing may be lost.")
    ] = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Check the submissions of a repository.

    What CI runs on a pull request: reads files only, fetches nothing, runs nothing of theirs. Exit code 1 where something
    is wrong, a line for each on stdout.
    """
    if not results.is_dir() or (base is not None and not base.is_dir()):
        raise UsageError(f"{base if results.is_dir() else results}: a folder of results is needed")
    problems = submissions.check_submissions(results, base)
    if as_json:
        print_json([{"file": str(each.file), "problem": each.text} for each in problems])
    else:
        for each in problems:
            print(each)
    if problems:
        raise DDBenchError(f"{len(problems)} problem{'s'[: len(problems) > 1]} in {results / SUBMITTED.name}")
    count = len(list((results / SUBMITTED.name).rglob("*.json")))
    say(f"{count} submission{'s'[: count != 1]} in {results / SUBMITTED.name}: nothing is wrong", quiet=quiet)
