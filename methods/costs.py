"""What the methods' recipes cost, in steps: read from hyper-parameters and sizes for `ddbench.jobs.cost_model`, nothing run.

A family has one description. What is not steps of a network (sorting, k-means, whitening, storing) is not counted.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ddbench.augment import OPS
from ddbench.distillation.task import Task
from ddbench.jobs.cost_model import Plan, Work, shown_as, student_work
from ddbench.networks import canonical
from ddbench.training.recipe import StudentRecipe

from .engines.condensation import chunk_images, dsa_student
from .engines.decoupled.cam import AT_ONCE as CAM_AT_ONCE
from .engines.decoupled.patches import AT_ONCE as CROPS_AT_ONCE
from .engines.decoupled.recover import CPU_PIXELS, CUDA_PIXELS
from .engines.decoupled.squeeze import SqueezeFields
from .engines.encoders.image_encoders import OPEN_CLIP, STAND_IN, TEACHER
from .engines.selection.bins import BinFields
from .engines.selection.coresets import shown_at_once
from .engines.selection.dynamics import DynamicsFields
from .engines.shares import equal_shares
from .engines.trajectory.experts import ExpertRecipe
from .engines.trajectory.outer_loop import TrajectoryHyper, soft_student, student_of
from .hello import HelloHyper
from .infer import natural_images
from .nrr_dd import NRRDDHyper
from .prune_kd import PruneKDHyper

DSA = {"name": "dsa", "ops": list(OPS), "align_corners": True, "crop_rounding": "floor"}


def trajectories(task: Task, hyper: TrajectoryHyper) -> Plan:
    """Experts, then per outer iteration N inner steps and as many derivatives of their gradients."""
    images = sum(equal_shares(task))
    batch = min(hyper.batch_syn or images, images)
    epochs = max(hyper.last_epoch(), getattr(hyper, "final_epoch", 0))
    per_epoch = math.ceil(len(task.dataset.labels) / ExpertRecipe().batch)
    passes = 2 if getattr(hyper, "rho", 0.0) > 0 else 1
    inner = hyper.iterations * hyper.syn_steps
    works = [
        Work(
            "experts", "train", hyper.experts * epochs * per_epoch * passes, ExpertRecipe().batch, task.network,
            shown_as(DSA), "experts", hyper.experts * (epochs + 1),
        ),
        Work("inner steps", "train", inner, batch, task.network, shown_as(DSA)),
        Work("gradient through them", "second", inner, batch, task.network),
    ]  # fmt: skip
    student = student_of(task, hyper.lr_teacher)
    if getattr(hyper, "soft_labels", False):
        works.append(Work("labels", "forward", hyper.iterations, images, task.network))
        student = soft_student(student)
    if hasattr(hyper, "lr_y"):
        student = soft_student(student, batch=128)
    return Plan(tuple(works), student, images)


def matching(task: Task, hyper: Any) -> Plan:
    """Per step a new network; real images of every class forward, the synthetic ones forward and backward."""
    images, classes = sum(equal_shares(task)), len(task.dataset.class_names)
    real = sum(min(hyper.batch_real, count) for count in _class_sizes(task))
    limit = chunk_images(task.device, task.dataset.side)
    works = [
        Work("new networks", "create", hyper.iterations, 0, task.network),
        Work("real images", "augment", hyper.iterations * classes, real / classes, shown=shown_as(DSA)),
        Work("synthetic images", "augment", hyper.iterations * classes, images / classes, shown=shown_as(DSA)),
        _split("features of real images", "forward", hyper.iterations, real, limit, task.network),
        _split("gradient", "image", hyper.iterations, images, limit, task.network),
    ]
    code = {"name": "step", "at": 0.5, "factor": 0.1}
    if hasattr(hyper, "power"):
        by = {"paper": {"name": "step-every", "epochs": 15, "factor": 0.5}, "code": code}
        return Plan(tuple(works), dsa_student(task, epochs=1800, batch=64, schedule=by[hyper.student]), images)
    return Plan(tuple(works), dsa_student(task, epochs=1000, batch=256, schedule=code), images)


def decoupled(task: Task, hyper: Any) -> Plan:
    """Teachers; patches, where images begin as such; recovery by the voters; labels for every batch."""
    ipc, classes = equal_shares(task)[0], len(task.dataset.class_names)
    names = _committee(task, hyper)
    works = [*_teachers(task, hyper, names), *_patches(task, hyper, names[0])]
    if hasattr(hyper, "recover_lr"):
        voters = min(getattr(hyper, "voters", 1), len(names))
        block = min(hyper.block, classes)
        works += _recovery(task, hyper, names, ipc * math.ceil(classes / block), block, voters / len(names))
    left_out = ("the committee's priors",) if hasattr(hyper, "prior") and hyper.prior is None else ()
    return _relabelled(task, hyper, works, ipc * classes, names, left_out)


def refinement(task: Task, hyper: NRRDDHyper) -> Plan:
    """A teacher; maps and hardest crops of the pools; refinement, its maps looked up anew; labels."""
    ipc, classes = equal_shares(task)[0], len(task.dataset.class_names)
    name = canonical(task.network, side=task.dataset.side)
    works = [*_teachers(task, hyper, [name]), *_patches(task, hyper, name)]
    if hyper.init == "critical":
        looked_at = sum(min(hyper.pool, count) for count in _class_sizes(task))
        works.append(Work("maps of real images", "image", looked_at / CAM_AT_ONCE, CAM_AT_ONCE, name))
        wanted = ipc * hyper.factor**2
        tried = sum(hyper.top or max(wanted, min(hyper.pool, count) // 2) for count in _class_sizes(task))
        works.append(Work("crops", "forward", tried / CROPS_AT_ONCE, CROPS_AT_ONCE, name))
    block = min(hyper.block, classes)
    steps = _recovery(task, hyper, [name], ipc * math.ceil(classes / block), block, 1.0)
    works += [*steps, *(replace(work, label="maps", steps=work.steps / hyper.cam_every) for work in steps)]
    return _relabelled(task, hyper, works, ipc * classes, [name])


def projectors(task: Task, hyper: HelloHyper) -> Plan:
    """A stand-in or trained encoder; weak teachers; the fit; patches; a student labelled by the encoder."""
    images, count = sum(equal_shares(task)), len(task.dataset.labels)
    weak = canonical(hyper.weak_network or task.network, side=task.dataset.side)
    works, left_out, encoder = _teachers(task, hyper, [weak]), [], None
    if hyper.encoder == STAND_IN:
        encoder = canonical(hyper.stand_in_network or task.network, side=task.dataset.side)
        recipe = hyper.teacher_recipe(encoder).model_copy(update={"epochs": hyper.stand_in_epochs})
        works += student_work(recipe, encoder, max(1, round(hyper.stand_in_share * count)), label="stand-in")
    elif hyper.encoder.startswith((OPEN_CLIP, TEACHER)):
        left_out.append(f"what {hyper.encoder} costs in the fit and for labels")
    else:
        encoder = canonical(hyper.encoder, side=task.dataset.side)
    if encoder is not None:
        fit = hyper.fit_recipe(task, encoder)
        works += student_work(fit, encoder, count, [weak] * hyper.snapshots, label="fit")
    works += _patches(task, hyper, weak)
    if hyper.update_steps and encoder is not None:
        works.append(Work("updating tiles", "image", hyper.update_steps * images, hyper.factor**2, encoder))
    student = hyper.student(task, loss={"name": "mse-ce", "beta": hyper.beta}, labels="targets")
    return Plan(tuple(works), student, images, (encoder,) if encoder else (), tuple(left_out))


def compensators(task: Task, hyper: Any) -> Plan:
    """Teachers, one compensator for each of them and slot, and a student that sees M + 1 images of each natural one."""
    names, classes = _committee(task, hyper), len(task.dataset.class_names)
    slots = natural_images(equal_shares(task)[0], len(names), classes)
    works = [*_teachers(task, hyper, names), *_recovery(task, hyper, names, slots, classes, 1.0)]
    seen = (len(names) + 1) * slots * classes
    return _relabelled(task, hyper, works, seen, names if hyper.label_kind == "dynamic" else ())


def kept_images(task: Task, hyper: Any) -> Plan:
    """A training that scores samples, or an encoder that compares them, and a student on those that are kept."""
    works: list[Work] = []
    labellers: tuple[str, ...] = ()
    if isinstance(hyper, DynamicsFields):
        works = [] if getattr(hyper, "score", "") == "random" else _dynamics(task, hyper)
    if isinstance(hyper, PruneKDHyper):
        labellers = (canonical(hyper.teacher or task.network, side=task.dataset.side),)
        works += _teachers(task, hyper, labellers)
    if isinstance(hyper, BinFields):
        network = canonical(hyper.encoder or task.network, side=task.dataset.side)
        works += _teachers(task, hyper, [network])
        works.append(Work("features", "forward", len(task.dataset.labels) / 64, 64, network))
    ipc, count = task.ipc, len(task.dataset.labels)
    images = ipc * len(task.dataset.class_names) if ipc else max(1, round((task.fraction or 1.0) * count))
    more = {"labels": "targets"} if labellers else {}
    return Plan(tuple(works), hyper.student(task, **more), images, labellers)


def _class_sizes(task: Task) -> list[int]:
    sizes: list[int] = task.dataset.labels.bincount(minlength=len(task.dataset.class_names)).tolist()
    return sizes


def _split(label: str, kind: Any, steps: float, images: float, limit: int, network: str) -> Work:
    """Steps whose images go through in parts of at most `limit`."""
    parts = max(1, math.ceil(images / limit))
    return Work(label, kind, steps * parts, images / parts, network)


def _committee(task: Task, hyper: Any) -> list[str]:
    names: Sequence[str] = getattr(hyper, "committee", None) or [task.network]
    return [canonical(name, side=task.dataset.side) for name in names]


def _teachers(task: Task, fields: SqueezeFields, names: Sequence[str]) -> list[Work]:
    works = []
    for name in names:
        recipe = fields.teacher_recipe(name)
        recipe = recipe.flipped(task.dataset.flip)
        (training,) = student_work(recipe, name, len(task.dataset.labels), label=f"teacher {name}")
        steps = training.steps if fields.weights == "trained" else 0
        works.append(Work(training.label, "train", steps, training.images, name, training.shown, "squeeze"))
    return works


def _patches(task: Task, fields: Any, network: str) -> list[Work]:
    if getattr(fields, "init", "patches") != "patches":
        return []
    looked_at = sum(min(fields.pool, count) for count in _class_sizes(task)) * fields.crops
    return [Work("patches", "forward", looked_at / CROPS_AT_ONCE, CROPS_AT_ONCE, network)]


def _recovery(task: Task, fields: Any, names: Sequence[str], problems: int, block: int, share: float) -> list[Work]:
    """Steps on stacks of problems of `block` images, by each of the networks in `share` of them."""
    pixels = CPU_PIXELS if task.device.type == "cpu" else CUDA_PIXELS
    stack = max(1, min(problems, pixels // (block * task.dataset.side**2)))
    steps = fields.iterations * problems / stack * share
    return [Work(f"recovering by {name}", "image", steps, block * stack, name) for name in names]


def _relabelled(
    task: Task, fields: Any, works: list[Work], images: int, names: Sequence[str], left_out: tuple[str, ...] = ()
) -> Plan:
    student: StudentRecipe = fields.student_of(task)
    if fields.labels != "online":  # labelled once, ahead: only the batches that a budget keeps
        kept = (
            fields.packing().batches(student, images, len(task.dataset.class_names))
            if fields.labels == "replay"
            else None
        )
        asked = student_work(student, task.network, images, names)[1:]
        works = [*works, *(work if kept is None else replace(work, steps=kept) for work in asked)]
        names = ()
    return Plan(tuple(works), student, images, tuple(names), left_out)


def _dynamics(task: Task, fields: DynamicsFields) -> list[Work]:
    recipe, count = fields.score_recipe(task), len(task.dataset.labels)
    shown, works = shown_at_once(task.dataset.side), []
    for number in range(fields.score_runs):
        (training,) = student_work(recipe, recipe.network, count, label=f"dynamics {number}")
        works.append(
            Work(training.label, "train", training.steps, training.images, recipe.network, training.shown, "dynamics")
        )
        if fields.score_outputs == "eval":
            looks = fields.score_epochs * count / shown
            works.append(Work(f"outputs {number}", "forward", looks, shown, recipe.network, (), "dynamics"))
    return works
