"""What work costs on this device: a few probes of its networks, times the steps that a recipe says.

Work is so many steps of so many images through one network (`Work`). A step's seconds are a line a + b n in its images n
through two measured sizes; seconds of augmentation likewise. Probes are kept in the cache, per device, threads and build.
On a CPU they are process time divided by threads: what the step takes on a quiet machine. Methods say their work in the
entry-point group `ddbench.costs`: a function (task, hyper) -> `Plan`, read from the hyper-parameters, nothing run.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
import torch.nn.functional as F

from ddbench import networks, plugins
from ddbench.augment import build_augmentation, build_mixing
from ddbench.budget import Budget
from ddbench.data.dataset import Dataset, DatasetCard, Split
from ddbench.distillation.recipes import Resolved
from ddbench.distillation.task import Task
from ddbench.errors import UsageError
from ddbench.hashing import canonical_json, digest
from ddbench.randomness import forked, rng
from ddbench.settings import cache_dir
from ddbench.system.environment import processor
from ddbench.system.files import write_atomic
from ddbench.training.compute import Compute
from ddbench.training.memory import saved_activation_bytes
from ddbench.training.recipe import Component, StudentRecipe

GROUP = "ddbench.costs"
CODE_VERSION = 1  # raise when a probe here measures something else
SIZES = (2, 32)  # images of the two probes; the second is smaller where a step is slow
ASSUMED = 1000  # images of a class, where a card does not know
SLOW = 0.5  # seconds: a first probe above this is followed by one of twice its images only
REPEATS = 5

Kind = Literal["forward", "train", "image", "second", "create", "augment"]
"""forward: without a graph; train: forward, backward to the weights, a step of SGD; image: forward and backward to the
images, weights frozen; second: derivatives of a gradient's product with a vector, to weights and images; create: a new
network; augment: no network."""


@dataclass(frozen=True)
class Work:
    """Steps of one kind.

    Attributes:
        label: for people.
        kind: what a step does, see `Kind`.
        steps: how many.
        images: that go through the network in a step.
        network: canonical name; None for `augment`.
        shown: augmentations and mixings that the images of a step go through first.
        stage: name of the stage that keeps the product, which all synthesis seeds share; None: every seed's own.
        entries: entries of the stage once it is complete.
    """

    label: str
    kind: Kind
    steps: float
    images: float
    network: str | None = None
    shown: tuple[str, ...] = ()
    stage: str | None = None
    entries: int = 1


@dataclass(frozen=True)
class Plan:
    """A recipe's work, and the student that it ships.

    Attributes:
        works: of the distillation, stages first, in the order in which they are opened.
        student: what `shipped-v1` trains; None: the set ships no recipe.
        images: training images that a student sees, views expanded.
        labellers: networks that label every batch of the student online.
        left_out: what is not counted, in words.
    """

    works: tuple[Work, ...]
    student: StudentRecipe | None
    images: int
    labellers: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


Describe = Callable[[Task, Any], Plan]


def shown_as(*parts: Component | None) -> tuple[str, ...]:
    """Augmentations and mixings as `Work.shown` holds them."""
    return tuple(canonical_json(part) for part in parts if part)


def student_work(
    recipe: StudentRecipe, network: str, images: int, labellers: Sequence[str] = (), label: str = "student"
) -> list[Work]:
    """A training by a recipe on so many images, with the networks that label its batches."""
    steps, batch = recipe.steps(images), min(recipe.batch, images)
    shown = shown_as(*recipe.augmentations, recipe.mix)
    asked = [Work("labels", "forward", steps, batch, name) for name in labellers]
    return [Work(label, "train", steps, batch, network, shown), *asked]


def plan_of(recipe: Resolved, dataset: Dataset, setting: Compute) -> Plan | None:
    """A recipe's work; None where its method says none.

    Raises:
        NotDefined: the method's definition excludes the cell. UsageError: the recipe does not fit the data set.
    """
    if recipe.method.name not in plugins.names(GROUP):
        return None
    describe: Describe = plugins.find(GROUP, recipe.method.name)
    task = Task(dataset, recipe.budget, recipe.network, 0, torch.device(setting.device))
    return describe(task, recipe.hyper)


@lru_cache(maxsize=4)
def stand_in(card: DatasetCard, budget: Budget) -> Dataset:
    """A data set that is not here, as its card describes it: the right sizes, equal classes, and no pixels.

    Its id is the card's name; its hashes are no data set's. Where the card does not know a split's size, `ASSUMED` is taken.
    """

    def nothing(indices: "torch.Tensor | None") -> torch.Tensor:
        raise UsageError(f"data set {card.name} is not on this machine: {card.how_to_get}")

    assumed = card.classes * max(budget.ipc or 1, ASSUMED)
    splits = [
        Split(torch.arange(count or assumed) % card.classes, digest([card.name, part]), card.side <= 128, nothing)
        for part, count in (("train", card.train), ("test", card.test))
    ]  # fmt: skip
    names = tuple(f"class {number}" for number in range(card.classes))
    half = (0.5,) * card.channels
    return Dataset(card.name, names, card.channels, card.side, True, half, half, *splits)


@dataclass(frozen=True)
class Line:
    """Seconds of a step of n images: a + b n. `kept`: bytes that autograd keeps of an image; `weights`: of the network."""

    a: float
    b: float
    kept: float = 0.0
    weights: float = 0.0

    def at(self, images: float) -> float:
        """Seconds of a step."""
        return self.a + self.b * images


@dataclass
class CostModel:
    """Seconds and bytes of work on one data set's images, by probes that are kept in the cache.

    Attributes:
        setting: how to compute.
        channels, side, classes: of the images.
        tell: is told what is being probed.
    """

    setting: Compute
    channels: int
    side: int
    classes: int
    tell: Callable[[str], None] = lambda text: None
    _lines: dict[str, Line] = field(default_factory=dict)

    @classmethod
    def of(cls, dataset: Dataset, setting: Compute, tell: Callable[[str], None] = lambda text: None) -> "CostModel":
        """For a data set."""
        return cls(setting, dataset.channels, dataset.side, len(dataset.class_names), tell)

    def seconds(self, work: Work) -> float:
        """Of all steps of some work, the images' augmentation included."""
        shown = sum(self._augment(part).at(work.images) for part in work.shown)
        if work.kind == "augment":
            return work.steps * shown
        return work.steps * (shown + self._network(work.kind, work.network or "").at(work.images))

    def memory(self, work: Work) -> float:
        """Bytes that a step holds: what autograd keeps of its images, the images, and the network four times."""
        if work.kind in ("augment", "create"):
            return 0.0
        line = self._network(work.kind, work.network or "")
        graph = {"forward": 0.0, "second": 3.0}.get(work.kind, 1.0) * line.kept
        return work.images * (graph + 2 * 4 * self.channels * self.side**2) + 4 * line.weights

    def _network(self, kind: Kind, name: str) -> Line:
        return self._line({"kind": kind, "network": name}, f"{name} ({kind})", lambda: self._probe(kind, name))

    def _augment(self, part: str) -> Line:
        label = str(json.loads(part)["name"])
        return self._line({"kind": "augment", "shown": part}, label, lambda: self._probe_augment(json.loads(part)))

    def _line(self, what: dict[str, Any], label: str, measure: Callable[[], Line]) -> Line:
        key = digest([what, self.channels, self.side, self.classes, _machine(self.setting), CODE_VERSION])[:32]
        if key not in self._lines:
            path = cache_dir() / "costs" / f"{key}.json"
            found = _read(path)
            if found is None:
                self.tell(f"timing {label} at {self.side} px")
                self.setting.apply()
                found = measure()
                write_atomic(path, json.dumps({**what, **vars(found)}, indent=2, sort_keys=True) + "\n")
            self._lines[key] = found
        return self._lines[key]

    def _probe(self, kind: Kind, name: str) -> Line:
        device, noise = torch.device(self.setting.device), self._noise()

        def create() -> torch.nn.Module:
            made = networks.create(name, channels=self.channels, side=self.side, classes=self.classes)
            return made.to(device).train()

        if kind == "create":
            return Line(_timed(create, device), 0.0)
        network = create()
        step = _STEPS[kind](network, self.classes)
        weights = sum(tensor.nbytes for tensor in network.state_dict().values())
        with forked(0, "cost"):
            line = _fit(lambda count: step(noise(count)), device)
            sample = noise(SIZES[0])
            kept = saved_activation_bytes(lambda: network(sample), network.state_dict(keep_vars=True).values()) / len(
                sample
            )
        return replace(line, kept=kept, weights=float(weights))

    def _probe_augment(self, part: Component) -> Line:
        device, noise, mixes = torch.device(self.setting.device), self._noise(), part["name"] in ("cutmix", "mixup")
        call: Callable[..., Any] = build_mixing(part) if mixes else build_augmentation(part)
        numbers = iter(range(10**9))
        return _fit(lambda count: call(noise(count), rng(0, "cost", next(numbers))), device)

    def _noise(self) -> Callable[[int], torch.Tensor]:
        """Gives so many images of noise, made before they are timed, once for each number."""

        def made(count: int) -> torch.Tensor:
            shape = (count, self.channels, self.side, self.side)
            return torch.randn(shape, generator=rng(0, "cost-noise")).to(self.setting.device)

        return cache(made)


def _train(network: torch.nn.Module, classes: int) -> Callable[[torch.Tensor], None]:
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-6, momentum=0.9, weight_decay=5e-4)

    def step(images: torch.Tensor) -> None:
        loss = F.cross_entropy(network(images), _labels(images, classes))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def _image(network: torch.nn.Module, classes: int) -> Callable[[torch.Tensor], None]:
    network.requires_grad_(False)

    def step(images: torch.Tensor) -> None:
        leaf = images.detach().requires_grad_()
        torch.autograd.grad(F.cross_entropy(network(leaf), _labels(images, classes)), leaf)

    return step


def _second(network: torch.nn.Module, classes: int) -> Callable[[torch.Tensor], None]:
    weights = list(network.parameters())

    def step(images: torch.Tensor) -> None:
        leaf = images.detach().requires_grad_()
        loss = F.cross_entropy(network(leaf), _labels(images, classes))
        slopes = torch.autograd.grad(loss, weights, create_graph=True)
        product = torch.stack([(slope * 0.5).sum() for slope in slopes]).sum()
        torch.autograd.grad(product, [leaf, *weights], allow_unused=True)

    return step


def _forward(network: torch.nn.Module, classes: int) -> Callable[[torch.Tensor], None]:
    network.eval()

    def step(images: torch.Tensor) -> None:
        with torch.no_grad():
            network(images)

    return step


_STEPS = {"train": _train, "image": _image, "second": _second, "forward": _forward}


def _labels(images: torch.Tensor, classes: int) -> torch.Tensor:
    return torch.arange(len(images), device=images.device) % classes


def _fit(step: Callable[[int], Any], device: torch.device) -> Line:
    """The line through the seconds of a few images and of more."""
    few, many = SIZES
    first = _timed(lambda: step(few), device)
    if first > SLOW:
        many = 2 * few
    second = _timed(lambda: step(many), device)
    slope = max((second - first) / (many - few), 0.0)
    return Line(max(first - slope * few, 0.0), slope)


def _timed(call: Callable[[], Any], device: torch.device) -> float:
    """Median seconds of a call, after one that warms up; a slow one is made twice only."""
    call()
    taken = [_once(call, device)]
    while len(taken) < REPEATS and taken[0] < SLOW:
        taken.append(_once(call, device))
    return median(taken)


def _once(call: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
        started = time.perf_counter()
        call()
        torch.cuda.synchronize()
        return time.perf_counter() - started
    started = time.process_time()
    call()
    return (time.process_time() - started) / torch.get_num_threads()


def _machine(setting: Compute) -> dict[str, Any]:
    """What probes hold for: the device, its threads and precision, torch's build."""
    device = torch.cuda.get_device_name() if setting.device == "cuda" else processor()
    return {**setting.identity(), "device": device}


def _read(path: Path) -> Line | None:
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        return Line(*(float(plain[name]) for name in ("a", "b", "kept", "weights")))
    except (OSError, ValueError, KeyError, TypeError):
        return None
