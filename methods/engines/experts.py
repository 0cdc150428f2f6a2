"""Expert trajectories: parameter vectors of networks trained on the real images, kept after every epoch.

Expert e begins as theta_0 = the initial weights of key ("expert", e); theta_k are its weights after k epochs. One epoch
is a permutation of the training split in batches of `batch`, the last one smaller. A step, on a batch (x, y) with
A(x) its DSA augmentation (one operation for the batch, parameters for each image):

    l(theta) = s CE(f(A(x); theta), y) + w mean_{b, i, j} (|| d sum_c f_c(x; theta) / d x_{b, :, i, j} ||_2 - 1)^2
    d        = grad l(theta), or GSAM's direction (`gsam`) with rho > 0
    v       <- momentum v + d + weight_decay theta
    theta   <- theta - lr v

with s AST's clipping factor and w its gradient penalty, on the images as they are. From epoch `decay_epoch` on, lr is
multiplied by `decay_factor`, and v begins anew.

Snapshots are entries of the stage "experts", one a file ("003-017": expert 3 after 17 epochs), so that recipes that
train experts alike share them, whatever epochs they read; a velocity lies in a file of its own beside them. Every draw
is keyed by stage seed, expert, epoch and step: a trajectory made in pieces has the bits of one made at once. On CUDA
several experts train at once, their vectors stacked.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from ddbench import networks
from ddbench.augment import DSA, OPS
from ddbench.errors import JobFailed, UsageError
from ddbench.randomness import Key, forked, rng
from ddbench.space import Space
from ddbench.task import Task

from .flat import FlatNetwork, flatten

CODE_VERSION = 1  # raise when a change here or in what it calls changes the experts; a test pins the source

CACHE_BYTES = 2**30
GROUP = 8
_EPS = 1e-12


class ExpertRecipe(BaseModel):
    """How an expert is trained. The defaults are those of MTT; the fields are part of the stage's key."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    lr: float = Field(0.01, gt=0, description="step size of the SGD")
    momentum: float = Field(0.0, ge=0, lt=1, description="of the SGD")
    weight_decay: float = Field(0.0, ge=0, description="of the SGD, on every parameter")
    batch: int = Field(256, ge=1, description="images in a step; an epoch's last step takes what is left")
    decay_epoch: int | None = Field(None, ge=0, description="0-based epoch from which on lr is decayed; v begins anew")
    decay_factor: float = Field(1.0, gt=0, description="of lr, from decay_epoch on")
    rho: float = Field(0.0, ge=0, description="GSAM's adaptive radius; 0: plain SGD")
    gsam_alpha: float = Field(0.0, ge=0, description="GSAM's weight of the perpendicular part, a")
    loss_ramp: int = Field(0, ge=0, description="AST's clipping loss: epochs e < loss_ramp have s = 0.5 + 0.5 e / ramp")
    gradient_penalty: float = Field(0.0, ge=0, description="AST's weight of the gradient penalty, w (AST: 2)")

    def lr_at(self, epoch: int) -> float:
        """Step size in a 0-based epoch."""
        return self.lr if self.decay_epoch is None or epoch < self.decay_epoch else self.lr * self.decay_factor

    def scale_at(self, epoch: int) -> float:
        """Factor of the cross-entropy in a 0-based epoch, s."""
        return 1.0 if epoch >= self.loss_ramp else 0.5 + 0.5 * epoch / self.loss_ramp


@dataclass(frozen=True, eq=False)
class Batch:
    """One step of G experts: images as they are, augmented images (both [G, b, C, H, W]), labels [G, b]."""

    images: Tensor
    augmented: Tensor
    labels: Tensor


Gradients = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Vectors [G, P] -> gradients [G, P] and losses [G]."""


def gsam(gradients: Gradients, vectors: Tensor, rho: float, alpha: float) -> tuple[Tensor, Tensor]:
    """GSAM's direction with ASAM's perturbation (FTD's experts), for each row w of `vectors` [G, P].

    With g = grad l(w), e = rho w^2 g / (|| |w| g || + 1e-12), h = grad l(w + e) and p the part of g that is
    perpendicular to h, the direction is h - alpha p. All parameters take part, biases and norms included. Also
    returns the losses at w.
    """
    gradient, losses = gradients(vectors)
    radius = rho / ((vectors.abs() * gradient).norm(dim=1, keepdim=True) + _EPS)
    sharp, _ = gradients(vectors + radius * vectors.square() * gradient)
    length, sharp_length = (g.norm(dim=1, keepdim=True) for g in (gradient, sharp))
    cosine = (gradient * sharp).sum(1, keepdim=True) / (length * sharp_length + _EPS)
    perpendicular = gradient - cosine * length * sharp / (sharp_length + _EPS)
    return sharp - alpha * perpendicular, losses


def gradient_penalty(network: FlatNetwork, vector: Tensor, images: Tensor) -> Tensor:
    """AST's penalty: the mean squared distance from 1 of the summed logits' gradient norms, one norm per pixel.

    Norms are over the channels. Differentiable in `vector`.
    """

    def summed(pixels: Tensor) -> Tensor:
        return network(vector, pixels).sum()

    slope: Tensor = torch.func.grad(summed)(images)
    return (slope.norm(dim=1) - 1).square().mean()


def pieces(stored: Iterable[int], wanted: Iterable[int], start_at: Iterable[int]) -> Iterator[range]:
    """The epochs to make, as ranges that each go on from the epoch before the first (-1: from nothing).

    Args:
        stored: epochs whose snapshots are there.
        wanted: epochs that are to be there.
        start_at: epochs that training can go on from.
    """
    known, have = {-1, *start_at}, set(stored)
    piece = range(0)
    for epoch in sorted({*wanted} - have):
        start = max(k for k in known if k < epoch)
        if piece and piece.stop == start + 1:
            piece = range(piece.start, epoch + 1)
        else:
            if piece:
                yield piece
            piece = range(start + 1, epoch + 1)
        known.add(epoch)
    if piece:
        yield piece


def entry(expert: int, epoch: int) -> str:
    """Name of a snapshot in the stage."""
    return f"{expert:03d}-{epoch:03d}"


def velocity_entry(expert: int, epoch: int) -> str:
    """Name of the velocity beside a snapshot."""
    return f"{entry(expert, epoch)}-velocity"


class Experts:
    """`count` experts of a task's network, trained on its images in `space`; made on demand, shared by all seeds."""

    network: FlatNetwork
    """Logits as a function of (parameter vector, images)."""

    def __init__(self, task: Task, space: Space, recipe: ExpertRecipe, count: int, *, group: int | None = None) -> None:
        """Open the stage; nothing is trained yet. A holdout must have been asked for before.

        Args:
            task: its network, training images, stage seed and device are used.
            space: that the experts see the images in.
            recipe: how they are trained.
            count: how many there are.
            group: how many train at once; None: one on a CPU, several on CUDA. What is drawn does not depend on it.

        Raises:
            UsageError: the network is more than a function of its parameters (batch normalisation).
        """
        if count < 1:
            raise UsageError(f"experts: count must be at least 1, not {count}")
        self.recipe, self.count = recipe, count
        self._task, self._space = task, space
        network = self._create(0)
        self._group = group or (GROUP if task.device.type == "cuda" and not _draws(network) else 1)
        self.network = FlatNetwork(network)
        ops = OPS if task.dataset.flip else tuple(op for op in OPS if op != "flip")
        self._dsa = DSA(ops, align_corners=True, crop_rounding="floor")
        self._stage = task.open_stage(
            "experts",
            {
                "network": task.network,
                "recipe": recipe.model_dump(mode="json"),
                "space": space.to_json(),
                "dsa": list(ops),
                "code": CODE_VERSION,
            },
        )
        self._cache: OrderedDict[str, Tensor] = OrderedDict()
        self._room = max(2, CACHE_BYTES // (4 * self.network.size))

    def train(self, upto: int, final: int | None = None) -> None:
        """Make what is missing of epochs 0 to `upto` (inclusive) of every expert and, if asked, of epoch `final`.

        Of the epochs between `upto` and `final` only the latest is kept while they are made: a stopped run loses at
        most one epoch. Of two processes one trains, and the other then finds.

        Raises:
            JobFailed: an expert diverged.
        """
        if upto < 0 or (final is not None and final < 0):
            raise UsageError(f"experts: epochs are 0 or above, not {upto if upto < 0 else final}")
        wanted = sorted({*range(upto + 1), *(() if final is None else (final,))})
        if not self._work(wanted):
            return
        with self._stage.locked():
            while work := self._work(wanted):  # again if an entry to go on from turns out to be damaged
                total = sum(len(epochs) * len(experts) for epochs, experts in work)
                for _ in zip(self._task.loop(0, total, "training experts"), self._make(work, wanted), strict=False):
                    pass

    def at(self, expert: int, epoch: int) -> Tensor:
        """The weights of an expert after `epoch` epochs: float32 [P] on the device, not to be written to.

        Raises:
            UsageError: there is no such expert.
            JobFailed: the snapshot is not there: `train` was not asked for it, or it was damaged.
        """
        if not 0 <= expert < self.count:
            raise UsageError(f"there are experts 0 to {self.count - 1}, not {expert}")
        name = entry(expert, epoch)
        if name not in self._cache:
            product = self._stage.load(name)
            if product is None:
                raise JobFailed(
                    f"the snapshot of expert {expert} after {epoch} epochs is not there; a new run makes it"
                )
            self._cache[name] = product.tensors["parameters"].to(self._task.device)
            if len(self._cache) > self._room:
                self._cache.popitem(last=False)
        self._cache.move_to_end(name)
        return self._cache[name]

    def _work(self, wanted: list[int]) -> list[tuple[range, list[int]]]:
        """Which epochs are to be made, of which experts at once."""
        names = set(self._stage.entries())
        together: dict[range, list[int]] = {}
        for expert in range(self.count):
            stored = self._stored(expert, names)
            begin = [k for k in stored if self._rests(k) or velocity_entry(expert, k) in names]
            for piece in pieces(stored, wanted, begin):
                together.setdefault(piece, []).append(expert)
        return [
            (piece, experts[first : first + self._group])
            for piece, experts in together.items()
            for first in range(0, len(experts), self._group)
        ]

    def _stored(self, expert: int, names: Iterable[str]) -> set[int]:
        parts = (name.split("-") for name in names)
        return {int(part[1]) for part in parts if len(part) == 2 and int(part[0]) == expert}

    def _rests(self, epoch: int) -> bool:
        """Whether the velocity after `epoch` epochs is zero or not used."""
        return self.recipe.momentum == 0 or epoch in (0, self.recipe.decay_epoch)

    def _make(self, work: list[tuple[range, list[int]]], wanted: list[int]) -> Iterator[None]:
        """Train and seal; an item for every (expert, epoch)."""
        for epochs, experts in work:
            kept = {expert: {*wanted, *self._stored(expert, self._stage.entries())} for expert in experts}
            begun = self._begin(experts, epochs.start - 1)
            if begun is None:
                continue
            vectors, velocity = begun
            for epoch in epochs:
                losses = self._advance(experts, epoch, vectors, velocity)
                for row, expert in enumerate(experts):
                    self._seal(expert, epoch, vectors[row], velocity[row], losses[row])
                    if epoch - 1 not in kept[expert]:
                        self._stage.drop(entry(expert, epoch - 1))
                        self._stage.drop(velocity_entry(expert, epoch - 1))
                    yield

    def _begin(self, experts: list[int], epoch: int) -> tuple[Tensor, Tensor] | None:
        """Weights and velocities [G, P] after `epoch` epochs (-1: zeros, to be drawn); None if one is damaged."""
        vectors = torch.zeros(len(experts), self.network.size)
        velocity = torch.zeros_like(vectors)
        for row, expert in enumerate(experts if epoch >= 0 else ()):
            snapshot = self._stage.load(entry(expert, epoch))
            moving = None if self._rests(epoch) else self._stage.load(velocity_entry(expert, epoch))
            if snapshot is None or (moving is None and not self._rests(epoch)):
                return None
            vectors[row] = snapshot.tensors["parameters"]
            if moving is not None:
                velocity[row] = moving.tensors["velocity"]
        return vectors.to(self._task.device), velocity.to(self._task.device)

    def _seal(self, expert: int, epoch: int, vector: Tensor, velocity: Tensor, loss: float | None) -> None:
        if not self._rests(epoch):  # before the snapshot: one that is there can be gone on from
            self._stage.save(velocity_entry(expert, epoch), {"velocity": velocity.clone()})
        self._stage.save(entry(expert, epoch), {"parameters": vector.clone()}, {"loss": loss})

    def _advance(self, experts: list[int], epoch: int, vectors: Tensor, velocity: Tensor) -> list[float | None]:
        """Bring vectors and velocities [G, P] in place from epoch - 1 to `epoch` epochs; the epoch's mean losses.

        Raises:
            JobFailed: a loss or a weight is not finite.
        """
        if epoch == 0:
            for row, expert in enumerate(experts):
                vectors[row] = flatten(self._create(expert))
            return [None] * len(experts)
        if epoch - 1 == self.recipe.decay_epoch:
            velocity.zero_()
        with self._forked(experts[0], "dropout", epoch - 1):
            losses = self._epoch(experts, epoch - 1, vectors, velocity)
        fine = torch.isfinite(losses) & torch.isfinite(vectors).all(1)
        if not bool(fine.all()):
            expert = experts[int(fine.int().argmin())]
            raise JobFailed(f"expert {expert} diverged in epoch {epoch}: its loss or weights are not finite")
        return losses.tolist()

    def _epoch(self, experts: list[int], epoch: int, vectors: Tensor, velocity: Tensor) -> Tensor:
        """Run a 0-based epoch in place; the mean losses [G] of its steps."""
        recipe, images = self.recipe, self._task.tensors(self._space)[0]
        count, scale = len(images), recipe.scale_at(epoch)
        orders = torch.stack([torch.randperm(count, generator=self._rng(e, "order", epoch)) for e in experts])
        chunks = orders.to(self._task.device).split(recipe.batch, dim=1)
        total = torch.zeros(len(experts), device=self._task.device)
        for step, places in enumerate(chunks):
            gradients = partial(self._gradients, self._batch(experts, (epoch, step), places), scale)
            if recipe.rho > 0:
                direction, losses = gsam(gradients, vectors, recipe.rho, recipe.gsam_alpha)
            else:
                direction, losses = gradients(vectors)
            velocity.mul_(recipe.momentum).add_(direction.add(vectors, alpha=recipe.weight_decay))
            vectors.sub_(velocity, alpha=recipe.lr_at(epoch))
            total += losses
        return total / len(chunks)

    def _batch(self, experts: list[int], when: tuple[int, int], places: Tensor) -> Batch:
        """The images of a step, by their places [G, b], with each expert's own augmentation."""
        images, labels = self._task.tensors(self._space)
        chosen = images[places]
        augmented = [self._dsa(own, self._rng(e, "dsa", *when)) for e, own in zip(experts, chosen, strict=True)]
        return Batch(chosen, torch.stack(augmented), labels[places])

    def _gradients(self, batch: Batch, scale: float, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients [G, P] and losses [G] of l at vectors [G, P]."""
        leaf = vectors.detach().requires_grad_()
        given = (batch.images, batch.augmented, batch.labels)

        def loss(vector: Tensor, images: Tensor, augmented: Tensor, labels: Tensor) -> Tensor:
            value = scale * F.cross_entropy(self.network(vector, augmented), labels)
            if self.recipe.gradient_penalty:
                value = value + self.recipe.gradient_penalty * gradient_penalty(self.network, vector, images)
            return value

        if len(vectors) == 1:
            losses = loss(leaf[0], *(part[0] for part in given))[None]
        else:
            losses = torch.vmap(loss)(leaf, *given)
        (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        return gradient, losses.detach()

    def _create(self, expert: int) -> nn.Module:
        data, seed = self._task.dataset, self._task.stage_seed
        shape = {"channels": data.channels, "side": data.side, "classes": len(data.class_names)}
        return networks.create(self._task.network, **shape, seed=seed, key=("expert", expert))

    def _rng(self, expert: int, *key: Key) -> torch.Generator:
        return rng(self._task.stage_seed, "expert", expert, *key)

    def _forked(self, expert: int, *key: Key) -> AbstractContextManager[None]:
        return forked(self._task.stage_seed, "expert", expert, *key)


def _draws(network: nn.Module) -> bool:
    """Whether a network draws while it runs: dropout, stochastic depth."""
    return any("Drop" in type(part).__name__ or "Stochastic" in type(part).__name__ for part in network.modules())
