"""One student under one protocol: from a SynSet to a record with one run."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from ddbench import networks
from ddbench.data.dataset import Dataset
from ddbench.data.spaces import Transform, transform_for
from ddbench.errors import JobFailed, NotScored, UsageError, first_problem
from ddbench.evaluation.protocol import Protocol
from ddbench.evaluation.reference_teacher import measured_accuracy, reference_teacher
from ddbench.evaluation.sizes import bytes_of
from ddbench.hashing import digest
from ddbench.records.record import Record, Run, SynSetFacts, TeacherFacts, now
from ddbench.synset.synset import SynSet, check_dataset
from ddbench.synset.targets import Binding, online_teacher, targets_of
from ddbench.synset.teachers import Teacher
from ddbench.synset.views import drawn, training_images
from ddbench.system import code
from ddbench.system.environment import commit, versions
from ddbench.training.batch_schedule import BatchSchedule, Labeller
from ddbench.training.compute import Compute, check_devices
from ddbench.training.loop import Training, accuracy, train
from ddbench.training.recipe import StudentRecipe
from ddbench.training.stacked import stackable, train_together

log = logging.getLogger("ddbench")
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class RecipeOwner:
    """Owner of the training recipe that a baseline is trained by: that set's method, and the hash of its recipe (imported: its own)."""

    method: str
    recipe_hash: str


def owner_of(synset: SynSet) -> RecipeOwner:
    """Owner that a set's provenance names."""
    made = synset.provenance
    return RecipeOwner(made.method, made.recipe_hash or synset.hash)


def student_recipe(synset: SynSet, dataset: Dataset, protocol: Protocol, network: str | None) -> StudentRecipe:
    """Training of a student on this set: the protocol's, or the set's own.

    Raises:
        NotScored: the protocol plays the set's own recipe, and the set has none.
    """
    if not protocol.shipped:
        return protocol.student(dataset, network)
    own = synset.student_recipe
    if own is None:
        raise NotScored(f"the set ships no student recipe, so {protocol.name} does not score it")
    name = networks.canonical(network or own.network, side=dataset.side)
    return own.model_copy(update={"network": name})


def evaluate_seeds(
    synset: SynSet,
    dataset: Dataset,
    protocol: Protocol,
    *,
    seeds: Sequence[int],
    setting: Compute,
    network: str | None = None,
    label: str | None = None,
    owner: RecipeOwner | None = None,
    progress: Progress | None = None,
) -> Record:
    """Train students on a set, one a seed, and test them; the record holds these runs.

    A student that diverges gives a failed run with its reason. See `base_record` for `label` and `owner`.

    Raises:
        NotScored: the protocol does not apply to this set.
        UsageError: the set does not fit the data set, the network is unknown, a teacher is missing.
    """
    check_dataset(synset, dataset)
    check_devices(setting)
    device = setting.apply()
    recipe = student_recipe(synset, dataset, protocol, network)
    trained_by = protocol.reference(dataset)
    reference = reference_teacher(trained_by, dataset, device, progress=progress) if trained_by else None
    record = base_record(synset, protocol, recipe, label=label, owner=owner)
    teachers = [reference] if reference else []
    if recipe.labels == "targets":
        kind, _ = targets_of(synset)
        teachers += kind.teachers(synset)
    facts = {
        teacher.hash: TeacherFacts(
            network=teacher.network,
            accuracy=measured_accuracy(teacher, dataset, device),
            reference=teacher is reference,
            recipe_hash=teacher.recipe_hash,
        )
        for teacher in teachers
    }
    if reference:
        _warn_of_accuracy(protocol, dataset, facts[reference.hash].accuracy)
    about = _synset_facts(synset, dataset, protocol, reference)
    runs = _Students(synset, dataset, protocol, recipe, reference, setting, progress).runs(seeds)
    return record.model_copy(
        update={
            "synsets": {synset.hash: about},
            "teachers": facts,
            "runs": [run.model_copy(update={"teacher": next(iter(facts), None)}) for run in runs],
        }
    )


@dataclass(frozen=True, eq=False)
class _Students:
    """Students of a cell, and what they share."""

    synset: SynSet
    dataset: Dataset
    protocol: Protocol
    recipe: StudentRecipe
    reference: Teacher | None
    setting: Compute
    progress: Progress | None

    def runs(self, seeds: Sequence[int]) -> list[Run]:
        """One run a seed; a stack that the device's memory does not hold is taken in halves."""
        try:
            return self._runs(seeds)
        except torch.OutOfMemoryError:
            if not self.setting.stack or len(seeds) == 1:
                raise
        half = len(seeds) // 2
        log.warning("%d students at once are too many for the device's memory: halved", len(seeds))
        return [*self.runs(seeds[:half]), *self.runs(seeds[half:])]

    def _runs(self, seeds: Sequence[int]) -> list[Run]:
        device, dataset, recipe = torch.device(self.setting.device), self.dataset, self.recipe
        reference, of_teacher = self.reference, self.protocol.space == "teacher"
        space = reference.space if reference is not None and of_teacher else self.synset.space
        images, classes = training_images(self.synset, dataset, device, space)
        shape = {"channels": dataset.channels, "side": dataset.side, "classes": len(dataset.class_names)}
        students = [networks.create(recipe.network, **shape, seed=seed, key=("student",)).to(device) for seed in seeds]
        stacked = self.setting.stack and stackable(students[0], recipe.network, dataset.side)
        execution = self.setting.execution(recipe, dataset, len(images))
        head, dirty = commit()
        about = {
            "synset": self.synset.hash,
            **self.setting.identity(),
            **{"versions": versions(), "commit": head, "dirty": dirty},
            **code_behind(self.synset),
            **{"compiled": execution.compiled, "stacked": stacked},
        }
        try:
            labeller, kept = _labeller(recipe, self.synset, dataset, reference, device)
            schedules = [kept or BatchSchedule(seed, draw=drawn(self.synset)) for seed in seeds]
            how: dict[str, Any] = {"labeller": labeller, "execution": execution, "progress": self.progress}
            if stacked:
                done = train_together(students, images, classes, recipe, schedules=schedules, **how)
            else:
                done = [
                    _trained(student, images, classes, recipe, seed=seed, schedule=schedule, **how)
                    for seed, student, schedule in zip(seeds, students, schedules, strict=True)
                ]
        except JobFailed as failure:  # of all of them: what labels, or the stack
            done = [failure for _ in seeds]
        transform = transform_for(space, dataset)
        return [
            Run(seed=seed, **about, date=now(), **_scored(student, each, dataset, transform, device))
            for seed, student, each in zip(seeds, students, done, strict=True)
        ]


def code_behind(synset: SynSet) -> dict[str, Any]:
    """Fields of a run that say by which code a set was made, where that is known, and by which it is scored here."""
    made = synset.provenance
    known = {} if made.recipe_hash is None or made.seed is None else {"code": made.code, "synthesis": made.synthesis}
    return {**known, "training": code.TRAINING}


def _trained(student: nn.Module, *args: Any, **how: Any) -> Training | JobFailed:
    """`train`, or why it failed."""
    try:
        return train(student, *args, **how)
    except JobFailed as failure:
        return failure


def _scored(
    student: nn.Module, done: Training | JobFailed, dataset: Dataset, transform: Transform, device: torch.device
) -> dict[str, Any]:
    """Fields of a run that say what a student reached, or why nothing: its training failed, or its test."""
    try:
        if isinstance(done, JobFailed):
            raise done
        result = accuracy(student, dataset.test, transform, device)
    except JobFailed as failure:
        return {"status": "failed", "reason": str(failure)}
    return {
        "status": "ok",
        "top1": result.top1,
        "top5": result.top5,
        "per_class": result.per_class,
        "seconds": round(done.seconds, 3),
        "steps": done.steps,
        "final_loss": done.final_loss,
    }


def _labeller(
    recipe: StudentRecipe, synset: SynSet, dataset: Dataset, reference: Teacher | None, device: torch.device
) -> tuple[Labeller | None, BatchSchedule | None]:
    """Give what labels a batch, and the schedule that the labels are bound to, if any."""
    if recipe.labels == "classes":
        return None, None
    if recipe.labels == "targets":
        kind, _ = targets_of(synset)
        return kind.bind(Binding(synset, dataset, device)), kind.schedule(synset)
    if reference is None:
        raise UsageError("the student recipe asks for the reference teacher, which only a soft protocol has")
    in_its_space = replace(synset, space=reference.space, targets=online_teacher(reference))
    kind, _ = targets_of(in_its_space)
    return kind.bind(Binding(in_its_space, dataset, device)), None


@contextmanager
def _provenance_checked() -> Iterator[None]:
    """Raise UsageError where a set's provenance, which its hash does not cover, does not fit into a record."""
    try:
        yield
    except ValidationError as error:
        raise UsageError(f"the set's provenance does not make a record: {first_problem(error)}") from error
    except KeyError as error:
        raise UsageError(f"the set's provenance does not make a record: its recipe has no {error}") from error
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"the set's provenance does not make a record: {error}") from error


def base_record(
    synset: SynSet,
    protocol: Protocol,
    recipe: StudentRecipe,
    *,
    label: str | None = None,
    owner: RecipeOwner | None = None,
) -> Record:
    """Make the record of a set under a protocol, without runs.

    Args:
        synset: distilled here (its provenance has recipe and seed) or imported (its hash stands in for them).
        protocol: the protocol.
        recipe: the resolved student recipe, whose network is the student network.
        label: name of an imported set's method.
        owner: of a matched-recipe baseline: whose training recipe it is.
    """
    with _provenance_checked():
        made, own = synset.provenance, synset.student_recipe
        how: dict[str, Any] = {"student_recipe_hash": own.hash() if protocol.shipped and own else None, "owner": owner}
        if made.recipe_hash is not None and made.seed is not None:
            return planned_record(made.recipe, made.recipe_hash, made.seed, protocol, recipe.network, **how)
        plain = {"name": "imported", "method": label or made.method}
        # IPC is the largest class's count: balance is a property of the set, not of the budget
        return _record(
            protocol,
            recipe.network,
            **how,
            dataset=synset.dataset,
            budget={"ipc": max(synset.per_class())},
            imported=synset.hash,
            recipe=plain,
            recipe_hash=digest(plain),
        )


def planned_record(
    plain: dict[str, Any],
    recipe_hash: str,
    seed: int,
    protocol: Protocol,
    student_network: str,
    *,
    student_recipe_hash: str | None = None,
    owner: RecipeOwner | None = None,
) -> Record:
    """Make the record of a cell of the grid, known before its set is: from a resolved recipe as plain data."""
    return _record(
        protocol,
        student_network,
        owner,
        student_recipe_hash=student_recipe_hash,
        dataset=plain["dataset"],
        budget=plain["budget"],
        distill_network=plain["network"],
        recipe=plain,
        recipe_hash=recipe_hash,
        synthesis_seed=seed,
    )


def _record(
    protocol: Protocol, student_network: str, owner: RecipeOwner | None, *, recipe: dict[str, Any], **fields: Any
) -> Record:
    return Record(
        protocol=protocol.name,
        protocol_version=protocol.version,
        protocol_digest=protocol.digest(),
        student_network=student_network,
        method=recipe["method"],
        recipe=recipe,
        borrowed=owner.method if owner else None,
        lender=owner.recipe_hash if owner else None,
        **fields,
    )


def _synset_facts(synset: SynSet, dataset: Dataset, protocol: Protocol, reference: Teacher | None) -> SynSetFacts:
    with _provenance_checked():
        made = synset.provenance
        cost = {"seconds": made.seconds, "peak_memory": made.peak_memory}
        plain = {key: value for key, value in made.environment.items() if not isinstance(value, dict)}
        return SynSetFacts(
            images=len(synset),
            bytes=_counted(synset, dataset, protocol, reference),
            cost={name: float(value) for name, value in cost.items() if value is not None},
            environment={**plain, **made.environment.get("versions", {})},
            codec=synset.codec if synset.images is not None else "indices",
            space=synset.space.kind,
        )


_BYTES: dict[tuple[str, str, str | None], dict[str, int]] = {}


def _counted(synset: SynSet, dataset: Dataset, protocol: Protocol, reference: Teacher | None) -> dict[str, int]:
    """Bytes by line, counted once per set and protocol; kept by hash, so that no set or teacher stays in memory."""
    key = (synset.hash, protocol.digest(), reference.hash if reference else None)
    if key not in _BYTES:
        _BYTES[key] = bytes_of(synset, dataset, protocol, reference)
    return _BYTES[key]


def _warn_of_accuracy(protocol: Protocol, dataset: Dataset, accuracy: float) -> None:
    """Warn where a reference teacher is more than a point off the accuracy that is kept for its data set."""
    kept = protocol.accuracies.get(dataset.id)
    if kept is not None and abs(accuracy - kept) > 0.01:
        log.warning(
            "the reference teacher of %s on %s reaches %.1f %%, more than a point off the %.1f %% kept for it",
            protocol.name,
            dataset.id,
            100 * accuracy,
            100 * kept,
        )
