"""ddbench: dataset distillation, benchmarked.

Method plugins turn a real data set into a small one, fixed versioned protocols train students on it and score them,
every score is a typed record, and every table and plot is a pure function of records. The calls below are what the
commands are made of; each is imported when first used, so that `import ddbench` loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddbench.api import distill as distill
    from ddbench.api import evaluate as evaluate
    from ddbench.api import pack_labels as pack_labels
    from ddbench.api import sweep as sweep
    from ddbench.data.registry import load_dataset as load_dataset
    from ddbench.extras.check import check_method as check_method
    from ddbench.extras.download import pull as pull
    from ddbench.extras.import_export import export_set as export_set
    from ddbench.extras.import_export import import_set as import_set
    from ddbench.extras.submit import check_submissions as check_submissions
    from ddbench.extras.submit import submit as submit
    from ddbench.extras.verify import verify as verify
    from ddbench.jobs.sweep import Sweep as Sweep
    from ddbench.records.store import RecordStore as RecordStore
    from ddbench.synset.synset import SynSet as SynSet
    from ddbench.synset.synset import load as load
    from ddbench.synset.synset import save as save

_HOMES = {
    "distill": "api",
    "evaluate": "api",
    "pack_labels": "api",
    "sweep": "api",
    "load_dataset": "data.registry",
    "RecordStore": "records.store",
    "Sweep": "jobs.sweep",
    "SynSet": "synset.synset",
    "load": "synset.synset",
    "save": "synset.synset",
    "export_set": "extras.import_export",
    "import_set": "extras.import_export",
    "check_method": "extras.check",
    "check_submissions": "extras.submit",
    "pull": "extras.download",
    "submit": "extras.submit",
    "verify": "extras.verify",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ddbench' has no attribute {name!r}")
    return getattr(import_module(f"ddbench.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
