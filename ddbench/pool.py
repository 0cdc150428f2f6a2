"""Work in this process or in several: a queue that grows as work is done, and survives the death of a worker."""

import logging
import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any

from ddbench.errors import CannotWrite, JobFailed, NotDefined, UsageError
from ddbench.progress import Reporter

log = logging.getLogger("ddbench")
PRELOAD = ["ddbench.jobs", "torch._dynamo"]
"""What every worker needs and imports slowly: imported once, by the server that they are forked from."""
ATTEMPTS = 3
"""How often a piece of work is tried whose worker dies under it (killed, out of memory)."""


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
    """What came of a piece of work: `value`, or an error and what kind of one it is.

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
    from ddbench.evaluation import NotScored

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


def run_all(
    first: Iterable[Work],
    done: Callable[[Work, Outcome], Sequence[Work]],
    *,
    workers: int = 1,
    reporter: Reporter | None = None,
) -> None:
    """Do all work, and what follows from it, in the order given as far as workers allow.

    Args:
        first: what to do.
        done: called in this process with each outcome; gives the work that follows, which goes to the front.
        workers: processes; 1 stays in this one.
        reporter: shown how many pieces are done.
    """
    queue, show = deque(first), reporter or Reporter()
    if workers == 1 or not queue:
        _run_here(queue, done, show)
    else:
        _run_apart(queue, done, workers, show)


def _run_here(queue: deque[Work], done: Callable[[Work, Outcome], Sequence[Work]], show: Reporter) -> None:
    finished = 0
    while queue:
        work = queue.popleft()
        queue.extendleft(reversed(done(work, attempt(work.call, work.job, show))))
        finished += 1
        show.advance("jobs", finished, finished + len(queue))


def _run_apart(
    queue: deque[Work], done: Callable[[Work, Outcome], Sequence[Work]], workers: int, show: Reporter
) -> None:
    running: dict[Future[Outcome], Work] = {}
    lost: list[Work] = []
    finished, pool, broken = 0, _open(workers), False
    try:
        while queue or running or lost:
            broken = broken or not _fill(pool, queue, running, workers)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                work = running.pop(future)
                try:
                    outcome = future.result()
                except BrokenProcessPool:
                    lost.append(work)
                    broken = True
                    continue
                queue.extendleft(reversed(done(work, outcome)))
                finished += 1
                show.advance("jobs", finished, finished + len(queue) + len(running))
            if broken and not running:
                pool.shutdown(wait=False, cancel_futures=True)
                pool, broken = _open(workers), False
                for dead in _given_up(lost, queue):
                    queue.extendleft(reversed(done(dead, Outcome(failure="its worker process died"))))
                    finished += 1
                lost.clear()
    except BaseException:
        for child in list((pool._processes or {}).values()):
            child.terminate()
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _fill(pool: ProcessPoolExecutor, queue: deque[Work], running: dict[Future[Outcome], Work], workers: int) -> bool:
    """Submit what workers are free for; False if the pool is found broken.

    Work that was lost once runs alone, so that the next death can be blamed on it.
    """
    while queue and len(running) < workers:
        if running and (queue[0].attempts or any(work.attempts > 1 for work in running.values())):
            break
        work = queue.popleft()
        try:
            future = pool.submit(attempt, work.call, work.job)
        except BrokenProcessPool:  # a worker died while it had nothing to do
            queue.appendleft(work)
            return False
        work.attempts += 1
        running[future] = work
    return True


def _given_up(lost: list[Work], queue: deque[Work]) -> list[Work]:
    """Put work that may be tried again at the front of the queue; return the rest."""
    again = [work for work in lost if work.attempts < ATTEMPTS]
    if again:
        log.warning("a worker process died: %d jobs are tried again", len(again))
    queue.extendleft(reversed(again))
    return [work for work in lost if work.attempts >= ATTEMPTS]


def _open(workers: int) -> ProcessPoolExecutor:
    known = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in known else "spawn")
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload(PRELOAD)
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(dict(os.environ),))


def _begin(environment: dict[str, str]) -> None:
    """Start of a worker: the driver's environment as it is now; Ctrl-C is the driver's; none outlives its driver.

    A fork server keeps the environment that it was started with, and is itself kept alive by its children: so the
    environment is handed on, and what is watched is the driver, not the parent.
    """
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    driver = multiprocessing.parent_process()

    def watch() -> None:
        if driver is not None:
            driver.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
