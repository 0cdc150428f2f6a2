"""ResNets: torchvision's, with the stem of the CIFAR form up to 64 px (conv 3x3 of stride 1, no max pool).

torchvision's initialization (He, fan out), so a soft-label paper's ResNet-18 is this one. A stride that would leave
less than 2 x 2 pixels becomes 1 (the last stage at 8 px).
"""

import torchvision
from torch import nn

from ddbench.networks.parts import Network, drop_strides, halvings, new_conv, plain_activations, replace_norms


def resnet(base: str, *, norm: str, channels: int, side: int, classes: int) -> Network:
    """resnet18, resnet50 or resnet101, or resnet18-ap: stride 1 and a 2x2 average pool for every strided conv.

    The `-ap` form has no global pool: its head sees 512 * 4 * 4 features at 32 px.
    """
    name, _, pooled = base.partition("-")  # "resnet18", "ap"
    net = getattr(torchvision.models, name)(num_classes=classes)
    kept = halvings(side)
    net.conv1 = new_conv(net.conv1, channels=channels, kernel=None if kept[0] else 3)
    _thin(net, kept)
    replace_norms(net, norm)
    plain_activations(net)
    head, net.fc = net.fc, nn.Identity()
    if pooled:
        head = _pool_instead(net, side >> sum(kept), classes)
    return Network(net, head)


def _thin(net: nn.Module, kept: list[bool]) -> None:
    """Take out the halvings that are not kept: stem conv, max pool, stages 2 to 4."""
    stem, pool, *stages = kept
    if not stem:
        drop_strides(net.get_submodule("conv1"))
    if not pool:
        net.maxpool = nn.Identity()
    for number, keep in enumerate(stages, start=2):
        if not keep:
            drop_strides(net.get_submodule(f"layer{number}"))


def _pool_instead(net: nn.Module, final: int, classes: int) -> nn.Linear:
    """Turn strides into average pools, drop the global one, and return the head for 512 maps of `final` pixels a side."""
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Conv2d) and child.stride == (2, 2):
                child.stride = (1, 1)
                setattr(module, name, nn.Sequential(child, nn.AvgPool2d(2)))
    if isinstance(net.maxpool, nn.MaxPool2d):
        net.maxpool = nn.AvgPool2d(2)
    net.avgpool = nn.Identity()
    return nn.Linear(512 * final * final, classes)
