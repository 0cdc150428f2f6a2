"""PCA (Prune, Combine, Augment): Unifying Dataset Pruning and Distillation for Efficient Large-scale Compression,
ICML 2026, arXiv 2502.06434 v2.

1. Prune. Rank the training images of each class by EL2N, || p - y ||_2 of a network in training (`engines.selection.pruning`),
   and keep the IPC * f^2 with the smallest: easy ones.
2. Combine. Shrink each whole image to 1 / f of its side, nothing cropped, and tile f x f into IPC canvases a class.
3. Augment. Each time that a student is shown a canvas, one tile, drawn uniformly, is enlarged to the full side (views of
   the kind `tiles`), and the random crops that follow stay inside it: one view of a canvas and epoch.
4. Students learn the classes by cross-entropy; no teacher labels.

Differences from the paper: see `DIFFERENCES`. Figures: `benchmarks/pruning.md`, and the records of `results/measured`.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ddbench.distillation.method import Method
from ddbench.distillation.task import Task
from ddbench.errors import UsageError
from ddbench.synset.synset import SynSet, Views

from .engines.decoupled.codecs import Codec, stored
from .engines.decoupled.patches import join_tiles, require_whole_tiles
from .engines.selection.dynamics import DynamicsFields, dynamics_of
from .engines.selection.pruning import SCORES
from .engines.shares import classes_of
from .engines.students import StudentFields

DIFFERENCES = (
    "written without the authors' code, which is not released: what follows fills in what the paper leaves open",
    "tiles, f on a side: not established; 2, as in RDED, with which the paper compares",
    "EL2N's network, epochs and averaging: not established; hyper-parameters (score_...)",
    "images are shrunk by antialiased interpolation in the image's space, bilinear by default: not established",
    "a canvas holds images next to each other in the ranking, row by row, or shuffled ones: not established",
    "the crop inside a tile has torchvision's scale, 0.08 to 1, the tile enlarged before it: not established",
    "canvases are 8-bit pixels in memory, truncated",
    "the learning rate follows its cosine by the step, not by the epoch; an epoch's short last batch opens the next epoch",
    "the data set's own normalization constants",
)


class PCAHyper(DynamicsFields, StudentFields):
    """Hyper-parameters of `pca`; the student's are those of the paper's hard protocol."""

    tiles: int = Field(2, ge=1, le=3, description="tiles on a side of a canvas, f; 1: images are stored as they are")
    shrink: Literal["bilinear", "bicubic"] = Field(
        "bilinear", description="interpolation of shrunk images, antialiased"
    )
    arrange: Literal["ranked", "shuffled"] = Field(
        "ranked", description="images of a canvas: next in the ranking, easiest first; or shuffled within the class"
    )
    codec: Codec = Field("uint8", description="how canvases are stored: float, uint8 or jpeg75")
    student_batch: int = Field(128, ge=1, description="images in a step; at most all")
    mix: Literal["cutmix", "mixup", "none"] = Field("none", description="of every batch")


def distill(task: Task, hyper: PCAHyper) -> SynSet:
    """Tile the shrunk images of each class that a network in training finds easiest."""
    classes = classes_of(task)
    require_tiles(task, hyper.tiles)
    scores = SCORES["el2n"](dynamics_of(task, hyper), hyper)
    return task.synset(
        space=task.space("normalised"),
        classes=classes,
        images=combine(task, hyper, prune(task, hyper, scores)),
        codec=hyper.codec,
        views=Views("tiles", {"factor": hyper.tiles}) if hyper.tiles > 1 else None,
        student_recipe=hyper.student(task),
    )


def require_tiles(task: Task, tiles: int) -> None:
    """Raise UsageError where images cannot be tiled, or are too few; called before scores are made."""
    require_whole_tiles(task, "tiles", tiles)
    wanted = (task.ipc or 0) * tiles**2
    for name, pool in zip(task.dataset.class_names, task.class_indices(), strict=True):
        if len(pool) < wanted:
            raise UsageError(
                f"IPC {task.ipc} of {tiles} x {tiles} tiles needs {wanted} images of class {name!r}, "
                f"but there are {len(pool)}: lower ipc or tiles"
            )


def prune(task: Task, hyper: PCAHyper, scores: Tensor) -> list[Tensor]:
    """Per class, places of the IPC * f^2 images with the smallest scores [n], in the order that they are tiled."""
    chosen = []
    for label, pool in enumerate(task.class_indices()):
        easiest = pool[scores[pool].argsort(stable=True)[: (task.ipc or 0) * hyper.tiles**2]]
        shuffle = torch.randperm(len(easiest), generator=task.rng("pca-canvases", label))
        chosen.append(easiest[shuffle] if hyper.arrange == "shuffled" else easiest)
    return chosen


def combine(task: Task, hyper: PCAHyper, places: list[Tensor]) -> Tensor:
    """Canvases [classes * IPC, C, H, W] of the images at each class's places, as the codec stores them."""
    data, space, ipc = task.dataset, task.space("normalised"), len(places[0]) // hyper.tiles**2
    kind = torch.float32 if hyper.codec == "float" else torch.uint8
    # zeros: a dry run does not come to all classes
    images = torch.zeros(len(places), ipc, data.channels, data.side, data.side, dtype=kind)
    for label in task.loop(0, len(places), "combining"):
        tiled = canvases(task.read(space, places[label]), hyper.tiles, hyper.shrink)
        images[label] = stored(tiled, space, hyper.codec)
    return images.flatten(0, 1)


def canvases(images: Tensor, tiles: int, shrink: str = "bilinear") -> Tensor:
    """Canvases [n, C, H, H] of tiles x tiles shrunk images each, row by row, of images [n * tiles^2, C, H, H]."""
    if tiles == 1:
        return images
    size = images.shape[-1] // tiles
    small = F.interpolate(images, (size, size), mode=shrink, align_corners=False, antialias=True)
    return join_tiles(small, tiles)


METHOD = Method(
    name="pca",
    hyper=PCAHyper,
    distill=distill,
    title="Prune, combine, augment",
    paper="Xiao et al. 2026",
    arxiv="2502.06434",
    differences=DIFFERENCES,
    toy={"score_epochs": 4, "arrange": "shuffled", "student_batch": 10, "student_epochs": 20},
)
