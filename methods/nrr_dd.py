"""NRR-DD: Tran et al., Enhancing Dataset Distillation via Non-Critical Region Refinement, CVPR 2025, arXiv 2503.18267.

1. Squeeze a teacher f. C(x), a class activation map of x for its class, is in [0, 1] (`engines.decoupled.cam`).
2. CIDD: for each class, random crops of random real images; of each image the crop that holds most of C; of those the t
   that hold most; of those the IPC * factor^2 with the LOWEST confidence f_y, tiled factor x factor into IPC images.
3. NRR: refine the pixels by which the class is not recognized. T times, with M = max(0, eps - C(x)),

       x <- x - M * eta * grad_x ( CE(f(x), y) + alpha_bn BN(x) ),

   BN as in `engines.decoupled.recover`, C looked up anew every `cam_every` steps, x clamped to the pixel range after each.
4. Labels: the teacher's logits for every view, KL at temperature T, online or replayed; or DBR: for every view only
   d_org = CE(f, own one-hot label) and d_aug = CE(f, that of what CutMix mixed in), and students learn

       CE(student, mixed label) + alpha_dbr mean( (d_org - its own)^2, (d_aug - its own)^2 ).

Differences from the paper: see `DIFFERENCES`. Not yet measured at the paper's sizes.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ddbench.data.spaces import Space
from ddbench.distillation.labels import store_distances
from ddbench.distillation.method import Method
from ddbench.distillation.task import Task
from ddbench.errors import UsageError
from ddbench.synset.synset import SynSet
from ddbench.synset.targets import distances
from ddbench.training.recipe import StudentRecipe

from .engines.decoupled.cam import AT_ONCE, ActivationMaps, require_maps, window_shares
from .engines.decoupled.patches import (
    Scored,
    crop_boxes,
    crop_errors,
    require_patches,
    require_whole_tiles,
    tiled,
)
from .engines.decoupled.pipeline import DecoupledHyper, Start, recovered, starts
from .engines.decoupled.recover import Refinement
from .engines.decoupled.relabel import FAMILY_DIFFERENCES, relabeled
from .engines.decoupled.squeeze import squeeze
from .engines.shares import equal_shares

DIFFERENCES = (
    *FAMILY_DIFFERENCES,
    "no number of the paper is established (t, tiles, eps, eta, steps, alpha_bn, alpha_dbr, crops, the student's "
    "training): what a recipe gives is ours, or RDED's where that is named",
    "a crop's CAM ratio is the share of the image's map inside its window, and each image competes with its best crop alone",
    "maps are HiResCAM, which is CAM where global average pooling and one linear layer end the teacher",
    "refinement is plain gradient descent of constant step size on the images as they are, without crops, flips or rolls",
    "the gradient is that of the mean over a block of images, one a class, whose statistics are taken together",
    "d_aug is the distance to the one-hot label of what is mixed in (with no mix, it is d_org); the form of L_dbr is ours",
    "distances hold for the views of one recorded stream, which every student sees",
)


class NRRDDHyper(DecoupledHyper):
    """Hyper-parameters of `nrr-dd`."""

    init: Literal["critical", "patches", "real", "noise"] = Field(  # type: ignore[assignment]
        "critical", description="images begin as CIDD's crops, or RDED's, random real images, or noise"
    )
    top: int | None = Field(None, ge=1, description="crops of a class kept by CAM ratio, t; none: half, or all wanted")
    cam_ratio: Literal["mass", "mean"] = Field("mass", description="share of the map in the crop, or its mean there")
    iterations: int = Field(ge=0, description="steps on every image, T; 0: images stay as they begin")
    recover_lr: float = Field(gt=0, description="step size, eta")
    r_bn: float = Field(ge=0, description="weight of the batch-norm statistics, alpha_bn")
    epsilon: float = Field(gt=0, le=1, description="map value from which a pixel stays as it is, eps")
    cam_every: int = Field(1, ge=1, description="steps for which a map holds")
    step: Literal["plain", "adam"] = Field("plain", description="against the gradient, or Adam's step times M")
    step_schedule: Literal["constant", "cosine"] = Field("constant", description="of the step size")
    crop: bool = Field(False, description="random resized crop and flip before each step")
    roll: tuple[int, int] = Field((0, 0), description="smallest and largest roll, pixels, in each direction")
    labels: Literal["online", "replay", "distances"] = Field(  # type: ignore[assignment]
        "online", description="teachers asked online, their logits stored, or two distances a view (DBR)"
    )
    alpha_dbr: float = Field(1.0, ge=0, description="weight of L_dbr, for labels = distances")
    dbr_difference: Literal["squared", "absolute"] = Field("squared", description="of distances, in L_dbr")

    def student_of(self, task: Task) -> StudentRecipe:
        """See the base class; distances have a loss of their own."""
        made = super().student_of(task)
        loss = {"name": "dbr", "alpha": self.alpha_dbr, "difference": self.dbr_difference}
        return made.model_copy(update={"loss": loss}) if self.labels == "distances" else made

    def require_room(self, task: Task, images: int) -> None:
        """See the base class."""
        super().require_room(task, images)
        if self.labels == "distances":
            distances.require_room(self.student_of(task), images)

    def stored(self, task: Task, synset: SynSet) -> SynSet:
        """See the base class."""
        return store_distances(task, synset) if self.labels == "distances" else super().stored(task, synset)


def distill(task: Task, hyper: NRRDDHyper) -> SynSet:
    """Choose crops that are critical and hard, refine what is not critical in them, and label."""
    ipc, name = equal_shares(task)[0], task.network
    _require(task, hyper)
    teachers = squeeze(task, hyper, [name])
    space, maps = teachers[name].space, ActivationMaps(teachers[name].module(task.device))
    start = critical(task, space, maps, hyper) if hyper.init == "critical" else starts(task, hyper, teachers)
    refine = Refinement(
        lambda images, labels: (hyper.epsilon - maps(images, labels)).clamp_min(0),
        every=hyper.cam_every,
        step=hyper.step,
        schedule=hyper.step_schedule,
    )
    images, classes = recovered(task, hyper, teachers, [{name: 1.0}] * ipc, start=start, refine=refine)
    return relabeled(task, hyper, space, [(teachers[name], 1.0)], classes=classes, images=images)


def critical(task: Task, space: Space, maps: ActivationMaps, hyper: NRRDDHyper) -> Start:
    """CIDD: where images begin, tiles of the crops that hold most of their images' maps and are hardest among those."""
    wanted = equal_shares(task)[0] * hyper.factor**2

    def pick(pool: Tensor, label: int) -> Scored:
        boxes = crop_boxes(task, pool, label, hyper)
        parts = [
            maps(task.read(space, part), torch.full_like(part, label).to(task.device)) for part in pool.split(AT_ONCE)
        ]
        ratios = window_shares(torch.cat(parts), boxes, mean=hyper.cam_ratio == "mean").cpu().max(1)
        kept = ratios.values.argsort(descending=True, stable=True)[: hyper.top or max(wanted, len(pool) // 2)]
        places, boxes = pool[kept], boxes[kept, ratios.indices[kept]]
        errors = crop_errors(task, space, maps.network, places, boxes[:, None], label)[:, 0]
        hardest = errors.cpu().argsort(descending=True, stable=True)[:wanted]  # -log f_y: the lowest confidence first
        return Scored(places, boxes, errors).at(hardest)

    images = tiled(task, space, hyper, pick).unflatten(0, (len(task.dataset.class_names), -1))
    return lambda j, k, classes: images[classes, j]


def _require(task: Task, hyper: NRRDDHyper) -> None:
    """Raise UsageError for what would fail once a teacher is trained."""
    wanted = equal_shares(task)[0] * hyper.factor**2
    require_maps(task, [task.network])
    if hyper.iterations:
        hyper.require_voters(task, [task.network])
    if hyper.init in ("critical", "patches"):
        require_patches(task, hyper)
    if hyper.init == "critical" and hyper.top is not None and hyper.top < wanted:
        raise UsageError(f"top {hyper.top} keeps fewer crops of a class than the {wanted} that its images are tiled of")
    require_whole_tiles(task, "shuffle", hyper.shuffle)
    hyper.require_room(task, sum(equal_shares(task)))


METHOD = Method(
    name="nrr-dd",
    hyper=NRRDDHyper,
    distill=distill,
    title="Non-critical region refinement",
    paper="Tran et al. 2025",
    arxiv="2503.18267",
    differences=DIFFERENCES,
    network="convnet-bn",
    toy={
        "teacher_epochs": 8,
        "pool": 20,
        "iterations": 20,
        "recover_lr": 1.0,
        "r_bn": 0.01,
        "epsilon": 0.5,
        "student_batch": 10,
        "student_epochs": 20,
    },
)
