"""DDP executor: runs jobs one after another, each in several processes that train together."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from ddbench.jobs.pool import Backlog, Done, Outcome, Work, attempt
from ddbench.progress import LineReporter, Reporter
from ddbench.system.rank import follow, follows
from ddbench.training.distributed import launch, node_rank

ONE_JOB = "several devices (--devices, --nodes) take one job at a time: leave --workers out"


@dataclass(frozen=True)
class DDPExecutor:
    """Run a grid's work one job after another, each in several processes that train together.

    Attributes:
        devices: processes on this node.
        nodes: that run the same command, over one results folder and one cache; see `launch`. The driver of the first
            writes the records, that of another follows.
        quiet: the first process does not tell its progress.

    Raises:
        UsageError: several nodes, and the environment does not say which this is.
    """

    devices: int
    nodes: int = 1
    quiet: bool = False

    def __post_init__(self) -> None:
        if self.nodes > 1:
            follow(node_rank(self.nodes))

    def run_all(self, first: Iterable[Work], done: Done, *, reporter: Reporter | None = None) -> None:
        """Do all work, and what follows from it; see `ddbench.jobs.pool.run_all`. The first process tells its own progress."""
        from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

        backlog = Backlog(first, done, reporter)
        while work := backlog.take(1):
            how = {"device": work.job.compute.device, "devices": self.devices, "nodes": self.nodes}
            try:
                outcome = launch(_Attempt(self.quiet), work.call, work.job, **how)
            except ProcessExitedException:  # killed, out of memory
                if self.nodes == 1:
                    backlog.lose([work])
                else:  # the other nodes go on with the next job
                    backlog.finish(work, Outcome(failure="one of its processes was killed"))
            except ProcessRaisedException as error:
                backlog.finish(work, Outcome(failure=str(error).strip().splitlines()[-1]))
            else:
                backlog.finish(work, outcome)


@dataclass(frozen=True)
class _Attempt:
    """`pool.attempt` with a reporter; whether it is quiet is a node's own affair, and not part of what is compared."""

    quiet: bool = field(repr=False)

    def __call__(self, call: Callable[..., Any], job: Any) -> Outcome:
        return attempt(call, job, Reporter() if self.quiet or follows() else LineReporter())
