"""From a parsed name to a network. `ddbench.networks.create` is the way in: it fixes the randomness."""

from torch import nn

from ddbench.errors import UsageError
from ddbench.networks.convnet import ConvNet
from ddbench.networks.names import parse


def build(name: str, *, channels: int, side: int, classes: int) -> nn.Module:
    """Build a network by name; its initial weights come from torch's global generator."""
    if min(channels, side, classes) < 1:
        raise UsageError(
            f"network {name!r}: channels {channels}, side {side}, classes {classes} must each be at least 1"
        )
    parsed = parse(name, side=side)
    base, width, norm = parsed.base, parsed.width or 0, parsed.norm
    shape = {"channels": channels, "side": side, "classes": classes}
    if parsed.library:
        from ddbench.networks.library import library_network

        return library_network(parsed.library, base, **shape)
    if base.startswith("convnet"):
        return ConvNet(depth=int(base[-1]), width=width, norm=norm, **shape)
    if base.startswith("resnet"):
        from ddbench.networks.resnet import resnet

        return resnet(base, norm=norm, **shape)
    if base in ("alexnet", "vgg11", "lenet", "mlp"):
        return _small(base, width, norm, shape)
    from ddbench.networks.mobile import mobile

    return mobile(base, norm=norm, **shape)


def _small(base: str, width: int, norm: str, shape: dict[str, int]) -> nn.Module:
    from ddbench.networks import small

    if base == "mlp":
        return small.mlp(width=width, **shape)
    if base == "lenet":
        return small.lenet(**shape)
    return (small.alexnet if base == "alexnet" else small.vgg11)(norm=norm, **shape)
