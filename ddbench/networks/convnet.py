"""ConvNet-D, the network of the DC, DM and trajectory-matching papers.

D blocks of conv 3x3 (stride 1, padding 1, bias), norm, ReLU, average pool 2x2; then flatten and one linear layer.
PyTorch's default initialization. With width 128 and instance norm: 320,010 parameters on CIFAR-10 (D3).
Unlike the DC code, one-channel images are not padded to 32 px.
"""

from torch import nn

from ddbench.networks.parts import Network, conv, too_small


class ConvNet(Network):
    """ConvNet-D; its `embed` has width * (side / 2^depth)^2 features. ReLUs are modules and not in place."""

    def __init__(self, *, depth: int, width: int, norm: str, channels: int, side: int, classes: int) -> None:
        final = side >> depth
        if final < 1:
            raise too_small(f"convnet-d{depth}", side, 1 << depth)
        inputs = [channels] + [width] * (depth - 1)
        blocks = (nn.Sequential(*conv(count, width, norm), nn.AvgPool2d(2)) for count in inputs)
        super().__init__(nn.Sequential(*blocks), nn.Linear(width * final * final, classes))
