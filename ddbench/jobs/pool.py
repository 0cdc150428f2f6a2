"""Work in this process or in several: a queue that grows as work is done, and survives the death of a worker.

Engines differ in where work runs; what comes next, what is tried again and what is given up is one `Backlog` for all.
"""

import logging
import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Protocol

from ddbench.errors import CannotWrite, JobFailed, NotDefined, NotScored, UsageError
from ddbench.progress import Reporter

log = logging.getLogger("ddbench")
PRELOAD = ["ddbench.jobs.job", "torch._dynamo"]
"""Modules that every worker needs and that import slowly: imported once, by the server that they are forked from."""
ATTEMPTS = 3
"""Number of tries of a piece of work whose worker dies (killed, out of memory)."""
LOST = "its worker process died"


@dataclass(eq=False)
class Work:
    """A call to make, in whichever process.

    Attributes:
        call: a top-level function; its arguments and result can be pickled. With workers=1 it also gets a reporter.
        job: its argument.
        tag: the driver's own note on what the result is for; stays in this process.
        attempts: how often it was started.
    """

    call: Callable[..., Any]
    job: Any
    tag: Any = None
    attempts: int = field(default=0)


@dataclass(frozen=True)
class Outcome:
    """Result of a piece of work: `value`, or an error and its kind.

    Attributes:
        failure: the reason, if the job gave no result (it diverged, died, met a bug).
        usage: the line, if the input was at fault.
        skipped: the reason, if a definition excludes the job.
    """

    value: Any = None
    failure: str | None = None
    usage: str | None = None
    skipped: str | None = None


def attempt(call: Callable[..., Any], *args: Any) -> Outcome:
    """Make a call and turn what it raises into an outcome; only a place that cannot be written is raised on."""
    try:
        return Outcome(call(*args))
    except CannotWrite:
        raise
    except (NotScored, NotDefined) as excluded:
        return Outcome(skipped=str(excluded))
    except JobFailed as failed:
        return Outcome(failure=str(failed))
    except UsageError as error:
        return Outcome(usage=str(error))
    except MemoryError:
        return Outcome(failure="out of memory")
    except Exception as error:
        log.error("unexpected error in a job\n%s", traceback.format_exc())
        return Outcome(failure=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


Done = Callable[[Work, Outcome], Sequence[Work]]
"""Callback of the driver: takes an outcome, in the driver's process, and gives the work that follows, which goes to the front."""


class Engine(Protocol):
    """Runner of a sweep's work: `run_all` below, on this machine, or another with the same meaning."""

    def run_all(self, first: Iterable[Work], done: Done, *, reporter: Reporter | None = None) -> None:
        """Do all work, and what follows from it."""


def run_all(first: Iterable[Work], done: Done, *, workers: int = 1, reporter: Reporter | None = None) -> None:
    """Do all work, and what follows from it, in the order given as far as workers allow.

    Args:
        first: what to do.
        done: called in this process with each outcome; gives the work that follows, which goes to the front.
        workers: processes; 1 stays in this one.
        reporter: shown how many pieces are done.
    """
    backlog = Backlog(first, done, reporter)
    if workers == 1 or not backlog:
        _run_here(backlog, reporter or Reporter())
    else:
        _run_apart(backlog, workers)


class Backlog:
    """Work that waits and work that runs. False when nothing is left of either."""

    def __init__(
        self, first: Iterable[Work], done: Done, reporter: Reporter | None = None, *, together: int = 1
    ) -> None:
        """Begin with `first`; see `run_all`.

        Args:
            first: what to do.
            done: called with each outcome.
            reporter: shown how many pieces are done.
            together: tries of a piece of work beside others; a later one is alone, so that the next death can be
                blamed on it, and on no neighbour.
        """
        self._waiting, self._running, self._finished = deque(first), list[Work](), 0
        self._done, self._show, self._together = done, reporter or Reporter(), together

    def __bool__(self) -> bool:
        return bool(self._waiting or self._running)

    def take(self, room: int) -> Work | None:
        """Take the next piece of work, which runs from now on; None if `room` pieces run, or nothing may join them."""
        if not self._waiting or len(self._running) >= room:
            return None
        suspects = [self._waiting[0].attempts >= self._together, *(w.attempts > self._together for w in self._running)]
        if self._running and any(suspects):
            return None
        work = self._waiting.popleft()
        work.attempts += 1
        self._running.append(work)
        return work

    def put_back(self, work: Work) -> None:
        """Put back work that was taken and did not start."""
        self._running.remove(work)
        work.attempts -= 1
        self._waiting.appendleft(work)

    def finish(self, work: Work, outcome: Outcome) -> None:
        """Tell the driver what came of work that ran."""
        self._running.remove(work)
        self._waiting.extendleft(reversed(self._done(work, outcome)))
        self._finished += 1
        self._show.advance("jobs", self._finished, self._finished + len(self._waiting) + len(self._running))

    def lose(self, lost: Sequence[Work]) -> None:
        """Try again work whose worker died under it, at once, or give it up after `ATTEMPTS`."""
        again = [work for work in lost if work.attempts < ATTEMPTS]
        if again:
            log.warning("a worker process died: %d jobs are tried again", len(again))
        for work in again:
            self._running.remove(work)
        self._waiting.extendleft(reversed(again))
        for work in lost:
            if work.attempts >= ATTEMPTS:
                self.finish(work, Outcome(failure=LOST))


def _run_here(backlog: Backlog, show: Reporter) -> None:
    while work := backlog.take(1):
        backlog.finish(work, attempt(work.call, work.job, show))


def _run_apart(backlog: Backlog, workers: int) -> None:
    while backlog:
        with opened(workers) as pool:
            lost = _run_in(pool, backlog, workers)
        backlog.lose(lost)


def _run_in(pool: ProcessPoolExecutor, backlog: Backlog, workers: int) -> list[Work]:
    """Do work until nothing is left or the pool is broken; the work that ran when it broke."""
    running: dict[Future[Outcome], Work] = {}
    lost: list[Work] = []
    broken = False
    while running or (backlog and not broken):
        broken = broken or not _fill(pool, backlog, running, workers)
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            work = running.pop(future)
            try:
                outcome = future.result()
            except BrokenProcessPool:
                lost.append(work)
                broken = True
            else:
                backlog.finish(work, outcome)
    return lost


def _fill(pool: ProcessPoolExecutor, backlog: Backlog, running: dict[Future[Outcome], Work], workers: int) -> bool:
    """Submit what workers are free for; False if the pool is found broken."""
    while work := backlog.take(workers):
        try:
            running[pool.submit(attempt, work.call, work.job)] = work
        except BrokenProcessPool:  # a worker died while it had nothing to do
            backlog.put_back(work)
            return False
    return True


@contextmanager
def opened(workers: int, *, preload: Sequence[str] = PRELOAD) -> Iterator[ProcessPoolExecutor]:
    """Give a pool of fresh processes. They end at once where an error or Ctrl-C leaves the block, and with this process.

    `preload`: what the server that they are forked from imports.
    """
    known = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in known else "spawn")
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload(list(preload))
    theirs, ours = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(dict(os.environ), theirs))
    with theirs, ours:
        try:
            yield pool
        except BaseException:
            ours.close()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _begin(environment: dict[str, str], driver: Connection) -> None:
    """Start of a worker: the driver's environment as it is now; Ctrl-C is the driver's; none outlives its driver.

    A fork server keeps the environment that it was started with, and is itself kept alive by its children: so the
    environment is handed on, and what is watched is the driver, which alone holds the other end of a pipe.
    """
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        driver.poll(None)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
