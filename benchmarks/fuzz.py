"""Files of strangers, broken in every way: records, submissions, recipes, SynSets and sealed products.

Each input is a sound file with some of it changed, deleted, repeated, or replaced by what parsers trip over. Whatever is
read must be accepted or refused with a UsageError of one line; anything else is a finding, and is written to --keep.

    python benchmarks/fuzz.py --runs 10000                 # every target, from a seed
    python benchmarks/fuzz.py --target synset --atheris    # guided by coverage, with atheris (pip install atheris)
"""

import argparse
import contextlib
import copy
import inspect
import json
import random
import struct
import sys
import tempfile
import time
import tomllib
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save, save_file

from ddbench.data.registry import load_dataset
from ddbench.data.spaces import make_space
from ddbench.distillation.method import find_method
from ddbench.distillation.recipes import parse, published, read_hyper
from ddbench.errors import UsageError
from ddbench.evaluation.protocol import find_protocol
from ddbench.extras.submit import appeal_problems, claim_problems
from ddbench.hashing import digest
from ddbench.records.record import Record
from ddbench.report.frame import results_frame
from ddbench.synset.synset import Provenance, SynSet, Targets, Views, load
from ddbench.synset.synset import save as save_set
from ddbench.synset.targets import targets_of
from ddbench.synset.teachers import read_teacher
from ddbench.synset.views import training_count
from ddbench.training.recipe import StudentRecipe
from ddbench.training.sealed import look_sealed, write_sealed

NASTY: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 10**30, 10**400, 0.5, -0.0, 1e308, 1e-320),
    *(float("nan"), float("inf"), "", "a", "x" * 5000, "\x00", "\x1b[31m", "\ud800", "\u202e", "../../etc/passwd"),
    *("<script>", "{}", "timm:resnet18", "timm:hf-hub:a/b", "convnet-d3-w99999999", "2026-01-31T12:00:00+00:00"),
    *("file:../x", "https://a@b/c", "hf:a/b", "0" * 64, "inf", "1e999", [], {}, [[]], [None], {"": None}, {"a": {}}),
    *(
        {"name": "sgd"},
        {"name": ["sgd"]},
        {"kind": "soft", "params": []},
        {"ipc": 10},
        {"all": True},
        list(range(1000)),
    ),
)
TEXTS = tuple(value for value in NASTY if isinstance(value, str))


def nasty(rng: random.Random) -> Any:
    """One of the values above, a copy: it may be changed in its turn."""
    return copy.deepcopy(rng.choice(NASTY))


def nested(depth: int, way: bool) -> Any:
    """Lists in lists, or dicts in dicts."""
    value: Any = 1
    for _ in range(depth):
        value = [value] if way else {"a": value}
    return value


# --- mutations


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every part of plain data but the whole, eight levels down."""
    if len(path) == 8:
        return []
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = []
    for key, part in parts:
        found += [(*path, key), *places(part, (*path, key))]
    return found


def mutate_plain(value: Any, rng: random.Random) -> Any:
    """Plain data with one to three parts replaced, removed, repeated or renamed."""
    made = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 2, 3))):
        known = places(made)
        if not known:
            return nasty(rng)
        *path, last = rng.choice(known)
        part = made
        for key in path:
            part = part[key]
        act = rng.randrange(6)
        if act == 0:
            del part[last]
        elif act == 1 and isinstance(part, dict):
            part[rng.choice(("surprise", "", "\x00", "name", "kind", "a" * 300))] = nasty(rng)
        elif act == 2 and isinstance(part, dict):
            part[rng.choice(TEXTS)] = part.pop(last)
        elif act == 3:
            *other, key = rng.choice(known)
            source = made
            try:
                for step in other:
                    source = source[step]
                part[last] = copy.deepcopy(source[key])
            except (KeyError, IndexError, TypeError, RecursionError):  # gone by now, or nested too deep to copy
                part[last] = None
        elif act == 4:
            part[last] = nested(rng.choice((5, 100, 480, 900, 990, 3000)), rng.random() < 0.5)
        else:
            part[last] = nasty(rng)
    return made


def mutate_bytes(raw: bytes, rng: random.Random) -> bytes:
    """Bytes with some changed, cut, repeated or put in."""
    made = bytearray(raw)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(made) + 1)
        act = rng.randrange(5)
        if act == 0 and at < len(made):
            made[at] ^= 1 << rng.randrange(8)
        elif act == 1:
            del made[at : at + rng.choice((1, 4, 100))]
        elif act == 2:
            made[at:at] = rng.choice(
                (b"[" * 2000, b"{", b"}", b'"', b"\\ud800", b"\x00", b"9" * 5000, b"\xff\xfe", b"NaN")
            )
        elif act == 3:
            made[at:at] = made[max(0, at - 50) : at]
        elif act == 4 and len(made) > 2:
            made = made[:at] if rng.random() < 0.3 else made
    return bytes(made)


def dumped(value: Any) -> bytes:
    """JSON, however odd; what cannot be written is written short."""
    try:
        return json.dumps(value).encode("utf-8", "surrogatepass")
    except (RecursionError, ValueError):
        return b"[" * 3000


def toml_of(value: Any) -> str:
    """A TOML inline value; None and other strangers become texts."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return "[" + ", ".join(map(toml_of, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(key))} = {toml_of(part)}" for key, part in value.items()) + "}"
    return json.dumps(str(value))


def toml_file(value: Any) -> bytes:
    """A TOML document of a mutated recipe file."""
    try:
        if not isinstance(value, dict):
            return f"recipe = {toml_of(value)}\n".encode("utf-8", "surrogatepass")
        lines = [f"{json.dumps(str(key))} = {toml_of(part)}" for key, part in value.items()]
        return "\n".join(lines).encode("utf-8", "surrogatepass")
    except (RecursionError, ValueError):
        return b"a = " + b"[" * 3000


# --- what is fuzzed: a sound file, how it is broken, and what reads it


def a_record() -> dict[str, Any]:
    """A record with a claim, as plain data."""
    one, teacher, old = digest("set"), digest("teacher"), digest("old")
    recipe = {"method": "dm", "name": "paper", "hyper": {"lr_img": 1.0}}
    run = {
        "synset": one, "teacher": teacher, "device": "cpu", "precision": "float32", "threads": 1, "build": "2.9.0",
        "status": "ok", "top1": 0.5, "top5": 0.9, "date": "2026-01-31T12:00:00+00:00", "per_class": [0.5, 0.25],
        "snapshots": [{"step": 3, "top1": 0.25}], "versions": {"torch": "2.9.0"}, "commit": "abc", "dirty": False,
    }  # fmt: skip
    file = {"kind": "set", "size": 10, "sha256": digest(1), "address": "https://example.org/a.safetensors"}
    experts = {"kind": "experts", "size": 10, "sha256": digest(1), "address": "hf:a/b@main/c.safetensors"}
    return {
        "schema": 1, "protocol": "hard-v1", "protocol_version": 1, "protocol_digest": find_protocol("hard-v1").digest(),
        "dataset": "digits", "budget": {"ipc": 10}, "student_network": "convnet-d2-w64", "distill_network": "convnet-d2",
        "method": "dm", "recipe": recipe, "recipe_hash": digest(recipe), "synthesis_seed": 0, "note": "a note",
        "synsets": {one: {"images": 100, "bytes": {"images": 6400}, "cost": {"seconds": 1.5}, "environment": {"a": 1}}},
        "teachers": {teacher: {"network": "convnet-d2-bn", "accuracy": 0.98}}, "supersedes": old,
        "runs": [{**run, "seed": seed} for seed in range(3)],
        "submission": {
            "name": "mine", "authors": ["A. Author", "Ä"], "licence": "CC-BY-4.0", "code": "https://example.org/code",
            "paper": "https://arxiv.org/abs/1", "appeal": "better",
            "files": {one: file, digest(2): {**experts, "entry": f"experts/{'0' * 32}/0-1"}},
        },
    }  # fmt: skip


def read_a_record(raw: bytes, folder: Path) -> None:
    """Read it, write it, key it, check its claim, and put it into a table."""
    path = folder / "record.json"
    path.write_bytes(raw)
    from ddbench.records.store import read_record

    record = read_record(path)
    assert Record.from_json(record.to_json(), "again") == record
    record.key_hash()
    list(claim_problems(record))
    list(appeal_problems(record, {record.key_hash(): record}))
    results_frame([record])


def read_a_recipe(raw: bytes, folder: Path) -> None:
    """Read it and fill in the hyper-parameters of every entry."""
    from ddbench.system.files import read_text

    path = folder / "recipe.toml"
    path.write_bytes(raw)
    file, method = parse(read_text(path, 2**20, "recipe file"), "recipe.toml"), find_method("dm")
    read_hyper(method, file.generic, "generic")
    for entry in file.recipe:
        entry.budgets()
        read_hyper(method, entry.hyper, entry.name)


def a_set(folder: Path, part: str) -> bytes:
    """A set with a student recipe, and with targets or views, as they do not go together in every way."""
    digits, generator = load_dataset("digits"), torch.Generator().manual_seed(0)
    labels = torch.randn(10, 10, generator=generator)
    parts = {"targets": Targets("soft", {"form": "logits"}, {"labels": labels}), "views": Views("tiles", {"factor": 2})}
    recipe = {
        "method": "dm", "dataset": "digits", "split_hash": digits.train.hash, "budget": {"ipc": 1},
        "network": "convnet-d2", "hyper": {"lr_img": 0.1}, "name": "paper",
    }  # fmt: skip
    made = SynSet.of(
        digits,
        classes=torch.arange(10),
        space=make_space("normalised", digits),
        images=torch.randn(10, 1, 8, 8, generator=generator),
        **{part: parts[part]},
        student_recipe=StudentRecipe(network="mlp", optimizer={"name": "sgd", "lr": 0.01}, epochs=3, batch=4),
        provenance=Provenance(
            method="dm",
            seed=3,
            recipe=recipe,
            recipe_hash=digest(recipe),
            seconds=1.5,
            peak_memory=10,
            note="n",
            environment={"device": "cpu", "versions": {"torch": "2.9.0"}},
            teachers={"0" * 64: {"role": "expert"}},
        ),
    )
    save_set(made, folder / "sound")
    return (folder / "sound").read_bytes()


def read_a_set(raw: bytes, folder: Path) -> None:
    """Read it, check targets and views, count what a student would train on, make its record."""
    from ddbench.evaluation.evaluate import _synset_facts as facts
    from ddbench.evaluation.evaluate import base_record, student_recipe

    path = folder / "set"
    path.write_bytes(raw)
    synset, digits = load(path), load_dataset("digits")
    if synset.targets is not None:
        kind, _ = targets_of(synset)
        kind.bytes(synset)
    training_count(synset)
    hard = find_protocol("hard-v1")
    base_record(synset, hard, student_recipe(synset, digits, hard, None))
    facts(synset, digits, hard, None)


def resealed(header: Any, tensors: dict[str, torch.Tensor], folder: Path) -> bytes:
    """A set with a changed header whose hash agrees with it, wherever that can be worked out: the deeper checks see it."""
    from ddbench.synset.synset import _assemble

    with contextlib.suppress(Exception):
        header = {**header, "hash": _assemble(header, tensors).hash}
    return save(
        tensors, {"ddbench": dumped(header).decode("utf-8", "surrogatepass").encode("ascii", "replace").decode()}
    )


def mutate_set(raw: bytes, rng: random.Random, folder: Path) -> bytes:
    """Its header's plain data changed, its tensors changed, or its bytes."""
    way = rng.random()
    if way < 0.25:
        return mutate_bytes(raw, rng)
    (folder / "source").write_bytes(raw)
    tensors = load_file(folder / "source")
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(json.loads(raw[8 : 8 + size])["__metadata__"]["ddbench"])
    if way < 0.4:
        name = rng.choice(sorted(tensors))
        odd = (torch.zeros(0), torch.zeros(10), torch.full((10, 10), torch.nan), torch.arange(10) - 1, torch.tensor(3))
        tensors[rng.choice((name, "targets.x", "views.x", "surprise"))] = rng.choice(odd).clone()
    else:
        header = mutate_plain(header, rng)
    return resealed(header, tensors, folder)


def a_teacher(folder: Path) -> bytes:
    """A sealed teacher."""
    from ddbench.networks import create
    from ddbench.synset.teachers import Teacher

    digits = load_dataset("digits")
    state = create("mlp-w8", channels=1, side=8, classes=10).state_dict()
    made = Teacher.of(
        digits, network="mlp-w8", space=make_space("normalised", digits), recipe_hash="0" * 64, state=state
    )
    write_sealed(folder / "teacher", made.state, made.facts())
    return (folder / "teacher").read_bytes()


def mutate_teacher(raw: bytes, rng: random.Random, folder: Path) -> bytes:
    """Its facts changed and sealed again, or its bytes changed."""
    if rng.random() < 0.25:
        return mutate_bytes(raw, rng)
    (folder / "source").write_bytes(raw)
    product = look_sealed(folder / "source")
    try:
        write_sealed(folder / "changed", product.tensors, mutate_plain(product.info, rng))
    except (ValueError, TypeError, RecursionError, UnicodeError):
        save_file(product.tensors, folder / "changed", {"ddbench": "{"})
    return (folder / "changed").read_bytes()


def read_a_teacher(raw: bytes, folder: Path) -> None:
    """Read it as a stranger's."""
    (folder / "stranger").write_bytes(raw)
    read_teacher(folder / "stranger")


Reader = Callable[[bytes, Path], None]
Mutation = Callable[[bytes, random.Random, Path], bytes]


def mutate_json(raw: bytes, rng: random.Random, folder: Path) -> bytes:
    """Plain data changed, or bytes."""
    return mutate_bytes(raw, rng) if rng.random() < 0.3 else dumped(rehashed(mutate_plain(json.loads(raw), rng)))


def rehashed(value: Any) -> Any:
    """A changed record with the hash that its recipe now has, so that other checks see it."""
    try:
        return {**value, "recipe_hash": digest(value["recipe"])}
    except (KeyError, TypeError, ValueError, RecursionError):
        return value


def mutate_toml(raw: bytes, rng: random.Random, folder: Path) -> bytes:
    """Plain data changed, or bytes."""
    return mutate_bytes(raw, rng) if rng.random() < 0.4 else toml_file(mutate_plain(tomllib.loads(raw.decode()), rng))


def targets(folder: Path) -> dict[str, tuple[bytes, Mutation, Reader]]:
    """Each kind of file: a sound one, how it is changed, and what reads it."""
    record = a_record()
    plain = {name: part for name, part in record.items() if name not in ("submission", "supersedes")}
    entries = [entry.model_dump(mode="json", exclude_none=True) for entry in published(find_method("dm")).recipe]
    recipe = toml_file({"method": "dm", "generic": {"lr_img": 1.0}, "recipe": entries[:3]})
    return {
        "record": (dumped(plain), mutate_json, read_a_record),
        "submission": (dumped(record), mutate_json, read_a_record),
        "recipe": (recipe, mutate_toml, read_a_recipe),
        "synset": (a_set(folder, "targets"), mutate_set, read_a_set),
        "views": (a_set(folder, "views"), mutate_set, read_a_set),
        "teacher": (a_teacher(folder), mutate_teacher, read_a_teacher),
    }


def tried(read: Reader, raw: bytes, folder: Path) -> str:
    """What became of one input: "read", "refused", or the traceback of a finding."""
    try:
        read(raw, folder)
    except UsageError as error:
        text = str(error)
        shown = "\n" not in text and text.encode(errors="replace").decode() == text  # it must be possible to print it
        return "refused" if shown else f"an error that is not one printable line: {text!r}"
    except Exception:
        return traceback.format_exc()
    return "read"


def fuzz(name: str, runs: int, seed: int, folder: Path, keep: Path) -> int:
    """Feed a target with mutations of its sound file; returns the number of different findings."""
    sound, mutate, read = targets(folder)[name]
    counts, kinds, start = {"read": 0, "refused": 0}, {}, time.monotonic()
    first = tried(read, sound, folder)
    if first != "read":
        read(sound, folder)
        raise SystemExit(f"{name}: the sound file is not read: {first}")
    for number in range(runs):
        raw = mutate(sound, random.Random(f"{seed} {name} {number}"), folder)
        outcome = tried(read, raw, folder)
        if outcome in counts:
            counts[outcome] += 1
        elif (kind := "\n".join(outcome.splitlines()[-3:])[:300]) not in kinds:
            kinds[kind] = number
            keep.mkdir(parents=True, exist_ok=True)
            (keep / f"{name}-{number}").write_bytes(raw)
            print(f"{name} {number}: {outcome}", flush=True)
    took = time.monotonic() - start
    print(f"{name}: {runs} inputs in {took:.0f} s: {counts}, {len(kinds)} kinds of finding", flush=True)
    return len(kinds)


def own_functions() -> list[Any]:
    """Every function and method of ddbench that is loaded: coverage of torch would drown it."""
    found = {}
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] != "ddbench":
            continue
        owners = [
            module,
            *(kind for kind in vars(module).values() if inspect.isclass(kind) and kind.__module__ == name),
        ]
        for part in (part for owner in owners for part in list(vars(owner).values())):
            if inspect.isfunction(part) and part.__module__ == name:
                found[id(part)] = part
    return list(found.values())


def guided(name: str, runs: int, seed: int, folder: Path) -> None:
    """The same target, inputs chosen by coverage."""
    import atheris

    sound, mutate, read = targets(folder)[name]
    corpus = folder / "corpus"
    corpus.mkdir()
    (corpus / "sound").write_bytes(sound)

    def one(raw: bytes) -> None:
        outcome = tried(read, raw, folder)
        if outcome not in ("read", "refused"):
            raise AssertionError(outcome)

    def changed(raw: bytes, largest: int, mutation_seed: int) -> bytes:
        rng = random.Random(mutation_seed)
        try:
            return mutate(sound if rng.random() < 0.3 else raw, rng, folder)[:largest]
        except Exception:  # no longer a file that its structure can be seen of
            return bytes(atheris.Mutate(raw, largest))

    for function in own_functions():
        atheris.instrument_func(function)
    words = [f"-runs={runs}", f"-seed={seed}", "-max_len=200000", "-timeout=60", "-rss_limit_mb=8000", str(corpus)]
    atheris.Setup([sys.argv[0], *words], one, custom_mutator=changed)
    atheris.Fuzz()


def main() -> None:
    """Read the command line and fuzz."""
    ask = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    ask.add_argument("--target", default="record,submission,recipe,synset,views,teacher")
    ask.add_argument("--runs", type=int, default=10_000, help="inputs of each target")
    ask.add_argument("--seed", type=int, default=0)
    ask.add_argument("--keep", type=Path, default=Path("fuzz-findings"))
    ask.add_argument("--atheris", action="store_true", help="choose inputs by coverage; one target")
    given = ask.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if given.atheris:
            guided(given.target, given.runs, given.seed, Path(folder))
        found = sum(fuzz(name, given.runs, given.seed, Path(folder), given.keep) for name in given.target.split(","))
    raise SystemExit(found > 0)


if __name__ == "__main__":
    main()
