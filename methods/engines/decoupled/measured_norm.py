"""A frozen teacher that says how far the statistics of what passes through it are from those it was trained on."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ddbench.distillation.task import Task
from ddbench.errors import UsageError
from ddbench.training.memory import saved_activation_bytes
from ddbench.training.precision import Execution, Forward

FIRST_BN = 10.0
AS_IT_IS = Execution()
NO_NORMS = "recovering images needs a teacher with batch normalization: choose resnet18, convnet-bn, ..."


def require_norms(task: Task, names: Sequence[str]) -> None:
    """Raise UsageError where a network has no batch norm that could be measured; called before it is trained."""
    for name in names:
        modules = task.create_network("norms", name=name).modules()
        if not any(isinstance(module, nn.BatchNorm2d) for module in modules):
            raise UsageError(NO_NORMS)


class Voter:
    """A teacher in eval mode, its batch norms measuring: (images [G B, C, H, W], G) -> logits and BN(x) [G].

    BN(x) = 10 r_1 + sum_{l >= 2} r_l, see `recover`.
    """

    def __init__(self, network: nn.Module, skip: tuple[int, ...] = (), execution: Execution = AS_IT_IS) -> None:
        """Take a network over: its batch norms are replaced, its weights frozen.

        Args:
            network: with its weights.
            skip: batch norms that are not measured, counted from 0 in the order of the modules (INFER leaves out the
                second one of EfficientNet-B0).
            execution: how forward and backward are computed; statistics are float32 at least.

        Raises:
            UsageError: it has no batch norm that could be measured.
        """
        self.network = network.eval().requires_grad_(False)
        self.norms = _replace(network, skip)
        if not any(norm.weight_of_norm for norm in self.norms):
            raise UsageError(NO_NORMS)
        self._forward = execution.forward(self.network)

    def __call__(self, images: Tensor, groups: int) -> tuple[Tensor, Tensor]:
        """Logits [G B, K], and BN(x) of every group [G]; differentiable by the images."""
        return self._measured(self._forward, images, groups)

    def as_it_is(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Do the same for one group, in the weights' precision and not compiled."""
        return self._measured(self.network, images, 1)

    def _measured(self, forward: Forward, images: Tensor, groups: int) -> tuple[Tensor, Tensor]:
        for norm in self.norms:
            norm.groups, norm.apart = groups, None
        logits = forward(images)
        apart = images.new_zeros(groups)
        for norm in self.norms:
            if norm.apart is not None:
                apart = apart + norm.weight_of_norm * norm.apart
            norm.apart = None
        return logits, apart


def saved_bytes(voter: Voter, images: Tensor) -> int:
    """Bytes that autograd keeps of a forward of images [b, C, H, W], the network's own weights left out; at most, where it
    is computed in bf16.
    """
    return saved_activation_bytes(
        lambda: voter.as_it_is(images.detach().requires_grad_()), voter.network.state_dict().values()
    )


class MeasuredNorm(nn.Module):
    """A batch norm in eval mode that keeps r_l [G] of its last input in `apart`."""

    def __init__(self, norm: nn.BatchNorm2d, weight: float) -> None:
        super().__init__()
        if norm.running_mean is None or norm.running_var is None:
            raise UsageError("recovering images needs batch norms that have running statistics")
        self.mean, self.var = norm.running_mean, norm.running_var
        self.scale, self.shift = _affine(norm)
        self.after: nn.Module = nn.Identity()
        if type(norm) is not nn.BatchNorm2d:  # one that does more (timm's hold an activation): measured, then as it is
            self.scale, self.shift, self.after = torch.ones_like(self.mean), torch.zeros_like(self.mean), norm
        self.weight_of_norm, self.groups = weight, 1
        self.apart: Tensor | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Normalize [G B, K, H, W]."""
        if not self.weight_of_norm:
            value = torch.addcmul(_wide(self.shift), images, _wide(self.scale))
        else:
            value, self.apart = _Measure.apply(images, self.scale, self.shift, self.mean, self.var, self.groups)
        normalised: Tensor = self.after(value)
        return normalised


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """(a, b) [K] of the norm in eval mode, a x + b."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = torch.rsqrt(norm.running_var + norm.eps)
    scale = scale if norm.weight is None else scale * norm.weight.detach()
    shift = -norm.running_mean * scale
    return scale, shift if norm.bias is None else shift + norm.bias.detach()


class _Measure(torch.autograd.Function):
    """Normalization and r_l in one: two passes over x forward, two backward, and nothing kept but x."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, var: Tensor, groups: int
    ) -> tuple[Tensor, Tensor]:
        batch, channels = len(x) // groups, x.shape[1]
        exact = x.to(torch.promote_types(x.dtype, torch.float32))  # bfloat16 statistics would lose what they measure
        per_image_var, per_image_mean = torch.var_mean(exact.flatten(2), dim=2, correction=0)
        means = per_image_mean.view(groups, batch, channels)
        mu = means.mean(1)
        own_var = per_image_var.view(groups, batch, channels).mean(1) + (means - mu[:, None]).square().mean(1)
        off_mean, off_var = mu - mean, own_var - var
        far_mean, far_var = off_mean.norm(dim=1, keepdim=True), off_var.norm(dim=1, keepdim=True)
        count = batch * x[0, 0].numel()
        slope = 2 * _unit(off_var, far_var) / count
        constant = _unit(off_mean, far_mean) / count - slope * mu
        ctx.save_for_backward(x, scale, constant, slope)
        ctx.groups = groups
        return torch.addcmul(_wide(shift), x, _wide(scale)), (far_mean + far_var)[:, 0]

    @staticmethod
    def backward(ctx: Any, by_value: Tensor, by_apart: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, constant, slope = ctx.saved_tensors
        batch = len(x) // ctx.groups
        constant = (by_apart[:, None] * constant).repeat_interleave(batch, dim=0)[:, :, None, None]
        slope = (by_apart[:, None] * slope).repeat_interleave(batch, dim=0)[:, :, None, None]
        gradient = torch.addcmul(constant, by_value, _wide(scale))
        return gradient.addcmul_(x, slope), None, None, None, None, None


def _unit(vector: Tensor, length: Tensor) -> Tensor:
    """Vector / length, and 0 where the length is 0: the norm's subgradient, as autograd takes it."""
    return torch.where(length > 0, vector / length.clamp_min(torch.finfo(vector.dtype).tiny), 0)


def _wide(channel_values: Tensor) -> Tensor:
    return channel_values[:, None, None]


def _replace(network: nn.Module, skip: tuple[int, ...]) -> list[MeasuredNorm]:
    """Put a measuring norm in the place of every batch norm; the order is that of `network.modules()`."""
    names = [name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)]
    norms = []
    for number, name in enumerate(names):
        norm = network.get_submodule(name)
        assert isinstance(norm, nn.BatchNorm2d)
        weight = 0.0 if number in skip else FIRST_BN if number == 0 else 1.0
        parent, _, child = name.rpartition(".")
        norms.append(MeasuredNorm(norm, weight))
        setattr(network.get_submodule(parent), child, norms[-1])
    return norms
