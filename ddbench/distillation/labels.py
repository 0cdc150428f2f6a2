"""Stored labels of a set: what its teachers would say online, written ahead with the set."""

from dataclasses import replace

from ddbench.distillation.task import Task
from ddbench.synset.label_compression import Packing, packed_targets
from ddbench.synset.synset import SynSet
from ddbench.synset.targets.distances import record_distances


def store_soft_labels(task: Task, synset: SynSet, packing: Packing | None = None) -> SynSet:
    """Store the logits that the teachers of a set would give online; see `ddbench.synset.targets.stored_soft_labels`.

    Args:
        task: that the set is made for.
        synset: its teachers label online.
        packing: how labels are packed; None: all label batches, in fp16.
    """
    targets = packed_targets(
        synset,
        task._source,
        packing or Packing(),
        task.device,
        seed=task.seed,
        loop=lambda start, total: task.loop(start, total, "storing labels"),
        recall=task.recall_teacher,
    )
    return replace(synset, targets=targets)


def store_distances(task: Task, synset: SynSet) -> SynSet:
    """Store the distances of the logits that the teachers would give online; see `ddbench.synset.targets.distances`."""
    targets = record_distances(
        synset,
        task._source,
        task.device,
        seed=task.seed,
        loop=lambda start, total: task.loop(start, total, "storing distances"),
        recall=task.recall_teacher,
    )
    return replace(synset, targets=targets)
