"""How long a job will take and how much memory it needs, from a short probe of the job itself, for `--dry-run`.

A probe runs some iterations here and now and multiplies; it writes nothing. It holds for this machine as it is, busy or
idle. What a probe cannot know it says in `basis`.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ddbench import networks
from ddbench.canonical import tensors_digest
from ddbench.data import Dataset, Split
from ddbench.errors import UsageError
from ddbench.evaluation import Setting
from ddbench.jobs import DataName, DistillJob, check_budget, finished
from ddbench.meter import Meter
from ddbench.protocol import find_protocol
from ddbench.randomness import rng
from ddbench.stages import Product, Stage
from ddbench.student import Labeller, predict, train
from ddbench.student_recipe import StudentRecipe
from ddbench.task import Task

PROBE_SECONDS = 2.0  # of timed iterations; the first, which warms up, comes on top
PROBE_STEPS = 50  # timed iterations at most


@dataclass(frozen=True)
class Estimate:
    """What a job is expected to cost.

    Attributes:
        seconds: wall-clock time; None where nothing could be timed.
        peak_memory: bytes above the level before the job; None where the system does not say.
        basis: what was timed and what is left out, one line for people.
    """

    seconds: float | None
    peak_memory: int | None
    basis: str


def estimate_distill(job: DistillJob) -> Estimate:
    """Estimate a distillation from the first iterations of its first loop.

    A method without a loop is run whole. A stage that is not cached runs in the probe, unsaved; where it has a loop,
    that is what is timed, and the distillation itself is left out. What comes before the first loop is not cut short.

    Raises:
        UsageError: the data set is missing, or the budget is above a class's size. JobFailed: it diverges at once.
    """
    if finished(job) is not None:
        return Estimate(0.0, 0, "the set is in the cache")
    recipe, device = job.resolved(), job.setting.apply()
    dataset = job.data.load()
    check_budget(recipe, dataset)
    task = _Probe(dataset, recipe.budget, recipe.network, job.seed, device)
    started, found = time.perf_counter(), None
    with Meter(device) as meter:
        try:
            recipe.method.distill(task, recipe.hyper)
        except _Enough as enough:
            found = enough
    if found is None:
        return Estimate(meter.seconds, meter.peak_memory, "timed whole: the method has no loop, or a short one")
    seconds = found.began - started + found.total * found.each
    basis = f"{found.label}: {found.total:,} iterations of {_duration(found.each)} ({found.timed} timed)"
    return Estimate(seconds, meter.peak_memory, basis + task.left_out())


def estimate_student(
    data: DataName,
    protocol: str,
    network: str | None,
    n_images: int,
    setting: Setting,
    *,
    recipe: StudentRecipe | None = None,
) -> Estimate:
    """Estimate one student, training and test, from some steps on noise of the right shape.

    Args:
        data: the data set.
        protocol: its name.
        network: student network; None: the protocol's default.
        n_images: size of the set.
        setting: how to compute.
        recipe: the set's own, for a protocol that plays it.

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
    probe = _StudentProbe(chosen, name, dataset, n_images, device, labeller)
    with Meter(device) as meter:
        each, timed = probe.step_seconds()
        testing = probe.test_seconds()
    steps = chosen.steps(n_images)
    basis = f"{steps:,} steps of {_duration(each)} ({timed} timed), test {_duration(testing)}"
    if reference:
        basis += "; without the reference teacher's own training"
    memory = None if meter.peak_memory is None else meter.peak_memory + probe.missing_bytes()
    return Estimate(steps * each + testing, memory, basis)


class _Enough(BaseException):  # a method that catches Exception must not swallow it
    """Ends a probe that has timed enough iterations."""

    def __init__(self, label: str, total: int, each: float, timed: int, began: float) -> None:
        super().__init__(label)
        self.label, self.total, self.each, self.timed, self.began = label, total, each, timed, began


class _Probe(Task):
    """A task whose first long loop ends after some iterations, and whose stages are not saved."""

    _stage: str | None = None

    def loop(self, start: int, total: int, label: str) -> Iterator[int]:
        """Time iterations after the first; end the probe when that is enough, or the loop when it is over."""
        began = warm = time.perf_counter()
        timed = -1  # the first iteration warms up, unless it is so slow that it must do
        for step in range(start, total):
            yield step
            now, timed = time.perf_counter(), timed + 1
            if timed == 0:
                if now - began < 2 * PROBE_SECONDS:
                    warm = now
                    continue
                timed = 1
            if (timed >= PROBE_STEPS or now - warm > PROBE_SECONDS) and step + 1 < total:
                raise _Enough(label, total - start, (now - warm) / timed, timed, began)

    def open_stage(self, name: str, key: Mapping[str, Any]) -> Stage:
        """A stage that reads the cache and saves nothing."""
        real = super().open_stage(name, key)
        return _Unsaved(real.name, real.key, self._enter)

    def _enter(self, stage: str | None) -> None:
        self._stage = stage

    def left_out(self) -> str:
        """What the probe never came to, for people."""
        return f"; the stage {self._stage!r} only, what follows is left out" if self._stage else ""


class _Unsaved(Stage):
    """A stage that keeps what is made in memory; `enter` is told its name while something is made, then None."""

    def __init__(self, name: str, key: Mapping[str, Any], enter: Callable[[str | None], None]) -> None:
        super().__init__(name, key)
        self._made: dict[str, Product] = {}
        self._enter = enter

    def entries(self) -> list[str]:
        """Names of the entries in the cache and in memory, sorted."""
        return sorted({*super().entries(), *self._made})

    def load(self, entry: str) -> Product | None:
        """An entry from memory or from the cache, or None."""
        return self._made.get(entry) or super().load(entry)

    def save(self, entry: str, tensors: Mapping[str, torch.Tensor], info: Mapping[str, Any] | None = None) -> Product:
        """The product, not written."""
        plain = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
        self._made[entry] = Product(plain, dict(info or {}), tensors_digest(plain, info or {}))
        return self._made[entry]

    def drop(self, entry: str) -> None:
        """Forget an entry in memory; the cache stays as it is."""
        self._made.pop(entry, None)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nothing is written, so nobody is kept out."""
        self._enter(self.name)
        yield
        self._enter(None)  # not after the end of a probe, which then knows where it was


@dataclass(frozen=True, eq=False)
class _StudentProbe:
    """Steps and tests of a student on noise; `images` are as many as a few batches need."""

    recipe: StudentRecipe
    network: str
    dataset: Dataset
    n_images: int
    device: torch.device
    labeller: Labeller | None

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
        train(network, images, classes, recipe, seed=0, labeller=self.labeller)  # reads the last loss: synchronises
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
    return lambda batch: torch.zeros(len(batch.index), len(dataset.class_names), device=device)


def _duration(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds >= 1 else f"{1000 * seconds:.2g} ms"
