"""Records: every score is a typed fact in a JSON file, with all that is needed to doubt it.

A record holds the runs of one (protocol, data set, budget, student network, distillation network, resolved recipe,
synthesis seed); for an imported set its hash stands in for the last two. Nothing derived is stored. Accuracies
are fractions in [0, 1], times are seconds, sizes are bytes, hashes are 64 hex digits.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, StringConstraints, ValidationError, field_validator, model_validator

from ddbench.budget import Budget
from ddbench.errors import UsageError, first_problem
from ddbench.hashing import canonical_json, digest
from ddbench.records.statistics import Seeds, Summary, summarize
from ddbench.records.submission import Submission
from ddbench.schema import LARGEST, Count, Fraction, Hash, Name, Number, Plain, Seconds, Strict

if TYPE_CHECKING:
    import pandas as pd

LATER: dict[str, Any] = {"devices": 1, "code": None, "synthesis": 1, "training": 1}
"""Fields of a run that came later: records of runs that have these values keep their text."""


class SynSetFacts(Strict):
    """Facts of a distilled set for tables: its size, what it costs to store and what it cost to make.

    Attributes:
        images: that the set stores, or names by index.
        bytes: a line each, as the record's protocol counts them (`ddbench.evaluation.sizes`).
        cost: of the distillation: "seconds" (wall clock), "peak_memory" (bytes above the level at its start).
        environment: of the distillation: device, threads, precision, versions, processor, commit.
        codec: how images are stored: float, uint8, jpeg75, or indices into the training split.
        space: the kind of space that they live in: pixel, normalised, zca.
    """

    images: Number
    bytes: dict[Name, Count]
    cost: dict[Name, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    environment: dict[Name, Plain] = Field(default_factory=dict)
    codec: Name = "float"
    space: Name = "pixel"


class TeacherFacts(Strict):
    """A teacher that labelled for students.

    Attributes:
        network: its name.
        accuracy: top-1 on the test images.
        reference: whether it is the protocol's reference teacher of this data set.
        recipe_hash: of the training that made it.
    """

    network: Name
    accuracy: Fraction
    reference: bool = False
    recipe_hash: Hash | None = None


class Snapshot(Strict):
    """Accuracy of a student trained on the set as it was on the way of the distillation.

    Attributes:
        step: steps of the distillation that were done.
        top1: of the student that was trained on the set as it was then, with the run's seed.
    """

    step: Count
    top1: Fraction


class RunIdentity(NamedTuple):
    """Fields that tell one run of a record from another; `setting` is the part that a mean must not pool."""

    seed: int
    synset: str | None
    teacher: str | None
    device: str
    precision: str
    compiled: bool
    stacked: bool
    threads: int
    build: str
    devices: int
    code: str | None
    synthesis: int
    training: int

    @property
    def setting(self) -> tuple[str, str, bool, bool, int, str, int, str | None, int, int]:
        """Device, precision, compiled, stacked, threads, build, devices, and the code of method and core."""
        return self[3:]

    @property
    def order(self) -> tuple[Any, ...]:
        """A key to sort by, where None comes first."""
        return tuple("" if part is None else part for part in self)


class Run(Strict):
    """One student trained and tested, or the reason why there is none.

    `failed`: the job gave no result (diverged, out of memory); `n/a`: the method's definition excludes the cell.
    Both have a reason and no accuracy; `ok` has a top-1 accuracy and the hash of the set.

    Attributes:
        seed: evaluation seed.
        synset: hash of the set, a key of the record's `synsets`.
        teacher: hash of the teacher that labelled (of a committee, the first), a key of the record's `teachers`.
        device: its kind.
        precision: of the arithmetic: float32, ...
        compiled: whether the student's steps were compiled.
        stacked: whether it was trained together with the students of other seeds, in one stack of networks.
        threads: of the job, on a CPU.
        build: torch's version with its local part, such as 2.9.0+cpu.
        devices: how many processes, each with a device or threads of its own, trained the student together.
        code: digest of what the method's own modules do (`ddbench.system.code`), of the method that made the set; none: unknown,
            or an imported set.
        synthesis: version of the core's part in the making of the set (`ddbench.system.code.SYNTHESIS`).
        training: version of the core's part in training and test (`ddbench.system.code.TRAINING`).
        status: see above.
        reason: why there is no accuracy.
        top1: accuracy on the test images, of the last step's network.
        top5: likewise, only where there are more than 10 classes.
        seconds: wall clock of the training.
        steps: optimizer steps of the training.
        final_loss: of the last step's batch.
        per_class: top-1 accuracy of each class, in the order of the data set's classes.
        snapshots: accuracies on the way of the distillation, where they were asked for.
        versions: of ddbench, Python and the libraries.
        commit: of ddbench's checkout; none: it was installed without one.
        dirty: whether that checkout held changes.
        date: when the run ended, in UTC.
        wandb: of the run at Weights & Biases: its address, or "offline:" and its folder's name.
    """

    seed: Count
    synset: Hash | None
    teacher: Hash | None = None
    device: Literal["cpu", "cuda"]
    precision: Name
    compiled: bool = False
    stacked: bool = False
    threads: Number
    build: Name
    devices: Number = 1
    code: Hash | None = None
    synthesis: Number = 1
    training: Number = 1
    status: Literal["ok", "failed", "n/a"]
    reason: str | None = None
    top1: Fraction | None = None
    top5: Fraction | None = None
    seconds: Seconds = 0.0
    steps: Count | None = None
    final_loss: float | None = None
    per_class: list[Fraction] | None = None
    snapshots: list[Snapshot] | None = None
    versions: dict[Name, str] = Field(default_factory=dict)
    commit: Name | None = None
    dirty: bool | None = None
    date: str
    wandb: str | None = None

    @field_validator("date")
    @classmethod
    def _date_is_utc(cls, value: str) -> str:
        offset = datetime.fromisoformat(value).utcoffset()
        if offset is None or offset:
            raise ValueError("a UTC date is needed, such as 2026-01-31T12:00:00+00:00")
        return value

    @model_validator(mode="after")
    def _status_agrees(self) -> Self:
        if self.status == "ok" and (self.top1 is None or self.synset is None):
            raise ValueError("status is ok, so top1 and synset are needed")
        if self.status != "ok" and not self.reason:
            raise ValueError(f"status is {self.status}, so a reason is needed")
        if self.status != "ok" and any(x is not None for x in (self.top1, self.top5, self.per_class, self.snapshots)):
            raise ValueError(f"status is {self.status}, so there can be no top1, top5, per_class or snapshots")
        if self.top1 is not None and self.top5 is not None and self.top5 < self.top1:
            raise ValueError("top5 is below top1")
        return self

    def identity(self) -> RunIdentity:
        """Give the fields that make this run the same as another."""
        return RunIdentity(**{name: getattr(self, name) for name in RunIdentity._fields})


class Record(Strict):
    """Runs of one cell of the benchmark and one synthesis seed, and the facts they rest on.

    Attributes:
        schema: version of this schema (`schema_version` in Python).
        protocol: its name, version at the end.
        protocol_version: that version.
        protocol_digest: SHA-256 of all its constants.
        dataset: id of the data set.
        budget: {"ipc": 10}, {"fraction": 0.1} or {"all": true}; of an imported set, IPC of its largest class.
        student_network: that was trained and scored.
        distill_network: that the set was distilled with; none of an imported set.
        student_recipe_hash: under `shipped-v1`, of the student recipe that the set ships.
        method: its name; of an imported set the name that it was given.
        recipe: the resolved recipe: data set, split, budget, network and every hyper-parameter.
        recipe_hash: SHA-256 of `recipe` as canonical JSON.
        synthesis_seed: of the distillation.
        imported: of an imported set: its hash, which stands in for recipe and synthesis seed.
        borrowed: of a baseline trained by another set's student recipe: that set's method.
        lender: that set's recipe hash; its own hash if it was imported.
        synsets: facts of every set that runs name, by its hash.
        teachers: facts of every teacher that labelled, by its hash.
        runs: one for each student.
        supersedes: key hash of the record that this one replaces in tables.
        note: words for people.
        submission: who claims the runs, and where the files are; none: they were made here.
    """

    schema_version: Literal[1] = Field(1, alias="schema")
    protocol: Name
    protocol_version: Number
    protocol_digest: Hash
    dataset: Annotated[Name, StringConstraints(pattern=r"^[^/\\]+$")]
    budget: dict[str, int | float | bool]
    student_network: Name
    distill_network: Name | None = None
    student_recipe_hash: Hash | None = None
    method: Name
    recipe: dict[str, Any]
    recipe_hash: Hash
    synthesis_seed: Count | None = None
    imported: Hash | None = None
    borrowed: Name | None = None
    lender: Hash | None = None
    synsets: dict[Hash, SynSetFacts] = Field(default_factory=dict)
    teachers: dict[Hash, TeacherFacts] = Field(default_factory=dict)
    runs: list[Run] = Field(default_factory=list)
    supersedes: Hash | None = None
    note: str | None = None
    submission: Submission | None = None

    @field_validator("budget")
    @classmethod
    def _budget_is_one(cls, value: dict[str, int | float | bool]) -> dict[str, int | float | bool]:
        match value:
            case {"ipc": int(ipc), **rest} if not rest and not isinstance(ipc, bool) and 1 <= ipc <= LARGEST:
                return value
            case {"fraction": float(fraction), **rest} if not rest and 0 < fraction <= 1:
                return value
            case {"all": True, **rest} if not rest:
                return value
        raise ValueError('one of {"ipc": 1 or more}, {"fraction": above 0 to 1}, {"all": true} is needed')

    @field_validator("recipe")
    @classmethod
    def _recipe_is_plain(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            canonical_json(value)
        except TypeError as error:
            raise ValueError(str(error)) from error
        return value

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        if (self.imported is None) == (self.synthesis_seed is None):
            raise ValueError("either synthesis_seed or imported is needed, and not both")
        if self.recipe_hash != digest(self.recipe):
            raise ValueError("recipe_hash is not the hash of recipe")
        for index, run in enumerate(self.runs):
            if run.synset is not None and run.synset not in self.synsets:
                raise ValueError(f"runs.{index}.synset is not among synsets")
            if run.teacher is not None and run.teacher not in self.teachers:
                raise ValueError(f"runs.{index}.teacher is not among teachers")
        if len({identity for identity, _ in identified(self.runs)}) < len(self.runs):
            raise ValueError("two runs have the same identity")
        if self.submission is not None:
            self._claim_agrees(self.submission)
        return self

    def _claim_agrees(self, claim: Submission) -> None:
        known: dict[str, Mapping[str, object]] = {"set": self.synsets, "teacher": self.teachers}
        for key, file in claim.files.items():
            if file.kind in known and key not in known[file.kind]:
                raise ValueError(f"submission.files.{key}: no such {file.kind} in the record")
        if claim.appeal is not None and self.supersedes is None:
            raise ValueError("submission.appeal: an appeal supersedes a record")

    @property
    def recipe_name(self) -> str:
        """Name of the recipe; "-reduced" at its end marks a reduced run, "+set" fields that were overridden."""
        return str(self.recipe.get("name") or ("imported" if self.imported else "unnamed"))

    @property
    def reduced(self) -> bool:
        """True where the recipe is a cheaper variant of the published one."""
        return self.recipe_name.split("+")[0].endswith("-reduced")

    def group_key(self) -> dict[str, Any]:
        """Give the identifying fields without the synthesis seed: records that share them are draws of one cell.

        A student recipe may hold what was learned, a step size say, and then differs from draw to draw; what made it,
        the set's own recipe or the lender's, does not.
        """
        made = self.imported is None and (self.borrowed is None or self.lender is not None)
        who = {"imported": self.imported} if self.imported else {"recipe_hash": self.recipe_hash}
        if self.lender:
            who["lender"] = self.lender
        return {
            "protocol": self.protocol,
            "protocol_version": self.protocol_version,
            "dataset": self.dataset,
            "budget": self.budget,
            "student_network": self.student_network,
            "distill_network": self.distill_network,
            "student_recipe_hash": None if made else self.student_recipe_hash,
            "method": self.method,
            "borrowed": self.borrowed,
        } | who

    def key(self) -> dict[str, Any]:
        """Give the identifying fields: two records with equal keys are the same record."""
        own = {"student_recipe_hash": self.student_recipe_hash}
        return self.group_key() | own | ({} if self.imported else {"synthesis_seed": self.synthesis_seed})

    def by_setting(self) -> dict[tuple[Any, ...], list[Run]]:
        """Its runs by how they were computed, see `identified`."""
        groups: dict[tuple[Any, ...], list[Run]] = {}
        for identity, run in identified(self.runs):
            groups.setdefault(identity.setting, []).append(run)
        return groups

    def summary(self) -> dict[str, Summary]:
        """Top-1 accuracy with mean, 95 % interval and n (fractions), one entry for each group of runs that may be pooled.

        Runs differ between groups in their set, teacher, compute settings or code; an entry's name says in which.
        Failed runs do not count.
        """
        groups: dict[tuple[Any, ...], dict[Seeds, float]] = {}
        for identity, run in identified(self.runs):
            if run.top1 is not None:
                groups.setdefault(identity[1:], {})[self.synthesis_seed, run.seed] = run.top1
        names = RunIdentity._fields[1:]
        differ = [name for name, values in zip(names, zip(*groups, strict=True), strict=False) if len(set(values)) > 1]
        named = [name for name in names if name in {"device", "precision", "threads", *differ}]

        def label(group: tuple[Any, ...]) -> str:
            values = dict(zip(names, group, strict=True))
            return ", ".join(f"{name} {values[name]!s:.12}" for name in named)

        return {label(group): summarize(samples) for group, samples in groups.items()}

    def to_pandas(self) -> "pd.DataFrame":
        """A row for each run: what the record is about, then the run's fields; accuracies are fractions."""
        import pandas as pd

        about = {
            "method": self.method,
            "recipe": self.recipe_name,
            "dataset": self.dataset,
            "budget": str(Budget.from_json(self.budget)),
            "protocol": self.protocol,
            "student_network": self.student_network,
            "synthesis_seed": self.synthesis_seed,
        }
        return pd.DataFrame([{**about, **run.model_dump()} for run in self.runs], columns=[*about, *Run.model_fields])

    def __repr__(self) -> str:
        """One line: what was scored, mean and half of the 95 % interval in percent, and how many runs there are."""
        what = f"{self.method} ({self.recipe_name}) on {self.dataset}, {Budget.from_json(self.budget)}, {self.protocol}"
        groups = list(self.summary().values())
        score = f"{len(groups)} groups of runs, see summary()" if groups else "no accuracy"
        if len(groups) == 1:
            (each,) = groups
            half = "" if each.high is None else f" ±{100 * (each.high - each.mean):.1f}"
            score = f"{100 * each.mean:.1f}{half} %, n = {each.n}"
        without = sum(run.top1 is None for run in self.runs)
        return f"<Record {what}, {self.student_network}: {score}{f', {without} without result' if without else ''}>"

    __str__ = __repr__

    def key_hash(self) -> str:
        """SHA-256 of the key, 64 hex digits: what `supersedes` of another record names."""
        return digest(self.key())

    def run(self, identity: RunIdentity) -> Run | None:
        """Find the run of that identity (see `identified`), if there is one."""
        return next((run for own, run in identified(self.runs) if own == identity), None)

    def to_json(self) -> str:
        """Write the file's text: sorted keys, two-space indent, a newline at the end."""
        value = self.model_dump(mode="json", by_alias=True)
        if value["submission"] is None:  # fields that came later: records without them keep their text
            del value["submission"]
        for run in value["runs"]:
            for name, usual in LATER.items():
                if run[name] == usual:
                    del run[name]
        return json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> "Record":
        """Read a record strictly; UsageError names `where` (the file), the first bad field, and how many more."""
        try:
            json.loads(text, object_pairs_hook=_unique)
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise UsageError(f"{where}: {first_problem(error)}") from error
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{where}: not a JSON record: {error}") from error


def identified(runs: Iterable[Run], codes: Mapping[str, str] | None = None) -> list[tuple[RunIdentity, Run]]:
    """Runs with their identities; one that does not say which code made its set has the code that `codes` knows of it.

    `codes` are those of the runs themselves (`codes_of`) if none are given.
    """
    every = list(runs)
    known = codes_of(every) if codes is None else codes
    return [(run.identity()._replace(code=run.code or known.get(run.synset or "")), run) for run in every]


def codes_of(runs: Iterable[Run]) -> dict[str, str]:
    """Read from runs the code behind sets, by their hash: equal hashes are equal bits. Of two codes the newest run's."""
    telling = [run for run in runs if run.synset and run.code]
    return {str(run.synset): str(run.code) for run in sorted(telling, key=lambda run: run.date)}


def now() -> str:
    """Give the present moment in UTC, to the second, as a run's `date` is written."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"field {twice!r} is given twice")
    return value
