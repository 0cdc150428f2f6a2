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
from ddbench.data.spaces import Space
from ddbench.distillation.method import Hyper
from ddbench.distillation.task import Task
from ddbench.errors import UsageError

AT_ONCE = 256  # crops in a forward


class PatchFields(Hyper):
    """Choice of patches."""

    pool: int = Field(300, ge=1, description="real images of a class that are looked at; at most all there are")
    crops: int = Field(5, ge=1, description="random crops of each")
    patch_low: float = Field(0.08, gt=0, le=1, description="smallest share of the area in a crop")
    factor: int = Field(1, ge=1, description="tiles on a side of an image; 2 at 224 px, 1 at 32 and 64 px")
    difficulty: Literal["easy", "medium"] = Field("easy", description="lowest cross-entropy, or around the median")


@dataclass(frozen=True, eq=False)
class Scored:
    """Best crop of each image that was looked at: places [p], boxes [p, 4], cross-entropies [p]."""

    places: Tensor
    boxes: Tensor
    errors: Tensor

    def at(self, chosen: Tensor) -> "Scored":
        """Crops at some positions, int64 on the CPU."""
        return Scored(self.places[chosen], self.boxes[chosen], self.errors[chosen.to(self.errors.device)])


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
    wanted = (task.ipc or 0) * fields.factor**2

    def pick(pool: Tensor, label: int) -> Scored:
        scored = score(task, space, teacher, pool, label, fields)
        return scored.at(choose(scored.errors.cpu(), wanted, fields.difficulty))

    return tiled(task, space, fields, pick, refine)


def tiled(
    task: Task,
    space: Space,
    fields: PatchFields,
    pick: Callable[[Tensor, int], Scored],
    refine: Refine | None = None,
) -> Tensor:
    """Images as `patch_images` gives them, of the crops that `pick` chooses from a class's pool [p] for its label."""
    data, pools = task.dataset, list(shuffled_pools(task, fields))
    # zeros: a dry run does not come to all classes
    images = torch.zeros(len(pools), task.ipc or 0, data.channels, data.side, data.side)
    for label in task.loop(0, len(pools), "scoring patches"):
        picked = pick(pools[label], label)
        whole = task.read(space, picked.places)
        tiles = tile(whole, picked.boxes, fields.factor)
        images[label] = tiles if refine is None else refine(label, resized_crop(whole, picked.boxes), tiles)
    return images.flatten(0, 1)


def require_patches(task: Task, fields: PatchFields) -> None:
    """Raise UsageError where patches cannot be chosen; called before a teacher is trained, see `patch_images`."""
    require_whole_tiles(task, "factor", fields.factor)
    wanted = (task.ipc or 0) * fields.factor**2
    for name, places in zip(task.dataset.class_names, task.class_indices(), strict=True):
        if (looked_at := min(len(places), fields.pool)) < wanted:
            raise UsageError(
                f"{wanted} patches of class {name!r} need as many images, but {looked_at} are looked at: raise pool, or lower ipc or factor"
            )


def require_whole_tiles(task: Task, name: str, count: int) -> None:
    """Raise UsageError where a hyper-parameter's `count` tiles on a side do not divide the images."""
    if task.dataset.side % count:
        raise UsageError(f"{name} {count} does not divide images of {task.dataset.side} px into whole tiles")


def shuffled_pools(task: Task, fields: PatchFields) -> Iterator[Tensor]:
    """Places of each class's images that are looked at, in random order."""
    for label, pool in enumerate(task.class_indices()):
        yield pool[torch.randperm(len(pool), generator=task.rng("patch-pool", label))][: fields.pool]


def score(task: Task, space: Space, teacher: nn.Module, pool: Tensor, label: int, fields: PatchFields) -> Scored:
    """Crop of each image at `pool` [p] on which the teacher's cross-entropy with class `label` is lowest."""
    drawn = crop_boxes(task, pool, label, fields)
    errors = crop_errors(task, space, teacher, pool, drawn, label)
    best = errors.min(dim=1)
    return Scored(pool, drawn[torch.arange(len(pool)), best.indices.cpu()], best.values)


def crop_boxes(task: Task, pool: Tensor, label: int, fields: PatchFields) -> Tensor:
    """Random square crops of each image at `pool` [p] of class `label`: int64 [p, crops, 4]."""
    drawn = draw_crops(
        len(pool) * fields.crops,
        task.dataset.side,
        task.rng("patch-crops", label),
        scale=(fields.patch_low, 1.0),
        ratio=(1.0, 1.0),
    )
    return drawn.unflatten(0, (len(pool), fields.crops))


@torch.no_grad()
def crop_errors(task: Task, space: Space, teacher: nn.Module, pool: Tensor, boxes: Tensor, label: int) -> Tensor:
    """Cross-entropy [p, n] of a teacher with class `label`, of n crops `boxes` [p, n, 4] of each image at `pool` [p]."""
    crops, errors = boxes.shape[1], []
    for rows in torch.arange(len(pool)).split(max(1, AT_ONCE // crops)):
        cut = resized_crop(task.read(space, pool[rows]).repeat_interleave(crops, dim=0), boxes[rows].flatten(0, 1))
        labels = torch.full((len(cut),), label, device=cut.device)
        errors.append(F.cross_entropy(teacher(cut), labels, reduction="none").unflatten(0, (-1, crops)))
    return torch.cat(errors)


def choose(errors: Tensor, wanted: int, difficulty: Literal["easy", "medium"]) -> Tensor:
    """Positions of `wanted` of the cross-entropies [p]: the lowest, or those in the middle of their order; rising."""
    order = errors.argsort(stable=True)
    first = 0 if difficulty == "easy" else (len(order) - wanted) // 2
    return order[first : first + wanted]


def tile(whole: Tensor, boxes: Tensor, factor: int) -> Tensor:
    """Images [p / factor^2, C, H, W], each of factor^2 of the patches at `boxes` [p, 4] of images, row by row."""
    if factor == 1:
        return resized_crop(whole, boxes)
    small = whole.shape[-1] // factor
    cut = [_cut(image, box, small) for image, box in zip(whole, boxes.tolist(), strict=True)]
    return join_tiles(torch.stack(cut), factor)


def join_tiles(tiles: Tensor, factor: int) -> Tensor:
    """Images [n / factor^2, C, H, W] of tiles [n, C, h, w], factor x factor of them each, row by row."""
    rows = tiles.unflatten(0, (-1, factor, factor))  # [image, row, column, C, h, w]
    return rows.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def _cut(image: Tensor, box: list[int], size: int) -> Tensor:
    """One window of an image [C, H, W], shrunk or enlarged to `size` pixels, with antialiasing."""
    top, left, height, width = box
    window = image[None, :, top : top + height, left : left + width]
    return F.interpolate(window, (size, size), mode="bilinear", align_corners=False, antialias=True)[0]
