"""INFER: Zhang et al., Breaking Class Barriers: Efficient Dataset Distillation via Inter-Class Feature Compensator,
ICLR 2025, arXiv 2408.06927.

1. Squeeze M networks f_m. Of an IPC budget over C classes, K = floor(IPC / (M / C + 1)) natural images a class are kept,
   drawn at random; the k-th of each class are slot k.
2. For each network m and slot k one compensator u (1, C, H, W), 0 at first, shared by all classes: Adam on

       CE(f_m(A(x_c + u)), y_c) + r_bn BN_m(A(x_c + u))      over the C images of the slot; A and BN as in `sre2l`

3. A student trains on the K natural images of a class and the M K images x_c + u_{m,k}, composed as it needs them.
4. Labels: static, the mean of the M teachers' logits of each image as it is, blended like the images by MixUp; or
   dynamic, their mean for every augmented and mixed view.

IPC counts stored tensors: K C images and M K compensators are at most IPC * C. The student sees (M + 1) K images a class.

Differences from the paper: see `DIFFERENCES`. Figures: `benchmarks/decoupled.md`, and the records of `results/measured`.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ddbench.distillation.method import Method
from ddbench.distillation.task import Task
from ddbench.errors import NotDefined
from ddbench.networks import canonical
from ddbench.synset.synset import SynSet, Targets, Views
from ddbench.synset.teachers import Teacher
from ddbench.training.loop import predict

from .engines.decoupled.measured_norm import Voter
from .engines.decoupled.pipeline import require_members, space_of
from .engines.decoupled.recover import ImageBlock, RecoverFields, Recovery
from .engines.decoupled.relabel import FAMILY_DIFFERENCES, RelabelFields, relabeled
from .engines.decoupled.squeeze import SqueezeFields, squeeze
from .engines.selection.coresets import random_choice
from .engines.shares import equal_shares

DIFFERENCES = (
    *FAMILY_DIFFERENCES,
    "natural images are random ones of the seed; the authors provide theirs",
    "images are composed when they are needed, rounded to 8 bits; the released code writes them as JPEG",
    "the compensator of the last step composes; in the released code that of the step before does",
)


class InferHyper(SqueezeFields, RecoverFields, RelabelFields):
    """Hyper-parameters of `infer`; `codec` is that of the composed images, natural ones are indices."""

    committee: tuple[str, ...] = Field(min_length=1, description="networks that compensators are made for, M")
    label_kind: Literal["static", "dynamic"] = Field(
        "static", description="labels stored once, or asked for every view"
    )
    skip_second_norm: bool = Field(True, description="EfficientNet's second batch norm is not measured")

    @model_validator(mode="after")
    def _stored_once(self) -> Self:
        if self.label_kind == "static" and self.labels == "replay":
            raise ValueError("labels = replay stores what teachers say online: it goes with label_kind = dynamic")
        return self


def distill(task: Task, hyper: InferHyper) -> SynSet:
    """Keep natural images, and learn what to add to them."""
    names = [canonical(name, side=task.dataset.side) for name in hyper.committee]
    require_members(names, "committee")
    count = natural_images(equal_shares(task)[0], len(names), len(task.dataset.class_names))
    hyper.require_voters(task, names)
    hyper.require_room(task, (len(names) + 1) * count * len(task.dataset.class_names))
    teachers = squeeze(task, hyper, names)
    space = space_of(teachers)
    places = torch.stack(random_choice(task, [count] * len(task.dataset.class_names)), dim=1)  # [slots, classes]
    slots = torch.arange(count).repeat_interleave(places.shape[1])
    labels = [(teacher, 1 / len(teachers)) for teacher in teachers.values()]

    def make_set(compensators: Tensor) -> SynSet:
        stored = {"compensators": compensators, "slots": slots}
        more: dict[str, Any] = {
            "indices": places.flatten(),
            "classes": task.dataset.labels[places.flatten()],
            "views": Views("compensators", {"quantise": hyper.codec != "float"}, stored),
        }
        if hyper.label_kind == "static":
            more["targets"] = static_labels(task, list(teachers.values()), task.synset(space=space, **more))
        return relabeled(task, hyper, space, labels, **more)

    return make_set(compensate(task, hyper, teachers, places, make_set))


def natural_images(ipc: int, members: int, classes: int) -> int:
    """K = floor(IPC / (M / C + 1)), exactly: the natural images of a class. NotDefined where there is room for none."""
    count = ipc * classes // (members + classes)
    if count < 1:
        raise NotDefined(f"IPC {ipc} leaves no room for a natural image beside {members} compensators a slot")
    return count


def compensate(
    task: Task,
    hyper: InferHyper,
    teachers: Mapping[str, Teacher],
    places: Tensor,
    make_set: Callable[[Tensor], SynSet] | None = None,
) -> Tensor:
    """Learn the compensators [M, K, C, H, W] of all networks and slots; `places` [K, classes] are the slots' images.

    `make_set` gives the set of compensators, for snapshots.
    """
    space = space_of(teachers)
    how = hyper.execution()
    voters = {
        name: Voter(teacher.module(task.device), _skipped(name, hyper), how) for name, teacher in teachers.items()
    }
    blocks = [
        ImageBlock((name, k), task.dataset.labels[slot], partial(task.read, space, slot), {name: 1.0})
        for name in teachers
        for k, slot in enumerate(places)
    ]

    def laid(learned: list[Tensor]) -> Tensor:
        return torch.cat(learned).unflatten(0, (len(teachers), -1)).cpu()

    snapshot = None if make_set is None else lambda learned: make_set(laid(learned))
    return laid(Recovery(task, hyper, voters, None, compensate=True).run(blocks, make_set=snapshot))


def _skipped(name: str, hyper: InferHyper) -> tuple[int, ...]:
    return (1,) if hyper.skip_second_norm and "efficientnet" in name else ()


def static_labels(task: Task, teachers: Sequence[Teacher], synset: SynSet) -> Targets:
    """Mean of the teachers' logits of each training image of a set, as it is: `soft` targets, mixed as logits."""
    images, _ = task.training_images(synset)
    total = sum(predict(teacher.module(task.device), images) for teacher in teachers) / len(teachers)
    assert isinstance(total, Tensor)
    return Targets("soft", {"form": "logits", "mixed": "logits"}, {"labels": total.float().cpu()})


METHOD = Method(
    name="infer",
    hyper=InferHyper,
    distill=distill,
    title="Inter-class feature compensator",
    paper="Zhang et al. 2025",
    arxiv="2408.06927",
    differences=DIFFERENCES,
    snapshots=True,
    network="convnet-bn",
    balanced=False,
    toy_ipc=2,
    toy={
        "teacher_epochs": 8, "iterations": 30, "recover_lr": 0.25, "r_bn": 1.0, "roll": [0, 1], "crop": False,
        "committee": ["convnet-d2-w32-bn"], "student_batch": 10, "student_epochs": 20,
    },
)  # fmt: skip
