"""A record with a submission, for tests that change one thing in it."""

import json

from ddbench.evaluation.protocol import find_protocol
from ddbench.hashing import digest
from ddbench.records.record import Record

SET, OTHER, BYTES = digest("set"), digest("other"), b"the bytes of a set"
FILE = {"kind": "set", "size": 10, "sha256": digest("file"), "address": "https://example.org/a.safetensors"}
WORDS = {"name": "Mine", "authors": ["A. Author"], "licence": "CC-BY-4.0", "code": "https://example.org/code"}


def a_run(seed, top1=0.5, **changes):
    plain = {"seed": seed, "synset": SET, "device": "cpu", "precision": "float32", "threads": 1, "build": "2.9.0"}
    return plain | {"status": "ok", "top1": top1, "date": "2026-01-31T12:00:00+00:00", "dirty": False} | changes


def value(**changes):
    recipe = {"method": "dm", "name": "paper"} | changes.pop("recipe", {})
    plain = {
        "protocol": "hard-v1",
        "protocol_version": 1,
        "protocol_digest": find_protocol("hard-v1").digest(),
        "dataset": "digits",
        "budget": {"ipc": 10},
        "student_network": "convnet-d2-w64",
        "method": "dm",
        "recipe": recipe,
        "recipe_hash": digest(recipe),
        "synthesis_seed": 0,
        "synsets": {SET: {"images": 100, "bytes": {"images": 6400}}},
        "runs": [a_run(seed) for seed in range(3)],
        "submission": {**WORDS, "files": {SET: FILE}},
    }
    return plain | changes


def submitted(**changes):
    """The record of `value`, read as from a file."""
    return Record.from_json(json.dumps(value(**changes)), "x")
