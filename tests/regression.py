"""Compare the sets and accuracies of every method on digits between two states of the code, on one machine.

    python tests/regression.py write before.json      # on the old code
    python tests/regression.py compare before.json    # on the new code: exit 1 and a line for each number that differs

Runs commands and reads record files only, so that it survives any move of the code. Every set, teacher and expert is
made anew in an empty cache. Numbers depend on processor and torch, so a file serves the machine that wrote it. No test
runs this: it takes minutes. Whoever moves code does.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PROTOCOLS = "hard-v1,soft-v1,shipped-v1"
IPC, SEEDS, WORKERS = 3, 1, 2


def measure(folder: Path) -> dict[str, dict[str, object]]:
    """Distill and evaluate every method in an empty cache; `method protocol` -> set hash, accuracies, recipe hash."""
    ddbench = str(Path(sys.executable).with_name("ddbench"))
    places = {"DDBENCH_CACHE": str(folder / "cache"), "DDBENCH_RESULTS": str(folder / "results")}
    environment = os.environ | places | {"DDBENCH_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
    listed = subprocess.run([ddbench, "methods", "--json"], env=environment, capture_output=True, check=True)
    methods = ",".join(entry["name"] for entry in json.loads(listed.stdout))
    words = ["sweep", "--methods", methods, "--datasets", "digits", "--ipc", str(IPC), "--protocols", PROTOCOLS]
    words += ["--seeds", str(SEEDS), "--workers", str(WORKERS)]
    subprocess.run([ddbench, *words], env=environment, check=True)
    return dict(sorted(map(numbers, (folder / "results").rglob("*.json"))))


def numbers(path: Path) -> tuple[str, dict[str, object]]:
    """Read what must not change from a record's file."""
    record = json.loads(path.read_text(encoding="utf-8"))
    runs = [[run["seed"], run["synset"], run["teacher"], run["top1"], run["final_loss"]] for run in record["runs"]]
    return f"{record['method']} {record['protocol']}", {"recipe": record["recipe_hash"], "runs": runs}


def main(word: str, file: str) -> int:
    """Write the numbers to a file, or compare them with it; gives the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder))
    if word == "write":
        Path(file).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(f"{len(found)} records written to {file}")
        return 0
    before = json.loads(Path(file).read_text(encoding="utf-8"))
    differ = [name for name in sorted(before.keys() | found.keys()) if before.get(name) != found.get(name)]
    for name in differ:
        print(f"{name}: {before.get(name)} is now {found.get(name)}")
    print(f"{len(found)} records compared, {len(differ)} differ")
    return 1 if differ else 0


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("write", "compare"):
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
