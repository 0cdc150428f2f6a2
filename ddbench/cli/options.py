"""Flags, each written once, and how their words are read: the same noun means the same thing everywhere.

Flags that several commands share are fields of a dataclass; a command takes the whole as one parameter (see `command`).
"""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from fractions import Fraction as Exact
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import ddbench
from ddbench.budget import Budget
from ddbench.distillation.method import declared_budgets
from ddbench.errors import UsageError, unknown
from ddbench.settings import default_workers

if TYPE_CHECKING:
    from ddbench.jobs.ddp import DDPExecutor
    from ddbench.jobs.job import DataName
    from ddbench.jobs.pool import Engine as Executor
    from ddbench.training.compute import Compute

O = typer.Option  # noqa: E741 - the flags below stay readable
Text = str | None
IDENTITY = " Part of a run's identity."

MethodName = Annotated[str, typer.Argument(metavar="METHOD", help="Method; ddbench methods lists them.")]
DatasetName = Annotated[str, O("--dataset", "--datasets", metavar="NAME", help="Data set, or folder:PATH.")]
GivenName = Annotated[
    Text, O("--dataset-name", metavar="NAME", help="Name of a folder:PATH in records, instead of its own.")
]
FolderOfSet = Annotated[Text, O("--dataset", metavar="NAME", help="folder:PATH, for a set made on a folder.")]
Recipe = Annotated[
    Text,
    O("--recipe", metavar="NAME|FILE", help="Published recipe, generic, or a TOML file (default: the cell's own)."),
]
Overrides = Annotated[
    list[str] | None, O("--set", metavar="KEY=VALUE", help="Change a hyper-parameter; may be repeated.")
]
DistillNetwork = Annotated[
    Text, O("--distill-network", metavar="NAME", help="Distillation network, instead of the recipe's.")
]
SynthesisSeeds = Annotated[
    str, O("--synthesis-seeds", "--seed", metavar="N|S,..", help="How many synthesis seeds (1), or which (0,3,5).")
]
Seeds = Annotated[
    str, O("--seeds", metavar="N|S,..", help="How many evaluation seeds (5: 0 to 4), or which (0,3,5; 7, is one).")
]
FewSeeds = Annotated[str, O("--seeds", metavar="N|S,..", help="How many evaluation seeds, or which (0,3,5).")]
ProtocolName = Annotated[str, O("--protocol", "--protocols", metavar="NAME", help="Protocol to score by.")]
Protocols = Annotated[str, O("--protocol", "--protocols", metavar="NAMES", help="Protocols, comma-separated.")]
NetworkName = Annotated[
    Text, O("--network", "--networks", metavar="NAME", help="Student network (default: the protocol's).")
]
Networks = Annotated[
    Text,
    O("--network", "--networks", metavar="NAMES", help="Student networks, comma-separated (default: the protocol's)."),
]
Workers = Annotated[
    int | None, O("--workers", metavar="N", min=1, help="Processes; results do not depend on it (DDBENCH_WORKERS, 1).")
]
Devices = Annotated[
    int, O("--devices", metavar="N", min=1, help="GPUs or CPU processes that train one network together." + IDENTITY)
]
Nodes = Annotated[
    int,
    O(
        "--nodes",
        metavar="M",
        min=1,
        help="Machines that run this command, with --devices each: set NODE_RANK, MASTER_ADDR, MASTER_PORT; all see "
        "one folder of results and one cache.",
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
RetryFailed = Annotated[bool, O("--retry-failed", help="Run failed runs again and replace them.")]
Again = Annotated[
    bool, O("--again", help="Distill and train again and replace the runs; experts and teachers are kept.")
]
Snapshots = Annotated[
    Text,
    O(
        "--snapshots",
        metavar="N|SHARE,..",
        help="Also score the set during its distillation: at N even shares of it (4: 0, 0.25, 0.5, 0.75), or at these "
        "(0.1,0.5).",
    ),
]
DryRun = Annotated[
    bool, O("--dry-run", help="Show recipes, what is cached, what would run and an estimate; run nothing.")
]
Wandb = Annotated[bool, O("--wandb", help="Log to Weights & Biases, offline unless logged in.")]
Json = Annotated[bool, O("--json", help="JSON on stdout instead of text.")]
OutFile = Annotated[Path, O("--out", metavar="FILE", help="File to write the set to.", show_default=False)]
Quiet = Annotated[bool, O("--quiet", "-q", help="No progress and no messages; errors still show.")]
Format = Annotated[str, O("--format", metavar="NAME", help="terminal, markdown, csv, latex or json.")]
Superseded = Annotated[bool, O("--superseded", help="Also records that a newer one supersedes.")]


@dataclass(frozen=True)
class DeviceFlags:
    """Where to compute."""

    threads: Annotated[
        int | None, O("--threads", metavar="N", min=1, help="Threads per job (DDBENCH_THREADS, 1)." + IDENTITY)
    ] = None
    device: Annotated[
        Text, O("--device", metavar="NAME", help="auto, cpu or cuda (DDBENCH_DEVICE, auto: CUDA if there is one).")
    ] = None

    def compute(self) -> "Compute":
        """The flags, the environment and the defaults, in this order; see `Compute.here`."""
        return ddbench.Compute.here(self.device, self.threads)


@dataclass(frozen=True)
class ComputeFlags(DeviceFlags):
    """How to compute."""

    precision: Annotated[
        Text,
        O(
            "--precision",
            metavar="WORD",
            help="Of students' steps: float32, bf16, or auto, bf16 on CPUs that have it (DDBENCH_PRECISION, float32)."
            + IDENTITY,
        ),
    ] = None
    compile: Annotated[
        Text,
        O(
            "--compile",
            metavar="WORD",
            help="Compile students' steps: on, off, or auto, where it saves time (DDBENCH_COMPILE, off)." + IDENTITY,
        ),
    ] = None

    def compute(self, *, elsewhere: bool = False, devices: int = 1) -> "Compute":
        """As above, for students too."""
        words = (self.device, self.threads, self.precision, self.compile)
        return ddbench.Compute.here(*words, elsewhere=elsewhere, devices=devices)


@dataclass(frozen=True)
class SetFlags:
    """The one set that is distilled, besides its method."""

    dataset: DatasetName = "digits"
    dataset_name: GivenName = None
    ipc: Annotated[int | None, O("--ipc", metavar="N", help="Images per class.")] = None
    fraction: Annotated[
        float | None, O("--fraction", metavar="F", help="Part of the training images, instead of --ipc.")
    ] = None
    recipe: Recipe = None
    overrides: Overrides = None
    seed: Annotated[int, O("--seed", metavar="S", min=0, help="Synthesis seed.")] = 0
    distill_network: DistillNetwork = None

    def budget(self, method: str) -> Budget:
        """The budget; UsageError if two are given, or none where the method needs one."""
        if self.ipc is not None and self.fraction is not None:
            raise UsageError("give --ipc or --fraction, not both")
        budget = Budget(self.ipc, self.fraction)
        check_sized([method], [budget])
        return budget


@dataclass(frozen=True)
class RunFlags:
    """What becomes of the runs of a grid, and whether it is run at all."""

    results: Results = None
    retry_failed: RetryFailed = False
    again: Again = False
    wandb: Wandb = False
    workers: Workers = None
    dry_run: DryRun = False
    quiet: Quiet = False


@dataclass(frozen=True)
class RayFlags:
    """Where jobs run."""

    engine: Annotated[
        str,
        O(
            "--engine",
            metavar="NAME",
            help="Where jobs run: local (processes of this machine) or ray; results are the same.",
        ),
    ] = "local"
    address: Annotated[
        Text,
        O(
            "--address",
            metavar="ADDR",
            help="With --engine ray: a running cluster, auto or HOST:PORT of its head, used in full or for --workers "
            "jobs; without: a cluster of --workers is started here.",
        ),
    ] = None
    gpus_per_job: Annotated[
        float | None,
        O(
            "--gpus-per-job",
            metavar="F",
            help="With --engine ray: GPUs that a job gets, 0.5 for two jobs on one (1 on CUDA, else 0).",
        ),
    ] = None

    def executor(
        self, workers: int | None, devices: int = 1, nodes: int = 1, *, quiet: bool = False
    ) -> "Executor | None":
        """What runs the jobs; None is this machine's processes.

        Raises:
            UsageError: an unknown engine, one that is not installed, or flags of another.
        """
        if self.engine not in ENGINES:
            raise unknown("engine", self.engine, ENGINES)
        if self.engine == "local":
            if self.address is not None or self.gpus_per_job is not None:
                raise UsageError("--address and --gpus-per-job go with --engine ray")
            return ddp_executor(devices, nodes, workers, quiet=quiet)
        if devices * nodes > 1:
            raise UsageError("--devices and --nodes go with --engine local: Ray places jobs on one device each")
        from ddbench.jobs.ray_engine import RayEngine

        return RayEngine(self.address, workers if self.address else workers or default_workers(), self.gpus_per_job)


@dataclass(frozen=True)
class RecordFlags:
    """Which records are read."""

    results: ResultsToRead = None
    dataset: Annotated[Text, O("--dataset", "--datasets", metavar="NAMES", help="Only these data sets.")] = None
    protocol: Annotated[
        Text,
        O("--protocol", "--protocols", metavar="NAMES", help="Only these protocols (hard-v1) or families (hard)."),
    ] = None
    methods: Annotated[Text, O("--methods", "--method", metavar="NAMES", help="Only these methods.")] = None
    network: Annotated[Text, O("--network", "--networks", metavar="NAMES", help="Only these student networks.")] = None
    former: Annotated[
        bool, O("--former", help="Also rows of code that is no longer there: the method's, or the core's.")
    ] = False

    def chosen(self) -> dict[str, Any]:
        """The flags as arguments of `ddbench.table` and the like."""
        return {
            "results": self.results,
            "datasets": listed(self.dataset, "--dataset"),
            "protocols": listed(self.protocol, "--protocol"),
            "methods": listed(self.methods, "--methods"),
            "networks": listed(self.network, "--network"),
            "former": self.former,
        }


@dataclass(frozen=True)
class TableFlags:
    """How a table is written."""

    form: Format = "terminal"
    out: Annotated[Path | None, O("--out", metavar="FILE", help="Write to a file, not to stdout.")] = None
    explain: Annotated[bool, O("--columns", help="Say what each column of the csv and json means; read nothing.")] = (
        False
    )
    as_json: Json = False


def command(*lines: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function a command, with worked examples at the end of its help.

    A parameter whose type is a dataclass of flags becomes these flags on the command line.
    """

    def made(function: Callable[..., None]) -> Callable[..., None]:
        parameters = inspect.signature(function).parameters.values()
        groups: dict[str, Any] = {each.name: each.annotation for each in parameters if is_dataclass(each.annotation)}
        flags = [
            flag.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for each in parameters
            for flag in (inspect.signature(groups[each.name]).parameters.values() if each.name in groups else [each])
        ]

        @wraps(function)
        def call(**values: Any) -> None:
            whole = {
                name: kind(**{field.name: values.pop(field.name) for field in fields(kind)})
                for name, kind in groups.items()
            }
            function(**values, **whole)

        written: Any = call
        written.__signature__ = inspect.Signature(flags)
        written.__annotations__ = {flag.name: flag.annotation for flag in flags}
        written.examples = examples(*lines)
        return call

    return made


def examples(*lines: str) -> str:
    """The end of a command's help: worked examples, one a line, kept as they are."""
    return "\b\n" + "\n".join(["Examples:" if len(lines) > 1 else "Example:", *(f"  {line}" for line in lines)])


def words(text: str, flag: str) -> list[str]:
    """Comma-separated words, in order, each once; UsageError if there is none."""
    names = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not names:
        raise UsageError(f"{flag}: at least one name is needed")
    return names


def listed(text: str | None, flag: str) -> list[str] | None:
    """Comma-separated words as `words` gives them; None where the flag is not given."""
    return None if text is None else words(text, flag)


def integers(text: str, flag: str) -> list[int]:
    """Comma-separated whole numbers of at least 0."""
    names = words(text, flag)
    wrong = [word for word in names if not (word.isascii() and word.isdecimal())]
    if wrong:
        raise UsageError(f"{flag} {text}: {wrong[0]!r} is not a whole number of at least 0")
    return [int(word) for word in names]


def seeds(text: str, flag: str = "--seeds") -> tuple[int, ...]:
    """Read seeds: "5" is 0 to 4; with a comma, "0,3,5" or "7,", the seeds themselves."""
    numbers = integers(text, flag)
    if "," in text:
        return tuple(numbers)
    if not numbers[0]:
        raise UsageError(f"{flag} {text}: at least one seed is needed")
    return tuple(range(numbers[0]))


ENGINES = ("local", "ray")
UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def byte_count(text: str, flag: str) -> int:
    """A number of bytes: "2000", "2MB" (millions), "1.5MiB" (of 1,048,576), rounded down; UsageError for other words."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([a-z]*)", text.strip().lower(), re.ASCII)
    if match is None or match[2] not in UNITS:
        raise UsageError(f"{flag} {text}: a number of bytes is needed, such as 2000, 500kB, 2MB or 1.5MiB")
    return int(Exact(match[1]) * UNITS[match[2]])


def shares(text: str | None, flag: str = "--snapshots") -> tuple[float, ...]:
    """Read snapshots: "4" is four even shares from 0 on; with a comma or a point, "0.1,0.5" or "0.5", the shares."""
    if text is None:
        return ()
    from ddbench.distillation.snapshots import checked_shares, even_shares  # imports torch

    if "," not in text and "." not in text:
        return even_shares(integers(text, flag)[0])
    try:
        return checked_shares(float(word) for word in words(text, flag))
    except ValueError as error:
        raise UsageError(f"{flag} {text}: shares of the distillation are needed, such as 0.1,0.5") from error


def budgets(ipc: str | None, fraction: str | None) -> list[Budget]:
    """Every budget of a grid; one without size if neither is given, for methods that take everything."""
    sizes = [Budget(ipc=size) for size in (integers(ipc, "--ipc") if ipc is not None else [])]
    for word in words(fraction, "--fraction") if fraction is not None else []:
        try:
            sizes.append(Budget(fraction=float(word)))
        except ValueError as error:
            raise UsageError(f"--fraction {fraction}: {word!r} is not a number") from error
    return sizes or [Budget()]


def check_sized(methods: list[str], sizes: list[Budget]) -> None:
    """Raise UsageError if a method is not installed, or needs a budget and none is given; no method is imported."""
    for name in methods:
        allowed = declared_budgets(name)
        if allowed and "all" not in allowed and any(size.kind == "all" for size in sizes):
            raise UsageError(f"{name} needs {' or '.join(f'--{kind}' for kind in allowed)}")


def ddp_executor(devices: int, nodes: int, workers: int | None, *, quiet: bool = False) -> "DDPExecutor | None":
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
    names = words(text, "--dataset")
    if dataset_name is not None and len(names) > 1:
        raise UsageError("--dataset-name names one folder:PATH; several data sets are given")
    return [ddbench.DataName(name, dataset_name) for name in names]
