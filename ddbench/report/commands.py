"""Commands that make a score again: of a record, and the words that they are made of."""

import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from ddbench.budget import Budget
from ddbench.errors import UsageError
from ddbench.records.record import Record, Run
from ddbench.report.format import plain

WHOLE, PACKED = "SET.safetensors", "PACKED.safetensors"


def commands_again(record: Record) -> Iterator[str]:
    """A command per setting that makes a record's runs again; before them, those that make and pack a packed set."""
    if record.imported:
        words = file_words(record.imported, record.dataset, record.method)
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


def _snapshot_words(runs: Sequence[Run]) -> list[str]:
    """The shares of the distillation at which runs were scored on the way; the last step is the run's own."""
    steps = {each.step for run in runs for each in run.snapshots or ()}
    last = max(steps, default=0)
    shares = ",".join(f"{step / last:.9g}" for step in sorted(steps - {last}))
    return ["--snapshots", f"{shares}," if "," not in shares else shares] if shares else []


def needed(record: Record) -> Iterator[str]:
    """What the commands name that whoever repeats them has to have."""
    if record.imported:
        yield f"the file is the imported set of hash {record.imported}"
    elif _published(record, _own_recipe(record).removesuffix("+set")) is None:
        yield "the recipe is not published: write the file from what stands above"
    if record.borrowed:
        yield f"--borrow names the set of {record.borrowed} whose student recipe has the hash {record.student_recipe_hash}"
    if "@" in record.dataset:
        yield f"PATH is the folder whose content gives {record.dataset}"


def _set_words(record: Record) -> list[str]:
    """The method and everything that its set is made of."""
    budget = size_words(record.budget.get("ipc"), record.budget.get("fraction"))
    words = [record.method, *data_words(record.dataset), *budget, *_recipe_words(record)]
    return [*words, "--seed", str(record.synthesis_seed)]


def _pack_words(record: Record) -> list[str]:
    """How the labels of that set are packed."""
    words, labels = ["pack-labels", WHOLE, *folder_words(record.dataset)], record.recipe["labels"]
    for name in ("encoding", "topk", "ratio", "bytes", "keep", "draw", "seed"):
        if labels.get(name) is not None:
            words += [f"--{name}", str(labels[name])]
    return [*words, "--out", PACKED]


def _own_recipe(record: Record) -> str:
    """The name of the recipe; of a set whose labels were packed, of the recipe that made the set."""
    labels = record.recipe.get("labels")
    return str(labels.get("recipe")) if isinstance(labels, dict) else record.recipe_name


def _recipe_words(record: Record) -> list[str]:
    """The recipe's name and what was changed in it; a recipe that is not published here is named as a file."""
    base = _own_recipe(record).removesuffix("+set")
    entry = _published(record, base)
    if entry is None:
        return ["--recipe", f"{base}.toml"]
    words = ["--recipe", base]
    if base == _own_recipe(record):
        return words
    hyper, network = entry
    own = hyper_of(record)
    if network != record.distill_network:
        words += ["--distill-network", str(record.distill_network)]
    for key, value in own.items():
        if hyper.get(key, ...) != value:
            words += ["--set", f"{key}={plain(value)}"]
    return words


def _published(record: Record, name: str) -> tuple[dict[str, Any], str] | None:
    """Hyper-parameters and canonical network of a published recipe, defaults filled in; None if it is not here."""
    from ddbench.data.registry import describe
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


def data_words(dataset: str) -> list[str]:
    """The data set; of a folder its name, and PATH for where it is."""
    family, folder, _ = dataset.partition("@")
    return ["--dataset", "folder:PATH", "--dataset-name", family] if folder else ["--dataset", family]


def folder_words(dataset: str) -> list[str]:
    """The data set beside a set's file, which says it itself unless it was made on a folder."""
    return data_words(dataset) if "@" in dataset else []


def size_words(ipc: float | None, fraction: float | None) -> list[str]:
    """The budget; nothing for all the data."""
    if ipc is not None:
        return ["--ipc", str(ipc)]
    return [] if fraction is None or fraction != fraction else ["--fraction", str(fraction)]


def file_words(set_hash: str, dataset: str, name: str | None = None) -> list[str]:
    """The evaluation of a set that is known by its hash, which stands for its file; `name`: of an imported one."""
    named = ["--name", name] if name else []
    return ["evaluate", f"SET-{set_hash[:12]}.safetensors", *named, *folder_words(dataset)]


def borrow_words(lender: str | None) -> list[str]:
    """Whose student recipe is borrowed, if anyone's: the method of the set that ships it."""
    return ["--borrow", f"SET-OF-{lender}.safetensors"] if lender else []


def scoring_words(protocol: str, network: str, seeds: Collection[int], setting: Mapping[str, Any]) -> list[str]:
    """How a set is scored; `setting` has the device, threads, precision, devices, and whether steps are compiled.

    A comma is behind a single seed, which would be a number of seeds without.
    """
    text = ",".join(map(str, sorted(seeds))) + ("," if len(seeds) == 1 else "")
    words = ["--protocol", protocol, "--network", network, "--seeds", text]
    words += ["--device", setting["device"], "--threads", str(setting["threads"])]
    words += ["--devices", str(setting["devices"])] if setting["devices"] > 1 else []
    words += ["--precision", setting["precision"]] if setting["precision"] != "float32" else []
    return [*words, "--compile", "on"] if setting["compiled"] else words


def hyper_of(record: Record) -> dict[str, Any]:
    """The hyper-parameters of a recipe; none where a stranger's record has something else there."""
    found = record.recipe.get("hyper")
    return found if isinstance(found, dict) else {}
