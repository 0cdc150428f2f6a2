"""A set or a record, readably."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

import ddbench
from ddbench.cli import options as o
from ddbench.cli.output import print_facts, print_json, print_table, say
from ddbench.errors import UsageError
from ddbench.records.record import Record, Run
from ddbench.records.store import budget_label, read_record
from ddbench.report.commands import hyper_of, needed
from ddbench.report.format import budget_words, component, duration, percent, settings, size


@o.command("ddbench show dm.safetensors --out dm.png", "ddbench show results/measured/digits/.../dm_....json")
def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A set (.safetensors), or a record (.json).")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.png", help="Draw the set's images, a row per class.")
    ] = None,
    dataset: o.FolderOfSet = None,
    dataset_name: o.GivenName = None,
    as_json: o.Json = False,
) -> None:
    """Show what is in a set or a record; draw a set.

    A record comes with the commands that make its runs again.
    """
    if file.suffix.lower() == ".json" and out is not None:
        raise UsageError(f"--out draws a set's images; {file} is a record")
    facts = ddbench.show(file)
    if as_json:
        print_json(facts)
    elif file.suffix.lower() == ".json":
        _print_record(read_record(file), facts["reproduce"])
    else:
        print_facts(_set_lines(facts))
    if out is not None:
        ddbench.draw(file, out, dataset=dataset, dataset_name=dataset_name)
        say(f"{out} written")


def _set_lines(facts: dict[str, Any]) -> Iterator[tuple[str, object]]:
    from ddbench.synset.teachers import roles  # imports torch

    counts, made = facts["per_class"], facts["provenance"]
    spread = f"{counts[0]} each" if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)} each"
    yield from (("hash", facts["hash"]), ("data set", facts["dataset"]))
    yield "images", f"{facts['images']:,} in {facts['classes']} classes, {spread}"
    yield "shape", f"{facts['channels']} x {facts['side']} x {facts['side']}"
    yield from (("space", facts["space"]), ("stored as", facts["codec"]))
    yield "bytes", ", ".join(f"{name} {size(count)}" for name, count in facts["bytes"].items())
    for name in ("targets", "views"):
        if facts[name]:
            yield name, component({"name": facts[name]["kind"], **facts[name]["params"]})
    recipe = facts["student_recipe"]
    yield "student", _student_words(recipe) if recipe else "ships no student recipe"
    yield "made by", made["method"]
    yield "recipe", f"{made['recipe'].get('name')} {made['recipe_hash'][:12]}" if made["recipe_hash"] else None
    yield "budget", budget_words(budget_label(made["recipe"]["budget"])) if made["recipe_hash"] else None
    yield "hyper", settings(made["recipe"].get("hyper", {}))
    yield "seed", made["seed"]
    if made["seconds"] is not None:
        yield "cost", f"{duration(made['seconds'])}, {size(made['peak_memory'])}"
    environment = made["environment"]
    versions = environment.get("versions", {})
    yield "made with", ", ".join(f"{name} {number}" for name, number in versions.items())
    yield "on", ", ".join(str(environment[key]) for key in ("device", "processor") if environment.get(key))
    named = {key: facts for key, facts in made["teachers"].items() if "role" not in facts}
    yield "teachers", ", ".join(f"{facts.get('network')} {key[:12]}" for key, facts in named.items())
    yield from roles(made["teachers"])
    yield "note", made["note"]


def _student_words(recipe: dict[str, Any]) -> str:
    parts = [recipe["network"], component(recipe["optimizer"]), f"schedule {component(recipe['schedule'])}"]
    groups = f", batch norms in groups of {recipe['bn_batch']}" if recipe.get("bn_batch") else ""
    parts += [f"loss {component(recipe['loss'])} on {recipe['labels']}", f"batch {recipe['batch']}{groups}"]
    parts += [f"{recipe['epochs']} epochs" + (f", at most {recipe['max_steps']} steps" if recipe["max_steps"] else "")]
    parts += [f"augmentation {component(recipe['augmentations'])}"]
    return "; ".join(parts + ([f"mix {component(recipe['mix'])}"] if recipe["mix"] else []))


def _print_record(record: Record, commands: list[str]) -> None:
    """Print a record and the commands that make its runs again."""
    print_facts(_record_lines(record))
    for setting, runs in record.by_setting().items():
        device, precision, compiled, stacked, threads, build, devices, made_by, synthesis, training = setting
        more = "".join(f", {name}" for name, on in (("compiled", compiled), ("stacked", stacked)) if on)
        more += f", {devices} processes together" if devices > 1 else ""
        more += f", code {made_by[:8]}" if made_by else ""
        more += "" if synthesis == training == 1 else f", synthesis {synthesis}, training {training}"
        print(f"\nRuns on {device}, {precision}, {threads} thread(s), torch {build}{more}")
        columns = ("seed", "top-1 %", "status", "seconds", "set", "teacher", "date")
        print_table(columns, [_run_row(run) for run in runs], right=("seed", "top-1 %", "seconds"))
    print("Again:")
    for command in commands:
        print(f"  {command}")
    for note in needed(record):
        print(f"  ({note})")


def _record_lines(record: Record) -> Iterator[tuple[str, object]]:
    borrowed = f", with the student recipe of {record.borrowed}" if record.borrowed else ""
    yield "protocol", f"{record.protocol} (digest {record.protocol_digest[:12]})"
    yield from (("data set", record.dataset), ("budget", budget_words(budget_label(record.budget))))
    yield from (("student", record.student_network + borrowed), ("method", record.method))
    if record.imported:
        yield "imported set", record.imported
    else:
        yield "recipe", f"{record.recipe_name} {record.recipe_hash[:12]}"
        yield "hyper", settings(hyper_of(record))
        yield from (("network", record.distill_network), ("synthesis seed", record.synthesis_seed))
    for key, facts in record.synsets.items():
        lines = ", ".join(f"{name} {size(count)}" for name, count in facts.bytes.items())
        yield f"set {key[:12]}", f"{facts.images:,} images; {lines}; {facts.codec}, {facts.space} space"
        yield "", f"distilled in {duration(facts.cost.get('seconds'))}, {size(facts.cost.get('peak_memory'))}"
    for key, teacher in record.teachers.items():
        kind = "reference teacher" if teacher.reference else "teacher"
        yield f"teacher {key[:12]}", f"{kind}, {teacher.network}, test accuracy {percent(teacher.accuracy)} %"
    yield from (("supersedes", record.supersedes), ("note", record.note))


def _run_row(run: Run) -> list[str]:
    top1 = "" if run.top1 is None else f"{100 * run.top1:.1f}"
    status = run.status if run.reason is None else f"{run.status}: {run.reason}"
    teacher, synset = (run.teacher or "")[:12], (run.synset or "")[:12]
    return [str(run.seed), top1, status, f"{run.seconds:.1f}", synset, teacher, run.date[:16].replace("T", " ")]
