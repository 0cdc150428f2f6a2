"""RDED: Sun et al., On the Diversity and Realism of Distilled Dataset, CVPR 2024, arXiv 2312.03526.

1. Squeeze a teacher. For each class: 300 random real images; 5 random square crops of each; the teacher's cross-entropy
   of every crop; the best crop of each image; of those the IPC * factor^2 with the lowest cross-entropy.
2. Tile them factor x factor into IPC images. Nothing is optimized (`engines.decoupled.patches`).
3. Relabel: the teacher's logits for every view, KL at temperature T; views are images whose tiles are shuffled, cropped
   to an area in (1 / factor, 1), flipped and mixed by CutMix.

Differences from the paper: see `DIFFERENCES`. Figures: `benchmarks/decoupled.md`, and the records of `results/measured`.
"""

from ddbench.distillation.method import Method
from ddbench.distillation.task import Task
from ddbench.synset.synset import SynSet

from .engines.decoupled.codecs import stored
from .engines.decoupled.patches import PatchFields, patch_images, require_patches, require_whole_tiles
from .engines.decoupled.relabel import FAMILY_DIFFERENCES, RelabelFields, relabeled
from .engines.decoupled.squeeze import SqueezeFields, squeeze
from .engines.shares import classes_of

DIFFERENCES = (
    *FAMILY_DIFFERENCES,
    "the data set's own normalization constants; the released code takes ImageNet's for every data set",
    "crops are scored enlarged to the teacher's input size",
    "one forward of the student in a step; the released code makes a second, which only moves its running statistics",
    "the teachers' training is not established for small images: SRe2L's for CIFAR",
)


class RDEDHyper(SqueezeFields, PatchFields, RelabelFields):
    """Hyper-parameters of `rded`."""


def distill(task: Task, hyper: RDEDHyper) -> SynSet:
    """Tile the crops of real images that the teacher finds easiest."""
    classes = classes_of(task)
    require_patches(task, hyper)
    require_whole_tiles(task, "shuffle", hyper.shuffle)
    hyper.require_room(task, len(classes))
    teacher = squeeze(task, hyper, [task.network])[task.network]
    images = stored(patch_images(task, teacher.space, teacher.module(task.device), hyper), teacher.space, hyper.codec)
    return relabeled(task, hyper, teacher.space, [(teacher, 1.0)], classes=classes, images=images)


METHOD = Method(
    name="rded",
    hyper=RDEDHyper,
    distill=distill,
    title="Realistic, diverse and efficient distillation",
    paper="Sun et al. 2024",
    arxiv="2312.03526",
    differences=DIFFERENCES,
    network="convnet-bn",
    toy={"teacher_epochs": 8, "pool": 20, "student_batch": 10, "student_epochs": 20},
)
