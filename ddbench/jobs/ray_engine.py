"""A grid on Ray: the work of `ddbench.jobs.pool`, wherever a cluster has room for it.

Ray places jobs and says when one's worker or machine died; what is tried again, what follows and what is recorded is
the driver's, as on one machine. A job asks for the threads that it computes with as CPUs, and for GPUs or a part of one. Sets
and stages stay files in the cache folder, made once under a lock, so the driver's cache folder must be there on every
machine, and its code too: a worker that finds it otherwise says so in one line, which ends the run.
"""

import logging
import os
import pickle
import platform
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any
from uuid import uuid4

from ddbench.errors import DDBenchError, UsageError
from ddbench.jobs.pool import ATTEMPTS, PRELOAD, Backlog, Done, Outcome, Work, attempt
from ddbench.progress import Reporter
from ddbench.settings import cache_dir, data_dir, variables_kept
from ddbench.system.files import held, lock_file, locked, look_again

HANDED_ON = ("DDBENCH_", "OMP_", "MKL_", "KMP_", "OPENBLAS_", "ONEDNN_", "TORCH", "CUBLAS_", "CUDNN_", "NVIDIA_TF32_")
"""Beginnings of the environment variables that reach the workers: what a number may depend on, and nothing of a machine's."""
PATIENCE = 10.0  # seconds: to reach an address, and between looks at which machines there are
OBJECT_STORE = 128 * 2**20  # bytes; results are records, small ones


@dataclass(frozen=True)
class RayEngine:
    """Runs a grid's work on Ray (the extra `ray`).

    Attributes:
        address: of a running cluster that this machine belongs to, "auto" or "HOST:PORT"; None: one is started here, and
            ended with the run.
        workers: jobs at a time; None: as many as the cluster has room for, machines that join later included.
        gpus_per_job: that each job gets, 0.5 for two jobs on one, say; None: 1 on CUDA, else 0.
    """

    address: str | None = None
    workers: int | None = None
    gpus_per_job: float | None = None

    def __post_init__(self) -> None:
        if find_spec("ray") is None:
            raise UsageError("engine ray needs the package ray: pip install 'ddbench[ray]'")
        gpus = self.gpus_per_job
        if gpus is not None and not (0 < gpus <= 1 or (gpus > 0 and gpus == int(gpus))):
            raise UsageError(f"GPUs per job must be a part of one, such as 0.5, or a whole number, not {gpus:g}")

    def run_all(self, first: Iterable[Work], done: Done, *, reporter: Reporter | None = None) -> None:
        """Do all work, and what follows from it; see `ddbench.jobs.pool.run_all`.

        Ray tells whose worker died, so that work is tried again beside other work; only its last try is alone. Every job
        has a `compute`, whose threads and device say what is set aside for it.

        Raises:
            UsageError: no cluster there, none that could hold a job, or a machine of it that is not as this one.
            CannotWrite: the cache cannot be written.
        """
        work = list(first)
        if not work:
            return
        needs = self._needs([each.job.compute for each in work])
        backlog = Backlog(work, done, reporter, together=ATTEMPTS - 1)
        with _surroundings() as there, self._cluster(needs) as ray:
            remote = ray.remote(num_cpus=needs["CPU"], num_gpus=needs["GPU"], max_retries=0)(run_there)
            _drive(ray, backlog, partial(_start, remote, there), partial(self._room, ray, needs))

    def _needs(self, computes: Sequence[Any]) -> dict[str, float]:
        """Count what Ray sets aside for a job: enough for any that computes in one of these ways."""
        on_cuda = any(compute.device == "cuda" for compute in computes)
        gpus = float(on_cuda) if self.gpus_per_job is None else self.gpus_per_job
        return {"CPU": max(compute.threads for compute in computes), "GPU": gpus}

    def _room(self, ray: Any, needs: Mapping[str, float]) -> int:
        """Jobs that may run now: one at least, which then waits for a machine that left to come back."""
        return self.workers or max(1, room(ray.nodes(), needs))

    @contextmanager
    def _cluster(self, needs: Mapping[str, float]) -> Iterator[Any]:
        """Within the block, Ray connected, and silent: when a worker dies it prints on stdout, where results go."""
        ray = self._connected(needs["CPU"])
        with redirect_stdout(StringIO()):
            try:
                if not room(ray.nodes(), needs):
                    words = " and ".join(f"{amount:g} {name}s" for name, amount in needs.items() if amount)
                    raise UsageError(f"no machine of the Ray cluster has what a job asks for: {words}")
                yield ray
            finally:
                ray.shutdown()

    def _connected(self, cpus: float) -> Any:
        """Ray, in touch with the cluster: that of the address, or one started here for jobs of so many CPUs."""
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "include_dashboard": False}
        if self.address is None:
            all_cpus = self.workers and self.workers * cpus
            where = {"address": "local", "num_cpus": all_cpus, "object_store_memory": OBJECT_STORE, **quiet}
            # as the local engine's workers: not nicer than what else this machine does
            variables = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
        else:
            check_reachable(self.address)
            where = {"address": self.address, **quiet}
            variables = {"RAY_NUM_REDIS_GET_RETRIES": "1"}  # what answers, but is no Ray, is not asked for minutes
        with _environment(variables):
            import ray

            try:
                ray.init(**where)
            except Exception as error:  # it raises of many kinds
                reason = " ".join(str(error).split())[:300]
                raise UsageError(f"no Ray cluster at {self.address or 'this machine'}: {reason}") from error
        return ray


def room(nodes: Sequence[Mapping[str, Any]], needs: Mapping[str, float]) -> int:
    """Count the jobs that machines hold at once.

    Args:
        nodes: as `ray.nodes()` tells them.
        needs: of one job, by resource; a job is never spread over machines.
    """
    asked = {name: amount for name, amount in needs.items() if amount}
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    # a ten-thousandth is Ray's own unit: three thirds of a GPU are one
    return sum(min(int(have.get(name, 0) / amount + 1e-4) for name, amount in asked.items()) for have in alive)


def check_reachable(address: str) -> None:
    """Raise UsageError unless HOST:PORT takes connections; Ray itself would try, and complain, for a quarter of an hour."""
    host, _, port = address.rpartition(":")
    if address == "auto":
        return
    if not host or not port.isdecimal() or "/" in host:
        raise UsageError(f"address {address}: auto, or HOST:PORT of a running Ray cluster is needed")
    try:
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise UsageError(f"no Ray cluster at {address}: {error}") from error


def _start(remote: Any, there: "Surroundings", work: Work) -> Any:
    """A future of the work's outcome. Call and job travel packed: what they need is imported when a worker is ready."""
    return remote.remote(there, pickle.dumps((work.call, work.job)))


def _drive(ray: Any, backlog: Backlog, start: Callable[[Work], Any], room: Callable[[], int]) -> None:
    running: dict[Any, Work] = {}
    while backlog:
        now = room()
        while work := backlog.take(now):
            running[start(work)] = work
        for future in ray.wait(list(running), timeout=PATIENCE)[0]:
            work = running.pop(future)
            outcome = _outcome(ray, future)
            if outcome is None:
                backlog.lose([work])
            else:
                look_again(cache_dir() / "synsets")
                backlog.finish(work, outcome)


def _outcome(ray: Any, future: Any) -> Outcome | None:
    """Give the outcome of work; None if it was lost with its worker; raises what ends the run."""
    errors = ray.exceptions
    try:
        result: Outcome | UsageError = ray.get(future)
    except (errors.WorkerCrashedError, errors.OutOfMemoryError, errors.NodeDiedError, errors.ObjectLostError):
        return None
    except errors.RayError as error:
        raise DDBenchError(f"Ray: {' '.join(str(error).split())[-300:]}") from error
    if isinstance(result, UsageError):
        raise result
    return result


@dataclass(frozen=True)
class Surroundings:
    """Facts that every worker must have in common with the driver.

    Attributes:
        variables: of the environment, handed on to it.
        folder: the working folder, which paths in jobs may be relative to.
        token: a path in the cache folder whose lock the driver holds.
        versions: of Python and of the packages that numbers depend on.
        source: digest of ddbench's own.
    """

    variables: Mapping[str, str]
    folder: Path
    token: Path
    versions: Mapping[str, str]
    source: str

    def enter(self) -> None:
        """Make this process one of the driver's workers; UsageError says what is not as it must be."""
        os.environ.update(self.variables)
        try:
            os.chdir(self.folder)
        except OSError as error:
            raise UsageError(
                f"no folder {self.folder}, where the grid was started ({error.strerror}): start it in a folder that all "
                "machines share"
            ) from error
        cache = self.token.parent.parent
        if not lock_file(self.token).exists():
            raise UsageError(
                f"the driver's cache folder {cache} is not there: DDBENCH_CACHE must name a folder that all machines share"
            )
        if not held(self.token):
            raise UsageError(
                f"locks in the cache folder {cache} do not hold between machines: its file system needs them"
            )
        self._check_code()
        for name in PRELOAD:  # before the clock of a job starts
            import_module(name)

    def _check_code(self) -> None:
        from ddbench.system.environment import (  # imports torch, which reads the environment as it is now
            source,
            versions,
        )

        own = versions()
        for name in sorted(self.versions.keys() | own.keys()):
            if self.versions.get(name) != own.get(name):
                raise UsageError(f"{name} is {own.get(name)}, the driver's {self.versions.get(name)}: {SAME}")
        if source() != self.source:
            raise UsageError(f"ddbench's source is not that of the driver, which may have changed since: {SAME}")


SAME = "every machine needs the same"


@contextmanager
def _surroundings() -> Iterator[Surroundings]:
    """This process's, with the lock that workers look for held within the block."""
    from ddbench.system.environment import source, versions

    handed_on = {name: value for name, value in os.environ.items() if name.startswith(HANDED_ON)}
    cache = cache_dir().absolute()
    handed_on |= {"DDBENCH_CACHE": str(cache), "DDBENCH_DATA": str(data_dir().absolute())}
    token = cache / "ray" / uuid4().hex
    with locked(token):
        try:
            yield Surroundings(handed_on, Path.cwd(), token, versions(), source())
        finally:
            lock_file(token).unlink(missing_ok=True)


def run_there(there: Surroundings, packed: bytes) -> Outcome | UsageError:
    """In a worker: make a call; what must end the whole run is given back rather than raised, to stay one line."""
    try:
        there.enter()
        call, job = pickle.loads(packed)
        return attempt(call, job)
    except (UsageError, ImportError, AttributeError) as error:  # the last two: the call's module is another there
        kind = type(error) if isinstance(error, UsageError) else UsageError
        return kind(f"{platform.node()}: {' '.join(str(error).split())}")


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Within the block, variables that the environment has not set already."""
    with variables_kept(*variables):
        for name, value in variables.items():
            os.environ.setdefault(name, value)
        yield
