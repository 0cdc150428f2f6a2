"""Costs of steps: how many steps a recipe takes, and what a step of a network takes on this device.

A method says its steps in the entry-point group `ddbench.costs`: a function (task, hyper) -> `RecipeCost`, read from the
hyper-parameters, nothing run. A step's seconds are a line a + b n in its images n through two timed sizes; seconds of
augmentation likewise. Timings are kept in the cache, per device, threads and build. On a CPU they are process time
divided by threads: what the step takes on a quiet machine.
"""

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any, Literal

import torch
import torch.nn.functional as F

from ddbench import networks, plugins
from ddbench.augment import build_augmentation, build_mixing
from ddbench.data.dataset import Dataset
from ddbench.distillation.recipes import Resolved
from ddbench.distillation.task import Task
from ddbench.hashing import canonical_json, digest
from ddbench.randomness import forked, rng
from ddbench.settings import cache_dir
from ddbench.system.environment import processor
from ddbench.system.files import write_atomic
from ddbench.training.compute import Compute
from ddbench.training.memory import saved_activation_bytes
from ddbench.training.recipe import Component, StudentRecipe

GROUP = "ddbench.costs"
CODE_VERSION = 1  # raise when a timing here measures something else
SIZES = (2, 32)  # images of the two timings; the second is smaller where a step is slow
SLOW = 0.5  # seconds: a first timing above this is followed by one of twice its images only

Kind = Literal["forward", "train", "image", "second", "create", "augment"]
"""forward: without a graph; train: forward, backward to the weights, a step of SGD; image: forward and backward to the
images, weights frozen; second: derivatives of a gradient's product with a vector, to weights and images; create: a new
network; augment: no network."""


@dataclass(frozen=True)
class Steps:
    """Steps of one kind.

    Attributes:
        label: for people; steps of one product of a stage share it.
        kind: what a step does, see `Kind`.
        count: how many steps.
        images: that go through the network in a step.
        network: canonical name; None for `augment`.
        augmentations: and mixings that the images of a step go through first, as `as_text` writes them.
        stage: name of the stage that keeps the product, which all synthesis seeds share; None: every seed's own.
        entries: entries of the stage once it is complete.
    """

    label: str
    kind: Kind
    count: float
    images: float
    network: str | None = None
    augmentations: tuple[str, ...] = ()
    stage: str | None = None
    entries: int = 1


@dataclass(frozen=True)
class RecipeCost:
    """Steps of a recipe, and the student recipe that its set holds.

    Attributes:
        steps: of the distillation, stages first, in the order in which they are opened.
        student: the set's own student recipe, which `shipped-v1` trains; None: it has none.
        images: training images that a student sees, views expanded.
        labellers: networks that label every batch of the student online.
        left_out: what is not counted, in words.
    """

    steps: tuple[Steps, ...]
    student: StudentRecipe | None
    images: int
    labellers: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def cost_of(recipe: Resolved, dataset: Dataset, device: torch.device) -> RecipeCost | None:
    """Steps of a recipe; None where its method says none.

    Raises:
        NotDefined: the method's definition excludes the cell. UsageError: the recipe does not fit the data set.
    """
    if recipe.method.name not in plugins.names(GROUP):
        return None
    describe: Callable[[Task, Any], RecipeCost] = plugins.find(GROUP, recipe.method.name)
    return describe(Task(dataset, recipe.budget, recipe.network, 0, device), recipe.hyper)


def as_text(*parts: Component | None) -> tuple[str, ...]:
    """Augmentations and mixings as `Steps.augmentations` holds them."""
    return tuple(canonical_json(part) for part in parts if part)


def student_steps(
    recipe: StudentRecipe, network: str, images: int, labellers: Sequence[str] = (), label: str = "student"
) -> list[Steps]:
    """A training by a recipe on so many images, with the networks that label its batches."""
    count, batch = recipe.steps(images), min(recipe.batch, images)
    training = Steps(label, "train", count, batch, network, as_text(*recipe.augmentations, recipe.mix))
    return [training, *(Steps("labels", "forward", count, batch, name) for name in labellers)]


@dataclass(frozen=True)
class StepCost:
    """Seconds of a step of n images: a + b n. `kept`: bytes that autograd keeps of an image; `weights`: of the network."""

    a: float
    b: float
    kept: float = 0.0
    weights: float = 0.0

    def at(self, images: float) -> float:
        """Seconds of a step."""
        return self.a + self.b * images


@dataclass
class StepTimer:
    """Seconds and bytes of steps on one data set's images, by timings that are kept in the cache.

    Attributes:
        compute: how to compute.
        channels, side, classes: of the images.
        tell: is told what is being timed.
    """

    compute: Compute
    channels: int
    side: int
    classes: int
    tell: Callable[[str], None] = lambda text: None
    _known: dict[str, StepCost] = field(default_factory=dict)

    def seconds(self, steps: Steps) -> float:
        """Seconds of all steps, the images' augmentation included."""
        each = sum(self.augmentation(part).at(steps.images) for part in steps.augmentations)
        if steps.kind != "augment":
            each += self.network(steps.kind, steps.network or "").at(steps.images)
        return steps.count * each

    def memory(self, steps: Steps) -> float:
        """Bytes that a step holds: what autograd keeps of its images, the images, and the network four times."""
        if steps.kind in ("augment", "create"):
            return 0.0
        cost = self.network(steps.kind, steps.network or "")
        graph = {"forward": 0.0, "second": 3.0}.get(steps.kind, 1.0) * cost.kept
        return steps.images * (graph + 2 * 4 * self.channels * self.side**2) + 4 * cost.weights

    def network(self, kind: Kind, name: str) -> StepCost:
        """A step of a network."""
        return self._kept({"kind": kind, "network": name}, f"{name} ({kind})", lambda: self._time_network(kind, name))

    def augmentation(self, part: str) -> StepCost:
        """An augmentation or mixing of a step's images."""
        spec = json.loads(part)
        return self._kept({"kind": "augment", "shown": part}, spec["name"], lambda: self._time_augmentation(spec))

    def _kept(self, what: dict[str, Any], label: str, measure: Callable[[], StepCost]) -> StepCost:
        device = torch.cuda.get_device_name() if self.compute.device == "cuda" else processor()
        machine = {**self.compute.identity(), "device": device}
        key = digest([what, self.channels, self.side, self.classes, machine, CODE_VERSION])[:32]
        if key not in self._known:
            path = cache_dir() / "costs" / f"{key}.json"
            try:
                plain = json.loads(path.read_text(encoding="utf-8"))
                cost = StepCost(*(float(plain[name]) for name in ("a", "b", "kept", "weights")))
            except (OSError, ValueError, KeyError, TypeError):
                self.tell(f"timing {label} at {self.side} px")
                self.compute.apply()
                cost = measure()
                write_atomic(path, json.dumps({**what, **vars(cost)}, indent=2, sort_keys=True) + "\n")
            self._known[key] = cost
        return self._known[key]

    def _time_network(self, kind: Kind, name: str) -> StepCost:
        device, noise = torch.device(self.compute.device), self._noise()

        def create() -> torch.nn.Module:
            network = networks.create(name, channels=self.channels, side=self.side, classes=self.classes)
            return network.to(device).train()

        if kind == "create":
            return StepCost(seconds_of(create, self.compute), 0.0)
        network = create()
        step = _step(kind, network, self.classes)
        with forked(0, "cost"):
            line = line_through(lambda count: step(noise(count)), self.compute)
            sample = noise(SIZES[0])
            kept = saved_activation_bytes(lambda: network(sample), network.state_dict(keep_vars=True).values()) / len(
                sample
            )
        return replace(line, kept=kept, weights=float(sum(each.nbytes for each in network.state_dict().values())))

    def _time_augmentation(self, part: Component) -> StepCost:
        noise, mixes = self._noise(), part["name"] in ("cutmix", "mixup")
        call: Callable[..., Any] = build_mixing(part) if mixes else build_augmentation(part)
        numbers = iter(range(10**9))
        return line_through(lambda count: call(noise(count), rng(0, "cost", next(numbers))), self.compute)

    def _noise(self) -> Callable[[int], torch.Tensor]:
        """Gives so many images of noise, made before they are timed, once for each number."""

        def made(count: int) -> torch.Tensor:
            shape = (count, self.channels, self.side, self.side)
            return torch.randn(shape, generator=rng(0, "cost-noise")).to(self.compute.device)

        return cache(made)


def _step(kind: Kind, network: torch.nn.Module, classes: int) -> Callable[[torch.Tensor], object]:
    """A step of a kind on a batch of images."""
    weights = list(network.parameters())
    optimizer = torch.optim.SGD(weights, lr=1e-6, momentum=0.9, weight_decay=5e-4)

    def loss_of(images: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(network(images), torch.arange(len(images), device=images.device) % classes)

    def train(images: torch.Tensor) -> None:
        loss = loss_of(images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def image(images: torch.Tensor) -> None:
        leaf = images.detach().requires_grad_()
        torch.autograd.grad(loss_of(leaf), leaf)

    def second(images: torch.Tensor) -> None:
        leaf = images.detach().requires_grad_()
        slopes = torch.autograd.grad(loss_of(leaf), weights, create_graph=True)
        product = torch.stack([(slope * 0.5).sum() for slope in slopes]).sum()
        torch.autograd.grad(product, [leaf, *weights], allow_unused=True)

    if kind == "forward":
        network.eval()
        return torch.no_grad()(lambda images: network(images))
    if kind == "image":
        network.requires_grad_(False)
    return {"train": train, "image": image, "second": second}[kind]


def line_through(step: Callable[[int], Any], compute: Compute) -> StepCost:
    """Fit a line through the seconds of a step of a few images and of one of more."""
    few, many = SIZES
    first = seconds_of(lambda: step(few), compute)
    if first > SLOW:
        many = 2 * few
    second = seconds_of(lambda: step(many), compute)
    slope = max((second - first) / (many - few), 0.0)
    return StepCost(max(first - slope * few, 0.0), slope)


def seconds_of(call: Callable[[], Any], compute: Compute) -> float:
    """Median seconds of a call, warmed up."""
    # what the import loads warns where there is a CUDA compiler and no device
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    from torch.utils.benchmark import Timer

    timer = partial(Timer, "call()", globals={"call": call}, num_threads=compute.threads)
    watch = timer() if compute.device == "cuda" else timer(timer=lambda: time.process_time() / compute.threads)
    return float(watch.blocked_autorange().median)
