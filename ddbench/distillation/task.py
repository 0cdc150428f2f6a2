"""Task: all that a method is given. No test split, no paths, no device calls, no printing."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ddbench import networks
from ddbench.budget import Budget
from ddbench.data.dataset import Dataset
from ddbench.data.spaces import Space, make_space, transform_for
from ddbench.data.streamed import ReadImages
from ddbench.distillation.snapshots import Snapshots
from ddbench.errors import JobFailed, UsageError
from ddbench.progress import Reporter
from ddbench.randomness import Key, forked, rng
from ddbench.synset import targets, teachers, views
from ddbench.synset.synset import SynSet
from ddbench.synset.teachers import Teacher
from ddbench.system import code
from ddbench.training.batch_schedule import Images, Labeller
from ddbench.training.cache import Cache
from ddbench.training.checkpoints import Checkpoint
from ddbench.training.sealed import Artifact

SYNTHESIS = "synthesis"
"""First part of every key that a method draws by: synthesis and evaluation seeds are small numbers, often equal."""

ENCODED_AT_ONCE = 5000


@dataclass(frozen=True, eq=False)
class TaskData:
    """Facts of the data set that a method may know. `labels` are those of the training split (of what `tensors` gives)."""

    id: str
    class_names: tuple[str, ...]
    channels: int
    side: int
    flip: bool
    split_hash: str
    labels: torch.Tensor


@dataclass(frozen=True, eq=False)
class Held:
    """A held-out part of the training split: images by space, and int64 labels."""

    images: Callable[[Space], Images]
    labels: torch.Tensor


def stratified(labels: torch.Tensor, fraction: float, *key: Key) -> tuple[torch.Tensor, torch.Tensor]:
    """Split places 0..n-1 into (kept, held), the same fraction of every class held, fixed by key; both sorted.

    Raises:
        UsageError: the fraction is not inside (0, 1), or leaves a class without an image on either side.
    """
    if not 0 < fraction < 1:
        raise UsageError(f"holdout fraction must be inside (0, 1), not {fraction}")
    kept, held = [], []
    for c in labels.unique(sorted=True).tolist():
        places = (labels == c).nonzero()[:, 0]
        order = places[torch.randperm(len(places), generator=rng(0, "holdout", *key, c))]
        count = round(fraction * len(places))
        if not 0 < count < len(places):
            raise UsageError(f"a holdout of {fraction} of class {c}'s {len(places)} images leaves one side empty")
        held.append(order[:count])
        kept.append(order[count:])
    return torch.cat(kept).sort().values, torch.cat(held).sort().values


@dataclass(frozen=True, eq=False)
class LoggedTeacher:
    """A trained network that a method used: what gives it, once the method is done, and facts to show with it."""

    teacher: Callable[[], Teacher]
    facts: Mapping[str, Any]


class Task:
    """Training split, budget, distillation network, keyed randomness, caches and checkpoints of one distillation."""

    def __init__(
        self,
        dataset: Dataset,
        budget: Budget,
        network: str,
        seed: int,
        device: torch.device,
        *,
        reporter: Reporter | None = None,
        checkpoint: Checkpoint | None = None,
        snapshots: Snapshots | None = None,
        stage_seed: int = 0,
    ) -> None:
        """Made by the runner; `network` is canonical, `seed` the synthesis seed."""
        self._source = dataset
        self._kept: torch.Tensor | None = None
        self._reserved: float | None = None
        self._cached: dict[Space, torch.Tensor] = {}
        self._reporter = reporter or Reporter()
        self._checkpoint = checkpoint or Checkpoint(None)
        self._snapshots = snapshots
        self.budget, self.network, self.seed, self.device = budget, network, seed, device
        self.ipc, self.fraction, self.stage_seed = budget.ipc, budget.fraction, stage_seed
        self.dataset = self._describe(dataset.train.labels)
        self.teachers: dict[str, dict[str, Any]] = {}
        """Facts of the teachers used, by hash; a method adds to it, the set's provenance shows it."""
        self.logged_teachers: dict[str, LoggedTeacher] = {}
        """Networks that `log_teacher` named, by name."""

    def _describe(self, labels: torch.Tensor) -> TaskData:
        source = self._source
        return TaskData(
            source.id, source.class_names, source.channels, source.side, source.flip, source.train.hash, labels
        )

    def rng(self, *key: Key) -> torch.Generator:
        """A fresh generator for one purpose of this synthesis seed; no student of an equal seed draws the same."""
        return rng(self.seed, SYNTHESIS, *key)

    def forked(self, *key: Key) -> AbstractContextManager[None]:
        """Torch's global generators keyed within a block, for what a library draws."""
        return forked(self.seed, SYNTHESIS, *key)

    def space(self, kind: str) -> Space:
        """Data set's "pixel", "normalised" or "zca" space."""
        return make_space(kind, self._source)

    def holdout(self, fraction: float) -> Held:
        """Set a fixed, stratified part of the training split aside; `tensors` and caches then do without it.

        Raises:
            UsageError: `tensors` was asked for before, or another fraction was.
        """
        if self._reserved not in (None, fraction) or (self._reserved is None and self._cached):
            raise UsageError("holdout must be asked for once, before the training images are")
        kept, held = stratified(self._source.train.labels, fraction, self._source.train.hash)
        self._reserved, self._kept = fraction, kept
        self.dataset = self._describe(self._source.train.labels[kept])
        resident, labels = self._source.train.resident, self._source.train.labels[held].to(self.device)
        return Held(lambda space: self._encode(space, held) if resident else self._read_images(space, held), labels)

    def tensors(self, space: Space) -> tuple[torch.Tensor, torch.Tensor]:
        """Training images float32 [n, C, H, W] in `space` and int64 labels [n], on the device.

        Raises:
            UsageError: the split is too large to be held; use `images` or `read`.
        """
        if not self._source.train.resident:
            raise UsageError(
                f"{self._source.id} does not fit in memory, which this method needs: it calls tensors(), not images()"
            )
        if space not in self._cached:
            self._cached = {space: self._encode(space, self._kept)}  # one space at a time: they are large
        return self._cached[space], self.dataset.labels.to(self.device)

    def images(self, space: Space) -> Images:
        """Training images in `space` for a training on the device: those of `tensors`, or read when they are shown."""
        return self.tensors(space)[0] if self._source.train.resident else self._read_images(space, self._kept)

    def _read_images(self, space: Space, places: torch.Tensor | None) -> Images:
        return ReadImages.of(self._source.train, transform_for(space, self._source), self.device, places)

    def _encode(self, space: Space, indices: torch.Tensor | None) -> torch.Tensor:
        data, transform = self.dataset, transform_for(space, self._source).to(self.device)
        places = torch.arange(len(self._source.train)) if indices is None else indices
        encoded = torch.empty(len(places), data.channels, data.side, data.side, device=self.device)
        for start in range(0, len(places), ENCODED_AT_ONCE):  # in parts, so that no second float copy of a split exists
            part = slice(start, start + ENCODED_AT_ONCE)
            pixels = self._source.train.read(places[part]).to(self.device)
            encoded[part] = transform.encode(pixels.float() / 255)
        return encoded

    def read(self, space: Space, places: torch.Tensor) -> torch.Tensor:
        """Some training images, by their places in `dataset.labels`: float32 [b, C, H, W] in `space`, on the device."""
        places = places.cpu()
        return self._encode(space, places if self._kept is None else self._kept[places])

    def class_indices(self) -> list[torch.Tensor]:
        """Places of each class's images in `dataset.labels`, int64, in class order."""
        labels = self.dataset.labels
        return [(labels == c).nonzero()[:, 0] for c in range(len(self.dataset.class_names))]

    def create_network(self, *key: Key, name: str | None = None) -> nn.Module:
        """Distillation network (or another), freshly initialized by key, on the device, in train mode."""
        data = self.dataset
        network = networks.create(
            name or self.network,
            channels=data.channels,
            side=data.side,
            classes=len(data.class_names),
            seed=self.seed,
            key=(SYNTHESIS, *key),
        )
        return network.to(self.device).train()

    def create_stage_network(self, *key: Key, name: str | None = None) -> nn.Module:
        """Distillation network (or another), initialized by stage seed and key, on the CPU: what is cached begins with it."""
        data = self.dataset
        shape = {"channels": data.channels, "side": data.side, "classes": len(data.class_names)}
        return networks.create(name or self.network, **shape, seed=self.stage_seed, key=key)

    def cached(
        self,
        name: str,
        key: Mapping[str, Any],
        build: Callable[[], tuple[Mapping[str, torch.Tensor], Mapping[str, Any]]],
    ) -> Artifact:
        """Return a cached artifact; `key` says how it is made, data set, holdout, precision and stage seed are added.

        `build` must draw by `stage_seed`, never by the synthesis seed: runs of all seeds share the artifact.
        """
        return self.open_cache(name, key).product(build)

    def open_cache(self, name: str, key: Mapping[str, Any]) -> Cache:
        """Open the cache itself, for what is made of several entries (experts, committees)."""
        full = {
            "method": dict(key),
            "dataset": self.dataset.id,
            "split_hash": self.dataset.split_hash,
            "holdout": self._reserved,
            "precision": "float32",
            "seed": self.stage_seed,
        }
        if code.SYNTHESIS > 1:  # what the first version made has no such field
            full["synthesis"] = code.SYNTHESIS
        return Cache(name, full)

    def teacher(self, network: str, space: Space, recipe_hash: str, state: dict[str, torch.Tensor]) -> Teacher:
        """A trained network of this data set, with all that is needed to use it; see `Teacher`."""
        return Teacher.of(self._source, network=network, space=space, recipe_hash=recipe_hash, state=state)

    def cached_teacher(self, cache: Cache, entry: str, make: Callable[[], Teacher]) -> Teacher:
        """Return the network that an entry of a cache names, made where it is missing; see `teachers.cached`."""
        return teachers.cached(cache, entry, make, keep=self.keep_teacher, recall=self.recall_teacher)

    def keep_teacher(self, teacher: Teacher) -> str:
        """Put a trained network into the cache and return its hash; what is made of it names it by that."""
        return teachers.keep(teacher)

    def recall_teacher(self, wanted: str) -> Teacher | None:
        """Network that was kept under this hash, or None: the cache may have lost it."""
        return teachers.recall(wanted)

    def training_images(self, synset: SynSet) -> tuple[Images, torch.Tensor]:
        """Give what a student trains on, views expanded: float32 [N, C, H, W] in the set's space, int64 classes [N].

        Views that are drawn batch by batch are the schedule's, `BatchSchedule(seed, draw=ddbench.synset.views.drawn(synset))`.
        """
        return views.training_images(synset, self._source, self.device)

    def labeller(self, synset: SynSet) -> Labeller:
        """Give what labels a student's batches by the targets of a set made here."""
        kind, _ = targets.targets_of(synset)
        return kind.bind(targets.Binding(synset, self._source, self.device, self.recall_teacher))

    @contextmanager
    def apart(self, ipc: int, checkpoint: Checkpoint) -> Iterator[None]:
        """Within the block the task is one of `ipc` images a class and of the stage seed, with a checkpoint of its own.

        For stages that are made by distilling, CV-DD's priors say: all synthesis seeds share them. No snapshots are kept.
        """
        own = self.budget, self.ipc, self.fraction, self.seed, self._checkpoint, self._snapshots
        self.budget, self.ipc, self.fraction = Budget(ipc=ipc), ipc, None
        self.seed, self._checkpoint, self._snapshots = self.stage_seed, checkpoint, None
        try:
            yield
        finally:
            self.budget, self.ipc, self.fraction, self.seed, self._checkpoint, self._snapshots = own

    def resume(self) -> Any:
        """State of the last checkpoint, or None: nested dicts and lists of tensors and plain values."""
        return self._checkpoint.load()

    def checkpoint(self, state: Callable[[], Any]) -> None:
        """Offer a state; it is computed and saved when a minute has passed since the last one."""
        self._checkpoint.save_when_due(state)

    def snapshot(self, step: int, total: int, make: Callable[[], SynSet]) -> None:
        """Offer the set as it is after `step` of the `total` steps, 0 <= step < total.

        It is made, by `make`, only where somebody asks for it, and written before this returns. A method that goes on from
        a checkpoint offers again what it offered since.
        """
        if self._snapshots is not None:
            self._snapshots.offer(step, total, make)

    def snapshot_steps(self, total: int) -> tuple[int, ...]:
        """After which of `total` steps `snapshot` makes a set, for who has to gather its parts; usually none."""
        return () if self._snapshots is None else self._snapshots.steps(total)

    def loop(self, start: int, total: int, label: str) -> Iterator[int]:
        """Count from `start` to `total` - 1, with progress and an estimate."""
        for step in range(start, total):
            yield step
            self._reporter.advance(label, step + 1, total)

    def report(self, step: int | None = None, **metrics: float) -> None:
        """Numbers for whoever watches: the loss, say."""
        self._reporter.metrics(step, metrics)

    def log_teacher(self, name: str, teacher: Callable[[], Teacher], *, role: str, **facts: Any) -> None:
        """Name a trained network that the result rests on, an expert say.

        When the method is done the runner measures its test accuracy, for people: no method sees it.

        Args:
            name: of the network in this task; a later one replaces an earlier one of the same name.
            teacher: gives the network; called after the method is done, so that nothing is held for it.
            role: what such networks are called in the singular; those of one role are shown together.
            facts: plain data to keep with the hash and accuracy in the set's provenance: the epoch.
        """
        self.logged_teachers[name] = LoggedTeacher(teacher, {"role": role, "name": name, **facts})

    def synset(
        self,
        *,
        space: Space,
        classes: torch.Tensor,
        images: torch.Tensor | None = None,
        indices: torch.Tensor | None = None,
        **more: Any,
    ) -> SynSet:
        """Make the method's result.

        Args:
            space: that the images live in.
            classes: int64 [n].
            images: float32 [n, C, H, W] in `space`, or uint8 with a codec; or
            indices: int64 [n], places in `dataset.labels`.
            more: other fields of `SynSet`.

        Raises:
            JobFailed: the images are not finite: the distillation diverged.
        """
        if images is not None and not bool(torch.isfinite(images).all()):
            raise JobFailed("the distillation diverged: its images are not finite")
        if indices is not None:
            indices = indices.cpu() if self._kept is None else self._kept[indices.cpu()]
        return SynSet.of(
            self._source,
            classes=classes.detach().cpu(),
            space=space,
            images=None if images is None else images.detach().cpu().contiguous(),
            indices=indices,
            **more,
        )
