"""Expert trajectories: parameter vectors of networks trained on the real images, kept after every epoch.

Expert e begins as theta_0, the initial weights of key ("expert", e); theta_k are its weights after k epochs. An epoch
is a permutation of the training split in batches, the last one smaller; `expert_step` says what a step is. From epoch
`decay_epoch` on, lr is multiplied by `decay_factor`, and the velocity begins anew.

Snapshots are entries of the stage "experts", one a file ("003-017": expert 3 after 17 epochs), so that recipes that
train experts alike share them, whatever epochs they read. Velocities have files of their own beside them. Every draw
is keyed by stage seed, expert, epoch and step: a trajectory made in pieces has the bits of one made at once.

On CUDA several experts train at once, their vectors stacked; on a CPU one after another, which is faster there.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ddbench.augment import DSA
from ddbench.data.spaces import Space
from ddbench.distillation.task import Task
from ddbench.errors import JobFailed, UsageError
from ddbench.hashing import digest
from ddbench.randomness import Key, forked, rng
from ddbench.synset.teachers import Teacher
from ddbench.training.memory import saved_activation_bytes

from ..condensation import dsa_ops, reader
from .expert_step import ExpertBatch, step
from .expert_step import ExpertRecipe as ExpertRecipe
from .flat import FlatNetwork, flatten

CODE_VERSION = 1  # raise when a change here or in what it calls changes the experts; a test pins the source

CACHE_BYTES = 2**30  # of snapshots in memory
GROUP = 8  # experts that train at once on CUDA, at most


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
            UsageError: the network is more than a function of its parameters (batch normalization, dropout).
        """
        if count < 1:
            raise UsageError(f"experts: count must be at least 1, not {count}")
        self.recipe, self.count = recipe, count
        self._task, self._space = task, space
        network = self._create(0)
        self.network = FlatNetwork(network)
        self._require_no_draws(flatten(network))
        self._group = group or (1 if task.device.type == "cpu" else self._fitting())
        self._dsa = dsa_of(task)
        how = {"recipe": recipe.model_dump(mode="json"), "network": task.network, "space": space.to_json()}
        self._stage = task.open_cache("experts", {**how, "dsa": list(self._dsa.ops), "code": CODE_VERSION})
        self._cache: OrderedDict[str, Tensor] = OrderedDict()
        self._room = max(2, CACHE_BYTES // (4 * self.network.size))

    def train(self, upto: int, final: int | None = None, final_of: Iterable[int] | None = None) -> None:
        """Train what is missing of epochs 0 to `upto` (inclusive) of every expert and, if asked, of epoch `final`.

        `final_of` names the experts whose epoch `final` is asked for; None: all.

        Of the epochs between `upto` and `final` only the latest is kept, while they are trained. An interrupted run
        loses at most one epoch. Of two processes one trains, and the other waits for it. The last snapshots that are
        asked for are credited: the runner measures their test accuracy when the method is done.

        Raises:
            JobFailed: an expert diverged.
        """
        last = max(upto, final or 0)
        if min(upto, last if final is None else final) < 0:
            raise UsageError(f"experts: epochs are 0 or above, not up to {upto} with a final one of {final}")
        finishing = set(range(self.count) if final_of is None else final_of)
        wanted = [{*range(upto + 1), last if expert in finishing else upto} for expert in range(self.count)]
        for expert, epochs in enumerate(wanted):
            made = partial(self._teacher, expert, max(epochs))
            self._task.log_teacher(f"expert {expert}", made, role="expert", epoch=max(epochs))
        if self._work(wanted):
            with self._stage.locked():
                while work := self._work(wanted):  # again if an entry to resume from turns out to be damaged
                    total = sum(len(epochs) * len(experts) for epochs, experts in work)
                    for _ in zip(self._task.loop(0, total, "training experts"), self._make(work, wanted), strict=False):
                        pass

    def at(self, expert: int, epoch: int) -> Tensor:
        """Weights of an expert after `epoch` epochs: float32 [P] on the device, not to be written to.

        Raises:
            UsageError: there is no such expert.
            JobFailed: the snapshot is not there: `train` was not asked for it, or its file was damaged since.
        """
        if not 0 <= expert < self.count:
            raise UsageError(f"there are experts 0 to {self.count - 1}, not {expert}")
        name = entry(expert, epoch)
        if name not in self._cache:
            product = self._stage.load(name)
            if product is None:
                raise JobFailed(f"the snapshot of expert {expert} after {epoch} epochs is not there; training makes it")
            self._cache[name] = product.tensors["parameters"].to(self._task.device)
            if len(self._cache) > self._room:
                self._cache.popitem(last=False)
        self._cache.move_to_end(name)
        return self._cache[name]

    def _teacher(self, expert: int, epoch: int) -> Teacher:
        state = self.network.unflatten(self.at(expert, epoch).cpu())
        return self._task.teacher(self._task.network, self._space, digest(self._stage.key), state)

    def _work(self, wanted: Sequence[set[int]]) -> list[tuple[range, list[int]]]:
        """List the epochs that are missing, with the experts that train them together."""
        names = set(self._stage.entries())
        together: dict[range, list[int]] = {}
        for expert in range(self.count):
            stored = _stored(expert, names)
            start_at = {k for k in stored if self._rests(k) or velocity_entry(expert, k) in names}
            for piece in pieces(stored, wanted[expert], start_at):
                together.setdefault(piece, []).append(expert)
        return [
            (piece, experts[first : first + self._group])
            for piece, experts in together.items()
            for first in range(0, len(experts), self._group)
        ]

    def _rests(self, epoch: int) -> bool:
        """Tell if the velocity after `epoch` epochs is zero, or never used."""
        return self.recipe.momentum == 0 or epoch in (0, self.recipe.decay_epoch)

    def _make(self, work: list[tuple[range, list[int]]], wanted: Sequence[set[int]]) -> Iterator[None]:
        """Train and seal; an item for every (expert, epoch)."""
        for epochs, experts in work:
            names = self._stage.entries()
            keep = [wanted[expert] | _stored(expert, names) for expert in experts]
            begun = self._begin(experts, epochs.start - 1)
            if begun is None:
                continue
            for epoch in epochs:
                losses = self._advance(experts, epoch, *begun)
                for row, expert in enumerate(experts):
                    self._seal(expert, epoch, begun[0][row], begun[1][row], losses[row])
                    if epoch - 1 not in keep[row]:
                        self._stage.drop(entry(expert, epoch - 1))
                        self._stage.drop(velocity_entry(expert, epoch - 1))
                    yield

    def _begin(self, experts: list[int], epoch: int) -> tuple[Tensor, Tensor] | None:
        """Vectors and velocities [G, P] after `epoch` epochs (-1: zeros, not drawn yet); None if one is damaged."""
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
        if not self._rests(epoch):  # before the snapshot, so that training can resume from every snapshot
            self._stage.save(velocity_entry(expert, epoch), {"velocity": velocity.clone()})
        self._stage.save(entry(expert, epoch), {"parameters": vector.clone()}, {"loss": loss})

    def _advance(self, experts: list[int], epoch: int, vectors: Tensor, velocity: Tensor) -> list[float | None]:
        """Bring vectors and velocities [G, P] in place from `epoch` - 1 to `epoch` epochs; gives the mean losses.

        Raises:
            JobFailed: a loss or a weight is not finite.
        """
        if epoch == 0:
            vectors.copy_(torch.stack([flatten(self._create(expert)) for expert in experts]))
            return [None] * len(experts)
        losses = self._epoch(experts, epoch - 1, vectors, velocity)
        fine = torch.isfinite(losses) & torch.isfinite(vectors).all(1)
        if not bool(fine.all()):
            expert = experts[int(fine.int().argmin())]
            raise JobFailed(f"expert {expert} diverged in epoch {epoch}: its loss or weights are not finite")
        return losses.tolist()

    def _epoch(self, experts: list[int], epoch: int, vectors: Tensor, velocity: Tensor) -> Tensor:
        """Run a 0-based epoch in place; gives the mean losses [G] of its steps."""
        labels = self._task.dataset.labels.to(self._task.device)
        read = reader(self._task, self._space)
        orders = [torch.randperm(len(labels), generator=self._rng(e, "order", epoch)) for e in experts]
        steps = torch.stack(orders).to(self._task.device).split(self.recipe.batch, dim=1)
        if epoch == self.recipe.decay_epoch:
            velocity.zero_()
        total = vectors.new_zeros(len(experts))
        for number, places in enumerate(steps):
            chosen = read(places.flatten()).unflatten(0, places.shape)
            batch = ExpertBatch(chosen, self._augmented(experts, (epoch, number), chosen), labels[places])
            total += step(self.network, self.recipe, epoch, batch, vectors, velocity)
        return total / len(steps)

    def _augmented(self, experts: list[int], when: tuple[int, int], images: Tensor) -> Tensor:
        """Images [G, b, C, H, W], each expert's by its own draw of this (epoch, step)."""
        own = zip(experts, images, strict=True)
        return torch.stack([self._dsa(part, self._rng(expert, "dsa", *when)) for expert, part in own])

    @torch.no_grad()
    def _require_no_draws(self, vector: Tensor) -> None:
        """Raise UsageError where two forwards differ: going back through a step would meet another network than ran."""
        data, seed = self._task.dataset, self._task.stage_seed
        images = torch.randn(2, data.channels, data.side, data.side, generator=rng(seed, "expert", "probe"))
        with forked(seed, "expert", "probe"):
            one, other = self.network(vector, images), self.network(vector, images)
        if not torch.allclose(one, other, rtol=1e-3):
            raise UsageError(
                f"trajectory matching needs a network that draws nothing while it runs; {self._task.network} has "
                "dropout or stochastic depth"
            )

    def _fitting(self) -> int:
        """Number of experts whose steps fit on the CUDA device side by side, at most `GROUP`."""
        data = self._task.dataset
        image = torch.zeros(1, data.channels, data.side, data.side)
        vector = torch.zeros(self.network.size, requires_grad=True)
        kept = saved_activation_bytes(lambda: self.network(vector, image), [vector])
        free, _ = torch.cuda.mem_get_info(self._task.device)
        needed = self.recipe.batch * kept * (3 if self.recipe.gradient_penalty else 1)
        return max(1, min(GROUP, free // (4 * needed)))  # a quarter: images, and what is computed beside what is kept

    def _create(self, expert: int) -> nn.Module:
        return self._task.create_stage_network("expert", expert)

    def _rng(self, expert: int, *key: Key) -> torch.Generator:
        return rng(self._task.stage_seed, "expert", expert, *key)


def dsa_of(task: Task) -> DSA:
    """DSA of the family: one operation a call, parameters per image, align_corners; no flip where it changes classes."""
    return DSA(dsa_ops(task), align_corners=True, crop_rounding="floor")


def pieces(stored: Iterable[int], wanted: Iterable[int], start_at: Iterable[int]) -> list[range]:
    """Epochs to train, as ranges that each continue from the epoch before their first (-1: from nothing).

    Args:
        stored: epochs whose snapshots are there.
        wanted: epochs that are to be there.
        start_at: stored epochs that training can resume from.
    """
    known, ranges = {-1, *start_at}, list[range]()
    for epoch in sorted({*wanted} - {*stored}):
        start = max(k for k in known if k < epoch)
        if ranges and ranges[-1][-1] == start:
            ranges[-1] = range(ranges[-1].start, epoch + 1)
        else:
            ranges.append(range(start + 1, epoch + 1))
        known.add(epoch)
    return ranges


def entry(expert: int, epoch: int) -> str:
    """Name of a snapshot in the stage."""
    return f"{expert:03d}-{epoch:03d}"


def velocity_entry(expert: int, epoch: int) -> str:
    """Name of the velocity beside a snapshot."""
    return f"{entry(expert, epoch)}-velocity"


def _stored(expert: int, names: Iterable[str]) -> set[int]:
    """Epochs of an expert's snapshots among the names of entries."""
    head = f"{expert:03d}-"
    return {int(name.removeprefix(head)) for name in names if name.startswith(head) and name.count("-") == 1}
