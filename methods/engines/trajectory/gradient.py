"""Trajectory-matching loss and its gradient with respect to images, labels and step size, computed in three modes.

A student starts at theta_0, an expert's weights, and takes N steps of SGD (momentum beta, 0 but for AST) on synthetic
images x_i = A_i(X[idx_i]) with label probabilities p_i, step size alpha, cross-entropy l, factor s (1 but for AST):

    g_i = s grad_theta l(f(x_i; theta_i), p_i);   m_i = beta m_{i-1} + g_i;   theta_{i+1} = theta_i - alpha m_i
    L = sum_k || theta_k - theta*_k ||^2 / || theta_0 - theta*_k ||^2,   k in K, the matched steps ({N} but for AST).

Modes:
- "unrolled": the whole graph is kept and autograd goes back through it. Memory grows with N; the yardstick.
- "adjoint" (default): the same gradient, exactly. Only the N + 1 vectors theta_i are kept. Going back from i = N - 1,
  with lambda the derivative of L by theta_{i+1} and nu that by -alpha m's part g_i (nu_N = 0):

      lambda += 2 (theta_{i+1} - theta*_{i+1}) / || theta_0 - theta*_{i+1} ||^2        where i + 1 is in K
      nu <- lambda + beta nu
      dL/dalpha -= g_i . nu;   dL/dx_i = -alpha d/dx_i (g_i . nu);   likewise for p_i;   lambda -= alpha H_i nu

  where H_i nu = d/dtheta_i (g_i . nu): one scalar, g_i . nu, gives all of them by one backward pass through one step's
  graph. Per step that is an unrolled step and one first-order gradient more; the graph of a single step is in memory,
  and not all of that: g_i is a sum over images, which go through a few at a time.
- "truncated": TESLA's gradient (arXiv 2211.10586), the same recursion without the last term: every theta_i is taken as
  a constant. It is not the gradient of L: `benchmarks/trajectory_matching.md` has the angle between the two. The factor 2 of
  the squared norm is kept; the released code loses it for images.

Derivation and check against finite differences: the tests.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ddbench.augment import DSA, Drawn
from ddbench.errors import JobFailed
from ddbench.training import precision

from ..condensation import chunk_images
from .flat import FlatNetwork

Mode = Literal["adjoint", "unrolled", "truncated"]


@dataclass(frozen=True, eq=False)
class InnerStep:
    """Batch of one student step: places [b] among the synthetic images, and one augmentation draw (None: none)."""

    index: Tensor
    drawn: Drawn | None


@dataclass(frozen=True, eq=False)
class Segment:
    """Start, targets and student steps of one outer iteration.

    Attributes:
        start: theta_0 [P].
        targets: step k -> theta*_k [P]; the last key is N.
        steps: the N inner steps.
        momentum: beta.
        scale: s, a factor on every inner loss.
    """

    start: Tensor
    targets: Mapping[int, Tensor]
    steps: Sequence[InnerStep]
    momentum: float = 0.0
    scale: float = 1.0


@dataclass(frozen=True, eq=False)
class Synthetic:
    """Synthetic images, labels and step size.

    Attributes:
        images: [n, C, H, W], float, in the space of the experts.
        labels: [n, K] of the same type: probabilities, or logits where `logits` is true.
        syn_lr: alpha.
        logits: labels are free logits, p = softmax(labels), and get a gradient; else they are constants.
    """

    images: Tensor
    labels: Tensor
    syn_lr: float
    logits: bool = False


@dataclass(frozen=True, eq=False)
class Gradient:
    """Derivatives of L: by images [n, C, H, W], by labels [n, K] (None where they are constants), by syn_lr."""

    images: Tensor
    labels: Tensor | None
    syn_lr: float


@dataclass(frozen=True, eq=False)
class Rollout:
    """Run of the student: L, theta_N [P], and a call that gives the gradient of L, once."""

    loss: float
    end: Tensor
    gradient: Callable[[], Gradient]


class TrajectoryEngine:
    """Rolls students out and differentiates the matching loss."""

    def __init__(
        self, network: FlatNetwork, dsa: DSA | None, mode: Mode = "adjoint", *, compiled: bool = False
    ) -> None:
        """Choose how to compute.

        Args:
            network: the student, with the architecture of the experts.
            dsa: the augmentation whose draws the inner steps hold.
            mode: see the module docstring.
            compiled: compile the two step functions of the adjoint and truncated modes; repaid by long runs only.
        """
        self._network, self._dsa, self._mode = network, dsa, mode
        self._gradient: Callable[..., Tensor] = partial(part_gradient, network)
        self._backward: Callable[..., tuple[Tensor, ...]] = partial(part_backward, network)
        if compiled:
            self._gradient = precision.compiled(torch.func.grad(partial(_part_loss, network)))
            self._backward = precision.compiled(partial(_functional_backward, network))

    def roll(self, segment: Segment, synthetic: Synthetic) -> Rollout:
        """Run the student over a segment.

        Raises:
            JobFailed: the loss is not finite, or an expert did not move over the segment.
        """
        if not all(bool(_moved(segment, k) > 0) for k in segment.targets):  # the loss would divide by 0
            raise JobFailed(
                "an expert's weights are the same at both ends of a segment: its snapshots are not distinct"
            )
        run = self._unrolled if self._mode == "unrolled" else self._rolled
        return run(segment, synthetic)

    def _rolled(self, segment: Segment, synthetic: Synthetic) -> Rollout:
        """Forward without a graph: N first-order gradients; theta_0 .. theta_N are kept."""
        path, velocity = [segment.start], torch.zeros_like(segment.start)
        for step in segment.steps:
            with torch.no_grad():
                images, labels = self._prepare(
                    synthetic, step, synthetic.images[step.index], synthetic.labels[step.index]
                )
            gradient = self._step_gradient(path[-1], images, labels, _factor(segment, step))
            velocity = segment.momentum * velocity + gradient if segment.momentum else gradient
            path.append(path[-1] - synthetic.syn_lr * velocity)
        loss = float(_loss(dict(enumerate(path)), segment))
        return Rollout(_finite(loss), path[-1], lambda: self._adjoint(segment, synthetic, path))

    def _adjoint(self, segment: Segment, synthetic: Synthetic, path: list[Tensor]) -> Gradient:
        """Backward, one step's graph at a time; `path` is used up."""
        alpha, exact = synthetic.syn_lr, self._mode == "adjoint"
        by_images, by_labels = torch.zeros_like(synthetic.images), torch.zeros_like(synthetic.labels)
        by_alpha = synthetic.images.new_zeros(())
        adjoint = torch.zeros_like(segment.start)
        direction = torch.zeros_like(segment.start)
        for i in reversed(range(len(segment.steps))):
            step, end = segment.steps[i], path.pop()
            if i + 1 in segment.targets:
                adjoint = adjoint + 2 * (end - segment.targets[i + 1]) / _moved(segment, i + 1)
            direction = adjoint + segment.momentum * direction if segment.momentum else adjoint
            leaves = synthetic.images[step.index].requires_grad_(), synthetic.labels[step.index].requires_grad_()
            with torch.enable_grad():
                prepared = self._prepare(synthetic, step, *leaves)
            seen, own = (value.detach() for value in prepared)
            along, hessian, *mixed = self._step_backward(path[-1], seen, own, _factor(segment, step), direction)
            by_alpha -= along
            pulled = torch.autograd.grad(prepared, leaves, mixed)
            by_images.index_add_(0, step.index, pulled[0], alpha=-alpha)
            by_labels.index_add_(0, step.index, pulled[1], alpha=-alpha)
            if exact:
                adjoint = adjoint - alpha * hessian
        return Gradient(by_images, by_labels if synthetic.logits else None, float(by_alpha))

    def _unrolled(self, segment: Segment, synthetic: Synthetic) -> Rollout:
        """Forward with the graph of all N steps, plain autograd backward."""
        images, labels = (value.detach().requires_grad_() for value in (synthetic.images, synthetic.labels))
        alpha = images.new_tensor(synthetic.syn_lr).requires_grad_()
        path, velocity = {0: segment.start.detach().requires_grad_()}, torch.zeros_like(segment.start)
        with torch.enable_grad():
            for i, step in enumerate(segment.steps):
                prepared = self._prepare(synthetic, step, images[step.index], labels[step.index])
                value = _part_loss(self._network, path[i], prepared[0], prepared[1], _factor(segment, step))
                (gradient,) = torch.autograd.grad(value, path[i], create_graph=True)
                velocity = segment.momentum * velocity + gradient if segment.momentum else gradient
                path[i + 1] = path[i] - alpha * velocity
            loss = _loss(path, segment)

        def gradient_of() -> Gradient:
            by_images, by_labels, by_alpha = torch.autograd.grad(loss, (images, labels, alpha))
            return Gradient(by_images, by_labels if synthetic.logits else None, float(by_alpha))

        return Rollout(_finite(float(loss.detach())), path[len(segment.steps)].detach(), gradient_of)

    def _prepare(self, synthetic: Synthetic, step: InnerStep, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Augmented images and label probabilities of a step, differentiable."""
        if self._dsa is not None and step.drawn is not None:
            images = self._dsa.apply(images, step.drawn)
        return images, labels.softmax(1) if synthetic.logits else labels

    def _step_gradient(self, vector: Tensor, images: Tensor, labels: Tensor, factor: Tensor) -> Tensor:
        """g_i [P], a sum over images, a few at a time: what fits the caches of a CPU, or keeps a GPU busy."""
        total = torch.zeros_like(vector)
        for part in _parts(images, labels):
            total += self._gradient(vector, *part, factor)
        return total

    def _step_backward(
        self, vector: Tensor, images: Tensor, labels: Tensor, factor: Tensor, direction: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """g_i . nu and its derivatives by vector, images and labels, in the same parts."""
        along, by_vector = vector.new_zeros(()), torch.zeros_like(vector)
        mixed: list[tuple[Tensor, Tensor]] = []
        for part in _parts(images, labels):
            value, slope, by_images, by_labels = self._backward(vector, *part, factor, direction)
            along += value
            by_vector += slope
            mixed.append((by_images, by_labels))
        return along, by_vector, torch.cat([pair[0] for pair in mixed]), torch.cat([pair[1] for pair in mixed])


def _factor(segment: Segment, step: InnerStep) -> Tensor:
    """Of the sum of a step's cross-entropies, s / b; a tensor, so that compiled code serves every value."""
    return segment.start.new_tensor(segment.scale / len(step.index))


def _part_loss(network: FlatNetwork, vector: Tensor, images: Tensor, labels: Tensor, factor: Tensor) -> Tensor:
    """`factor` times the sum of the cross-entropies of images [b, C, H, W] with probabilities [b, K]."""
    return factor * F.cross_entropy(network(vector, images), labels, reduction="sum")


def part_gradient(network: FlatNetwork, vector: Tensor, images: Tensor, labels: Tensor, factor: Tensor) -> Tensor:
    """Gradient [P] of a part's loss by `vector`, without a graph."""
    leaf = vector.detach().requires_grad_()
    with torch.enable_grad():
        loss = _part_loss(network, leaf, images, labels, factor)
    return torch.autograd.grad(loss, leaf)[0]


def part_backward(
    network: FlatNetwork, vector: Tensor, images: Tensor, labels: Tensor, factor: Tensor, direction: Tensor
) -> tuple[Tensor, ...]:
    """For the gradient g of a part's loss: g . direction, and its derivatives by vector, images and labels."""
    leaves = [value.detach().requires_grad_() for value in (vector, images, labels)]
    with torch.enable_grad():
        loss = _part_loss(network, leaves[0], leaves[1], leaves[2], factor)
        (gradient,) = torch.autograd.grad(loss, leaves[0], create_graph=True)
        along = gradient @ direction
    return along.detach(), *torch.autograd.grad(along, leaves)


def _parts(images: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
    limit = chunk_images(images.device, images.shape[-1])
    return list(zip(images.split(limit), labels.split(limit), strict=True))


def _functional_backward(
    network: FlatNetwork, vector: Tensor, images: Tensor, labels: Tensor, factor: Tensor, direction: Tensor
) -> tuple[Tensor, ...]:
    """`part_backward` in the form that compiles; in eager mode it is a tenth slower."""

    def along(vector: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        return torch.func.grad(partial(_part_loss, network))(vector, images, labels, factor) @ direction

    gradients, value = torch.func.grad_and_value(along, argnums=(0, 1, 2))(vector, images, labels)
    return value, *gradients


def _moved(segment: Segment, k: int) -> Tensor:
    """|| theta_0 - theta*_k ||^2."""
    return (segment.start - segment.targets[k]).square().sum()


def _loss(path: Mapping[int, Tensor], segment: Segment) -> Tensor:
    """L of a student that was at path[k] after k steps."""
    terms = [(path[k] - target).square().sum() / _moved(segment, k) for k, target in segment.targets.items()]
    return torch.stack(terms).sum()


def _finite(loss: float) -> float:
    if not math.isfinite(loss):
        raise JobFailed(f"diverged: the matching loss is {loss}; a smaller lr_teacher, lr_lr or lr_img may help")
    return loss
