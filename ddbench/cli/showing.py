"""A set or a record, readably."""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddbench.cli.output import component, duration, plain, print_facts, print_json, print_table, settings, size
from ddbench.errors import UsageError
from ddbench.report.commands import borrow_words, data_words, folder_words, scoring_words, set_file, size_words

if TYPE_CHECKING:
    from ddbench.records.record import Record, Run
    from ddbench.synset.synset import SynSet


WHOLE, PACKED = "SET.safetensors", "PACKED.safetensors"


def show_set(path: Path, *, as_json: bool) -> "SynSet":
    """Print the facts of a set's file; returns the set."""
    from ddbench.synset.synset import load

    synset = load(path)
    facts = set_facts(synset, path)
    if as_json:
        print_json(facts)
    else:
        print_facts(_set_lines(facts))
    return synset


def set_facts(synset: "SynSet", path: Path) -> dict[str, Any]:
    """What is known of a set, as plain data."""
    counts = synset.per_class()
    return {
        "file": str(path),
        "hash": synset.hash,
        "dataset": synset.dataset,
        "split_hash": synset.split_hash,
        "images": len(synset),
        "classes": len(synset.class_names),
        "per_class": counts,
        "channels": synset.channels,
        "side": synset.side,
        "space": synset.space.kind,
        "codec": synset.codec if synset.images is not None else "indices",
        "bytes": {name: tensor.nbytes for name, tensor in synset.tensors().items()},
        "targets": synset.targets and {"kind": synset.targets.kind, "params": synset.targets.params},
        "views": synset.views and {"kind": synset.views.kind, "params": synset.views.params},
        "student_recipe": synset.student_recipe and synset.student_recipe.model_dump(mode="json"),
        "provenance": synset.provenance.model_dump(mode="json"),
    }


def _set_lines(facts: dict[str, Any]) -> Iterator[tuple[str, object]]:
    from ddbench.records.store import budget_label
    from ddbench.report.format import budget_words
    from ddbench.synset.teachers import roles

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


def draw(synset: "SynSet", out: Path, dataset: str | None, dataset_name: str | None) -> None:
    """Draw a set's images, decoded into pixels, as a grid."""
    from ddbench.cli.import_export import source_of
    from ddbench.extras.demo import draw_set

    draw_set(synset, source_of(synset, dataset, dataset_name), out)


def show_record(path: Path, *, as_json: bool) -> None:
    """Print a record and the commands that make its runs again."""
    from ddbench.records.store import read_record

    record = read_record(path)
    commands = list(reproduce(record))
    if as_json:
        print_json({"record": record.model_dump(mode="json", by_alias=True), "reproduce": commands})
        return
    print_facts(_record_lines(record))
    for setting, runs in record.by_setting().items():
        device, precision, compiled, stacked, threads, build, devices = setting
        more = "".join(f", {name}" for name, on in (("compiled", compiled), ("stacked", stacked)) if on)
        more += f", {devices} processes together" if devices > 1 else ""
        print(f"\nRuns on {device}, {precision}, {threads} thread(s), torch {build}{more}")
        columns = ("seed", "top-1 %", "status", "seconds", "set", "teacher", "date")
        print_table(columns, [_run_row(run) for run in runs], right=("seed", "top-1 %", "seconds"))
    print("Again:")
    for command in commands:
        print(f"  {command}")
    for note in needed(record):
        print(f"  ({note})")


def _record_lines(record: "Record") -> Iterator[tuple[str, object]]:
    from ddbench.records.store import budget_label
    from ddbench.report.format import budget_words, percent

    borrowed = f", with the student recipe of {record.borrowed}" if record.borrowed else ""
    yield "protocol", f"{record.protocol} (digest {record.protocol_digest[:12]})"
    yield from (("data set", record.dataset), ("budget", budget_words(budget_label(record.budget))))
    yield from (("student", record.student_network + borrowed), ("method", record.method))
    if record.imported:
        yield "imported set", record.imported
    else:
        yield "recipe", f"{record.recipe_name} {record.recipe_hash[:12]}"
        yield "hyper", settings(_hyper(record))
        yield from (("network", record.distill_network), ("synthesis seed", record.synthesis_seed))
    for key, facts in record.synsets.items():
        lines = ", ".join(f"{name} {size(count)}" for name, count in facts.bytes.items())
        yield f"set {key[:12]}", f"{facts.images:,} images; {lines}; {facts.codec}, {facts.space} space"
        yield "", f"distilled in {duration(facts.cost.get('seconds'))}, {size(facts.cost.get('peak_memory'))}"
    for key, teacher in record.teachers.items():
        kind = "reference teacher" if teacher.reference else "teacher"
        yield f"teacher {key[:12]}", f"{kind}, {teacher.network}, test accuracy {percent(teacher.accuracy)} %"
    yield from (("supersedes", record.supersedes), ("note", record.note))


def _run_row(run: "Run") -> list[str]:
    top1 = "" if run.top1 is None else f"{100 * run.top1:.1f}"
    status = run.status if run.reason is None else f"{run.status}: {run.reason}"
    teacher, synset = (run.teacher or "")[:12], (run.synset or "")[:12]
    return [str(run.seed), top1, status, f"{run.seconds:.1f}", synset, teacher, run.date[:16].replace("T", " ")]


def reproduce(record: "Record") -> Iterator[str]:
    """A command per setting that makes a record's runs again; before them, those that make and pack a packed set."""
    if record.imported:
        words = ["evaluate", set_file(record.imported), "--name", record.method, *folder_words(record.dataset)]
    elif isinstance(record.recipe.get("labels"), dict):
        yield shlex.join(["ddbench", "distill", *_set_words(record), "--out", WHOLE])
        yield shlex.join(["ddbench", *_pack_words(record)])
        words = ["evaluate", PACKED, *folder_words(record.dataset)]
    else:
        words = ["run", *_set_words(record)]
    for runs in record.by_setting().values():
        seeds, setting = {run.seed for run in runs}, runs[0].identity()._asdict()
        scoring = scoring_words(record.protocol, record.student_network, seeds, setting)
        yield shlex.join(["ddbench", *words, *scoring, *borrow_words(record.borrowed), *_snapshot_words(runs)])


def _snapshot_words(runs: "Sequence[Run]") -> list[str]:
    """The shares of the distillation at which runs were scored on the way; the last step is the run's own."""
    steps = {each.step for run in runs for each in run.snapshots or ()}
    last = max(steps, default=0)
    shares = ",".join(f"{step / last:.9g}" for step in sorted(steps - {last}))
    return ["--snapshots", f"{shares}," if "," not in shares else shares] if shares else []


def needed(record: "Record") -> Iterator[str]:
    """What the commands name that whoever repeats them has to have."""
    if record.imported:
        yield f"the file is the imported set of hash {record.imported}"
    elif _published(record, _own_recipe(record).removesuffix("+set")) is None:
        yield "the recipe is not published: write the file from what stands above"
    if record.borrowed:
        yield f"--borrow names the set of {record.borrowed} whose student recipe has the hash {record.student_recipe_hash}"
    if "@" in record.dataset:
        yield f"PATH is the folder whose content gives {record.dataset}"


def _set_words(record: "Record") -> list[str]:
    """The method and everything that its set is made of."""
    budget = size_words(record.budget.get("ipc"), record.budget.get("fraction"))
    words = [record.method, *data_words(record.dataset), *budget, *_recipe_words(record)]
    return [*words, "--seed", str(record.synthesis_seed)]


def _pack_words(record: "Record") -> list[str]:
    """How the labels of that set are packed."""
    words, labels = ["pack-labels", WHOLE, *folder_words(record.dataset)], record.recipe["labels"]
    for name in ("encoding", "topk", "ratio", "bytes", "keep", "draw", "seed"):
        if labels.get(name) is not None:
            words += [f"--{name}", str(labels[name])]
    return [*words, "--out", PACKED]


def _own_recipe(record: "Record") -> str:
    """The name of the recipe; of a set whose labels were packed, of the recipe that made the set."""
    labels = record.recipe.get("labels")
    return str(labels.get("recipe")) if isinstance(labels, dict) else record.recipe_name


def _recipe_words(record: "Record") -> list[str]:
    """The recipe's name and what was changed in it; a recipe that is not published here is named as a file."""
    base = _own_recipe(record).removesuffix("+set")
    entry = _published(record, base)
    if entry is None:
        return ["--recipe", f"{base}.toml"]
    words = ["--recipe", base]
    if base == _own_recipe(record):
        return words
    hyper, network = entry
    own = _hyper(record)
    if network != record.distill_network:
        words += ["--distill-network", str(record.distill_network)]
    for key, value in own.items():
        if hyper.get(key, ...) != value:
            words += ["--set", f"{key}={plain(value)}"]
    return words


def _hyper(record: "Record") -> dict[str, Any]:
    """The hyper-parameters of a recipe; none where a stranger's record has something else there."""
    found = record.recipe.get("hyper")
    return found if isinstance(found, dict) else {}


def _published(record: "Record", name: str) -> tuple[dict[str, Any], str] | None:
    """Hyper-parameters and canonical network of a published recipe, defaults filled in; None if it is not here."""
    from ddbench.budget import Budget
    from ddbench.data import describe
    from ddbench.distillation.method import find_method
    from ddbench.distillation.recipes import GENERIC, entries_for, published
    from ddbench.networks import canonical

    try:
        method = find_method(record.method)
        file = published(method)
        fields, network = file.generic, method.network
        if name != GENERIC:
            budget = Budget.from_json(record.budget)
            entry = next(e for e in entries_for(file, record.dataset, budget) if e.name == name)
            fields, network = entry.hyper, entry.network
        side = describe(record.dataset).side if "@" not in record.dataset else None
        defaults = {k: f.get_default() for k, f in method.hyper.model_fields.items() if not f.is_required()}
        return {**defaults, **fields}, canonical(network, side=side) if side else str(record.distill_network)
    except (UsageError, StopIteration):
        return None
