"""Costs of the methods' recipes in steps: read from hyper-parameters and sizes for `ddbench.jobs.steps`, nothing run.

A family has one description. What is not steps of a network (sorting, k-means, whitening, storing) is not counted.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ddbench.augment import OPS
from ddbench.distillation.task import Task
from ddbench.jobs.steps import RecipeCost, Steps, as_text, student_steps
from ddbench.networks import canonical
from ddbench.training.recipe import StudentRecipe

from .cvdd import CVDDHyper
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


def trajectories(task: Task, hyper: TrajectoryHyper) -> RecipeCost:
    """Experts, then per outer iteration N inner steps and as many derivatives of their gradients."""
    images = sum(equal_shares(task))
    batch = min(hyper.batch_syn or images, images)
    epochs = max(hyper.last_epoch(), getattr(hyper, "final_epoch", 0))
    per_epoch = math.ceil(len(task.dataset.labels) / ExpertRecipe().batch)
    passes = 2 if getattr(hyper, "rho", 0.0) > 0 else 1
    inner = hyper.iterations * hyper.syn_steps
    parts = [
        Steps(
            "experts", "train", hyper.experts * epochs * per_epoch * passes, ExpertRecipe().batch, task.network,
            as_text(DSA), "experts", hyper.experts * (epochs + 1),
        ),
        Steps("inner steps", "train", inner, batch, task.network, as_text(DSA)),
        Steps("gradient through them", "second", inner, batch, task.network),
    ]  # fmt: skip
    student = student_of(task, hyper.lr_teacher)
    if getattr(hyper, "soft_labels", False):
        parts.append(Steps("labels", "forward", hyper.iterations, images, task.network))
        student = soft_student(student)
    if hasattr(hyper, "lr_y"):
        student = soft_student(student, batch=128)
    return RecipeCost(tuple(parts), student, images)


def matching(task: Task, hyper: Any) -> RecipeCost:
    """Per step a new network; real images of every class forward, the synthetic ones forward and backward."""
    images, classes = sum(equal_shares(task)), len(task.dataset.class_names)
    real = sum(min(hyper.batch_real, count) for count in _class_sizes(task))
    limit = chunk_images(task.device, task.dataset.side)
    parts = [
        Steps("new networks", "create", hyper.iterations, 0, task.network),
        Steps("real images", "augment", hyper.iterations * classes, real / classes, augmentations=as_text(DSA)),
        Steps("synthetic images", "augment", hyper.iterations * classes, images / classes, augmentations=as_text(DSA)),
        _split("features of real images", "forward", hyper.iterations, real, limit, task.network),
        _split("gradient", "image", hyper.iterations, images, limit, task.network),
    ]
    code = {"name": "step", "at": 0.5, "factor": 0.1}
    if hasattr(hyper, "power"):
        by = {"paper": {"name": "step-parts", "epochs": 15, "factor": 0.5}, "code": code}
        return RecipeCost(tuple(parts), dsa_student(task, epochs=1800, batch=64, schedule=by[hyper.student]), images)
    return RecipeCost(tuple(parts), dsa_student(task, epochs=1000, batch=256, schedule=code), images)


def decoupled(task: Task, hyper: Any) -> RecipeCost:
    """Teachers; patches, where images begin as such; recovery by the voters; labels for every batch."""
    ipc, classes = equal_shares(task)[0], len(task.dataset.class_names)
    names = _committee(task, hyper)
    parts = [*_teachers(task, hyper, names), *_patches(task, hyper, names[0])]
    if hasattr(hyper, "recover_lr"):
        voters = min(getattr(hyper, "voters", 1), len(names))
        block = min(hyper.block, classes)
        if isinstance(hyper, CVDDHyper) and hyper.prior is None:
            parts += _priors(task, hyper, names, (hyper.prior_ipc or ipc) * math.ceil(classes / block), block)
        parts += _recovery(task, hyper, names, ipc * math.ceil(classes / block), block, voters / len(names))
    return _relabelled(task, hyper, parts, ipc * classes, names)


def refinement(task: Task, hyper: NRRDDHyper) -> RecipeCost:
    """A teacher; maps and hardest crops of the pools; refinement, its maps looked up anew; labels."""
    ipc, classes = equal_shares(task)[0], len(task.dataset.class_names)
    name = canonical(task.network, side=task.dataset.side)
    parts = [*_teachers(task, hyper, [name]), *_patches(task, hyper, name)]
    if hyper.init == "critical":
        looked_at = sum(min(hyper.pool, count) for count in _class_sizes(task))
        parts.append(Steps("maps of real images", "image", looked_at / CAM_AT_ONCE, CAM_AT_ONCE, name))
        wanted = ipc * hyper.factor**2
        tried = sum(hyper.top or max(wanted, min(hyper.pool, count) // 2) for count in _class_sizes(task))
        parts.append(Steps("crops", "forward", tried / CROPS_AT_ONCE, CROPS_AT_ONCE, name))
    block = min(hyper.block, classes)
    (recovery,) = _recovery(task, hyper, [name], ipc * math.ceil(classes / block), block, 1.0)
    parts += [recovery, replace(recovery, label="maps", count=recovery.count / hyper.cam_every)]
    return _relabelled(task, hyper, parts, ipc * classes, [name])


def projectors(task: Task, hyper: HelloHyper) -> RecipeCost:
    """A stand-in or trained encoder; weak teachers; the fit; patches; a student labelled by the encoder."""
    images, count = sum(equal_shares(task)), len(task.dataset.labels)
    weak = canonical(hyper.weak_network or task.network, side=task.dataset.side)
    parts, left_out, encoder = _teachers(task, hyper, [weak]), [], None
    if hyper.encoder == STAND_IN:
        encoder = canonical(hyper.stand_in_network or task.network, side=task.dataset.side)
        recipe = hyper.teacher_recipe(encoder).model_copy(update={"epochs": hyper.stand_in_epochs})
        parts += student_steps(recipe, encoder, max(1, round(hyper.stand_in_share * count)), label="stand-in")
    elif hyper.encoder.startswith((OPEN_CLIP, TEACHER)):
        left_out.append(f"what {hyper.encoder} costs in the fit and for labels")
    else:
        encoder = canonical(hyper.encoder, side=task.dataset.side)
    if encoder is not None:
        fit = hyper.fit_recipe(task, encoder)
        parts += student_steps(fit, encoder, count, [weak] * hyper.snapshots, label="fit")
    parts += _patches(task, hyper, weak)
    if hyper.update_steps and encoder is not None:
        parts.append(Steps("updating tiles", "image", hyper.update_steps * images, hyper.factor**2, encoder))
    student = hyper.student(task, loss={"name": "mse-ce", "beta": hyper.beta}, labels="targets")
    return RecipeCost(tuple(parts), student, images, (encoder,) if encoder else (), tuple(left_out))


def compensators(task: Task, hyper: Any) -> RecipeCost:
    """Teachers, one compensator for each of them and slot, and a student that sees M + 1 images of each natural one."""
    names, classes = _committee(task, hyper), len(task.dataset.class_names)
    slots = natural_images(equal_shares(task)[0], len(names), classes)
    parts = [*_teachers(task, hyper, names), *_recovery(task, hyper, names, slots, classes, 1.0)]
    seen = (len(names) + 1) * slots * classes
    return _relabelled(task, hyper, parts, seen, names if hyper.label_kind == "dynamic" else ())


def kept_images(task: Task, hyper: Any) -> RecipeCost:
    """A training that scores samples, or an encoder that compares them, and a student on those that are kept."""
    parts: list[Steps] = []
    labellers: tuple[str, ...] = ()
    if isinstance(hyper, DynamicsFields):
        parts = [] if getattr(hyper, "score", "") == "random" else _dynamics(task, hyper)
    if isinstance(hyper, PruneKDHyper):
        labellers = (canonical(hyper.teacher or task.network, side=task.dataset.side),)
        parts += _teachers(task, hyper, labellers)
    if isinstance(hyper, BinFields):
        network = canonical(hyper.encoder or task.network, side=task.dataset.side)
        parts += _teachers(task, hyper, [network])
        parts.append(Steps("features", "forward", len(task.dataset.labels) / 64, 64, network))
    ipc, count = task.ipc, len(task.dataset.labels)
    images = ipc * len(task.dataset.class_names) if ipc else max(1, round((task.fraction or 1.0) * count))
    more = {"labels": "targets"} if labellers else {}
    return RecipeCost(tuple(parts), hyper.student(task, **more), images, labellers)


def _class_sizes(task: Task) -> list[int]:
    sizes: list[int] = task.dataset.labels.bincount(minlength=len(task.dataset.class_names)).tolist()
    return sizes


def _split(label: str, kind: Any, count: float, images: float, limit: int, network: str) -> Steps:
    """Steps whose images go through in parts of at most `limit`."""
    rounds = max(1, math.ceil(images / limit))
    return Steps(label, kind, count * rounds, images / rounds, network)


def _committee(task: Task, hyper: Any) -> list[str]:
    names: Sequence[str] = getattr(hyper, "committee", None) or [task.network]
    return [canonical(name, side=task.dataset.side) for name in names]


def _teachers(task: Task, fields: SqueezeFields, names: Sequence[str]) -> list[Steps]:
    parts = []
    for name in names:
        recipe = fields.teacher_recipe(name)
        recipe = recipe.flipped(task.dataset.flip)
        (training,) = student_steps(recipe, name, len(task.dataset.labels), label=f"teacher {name}")
        count = training.count if fields.weights == "trained" else 0
        parts.append(replace(training, count=count, stage="squeeze"))
    return parts


def _patches(task: Task, fields: Any, network: str) -> list[Steps]:
    if getattr(fields, "init", "patches") != "patches":
        return []
    looked_at = sum(min(fields.pool, count) for count in _class_sizes(task)) * fields.crops
    return [Steps("patches", "forward", looked_at / CROPS_AT_ONCE, CROPS_AT_ONCE, network)]


def _recovery(task: Task, fields: Any, names: Sequence[str], problems: int, block: int, share: float) -> list[Steps]:
    """Steps on stacks of problems of `block` images, by each of the networks in `share` of them."""
    pixels = CPU_PIXELS if task.device.type == "cpu" else CUDA_PIXELS
    stack = max(1, min(problems, pixels // (block * task.dataset.side**2)))
    count = fields.iterations * problems / stack * share
    return [Steps(f"recovering by {name}", "image", count, block * stack, name) for name in names]


def _priors(task: Task, hyper: CVDDHyper, names: Sequence[str], problems: int, block: int) -> list[Steps]:
    """A set from each member alone, and a student of it."""
    parts = []
    for name in names:
        recovery = _recovery(task, hyper, [name], problems, block, 1.0)
        images = (hyper.prior_ipc or equal_shares(task)[0]) * len(task.dataset.class_names)
        training = student_steps(hyper.student_of(task), name, images, [name])
        parts += [replace(each, label=f"prior of {name}", stage="prior") for each in (*recovery, *training)]
    return parts


def _relabelled(task: Task, fields: Any, parts: list[Steps], images: int, names: Sequence[str]) -> RecipeCost:
    student: StudentRecipe = fields.student_of(task)
    if fields.labels != "online":  # labelled once, ahead: only the batches that a budget keeps
        kept = (
            fields.packing().batches(student, images, len(task.dataset.class_names))
            if fields.labels == "replay"
            else None
        )
        asked = student_steps(student, task.network, images, names)[1:]
        parts = [*parts, *(each if kept is None else replace(each, count=kept) for each in asked)]
        names = ()
    return RecipeCost(tuple(parts), student, images, tuple(names))


def _dynamics(task: Task, fields: DynamicsFields) -> list[Steps]:
    recipe, count = fields.score_recipe(task), len(task.dataset.labels)
    at_once, parts = shown_at_once(task.dataset.side), []
    for number in range(fields.score_runs):
        label = f"dynamics {number}"
        (training,) = student_steps(recipe, recipe.network, count, label=label)
        parts.append(replace(training, stage="dynamics"))
        if fields.score_outputs == "eval":
            looks = fields.score_epochs * count / at_once
            parts.append(Steps(label, "forward", looks, at_once, recipe.network, stage="dynamics"))
    return parts
