"""A network as a function of one flat parameter vector, which is how trajectories store and match weights."""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ddbench.errors import UsageError


class FlatNetwork:
    """Logits as a function of (parameter vector [P], images [b, C, H, W]), in train mode.

    Parameters are concatenated in the order of `network.parameters()`, each flattened.
    """

    def __init__(self, network: nn.Module) -> None:
        """Take the architecture of `network`; its own weights are not used.

        Raises:
            UsageError: the network has buffers (batch normalization): its function then is more than its parameters.
        """
        if next(network.buffers(), None) is not None:
            raise UsageError(
                "trajectory matching needs a network that is a function of its parameters alone: choose instance "
                "normalization or none (convnet, convnet-in, convnet-none), not batch normalization"
            )
        self._network = network.train().requires_grad_(False)
        self._shapes = {name: value.shape for name, value in network.named_parameters()}
        self._sizes = [shape.numel() for shape in self._shapes.values()]
        self.size = sum(self._sizes)
        """P, the number of parameters."""

    def __call__(self, vector: Tensor, images: Tensor) -> Tensor:
        """Logits [b, K]; differentiable in both arguments."""
        return functional_call(self._network, self.unflatten(vector), (images,))

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """Views of a vector [P] as named parameters."""
        parts = vector.split(self._sizes)
        return {name: part.view(shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)}

    def kernels(self) -> dict[str, slice]:
        """Slices of the vector that are convolution kernels (parameters of four dimensions), by name."""
        slices, start = {}, 0
        for (name, shape), size in zip(self._shapes.items(), self._sizes, strict=True):
            if len(shape) == 4:
                slices[name] = slice(start, start + size)
            start += size
        return slices


def flatten(network: nn.Module) -> Tensor:
    """A copy of a network's parameters as one vector [P]."""
    return torch.cat([parameter.detach().reshape(-1) for parameter in network.parameters()])
