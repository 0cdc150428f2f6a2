"""DQ: Zhou et al., Dataset Quantization, ICCV 2023, arXiv 2308.10524.

1. Encode every image by one network in eval mode: h, the input of its last layer, and delta, the gradient by the logits
   of a loss that takes the softmax twice; g = [delta ; delta outer h], s(i, j) = (1 + cos(g_i, g_j)) / 2.
2. Bins n = 1 .. N of each class, M / N samples each: of what is left, D_n, choose the sample of the largest
   lambda sum_(j in D_n) s(j, x) - 2 sum_(j in S) s(j, x), S the bin so far, until the bin is full (`engines.selection.graph_cut`).
   The last bin is what is left. Early bins are central, later ones spread out.
3. Draw each bin's share of the budget uniformly.
4. Optionally drop the least important patches of the chosen images and fill them in by a masked autoencoder
   (`engines.selection.patch_drop`). The data keep ratio is then fraction times `patch_keep`.

Differences from the paper: see `DIFFERENCES`. Figures: `benchmarks/pruning.md`, and the records of `results/measured`.
"""

from typing import Literal

import torch
from pydantic import Field

from ddbench.distillation.method import Method
from ddbench.distillation.task import Task
from ddbench.synset.synset import SynSet

from .engines.selection.bins import BinFields, bins_of, drawn
from .engines.selection.coresets import indexed
from .engines.selection.patch_drop import PatchDropFields, patch_dropper, patched
from .engines.shares import shares
from .engines.students import RealStudentFields

DIFFERENCES = (
    "images are encoded once, not again for every bin: the network does not change",
    "the cosine with a gradient of zeros is 0; in the released code it is not a number",
    "bins differ by one sample in size at most, and shares of a class's bins sum to what the budget says; the released "
    "code rounds each, and so keeps 6,200 images of CIFAR-10 where 12.5 % are 6,250",
    "images have the normalization that the encoder's weights were trained with; the released code takes CIFAR-10's "
    "for an ImageNet network",
    "a trained encoder starts from new weights; whether the paper's 10 epochs start from ImageNet's is not established",
    "a pretrained encoder's new head is drawn by the stage seed, the samples by the synthesis seed; the released code "
    "takes the clock",
    "chosen images keep their places and classes; on CIFAR-10 the released code reads its reconstructed images in another "
    "order than it chose them in",
    "students are scored after the last step; the released code reports the best epoch on the test split",
    "images with dropped patches are counted at full size: what is stored is the reconstruction",
    "text (Alpaca) is not covered",
)


class DQHyper(BinFields, PatchDropFields, RealStudentFields):
    """Hyper-parameters of `dq`."""

    space: Literal["pixel", "normalised", "zca"] = Field("normalised", description="space that a student trains in")


def distill(task: Task, hyper: DQHyper) -> SynSet:
    """Real images drawn from every bin of their class: indices, or images where patches are dropped."""
    counts = shares(task)
    hyper.require_bins(task.dataset.class_names, task.class_indices(), counts)
    dropper = patch_dropper(task, hyper)
    bins = bins_of(task, hyper, counts)
    wanted = [label for label, count in enumerate(counts) if count]
    places = torch.cat([drawn(task, label, bins[label], counts[label]) for label in wanted])
    space, recipe = task.space(hyper.space), hyper.student(task)
    if dropper is None:
        return indexed(task, space, places, student_recipe=recipe)
    images, classes = patched(task, dropper, places), task.dataset.labels[places]
    return task.synset(space=space, images=images, classes=classes, codec="uint8", student_recipe=recipe)


METHOD = Method(
    name="dq",
    hyper=DQHyper,
    distill=distill,
    title="Dataset quantization",
    paper="Zhou et al. 2023",
    arxiv="2308.10524",
    differences=DIFFERENCES,
    budgets=("ipc", "fraction"),
    toy={"teacher_epochs": 4, "student_epochs": 20, "student_batch": 10},
)
