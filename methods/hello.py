"""HeLlO: Yu et al., Heavy Labels Out! Dataset Distillation with Label Space Lightening, ICCV 2025, arXiv 2408.08201.

1. Projector f(x) = W^T E(x): E a frozen image encoder (CLIP's), column c of W the normalized embedding of a prompt for
   class c, which is zero-shot CLIP and need not be stored (`engines.encoders.image_encoders`).
2. Low-rank transfer: every convolution of E and W become theta + A B; A and B are fitted to the training split and to the
   logits Y' of weak teachers, snapshots along one training (`engines.encoders.weak_teachers`), and are all that is stored:

       L = MSE(f(X), Y') + lambda CE(f(X), Y)          (`engines.encoders.projector`)

3. Images: RDED's patches, tiled factor x factor (`engines.decoupled.patches`); each tile may be updated so that, enlarged, it has
   the features E of its patch (`engines.encoders.patch_update`).
4. Students: MSE(student, f(A(X_s))) + beta CE(student, Y_s), f asked online for every batch as augmented.

Differences from the paper: see `DIFFERENCES`. No figure here was measured with CLIP's own weights.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from ddbench.distillation.method import Method
from ddbench.distillation.task import Task
from ddbench.synset.synset import SynSet, Targets
from ddbench.synset.targets.projector import projector_of
from ddbench.synset.teachers import Teacher

from .engines.decoupled.codecs import Codec, stored
from .engines.decoupled.patches import patch_images, require_patches, require_whole_tiles
from .engines.encoders.image_encoders import EncoderFields, ProjectorStart, require_encoder, start_of
from .engines.encoders.patch_update import UpdateFields, Updater
from .engines.encoders.projector import FitFields, FromSpace, fitted, merged
from .engines.encoders.weak_teachers import WeakFields, weak_labels, weak_teachers
from .engines.shares import classes_of
from .engines.students import ShuffleFields

DIFFERENCES = (
    "no code is public: the optimizers, learning rates and epochs of both fits, lambda, beta, the prompt, and the steps of "
    "the image update are not established and chosen here, all of them as hyper-parameters",
    "the weak teachers' logits are averaged, and their snapshots evenly spaced; the paper's combination is not established",
    "both squared errors are means over classes; features are not divided by their length and logits not scaled "
    "(normalised, scale): not established",
    "a convolution's weight is adapted as the matrix of rows (output, y) and columns (input, x): of the two usual forms the "
    "one whose parameters are the paper's 0.8 M; B begins at 0, A as N(0, 1 / rows)",
    "the attention pool of CLIP's ResNet is not adapted: it has no convolutions",
    "patches are scored by the last weak teacher (judge)",
    "the image update changes the shrunk tile, towards the features of the patch as it was before; E without its factors",
    "images are resized to the encoder's side bilinearly, not by CLIP's bicubic filter",
    "without a text tower, W is the mean feature of each class, divided by its length; it is stored and counted",
    "encoder = stand-in takes the place of a foundation model where there is none: a network trained here on some of the "
    "split's own classes, whose head is dropped; the projector is then fitted to all classes, those included",
    "bytes count the encoder, which the paper leaves out, and CLIP's text tower where it makes W",
    "the student's last step is scored; its training is RDED's, with the paper's loss",
)


class HelloHyper(EncoderFields, WeakFields, FitFields, UpdateFields, ShuffleFields):
    """Hyper-parameters of `hello`."""

    judge: Literal["weak-teacher", "projector"] = Field("weak-teacher", description="network that scores patches")
    codec: Codec = Field("jpeg75", description="how images are stored: float, uint8 or jpeg75")
    beta: float = Field(0.1, ge=0, description="weight of the student's cross-entropy with the classes")


def distill(task: Task, hyper: HelloHyper) -> SynSet:
    """Fit a projector to weak teachers and tile patches: the set holds both."""
    classes = classes_of(task)
    require(task, hyper)
    start = start_of(task, hyper)
    hyper.require_parts(start.encoder)
    weak = weak_teachers(task, hyper)
    labelled_by = {"teachers": [teacher.hash for teacher in weak], "combine": hyper.combine}
    targets = fitted(task, hyper, start, weak_labels(task, weak, hyper.combine), labelled_by)
    space, judge = task.space("normalised"), judge_of(task, hyper, start, targets, weak)
    seen = start.encoder.channels * start.encoder.side**2
    updater = Updater(task, hyper, embedding(task, start), space, seen) if hyper.update_steps else None
    images = stored(patch_images(task, space, judge, hyper, updater), space, hyper.codec)
    student = hyper.student(task, loss={"name": "mse-ce", "beta": hyper.beta}, labels="targets")
    fields: dict[str, Any] = {"images": images, "classes": classes, "codec": hyper.codec}
    synset = task.synset(space=space, student_recipe=student, targets=targets, **fields)
    task.log_teacher("projector", lambda: projector_of(synset, task.recall_teacher), role="projector")
    return synset


def require(task: Task, hyper: HelloHyper) -> None:
    """Raise UsageError for what would only fail after hours of training."""
    require_patches(task, hyper)
    require_encoder(task, hyper)
    require_whole_tiles(task, "shuffle", hyper.shuffle)


def judge_of(task: Task, hyper: HelloHyper, start: ProjectorStart, targets: Targets, weak: list[Teacher]) -> nn.Module:
    """Network that scores patches, for images in the normalized space."""
    return merged(task, start, targets) if hyper.judge == "projector" else weak[-1].module(task.device)


def embedding(task: Task, start: ProjectorStart) -> nn.Module:
    """E without its factors, for images in the normalized space at the split's side."""
    own, channels = task.space("normalised"), task.dataset.channels
    return FromSpace(Embedding(start), start.encoder.space, own, channels).to(task.device)


class Embedding(nn.Module):
    """E(x) of images in its own space, at any side."""

    def __init__(self, start: ProjectorStart) -> None:
        super().__init__()
        self.encoder, self.body = start.encoder, deepcopy(start.encoder.module)  # the copy moves to the device

    def forward(self, images: torch.Tensor) -> Any:
        """Features [b, d]."""
        return self.body(self.encoder.read(images))


_TOY: Mapping[str, object] = {
    "encoder": "stand-in", "stand_in_epochs": 4, "teacher_epochs": 6, "snapshots": 2, "snapshot_first": 3,
    "rank_conv": 2, "rank_columns": 4, "fit_epochs": 2, "fit_crop": "none", "pool": 20,
    "student_batch": 10, "student_epochs": 20,
}  # fmt: skip

METHOD = Method(
    name="hello",
    hyper=HelloHyper,
    distill=distill,
    title="Label space lightening",
    paper="Yu et al. 2024",
    arxiv="2408.08201",
    differences=DIFFERENCES,
    network="convnet-bn",
    toy=_TOY,
)
