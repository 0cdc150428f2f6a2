"""Results frame: records pooled into one row per (method, recipe, data set, budget, protocol, student, setting).

Records that are equal in all but the synthesis seed are draws of one cell; those whose sets are the same are one draw.
Two settings (device, precision, compiled, stacked, threads, build, devices, teacher) are never pooled, nor two sets that claim the
same synthesis seed, nor two versions of a protocol, nor two codes of a method or versions of the core. Accuracies are fractions, sizes bytes, times seconds.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

import pandas as pd

from ddbench.errors import UsageError, unknown
from ddbench.hashing import digest
from ddbench.records.record import Record, Run, RunIdentity, codes_of, identified
from ddbench.records.statistics import Samples, Seeds, summarize, ties_with_best
from ddbench.records.store import budget_label, merge
from ddbench.report import columns
from ddbench.report.format import counted
from ddbench.system import code

Entry = tuple[Record, Run]
SETTING = tuple(columns.SETTING)
UNPACKED = ("online", "stored")  # forms of labels as a method gives them
COMPARED = ("dataset", "protocol", "student", "budget")  # cells that compete for the best mark
COLUMNS = list(columns.CELL)


def results_frame(
    records: Iterable[Record],
    *,
    datasets: Collection[str] | None = None,
    protocols: Collection[str] | None = None,
    methods: Collection[str] | None = None,
    networks: Collection[str] | None = None,
    superseded: bool = False,
    former: bool = False,
) -> pd.DataFrame:
    """One row per cell, columns `COLUMNS` (see `ddbench.report.columns`), sorted by data set, protocol, student, budget, method.

    Args:
        records: from one store or several; of two runs with one identity the first counts.
        datasets: names to keep, those of folders with or without their hash; None keeps all.
        protocols: labels ("hard-v1") or families ("hard") to keep; None keeps all.
        methods: names to keep; None keeps all.
        networks: student networks to keep; None keeps all.
        superseded: keep records that a newer one supersedes.
        former: keep runs of code that is no longer there; else `left_out` says what is missing.

    `samples` holds the accuracies by (synthesis seed, evaluation seed), `snapshots` those during the distillation
    by the same, each {step: accuracy}; the other columns are plain values, None or NaN where there is none.

    Raises:
        UsageError: a name that no record has; records of which no row is left; two versions or two digests of a protocol.
    """
    kept = every = list(records)
    chosen = {"data set": datasets, "method": methods, "student network": networks, "protocol": protocols}
    for kind, names in chosen.items():
        kept = kept if names is None else _having(kept, kind, names)
    frame, _ = pooled(kept, superseded=superseded, former=former)
    if frame.empty and every:
        raise UsageError(
            left_out(frame) or "no record has the chosen data sets, protocols, methods and networks together"
        )
    return frame


def pooled(
    records: Iterable[Record], *, superseded: bool = False, former: bool = False
) -> tuple[pd.DataFrame, dict[str, list[Record]]]:
    """The rows of `results_frame`, none perhaps, and by a row's `group` the records whose runs it pools, each once."""
    kept, replaced = _chosen(records, superseded)
    groups = dict(_groups(kept))
    rows = [_row(group, identity, entries, replaced) for group, (identity, entries) in groups.items()]
    left = [] if former else [row for row in rows if row["former"]]
    rows = [row for row in rows if former or not row["former"]]
    _mark_best(rows)
    rows.sort(key=_order)
    frame = framed(rows, COLUMNS)
    frame.attrs["left_out"] = [row["method"] for row in left]
    behind = {
        row["group"]: list({id(record): record for record, _ in groups[row["group"]][1]}.values()) for row in rows
    }
    return frame, behind


def framed(rows: Iterable[Mapping[str, Any]], names: Sequence[str]) -> pd.DataFrame:
    """Rows as a frame with these columns: those of `columns.NUMBERS` as floats, all others as objects."""
    made = pd.DataFrame([[row.get(name) for name in names] for row in rows], columns=list(names), dtype=object)
    return made.astype({name: float for name in names if name in columns.NUMBERS})


def _having(records: Sequence[Record], kind: str, wanted: Collection[str]) -> list[Record]:
    """The records that have one of some names; UsageError for a name that none of them has."""
    names = [_names(record)[kind] for record in records]
    for name in wanted:
        if not any(name in each for each in names):
            raise unknown(f"{kind} (among the records)", name, {each[0] for each in names})
    return [record for record, each in zip(records, names, strict=True) if not set(each).isdisjoint(wanted)]


def _names(record: Record) -> dict[str, tuple[str, ...]]:
    """What a record can be chosen by: the full name, and a shorter one."""
    label = protocol_label(record)
    return {
        "data set": (record.dataset, record.dataset.partition("@")[0]),
        "method": (record.method,),
        "student network": (str(record.student_network),),
        "protocol": (label, protocol_family(label)),
    }


def curve_of(snapshots: dict[Seeds, dict[int, float]]) -> pd.DataFrame:
    """Step, mean and interval over the runs that have the step, in the order of steps; fractions."""
    steps = sorted({step for curve in snapshots.values() for step in curve})
    rows = []
    for step in steps:
        found = summarize({seeds: curve[step] for seeds, curve in snapshots.items() if step in curve})
        rows.append((step, found.mean, found.low, found.high))
    return pd.DataFrame(rows, columns=["step", "top1", "ci_low", "ci_high"], dtype=float)


def left_out(frame: pd.DataFrame) -> str | None:
    """A line on the rows of former code that cells leave out, if there are any."""
    methods = frame.attrs.get("left_out", [])
    if not methods:
        return None
    names = ", ".join(sorted(set(methods)))
    return f"Left out: {counted(len(methods), 'row')} of former code, changed since ({names}); --former shows them."


def protocol_label(record: Record) -> str:
    """The protocol's family and version: "hard-v1"."""
    return f"{protocol_family(record.protocol)}-v{record.protocol_version}"


def protocol_family(name: str) -> str:
    """A protocol's name without its version: "soft-small-v1" is of the family "soft-small"."""
    return re.sub(r"-v\d+$", "", name)


def bytes_total(lines: Mapping[str, int]) -> int:
    """The bytes a student needs: all lines, the images encoded where they were counted so, else as they are stored."""
    return sum(size for name, size in lines.items() if name != "images" or "images_encoded" not in lines)


def label_bytes(lines: Mapping[str, int]) -> int | None:
    """The bytes of the labels: those that are stored, and the models that give them; None where there are none."""
    found = [lines[name] for name in ("targets", "external") if name in lines]
    return sum(found) if found else None


def label_form(record: Record, lines: Mapping[str, int]) -> str | None:
    """How labels are held: "online", "stored", or as they were packed: "fp16", "int8", "topk3"; None: there are none."""
    packed = record.recipe.get("labels")
    if isinstance(packed, dict):
        more = [str(packed[key]) for key in ("keep", "draw") if packed.get(key) not in (None, "first", "uniform")]
        return " ".join([f"{packed.get('encoding')}{packed.get('topk') or ''}", *more])
    return "online" if "external" in lines else "stored" if "targets" in lines else None


def _chosen(records: Iterable[Record], superseded: bool) -> tuple[list[Record], set[str | None]]:
    """The records that a table is made of, and the keys of those that others supersede."""
    united = _united(records)
    replaced = {record.supersedes for record in united.values()} - {None}
    kept = [record for key, record in united.items() if superseded or key not in replaced]
    _refuse_mixed(kept)
    return kept, replaced


def _united(records: Iterable[Record]) -> dict[str, Record]:
    """Records by key hash; the parts of one record that lie in several stores are merged."""
    chosen: dict[str, Record] = {}
    for record in records:
        key = record.key_hash()
        chosen[key] = merge(chosen[key], record, where="two stores") if key in chosen else record
    return chosen


def _refuse_mixed(records: Iterable[Record]) -> None:
    seen: dict[str, Record] = {}
    for record in records:
        family = protocol_family(record.protocol)
        first = seen.setdefault(family, record)
        if first.protocol_version != record.protocol_version:
            labels = sorted((protocol_label(first), protocol_label(record)))
            raise UsageError(
                f"protocol {family}: records of {' and '.join(labels)} cannot stand in one table; "
                f"select one, such as --protocols {labels[-1]}"
            )
        if first.protocol_digest != record.protocol_digest:
            label = protocol_label(record)
            raise UsageError(
                f"protocol {label}: two digests under one version (data sets {first.dataset}, {record.dataset})"
            )


def _groups(records: Sequence[Record]) -> Iterable[tuple[str, tuple[RunIdentity, list[Entry]]]]:
    buckets: dict[tuple[Any, ...], list[Entry]] = {}
    first: dict[tuple[Any, ...], RunIdentity] = {}
    codes = codes_of(run for record in records for run in record.runs)
    for record in records:
        group = digest(record.group_key())
        for identity, run in identified(record.runs, codes):
            place = (group, _told(identity))
            first.setdefault(place, identity)
            buckets.setdefault(place, []).append((record, run))
    for (group, setting), bucket in buckets.items():
        identity = first[group, setting]
        for teacher, entries in _split(bucket, "teacher").items():
            parts = _split(entries, "synset") if _sets_differ(entries) else {None: entries}
            for synset, part in parts.items():
                yield digest([group, list(setting), teacher, synset]), (identity, part)


def _told(identity: RunIdentity) -> tuple[Any, ...]:
    """A setting without the code where that is unknown, as it was before runs told: such groups keep their names."""
    known = (identity.code, identity.synthesis, identity.training) != (None, 1, 1)
    return identity.setting if known else identity.setting[:-3]


def _former(record: Record, run: RunIdentity) -> bool:
    """Whether runs are of code that is no longer there; unknown code, and what is not installed, might be."""
    if run.training < code.TRAINING or (run.synthesis < code.SYNTHESIS and not record.imported):
        return True
    return run.code is not None and code.of_method(record.method) not in (None, run.code)


def _split(entries: list[Entry], field: str) -> dict[str | None, list[Entry]]:
    """Entries by a hash of their run. A run that failed before there was one counts with every part."""
    names = {getattr(run, field) for _, run in entries}
    if None in names and len(names) > 1 and all(run.status != "ok" for _, run in entries if not getattr(run, field)):
        names.discard(None)
    return {
        name: [entry for entry in entries if getattr(entry[1], field) in (name, None)]
        for name in sorted(names, key=lambda name: name or "")
    }


def _sets_differ(entries: list[Entry]) -> bool:
    """Whether one synthesis seed has two sets: made on two builds, say. Then every set is a cell of its own."""
    sets: dict[int | None, set[str]] = {}
    for record, run in entries:
        if run.synset is not None:
            sets.setdefault(record.synthesis_seed, set()).add(run.synset)
    return any(len(hashes) > 1 for hashes in sets.values())


def _row(group: str, identity: RunIdentity, entries: list[Entry], replaced: Collection[str | None]) -> dict[str, Any]:
    record, _ = entries[0]
    good = [(record, run) for record, run in entries if run.status == "ok"]
    row = _identity_columns(record) | {name: getattr(identity, name) for name in SETTING}
    row |= {"group": group, "superseded": record.key_hash() in replaced, "former": _former(record, identity)}
    row |= {"code": identity.code and identity.code[:12], "synthesis": identity.synthesis}
    if len({record.student_recipe_hash for record, _ in entries}) > 1:
        row["student_recipe"] = None  # learned in part: every draw has its own
    row |= _status_columns(entries) | _set_columns(entries) | _teacher_columns(entries)
    draws = _draws(good)
    row["samples"] = {(draw, run.seed): run.top1 for draw, (_, run) in zip(draws, good, strict=True)}
    curves = ((draw, run.seed, run.snapshots) for draw, (_, run) in zip(draws, good, strict=True) if run.snapshots)
    row["snapshots"] = {
        (synthesis, seed): {each.step: each.top1 for each in curve} for synthesis, seed, curve in curves
    }
    if good:
        summary = summarize(row["samples"])
        row |= {"top1": summary.mean, "std": summary.std, "ci_low": summary.low, "ci_high": summary.high}
        row |= {"n": summary.n, "draws": summary.draws, "over": summary.over}
        row["top5"] = _mean([run.top5 for _, run in good])
        row["train_seconds"] = _mean([run.seconds for _, run in good])
    return row


def _draws(entries: Sequence[Entry]) -> list[int | None]:
    """The synthesis seed of each entry, or the first that gave the same set: a method that draws nothing has one draw."""
    seeds: dict[str, list[int]] = {}
    for record, run in entries:
        if run.synset is not None and record.synthesis_seed is not None:
            seeds.setdefault(run.synset, []).append(record.synthesis_seed)
    first = {synset: min(given) for synset, given in seeds.items()}
    return [first.get(run.synset or "", record.synthesis_seed) for record, run in entries]


def _identity_columns(record: Record) -> dict[str, Any]:
    return {
        "method": record.method,
        "recipe": record.recipe_name,
        "reduced": record.reduced,
        "recipe_hash": None if record.imported else record.recipe_hash[:12],
        "borrowed": record.borrowed,
        "lender": record.lender and record.lender[:12],
        "imported": record.imported and record.imported[:12],
        "dataset": record.dataset,
        "budget": budget_label(record.budget),
        "ipc": record.budget.get("ipc"),
        "fraction": record.budget.get("fraction"),
        "protocol": protocol_label(record),
        "protocol_family": protocol_family(record.protocol),
        "protocol_version": record.protocol_version,
        "student": record.student_network,
        "distill_network": record.distill_network,
        "student_recipe": record.student_recipe_hash and record.student_recipe_hash[:12],
    }


def _status_columns(entries: list[Entry]) -> dict[str, Any]:
    statuses = [run.status for _, run in entries]
    status = next(name for name in ("ok", "failed", "n/a") if name in statuses)
    reason = next((run.reason for _, run in entries if run.status == status and run.reason), None)
    return {"status": status, "failed": statuses.count("failed"), "reason": reason, "n": 0, "draws": 0}


def _set_columns(entries: list[Entry]) -> dict[str, Any]:
    facts = {run.synset: record.synsets[run.synset] for record, run in entries if run.synset}
    forms = {label_form(record, record.synsets[run.synset].bytes) for record, run in entries if run.synset}
    if not facts:
        return {}
    first = next(iter(facts.values()))
    return {
        "space": first.space,
        "codec": first.codec,
        "images": round(fmean(fact.images for fact in facts.values())),
        "bytes": _mean([bytes_total(fact.bytes) for fact in facts.values()]),
        "labels": next(iter(forms)) if len(forms) == 1 else None,
        "label_bytes": _mean([label_bytes(fact.bytes) for fact in facts.values()]),
        "distill_seconds": _mean([fact.cost.get("seconds") for fact in facts.values()]),
        "peak_memory": _mean([fact.cost.get("peak_memory") for fact in facts.values()]),
        "synset": next(iter(facts))[:12] if len(facts) == 1 else None,
    }


def _teacher_columns(entries: list[Entry]) -> dict[str, Any]:
    for record, run in entries:
        if run.teacher:
            teacher = record.teachers[run.teacher]
            return {
                "teacher": run.teacher[:12],
                "teacher_network": teacher.network,
                "teacher_accuracy": teacher.accuracy,
            }
    return {}


def _mark_best(rows: list[dict[str, Any]]) -> None:
    """Set `best` and `tied` (not told apart from the best; the best itself too) among cells that compete."""
    fields: dict[tuple[Any, ...], dict[int, Samples]] = {}
    for index, row in enumerate(rows):
        row |= {"best": False, "tied": False}
        if row["samples"]:
            fields.setdefault(tuple(row[name] for name in COMPARED), {})[index] = row["samples"]
    for field in fields.values():
        best, tied = ties_with_best(field)
        if len(field) > 1:
            for index in field:
                rows[index] |= {"best": index == best, "tied": index in tied}


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean, or None unless every value is there."""
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None


def _order(row: dict[str, Any]) -> tuple[Any, ...]:
    size = float(row["ipc"] or row["fraction"] or 0)
    kind = row["budget"].split()[0]
    place = (row["dataset"], row["protocol"], row["student"], ("ipc", "frac", "all").index(kind), size)
    return (*place, row["method"], row["recipe"], row["group"])
