"""Ranks: the processes that train one network together, each on its shard of every batch.

Every rank runs the whole job and draws the same batches, by their keys; in `ddbench.training.loop.train` it computes the
forward and backward pass of its shard. The ranks' logits are gathered, so that any loss is that of the whole batch, and
the gradients are summed. Two things differ from one process: the order of sums, and batch norms. Each rank normalizes
its own shard, as `bn_batch` of that size does in one process; running statistics are those of the first rank, after
every step, so that all ranks have one network at any time.

A split that is read as it is shown is read in shards as well. Everything else of a job (recovering, labels, the test) is
done by every rank, alike, so that files which several write have the same content; the first rank's result counts.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ddbench.errors import UsageError
from ddbench.system.rank import as_one_of
from ddbench.training.batch_schedule import Images

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True, eq=False)
class Ranks:
    """Processes of a training, seen from one of them."""

    fabric: "Fabric"

    @property
    def rank(self) -> int:
        """Of this process, from 0."""
        return self.fabric.global_rank

    @property
    def count(self) -> int:
        """Number of them."""
        return self.fabric.world_size

    def shard(self, length: int) -> slice:
        """Give this rank's rows of a batch: parts of equal size, the first ones larger by one where need be."""
        if length < self.count:
            raise UsageError(f"a batch of {length} images cannot be split over {self.count} devices: use fewer")
        return self._shards(length)[self.rank]

    def _shards(self, length: int) -> list[slice]:
        ends = [0, *accumulate(len(part) for part in torch.arange(length).tensor_split(self.count))]
        return [slice(*each) for each in pairwise(ends)]

    def all_gather(self, own: Tensor, length: int) -> Tensor:
        """Join every rank's shard to a batch [length, ...]; gradients flow into this rank's own."""
        shards = self._shards(length)
        padded = own.new_zeros(shards[0].stop, *own.shape[1:])
        padded[: len(own)] = own.detach()
        gathered = self.fabric.all_gather(padded)
        assert isinstance(gathered, Tensor)
        sizes = [shard.stop - shard.start for shard in shards]
        parts = [part[:size] for part, size in zip(gathered, sizes, strict=True)]
        parts[self.rank] = own
        return torch.cat(parts)

    def forward(self, network: nn.Module) -> Callable[[Tensor], Tensor]:
        """Wrap a network for a training: from images of the whole batch to its logits."""
        module = self.fabric.setup_module(network)

        def call(images: Tensor) -> Tensor:
            own: Tensor = module(images[self.shard(len(images))])
            return self.all_gather(own, len(images))

        return call

    def backward(self, loss: Tensor, network: nn.Module) -> None:
        """Compute gradients of the whole batch's loss: a rank has those of its shard, and the mean over ranks is taken."""
        self.fabric.backward(loss * self.count)
        self.broadcast_buffers(network)

    def broadcast_buffers(self, network: nn.Module) -> None:
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
        numbers = self.fabric.all_gather(torch.tensor(number))
        assert isinstance(numbers, Tensor)
        if len(numbers.unique()) > 1:
            raise UsageError("the nodes are not about the same job: do they share results and cache, and the command?")

    def read_in_shards(self, images: Images) -> Images:
        """Images that are read as they are shown, each rank its shard; a tensor is there already."""
        return images if isinstance(images, Tensor) else _ShardedImages(images, self)


@dataclass(frozen=True, eq=False)
class _ShardedImages:
    images: Images
    ranks: Ranks

    @property
    def device(self) -> torch.device:
        return self.images.device

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, places: Tensor, /) -> Tensor:
        return self.ranks.all_gather(self.images[places[self.ranks.shard(len(places))]], len(places))


_current: Ranks | None = None


def current() -> Ranks | None:
    """Return the processes that this one trains with; None where it is alone."""
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
