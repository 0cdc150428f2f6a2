"""What a folder of records says, whenever, wherever and however often it was begun."""

import json

from ddbench.records.store import RecordStore


def content(root):
    """All that its records say but for dates, seconds, commits and the cost of the distillation, by their keys."""
    found = {}
    for record in RecordStore(root):
        plain = json.loads(record.to_json())
        for run in plain["runs"]:
            del run["date"], run["seconds"], run["commit"], run["dirty"]
        for facts in plain["synsets"].values():
            del facts["cost"], facts["environment"]
        found[record.key_hash()] = plain
    return found
