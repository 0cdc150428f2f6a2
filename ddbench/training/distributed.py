"""One training on several devices: the steps of one process, each rank on its part of every batch (Lightning Fabric).

Every rank runs the whole job and draws the same batches, by their keys; in `ddbench.training.loop.train` it takes the forward
and backward of its rows. The ranks' logits are put together, so that any loss is that of the whole batch, and the
gradients are summed. What differs from one process is the order of sums, and batch norms: each rank normalises its own
rows, as `bn_batch` of that size does in one process; running statistics are those of the first rank, after every step,
so that all ranks have one network at any time.

A split that is read as it is shown is read in parts as well. Everything else of a job (recovering, labels, the test) is
done by every rank, alike, so that files which several write have the same content; the first rank's result counts.
"""

import atexit
import hashlib
import logging
import os
import pickle
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ddbench.errors import DDBenchError, UsageError
from ddbench.settings import variables_kept
from ddbench.system.files import write_atomic
from ddbench.system.rank import as_one_of
from ddbench.training.batches import Images

if TYPE_CHECKING:
    from lightning_fabric import Fabric

OF_A_NODE = ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
OF_A_PROCESS = ("LOCAL_RANK", "GROUP_RANK")


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

    def _agree(self, network: nn.Module) -> None:
        """Give every rank the first one's buffers, in one message; DDP would before the next forward, and not at the end."""
        buffers = list(network.buffers())
        if not buffers:
            return
        flat = torch.cat([buffer.detach().flatten().double() for buffer in buffers])
        torch.distributed.broadcast(flat, src=0)
        for buffer, first in zip(buffers, flat.split([buffer.numel() for buffer in buffers]), strict=True):
            buffer.copy_(first.view_as(buffer))

    def check_same(self, what: str) -> None:
        """Raise UsageError, on every rank, unless all are about to do the same."""
        number = int.from_bytes(hashlib.sha256(what.encode()).digest()[:7], "big")
        found = self.fabric.all_gather(torch.tensor(number))
        assert isinstance(found, Tensor)
        if len(found.unique()) > 1:
            raise UsageError("the nodes are not about the same job: do they share results and cache, and the command?")

    def backward(self, loss: Tensor, network: nn.Module) -> None:
        """Gradients of the whole batch's loss: a rank has those of its rows, and the mean over ranks is taken."""
        self.fabric.backward(loss * self.count)
        self._agree(network)

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
    try:
        with as_one_of(_current.count, _current.rank):
            yield _current
    finally:
        _current = None


def launch(call: Callable[..., Any], *args: Any, device: str, devices: int, nodes: int = 1) -> Any:
    """Run a call in several processes that train together; what the first of this node gives, or raises.

    Args:
        call: what is called; it, its arguments and its result can be pickled.
        args: its arguments, which `repr` tells apart.
        device: "cpu" or "cuda".
        devices: processes on this node; on CUDA each has a device of its own.
        nodes: the same command runs on so many machines, with NODE_RANK, MASTER_ADDR and MASTER_PORT in the environment.
            For one node nothing in the environment counts, whatever a scheduler put there.

    Raises:
        UsageError: Fabric is not installed, there are not so many devices, the environment does not say which node this is,
            or the nodes are not about the same call.
    """
    try:
        from lightning_fabric import Fabric
        from lightning_fabric.plugins.environments import LightningEnvironment
        from lightning_fabric.strategies import DDPStrategy
    except ImportError as error:
        raise UsageError("several devices need Lightning Fabric: pip install 'ddbench[fabric]'") from error
    from torch.multiprocessing import ProcessExitedException

    if device == "cuda" and devices > torch.cuda.device_count():
        raise UsageError(f"--devices {devices}: torch finds {torch.cuda.device_count()} CUDA devices here")
    if nodes > 1:
        node_rank(nodes)
    with _environment(nodes), tempfile.TemporaryDirectory() as folder:
        # by name, as Fabric would look for a scheduler otherwise; buffers are `Ranks._agree`'s
        strategy = DDPStrategy(
            cluster_environment=LightningEnvironment(), start_method="spawn", broadcast_buffers=False
        )
        fabric = Fabric(accelerator=device, devices=devices, num_nodes=nodes, strategy=strategy)
        # a file: what goes through Fabric's own queue must fit into a pipe, and tensors as handles would not outlive it
        result = Path(folder) / "result"
        try:
            fabric.launch(_Rank(call, args, result))
        except ProcessExitedException:  # another's death is not the first one's failure
            raise
        except Exception:
            if not result.exists():
                raise
        value, stopped = pickle.loads(result.read_bytes())
    if stopped is not None:
        raise stopped
    return value


@contextmanager
def _environment(nodes: int) -> Iterator[None]:
    """Within the block, of what tells Fabric which process this is, only what `launch` says counts."""
    with variables_kept(*OF_A_NODE, *OF_A_PROCESS):
        for name in (*OF_A_PROCESS, *(OF_A_NODE if nodes == 1 else ())):
            os.environ.pop(name, None)
        yield


def node_rank(nodes: int) -> int:
    """Which of the nodes this is, by the environment, which must name the first as well."""
    missing = [name for name in OF_A_NODE if not os.environ.get(name)]
    if missing:
        raise UsageError(f"--nodes {nodes}: the environment has no {' and no '.join(missing)}")
    text = os.environ["NODE_RANK"]
    if not text.isdecimal() or int(text) >= nodes:
        raise UsageError(f"NODE_RANK={text!r}: a whole number below --nodes {nodes} is needed")
    return int(text)


@dataclass
class _Rank:
    """A call as each of the processes makes it; the first of a node leaves what came of it in a file."""

    call: Callable[..., Any]
    args: tuple[Any, ...]
    result: Path

    def __setstate__(self, state: dict[str, Any]) -> None:
        """In a new process: before Fabric greets the others there, and warns of what it calls itself."""
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
        for kind in (FutureWarning, DeprecationWarning):
            warnings.filterwarnings("ignore", category=kind, module="lightning_fabric")
        self.__dict__.update(state)

    def __call__(self, fabric: "Fabric") -> None:
        value: Any = None
        stopped: DDBenchError | None = None
        with joined(fabric) as ranks:
            try:
                ranks.check_same(repr([getattr(each, "__qualname__", each) for each in (self.call, *self.args)]))
                value = self.call(*self.args)
            except DDBenchError as error:
                stopped = error
        if fabric.local_rank == 0:
            write_atomic(self.result, pickle.dumps((value, stopped)))
        torch.distributed.destroy_process_group()
        # without Python's own end, in which torch's threads that still let go of tensors abort a process now and then
        atexit.register(os._exit, 0)
