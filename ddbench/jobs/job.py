"""Jobs: distil one set, train one student. Plain values in, files and records out; idempotent by key.

What a job needs is named, not held (data set by name, set by file), so that it can run in another process.
"""

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddbench.data.dataset import Dataset
from ddbench.data.registry import load_dataset
from ddbench.distillation.recipes import Resolved, restore
from ddbench.distillation.snapshots import Snapshots, kept_at
from ddbench.distillation.task import Task
from ddbench.errors import JobFailed, UsageError
from ddbench.evaluation.evaluate import RecipeOwner, evaluate_seeds, owner_of
from ddbench.evaluation.protocol import find_protocol
from ddbench.evaluation.reference_teacher import measured_accuracy
from ddbench.hashing import canonical_json, digest
from ddbench.progress import Reporter
from ddbench.records.record import Record
from ddbench.settings import cache_dir
from ddbench.synset.matched_recipe import match_recipe
from ddbench.synset.synset import SynSet, load, save
from ddbench.synset.teachers import roles
from ddbench.system import code
from ddbench.system.environment import environment, plugin
from ddbench.system.files import locked
from ddbench.training.checkpoints import Checkpoint
from ddbench.training.compute import Compute, check_devices
from ddbench.training.memory import Meter

log = logging.getLogger("ddbench")
PRECISION = "float32"  # in the key of every set; what a recipe asks for is in the recipe, which is in the key too


@dataclass(frozen=True)
class DataName:
    """Name of a data set on the command line: "digits", or "folder:PATH" with a name of its own."""

    name: str
    dataset_name: str | None = None

    def load(self) -> Dataset:
        """Load the data set, once in a process."""
        return load_dataset(self.name, dataset_name=self.dataset_name)


@dataclass(frozen=True)
class DistillJob:
    """One distillation.

    Attributes:
        data: the data set.
        recipe: the resolved recipe as canonical JSON.
        source: where the recipe comes from.
        seed: synthesis seed.
        compute: how to compute.
        snapshots: shares of the distillation at which the set is kept as well; no part of the key.
    """

    data: DataName
    recipe: str
    source: str
    seed: int
    compute: Compute
    snapshots: tuple[float, ...] = ()

    @classmethod
    def of(
        cls, data: DataName, recipe: Resolved, seed: int, compute: Compute, snapshots: tuple[float, ...] = ()
    ) -> "DistillJob":
        """Make the job that makes a set by a resolved recipe; without snapshots where its method has none."""
        shares = snapshots if recipe.method.snapshots else ()
        return cls(data, canonical_json(recipe.to_json()), recipe.source, seed, compute, shares)

    def resolved(self) -> Resolved:
        """Read the recipe back."""
        return restore(json.loads(self.recipe), self.source)

    @property
    def key(self) -> str:
        """Digest of recipe, seed, compute settings, and the code of core and method: the set's name in the cache."""
        resolved = self.resolved()
        compute = {"device": self.compute.device, "threads": self.compute.threads, "precision": PRECISION}
        if self.compute.devices > 1:
            compute["devices"] = self.compute.devices
        made_by = [code.SYNTHESIS, code.of_method(resolved.method.name)]
        return digest([resolved.hash, self.seed, compute, *made_by])[:32]

    @property
    def path(self) -> Path:
        """File of the finished set."""
        return cache_dir() / "synsets" / f"{self.key}.safetensors"

    @property
    def snapshot_folder(self) -> Path:
        """Folder of its snapshots."""
        return self.path.with_suffix(".snapshots")

    def kept_snapshots(self) -> dict[int, Path]:
        """Files of the snapshots that are asked for, by step; none before all are there."""
        return kept_at(self.snapshot_folder, self.snapshots) or {} if self.snapshots else {}

    def label(self) -> str:
        """For people: "dm on digits, IPC 1, seed 0"."""
        recipe = self.resolved()
        return f"{recipe.method.name} on {recipe.dataset}, {recipe.budget}, seed {self.seed}"


def finished(job: DistillJob) -> SynSet | None:
    """Load the cached set of a job; None if there is none, or where snapshots are asked for that are not there.

    A damaged one is logged, removed, and counts as absent.
    """
    return None if job.snapshots and not job.kept_snapshots() else cached_set(job)


def cached_set(job: DistillJob) -> SynSet | None:
    """Load the cached set of a job, with or without snapshots; None if there is none."""
    if not job.path.exists():
        return None
    try:
        return load(job.path)
    except UsageError as error:
        log.warning("cached set is damaged: made again (%s)", error)
        job.path.unlink(missing_ok=True)
        return None


def distill_job(job: DistillJob, reporter: Reporter | None = None) -> SynSet:
    """Make the set of a job, or take it from the cache; a stopped run goes on from its last checkpoint.

    Two processes that want the same set make it once.

    Raises:
        JobFailed: the method says that it diverged.
        NotDefined: the method's definition excludes the cell.
        UsageError: the data set is missing, the budget is above a class's size, ...
    """
    synset = finished(job)
    if synset is not None:
        return synset
    with locked(job.path):
        synset = finished(job)
        if synset is None:
            synset = _kept(job, _distill(job, reporter or Reporter()))
            _checkpoint(job).clear()
    return synset


def forget(job: DistillJob) -> None:
    """Take a job's set, snapshots and checkpoint out of the cache, so that it is made again; stages stay."""
    with locked(job.path):
        job.path.unlink(missing_ok=True)
        shutil.rmtree(job.snapshot_folder, ignore_errors=True)
        _checkpoint(job).clear()


def make_set(job: DistillJob, reporter: Reporter | None = None) -> None:
    """`distill_job` for the file alone: a set may be large, and stays where it is when a worker is done with it."""
    distill_job(job, reporter)


def _kept(job: DistillJob, made: SynSet) -> SynSet:
    """Write a set. One that was made before, and again for its snapshots, stays as it is, with what it cost then."""
    before = cached_set(job)
    if before is not None and before.hash == made.hash:
        return before
    if before is not None:
        log.warning("%s: made again for its snapshots, another set came out; it takes the old one's place", job.label())
    save(made, job.path)
    return made


def _checkpoint(job: DistillJob) -> Checkpoint:
    """Checkpoint of a job's state; one with snapshots does not go on from where some of them were missed."""
    watched = f"-{digest(list(job.snapshots))[:12]}" if job.snapshots else ""
    return Checkpoint(cache_dir() / "checkpoints" / f"{job.key}{watched}.safetensors")


def _distill(job: DistillJob, reporter: Reporter) -> SynSet:
    check_devices(job.compute)
    recipe, device = job.resolved(), job.compute.apply()
    dataset = job.data.load()
    check_budget(recipe, dataset)
    precision = recipe.hyper.execution().precision
    about: dict[str, Any] = {
        "method": recipe.method.name,
        "recipe": recipe.to_json(),
        "recipe_hash": recipe.hash,
        "seed": job.seed,
        "environment": {
            **environment(),
            **plugin(code.METHODS, recipe.method.name),
            "device": job.compute.device,
            "precision": precision,
        },
        "code": code.of_method(recipe.method.name),
        "synthesis": code.SYNTHESIS,
    }

    def on_the_way(synset: SynSet, step: int, total: int) -> SynSet:
        return synset.with_provenance(**about, note=f"after {step} of {total} steps")

    snapshots = Snapshots(job.snapshot_folder, job.snapshots, on_the_way) if job.snapshots else None
    task = Task(
        dataset,
        recipe.budget,
        recipe.network,
        job.seed,
        device,
        reporter=reporter,
        checkpoint=_checkpoint(job),
        snapshots=snapshots,
    )
    with Meter(device) as meter:
        synset = recipe.method.distill(task, recipe.hyper)
    check_balance(synset, recipe)
    measured = credited(task, dataset, reporter)
    teachers = {key: task.teachers.get(key, {}) | measured.get(key, {}) for key in {**task.teachers, **measured}}
    for role, words in roles(teachers):
        reporter.line(f"{role}: {words}")
    if snapshots is not None and not job.kept_snapshots():
        raise JobFailed(f"{recipe.method.name} says that it has snapshots, but did not offer those asked for")
    return synset.with_provenance(
        **about,
        seconds=round(meter.seconds - (snapshots.seconds if snapshots else 0.0), 3),
        peak_memory=meter.peak_memory,
        teachers=teachers,
        note=recipe.source,
    )


def credited(task: Task, dataset: Dataset, reporter: Reporter) -> dict[str, dict[str, Any]]:
    """Facts of the networks that a method credited, by hash, with their accuracies on the test split."""
    facts_of = {}
    for done, credit in enumerate(task.logged_teachers.values(), start=1):
        teacher = credit.teacher()
        accuracy = measured_accuracy(teacher, dataset, task.device)
        facts_of[teacher.hash] = {**credit.facts, "network": teacher.network, "accuracy": accuracy}
        reporter.advance("testing the networks used", done, len(task.logged_teachers))
    return facts_of


def check_budget(recipe: Resolved, dataset: Dataset) -> None:
    """Raise UsageError if the budget asks for more images of a class than there are."""
    ipc = recipe.budget.ipc
    if ipc is None:
        return
    counts = dataset.train.labels.bincount(minlength=len(dataset.class_names))
    smallest = int(counts.argmin())
    if ipc > int(counts[smallest]):
        raise UsageError(
            f"IPC {ipc} is above the size of class {dataset.class_names[smallest]!r} of {dataset.id}: "
            f"{int(counts[smallest])} training images"
        )


def check_balance(synset: SynSet, recipe: Resolved) -> None:
    """Raise JobFailed if a method that declares balance gives a class more or fewer images than the IPC."""
    ipc = recipe.budget.ipc
    if ipc is not None and recipe.method.balanced and any(count != ipc for count in synset.per_class()):
        raise JobFailed(f"{recipe.method.name} gave {synset.per_class()} images per class, not {ipc} each")


@dataclass(frozen=True)
class EvaluateJob:
    """Students on one set: one a job, or all of a cell at once.

    Attributes:
        data: the data set.
        synset: the set's file.
        protocol: its name.
        network: student network; None: the protocol's default.
        seeds: evaluation seeds.
        compute: how to compute.
        lender: file of the set whose student recipe a baseline borrows.
        label: method name of an imported set.
        step: of the distillation, where the set is a snapshot.
    """

    data: DataName
    synset: Path
    protocol: str
    network: str | None
    seeds: tuple[int, ...]
    compute: Compute
    lender: Path | None = None
    label: str | None = None
    step: int | None = None

    def which(self) -> str:
        """For people: "seed 3", "seeds 0, 1, 2"."""
        return f"seed{'s' if len(self.seeds) > 1 else ''} {', '.join(map(str, self.seeds))}"


def borrowed_set(
    synset: SynSet, lender: Path | None, dataset: Dataset, compute: Compute
) -> tuple[SynSet, RecipeOwner | None]:
    """Give the set as it is trained on, with what it borrows from the lender's file, and who lends it."""
    if lender is None:
        return synset, None
    other = load(lender)
    return match_recipe(synset, other, dataset, compute.apply()), owner_of(other)


def evaluate_job(job: EvaluateJob, reporter: Reporter | None = None) -> Record:
    """Train and test the students of a job; see `ddbench.evaluation.evaluate.evaluate_seeds` for what it raises."""
    dataset, show = job.data.load(), reporter or Reporter()
    synset, owner = borrowed_set(load(job.synset), job.lender, dataset, job.compute)
    at = "" if job.step is None else f" at step {job.step}"
    label = f"{synset.provenance.method}{at}, {job.protocol}, {job.which()}"
    return evaluate_seeds(
        synset,
        dataset,
        find_protocol(job.protocol),
        seeds=job.seeds,
        setting=job.compute,
        network=job.network,
        label=job.label,
        owner=owner,
        progress=lambda done, total: show.advance(label, done, total),
    )
