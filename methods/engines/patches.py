"""RDED's patches: the crops of real images that a teacher finds easiest (arXiv 2312.03526); CV-DD's are the middling ones.

For each class: `pool` random real images; `crops` random square crops of each; the teacher's cross-entropy of every crop
(enlarged to the image's size); the crop of each image with the lowest; of those the IPC * factor^2 wanted, tiled
factor x factor into IPC images.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ddbench.augment.crops import draw_crops, resized_crop
from ddbench.errors import UsageError
from ddbench.method import Hyper
from ddbench.space import Space
from ddbench.task import Task

AT_ONCE = 256  # crops in a forward


class PatchFields(Hyper):
    """How patches are chosen."""

    pool: int = Field(300, ge=1, description="real images of a class that are looked at; at most all there are")
    crops: int = Field(5, ge=1, description="random crops of each")
    patch_low: float = Field(0.08, gt=0, le=1, description="smallest share of the area in a crop")
    factor: int = Field(1, ge=1, description="tiles on a side of an image; 2 at 224 px, 1 at 32 and 64 px")
    difficulty: Literal["easy", "medium"] = Field("easy", description="lowest cross-entropy, or around the median")


@dataclass(frozen=True, eq=False)
class Scored:
    """The best crop of each image that was looked at: places [p], boxes [p, 4], cross-entropies [p]."""

    places: Tensor
    boxes: Tensor
    errors: Tensor


Refine = Callable[[int, Tensor, Tensor], Tensor]
"""(class, its patches at full size [IPC * factor^2, C, H, W], its images) -> images in their place."""


def patch_images(
    task: Task, space: Space, teacher: nn.Module, fields: PatchFields, refine: Refine | None = None
) -> Tensor:
    """IPC images of patches for each class, [classes * IPC, C, H, W] in `space`, class by class; on the CPU.

    Args:
        task: its IPC, images and synthesis seed are used.
        space: of the teacher and of the images.
        teacher: in eval mode, on the task's device.
        fields: how to choose.
        refine: what is done to a class's images before they are kept; None: nothing.

    Raises:
        UsageError: a side that the factor does not divide, or fewer images looked at than patches wanted.
    """
    require_patches(task, fields)
    data, ipc = task.dataset, task.ipc or 0
    pools = [pool[: fields.pool] for pool in _shuffled(task)]
    # zeros: a dry run does not come to all classes
    images = torch.zeros(len(pools), ipc, data.channels, data.side, data.side)
    for label in task.loop(0, len(pools), "scoring patches"):
        scored = score(task, space, teacher, pools[label], label, fields)
        chosen = choose(scored.errors.cpu(), ipc * fields.factor**2, fields.difficulty)
        tiled = tile(task, space, scored, chosen, fields.factor)
        if refine is not None:
            whole = resized_crop(task.read(space, scored.places[chosen]), scored.boxes[chosen])
            tiled = refine(label, whole, tiled)
        images[label] = tiled
    return images.flatten(0, 1)


def require_patches(task: Task, fields: PatchFields) -> None:
    """UsageError where patches cannot be chosen; asked before a teacher is trained, see `patch_images`."""
    side, wanted = task.dataset.side, (task.ipc or 0) * fields.factor**2
    if side % fields.factor:
        raise UsageError(f"factor {fields.factor} does not divide images of {side} px into whole tiles")
    for name, places in zip(task.dataset.class_names, task.class_indices(), strict=True):
        if (looked_at := min(len(places), fields.pool)) < wanted:
            raise UsageError(
                f"{wanted} patches of class {name!r} need as many images, but {looked_at} are looked at: raise pool, or lower ipc or factor"
            )


def _shuffled(task: Task) -> Iterator[Tensor]:
    """The places of each class's images, in random order."""
    for label, pool in enumerate(task.class_indices()):
        yield pool[torch.randperm(len(pool), generator=task.rng("patch-pool", label))]


@torch.no_grad()
def score(task: Task, space: Space, teacher: nn.Module, pool: Tensor, label: int, fields: PatchFields) -> Scored:
    """The crop of each image at `pool` [p] on which the teacher's cross-entropy with class `label` is lowest."""
    drawn = draw_crops(
        len(pool) * fields.crops,
        task.dataset.side,
        task.rng("patch-crops", label),
        scale=(fields.patch_low, 1.0),
        ratio=(1.0, 1.0),
    ).unflatten(0, (len(pool), fields.crops))
    boxes, errors = [], []
    for rows in torch.arange(len(pool)).split(max(1, AT_ONCE // fields.crops)):
        cut = resized_crop(
            task.read(space, pool[rows]).repeat_interleave(fields.crops, dim=0), drawn[rows].flatten(0, 1)
        )
        labels = torch.full((len(cut),), label, device=cut.device)
        found = F.cross_entropy(teacher(cut), labels, reduction="none").unflatten(0, (-1, fields.crops))
        best = found.min(dim=1)
        errors.append(best.values)
        boxes.append(drawn[rows, best.indices.cpu()])
    return Scored(pool, torch.cat(boxes), torch.cat(errors))


def choose(errors: Tensor, wanted: int, difficulty: Literal["easy", "medium"]) -> Tensor:
    """Positions of `wanted` of the cross-entropies [p]: the lowest, or those in the middle of their order; rising."""
    order = errors.argsort(stable=True)
    first = 0 if difficulty == "easy" else (len(order) - wanted) // 2
    return order[first : first + wanted]


def tile(task: Task, space: Space, scored: Scored, chosen: Tensor, factor: int) -> Tensor:
    """Images [len(chosen) / factor^2, C, H, W], each of factor^2 of the chosen patches, row by row."""
    whole = task.read(space, scored.places[chosen])
    if factor == 1:
        return resized_crop(whole, scored.boxes[chosen])
    small = task.dataset.side // factor
    cut = [_cut(image, box, small) for image, box in zip(whole, scored.boxes[chosen].tolist(), strict=True)]
    tiles = torch.stack(cut).unflatten(0, (-1, factor, factor))  # [ipc, row, column, C, h, w]
    return tiles.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def _cut(image: Tensor, box: list[int], size: int) -> Tensor:
    """One window of an image [C, H, W], shrunk or enlarged to `size` pixels, with antialiasing."""
    top, left, height, width = box
    window = image[None, :, top : top + height, left : left + width]
    return F.interpolate(window, (size, size), mode="bilinear", align_corners=False, antialias=True)[0]
