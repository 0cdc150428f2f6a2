"""Choosing real images: at random, by greedy k-centre, by herding; and the features that geometry is taken in."""

from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from ddbench.data.dataset import RESIDENT_SIDE
from ddbench.data.spaces import Space
from ddbench.distillation.task import Task
from ddbench.errors import UsageError
from ddbench.synset.synset import SynSet

from ..shares import equal_shares

FeatureKind = Literal["pixels", "random-network"]
FeaturesOf = Callable[[Tensor], Tensor]
SHOWN, SHOWN_LARGE = 500, 200  # images in a forward that only looks: up to 128 px, and above


def shown_at_once(side: int) -> int:
    """Number of images of a side, pixels, in a forward without training."""
    return SHOWN if side <= RESIDENT_SIDE else SHOWN_LARGE


def random_choice(task: Task, counts: list[int]) -> list[Tensor]:
    """Per class, places of `counts[c]` random images; a larger count keeps a smaller one's images."""
    chosen = []
    for label, (pool, count) in enumerate(zip(task.class_indices(), counts, strict=True)):
        _check(len(pool), count, least=0)
        chosen.append(pool[torch.randperm(len(pool), generator=task.rng("random", label))[:count]])
    return chosen


def select(task: Task, features_of: FeaturesOf, choose: Callable[[Tensor, int], Tensor]) -> list[Tensor]:
    """Per class, places of the `ipc` images that `choose(features [n, d], ipc)` takes.

    The features of one class at a time are in memory; of pixels, all its images.
    """
    pools, counts = task.class_indices(), equal_shares(task)
    chosen = []
    for label in task.loop(0, len(pools), "choosing"):
        pool = pools[label]
        chosen.append(pool[choose(features_of(pool), counts[label]).cpu()])
    return chosen


def indexed(task: Task, space: Space, places: Tensor, **more: Any) -> SynSet:
    """Set of real images at `places` [n] in the training split: indices, their classes; `more` fields of the set."""
    return task.synset(space=space, indices=places, classes=task.dataset.labels[places], **more)


def pixels_of(task: Task, space: Space) -> FeaturesOf:
    """Features [b, C*H*W] of images by their places: their values in `space`."""
    return lambda places: task.read(space, places).flatten(1)


def random_embedding_of(task: Task, space: Space) -> FeaturesOf:
    """Features [b, d] of images by their places: the embedding of one untrained network, in eval mode."""
    embed = embedder(task.create_network("features").eval())

    @torch.no_grad()
    def of(places: Tensor) -> Tensor:
        parts = places.split(shown_at_once(task.dataset.side))
        return torch.cat([embed(task.read(space, part)) for part in parts])

    return of


def embedder(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """Embedding of a network: images [b, C, H, W] to the input [b, d] of its last linear layer.

    UsageError: a library's network that does not end in one linear layer.
    """
    if not hasattr(network, "embed"):
        raise UsageError(f"{type(network).__name__} has no embedding: choose a network that ends in one linear layer")
    return cast(Callable[[Tensor], Tensor], network.embed)


def features_by_name(kind: FeatureKind, task: Task, space: Space) -> FeaturesOf:
    """Features that a hyper-parameter names."""
    return (pixels_of if kind == "pixels" else random_embedding_of)(task, space)


def _check(size: int, count: int, least: int = 1) -> None:
    if not least <= count <= size:
        raise UsageError(f"cannot choose {count} of {size} images of a class: at least {least}, at most all")


def k_center(features: Tensor, count: int) -> Tensor:
    """Greedy k-centre: start nearest to the mean, then always take the point farthest from those chosen.

    Its covering radius is at most twice the best one (Gonzalez 1985; Sener and Savarese 2018, algorithm 1).

    Args:
        features: [n, d].
        count: how many to choose, 1..n.

    Returns:
        Positions in `features`, int64 [count], in the order chosen.
    """
    _check(len(features), count)
    nearest = torch.full((len(features),), torch.inf, device=features.device)
    newest = int(_squared_distances(features, features.mean(0)).argmin())
    chosen = [newest]
    while len(chosen) < count:
        nearest = torch.minimum(nearest, _squared_distances(features, features[newest]))
        nearest[newest] = -1.0  # never again, even where all that is left are copies
        newest = int(nearest.argmax())
        chosen.append(newest)
    return torch.tensor(chosen)


def herding(features: Tensor, count: int) -> Tensor:
    """Greedy herding without replacement: each choice brings the mean of those chosen nearest to the class mean.

    The t-th choice minimizes || mu - (f(x) + sum_{j<t} f(x_j)) / t ||_2. Welling (2009) has max <w_t, f(x)> with
    w_t = t mu - sum_{j<t} f(x_j), which is the same where all ||f(x)|| are equal.

    Args:
        features: [n, d].
        count: how many to choose, 1..n.

    Returns:
        Positions in `features`, int64 [count], in the order chosen.
    """
    _check(len(features), count)
    centered = features - features.mean(0)  # t^2 times the criterion is || z + sum z_j ||^2 with z = f - mu
    norms = centered.square().sum(1)
    total = torch.zeros_like(centered[0])
    chosen: list[int] = []
    while len(chosen) < count:
        score = norms + 2 * (centered @ total)
        score[chosen] = torch.inf
        chosen.append(int(score.argmin()))
        total = total + centered[chosen[-1]]
    return torch.tensor(chosen)


def _squared_distances(features: Tensor, point: Tensor) -> Tensor:
    return (features - point).square().sum(1)
