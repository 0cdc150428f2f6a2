"""ddbench: dataset distillation, benchmarked.

Methods turn a data set into a small one, fixed versioned protocols train students on it and score them, every score is a
record in a file, and all tables and plots are generated from these files. Every job is a call below; commands call the
same. Each is imported when first used, so that `import ddbench` loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddbench.api.reproducing import reproduce as reproduce
    from ddbench.api.results import compare as compare
    from ddbench.api.results import plot as plot
    from ddbench.api.results import scores as scores
    from ddbench.api.results import show as show
    from ddbench.api.results import table as table
    from ddbench.api.running import distill as distill
    from ddbench.api.running import draw as draw
    from ddbench.api.running import evaluate as evaluate
    from ddbench.api.running import pack_labels as pack_labels
    from ddbench.api.running import run as run
    from ddbench.api.running import sweep as sweep
    from ddbench.budget import Budget as Budget
    from ddbench.data.registry import load_dataset as load_dataset
    from ddbench.extras.check import check_method as check_method
    from ddbench.extras.demo import run_demo
    from ddbench.extras.doctor import findings
    from ddbench.extras.download import pull as pull
    from ddbench.extras.import_export import export_set as export_set
    from ddbench.extras.import_export import import_set as import_set
    from ddbench.extras.new_method import new_method as new_method
    from ddbench.extras.submit import check_submissions as check_submissions
    from ddbench.extras.submit import submit as submit
    from ddbench.extras.tune import tune as tune
    from ddbench.extras.verify import verify as verify
    from ddbench.jobs.job import DataName as DataName
    from ddbench.jobs.sweep import Sweep as Sweep
    from ddbench.leaderboard.build import build_leaderboard as build_leaderboard
    from ddbench.records.store import RecordStore as RecordStore
    from ddbench.synset.synset import SynSet as SynSet
    from ddbench.synset.synset import load as load
    from ddbench.synset.synset import save as save
    from ddbench.training.compute import Compute as Compute

    demo, doctor = run_demo, findings

_HOMES = {
    "api.reproducing": "reproduce",
    "api.results": "compare plot scores show table",
    "api.running": "distill draw evaluate pack_labels run sweep",
    "budget": "Budget",
    "data.registry": "load_dataset",
    "extras.check": "check_method",
    "extras.demo": "run_demo=demo",
    "extras.doctor": "findings=doctor",
    "extras.download": "pull",
    "extras.import_export": "export_set import_set",
    "extras.new_method": "new_method",
    "extras.submit": "check_submissions submit",
    "extras.tune": "tune",
    "extras.verify": "verify",
    "jobs.job": "DataName",
    "jobs.sweep": "Sweep",
    "leaderboard.build": "build_leaderboard",
    "records.store": "RecordStore",
    "synset.synset": "SynSet load save",
    "training.compute": "Compute",
}
_NAMES = {
    word.rpartition("=")[2]: (home, word.partition("=")[0]) for home, words in _HOMES.items() for word in words.split()
}
__all__ = sorted(_NAMES)


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'ddbench' has no attribute {name!r}")
    home, attribute = _NAMES[name]
    return getattr(import_module(f"ddbench.{home}"), attribute)


def __dir__() -> list[str]:
    return __all__
