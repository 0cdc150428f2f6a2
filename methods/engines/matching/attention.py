"""Attention maps of a network's layers, reduced where they arise: DataDAM's features."""

from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ddbench.errors import UsageError

from ..selection.coresets import embedder


class AttentionMaps:
    """Runs a network and returns its attention maps and its embedding (DataDAM, section 3).

    For every ReLU call but the last: a = sum over channels of f^p, flattened to [b, H*W] and divided by its L2
    norm per image (f >= 0 after a ReLU, so |f| = f). Use it as a context: leaving removes the hooks.
    """

    def __init__(self, network: nn.Module, power: int) -> None:
        """Hook every ReLU module (ReLU6 too) of `network`; `power` is p, at least 1."""
        self._embed = embedder(network)
        self._power = power
        self._maps: list[Tensor] = []
        relus = [module for module in network.modules() if isinstance(module, nn.ReLU | nn.ReLU6)]
        self._handles = [module.register_forward_hook(self._reduce) for module in relus]

    def __enter__(self) -> "AttentionMaps":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for handle in self._handles:
            handle.remove()

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images [b, C, H, W] -> (map_1 [b, H_1*W_1], ..., map_{L-1}, embedding [b, d]).

        UsageError: the network has fewer than two ReLUs on feature maps, so that nothing is left to attend to.
        """
        self._maps.clear()
        embedding = self._embed(images)
        maps = tuple(self._maps[:-1])
        self._maps.clear()
        if not maps:
            raise UsageError("attention maps need a network with at least two ReLU layers on feature maps")
        return (*maps, embedding)

    def _reduce(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if output.dim() == 4:  # a ReLU between linear layers has no map
            self._maps.append(functional.normalize(channel_power_sum(output, self._power).flatten(1), dim=1))


def channel_power_sum(features: Tensor, power: int) -> Tensor:
    """sum_c f_c^p of non-negative features [b, C, H, W] -> [b, H, W]; keeps only `features` for the backward pass."""
    return features.sum(1) if power == 1 else _PowerSum.apply(features, power)


class _PowerSum(torch.autograd.Function):
    """f^p by repeated multiplication (a general `pow` is slow on a CPU), with no map saved beside the input."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, power: int) -> Tensor:
        ctx.save_for_backward(features)
        ctx.power = power
        return _power(features, power).sum(1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (features,) = ctx.saved_tensors
        power = ctx.power
        return _power(features, power - 1).mul_(power * grad[:, None]), None


def _power(base: Tensor, power: int) -> Tensor:
    """A fresh tensor base^power, power >= 1, by squaring."""
    if power == 1:
        return base.clone()
    half = _power(base, power // 2)
    return half.square_() if power % 2 == 0 else half.square_().mul_(base)
