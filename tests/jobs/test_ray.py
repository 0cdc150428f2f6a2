"""Grids on Ray: who is tried again, what a worker must share with the driver, and the same records as on one machine."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray  # no test of what cannot be imported would pass
from command import ddbench as command
from contents import content

import ddbench
from ddbench.budget import Budget
from ddbench.cli.app import INTERRUPTED
from ddbench.errors import CannotWrite, DDBenchError, UsageError
from ddbench.jobs import ray_engine
from ddbench.jobs.pool import ATTEMPTS, Backlog, Outcome, Work
from ddbench.jobs.ray_engine import RayEngine, room, run_there
from ddbench.jobs.sweep import run_cells
from ddbench.records.store import RecordStore
from ddbench.settings import cache_dir, results_dir
from ddbench.system.files import held, locked
from ddbench.training.compute import Compute

# --- what is next, what is tried again, what is given up


def backlog(names, follow=None, together=1):
    """A backlog of works named so, and what becomes of them."""
    told = []

    def done(work, outcome):
        told.append((work.job, outcome.failure))
        return [Work(print, name) for name in (follow or {}).get(work.job, ())]

    return Backlog([Work(print, name) for name in names], done, together=together), told


def taken(log, room):
    return [work.job for work in iter(partial(log.take, room), None)]


def test_what_follows_goes_to_the_front():
    log, told = backlog("ab", {"a": "xy"})
    assert taken(log, 1) == ["a"] and taken(log, 1) == []
    (running,) = log._running
    log.finish(running, Outcome())
    assert taken(log, 2) == ["x", "y"] and told == [("a", None)] and bool(log)


def test_work_that_did_not_start_is_not_counted_as_tried():
    log, _ = backlog("ab")
    work = log.take(2)
    log.put_back(work)
    assert work.attempts == 0 and taken(log, 2) == ["a", "b"]


@pytest.mark.parametrize("together", [1, ATTEMPTS - 1])
def test_lost_work_is_tried_again_beside_others_and_in_the_end_alone(together):
    log, told = backlog("abc", together=together)
    lost, neighbour = log.take(2), log.take(2)
    for _ in range(1, together):
        log.lose([lost])
        assert log.take(2) is lost
    log.lose([lost])
    assert log.take(2) is None  # until its neighbour is done
    log.finish(neighbour, Outcome())
    for _ in range(together, ATTEMPTS):
        assert log.take(2) is lost and log.take(2) is None
        log.lose([lost])
    assert told == [("b", None), ("a", "its worker process died")] and taken(log, 2) == ["c"]


# --- where there is room


def machine(alive=True, **resources):
    return {"Alive": alive, "Resources": resources}


@pytest.mark.parametrize(
    ("needs", "jobs"),
    [
        ({"CPU": 1, "GPU": 0.0}, 12),
        ({"CPU": 3, "GPU": 0.0}, 3),  # no job is spread over machines
        ({"CPU": 1, "GPU": 1.0}, 2),
        ({"CPU": 1, "GPU": 0.5}, 4),
        ({"CPU": 1, "GPU": 1 / 3}, 6),
        ({"CPU": 2, "GPU": 0.1}, 4),
        ({"CPU": 9, "GPU": 0.0}, 0),
    ],
)
def test_room_is_counted_by_machine(needs, jobs):
    assert room([machine(CPU=8.0, GPU=2.0), machine(CPU=4.0), machine(alive=False, CPU=64.0, GPU=8.0)], needs) == jobs


def test_what_a_job_asks_for():
    settings = [Compute(threads=2), Compute(threads=1)]
    assert RayEngine()._needs(settings) == {"CPU": 2, "GPU": 0.0}
    assert RayEngine()._needs([Compute("cuda")]) == {"CPU": 1, "GPU": 1.0}
    assert RayEngine(gpus_per_job=0.25)._needs([Compute("cuda")]) == {"CPU": 1, "GPU": 0.25}


# --- bad input is one line


@pytest.mark.parametrize("gpus", [0, -1, 1.5])
def test_parts_of_gpus(gpus):
    with pytest.raises(UsageError, match=r"a part of one, such as 0\.5, or a whole number"):
        RayEngine(gpus_per_job=gpus)
    assert RayEngine(gpus_per_job=2).gpus_per_job == 2


def closed_port():
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--engine", "rya"), "unknown engine 'rya': did you mean ray?"),
        (("--address", "auto"), "--address and --gpus-per-job go with --engine ray"),
        (("--gpus-per-job", "0.5"), "--address and --gpus-per-job go with --engine ray"),
        (("--engine", "ray", "--gpus-per-job", "1.5"), "GPUs per job must be a part of one"),
        (("--engine", "ray", "--address", "ray://here:10001"), "address ray://here:10001: auto, or HOST:PORT"),
        (("--engine", "ray", "--address", "PORT"), "no Ray cluster at 127.0.0.1:"),
    ],
)
def test_bad_words_are_one_line(words, line):
    words = [f"127.0.0.1:{closed_port()}" if word == "PORT" else word for word in words]
    result = command("sweep", "--methods", "random", "--ipc", "1", "-q", *words)
    assert result.exit_code == 2 and result.stdout == "" and line in result.stderr
    assert result.stderr.count("\n") == 1 and not list(results_dir().rglob("*.json"))


def test_without_ray_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(ray_engine, "find_spec", lambda name: None)
    result = command("sweep", "--methods", "random", "--ipc", "1", "--engine", "ray")
    assert (result.exit_code, result.stderr) == (
        2,
        "ddbench: error: engine ray needs the package ray: pip install 'ddbench[ray]'\n",
    )


def test_nothing_to_do_needs_no_cluster():
    RayEngine(address="127.0.0.1:1").run_all([], lambda work, outcome: [])


def test_cuda_may_be_asked_for_where_there_is_none():
    assert Compute.here("cuda", elsewhere=True).device == "cuda" and Compute.here("cpu", elsewhere=True).device == "cpu"


# --- what a worker must share with the driver


@pytest.fixture
def there(monkeypatch, tmp_path):
    """The driver's surroundings, in a process that may be changed like a worker's."""
    monkeypatch.chdir(tmp_path)
    with ray_engine._surroundings() as found:
        yield found
    assert list((cache_dir() / "ray").iterdir()) == []


def test_a_worker_that_shares_everything_enters(there, monkeypatch, tmp_path):
    monkeypatch.setenv("DDBENCH_CACHE", "elsewhere")
    monkeypatch.chdir(tmp_path.parent)
    there.enter()
    assert Path.cwd() == tmp_path and cache_dir() == there.token.parent.parent and cache_dir().is_absolute()


@pytest.mark.parametrize(
    ("differs", "line"),
    [
        ({"folder": Path("/absent")}, "no folder /absent, where the grid was started"),
        ({"token": Path("/absent/ray/token")}, "the driver's cache folder /absent is not there: DDBENCH_CACHE"),
        ({"versions": {"torch": "1.0"}}, "every machine needs the same"),
        ({"source": "0" * 64}, "ddbench's source is not that of the driver"),
    ],
)
def test_a_worker_that_does_not_says_so_in_one_line(there, differs, line):
    found = run_there(replace(there, **differs), b"")
    assert type(found) is UsageError and line in str(found) and "\n" not in str(found)
    assert str(found).startswith(f"{os.uname().nodename}: ")


def test_locks_that_do_not_hold_between_machines_are_noticed(there):
    free = there.token.with_name("free")
    (there.token.parent / ".free.lock").touch()
    found = run_there(replace(there, token=free), b"")
    assert type(found) is UsageError and "do not hold between machines" in str(found)
    (there.token.parent / ".free.lock").unlink()


def test_a_lock_is_seen_while_it_is_held(tmp_path):
    with locked(tmp_path / "x"):
        assert held(tmp_path / "x")
    assert not held(tmp_path / "x")


def test_what_is_not_installed_on_a_machine_is_one_line(there):
    found = run_there(there, b"cno_such_plugin\ncall\n.")  # a pickle that names a function
    assert type(found) is UsageError and "no_such_plugin" in str(found)


def test_only_what_numbers_depend_on_is_handed_on(monkeypatch):
    for name, value in {"OMP_NUM_THREADS": "3", "CUDA_VISIBLE_DEVICES": "5", "DDBENCH_X": "y", "HOME": "/h"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DDBENCH_CACHE", os.environ["DDBENCH_CACHE"])
    with ray_engine._surroundings() as found:
        handed_on = found.variables
    assert handed_on["OMP_NUM_THREADS"] == "3" and handed_on["DDBENCH_X"] == "y"
    assert not {"CUDA_VISIBLE_DEVICES", "HOME", "PATH"} & handed_on.keys()


# --- what Ray says becomes an outcome, a new try, or the end


class Stand:
    """In Ray's place: every future holds what `get` returns or raises."""

    exceptions = ray.exceptions

    def wait(self, futures, timeout):
        return futures[:1], futures[1:]

    def get(self, future):
        if isinstance(future[0], Exception):
            raise future[0]
        return future[0]


def driven(*answers):
    """Drive one piece of work that Ray answers for so; gives what it came to, and how often it was started."""
    told, starts = [], []

    def start(work):
        starts.append(work.job)
        return (answers[min(len(starts), len(answers)) - 1], len(starts))

    log = Backlog([Work(print, "job")], lambda work, outcome: told.append(outcome) or [], together=ATTEMPTS - 1)
    ray_engine._drive(Stand(), log, start, lambda: 2)
    return told, len(starts)


def test_a_worker_that_dies_is_replaced():
    died, memory = ray.exceptions.WorkerCrashedError(), ray.exceptions.OutOfMemoryError("full")
    assert driven(Outcome(1)) == ([Outcome(1)], 1)
    assert driven(died, memory, Outcome(1)) == ([Outcome(1)], 3)
    assert driven(died) == ([Outcome(failure="its worker process died")], ATTEMPTS)


def test_what_ends_the_run():
    with pytest.raises(UsageError, match="no cache"):
        driven(UsageError("no cache"))
    with pytest.raises(CannotWrite, match="full"):
        driven(CannotWrite("full"))
    with pytest.raises(DDBenchError, match=r"Ray: .*no memory left") as error:
        driven(ray.exceptions.RaySystemError("no memory\nleft"))
    assert "\n" not in str(error.value)


# --- real clusters


def cells(*overrides):
    """Sets of eight steps each, and quick ones of real images."""
    import toybox

    slow = toybox.a_grid(["steps=8", *overrides])
    quick = replace(slow, methods=["random"], budgets=[Budget(ipc=1), Budget(ipc=3)], recipe=None, overrides=())
    return slow.cells() + quick.cells()


def check_as_local(tmp_path, monkeypatch, *overrides):
    """The records are those of the local engine."""
    found = content(results_dir())
    assert len(found) == 12 and sum(len(record["runs"]) for record in found.values()) == 24
    monkeypatch.setenv("DDBENCH_CACHE", str(tmp_path / "fresh"))
    run_cells(cells(*overrides), RecordStore(tmp_path / "local"))
    assert found == content(tmp_path / "local")


def wait_for(what, seconds=300):
    limit = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def cluster():
    """A head without room for jobs, and two machines, in pretence, with room for one job each and half a GPU besides."""
    from ray.cluster_utils import Cluster

    toys = str(Path(__file__).parents[1] / "toys")
    before = dict(os.environ)
    os.environ.update(PYTHONPATH=toys, RAY_USAGE_STATS_ENABLED="0", RAY_worker_niceness="0")
    quick_to_miss = {"health_check_period_ms": 500, "health_check_failure_threshold": 4}
    memory = {"object_store_memory": 2**27}
    found = Cluster(True, head_node_args={"num_cpus": 0, "_system_config": quick_to_miss, **memory})
    found.machines = [found.add_node(num_cpus=1, **memory) for _ in range(2)]
    yield found
    ray.shutdown()
    found.shutdown()
    os.environ.clear()
    os.environ.update(before)


@contextmanager
def beside(call):
    """Run a call in a thread while the block runs; what it raises is raised."""
    raised = []

    def run():
        try:
            call()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield
    thread.join()
    if raised:
        raise raised[0]


@pytest.mark.slow
def test_a_cluster_of_its_own_gives_the_same_records(toys, tmp_path, monkeypatch, capfd):
    engine = RayEngine(workers=2)
    report = run_cells(cells(), RecordStore(results_dir()), engine=engine)
    assert (report.done, report.exit_code()) == (24, 0) and not ray.is_initialized()
    assert capfd.readouterr() == ("", "")
    assert toys.count("distill") == 2 and toys.count("stage") == 1 and str(os.getpid()) not in toys.processes("distill")
    report = run_cells(cells(), RecordStore(results_dir()), engine=RayEngine(address="127.0.0.1:1"))
    assert (report.done, report.reused) == (0, 24)  # all is there: no cluster is looked for
    check_as_local(tmp_path, monkeypatch)


@pytest.mark.slow
def test_a_failing_job_is_recorded_and_the_others_go_on(toys, cluster):
    import toybox

    few = {"protocols": ["toy-hard-v1"], "seeds": (0,), "synthesis_seeds": (0,)}
    failing = replace(toybox.a_grid(["fail=bug"]), **few)
    report = ddbench.sweep(failing, engine=RayEngine(address=cluster.address))
    assert report.exit_code() == 1 and [reason for _, reason in report.failed] == ["RuntimeError: a bug of two lines"]
    dying = replace(failing, overrides=["fail=die", "steps=8"])
    quick = replace(failing, methods=["random"], recipe=None, overrides=())
    found = run_cells(
        dying.cells() + quick.cells(), RecordStore(results_dir()), engine=RayEngine(address=cluster.address)
    )
    assert [reason for _, reason in found.failed] == ["its worker process died"] and found.done == 2
    assert toys.count("distill") == 1 + ATTEMPTS


@pytest.mark.slow
def test_ctrl_c_stops_cleanly_and_the_same_command_goes_on(toys, cluster, tmp_path):
    words = "sweep --methods toy --recipe generic --ipc 1 --seeds 2 --protocols toy-hard-v1 --set nap=0.5 --set steps=8"
    argv = [sys.executable, "-m", "ddbench", *words.split(), "--engine", "ray", "--address", cluster.address]
    default = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(argv, preexec_fn=default, **pipes) as first:
        wait_for(lambda: toys.count("step") >= 2)
        first.send_signal(signal.SIGINT)
        assert first.communicate() == ("", f"{INTERRUPTED}\n") and first.returncode == 130
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in toys.processes("distill")))
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".tmp")]
    assert list((cache_dir() / "ray").iterdir()) == []
    again = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert "2 made" in again.stderr and "toy" in again.stdout and toys.count("step") in (8, 9)


@pytest.mark.slow
def test_two_jobs_share_a_gpu(toys, cluster):
    import toybox

    shared = cluster.add_node(num_cpus=2, num_gpus=1, object_store_memory=2**27)
    told = []
    work = [Work(toybox.meet, SimpleNamespace(compute=Compute())) for _ in range(2)]
    engine = RayEngine(address=cluster.address, gpus_per_job=0.5)
    engine.run_all(work, lambda work, outcome: told.append(outcome.value) or [])
    cluster.remove_node(shared)
    assert told == ["0", "0"]
    with pytest.raises(UsageError, match="no machine of the Ray cluster has what a job asks for: 1 CPUs and 2 GPUs"):
        RayEngine(address=cluster.address, gpus_per_job=2).run_all(work, lambda work, outcome: [])


@pytest.mark.slow
def test_a_worker_and_a_machine_that_die_are_made_up_for(toys, cluster, tmp_path, monkeypatch, capfd, caplog):
    mark = Path(os.environ["DDBENCH_TOY_MARK"])
    mark.touch()

    def sweep():
        report = run_cells(cells("held=true"), RecordStore(results_dir()), engine=RayEngine(address=cluster.address))
        assert (report.done, report.exit_code()) == (24, 0)

    def kill():  # each while both machines hold a set
        try:
            wait_for(lambda: len(toys.processes("step")) == 2)
            os.kill(int(min(toys.processes("step"))), signal.SIGKILL)
            wait_for(lambda: toys.count("distill") == 3)
            cluster.remove_node(cluster.machines[1], allow_graceful=False)
            wait_for(lambda: caplog.text.count("tried again") == 2)
        finally:
            mark.unlink()

    with beside(kill):
        sweep()
    assert caplog.text.count("tried again") == 2 and toys.count("distill") == 4
    assert capfd.readouterr() == ("", "")
    check_as_local(tmp_path, monkeypatch, "held=true")
