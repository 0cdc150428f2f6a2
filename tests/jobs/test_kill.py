"""`kill -9` at any moment: the same command finishes the grid, and nobody can tell."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from contents import content

import ddbench
from ddbench.jobs.pool import PRELOAD
from ddbench.settings import cache_dir, results_dir

WORDS = ["nap=0.02", "steps=6"]
SEED = 20260711

SCRIPT = """
import os, sys, toybox
if __name__ == "__main__":
    toybox.sweep_apart(dict(os.environ), sys.argv[1:], workers=2)
"""


def stored_runs():
    files = [path for path in results_dir().rglob("*.json") if not path.name.startswith(".")]
    return sum(len(json.loads(path.read_text())["runs"]) for path in files)  # every file is whole at every moment


def progress(toys):
    return toys.count("step") + 2 * stored_runs()


def disturb(toys, start, stop, alive, kills):
    """Start, wait for some more progress and a moment, kill; `kills` times, then let it finish. Gives the kills done."""
    dice, done = random.Random(SEED), 0
    print(f"seed {SEED}")
    for _ in range(kills):
        process = start()
        goal, moment = progress(toys) + dice.randint(1, 6), dice.uniform(0, 0.1)
        while progress(toys) < goal and alive(process):
            time.sleep(0.01)
        time.sleep(moment)
        print(f"killed {moment:.3f} s after progress {goal}, alive: {alive(process)}")
        done += alive(process)
        stop(process)
    return done


def check_finished(tmp_path, monkeypatch, done):
    assert done >= 2  # else this tested nothing
    disturbed = content(results_dir())
    assert len(disturbed) == 4 and sum(len(record["runs"]) for record in disturbed.values()) == 8
    assert list((cache_dir() / "checkpoints").glob("*.safetensors")) == []
    monkeypatch.setenv("DDBENCH_CACHE", str(tmp_path / "fresh"))
    import toybox

    ddbench.sweep(toybox.a_grid(WORDS), results=tmp_path / "undisturbed")
    assert disturbed == content(tmp_path / "undisturbed")


def test_a_killed_sweep_is_finished_by_the_same_command(toys, tmp_path, monkeypatch):
    import toybox

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)

    def start():
        process = context.Process(target=toybox.sweep_apart, args=(dict(os.environ), WORDS))
        process.start()
        return process

    def stop(process):
        process.kill()
        process.join()

    done = disturb(toys, start, stop, lambda process: process.is_alive(), kills=3)
    last = start()
    last.join()
    assert last.exitcode == 0
    check_finished(tmp_path, monkeypatch, done)


def members(group):
    """Processes of a process group, those that only wait to be reaped left out."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgrp = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(pgrp) == group and state != "Z":
            found.append(int(stat.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_killed_driver_takes_its_workers_along(toys, tmp_path, monkeypatch):
    script = tmp_path / "again.py"
    script.write_text(SCRIPT)

    def start():
        return subprocess.Popen([sys.executable, str(script), *WORDS], start_new_session=True)

    def stop(process):
        process.kill()  # the driver alone
        process.wait()
        deadline = time.monotonic() + 20
        while members(process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        left = members(process.pid)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert left == []

    done = disturb(toys, start, stop, lambda process: process.poll() is None, kills=4)
    last = start()
    assert last.wait() == 0 and len(toys.processes("distill")) >= 2
    check_finished(tmp_path, monkeypatch, done)
