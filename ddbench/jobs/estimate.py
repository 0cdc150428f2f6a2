"""How long a job will take and how much memory it needs, from a short probe of the job itself, for `--dry-run`.

A probe runs some iterations here and now and multiplies; it writes nothing. It holds for this machine as it is, busy or
idle. What a probe cannot know it says in `basis`. For many cells at once, or data that are not here, `foresee` reads the
steps from the recipes instead and multiplies them by what a network's step costs (`ddbench.jobs.cost_model`).
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from ddbench import networks
from ddbench.augment import Augmentation
from ddbench.data.dataset import Dataset, Split
from ddbench.distillation.recipes import Resolved
from ddbench.errors import NotDefined, UsageError
from ddbench.evaluation.protocol import find_protocol
from ddbench.jobs.cost_model import CostModel, Plan, Work, plan_of, student_work
from ddbench.jobs.job import DataName, DistillJob, check_budget, finished
from ddbench.jobs.probe import PROBE_STEPS, Enough, Probe, brief
from ddbench.randomness import rng
from ddbench.synset.synset import SynSet
from ddbench.system.rank import as_one_of
from ddbench.training.batch_schedule import Batch, BatchSchedule, Labeller, SoftLabels
from ddbench.training.compute import Compute
from ddbench.training.loop import predict, train
from ddbench.training.memory import Meter
from ddbench.training.recipe import StudentRecipe

PROBE_SECONDS = 2.0  # of timed iterations of a phase, or steps; the first, which warms up, comes on top


@dataclass(frozen=True)
class Estimate:
    """What a job is expected to cost.

    Attributes:
        seconds: wall-clock time; None where nothing could be timed.
        peak_memory: bytes above the level before the job; None where the system does not say.
        basis: what was timed and what is left out, one line for people.
        excluded: whether the method's definition excludes the cell; `basis` then says why.
    """

    seconds: float | None
    peak_memory: int | None
    basis: str
    excluded: bool = False


def estimate_distill(job: DistillJob) -> Estimate:
    """Estimate a distillation from the first iterations of each of its phases.

    The method runs from end to end with its loops cut short; where it has no loop, or only short ones, it runs whole.
    Stages that are not cached run in the probe, unsaved. What is outside of loops is not cut short. Where the method
    cannot go on from work that is half done, the estimate ends there and says so.

    Raises:
        UsageError: the data set is missing, or the budget is above a class's size. JobFailed: it diverges at once.
        NotDefined: the method's definition excludes the cell.
    """
    if finished(job) is not None:
        return Estimate(0.0, 0, "the set is in the cache")
    recipe, device = job.resolved(), job.setting.apply()
    dataset = job.data.load()
    check_budget(recipe, dataset)
    compiles = recipe.hyper.execution().compiled
    task = Probe(dataset, recipe.budget, recipe.network, job.seed, device, seconds=PROBE_SECONDS, compiles=compiles)
    with Meter(device) as meter, as_one_of(job.setting.devices):  # their stages, which are not those of one process
        started = task.clock()
        rest = _left_out(task, lambda: recipe.method.distill(task, recipe.hyper))
        seconds = task.clock() - started
    basis = [phase.words() for phase in task.cut()] or ["timed whole: the method has no loop, or a short one"]
    alone = [] if job.setting.devices == 1 else [f"timed in one process, not in {job.setting.devices}"]
    return Estimate(seconds, meter.peak_memory, "; ".join([*basis, *rest, *alone]))


def _left_out(task: Probe, distill: Callable[[], SynSet]) -> list[str]:
    """Run the method; what it did not come to, for people, or nothing."""
    try:
        distill()
    except Enough:
        return [task.left_out()]
    except (NotDefined, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if not task.cut():
            raise
        reason = " ".join(str(error).split()) or "no reason given"
        return [f"{task.left_out()}: it needs what was cut short ({type(error).__name__}: {reason:.120})"]
    return []


def estimate_student(
    data: DataName,
    protocol: str,
    network: str | None,
    n_images: int,
    setting: Compute,
    *,
    recipe: StudentRecipe | None = None,
    draw: Augmentation | None = None,
) -> Estimate:
    """Estimate one student, training and test, from some steps on noise of the right shape.

    Args:
        data: the data set.
        protocol: its name.
        network: student network; None: the protocol's default.
        n_images: size of the set.
        setting: how to compute.
        recipe: the set's own, for a protocol that plays it.
        draw: what the set's views show of its images; see `ddbench.synset.views.drawn`.

    Raises:
        UsageError: an unknown name, or a protocol that does not cover the data set.
    """
    if n_images < 1:
        raise UsageError(f"a set has at least 1 image, not {n_images}")
    found, dataset, device = find_protocol(protocol), data.load(), setting.apply()
    if found.shipped and recipe is None:
        return Estimate(None, None, f"{protocol} plays the set's own recipe, which is not known before the set")
    chosen = recipe if found.shipped and recipe else found.student(dataset, network)
    name = networks.canonical(network or chosen.network, side=dataset.side)
    reference = found.reference(dataset)
    labeller = _stand_in(reference.network, dataset, device) if reference else _fixed_labels(chosen, dataset, device)
    probe = _StudentProbe(chosen, name, dataset, n_images, device, labeller, draw)
    with Meter(device) as meter:
        each, timed = probe.step_seconds()
        testing = probe.test_seconds()
    steps = chosen.steps(n_images)
    basis = f"{steps:,} steps of {brief(each)} ({timed} timed), test {brief(testing)}"
    if reference:
        basis += "; without the reference teacher's own training"
    if chosen.labels == "targets":
        basis += "; without what teachers in the set take to label"
    memory = None if meter.peak_memory is None else meter.peak_memory + probe.missing_bytes()
    return Estimate(steps * each + testing, memory, basis)


@dataclass(frozen=True)
class Foreseen:
    """What a cell is expected to cost by the cost model: making its set, and training and testing one student."""

    distill: Estimate
    student: Estimate


def foresee(
    recipe: Resolved,
    dataset: Dataset,
    protocol: str,
    network: str | None,
    setting: Compute,
    *,
    cached: Mapping[str, Sequence[int]] | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> Foreseen | None:
    """Estimate a cell from its recipe's steps; None where the method does not say them.

    Args:
        recipe: resolved.
        dataset: the data set, or a stand-in of its size (`ddbench.jobs.cost_model.stand_in`).
        protocol: its name.
        network: student network; None: the protocol's default.
        setting: how to compute.
        cached: entries in the stages that a run would open, by stage name, in order: that share is not counted again.
        tell: is told what is being timed.

    Raises:
        UsageError: an unknown name, or a protocol that does not cover the data set.
    """
    try:
        plan = plan_of(recipe, dataset, setting)
    except NotDefined as reason:
        nothing = Estimate(None, None, str(reason), excluded=True)
        return Foreseen(nothing, nothing)
    if plan is None:
        return None
    model = CostModel.of(dataset, setting, tell)
    held = len(dataset.train) * dataset.channels * dataset.side**2 * 4 if dataset.train.resident else 0
    works = list(_still_to_do(plan.works, cached or {}))
    made = _summed(model, works, held, [*plan.left_out])
    return Foreseen(made, _student(model, plan, dataset, protocol, network, held))


def _still_to_do(works: Sequence[Work], cached: Mapping[str, Sequence[int]]) -> Iterator[Work]:
    """The works, those of stages without the share that is in the cache."""
    left = {name: list(entries) for name, entries in cached.items()}
    for work in works:
        have = left.get(work.stage or "", [])
        share = max(0.0, 1 - have.pop(0) / work.entries) if have else 1.0
        yield replace(work, steps=work.steps * share)


def _student(model: CostModel, plan: Plan, dataset: Dataset, protocol: str, network: str | None, held: int) -> Estimate:
    found = find_protocol(protocol)
    recipe = plan.student if found.shipped else found.student(dataset, network)
    if recipe is None:
        return Estimate(None, None, f"the set ships no student recipe, so {protocol} does not score it", excluded=True)
    name = networks.canonical(network or recipe.network, side=dataset.side)
    reference = found.reference(dataset)
    labellers = [reference.network] if reference else [] if recipe.labels == "classes" else list(plan.labellers)
    works = student_work(recipe, name, plan.images, labellers)
    works.append(Work("test", "forward", len(dataset.test) / 200, 200, name))
    left_out = ["the reference teacher's own training"] if reference else []
    return _summed(model, works, min(held, plan.images * dataset.channels * dataset.side**2 * 4), left_out)


def _summed(model: CostModel, works: Sequence[Work], held: int, left_out: Sequence[str]) -> Estimate:
    """Seconds of all works; memory of the largest, and of what is held throughout."""
    each = [(work, model.seconds(work)) for work in works if work.steps]
    memory = held + max((model.memory(work) for work, _ in each), default=0.0)
    words = [f"{work.label} {brief(seconds)}" for work, seconds in each]
    basis = ", ".join(words) or "no training"
    if left_out:
        basis += f"; without {', '.join(left_out)}"
    return Estimate(sum(seconds for _, seconds in each), round(memory), basis)


@dataclass(frozen=True, eq=False)
class _StudentProbe:
    """Steps and tests of a student on noise; `images` are as many as a few batches need."""

    recipe: StudentRecipe
    network: str
    dataset: Dataset
    n_images: int
    device: torch.device
    labeller: Labeller | None
    draw: Augmentation | None

    def count(self) -> int:
        """Images of noise: the set's number, or four batches of it."""
        return min(self.n_images, 4 * self.recipe.batch)

    def missing_bytes(self) -> int:
        """What the real set holds beyond the noise."""
        return (self.n_images - self.count()) * self.dataset.channels * self.dataset.side**2 * 4

    def _create(self) -> torch.nn.Module:
        data = self.dataset
        network = networks.create(self.network, channels=data.channels, side=data.side, classes=len(data.class_names))
        return network.to(self.device)

    def step_seconds(self) -> tuple[float, int]:
        """Seconds of a step, and how many were timed: two first, to warm up and choose how many more."""
        data, count = self.dataset, self.count()
        images = torch.randn(count, data.channels, data.side, data.side, generator=rng(0, "estimate")).to(self.device)
        classes = (torch.arange(count) % len(data.class_names)).to(self.device)
        network = self._create()
        self._train(network, images, classes, 1)
        each = self._train(network, images, classes, 1)
        if each > PROBE_SECONDS:
            return each, 1
        timed = max(2, min(PROBE_STEPS, int(PROBE_SECONDS / max(each, 1e-6))))
        return self._train(network, images, classes, timed) / timed, timed

    def _train(self, network: torch.nn.Module, images: torch.Tensor, classes: torch.Tensor, steps: int) -> float:
        epochs = max(1, -(-steps * min(self.recipe.batch, len(images)) // len(images)))
        recipe = self.recipe.model_copy(update={"epochs": epochs, "max_steps": steps})
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        schedule = BatchSchedule(0, draw=self.draw)
        train(
            network, images, classes, recipe, seed=0, labeller=self.labeller, schedule=schedule
        )  # reads the last loss
        return time.perf_counter() - started

    def test_seconds(self) -> float:
        """Seconds of the test, from one batch of it."""
        split = self.dataset.test
        count = min(len(split), 200)
        network = self._create()
        _predict(network, split, 1, self.device)
        started = time.perf_counter()
        _predict(network, split, count, self.device)
        return (time.perf_counter() - started) * len(split) / count


def _predict(network: torch.nn.Module, split: Split, count: int, device: torch.device) -> None:
    pixels = split.read(torch.arange(count)).to(device)
    predict(network, pixels.float() / 255).cpu()


def _stand_in(name: str, dataset: Dataset, device: torch.device) -> Labeller:
    """An untrained network in the reference teacher's place: it takes as long."""
    classes = len(dataset.class_names)
    teacher = networks.create(name, channels=dataset.channels, side=dataset.side, classes=classes).to(device).eval()
    return torch.no_grad()(lambda batch: teacher(batch.images))


def _fixed_labels(recipe: StudentRecipe, dataset: Dataset, device: torch.device) -> Labeller | None:
    """Stored labels cost nothing worth timing; teachers in the set itself are left out."""
    if recipe.labels == "classes":
        return None
    classes = len(dataset.class_names)

    def label(batch: Batch) -> SoftLabels:
        zeros = torch.zeros(len(batch.index), classes + 2, device=device)
        return SoftLabels(zeros[:, :classes], zeros[:, classes:])

    return label
