"""The flags, each written once, and how their words are read: the same noun means the same thing everywhere."""

import re
from fractions import Fraction as Exact
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ddbench.errors import UsageError, unknown

if TYPE_CHECKING:
    from ddbench.budget import Budget
    from ddbench.jobs.ddp import DDPExecutor
    from ddbench.jobs.job import DataName
    from ddbench.jobs.pool import Engine as RunsWork

O = typer.Option  # noqa: E741 - the flags below stay readable

MethodName = Annotated[str, typer.Argument(metavar="METHOD", help="Method; ddbench methods lists them.")]
DatasetName = Annotated[str, O("--dataset", "--datasets", metavar="NAME", help="Data set, or folder:PATH.")]
Datasets = Annotated[
    str, O("--dataset", "--datasets", metavar="NAMES", help="Data sets, comma-separated; folder:PATH is one.")
]
GivenName = Annotated[
    str | None, O("--dataset-name", metavar="NAME", help="Name of a folder:PATH in records, instead of its own.")
]
FolderOfSet = Annotated[str | None, O("--dataset", metavar="NAME", help="folder:PATH, for a set made on a folder.")]
Ipc = Annotated[int | None, O("--ipc", metavar="N", help="Images per class.")]
Ipcs = Annotated[str | None, O("--ipc", metavar="N,..", help="Images per class, comma-separated.")]
Fraction = Annotated[float | None, O("--fraction", metavar="F", help="Part of the training images, instead of --ipc.")]
Fractions = Annotated[
    str | None, O("--fraction", metavar="F,..", help="Parts of the training images, comma-separated.")
]
Recipe = Annotated[
    str | None,
    O("--recipe", metavar="NAME|FILE", help="Published recipe, generic, or a TOML file (default: the cell's own)."),
]
Set = Annotated[list[str] | None, O("--set", metavar="KEY=VALUE", help="Change a hyper-parameter; may be repeated.")]
Seed = Annotated[int, O("--seed", metavar="S", min=0, help="Synthesis seed.")]
SynthesisSeeds = Annotated[
    str, O("--synthesis-seeds", "--seed", metavar="N|S,..", help="How many synthesis seeds (1), or which (0,3,5).")
]
Seeds = Annotated[
    str, O("--seeds", metavar="N|S,..", help="How many evaluation seeds (5: 0 to 4), or which (0,3,5; 7, is one).")
]
ProtocolName = Annotated[str, O("--protocol", "--protocols", metavar="NAME", help="Protocol to score by.")]
Protocols = Annotated[str, O("--protocol", "--protocols", metavar="NAMES", help="Protocols, comma-separated.")]
NetworkName = Annotated[
    str | None, O("--network", "--networks", metavar="NAME", help="Student network (default: the protocol's).")
]
Networks = Annotated[
    str | None,
    O("--network", "--networks", metavar="NAMES", help="Student networks, comma-separated (default: the protocol's)."),
]
DistillNetwork = Annotated[
    str | None, O("--distill-network", metavar="NAME", help="Distillation network, instead of the recipe's.")
]
Workers = Annotated[
    int | None, O("--workers", metavar="N", min=1, help="Processes; results do not depend on it (DDBENCH_WORKERS, 1).")
]
Engine = Annotated[
    str,
    O(
        "--engine",
        metavar="NAME",
        help="Where jobs run: local, processes on this machine, or ray; results are the same.",
    ),
]
Address = Annotated[
    str | None,
    O(
        "--address",
        metavar="ADDR",
        help="With --engine ray: the cluster of this machine, auto or HOST:PORT of its head; as many jobs run as it has "
        "room for, or --workers. Without: one is started here, of --workers.",
    ),
]
GpusPerJob = Annotated[
    float | None,
    O(
        "--gpus-per-job",
        metavar="F",
        help="With --engine ray: GPUs that a job gets, 0.5 for two jobs on one (1 on CUDA, else 0).",
    ),
]
Devices = Annotated[
    int,
    O(
        "--devices",
        metavar="N",
        min=1,
        help="Processes, each with a GPU or threads of its own, that train each student and teacher together; part of a "
        "run's identity.",
    ),
]
Nodes = Annotated[
    int,
    O(
        "--nodes",
        metavar="M",
        min=1,
        help="Machines that run this same command, with --devices each: NODE_RANK, MASTER_ADDR and MASTER_PORT say which "
        "is which; results and cache are in folders that all see.",
    ),
]
Threads = Annotated[
    int | None,
    O("--threads", metavar="N", min=1, help="Threads per job; part of a run's identity (DDBENCH_THREADS, 1)."),
]
Device = Annotated[
    str | None, O("--device", metavar="NAME", help="auto, cpu or cuda (DDBENCH_DEVICE, auto: CUDA if there is one).")
]
Precision = Annotated[
    str | None,
    O(
        "--precision",
        metavar="WORD",
        help="Of the students' steps: float32, bf16, or auto, bf16 where it is admitted (CPUs that compute in it); part of a run's identity "
        "(DDBENCH_PRECISION, float32).",
    ),
]
Compile = Annotated[
    str | None,
    O(
        "--compile",
        metavar="WORD",
        help="Compile the students' steps: on, off, or auto, where that repays its set-up; part of a run's identity "
        "(DDBENCH_COMPILE, off).",
    ),
]
Results = Annotated[
    Path | None, O("--results", metavar="DIR", help="Folder of records (DDBENCH_RESULTS, ./results/measured).")
]
ResultsToRead = Annotated[
    list[Path] | None,
    O("--results", metavar="DIR", help="Folder of records, may be repeated (DDBENCH_RESULTS, ./results/measured)."),
]
Borrow = Annotated[
    Path | None, O("--borrow", metavar="FILE", help="Train by the student recipe that this set ships (shipped-v1).")
]
Again = Annotated[
    bool,
    O(
        "--again",
        help="Distil and train again, whatever is cached or recorded, and replace the runs; experts and teachers stay.",
    ),
]
RetryFailed = Annotated[bool, O("--retry-failed", help="Run failed runs again and replace them.")]
Snapshots = Annotated[
    str | None,
    O(
        "--snapshots",
        metavar="N|SHARE,..",
        help="Also score the set on the way of its distillation: at N even shares from the start on (4: 0, 0.25, 0.5, "
        "0.75), or at these (0.1,0.5; 0.5, is one).",
    ),
]
DryRun = Annotated[
    bool, O("--dry-run", help="Show recipes, what is cached, what would run and an estimate; run nothing.")
]
Wandb = Annotated[bool, O("--wandb", help="Log to Weights & Biases, offline unless logged in.")]
Json = Annotated[bool, O("--json", help="JSON on stdout instead of text.")]
Quiet = Annotated[bool, O("--quiet", "-q", help="No progress and no messages; errors still show.")]


def examples(*lines: str) -> str:
    """An epilog with worked examples, one a line, kept as they are."""
    return "\b\n" + "\n".join(["Examples:" if len(lines) > 1 else "Example:", *(f"  {line}" for line in lines)])


def words(text: str, flag: str) -> list[str]:
    """Comma-separated words, in order, each once; UsageError if there is none."""
    found = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not found:
        raise UsageError(f"{flag}: at least one name is needed")
    return found


def integers(text: str, flag: str) -> list[int]:
    """Comma-separated whole numbers of at least 0."""
    found = words(text, flag)
    wrong = [word for word in found if not (word.isascii() and word.isdecimal())]
    if wrong:
        raise UsageError(f"{flag} {text}: {wrong[0]!r} is not a whole number of at least 0")
    return [int(word) for word in found]


def seeds(text: str, flag: str = "--seeds") -> tuple[int, ...]:
    """Read seeds: "5" is 0 to 4; with a comma, "0,3,5" or "7,", the seeds themselves."""
    found = integers(text, flag)
    if "," in text:
        return tuple(found)
    if not found[0]:
        raise UsageError(f"{flag} {text}: at least one seed is needed")
    return tuple(range(found[0]))


UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def byte_count(text: str, flag: str) -> int:
    """A number of bytes: "2000", "2MB" (millions), "1.5MiB" (of 1,048,576), rounded down; UsageError for other words."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([a-z]*)", text.strip().lower(), re.ASCII)
    if found is None or found[2] not in UNITS:
        raise UsageError(f"{flag} {text}: a number of bytes is needed, such as 2000, 500kB, 2MB or 1.5MiB")
    return int(Exact(found[1]) * UNITS[found[2]])


def shares(text: str | None, flag: str = "--snapshots") -> tuple[float, ...]:
    """Read snapshots: "4" is four even shares from 0 on; with a comma or a point, "0.1,0.5" or "0.5", the shares."""
    from ddbench.distillation.snapshots import checked_shares, even_shares

    if text is None:
        return ()
    if "," not in text and "." not in text:
        return even_shares(integers(text, flag)[0])
    try:
        return checked_shares(float(word) for word in words(text, flag))
    except ValueError as error:
        raise UsageError(f"{flag} {text}: shares of the distillation are needed, such as 0.1,0.5") from error


def one_budget(ipc: int | None, fraction: float | None) -> "Budget":
    """The budget of a single set; UsageError if both are given."""
    from ddbench.budget import Budget

    if ipc is not None and fraction is not None:
        raise UsageError("give --ipc or --fraction, not both")
    return Budget(ipc, fraction)


def budgets(ipc: str | None, fraction: str | None) -> "list[Budget]":
    """Every budget of a grid; one without size if neither is given, for methods that take everything."""
    from ddbench.budget import Budget

    found = [Budget(ipc=size) for size in (integers(ipc, "--ipc") if ipc is not None else [])]
    for word in words(fraction, "--fraction") if fraction is not None else []:
        try:
            found.append(Budget(fraction=float(word)))
        except ValueError as error:
            raise UsageError(f"--fraction {fraction}: {word!r} is not a number") from error
    return found or [Budget()]


def check_sized(methods: list[str], sizes: "list[Budget]") -> None:
    """Raise UsageError if a method needs a budget and none was given."""
    from ddbench.distillation.method import find_method

    for name in methods:
        allowed = find_method(name).budgets
        if "all" not in allowed and any(size.kind == "all" for size in sizes):
            raise UsageError(f"{name} needs {' or '.join(f'--{kind}' for kind in allowed)}")


ENGINES = ("local", "ray")


def engine(
    name: str,
    address: str | None,
    gpus_per_job: float | None,
    workers: int | None,
    devices: int = 1,
    nodes: int = 1,
    *,
    quiet: bool = False,
) -> "RunsWork | None":
    """What runs the jobs; None is this machine's processes.

    Raises:
        UsageError: an unknown engine, one that is not installed, or flags of another.
    """
    from ddbench.settings import default_workers

    if name not in ENGINES:
        raise unknown("engine", name, ENGINES)
    if name == "local":
        if address is not None or gpus_per_job is not None:
            raise UsageError("--address and --gpus-per-job go with --engine ray")
        return together(devices, nodes, workers, quiet=quiet)
    if devices * nodes > 1:
        raise UsageError("--devices and --nodes go with --engine local: Ray places jobs on one device each")
    from ddbench.jobs.ray_engine import RayEngine

    return RayEngine(address, workers if address else workers or default_workers(), gpus_per_job)


def together(devices: int, nodes: int, workers: int | None, *, quiet: bool = False) -> "DDPExecutor | None":
    """What runs each job in several processes that train together; None where one trains alone.

    Raises:
        UsageError: several workers at once as well.
    """
    if devices * nodes == 1:
        return None
    from ddbench.jobs.ddp import ONE_JOB, DDPExecutor

    if workers is not None and workers > 1:
        raise UsageError(ONE_JOB)
    return DDPExecutor(devices, nodes, quiet)


def data_names(text: str, dataset_name: str | None) -> "list[DataName]":
    """The data sets of a comma list."""
    from ddbench.jobs.job import DataName

    names = words(text, "--dataset")
    if dataset_name is not None and len(names) > 1:
        raise UsageError("--dataset-name names one folder:PATH; several data sets are given")
    return [DataName(name, dataset_name) for name in names]
