"""Losses of a student: what its logits are compared with, and how.

A loss is called with the student's logits [b, K] and `Labels`, and gives the batch mean as a scalar.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import torch
from pydantic import Field
from torch.nn import functional as F

from ddbench.errors import UsageError
from ddbench.plugins import Components
from ddbench.training.batch_schedule import SoftLabels

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]


@dataclass(frozen=True)
class Labels:
    """Labels of a batch.

    Attributes:
        classes: int64 [b].
        logits: [b, K] from a teacher or a stored soft label, for the images as the student sees them; or none.
        permutation, weight: of a mixed batch (CutMix, MixUp): image i holds `weight` of itself and the rest of image
            `permutation[i]`. Logits are of the mixed image already.
        distances: [b, 2], a teacher's `distances` for the images as the student sees them; or none.
    """

    classes: torch.Tensor
    logits: torch.Tensor | None = None
    permutation: torch.Tensor | None = None
    weight: float = 1.0
    distances: torch.Tensor | None = None

    @classmethod
    def of(
        cls,
        classes: torch.Tensor,
        soft: torch.Tensor | SoftLabels | None,
        permutation: torch.Tensor | None = None,
        weight: float = 1.0,
    ) -> Self:
        """Join a batch's classes with what a labeller gave for it: logits, `SoftLabels`, or nothing."""
        soft = soft if isinstance(soft, SoftLabels) else SoftLabels(soft)
        return cls(classes, soft.logits, permutation, weight, soft.distances)


Loss = Callable[[torch.Tensor, Labels], torch.Tensor]


def cross_entropy() -> Loss:
    """Cross-entropy with the classes; in a mixed batch, the weighted sum over both images' classes."""

    def loss(student: torch.Tensor, labels: Labels) -> torch.Tensor:
        own = F.cross_entropy(student, labels.classes)
        if labels.permutation is None:
            return own
        other = F.cross_entropy(student, labels.classes[labels.permutation])
        return labels.weight * own + (1 - labels.weight) * other

    return loss


def kullback_leibler(temperature: Positive = 1.0, squared: bool = False) -> Loss:
    """KL(softmax(teacher / T) || softmax(student / T)), mean over the batch, times T^2 if `squared`."""

    def loss(student: torch.Tensor, labels: Labels) -> torch.Tensor:
        wanted = F.log_softmax(_logits(labels) / temperature, dim=1)
        logits = F.log_softmax(student / temperature, dim=1)
        value = F.kl_div(logits, wanted, reduction="batchmean", log_target=True)
        return value * temperature**2 if squared else value

    return loss


def soft_cross_entropy(temperature: Positive = 1.0) -> Loss:
    """Cross-entropy of the student (at temperature 1) with the probabilities softmax(teacher / T)."""

    def loss(student: torch.Tensor, labels: Labels) -> torch.Tensor:
        return F.cross_entropy(student, F.softmax(_logits(labels) / temperature, dim=1))

    return loss


def distilled_cross_entropy(alpha: Share, temperature: Positive = 1.0, squared: bool = True) -> Loss:
    """(1 - alpha) times cross-entropy with the classes plus alpha times `kullback_leibler` (arXiv 2403.07854).

    Hinton's distillation (arXiv 1503.02531), whose factor T^2 keeps the two terms' gradients of one size.
    """
    classes, teacher = cross_entropy(), kullback_leibler(temperature, squared)
    return lambda student, labels: (1 - alpha) * classes(student, labels) + alpha * teacher(student, labels)


def squared_error_cross_entropy(beta: Weight) -> Loss:
    """Mean squared error of the logits, over classes and batch, plus beta times `cross_entropy` (arXiv 2408.08201)."""
    classes = cross_entropy()
    return lambda student, labels: F.mse_loss(student, _logits(labels)) + beta * classes(student, labels)


def distances(logits: torch.Tensor, classes: torch.Tensor, permutation: torch.Tensor | None) -> torch.Tensor:
    """Cross-entropies [b, 2] of logits [b, K] with two one-hot labels: an image's own, and that of what is mixed into it.

    Args:
        logits: of the images as augmented and mixed.
        classes: int64 [b], of the images before they are mixed.
        permutation: int64 [b], see `Labels`; None: nothing is mixed, and both are the same.
    """
    other = classes if permutation is None else classes[permutation]
    own, mixed = (F.cross_entropy(logits, wanted, reduction="none") for wanted in (classes, other))
    return torch.stack([own, mixed], dim=1)


def distance_regularised(alpha: Weight, difference: Literal["squared", "absolute"] = "squared") -> Loss:
    """Cross-entropy with the (mixed) classes plus alpha times what the student's `distances` are off a teacher's.

    DBR of NRR-DD (arXiv 2503.18267). Off: the mean over images and both distances of the squared or absolute difference.
    """
    classes, off = cross_entropy(), F.mse_loss if difference == "squared" else F.l1_loss

    def loss(student: torch.Tensor, labels: Labels) -> torch.Tensor:
        if labels.distances is None:
            raise UsageError(
                "this loss needs a teacher's distances (targets of the kind distances), but there are none"
            )
        own = distances(student, labels.classes, labels.permutation)
        return classes(student, labels) + alpha * off(own, labels.distances.to(own.dtype))

    return loss


def _logits(labels: Labels) -> torch.Tensor:
    if labels.distances is not None and labels.logits is None:
        raise UsageError(
            "this loss needs a teacher's logits, but the set's targets hold distances: loss dbr reads those"
        )
    if labels.logits is None:
        raise UsageError("this loss needs soft labels (labels = targets or teacher), but the recipe reads classes only")
    return labels.logits


LOSSES = Components(
    "loss",
    "ddbench.losses",
    {
        "ce": cross_entropy,
        "kl": kullback_leibler,
        "soft-ce": soft_cross_entropy,
        "ce-kd": distilled_cross_entropy,
        "mse-ce": squared_error_cross_entropy,
        "dbr": distance_regularised,
    },
)
