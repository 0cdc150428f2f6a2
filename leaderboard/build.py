"""Building the site: a pure function of records, the reported figures, the installed methods and the cached sets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from ddbench.distillation.method import method_names
from ddbench.errors import CannotWrite, UsageError
from ddbench.report.papers import Paper, papers
from ddbench.system.files import make_folder

from . import pages
from .board import rows as board_rows
from .entries import Entry, file_name, read, united
from .gallery import draw_pictures

MARK = "ddbench-site.txt"  # says that a folder is a site, which a later build may write over
OWNED = ("records/*.js", "methods/*.html", "pictures/*.png", "assets/*", "*.html")


@dataclass(frozen=True)
class Built:
    """What a build wrote: the front page, and how many rows, records and pictures there are."""

    index: Path
    rows: int
    records: int
    pictures: int


def build_leaderboard(
    results: Sequence[Path] = (), out: Path = Path("ddbench-site"), *, pictures: bool = True
) -> Built:
    """Write the site of the records below some folders (none: results/measured and results/submitted); see `build`."""
    return build(read(results), out, pictures=pictures)


def build(
    entries: Sequence[Entry], out: Path, *, reported: Mapping[str, Paper] | None = None, pictures: bool = True
) -> Built:
    """Write the site into a folder; files of an earlier build that are no longer needed are removed.

    Args:
        entries: see `entries.read`; at least one.
        out: a folder that is new, empty, or an earlier site.
        reported: papers, by key; None: those that come with the suite.
        pictures: draw sets that the cache still has.

    No address is fetched, whatever a record names. UsageError where `out` holds other files, cannot be written, or
    where two digests of one version of a protocol meet.
    """
    _check_out(out)
    every = sorted(united(entries), key=lambda entry: entry.id)  # so that the order of files decides nothing
    known = papers() if reported is None else reported
    found = board_rows(every, known)
    drawn = draw_pictures(every, make_folder(out)) if pictures else []
    about = {"version": version("ddbench"), "records": len(every), "latest": _latest(every)}
    names = sorted({*method_names(), *(row.method for row in found)})
    texts = {f"assets/{name}": pages.asset(name) for name in pages.ASSETS}
    texts |= _record_texts(every)
    for name in names:
        texts[f"methods/{file_name(name)}.html"] = pages.method_page(name, found, known, drawn, about)
    texts |= {"record.html": pages.record_page(about), "methods.html": pages.methods_page(found, about)}
    texts |= {MARK: "A leaderboard of ddbench; it may be built again, and then files here are replaced.\n"}
    texts["index.html"] = pages.index_page(found, about)
    _write_all(out, texts, {picture.file for picture in drawn})
    return Built(out / "index.html", len(found), len(every), len(drawn))


def _record_texts(entries: Sequence[Entry]) -> dict[str, str]:
    ids: dict[str, list[str]] = {}
    above: dict[str, list[str]] = {}
    for entry in entries:
        ids.setdefault(entry.record.key_hash(), []).append(entry.id)
        if entry.record.supersedes:
            above.setdefault(entry.record.supersedes, []).append(entry.id)
    return {f"records/{entry.id}.js": pages.record_script(entry, ids, above) for entry in entries}


def _latest(entries: Sequence[Entry]) -> str | None:
    """The day of the last run: the site says how old its records are, not when it was built."""
    return max((run.date[:10] for entry in entries for run in entry.record.runs), default=None)


def _check_out(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: a folder for the site is needed, this is a file")
    if out.is_dir() and any(out.iterdir()) and not (out / MARK).is_file():
        raise UsageError(f"{out}: holds files that are no site of ddbench; name another folder by --out")


def _write_all(out: Path, texts: Mapping[str, str], others: set[str]) -> None:
    """Write every file, the front page last, and remove those of an earlier build."""
    try:
        for folder in sorted({(out / name).parent for name in texts}):
            make_folder(folder)
        for name, text in texts.items():
            (out / name).write_text(text, encoding="utf-8", newline="\n")
        for path in [path for pattern in OWNED for path in out.glob(pattern)]:
            if path.relative_to(out).as_posix() not in {*texts, *others}:
                path.unlink()
    except OSError as error:
        raise CannotWrite(f"cannot write {out}: {error.strerror or error}") from error
