"""Launch a training on several devices: one process a device, by Lightning Fabric; see `ddbench.training.ranks`."""

import atexit
import logging
import os
import pickle
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ddbench.errors import DDBenchError, UsageError
from ddbench.settings import variables_kept
from ddbench.system.files import write_atomic
from ddbench.training.ranks import joined

if TYPE_CHECKING:
    from lightning_fabric import Fabric

OF_A_NODE = ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
OF_A_PROCESS = ("LOCAL_RANK", "GROUP_RANK")


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
        # by name, as Fabric would look for a scheduler otherwise; buffers are `Ranks.broadcast_buffers`'s
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
    """Rank of this node, by the environment, which must name the first as well."""
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
