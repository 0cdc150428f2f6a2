"""One step of training experts, several at once: rows of stacked vectors [G, P] that do not know of each other.

On a batch (x, y) with A(x) its DSA augmentation (one operation for the batch, parameters for each image):

    l(theta) = s CE(f(A(x); theta), y) + w mean_{b, i, j} (|| d sum_c f_c(x; theta) / d x_{b, :, i, j} ||_2 - 1)^2
    d        = grad l(theta), or GSAM's direction (`gsam`) where rho > 0
    v       <- momentum v + d + weight_decay theta
    theta   <- theta - lr v

with s AST's clipping factor and w the weight of its gradient penalty, which is on the images as they are.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from ..condensation import chunk_images
from .flat import FlatNetwork

Gradients = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Vectors [G, P] -> gradients [G, P] and losses [G]."""

_EPS = 1e-12


class ExpertRecipe(BaseModel):
    """Training of an expert; the defaults are MTT's. Its fields are part of the stage's key."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    lr: float = Field(0.01, gt=0, description="step size of the SGD")
    momentum: float = Field(0.0, ge=0, lt=1, description="of the SGD")
    weight_decay: float = Field(0.0, ge=0, description="of the SGD, on every parameter")
    batch: int = Field(256, ge=1, description="images in a step; an epoch's last step takes what is left")
    decay_epoch: int | None = Field(None, ge=0, description="0-based epoch from which on lr is decayed; v begins anew")
    decay_factor: float = Field(1.0, gt=0, description="of lr, from decay_epoch on")
    rho: float = Field(0.0, ge=0, description="GSAM's adaptive radius; 0: plain SGD")
    gsam_alpha: float = Field(0.0, ge=0, description="GSAM's weight of the perpendicular part, a")
    loss_ramp: int = Field(0, ge=0, description="AST's clipping loss: s = 0.5 + 0.5 e / loss_ramp in epochs below it")
    gradient_penalty: float = Field(0.0, ge=0, description="AST's weight of the gradient penalty, w (AST: 2)")

    def lr_at(self, epoch: int) -> float:
        """Step size in a 0-based epoch."""
        return self.lr if self.decay_epoch is None or epoch < self.decay_epoch else self.lr * self.decay_factor

    def scale_at(self, epoch: int) -> float:
        """Factor of the cross-entropy in a 0-based epoch, s."""
        return 1.0 if epoch >= self.loss_ramp else 0.5 + 0.5 * epoch / self.loss_ramp


@dataclass(frozen=True, eq=False)
class ExpertBatch:
    """One step of G experts: images as they are and augmented, both [G, b, C, H, W], and labels [G, b]."""

    images: Tensor
    augmented: Tensor
    labels: Tensor

    def parts(self) -> Iterator[tuple["ExpertBatch", float]]:
        """Split the batch in parts of a size that suits the device, each with its share of the images."""
        size, count = chunk_images(self.images.device, self.images.shape[-1]), self.labels.shape[1]
        for part in zip(*(t.split(size, dim=1) for t in (self.images, self.augmented, self.labels)), strict=True):
            yield ExpertBatch(*part), part[-1].shape[1] / count


def step(
    network: FlatNetwork, recipe: ExpertRecipe, epoch: int, batch: ExpertBatch, vectors: Tensor, velocity: Tensor
) -> Tensor:
    """Take one step of a 0-based epoch: changes vectors and velocity [G, P] in place; gives the losses [G] before it."""
    at = partial(gradients, network, recipe, recipe.scale_at(epoch), batch)
    direction, losses = gsam(at, vectors, recipe.rho, recipe.gsam_alpha) if recipe.rho > 0 else at(vectors)
    velocity.mul_(recipe.momentum).add_(direction.add(vectors, alpha=recipe.weight_decay))
    vectors.sub_(velocity, alpha=recipe.lr_at(epoch))
    return losses


def gsam(gradients: Gradients, vectors: Tensor, rho: float, alpha: float) -> tuple[Tensor, Tensor]:
    """GSAM's direction with ASAM's perturbation (FTD's experts), for each row theta of `vectors` [G, P].

    With g = grad l(theta), e = rho theta^2 g / (|| |theta| g || + 1e-12), h = grad l(theta + e) on the same batch, and
    p the part of g that is perpendicular to h, the direction is h - alpha p. All parameters take part, biases and norms
    included. Also returns the losses at theta.
    """
    gradient, losses = gradients(vectors)
    radius = rho / (_length(vectors * gradient) + _EPS)
    sharp, _ = gradients(vectors + radius * vectors.square() * gradient)
    length, sharp_length = _length(gradient), _length(sharp)
    cosine = (gradient * sharp).sum(1, keepdim=True) / (length * sharp_length + _EPS)
    perpendicular = gradient - cosine * length * sharp / (sharp_length + _EPS)
    return sharp - alpha * perpendicular, losses


def _length(rows: Tensor) -> Tensor:
    return rows.norm(dim=1, keepdim=True)


def gradients(
    network: FlatNetwork, recipe: ExpertRecipe, scale: float, batch: ExpertBatch, vectors: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients [G, P] and losses [G] of l at vectors [G, P], s = `scale`; the batch goes through in parts."""
    leaf = vectors.detach().requires_grad_()
    gradient, losses = torch.zeros_like(vectors), vectors.new_zeros(len(vectors))
    for part, share in batch.parts():
        values = share * _losses(network, recipe.gradient_penalty, scale, part, leaf)
        gradient += torch.autograd.grad(values.sum(), leaf)[0]
        losses += values.detach()
    return gradient, losses


def _losses(network: FlatNetwork, weight: float, scale: float, batch: ExpertBatch, vectors: Tensor) -> Tensor:
    def loss(vector: Tensor, images: Tensor, augmented: Tensor, labels: Tensor) -> Tensor:
        value = scale * F.cross_entropy(network(vector, augmented), labels)
        return value + weight * gradient_penalty(network, vector, images) if weight else value

    if len(vectors) > 1:
        losses: Tensor = torch.vmap(loss)(vectors, batch.images, batch.augmented, batch.labels)
        return losses
    return loss(vectors[0], batch.images[0], batch.augmented[0], batch.labels[0])[None]


def gradient_penalty(network: FlatNetwork, vector: Tensor, images: Tensor) -> Tensor:
    """AST's penalty without its weight: one norm over the channels for each pixel; differentiable in `vector`."""

    def summed(pixels: Tensor) -> Tensor:
        return network(vector, pixels).sum()

    slope: Tensor = torch.func.grad(summed)(images)
    return (slope.norm(dim=1) - 1).square().mean()
