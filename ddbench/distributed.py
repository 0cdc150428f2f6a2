"""One training on several devices: the steps of one process, each rank on its part of every batch (Lightning Fabric).

Every rank runs the whole job and draws the same batches, by their keys; in `ddbench.student.train` it takes the forward
and backward of its rows. The ranks' logits are put together, so that any loss is that of the whole batch, and the
gradients are summed. What differs from one process is the order of sums, and batch norms: each rank normalises its own
rows, as `bn_batch` of that size does in one process; running statistics are those of the first rank.

A split that is read as it is shown is read in parts as well. Everything else of a job (recovering, labels, the test) is
done by every rank, alike, and files are written once or with the same content; the first rank's result counts.
"""

import os
import pickle
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ddbench.errors import UsageError
from ddbench.following import follow, follows
from ddbench.pool import Backlog, Done, Outcome, Work, attempt
from ddbench.progress import LineReporter, Reporter
from ddbench.streams import Images

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True, eq=False)
class Ranks:
    """The processes of a training, seen from one of them."""

    fabric: "Fabric"

    @property
    def rank(self) -> int:
        """Of this process, from 0."""
        return self.fabric.global_rank

    @property
    def count(self) -> int:
        """How many there are."""
        return self.fabric.world_size

    def rows(self, length: int) -> slice:
        """This rank's rows of a batch: parts of equal size, the first ones larger by one where need be."""
        if length < self.count:
            raise UsageError(f"a batch of {length} images cannot be shared by {self.count} devices: use fewer")
        return self._parts(length)[self.rank]

    def _parts(self, length: int) -> list[slice]:
        ends = [0, *accumulate(len(part) for part in torch.arange(length).tensor_split(self.count))]
        return [slice(*each) for each in pairwise(ends)]

    def whole(self, own: Tensor, length: int) -> Tensor:
        """A batch [length, ...] from every rank's rows; gradients flow into this rank's own."""
        parts = self._parts(length)
        padded = own.new_zeros(parts[0].stop, *own.shape[1:])
        padded[: len(own)] = own.detach()
        found = self.fabric.all_gather(padded)
        assert isinstance(found, Tensor)
        return torch.cat(
            [
                own if place == self.rank else each[: part.stop - part.start]
                for place, (part, each) in enumerate(zip(parts, found, strict=True))
            ]
        )

    def forward(self, network: nn.Module) -> Callable[[Tensor], Tensor]:
        """A network as it is called in a training: images of the whole batch to its logits."""
        module = self.fabric.setup_module(network)

        def call(images: Tensor) -> Tensor:
            own: Tensor = module(images[self.rows(len(images))])
            return self.whole(own, len(images))

        return call

    def backward(self, loss: Tensor) -> None:
        """Gradients of the whole batch's loss: a rank has those of its rows, and the mean over ranks is taken."""
        self.fabric.backward(loss * self.count)

    def shared(self, images: Images) -> Images:
        """Images that are read as they are shown, each rank its part; a tensor is there already."""
        return images if isinstance(images, Tensor) else _Shared(images, self)


@dataclass(frozen=True, eq=False)
class _Shared:
    images: Images
    ranks: Ranks

    @property
    def device(self) -> torch.device:
        return self.images.device

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, places: Tensor, /) -> Tensor:
        return self.ranks.whole(self.images[places[self.ranks.rows(len(places))]], len(places))


_current: Ranks | None = None


def current() -> Ranks | None:
    """The processes that this one trains with; None where it is alone."""
    return _current


@contextmanager
def joined(fabric: "Fabric") -> Iterator[Ranks]:
    """Train with the other processes of a launched Fabric, within the block."""
    global _current
    _current = Ranks(fabric)
    follow(_current.rank)
    try:
        yield _current
    finally:
        _current = None
        follow(0)


def launch(call: Callable[..., Any], *args: Any, device: str, devices: int, nodes: int = 1) -> Any:
    """Run a call in several processes that train together; what the first of this node gives.

    Args:
        call: a top-level function; its arguments and result can be pickled.
        args: its arguments.
        device: "cpu" or "cuda".
        devices: processes on this node; on CUDA each has a device of its own.
        nodes: the same command runs on so many machines, with NODE_RANK, MASTER_ADDR and MASTER_PORT in the environment.

    Raises:
        UsageError: Fabric is not installed, there are not so many devices, the environment does not say which node this is.
    """
    try:
        from lightning_fabric import Fabric
    except ImportError as error:
        raise UsageError("several devices need Lightning Fabric: pip install 'ddbench[fabric]'") from error
    if device == "cuda" and devices > torch.cuda.device_count():
        raise UsageError(f"--devices {devices}: torch finds {torch.cuda.device_count()} CUDA devices here")
    if nodes > 1:
        _node_rank(nodes)
    fabric = Fabric(accelerator=device, devices=devices, num_nodes=nodes, strategy="ddp_spawn")
    return pickle.loads(fabric.launch(partial(_as_rank, call=call, args=args)))


def _node_rank(nodes: int) -> int:
    """Which of the nodes this is, by the environment, which must name the first as well."""
    missing = [name for name in ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise UsageError(f"--nodes {nodes}: the environment has no {' and no '.join(missing)}")
    text = os.environ["NODE_RANK"]
    if not text.isdecimal() or int(text) >= nodes:
        raise UsageError(f"NODE_RANK={text!r}: a whole number below --nodes {nodes} is needed")
    return int(text)


def _as_rank(fabric: "Fabric", call: Callable[..., Any], args: tuple[Any, ...]) -> bytes:
    """Pickled here, by value: torch would send tensors as handles of files that end with this process."""
    with joined(fabric):
        return pickle.dumps(call(*args))


@dataclass(frozen=True)
class Together:
    """Runs a grid's work one job after another, each in several processes that train together.

    Attributes:
        devices: processes on this node.
        nodes: that run the same command, over one results folder and one cache; see `launch`. The driver of the first
            writes the records, that of another follows.

    Raises:
        UsageError: several nodes, and the environment does not say which this is.
    """

    devices: int
    nodes: int = 1

    def __post_init__(self) -> None:
        if self.nodes > 1:
            follow(_node_rank(self.nodes))

    def run_all(self, first: Iterable[Work], done: Done, *, reporter: Reporter | None = None) -> None:
        """Do all work, and what follows from it; see `ddbench.pool.run_all`. The first process tells its own progress."""
        backlog = Backlog(first, done, reporter)
        while work := backlog.take(1):
            backlog.finish(work, self._outcome(work))

    def _outcome(self, work: Work) -> Outcome:
        from torch.multiprocessing.spawn import ProcessException

        device = work.job.setting.device
        try:
            found = launch(_attempted, work.call, work.job, device=device, devices=self.devices, nodes=self.nodes)
        except ProcessException as error:
            return Outcome(failure=f"one of its processes died: {str(error).strip().splitlines()[-1]}")
        assert isinstance(found, Outcome)
        return found


def _attempted(call: Callable[..., Any], job: Any) -> Outcome:
    return attempt(call, job, Reporter() if follows() else LineReporter())
