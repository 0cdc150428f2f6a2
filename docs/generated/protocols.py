"""Protocols: every constant, side by side for the sizes of images that a protocol knows."""

from collections.abc import Sequence
from importlib.metadata import entry_points
from itertools import groupby

from ddbench.leaderboard.forms import prose

from ddbench.evaluation.protocol import GROUP, Protocol, Tier, find_protocol
from ddbench.report.format import component

from .text import facts, table

SPACES = {"own": "the set's own", "teacher": "the reference teacher's"}


def names() -> list[str]:
    """The suite's own protocols, in the order in which they are explained: hard, soft, shipped."""
    own = [point.name for point in entry_points(group=GROUP) if point.module.startswith("ddbench.")]
    families = ("hard", "soft", "shipped")
    return sorted(own, key=lambda name: (families.index(name.split("-")[0]), len(name), name))


def overview() -> str:
    """Names and summaries."""
    found = [find_protocol(name) for name in names()]
    return table(("protocol", "what it is"), [(f"`{each.name}`", each.summary) for each in found])


def constants() -> str:
    """Every protocol with all that its digest covers."""
    return "\n\n".join(_protocol(find_protocol(name)) for name in names())


def _protocol(protocol: Protocol) -> str:
    upper = protocol.tiers[-1].up_to if protocol.tiers else None
    parts = [f"### {protocol.name}", protocol.summary + "."]
    about = {"version": str(protocol.version), "digest": f"`{protocol.digest()}`"}
    if protocol.shipped:
        return "\n\n".join([*parts, facts({**about, "students": "follow the recipe that travels in the set"})])
    covered = f"{protocol.smallest} to {upper} px" if upper else f"from {protocol.smallest} px"
    parts.append(facts({**about, "images": covered, "space": SPACES[protocol.space]}))
    parts += ["Students:", _tiers(protocol.tiers)]
    if protocol.teacher:
        parts += ["Reference teacher, always of the student's default network:", _tiers(protocol.teacher)]
    return "\n\n".join(parts)


def _tiers(tiers: Sequence[Tier]) -> str:
    """A column for each range of sizes; a value that neighbours share stands once, across them."""
    names = list(dict.fromkeys(name for tier in tiers for name in tier.student))
    head = "".join(f"<th>{'up to ' + str(tier.up_to) + ' px' if tier.up_to else 'larger'}</th>" for tier in tiers)
    lines = [f"<table>\n<thead><tr><th></th>{head}</tr></thead>\n<tbody>"]
    for name in names:
        shared = [(text, len(list(run))) for text, run in groupby(component(tier.student.get(name)) for tier in tiers)]
        cells = "".join(f'<td colspan="{width}">{prose(text)}</td>' for text, width in shared)
        lines.append(f"<tr><th><code>{name}</code></th>{cells}</tr>")
    return "\n".join([*lines, "</tbody>\n</table>"])
