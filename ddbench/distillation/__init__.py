"""Package of a method's author: `from ddbench.distillation import Hyper, Method, Task`.

Each name is imported when first used, so that listing methods loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddbench.distillation.labels import store_distances as store_distances
    from ddbench.distillation.labels import store_soft_labels as store_soft_labels
    from ddbench.distillation.method import Hyper as Hyper
    from ddbench.distillation.method import Method as Method
    from ddbench.distillation.task import Held as Held
    from ddbench.distillation.task import Task as Task
    from ddbench.distillation.task import TaskData as TaskData
    from ddbench.synset.synset import SynSet as SynSet

_MODULES = {
    "Held": "ddbench.distillation.task",
    "Hyper": "ddbench.distillation.method",
    "Method": "ddbench.distillation.method",
    "SynSet": "ddbench.synset.synset",
    "Task": "ddbench.distillation.task",
    "TaskData": "ddbench.distillation.task",
    "store_distances": "ddbench.distillation.labels",
    "store_soft_labels": "ddbench.distillation.labels",
}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'ddbench.distillation' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
