"""Marks in hand-written pages: a line of its own is replaced by generated text.

`<!-- generated: NAME -->` becomes one of `TEXTS`, `<!-- output: COMMAND -->` the output of a command, as Markdown.
"""

import re

from . import commands, lists, methods, protocols, records

MARK = re.compile(r"^<!-- (?P<kind>generated|output): (?P<what>.+) -->$", re.MULTILINE)
TEXTS = {
    "columns": lists.table_columns,
    "commands": commands.reference,
    "components": lists.components,
    "constants of protocols": protocols.constants,
    "data sets": lists.datasets,
    "example of a record": records.example,
    "groups": lists.groups,
    "kinds of plots": lists.kinds_of_plots,
    "methods": methods.overview,
    "networks": lists.known_networks,
    "protocols": protocols.overview,
    "schema": records.schema,
    "standings": lists.standings,
}


def filled(markdown: str) -> str:
    """Replace every marked line of a page; KeyError for an unknown name."""
    return MARK.sub(_text, markdown)


def _text(mark: re.Match[str]) -> str:
    return TEXTS[mark["what"]]() if mark["kind"] == "generated" else commands.printed(mark["what"])
