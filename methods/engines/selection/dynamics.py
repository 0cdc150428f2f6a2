"""Training dynamics: one training on the whole split, and what every sample looked like to the network after each epoch.

Scores of samples (`engines.selection.pruning`) are functions of what is recorded here, so that one training serves them all. A row
is kept for each epoch: the error || p - y ||_2, p of the true class, the best other p, z of the true class minus the best
other z, the entropy of p, the prediction, || h ||^2, and the movement of p since the epoch before (p = softmax(z),
h = input of the last layer). The error is summed without cancellation, so that the easiest samples keep their order; the
squared norm of p is error^2 + 2 p_y - 1.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from ddbench.distillation.method import Hyper
from ddbench.distillation.task import Task
from ddbench.hashing import digest
from ddbench.networks.parts import Network
from ddbench.randomness import seed_of
from ddbench.synset.teachers import Teacher
from ddbench.system.code import SYNTHESIS
from ddbench.training.batch_schedule import Batch, Images
from ddbench.training.checkpoints import Checkpoint
from ddbench.training.loop import train
from ddbench.training.recipe import Component, StudentRecipe

from ..students import cosine, optimizer, random_crop
from .coresets import SHOWN, embedder, shown_at_once

CODE_VERSION = 1  # raise when a change here changes what is recorded; a test pins the source
ROWS = ("error", "true", "other", "margin", "entropy", "prediction", "feature", "movement")


class DynamicsFields(Hyper):
    """Training that scores come from, and how scores read it."""

    score_network: str | None = Field(None, description="network that scores samples; none: the distillation network")
    score_epochs: int = Field(10, ge=1, description="passes over the training split, T of the schedule")
    score_batch: int = Field(128, ge=1, description="images in a step")
    score_lr: float = Field(0.1, gt=0, description="step size; sgd with momentum 0.9, cosine to 0")
    score_weight_decay: float = Field(5e-4, ge=0, description="L2, on every parameter")
    score_nesterov: bool = Field(False, description="Nesterov momentum")
    score_crop: Literal["pad", "resized", "none"] = Field("pad", description="of padding, random resized, or none")
    score_flip: bool = Field(True, description="flips, where the data set allows them")
    score_outputs: Literal["eval", "train"] = Field(
        "eval", description="after each epoch in eval mode without augmentation, or as the training saw each sample"
    )
    score_runs: int = Field(1, ge=1, description="trainings from other initial weights whose scores are averaged")
    score_first: int = Field(1, ge=1, description="first epoch that a score reads, counted from 1")
    score_last: int | None = Field(None, ge=1, description="last epoch that a score reads; none: the last one")
    window: int = Field(10, ge=2, description="J of Dyn-Unc, DUAL and TDDS: epochs in a window")
    decay: float = Field(0.9, gt=0, lt=1, description="a of TDDS: weight of the last window")

    @model_validator(mode="after")
    def _read_epochs(self) -> Self:
        last = self.score_last or self.score_epochs
        if not self.score_first <= last <= self.score_epochs:
            raise ValueError(
                f"scores read epochs {self.score_first} to {last}, of {self.score_epochs} that are trained"
            )
        return self

    def score_recipe(self, task: Task) -> StudentRecipe:
        """Training whose dynamics are recorded."""
        sgd = optimizer("sgd", self.score_lr, self.score_weight_decay)
        flips: list[Component] = [{"name": "flip", "p": 0.5}] if self.score_flip else []
        recipe = StudentRecipe(
            network=self.score_network or task.network,
            optimizer=sgd | ({"nesterov": True} if self.score_nesterov else {}),
            schedule=cosine(1.0, 0),
            augmentations=[*random_crop(self.score_crop), *flips],
            epochs=self.score_epochs,
            batch=self.score_batch,
        )
        return recipe.flipped(task.dataset.flip)


@dataclass(frozen=True, eq=False)
class Recorded:
    """Dynamics of one training: a row for each epoch that is read, a column for each training sample.

    Attributes:
        error, true, other, margin, entropy, feature: float32 [T, n], see the module; `feature` is || h ||^2.
        prediction: int32 [T, n].
        labels: int64 [n].
        network: as the training left it.
        movement: float32 [T, n]: sum_c | p_t log(p_t / p_(t-1)) |, 0 in the first epoch of the training; or none.
    """

    error: Tensor
    true: Tensor
    other: Tensor
    margin: Tensor
    entropy: Tensor
    prediction: Tensor
    feature: Tensor
    labels: Tensor
    network: Teacher
    movement: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Dynamics:
    """Trainings that scores are averaged over, on the CPU; labels int64 [n] are those of the training split."""

    runs: tuple[Recorded, ...]
    labels: Tensor


def dynamics_of(task: Task, fields: DynamicsFields, *, movement: bool = False) -> Dynamics:
    """Record or find the dynamics of a task's training split; each training is cached in the stage "dynamics".

    Keyed by the stage seed: all synthesis seeds share them. The split is read in parts where it does not fit in memory;
    what is recorded is held, 28 bytes for each image and epoch.

    Args:
        task: whose split, network, device and stage seed are used.
        fields: how to train, and which epochs to give.
        movement: whether `Recorded.movement` is wanted, which takes n * K numbers of memory.

    Raises:
        UsageError: a network without an embedding (`selection.embedder`).
        JobFailed: the training diverged.
    """
    labels = task.dataset.labels.cpu()
    return Dynamics(tuple(_run(task, fields, number, labels, movement) for number in range(fields.score_runs)), labels)


def _run(task: Task, fields: DynamicsFields, number: int, labels: Tensor, movement: bool) -> Recorded:
    recipe, space, at_once = fields.score_recipe(task), task.space("normalised"), shown_at_once(task.dataset.side)
    key: dict[str, Any] = {
        "recipe": recipe.model_dump(mode="json"),
        "space": space.to_json(),
        "outputs": fields.score_outputs,
        "movement": movement,
        "run": number,
        "code": [CODE_VERSION, SYNTHESIS],
        **({} if at_once == SHOWN else {"at_once": at_once}),  # left out where it always was so
    }
    stage = task.open_cache("dynamics", key)

    def make() -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        network = task.create_stage_network("dynamics", number, name=recipe.network).to(task.device)
        images = task.images(space)
        as_trained = fields.score_outputs == "train"
        recorder = Recorder(network, images, labels, recipe, as_trained, movement, at_once)
        seed = seed_of(task.stage_seed, "dynamics", number)
        recorder.train(seed, stage.checkpoint("product"), task.loop)
        return {**recorder.rows, **{f"network.{name}": t for name, t in network.state_dict().items()}}, {}

    tensors = stage.product(make).tensors
    state = {name.removeprefix("network."): t for name, t in tensors.items() if name.startswith("network.")}
    network = task.teacher(recipe.network, space, digest(stage.key), state)
    task.log_teacher(f"scoring network {number}", lambda: network, role="scoring network", epoch=fields.score_epochs)
    read = slice(fields.score_first - 1, fields.score_last or fields.score_epochs)
    rows = {name: tensors[name][read] for name in ROWS if name in tensors}
    return Recorded(**rows, labels=labels, network=network)


class Recorder:
    """A training that keeps what its samples looked like; `rows` are [epochs, n] each, on the CPU."""

    def __init__(
        self,
        network: nn.Module,
        images: Images,
        labels: Tensor,
        recipe: StudentRecipe,
        as_trained: bool,
        movement: bool,
        at_once: int = SHOWN,
    ) -> None:
        """Prepare a training.

        Args:
            network: trained in place, on the images' device.
            images: in the space that it reads.
            labels: int64 [n], on the CPU.
            recipe: the training.
            as_trained: keep the outputs that the training saw, augmented and in train mode; False: look at all images
                after each epoch, in eval mode.
            movement: keep the movement of p as well.
            at_once: images in a forward that only looks.
        """
        self._embed, self._as_trained, self._at_once = embedder(network), as_trained, at_once
        self.network, self.images, self.labels, self.recipe = cast(Network, network), images, labels, recipe
        count, classes = len(labels), self.network.head.out_features
        kinds = {"prediction": torch.int32}
        names = ROWS if movement else ROWS[:-1]
        self.rows = {n: torch.zeros(recipe.epochs, count, dtype=kinds.get(n, torch.float32)) for n in names}
        self._before = torch.zeros(count, classes) if movement else None  # log p of the epoch before
        self._size = min(recipe.batch, count)
        self._done = 0
        self._seen = torch.zeros(count, dtype=torch.bool)  # in the last epoch of the training
        self._features = torch.empty(0)

    def train(self, seed: int, checkpoint: Checkpoint, loop: Callable[[int, int, str], Iterator[int]]) -> None:
        """Train and record; an interrupted training resumes at the checkpoint, with its rows."""

        def steps(start: int, total: int) -> Iterator[int]:
            for step in loop(start, total, f"training {self.recipe.network} for scores"):
                self._look(step, loop)  # before the step: a checkpoint is made at the end of one
                yield step
            self._look(total, loop, over=True)

        def keep(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self._features = inputs[0].detach()

        with self.network.head.register_forward_pre_hook(keep):
            train(
                self.network,
                self.images,
                self.labels.to(self.images.device),
                self.recipe,
                seed=seed,
                loop=steps,
                checkpoint=_WithRows(checkpoint, self),
                observe=self._observe if self._as_trained else None,
            )

    def _observe(self, batch: Batch, logits: Tensor) -> None:
        """Keep a training batch: each sample in the epoch in which the step shows it."""
        epochs = (batch.step * self._size + torch.arange(len(logits))) // len(self.labels)
        for epoch in epochs.unique().tolist():
            part = (epochs == epoch).to(logits.device)
            self._keep(epoch, batch.index[part], logits[part], self._features[part])
            if epoch == self.recipe.epochs - 1:
                self._seen[batch.index[part].cpu()] = True

    def _look(self, step: int, loop: Callable[[int, int, str], Iterator[int]], over: bool = False) -> None:
        """Look at all images if `step` steps complete an epoch that was not looked at.

        Where the training's own outputs are kept, only those images are looked at that its last step left unseen: the
        number of steps is rounded down.
        """
        count = len(self.labels)
        while self._done < self.recipe.epochs and (over or step * self._size >= (self._done + 1) * count):
            if not self._as_trained:
                self._show(torch.arange(count), loop)
            elif self._done == self.recipe.epochs - 1:
                self._show((~self._seen).nonzero()[:, 0], loop)
            self._done += 1

    def state(self) -> dict[str, Any]:
        """Recorded rows so far, for a checkpoint."""
        return {"rows": self.rows, "before": self._before, "done": self._done, "seen": self._seen}

    def take(self, state: Mapping[str, Any]) -> None:
        """Resume from a `state`."""
        self.rows, self._before, self._done, self._seen = (state[key] for key in ("rows", "before", "done", "seen"))

    @torch.inference_mode()
    def _show(self, places: Tensor, loop: Callable[[int, int, str], Iterator[int]]) -> None:
        self.network.eval()
        parts = places.split(self._at_once)
        for number in loop(0, len(parts), "recording"):
            index = parts[number].to(self.images.device)
            features = self._embed(self.images[index])
            self._keep(self._done, index, self.network.head(features), features)
        self.network.train()

    def _keep(self, epoch: int, index: Tensor, logits: Tensor, features: Tensor) -> None:
        index = index.cpu()
        row = described(logits, self.labels[index].to(logits.device))
        row["feature"] = features.double().square().sum(1)
        if self._before is not None:
            log_p = logits.double().log_softmax(1)
            if epoch > 0:
                before = self._before[index].to(logits.device)
                row["movement"] = (log_p.exp() * (log_p - before)).abs().sum(1)
            self._before[index] = log_p.float().cpu()
        for name, values in row.items():
            self.rows[name][epoch, index] = values.to(self.rows[name].dtype).cpu()


class _WithRows(Checkpoint):
    """A training's checkpoint that holds what was recorded so far, too."""

    def __init__(self, inner: Checkpoint, recorder: Recorder) -> None:
        super().__init__(inner.path, inner.interval)
        self._recorder = recorder

    def load(self) -> Any:
        """Load the training's state; the recorder takes its own."""
        state = super().load()
        if isinstance(state, dict) and "recorded" in state:
            self._recorder.take(state["recorded"])
        return state

    def save_when_due(self, state: Callable[[], Any]) -> None:
        """See the base class."""
        super().save_when_due(lambda: {**state(), "recorded": self._recorder.state()})


def described(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Values of a row for samples with logits [b, K] and labels int64 [b]: float64 [b] each, by name; see the module."""
    z = logits.double()
    log_p = z.log_softmax(1)
    p = log_p.exp()
    own = torch.nn.functional.one_hot(labels, z.shape[1]).bool()
    others = p.masked_fill(own, 0.0)
    return {
        "error": (others.sum(1).square() + others.square().sum(1)).sqrt(),  # 1 - p_y is the sum of the others
        "true": p[own],
        "other": others.amax(1),
        "margin": z[own] - z.masked_fill(own, -torch.inf).amax(1),
        "entropy": -(p * log_p).sum(1),
        "prediction": z.argmax(1),
    }
