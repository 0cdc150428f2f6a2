"""Estimates: how long a set and a student will take, and how much memory they need.

Where a method says its steps (`ddbench.jobs.steps`), they are multiplied by what a step takes on this device: that needs
no data, and little time for many cells. Where it does not, a probe runs the method's first iterations here and now
(`ddbench.jobs.probe`). A student's steps are always known once its recipe is. Nothing is written but timings of steps.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import torch

from ddbench import networks
from ddbench.budget import Budget
from ddbench.data.dataset import Dataset, DatasetCard, Split
from ddbench.distillation.recipes import Resolved
from ddbench.errors import JobFailed, NotDefined, UsageError
from ddbench.evaluation.protocol import find_protocol
from ddbench.hashing import digest
from ddbench.jobs.job import DistillJob, check_budget
from ddbench.jobs.probe import Enough, Probe, brief
from ddbench.jobs.steps import RecipeCost, Steps, StepTimer, cost_of, student_steps
from ddbench.synset.synset import SynSet
from ddbench.synset.views import training_count
from ddbench.system.rank import as_one_of
from ddbench.training.compute import Compute
from ddbench.training.memory import Meter

PROBE_SECONDS = 2.0  # of timed iterations of a phase; the first, which warms up, comes on top
ASSUMED = 1000  # images of a class, where a card does not know


@dataclass(frozen=True)
class Estimate:
    """Expected cost of a job.

    Attributes:
        seconds: wall-clock time on a quiet machine; None where nothing is known.
        peak_memory: bytes above the level before the job; None where nothing is known.
        basis: what it was computed from and what is left out, one line for people.
        excluded: whether a definition excludes the cell; `basis` then says why.
    """

    seconds: float | None
    peak_memory: int | None
    basis: str
    excluded: bool = False


@dataclass
class Estimator:
    """Estimates of jobs on this machine, each made once.

    Attributes:
        compute: how the jobs compute.
        tell: is told what is being timed.
    """

    compute: Compute
    tell: Callable[[str], None] = lambda text: None
    _known: dict[str, Estimate] = field(default_factory=dict)

    def of_set(
        self,
        recipe: Resolved,
        dataset: Dataset,
        *,
        job: DistillJob | None = None,
        cached: Mapping[str, Sequence[int]] | None = None,
    ) -> Estimate:
        """Estimate a distillation.

        Args:
            recipe: resolved.
            dataset: the data set, or a stand-in of its size (`stand_in`).
            job: the distillation; None where its data are not here, so that nothing of it can be run.
            cached: entries in the stages that it would open, by stage name, in order: that share is not counted again;
                None: those of the job.

        Raises:
            UsageError: the recipe does not fit the data set, or the budget is above a class's size.
        """

        def estimate() -> Estimate:
            cost = cost_of(recipe, dataset, torch.device(self.compute.device))
            if cost is not None:
                stages = cached_stages(job) if cached is None and job is not None else cached or {}
                return self._sum(dataset, [*_not_cached(cost.steps, stages)], cost.left_out)
            if job is None:
                return Estimate(None, None, f"{recipe.method.name} does not say its steps, and its data are not here")
            self.tell(f"timing {job.label()}")
            return probed(job)

        return self._once([recipe.hash, dict(cached or {})], estimate)

    def of_student(
        self,
        recipe: Resolved | None,
        dataset: Dataset,
        protocol: str,
        network: str | None = None,
        *,
        synset: SynSet | None = None,
    ) -> Estimate:
        """Estimate one student, training and test.

        Args:
            recipe: of the set whose student recipe is trained; None: unknown, of an imported set.
            dataset: the data set, or a stand-in of its size.
            protocol: its name.
            network: student network; None: the protocol's default.
            synset: the set, where it is made.

        Raises:
            UsageError: an unknown name, or a protocol that does not cover the data set.
        """
        rules = find_protocol(protocol)

        def estimate() -> Estimate:
            cost = cost_of(recipe, dataset, torch.device(self.compute.device)) if recipe else None
            if synset is not None:
                labellers = cost.labellers if cost else ()
                cost = RecipeCost((), synset.student_recipe, training_count(synset), labellers)
            elif cost is None and rules.shipped:
                return Estimate(None, None, f"{protocol} plays the set's own recipe, which is not known before the set")
            elif cost is None:
                assert recipe is not None
                cost = RecipeCost((), None, _images(recipe.budget, dataset))
            return self._student(cost, dataset, protocol, network)

        own = synset and [training_count(synset), synset.student_recipe and synset.student_recipe.hash()]
        return self._once([recipe and recipe.hash, dataset.id, protocol, network, own], estimate)

    def _once(self, key: object, estimate: Callable[[], Estimate]) -> Estimate:
        name = digest(key)
        if name not in self._known:
            try:
                self._known[name] = estimate()
            except JobFailed as failure:
                self._known[name] = Estimate(None, None, str(failure))
            except NotDefined as reason:
                self._known[name] = Estimate(None, None, str(reason), excluded=True)
        return self._known[name]

    def _student(self, cost: RecipeCost, dataset: Dataset, protocol: str, network: str | None) -> Estimate:
        rules = find_protocol(protocol)
        recipe = cost.student if rules.shipped else rules.student(dataset, network)
        if recipe is None:
            reason = f"the set ships no student recipe, so {protocol} does not score it"
            return Estimate(None, None, reason, excluded=True)
        name, reference = networks.canonical(network or recipe.network, side=dataset.side), rules.reference(dataset)
        labellers = [reference.network] if reference else cost.labellers if recipe.labels == "targets" else ()
        left_out = ["the reference teacher's own training"] if reference else []
        if recipe.labels == "targets" and not labellers:
            left_out.append("what teachers in the set take to label")
        steps = student_steps(recipe, name, cost.images, labellers)
        steps.append(Steps("test", "forward", len(dataset.test) / 200, 200, name))
        return self._sum(dataset, steps, left_out, images=cost.images)

    def _sum(
        self, dataset: Dataset, every: Sequence[Steps], left_out: Sequence[str], images: int | None = None
    ) -> Estimate:
        """Seconds of all steps; memory of the largest, and of the training images, or so many, that are held throughout."""
        timer = StepTimer(self.compute, dataset.channels, dataset.side, len(dataset.class_names), self.tell)
        each = [(steps, timer.seconds(steps)) for steps in every if steps.count]
        count = len(dataset.train) if dataset.train.resident else 0
        held = 4 * dataset.channels * dataset.side**2 * (count if images is None else min(count, images))
        memory = held + max((timer.memory(steps) for steps, _ in each), default=0.0)
        totals: dict[str, float] = defaultdict(float)
        for steps, seconds in each:
            totals[steps.label] += seconds
        basis = ", ".join(f"{label} {brief(seconds)}" for label, seconds in totals.items()) or "no training"
        if left_out:
            basis += f"; without {', '.join(left_out)}"
        return Estimate(sum(totals.values()), round(memory), basis)


def probed(job: DistillJob, seconds: float | None = None) -> Estimate:
    """Estimate a distillation from the first iterations of each of its phases.

    The method runs from end to end with its loops cut short; where it has no loop, or only short ones, it runs whole.
    Stages that are not cached run in the probe, unsaved. What is outside of loops is not cut short. Where the method
    cannot go on from work that is half done, the estimate ends there and says so.

    Args:
        job: the distillation.
        seconds: that a phase is timed for; None: `PROBE_SECONDS`.

    Raises:
        UsageError: the data set is missing, or the budget is above a class's size. JobFailed: it diverges at once.
        NotDefined: the method's definition excludes the cell.
    """
    recipe, device = job.resolved(), job.compute.apply()
    task = _probe(job, device, PROBE_SECONDS if seconds is None else seconds)
    basis = []
    with Meter(device) as meter, as_one_of(job.compute.devices):  # their stages, which are not those of one process
        started = task.clock()
        try:
            recipe.method.distill(task, recipe.hyper)
        except Enough:
            basis.append(task.left_out())
        except (NotDefined, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            if not task.cut():
                raise
            reason = " ".join(str(error).split()) or "no reason given"
            basis.append(f"{task.left_out()}: it needs what was cut short ({type(error).__name__}: {reason:.120})")
        passed = task.clock() - started
    phases = [phase.words() for phase in task.cut()] or ["timed whole: the method has no loop, or a short one"]
    if job.compute.devices > 1:
        basis.append(f"timed in one process, not in {job.compute.devices}")
    return Estimate(passed, meter.peak_memory, "; ".join([*phases, *basis]))


def cached_stages(job: DistillJob) -> dict[str, list[int]]:
    """Cached entries of the stages that a distillation would open, by name, in order; as far as it gets without work.

    Raises:
        UsageError: the data set is missing, or the budget is above a class's size.
        NotDefined: the method's definition excludes the cell.
    """
    recipe = job.resolved()
    task = _probe(job, torch.device(job.compute.device), 0.0)
    with as_one_of(job.compute.devices):
        try:
            recipe.method.distill(task, recipe.hyper)
        except NotDefined:
            raise
        except (Enough, Exception):  # what a method does without its stages' content is its own affair
            pass
    return task.stages


def _probe(job: DistillJob, device: torch.device, seconds: float) -> Probe:
    recipe, dataset = job.resolved(), job.data.load()
    check_budget(recipe, dataset)
    compiles = recipe.hyper.execution().compiled
    return Probe(dataset, recipe.budget, recipe.network, job.seed, device, seconds=seconds, compiles=compiles)


def _not_cached(every: Sequence[Steps], cached: Mapping[str, Sequence[int]]) -> Iterator[Steps]:
    """Give the steps, those of stages without the share that is in the cache."""
    left = {name: list(entries) for name, entries in cached.items()}
    shares: dict[tuple[str | None, str], float] = {}
    for steps in every:
        part = steps.stage, steps.label
        if part not in shares:
            have = left.get(steps.stage or "", [])
            shares[part] = max(0.0, 1 - have.pop(0) / steps.entries) if have else 1.0
        yield replace(steps, count=steps.count * shares[part])


def _images(budget: Budget, dataset: Dataset) -> int:
    if budget.ipc is not None:
        return budget.ipc * len(dataset.class_names)
    return max(1, round((budget.fraction or 1.0) * len(dataset.train)))


@lru_cache(maxsize=4)
def stand_in(card: DatasetCard, budget: Budget) -> Dataset:
    """A data set that is not here, as its card describes it: the right sizes, equal classes, and no pixels.

    Its id is the card's name; its hashes are no data set's. Where the card does not know a split's size, `ASSUMED` is taken.
    """

    def nothing(indices: torch.Tensor | None) -> torch.Tensor:
        raise UsageError(f"data set {card.name} is not on this machine: {card.how_to_get}")

    assumed = card.classes * max(budget.ipc or 1, ASSUMED)
    splits = [
        Split(torch.arange(count or assumed) % card.classes, digest([card.name, part]), card.side <= 128, nothing)
        for part, count in (("train", card.train), ("test", card.test))
    ]  # fmt: skip
    names = tuple(f"class {number}" for number in range(card.classes))
    half = (0.5,) * card.channels
    return Dataset(card.name, names, card.channels, card.side, True, half, half, *splits)
